"""Write the table of ``docs/frameworks.md``: how far runs in each framework are from torch's own.

It makes the runs of ``tests/support/framework_runs.py`` in the frameworks that are installed; the
rows of others stay, as not all go into one environment::

    python tools/make_framework_table.py
"""

from __future__ import annotations

import importlib.metadata
import logging
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.framework_runs import (
    FEATURES,
    FRAMEWORKS,
    PAIRS,
    Framework,
    Pair,
    expected,
    trained,
)
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "frameworks.md"
BEGIN, END = "<!-- begin table: tools/make_framework_table.py -->", "<!-- end table -->"
TORCHS, *OTHERS = PAIRS.values()
HEADER = ("framework", "version, torch", *FEATURES, *(f"`{pair.name}`" for pair in OTHERS))


def difference(framework: Framework, pair: Pair, features: tuple[str, ...], folder: Path) -> str:
    """The largest difference of any parameter after the steps, with any of these features."""
    worst = 0.0
    for feature in features:
        ours = trained(framework, pair, feature, True, folder)
        worst = max(worst, float((ours - expected(framework, pair, feature, folder)).abs().max()))
    return f"{worst:.0e}" if worst else "0"


def row(framework: Framework, folder: Path) -> tuple[str, ...]:
    version, torch = framework.version, importlib.metadata.version("torch").partition("+")[0]
    cells = [
        difference(framework, TORCHS, (feature,), folder)
        if feature in framework.features
        else framework.notes.get(feature, "")
        for feature in FEATURES
    ]
    for pair in OTHERS:
        found = tuple(feature for feature in pair.features if feature in framework.features)
        note = framework.notes.get(pair.name)
        cells.append(note or difference(framework, pair, found, folder))
    versions = torch if framework.package == "torch" else f"{version}, {torch}"
    return framework.name, versions, *cells


def known_rows(text: str) -> dict[str, tuple[str, ...]]:
    """The rows that the page has, by the name of the framework."""
    table = text.partition(BEGIN)[2].partition(END)[0].strip().splitlines()[2:]
    found = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table]
    return {cells[0]: cells for cells in found}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    missing = [p.reference for p in PAIRS.values() if p.reference and not p.has_reference()]
    if missing:  # without them an optimizer would be compared with itself
        sys.exit(f"install the packages of {', '.join(missing)}, which the columns compare with")
    text = PAGE.read_text()
    known = known_rows(text)
    with tempfile.TemporaryDirectory() as folder:
        for name, framework in FRAMEWORKS.items():
            if framework.is_here():
                known[name] = row(framework, Path(folder))
                print(" | ".join(known[name]))
    lines = [HEADER, ("---",) * len(HEADER), *(known[name] for name in FRAMEWORKS if name in known)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
