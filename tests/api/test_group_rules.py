"""Groups by rules over the names of the parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import param_groups

NET = {
    "embed": {"W": np.ones((4, 2))},
    "blocks": {
        "0": {"W": np.ones((2, 2)), "bias": np.ones(2), "LayerNorm": np.ones(2)},
        "1": {"W": np.ones((2, 2)), "bias": np.ones(2), "LayerNorm": np.ones(2)},
    },
    "head": {"W": np.ones((2, 1)), "bias": np.ones(1)},
}
NAMES = [
    "embed.W",
    *(f"blocks.{k}.{name}" for k in (0, 1) for name in ("W", "bias", "LayerNorm")),
    *("head.W", "head.bias"),
]


def options(groups: list[dict[str, Any]], option: str, default: Any = None) -> dict[str, Any]:
    return {name: g.get(option, default) for g in groups for name, _ in g["params"]}


def test_nested_dicts_become_pairs_that_share_memory() -> None:
    (group,) = param_groups(NET)
    assert [name for name, _ in group["params"]] == NAMES
    assert group["params"][0][1] is NET["embed"]["W"]
    assert set(group) == {"params"}


@pytest.mark.parametrize(
    "rule",
    [
        ("bias", "norm"),
        1,
        lambda name, param: param.ndim == 1,
        ["BIAS", lambda name, param: "Norm" in name],
    ],
)
def test_no_decay(rule: Any) -> None:
    groups = param_groups(NET, no_decay=rule)
    assert len(groups) == 2
    decay = options(groups, "weight_decay", "the optimizer's")
    assert decay == {n: "the optimizer's" if n.endswith("W") else 0.0 for n in NAMES}
    optimizer = cyoptim.AdamW(groups, weight_decay=0.1)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]


def test_a_parameter_without_decay_does_not_decay() -> None:
    net = {"W": np.ones(3), "bias": np.ones(3)}
    optimizer = cyoptim.SGD(param_groups(net, no_decay="bias"), lr=0.5, weight_decay=0.2)
    optimizer.step(grads={name: np.zeros(3) for name in net})
    np.testing.assert_allclose(net["W"], 0.9, rtol=1e-15)
    np.testing.assert_array_equal(net["bias"], 1.0)


def test_layer_decay() -> None:
    lr = options(param_groups(NET, lr=0.8, layer_decay=0.5), "lr")
    expected = {"embed": 0.1, "blocks.0": 0.2, "blocks.1": 0.4, "head": 0.8}
    assert lr == {name: expected[name.rpartition(".")[0]] for name in NAMES}


def test_layers_need_not_be_numbered_from_zero_or_in_order() -> None:
    pairs = [(f"{k}.w", np.ones(1)) for k in (30, 10, 20, 10)]
    pairs[3] = ("10.b", np.ones(1))
    lr = options(param_groups(pairs, lr=1.0, layer_decay=0.5), "lr")
    assert lr == {"30.w": 1.0, "20.w": 0.5, "10.w": 0.25, "10.b": 0.25}


def test_lr_scale() -> None:
    groups = param_groups(NET, lr=1.0, lr_scale={"blocks": 0.5, "Norm": 0.1}, no_decay="norm")
    lr = options(groups, "lr")
    assert lr["embed.W"] == lr["head.bias"] == 1.0
    assert lr["blocks.0.bias"] == 0.5
    assert lr["blocks.1.LayerNorm"] == 0.05
    assert len(groups) == 3  # equal options, one group
    by_function = param_groups(NET, lr=2.0, lr_scale=lambda name, param: 1 / param.ndim)
    assert options(by_function, "lr")["head.W"] == 1.0


def test_schedules_keep_the_ratios() -> None:
    optimizer = cyoptim.SGD(param_groups(NET, lr=0.8, layer_decay=0.5))
    scheduler = cyoptim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.1)
    optimizer.step(grads={name: None for name in NAMES})
    scheduler.step()
    np.testing.assert_allclose(scheduler.get_last_lr(), [0.01, 0.02, 0.04, 0.08], rtol=1e-12)


def test_a_torch_module(torch: Any) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Linear(2, 1))
    groups = param_groups(net, lr=0.1, no_decay=1, layer_decay=0.5)
    assert sum(len(g["params"]) for g in groups) == len(list(net.parameters()))
    assert options(groups, "lr")["0.weight"] == pytest.approx(0.025)
    net(torch.ones(4, 3)).sum().backward()
    cyoptim.AdamW(groups).step()


@pytest.mark.parametrize(
    ("params", "arguments", "error", "message"),
    [
        ({}, {}, ValueError, "named_params holds no parameters"),
        (3, {}, TypeError, "named_params must be a dict, pairs or a module, got int"),
        ([np.ones(2)], {}, TypeError, "must hold (name, parameter) pairs, got numpy.ndarray"),
        ({"w": [1.0]}, {}, TypeError, "'w.0' in named_params is no parameter: float"),
        (
            NET,
            {"no_decay": "nrom"},
            ValueError,
            "no_decay: 'nrom' is in no name; there are embed.W",
        ),
        (NET, {"no_decay": [1.5]}, TypeError, "no_decay takes names, numbers of dimensions"),
        (NET, {"layer_decay": 0.5}, ValueError, "layer_decay needs lr"),
        (NET, {"lr_scale": {"W": 2.0}}, ValueError, "lr_scale needs lr"),
        (NET, {"lr": 1, "layer_decay": 0}, ValueError, "layer_decay must be greater than 0, got 0"),
        (NET, {"lr": 1, "layer_decay": "x"}, TypeError, "layer_decay must be a number, got str"),
        (NET, {"lr": float("nan")}, ValueError, "lr must be finite and at least 0, got nan"),
        (NET, {"lr": 1, "lr_scale": {"V": 2}}, ValueError, "lr_scale: 'V' is in no name"),
        (NET, {"lr": 1, "lr_scale": {"W": -1}}, ValueError, "lr_scale['W'] must be finite"),
        (NET, {"lr": 1, "lr_scale": 2}, TypeError, "lr_scale must be a mapping or a function"),
        (
            NET,
            {"lr": 1, "lr_scale": lambda name, param: None},
            TypeError,
            "lr_scale of 'embed.W' must be a number, got NoneType",
        ),
        ({"w": np.ones(1)}, {"lr": 1, "layer_decay": 0.5}, ValueError, "layer_decay: no name has"),
    ],
)
def test_what_is_refused(params: Any, arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as raised:
        param_groups(params, **arguments)
    assert message in str(raised.value)


def rates(*names: str) -> dict[str, float]:
    groups = param_groups([(name, np.ones(1)) for name in names], lr=1.0, layer_decay=0.5)
    return options(groups, "lr")


def test_the_layer_is_the_first_number_of_a_name() -> None:
    assert rates("blocks.0.experts.7.w", "blocks.1.experts.0.w") == {
        "blocks.0.experts.7.w": 0.5,
        "blocks.1.experts.0.w": 1.0,
    }


def test_what_has_no_number_belongs_below_the_first_layer_or_above_it() -> None:
    found = rates("embed", "0.w", "norm", "1.w", "head")
    assert found == {"embed": 0.125, "0.w": 0.25, "norm": 1.0, "1.w": 0.5, "head": 1.0}


def test_a_digit_that_is_no_number_is_none() -> None:
    assert rates("x².w", "0.w", "1.w") == {"x².w": 0.25, "0.w": 0.5, "1.w": 1.0}


@pytest.mark.parametrize(
    "arguments",
    [
        {"no_decay": True},
        {"lr": True},
        {"lr": 1, "layer_decay": True},
        {"lr": 1, "lr_scale": {"w": True}},
    ],
)
def test_a_switch_is_no_number(arguments: Any) -> None:
    with pytest.raises(TypeError, match="got True|got bool"):
        param_groups({"0": {"w": np.ones(1)}}, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"lr": np.inf}, {"lr": 1, "layer_decay": np.inf}, {"lr": 1, "lr_scale": {"w": np.inf}}],
)
def test_infinity_is_refused(arguments: Any) -> None:
    with pytest.raises(ValueError, match="must be finite and at least 0, got inf"):
        param_groups({"0": {"w": np.ones(1)}}, **arguments)


@pytest.mark.parametrize(
    "note",
    ["name", "initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"],
)
def test_what_schedulers_note_in_a_group_gives_no_warning(note: str, recwarn: Any) -> None:
    cyoptim.SGD([{"params": [np.ones(1)], note: 0.5}], lr=0.1)
    assert not recwarn.list


@pytest.mark.parametrize("make", [np.float64, np.array, lambda v: np.array([v])])
def test_numbers_of_numpy(make: Any) -> None:
    expected = param_groups(NET, lr=0.5, layer_decay=0.5, lr_scale={"head": 0.25})
    found = (
        param_groups(NET, lr=make(0.5), layer_decay=make(0.5), lr_scale=lambda name, p: make(1.0)),
        param_groups(NET, lr=make(0.5), layer_decay=make(0.5), lr_scale={"head": make(0.25)}),
    )
    assert [group["lr"] for group in found[1]] == [group["lr"] for group in expected]
    assert {type(group["lr"]) for groups in found for group in groups} == {float}
