"""The page on parity has what the stored trajectories have."""

from __future__ import annotations

from tests.optimizers import BY_NAME
from tests.support.parity import load
from tests.support.paths import ROOT
from tools.make_parity_table import BEGIN, END, reference


def rows() -> dict[str, list[str]]:
    """The cells of the table, by optimizer."""
    _, _, rest = (ROOT / "docs" / "parity.md").read_text().partition(BEGIN)
    lines = rest.partition(END)[0].strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("`"): others for first, *others in cells}


def test_every_source_has_its_row() -> None:
    found = {name: (row[0], row[1], row[4]) for name, row in rows().items()}
    assert found == {
        name: (
            reference(BY_NAME[name], stored["source"]),
            str(len(stored["runs"])),
            source.removed if (source := BY_NAME[name].source) is not None else "",
        )
        for name, stored in load().items()
    }


def test_the_differences_are_within_the_bounds_of_the_page() -> None:
    for name, (_, _, float64, float32, _) in rows().items():
        assert float(float64) <= 1e-10, name
        assert float(float32) <= 3e-5, name
