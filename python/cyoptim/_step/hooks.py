"""Hooks: users' functions that run before or after a step, a save or a load."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from itertools import chain
from operator import itemgetter
from types import CodeType
from typing import TYPE_CHECKING, Any

from cyoptim._averages.moving import averaging
from cyoptim._engine import Turn, detour_by_hooks, next_number
from cyoptim._gradients.aligned import check_closure
from cyoptim._groups.options import check_keywords
from cyoptim._types import Kwargs, StateDict

Hook = Callable[..., Any]


class HookTable(dict[int, Hook]):
    """Hooks by their numbers, in whose order they are called.

    Not an OrderedDict, which several threads cannot fill without a GIL; and no lock, which a signal
    handler would wait for in vain.
    """

    def register(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Add a hook, at the end or in front."""
        if not callable(hook):
            raise TypeError(f"a hook is called, and must be a function, got {hook!r}")
        handle = RemovableHandle(self)
        if prepend:
            handle.id = -handle.id
        self[handle.id] = hook
        return handle


def hooks_in(table: dict[int, Hook]) -> list[Hook]:
    """The hooks to call, whatever is registered or removed meanwhile."""
    items = list(table.items())  # one call in C
    if isinstance(table, HookTable):  # others' have their own order
        items.sort(key=itemgetter(0))
    return [hook for _, hook in items]


class RemovableHandle:
    """Removes one hook, by :meth:`remove` or at the end of a ``with`` block."""

    def __init__(self, table: HookTable) -> None:
        self.id: int = next_number()
        self._table = weakref.ref(table)

    def remove(self) -> None:
        """Remove the hook; further calls have no effect."""
        table = self._table()
        if table is not None:
            table.pop(self.id, None)

    def __repr__(self) -> str:
        there = self.id in (self._table() or ())
        return f"RemovableHandle(id={self.id}{'' if there else ', removed'})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Copies of an optimizer have no hooks: a copy of the handle has nothing to remove.
        return RemovableHandle, (HookTable(),)

    def __enter__(self) -> RemovableHandle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


STEP_PRE_HOOKS = HookTable()
STEP_POST_HOOKS = HookTable()

# Pairs of tables of global hooks: those before, and those after the steps of every optimizer.
_TABLES: list[tuple[dict[int, Hook], dict[int, Hook]]] = []
Recorder = Callable[[Any, str], AbstractContextManager[Any]]
# Reports calls of methods of an optimizer to running profilers.
_recorders: list[Recorder] = []


def add_tables(before: dict[int, Hook], after: dict[int, Hook]) -> None:
    """Call the hooks in two tables before and after every step."""
    _TABLES.append((before, after))
    detour_by_hooks(before)
    detour_by_hooks(after)


add_tables(STEP_PRE_HOOKS, STEP_POST_HOOKS)


def add_recorder(record: Recorder) -> None:
    """Wrap steps on the slow path in ``with record(optimizer, "step")``."""
    _recorders.append(record)


def recorded(optimizer: object, method: str) -> AbstractContextManager[Any]:
    """A context that reports a call of a method to profilers."""
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
        Its ``remove()`` removes the hook.
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
        Its ``remove()`` removes the hook.
    """
    return STEP_POST_HOOKS.register(hook)


def call_around_step(step: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Run ``step(*args, **kwargs)``, with the optimizer as the first argument, and its hooks."""
    with recorded(args[0], "step"):
        return _call_with_hooks(step, args, kwargs)


def _call_with_hooks(step: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    optimizer = args[0]
    everywhere = [hooks_in(before) for before, _ in _TABLES]
    for hook in chain(*everywhere, hooks_in(optimizer._optimizer_step_pre_hooks)):
        result = hook(optimizer, args, kwargs)
        if result is None:
            continue
        if not (isinstance(result, tuple) and len(result) == 2):
            raise RuntimeError(
                f"{step} must return None or a tuple of (new_args, new_kwargs), but got {result}."
            )
        args, kwargs = result
    value = step(*args, **kwargs)
    everywhere = [hooks_in(after) for _, after in _TABLES]
    for hook in chain(hooks_in(optimizer._optimizer_step_post_hooks), *everywhere):
        hook(optimizer, args, kwargs)
    return value


def with_hooks(step: Callable[..., Any], averages: bool = False) -> Callable[..., Any]:
    """Wrap a subclass's ``step`` to call the hooks once, however often it calls its parent's.

    `averages`: whether it updates the averages itself.
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


def passed_through(hooks: HookTable, optimizer: Any, state_dict: StateDict) -> StateDict:
    """A state dict that hooks have seen, each of which may return another."""
    for hook in hooks_in(hooks):
        result = hook(optimizer, state_dict)
        state_dict = state_dict if result is None else result
    return state_dict


def calls_step(cls: type, step: Callable[..., Any]) -> bool:
    """Whether a class's own step() calls its parent's, be it by another method."""
    functions: list[Any] = [step, *filter(inspect.isfunction, vars(cls).values())]
    codes = [getattr(inspect.unwrap(f), "__code__", None) for f in functions]
    return any(code is not None and _mentions_step(code) for code in codes)


def _mentions_step(code: CodeType) -> bool:
    """Whether the code of a function, or one inside of it, asks anything for its step."""
    inside = [const for const in code.co_consts if isinstance(const, CodeType)]
    asks = "step" in code.co_names or "step" in code.co_consts
    return asks or any(map(_mentions_step, inside))


def is_minimize(args: tuple[Any, ...], kwargs: Kwargs) -> bool:
    """Whether these are the arguments of a method of :func:`scipy.optimize.minimize`."""
    return len(args) == 2 and callable(args[0]) and {"args", "jac", "callback"} <= kwargs.keys()


def minimized(optimizer: Any, args: tuple[Any, ...], kwargs: Kwargs) -> Any:
    """The result of an optimizer, or its class, as a method of :func:`scipy.optimize.minimize`."""
    from cyoptim.scipy import method

    return method(optimizer)(*args, **kwargs)


class Hooked:
    """An object whose steps, saves and loads call registered hooks."""

    # The plan's own step, if a step has nothing else to do.

    _quick: Callable[..., bool] | None = None
    _turn: Turn
    # step at the construction of the first scheduler, which warns if it is replaced later.
    _watched_step: Any

    if not TYPE_CHECKING:  # the signature is that of a subclass's __init__

        def __new__(cls, *args, **kwargs):
            if kwargs:
                if is_minimize(args, kwargs):
                    return minimized(cls, args, kwargs)
                check_keywords(cls, kwargs)
            self = super().__new__(cls)
            self._make_own()
            return self

    def _make_own(self) -> None:
        """Set the initial attributes: not in the constructor, as subclasses that wrap an optimizer
        may not call it."""
        self._turn = Turn()
        self._optimizer_step_pre_hooks = HookTable()
        self._optimizer_step_post_hooks = HookTable()
        self._optimizer_state_dict_pre_hooks = HookTable()
        self._optimizer_state_dict_post_hooks = HookTable()
        self._optimizer_load_state_dict_pre_hooks = HookTable()
        self._optimizer_load_state_dict_post_hooks = HookTable()

    @staticmethod
    def profile_hook_step(step: Callable[..., Any]) -> Callable[..., Any]:
        """Call the hooks before and after a ``step``, as for every subclass's own.

        For code that decorates its ``step`` with it; the hooks still run only once.

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
            Its ``remove()`` removes the hook.
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
            Its ``remove()`` removes the hook.
        """
        self._quick = None
        return self._optimizer_step_post_hooks.register(hook)

    def register_state_dict_pre_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer)`` before :meth:`state_dict` gathers the state.

        Parameters
        ----------
        hook : callable
            Its result is ignored.
        prepend : bool
            Call it before the existing hooks instead of after them.

        Returns
        -------
        RemovableHandle
            Its ``remove()`` removes the hook.
        """
        return self._optimizer_state_dict_pre_hooks.register(hook, prepend)

    def register_state_dict_post_hook(self, hook: Hook, prepend: bool = False) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before :meth:`state_dict` returns.

        Parameters
        ----------
        hook : callable
            May change the dict in place, or return another one.
        prepend : bool
            Call it before the existing hooks instead of after them.

        Returns
        -------
        RemovableHandle
            Its ``remove()`` removes the hook.
        """
        return self._optimizer_state_dict_post_hooks.register(hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer, state_dict)`` before :meth:`load_state_dict` loads.

        Parameters
        ----------
        hook : callable
            Gets a shallow copy, which it may change in place, or returns another dict.
        prepend : bool
            Call it before the existing hooks instead of after them.

        Returns
        -------
        RemovableHandle
            Its ``remove()`` removes the hook.
        """
        return self._optimizer_load_state_dict_pre_hooks.register(hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Hook, prepend: bool = False
    ) -> RemovableHandle:
        """Call ``hook(optimizer)`` after :meth:`load_state_dict`.

        Parameters
        ----------
        hook : callable
            Its result is ignored.
        prepend : bool
            Call it before the existing hooks instead of after them.

        Returns
        -------
        RemovableHandle
            Its ``remove()`` removes the hook.
        """
        return self._optimizer_load_state_dict_post_hooks.register(hook, prepend)
