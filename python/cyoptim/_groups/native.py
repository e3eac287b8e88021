"""The native rules of an optimizer."""

from __future__ import annotations

from typing import Any

from cyoptim._engine import RULES, Rule


def rules_of(optimizer: Any) -> list[Rule]:
    """The native rules by which a class may step a parameter."""
    names = optimizer._rules or (optimizer._rule,)
    return [RULES[name] for name in names if name is not None]
