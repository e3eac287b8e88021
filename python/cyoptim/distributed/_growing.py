"""New groups: all parameters are cut anew, and the state of the ranks moves with them."""

from __future__ import annotations

from itertools import count, islice
from types import SimpleNamespace
from typing import Any

from cyoptim._engine import Commit, widened
from cyoptim._groups.groups import parameters_of
from cyoptim._types import Group
from cyoptim.distributed._contents import assembled, contents_of_ranks
from cyoptim.distributed._lanes import Lanes
from cyoptim.distributed._loading import cut_for
from cyoptim.distributed._shard import Shard


def move_state(sharded: Any, new: Shard, groups: list[Group]) -> None:
    """Give a new shard, whose first parameters are those of the old one, the state of the old one.

    Every rank calls this; nothing of the old one changes.
    """
    old, ranks = sharded._shard, sharded._ranks
    files = old.inner._turn.files
    if files is not None:
        new.inner.map_state(files.folder)
    has_any = bool(len(old.inner.state)) or old.inner._average is not None
    if not ranks.unite([1] if has_any else []):
        return
    # Gradients that wait stay with their parameters, which do not move.
    before = SimpleNamespace(
        param_groups=sharded.param_groups, _ranks=ranks, _shard=old, _sums=Lanes()
    )
    after = SimpleNamespace(
        param_groups=groups, _ranks=ranks, _shard=new, _foreign_count=sharded._foreign_count
    )
    saved = assembled(ranks, contents_of_ranks(before))
    numbers = count()
    saved["param_groups"] = [
        {**sharded._plain_group(group), "params": [*islice(numbers, len(group["params"]))]}
        for group in groups
    ]
    if "averages" in saved:
        values = saved["averages"]["values"]
        for number in range(len(values), len(new.arrays)):
            values[number] = widened(new.arrays[number])
    commit = Commit()
    new.inner._prepare_load(cut_for(after, saved), commit)
    commit.run()
    _begin_states(new.inner)


def _begin_states(inner: Any) -> None:
    """Make the state that a class makes of new groups, where it has not been loaded."""
    commit = Commit()
    inner._prepare_groups(inner._plan, commit)
    commit.run()


def begin_averages(shard: Shard, start: int) -> None:
    """Let the averages of parameters, from a number on, begin at their values."""
    average = shard.inner._average
    if average is not None:
        shard.fill()
        for number, part in enumerate(parameters_of(shard.inner.param_groups)):
            if number >= start:
                average._entries[id(part)][1][...] = widened(shard.parts[number])
