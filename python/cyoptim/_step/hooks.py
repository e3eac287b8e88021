"""Functions that users register to be called around a step, a save or a load."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain, count
from typing import TYPE_CHECKING, Any

from cyoptim._averages.moving import averaging
from cyoptim._engine import Turn, detour_by_hooks
from cyoptim._gradients.aligned import check_closure
from cyoptim._groups.options import check_keywords

Hook = Callable[..., Any]

_numbers = count()


class HookTable(OrderedDict[int, Hook]):
    """Hooks in the order in which they are called."""

    def register(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Add a hook, at the end or in front."""
        handle = RemovableHandle(self)
        self[handle.id] = hook
        if prepend:
            self.move_to_end(handle.id, last=False)
        return handle


class RemovableHandle:
    """Takes one hook out again, by :meth:`remove` or at the end of a ``with`` block."""

    def __init__(self, table: HookTable) -> None:
        self.id = next(_numbers)
        self._table = weakref.ref(table)

    def remove(self) -> None:
        """Take the hook out; more than once does no harm."""
        table = self._table()
        if table is not None:
            table.pop(self.id, None)

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of an optimizer have no hooks: a copy of the handle has nothing to take out.
        return RemovableHandle, (HookTable(),)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


STEP_PRE_HOOKS = HookTable()
STEP_POST_HOOKS = HookTable()

# The tables of hooks around the steps of every optimizer; of each pair the first is called before.
_TABLES: list[tuple[dict[int, Hook], dict[int, Hook]]] = []
Recorder = Callable[[Any, str], AbstractContextManager[Any]]
# Shows profilers that are running a call of a method of an optimizer.
_recorders: list[Recorder] = []


def add_tables(before: dict[int, Hook], after: dict[int, Hook]) -> None:
    """Have the hooks in two tables called around every step."""
    _TABLES.append((before, after))
    detour_by_hooks(before)
    detour_by_hooks(after)


add_tables(STEP_PRE_HOOKS, STEP_POST_HOOKS)


def add_recorder(record: Recorder) -> None:
    """Have ``with record(optimizer, "step")`` written around steps that go the long way."""
    _recorders.append(record)


def recorded(optimizer: object, method: str) -> AbstractContextManager[Any]:
    """A block in which a method of the optimizer is called, as profilers see it."""
    if not _recorders:
        return nullcontext()
    stack = ExitStack()
    for record in _recorders:
        stack.enter_context(record(optimizer, method))
    return stack


def register_optimizer_step_pre_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` before each step of every optimizer.

    Parameters
    ----------
    hook : callable
        As in :meth:`cyoptim.Optimizer.register_step_pre_hook`.

    Returns
    -------
    RemovableHandle
        Whose ``remove()`` takes the hook out again.
    """
    return STEP_PRE_HOOKS.register(hook)


def register_optimizer_step_post_hook(hook: Hook) -> RemovableHandle:
    """Call ``hook(optimizer, args, kwargs)`` after each step of every optimizer.

    Parameters
    ----------
    hook : callable
        As in :meth:`cyoptim.Optimizer.register_step_post_hook`.

    Returns
    -------
    RemovableHandle
        Whose ``remove()`` takes the hook out again.
    """
    return STEP_POST_HOOKS.register(hook)


def call_around_step(step: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run ``step(*args, **kwargs)``, whose first argument is the optimizer, and its hooks."""
    with recorded(args[0], "step"):
        return _call_with_hooks(step, args, kwargs)


def _call_with_hooks(step: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    optimizer = args[0]
    everywhere = [before.values() for before, _ in _TABLES]
    for hook in chain(*everywhere, optimizer._optimizer_step_pre_hooks.values()):
        result = hook(optimizer, args, kwargs)
        if result is None:
            continue
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError(
                f"{step} must return None or a tuple of (new_args, new_kwargs), but got {result}."
            )
        args, kwargs = result
    value = step(*args, **kwargs)
    everywhere = [after.values() for _, after in _TABLES]
    for hook in chain(optimizer._optimizer_step_post_hooks.values(), *everywhere):
        hook(optimizer, args, kwargs)
    return value


def with_hooks(step: Callable[..., Any], averages: bool = False) -> Callable[..., Any]:
    """A subclass's own ``step``, with the hooks around it; once, however it calls its parent's.

    `averages` tells whether it moves the averages itself.
    """
    followed = step if averages else averaging(step)
    code = getattr(step, "__code__", None)
    takes_closure = code is not None and code.co_varnames[1:2] == ("closure",)

    @functools.wraps(step)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._turn.within_step:
            return step(self, *args, **kwargs)
        if takes_closure:
            closure = args[0] if args else kwargs.get("closure")
            if closure is not None:
                check_closure(closure)
        self._opt_called = True
        return self._turn.around(call_around_step, followed, (self, *args), kwargs)

    return wrapper


class Hooked:
    """An object whose steps, saves and loads call what its users have registered."""

    # The plan's own step, if a step has nothing else to do.
    _quick: Callable[..., bool] | None = None
    _turn: Turn
    # What step was when the first scheduler came, which warns if it is replaced.
    _watched_step: Any

    if not TYPE_CHECKING:  # the signature is that of a subclass's __init__

        def __new__(cls, *args, **kwargs):
            if kwargs:
                check_keywords(cls, kwargs)
            self = super().__new__(cls)
            self._make_own()
            return self

    def _make_own(self) -> None:
        """Make what an optimizer has from the start: not in the constructor, which subclasses that
        wrap an optimizer may not call."""
        self._turn = Turn()
        self._optimizer_step_pre_hooks = HookTable()
        self._optimizer_step_post_hooks = HookTable()
        self._optimizer_state_dict_pre_hooks = HookTable()
        self._optimizer_state_dict_post_hooks = HookTable()
        self._optimizer_load_state_dict_pre_hooks = HookTable()
        self._optimizer_load_state_dict_post_hooks = HookTable()

    @staticmethod
    def profile_hook_step(step: Callable[..., Any]) -> Callable[..., Any]:
        """Call the hooks around a ``step``, as is done with every subclass's own.

        For code that decorates its ``step`` with it; the hooks are called once nevertheless.

        Parameters
        ----------
        step : callable
            The method.

        Returns
        -------
        callable
            The method with the hooks around it.
        """
        return with_hooks(step)

    def register_step_pre_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` before each step.

        Parameters
        ----------
        hook : callable
            `args` and `kwargs` are those of ``step``, with the optimizer first. Returns None, or
            a pair of arguments and keyword arguments to be used instead.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        self._quick = None
        return self._optimizer_step_pre_hooks.register(hook)

    def register_step_post_hook(self, hook: Hook) -> RemovableHandle:
        """Call ``hook(optimizer, args, kwargs)`` after each step.

        Parameters
        ----------
        hook : callable
            `args` and `kwargs` are those of ``step``, with the optimizer first.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        self._quick = None
        return self._optimizer_step_post_hooks.register(hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` before :meth:`state_dict` gathers the state.

        Parameters
        ----------
        hook : callable
            Its result is not used.
        prepend : bool
            Call it before the hooks that are there, instead of after them.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        return self._optimizer_state_dict_pre_hooks.register(hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` on what :meth:`state_dict` is about to return.

        Parameters
        ----------
        hook : callable
            May change the dict in place, or return another one.
        prepend : bool
            Call it before the hooks that are there, instead of after them.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        return self._optimizer_state_dict_post_hooks.register(hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` on what :meth:`load_state_dict` was given.

        Parameters
        ----------
        hook : callable
            Gets a shallow copy, which it may change in place; or it returns another dict.
        prepend : bool
            Call it before the hooks that are there, instead of after them.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        return self._optimizer_load_state_dict_pre_hooks.register(hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after :meth:`load_state_dict`.

        Parameters
        ----------
        hook : callable
            Its result is not used.
        prepend : bool
            Call it before the hooks that are there, instead of after them.

        Returns
        -------
        RemovableHandle
            Whose ``remove()`` takes the hook out again.
        """
        return self._optimizer_load_state_dict_post_hooks.register(hook, prepend)
