"""What the table of rules says of each rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine
from cyoptim._engine import RULES
from cyoptim.kernel import Kernel
from tests.support.cards import CAUTIOUS, NATIVE, Card, Options
from tests.support.parametrize import every_card, every_variant


def test_scalars_are_named() -> None:
    adam = RULES["adam"]
    assert adam.scalars[:7] == ("sign", "l2", "shrink", "beta1", "beta2", "eps", "lr")
    assert adam.computed == {*adam.scalars[7:]}
    assert adam.states == ("exp_avg", "exp_avg_sq")
    assert RULES["sgd"].computed == frozenset()
    assert RULES["asgd"].computed == {"eta", "mu", "shrink"}
    assert RULES["sgd_momentum"].computed == {"gain"}


def test_numbers_are_those_of_the_table() -> None:
    assert [rule.number for rule in RULES.values()] == list(range(len(RULES)))
    assert [rule.name for rule in RULES.values()] == list(RULES)


@every_variant(NATIVE)
def test_every_scalar_is_an_option_or_the_clocks(card: Card, options: Options) -> None:
    optimizer = card.cls([np.zeros(1)], **options)
    (group,) = optimizer.param_groups
    rule = RULES[optimizer._rule_of(group)]
    values = dict(zip(rule.scalars, rule.values(group), strict=True))
    given = {name: name.removesuffix("_if_given") for name in values if "_if_given" in name}
    unset = {name for name, option in given.items() if group[option] is None}
    assert {name for name, value in values.items() if value != value} == rule.computed | unset
    assert values["sign"] == (-1.0 if group.get("maximize") else 1.0)
    if "lr" in values:
        assert values["lr"] == group["lr"]


@every_card(NATIVE)
def test_an_option_that_is_gone_is_told(card: Card) -> None:
    optimizer = card.cls([np.zeros(1)])
    (group,) = optimizer.param_groups
    rule = RULES[optimizer._rule_of(group)]
    may_be_absent = CAUTIOUS | {*rule.group_numbers}
    for name in ({*group} & {*rule.scalars}) - may_be_absent:
        value = group.pop(name)
        with pytest.raises(KeyError, match=f"options of param group 0: '{name}'"):
            optimizer.step(grads=[card.form(np.ones(1))])
        group[name] = value
    optimizer.step(grads=[card.form(np.ones(1))])


@every_card()
def test_who_has_a_rule(card: Card) -> None:
    optimizer = card.cls([np.zeros((1, 1))])
    assert (optimizer._rule_of(optimizer.param_groups[0]) in RULES) == NATIVE(card)


def test_decay_apart_from_the_gradient() -> None:
    group = cyoptim.AdamW([np.zeros(1)], lr=0.1, weight_decay=0.5).param_groups[0]
    values = dict(zip(RULES["adam"].scalars, RULES["adam"].values(group), strict=True))
    assert (values["l2"], values["shrink"]) == (0.0, 0.95)


def test_what_state_begins_with() -> None:
    assert RULES["rprop"].start_of("step_size", {"lr": 0.25}) == 0.25
    assert RULES["rprop"].start_of("prev", {"lr": 0.25}) == 0.0
    assert RULES["nadam"].start_of("mu_product", {}) == 1.0
    assert RULES["adagrad"].start_of("sum", {"initial_accumulator_value": 2}) == 2.0


@pytest.mark.thread_unsafe(reason="changes the table of rules")
def test_a_forged_rule_reaches_no_kernel() -> None:
    about: dict[str, Any] = {"number": 99_999, "scalars": ("sign",), "computed": frozenset()}
    about |= {
        "states": (),
        "carried": (),
        "numbers": (),
        "scope": 0,
        "measures": False,
        "combines": False,
        "constants": {},
    }
    with pytest.raises(ValueError, match="has 33 scalars, expected 32 or fewer"):
        _engine.Rule("long", about | {"scalars": ("x",) * 33})  # type: ignore[call-arg]
    forged = _engine.Rule("forged", about)  # type: ignore[call-arg]

    class Strange(cyoptim.SGD):
        def _rule_of(self, group: Any) -> str:
            return "forged"

    w = np.zeros(2)
    RULES["forged"] = forged
    try:
        with pytest.raises(ValueError, match="there is no rule 'forged'"):
            Strange([w]).step(grads=[np.ones(2)])
        with pytest.raises(ValueError, match="there is no rule 'forged'"):
            Kernel(Strange)
    finally:
        del RULES["forged"]
    assert not w.any()
    adam = RULES["adam"]
    adam.__init__("adam", about)  # type: ignore[misc, call-arg]
    assert adam.number == list(RULES).index("adam")
