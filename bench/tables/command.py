"""The definition of a command that measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.optimizers import OPERATIONS, OPTIMIZERS, Operation
from bench.report import Run
from bench.runner import Effort
from bench.workloads import Workload, name_of, named

USUAL = Effort(rounds=10, seconds=0.2)
QUICK = Effort(rounds=3, seconds=0.05)


def two_threads(asked: int | None) -> Sequence[int]:
    return (asked or 2,)


def one_and_more(asked: int | None) -> Sequence[int]:
    return sorted({1, asked or 2})


@dataclass(frozen=True)
class Command:
    """A row: the defaults of a command, and its output."""

    about: str
    contenders: tuple[str, ...]
    workloads: tuple[str, ...]  # the tensors, COUNTxSIZE
    text: Callable[[Run, bool], str]  # the tables, for a terminal or for GitHub
    drawn_by: tuple[str, str] | None = None  # a module of ours, imported for a plot, and a function
    optimizers: tuple[str, ...] = ("Adam",)
    dtypes: tuple[str, ...] = ("float32",)
    any_optimizer: bool = True  # whether the options may choose others
    any_dtype: bool = True
    contexts: tuple[str, ...] = ("loop",)
    any_context: bool = False
    operations: Mapping[str, Operation] = field(default_factory=lambda: OPTIMIZERS)
    zeroed: tuple[bool, ...] = (False,)  # whether gradients are zero when timed
    threads: Callable[[int | None], Sequence[int]] = two_threads  # the numbers, given the option's
    effort: Effort = USUAL
    where_unfused: tuple[str, ...] = ()  # also timed if torch's optimizer has no fused kernel
    most_memory: float = float("inf")  # bytes of all contenders, for default workloads

    def names(self, optimizers: Sequence[str]) -> tuple[str, ...]:
        """The contenders, for these optimizers."""
        rows = [OPERATIONS[name] for name in optimizers]
        unfused = any(row.in_torch and not row.fused for row in rows)
        return self.contenders + self.where_unfused * unfused

    def all_of(
        self,
        tensors: Sequence[str],
        optimizers: Sequence[str],
        dtypes: Sequence[str],
        contexts: Sequence[str],
    ) -> list[Workload]:
        """The workloads of these tensors, in the order of the tables."""
        return [
            named(name_of(shapes, optimizer, dtype, context, zeroed=zeroed))
            for context in contexts
            for optimizer in optimizers
            for dtype in dtypes
            for zeroed in self.zeroed
            for shapes in tensors
        ]
