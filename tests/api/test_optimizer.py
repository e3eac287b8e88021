"""The Optimizer as torch's users know it: groups, options, state, state_dict, copies."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support import runs
from tests.support.cards import (
    CAUTIOUS,
    CLOSURE,
    FUSED,
    STORAGE,
    TORCH,
    Card,
    Options,
)
from tests.support.doors import Box, trajectory_inputs
from tests.support.parametrize import every_card, every_variant
from tests.support.runs import ARRAYS, advance

ONES = np.ones(3)


@every_card(TORCH)
def test_defaults_and_repr_are_torchs(torch: Any, card: Card) -> None:
    ours = card.cls([np.zeros((3, 3))])
    theirs = card.torch_class(torch)([torch.zeros(3, 3)])
    assert ours.defaults == theirs.defaults
    assert repr(ours) == repr(theirs)
    assert set(ours.param_groups[0]) == set(theirs.param_groups[0])


@every_card(TORCH)
def test_module_is_where_torch_has_it(card: Card) -> None:
    name = card.cls.__module__.rpartition(".")[2]
    module = importlib.import_module(f"cyoptim.{name}")
    assert getattr(module, card.name) is card.cls
    assert getattr(cyoptim, name) is module


@every_card(TORCH)
def test_signature_is_torchs(torch: Any, card: Card) -> None:
    ours = inspect.signature(card.cls).parameters
    theirs = inspect.signature(card.torch_class(torch)).parameters
    added = CAUTIOUS | STORAGE
    assert [(p.name, p.default, p.kind) for p in ours.values() if p.name not in added] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]
    for name in CAUTIOUS & {*ours}:
        assert (ours[name].default, ours[name].kind) == (False, inspect.Parameter.KEYWORD_ONLY)


@every_variant()
def test_state_entries(card: Card, options: Options) -> None:
    w = np.zeros((2, 3), np.float32)
    optimizer = card.cls([w], **options)
    advance(card, optimizer, [w], [np.ones_like(w)], ARRAYS)
    names = list(card.states)
    for option, extra in card.more_states.items():
        names += extra if {**card.options, **options}[option] else ()
    state = optimizer.state[w]
    assert set(state) == set(names)
    if CLOSURE(card):
        return  # what is kept of whole steps has forms of its own
    for name, value in state.items():
        array = np.asarray(value)
        if name == "step" or name in card.numbers:
            assert array.dtype == (np.int64 if name == "step" else np.float32)
            assert array.shape == ()
        else:
            dtype = np.float64 if name in card.doubles else w.dtype
            assert (array.dtype, array.shape) == (dtype, card.state_shape(name, w.shape, options))


@pytest.mark.parametrize("switch", ["foreach", "fused"])
@pytest.mark.parametrize("value", [None, False, True])
@every_card()
def test_execution_switches_change_nothing(card: Card, switch: str, value: Any) -> None:
    if not card.takes(switch):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{switch}'"):
            card.cls([np.zeros((3, 3))], **{switch: value})
        return
    start, grads = trajectory_inputs([card.fit((5,))], np.float64, 3, seed=1)
    expected = runs.run(card, {}, start, grads)
    np.testing.assert_array_equal(runs.run(card, {switch: value}, start, grads), expected)


@every_card()
def test_who_has_an_argument_fused(card: Card) -> None:
    assert card.takes("fused") == FUSED(card)


# --- groups ---------------------------------------------------------------------------------------


def test_option_written_into_a_group_takes_effect_at_the_next_step() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.step(grads=[ONES])
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step(grads=[ONES])
    np.testing.assert_array_equal(w, -1.5 * ONES)


@pytest.mark.parametrize("make", [np.float64, np.array, lambda v: np.array([v])[0]])
def test_lr_of_another_number_type(make: Any) -> None:
    w = np.zeros(3)
    lr = make(0.5)
    optimizer = cyoptim.SGD([w], lr=lr)
    optimizer.step(grads=[ONES])
    np.testing.assert_array_equal(w, -0.5 * ONES)


def test_lr_array_changed_in_place_takes_effect() -> None:
    w = np.zeros(3)
    lr = np.array(0.5)
    optimizer = cyoptim.SGD([w], lr=lr)
    optimizer.step(grads=[ONES])
    lr[...] = 1.0
    optimizer.step(grads=[ONES])
    np.testing.assert_array_equal(w, -1.5 * ONES)


@pytest.mark.parametrize("lr", [np.zeros(0), np.array([0.1, 0.2]), np.zeros((1, 2))])
def test_an_lr_of_several_numbers_is_refused(lr: np.ndarray) -> None:
    message = re.escape(f"lr is an array of shape {lr.shape}, expected one number")
    with pytest.raises(ValueError, match=message):
        cyoptim.SGD([np.zeros(1)], lr=lr)


def test_group_dict_is_the_users_own() -> None:
    group = {"params": np.zeros(3), "lr": 0.1}
    optimizer = cyoptim.SGD([group])
    assert optimizer.param_groups[0] is group
    assert group["momentum"] == 0


def test_names() -> None:
    params = {"W": np.zeros(3), "b": np.zeros(3)}
    optimizer = cyoptim.SGD(params.items(), lr=1.0)
    assert optimizer.param_groups[0]["param_names"] == ["W", "b"]
    optimizer.step(grads={"b": ONES})
    np.testing.assert_array_equal(params["W"], 0 * ONES)
    np.testing.assert_array_equal(params["b"], -ONES)


def test_group_added_later() -> None:
    a, b = np.zeros(3), np.zeros(3)
    optimizer = cyoptim.Adam([a], lr=0.1)
    optimizer.step(grads=[ONES])
    optimizer.add_param_group({"params": b, "lr": 0.2})
    optimizer.step(grads=[ONES, ONES])
    assert optimizer.state[a]["step"] == 2
    assert optimizer.state[b]["step"] == 1
    np.testing.assert_allclose(b, -0.2 * ONES, rtol=1e-6)


def test_lists_of_params_and_groups_may_be_edited() -> None:
    a, b, c = np.zeros(3), np.zeros(3), np.zeros(3)
    optimizer = cyoptim.SGD([a], lr=1.0)
    optimizer.step(grads=[ONES])
    optimizer.param_groups[0]["params"].append(b)
    optimizer.step(grads=[ONES, ONES])
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [c], "lr": 3.0})
    optimizer.step(grads=[ONES, ONES, ONES])
    optimizer.param_groups[0]["params"][0] = np.zeros(3)
    optimizer.step(grads=[ONES, ONES, ONES])
    assert [x[0] for x in (a, b, c)] == [-3.0, -3.0, -6.0]


# --- the step -------------------------------------------------------------------------------------


def test_closure() -> None:
    w = cyoptim.Parameter(np.array([1.0, 2.0]))
    optimizer = cyoptim.SGD([w], lr=0.5)

    def closure() -> float:
        w.grad = 2 * w
        return float((w * w).sum())

    assert optimizer.step(closure) == 5.0
    np.testing.assert_array_equal(w.data, [0.0, 0.0])
    assert optimizer.step() is None


def test_closure_that_raises_changes_nothing() -> None:
    w = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    optimizer = cyoptim.SGD([w])
    with pytest.raises(ZeroDivisionError):
        optimizer.step(lambda: 1 / 0)
    np.testing.assert_array_equal(w.data, np.ones(2))


def test_gradient_that_steps_when_it_is_let_go() -> None:
    # Only the plan holds these gradients; letting go of them runs code in the middle of a step.
    refused: list[str] = []
    optimizer: Any = None

    class Last(np.ndarray):
        def __del__(self) -> None:
            if optimizer is None:
                return
            try:
                optimizer.step()
            except RuntimeError as error:
                refused.append(str(error))

    class Fresh:
        def __init__(self) -> None:
            self.data = np.zeros(3)

        @property
        def grad(self) -> np.ndarray:
            return np.ones(3).view(Last)

    params = [Fresh(), Fresh()]
    optimizer = cyoptim.SGD(params, lr=1.0)
    optimizer.step()
    assert len(refused) == 2
    assert "already running" in refused[0]
    for param in params:
        np.testing.assert_array_equal(param.data, -np.ones(3))


def test_step_without_any_gradient() -> None:
    w = cyoptim.Parameter(np.ones(2))
    optimizer = cyoptim.Adam([w])
    with pytest.warns(UserWarning, match="no parameter has a gradient, so this first step changes"):
        optimizer.step()
    optimizer.step()
    assert len(optimizer.state) == 0
    scheduled = cyoptim.Adam([w])
    cyoptim.lr_scheduler.StepLR(scheduled, 1)
    again = cyoptim.Adam([w])
    again.load_state_dict(optimizer.state_dict())
    for silent in (scheduled, again, copy.deepcopy(optimizer)):
        silent.step()
    cyoptim.Adam([w]).step(grads=[None])


def test_grads_override_the_parameters_own() -> None:
    w = cyoptim.Parameter(np.zeros(2), grad=np.ones(2))
    cyoptim.SGD([w], lr=1.0).step(grads=[np.full(2, 5.0)])
    np.testing.assert_array_equal(w.data, [-5.0, -5.0])


def test_gradient_of_a_scalar_parameter_may_be_a_numpy_scalar() -> None:
    w = cyoptim.Parameter(np.array(3.0))
    optimizer = cyoptim.SGD([w], lr=0.5)
    w.grad = 2 * w.data  # a float64, not an array
    optimizer.step()
    assert w.data == 0.0
    plain = np.array(3.0)
    cyoptim.SGD([plain], lr=0.5).step(grads=[2 * plain])
    assert plain == 0.0


# --- parameters that move -------------------------------------------------------------------------


@pytest.mark.parametrize("make", [cyoptim.Parameter, Box])
def test_data_replaced_by_another_array(make: Any) -> None:
    w = make(np.zeros(3))
    optimizer = cyoptim.Adam([w], lr=0.1)
    w.grad = np.ones(3)
    optimizer.step()
    old, w.data = w.data, np.full(3, 5.0)
    frozen = old.copy()
    optimizer.step()
    np.testing.assert_array_equal(old, frozen)
    assert (w.data < 5.0).all()
    assert optimizer.state[w]["step"] == 2


def test_data_replaced_in_an_optimizer_that_gathers_gradients() -> None:
    w = cyoptim.Parameter(np.full(3, 2.0))
    optimizer = cyoptim.LBFGS([w])
    w.data = np.full(3, 4.0)

    def closure() -> float:
        w.grad = 2 * w
        return float((w * w).sum())

    assert optimizer.step(closure) == 48.0
    np.testing.assert_allclose(w.data, 0, atol=1e-7)


def test_data_replaced_by_one_of_another_shape() -> None:
    w = cyoptim.Parameter(np.zeros(3))
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.ones(3)])
    w.data = np.zeros(4)
    with pytest.raises(
        ValueError, match=r"state 'exp_avg' of parameter 0 of group 0 has shape \(3,\)"
    ):
        optimizer.step(grads=[np.ones(4)])


# --- state ----------------------------------------------------------------------------------------


def test_state_may_be_written_into_and_replaced() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.SGD([w], lr=1.0, momentum=1.0)
    optimizer.step(grads=[ONES])
    optimizer.state[w]["momentum_buffer"][...] = 5.0
    optimizer.step(grads=[0 * ONES])
    np.testing.assert_array_equal(w, -6 * ONES)
    optimizer.state[w]["momentum_buffer"] = np.full(3, 2.0)
    optimizer.step(grads=[0 * ONES])
    np.testing.assert_array_equal(w, -8 * ONES)
    del optimizer.state[w]["momentum_buffer"]
    optimizer.step(grads=[ONES])
    np.testing.assert_array_equal(w, -9 * ONES)
    optimizer.state.clear()
    optimizer.step(grads=[ONES])
    np.testing.assert_array_equal(w, -10 * ONES)


def test_step_count_may_be_set() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[ONES])
    for value in (9, 9.0, np.array(9), np.float32(9)):
        optimizer.state[w]["step"] = value
        optimizer.step(grads=[ONES])
        assert optimizer.state[w]["step"] == 10


def test_state_replaced_as_a_whole() -> None:
    import collections

    w = cyoptim.Parameter(np.zeros(3), grad=ONES)
    optimizer = cyoptim.Adam([w])
    optimizer.step()
    optimizer.state = collections.defaultdict(dict)
    optimizer.step()
    assert optimizer.state[w]["step"] == 1


def test_state_is_found_by_identity() -> None:
    a, b = np.zeros(3), np.zeros(3)
    optimizer = cyoptim.Adam([a, b])
    optimizer.step(grads=[ONES, None])
    assert a in optimizer.state
    assert b not in optimizer.state
    assert [p is a for p in optimizer.state] == [True]
    assert optimizer.state[b] == {}
    assert len(optimizer.state) == 2


def test_options_toggled_midway() -> None:
    # State that an option asks for is made when it is first needed.
    w = np.zeros(3)
    optimizer = cyoptim.Adam([w], lr=0.1)
    optimizer.step(grads=[ONES])
    optimizer.param_groups[0]["amsgrad"] = True
    optimizer.step(grads=[ONES])
    assert set(optimizer.state[w]) == {"step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
    assert optimizer.state[w]["step"] == 2

    v = np.zeros(3)
    sgd = cyoptim.SGD([v], lr=1.0, dampening=0.5)
    sgd.step(grads=[ONES])
    sgd.param_groups[0]["momentum"] = 0.9
    sgd.step(grads=[ONES])
    np.testing.assert_array_equal(sgd.state[v]["momentum_buffer"], ONES)


# --- state_dict -----------------------------------------------------------------------------------


@every_variant()
def test_state_dict_continues_the_run(card: Card, options: Options) -> None:
    shapes = card.shapes([(5,), (2, 3)])
    start, grads = trajectory_inputs(shapes, np.float64, 12, seed=2)
    expected = runs.run(card, options, start, grads)
    params = [cyoptim.Parameter(a.copy()) for a in start]
    first = card.cls(params, **options)
    for g in grads[:5]:
        advance(card, first, params, g)
    second = card.cls(params)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for g in grads[5:]:
        advance(card, second, params, g)
    np.testing.assert_array_equal(params[0].data, expected[0])
    np.testing.assert_array_equal(params[1].data, expected[1])


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_state_dict_numbers_a_parameter_by_its_first_place() -> None:
    a, b = np.zeros(3), np.zeros(3)
    optimizer = cyoptim.Adam([a, b, a])
    optimizer.step(grads=[ONES, None, None])
    saved = optimizer.state_dict()
    assert saved["param_groups"][0]["params"] == [0, 1, 0]
    assert list(saved["state"]) == [0]
    # What is loaded into other parameters goes to the first of them, as in torch.
    c, d, e = np.zeros(3), np.zeros(3), np.zeros(3)
    other = cyoptim.Adam([c, d, e])
    other.load_state_dict(saved)
    assert [p in other.state for p in (c, d, e)] == [True, False, False]


def test_load_state_dict_copies() -> None:
    w, v = np.zeros(3), np.zeros(3)
    a, b = cyoptim.Adam([w]), cyoptim.Adam([v])
    a.step(grads=[ONES])
    saved = a.state_dict()
    b.load_state_dict(saved)
    b.step(grads=[ONES])
    assert a.state[w]["step"] == 1
    assert saved["state"][0]["step"] == 1
    assert not np.shares_memory(a.state[w]["exp_avg"], b.state[v]["exp_avg"])


def test_load_state_dict_copies_what_belongs_to_no_parameter() -> None:
    optimizer = cyoptim.SGD([np.zeros(3)])
    note = {"seen": [1, 2]}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {"note": note}})
    note["seen"].append(3)
    assert optimizer.state["note"] == {"seen": [1, 2]}


def test_load_state_dict_takes_options_and_keeps_parameters() -> None:
    w = np.zeros(3)
    a = cyoptim.SGD([w], lr=0.25, momentum=0.5)
    b = cyoptim.SGD([w], lr=1.0)
    b.load_state_dict(a.state_dict())
    assert b.param_groups[0]["lr"] == 0.25
    assert b.param_groups[0]["momentum"] == 0.5
    assert b.param_groups[0]["params"][0] is w
    assert a.param_groups[0] is not b.param_groups[0]


def test_state_dict_of_older_versions_lacks_options() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.AdamW([w])
    optimizer.step(grads=[ONES])
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["param_groups"][0]["decoupled_weight_decay"]
    del saved["param_groups"][0]["maximize"]
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert optimizer.param_groups[0]["maximize"] is False


def test_adam_state_loaded_into_adamw_decays_decoupled() -> None:
    w = np.zeros(3)
    optimizer = cyoptim.AdamW([w])
    optimizer.load_state_dict(cyoptim.Adam([w]).state_dict())
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True


def test_state_of_another_precision_is_cast() -> None:
    w64, w32 = np.zeros(3), np.zeros(3, np.float32)
    a, b = cyoptim.Adam([w64]), cyoptim.Adam([w32])
    a.step(grads=[ONES])
    b.load_state_dict(a.state_dict())
    assert b.state[w32]["exp_avg"].dtype == np.float32
    b.step(grads=[ONES.astype(np.float32)])
    assert b.state[w32]["step"] == 2


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@every_variant()
@pytest.mark.parametrize("make", [cyoptim.Parameter, lambda a: a], ids=["parameter", "array"])
def test_copies_continue_alike(make: Any, card: Card, options: Options, copier: Any) -> None:
    shape = card.fit((5,))
    w = make(np.linspace(-1, 1, 5).reshape(shape))
    optimizer = card.cls([("w", w)], **options)
    for k in range(3):
        advance(card, optimizer, [w], [np.full(shape, 1.0 + k)], ARRAYS)
    twin = copier(optimizer)
    other = twin.param_groups[0]["params"][0]
    assert other is not w
    for k in range(3):
        advance(card, optimizer, [w], [np.full(shape, 1.0 - k)], ARRAYS)
        advance(card, twin, [other], [np.full(shape, 1.0 - k)], ARRAYS)
    np.testing.assert_array_equal(np.asarray(w), np.asarray(other))
    assert repr(twin) == repr(optimizer)
    assert set(twin.state[other]) == set(optimizer.state[w])


# --- Parameter ------------------------------------------------------------------------------------


def test_parameter_acts_as_its_array() -> None:
    a = np.arange(6.0).reshape(2, 3)
    p = cyoptim.Parameter(a)
    x = np.array([1.0, 2.0, 3.0])
    for value, expected in (
        (p @ x, a @ x),
        (x @ p.T, x @ a.T),
        (p + p, a + a),
        (1 - p, 1 - a),
        (-p, -a),
        (p**2, a**2),
        (np.exp(p), np.exp(a)),
        (p[0], a[0]),
        (p == a, a == a),
        (np.concatenate([p, p]), np.concatenate([a, a])),
        (np.asarray(p), a),
        (p.sum(axis=0), a.sum(axis=0)),
    ):
        assert type(value) is np.ndarray
        np.testing.assert_array_equal(value, expected)
    assert np.shares_memory(np.asarray(p), a)
    assert p.data is a
    assert np.array(p, dtype=np.float32).dtype == np.float32
    assert (p.shape, p.dtype, p.ndim, p.size, len(p)) == ((2, 3), a.dtype, 2, 6, 2)
    assert p in {p}
    assert hash(p) != hash(cyoptim.Parameter(a))


def test_parameter_in_place_operators_write_into_the_array() -> None:
    a = np.zeros(3)
    p = same = cyoptim.Parameter(a)
    p += 1
    p -= np.array([0.0, 0.5, 1.0])
    p[2] = 7.0
    np.add(p, 1, out=p)
    assert p is same
    np.testing.assert_array_equal(a, [2.0, 1.5, 8.0])


def test_parameter_refuses_what_is_no_array() -> None:
    for bad in ([1.0], 1.0, None):
        with pytest.raises(TypeError, match="Parameter holds a NumPy array, got"):
            cyoptim.Parameter(bad)  # type: ignore[arg-type]
    p = cyoptim.Parameter(np.zeros(3))
    with pytest.raises(TypeError, match="a gradient is an array, .* or None, got list"):
        p.grad = [1.0]
    with pytest.raises(AttributeError):
        _ = p.no_such_attribute


def test_parameter_copies() -> None:
    p = cyoptim.Parameter(np.ones(3), grad=np.zeros(3))
    for twin in (copy.deepcopy(p), pickle.loads(pickle.dumps(p))):
        assert type(twin) is cyoptim.Parameter
        assert not np.shares_memory(twin.data, p.data)
        np.testing.assert_array_equal(twin.data, p.data)
        np.testing.assert_array_equal(twin.grad, p.grad)
    assert "Parameter([1., 1., 1.])" in repr(p)


def test_a_name_for_two_parameters_of_a_group_is_refused() -> None:
    a, b = np.ones(2), np.ones(2)
    with pytest.raises(ValueError, match="two parameters of param group 0 have the name 'w'"):
        cyoptim.SGD([("w", a), ("w", b)])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        cyoptim.SGD([("w", a), ("w", a)])


def test_gradients_by_a_name_that_occurs_in_two_groups() -> None:
    a, b = np.ones(2), np.ones(2)
    optimizer = cyoptim.SGD([{"params": [("w", a)]}, {"params": [("w", b)]}], lr=0.1)
    with pytest.raises(ValueError, match="grads is a dict, but two parameters have the name 'w'"):
        optimizer.step(grads={"w": np.ones(2)})
    optimizer.step(grads=[np.ones(2), None])
    assert a[0] == 0.9
    assert b[0] == 1
