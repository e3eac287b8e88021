"""Moving averages of the parameters, updated by each step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from cyoptim._arrays.doors import loaded_array, own_part, type_name
from cyoptim._engine import (
    Commit,
    Pace,
    Plan,
    Room,
    in_arithmetic,
    same_layout_as,
    whole_count,
    widened,
)
from cyoptim._groups.groups import labels_of
from cyoptim._groups.options import as_float, check_number, check_switch
from cyoptim._shown import call, table
from cyoptim._state.exchange import array_like
from cyoptim._state.mapping import in_kind
from cyoptim._types import Array, Group

NAME = "average"  # of the arrays, among those of the state
SWAPPED = "parameters and averages have changed places inside averaged(): {} after the block"


class MovingAverage:
    r"""The averages that follow an optimizer's parameters; made by :meth:`Optimizer.ema`.

    At the end of each step :math:`\bar\theta \leftarrow \delta\bar\theta + (1 - \delta)\theta`;
    the first step copies the parameters. Skipped steps do not change the averages.

    Attributes
    ----------
    decay : float
        :math:`\delta`, in [0, 1]; may be changed at any time.
    warmup : bool
        Whether :math:`\delta` is at most :math:`(1 + t) / (10 + t)` at step t.
    steps : int
        The number of averaged steps.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> w = np.array([4.0])
    >>> optimizer = SGD([("w", w)], lr=1.0)
    >>> average = optimizer.ema(decay=0.75)
    >>> for _ in range(3):
    ...     optimizer.step(grads=[np.array([1.0])])  # w = 3, 2, 1
    >>> average["w"], average.steps
    (array([2.3125]), 3)
    """

    def __init__(self, decay: float, warmup: bool) -> None:
        check_switch("warmup", warmup)
        self._pace = Pace(checked_decay(decay), bool(warmup), 0)
        self._names: dict[str, int] = {}
        self._entries: dict[int, tuple[Any, Array]] = {}

    @property
    def decay(self) -> float:
        """The decay of the averages at each step."""
        return self._pace.decay

    @decay.setter
    def decay(self, value: float) -> None:
        self._pace.decay = checked_decay(value)

    @property
    def warmup(self) -> bool:
        """Whether the decay is smaller in the first steps."""
        return self._pace.warmup

    @warmup.setter
    def warmup(self, value: bool) -> None:
        check_switch("warmup", value)
        self._pace.warmup = bool(value)

    @property
    def steps(self) -> int:
        """The number of averaged steps."""
        return self._pace.steps

    def __getitem__(self, param: Any) -> Any:
        """The average of a parameter, given itself or by name; a tensor for a torch tensor."""
        key = self._names.get(param) if isinstance(param, str) else id(param)
        if key not in self._entries:
            what = f"named {param!r}" if isinstance(param, str) else f"({type_name(param)})"
            raise KeyError(f"no parameter of the optimizer is the one {what}")
        param, mean = self._entries[key]
        return in_kind(param, {NAME: mean})[NAME]

    def __iter__(self) -> Iterator[Any]:
        """The averages, in the order of the parameters."""
        return (in_kind(param, {NAME: mean})[NAME] for param, mean in self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def _shown(self) -> dict[str, Any]:
        names = ("decay", "warmup", "steps")
        return {**{name: getattr(self, name) for name in names}, "parameters": len(self)}

    def __repr__(self) -> str:
        return call(type(self).__name__, self._shown())

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self._shown())

    # --- between the optimizer and its plan -------------------------------------------------------

    def attach(self, plan: Plan, groups: list[Group], commit: Commit) -> None:
        """Attach to a plan that will become the optimizer's; averages of new parameters start at
        their values. `commit` will make the change visible."""
        views, labels = plan.arrays(), labels_of(groups)
        params = [param for group in groups for param in group["params"]]
        room = Room([v for v, p in zip(views, params, strict=True) if id(p) not in self._entries])
        entries: dict[int, tuple[Any, Array]] = {}
        for param, view, label in zip(params, views, labels, strict=True):
            if id(param) not in entries:
                entries[id(param)] = param, self._mean_of(param, view, label, room, plan.by_rows)
        plan.follow(self._pace, [entries[id(param)][1] for param in params])
        names = (name for group in groups for name in group.get("param_names", ()))
        numbers = dict(zip(names, map(id, params), strict=False))
        commit.update(vars(self), {"_names": numbers, "_entries": entries})

    def _mean_of(self, param: Any, view: Array, label: str, room: Room, by_rows: bool) -> Array:
        _, mean = self._entries.get(id(param), (None, None))
        known, mean = mean is not None, widened(view) if mean is None else mean
        wanted = in_arithmetic(view, by_rows)
        if mean.shape != view.shape or mean.dtype != wanted.dtype:
            raise ValueError(
                f"the average of {label} has shape {mean.shape} and dtype {mean.dtype}, expected "
                f"{view.shape} and {wanted.dtype}"
            )
        # An average from a memory-mapped file may be read-only.
        if known and mean.flags.writeable and same_layout_as(wanted, mean):
            return mean
        new = room.zeros(NAME, view) if same_layout_as(wanted, view) else wanted
        new[...] = mean
        return new

    def check_unswapped(self, what: str) -> None:
        """Raise while parameters and averages are swapped."""
        if self._pace.swapped:
            raise RuntimeError(SWAPPED.format(what))

    def __reduce__(self) -> tuple[Any, ...]:
        self.check_unswapped("copy or pickle")
        return _rebuilt, (self.decay, self.warmup, self.steps, list(self._entries.values()))

    # --- saving and loading -----------------------------------------------------------------------

    def export(self, numbers: dict[int, int]) -> dict[str, Any]:
        """Its entry in state_dict(); `numbers` are those of the parameters, by identity."""
        values = {numbers[key]: self[param] for key, (param, _) in self._entries.items()}
        return {"decay": self.decay, "warmup": self.warmup, "steps": self.steps, "values": values}

    def twin(self) -> MovingAverage:
        """A copy that shares the arrays, to be changed without effect here."""
        twin = MovingAverage(self.decay, self.warmup)
        twin._pace.steps = self.steps
        twin._names, twin._entries = self._names, self._entries
        return twin

    def adopt(self, other: MovingAverage) -> None:
        """Continue from another's state."""
        self._pace, self._entries = other._pace, other._entries

    def restart(self) -> None:
        """Copy the parameters at the next step."""
        self._pace = Pace(self.decay, self.warmup, 0)


def begin_average(optimizer: Any, average: MovingAverage) -> MovingAverage:
    """Start averages of an optimizer; existing averages continue with the new decay."""
    commit = Commit()
    known: MovingAverage | None = optimizer._average
    if known is not None:
        known.check_unswapped("call ema()")
        commit.set(known._pace, "decay", average.decay)
        commit.set(known._pace, "warmup", average.warmup)
        commit.run()
        return known
    optimizer._settle_names()
    optimizer._plan_for(optimizer.param_groups, optimizer.state, average, commit)
    commit.set(optimizer, "_average", average)
    commit.run()
    return average


def averages_from(means: list[tuple[Any, Array]]) -> MovingAverage:
    """Averages of parameters that have been computed elsewhere."""
    return _rebuilt(0.0, False, 1, means)


def loaded_average(
    saved: Any, keys: list[Any], params: list[Any], views: list[Array], labels: list[str]
) -> MovingAverage:
    """Averages from the result of :meth:`MovingAverage.export`; values are copied.

    `keys` are the saved keys of the parameters.
    """
    if not (
        isinstance(saved, dict)
        and {"decay", "warmup", "steps", "values"} <= saved.keys()
        and isinstance(saved["values"], dict)
    ):
        raise TypeError(
            "'averages' of the state dict must be a dict with decay, warmup, steps and values"
        )
    steps = whole_count(saved["steps"], "the number of steps of the averages")
    if not isinstance(saved["warmup"], (bool, np.bool_, int)):
        raise TypeError(f"warmup of the averages must be True or False, got {saved['warmup']!r}")
    entries = []
    for key, param, view, label in zip(keys, params, views, labels, strict=True):
        if key not in saved["values"]:
            raise ValueError(f"the state dict has averages, but none of {label}")
        value, what = saved["values"][key], f"loaded average of {label}"
        array = loaded_array(own_part(value, param, what), what)
        mean = in_arithmetic(view)
        if array.dtype.kind not in ("f", mean.dtype.kind):
            raise TypeError(f"{what} has dtype {array.dtype}, expected {mean.dtype}")
        mean[...] = array_like(array, view.shape, mean.dtype, what)
        entries.append((param, mean))
    return _rebuilt(saved["decay"], bool(saved["warmup"]), steps, entries)


def continued(average: MovingAverage | None, loaded: MovingAverage | None) -> MovingAverage | None:
    """An optimizer's averages, continued from loaded ones; restarted if there are none."""
    if average is None:
        return loaded
    if loaded is None:
        average.restart()
    else:
        average.adopt(loaded)
    return average


def _rebuilt(
    decay: float, warmup: bool, steps: int, entries: list[tuple[Any, Array]]
) -> MovingAverage:
    average = MovingAverage(decay, warmup)
    average._pace.steps = steps
    average._entries = {id(param): (param, mean) for param, mean in entries}
    return average


def checked_decay(decay: Any) -> float:
    """Refuse a decay that is not a number in [0, 1]."""
    check_number("decay", decay)
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"decay must be in [0, 1], got {decay}")
    return as_float(decay)


def averaging(step: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a subclass's ``step`` to update the averages once after it, however often it calls its
    parent's."""

    @functools.wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        average: MovingAverage | None = self._average
        if average is None:
            return step(self, *args, **kwargs)
        average.check_unswapped("step")
        return average._pace.follow(functools.partial(step, self, *args, **kwargs), self._catch_up)

    return wrapper
