"""Everything that an optimizer does, over parameters of 16 bits and states of 8."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import Card
from tests.support.formats import FORMATS, numbers, optimizer_with
from tests.support.narrow import takes_narrow
from tests.support.parametrize import every_card

ml_dtypes = pytest.importorskip("ml_dtypes")
pytestmark = pytest.mark.filterwarnings("ignore:.* in float16, which has no numbers")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SHAPE = (32, 256)
DOORS = ("array", "parameter", "tensor")


def param_of(door: str, values: Any) -> Any:
    """A bfloat16 parameter."""
    array = np.asarray(values, BFLOAT16)
    if door == "array":
        return array
    if door == "parameter":
        return cyoptim.Parameter(array)
    torch = pytest.importorskip("torch")
    return torch.from_numpy(array.astype("f4")).bfloat16().requires_grad_()


def step(card: Card, optimizer: Any, door: str, seed: int, **asked: Any) -> None:
    rng = np.random.default_rng(seed)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    grads = [np.asarray(rng.normal(size=tuple(param.shape)), "f4") for param in params]
    if door != "tensor":
        optimizer.step(grads=[card.form(grad) for grad in grads], **asked)
        return
    torch = pytest.importorskip("torch")
    for param, grad in zip(params, grads, strict=True):
        param.grad = torch.from_numpy(grad).bfloat16()
    optimizer.step(**asked)


def bytes_of(optimizer: Any) -> Any:
    """Parameters and state of an optimizer, as bytes."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    weights = [np.asarray(weight).tobytes() for weight in cyoptim.master_weights(optimizer)]
    arrays = [optimizer.state.arrays(param) for param in params]
    return weights, [{name: np.asarray(v).tobytes() for name, v in a.items()} for a in arrays]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("kind", FORMATS)
@every_card(takes_narrow)
def test_everything(card: Card, kind: str, door: str, tmp_path: Any) -> None:
    first = param_of(door, np.random.default_rng(0).normal(size=SHAPE))
    options = {**card.history, "state_dtype": kind}
    optimizer = optimizer_with(card.cls, [("a", first)], options)
    step(card, optimizer, door, 1)
    step(card, optimizer, door, 2, max_norm=1.0, nonfinite="raise")
    optimizer.add_param_group({"params": [("b", param_of(door, np.ones(8)))]})
    step(card, optimizer, door, 3)
    for shown in (optimizer, optimizer.state):
        assert "bfloat16" in repr(optimizer.state)
        assert shown._repr_html_()
    twins = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    state_dict = copy.deepcopy(optimizer.state_dict())
    path = tmp_path / "run.npz"
    cyoptim.save(path, params=[p for g in optimizer.param_groups for p in g["params"]], o=optimizer)
    expected = bytes_of(optimizer)
    assert [bytes_of(twin) for twin in twins] == [expected] * 2
    step(card, optimizer, door, 4)
    after = bytes_of(optimizer)
    for twin in twins:
        step(card, twin, door, 4)
        assert bytes_of(twin) == after
    cyoptim.load(path, params=[p for g in optimizer.param_groups for p in g["params"]], o=optimizer)
    optimizer.load_state_dict(state_dict)
    assert bytes_of(optimizer) == expected
    step(card, optimizer, door, 4)
    assert bytes_of(optimizer) == after


@pytest.mark.parametrize("kind", FORMATS)
def test_adagrad_begins_with_its_accumulator(kind: str) -> None:
    param = np.ones(5000, BFLOAT16)
    optimizer = cyoptim.Adagrad([param], initial_accumulator_value=0.5, state_dtype=kind)
    state = optimizer.state[param]
    np.testing.assert_allclose(numbers("sum", state["sum"], state.get("sum_scale")), 0.5, rtol=1e-6)
    optimizer.add_param_group({"params": [np.ones(4, BFLOAT16)]})


def test_the_authors_z_of_d_adaptation_is_a_number() -> None:
    torch = pytest.importorskip("torch")
    param = torch.ones(5000).bfloat16().requires_grad_()
    optimizer = cyoptim.DAdaptSGD([param], state_dtype="dynamic8")
    for _ in range(3):
        param.grad = torch.ones_like(param)
        optimizer.step()
    state = optimizer.state_dict()["state"][0]
    s = numbers("s", state["s"].numpy(), state["s_scale"].numpy())
    np.testing.assert_allclose(state["z"].numpy(), state["x0"].numpy() - s, rtol=1e-6)


class Own(cyoptim.AdamW):
    """A user's own, with a step."""

    def step(self, closure: Any = None, **asked: Any) -> Any:
        return super().step(closure, **asked)


def optimizers_with_groups(cls: Any, kind: Any) -> tuple[Any, list[Any]]:
    params = [np.ones((8, 8), np.float32), np.ones((64, 80), BFLOAT16)]
    groups: list[Any] = [{"params": params[:1]}, {"params": params[1:], "state_dtype": kind}]
    if cls is cyoptim.MuonWithAuxAdam:
        for group, use_muon in zip(groups, (True, False), strict=True):
            group["use_muon"] = use_muon
    return cls(groups), params


@pytest.mark.parametrize("cls", [cyoptim.MuonWithAuxAdam, Own])
def test_groups_of_which_some_are_narrow(cls: Any, tmp_path: Any) -> None:
    grads = [np.random.default_rng(0).normal(size=s).astype("f4") for s in ((8, 8), (64, 80))]
    first, params = optimizers_with_groups(cls, "dynamic8")
    first.step(grads=grads)
    cyoptim.save(tmp_path / "run.npz", o=first, p=params)
    second, others = optimizers_with_groups(cls, "dynamic8")
    cyoptim.load(tmp_path / "run.npz", o=second, p=others)
    second.load_state_dict(copy.deepcopy(second.state_dict()))
    for optimizer in (first, second):
        optimizer.step(grads=grads)
    assert bytes_of(first) == bytes_of(second)
    assert first.state[params[1]]["exp_avg"].dtype == np.uint8


def test_a_step_of_ones_own_keeps_the_types_of_tensors() -> None:
    torch = pytest.importorskip("torch")
    param = torch.ones(5000).bfloat16().requires_grad_()
    optimizer = Own([param], state_dtype="dynamic8")
    param.grad = torch.ones_like(param)
    optimizer.step()
    types = {name: value.dtype for name, value in optimizer.state[param].items()}
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.step()
    assert {name: value.dtype for name, value in optimizer.state[param].items()} == types
