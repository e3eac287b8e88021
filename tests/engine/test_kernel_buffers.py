"""Kernel.update on buffers: zero copy, the bits of a step, and every check before the first change."""

from __future__ import annotations

import ctypes
import re
from array import array
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.kernel import Kernel
from tests.support.cards import KERNEL, Card
from tests.support.parametrize import every_card, every_complex, every_real


def memory_of(kind: str, values: np.ndarray) -> Any:
    """A buffer of some kind with these values."""
    code = values.dtype.char
    if kind == "array":
        return array(code, values.tolist())
    if kind == "ctypes":
        return ((ctypes.c_float if code == "f" else ctypes.c_double) * values.size)(
            *values.tolist()
        )
    if kind == "memoryview":
        return memoryview(bytearray(values.tobytes())).cast(code)
    return values.copy()


@every_real
@pytest.mark.parametrize("kind", ["array", "ctypes", "memoryview", "ndarray"])
@every_card(KERNEL)
def test_the_bits_are_those_of_a_step(card: Card, kind: str, dtype: Any) -> None:
    start = np.linspace(-1, 1, 7).astype(dtype)
    grads = [np.cos(np.arange(7) + t).astype(dtype) for t in range(3)]
    expected = start.copy()
    optimizer, kernel = card.cls([expected]), Kernel(card.cls)
    w = memory_of(kind, start)
    state = [memory_of(kind, values) for values in kernel.new_state(w)]
    for grad in grads:
        optimizer.step(grads=[card.form(grad)])
        kernel.begin()
        kernel.update(w, memory_of(kind, grad), *state)
    assert np.asarray(w).tobytes() == expected.tobytes()


@every_complex
def test_complex_numbers_are_pairs(dtype: Any) -> None:
    expected = np.array([1 + 2j, -3j], dtype)
    w, grad = expected.copy(), np.array([1 - 1j, 2], dtype)
    optimizer, kernel = cyoptim.Yogi([expected]), Kernel(cyoptim.Yogi)
    state = kernel.new_state(w)
    for _ in range(2):
        optimizer.step(grads=[grad])
        kernel.begin()
        kernel.update(w, grad, *state)
    assert w.tobytes() == expected.tobytes()


def test_several_arrays_and_parts_are_one_step() -> None:
    kernel, whole = Kernel(cyoptim.Adam), np.linspace(0, 1, 12).reshape(3, 4)
    parts, grad = whole.copy(), np.sin(whole)
    m, v = kernel.new_state(whole)
    kernel.begin()
    kernel.update(whole, grad, m, v)
    other = Kernel(cyoptim.Adam)
    m, v = other.new_state(parts)
    other.begin()
    for k in range(3):
        other.update(parts[k], grad[k], m[k], v[k])
    assert parts.tobytes() == whole.tobytes()
    assert kernel.state == other.state == {"step": 1}


def test_without_elements_and_axes() -> None:
    kernel = Kernel(cyoptim.SGD, lr=0.5)
    kernel.begin()
    kernel.update(np.zeros(0), np.zeros(0))
    w = np.array(1.0)
    kernel.update(w, np.array(2.0))
    assert w == 0


def test_the_gradient_may_be_read_only() -> None:
    kernel, w = Kernel(cyoptim.SGD, lr=1.0), array("d", [1.0])
    kernel.begin()
    kernel.update(w, memoryview(bytes(np.ones(1))).cast("d"))
    assert w[0] == 0


def unaligned(size: int) -> np.ndarray:
    return np.frombuffer(bytearray(8 * size + 1), np.float64, size, 1)


def overlapping() -> list[Any]:
    base = np.zeros(6)
    return [np.zeros(3), np.ones(3), base[:3], base[2:5]]


three = np.zeros(3)
CASES = [
    ([three.copy()] * 3, TypeError, "Adam updates param, grad, exp_avg, exp_avg_sq: expected 4 buffers in this order, got 3"),
    ([[1.0], three, three, three], TypeError, "param is a list without a buffer of numbers: expected a memoryview, array.array, NumPy array or ctypes array"),
    ([three, None, three, three], TypeError, "grad is a NoneType without a buffer"),
    ([np.zeros(3, int), three, three, three], TypeError, "param has elements of format 'l', expected 'f' (float32), 'd' (float64), or complex of these"),
    ([bytearray(8), three, three, three], TypeError, "format 'B', expected 'f' (float32), 'd' (float64), or complex of these; write memoryview(x).cast('f') or .cast('d')"),
    ([np.zeros(3, ">f8"), three, three, three], TypeError, "param has elements of format '>d'"),
    ([three, np.zeros(3, "f4"), three, three], TypeError, "grad has elements of format 'f', expected 'd' as param"),
    ([three, three + 0j, three, three], TypeError, "grad has elements of format 'Zd', expected 'd' as param"),
    ([three, np.zeros(4), three, three], ValueError, "grad has shape (4,), expected (3,) as param"),
    ([three, np.zeros((3, 1)), three, three], ValueError, "grad has shape (3, 1), expected (3,) as param"),
    ([three, np.zeros(6)[::2], three, three], ValueError, "grad is not contiguous in C order, strides (16,)"),
    ([memoryview(bytes(24)).cast("d"), three, three, three], ValueError, "param is read-only, and an update writes to it"),
    ([three, np.ones(3), np.ones(3), memoryview(bytes(24)).cast("d")], ValueError, "exp_avg_sq is read-only"),
    ([three, three, np.ones(3), np.ones(3)], ValueError, "grad and param share memory, which an update must not"),
    (overlapping(), ValueError, "exp_avg_sq and exp_avg share memory"),
    ([three, unaligned(3), np.ones(3), np.ones(3)], ValueError, "grad is not aligned: it begins at address"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("buffers", "error", "message"), CASES, ids=[case[2][:40] for case in CASES]
)
def test_what_does_not_fit_is_refused(buffers: list[Any], error: Any, message: str) -> None:
    kernel = Kernel(cyoptim.Adam)
    kernel.begin()
    before = [bytes(memoryview(b)) if not isinstance(b, (list, type(None))) else b for b in buffers]
    message = message.replace("'l'", f"'{memoryview(np.zeros(1, int)).format}'")
    with pytest.raises(error, match=re.escape(message)):
        kernel.update(*buffers)
    after = [bytes(memoryview(b)) if not isinstance(b, (list, type(None))) else b for b in buffers]
    assert after == before


def test_an_update_before_the_first_step_is_refused() -> None:
    kernel, w = Kernel(cyoptim.SGD), array("d", [1.0])
    with pytest.raises(RuntimeError, match=r"no step has begun: call kernel\.begin\(\)"):
        kernel.update(w, array("d", [1.0]))
    kernel.state = {"step": 5}
    with pytest.raises(RuntimeError, match="no step has begun"):
        kernel.update(w, array("d", [1.0]))
    assert w[0] == 1


def test_no_buffer_stays_taken() -> None:
    kernel, w, g = Kernel(cyoptim.SGD), array("d", [1.0]), array("d", [1.0, 2.0])
    kernel.begin()
    with pytest.raises(ValueError, match="shape"):
        kernel.update(w, g)
    kernel.update(w, array("d", [1.0]))
    w.append(2.0)  # BufferError if its buffer were taken
    g.append(2.0)


def test_tensors_say_what_to_write() -> None:
    torch = pytest.importorskip("torch")
    kernel = Kernel(cyoptim.SGD)
    with pytest.raises(TypeError, match=r"param is a Tensor .*; write tensor.detach\(\).numpy\(\)"):
        kernel.update(torch.ones(2), torch.ones(2))


# --- parameters of optimizers ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["array", "ctypes", "memoryview"])
@pytest.mark.parametrize("code", ["f4", "f8"])
def test_buffers_as_parameters_and_gradients(kind: str, code: str) -> None:
    values = np.linspace(-1, 1, 5).astype(code)
    expected, w = values.copy(), memory_of(kind, values)
    plain, optimizer = cyoptim.AdamW([expected]), cyoptim.AdamW([w])
    for t in range(3):
        grad = np.cos(values + t).astype(code)
        plain.step(grads=[grad])
        optimizer.step(grads=[memory_of(kind, grad)])
    assert np.asarray(w).tobytes() == expected.tobytes()
    assert np.shares_memory(optimizer.param_groups[0]["params"][0], np.asarray(w))


def test_trees_names_groups_and_closures_of_buffers() -> None:
    w, b, late = array("d", [1.0]), memoryview(bytearray(8)).cast("d"), (ctypes.c_double * 1)(3.0)
    optimizer = cyoptim.SGD({"layer": {"w": w, "b": b}}, lr=1.0)
    optimizer.step(grads={"layer": {"w": array("d", [1.0]), "b": array("d", [2.0])}})
    assert (w[0], b[0]) == (0, -2)
    assert optimizer.param_groups[0]["param_names"] == ["layer.w", "layer.b"]
    optimizer = cyoptim.SGD([{"params": w}, {"params": [b], "lr": 2.0}], lr=1.0)
    optimizer.add_param_group({"params": late})
    optimizer.step(lambda: (0.0, [array("d", [1.0])] * 3))
    assert (w[0], b[0], late[0]) == (-1, -4, 2)


def test_shared_memory() -> None:
    shared = SharedMemory(create=True, size=4096)
    try:
        w = shared.buf[:80].cast("d")
        optimizer = cyoptim.SGD([w], lr=1.0)
        optimizer.step(grads=[np.ones(10)])
        other = SharedMemory(shared.name)
        assert other.buf[:80].cast("d").tolist() == [-1.0] * 10
        other.close()
        del optimizer
        w.release()
    finally:
        shared.close()
        shared.unlink()


def test_an_array_cannot_move_under_its_optimizer() -> None:
    w = array("d", [1.0])
    optimizer = cyoptim.SGD([w])
    with pytest.raises(BufferError):
        w.append(2.0)
    del optimizer
    w.append(2.0)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: cyoptim.SGD([bytearray(8)]), TypeError, "parameter 0 of group 0 is a bytearray of bytes, which could be numbers of any type: write memoryview(x).cast('f')"),
        (lambda: cyoptim.SGD([{"params": [memoryview(bytearray(8))]}]), TypeError, "parameter 0 of group 0 is a memoryview of bytes"),
        (lambda: cyoptim.SGD(array("d", [1.0])), TypeError, "put it into a list, SGD([parameter])"),
        (lambda: cyoptim.SGD([array("i", [1])]), TypeError, "parameter 0 of group 0 has dtype int32, expected float32, float64, bfloat16 or float16"),
        (lambda: cyoptim.SGD([memoryview(bytes(8)).cast("d")]), ValueError, "parameter 0 of group 0 is read-only"),
        (lambda: cyoptim.SGD([(w := array("d", [1.0, 2.0])), memoryview(w)[1:]]), ValueError, "share memory"),
        (lambda: cyoptim.SGD([array("d", [1.0])]).step(grads=[array("f", [1.0])]), TypeError, "dtype float32, expected float64"),
        (lambda: cyoptim.SGD([array("d", [1.0])]).step(grads=[array("d", [1.0, 2.0])]), ValueError, "shape"),
        (lambda: cyoptim.SGD([array("d", [1.0])]).step(grads=[bytearray(8)]), TypeError, "a gradient is a bytearray of bytes"),
    ],
)  # fmt: skip
def test_messages(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        make()


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_buffers_in_checkpoints(tmp_path: Any, suffix: str) -> None:
    path, w = tmp_path / f"run{suffix}", array("f", [1.0, 2.0])
    optimizer = cyoptim.Adam({"w": w})
    optimizer.step(grads={"w": array("f", [1.0, 1.0])})
    saved = w.tolist()
    cyoptim.save(path, params={"w": w}, optimizer=optimizer)
    optimizer.step(grads={"w": array("f", [1.0, 1.0])})
    cyoptim.load(path, params={"w": w}, optimizer=optimizer)
    assert w.tolist() == saved
