"""zero_grad, over every kind of parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.doors import Box


@pytest.mark.parametrize("make", [cyoptim.Parameter, Box])
def test_zero_grad(make: Any) -> None:
    w = make(np.zeros(3))
    optimizer = cyoptim.SGD([w])
    grad = np.ones(3)
    w.grad = grad
    optimizer.zero_grad(set_to_none=False)
    assert w.grad is grad
    np.testing.assert_array_equal(grad, np.zeros(3))
    optimizer.zero_grad()
    assert w.grad is None
    optimizer.zero_grad()


def test_zero_grad_where_the_gradient_cannot_be_written() -> None:
    class Tensor:  # MyGrad's
        def __init__(self) -> None:
            self.data, self._grad = np.zeros(3), np.ones(3)

        @property
        def grad(self) -> np.ndarray | None:
            return self._grad

        def null_grad(self) -> None:
            self._grad = None

    w = Tensor()
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.step()
    optimizer.zero_grad()
    assert w.grad is None
    assert (w.data == -1).all()


def test_zero_grad_of_plain_arrays_is_nothing() -> None:
    cyoptim.SGD([np.zeros(3)]).zero_grad()
