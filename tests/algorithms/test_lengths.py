"""Rules that take sums over a parameter: lengths of zero, and parameters of more than one chunk."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.cards import (
    ADAPTIVE,
    CLOSURE,
    ELEMENT_WISE,
    JOINED,
    NATIVE,
    Card,
    Options,
    takes,
)
from tests.support.dtypes import tolerance
from tests.support.parametrize import every_card, every_real, every_variant

SIZES = (1, 15, 512, 4095, 4097, 16_384, 16_385, 50_001)


@every_real
@every_variant(NATIVE, ~ELEMENT_WISE, ~CLOSURE)
def test_lengths_of_zero(card: Card, options: Options, dtype: Any) -> None:
    zero, some = np.zeros((2, 3), dtype), np.full((2, 3), 0.5, dtype)
    for start, grad in ((zero, some), (some, zero), (zero, zero)):
        w, empty = start.copy(), np.ones((0, 3), dtype)
        optimizer = card.cls([w, empty], **options)
        for k in range(20):
            optimizer.step(grads=[grad if k < 10 else zero, empty.copy()])
            assert np.isfinite(w).all()
        if start is zero and grad is zero:
            assert not w.any()


@every_real
@pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-8])
@every_card(NATIVE, ~ELEMENT_WISE, ~CLOSURE, takes("eps"))
def test_lengths_that_fall_to_zero(card: Card, eps: float, dtype: Any) -> None:
    # What averages hold goes to zero, and below the smallest number on its way.
    w, grad = np.ones((2, 3), dtype), np.full((2, 3), 0.5, dtype)
    optimizer = card.cls([w], lr=0.01, eps=eps, **card.only(betas=(0.5, 0.5)))
    for _ in range(400):
        optimizer.step(grads=[grad])
        grad = (grad * dtype(0.3)).astype(dtype)
        assert np.isfinite(w).all()
    assert np.abs(w).max() < 10


@every_card(NATIVE, ~ELEMENT_WISE, ~CLOSURE, ~ADAPTIVE, takes("weight_decay"))
def test_decay_needs_no_gradient(card: Card) -> None:
    w = np.ones((2, 3))
    optimizer = card.cls([w], lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.step(grads=[np.zeros((2, 3))])
    assert (np.abs(w) < 1).all()


@every_real
@every_variant(NATIVE, ~ELEMENT_WISE, ~CLOSURE)
@pytest.mark.parametrize("clips", [False, True])
def test_parameters_of_any_number_of_chunks(
    card: Card, options: Options, dtype: Any, clips: bool
) -> None:
    rng = np.random.default_rng(1)
    starts = [rng.standard_normal(size).astype(dtype) for size in SIZES]
    found, expected = [p.copy() for p in starts], [p.astype(np.float64) for p in starts]
    optimizer, reference = card.cls(found, **options), card.reference_for(options, dtype)
    for _ in range(3):
        grads = [rng.standard_normal(size).astype(dtype) for size in SIZES]
        optimizer.step(grads=grads, max_norm=1.0 if clips else None)
        grads = [g.astype(np.float64) for g in grads]
        norm = np.sqrt(sum(np.sum(g * g) for g in grads))
        if clips:
            grads = [g / (norm + 1e-6) for g in grads]
        reference.step(expected, grads)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(dtype) * max(1, np.abs(b).max()))


@every_card(NATIVE, ~ELEMENT_WISE, ~CLOSURE, ~JOINED)
def test_a_late_parameter_is_of_its_own_age(card: Card) -> None:
    first, second, alone = (np.linspace(1, 2, 6) for _ in range(3))
    optimizer, fresh = card.cls([first, second], lr=0.01), card.cls([alone], lr=0.01)
    grad = np.linspace(-1, 1, 6)
    for _ in range(50):
        optimizer.step(grads=[grad, None])
    for _ in range(3):
        optimizer.step(grads=[grad, grad])
        fresh.step(grads=[grad])
    assert second.tobytes() == alone.tobytes()
