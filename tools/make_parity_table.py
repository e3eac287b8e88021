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

from tests.optimizers import CARDS
from tests.support.cards import Card, Source
from tests.support.doors import ArrayDoor
from tests.support.parity import load, options_for, stored_by, trajectory, worst
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


def reference(source: Source | None, stored: str) -> str:
    """What a source is called: class, package or repository, and version; None: torch."""
    name, version = stored.rsplit(" ", 1)
    place = source.place if source is not None else ""
    named = f"`{name}`, {place} {version}" if place else f"`{name}` {version}"
    together = source is not None and source.counts_together
    return f"{named}; no gradients missing, as it counts steps by group" if together else named


def number(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def rows() -> Iterator[tuple[str, ...]]:
    """A row for each source of each optimizer, in the order of their names."""
    results = load()
    for card in sorted(CARDS, key=lambda card: card.name.lower()):
        for name, source in stored_by(card).items():
            stored, runs = results[name]["source"], results[name]["runs"]
            yield (
                f"`{card}`",
                reference(source, stored),
                str(len(runs)),
                number(difference(card, runs, np.float64)),
                number(difference(card, runs, np.float32)),
                source.removed if source is not None else "",
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
