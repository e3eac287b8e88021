"""Optimizers and schedules by the names that users write, in any case."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from cyoptim import lr_scheduler, optimizers
from cyoptim._spelling import nearest
from cyoptim.optimizer import Optimizer


def _classes(module: Any, base: type) -> dict[str, type]:
    """The public subclasses in a module."""
    found = {name: getattr(module, name) for name in module.__all__ if name[0] != "_"}
    return {
        name: thing
        for name, thing in found.items()
        if isinstance(thing, type) and issubclass(thing, base) and thing is not base
    }


OPTIMIZERS = _classes(optimizers, Optimizer)
# Composed schedules take schedulers, which need an optimizer: users pass a function instead.
SCHEDULERS = _classes(lr_scheduler, lr_scheduler.LRScheduler)
del SCHEDULERS["ChainedScheduler"], SCHEDULERS["SequentialLR"]


def class_named(
    argument: str, name: str, known: dict[str, type], unlisted: Collection[type] = ()
) -> Any:
    """The class of this name; the error lists all names except those in `unlisted`."""
    for each, found in known.items():
        if each.lower() == name.lower():
            return found
    names = sorted(each for each, found in known.items() if found not in unlisted)
    close = nearest(name, names)
    hint = f"did you mean {close!r}? The" if close else "the"
    raise ValueError(f"{argument}: there is no {name!r}; {hint} names are {', '.join(names)}")
