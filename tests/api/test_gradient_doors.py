"""A gradient of another dtype is refused at every door, with the line that converts it.

A conversion would copy at every step, and would hide that float64 parameters follow float32
gradients: it is the caller's to ask for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.doors import Box

Grad = Callable[[Any], np.ndarray]


class Custom(cyoptim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        param -= grad


def own(param: Any, grad: Any) -> None:
    param.grad = grad
    cyoptim.SGD([param]).step()


def of_tensors(w: np.ndarray, grad: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    as_tensor = torch.from_numpy if grad.dtype.kind == "f" else np.asarray
    cyoptim.SGD([torch.from_numpy(w)]).step(grads=[as_tensor(grad)])


DOORS: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "list": lambda w, g: cyoptim.SGD([w]).step(grads=[g]),
    "names": lambda w, g: cyoptim.SGD({"w": w}).step(grads={"w": g}),
    "tree": lambda w, g: cyoptim.Adam({"net": [w]}).step(grads={"net": [g]}),
    "fused": lambda w, g: cyoptim.Adam([w]).step(grads=[g], max_norm=1.0),
    "Parameter": lambda w, g: own(cyoptim.Parameter(w), g),
    "object": lambda w, g: own(Box(w), g),
    "tensors": of_tensors,
    "accumulate": lambda w, g: cyoptim.SGD([w]).accumulate([g]),
    "closure": lambda w, g: cyoptim.SGD([w]).step(lambda: (1.0, [g])),
    "LBFGS": lambda w, g: cyoptim.LBFGS([w]).step(lambda: (1.0, [g])),
    "update": lambda w, g: Custom([w]).step(grads=[g]),
    "Muon": lambda w, g: cyoptim.Muon([w]).step(grads=[g]),
    "Adafactor": lambda w, g: cyoptim.Adafactor([w]).step(grads=[g]),
    "rows": lambda w, g: cyoptim.SGD([w]).step(grads=[(np.array([0]), g[:1])]),
    "SparseAdam": lambda w, g: cyoptim.SparseAdam([w]).step(grads=[(np.array([0]), g[:1])]),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("dtype", "other"), [(np.float64, np.float32), (np.float32, np.float64), (np.float32, np.int64)]
)
def test_another_dtype_is_refused_everywhere(door: str, dtype: Any, other: Any) -> None:
    w = np.ones((2, 2), dtype)
    taken = {np.float32: "float32, bfloat16 or float16", np.float64: "float64"}[dtype]
    with pytest.raises(TypeError) as raised:
        DOORS[door](w, np.ones((2, 2), other))
    message = str(raised.value)
    found = np.dtype(other).name
    assert f"has dtype {found}, expected {taken}: write np.asarray(" in message
    assert f", np.{np.dtype(dtype)})" in message
    assert ("make the parameter" in message) == (found != "int64")
    np.testing.assert_array_equal(w, 1)


@pytest.mark.parametrize("door", DOORS)
def test_what_the_message_says_to_write(door: str) -> None:
    w, grad = np.ones((2, 2)), np.ones((2, 2), np.float32)
    DOORS[door](w, np.asarray(grad, np.float64))
    single = np.ones((2, 2), np.float32)  # or the parameter in the gradient's precision
    DOORS[door](single, grad)


@pytest.mark.parametrize("door", DOORS)
def test_float16_is_taken_by_float32(door: str) -> None:
    params, grad = np.ones((2, 2, 2), np.float32), np.array([[1.0, -2.0], [0.1, 3.0]], np.float16)
    for w, given in zip(params, (grad, grad.astype(np.float32)), strict=True):
        DOORS[door](w, given)
    np.testing.assert_array_equal(*params)
    assert door == "accumulate" or (params[0] != 1).any()


def test_a_real_parameter_refuses_complex_gradients() -> None:
    w = np.ones(2)
    with pytest.raises(TypeError, match="write grad.real, or make the parameter complex"):
        cyoptim.SGD([w]).step(grads=[np.ones(2, complex)])
    np.testing.assert_array_equal(w, 1)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((3, 2), "write grad.T"),
        ((6,), "write grad.reshape((2, 3))"),
        ((2, 3, 1), "write grad.reshape((2, 3))"),
        ((4,), "grads are in the order of the parameters"),
    ],
)
def test_another_shape_says_what_to_write(shape: tuple[int, ...], hint: str) -> None:
    w = np.ones((2, 3))
    with pytest.raises(ValueError, match="gradient of parameter 0") as raised:
        cyoptim.SGD([w]).step(grads=[np.ones(shape)])
    assert str(raised.value).endswith(f"expected (2, 3): {hint}")
    np.testing.assert_array_equal(w, 1)
