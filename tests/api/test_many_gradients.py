"""Clipping reads plain arrays and tensors at once, and looks at every other in detail: with the same result."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import cyoptim
import cyoptim.clip
from cyoptim import _engine


def _gradients_of_numpy() -> list[Any]:
    wide = np.arange(24, dtype=np.float32).reshape(4, 6)
    shared = np.array([3.0, -4.0])
    return [
        wide.copy(),
        wide[:, ::2],
        wide.T.copy(order="F"),
        wide[::-1],
        np.float64([1.5]),
        np.array(2.5, np.float32),
        np.empty((0, 3), np.float32),
        None,
        shared,
        shared,
        np.array([1 + 2j, -3j]),
        np.array([0.5, 7.0], np.float16),
        np.frombuffer(b"\0" + np.float32([5, 6]).tobytes(), np.uint8)[1:].view(np.float32).copy(),
        np.zeros(9, np.uint8)[1:].view(np.float32),
    ]


def _gradients_of_torch() -> list[Any]:
    torch = pytest.importorskip("torch")
    wide = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    turned = torch.tensor([1 + 2j, 3 - 1j]).conj()
    return [
        wide.clone(),
        wide[:, ::2],
        wide.t(),
        torch.tensor(2.5),
        torch.tensor([1.5], dtype=torch.float64),
        torch.empty(0, 3),
        None,
        torch.nn.Parameter(torch.ones(3)),
        torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
        torch.tensor([0.5, 3.0], dtype=torch.float16),
        torch.tensor([1 + 2j]),
        turned,
        turned.imag,
        turned[:1].imag,
        torch.from_numpy(np.float32([4.0, 5.0])),
    ]


KINDS: dict[str, Callable[[], list[Any]]] = {
    "numpy": _gradients_of_numpy,
    "torch": _gradients_of_torch,
    "both": lambda: [*_gradients_of_torch(), *_gradients_of_numpy()],
}


def _in_detail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cyoptim.clip, "ordinary_arrays", lambda values: [None] * len(values))


@pytest.mark.parametrize("order", [2.0, 1.0, np.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_the_same(kind: str, order: float, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [grad for grad in KINDS[kind]() if grad is not None]
    at_once = cyoptim.get_total_norm(found, order)
    _in_detail(monkeypatch)
    in_detail = cyoptim.get_total_norm(found, order)
    assert type(at_once) is type(in_detail)
    assert at_once.dtype == in_detail.dtype
    assert float(at_once) == float(in_detail) > 0


def _clipped(make: Callable[[], list[Any]], call: Callable[..., Any]) -> list[Any]:
    grads = make()
    call([np.zeros(1) for _ in grads], grads)
    return [None if g is None else np.array(cyoptim.clip._view(g, "")) for g in grads]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_scaled_gradients_are_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> list[Any]:
        # What is read as a copy cannot be written.
        return [g for g in KINDS[kind]() if g is None or not _is_turned(g)]

    def clip(params: list[Any], grads: list[Any]) -> None:
        cyoptim.clip_grad_norm_(params, 0.25, grads=grads)

    before = _clipped(make, lambda params, grads: None)
    at_once = _clipped(make, clip)
    _in_detail(monkeypatch)
    for old, new, expected in zip(before, at_once, _clipped(make, clip), strict=True):
        if old is not None:
            assert_array_equal(new, expected)
            assert old.size == 0 or not old.any() or (new != old).any()


def _is_turned(grad: Any) -> bool:
    return not isinstance(grad, np.ndarray) and (grad.is_conj() or grad.is_neg())


@pytest.mark.parametrize("kind", KINDS)
def test_an_array_read_at_once_is_the_memory_itself(kind: str) -> None:
    found = KINDS[kind]()
    arrays = _engine.ordinary_arrays(found)
    assert len(arrays) == len(found)
    assert sum(array is not None for array in arrays) >= 4
    for value, array in zip(found, arrays, strict=True):
        if array is None:
            continue
        expected = cyoptim.clip._view(value, "")
        assert array.dtype == expected.dtype
        assert array.shape == expected.shape
        assert array.size == 0 or array.ctypes.data == expected.ctypes.data
        assert_array_equal(array, expected)


def test_an_array_keeps_its_tensor() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.arange(1000, dtype=torch.float64)
    before = sys.getrefcount(tensor)
    (array,) = _engine.ordinary_arrays([tensor])
    assert array is not None
    assert sys.getrefcount(tensor) == before + 1
    array[0] = 7
    assert tensor[0] == 7
    del tensor
    assert array.sum() == 7 + 999 * 500


def test_what_is_not_ordinary_is_left_to_a_closer_look() -> None:
    odd = [
        None,
        3.0,
        "text",
        [1.0],
        np.float32(1),
        np.zeros(3, ">f4"),
        np.zeros(3, int),
        np.ma.masked_array([1.0]),
        np.ones(2).view(np.recarray),
        np.zeros(9, np.uint8)[1:].view(np.float64),
    ]
    assert _engine.ordinary_arrays(odd) == [None] * len(odd)


def test_odd_tensors_are_left_to_a_closer_look() -> None:
    torch = pytest.importorskip("torch")
    turned = torch.tensor([1 + 2j, 3 - 1j]).conj()
    odd = [
        torch.tensor([1, 2]),
        torch.ones(2, dtype=torch.complex64),
        turned,
        turned.imag,
        turned[:1].imag,
        torch.ones(3, device="meta"),
        torch.ones(3, 3).to_sparse(),
        torch.ones(4, 4)[:, ::2],
    ]
    assert _engine.ordinary_arrays(odd) == [None] * len(odd)


def test_errors_still_name_the_gradient() -> None:
    good, frozen = np.ones(2, np.float32), np.ones(2, np.float32)
    frozen.flags.writeable = False
    params = [np.zeros(2, np.float32)] * 2
    with pytest.raises(ValueError, match="gradient of parameter 1 is read-only"):
        cyoptim.clip_grad_norm_(params, 1.0, grads=[good, frozen])
    with pytest.raises(TypeError, match="gradient of parameter 1 has dtype int64"):
        cyoptim.clip_grad_norm_(params, 1.0, grads=[good, np.array([1, 2])])
    assert_array_equal(good, 1)


@pytest.mark.parametrize("shared", [True, False])
def test_a_shared_gradient_is_scaled_once(shared: bool) -> None:
    first = np.array([3.0, 4.0])
    second = first if shared else first.copy()
    cyoptim.clip_grad_norm_([np.zeros(2)] * 2, 1.0, grads=[first, second])
    assert_array_equal(first, second)
    assert np.linalg.norm(first) == pytest.approx(1 / np.sqrt(2), rel=1e-5)
