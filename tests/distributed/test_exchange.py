"""The ways of gradients and parameters between ranks, of any sizes, types and layouts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyoptim._engine import name_of_dtype
from cyoptim.distributed import Local
from cyoptim.distributed._buckets import LINE, Memory, buckets_of, packed, pieces_of
from cyoptim.distributed._exchange import (
    LONG,
    NEIGHBOURS,
    Gradients,
    Kind,
    Parameters,
    kind_of,
    usual_bucket,
)
from cyoptim.distributed._layout import Layout, Segment, Tensor
from tests.support.narrow import bfloat16


def tree(pieces: list[Any]) -> Any:
    """The sum of pieces as the definition has it."""
    if len(pieces) == 1:
        return pieces[0]
    half = 1
    while 2 * half < len(pieces):
        half *= 2
    return tree(pieces[:half]) + tree(pieces[half:])


def dtypes() -> list[Any]:
    return [np.dtype(t) for t in ("f4", "f8", "c8", "c16", "f2")] + [bfloat16()]


@st.composite
def models(draw: Any) -> list[tuple[int, int, bool, str]]:
    """For each tensor its size, the number of its type, whether it has a gradient, and its layout."""
    sizes = st.sampled_from([0, 1, 3, 17, 1000, 20_000, 50_000])
    layouts = st.sampled_from(["C", "F", "strided"])
    one = st.tuples(sizes, st.integers(0, 5), st.booleans(), layouts)
    return draw(st.lists(one, min_size=1, max_size=5))


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        room = np.zeros((*array.shape, 2), array.dtype)
        room[..., 0] = array
        return room[..., 0]
    return array


def shape_of(size: int) -> tuple[int, ...]:
    return (size // 10, 10) if size % 10 == 0 and size else (size,)


@given(
    models(),
    st.integers(1, 5),
    st.sampled_from([64, 1000, 30_000, 1 << 20]),
    st.sampled_from(["tree", "library"]),
)
@settings(max_examples=60, deadline=None)
def test_gradients(model: Any, size: int, limit: int, order: str) -> None:
    pytest.importorskip("ml_dtypes")
    limit = max(limit, 500 * size)
    every = dtypes()
    rng = np.random.default_rng(0)
    kinds = [every[kind] for _, kind, _, _ in model]
    grads = [
        [
            laid_out(
                (rng.standard_normal(shape_of(n)) * (1 + 1j)).astype("c16").astype(kind), layout
            )
            if has and kind.kind == "c"
            else laid_out(rng.standard_normal(shape_of(n)).astype(kind), layout)
            if has
            else None
            for (n, _, has, layout), kind in zip(model, kinds, strict=True)
        ]
        for _ in range(size)
    ]
    layout = Layout(
        [
            Tensor(n, kind.itemsize, 2 if kind.kind == "c" else 1, False)
            for (n, *_), kind in zip(model, kinds, strict=True)
        ],
        size,
    )

    def program(comm: Any) -> list[Any]:
        parts = layout.parts[comm.rank]
        way = Gradients(
            layout,
            comm,
            [None if g is None else kind_of(g.dtype, order, None) for g in grads[0]],
            [(stop - first, 1) for first, stop in parts],
            order,
            limit,
            Memory(),
        )
        for _ in range(2):
            found = way.exchange(grads[comm.rank])
        return [None if part is None else part.copy() for part in found]

    before = [[None if g is None else g.tobytes() for g in own] for own in grads]
    runs = Local(size).run(program)
    assert [[None if g is None else g.tobytes() for g in own] for own in grads] == before
    for number, kind in enumerate(kinds):
        if grads[0][number] is None:
            assert all(run[number] is None for run in runs)
            continue
        wide = np.float32 if kind.itemsize == 2 else kind
        pieces = [own[number].astype(wide).reshape(-1) for own in grads]
        total = tree(pieces) if order == "tree" else sum(pieces[1:], pieces[0])
        for rank, run in enumerate(runs):
            first, stop = layout.parts[rank][number]
            assert run[number].dtype == wide
            assert run[number].shape == (stop - first, 1)
            assert run[number].tobytes() == total[first:stop].tobytes()


@given(models(), st.integers(1, 5), st.sampled_from([64, 1000, 30_000, 1 << 20]))
@settings(max_examples=60, deadline=None)
def test_parameters(model: Any, size: int, limit: int) -> None:
    """Those that have moved are everywhere as on the rank that has stepped them."""
    pytest.importorskip("ml_dtypes")
    limit = max(limit, 500 * size)
    every = dtypes()
    values = [
        np.arange(n).reshape(shape_of(n)).astype(np.float64).astype(every[kind])
        for n, kind, _, _ in model
    ]
    layout = Layout([Tensor(a.size, a.itemsize, 1, False) for a in values], size)
    moved = [has for _, _, has, _ in model]

    def program(comm: Any) -> list[np.ndarray]:
        arrays = [
            laid_out(np.zeros_like(a), how) for a, (*_, how) in zip(values, model, strict=True)
        ]
        parts = []
        for array, value, (first, stop) in zip(
            arrays, values, layout.parts[comm.rank], strict=True
        ):
            row = (
                array.reshape(-1)[first:stop]
                if array.flags.c_contiguous
                else np.zeros(stop - first, array.dtype)
            )
            row[...] = value.reshape(-1)[first:stop]
            parts.append(row.reshape(-1, 1))
        way = Parameters(layout, comm, arrays, parts, moved, limit, Memory())
        for _ in range(2):
            way.gather()
        return arrays

    for run in Local(size).run(program):
        for array, value, has in zip(run, values, moved, strict=True):
            if has:
                assert array.tobytes() == value.tobytes()


@given(
    st.lists(st.integers(1, 200), max_size=8),
    st.integers(1, 7),
    st.sampled_from([1, 4, 16]),
)
def test_pieces(sizes: list[int], count: int, unit: int) -> None:
    """They are all of what is packed, of about one length."""
    segments = packed(((Segment(i, 7, 7 + n), 1) for i, n in enumerate(sizes)), unit)
    assert all(
        one.place % unit == 0 and one.place - before.end < unit
        for before, one in pairwise(segments)
    )
    pieces = pieces_of(segments, count, unit)
    assert len(pieces) == count
    found = [[0] * n for n in sizes]
    for piece in pieces:
        assert piece.begin % unit == 0 or piece.length == 0
        for tensor, first, stop, place in piece.segments:
            assert place % unit == 0
            assert piece.begin + place == segments[tensor].place + first - 7
            for k in range(first, stop):
                found[tensor][k - 7] += 1
    assert all(x == 1 for row in found for x in row)
    lengths = [piece.length for piece in pieces]
    if segments:
        assert max(lengths) <= segments[-1].end / count + unit


def test_buckets_have_about_the_size_that_was_asked_for() -> None:
    ranks = [packed([(Segment(0, k * 10_000, (k + 1) * 10_000), 1)], 16) for k in range(4)]
    buckets = buckets_of(ranks, 4, 40_000)
    assert len(buckets) == 4
    assert all(abs(bucket.size * 4 - 40_000) <= 4 * LINE for bucket in buckets)
    assert all(bucket.tensor == 0 for bucket in buckets)
    assert buckets_of([[], []], 4, 1000) == []


def watched(comm: Any, sent: list[Any], received: list[Any]) -> Any:
    """A communicator that notes what is sent and received."""

    class Watched:
        rank, size, allgather = comm.rank, comm.size, comm.allgather

        def exchange(self, sends: Any, receives: Any) -> Any:
            sent.extend(piece for _, piece in sends)
            received.extend(piece for _, piece in receives)
            return comm.exchange(sends, receives)

    return Watched()


def test_long_segments_of_gradients_are_sent_from_where_they_are() -> None:
    """Or, if they are in another order, packed: the ranks need not do it alike."""
    n = 3 * LONG
    rng = np.random.default_rng(0)
    shapes = [(n // 8, 8), (50,), (70,)]
    grads = [[rng.standard_normal(shape).astype("f4") for shape in shapes] for _ in range(3)]
    grads[1] = [np.asfortranarray(grad) for grad in grads[1]]
    layout = Layout([Tensor(grad.size, 4, 1, False) for grad in grads[0]], 3)
    single = Kind(np.dtype("f4"), np.dtype("f4"))
    sent: list[list[Any]] = [[] for _ in range(3)]

    def program(comm: Any) -> list[Any]:
        parts = [(stop - first,) for first, stop in layout.parts[comm.rank]]
        own = watched(comm, sent[comm.rank], [])
        way = Gradients(layout, own, [single] * 3, parts, "tree", 10**6, Memory())
        return [None if p is None else p.copy() for p in way.exchange(grads[comm.rank])]

    runs = Local(3).run(program)
    for number, pieces in enumerate(zip(*grads, strict=True)):
        found = np.concatenate([run[number] for run in runs])
        assert found.tobytes() == tree([grad.reshape(-1) for grad in pieces]).tobytes()
    for rank, pieces in enumerate(sent):
        long = [piece for piece in pieces if piece.size >= LONG]
        straight = [any(np.shares_memory(p, grad) for grad in grads[rank]) for p in long]
        assert straight == [rank != 1] * 2
        short = [piece for piece in pieces if piece.size < LONG]
        # Both short ones are of the last rank, and go there together.
        assert [piece.size for piece in short] == [(64 + 70) * 4] * (rank < 2)


def test_gradients_of_one_other_rank_arrive_in_the_place_of_the_sum() -> None:
    n = 4 * LONG
    grads = [np.full(n, rank + 1, "f4") for rank in range(4)]
    layout = Layout([Tensor(n, 4, 1, False)], 4)
    single = Kind(np.dtype("f4"), np.dtype("f4"))

    def program(comm: Any) -> list[bool]:
        first, stop = layout.parts[comm.rank][0]
        received: list[Any] = []
        own = watched(comm, [], received)
        way = Gradients(layout, own, [single], [(stop - first,)], "tree", 10**9, Memory())
        (part,) = way.exchange([grads[comm.rank]])
        assert part is not None
        assert (part == 10).all()
        return [np.shares_memory(piece, part) for piece in received]

    assert [sum(found) for found in Local(4).run(program)] == [1] * 4


@pytest.mark.parametrize("size", [3, NEIGHBOURS + 1])
def test_long_segments_of_parameters_are_received_where_they_belong(size: int) -> None:
    """Among few ranks; more send them around, packed if they lie in several arrays."""
    n = size * LONG
    layout = Layout([Tensor(n, 4, 1, False), Tensor(100, 4, 1, False)], size)

    def program(comm: Any) -> tuple[list[np.ndarray], list[bool]]:
        order = "F" if comm.rank == 1 else "C"
        arrays = [np.zeros((n // 8, 8), "f4", order), np.zeros(100, "f4")]
        parts = []
        for array, (first, stop) in zip(arrays, layout.parts[comm.rank], strict=True):
            part = array.reshape(-1)[first:stop] if order == "C" else np.zeros(stop - first, "f4")
            part[...] = np.arange(first, stop)
            parts.append(part)
        received: list[Any] = []
        own = watched(comm, [], received)
        Parameters(layout, own, arrays, parts, [True] * 2, 10**6, Memory()).gather()
        long = [piece for piece in received if piece.size >= LONG]
        return arrays, [np.shares_memory(piece, arrays[0]) for piece in long]

    for rank, (arrays, straight) in enumerate(Local(size).run(program)):
        for array in arrays:
            assert (array.reshape(-1) == np.arange(array.size)).all()
        assert straight == ([rank != 1] * (size - 1) if size <= NEIGHBOURS else [])


def test_messages_of_many_ranks_are_not_short() -> None:
    assert [usual_bucket(ranks) for ranks in (1, 4, 256, 1024)] == [1 << 24] * 3 + [1 << 26]


def test_kinds() -> None:
    pytest.importorskip("ml_dtypes")
    single = np.dtype("f4")
    for dtype in dtypes():
        name = name_of_dtype(dtype)
        kind = kind_of(dtype, "tree", None)
        assert (name_of_dtype(kind.wire), kind.as_they_are) == (name, True)
        assert kind.total == (single if dtype.itemsize == 2 else dtype)
        kind = kind_of(dtype, "library", None)
        assert kind.wire == kind.total == (single if dtype.itemsize == 2 else dtype)
        assert kind.as_they_are == (dtype.itemsize > 2)
    assert kind_of(single, "tree", "bfloat16") == Kind(bfloat16(), single, "bfloat16", rounds=True)
    assert kind_of(np.dtype("f8"), "tree", "bfloat16").wire == np.dtype("f8")
