"""What is stepped: one array, or those of a transformer with as many elements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from bench.workloads import Shapes, Workload, named

TRANSFORMER = "transformer"
PERIOD = 10_007
"""Elements after which data repeat: a prime number."""

WIDTH, LAYERS, WORDS, PLACES = 384, 8, 6400, 304


def layer(width: int) -> Iterator[tuple[int, ...]]:
    """Attention and two products, each with biases and after a norm."""
    yield from ((width,), (width,), (3 * width, width), (3 * width,), (width, width), (width,))
    yield from ((width,), (width,), (4 * width, width), (4 * width,), (width, 4 * width), (width,))


def transformer() -> Shapes:
    """101 arrays of 16,777,216 elements together: half of them have one axis."""
    layers = (shape for _ in range(LAYERS) for shape in layer(WIDTH))
    return ((WORDS, WIDTH), (PLACES, WIDTH), *layers, (WIDTH,), (WIDTH,), (WORDS,))


def workload_of(name: str) -> Workload:
    """``transformer``, or tensors by their number and size, such as ``1x16M``."""
    if name == TRANSFORMER:
        return Workload(name, transformer(), "AdamW", period=PERIOD)
    return replace(named(f"AdamW:{name}"), period=PERIOD)


def title(workload: Workload) -> str:
    """The arrays in words."""
    if workload.name == TRANSFORMER:
        count, elements = workload.tensors, workload.elements
        return f"a transformer's {count} arrays of {elements:,} elements"
    return workload.size.replace("tensor", "array")
