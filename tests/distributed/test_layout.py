"""How parameters are cut into parts, and where elements of a part lie in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyoptim._engine import LARGEST_CHUNK, chunk_length
from cyoptim.distributed._layout import Layout, Segment, Tensor, blocks

SIZES = [0, 1, 5, 1000, 4096, LARGEST_CHUNK, LARGEST_CHUNK + 1, 20_000, 262_144, 262_145, 10**6]


@st.composite
def tensors(draw: Any) -> list[Tensor]:
    sizes = draw(st.lists(st.sampled_from(SIZES) | st.integers(0, 10**6), max_size=6))
    kinds = st.sampled_from([(2, 1), (4, 1), (8, 1), (8, 2), (16, 2)])
    return [Tensor(size, *draw(kinds), draw(st.booleans())) for size in sizes]


@given(tensors(), st.integers(1, 9))
def test_every_element_is_on_one_rank(found: list[Tensor], ranks: int) -> None:
    """One behind the other, and tensors are cut where sums over them allow it."""
    layout = Layout(found, ranks)
    for number, tensor in enumerate(found):
        end = 0
        for parts in layout.parts:
            first, stop = parts[number]
            assert first == end <= stop
            end = stop
            if 0 < stop < tensor.size:
                reals = tensor.size * tensor.reals
                length = chunk_length(reals)
                assert tensor.is_cut
                assert not tensor.whole
                assert stop * tensor.reals % length == 0
                assert length <= stop * tensor.reals <= reals - length
        assert end == tensor.size
    rows = [segment for rank in range(ranks) for segment in layout.segments(rank)]
    assert rows == sorted(rows)
    assert all(segment.stop > segment.first for segment in rows)


@given(tensors(), st.integers(1, 9))
def test_ranks_have_about_as_much(found: list[Tensor], ranks: int) -> None:
    """But for half of what may not be cut, at either end."""
    found = [tensor._replace(whole=False) for tensor in found]
    layout = Layout(found, ranks)
    share = sum(tensor.size * tensor.itemsize for tensor in found) / ranks
    most = max((tensor.itemsize * LARGEST_CHUNK // tensor.reals for tensor in found), default=0)
    for parts in layout.parts:
        held = sum((b - a) * t.itemsize for (a, b), t in zip(parts, found, strict=True))
        assert abs(held - share) <= most


def test_a_large_vector() -> None:
    layout = Layout([Tensor(1_000_000, 4, 1, False)], 4)
    assert layout.parts == [
        [(0, 245_760)],
        [(245_760, 507_904)],
        [(507_904, 753_664)],
        [(753_664, 10**6)],
    ]


def test_whole_tensors() -> None:
    layout = Layout(
        [Tensor(100_000, 4, 1, True), Tensor(50_000, 4, 1, True), Tensor(0, 4, 1, True)], 2
    )
    assert [layout.segments(rank) for rank in range(2)] == [
        [Segment(0, 0, 100_000)],
        [Segment(1, 0, 50_000)],
    ]
    assert [[layout.is_whole(rank, n) for n in range(3)] for rank in range(2)] == [
        [True, False, True],
        [False, True, True],
    ]


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
@given(shape=st.lists(st.integers(1, 4), max_size=4), ends=st.data())
@settings(max_examples=50, deadline=None)
def test_blocks(layout: str, shape: list[int], ends: Any) -> None:
    """They are views of an array, in the order of its elements."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "strided":
        array = np.stack([array, array], -1)[..., 0]
    elif layout == "reversed" and array.ndim:
        array = array[::-1].copy()[::-1]
    first = ends.draw(st.integers(0, array.size))
    stop = ends.draw(st.integers(first, array.size))
    found = blocks(array, first, stop)
    assert [x for block in found for x in block.ravel().tolist()] == [*range(first, stop)]
    assert all(np.shares_memory(block, array) for block in found if block.size)
    assert len(found) <= max(2 * len(shape) - 1, 1)
