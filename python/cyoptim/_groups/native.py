"""The native rules of an optimizer."""

from __future__ import annotations

from typing import Any

from cyoptim._engine import RULES, Rule, rule_of
from cyoptim._types import Group


def rules_of(optimizer: Any) -> list[Rule]:
    """The native rules by which a class may step a parameter."""
    names = optimizer._rules or (optimizer._rule,)
    return [RULES[name] for name in names if name is not None]


def rule_for(optimizer: Any, group: Group) -> Rule | None:
    """The native rule that steps a group, or will once the optimizer steps: it may be in a mode in
    which it does not. None: it has none."""
    rules = rules_of(type(optimizer))
    if len(rules) == 1 and not optimizer._has_update():
        return rules[0]
    return rule_of(optimizer, group)
