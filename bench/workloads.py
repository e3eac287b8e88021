"""What is stepped: a row per workload, its random data, and the slow result it must agree with.

To add a workload of Adam, add a row; an optimizer, its row to ``optimizers.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.optimizers import OPTIMIZERS

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = list[Array]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]

PERIOD = 1_000_003
"""Elements after which the data of a tensor repeats, so that a reference has no more to step.

A prime number, which no chunk and no thread's share is a multiple of."""


@dataclass(frozen=True)
class Workload:
    """The tensors of one step."""

    name: str
    shapes: Shapes
    optimizer: str = "Adam"
    dtype: str = "float32"
    zeros: int = 0  # steps with zero gradients before any is timed; these are timed with them, too

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bytes(self) -> int:
        """What one step cannot avoid to move."""
        return OPTIMIZERS[self.optimizer].traffic * self.elements * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> str:
        count, size = len(self.shapes), math.prod(self.shapes[0])
        return f"one tensor of {size:,}" if count == 1 else f"{count:,} tensors of {size:,}"

    @property
    def title(self) -> str:
        return f"{self.optimizer}, {self.size} {self.dtype}"

    def random(self, seed: int) -> Arrays:
        """Normally distributed arrays, none of whose elements is close to zero.

        An element that is zero or denormal would be timed as another instruction path.
        """
        rng = np.random.default_rng(seed)
        return [np.resize(self._period(rng, math.prod(shape)), shape) for shape in self.shapes]

    def _period(self, rng: np.random.Generator, size: int) -> Array:
        values = rng.standard_normal(min(size, PERIOD), dtype=np.dtype(self.dtype).type)
        return np.copysign(np.maximum(np.abs(values), 1e-3), values)


SHAPES: dict[str, Shapes] = {
    "1x100": ((100,),),
    "100x100": ((100,),) * 100,
    "1000x1000": ((1000,),) * 1000,
    "1x1M": ((1_000_000,),),
    "1x16M": ((16_777_216,),),
}
OVERVIEW = ("1x16M", "1x1M", "1000x1000")
"""The workloads on which every optimizer is timed."""


def overview_name(optimizer: str, shapes: str) -> str:
    """The name of one of an optimizer's workloads."""
    return f"{optimizer}:{shapes}"


def zeroed_name(shapes: str) -> str:
    """The name of the workload whose gradients have become zero."""
    return f"{shapes}-zeros"


ADAM = {name: Workload(name, shapes) for name, shapes in SHAPES.items()}
ZEROED = {
    zeroed_name(name): Workload(zeroed_name(name), shapes, zeros=1000)
    for name, shapes in SHAPES.items()
}
"""Adam's first moment is denormal everywhere after so many steps without a gradient."""

WORKLOADS = (ADAM | ZEROED) | {
    overview_name(optimizer, shapes): Workload(
        overview_name(optimizer, shapes), SHAPES[shapes], optimizer
    )
    for optimizer in OPTIMIZERS
    for shapes in OVERVIEW
}


class Stream:
    """What the roof computes: the chain of sums over all arrays that are written."""

    def __init__(self, scale: float, written: int) -> None:
        self.scale, self.written = scale, written
        self.state: dict[int, Arrays] = {}

    def step(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            state = self.state.setdefault(i, [np.zeros_like(p) for _ in range(self.written - 1)])
            for array in [*state, p]:
                array += self.scale * g
                g = array


class Expected:
    """The parameters as a float64 reference steps them: of each, as much as does not repeat.

    The references are element-wise, so that they can walk blocks which stay in the cache.
    """

    _BLOCK = 32768

    def __init__(self, reference: Any, params: Arrays) -> None:
        self.reference = reference
        self.params = [p.astype(np.float64) for p in self._periods(params)]

    def step(self, grads: Arrays) -> None:
        self.reference.step(
            self._blocks(self.params),
            [g.astype(np.float64) for g in self._blocks(self._periods(grads))],
        )

    def error(self, params: Arrays) -> float:
        """The largest deviation, in units of the tolerance.

        The tolerance is 1e-6 of the value, for the roundings of eight float32 additions, plus 1e-7:
        a ten-thousandth of Adam's learning rate.
        """
        errors = [
            np.max(np.abs(a[: b.size] - b) / (1e-6 * np.abs(a[: b.size]) + 1e-7))
            for a, array in zip(self.params, params, strict=True)
            for b in self._blocks([array.reshape(-1)], PERIOD)
        ]
        return float(np.max(errors))  # NaN if there is one: the built-in max may lose it

    @staticmethod
    def _periods(arrays: Arrays) -> Arrays:
        return [array.reshape(-1)[:PERIOD] for array in arrays]

    @staticmethod
    def _blocks(arrays: Arrays, size: int = _BLOCK) -> Arrays:
        return [a[i : i + size] for a in arrays for i in range(0, a.size, size)]
