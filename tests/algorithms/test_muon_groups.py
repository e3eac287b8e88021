"""Groups of MuonWithAuxAdam: their two kinds, changes between them, and rules that make them."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest

from cyoptim import MuonWithAuxAdam, param_groups


def test_each_kind_has_its_own_defaults() -> None:
    params = {"W": np.ones((4, 3)), "bias": np.ones(6)}
    muon, adam = MuonWithAuxAdam(
        [
            {"params": [params["W"]], "use_muon": True},
            {"params": [params["bias"]], "use_muon": False},
        ]
    ).param_groups
    assert muon.keys() >= {"lr", "momentum", "weight_decay", "ns_steps", "use_muon"}
    assert (muon["lr"], muon["momentum"], muon["weight_decay"]) == (0.02, 0.95, 0)
    assert adam.keys() == {"params", "use_muon", "lr", "betas", "eps", "weight_decay", "maximize"}
    assert (adam["lr"], adam["betas"], adam["eps"], adam["weight_decay"]) == (
        3e-4,
        (0.9, 0.95),
        1e-10,
        0,
    )
    assert "betas" not in muon


def test_a_group_says_which_it_is() -> None:
    w = np.ones((2, 2))
    for make in (
        lambda: MuonWithAuxAdam([w]),
        lambda: MuonWithAuxAdam([{"params": [w], "use_muon": True}]).add_param_group(
            {"params": [np.ones((2, 2))]}
        ),
    ):
        with pytest.raises(ValueError, match=r"param group [01] has no 'use_muon': write"):
            make()
    for kind in ("no", None):
        with pytest.raises(TypeError, match="use_muon must be True or False, got"):
            MuonWithAuxAdam([{"params": [w], "use_muon": kind}])


@pytest.mark.parametrize(
    ("kind", "option"),
    [(True, "betas"), (True, "eps"), (False, "momentum"), (False, "ns_steps"), (False, "layout")],
)
def test_a_group_has_no_options_of_the_other_kind(kind: bool, option: str) -> None:
    message = f"param group 1 has an option '{option}' that MuonWithAuxAdam does not know where"
    optimizer = MuonWithAuxAdam([{"params": [np.ones((2, 2))], "use_muon": True}])
    with pytest.raises(TypeError, match=f"{message} use_muon is {kind}"):
        optimizer.add_param_group({"params": [np.ones((2, 2))], "use_muon": kind, option: 0.9})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("shape", [(3,), ()])
def test_a_vector_is_no_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(
        ValueError,
        match=r"parameter 1 \('b'\) of group 0 has shape "
        + re.escape(str(shape))
        + ", expected two dimensions or more where use_muon is True: put it into a group with",
    ):
        MuonWithAuxAdam([{"params": {"W": np.ones((2, 2)), "b": np.ones(shape)}, "use_muon": True}])


def test_complex_parameters_are_adams() -> None:
    w, b = np.ones((2, 2), complex), np.ones(2, complex)
    MuonWithAuxAdam([{"params": [b], "use_muon": False}]).step(grads=[1j * b])
    assert (b != 1).all()
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True}])
    with pytest.raises(TypeError, match="does not support complex parameters"):
        optimizer.step(grads=[1j * w])
    np.testing.assert_array_equal(w, 1)


def test_a_group_may_change_its_kind() -> None:
    w = np.ones((2, 2))
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True}])
    optimizer.step(grads=[np.eye(2)])
    optimizer.param_groups[0]["use_muon"] = False
    before = w.copy()
    with pytest.raises(ValueError, match="group 0: 'betas' is missing, with use_muon=False"):
        optimizer.step(grads=[np.eye(2)])
    np.testing.assert_array_equal(w, before)
    optimizer.param_groups[0].update(betas=(0.9, 0.95), eps=1e-10)
    optimizer.step(grads=[np.eye(2)])
    assert {*optimizer.state[w]} == {"momentum_buffer", "step", "exp_avg", "exp_avg_sq"}


def test_each_kind_goes_on_with_its_own_state() -> None:
    # Each is what an optimizer of its kind alone does, which is given the same values.
    rng = np.random.default_rng(0)
    w = rng.standard_normal((3, 4))
    alone = [w.copy(), w.copy()]
    others = [MuonWithAuxAdam([{"params": [p], "use_muon": bool(k)}]) for k, p in enumerate(alone)]
    options: dict[str, Any] = {**others[1].param_groups[0], **others[0].param_groups[0]}
    rates = [other.param_groups[0]["lr"] for other in others]
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": False}])
    optimizer.param_groups[0].update({k: v for k, v in options.items() if k != "params"})
    for kind in (False, True, True, False, True, False, False, True):
        grad = rng.standard_normal((3, 4))
        optimizer.param_groups[0].update(use_muon=kind, lr=rates[kind])
        alone[kind][...] = w
        optimizer.step(grads=[grad])
        others[kind].step(grads=[grad])
        np.testing.assert_array_equal(w, alone[kind])
    assert optimizer.state[w]["step"] == 4
    again = MuonWithAuxAdam([{"params": [w.copy()], "use_muon": True}])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    found = again.state_dict()["state"][0]["exp_avg"]
    np.testing.assert_array_equal(found, optimizer.state[w]["exp_avg"])


@pytest.mark.parametrize("was", [True, False])
@pytest.mark.parametrize(
    ("becomes", "error"),
    [
        (None, TypeError),
        ("no", TypeError),
        ([], TypeError),
        ("other", ValueError),
        (..., TypeError),
    ],
)
def test_a_group_that_may_not_change_its_kind(was: bool, becomes: Any, error: Any) -> None:
    w = np.ones((3, 4))
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": was}])
    optimizer.step(grads=[w.copy()])
    group, before = optimizer.param_groups[0], w.copy()
    group["use_muon"] = not was if becomes == "other" else becomes
    if becomes is ...:
        del group["use_muon"]
    found = "is missing, with use_muon" if becomes == "other" else "use_muon must be True or False"
    with pytest.raises(error, match=f"options of param group 0: .*{found}"):
        optimizer.step(grads=[w.copy()])
    np.testing.assert_array_equal(w, before)
    group["use_muon"] = was
    optimizer.step(grads=[w.copy()])


def test_a_vector_in_a_group_that_becomes_muons() -> None:
    b, w = np.ones(3), np.ones((2, 2))
    optimizer = MuonWithAuxAdam(
        [{"params": {"b": b}, "use_muon": False}, {"params": {"W": w}, "use_muon": True}]
    )
    optimizer.step(grads=[b, w])
    group, other = optimizer.param_groups
    group.update({k: v for k, v in other.items() if k not in group} | {"use_muon": True})
    before = b.copy()
    message = r"parameter 0 \('b'\) of group 0 has shape \(3,\), expected two dimensions or more"
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads=[b, w])
    np.testing.assert_array_equal(b, before)


# --- groups by rules ------------------------------------------------------------------------------

NET = {
    "embed": {"W": np.ones((4, 2))},
    "blocks": {"0": {"W": np.ones((2, 2)), "bias": np.ones(2)}},
    "head": {"W": np.ones((2, 3)), "bias": np.ones(3)},
}


def kinds(found: list[dict[str, Any]]) -> dict[str, bool]:
    return {name: group["use_muon"] for group in found for name, _ in group["params"]}


def test_param_groups_marks_matrices() -> None:
    found = param_groups(NET, muon={})
    assert kinds(found) == {
        name: name.endswith("W")
        for name in ("embed.W", "blocks.0.W", "blocks.0.bias", "head.W", "head.bias")
    }
    found = param_groups(NET, lr=1e-3, no_decay=1, muon={"lr": 0.02, "momentum": 0.9}, not_muon=("embed", "head"))  # fmt: skip
    assert [name for name, muon in kinds(found).items() if muon] == ["blocks.0.W"]
    optimizer = MuonWithAuxAdam(found)
    rates = {n: g["lr"] for g in optimizer.param_groups for n in g["param_names"]}
    assert rates == {n: 0.02 if n == "blocks.0.W" else 1e-3 for n in rates}
    assert [g["momentum"] for g in optimizer.param_groups if g["use_muon"]] == [0.9]
    optimizer.step(grads=NET)


def test_param_groups_scales_both_rates() -> None:
    found = param_groups(NET, lr=1e-3, lr_scale={"blocks": 0.5}, muon={"lr": 0.02}, not_muon=("embed", "head"))  # fmt: skip
    rates = {name: g["lr"] for g in found for name, _ in g["params"]}
    assert rates == {
        "embed.W": 1e-3,
        "blocks.0.W": 0.01,
        "blocks.0.bias": 5e-4,
        "head.W": 1e-3,
        "head.bias": 1e-3,
    }
    assert all("use_muon" not in group for group in param_groups(NET, lr=1e-3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"not_muon": "embed"}, ValueError, "not_muon needs muon"),
        ({"muon": 0.02}, TypeError, "muon must be a dict of options, got float"),
        ({"muon": {"use_muon": True}}, ValueError, "muon holds 'use_muon'"),
        ({"muon": {"lr": -1}}, ValueError, r"muon\['lr'\] must be finite and at least 0"),
        ({"muon": {}, "not_muon": "ebmed"}, ValueError, "not_muon: 'ebmed' is in no name"),
        ({"muon": {}, "not_muon": 1.5}, TypeError, "not iterable|not_muon takes names"),
    ],
)
def test_wrong_rules_for_muon(arguments: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        param_groups(NET, **arguments)
