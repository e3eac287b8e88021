"""Options of optimizers in NumPy's forms: at construction, in groups, and written later."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CHECKED, Card, Options
from tests.support.parametrize import every_variant
from tests.support.runs import ARRAYS, advance

FORMS: dict[str, Callable[[Any], Any]] = {
    "scalar": lambda value: np.array(value)[()],
    "one axis": lambda value: np.array([value]),
    "two axes": lambda value: np.array([[value]]),
}


def in_form(form: str, value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return np.array(value)
    return FORMS[form](value) if isinstance(value, (bool, int, float)) else value


def run(card: Card, options: Options, written: Options | None = None) -> np.ndarray:
    """Where some steps lead; `written` is written into the group before."""
    w = np.linspace(-1, 1, 6).reshape(2, 3)
    optimizer = card.cls([w], **options)
    optimizer.param_groups[0].update(written or {})
    for _ in range(7):
        advance(card, optimizer, [w], [2 * w], ARRAYS)
    (group,) = optimizer.state_dict()["param_groups"]
    json.dumps(group)
    for key, value in group.items():
        if not isinstance(value, (list, tuple)):
            assert value is None or type(value) in (bool, int, float, str), (key, value)
    return w


@pytest.mark.parametrize("form", FORMS)
# Arrays of an optimizer of one's own stay arrays: see below.
@every_variant(CHECKED)
def test_every_option_may_be_numpys(card: Card, options: Options, form: str) -> None:
    given = {key: in_form(form, value) for key, value in options.items()}
    expected = run(card, options)
    np.testing.assert_array_equal(run(card, given), expected)
    if "decouple_lr" in options and card.takes("max_lr"):  # the constructor would fill it in
        options, given = ({**each, "max_lr": each["lr"]} for each in (options, given))
    np.testing.assert_array_equal(run(card, {}, given), run(card, {}, options))


@pytest.mark.parametrize("form", FORMS)
def test_groups_and_defaults_hold_pythons_numbers(form: str) -> None:
    options = {"lr": 0.5, "betas": (0.5, 0.25), "weight_decay": 1.0, "amsgrad": True}
    given = {key: in_form(form, value) for key, value in options.items()}
    w, v = np.zeros(2), np.zeros(2)
    optimizer = cyoptim.Adam([{"params": [w], **given}])
    optimizer.add_param_group({"params": [v], **given})
    other = cyoptim.Adam([w], **given)
    for found in (*optimizer.param_groups, *other.param_groups, other.defaults):
        for key, value in options.items():
            assert found[key] == value
            assert type(found[key]) is type(value)
    state = optimizer.state_dict()
    state["param_groups"][0].update(given)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.25)
    assert type(optimizer.param_groups[0]["lr"]) is float


def test_an_array_that_is_the_rate_stays_in_the_group() -> None:
    lr = np.array(0.5)
    optimizer = cyoptim.SGD([np.zeros(2)], lr=lr)
    assert optimizer.param_groups[0]["lr"] is optimizer.defaults["lr"] is lr
    assert optimizer.state_dict()["param_groups"][0]["lr"] is lr


def test_arrays_of_an_optimizer_of_ones_own_stay_arrays() -> None:
    class Own(cyoptim.Optimizer):
        def __init__(self, params: Any, scale: Any, lr: Any) -> None:
            super().__init__(params, {"scale": scale, "lr": lr})

        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= group["lr"] * group["scale"] * grad

    scale = np.array([2.0])
    optimizer = Own([np.zeros(1)], scale, np.float64(0.5))
    assert optimizer.param_groups[0]["scale"] is scale
    assert type(optimizer.param_groups[0]["lr"]) is float


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"momentum": np.zeros(2)},
            TypeError,
            "momentum is an array of shape .2,., expected one n",
        ),
        ({"momentum": np.ma.masked}, (TypeError, ValueError), "momentum"),
        ({"lr": np.ma.array([1.0], mask=[True])}, (TypeError, ValueError), "learning rate"),
        ({"momentum": np.array(["a"])}, TypeError, "momentum must be a number"),
        ({"weight_decay": np.array([-1.0])}, ValueError, "Invalid weight_decay value"),
        ({"lr": np.array([np.nan])}, ValueError, "Invalid learning rate"),
    ],
)
def test_arrays_that_are_no_number(options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        cyoptim.SGD([np.zeros(2)], **options)


@pytest.mark.parametrize("form", FORMS)
def test_arguments_of_a_step_and_of_averages_may_be_numpys(form: str) -> None:
    make = FORMS[form]
    w, g = np.zeros(2), np.array([3.0, 4.0])
    optimizer = cyoptim.SGD([w], lr=1.0)
    average = optimizer.ema(make(0.5))
    assert (average.decay, type(average.decay)) == (0.5, float)
    average.decay = make(0.25)
    assert average.decay == 0.25
    optimizer.step(grads=[g], max_norm=make(1.0), grad_scale=make(2.0))
    np.testing.assert_allclose(w, [-0.6, -0.8], rtol=1e-5)
    assert optimizer.last_step.total_norm == 2.5
