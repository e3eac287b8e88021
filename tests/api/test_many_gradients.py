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
    turned = torch.tensor([[1 + 2j, 3 - 1j], [2 + 1j, 4j], [5j, 6 + 1j]]).conj()
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
        turned[0],
        turned[1].imag,
        turned[2, :1].imag,
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
    make = KINDS[kind]

    def clip(params: list[Any], grads: list[Any]) -> None:
        cyoptim.clip_grad_norm_(params, 0.25, grads=grads)

    before = _clipped(make, lambda params, grads: None)
    at_once = _clipped(make, clip)
    _in_detail(monkeypatch)
    for old, new, expected in zip(before, at_once, _clipped(make, clip), strict=True):
        if old is not None:
            assert_array_equal(new, expected)
            assert old.size == 0 or not old.any() or (new != old).any()


@pytest.mark.parametrize("call", ["clip_grad_norm_", "clip_grad_value_"])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("turn", ["conjugate", "imaginary part of a conjugate", "negative"])
def test_gradients_that_torch_turns_when_they_are_read_are_clipped(
    turn: str, size: int, call: str
) -> None:
    torch = pytest.importorskip("torch")

    def made() -> Any:
        stored = torch.tensor([3 + 4j, -2 + 1j, 5 + 6j][-size:], dtype=torch.complex128)
        if turn == "conjugate":
            return stored.conj()
        return stored.conj().imag if turn != "negative" else torch._neg_view(stored.real.clone())

    grad, expected = made(), made()
    assert grad.is_conj() or grad.is_neg()
    param, other = (torch.nn.Parameter(torch.zeros_like(grad)) for _ in range(2))
    param.grad, other.grad = grad, expected
    if turn == "conjugate" and call == "clip_grad_value_":
        with pytest.raises(TypeError, match="complex"):
            cyoptim.clip_grad_value_([param], 0.5)
        return
    norm = getattr(cyoptim, call)([param], 0.5)
    torch_norm = getattr(torch.nn.utils, call)([other], 0.5, foreach=False)
    torch.testing.assert_close(grad, expected, rtol=1e-14, atol=0)
    assert (grad != made()).any()
    if norm is not None:
        torch.testing.assert_close(norm, torch_norm, rtol=1e-14, atol=0)


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
        torch._neg_view(torch.ones(3)),
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
