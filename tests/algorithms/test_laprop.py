"""LaProp: its rate is within its momentum, also where a schedule changes it; carried numbers of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.kernel import Kernel
from tests.optimizers import BY_NAME
from tests.support.dtypes import assert_close
from tests.support.parametrize import every_real

RATES = [0.0, 0.01, 0.02, 0.02, 0.0, 0.005, 1e-4, 0.0, 0.03]


@every_real
def test_a_rate_that_changes(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal(20).astype(dtype)
    r = w.astype(np.float64)
    optimizer = cyoptim.LaProp([w], weight_decay=0.1)
    reference = BY_NAME["LaProp"].reference(weight_decay=0.1)
    for rate in RATES:
        optimizer.param_groups[0]["lr"] = reference.lr = rate
        grad = rng.standard_normal(20).astype(dtype)
        optimizer.step(grads=[grad])
        reference.step([r], [grad.astype(np.float64)])
    assert_close([w], [r], dtype)
    np.testing.assert_allclose(optimizer.state[w]["exp_avg_lr_1"], reference.c1[0], rtol=1e-14)


def test_a_parameter_that_joins_late_has_its_own_correction() -> None:
    grads = np.random.default_rng(1).standard_normal((10, 6))
    first, late, alone = (np.ones(6) for _ in range(3))
    optimizer = cyoptim.LaProp([first, late], lr=0.1)
    other = cyoptim.LaProp([alone], lr=0.1)
    for step, grad in enumerate(grads):
        optimizer.step(grads=[grad, grad if step >= 6 else None])
        if step >= 6:
            other.step(grads=[grad])
    np.testing.assert_array_equal(late, alone)


def test_carried_numbers_keep_all_bits() -> None:
    w = np.ones(3)
    optimizer = cyoptim.LaProp([w], lr=0.1)
    for _ in range(3):
        optimizer.step(grads=[np.ones(3)])
    number = optimizer.state[w]["exp_avg_lr_1"]
    assert number.dtype == np.float64
    assert float(np.float32(number)) != float(number)
    kernel = Kernel(cyoptim.LaProp, lr=0.1)
    kernel.state = {"step": 3, "exp_avg_lr_1": float(number), "exp_avg_lr_2": 0.1}
    assert kernel.state == {"step": 3, "exp_avg_lr_1": float(number), "exp_avg_lr_2": 0.1}
    kernel = Kernel(cyoptim.NAdam)
    kernel.state = {"step": 3, "mu_product": 0.1}
    assert kernel.state["mu_product"] == np.float32(0.1)


def test_an_option_of_the_package_is_refused() -> None:
    optimizer = cyoptim.LaProp([np.ones(3)])
    saved = optimizer.state_dict()
    saved["param_groups"][0].update(caution=False, corrected_weight_decay=False)
    optimizer.load_state_dict(saved)
    saved["param_groups"][0]["corrected_weight_decay"] = True
    with pytest.raises(ValueError, match="corrected_weight_decay=True is not supported"):
        optimizer.load_state_dict(saved)
