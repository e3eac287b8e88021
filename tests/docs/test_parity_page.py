"""The page on parity has what the stored trajectories have."""

from __future__ import annotations

from tests.optimizers import CARDS
from tests.support.parity import load, stored_by
from tests.support.paths import ROOT
from tools.make_parity_table import BEGIN, END, reference


def rows() -> list[tuple[str, ...]]:
    """The cells of the table."""
    _, _, rest = (ROOT / "docs" / "parity.md").read_text().partition(BEGIN)
    lines = rest.partition(END)[0].strip().splitlines()[2:]
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in lines]


def test_every_source_has_its_row() -> None:
    results = load()
    expected = {
        (
            f"`{card}`",
            reference(source, results[name]["source"]),
            str(len(results[name]["runs"])),
            source.removed if source is not None else "",
        )
        for card in CARDS
        for name, source in stored_by(card).items()
    }
    assert {(*row[:3], row[5]) for row in rows()} == expected


def test_the_differences_are_within_the_bounds_of_the_page() -> None:
    for name, _, _, float64, float32, _ in rows():
        assert float(float64) <= 1e-10, name
        assert float(float32) <= 3e-5, name
