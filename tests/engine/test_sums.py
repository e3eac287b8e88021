"""The sum of pieces in one order: sum_pieces()."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyoptim._engine import LARGEST_CHUNK, chunk_length, sum_pieces
from tests.support.processes import lines_of

Array = np.ndarray[Any, Any]
DTYPES = ("float32", "float64", "complex64", "complex128")


def tree(pieces: list[Array]) -> Array:
    """The sum whose left half is the largest power of two below the number of pieces."""
    if len(pieces) == 1:
        return pieces[0].copy()
    left = 1
    while 2 * left < len(pieces):
        left *= 2
    return tree(pieces[:left]) + tree(pieces[left:])


def make_pieces(count: int, size: int, dtype: Any, seed: int = 0) -> list[Array]:
    """Of very different sizes, so that another order gives other bits."""
    rng = np.random.default_rng(seed)
    scales = 10.0 ** rng.uniform(-4, 4, (count, 1))
    return list((rng.standard_normal((count, size)) * scales).astype(dtype))


@given(
    count=st.integers(1, 20),
    size=st.sampled_from([0, 1, 15, 256, 300, 16384, 16385, 40000]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_bits_are_those_of_the_tree(count: int, size: int, dtype: str, seed: int) -> None:
    pieces = make_pieces(count, size, dtype, seed)
    out = np.full(size, np.nan, dtype)
    sum_pieces(out, pieces)
    assert out.tobytes() == tree(pieces).tobytes()


@pytest.mark.parametrize("count", [63, 64, 65, 1000])
def test_many_pieces(count: int) -> None:
    pieces = make_pieces(count, 300, "float32")
    out = np.empty(300, "float32")
    sum_pieces(out, pieces)
    assert out.tobytes() == tree(pieces).tobytes()


def test_the_stack_does_not_grow_with_the_pieces() -> None:
    # Where the standard library is musl, threads have no more than this.
    lines = lines_of("""
        import threading
        import numpy as np
        from cyoptim._engine import sum_pieces
        out, piece = np.empty(300), np.ones(300)
        sum_pieces(out, [piece])
        threading.stack_size(128 * 1024)
        thread = threading.Thread(target=sum_pieces, args=(out, [piece] * 65535))
        thread.start()
        thread.join()
        print(set(out.tolist()))
    """)
    assert lines == ["{65535.0}"]


def test_another_order_gives_other_bits() -> None:
    pieces = make_pieces(5, 300, "float32")
    assert tree(pieces).tobytes() != np.sum(pieces[::-1], axis=0).tobytes()


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_sums_of_halves_have_the_same_bits(count: int) -> None:
    pieces = make_pieces(count, 5000, "float32")
    whole, halves = np.empty(5000, "float32"), [np.empty(5000, "float32") for _ in range(2)]
    sum_pieces(whole, pieces)
    sum_pieces(halves[0], pieces[: count // 2])
    sum_pieces(halves[1], pieces[count // 2 :])
    sum_pieces(halves[0], halves)  # the sum may take the place of the first piece
    assert halves[0].tobytes() == whole.tobytes()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 6, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_in_the_place_of_a_piece(dtype: str, count: int, place: int) -> None:
    """Of one of the first two."""
    pieces = make_pieces(count, 20_000, dtype)
    expected = tree(pieces)
    sum_pieces(pieces[place], pieces)
    assert pieces[place].tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_pieces_of_sixteen_bits(name: str, count: int) -> None:
    if name == "bfloat16":
        dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    else:
        dtype = np.dtype(np.float16)
    pieces = [p.astype(dtype) for p in make_pieces(count, 1000, "float32")]
    out = np.empty(1000, "float32")
    with np.errstate(invalid="ignore"):  # float16 overflows to infinities of both signs
        sum_pieces(out, pieces, name)
        expected = tree([p.astype("float32") for p in pieces])
    np.testing.assert_array_equal(out, expected)


def test_what_is_not_finite_stays() -> None:
    out = np.empty(3, "float32")
    sum_pieces(out, [np.float32([np.nan, np.inf, np.inf]), np.float32([1, 1, -np.inf])])
    np.testing.assert_array_equal(out, [np.nan, np.inf, np.nan])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"pieces": []}, ValueError, "there are no pieces"),
        ({"pieces": [np.zeros(3, "f4")]}, ValueError, "piece 0 has dtype float32, shape (3,)"),
        ({"pieces": [np.zeros(4)]}, ValueError, "piece 0 has dtype float64"),
        ({"codec": "dynamic8"}, TypeError, "cannot add up pieces stored as dynamic8"),
        ({"codec": "no codec"}, TypeError, "cannot add up pieces stored as no codec"),
        ({"out": np.zeros(4, "c8"), "codec": "float16"}, TypeError, "in dtype complex64"),
        ({"out": np.zeros(4, "f2")}, TypeError, "in dtype float16"),
    ],
)
def test_errors(change: dict[str, Any], error: type[Exception], text: str) -> None:
    arguments = {"out": np.zeros(4, "f4"), "pieces": [np.zeros(4, "f4")], **change}
    with pytest.raises(error) as raised:
        sum_pieces(**arguments)
    assert text in str(raised.value)


def test_lengths_of_chunks() -> None:
    assert (chunk_length(1), chunk_length(262144), chunk_length(262145)) == (4096, 4096, 16384)
    assert LARGEST_CHUNK == 16384
