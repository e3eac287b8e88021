"""Where new state is put: at the beginning of a line of cache, small arrays side by side."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cyoptim
from cyoptim._engine import Room, memory_bounds
from tests.support.dtypes import COMPLEXES, REALS

LINE = 64
SMALL = 65536  # bytes

shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple) | st.sampled_from(
    [(SMALL // 8,), (SMALL // 8 + 1,), (SMALL // 4,), (SMALL // 4 + 1,), (300, 300)]
)
dtypes = st.sampled_from([*REALS, *COMPLEXES])
layouts = st.sampled_from(
    [
        lambda a: a,
        np.asfortranarray,
        lambda a: a.swapaxes(0, -1) if a.ndim else a,
        lambda a: a[..., ::2] if a.ndim else a,
        lambda a: a[..., ::-1] if a.ndim else a,
    ]
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    return draw(layouts)(np.ones(draw(shapes), draw(dtypes)))


def steps(array: np.ndarray) -> list[int]:
    """The strides that matter."""
    return [stride for stride, n in zip(array.strides, array.shape, strict=True) if n > 1]


@pytest.mark.slow
@given(st.lists(arrays(), min_size=1, max_size=8))
def test_arrays_are_zeros_like_their_parameters_and_apart(views: list[np.ndarray]) -> None:
    room = Room(views)
    made = [room.zeros(name, view) for view in views for name in ("exp_avg", "exp_avg_sq")]
    for array, view in zip(made, np.repeat(np.arange(len(views)), 2), strict=True):
        like = np.zeros_like(views[view])
        assert array.dtype == like.dtype
        assert array.shape == like.shape
        assert not array.any()
        assert array.size <= 1 or steps(array) == steps(like)
        array[...] = view + 1
    for number, array in enumerate(made):
        assert (array == number // 2 + 1).all()
    bounds = sorted(memory_bounds(array) for array in made if array.size)
    assert all(bounds[k][1] <= bounds[k + 1][0] for k in range(len(bounds) - 1))


def test_more_than_was_expected_is_found_a_place() -> None:
    view = np.ones(100)
    room = Room([view])
    first, second = room.zeros("sum", view), room.zeros("sum", view)
    first[:] = 1
    assert not second.any()


@pytest.mark.parametrize("loaded", [False, True])
def test_state_begins_lines_of_cache_and_small_arrays_are_neighbours(loaded: bool) -> None:
    params = [cyoptim.Parameter(np.ones(n, np.float32)) for n in (100, 3, 20, 70_000)]
    for p in params:
        p.grad = np.ones_like(p.data)
    optimizer = cyoptim.Adam(params)
    optimizer.step()
    if loaded:
        other = cyoptim.Adam(params)
        other.load_state_dict(optimizer.state_dict())
        optimizer = other
    for name in ("exp_avg", "exp_avg_sq"):
        starts = [memory_bounds(optimizer.state[p][name])[0] for p in params]
        assert [start % LINE for start in starts] == [0] * 4
        lines = [-(-p.data.nbytes // LINE) * LINE for p in params]
        assert starts[1:3] == [starts[0] + lines[0], starts[0] + lines[0] + lines[1]]
