"""Write the table of ``docs/parity.md``: how far every optimizer is from its source.

It runs each optimizer as the stored trajectories were made (``make_trajectory_golden.py``), so that
no other package is needed::

    python tools/make_parity_table.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.optimizers import BY_NAME
from tests.support.cards import Card
from tests.support.doors import ArrayDoor
from tests.support.parity import load, options_for, trajectory, worst
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "parity.md"
BEGIN, END = "<!-- begin table: tools/make_parity_table.py -->", "<!-- end table -->"
HEADER = ("optimizer", "reference", "runs", "float64", "float32", "what was changed to compare")


def difference(card: Card, runs: list[dict[str, Any]], dtype: Any) -> float:
    """The largest difference of any element of any run from its source."""
    found = [0.0]
    for run in runs:
        options = options_for(run["options"], np.float64)
        ours = trajectory(card, card.cls, options, ArrayDoor(), dtype)
        found.append(worst(ours, run[np.dtype(dtype).name]))
    return max(found)


def reference(card: Card, source: str) -> str:
    """What a source is called: class, package or repository, and version."""
    name, version = source.rsplit(" ", 1)
    place = card.source.place if card.source is not None else ""
    named = f"`{name}`, {place} {version}" if place else f"`{name}` {version}"
    together = card.source is not None and card.source.counts_together
    return f"{named}; no gradients missing, as it counts steps by group" if together else named


def number(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def rows() -> Iterator[tuple[str, ...]]:
    """A row for each optimizer with a source, in the order of their names."""
    for name, stored in load().items():
        card, runs = BY_NAME[name], stored["runs"]
        yield (
            f"`{name}`",
            reference(card, stored["source"]),
            str(len(runs)),
            number(difference(card, runs, np.float64)),
            number(difference(card, runs, np.float32)),
            card.source.removed if card.source is not None else "",
        )


def table() -> str:
    lines = [HEADER, ("---", "---", "---:", "---:", "---:", "---"), *rows()]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}")


if __name__ == "__main__":
    main()
