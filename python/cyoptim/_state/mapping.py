"""The optimizer's ``state``: a mapping from each parameter to its arrays.

Where the parameter is a torch tensor, its state is tensors, which share the memory of the arrays.

The plan of a step keeps the addresses of these arrays, so both mappings here tell it when an entry
is put in, replaced or removed. Writing *into* an array needs no telling.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, TypeVar

from cyoptim._arrays.doors import is_distributed, is_tensor, type_name
from cyoptim._engine import Commit, Undo, Watch
from cyoptim._shown import columns

F = TypeVar("F", bound=Callable[..., Any])


class ParameterState(dict[str, Any]):
    """The state of one parameter: a dict that reports its changes."""

    def __init__(self, watch: Watch, *args: Any) -> None:
        super().__init__(*args)
        self._watch = watch

    def __reduce__(self) -> tuple[Any, ...]:
        if not any(map(is_tensor, self.values())):
            return dict, (dict(self),)
        from cyoptim._libraries.torch import picklable

        return dict, ({name: picklable(value) for name, value in self.items()},)


def _reporting(name: str) -> Callable[..., Any]:
    method = getattr(dict, name)

    def wrapper(self: ParameterState, *args: Any, **kwargs: Any) -> Any:
        # Before, as an interrupt may come after; and after, as another thread may step in between.
        self._watch.report()
        try:
            return method(self, *args, **kwargs)
        finally:
            self._watch.report()

    wrapper.__name__ = name
    return wrapper


for _name in (
    "__setitem__", "__delitem__", "__ior__", "clear", "pop", "popitem", "setdefault", "update",
):  # fmt: skip
    setattr(ParameterState, _name, _reporting(_name))


def in_kind(param: Any, entries: dict[str, Any]) -> dict[str, Any]:
    """Entries in the form of the parameter's state: tensors for a torch tensor, distributed as it
    is."""
    if not is_tensor(param):
        return entries
    from cyoptim._libraries.torch import as_tensor

    entries = {name: as_tensor(value) for name, value in entries.items()}
    if not is_distributed(param):
        return entries
    from cyoptim._libraries.torch_distributed import distributed_as

    return {
        name: value if name == "step" else distributed_as(param, value)
        for name, value in entries.items()
    }


def _in_short(value: Any) -> str:
    """A parameter by its type and shape, an array by its shape, a list by its length; a number as
    it is."""
    if value is None or isinstance(value, (str, int, float)):
        return repr(value)
    if isinstance(value, (list, tuple, dict)):
        return f"{type(value).__name__} of {len(value)}"
    array = value if hasattr(value, "shape") else getattr(value, "data", None)
    shape = tuple(getattr(array, "shape", ()))
    if not shape and hasattr(value, "item"):
        return str(value.item())
    kind = "" if type(value).__module__ == "numpy" else f"{type(value).__name__} "
    return f"{kind}{shape} {getattr(value, 'dtype', '')}".rstrip()


class State(MutableMapping[Any, Any]):
    """Maps parameters to their state, by identity: plain arrays cannot be hashed.

    Reading the state of a parameter that has none makes an empty one, as in a defaultdict.
    """

    def __init__(self) -> None:
        self.watch: Watch = Watch()
        self._entries: dict[Any, tuple[Any, Any]] = {}
        # Pairs of a dict and the entries to add when a step can no longer fail.
        self.staged: list[tuple[dict[Any, Any], dict[Any, Any]]] = []

    @staticmethod
    def _key(param: Any) -> Any:
        return param if isinstance(param, (str, int)) else ("id", id(param))

    def __getitem__(self, param: Any) -> Any:
        key = self._key(param)
        entry = self._entries.get(key)
        if entry is None:
            self.watch.report()
            new = (param, ParameterState(self.watch))
            entry = self._entries.setdefault(key, new)  # another thread may have been first
            self.watch.report()
        return entry[1]

    def __setitem__(self, param: Any, value: Any) -> None:
        if isinstance(value, dict):
            value = ParameterState(self.watch, value)
        self.watch.report()  # before and after: see _reporting
        self._entries[self._key(param)] = (param, value)
        self.watch.report()

    def __delitem__(self, param: Any) -> None:
        self.watch.report()
        del self._entries[self._key(param)]
        self.watch.report()

    def __contains__(self, param: object) -> bool:
        return self._key(param) in self._entries

    def get(self, param: Any, default: Any = None) -> Any:
        """The state of the parameter; does not create one."""
        entry = self._entries.get(self._key(param))
        return default if entry is None else entry[1]

    def arrays(self, param: Any) -> Any:
        """The state of the parameter for the plan of a step, without tensors."""
        state = self.get(param, {})
        if not isinstance(state, dict):
            raise TypeError(f"the state of a parameter is a {type_name(state)}, expected a dict")
        if not is_tensor(param):
            return state
        from cyoptim._libraries.torch import as_array

        return {name: as_array(value) for name, value in state.items()}

    def keep(self, undo: Undo) -> None:
        """Let `undo` record the parameters."""
        undo.keep_entries(self._entries)

    @contextmanager
    def as_arrays(self, param: Any, undo: Undo) -> Iterator[dict[str, Any]]:
        """The state of the parameter with arrays, to read and write; `undo` records its previous
        contents."""
        state = self[param]
        arrays = self.arrays(param)
        undo.keep_entries(state)
        undo.keep(arrays)
        if arrays is state:
            yield state
            return
        before = dict(arrays)
        yield arrays
        for name in before.keys() - arrays.keys():
            del state[name]
        changed = {k: v for k, v in arrays.items() if k not in before or before[k] is not v}
        state.update(in_kind(param, changed))

    def copy(self) -> State:
        """A mapping of the same parameters to copies of their dicts."""
        state = State()
        state.update(self)
        return state

    def __iter__(self) -> Iterator[Any]:
        return (param for param, _ in [*self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        lines = [
            f"  {i}: {what}: {', '.join(f'{n}={v}' for n, v in entries.items())}"
            for i, (what, entries) in enumerate(self._shown())
        ]
        return "\n".join([f"State of {len(lines)} parameters", *lines])

    def _repr_html_(self) -> str:
        entries = self._shown()
        names = list(dict.fromkeys(name for _, own in entries for name in own))
        rows = ((what, [own.get(name, "") for name in names]) for what, own in entries)
        return columns("State", ["parameter", *names], rows)

    def _shown(self) -> list[tuple[str, dict[str, str]]]:
        """Each parameter, and its entries in short."""
        every = [*self._entries.values()]
        return [
            (_in_short(param), {name: _in_short(value) for name, value in dict(state).items()})
            for param, state in every
        ]

    def _fill(self, param: Any, entries: dict[str, Any]) -> None:
        """Stage entries in the kind of the parameter."""
        self.stage(param, in_kind(param, entries))

    def stage(self, param: Any, entries: dict[str, Any]) -> None:
        """Stage entries, to be added without a report to the plan."""
        known = self._entries.get(self._key(param))
        if known is not None:
            self.staged.append((known[1], entries))
        else:
            new = ParameterState(self.watch, entries)
            self.staged.append((self._entries, {self._key(param): (param, new)}))

    def prepare(self, param: Any, entries: dict[str, Any], commit: Commit) -> None:
        """Let `commit` add entries, as arrays."""
        if entries:
            self.staged = []
            self._fill(param, entries)
            for target, new in self.staged:
                commit.update(target, new)
            commit.report(self.watch)

    def __reduce__(self) -> tuple[Any, ...]:
        return State, (), None, None, iter(self.items())
