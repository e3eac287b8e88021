"""What all schedulers share: the order of calls, groups that come later, state, and a preview."""

from __future__ import annotations

import copy
import functools
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, ClassVar, TypeVar
from weakref import ReferenceType

from cyoptim._arrays.doors import type_name
from cyoptim._engine import Commit, step_whole
from cyoptim._groups.numbers import number, plain
from cyoptim._groups.options import check_fillable
from cyoptim._schedulers.values import (
    Scalar,
    copied,
    group_values,
    set_value,
    tensor_values,
)
from cyoptim._warnings import warn
from cyoptim.optimizer import Optimizer

StateDict = dict[str, Any]
Self = TypeVar("Self", bound="LRScheduler")

# By which entries the states of our classes are known; see LRScheduler._marks.
_MARKS = {"Optimizer": frozenset({"state", "param_groups"})}

EPOCH_DEPRECATION_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being "
    "deprecated where possible. Please use `scheduler.step()` to step the "
    "scheduler. During the deprecation, if epoch is different from None, the "
    "closed form is used instead of the new chainable form, where available."
)
_URL = "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"
_STEP_OVERRIDDEN = (
    "Seems like `optimizer.step()` has been overridden after learning rate scheduler "
    "initialization. Please, make sure to call `optimizer.step()` before "
    f"`lr_scheduler.step()`. See more details at {_URL}"
)
_STEP_NOT_CALLED = (
    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. "
    "In PyTorch 1.1.0 and later, you should call them in the opposite order: "
    "`optimizer.step()` before `lr_scheduler.step()`.  Failure to do this "
    "will result in PyTorch skipping the first value of the learning rate schedule. "
    f"See more details at {_URL}"
)
_GET_LR_CALLED = (
    "To get the last learning rate computed by the scheduler, please use `get_last_lr()`."
)


def _whole(step: Callable[..., None]) -> Callable[..., None]:
    """A ``step`` that is undone if it fails."""

    @functools.wraps(step)
    def wrapper(self: LRScheduler, *args: Any, **kwargs: Any) -> None:
        call = functools.partial(step, **kwargs) if kwargs else step
        tensors = tensor_values(self.optimizer) if "torch" in sys.modules else ()
        attributes = [vars(part) for part in self._parts()]
        step_whole(self.optimizer, attributes, tensors, call, self, *args)

    return wrapper


class StateError(ValueError, KeyError):
    """A state is not one of this schedule's.

    A ValueError, as for all that is out of range, and a KeyError, as in torch.
    """

    __str__ = Exception.__str__


class _Root:
    """A base other than object, beside which a class can take in another: see
    :mod:`cyoptim._libraries.torch_optim`."""


class LRScheduler(_Root):
    """Base class of schedules, which set the learning rate of every group once per epoch.

    A subclass defines :meth:`get_lr` from ``last_epoch``, ``base_lrs`` and the optimizer's groups.
    An epoch is whatever passes between two calls of :meth:`step`: a batch, or a pass over the data.

    Parameters
    ----------
    optimizer : Optimizer
        Whose groups are driven. Constructing a scheduler sets their ``"lr"`` for the first epoch.
    last_epoch : int
        The last epoch that is done; -1 to begin. Otherwise the groups must have ``"initial_lr"``,
        as they have after :meth:`cyoptim.Optimizer.load_state_dict`.

    Attributes
    ----------
    last_epoch : int
        The epoch that ``"lr"`` now is for; 0 after construction.
    base_lrs : list
        The learning rates that the schedule starts from, one per group. Groups that are added to
        the optimizer later join at the next step.

    Raises
    ------
    TypeError
        If `optimizer` is none.
    KeyError
        If `last_epoch` >= 0 and a group has no ``"initial_lr"``.

    Notes
    -----
    A learning rate that is an array without axes or a torch tensor is filled in place.

    Examples
    --------
    >>> import numpy as np
    >>> from cyoptim import SGD
    >>> class Halving(LRScheduler):
    ...     def get_lr(self):
    ...         return [base / 2**self.last_epoch for base in self.base_lrs]
    >>> Halving(SGD([np.zeros(3)], lr=1.0)).preview(3)
    [0.5, 0.25, 0.125]
    """

    # What a state of this class has had in every version, here and in torch. Nothing else tells
    # states of two classes apart.
    _marks: ClassVar[frozenset[str]] = frozenset()

    _get_lr_called_within_step: bool = False
    _is_initial: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "_marks" in cls.__dict__:
            _MARKS[cls.__name__] = cls._marks
        if "step" in cls.__dict__:
            cls.step = _whole(cls.step)  # type: ignore[method-assign]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(optimizer, self)
        self.optimizer = optimizer
        self.last_epoch: int = number("last_epoch", last_epoch)
        self.base_lrs = _initial_lrs(optimizer, self.last_epoch)
        _watch_step(optimizer)
        self._initial_step()

    # --- stepping ---------------------------------------------------------------------------------

    def get_lr(self) -> list[Scalar]:
        """The learning rates at ``last_epoch``, from those before it. What a subclass defines.

        Returns
        -------
        list
            One per group. To see the present ones, use :meth:`get_last_lr`.
        """
        raise NotImplementedError

    def get_last_lr(self) -> list[Scalar]:
        """The learning rates that this scheduler has last set.

        Returns
        -------
        list
            One per group; copies, of the type that the groups hold.
        """
        return [copied(lr) for lr in self._last_lr]

    @_whole
    def step(self, epoch: int | None = None) -> None:
        """Go on to the next epoch. Call it after the optimizer's step.

        If it fails, because a function of the user's raises for instance, schedule and learning
        rates are what they were before.

        Parameters
        ----------
        epoch : int, optional
            Deprecated: the epoch to jump to.

        Warns
        -----
        UserWarning
            If the optimizer has not stepped before the first call, or if `epoch` is given.
        """
        if self._step_count == 1:
            _check_order(self.optimizer)
        self._step_count += 1
        if epoch is not None:
            epoch = number("epoch", epoch)
            warn(EPOCH_DEPRECATION_WARNING)
        self._update_lr(epoch)

    def _initial_step(self) -> None:
        """Set the learning rates of the first epoch."""
        self._step_count = 0
        with _initial_mode(self):
            self.step()

    def _update_lr(self, epoch: int | None = None) -> None:
        self._adopt_groups()
        compute = self.get_lr
        if epoch is None:
            epoch = self.last_epoch + 1
        else:
            compute = getattr(self, "_get_closed_form_lr", compute)
        self.last_epoch = epoch
        self._get_lr_called_within_step = True
        try:
            values = compute()
        finally:
            self._get_lr_called_within_step = False
        self._set_lrs(values)

    def _set_lrs(self, values: Iterable[Scalar]) -> None:
        groups = self.optimizer.param_groups
        name = type(self).__name__
        try:
            values = list(values)
        except TypeError:
            raise TypeError(
                f"get_lr() of {name} returned {values!r}, expected a list of {len(groups)} "
                "learning rates, one for each parameter group"
            ) from None
        if len(values) != len(groups):
            raise ValueError(
                f"{name} has {len(values)} learning rates for {len(groups)} parameter groups"
            )
        for i, (group, value) in enumerate(zip(groups, values, strict=True)):
            try:
                set_value(group, "lr", value)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{name}, parameter group {i}: {error}") from error
        self._last_lr = group_values(self.optimizer, "lr")

    def _adopt_groups(self) -> None:
        """Let groups join that were added since the last step."""
        known = len(self.base_lrs)
        for group in self.optimizer.param_groups[known:]:
            self.base_lrs.append(copied(group.setdefault("initial_lr", copied(group["lr"]))))

    # --- as a part of another schedule ------------------------------------------------------------

    def _parts(self) -> Iterator[LRScheduler]:
        """The schedule itself, and all that it steps."""
        yield self

    def _start_lrs(self) -> list[Scalar]:
        """The learning rates that the optimizer has before this schedule touches them."""
        return self.base_lrs

    def _rewind(self) -> None:
        """Go back to before the first epoch; the learning rates stay as they are."""
        self.last_epoch = -1

    def _take_over(self) -> None:
        """Begin at epoch 0 where another schedule has ended."""
        self._update_lr(0)

    # --- state ------------------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """Everything but the optimizer, in torch's form.

        Returns
        -------
        dict
            JSON can hold it; numbers that are arrays or tensors are given as Python's. Of
            functions that the user gave, only those that are objects with attributes are in it.
        """
        return plain_state(vars(self))

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from what :meth:`state_dict`, here or in torch, has returned.

        The optimizer is left alone: load its state, too, to get its learning rates back, and after
        its schedulers were constructed.

        Parameters
        ----------
        state_dict : dict
            The state; copied. Functions in it, as torch kept them before 2.1, are left out.

        Raises
        ------
        TypeError, ValueError
            If it is the state of another schedule, or an entry cannot be one of this schedule's.
            Nothing has been changed then.
        """
        commit = Commit()
        self._prepare_load(state_dict, commit)
        commit.run()

    def _prepare_load(self, state_dict: Mapping[str, Any], commit: Commit) -> None:
        """Check a state; `commit` will put it in."""
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict must be a dict, got {type_name(state_dict)}")
        state = plain_state(self._modern(dict(state_dict)))
        self._check_marks(state)
        for name, value in state.items():
            self._check_entry(name, value)
        self._load(state, commit)

    def _modern(self, state: StateDict) -> StateDict:
        """A state of an older version of torch in the words of today; `state` may be changed."""
        return state

    def _check_marks(self, state: StateDict) -> None:
        """Refuse a state that is one of another class."""
        missing = self._marks - state.keys()
        if missing:  # a subclass may save less
            missing &= self.state_dict().keys()
        foreign = {
            name: marks
            for name, marks in _MARKS.items()
            if marks <= state.keys() and (missing or not marks <= vars(self).keys())
        }
        if missing or foreign:
            raise StateError(_another_state(type(self).__name__, self._marks, foreign))

    def _check_entry(self, name: Any, value: Any) -> None:
        """Refuse an entry of a state that cannot be one of this schedule's."""
        what = f"the state of a {type(self).__name__} has an entry {name!r}"
        if not isinstance(name, str) or hasattr(getattr(type(self), name, None), "__get__"):
            raise ValueError(f"{what}, which is no attribute that a schedule keeps")
        own = plain(vars(self).get(name))
        if not _is_like(value, own):
            raise TypeError(f"{what} that is {value!r}, expected one like {own!r}")
        count = len(self.optimizer.param_groups)
        if name in _OF_GROUPS and isinstance(value, (list, tuple)) and len(value) > count:
            raise ValueError(f"{what} of {len(value)} values for {count} parameter groups")
        if name == "last_epoch" and operator.index(value) < -1:
            raise ValueError(f"{what} that is {value}, expected a number of an epoch")
        if name in _DIVISORS and not value > 0:
            raise ValueError(f"{what} that is {value}, expected a positive number")

    def _load(self, state: StateDict, commit: Commit) -> None:
        commit.update(vars(self), state)

    # --- looking ahead ----------------------------------------------------------------------------

    def preview(self, n: int) -> list[float] | list[list[float]]:
        """The learning rates that the next `n` calls of :meth:`step` will set.

        Neither the scheduler nor the optimizer changes. Other schedulers of the same optimizer are
        not taken into account.

        Parameters
        ----------
        n : int
            How many steps to look ahead, >= 0.

        Returns
        -------
        list
            One learning rate per step; where the optimizer has several groups, a list of theirs.

        Raises
        ------
        ValueError
            If `n` is negative, or the schedule ends before.
        """
        shadow = self._shadow()
        return _collect(shadow.optimizer, [shadow.step] * check_count("n", n))

    def _shadow(self: Self) -> Self:
        """A copy that drives an optimizer without parameters."""
        stand_in: Any = _StandIn(self.optimizer)
        return copy.deepcopy(self, {id(self.optimizer): stand_in})


class _LRScheduler(LRScheduler):
    """The base class under the name that it had in torch 1."""


class _StandIn:
    """An optimizer's groups without their parameters, for schedulers that look ahead."""

    _opt_called = True

    def __init__(self, optimizer: Optimizer) -> None:
        self.defaults = optimizer.defaults
        self.param_groups = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]

    def step(self) -> None:
        """Nothing: there are no parameters."""


def _collect(
    optimizer: Optimizer, steps: list[Callable[[], None]]
) -> list[float] | list[list[float]]:
    rows = []
    for step in steps:
        step()
        rows.append([float(group["lr"]) for group in optimizer.param_groups])
    return [row[0] for row in rows] if len(optimizer.param_groups) == 1 else rows


# --- arguments ------------------------------------------------------------------------------------


def check_optimizer(optimizer: Any, scheduler: LRScheduler) -> None:
    """Refuse what is no optimizer of ours, or one whose rates cannot be written."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(_no_optimizer(optimizer, type(scheduler).__name__))
    for i, group in enumerate(optimizer.param_groups):
        try:
            check_fillable("lr", group["lr"])
        except (TypeError, ValueError) as error:
            raise type(error)(f"parameter group {i}: {error}") from error


def _no_optimizer(found: object, scheduler: str) -> str:
    name = type(found).__name__
    message = (
        f"{name} is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, "
        f"found a {type_name(found)}"
    )
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(found, torch.optim.Optimizer):
        return message
    ours = name if hasattr(sys.modules["cyoptim"], name) else "Optimizer"
    theirs = scheduler if hasattr(torch.optim.lr_scheduler, scheduler) else "LRScheduler"
    return f"{message}: use cyoptim.{ours}, or torch.optim.lr_scheduler.{theirs}"


def check_count(name: str, value: Any, least: int = 0) -> int:
    """An integer; refuse what is none, or less than so much."""
    try:
        count = operator.index(plain(value))
    except TypeError as error:
        raise TypeError(f"{name}: {error}, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_positive(name: str, value: Any) -> Any:
    """A number; refuse one that is not > 0."""
    found = number(name, value)
    if not found > 0:
        raise ValueError(f"{name} must be positive, got {found}")
    return found


def check_fraction(name: str, value: Any) -> Any:
    """A number; refuse one outside of [0, 1]."""
    found = number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {found}")
    return found


def plain_state(attributes: Mapping[str, Any]) -> StateDict:
    """A copy of attributes without the optimizer and functions, in Python's numbers."""
    return {
        name: plain(value)
        for name, value in attributes.items()
        if name != "optimizer" and not _holds_functions(value)
    }


def _another_state(own: str, marks: frozenset[str], foreign: Mapping[str, frozenset[str]]) -> str:
    """What to say of a state that has the marks of other classes, or not those of its own."""
    most = max(map(len, foreign.values()), default=0)
    others = [name for name in foreign if len(foreign[name]) == most]
    whose = f", but looks like that of a {' or '.join(others)}" if others else ""
    found = ", ".join(sorted({mark for name in others for mark in foreign[name]}))
    expected = ", ".join(sorted(marks))
    return (
        f"this is not the state of a {own}{whose} (found {found or 'none of its entries'}, "
        f"expected {expected or 'what every schedule has'}): "
        f"load it into one of the class that saved it, or begin with a new {own}"
    )


_FUNCTIONS = (FunctionType, MethodType, BuiltinFunctionType, functools.partial, ReferenceType)


def _holds_functions(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(_holds_functions, value))
    if isinstance(value, dict):
        return any(map(_holds_functions, value.values()))
    return isinstance(value, _FUNCTIONS)


_DIVISORS = frozenset({"step_size", "total_iters", "T_max", "T_0", "T_i", "total_size"})
_DIVISORS |= {"step_ratio", "total_steps", "timescale", "decay_steps"}
_OF_GROUPS = frozenset({"base_lrs", "_last_lr", "min_lrs", "max_lrs", "lr_lambdas"})
_OF_GROUPS |= {"base_momentums", "max_momentums"}
_KINDS: tuple[tuple[type, ...], ...] = ((bool, int, float), (list, tuple), (str,), (dict,))


def _is_like(value: Any, own: Any) -> bool:
    """Whether a value can take the place of another, as far as the other tells: nothing if it is
    None, or an object."""
    kind = next((types for types in _KINDS if isinstance(own, types)), None)
    if kind is None:
        return True
    if not isinstance(value, kind):
        return False
    if isinstance(value, (list, tuple)) and len(own):
        return len(value) > 0 and all(_is_like(item, own[0]) for item in value)
    return True


def check_resumable(optimizer: Optimizer, last_epoch: int) -> None:
    """Refuse to resume over groups that have never been driven."""
    for i, group in enumerate(optimizer.param_groups):
        if last_epoch != -1 and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                "scheduler with last_epoch >= 0: load the optimizer's state first"
            )


def _initial_lrs(optimizer: Optimizer, last_epoch: int) -> list[Scalar]:
    check_resumable(optimizer, last_epoch)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", copied(group["lr"]))
    return group_values(optimizer, "initial_lr")


# --- the order of calls ---------------------------------------------------------------------------


@contextmanager
def _raised(scheduler: LRScheduler, flag: str) -> Iterator[None]:
    setattr(scheduler, flag, True)
    try:
        yield
    finally:
        setattr(scheduler, flag, False)


def _initial_mode(scheduler: LRScheduler) -> AbstractContextManager[None]:
    return _raised(scheduler, "_is_initial")


def _enable_get_lr_call(scheduler: LRScheduler) -> AbstractContextManager[None]:
    return _raised(scheduler, "_get_lr_called_within_step")


def warn_outside_step(scheduler: LRScheduler) -> None:
    """Warn who calls get_lr() to see the present learning rate."""
    if not scheduler._get_lr_called_within_step:
        warn(_GET_LR_CALLED)


def _function(step: Any) -> Any:
    return getattr(step, "__func__", step)


def _watch_step(optimizer: Optimizer) -> None:
    """Remember what `step` is now; steps made before the first scheduler do not count."""
    if not hasattr(optimizer, "_watched_step"):
        optimizer._opt_called = False
    optimizer._watched_step = _function(optimizer.step)


def _check_order(optimizer: Optimizer) -> None:
    if _is_overridden(optimizer):
        warn(_STEP_OVERRIDDEN)
    elif not optimizer._opt_called:
        warn(_STEP_NOT_CALLED)


def _is_overridden(optimizer: Optimizer) -> bool:
    """Whether `step` was replaced since it was watched, other than by a wrapper around it."""
    watched = getattr(optimizer, "_watched_step", None)
    step: Any = optimizer.step
    while watched is not None and _function(step) is not watched:
        if not hasattr(step, "__wrapped__"):
            return True
        step = step.__wrapped__
    return False
