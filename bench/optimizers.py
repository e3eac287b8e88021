"""What the bench knows of an optimizer: the rows of its card.

Options, reference and memory traffic are in `tests/optimizers`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.optimizers import CARDS
from tests.support.cards import FUSED, TORCH, Card

READ = 1
"""Arrays of a parameter's size that every optimizer reads and does not write: the gradient."""


@dataclass(frozen=True)
class Optimizer:
    """A row of the table of all optimizers."""

    name: str
    card: Card
    written: int  # arrays that a step reads and writes: the parameter and its state
    options: dict[str, Any] = field(default_factory=dict)  # beside the defaults
    passes: int = 0  # arrays that all passes read or write, if there are several

    @property
    def cls(self) -> str:
        """The class, in cyoptim and, if torch has it, in torch.optim."""
        return self.card.name

    @property
    def fused(self) -> bool:
        """Whether torch has a fused kernel for processors."""
        return FUSED(self.card)

    @property
    def in_torch(self) -> bool:
        return TORCH(self.card)

    @property
    def more_passes(self) -> float:
        """The bytes of all passes, in parts of those of one pass over the same arrays."""
        return self.traffic / (READ + 2 * self.written)

    @property
    def traffic(self) -> int:
        """How often a step must move as many bytes as there are in the parameters."""
        return self.passes or READ + 2 * self.written


_ROWS = [
    Optimizer(f"{card}{timed.suffix}", card, timed.written, timed.options, timed.passes)
    for card in CARDS
    for timed in card.timed
]
OPTIMIZERS = {row.name: row for row in sorted(_ROWS, key=lambda row: row.written)}
"""Those that move least first."""
