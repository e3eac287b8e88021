"""Gradients that are added up over several calls, and averaged by one step."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any

import numpy as np
import pytest

import cyoptim
from cases import CASES
from doors import ALL_DOORS, Door, TensorDoor, trajectory_inputs

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (40, 33)]
PARTS = 3


def mean(parts: list[list[Any]]) -> list[Any]:
    """The mean of the parts' gradients, None where no part has one."""
    result: list[Any] = []
    for column in zip(*parts, strict=True):
        there = [g for g in column if g is not None]
        total = sum(there[1:], start=there[0]) if there else None
        result.append(None if total is None else total / len(parts))
    return result


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_steps_along_the_mean(case: Any, door: Door) -> None:
    if isinstance(door, TensorDoor):
        pytest.importorskip("torch")
    start, grads = trajectory_inputs(SHAPES, np.float64, 4 * PARTS, seed=1, missing=0.4)
    found, expected = ([door.wrap(a.copy()) for a in start] for _ in range(2))
    ours, plain = case.cls(found, lr=0.05), case.cls(expected, lr=0.05)
    for first in range(0, len(grads), PARTS):
        parts = grads[first : first + PARTS]
        for number, part in enumerate(parts, 1):
            given = [None if g is None else door.gradient(g.copy()) for g in part]
            if door.name == "array":
                assert ours.accumulate(given) == number
                continue
            for param, grad in zip(found, given, strict=True):
                param.grad = grad
            assert ours.accumulate() == number
            assert all(param.grad is None for param in found)
        ours.step()
        door.step(plain, expected, mean(parts))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(door.read(a), door.read(b), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["Adafactor", "Muon"])
def test_matrices(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = np.ones((4, 3)), np.ones((4, 3))
    parts = rng.standard_normal((2, 4, 3))
    ours, plain = (getattr(cyoptim, name)([w], lr=0.1) for w in (a, b))
    for part in parts:
        ours.accumulate([part])
    ours.step()
    plain.step(grads=[parts.mean(axis=0)])
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_clips_the_mean_and_divides_by_the_scale() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    for part in ([6.0, 0.0], [0.0, 8.0]):
        optimizer.accumulate([np.array(part)])
    optimizer.step(grad_scale=2.0, max_norm=1.0)
    assert optimizer.last_step.total_norm == 2.5  # of [1.5, 2]
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=1e-6)


def test_gradients_given_are_not_changed_nor_kept() -> None:
    w, g = np.zeros(3), np.ones(3)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([g])
    g[:] = 5  # the caller's buffer, used again for the next part
    optimizer.accumulate([g])
    assert (g == 5).all()
    optimizer.step()
    assert (w == -3).all()


def test_any_layout_and_complex_numbers() -> None:
    for w in (np.asfortranarray(np.zeros((3, 4))), np.zeros((3, 8))[:, ::2], np.zeros(3, complex)):
        g = np.ones(w.shape, w.dtype)
        optimizer = cyoptim.SGD([w], lr=1.0)
        for part in (g, 3 * g):
            optimizer.accumulate([part])
        optimizer.step()
        assert (w == -2).all()


def test_sparse_gradients_become_whole() -> None:
    w = np.zeros((4, 2))
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([(np.array([1]), np.ones((1, 2)))])
    optimizer.accumulate([(np.array([1, 3]), np.ones((2, 2)))])
    optimizer.step()
    np.testing.assert_array_equal(w[:, 0], [0, -1, 0, -0.5])
    with pytest.raises(RuntimeError, match="SparseAdam does not support dense gradients"):
        cyoptim.SparseAdam([w]).accumulate([(np.array([1]), np.ones((1, 2)))])


def test_a_bad_gradient_adds_nothing() -> None:
    w, v = np.zeros(2), np.zeros(3)
    optimizer = cyoptim.SGD([w, v], lr=1.0)
    optimizer.accumulate([np.ones(2), np.ones(3)])
    with pytest.raises(ValueError, match="gradient of parameter 1 of group 0 has shape"):
        optimizer.accumulate([np.ones(2), np.ones(4)])
    optimizer.step()
    assert (w == -1).all()
    assert (v == -1).all()


def test_a_step_that_raises_keeps_the_sums() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    with pytest.raises(ValueError, match="of 1 calls of accumulate"):
        optimizer.step(grads=[np.ones(2)])
    with pytest.raises(ValueError, match="of 1 calls of accumulate"):
        optimizer.step(lambda: 1.0)
    with pytest.raises(TypeError, match="grad_scale must be a number"):
        optimizer.step(grad_scale="x")
    optimizer.step()
    assert (w == -1).all()
    optimizer.step(grads=[np.ones(2)])  # nothing waits any more
    assert (w == -2).all()


def test_a_step_that_refuses_its_sums_keeps_them() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.array([1.0, np.nan])])
    with pytest.raises(FloatingPointError):
        optimizer.step(nonfinite="raise")
    with pytest.raises(ValueError, match="of 1 calls of accumulate"):
        optimizer.step(grads=[np.ones(2)])
    optimizer.step(nonfinite="skip")  # is done with them
    optimizer.step(grads=[np.ones(2)])
    assert (w == -1).all()


def test_sums_keep_their_memory_from_step_to_step() -> None:
    w = np.zeros(5)
    optimizer = cyoptim.SGD([w], lr=1.0)
    rooms = []
    for _ in range(2):
        optimizer.accumulate([np.ones(5)])
        rooms += optimizer._sums.gradients()
        optimizer.step()
    assert rooms[0] is rooms[1]
    assert (w == -2).all()


@pytest.mark.parametrize(
    "data", [np.zeros((3, 2), order="F"), np.zeros((2, 3)), np.zeros((3, 2), np.float32)]
)
def test_sums_of_a_parameter_that_was_replaced(data: np.ndarray) -> None:
    w = cyoptim.Parameter(np.zeros((3, 2)))
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones((3, 2))])
    optimizer.step()
    w.data = data
    grad = np.arange(6, dtype=data.dtype).reshape(data.shape)
    optimizer.accumulate([grad])
    optimizer.accumulate([grad])
    optimizer.step()
    np.testing.assert_array_equal(w.data, -grad)


def test_parameters_that_come_later() -> None:
    w, v = np.zeros(2), np.zeros(3)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    optimizer.add_param_group({"params": [v]})
    optimizer.accumulate([np.ones(2), np.ones(3)])
    optimizer.step()
    assert (w == -1).all()
    assert (v == -0.5).all()


def test_copies_begin_without_sums() -> None:
    optimizer = cyoptim.SGD([cyoptim.Parameter(np.zeros(2))], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        other.step(grads=[np.ones(2)])
        assert (other.param_groups[0]["params"][0] == -1).all()


def test_an_interrupt_after_the_step_leaves_no_sums() -> None:
    # Raised in whatever Python code runs between the end of the native step and that of step().
    finished = []

    def interrupt(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code.co_name == "_set_quick":
            finished.append(frame)
            raise KeyboardInterrupt
        return interrupt

    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    finally:
        sys.settrace(before)
    assert finished
    assert (w == -1).all()
    assert optimizer.accumulate([np.full(2, 3.0)]) == 1
    optimizer.step()
    assert (w == -4).all()


def test_a_step_that_failed_leaves_the_sums_to_the_next() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.full(2, np.inf)])
    for _ in range(2):
        with pytest.raises(FloatingPointError):
            optimizer.step(nonfinite="raise")
    assert optimizer.accumulate([np.ones(2)]) == 2
    optimizer.step()
    assert (w == -np.inf).all()
