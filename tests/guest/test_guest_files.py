"""A good guest: files as memory, and more elements than fit into 32 bits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.guest_runs import N, bits, go_on, gradient, run_script, serial, started

pytestmark = pytest.mark.usefixtures("many_threads", "each_layer")


def mapped(path: Path, array: Any, offset: int = 0, mode: str = "r+") -> Any:
    """The array in a file."""
    array = np.asarray(array)
    with path.open("wb") as file:
        file.truncate(offset + array.nbytes)
    np.memmap(path, array.dtype, "r+", offset, array.shape)[...] = array
    return np.memmap(path, array.dtype, mode, offset, array.shape)


@pytest.mark.parametrize("door", [cyoptim.Parameter, lambda array: array])
def test_all_in_files(door: Any, tmp_path: Path) -> None:
    # An optimizer larger than memory: parameter, gradient and state are used where they are.
    expected = serial()
    file = tmp_path / "w"
    memory = mapped(file, np.zeros(N, np.float32))
    w = door(memory)
    optimizer = cyoptim.AdamW([w], lr=0.1)
    state = {k: mapped(tmp_path / k, np.zeros(N, np.float32)) for k in ("exp_avg", "exp_avg_sq")}
    for name, array in state.items():
        optimizer.state[w][name] = array
    for k in range(4):
        grad = mapped(tmp_path / f"grad{k}", gradient(k), mode="r")
        cyoptim.clip_grad_norm_([w], 1e9, grads=[grad.copy()])
        optimizer.step(grads=[grad])
    assert bits(optimizer) == expected
    for name, array in state.items():
        assert optimizer.state[w][name] is array
        array.flush()
        assert np.fromfile(tmp_path / name, np.float32).tobytes() == array.tobytes()
    memory.flush()
    assert np.fromfile(file, np.float32).tobytes() == expected[: 4 * N]


def test_state_moved_into_files_in_the_middle_of_a_run(tmp_path: Path) -> None:
    params, optimizer = started()
    go_on(optimizer, 0, 2)
    state = optimizer.state[params[0]]
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = mapped(tmp_path / name, state[name])
    kept = dict(state)
    assert go_on(optimizer, 2, 4) == serial()
    assert all(state[name] is kept[name] for name in kept)
    assert np.fromfile(tmp_path / "exp_avg", np.float32).tobytes() == kept["exp_avg"].tobytes()


def test_files_at_odd_offsets(tmp_path: Path) -> None:
    # Behind a header of three bytes no element is aligned: parameter and gradient are stepped
    # through a copy, a state array is replaced by an aligned one.
    w = mapped(tmp_path / "w", np.zeros(N, np.float32), 3)
    assert not w.flags.aligned
    optimizer = cyoptim.AdamW([w], lr=0.1)
    odd = mapped(tmp_path / "s", np.zeros(N, np.float32), 3)
    optimizer.state[w]["exp_avg"] = odd
    for k in range(4):
        optimizer.step(grads=[mapped(tmp_path / "g", gradient(k), 3, "r")])
    assert bits(optimizer) == serial()
    assert optimizer.state[w]["exp_avg"] is not odd
    assert optimizer.state[w]["exp_avg"].flags.aligned


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    w = mapped(tmp_path / "w", np.zeros(5), mode="r")
    with pytest.raises(ValueError, match="parameter 0 of group 0 is read-only"):
        cyoptim.SGD([w])
    v = np.zeros(5)
    grad = mapped(tmp_path / "g", np.ones(5), mode="r")
    with pytest.raises(ValueError, match="gradient of parameter 0 .* is read-only"):
        cyoptim.SGD([v], lr=1.0).step(grads=[grad], zero_grad=True)
    assert (v == 0).all()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or sys.maxsize < 2**32, reason="maps memory at will")
def test_more_elements_than_fit_into_32_bits() -> None:
    # 2**31 + 10 elements of two megabytes of memory, which is mapped again and again, one piece
    # after the other: every element of memory is each of 4096 or 4097 elements of the array.
    # A step on one thread subtracts 1 from each of them in turn, so that each has been done
    # exactly once if memory holds minus 4096, and the first ten elements minus 4097.
    code = """
        import ctypes, mmap
        from cyoptim._engine import Arrays
        SIZE, N, FIXED, NORESERVE = 1 << 21, 2**31 + 10, 0x10, 0x4000
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]

        def mapped_again_and_again(value):
            file = os.memfd_create("memory")
            os.truncate(file, SIZE)
            count = -(-4 * N // SIZE)
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
            base = libc.mmap(None, count * SIZE, 0, private, -1, 0)
            for k in range(count):
                place, access = base + k * SIZE, 3  # read, write
                if libc.mmap(place, SIZE, access, mmap.MAP_SHARED | FIXED, file, 0) != place:
                    print("no room")
                    sys.exit()
            array = np.frombuffer((ctypes.c_char * (4 * N)).from_address(base), np.float32)
            array[: SIZE // 4] = value
            return array

        w, g = mapped_again_and_again(0), mapped_again_and_again(1)
        optimizer = cyoptim.SGD([w], lr=1.0)
        with cyoptim.threads(1):
            optimizer.step(grads=[g])
        print((w[:10] == -4097).all(), (w[10 : SIZE // 4] == -4096).all())

        # Sums of doubles are exact, before they are rounded to the gradients' type: every
        # element is counted.
        norms = [Arrays([g]).norm(order) for order in (1.0, 0.0)]
        print(norms == [N, N], cyoptim.get_total_norm([g], 1.0) == np.float32(N))

        # Sparse: single elements on both sides of the border, of an array that is all zeros.
        w[: SIZE // 4] = 0
        rows = np.array([3, 2**31 - 2, 2**31 + 9], np.int64)
        optimizer.step(grads=[(rows, np.array([1, 2, 4], np.float32))])
        print(w[:16].tolist() == [0, 0, 0, -1, 0, 0, 0, 0, 0, -4] + [0] * 6, w[SIZE // 4 - 2])
        print(np.count_nonzero(w[: SIZE // 4]))
    """
    lines = run_script(code)
    if lines == ["no room"]:
        pytest.skip("no room for so many addresses")
    assert lines == ["True True", "True True", "True -2.0", "3"]
