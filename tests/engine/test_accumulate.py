"""Gradients that are added up over several calls, and averaged by one step."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import cards
from tests.support.cards import CLOSURE, DENSE, NATIVE, Card
from tests.support.doors import Door, trajectory_inputs
from tests.support.parametrize import every_card, every_door

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


@every_door
@every_card(DENSE, ~CLOSURE)
def test_steps_along_the_mean(card: Card, door: Door) -> None:
    # Without an axis only where a rule steps: see test_fused_step.py.
    shapes = [shape for shape in card.shapes(SHAPES) if shape or NATIVE(card)]
    start, grads = trajectory_inputs(shapes, np.float64, 4 * PARTS, seed=1, missing=0.4)
    found, expected = ([door.wrap(a.copy()) for a in start] for _ in range(2))
    ours, plain = card.cls(found, lr=0.05), card.cls(expected, lr=0.05)
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


@every_card(~DENSE)
def test_sums_are_dense_and_so_refused_by_who_takes_rows_alone(card: Card) -> None:
    w = np.zeros((4, 2))
    with pytest.raises(RuntimeError, match=f"{card} does not support dense gradients"):
        card.cls([w]).accumulate([(np.array([1]), np.ones((1, 2)))])


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
        rooms += optimizer._sums.gradients([w])
        optimizer.step()
    assert rooms[0] is rooms[1]
    assert (w == -2).all()


@pytest.mark.thread_unsafe(reason="the array is that of the parameter")
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


def resumed(how: str, path: Path) -> tuple[Any, Any]:
    """Parameter and optimizer of a run that was interrupted after the first of two parts."""

    def fresh() -> tuple[Any, Any]:
        w = cyoptim.Parameter(np.zeros((2, 3), np.float32))
        return w, cyoptim.SGD([("w", w)], lr=1.0)

    w, optimizer = fresh()
    optimizer.accumulate({"w": np.full((2, 3), 1.0, np.float32)})
    if how == "deepcopy":
        return copy.deepcopy((w, optimizer))
    if how == "pickle":
        return pickle.loads(pickle.dumps((w, optimizer)))
    other, later = fresh()
    if how == "state_dict":
        later.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        cyoptim.save(path / f"run{how}", w=w, optimizer=optimizer)
        cyoptim.load(path / f"run{how}", w=other, optimizer=later)
    return other, later


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict", ".npz", ".safetensors"])
def test_sums_are_kept_with_the_state(how: str, tmp_path: Path) -> None:
    w, optimizer = resumed(how, tmp_path)
    assert optimizer.accumulate({"w": np.full((2, 3), 3.0, np.float32)}) == 2
    optimizer.step()
    np.testing.assert_array_equal(w, np.full((2, 3), -2.0))
    assert "accumulated" not in optimizer.state_dict()


def test_a_copy_has_sums_of_its_own() -> None:
    optimizer = cyoptim.SGD([cyoptim.Parameter(np.zeros(1))], lr=1.0)
    optimizer.accumulate([np.ones(1)])
    for other in (copy.deepcopy(optimizer), copy.copy(optimizer)):
        other.accumulate([np.ones(1)])
    assert optimizer.accumulate([np.full(1, 3.0)]) == 2
    optimizer.step()
    assert optimizer.param_groups[0]["params"][0].data == -2


def test_sums_of_tensors_are_kept() -> None:
    torch = pytest.importorskip("torch")
    w = torch.nn.Parameter(torch.zeros(2))
    optimizer = cyoptim.Adam([w], lr=1.0)
    w.grad = torch.tensor([1.0, -1.0])
    optimizer.accumulate()
    state = optimizer.state_dict()
    assert torch.equal(state["accumulated"]["values"][0], torch.tensor([1.0, -1.0]))
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))]).load_state_dict(state)
    v = torch.nn.Parameter(torch.zeros(2))
    other = cyoptim.Adam([v], lr=1.0)
    other.load_state_dict(state)
    other.step()
    assert torch.equal(v.sign(), torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize("how", ["load_state_dict", "load", "zero_grad", "zeros"])
def test_sums_are_dropped(how: str, tmp_path: Path) -> None:
    w = cyoptim.Parameter(np.zeros(1))
    optimizer = cyoptim.SGD([w], lr=1.0)
    state = optimizer.state_dict()
    cyoptim.save(tmp_path / "run.npz", optimizer=optimizer)
    optimizer.accumulate([np.ones(1)])
    if how == "load":
        cyoptim.load(tmp_path / "run.npz", optimizer=optimizer)
    elif how == "load_state_dict":
        optimizer.load_state_dict(state)
    else:
        optimizer.zero_grad(set_to_none=how == "zero_grad")
    assert optimizer.accumulate([np.full(1, 3.0)]) == 1
    optimizer.step()
    assert w.data == -3


def test_sums_go_with_their_parameters() -> None:
    a, b, c = np.zeros(2), np.zeros(2), np.zeros(2)
    optimizer = cyoptim.SGD([("a", a), ("b", b)], lr=1.0)
    optimizer.accumulate({"a": np.ones(2), "b": np.full(2, 10.0)})
    group = optimizer.param_groups[0]
    group["params"], group["param_names"] = [b, c], ["b", "c"]
    optimizer.accumulate({"b": np.full(2, 20.0), "c": np.full(2, 4.0)})
    optimizer.step()
    assert (a[0], b[0], c[0]) == (0, -15, -2)


def test_sums_are_found_by_name() -> None:
    first = cyoptim.SGD([("a", np.zeros(1)), ("b", np.zeros(1))], lr=1.0)
    first.accumulate({"a": np.ones(1), "b": np.full(1, 10.0)})
    a, b = np.zeros(1), np.zeros(1)
    second = cyoptim.SGD([("b", b), ("a", a)], lr=1.0)
    second.load_state_dict(first.state_dict())
    second.step()
    assert (a[0], b[0]) == (-1, -10)


class Stepping(cyoptim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing, and no look at sums."""


@pytest.mark.parametrize("cls", [*(card.cls for card in cards(CLOSURE)), Stepping])
def test_sums_that_no_step_would_see_are_refused(cls: Any) -> None:
    w = cyoptim.Parameter(np.zeros(1), grad=np.ones(1))
    optimizer = cls([w])
    with pytest.raises(TypeError, match=r"overrides step\(\) and does not use"):
        optimizer.accumulate()
    assert w.grad == 1
    gathered = cyoptim.SGD([np.zeros(1)])
    gathered.accumulate([np.ones(1)])
    state = {**optimizer.state_dict(), "accumulated": gathered.state_dict()["accumulated"]}
    with pytest.raises(TypeError, match="accumulate"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize(
    ("sums", "error", "message"),
    [
        (3, TypeError, "must be a dict with calls and values"),
        ({"calls": -1, "values": {}}, ValueError, "calls of accumulate.* is -1"),
        ({"calls": 1, "values": {7: np.zeros(1)}}, ValueError, "entry of 7, which is no"),
        ({"calls": 1, "values": {0: np.zeros(2)}}, ValueError, r"loaded sum of .* shape \(2,\)"),
        ({"calls": 1, "values": {0: "x"}}, TypeError, "is a str, expected an array"),
    ],
)
def test_bad_sums_are_refused(sums: Any, error: type[Exception], message: str) -> None:
    w = np.zeros(1)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(1)])
    with pytest.raises(error, match=message):
        optimizer.load_state_dict({**optimizer.state_dict(), "accumulated": sums})
    optimizer.step()
    assert w == -1


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


class OwnSGD(cyoptim.SGD):
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing, and not its parent's."""


class ByAnother(cyoptim.SGD):
    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        return self.inner(closure, kwargs)

    def inner(self, closure: Any, kwargs: Any) -> Any:
        return super().step(closure, **kwargs)


class ByAFunctionInside(cyoptim.SGD):
    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        parent = super()

        def inner() -> Any:
            return parent.step(closure, **kwargs)

        return inner()


def test_a_step_that_does_not_call_its_parents() -> None:
    with pytest.raises(TypeError, match="OwnSGD overrides step"):
        OwnSGD([np.zeros(1)]).accumulate([np.ones(1)])


@pytest.mark.parametrize("cls", [ByAnother, ByAFunctionInside])
def test_a_step_that_calls_its_parents_some_other_way(cls: Any) -> None:
    w = np.zeros(1)
    optimizer = cls([w], lr=1.0)
    optimizer.accumulate([np.ones(1)])
    optimizer.accumulate([np.full(1, 3.0)])
    optimizer.step()
    assert w == -2


def test_sums_of_before_are_not_taken_for_new_ones() -> None:
    a, b = np.zeros(1), np.zeros(1)
    optimizer = cyoptim.SGD([a, b], lr=1.0)
    optimizer.accumulate([np.ones(1), np.ones(1)])
    rooms = optimizer._sums.gradients()
    optimizer.zero_grad()
    optimizer.accumulate([np.full(1, 2.0), None])
    assert optimizer._sums.gradients()[0] is rooms[0]  # made once
    for sums in (optimizer._sums, copy.deepcopy(optimizer._sums), optimizer._sums.copy()):
        assert [s for s in sums.gradients() if s is not None] == [2.0]
    optimizer.step()
    assert (a[0], b[0]) == (-3 + 1, 0)


def test_sums_wait_for_parameters_that_come_back() -> None:
    a, b, c = (np.zeros(2) for _ in range(3))
    optimizer = cyoptim.SGD([a, b], lr=1.0)
    optimizer.accumulate([np.full(2, 2.0), np.full(2, 4.0)])
    group = optimizer.param_groups[0]["params"]
    del group[0]
    group[0] = c  # in the place of b
    optimizer.accumulate([np.full(2, 8.0)])
    group.append(a)
    optimizer.step()
    assert [w[0] for w in (a, b, c)] == [-1, 0, -4]


def test_sums_of_a_parameter_that_occurs_twice() -> None:
    found = []
    for resumed in (False, True):
        w = np.zeros(2)
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = cyoptim.SGD([w, w], lr=1.0, momentum=0.5)
        optimizer.accumulate([np.full(2, 2.0), np.full(2, 4.0)])
        if resumed:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.accumulate([np.full(2, 6.0), None])
        optimizer.step()
        found.append(w[0])
    assert found == [-8, -8]


def test_a_state_dict_keeps_the_sums_that_there_were() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    state = optimizer.state_dict()
    optimizer.step()
    optimizer.accumulate([np.full(2, 5.0)])
    optimizer.load_state_dict(state)
    optimizer.step()
    assert (w == -2).all()


@pytest.mark.parametrize("data", [np.zeros(3), np.zeros(2, np.float32)])
def test_a_parameter_of_another_shape_between_two_parts(data: np.ndarray) -> None:
    w = cyoptim.Parameter(np.zeros(2))
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.accumulate([np.ones(2)])
    w.data = data.copy()
    with pytest.raises(ValueError, match=r"gradients of shape \(2,\) and dtype float64 have been"):
        optimizer.accumulate([np.ones_like(data)])
    optimizer.zero_grad()
    optimizer.accumulate([np.ones_like(data)])
    optimizer.step()
    assert (w.data == -1).all()


def test_another_layout_between_two_parts() -> None:
    w = cyoptim.Parameter(np.zeros((3, 2)))
    optimizer = cyoptim.SGD([w], lr=1.0)
    grad = np.arange(6.0).reshape(3, 2)
    optimizer.accumulate([grad])
    w.data = np.zeros((3, 2), order="F")
    optimizer.accumulate([grad])
    optimizer.step()
    np.testing.assert_array_equal(w.data, -grad)
