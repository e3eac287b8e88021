"""What is stepped: a row per workload, its random data, and the slow result it must agree with.

To add a workload, add a row. To add an optimizer, add its options and its reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.reference.adam import Adam

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = list[Array]

OPTIONS: dict[str, dict[str, Any]] = {
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8},
}

# Arrays of a parameter's size that a step must read (parameter, gradient, state) and write.
TRAFFIC = {"Adam": (4, 3)}

REFERENCES: dict[str, Callable[..., Any]] = {"Adam": Adam}


@dataclass(frozen=True)
class Workload:
    """The tensors of one step."""

    name: str
    shapes: tuple[tuple[int, ...], ...]
    optimizer: str = "Adam"
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def bytes(self) -> int:
        """What one step cannot avoid to move."""
        return sum(TRAFFIC[self.optimizer]) * self.elements * np.dtype(self.dtype).itemsize

    @property
    def title(self) -> str:
        count, size = len(self.shapes), math.prod(self.shapes[0])
        tensors = "one tensor" if count == 1 else f"{count:,} tensors"
        return f"{self.optimizer}, {tensors} of {size:,} {self.dtype}"

    def random(self, seed: int) -> Arrays:
        """Normally distributed arrays, none of whose elements is close to zero.

        An element that is zero or denormal would be timed as another instruction path.
        """
        rng = np.random.default_rng(seed)
        dtype = np.dtype(self.dtype).type
        arrays = [rng.standard_normal(shape, dtype=dtype) for shape in self.shapes]
        for array in arrays:
            np.copysign(np.maximum(np.abs(array), 1e-3), array, out=array)
        return arrays


_ROWS = (
    Workload("1x100", ((100,),)),
    Workload("100x100", ((100,),) * 100),
    Workload("1000x1000", ((1000,),) * 1000),
    Workload("1x1M", ((1_000_000,),)),
    Workload("1x16M", ((16_777_216,),)),
)
WORKLOADS = {workload.name: workload for workload in _ROWS}


class Stream:
    """What the roof computes: every array that Adam reads and writes, and hardly a sum."""

    def __init__(self, scale: float) -> None:
        self.scale = scale
        self.state: dict[int, tuple[Array, Array]] = {}

    def step(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            m, v = self.state.setdefault(i, (np.zeros_like(p), np.zeros_like(p)))
            m += self.scale * g
            v += self.scale * g
            p += self.scale * m


class Expected:
    """The parameters as a float64 reference steps them.

    The references are element-wise, so that they can walk blocks which stay in the cache.
    """

    _BLOCK = 32768

    def __init__(self, reference: Any, params: Arrays) -> None:
        self.reference = reference
        self.params = [p.astype(np.float64) for p in params]

    def step(self, grads: Arrays) -> None:
        self.reference.step(
            self._blocks(self.params), [g.astype(np.float64) for g in self._blocks(grads)]
        )

    def error(self, params: Arrays) -> float:
        """The largest deviation, in units of the tolerance.

        The tolerance is 1e-6 of the value, for the roundings of five float32 additions, plus 1e-7:
        a ten-thousandth of Adam's learning rate.
        """
        pairs = zip(self._blocks(self.params), self._blocks(params), strict=True)
        errors = [np.max(np.abs(a - b) / (1e-6 * np.abs(a) + 1e-7)) for a, b in pairs]
        return float(np.max(errors))  # NaN if there is one: the built-in max may lose it

    def _blocks(self, arrays: Arrays) -> Arrays:
        flat = [array.reshape(-1) for array in arrays]
        return [a[i : i + self._BLOCK] for a in flat for i in range(0, a.size, self._BLOCK)]
