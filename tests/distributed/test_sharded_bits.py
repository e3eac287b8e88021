"""Sharded optimizers have the bits of plain ones, on any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim.distributed import Local, Sharded
from tests.optimizers import BY_NAME
from tests.support.cards import CLOSURE, COMPLEX, DENSE, Card, Options
from tests.support.narrow import takes_narrow
from tests.support.parametrize import every_card, every_variant
from tests.support.sharding import (
    inputs,
    lanes_run,
    plain_run,
    same,
    same_everywhere,
    sharded_run,
)

ADAMW = BY_NAME["AdamW"]


@every_variant(DENSE, ~CLOSURE)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_as_the_plain_optimizer(card: Card, options: Options, size: int) -> None:
    """If all ranks have one gradient, two or four of it are exact."""
    start, grads = inputs(card)
    expected = plain_run(card, options, start, grads)
    same_everywhere(sharded_run(size, card, options, start, grads), expected)


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize(
    "asked",
    [{"max_norm": 0.5}, {"grad_scale": 3.0}, {"nonfinite": "skip"}, {"max_norm": 1e9}],
    ids=str,
)
def test_arguments_of_a_step(card: Card, asked: Options) -> None:
    start, grads = inputs(card)
    options = card.variants[0]
    expected = plain_run(card, options, start, grads, **asked)
    same_everywhere(sharded_run(4, card, options, start, grads, **asked), expected)


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize("order", ["tree", "library"])
def test_two_buckets_or_many(card: Card, order: str) -> None:
    """Of equal gradients two are as exact in any order."""
    start, grads = inputs(card)
    options = card.variants[0]
    expected = plain_run(card, options, start, grads)
    for bucket_size in (1 << 16, 1 << 18):
        settings = {"order": order, "bucket_size": bucket_size}
        same_everywhere(sharded_run(2, card, options, start, grads, settings), expected)


@every_card(DENSE, ~CLOSURE)
def test_lanes(card: Card) -> None:
    """Eight gradients a step, on one rank or many."""
    start, grads = inputs(card, steps=16)
    options = card.variants[0]
    expected, receipt = lanes_run(1, card, options, start, grads, 8)[0]
    for size in (2, 4, 8):
        runs = lanes_run(size, card, options, start, grads, 8)
        same_everywhere([found for found, _ in runs], expected)
        assert [told for _, told in runs] == [receipt] * size


@given(
    st.lists(
        st.sampled_from([0, 1, 100, 20_000, 40_000]) | st.integers(0, 60_000),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([2, 4, 8]),
    st.sampled_from(["AdamW", "Lamb", "Prodigy"]),
    st.sampled_from([None, 0.5]),
    st.sampled_from([1 << 24, 50_000]),
)
@settings(max_examples=25, deadline=None)
def test_tensors_of_any_sizes(
    sizes: list[int], ranks: int, name: str, max_norm: float | None, bucket_size: int
) -> None:
    card = BY_NAME[name]
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(size).astype("f4") for size in sizes]
    lanes = [[rng.standard_normal(size).astype("f4") for size in sizes] for _ in range(16)]
    given = {"max_norm": max_norm, "settings": {"bucket_size": bucket_size}}
    options = card.variants[0]
    expected, receipt = lanes_run(1, card, options, start, lanes, 8, **given)[0]
    for found, told in lanes_run(ranks, card, options, start, lanes, 8, **given):
        same(found, expected)
        assert told == receipt


@pytest.mark.parametrize("unit", ["tensor", "element"])
def test_units_that_are_no_rows(unit: str) -> None:
    """Of Adam-mini, one of them the mean over a tensor."""
    card = BY_NAME["AdamMini"]
    start, grads = inputs(card, steps=6)

    def program(comm: Any) -> Any:
        params = [array.copy() for array in start]
        groups = [{"params": params, "unit": unit}]
        options = {"lr": 0.05, "weight_decay": 0.1}
        optimizer: Any = (
            cyoptim.AdamMini(groups, **options)
            if comm is None
            else Sharded(groups, cyoptim.AdamMini, comm=comm, **options)
        )
        for step in grads:
            optimizer.step(grads=step, max_norm=1.0)
        return params

    expected = program(None)
    for size in (2, 4):
        same_everywhere(Local(size).run(program), expected)


@pytest.mark.parametrize("count", [3, 6, 12])
def test_three_ranks(count: int) -> None:
    """The tree of three ranks is that of three times a power of two of lanes."""
    start, grads = inputs(ADAMW, steps=2 * count)
    options = {"lr": 0.01}
    ((expected, receipt),) = lanes_run(1, ADAMW, options, start, grads, count, max_norm=1.0)
    runs = lanes_run(3, ADAMW, options, start, grads, count, max_norm=1.0)
    same_everywhere([found for found, _ in runs], expected)
    assert [told for _, told in runs] == [receipt] * 3
    assert receipt.total_norm > 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_lanes_are_added_as_by_the_plain_optimizer(count: int) -> None:
    start, grads = inputs(ADAMW, steps=2 * count)
    plain = [array.copy() for array in start]
    optimizer = cyoptim.AdamW(plain, lr=0.01)
    for first in (0, count):
        for lane in range(first, first + count):
            assert optimizer.accumulate(grads[lane]) == lane - first + 1
        optimizer.step(max_norm=1.0)
    ((found, receipt),) = lanes_run(1, ADAMW, {"lr": 0.01}, start, grads, count, max_norm=1.0)
    same(found, plain)
    assert receipt == optimizer.last_step


def test_the_tree_of_lanes() -> None:
    """Not the order of calls, in which half of a last place is lost each time."""
    half = np.float32(2.0**-24)
    lanes = [np.float32(1), half, half, half, np.float32(0), half, half]
    expected = ((lanes[0] + half) + (half + half)) + ((lanes[4] + half) + half)
    assert expected == 1 + 4 * half
    assert np.cumsum(np.array(lanes), dtype=np.float32)[-1] == 1

    def program(comm: Any) -> Any:
        w = np.zeros(1, np.float32)
        optimizer: Any = Sharded([w], cyoptim.SGD, comm=comm, lr=1.0, reduce="sum")
        for lane in lanes if comm.size == 1 else lanes[comm.rank : comm.rank + 1]:
            optimizer.accumulate([np.full(1, lane)])
        optimizer.step()
        return -w[0]

    assert Local(1).run(program) == [expected]
    assert Local(7).run(program) == [expected] * 7


# --- kinds of parameters ----------------------------------------------------------------------------


@every_card(DENSE, ~CLOSURE)
def test_float64(card: Card) -> None:
    start, grads = inputs(card, np.float64)
    options = card.variants[0]
    expected = plain_run(card, options, start, grads, max_norm=1.0)
    same_everywhere(sharded_run(4, card, options, start, grads, max_norm=1.0), expected)


@every_card(DENSE, ~CLOSURE, COMPLEX)
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex(card: Card, dtype: Any) -> None:
    start, grads = inputs(card, dtype)
    options = card.variants[0]
    expected = plain_run(card, options, start, grads, max_norm=1.0)
    for order in ("tree", "library"):
        runs = sharded_run(2, card, options, start, grads, {"order": order}, max_norm=1.0)
        same_everywhere(runs, expected)


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_lanes_of_complex_numbers(dtype: Any) -> None:
    start, grads = inputs(ADAMW, dtype, steps=8)
    ((expected, receipt),) = lanes_run(1, ADAMW, {}, start, grads, 4, max_norm=1.0)
    for size in (2, 4):
        for found, told in lanes_run(size, ADAMW, {}, start, grads, 4, max_norm=1.0):
            same(found, expected)
            assert told == receipt


NARROW = [
    {},
    {"master": None},
    {"master": "float32"},
    {"master": None, "rounding": "nearest"},
    {"state_dtype": "bfloat16"},
    {"state_dtype": "dynamic8", "seed": 3},
    {"state_dtype": "float8_e4m3fn", "master": None},
]


@pytest.mark.filterwarnings("ignore:param group 0:UserWarning")
@pytest.mark.parametrize("storage", NARROW, ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("wide", [False, True], ids=["narrow gradients", "float32 gradients"])
def test_sixteen_bits(dtype: str, storage: Options, wide: bool) -> None:
    """The values that are seen, and the state that is kept, of parameters that are cut and not."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    start, grads = inputs(ADAMW, steps=8)
    start = [array.astype(kind) for array in start]
    if not wide:
        grads = [[grad.astype(kind) for grad in step] for step in grads]
    ((expected, receipt),) = lanes_run(1, ADAMW, storage, start, grads, 4, max_norm=1.0)
    assert all(array.dtype == kind for array in expected)
    for size in (2, 4):
        for found, told in lanes_run(size, ADAMW, storage, start, grads, 4, max_norm=1.0):
            same(found, expected)
            assert told == receipt
    one = plain_run(ADAMW, storage, start, grads)
    same_everywhere(sharded_run(1, ADAMW, storage, start, grads), one)
    same_everywhere(sharded_run(2, ADAMW, storage, start, grads), one)


@pytest.mark.filterwarnings("ignore:param group 0:UserWarning")
@every_card(DENSE, ~CLOSURE, takes_narrow)
@pytest.mark.parametrize("storage", [{}, {"state_dtype": "dynamic8"}], ids=str)
def test_every_optimizer_in_few_bits(card: Card, storage: Options) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start, grads = inputs(card)
    start = [array.astype(ml_dtypes.bfloat16) for array in start]
    options = {**card.variants[0], **storage}
    expected = plain_run(card, options, start, grads)
    same_everywhere(sharded_run(4, card, options, start, grads), expected)


def test_gradients_that_travel_in_sixteen_bits() -> None:
    """Those that bfloat16 has are as exact; others are rounded, and added up in float32."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start, grads = inputs(ADAMW, steps=8)
    narrow = [[grad.astype(ml_dtypes.bfloat16).astype("f4") for grad in step] for step in grads]
    settings: Options = {"comm_dtype": "bfloat16"}
    options: Options = {"lr": 0.01}
    ((expected, _),) = lanes_run(1, ADAMW, options, start, narrow, 4)
    for lanes in (narrow, grads):
        for found, _ in lanes_run(4, ADAMW, options, start, lanes, 4, settings):
            same(found, expected)
    ((other, _),) = lanes_run(1, ADAMW, options, start, grads, 4, settings)
    assert other[0].tobytes() != expected[0].tobytes()


def test_one_model_of_many_types() -> None:
    shapes = [(200, 100), (9,), (20_000,), (128, 150)]
    rng = np.random.default_rng(4)
    kinds = [np.float32, np.float64, np.complex64, np.float64]
    start = [rng.standard_normal(s).astype(k) for s, k in zip(shapes, kinds, strict=True)]
    grads = [[rng.standard_normal(a.shape).astype(a.dtype) for a in start] for _ in range(8)]
    ((expected, receipt),) = lanes_run(1, ADAMW, {}, start, grads, 4, max_norm=1.0)
    for size in (2, 4):
        settings = {"bucket_size": 50_000}
        for found, told in lanes_run(size, ADAMW, {}, start, grads, 4, settings, max_norm=1.0):
            same(found, expected)
            assert told == receipt


def _fortran(array: np.ndarray) -> np.ndarray:
    return np.asfortranarray(array.copy())


def _strided(array: np.ndarray) -> np.ndarray:
    """The same values with gaps between the elements."""
    room = np.zeros((*array.shape, 2), array.dtype)
    room[..., 0] = array
    return room[..., 0]


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize("layout", [_fortran, _strided])
def test_other_layouts(card: Card, layout: Any) -> None:
    start, grads = inputs(card)
    options = card.variants[0]
    grads = [[layout(grad) for grad in step] for step in grads]
    expected = plain_run(card, options, start, grads, copy=layout)
    for size in (1, 2, 4):
        settings = {"bucket_size": 60_000}
        runs = sharded_run(size, card, options, start, grads, settings, copy=layout)
        same_everywhere(runs, expected)
        assert runs[0][0].strides == layout(start[0]).strides
