"""The same parameters through each front door."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine

needs_openmp = pytest.mark.skipif(
    not _engine.openmp(), reason="built without OpenMP: threadpoolctl does not see it"
)


class Box:
    """A stranger's parameter: any object with .data and .grad arrays."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.grad: np.ndarray | None = None


class Door:
    """Wraps arrays, hands gradients over, steps, and reads values back."""

    name = "parameter"

    def wrap(self, array: np.ndarray) -> Any:
        return cyoptim.Parameter(array)

    def read(self, param: Any) -> np.ndarray:
        return np.array(param.data)

    def gradient(self, grad: Any) -> Any:
        return grad

    def step(
        self,
        optimizer: Any,
        params: list[Any],
        grads: list[np.ndarray | None],
        method: str = "step",
    ) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = None if grad is None else self.gradient(grad)
        getattr(optimizer, method)()


class ArrayDoor(Door):
    name = "array"

    def wrap(self, array: np.ndarray) -> Any:
        return array

    def read(self, param: Any) -> np.ndarray:
        return np.array(param)

    def step(
        self,
        optimizer: Any,
        params: list[Any],
        grads: list[np.ndarray | None],
        method: str = "step",
    ) -> None:
        getattr(optimizer, method)(grads=grads)


class ObjectDoor(Door):
    name = "object"

    def wrap(self, array: np.ndarray) -> Any:
        return Box(array)


class TensorDoor(Door):
    name = "tensor"

    def wrap(self, array: np.ndarray) -> Any:
        import torch

        return torch.from_numpy(array).requires_grad_()

    def read(self, param: Any) -> np.ndarray:
        return np.array(param.detach().numpy())

    def gradient(self, grad: Any) -> Any:
        import torch

        if not isinstance(grad, tuple):
            return torch.from_numpy(np.array(grad))
        rows, values = grad
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse invariant checks")  # said once in a process
            return torch.sparse_coo_tensor(rows[None], torch.from_numpy(values), values.shape)


NUMPY_DOORS = (Door(), ArrayDoor(), ObjectDoor())
ALL_DOORS = (*NUMPY_DOORS, TensorDoor())


def trajectory_inputs(
    shapes: list[tuple[int, ...]], dtype: Any, steps: int, seed: int, missing: float = 0.25
) -> tuple[list[np.ndarray], list[list[np.ndarray | None]]]:
    """Starting values and, for each step, gradients, some of which are missing."""
    rng = np.random.default_rng(seed)
    start = [np.asarray(rng.standard_normal(shape), dtype=dtype) for shape in shapes]
    grads: list[list[np.ndarray | None]] = [
        [
            None if rng.random() < missing else np.asarray(rng.standard_normal(shape), dtype=dtype)
            for shape in shapes
        ]
        for _ in range(steps)
    ]
    return start, grads


def run(
    cls: Any,
    options: dict[str, Any],
    door: Door,
    start: list[np.ndarray],
    grads: list[list[np.ndarray | None]],
) -> list[np.ndarray]:
    """Where the parameters are after these gradients."""
    params = [door.wrap(array.copy(order="K")) for array in start]
    optimizer = cls(params, **options)
    for step_grads in grads:
        door.step(optimizer, params, step_grads)
    return [door.read(param) for param in params]
