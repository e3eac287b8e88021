"""Group dicts that more than one optimizer is given: whose options are in them."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import cyoptim


def ones() -> np.ndarray:
    return np.ones(2)


def groups() -> list[dict[str, Any]]:
    """As a user writes them: one group has a rate of its own."""
    return [{"params": [("w", ones())], "lr": 0.01}, {"params": [("b", ones())]}]


def rates(optimizer: Any) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.mark.parametrize("alive", [True, False], ids=["alive", "gone"])
def test_the_second_optimizer_has_options_of_its_own(alive: bool) -> None:
    given = groups()
    first = cyoptim.AdamW(given, lr=0.1, weight_decay=0.3)
    assert first.param_groups[0] is given[0]  # as in torch
    if not alive:
        del first
    second = cyoptim.AdamW(given, lr=0.5)
    assert rates(second) == [0.01, 0.5]
    assert second.param_groups[1]["weight_decay"] == 0.01
    second.param_groups[1]["lr"] = 7.0
    assert given[1]["lr"] == 0.1
    second.step(grads={"w": ones(), "b": ones()})


def test_another_kind_of_optimizer() -> None:
    given = cyoptim.param_groups({"w": np.ones((2, 2)), "b": ones()}, no_decay=1)
    cyoptim.AdamW(given, lr=0.1)
    second = cyoptim.SGD(given, lr=0.5, weight_decay=0.2)
    assert [group["weight_decay"] for group in second.param_groups] == [0.2, 0.0]
    assert "betas" not in second.param_groups[0]


def test_what_a_schedule_has_left_is_not_taken() -> None:
    given = groups()
    first = cyoptim.SGD(given, lr=0.1)
    schedule = cyoptim.lr_scheduler.ExponentialLR(first, 0.5)
    first.step(grads=[ones(), ones()])
    schedule.step()
    assert rates(first) == [0.005, 0.05]
    second = cyoptim.SGD(given, lr=0.2)
    assert rates(second) == [0.01, 0.2]
    assert "initial_lr" not in second.param_groups[0]


def test_one_dict_alone_and_groups_added() -> None:
    one = {"params": [ones()]}
    cyoptim.SGD(one, lr=0.1)
    assert one.keys() == {"params"}  # alone it is no list of groups as in torch, and stays
    assert rates(cyoptim.SGD(one, lr=0.2)) == [0.2]
    other = cyoptim.SGD([ones()], lr=0.3)
    other.add_param_group(one)
    assert rates(other) == [0.3, 0.3]
    assert other.param_groups[1] is one
    assert rates(cyoptim.SGD(one, lr=0.4)) == [0.4]


def test_the_groups_of_an_optimizer_given_to_another() -> None:
    first = cyoptim.Adam(groups(), lr=0.1)
    second = cyoptim.SGD(first.param_groups, lr=0.5)
    assert rates(second) == [0.01, 0.5]
    second.param_groups[1]["lr"] = 7.0
    assert rates(first) == [0.01, 0.1]


def test_what_the_user_writes_in_between_counts() -> None:
    given = groups()
    cyoptim.SGD(given, lr=0.1)
    given[0]["lr"] = 0.4
    assert rates(cyoptim.SGD(given, lr=0.2)) == [0.4, 0.2]


def test_a_group_taken_out_and_put_back_keeps_its_options() -> None:
    optimizer = cyoptim.SGD(groups(), lr=0.1)
    group = optimizer.param_groups.pop()
    group["lr"] = 0.7
    optimizer.add_param_group(group)
    assert optimizer.param_groups[1] is group
    assert rates(optimizer) == [0.01, 0.7]


def test_a_refused_optimizer_leaves_no_trace() -> None:
    given = groups()
    with pytest.raises(ValueError, match="Invalid learning rate"):
        cyoptim.SGD([*given, {"params": [ones()], "lr": -1.0}], lr=0.1)
    assert given[1].keys() == {"params"}
    assert rates(cyoptim.SGD(given, lr=0.2)) == [0.01, 0.2]


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_hold_plain_lists(copier: Any) -> None:
    twin = copier(cyoptim.SGD(groups(), lr=0.1))
    assert type(twin.param_groups[0]["params"]) is list
    twin.step(grads=[ones(), ones()])


# --- wrappers -------------------------------------------------------------------------------------


class Sharp(cyoptim.Optimizer):
    """As the wrappers of sharpness-aware minimization hand their groups on."""

    def __init__(self, params: Any, base: Any, sam_eps: float = 1e-12, **options: Any) -> None:
        super().__init__(params, {"rho": 0.05, "sam_eps": sam_eps, **options})
        self.base = base(self.param_groups, **options)
        self.shared = self.base.param_groups[0] is self.param_groups[0]
        self.param_groups = self.base.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.base.step(closure)


@pytest.mark.parametrize("base", [cyoptim.Adam, cyoptim.SGD, cyoptim.Adagrad, cyoptim.LBFGS])
def test_a_wrapper_hands_its_groups_on(base: Any) -> None:
    w = cyoptim.Parameter(np.zeros(1), grad=np.ones(1))
    optimizer = Sharp([w], base, lr=1.0)
    assert optimizer.shared
    assert optimizer.param_groups[0]["sam_eps"] == 1e-12
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step(lambda: 1.0)
    np.testing.assert_allclose(w, [-0.5])


def test_the_options_of_a_wrapper_reach_the_inner_optimizer() -> None:
    class Silent(cyoptim.Optimizer):
        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr, "eps_of_mine": 1.0})
            self.base = cyoptim.SGD(self.param_groups)  # no options, as they are in the groups

    given = groups()
    optimizer = Silent(given, lr=0.3)
    assert rates(optimizer.base) == [0.01, 0.3]
    assert optimizer.base.param_groups[0] is given[0]
    assert rates(cyoptim.SGD(given, lr=0.2)) == [0.01, 0.2]


class Outer(cyoptim.SGD):
    """Of a user, who may wrap others in it."""


def test_two_inner_optimizers_over_the_same_groups() -> None:
    outer = Outer(groups(), lr=0.3)
    inner = [cyoptim.SGD(outer.param_groups) for _ in range(2)]
    assert all(one.param_groups[1] is outer.param_groups[1] for one in inner)


def test_a_wrapper_adds_a_group_to_both() -> None:
    class Both(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.3, "k_of_mine": 5})
            self.base = cyoptim.SGD(self.param_groups)

    optimizer = Both([ones()])
    group: dict[str, Any] = {"params": [ones()]}
    optimizer.add_param_group(group)
    optimizer.base.add_param_group(group)
    assert optimizer.base.param_groups[1] is optimizer.param_groups[1] is group
    assert group["lr"] == 0.3


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("weigth_decay", "weight_decay"),
        ("weightdecay", "weight_decay"),
        ("wd", "weight_decay"),
        ("momentun", "momentum"),
        ("nestrov", "nesterov"),
        ("LR", "lr"),
        ("learning_rate", "lr"),
    ],
)
def test_misspelt_options(name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"an option '{name}' .*; did you mean '{meant}'"):
        cyoptim.SGD([{"params": [ones()], name: 0.1}])
    with pytest.raises(TypeError, match=f"argument '{name}'; did you mean '{meant}'"):
        cyoptim.SGD([ones()], **{name: 0.1})


@pytest.mark.parametrize("name", ["no_decay", "lr_decay", "layer_decay", "bn_decay", "sam_eps"])
def test_notes_that_resemble_an_option_in_a_word_alone(name: str) -> None:
    with pytest.warns(UserWarning, match=f"an option '{name}' .* is kept and has no effect"):
        optimizer = cyoptim.SGD([{"params": [ones()], name: True}])
    assert optimizer.param_groups[0][name] is True


def test_keys_of_ones_own_begin_with_an_underscore() -> None:
    optimizer = cyoptim.SGD([{"params": [ones()], "_momentun": 1}])
    assert optimizer.state_dict()["param_groups"][0]["_momentun"] == 1
