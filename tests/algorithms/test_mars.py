"""MARS: the gradient before, its options for parameters that are no matrices, and its sections of a group."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers.mars import MARS as Reference

SHAPES = ((3, 4), (5,), (4, 2), (2, 3, 2), (), (2, 2))


def drawn(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in SHAPES]


def stepped(optimizer: Any, steps: int = 5) -> None:
    for step in range(steps):
        optimizer.step(grads=drawn(step + 1))


@pytest.mark.parametrize("kind", ["mars-adamw", "mars-lion"])
def test_gradients_in_one_buffer_are_as_those_of_their_own(kind: str) -> None:
    # The gradient before is a copy: the difference of two must not vanish.
    fresh, reused = np.ones((3, 4)), np.ones((3, 4))
    one, other = (cyoptim.MARS([w], lr=0.01, gamma=0.3, mars_type=kind) for w in (fresh, reused))
    buffer = np.empty((3, 4))
    for step in range(5):
        grad = np.random.default_rng(step).standard_normal((3, 4))
        buffer[...] = grad
        one.step(grads=[grad])
        other.step(grads=[buffer])
        np.testing.assert_array_equal(other.state[reused]["last_grad"], grad)
    assert fresh.tobytes() == reused.tobytes()
    plain = np.ones((3, 4))
    without = cyoptim.MARS([plain], lr=0.01, gamma=0.0, mars_type=kind)
    for step in range(5):
        without.step(grads=[np.random.default_rng(step).standard_normal((3, 4))])
    assert not np.array_equal(plain, fresh)


@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_what_is_no_matrix_is_stepped_by_adamw(amsgrad: bool, caution: bool) -> None:
    options = {"lr": 3e-3, "amsgrad": amsgrad, "caution": caution}
    mixed, alone = drawn(0), drawn(0)
    stepped(cyoptim.MARS(mixed, **options))
    matrices = [p for p in alone if p.ndim == 2]
    others = [p for p in alone if p.ndim != 2]
    mars = cyoptim.MARS(matrices, **options)
    adamw = cyoptim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.1, **options)
    for step in range(5):
        grads = drawn(step + 1)
        mars.step(grads=[g for g in grads if g.ndim == 2])
        adamw.step(grads=[g for g in grads if g.ndim != 2])
    for a, b in zip(mixed, alone, strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_vector_of_scipy_is_a_matter_of_optimize_1d() -> None:
    one, other = np.ones(4), np.ones((1, 4))
    for w in (one, other):
        optimizer = cyoptim.MARS([w], optimize_1d=True)
        for _ in range(3):
            optimizer.step(grads=[2 * w])
    assert one.tobytes() == other.tobytes()


def test_schedules_move_both_rates() -> None:
    params, expected = drawn(0), drawn(0)
    optimizer = cyoptim.MARS(params, lr=0.01, lr_1d=0.005)
    reference = Reference(lr=0.01, lr_1d=0.005)
    for step, lr in enumerate((0.01, 0.02, 0.0, 0.005)):
        optimizer.param_groups[0]["lr"] = reference.lr = lr
        optimizer.step(grads=drawn(step + 1))
        reference.step(expected, drawn(step + 1))
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_options_change_between_steps() -> None:
    params, expected = drawn(0), drawn(0)
    optimizer, reference = cyoptim.MARS(params, lr=0.01), Reference(lr=0.01)
    changes: list[tuple[str, Any]] = [
        ("optimize_1d", True), ("mars_type", "mars-lion"), ("optimize_1d", False),
        ("mars_type", "mars-adamw"), ("weight_decay_1d", 0.5), ("gamma", 0.2),
    ]  # fmt: skip
    for step, (name, value) in enumerate(changes):
        # What a rule does not use stays as it was, here; the reference fills it with zeros.
        reference.last = {
            i: optimizer.state[p]["last_grad"].copy() for i, p in enumerate(params) if step
        }
        reference.v = {
            i: optimizer.state[p]["exp_avg_sq"].copy() for i, p in enumerate(params) if step
        }
        optimizer.param_groups[0][name] = value
        setattr(reference, name, value)
        optimizer.step(grads=drawn(step + 1))
        reference.step(expected, drawn(step + 1))
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_the_exact_form_by_the_gradient_before() -> None:
    # c = g + gamma beta1 / (1 - beta1) (g - g at the former parameters, of this batch).
    w, expected = np.full((2, 2), 2.0), np.full((2, 2), 2.0)
    optimizer = cyoptim.MARS([w], lr=0.01, gamma=0.5)
    reference = Reference(lr=0.01, gamma=0.5)
    batches = [np.random.default_rng(k).uniform(0.01, 0.1, (2, 2)) for k in range(5)]
    former = None
    for batch in batches:
        if former is not None:
            optimizer.state[w]["last_grad"][...] = batch * former
            reference.last[0] = batch * former
        former = w.copy()
        optimizer.step(grads=[batch * w])
        reference.step([expected], [batch * expected])
    np.testing.assert_allclose(w, expected, rtol=0, atol=1e-12)


def test_a_state_of_the_authors_class() -> None:
    params, again = drawn(0), drawn(0)
    optimizer, other = cyoptim.MARS(params, lr=0.01), cyoptim.MARS(again, lr=0.01)
    stepped(optimizer)
    for a, b in zip(params, again, strict=True):
        b[...] = a
    saved = optimizer.state_dict()
    theirs = ("lr", "betas", "eps", "weight_decay", "amsgrad", "mars_type", "gamma")
    theirs += ("optimize_1d", "weight_decay_1d", "params")
    groups = [{n: v for n, v in group.items() if n in theirs} for group in saved["param_groups"]]
    state = {k: {**v, "step": int(v["step"])} for k, v in saved["state"].items()}
    other.load_state_dict({"state": state, "param_groups": groups})
    stepped(optimizer, 2)
    stepped(other, 2)
    for a, b in zip(params, again, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("shape", [(2, 3), (3,)])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("mars_type", "mars-shampoo", "Muon has steps by orthogonal matrices"),
        ("mars_type", "mars_lion", "Invalid mars_type value: 'mars_lion' .expected 'mars-adamw'"),
        ("mars_type", None, "Invalid mars_type value: None"),
        ("mars_type", np.array([1.0, 2.0]), "Invalid mars_type value: array"),
        ("is_approx", False, "is_approx=False is not supported: write the coming batch's"),
        ("is_approx", "no", "is_approx must be True or False, got str: 'no'"),
    ],
)
def test_a_step_that_there_is_not_written_later(
    shape: tuple[int, ...], option: str, value: Any, message: str
) -> None:
    w = np.ones(shape)
    optimizer = cyoptim.MARS([w])
    optimizer.step(grads=[np.ones(shape)])
    before = w.copy(), repr(optimizer.state_dict())
    known = optimizer.param_groups[0][option]
    optimizer.param_groups[0][option] = value
    with pytest.raises((TypeError, ValueError), match=f"options of param group 0: .*{message}"):
        optimizer.step(grads=[np.ones(shape)])
    optimizer.param_groups[0][option] = known
    np.testing.assert_array_equal(w, before[0])
    assert repr(optimizer.state_dict()) == before[1]
