"""Averages of parameters of which each rank has its part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cyoptim._arrays.doors import type_name
from cyoptim._averages.moving import NAME, MovingAverage
from cyoptim._engine import Commit, Plan
from cyoptim._state.mapping import in_kind
from cyoptim._types import Group


class ShardedAverage(MovingAverage):
    """The averages of a sharded optimizer; made by :meth:`Sharded.ema`.

    ``decay``, ``warmup`` and ``steps`` are those of any :class:`cyoptim.MovingAverage`. An average
    itself, by parameter or by name, is collected from all ranks: every rank asks for it.
    """

    def __init__(self, sharded: Any) -> None:
        self._sharded = sharded

    @property
    def _own(self) -> MovingAverage:
        """Those of this rank's parts."""
        own: MovingAverage = self._sharded._shard.inner._average
        return own

    @property
    def _pace(self) -> Any:  # type: ignore[override]
        return self._own._pace

    def _number_of(self, param: Any) -> int | None:
        groups = self._sharded.param_groups
        if isinstance(param, str):
            names = [name for group in groups for name in group.get("param_names", ())]
            return names.index(param) if param in names else None
        every = (one for group in groups for one in group["params"])
        return next((i for i, one in enumerate(every) if one is param), None)

    def __getitem__(self, param: Any) -> Any:
        """The average of a parameter, given itself or by name; a tensor for a torch tensor."""
        number = self._number_of(param)
        if number is None:
            what = f"named {param!r}" if isinstance(param, str) else f"({type_name(param)})"
            raise KeyError(f"no parameter of the optimizer is the one {what}")
        return self._sharded._average_of(number)

    def __iter__(self) -> Iterator[Any]:
        """The averages, in the order of the parameters."""
        return (self._sharded._average_of(number) for number in range(len(self)))

    def __len__(self) -> int:
        return len(self._sharded._shard.params)

    def attach(self, plan: Plan, groups: list[Group], commit: Commit) -> None:
        """Nothing: the averages follow the parts."""

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(
            "the averages of a Sharded are parts on several ranks, and cannot be copied or "
            "pickled: take them one by one, [*average]"
        )


def average_of(shard: Any, number: int) -> Any:
    """The whole average of a parameter, as every rank gets it."""
    own = shard.inner._average._entries
    part = [one for group in shard.inner.param_groups for one in group["params"]][number]
    return in_kind(shard.params[number], {NAME: shard.whole(number, own[id(part)][1])})[NAME]
