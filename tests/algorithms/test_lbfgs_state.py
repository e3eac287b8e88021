"""L-BFGS: groups, errors that change nothing, and its state saved and loaded."""

from __future__ import annotations

import copy
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.lbfgs_runs import IDS, OPTIONS, SIZE, WOLFE, Run

# --- groups ---------------------------------------------------------------------------------------


def test_groups_are_one_problem() -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)

    def grouped(params: list[Any], **options: Any) -> Any:
        return cyoptim.LBFGS([{"params": params[:2]}, {"params": params[2:]}], **options)

    found = Run(grouped, WOLFE).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)
    assert len(found.optimizer.state) == 1


DISAGREEMENT = r"LBFGS doesn't support per-parameter options \(parameter groups\): "


def test_groups_must_agree() -> None:
    a, b = np.ones(2), np.ones(2)
    with pytest.raises(ValueError, match=DISAGREEMENT + "'lr' is 1 in group 0 and 0.5 in group 1"):
        cyoptim.LBFGS([{"params": [a]}, {"params": [b], "lr": 0.5}])
    optimizer = cyoptim.LBFGS([a])
    with pytest.raises(ValueError, match=DISAGREEMENT + "'history_size' is 100 in group 0 and 3"):
        optimizer.add_param_group({"params": [b], "history_size": 3})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [b]})
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match=DISAGREEMENT + "'lr' is 1 in group 0 and 0.1 in group 1"):
        optimizer.step(lambda: pytest.fail("the closure must not be called"))
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step(lambda: (4.0, [2 * a, 2 * b]))


def test_add_param_group_begins_the_history_anew() -> None:
    a, b = cyoptim.Parameter(np.full(2, 3.0)), cyoptim.Parameter(np.full(3, -2.0))

    def closure() -> float:
        a.grad, b.grad = 2 * a, 4 * b
        return float((a * a).sum() + 2 * (b * b).sum())

    optimizer = cyoptim.LBFGS([a], max_iter=2, lr=0.2)
    optimizer.step(closure)
    assert optimizer.state[a]["n_iter"] == 1
    optimizer.state[a]["note"] = "kept"
    optimizer.add_param_group({"params": [b]})
    assert dict(optimizer.state[a]) == {"func_evals": 2, "n_iter": 0, "note": "kept"}
    points = [np.concatenate([a.data, b.data])]
    fresh = cyoptim.LBFGS([cyoptim.Parameter(points[0].copy())], max_iter=2, lr=0.2)
    v = fresh.param_groups[0]["params"][0]
    scale = np.array([2.0, 2, 4, 4, 4])
    optimizer.step(closure)
    fresh.step(lambda: (float((scale * v * v).sum() / 2), [scale * v]))
    np.testing.assert_array_equal(np.concatenate([a.data, b.data]), v.data)
    assert optimizer.state[a]["func_evals"] == 4
    for _ in range(20):
        optimizer.step(closure)
    np.testing.assert_allclose(np.concatenate([a.data, b.data]), 0, atol=0.1)


# --- nothing half done ----------------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("options", [{"lr": 0.3}, WOLFE])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_failing_closure_changes_nothing(
    steps: int, options: dict[str, Any], call: int, error: type[BaseException]
) -> None:
    options = {**options, "max_iter": 8, "history_size": 3, "tolerance_change": 0.0}
    run = Run(cyoptim.LBFGS, options).steps(steps)
    twin = Run(cyoptim.LBFGS, options).steps(steps)
    before, values = copy.deepcopy(run.state()), run.end()
    calls = 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return run.closure()

    with pytest.raises(error):
        run.optimizer.step(closure)
    np.testing.assert_array_equal(run.end(), values)
    assert pickle.dumps(run.state()) == pickle.dumps(before)
    assert len(run.optimizer.state) == (1 if steps else 0)
    np.testing.assert_array_equal(run.steps(1).end(), twin.steps(1).end())


def test_bad_gradients_in_the_middle_of_a_search_change_nothing() -> None:
    w = cyoptim.Parameter(np.full(2, 3.0))
    shapes = iter([2, 2, 2, 3])

    def closure() -> float:
        w.grad = np.resize(w.data**3, next(shapes))
        return float((w * w).sum())

    optimizer = cyoptim.LBFGS([w], **WOLFE)
    with pytest.raises(ValueError, match=r"gradient of parameter 0 of group 0 has shape \(3,\)"):
        optimizer.step(closure)
    np.testing.assert_array_equal(w.data, 3)
    assert len(optimizer.state) == 0


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (
            np.ones(3),
            ValueError,
            r"gradient of parameter 0 of group 0 has shape (3,), expected (2,)",
        ),
        (
            np.ones(2, np.float32),
            TypeError,
            "gradient of parameter 0 of group 0 has dtype float32, expected float64",
        ),
        ([1.0, 2.0], TypeError, "gradient of parameter 0 of group 0 is a list"),
    ],
)
def test_bad_gradients(grad: Any, error: type[Exception], message: str) -> None:
    w = np.ones(2)
    optimizer = cyoptim.LBFGS([w])
    with pytest.raises(error) as found:
        optimizer.step(lambda: (1.0, [grad]))
    assert message in str(found.value)
    np.testing.assert_array_equal(w, 1)
    assert len(optimizer.state) == 0


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (
            lambda: None,
            TypeError,
            "the closure returned a NoneType, expected the loss, one number, or (loss, grads)",
        ),
        (lambda: np.ones(2), TypeError, "the closure returned a numpy.ndarray, expected the loss"),
        (lambda: "low", TypeError, "the closure returned a str, expected the loss"),
        (lambda: (1.0, [None, None]), ValueError, "grads holds 2 gradients, expected 1"),
        (lambda: (1.0, np.ones(2)), TypeError, "grads must be a list of gradients or a dict"),
        (lambda: (1.0, 2.0, 3.0), TypeError, "the closure returned a tuple"),
    ],
)
def test_bad_closures(closure: Any, error: type[Exception], message: str) -> None:
    w = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    with pytest.raises(error) as found:
        cyoptim.LBFGS([w]).step(closure)
    assert message in str(found.value)
    np.testing.assert_array_equal(w.data, 1)


def test_plain_arrays_need_returned_gradients() -> None:
    with pytest.raises(ValueError, match="let the closure return \\(loss, grads\\)"):
        cyoptim.LBFGS([np.ones(2)]).step(lambda: 1.0)


def test_a_closure_is_needed() -> None:
    optimizer = cyoptim.LBFGS([np.ones(2)])
    message = "LBFGS evaluates the loss at several points of a step: call step\\(closure\\)"
    with pytest.raises(TypeError, match=message):
        optimizer.step()
    with pytest.raises(TypeError, match=message):
        optimizer.step(grads=[np.ones(2)])
    with pytest.raises(TypeError, match=message):
        optimizer.step(lambda: 1.0, grads=[np.ones(2)])


def test_a_step_within_a_step() -> None:
    w = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    optimizer = cyoptim.LBFGS([w])
    with pytest.raises(RuntimeError, match="step\\(\\) of this optimizer is already running"):
        optimizer.step(lambda: optimizer.step(lambda: 1.0))
    assert optimizer.step(lambda: 1.0) == 1.0


def test_parameters_replaced_in_the_middle() -> None:
    w = cyoptim.Parameter(np.full(2, 3.0))
    old, calls = w.data, []

    def closure() -> float:
        calls.append(1)
        if len(calls) == 3:
            w.data = w.data.copy()
        w.grad = w.data**3
        return float((w * w).sum())

    with pytest.raises(RuntimeError, match="parameters were replaced while the step was running"):
        cyoptim.LBFGS([w], lr=0.1).step(closure)
    np.testing.assert_array_equal(old, 3)


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
    ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    ({"lr": "fast"}, TypeError, "learning rate must be a number, got str: 'fast'"),
    ({"max_iter": -1}, ValueError, "Invalid max_iter value: -1"),
    ({"max_iter": "x"}, TypeError, "max_iter must be a number, got str: 'x'"),
    ({"max_eval": -2}, ValueError, "Invalid max_eval value: -2"),
    ({"tolerance_grad": math.nan}, ValueError, "Invalid tolerance_grad value: nan"),
    ({"tolerance_change": None}, TypeError, "tolerance_change must be a number, got NoneType"),
    ({"history_size": 0}, ValueError, "Invalid history_size value: 0"),
    ({"history_size": 2.5}, TypeError, "history_size must be a whole number, got 2.5"),
    (
        {"line_search_fn": "armijo"},
        RuntimeError,
        "only 'strong_wolfe' is supported, got line_search_fn='armijo'",
    ),
)


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as found:
        cyoptim.LBFGS([np.ones(2)], **options)
    assert message in str(found.value)
    optimizer = cyoptim.LBFGS([np.ones(2)])
    optimizer.param_groups[0].update(options)
    with pytest.raises(error) as found:
        optimizer.step(lambda: pytest.fail("the closure must not be called"))
    assert f"options of param group 0: {message}" in str(found.value)


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_save_and_resume_does_not_matter(
    options: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    options = {"max_iter": 3, **options}
    expected = Run(cyoptim.LBFGS, options, dtype=dtype).steps(5)
    first = Run(cyoptim.LBFGS, options, dtype=dtype).steps(2)
    cyoptim.save(tmp_path / "half.npz", params=first.params, optimizer=first.optimizer)
    second = Run(cyoptim.LBFGS, {"lr": 0.5}, dtype=dtype)
    cyoptim.load(tmp_path / "half.npz", params=second.params, optimizer=second.optimizer)
    second.steps(3)
    np.testing.assert_array_equal(first.points + second.points, expected.points)
    np.testing.assert_array_equal(second.end(), expected.end())


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_copies_go_on_alike(twin_of: Any) -> None:
    run = Run(cyoptim.LBFGS, {**WOLFE, "max_iter": 3}).steps(2)
    twin = twin_of(run)
    assert repr(twin.optimizer) == repr(run.optimizer)
    np.testing.assert_array_equal(twin.steps(2).end(), run.steps(2).end())


def test_loading_copies() -> None:
    run = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1)
    other = Run(cyoptim.LBFGS, {})
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    for name in ("d", "prev_flat_grad"):
        assert not np.shares_memory(run.state()[name], other.state()[name])
    assert not np.shares_memory(run.state()["old_dirs"][0], other.state()["old_dirs"][0])


def test_loading_what_does_not_fit_changes_nothing() -> None:
    state = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1).optimizer.state_dict()

    def refused(change: Any, error: type[Exception], message: str) -> None:
        changed = copy.deepcopy(state)
        change(changed["state"][0])
        run = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1)
        before = pickle.dumps(run.state())
        with pytest.raises(error) as found:
            run.optimizer.load_state_dict(changed)
        assert message in str(found.value)
        assert pickle.dumps(run.state()) == before

    label = "of parameter 0 of group 0"
    refused(
        lambda s: s.update(d=np.zeros(3)),
        ValueError,
        f"state 'd' {label} has shape (3,) and dtype float64, expected ({SIZE},) and float64",
    )
    refused(lambda s: s["old_stps"].pop(), ValueError, "old_dirs")
    refused(lambda s: s.pop("prev_loss"), ValueError, "but no prev_loss")
    refused(lambda s: s.update(d="x"), TypeError, f"state 'd' {label} is a str, expected an array")


def test_a_state_without_numbers_of_its_own() -> None:
    w = np.ones(2)
    optimizer = cyoptim.LBFGS([w])
    optimizer.state[w]["note"] = [1]
    twin = cyoptim.LBFGS([w])
    twin.load_state_dict(optimizer.state_dict())
    assert dict(twin.state[w]) == {"note": [1]}


def test_a_smaller_history_from_now_on() -> None:
    run = Run(cyoptim.LBFGS, {"lr": 0.1, "max_iter": 6, "tolerance_change": 0.0}).steps(1)
    assert len(run.state()["ro"]) == 5
    run.optimizer.param_groups[0]["history_size"] = 2
    run.steps(1)
    for name in ("old_dirs", "old_stps", "ro", "al"):
        assert len(run.state()[name]) == 2


@pytest.mark.parametrize("order", ["acb", "cab", "bc"])
def test_another_order_of_the_parameters_begins_anew(order: str) -> None:
    # The parts of the directions that are remembered would reach other parameters.
    def problem() -> tuple[dict[str, np.ndarray], Any]:
        params = {n: np.full(2, 1.0 + k) for k, n in enumerate("abc")}
        scale = {"a": 1.0, "b": 4.0, "c": 9.0}

        def closure(names: str) -> Any:
            loss = sum(float(scale[n] * (params[n] ** 2).sum()) for n in names)
            return loss, [2 * scale[n] * params[n] for n in names]

        return params, closure

    params, closure = problem()
    edited = cyoptim.LBFGS([params[n] for n in "abc"], lr=0.05, max_iter=3)
    edited.step(lambda: closure("abc"))
    edited.param_groups[0]["params"] = [params[n] for n in order]
    others, closure_of_others = problem()
    for n in "abc":
        others[n][...] = params[n]
    fresh = cyoptim.LBFGS([others[n] for n in order], lr=0.05, max_iter=3)
    edited.step(lambda: closure(order))
    fresh.step(lambda: closure_of_others(order))
    for n in "abc":
        np.testing.assert_array_equal(params[n], others[n])


def test_notes_stay_when_names_put_the_vectors_into_another_order() -> None:
    w = {n: np.full(2, 1.0 + k) for k, n in enumerate("ab")}
    first = cyoptim.LBFGS(w.items(), max_iter=2)
    first.step(lambda: (float(sum((p**2).sum() for p in w.values())), [2 * p for p in w.values()]))
    first.state[w["a"]]["note"] = "a's"
    first.state[w["b"]]["note"] = "b's"
    second = cyoptim.LBFGS([("b", w["b"]), ("a", w["a"])], max_iter=2)
    second.load_state_dict(first.state_dict())
    assert second.state[w["a"]]["note"] == "a's"
    assert second.state[w["b"]]["note"] == "b's"
    np.testing.assert_array_equal(second.state[w["b"]]["d"], np.roll(first.state[w["a"]]["d"], 2))
