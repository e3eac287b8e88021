"""The float32 values of parameters of 16 bits, whose lower bits are in the state of each part."""

from __future__ import annotations

from typing import Any

from cyoptim._arrays.doors import foreign_array
from cyoptim._engine import Commit
from cyoptim._groups.groups import labels_of
from cyoptim._saving.masters import aligned_weights, checked_weight, master_weights, prepare_weights
from cyoptim._state.mapping import in_kind


def collected(shard: Any) -> list[Any]:
    """The values of all parameters, as every rank gets them."""
    found = []
    for number, value in enumerate(master_weights(shard.inner)):
        whole = shard.whole(number, foreign_array(value, "a value"))
        found.append(in_kind(shard.params[number], {"": whole})[""])
    return found


def prepare_parts(sharded: Any, weights: Any) -> tuple[Commit, list[bool]]:
    """What gives this rank's parts their values, and which parameters get one."""
    shard, groups = sharded._shard, sharded.param_groups
    given = aligned_weights(weights, groups)
    parts: list[Any] = []
    for number, (value, label) in enumerate(zip(given, labels_of(groups), strict=True)):
        if value is None:
            parts.append(None)
            continue
        whole = checked_weight(value, shard.params[number], shard.arrays[number], label)
        first, stop = shard.layout.parts[sharded._ranks.rank][number]
        parts.append(whole.reshape(-1)[first:stop].reshape(shard.parts[number].shape))
    commit = shard.inner._turn.write("set_master_weights()", prepare_weights, shard.inner, parts)
    return commit, [value is not None for value in given]
