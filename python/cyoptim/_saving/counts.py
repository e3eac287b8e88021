"""Step counts of groups, in the states of packages that count so; ours count for each parameter."""

from __future__ import annotations

from typing import Any

from cyoptim._types import Group, StateDict


def with_counts_of_groups(state_dict: StateDict) -> StateDict:
    """A state dict of ours whose groups have the largest step count of their parameters."""
    groups = []
    for group in state_dict["param_groups"]:
        states = [state_dict["state"].get(key, {}) for key in group["params"]]
        counts = [s["step"] for s in states if isinstance(s, dict) and "step" in s]
        groups.append({**group, "step": max(map(int, counts))} if counts else group)
    return {**state_dict, "param_groups": groups}


def with_counts_of_parameters(state_dict: StateDict) -> StateDict:
    """A state dict in which the step count of a group is that of its parameters that have none."""
    state: dict[Any, Any] = dict(state_dict["state"])
    groups: list[Group] = []
    for group in state_dict["param_groups"]:
        groups.append({name: value for name, value in group.items() if name != "step"})
        for key in group["params"] if "step" in group else ():
            entries = state.get(key)
            if isinstance(entries, dict) and entries:
                state[key] = {"step": group["step"], **entries}
    return {**state_dict, "state": state, "param_groups": groups}
