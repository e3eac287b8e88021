"""The base of optimizers that estimate the distance to the solution, from all parameters."""

from __future__ import annotations

from typing import Any, ClassVar

from cyoptim._engine import Plan
from cyoptim._groups.native import rules_of
from cyoptim._groups.numbers import plain
from cyoptim._groups.options import (
    as_float,
    as_sequence,
    check_groups,
    check_nonnegative,
    check_number,
    check_positive,
    check_switch,
)
from cyoptim._state.mapping import State
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer


class EstimatesDistance(Optimizer):
    """An optimizer whose groups have the same numbers, ``d`` among them, and one size of steps."""

    # Options that all groups must have alike, besides lr and d0.
    _joint_options: ClassVar[tuple[str, ...]] = ()
    # Options of the authors' class that must have their defaults, and why.
    _refused: ClassVar[dict[str, str]] = {
        "fsdp_in_use": "parameters are not sharded",
        "log_every": "read param_groups[0]['d'] after a step",
    }

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        if others:  # whose numbers are those of all
            (rule,) = rules_of(type(self))
            group.update(self._plain_group({n: others[0][n] for n in rule.group_numbers}))
        else:
            begun = {"d", "d_max"} & group.keys() - param_group.keys()
            group.update(dict.fromkeys(begun, group["d0"]))
        return group

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        self._check_agreement(groups)
        return super()._make_plan(groups, state)

    def _check_agreement(self, groups: list[Group]) -> None:
        check_groups(groups[:1], lambda group: check_positive("d0", group["d0"]))
        moving: tuple[float, int] | None = None
        for number, group in enumerate(groups):
            for name in ("d0", *self._joint_options):
                ours, value = groups[0][name], group[name]
                if value is not ours and comparable(value) != comparable(ours):
                    raise ValueError(
                        f"{name!r} is {ours!r} in group 0 and {value!r} in group {number}, "
                        "expected one value for all groups"
                    )
            lr = as_float(group["lr"])
            moving = moving or ((lr, number) if lr != 0 else None)
            if lr != 0 and moving is not None and lr != moving[0]:
                raise ValueError(
                    f"'lr' is {moving[0]} in group {moving[1]} and {lr} in group {number}, "
                    "expected one value for all groups, or 0 in a group that is to stand still"
                )

    def _check_distance(self, group: Group) -> None:
        """Check what they have in common: the numbers of the groups and the options about these."""
        check_positive("d0", group["d0"])
        check_positive("growth_rate", group.get("growth_rate", 1.0))
        check_positive("d", group["d"])
        check_nonnegative("k", group["k"])
        for name in type(self)._signed_numbers():
            check_number(name, group[name])
        check_switch("fsdp_in_use", group["fsdp_in_use"])
        check_number("log_every", group.get("log_every", 0))
        for name, reason in self._refused.items():
            if group.get(name):
                raise ValueError(f"{name}={group[name]} is not supported: {reason}")

    @classmethod
    def _signed_numbers(cls) -> tuple[str, ...]:
        return ("numerator_weighted",)


def comparable(value: Any) -> Any:
    """An option as Python numbers, and a tuple of them."""
    value = as_sequence(plain(value))
    return tuple(map(plain, value)) if isinstance(value, (list, tuple)) else value


def numbers_before_the_first_step(d0: Any, **others: Any) -> dict[str, Any]:
    """The numbers that each group shows from the start on."""
    return {"d": d0, "k": 0, **others}
