"""Workloads, their random data, and the slow results to compare with.

A workload is defined by its name: ``1x16M``, ``RAdam:1000x1000``, ``1x1M:float64``,
``SGD:1x64K:openblas``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bench.optimizers import OPERATIONS

Array: TypeAlias = npt.NDArray[Any]
Arrays: TypeAlias = list[Array]
Shapes: TypeAlias = tuple[tuple[int, ...], ...]

PERIOD = 1_000_003
"""Elements after which the data of a tensor repeats, so that a reference has no more to step.

A prime number, which no chunk and no thread's share is a multiple of."""

MOST_JOINED = 16 << 20
"""Elements that a reference steps in seconds if it must step them all."""


@dataclass(frozen=True)
class Workload:
    """The tensors of one step."""

    name: str
    shapes: Shapes
    optimizer: str = "Adam"  # or another operation
    dtype: str = "float32"
    zeros: int = 0  # untimed steps with zero gradients; then the timed steps have them, too
    context: str = "loop"  # what comes before each step: contexts.py
    period: int = PERIOD  # elements after which data repeat

    @property
    def tensors(self) -> int:
        return len(self.shapes)

    @property
    def each(self) -> int:
        """The elements of a tensor: of the first, as all tensors of a named workload are alike."""
        return math.prod(self.shapes[0])

    @property
    def elements(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    @property
    def joins(self) -> bool:
        """Whether a reference must step whole tensors, not only a period of each."""
        return OPERATIONS[self.optimizer].joins

    @property
    def bytes(self) -> int:
        """The bytes that a step must move."""
        return OPERATIONS[self.optimizer].traffic(self.each) * self._array

    @property
    def memory(self) -> int:
        """The bytes of a contender: parameters, gradients and state."""
        operation = OPERATIONS[self.optimizer]
        return (1 + operation.read + operation.written) * self._array

    @property
    def _array(self) -> int:
        return self.elements * np.dtype(self.dtype).itemsize

    @property
    def size(self) -> str:
        count, size = self.tensors, self.each
        return f"one tensor of {size:,}" if count == 1 else f"{count:,} tensors of {size:,}"

    @property
    def title(self) -> str:
        return f"{self.optimizer}, {self.size} {self.dtype}"

    def random(self, seed: int) -> Arrays:
        """New arrays with these values."""
        arrays = [np.empty(shape, self.dtype) for shape in self.shapes]
        self.fill(arrays, seed)
        return arrays

    def fill(self, arrays: Arrays, seed: int) -> None:
        """Normally distributed values, none of which is close to zero.

        Elements that are zero or denormal would time another path of the processor.
        """
        rng = np.random.default_rng(seed)
        for array in arrays:
            flat = array.reshape(-1)
            values = self._period(rng, flat.size)
            for start in range(0, flat.size, self.period):
                part = flat[start : start + self.period]
                part[...] = values[: part.size]

    def _period(self, rng: np.random.Generator, size: int) -> Array:
        values = rng.standard_normal(min(size, self.period), dtype=np.dtype(self.dtype).type)
        return np.copysign(np.maximum(np.abs(values), 1e-3), values)


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}


def size_named(text: str) -> int:
    """Elements: ``1000``, or ``16K`` and ``16M``, which are binary; only ``1M`` is a million."""
    found = re.fullmatch(r"([1-9][0-9]*)([KM]?)", text)
    if not found:
        raise ValueError(f"{text!r} is not a number of elements, like 1000, 16K or 16M")
    return 1_000_000 if text == "1M" else int(found[1]) * _UNITS[found[2]]


def shapes_named(text: str) -> Shapes:
    """The tensors called ``COUNTxSIZE``."""
    count, cross, size = text.partition("x")
    if not cross or not count.isdecimal() or not int(count):
        raise ValueError(f"{text!r} is not COUNTxSIZE, like 1x16M or 1000x100")
    return ((size_named(size),),) * int(count)


@cache
def nearly_square(size: int) -> tuple[int, int]:
    """The matrix of so many elements whose sides differ least."""
    rows = next(rows for rows in range(math.isqrt(size), 0, -1) if size % rows == 0)
    return rows, size // rows


def name_of(
    shapes: str,
    optimizer: str = "Adam",
    dtype: str = "float32",
    context: str = "loop",
    *,
    zeroed: bool = False,
) -> str:
    """The name of a workload, ``SGD:1x16M:float64``, without parts that have default values."""
    words = [optimizer] * (optimizer != "Adam") + [shapes]
    words += [dtype] * (dtype != "float32") + [context] * (context != "loop") + ["zeros"] * zeroed
    return ":".join(words)


ZEROS = 1000
"""Adam's first moment is denormal everywhere after so many steps without a gradient."""

DTYPES = ("float32", "float64")

CONTEXT_NAMES = ("loop", "openblas", "torch")
"""What comes before each step: nothing, or a product of two matrices."""


@cache
def named(name: str) -> Workload:
    """The workload of this name. The number of threads, as in ``1x16M@4``, is ignored."""
    words = name.partition("@")[0].split(":")
    optimizer = words.pop(0) if words[0] in OPERATIONS else "Adam"
    shapes, *rest = words
    zeros = ZEROS * ("zeros" in rest)
    dtype = next((word for word in rest if word in DTYPES), "float32")
    context = next((word for word in rest if word in CONTEXT_NAMES), "loop")
    canonical = name_of(shapes, optimizer, dtype, context, zeroed=bool(zeros))
    tensors = shapes_named(shapes)
    if OPERATIONS[optimizer].matrices:
        tensors = tuple(nearly_square(size) for (size,) in tensors)
    return Workload(canonical, tensors, optimizer, dtype, zeros, context)


ADAM = ("1x100", "100x100", "1000x1000", "1x1M", "1x16M")
"""The workloads on which all contenders are timed."""

OVERVIEW = ("1x16M", "1x1M", "1000x1000")
"""The workloads on which every optimizer is timed."""


class Stream:
    """The computation of the roof: in each walk, the chain of sums over what it writes."""

    def __init__(self, scale: float, walks: Sequence[str]) -> None:
        self.scale, self.walks = scale, walks
        self.state: dict[int, dict[str, Array]] = {}

    def step(self, params: Sequence[Array], grads: Sequence[Array]) -> None:
        names = "".join(self.walks).lower()
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            state = self.state.setdefault(i, {x: np.zeros_like(p) for x in names})
            arrays = state | {"p": p, "g": g}
            for walk in self.walks:
                last = sum(arrays[x] for x in walk if x.islower())
                for x in reversed([x.lower() for x in walk if x.isupper()]):
                    arrays[x] += self.scale * last
                    last = arrays[x]


class Expected:
    """The parameters after steps of a float64 reference: of each, the part that does not repeat.

    Element-wise references can process blocks that stay in the cache; those that join elements
    (``joins``) step whole tensors.
    """

    _BLOCK = 32768

    def __init__(self, reference: Any, params: Arrays, period: int = PERIOD) -> None:
        self.reference, self.period = reference, period
        self.whole = getattr(reference, "joins", False)
        self.params = [p.astype(np.float64) for p in self._periods(params)]

    def step(self, grads: Arrays) -> None:
        self.reference.step(
            self._blocks(self.params),
            [g.astype(np.float64) for g in self._blocks(self._periods(grads))],
        )

    def error(self, params: Arrays) -> float:
        """The largest deviation, in units of the tolerance.

        The tolerance is 1e-6 of the value, for the rounding of eight float32 additions, plus 1e-7:
        a ten-thousandth of Adam's learning rate. In float64 both are 1e-8: torch
        keeps some scalars in float32 even then; arrays in float32 would differ by more.
        """
        near, least = {"float32": (1e-6, 1e-7), "float64": (1e-8, 1e-8)}[str(params[0].dtype)]
        errors = [
            np.max(np.abs(a[: b.size] - b) / (near * np.abs(a[: b.size]) + least))
            for a, b in self._pairs(params)
        ]
        return float(np.max(errors))  # keeps a NaN, which the built-in max may lose

    def _pairs(self, params: Arrays) -> Iterator[tuple[Array, Array]]:
        """What is expected and what was found, a period of each that repeats at a time."""
        for expected, found in zip(self.params, params, strict=True):
            flat = found.reshape(-1)
            size = flat.size if self.whole else self.period
            for start in range(0, flat.size, size):
                yield expected.reshape(-1), flat[start : start + size]

    def _periods(self, arrays: Arrays) -> Arrays:
        return arrays if self.whole else [array.reshape(-1)[: self.period] for array in arrays]

    def _blocks(self, arrays: Arrays) -> Arrays:
        if self.whole:
            return arrays
        return [a[i : i + self._BLOCK] for a in arrays for i in range(0, a.size, self._BLOCK)]
