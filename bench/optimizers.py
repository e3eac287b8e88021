"""What the bench knows of what it times: the rows of the optimizers' cards, and the norm.

Options, reference and memory traffic of an optimizer are in `tests/optimizers`, and nowhere else.

A pass is written as a letter for each array of a parameter's size that it moves: "g" is the
gradient, "p" the parameter, any other one the state. It reads those in small letters, and reads and
writes those in capital ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.optimizers import CARDS
from tests.support.cards import ELEMENT_WISE, FUSED, MODES, TORCH, Card, Source

STATE = "abcdef"
"""Names of an optimizer's state, where nobody has named it."""

IN_CACHE = 16384
"""Elements of a tensor that every pass but the first finds in the cache."""


@dataclass(frozen=True)
class Operation:
    """What is timed, and the memory that it must move."""

    name: str
    written: int  # arrays that it reads and writes
    passes: tuple[str, ...] = ()  # if it is not one that reads the gradient and writes these
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
    def goes_again(self) -> bool:
        """Whether it takes several passes."""
        return len(self.passes) > 1

    @property
    def read(self) -> int:
        """Arrays of the state that it only reads."""
        return len(self.all_at_once.replace("g", "")) - self.written

    @property
    def all_at_once(self) -> str:
        """All that it moves, as one pass."""
        moved = {letter.lower(): letter for letter in sorted("".join(self.passes), reverse=True)}
        return "".join(moved.values()) or "g" + ("p" + STATE)[: self.written].upper()

    def walks(self, each: int) -> tuple[str, ...]:
        """What moves beyond the cache, pass by pass, if tensors have so many elements each."""
        return (self.all_at_once,) if each <= IN_CACHE else self.passes or (self.all_at_once,)

    def traffic(self, each: int) -> int:
        """How often it must move as many bytes as there are in such parameters."""
        return sum(1 + letter.isupper() for walk in self.walks(each) for letter in walk)


@dataclass(frozen=True, kw_only=True)
class Optimizer(Operation):
    """A row of the table of all optimizers, which write the parameter and their state."""

    card: Card
    options: dict[str, Any] = field(default_factory=dict)  # beside the defaults
    named_source: str = ""  # of the card's further sources

    @property
    def source(self) -> Source | None:
        """The class of the authors, or of those who have these options."""
        card = self.card
        return card.more_sources[self.named_source] if self.named_source else card.source

    @property
    def cls(self) -> str:
        """The class, in cyoptim and, if torch has it, in torch.optim."""
        return self.card.name

    @property
    def fused(self) -> bool:
        return self.in_torch and FUSED(self.card)

    @property
    def in_torch(self) -> bool:
        return TORCH(self.card) and not self.named_source

    @property
    def joins(self) -> bool:
        return not ELEMENT_WISE(self.card) or self.goes_again


_ROWS = [
    Optimizer(
        name=f"{card}{timed.suffix}",
        written=timed.written,
        passes=timed.passes,
        matrices=timed.matrices,
        card=card,
        options=timed.options,
        named_source=timed.source,
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
