"""States of the packages that optimizers beyond torch's come from: they load here, and ours there."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import Card
from tests.support.parametrize import every_card, lets_packages_age


def from_a_package(card: Card) -> bool:
    return card.source is not None and "." in card.source.cls


def source_of(card: Card) -> Any:
    """The package's class, or its twin; without the package the test is skipped."""
    assert card.source is not None
    try:
        return card.source.load()
    except ImportError as error:
        pytest.skip(str(error))


@lets_packages_age
@every_card(from_a_package)
def test_states_go_both_ways(torch: Any, card: Card) -> None:
    theirs = source_of(card)
    rng = np.random.default_rng(1)
    ours, others = (
        [
            torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
            for shape in ((3, 4), (5,))
        ]
        for _ in range(2)
    )
    mine, other = card.cls(ours, lr=0.01), theirs(others, lr=0.01)

    def step_both() -> None:
        for _ in range(3):
            for a, b in zip(ours, others, strict=True):
                a.grad = torch.from_numpy(rng.standard_normal(tuple(a.shape)))
                b.grad = a.grad.clone()
            mine.step()
            other.step()
        for a, b in zip(ours, others, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)

    step_both()
    mine = card.cls(ours, lr=0.01)
    mine.load_state_dict(copy.deepcopy(other.state_dict()))
    step_both()
    other = theirs(others, lr=0.01)
    other.load_state_dict(copy.deepcopy(mine.state_dict()))
    step_both()


def stepped(steps: int) -> tuple[Any, np.ndarray]:
    w = np.array([1.0, -2.0, 3.0])
    optimizer = cyoptim.Lamb([w], lr=0.1)
    for k in range(steps):
        optimizer.step(grads=[np.array([1.0, 2.0, -1.0]) + k])
    return optimizer, w


@pytest.mark.parametrize("count", [3, 3.0, np.array(3.0, np.float32)])
def test_a_step_count_of_a_group_is_that_of_its_parameters(count: Any) -> None:
    optimizer, w = stepped(3)
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["param_groups"][0]["step"] == 3
    del saved["state"][0]["step"]
    saved["param_groups"][0]["step"] = count
    again = w.copy()
    other = cyoptim.Lamb([again])
    other.load_state_dict(saved)
    assert "step" not in other.param_groups[0]
    assert other.state[again]["step"] == 3
    for one, p in ((optimizer, w), (other, again)):
        one.step(grads=[np.ones_like(p)])
    np.testing.assert_array_equal(w, again)


def test_a_parameters_own_count_goes_before_its_groups() -> None:
    optimizer, w = stepped(3)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0]["step"] = 7
    optimizer.load_state_dict(saved)
    assert optimizer.state[w]["step"] == 3


def test_an_option_that_is_not_here_is_refused() -> None:
    optimizer, w = stepped(1)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0].update(caution=False, corrected_weight_decay=False)
    optimizer.load_state_dict(saved)
    saved["param_groups"][0]["corrected_weight_decay"] = True
    before = w.copy()
    with pytest.raises(ValueError, match="group 0: corrected_weight_decay=True is not supported"):
        optimizer.load_state_dict(saved)
    np.testing.assert_array_equal(w, before)


@pytest.mark.parametrize("option", ["kahan_sum", "gradient_release"])
def test_a_state_of_optimi_keeps_its_betas(option: str) -> None:
    w = np.array([1.0, -2.0, 3.0])
    optimizer = cyoptim.StableAdamW([w], betas=(0.8, 0.9))
    optimizer.step(grads=[np.ones(3)])
    saved = copy.deepcopy(optimizer.state_dict())
    (group,), (entries,) = saved["param_groups"], saved["state"].values()
    group["beta1"], group["beta2"] = group.pop("betas")
    group.update(setup=True, triton=None, kahan_sum=None, gradient_release=False)
    entries.update(eps_sq=np.array(1e-12), kahan_comp=None)
    other = cyoptim.StableAdamW([w])
    other.load_state_dict(saved)
    assert other.param_groups[0]["betas"] == (0.8, 0.9)
    assert {*other.param_groups[0]} == {*optimizer.param_groups[0]}
    assert {*other.state[w]} == {*optimizer.state[w]}
    group[option] = True
    with pytest.raises(ValueError, match=f"{option}=True is not supported"):
        other.load_state_dict(saved)
