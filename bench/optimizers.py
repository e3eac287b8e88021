"""What the bench knows of what it times: the rows of the optimizers' cards, and the norm.

Options, reference and memory traffic of an optimizer are in `tests/optimizers`, and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.optimizers import CARDS
from tests.support.cards import ELEMENT_WISE, FUSED, MODES, TORCH, Card

READ = 1
"""Arrays of a parameter's size that are read and not written: the gradient."""


@dataclass(frozen=True)
class Operation:
    """What is timed, and the memory that it must move."""

    name: str
    written: int  # arrays that it reads and writes
    passes: int = 0  # arrays that all passes read or write, if there are several
    read: int = 0  # arrays of the state that it reads only
    matrices: bool = False  # whether its tensors are matrices

    @property
    def fused(self) -> bool:
        """Whether torch has a fused kernel for processors."""
        return False

    @property
    def in_torch(self) -> bool:
        """Whether torch.optim has it."""
        return False

    @property
    def trains(self) -> bool:
        """Whether it has a mode in which it steps."""
        return MODES(self.card)

    @property
    def joins(self) -> bool:
        """Whether elements depend on others, so that a reference must step whole tensors."""
        return False

    @property
    def more_passes(self) -> float:
        """The bytes of all passes, in parts of those of one pass over the same arrays."""
        return self.traffic / (READ + 2 * self.written)

    @property
    def traffic(self) -> int:
        """How often it must move as many bytes as there are in the parameters."""
        return self.passes or READ + self.read + 2 * self.written


@dataclass(frozen=True, kw_only=True)
class Optimizer(Operation):
    """A row of the table of all optimizers, which write the parameter and their state."""

    card: Card
    options: dict[str, Any] = field(default_factory=dict)  # beside the defaults

    @property
    def cls(self) -> str:
        """The class, in cyoptim and, if torch has it, in torch.optim."""
        return self.card.name

    @property
    def fused(self) -> bool:
        return TORCH(self.card) and FUSED(self.card)

    @property
    def in_torch(self) -> bool:
        return TORCH(self.card)

    @property
    def joins(self) -> bool:
        return not ELEMENT_WISE(self.card) or self.passes > 0


_ROWS = [
    Optimizer(
        name=f"{card}{timed.suffix}",
        written=timed.written,
        passes=timed.passes,
        read=timed.read,
        matrices=timed.matrices,
        card=card,
        options=timed.options,
    )
    for card in CARDS
    for timed in card.timed
]
OPTIMIZERS = {row.name: row for row in sorted(_ROWS, key=lambda row: row.written)}
"""Those that move least first."""

NORM = "norm"
"""The norm of all gradients, a reduction: it reads them and writes nothing."""

OPERATIONS: dict[str, Operation] = {**OPTIMIZERS, NORM: Operation(NORM, written=0)}
"""All that can be timed."""
