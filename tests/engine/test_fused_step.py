"""A step that also unscales, clips, looks for NaN and zeroes: equal to the separate calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from tests.support.cards import CLOSURE, DENSE, ELEMENT_WISE, NATIVE, Card, Options
from tests.support.doors import Box, Door, trajectory_inputs
from tests.support.dtypes import REALS, rounding_tolerance
from tests.support.parametrize import every_card, every_door, every_real, every_variant
from tests.support.runs import bowl

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (17, 33)]


def separately(
    optimizer: Any, params: list[Any], door: Door, step: list[Any], max_norm: float, scale: float
) -> float:
    """Unscale, clip and step in calls of their own; the norm."""
    grads = [None if g is None else (g / g.dtype.type(scale)) for g in step]
    copies = [np.array(g) for g in grads if g is not None]
    norm = cyoptim.clip_grad_norm_(copies, max_norm, grads=copies)
    clipped = iter(copies)
    door.step(optimizer, params, [None if g is None else next(clipped) for g in grads])
    return float(norm)


def together(
    optimizer: Any, params: list[Any], door: Door, step: list[Any], **options: Any
) -> list[Any]:
    """One fused step; the gradients as the step left them."""
    given = [None if g is None else door.gradient(g.copy()) for g in step]
    if door.name == "array":
        optimizer.step(grads=given, **options)
        return given
    for param, grad in zip(params, given, strict=True):
        param.grad = grad
    optimizer.step(**options)
    return given


# A closure's step takes gradients at several points, of which none is clipped.
@every_door
@every_real
@every_variant(DENSE, ~CLOSURE)
def test_equals_separate_calls(card: Card, options: Options, dtype: Any, door: Door) -> None:
    # Without an axis only where a rule steps: see test_a_scalar_that_python_updates.
    shapes = [shape for shape in card.shapes(SHAPES) if shape or NATIVE(card)]
    start, grads = trajectory_inputs(shapes, dtype, 20, seed=1)
    found, expected = ([door.wrap(a.copy()) for a in start] for _ in range(2))
    fused, plain = card.cls(found, **options), card.cls(expected, **options)
    for number, step in enumerate(grads):
        max_norm, scale = (0.5, 4.0) if number % 2 else (1e6, 0.5)
        norm = separately(plain, expected, door, step, max_norm, scale)
        left = together(
            fused, found, door, step, max_norm=max_norm, grad_scale=scale, zero_grad=True
        )
        assert all((np.asarray(g) == 0).all() for g in left if g is not None)
        receipt = fused.last_step
        assert receipt is not None
        np.testing.assert_allclose(receipt.total_norm, norm, rtol=1e-6)
        assert (receipt.clip_coefficient < 1) == (norm > max_norm)
        assert not receipt.skipped
        assert receipt.nonfinite == ()
    close = rounding_tolerance(dtype) * (1 if ELEMENT_WISE(card) else 10)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(door.read(a), door.read(b), rtol=close, atol=close)


class Updated(cyoptim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        assert isinstance(grad, np.ndarray)
        param -= grad


@pytest.mark.parametrize("cls", [cyoptim.Adafactor, Updated])
def test_a_scalar_that_python_updates(cls: Any) -> None:
    fused, plain = np.array(1.0), np.array(1.0)
    cls([fused]).step(grads=[np.array(4.0)], grad_scale=2.0)
    cls([plain]).step(grads=[np.array(2.0)])
    assert fused == plain


@every_card(CLOSURE)
def test_what_a_closures_step_cannot_do_is_refused(card: Card) -> None:
    w = cyoptim.Parameter(np.ones(2))
    optimizer = card.cls([w])
    for extra in ({"max_norm": 1.0}, {"grad_scale": 2.0}, {"nonfinite": "skip"}):
        with pytest.raises(TypeError):
            optimizer.step(bowl([w], [np.ones(2)]), **extra)
    np.testing.assert_array_equal(w.data, 1)


def test_the_norm_has_the_bits_of_clip_grad_norm() -> None:
    rng = np.random.default_rng(0)
    for dtype in REALS:
        grads = [rng.standard_normal(n).astype(dtype) for n in (100_000, 3, 20_000)]
        params = [np.zeros_like(g) for g in grads]
        optimizer = cyoptim.SGD(params, lr=0.1)
        optimizer.step(grads=grads, max_norm=1.0)
        expected = cyoptim.get_total_norm([g.astype(np.float64) for g in grads])
        assert optimizer.last_step.total_norm == expected


@every_card(~CLOSURE)
def test_gradients_are_not_changed_unless_asked(card: Card) -> None:
    w, g = np.ones((5, 2)), np.full((5, 2), 3.0)
    card.cls([w]).step(grads=[card.form(g)], max_norm=0.1, grad_scale=8.0)
    assert (g == 3).all()


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99))
def test_same_bits_for_any_number_of_threads(seed: int) -> None:
    results = []
    for threads in (1, 2):
        rng = np.random.default_rng(seed)
        shapes = [(300_000,), (7,), (65_537,)]
        params = [rng.standard_normal(s).astype("f4") for s in shapes]
        optimizer = cyoptim.Adam(params, lr=0.1)
        with cyoptim.threads(threads):
            for _ in range(2):
                grads = [rng.standard_normal(s).astype("f4") for s in shapes]
                optimizer.step(grads=grads, max_norm=0.5, zero_grad=True)
        results.append(np.concatenate(params))
    np.testing.assert_array_equal(*results)


# --- zeroing --------------------------------------------------------------------------------------


def test_zeroes_what_was_read_through_a_copy() -> None:
    w = np.ones((6, 4))
    for grad in (np.ones((6, 8))[:, ::2], np.asfortranarray(np.ones((6, 4)))):
        cyoptim.SGD([w], lr=0.1).step(grads=[grad], zero_grad=True)
        assert (grad == 0).all()
    gaps = np.ones((6, 8))[:, ::2]
    grad = np.ones((6, 4))
    cyoptim.SGD([gaps], lr=0.5).step(grads=[grad], zero_grad=True)
    assert (grad == 0).all()
    assert (gaps == 0.5).all()


def test_a_gradient_that_two_parameters_share_is_read_by_both() -> None:
    for shared in (np.ones(40_000), np.ones(50_000)):
        a, b = np.zeros(40_000), np.zeros(40_000)
        first, second = shared[:40_000], shared[-40_000:]  # the same, or overlapping
        cyoptim.SGD([a, b], lr=1.0).step(grads=[first, second], zero_grad=True)
        assert (a == -1).all()
        assert (b == -1).all()
        assert (shared == 0).all()


def test_zeroes_sparse_gradients() -> None:
    w, v = np.ones((5, 2)), np.ones(3)
    pair, grad = (np.array([1, 1]), np.ones((2, 2))), np.ones(3)
    optimizer = cyoptim.SGD([w, v], lr=1.0)
    optimizer.step(grads=[pair, grad], zero_grad=True, max_norm=100.0)
    assert (pair[1] == 0).all()
    assert (grad == 0).all()
    assert w[1, 0] == -1
    np.testing.assert_allclose(optimizer.last_step.total_norm, np.sqrt(2 * 4 + 3))


def test_zeroes_the_memory_of_tensors(torch: Any) -> None:
    w = torch.ones(4, requires_grad=True)
    (w * 3).sum().backward()
    grad, version = w.grad, w.grad._version
    cyoptim.SGD([w], lr=1.0).step(zero_grad=True)
    assert w.grad is grad
    assert (grad == 0).all()
    assert grad._version > version
    (w * 5).sum().backward()  # adds into the same memory
    assert (grad == 5).all()


def test_a_read_only_gradient_cannot_be_zeroed() -> None:
    w, v = np.ones(3), np.ones(3)
    grad = np.broadcast_to(np.array(1.0), 3)
    frozen = np.ones(3)
    frozen.flags.writeable = False
    for bad in (grad, frozen):
        with pytest.raises(ValueError, match="gradient of parameter 1 of group 0 is read-only"):
            cyoptim.SGD([v, w], lr=0.1).step(grads=[np.ones(3), bad], zero_grad=True)
    assert (w == 1).all()
    assert (v == 1).all()


# --- gradients that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_real
def test_raise_names_the_parameters_and_changes_nothing(dtype: Any, value: float) -> None:
    params = {"a": np.ones(3, dtype), "b": np.ones((4, 5), dtype), "c": np.ones(20_000, dtype)}
    grads = {name: np.ones_like(p) for name, p in params.items()}
    optimizer = cyoptim.Adam(params.items(), lr=0.1)
    optimizer.step(grads=grads)
    before = {name: p.copy() for name, p in params.items()}
    moment = optimizer.state[params["a"]]["exp_avg"].copy()
    grads["b"][1, 2] = grads["c"][17_000] = value
    with pytest.raises(FloatingPointError, match=r"of parameter 1 \('b'\) of group 0, parameter 2"):
        optimizer.step(grads=grads, nonfinite="raise", zero_grad=True)
    for name, p in params.items():
        np.testing.assert_array_equal(p, before[name])
    np.testing.assert_array_equal(optimizer.state[params["a"]]["exp_avg"], moment)
    assert int(optimizer.state[params["a"]]["step"]) == 1
    assert (grads["a"] == 1).all()
    assert optimizer.last_step.nonfinite == ("b", "c")


@every_card(~CLOSURE)
def test_skip_leaves_all_but_the_gradients(card: Card) -> None:
    w, v = np.ones((3, 3)), np.ones((3, 3))
    optimizer = card.cls([w, v], lr=0.1)
    bad = np.full((3, 3), np.nan)
    grads = [card.form(g) for g in (np.ones((3, 3)), bad)]
    optimizer.step(grads=grads, nonfinite="skip", zero_grad=True, max_norm=1.0)
    assert (w == 1).all()
    assert (v == 1).all()
    assert (bad == 0).all()
    receipt = optimizer.last_step
    assert receipt.skipped
    assert receipt.nonfinite == (1,)
    assert int(optimizer.state.get(w, {}).get("step", 0)) == 0
    for _ in range(1 + card.waits):
        optimizer.step(grads=[card.form(np.eye(3) + 1)] * 2, nonfinite="skip")
    assert not optimizer.last_step.skipped
    assert not (w == 1).all()


def test_propagate_follows_the_separate_calls() -> None:
    for value in (np.nan, np.inf):
        results = []
        for fused in (True, False):
            w, v = np.ones(3), np.ones(2)
            grads = [np.array([1.0, value, 2.0]), np.ones(2)]
            optimizer = cyoptim.SGD([w, v], lr=0.1)
            if fused:
                optimizer.step(grads=grads, max_norm=1.0)
            else:
                cyoptim.clip_grad_norm_([w, v], 1.0, grads=grads)
                optimizer.step(grads=grads)
            results.append(np.concatenate([w, v]))
        np.testing.assert_array_equal(*results)


def test_finite_gradients_whose_norm_is_not() -> None:
    # Nothing is wrong with the elements: they are clipped to nothing, not skipped.
    w = np.ones(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.step(grads=[np.full(2, 1e300)], max_norm=1.0, nonfinite="raise")
    assert optimizer.last_step.nonfinite == ()
    assert (w == 1).all()


# --- the receipt, hooks, errors -------------------------------------------------------------------


def test_the_receipt_is_of_the_last_step() -> None:
    w = np.ones(2)
    optimizer = cyoptim.SGD([w], lr=0.1)
    assert optimizer.last_step is None
    optimizer.step(grads=[w.copy()], zero_grad=True)
    assert optimizer.last_step == cyoptim.StepReceipt(None, 1.0, False, ())
    optimizer.step(grads=[w.copy()])
    assert optimizer.last_step is None


def test_the_receipt_numbers_parameters_through_all_groups() -> None:
    params = [np.ones(2) for _ in range(4)]
    optimizer = cyoptim.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    bad = np.array([1.0, np.inf])
    optimizer.step(grads=[np.ones(2), bad, np.ones(2), bad], nonfinite="skip")
    assert optimizer.last_step.nonfinite == (1, 3)


def test_hooks_see_the_arguments() -> None:
    seen = []
    optimizer = cyoptim.SGD([np.ones(2)], lr=0.1)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(sorted(kwargs)))
    optimizer.step(grads=[np.ones(2)], max_norm=1.0, nonfinite="skip")
    assert seen == [["grads", "max_norm", "nonfinite"]]
    assert optimizer.last_step is not None


def test_objects_and_closures() -> None:
    box = Box(np.ones(2))

    def closure() -> float:
        box.grad = np.full(2, 8.0)
        return 3.0

    optimizer = cyoptim.SGD([box], lr=1.0)
    assert optimizer.step(closure, grad_scale=8.0, zero_grad=True) == 3.0
    assert (box.data == 0).all()
    assert (box.grad == 0).all()


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"max_norm": -1.0}, ValueError, "Invalid max_norm value: -1.0"),
    ({"max_norm": np.nan}, ValueError, "Invalid max_norm value: nan"),
    ({"max_norm": "big"}, TypeError, "max_norm must be a number, got str: 'big'"),
    ({"grad_scale": 0.0}, ValueError, "grad_scale is 0: gradients cannot be divided by it"),
    ({"grad_scale": np.inf}, ValueError, "Invalid grad_scale value: inf"),
    ({"grad_scale": None, "nonfinite": "ignore"}, ValueError, "nonfinite must be one of propagate, raise, skip, got 'ignore'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    w = np.ones(2)
    with pytest.raises(error, match=message):
        cyoptim.SGD([w], lr=0.1).step(grads=[w.copy()], **options)
    assert (w == 1).all()
