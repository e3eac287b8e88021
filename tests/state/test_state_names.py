"""What has a name is matched by name: states, averages, and lists that have been edited."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CLOSURE, ONE_GROUP, Card
from tests.support.parametrize import every_card

WAYS = ["load_state_dict", ".npz", ".safetensors"]


def moved(optimizer: Any, source: Any, how: str, folder: Path) -> None:
    """Take over the state of another optimizer."""
    if how == "load_state_dict":
        optimizer.load_state_dict(copy.deepcopy(source.state_dict()))
    else:
        cyoptim.save(folder / f"run{how}", optimizer=source)
        cyoptim.load(folder / f"run{how}", optimizer=optimizer)


def gradients(step: int, names: str = "abc") -> dict[str, Any]:
    rng = np.random.default_rng(step)
    return {name: rng.standard_normal((3, 2)) for name in names}


def step(card: Card, optimizer: Any, grads: dict[str, Any]) -> None:
    if CLOSURE(card):
        optimizer.step(lambda: (sum(float(g.sum()) for g in grads.values()), grads))
    else:
        optimizer.step(grads={name: card.form(g) for name, g in grads.items()})


@pytest.mark.parametrize("how", WAYS)
@every_card()
def test_state_follows_names(card: Card, how: str, tmp_path: Path) -> None:
    def run(order: str) -> dict[str, Any]:
        params = {n: np.full((3, 2), float(ord(n))) for n in "abc"}
        optimizer = card.cls(params.items(), lr=0.1, **card.history)
        for k in range(3):
            step(card, optimizer, gradients(k))
        other = card.cls([(n, params[n]) for n in order], lr=0.1)
        moved(other, optimizer, how, tmp_path)
        for k in range(3, 6):
            step(card, other, gradients(k))
        return params

    expected, found = run("abc"), run("cab")
    for n in "abc":
        # L-BFGS adds inner products up in the order of the parameters.
        close = 1e-12 if ONE_GROUP(card) else 0
        np.testing.assert_allclose(found[n], expected[n], rtol=close, atol=close)


@pytest.mark.parametrize("how", WAYS)
def test_averages_follow_names(how: str, tmp_path: Path) -> None:
    first = cyoptim.SGD([("a", np.zeros(2)), ("b", np.zeros(2))], lr=1.0)
    first.ema(0.5)
    first.step(grads={"a": np.ones(2), "b": np.full(2, 10.0)})
    a, b = np.zeros(2), np.zeros(2)
    second = cyoptim.SGD([("b", b), ("a", a)], lr=1.0)
    average = second.ema(0.5)
    moved(second, first, how, tmp_path)
    assert average["a"][0] == -1
    assert average["b"][0] == -10
    with second.averaged():
        assert (a[0], b[0]) == (-1, -10)


def test_groups_are_found_by_their_names() -> None:
    def build(order: list[str]) -> tuple[dict[str, Any], Any]:
        params = {n: np.zeros(1) for n in "abc"}
        groups = [{"params": [(n, params[n]) for n in names]} for names in order]
        return params, cyoptim.SGD(groups, lr=1.0, momentum=0.5)

    _, first = build(["ab", "c"])
    first.param_groups[1]["lr"] = 7.0
    first.step(grads={"a": np.ones(1), "b": np.full(1, 2.0), "c": np.full(1, 3.0)})
    _, second = build(["c", "ba"])
    second.load_state_dict(first.state_dict())
    assert [group["lr"] for group in second.param_groups] == [7.0, 1.0]
    assert [group["param_names"] for group in second.param_groups] == [["c"], ["b", "a"]]
    buffers = [
        [second.state[p]["momentum_buffer"][0] for p in g["params"]] for g in second.param_groups
    ]
    assert buffers == [[3.0], [2.0, 1.0]]


BAD = {
    "another name": ([("a", 0), ("d", 1)], "has no parameter 'd' and has 'b', which the optimizer"),
    "one more here": ([("a", 0), ("b", 1), ("c", 2)], "match the size|has no parameter 'c'"),
    "one less here": ([("a", 0)], "has 'b', which the optimizer does not have"),
}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("case", BAD)
def test_other_names_are_refused(case: str, how: str, tmp_path: Path) -> None:
    entries, message = BAD[case]
    first = cyoptim.SGD([("a", np.zeros(2)), ("b", np.zeros(2))], lr=1.0, momentum=0.9)
    first.step(grads=[np.ones(2), np.ones(2)])
    second = cyoptim.SGD([(n, np.zeros(2)) for n, _ in entries], lr=0.5)
    before = copy.deepcopy(second.state_dict())
    with pytest.raises(ValueError, match=message):
        moved(second, first, how, tmp_path)
    assert repr(second.state_dict()) == repr(before)


def test_names_in_other_groups_are_refused() -> None:
    def build(order: list[str]) -> Any:
        return cyoptim.SGD([{"params": [(n, np.zeros(1)) for n in names]} for names in order])

    with pytest.raises(ValueError, match="'a' and 'b' are in groups 0 and 1 of the loaded"):
        build(["ab", "c"]).load_state_dict(build(["ac", "b"]).state_dict())


def test_names_that_are_none_are_refused() -> None:
    optimizer = cyoptim.SGD([np.zeros(1), np.zeros(1)])
    state = optimizer.state_dict()
    state["param_groups"][0]["param_names"] = [None, None]
    with pytest.raises((TypeError, ValueError)):
        optimizer.load_state_dict(state)
    optimizer.state_dict()


def test_names_that_occur_twice_cannot_be_matched() -> None:
    def build(order: str) -> Any:
        return cyoptim.SGD([(n, np.zeros(1)) for n in order])

    state = build("ab").state_dict()
    state["param_groups"][0]["param_names"] = ["b", "b"]
    with pytest.raises(ValueError, match="2 parameters of the name 'b'"):
        build("ba").load_state_dict(state)


@pytest.mark.parametrize("named", ["neither", "saved", "own"])
def test_order_decides_where_names_are_missing(named: str) -> None:
    def build(with_names: bool, order: str) -> Any:
        params = [(n, np.zeros(1)) for n in order]
        return cyoptim.SGD(params if with_names else [p for _, p in params], lr=1.0, momentum=0.5)

    first, second = build(named == "saved", "ab"), build(named == "own", "ba")
    first.step(grads=[np.ones(1), np.full(1, 2.0)])
    second.load_state_dict(first.state_dict())
    buffers = [second.state[p]["momentum_buffer"][0] for p in second.param_groups[0]["params"]]
    assert buffers == [1.0, 2.0]
    expected = {"neither": None, "saved": ["a", "b"], "own": ["b", "a"]}[named]
    assert second.param_groups[0].get("param_names") == expected


# --- lists that have been edited ------------------------------------------------------------------


def named() -> tuple[dict[str, Any], Any]:
    params = {n: np.zeros(2) for n in "abc"}
    return params, cyoptim.SGD(params.items(), lr=1.0)


EDITS: dict[str, Any] = {
    "first out": lambda p: [p["b"], p["c"]],
    "last out": lambda p: [p["a"], p["b"]],
    "reversed": lambda p: [p["c"], p["b"], p["a"]],
    "one alone": lambda p: [p["b"]],
}


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("edit", EDITS)
def test_names_follow_their_parameters(edit: str, warm: bool) -> None:
    params, optimizer = named()
    if warm:
        optimizer.step(grads={})
    left = EDITS[edit](params)
    optimizer.param_groups[0]["params"] = left
    grads = {n: np.full(2, float(ord(n))) for n, p in params.items() if any(p is q for q in left)}
    optimizer.step(grads=grads)
    for n, p in params.items():
        assert p[0] == (-ord(n) if n in grads else 0)
    assert len(optimizer.param_groups[0]["param_names"]) == len(left)


def test_a_gradient_of_a_parameter_that_is_gone_is_refused() -> None:
    params, optimizer = named()
    del optimizer.param_groups[0]["params"][0]
    with pytest.raises(ValueError, match="an entry 'a', but the parameters are b, c"):
        optimizer.step(grads={"a": np.ones(2)})
    assert not any(p.any() for p in params.values())


def test_a_parameter_in_the_place_of_another_takes_its_name() -> None:
    params, optimizer = named()
    new = np.zeros(2)
    optimizer.param_groups[0]["params"][1] = new
    optimizer.step(grads={"b": np.ones(2)})
    assert new[0] == -1
    assert params["b"][0] == 0


def test_a_new_parameter_needs_a_name() -> None:
    params, optimizer = named()
    new = np.zeros(2)
    optimizer.param_groups[0]["params"].append(new)
    for grads in ([np.ones(2)] * 4, {"a": np.ones(2)}):
        with pytest.raises(ValueError, match="parameter 3 is new and has none; edit"):
            optimizer.step(grads=grads)
    assert not any(p.any() for p in params.values())
    optimizer.param_groups[0]["param_names"].append("d")
    optimizer.step(grads={"d": np.ones(2)})
    assert new[0] == -1


def test_both_lists_may_be_edited_together() -> None:
    params, optimizer = named()
    group = optimizer.param_groups[0]
    group["params"], group["param_names"] = [params["c"], params["a"]], ["z", "a"]
    optimizer.step(grads={"z": np.ones(2)})
    assert (params["c"][0], params["a"][0]) == (-1, 0)


def test_edited_lists_are_saved_and_loaded_by_name() -> None:
    _, optimizer = named()
    del optimizer.param_groups[0]["params"][0]
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["b", "c"]
    other = cyoptim.SGD([("c", np.zeros(2)), ("b", np.zeros(2))], lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["lr"] == 1.0
    assert copy.deepcopy(optimizer).param_groups[0]["param_names"] == ["b", "c"]


def test_averages_of_edited_lists_keep_their_names() -> None:
    params, optimizer = named()
    average = optimizer.ema(0.5)
    optimizer.step(grads={n: np.full(2, float(ord(n))) for n in params})
    optimizer.param_groups[0]["params"].reverse()
    optimizer.step(grads={})
    for n in params:
        assert average[n][0] == -ord(n)


def test_a_parameter_that_comes_back_has_its_name_again() -> None:
    params, optimizer = named()
    group = optimizer.param_groups[0]
    group["params"] = [params["b"], params["c"]]
    optimizer.step(grads={"b": np.ones(2)})
    group["params"].append(params["a"])
    optimizer.step(grads={"a": np.full(2, 5.0)})
    assert [params[n][0] for n in "abc"] == [-5, -1, 0]


@pytest.mark.slow
def test_parameters_that_are_gone_are_let_go() -> None:
    import gc
    import weakref

    params, optimizer = named()
    gone = weakref.ref(params.pop("a"))
    del optimizer.param_groups[0]["params"][0]
    optimizer.step(grads={"b": np.ones(2)})
    gc.collect()
    assert gone() is None


# --- averages by call -----------------------------------------------------------------------------


def tree(order: str, scale: float) -> dict[str, Any]:
    return {n: {"w": np.full(2, ord(n) * scale)} for n in order}


def test_averaged_models_are_matched_by_name() -> None:
    average = cyoptim.swa_utils.AveragedModel(tree("ab", 0.0))
    average.update_parameters(tree("ba", 1.0))
    average.update_parameters(tree("ba", 3.0))
    for n in "ab":
        assert average.module[n]["w"].tolist() == [2.0 * ord(n)] * 2
    other = cyoptim.swa_utils.AveragedModel(tree("ba", 0.0))
    other.load_state_dict(average.state_dict())
    assert other.module["a"]["w"][0] == 2.0 * ord("a")


@pytest.mark.parametrize("order", ["a", "abc", "ac"])
def test_averaged_models_of_other_names_are_refused(order: str) -> None:
    average = cyoptim.swa_utils.AveragedModel(tree("ab", 1.0))
    other = cyoptim.swa_utils.AveragedModel(tree(order, 2.0))
    for call in (
        lambda: average.update_parameters(tree(order, 2.0)),
        lambda: average.load_state_dict(other.state_dict()),
    ):
        with pytest.raises(ValueError, match="has no parameter|which the average does not have"):
            call()
    assert average.module["a"]["w"][0] == ord("a")
    assert average.n_averaged == 0


def test_averages_of_modules_are_matched_by_name() -> None:
    torch = pytest.importorskip("torch")

    def module(order: str, scale: float) -> Any:
        found = torch.nn.Module()
        for n in order:
            found.register_parameter(n, torch.nn.Parameter(torch.full((2,), ord(n) * scale)))
        found.register_buffer("count" + order[0], torch.full((1,), scale))
        return found

    average = cyoptim.swa_utils.AveragedModel(module("ab", 0.0))
    with pytest.raises(
        ValueError, match="has 'countb', which the average does not have|no parameter"
    ):
        average.update_parameters(module("ba", 1.0))
    other = module("ba", 1.0)
    del other.countb
    other.register_buffer("counta", torch.ones(1))
    average.update_parameters(other)
    assert average.module.a.tolist() == [97.0, 97.0]
    wrapped = torch.nn.Module()
    wrapped.add_module("inner", module("ab", 3.0))
    average.update_parameters(wrapped)
    assert average.module.a.tolist() == [194.0, 194.0]
    with pytest.raises(ValueError, match="'c', which the average does not have"):
        average.update_parameters(module("ac", 1.0))


@pytest.mark.slow
def test_files_restore_torchs_optimizers_by_name(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def build(order: str) -> tuple[dict[str, Any], Any]:
        params = {n: torch.nn.Parameter(torch.zeros(2)) for n in order}
        return params, torch.optim.SGD([*params.items()], lr=0.1, momentum=0.9)

    params, first = build("ab")
    for n, p in params.items():
        p.grad = torch.full((2,), float(ord(n)))
    first.step()
    cyoptim.save(tmp_path / "run.npz", optimizer=first)
    params, second = build("ba")
    cyoptim.load(tmp_path / "run.npz", optimizer=second)
    assert second.state[params["a"]]["momentum_buffer"][0] == ord("a")


def test_rename_reaches_names_in_trees(tmp_path: Path) -> None:
    def build(name: str) -> tuple[Any, Any]:
        params = {"dense": {name: np.zeros(2)}, "other": {"b": np.zeros(2)}}
        return params, cyoptim.SGD(params, lr=1.0, momentum=0.5)

    params, optimizer = build("W")
    optimizer.step(grads={"dense": {"W": np.ones(2)}})
    cyoptim.save(tmp_path / "run.npz", params=params, optimizer=optimizer)
    params, optimizer = build("weight")
    cyoptim.load(tmp_path / "run.npz", params=params, optimizer=optimizer, rename={"W": "weight"})
    assert params["dense"]["weight"][0] == -1
    assert optimizer.state[params["dense"]["weight"]]["momentum_buffer"][0] == 1
