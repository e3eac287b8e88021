"""New state that does not begin with zeros, written by the threads that step it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.dtypes import REALS

LARGE, SMALL = 300_007, 1000  # elements: over the least size of a shared fill, and far below it

pytestmark = pytest.mark.usefixtures("many_threads")


@pytest.mark.parametrize("dtype", [*REALS, np.complex64])
@pytest.mark.parametrize(
    ("cls", "options", "name", "value"),
    [
        (cyoptim.Adagrad, {"initial_accumulator_value": 0.1}, "sum", 0.1),
        (cyoptim.Rprop, {"lr": 0.1}, "step_size", 0.1),
    ],
)
def test_large_state_begins_as_small_state(
    cls: Any, options: dict[str, float], name: str, value: float, dtype: Any
) -> None:
    params = [np.ones(n, dtype) for n in (SMALL, LARGE, SMALL, LARGE)]
    optimizer = cls(params, **options)
    zeros = [np.zeros_like(p) for p in params]
    optimizer.step(grads=zeros)  # which changes neither of these states
    real = np.zeros(0, dtype).real.dtype.type
    for entry in optimizer.state_dict()["state"].values():
        state = entry[name]
        parts = (state.real, state.imag) if np.iscomplexobj(state) else (state,)
        for part in parts:
            np.testing.assert_array_equal(part, np.full(part.shape, real(value)))
