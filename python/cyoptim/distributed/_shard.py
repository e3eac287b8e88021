"""This rank's shard: the parts of the parameters that it steps, and an optimizer over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import is_, is_not
from typing import Any, NamedTuple

import numpy as np

from cyoptim._arrays.doors import announce_update, is_tensor
from cyoptim._engine import Extras, Plan, rule_apart
from cyoptim._groups.groups import parameters_of
from cyoptim._groups.native import rules_of
from cyoptim._step.definition import Definition
from cyoptim._types import Array, Group
from cyoptim.distributed._agreement import Ranks
from cyoptim.distributed._buckets import Memory, as_bytes
from cyoptim.distributed._exchange import Gradients, Kind, Parameters, kind_of
from cyoptim.distributed._layout import Layout, Tensor, blocks
from cyoptim.distributed._words import gradients_in_short

PER_ROW = 1  # the scope of rules that need whole rows
OWN_KEYS = frozenset({"params", "param_names"})  # of a group, which its twin has, too
MOST_PLANS = 8  # of exchanges that are kept, as gradients may be missing
_MISSING = object()


class Settings(NamedTuple):
    """How gradients are joined."""

    order: str
    reduce: str
    comm_dtype: str | None
    bucket_size: int


class Parts(NamedTuple):
    """What the plan of a step is told: where its parameters lie in their tensors, in real numbers,
    and what joins the ranks."""

    places: list[tuple[int, int]]
    ranks: Ranks


class Shard:
    """The parts of this rank.

    Attributes
    ----------
    layout : Layout
        Which part of each parameter each rank has.
    inner : Optimizer
        An optimizer of the user's class over the parts of this rank.
    numbers : frozenset of str
        The numbers of groups that steps advance; empty if the user has written one of them.
    arrays : list of ndarray
        The memory of the parameters.
    """

    def __init__(
        self,
        outer: Any,
        groups: list[Group],
        plan: Plan,
        make: Callable[[list[Group], Parts | None], Any],
    ) -> None:
        self._outer, self._ranks, self._settings = outer, outer._ranks, outer._settings
        self.plan, self.arrays = plan, plan.arrays()
        self.params = [*parameters_of(groups)]
        self._lists = [[*group["params"]] for group in groups]
        whole = [needs_whole(outer, group) for group in groups for _ in group["params"]]
        tensors = [
            Tensor(array.size, array.itemsize, 2 if array.dtype.kind == "c" else 1, need)
            for array, need in zip(self.arrays, whole, strict=True)
        ]
        self.layout = Layout(tensors, self._ranks.size)
        self._alone = [steps_alone(outer, group) for group in groups for _ in group["params"]]
        self._memory = Memory()
        self._gradients: dict[tuple[Any, ...], tuple[Gradients, str]] = {}
        self._parameters: dict[tuple[bool, ...], Parameters] = {}
        self._numbers = frozenset(
            name for rule in rules_of(type(outer)) for name in rule.group_numbers
        )
        self.numbers = self._numbers
        own = [self._part(number) for number in range(len(tensors))]
        self.inner = make(with_parts(groups, own, outer), self._places())
        self._look_at_parts()

    # --- parts ------------------------------------------------------------------------------------

    def _part(self, number: int) -> Any:
        """The parameter of the inner optimizer for a tensor."""
        param, array, tensor = self.params[number], self.arrays[number], self.layout.tensors[number]
        first, stop = self.layout.parts[self._ranks.rank][number]
        whole, straight = self.layout.is_whole(self._ranks.rank, number), array.flags.c_contiguous
        if whole and (straight or not tensor.is_cut or self._ranks.size == 1):
            return param
        shape = array.shape if whole else (stop - first, *(1 for _ in array.shape[1:]))
        if straight:
            return array.reshape(-1)[first:stop].reshape(shape)
        return np.empty(shape, array.dtype)  # which is filled before each step

    def _places(self) -> Parts | None:
        if self._ranks.size == 1:
            return None
        parts = self.layout.parts[self._ranks.rank]
        places = [
            (first * tensor.reals, tensor.size * tensor.reals)
            for (first, _), tensor in zip(parts, self.layout.tensors, strict=True)
        ]
        return Parts(places, self._ranks)

    def _look_at_parts(self) -> None:
        """Note where the parts lie, and what is to be copied from and to where."""
        self.parts: list[Array] = self.inner._plan.arrays()
        self.shapes = [
            None if self.is_elsewhere(number) else part.shape
            for number, part in enumerate(self.parts)
        ]
        self._fills = [
            pair
            for one in self.layout.segments(self._ranks.rank)
            if not np.may_share_memory(self.parts[one.tensor], self.arrays[one.tensor])
            for pair in _pairs(self.parts[one.tensor], self.arrays[one.tensor], one.first, one.stop)
        ]
        self._tensors = [param for param in self.params if is_tensor(param)]
        self._gradients.clear()
        self._parameters.clear()

    def is_elsewhere(self, number: int) -> bool:
        """Whether another rank steps all of a tensor whose rule does not know of parts."""
        return self._alone[number] and not self.layout.is_whole(self._ranks.rank, number)

    def follow(self, plan: Plan) -> None:
        """Go on with parameters whose memory has moved; `plan` is the new one of all."""
        self._refuse_edited()
        arrays = plan.arrays()
        for before, array, number in zip(self.arrays, arrays, range(len(arrays)), strict=True):
            if before.shape != array.shape or before.dtype != array.dtype:
                raise RuntimeError(
                    f"parameter {number} now has shape {array.shape} and dtype {array.dtype}, and "
                    f"had {before.shape} and {before.dtype} when it was shared among the ranks: "
                    "make a new Sharded"
                )
        self.plan, self.arrays = plan, arrays
        number, inner = 0, self.inner
        for group in inner.param_groups:
            for i, old in enumerate(group["params"]):
                new = self._part(number)
                if new is not old:
                    _replace(inner, group["params"], i, new)
                number += 1
        inner._renew_plan()
        self._look_at_parts()

    def check_params(self) -> None:
        """Refuse groups whose parameters have been edited."""
        groups = self._outer.param_groups
        if len(groups) != len(self._lists):
            self._refuse_edited()
        for group, members in zip(groups, self._lists, strict=True):
            found = group["params"]
            if len(found) != len(members) or any(map(is_not, found, members)):
                self._refuse_edited()

    def check_cuts(self, optimizer: Any) -> None:
        """Refuse groups that need tensors whole which are cut."""
        number = 0
        for k, group in enumerate(optimizer.param_groups):
            whole = needs_whole(optimizer, group)
            for _ in group["params"]:
                tensor = self.layout.tensors[number]
                if whole and not tensor.whole and not self._is_uncut(number):
                    raise ValueError(
                        f"with these options param group {k} needs tensors whole, and parameter "
                        f"{number} is cut among the ranks: make a new Sharded with the options"
                    )
                number += 1

    def _is_uncut(self, number: int) -> bool:
        return any(self.layout.is_whole(rank, number) for rank in range(self._ranks.size))

    def _refuse_edited(self) -> None:
        groups = self._outer.param_groups
        found = [[*group["params"]] for group in groups]
        if len(found) == len(self._lists) and all(
            len(a) == len(b) and all(map(is_, a, b))
            for a, b in zip(found, self._lists, strict=True)
        ):
            return
        raise RuntimeError(
            "the parameters of param_groups were edited, and they are shared among the ranks: add "
            "a group by add_param_group(), or make a new Sharded"
        )

    # --- groups -----------------------------------------------------------------------------------

    def take_options(self) -> None:
        """Let the inner optimizer's groups have the options that the user's have."""
        self.numbers = self._numbers
        for theirs, own in zip(self._outer.param_groups, self.inner.param_groups, strict=True):
            for name, value in theirs.items():
                if own.get(name, _MISSING) is not value and name not in OWN_KEYS:
                    own[name] = value
                    if name in self._numbers:
                        self.numbers = frozenset()  # the user has written one
            if len(own) != len(theirs):
                for name in [name for name in own if name not in theirs and name not in OWN_KEYS]:
                    del own[name]

    def give_numbers(self) -> None:
        """Let the user's groups have the numbers that steps have advanced."""
        names = self._numbers | ({"train_mode"} & self.inner.defaults.keys())
        if names:
            for theirs, own in zip(self._outer.param_groups, self.inner.param_groups, strict=True):
                theirs.update({name: own[name] for name in names if name in own})

    # --- exchange ---------------------------------------------------------------------------------

    def gradients(self, grads: Sequence[Array | None]) -> tuple[Gradients, str]:
        """The way of these gradients, with all the memory that it needs; and what they are."""
        dtypes = tuple([None if grad is None else grad.dtype for grad in grads])
        found = self._gradients.get(dtypes)
        if found is None:
            order, _, comm_dtype, limit = self._settings
            kinds: list[Kind | None] = [
                None if dtype is None else kind_of(dtype, order, comm_dtype) for dtype in dtypes
            ]
            way = Gradients(
                self.layout,
                self._ranks.communicator,
                kinds,
                self.shapes,
                order,
                limit,
                self._memory,
            )
            found = way, gradients_in_short(grads)
            _keep(self._gradients, dtypes, found)
        return found

    def parameters(self, moved: Sequence[bool]) -> Parameters | None:
        """The way of those parameters that have moved to all ranks; None if there is only one."""
        if self._ranks.size == 1:
            return None
        key = tuple(moved)
        found = self._parameters.get(key)
        if found is None:
            found = Parameters(
                self.layout,
                self._ranks.communicator,
                self.arrays,
                self.parts,
                key,
                self._settings.bucket_size,
                self._memory,
            )
            _keep(self._parameters, key, found)
        return found

    def fill(self) -> None:
        """Copy the values of parameters into parts that do not lie in their memory."""
        for part, block in self._fills:
            part[...] = block

    def spread(self, way: Parameters | None) -> None:
        """Let all ranks have what has been stepped."""
        if way is None:
            return
        way.gather()
        if self._tensors:
            announce_update(self._tensors)

    def copy_from(self, root: int, start: int = 0) -> None:
        """Give the parameters, from a number on, the values of one rank."""
        communicator = self._ranks.communicator
        if communicator.size == 1:
            return
        for array in self.arrays[start:]:
            if array.size == 0:
                continue
            row = array if array.flags.c_contiguous else np.ascontiguousarray(array)
            communicator.broadcast(as_bytes(row), root)
            if row is not array:
                array[...] = row
        if self._tensors:
            announce_update(self._tensors)

    def whole(self, number: int, part: Array) -> Array:
        """An array like a tensor, of which every rank has a part like its own of the tensor."""
        array, parts = self.arrays[number], [parts[number] for parts in self.layout.parts]
        first, stop = parts[self._ranks.rank]
        row = np.empty(array.size, part.dtype)
        row[first:stop] = part.reshape(-1)
        if self._ranks.size > 1 and row.size:
            size = row.itemsize
            places = [(first * size, stop * size) for first, stop in parts]
            self._ranks.communicator.allgather(as_bytes(row), places).wait()
        return row.reshape(array.shape)

    # --- steps ------------------------------------------------------------------------------------

    def step(self, grads: list[Any] | None, extras: Extras | None) -> None:
        """Step the parts."""
        self.inner._turn.step(self._step_in_turn, grads, extras)

    def _step_in_turn(self, grads: list[Any] | None, extras: Extras | None) -> None:
        inner = self.inner
        inner._quick, inner._opt_called = None, True
        if not inner._run(grads, extras):
            inner._renew_plan()
            if not inner._run(grads, extras):
                raise RuntimeError("parameters were replaced while the step was being prepared")
        inner._is_new = False


def needs_whole(optimizer: Any, group: Group) -> bool:
    """Whether the rule of a group needs whole tensors."""
    return steps_alone(optimizer, group) or group.get("slice_p", 1) != 1


def steps_alone(optimizer: Any, group: Group) -> bool:
    """Whether a rank steps a tensor of a group by itself: by sums over rows, or not by a rule."""
    rule = optimizer._rule_of_state(group)
    if rule is None:
        return True
    apart = rule
    if type(optimizer)._is_apart is not Definition._is_apart:
        apart = rule_apart(optimizer, group)
    return any(one is not None and one.scope == PER_ROW for one in (rule, apart))


def with_parts(groups: list[Group], parts: list[Any], outer: Any) -> list[Group]:
    """Groups like these, with the options that the class knows, of these parameters."""
    left: Iterator[Any] = iter(parts)
    found = []
    for group in groups:
        known = outer._defaults_for(group, outer.defaults).keys() | outer._unset_options().keys()
        own = {name: value for name, value in group.items() if name in known}
        members = [next(left) for _ in group["params"]]
        names = group.get("param_names")
        own["params"] = members if names is None else [*zip(names, members, strict=True)]
        found.append(own)
    return found


def _replace(inner: Any, members: list[Any], place: int, new: Any) -> None:
    """Put another object in the place of a parameter, which keeps its state and average."""
    old = members[place]
    if old in inner.state:
        entries = inner.state[old]
        del inner.state[old]
        inner.state[new] = entries
    if inner._average is not None:
        known = inner._average._entries
        if id(old) in known:
            known[id(new)] = (new, known.pop(id(old))[1])
    members[place] = new


def _pairs(part: Array, array: Array, first: int, stop: int) -> Iterator[tuple[Array, Array]]:
    """Places in a part, and the memory of the tensor that belongs there."""
    place, row = 0, part.reshape(-1)
    for block in blocks(array, first, stop):
        yield row[place : place + block.size].reshape(block.shape), block
        place += block.size


def _keep(plans: dict[Any, Any], key: Any, plan: Any) -> None:
    """Keep a plan, and forget the oldest one if there are many."""
    while len(plans) >= MOST_PLANS:
        del plans[next(iter(plans))]
    plans[key] = plan
