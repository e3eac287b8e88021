"""Contract 1: trajectories equal the papers' and torch's, for every option, through every door."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.cases import CASES, VARIANT_IDS, VARIANTS
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door, TensorDoor, run, trajectory_inputs

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (2, 0, 3), (17, 33), (1,)]
STEPS = 60

# float64: the same operations in another order, 60 times, differ by some 1e-14.
# float32: each step rounds to 6e-8 of values of size 1; 60 steps of that, and the steps' own
# rounding errors that momentum carries on, stay below 3e-5 of max(1, |p|).
TOLERANCE = {np.float64: 1e-10, np.float32: 3e-5}


def assert_close(found: list[np.ndarray], expected: list[Any], dtype: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        b = np.asarray(b)
        assert a.dtype == dtype
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def reference_run(case: Any, options: dict[str, Any], start: Any, grads: Any) -> list[np.ndarray]:
    params = [np.array(array, dtype=np.float64) for array in start]
    optimizer = case.reference(**options)
    for step_grads in grads:
        optimizer.step(params, [None if g is None else g.astype(np.float64) for g in step_grads])
    return params


@pytest.mark.parametrize("door", NUMPY_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("case", "options"), VARIANTS, ids=VARIANT_IDS)
def test_follows_the_paper(case: Any, options: dict[str, Any], dtype: Any, door: Door) -> None:
    start, grads = trajectory_inputs(SHAPES, dtype, STEPS, seed=1)
    found = run(case.cls, options, door, start, grads)
    assert_close(found, reference_run(case, options, start, grads), dtype)


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("case", "options"), VARIANTS, ids=VARIANT_IDS)
def test_equals_torch(
    torch: Any, case: Any, options: dict[str, Any], dtype: Any, door: Door
) -> None:
    start, grads = trajectory_inputs(SHAPES, dtype, STEPS, seed=2)
    expected = run(getattr(torch.optim, case.name), options, TensorDoor(), start, grads)
    assert_close(run(case.cls, options, door, start, grads), expected, dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_groups_of_their_own_options(torch: Any, case: Any) -> None:
    start, grads = trajectory_inputs(SHAPES, np.float64, STEPS, seed=3)
    decay = {} if case.name == "Rprop" else {"weight_decay": 0.1}

    def grouped(cls: Any) -> Any:
        def make(params: list[Any]) -> Any:
            return cls(
                [
                    {"params": params[:2], "lr": 0.02, **decay},
                    {"params": params[2:], "maximize": True},
                ],
                lr=0.005,
            )

        return make

    expected = run(grouped(getattr(torch.optim, case.name)), {}, TensorDoor(), start, grads)
    assert_close(run(grouped(case.cls), {}, Door(), start, grads), expected, np.float64)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_mixed_dtypes_in_one_group(case: Any) -> None:
    start, grads = trajectory_inputs([(7,), (8,)], np.float64, 5, seed=4, missing=0)
    start[1] = start[1].astype(np.float32)
    for step_grads in grads:
        step_grads[1] = step_grads[1].astype(np.float32)
    found = run(case.cls, {"lr": 0.01}, Door(), start, grads)
    expected = reference_run(case, {"lr": 0.01}, start, grads)
    assert_close(found[:1], expected[:1], np.float64)
    assert_close(found[1:], expected[1:], np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("case", "options"), VARIANTS, ids=VARIANT_IDS)
def test_nonfinite_gradients_spread_as_in_the_paper(
    case: Any, options: dict[str, Any], value: float
) -> None:
    # One element of 40 is spoilt in the middle of the run: the others must not notice.
    start, grads = trajectory_inputs([(40,)], np.float64, 6, seed=5, missing=0)
    grads[2][0][17] = value
    found = run(case.cls, options, Door(), start, grads)
    with np.errstate(invalid="ignore"):
        expected = reference_run(case, options, start, grads)
    clean = np.arange(40) != 17
    np.testing.assert_allclose(found[0][clean], expected[0][clean], rtol=1e-10)
    np.testing.assert_array_equal(np.isfinite(found[0][17]), np.isfinite(expected[0][17]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_infinite_parameter_leaves_state_finite_without_decay(case: Any) -> None:
    # 0 * inf must not enter the state when weight_decay is 0.
    w = np.array([np.inf, 1.0])
    options = {} if case.name == "Rprop" else {"weight_decay": 0}
    if case.name == "SGD":
        options["momentum"] = 0.9
    optimizer = case.cls([w], **options)
    optimizer.step(grads=[np.array([0.5, 0.5])])
    for name, array in optimizer.state[w].items():
        if name == "ax":  # ASGD's average of the parameter itself
            continue
        assert np.isfinite(array).all(), name
    assert w[0] == np.inf


def test_momentum_buffer_starts_as_the_gradient() -> None:
    w = np.zeros(3)
    optimizer = CASES[0].cls([w], lr=0.1, momentum=0.9, dampening=0.5)
    g = np.array([1.0, 2.0, 3.0])
    optimizer.step(grads=[g])
    np.testing.assert_array_equal(optimizer.state[w]["momentum_buffer"], g)
    optimizer.step(grads=[g])
    np.testing.assert_array_equal(optimizer.state[w]["momentum_buffer"], 0.9 * g + 0.5 * g)


def test_denormals_flush_but_change_nothing_that_counts(torch: Any) -> None:
    # 1,000 steps of zero gradient: exp_avg dies away; parameters stay torch's to rounding.
    start, grads = trajectory_inputs([(50,)], np.float32, 1, seed=6, missing=0)
    zeros: list[np.ndarray | None] = [np.zeros(50, np.float32)]
    grads = grads + [zeros] * 1000
    options = {"lr": 0.01, "betas": (0.8, 0.9)}
    found = run(CASES[1].cls, options, Door(), start, grads)
    expected = run(torch.optim.Adam, options, TensorDoor(), start, grads)
    assert_close(found, expected, np.float32)
