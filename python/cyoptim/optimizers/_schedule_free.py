"""What Schedule-Free optimizers have in common: two modes, and an average that is not stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, NoReturn

import numpy as np

from cyoptim._arrays.doors import announce_update, is_tensor
from cyoptim._averages.moving import MovingAverage, averages_from
from cyoptim._engine import (
    Arrays,
    Commit,
    Plan,
    Rule,
    arithmetic_dtype,
    in_arithmetic,
    name_of_dtype,
    rule_named,
    same_layout_as,
    whole_count,
    widened,
)
from cyoptim._groups.groups import labels_of
from cyoptim._groups.options import (
    check_finite,
    check_groups,
    check_nonnegative,
    check_number,
    check_switch,
)
from cyoptim._saving.masters import Slot, prepare_values, slot_of, values_of
from cyoptim._types import Array, Group, StateDict
from cyoptim.optimizer import Optimizer

NUMBERS: dict[str, float] = {"k": 0, "weight_sum": 0.0, "lr_max": -1.0, "scheduled_lr": 0.0}
"""What a group carries on from step to step, and what each begins with."""

COUNTED_AT = "steps_counted_at_k"
"""In the groups of a state dict: their ``k`` when the step counts of parameters were taken."""


class ScheduleFree(Optimizer):
    """The base of Schedule-Free optimizers: :meth:`train` and :meth:`eval`.

    In training the parameters hold :math:`y`, in evaluation :math:`x`; the state has :math:`z`, and
    :math:`y = (1 - \\beta) z + \\beta x`.
    """

    _essential_state: ClassVar[tuple[str, ...] | None] = None

    def _interpolation(self, group: Group) -> float:
        """The share of the average in the point at which gradients are taken."""
        raise NotImplementedError

    def _share(self, group: Group) -> float:
        """The same, checked, as it may have been written since."""
        try:
            share = self._interpolation(group)
        except (TypeError, ValueError, LookupError):
            share = math.nan
        if not 0 < share < 1:
            check_groups(self.param_groups, self._check_loaded_options)
        return share

    def _to_average(self, group: Group) -> float:
        """How far the average is from the point of the gradients, of the way to :math:`z`."""
        return 1 - 1 / self._share(group)

    # --- modes ------------------------------------------------------------------------------------

    def train(self) -> None:
        """Let the parameters hold the point at which gradients are taken.

        Call it before the first step, and after :meth:`eval`. A second call does nothing.

        Raises
        ------
        RuntimeError
            Inside ``with optimizer.averaged():``.
        """
        self._turn.write("train()", self._switch, True)

    def eval(self) -> None:
        """Let the parameters hold the average, which is the result of the training.

        Call it before the parameters are evaluated, or saved without the optimizer. A second call
        does nothing. Then :meth:`~cyoptim.Optimizer.step` raises until :meth:`train` has been
        called, which brings parameters back within rounding; :meth:`averaged` brings them back to
        the last bit.

        Raises
        ------
        RuntimeError
            Inside ``with optimizer.averaged():``.
        """
        self._turn.write("eval()", self._switch, False)

    def _switch(self, trains: bool) -> None:
        call = "train()" if trains else "eval()"
        if self._average is not None:
            self._average.check_unswapped(f"call {call}")
        if all(bool(group["train_mode"]) == trains for group in self.param_groups):
            return  # trainers call it at every step, and the next is to be quick
        self._prepare_switch(trains).run()

    def _prepare_switch(self, trains: bool) -> Commit:
        """What changes the mode; nothing changes here."""
        self._refit()
        commit, moved = Commit(), []
        commit.set(self, "_quick", None)  # the slow path asks for the mode first
        for group, places in self._places():
            if bool(group["train_mode"]) == trains:
                continue
            weight = 1 - self._share(group) if trains else self._to_average(group)
            pairs, copies = [], []
            for slot, z in places:
                if z is None:
                    continue
                moved.append(slot.param)
                if slot.is_narrow:
                    values = values_of(slot)
                    _move([(values, z)], weight)
                    prepare_values(slot, values, self, commit)
                    continue
                view = near = slot.view
                if not same_layout_as(np.empty_like(view, subok=False), view):
                    near = _dense(view)
                    copies.append((view, near))
                pairs.append((near, z))
            _prepare_move(pairs, weight, commit)
            for view, near in copies:
                commit.copy(view, near)
            commit.put(group, "train_mode", trains)
        tensors = [param for param in moved if is_tensor(param)]
        if tensors:
            announce_update(tensors)
        return commit

    def _places(self) -> Iterator[tuple[Group, list[tuple[Slot, Array | None]]]]:
        """Each group with its parameters, and :math:`z` if there is one."""
        views, labels = iter(self._plan.arrays()), iter(labels_of(self.param_groups))
        for group in self.param_groups:
            places = {}
            for param in group["params"]:
                view, label = next(views), next(labels)
                slot = slot_of(self, param, view, group, label)
                places[id(param)] = slot, _z_of(self.state.arrays(param), view, label)
            yield group, list(places.values())

    def _iterates(self) -> list[tuple[Array, Array, float]]:
        """The memory of each parameter, its :math:`z`, and how far from the one to the other the
        average is."""
        found, views = [], iter(self._plan.arrays())
        for group in self.param_groups:
            share = self._to_average(group)
            for param in group["params"]:
                view, state = next(views), self.state.arrays(param)
                if "z" in state:
                    found.append((view, state["z"], share))
        return found

    def _check_steps(self) -> None:
        for number, group in enumerate(self.param_groups):
            if not group["train_mode"]:
                self._refuse_to_step(number)

    def _refuse_to_step(self, number: int) -> NoReturn:
        which = f" (param group {number})" if len(self.param_groups) > 1 else ""
        raise RuntimeError(
            f"{type(self).__name__} is in evaluation mode{which}: call its train() before step(), "
            "and eval() before the parameters are evaluated"
        )

    def _is_element_wise(self, group: Group) -> bool:
        return True  # asked in both modes

    def _rule_of(self, group: Group) -> str | None:
        # Called after an option was changed: the mode is one.
        if not group["train_mode"]:
            numbers = [n for n, known in enumerate(self.param_groups) if known is group]
            self._refuse_to_step(numbers[0] if numbers else 0)
        if not 0 < self._interpolation(group) < 1:  # a step would lose the average
            self._check_loaded_options(group)
        return self._rule

    def _rule_of_state(self, group: Group) -> Rule:
        return rule_named(str(self._rule))

    # --- the average ------------------------------------------------------------------------------

    def averaged(self) -> AbstractContextManager[None]:
        """Give the parameters the values of the average inside a ``with`` block.

        For an evaluation in the middle of training, which does not change it: afterwards the
        parameters have the bits that they had before. Inside the block the
        optimizer can be neither stepped nor saved. In evaluation mode the parameters stay as they
        are.

        Raises
        ------
        RuntimeError
            If the block is inside another.

        Examples
        --------
        >>> import numpy as np
        >>> from cyoptim import SGDScheduleFree
        >>> w = np.array([1.0])
        >>> optimizer = SGDScheduleFree([w], lr=0.5)
        >>> optimizer.train()
        >>> for _ in range(2):
        ...     optimizer.step(grads=[np.array([1.0])])
        >>> with optimizer.averaged():
        ...     print(w)
        [0.25]
        >>> w
        array([0.225])
        """
        return super().averaged()

    def _means(self) -> list[tuple[Any, Array]]:
        """Each parameter with its average."""
        means, commit = [], Commit()
        for group, places in self._places():
            pairs = []
            for slot, z in places:
                mean = values_of(slot) if slot.is_narrow else _dense(slot.view)
                means.append((slot.param, mean))
                if z is not None and group["train_mode"]:
                    pairs.append((mean, z))
            _prepare_move(pairs, self._to_average(group), commit)
        commit.run()
        return means

    def _prepare_averaged(self) -> tuple[Plan, Commit | None, Commit | None]:
        if self._average is not None:
            self._average.check_unswapped("call averaged()")
        self._refit()
        begin, end = Commit(), Commit()
        average = averages_from(self._means())
        before = self._plan
        plan = self._plan_for(self.param_groups, self.state, average, begin)
        begin.set(self, "_average", average)
        end.set(self, "_average", None)
        end.set(self, "_plan", before)
        end.set(self, "_quick", None)
        end.adopt(before, plan)
        return plan, begin, end

    def ema(self, decay: float = 0.999, *, warmup: bool = False) -> MovingAverage:
        """Raise TypeError: the optimizer keeps an average by itself."""
        self._check_averaged_elsewhere()
        return super().ema(decay, warmup=warmup)

    def _check_averaged_elsewhere(self) -> None:
        raise TypeError(
            f"{type(self).__name__} averages its parameters itself: use averaged(), or eval()"
        )

    # --- groups, saving and loading ---------------------------------------------------------------

    def _check_numbers(self, group: Group) -> None:
        """Check the options that all Schedule-Free optimizers have."""
        check_finite("r", group["r"])
        check_finite("weight_lr_power", group["weight_lr_power"])
        check_switch("train_mode", group["train_mode"])
        for name in ("k", "weight_sum", "scheduled_lr"):
            check_nonnegative(name, group[name])
        check_number("lr_max", group["lr_max"])

    def _check_betas(self, group: Group) -> None:
        if not group["betas"][0] > 0:
            raise ValueError(
                f"betas[0] must be > 0, as the average needs it, got {group['betas'][0]}"
            )

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        if others and "train_mode" not in param_group:
            group["train_mode"] = others[-1]["train_mode"]
        return group

    def _plain_group(self, group: Group) -> Group:
        plain = super()._plain_group(group)
        count = plain.get("k")
        if isinstance(count, float) and count.is_integer():
            plain["k"] = int(count)
        return plain

    def _export(self) -> StateDict:
        state_dict = super()._export()
        if self._counts_steps:
            groups = [{**group, COUNTED_AT: group["k"]} for group in state_dict["param_groups"]]
            state_dict["param_groups"] = groups
        return state_dict

    def _prepare_load(self, state_dict: StateDict, commit: Commit) -> None:
        if isinstance(state_dict, dict) and state_dict.get("averages") is not None:
            raise ValueError(
                f"the loaded state dict has averages of ema(), and {type(self).__name__} averages "
                "its parameters itself"
            )
        super()._prepare_load(_with_ages(state_dict) if self._counts_steps else state_dict, commit)


def _with_ages(state_dict: Any) -> Any:
    """A state dict of schedulefree or ours in which each parameter has its step count.

    In schedulefree a parameter is as old as its group. What was loaded there from ours has the
    counts of before, and the steps of then beside those of its groups.
    """
    if not isinstance(state_dict, dict):
        return state_dict
    groups, states = state_dict.get("param_groups"), state_dict.get("state")
    if not (isinstance(groups, (list, tuple)) and isinstance(states, dict)):
        return state_dict
    aged, plain = {**states}, []
    for group in groups:
        if not isinstance(group, dict) or "k" not in group:
            plain.append(group)
            continue
        plain.append({name: value for name, value in group.items() if name != COUNTED_AT})
        since = _difference(group["k"], group.get(COUNTED_AT))
        keys = group.get("params")
        for key in keys if isinstance(keys, (list, tuple)) else ():
            entries = states.get(key) if isinstance(key, (int, str)) else None
            if isinstance(entries, dict) and "z" in entries:
                count = entries.get("step", group["k"])
                if since and "step" in entries:
                    count = whole_count(count, f"state 'step' of parameter {key}") + since
                aged[key] = {**entries, "step": count}
    return {**state_dict, "state": aged, "param_groups": plain}


def _difference(now: Any, before: Any) -> int:
    """How many steps there are between two counts, if both are."""
    try:
        return max(0, int(now) - int(before))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return 0


def _z_of(state: dict[str, Any], view: Array, label: str) -> Array | None:
    """The state ``z`` of a parameter, as kernels can read it."""
    z = state.get("z")
    if z is None:
        return None
    z, like = np.asarray(z), view
    if name_of_dtype(z.dtype) != arithmetic_dtype(view).name:
        z = widened(z, state.get("z_scale"), "z", f"state 'z' of {label}")
    if arithmetic_dtype(view) != view.dtype:
        like = in_arithmetic(view)
    if z.shape != view.shape or z.dtype.kind != like.dtype.kind:
        raise ValueError(
            f"state 'z' of {label} has shape {z.shape} and dtype {z.dtype}, expected {view.shape} "
            f"and {like.dtype}"
        )
    return z if same_layout_as(np.empty_like(like, subok=False), z) else _dense(z, like)


def _dense(values: Array, like: Array | None = None) -> Array:
    """A copy, laid out as the state of its parameter is."""
    copy = np.empty_like(values if like is None else like, subok=False)
    copy[...] = values
    return copy


def _prepare_move(pairs: list[tuple[Array, Array]], weight: float, commit: Commit) -> None:
    """Let `commit` move each first array towards the second, by this share of the way."""
    if pairs:
        first, second = map(list, zip(*pairs, strict=True))
        commit.apply(Arrays(first, second), "average", (weight,))


def _move(pairs: list[tuple[Array, Array]], weight: float) -> None:
    """Move each first array towards the second, now."""
    commit = Commit()
    _prepare_move(pairs, weight, commit)
    commit.run()
