"""States of another kind of optimizer are refused; those that torch saves are taken."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME, cards
from tests.support.cards import CHECKED, CLOSURE, TORCH, Card
from tests.support.doors import TensorDoor
from tests.support.parametrize import every_card
from tests.support.runs import ARRAYS, advance

# L-BFGS's state, of all parameters at once, is compared with the others' below.
STATEFUL = cards(~CLOSURE)
PAIRS = [pair for pair in itertools.permutations(STATEFUL, 2) if CHECKED(pair[1])]
every_pair = pytest.mark.parametrize(("source", "target"), PAIRS, ids=str)

# What has all that another needs: torch goes on from these, too.
COMPATIBLE = {
    ("Adam", "AdamW"), ("Adam", "RAdam"), ("Adam", "SparseAdam"),
    ("AdamW", "Adam"), ("AdamW", "RAdam"), ("AdamW", "SparseAdam"),
    ("RAdam", "Adam"), ("RAdam", "AdamW"), ("RAdam", "SparseAdam"),
    ("NAdam", "Adam"), ("NAdam", "AdamW"), ("NAdam", "RAdam"), ("NAdam", "SparseAdam"),
}  # fmt: skip


def stepped(card: Card, param: Any, grad: Any, cls: Any = None) -> Any:
    """An optimizer, by default of ours, that has done a step and keeps what it can."""
    optimizer = (cls or card.cls)([param], lr=0.5, **card.history)
    door = ARRAYS if isinstance(param, np.ndarray) else TensorDoor()
    advance(card, optimizer, [param], [grad], door)
    return optimizer


def of_arrays(card: Card) -> Any:
    return stepped(card, np.ones((3, 2)), np.ones((3, 2)))


def refused(optimizer: Any, state: Any) -> None:
    before = copy.deepcopy(optimizer.state_dict())
    # Or by an entry of the same name that is a number here, and an array there.
    of_another_form = r"loaded state '\w+' of parameter 0 of group 0 [^']*, expected"
    of_another_option = "options of the loaded param group 0: "
    name = type(optimizer).__name__
    message = f"is not that of {name}|{of_another_form}|{of_another_option}"
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == repr(before)


def torch_goes_on(source: Card, target: Card) -> bool | None:
    """Whether it does with this state; None if it has not both."""
    known = TORCH(source) and TORCH(target)
    return (source.name, target.name) in COMPATIBLE if known else None


@every_pair
def test_another_optimizers_state(source: Card, target: Card) -> None:
    state, optimizer = of_arrays(source).state_dict(), of_arrays(target)
    expected = torch_goes_on(source, target)
    if expected is None:
        try:
            of_arrays(target).load_state_dict(copy.deepcopy(state))
            expected = True
        except (TypeError, ValueError):
            expected = False
    if expected:
        optimizer.load_state_dict(state)
        optimizer.step(grads=[target.form(np.ones((3, 2)))])
    else:
        refused(optimizer, state)


@pytest.mark.parametrize(
    ("source", "target"), [pair for pair in PAIRS if all(map(TORCH, pair))], ids=str
)
def test_another_optimizers_state_of_torch(torch: Any, source: Card, target: Card) -> None:
    def made(card: Card, cls: Any) -> Any:
        param = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
        return stepped(card, param, np.ones((3, 2)), cls)

    state = made(source, source.torch_class(torch)).state_dict()
    theirs, ours = made(target, target.torch_class(torch)), made(target, target.cls)
    try:
        theirs.load_state_dict(copy.deepcopy(state))
        params = theirs.param_groups[0]["params"]
        advance(target, theirs, params, [np.ones((3, 2))], TensorDoor())
    except (KeyError, RuntimeError, TypeError):
        refused(ours, state)
    else:
        ours.load_state_dict(state)


@every_card(CHECKED, ~CLOSURE)
def test_lbfgs_and_the_others(card: Card) -> None:
    w = np.ones((3, 2))
    lbfgs = cyoptim.LBFGS([w])
    lbfgs.step(lambda: (float((w * w).sum()), [2 * w]))
    refused(of_arrays(card), lbfgs.state_dict())
    refused(lbfgs, of_arrays(card).state_dict())


@pytest.mark.parametrize("name", ["npz", "safetensors"])
def test_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"run.{name}"
    w = np.ones((3, 2))
    cyoptim.save(path, w=w, optimizer=of_arrays(BY_NAME["Adam"]))
    sgd = cyoptim.SGD([w], lr=0.5, momentum=0.9)
    w[...] = 7.0
    message = (
        "is not that of SGD: param group 0 has no 'momentum', 'dampening'; it looks like that of "
        "Adam or"
    )
    with pytest.raises(ValueError, match=message):
        cyoptim.load(path, w=w, optimizer=sgd)
    assert (w == 7.0).all()
    assert sgd.param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("source", ["Prodigy", "DAdaptAdam"])
@pytest.mark.parametrize("target", ["Adam", "AdamW", "RAdam", "Yogi", "ADOPT", "Lion"])
def test_rates_that_are_factors_of_an_estimate(source: str, target: str) -> None:
    # The 1 of Prodigy would be a rate of 1.
    state = of_arrays(BY_NAME[source]).state_dict()
    optimizer = of_arrays(BY_NAME[target])
    message = rf"not that of {target}: param group 0 has 'd', .*; it looks like that of {source}"
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    refused(optimizer, state)


def test_numbers_of_a_users_own() -> None:
    optimizer = cyoptim.Adam([np.ones(2)])
    saved = optimizer.state_dict()
    saved["param_groups"][0]["k"] = 3
    optimizer.load_state_dict(saved)

    class Own(cyoptim.Adam):
        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            group["d"], group["k"] = 0.5, 1

    own = Own([np.ones(2)])
    own.step(grads=[np.ones(2)])
    own.load_state_dict(copy.deepcopy(own.state_dict()))
    assert own.param_groups[0]["d"] == 0.5


def test_mars_and_lars() -> None:
    w = np.ones((3, 2))
    lars, mars = cyoptim.Lars([w]), cyoptim.MARS([w])
    for grad in (w, w):
        lars.step(grads=[grad])
    with pytest.raises(ValueError, match="not that of MARS: .* no 'betas', 'gamma', 'mars_type'"):
        mars.load_state_dict(lars.state_dict())


def test_half_of_a_state() -> None:
    optimizer = of_arrays(BY_NAME["Adam"])
    for name in ("exp_avg_sq", "step"):
        state = copy.deepcopy(optimizer.state_dict())
        del state["state"][0][name]
        with pytest.raises(ValueError, match=f"the state of a parameter has .* and no '{name}'"):
            optimizer.load_state_dict(state)


def test_groups_of_another_before_the_first_step() -> None:
    with pytest.raises(ValueError, match="it looks like that of SGD"):
        cyoptim.Adam([np.ones(2)]).load_state_dict(cyoptim.SGD([np.ones(2)]).state_dict())


def test_options_that_torch_did_not_have_from_the_beginning() -> None:
    # As torch 1.4 saved it.
    state = {
        "state": {0: {"step": 3, "exp_avg": np.ones(2), "exp_avg_sq": np.ones(2)}},
        "param_groups": [
            {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "params": [0]}
        ],
    }
    optimizer = cyoptim.Adam([np.ones(2)])
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["amsgrad"] is False
    optimizer.step(grads=[np.ones(2)])


def test_momentum_that_has_not_begun() -> None:
    optimizer = cyoptim.SGD([np.ones(2)], momentum=0.9)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {"momentum_buffer": None}}})
    optimizer.step(grads=[np.ones(2)])


def test_notes_of_a_users_own() -> None:
    optimizer = cyoptim.Adam([np.ones(2)])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: {"note": "mine"}}})
    optimizer.step(grads=[np.ones(2)])


def test_a_class_of_ones_own_keeps_what_it_likes() -> None:
    class Own(cyoptim.Adam):
        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            state["exp_avg"] = grad.mean()
            param -= group["lr"] * grad

    optimizer = Own([np.ones(2)])
    optimizer.step(grads=[np.ones(2)])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))


# --- what torch's load_state_dict takes -----------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64", "int8", "bool"])
def test_state_is_cast_as_torch_does(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    w = torch.ones(3, requires_grad=True)
    values = torch.tensor([1.0, 0.0, 1.0]).to(getattr(torch, dtype))
    state = torch.optim.Adam([w]).state_dict()
    state["state"] = {0: {"step": torch.tensor(2.0), "exp_avg": values, "exp_avg_sq": values}}
    for library in (cyoptim, torch.optim):
        optimizer = library.Adam([w])
        optimizer.load_state_dict(copy.deepcopy(state))
        found = optimizer.state[w]["exp_avg"]
        assert found.dtype is torch.float32
        assert found.tolist() == [1.0, 0.0, 1.0]


def test_arrays_are_cast() -> None:
    w = np.ones(2, np.float32)
    optimizer = cyoptim.Adam([w])
    for dtype in (np.float16, np.float64, np.int64, bool):
        moments = np.array([1, 0], dtype)
        state = {0: {"step": 2, "exp_avg": moments, "exp_avg_sq": moments}}
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        assert optimizer.state[w]["exp_avg"].dtype == np.float32
        assert optimizer.state[w]["exp_avg"].tolist() == [1, 0]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_sparse_momentum_buffer() -> None:
    torch = pytest.importorskip("torch")
    grad = torch.sparse_coo_tensor([[0, 2]], [1.0, 2.0], (3,)).coalesce()
    found = []
    for first, second in ((torch.optim, torch.optim), (torch.optim, cyoptim)):
        w = torch.ones(3, requires_grad=True)
        optimizer = first.SGD([w], lr=0.1, momentum=0.9)
        w.grad = grad.clone()
        optimizer.step()
        assert optimizer.state[w]["momentum_buffer"].is_sparse
        other = second.SGD([w], lr=0.1, momentum=0.9)
        other.load_state_dict(optimizer.state_dict())
        w.grad = grad.clone()
        other.step()
        found.append(w.detach())
    torch.testing.assert_close(found[0], found[1])


def test_forms_of_a_state_dict() -> None:
    from collections import OrderedDict

    optimizer = of_arrays(BY_NAME["Adam"])
    state = OrderedDict(copy.deepcopy(optimizer.state_dict()))
    for keys in ((0,), range(1)):
        state["param_groups"][0]["params"] = keys
        optimizer.load_state_dict(state)


class LayerNormalized(cyoptim.Optimizer):
    """One second moment for each parameter, as NovoGrad has."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                state.setdefault("momentum_buffer", {0.9: np.zeros(2)})
                moment = state.get("exp_avg_sq", np.zeros(()))
                state["exp_avg_sq"] = 0.9 * moment + 0.1
                state["momentum_buffer"][0.9] += 1


@pytest.mark.parametrize("how", ["state_dict", "npz"])
def test_names_that_a_built_in_rule_has_for_something_else(how: str, tmp_path: Path) -> None:
    optimizer, other = LayerNormalized([np.ones(2)]), LayerNormalized([np.ones(2)])
    optimizer.step()
    if how == "npz":
        cyoptim.save(tmp_path / "run.npz", optimizer=optimizer)
        cyoptim.load(tmp_path / "run.npz", optimizer=other)
    else:
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    (w,) = other.param_groups[0]["params"]
    assert other.state[w]["exp_avg_sq"] == 0.1
    other.step()
    assert other.state[w]["momentum_buffer"][0.9].tolist() == [2, 2]


def test_a_step_of_ones_own_over_tensors_is_cast_as_torch_does() -> None:
    torch = pytest.importorskip("torch")

    class Own(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            """Nothing."""

    class Theirs(torch.optim.Optimizer):  # type: ignore[misc, name-defined]
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

    w = torch.ones(2)
    entries = {
        "step": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.float16),
        "whole": torch.ones(2, dtype=torch.int64),
        "nested": {"a": [torch.ones(1, dtype=torch.float64)], "step": torch.tensor(1)},
        "number": 5,
    }
    found = []
    for cls in (Own, Theirs):
        optimizer = cls([w])
        optimizer.load_state_dict({**optimizer.state_dict(), "state": {0: entries}})
        found.append(dict(optimizer.state[w]))
    assert repr(found[0]) == repr(found[1])
    assert found[0]["whole"].dtype == torch.float32


@pytest.mark.parametrize("count", [2.5, [1.0, 2.0]])
def test_counts_of_a_step_of_ones_own_stay_as_they_are(count: Any) -> None:
    torch = pytest.importorskip("torch")

    class Own(cyoptim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                self.state[p]["step"] = torch.tensor(count)
                self.state[p]["exp_avg_sq"] = torch.zeros(())

    w = torch.ones(3)
    first, second = Own([w]), Own([w])
    first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert torch.equal(second.state[w]["step"], torch.tensor(count))
    assert second.state[w]["exp_avg_sq"].shape == ()


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_state_of_ones_own_in_files_comes_back_as_tensors(ending: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    class Own(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                state = self.state[p]
                state.setdefault("buffers", {0.9: torch.zeros(2), "deep": [torch.ones(1)]})
                state["buffers"][0.9].add_(1)

    w = torch.ones(3)
    first, second = Own([w]), Own([w])
    first.step()
    cyoptim.save(tmp_path / f"run.{ending}", optimizer=first)
    cyoptim.load(tmp_path / f"run.{ending}", optimizer=second)
    second.step()
    assert torch.equal(second.state[w]["buffers"][0.9], torch.full((2,), 2.0))
    assert torch.equal(second.state[w]["buffers"]["deep"][0], torch.ones(1))


@every_card(CHECKED, ~CLOSURE)
def test_arrays_of_integers_are_cast(card: Card) -> None:
    optimizer = of_arrays(card)
    state = copy.deepcopy(optimizer.state_dict())
    entries = state["state"][0]
    for key, value in entries.items():
        if np.ndim(value):
            entries[key] = np.ones(value.shape, np.int32)
    optimizer.load_state_dict(state)
    optimizer.step(grads=[card.form(np.ones((3, 2)))])


def test_any_mapping_is_a_state_dict() -> None:
    from collections import UserDict

    optimizer = of_arrays(BY_NAME["Adam"])
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["params"] = np.arange(1)
    optimizer.load_state_dict(UserDict(state))  # type: ignore[arg-type]


def named(card: Card, params: list[Any]) -> Any:
    """An optimizer that has done a step, with a group for each parameter."""
    groups = [{"params": [(f"mlp.{i}", p)]} for i, p in enumerate(params)]
    for group, p in zip(groups, params, strict=True):
        if card.name == "MuonWithAuxAdam":
            group["use_muon"] = p.ndim > 1
        if card.name == "AdamMini":
            group["unit"] = "row" if p.ndim > 1 else "element"
    optimizer = getattr(cyoptim, card.name)(groups)
    for _ in range(2):
        optimizer.step(grads=[np.ones_like(p) for p in params])
    return optimizer


WHOLE = ("AdafactorHF", "AdafactorBigVision", "Adafactor", "CAME", "AdamMini", "MuonWithAuxAdam")
# With these alone, an option may have been set since the last step.
BEGUN_LATER = {("AdafactorBigVision", "exp_avg"), ("MuonWithAuxAdam", "momentum_buffer")}


@pytest.mark.parametrize("name", WHOLE)
def test_a_part_of_a_state_is_refused(name: str) -> None:
    params = [np.ones((20, 18)), np.ones(3)]
    optimizer = named(BY_NAME[name], params)
    saved = copy.deepcopy(optimizer.state_dict())
    for key, entries in saved["state"].items():
        for entry in entries:
            part = copy.deepcopy(saved)
            del part["state"][key][entry]
            if (name, entry) in BEGUN_LATER:
                optimizer.load_state_dict(part)
                continue
            with pytest.raises(ValueError, match=rf"not that of {name}: .* and no .*'{entry}'"):
                optimizer.load_state_dict(part)
    optimizer.load_state_dict(saved)
    assert repr(optimizer.state_dict()["state"]) == repr(saved["state"])
    optimizer.step(grads=params)


@pytest.mark.parametrize("name", WHOLE)
def test_no_state_is_no_part_of_one(name: str) -> None:
    params = [np.ones((20, 18)), np.ones(3)]
    optimizer = named(BY_NAME[name], params)
    saved = copy.deepcopy(optimizer.state_dict())
    for state in ({}, {0: {}}, {0: {"note": "mine"}}):
        optimizer.load_state_dict({**copy.deepcopy(saved), "state": state})
        optimizer.step(grads=params)


def test_a_class_of_ones_own_may_keep_a_part_of_a_state() -> None:
    class Own(cyoptim.CAME):
        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            state["exp_avg"] = 0.1 * grad
            param -= state["exp_avg"]

    optimizer = Own([np.ones((2, 3))])
    optimizer.step(grads=[np.ones((2, 3))])
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
