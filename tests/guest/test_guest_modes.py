"""A good guest: the caller's rounding and flushing change no bits, whatever a step computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CLOSURE, ELEMENT_WISE, SAME_BITS, Card, Options
from tests.support.fp_modes import MODES, Mode, needs_modes
from tests.support.guest_runs import bits
from tests.support.parametrize import every_real, every_variant

pytestmark = needs_modes

STEPS = 6
Step = Callable[[Any, np.ndarray], Any]


def gradients(shape: tuple[int, ...], dtype: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [rng.standard_normal(shape).astype(dtype) for _ in range(STEPS)]


def plainly(optimizer: Any, grad: np.ndarray) -> Any:
    return optimizer.step(grads=[grad])


def after_a_run(
    make: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any, mode: Mode, step: Step
) -> bytes:
    w = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape).astype(dtype)
    with mode:
        optimizer = make([w])
    for grad in gradients(shape, dtype):
        with mode:
            step(optimizer, grad)
            assert mode.holds()
    return bits(optimizer)


def same_in_every_mode(
    make: Callable[[Any], Any], dtype: Any, shape: tuple[int, ...] = (37,), step: Step = plainly
) -> None:
    expected = after_a_run(make, shape, dtype, MODES["nearest"], step)
    for name, mode in MODES.items():
        assert after_a_run(make, shape, dtype, mode, step) == expected, name


# Muon's products are NumPy's, and L-BFGS's numbers between the loops are Python's.
@every_real
@every_variant(SAME_BITS, ~CLOSURE)
def test_every_option(card: Card, options: Options, dtype: Any) -> None:
    def step(optimizer: Any, grad: np.ndarray) -> Any:
        return optimizer.step(grads=[card.form(grad)])

    for shape in ((37,),) if ELEMENT_WISE(card) else ((37,), (9, 7)):
        same_in_every_mode(lambda params: card.cls(params, **options), dtype, shape, step)


@every_real
def test_sparse_gradients(dtype: Any) -> None:
    rows = np.arange(0, 37, 3)

    def step(optimizer: Any, grad: np.ndarray) -> Any:
        return optimizer.step(grads=[(rows, grad[rows])])

    same_in_every_mode(cyoptim.SparseAdam, dtype, step=step)


@every_real
@pytest.mark.parametrize("options", [{"max_norm": 0.3}, {"grad_scale": 3.0}], ids=str)
def test_fused_steps(dtype: Any, options: dict[str, Any]) -> None:
    def step(optimizer: Any, grad: np.ndarray) -> Any:
        return optimizer.step(grads=[grad], **options)

    # More than one chunk, whose sums are added up.
    same_in_every_mode(cyoptim.AdamW, dtype, (40_000,), step)


@every_real
@pytest.mark.parametrize("order", [0.5, 1, 2, 3, np.inf])
def test_norms(dtype: Any, order: float) -> None:
    grads = gradients((40_000,), dtype)
    expected = float(cyoptim.get_total_norm(grads, order))
    for name, mode in MODES.items():
        with mode:
            found = cyoptim.get_total_norm(grads, order)
        assert float(found) == expected, name
