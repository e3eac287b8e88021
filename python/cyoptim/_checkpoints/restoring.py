"""Restores objects from their saved states, all or nothing."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cyoptim._arrays.containers import entries_of, is_named_tuple, is_record
from cyoptim._arrays.doors import announce_update, class_of, is_tensor, type_name
from cyoptim._checkpoints.dtypes import converted
from cyoptim._checkpoints.generators import checked_state
from cyoptim._checkpoints.matching import (
    Difference,
    Renaming,
    array_difference,
    in_short,
    misfit,
)
from cyoptim._checkpoints.packing import Unpacking, is_plain
from cyoptim._checkpoints.places import (
    CheckpointError,
    Place,
    describe,
    has_methods,
    memory,
    names,
    show,
)
from cyoptim._checkpoints.ranks import Joint
from cyoptim._checkpoints.turns import in_turns
from cyoptim._engine import Commit, is_self_overlapping
from cyoptim._saving.matching import in_order_of_names
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer


class Restore:
    """Compares objects with their saved states; :meth:`restore` changes them all at once.

    Entries that do not fit are in `differences`: with `strict` they raise before anything changes,
    otherwise they are skipped.
    """

    def __init__(
        self,
        path: str,
        archive: Unpacking,
        renaming: Renaming,
        joint: Joint | None,
        *,
        strict: bool,
        convert: bool,
    ) -> None:
        self.loaded: list[str] = []
        self.differences: list[Difference] = []
        self._path, self._tensors = path, archive.tensors
        self._sources = archive.sources
        self._renaming, self._strict, self._convert = renaming, strict, convert
        self._joint = joint
        self._commit = Commit(self._sources)
        self._foreign: list[tuple[Place, Any, Any, Any]] = []  # place, object, old and new state
        self._loaded: list[Any] = []  # optimizers, whose hooks wait for the end

    def restore(self, objects: dict[str, Any], saved: dict[str, Any]) -> None:
        """Restore all objects, or change nothing."""
        in_turns("write", "cyoptim.load()", objects, lambda: self._restore(objects, saved))
        for optimizer in self._loaded:
            optimizer._after_load()

    def _restore(self, objects: dict[str, Any], saved: dict[str, Any]) -> None:
        self._fit_objects(objects, saved)
        if self._strict and self.differences:
            raise misfit(self._path, self.differences) from self.differences[0].cause
        for name in saved:
            saved[name] = self._sources.settled(saved[name])
        # Loading objects of other libraries may fail; the changes after it cannot, unless the disk
        # fails.
        undo: list[Callable[[], None]] = []
        try:
            self._commit.run_after(lambda: self._load_last(undo), undo)
        except OSError as error:
            if not self._commit.torn:
                raise
            raise CheckpointError(
                f"{self._path} was whole, but could not be read a second time: {error}. Arrays "
                "that it was being read into now have some of its elements and some of their own: "
                "load a checkpoint into the same objects before you use them"
            ) from error

    # Fitting -----------------------------------------------------------------

    def _fit_objects(self, objects: dict[str, Any], saved: dict[str, Any]) -> None:
        for name, target in objects.items():
            if name in saved:
                self._fit(target, saved[name], (name,))
            else:
                sentence = f"has no {name!r}; it holds {names(saved)}"
                self._differ("missing", (name,), expected=in_short(target), sentence=sentence)
        unused = self._renaming.unused()
        if unused and self._strict:
            raise ValueError(f"{self._path}: rename has no use for {names(unused)}")

    def _fit(self, target: Any, saved: Any, place: Place, holder: Any = None) -> None:
        """`holder` is the list or dict that contains the target, to replace a plain value."""
        elements = memory(target, place)
        if elements is not None:
            self._fit_array(target, elements, saved, place)
        elif isinstance(target, dict):
            self._fit_dict(target, saved, place)
        elif isinstance(target, np.random.Generator):
            self._fit_generator(target, saved, place)
        elif has_methods(target, "load_state_dict", "state_dict"):
            self._fit_state(target, saved, place)
        elif isinstance(target, Mapping) or (
            is_record(target) and (isinstance(saved, dict) or not is_named_tuple(target))
        ):
            self._fit_dict(target, saved, place)
        elif isinstance(target, (list, tuple)):
            self._fit_sequence(target, saved, place)
        elif is_plain(target) and holder is not None:
            self._fit_plain(target, saved, place, holder)
        elif target is None and saved is None and len(place) > 1:
            pass  # an empty place in a tuple
        else:
            raise TypeError(
                f"{show(place)}: {type_name(target)} cannot be restored in place; "
                "take it from the dict that load returns"
            )

    def _differ(
        self,
        kind: str,
        place: Place,
        *,
        found: str = "",
        expected: str = "",
        sentence: str,
        cause: Exception | None = None,
    ) -> None:
        self.differences.append(Difference(kind, show(place), found, expected, sentence, cause))

    def _misfit(self, kind: str, place: Place, saved: object, target: object) -> None:
        sentence = f"{show(place)}: found {describe(saved)}, expected {describe(target)}"
        found, expected = in_short(saved), in_short(target)
        self._differ(kind, place, found=found, expected=expected, sentence=sentence)

    def _refused(self, place: Place, error: Exception) -> None:
        sentence = f"{show(place)} refuses the saved state: {error}"
        self._differ("refused", place, found=str(error), sentence=sentence, cause=error)

    def _fit_plain(self, target: Any, saved: Any, place: Place, holder: Any) -> None:
        if is_plain(saved):
            self._commit.put(holder, place[-1], saved)
            self.loaded.append(show(place))
        else:
            self._misfit("type", place, saved, target)

    def _fits(self, elements: Array, saved: Any, place: Place) -> bool:
        if type(saved) is not np.ndarray:
            self._misfit("type", place, saved, elements)
            return False
        difference = array_difference(saved, elements, place, self._convert)
        if difference is not None:
            self.differences.append(difference)
        return difference is None

    def _fit_array(self, target: Any, elements: Array, saved: Any, place: Place) -> None:
        if not self._fits(elements, saved, place):
            return
        if not elements.flags.writeable:
            raise ValueError(f"{show(place)} is read-only and cannot be restored in place")
        if is_self_overlapping(elements):
            raise ValueError(f"{show(place)} is a view whose elements overlap in memory")
        if is_tensor(target):
            elements, saved = self._fit_tensor(target, saved, place)
        if not self._commit.read(elements, saved):
            # Convert here, as a warning of an overflow may be turned into an error.
            read = self._sources.read(saved)
            self._commit.copy(elements, converted(read, elements.dtype))
        self.loaded.append(show(place))

    def _fit_tensor(self, target: Any, saved: Array, place: Place) -> tuple[Array, Array]:
        """The memory of a tensor, and its new elements."""
        from cyoptim._libraries.torch import memory_of, unflagged

        torch = sys.modules["torch"]
        if target.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(f"{show(place)} is an inference tensor and cannot be changed here")
        if target.is_conj():
            saved = self._sources.read(saved).conj()
        if target.is_neg():
            saved = -self._sources.read(saved)
        announce_update([target])
        return memory_of(unflagged(target)), saved

    def _fit_dict(self, target: Any, saved: Any, place: Place) -> None:
        """`target` may be any mapping or record; plain values are restored only in dicts."""
        if not isinstance(saved, dict):
            self._misfit("type", place, saved, target)
            return
        saved = self._renaming.arrays(saved, place)
        entries = dict(entries_of(target))
        holder = target if isinstance(target, dict) else None
        for key in self._common_keys(entries, saved, place):
            self._fit(entries[key], saved[key], (*place, key), holder)

    def _common_keys(
        self, target: dict[Any, Any], saved: dict[Any, Any], place: Place
    ) -> list[Any]:
        for key, item in target.items():
            if key not in saved:
                where, expected = (*place, key), in_short(_elements(item))
                sentence = f"{show(where)} is missing from the file, expected {expected}"
                self._differ("missing", where, expected=expected, sentence=sentence)
        for key, item in saved.items():
            if key not in target:
                where, found = (*place, key), in_short(item)
                sentence = f"{show(where)} is unexpected: nothing to load its {found} into"
                self._differ("unexpected", where, found=found, sentence=sentence)
        return [key for key in target if key in saved]

    def _fit_sequence(self, target: Any, saved: Any, place: Place) -> None:
        if not isinstance(saved, (list, tuple)) or len(saved) != len(target):
            kind = "length" if isinstance(saved, (list, tuple)) else "type"
            self._misfit(kind, place, saved, target)
            return
        holder = target if isinstance(target, list) else None
        for index, item in enumerate(target):
            self._fit(item, saved[index], (*place, index), holder)

    def _fit_generator(self, target: np.random.Generator, saved: Any, place: Place) -> None:
        try:
            state = checked_state(target, saved)
        except Exception as error:
            self._refused(place, error)
            return
        self._commit.set(target.bit_generator, "state", state)
        self.loaded.append(show(place))

    # Objects with a state_dict -----------------------------------------------

    def _fit_state(self, target: Any, saved: Any, place: Place) -> None:
        if not _prepares(target):
            self._fit_foreign(target, saved, place)
            return
        commit, placed = Commit(self._sources), self._sources.placed
        saved = self._settled_for(target, saved)
        try:
            saved = self._renaming.state(saved, target)
            if isinstance(target, Optimizer):
                saved = target._before_load(saved)
            target._prepare_load(saved, commit)
        except (OSError, CheckpointError):  # of the file
            raise
        except Exception as error:
            self._sources.displace(placed)
            self._refused(place, error)
            return
        self._commit.add(commit)
        self.loaded.append(show(place))
        if isinstance(target, Optimizer):
            self._loaded.append(target)

    def _settled_for(self, target: Any, saved: Any) -> Any:
        """A state in which only that of an optimizer's parameters has views, which it reads into
        place: where others look at a view of a file that was cut, the process ends."""
        if _looks_at_arrays(target) or not isinstance(saved, dict):
            return self._sources.settled(saved)
        for name in saved.keys() - target._read_in_place:
            saved[name] = self._sources.settled(saved[name])
        return saved

    def _fit_foreign(self, target: Any, saved: Any, place: Place) -> None:
        state = target.state_dict()
        of_module = _is_module(target) and isinstance(state, dict) and isinstance(saved, dict)
        try:
            if of_module:
                saved = self._fit_module(state, saved, place)
            else:
                saved = _by_name(self._renaming.state(saved, target), target)
            new = self._state_for(target, saved)
        except CheckpointError:  # of the file
            raise
        except (TypeError, ValueError, AttributeError, KeyError) as error:
            self._refused(place, error)
            return
        if not of_module:
            self.loaded.append(show(place))
        self._foreign.append((place, target, copy.deepcopy(state), new))

    def _fit_module(
        self, state: dict[str, Any], saved: dict[Any, Any], place: Place
    ) -> dict[str, Any]:
        """The state for a module to load: entries that fit, and its present values for the rest."""
        saved, merged = self._renaming.arrays(saved, place), copy.copy(state)
        for key in self._common_keys(state, saved, place):
            where, item = (*place, key), saved[key]
            elements = _elements(state[key])
            # Values that are not arrays are the module's extra state.
            if isinstance(elements, np.ndarray):
                if not self._fits(elements, item, where):
                    continue
                item = converted(self._sources.read(item), elements.dtype)
            merged[key] = item
            self.loaded.append(show(where))
        return merged

    def _state_for(self, target: object, saved: Any) -> Any:
        """A copy of a saved state, with tensors where tensors were saved or torch needs them."""
        if isinstance(saved, dict):
            return type(saved)({key: self._state_for(target, item) for key, item in saved.items()})
        if isinstance(saved, (list, tuple)):
            return type(saved)(self._state_for(target, item) for item in saved)
        if not isinstance(saved, np.ndarray):
            return saved
        copied = self._sources.given(saved)
        of_torch = (class_of("torch", "nn.Module"), class_of("torch", "optim.Optimizer"))
        needs = isinstance(target, of_torch) and not isinstance(target, Optimizer)
        if not needs and id(saved) not in self._tensors:
            return copied
        from cyoptim._libraries.torch import as_tensor

        return as_tensor(copied)

    # Changing ----------------------------------------------------------------

    def _load_last(self, undo: list[Callable[[], None]]) -> None:
        """All else that may fail, but for the disk."""
        self._load_foreign(undo)
        if self._joint is not None:
            self._joint.check_restored(self.loaded)

    def _load_foreign(self, undo: list[Callable[[], None]]) -> None:
        for place, target, old, new in self._foreign:
            undo.append(functools.partial(target.load_state_dict, old))
            try:
                target.load_state_dict(new)
            except Exception as error:
                self._leave_out(place, error)
                target.load_state_dict(old)

    def _leave_out(self, place: Place, error: Exception) -> None:
        self._refused(place, error)
        if self._strict:
            raise misfit(self._path, self.differences) from error
        prefix = show(place)
        self.loaded = [p for p in self.loaded if p != prefix and not p.startswith(f"{prefix}[")]


def _by_name(saved: Any, target: Any) -> Any:
    """The state of another library's optimizer in the order of the parameters' names."""
    own = getattr(target, "param_groups", None)
    groups = saved.get("param_groups") if isinstance(saved, dict) else None
    if not isinstance(own, list) or not isinstance(groups, list) or len(own) != len(groups):
        return saved
    return {**saved, "param_groups": in_order_of_names(groups, own)}


def _elements(value: Any) -> Any:
    """The array of a parameter or tensor; other values unchanged."""
    try:
        elements = memory(value, ("",))
    except TypeError:  # a tensor without an array
        return value
    return value if elements is None else elements


def _is_module(target: object) -> bool:
    return isinstance(target, class_of("torch", "nn.Module"))


def _looks_at_arrays(target: Any) -> bool:
    """Whether code of the user's, or of an object that reads no views, sees the state before it is
    the object's."""
    if not isinstance(target, Optimizer):
        return True
    methods = (type(target).__setstate__, type(target)._prepare_load)
    ours = all(method.__module__.partition(".")[0] == "cyoptim" for method in methods)
    return bool(target._optimizer_load_state_dict_pre_hooks) or not ours


def _prepares(target: Any) -> bool:
    """Whether `_prepare_load` replaces `load_state_dict`: no subclass overrides the latter."""
    for kind in type(target).__mro__:
        if "_prepare_load" in vars(kind):
            return True
        if "load_state_dict" in vars(kind):
            return False
    return False
