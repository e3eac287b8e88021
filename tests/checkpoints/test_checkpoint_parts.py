"""Files with gaps for arrays of which other processes have parts."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cyoptim
from cyoptim._checkpoints import single
from cyoptim._checkpoints.parts import Gap, Parts, joined, write_elements


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_checksums_are_joined(first: bytes, second: bytes) -> None:
    found = joined(zlib.crc32(first), zlib.crc32(second), len(second))
    assert found == zlib.crc32(first + second)


@pytest.mark.slow
def test_checksums_of_many_bytes_are_joined() -> None:
    """Of more than 32 bits can count."""
    length = 2**32 + 5
    first = zlib.crc32(b"first")
    block, alone, behind = bytes(2**20), 0, first
    for _ in range(length // len(block)):
        alone, behind = zlib.crc32(block, alone), zlib.crc32(block, behind)
    alone, behind = zlib.crc32(bytes(5), alone), zlib.crc32(bytes(5), behind)
    assert joined(first, alone, length) == behind


def in_parts(array: Any, cuts: Sequence[int]) -> tuple[Parts, list[Any]]:
    """An array in parts, as the first process has it, and the elements of all."""
    flat = np.ravel(array)
    spans = list(pairwise([0, *cuts, flat.size]))
    every = [flat[first:stop] for first, stop in spans]
    fortran = bool(array.flags.fnc)
    return Parts(array.shape, array.dtype, spans, every[0], fortran=fortran), every


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("last", [False, True], ids=["between", "last"])
def test_gaps_are_filled_in_any_order(suffix: str, last: bool, tmp_path: Path) -> None:
    """The file is that of whole arrays."""
    rng = np.random.default_rng(0)
    wholes: dict[str, Any] = {
        "a": rng.standard_normal((20, 30)),
        "b": rng.standard_normal((40, 5)).astype("c8"),
        "F": np.array(rng.standard_normal((7, 9)), order="F"),
        "codes": rng.integers(0, 255, 100, np.uint8),
        "empty": np.zeros((0, 3), "f4"),
    }
    rest = {} if last else {"z": np.arange(1000), "text": "end"}
    cyoptim.save(tmp_path / f"whole{suffix}", state=Saved(wholes), **rest)
    made = {
        name: in_parts(array, [array.size // 3, array.size // 2]) for name, array in wholes.items()
    }
    state = Saved({name: parts for name, (parts, _) in made.items()})
    elements = {id(parts): every for parts, every in made.values()}
    path = tmp_path / f"parts{suffix}"

    def fill(file: Any, gaps: Sequence[Gap]) -> list[int]:
        file.flush()
        with open(file.name, "r+b") as own:
            return [_filled(own, gap, elements[id(gap.array.source)]) for gap in reversed(gaps)][
                ::-1
            ]

    single.write(path, {"state": state, **rest}, {id(state): state.state_dict()}, fill)
    assert path.read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()


def _filled(file: Any, gap: Gap, every: list[Any]) -> int:
    """Fill a gap, the last part first; return the checksum of it all."""
    if gap.fortran:
        file.seek(gap.begin)
        return write_elements(file, np.concatenate(every).reshape(gap.array.shape).T, gap)
    sums, place = [0] * len(every), gap.begin + gap.array.nbytes
    for k in reversed(range(len(every))):
        place -= every[k].nbytes
        file.seek(place)
        sums[k] = write_elements(file, every[k], gap)
    total = 0
    for checksum, part in zip(sums, every, strict=True):
        total = joined(total, checksum, part.nbytes)
    return total


class Saved:
    """An object with a state."""

    def __init__(self, state: dict[str, Any]) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        return self._state


def test_pieces_are_written_where_the_file_is() -> None:
    """In the byte order of the format, with a checksum where it has one."""
    array = np.arange(5, dtype=">i4")
    parts, _ = in_parts(np.arange(5, dtype="i4"), [])
    for order, expected in (("<", array.astype("<i4")), ("=", array.astype("i4"))):
        file = io.BytesIO(b"ab")
        file.seek(2)
        gap = Gap(parts, 2, order, is_checked=order == "=", fortran=False)  # type: ignore[arg-type]
        checksum = write_elements(file, array, gap)
        assert file.getvalue() == b"ab" + expected.tobytes()
        assert checksum == (zlib.crc32(expected.tobytes()) if gap.is_checked else 0)


def test_shapes_of_parts() -> None:
    parts, _ = in_parts(np.zeros((4, 6)), [5])
    assert parts.numel() == 24
    assert parts.reshape(-1, 3).shape == (8, 3)
    assert parts.reshape(2, 12).reshape(24).source is parts
    pairs = in_parts(np.zeros((4, 6), "c16"), [5])[0].as_reals()
    assert (pairs.shape, pairs.dtype, pairs.spans) == ((4, 6, 2), np.float64, [(0, 10), (10, 48)])
