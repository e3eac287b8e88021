"""Lists the methods of an optimizer or a schedule, each with a link to where it is documented.

Most are methods of the base, whose page explains them once; a class's page has its own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import cyoptim
from cyoptim import lr_scheduler, swa_utils

BASES = (cyoptim.Optimizer, lr_scheduler.LRScheduler)
HOMES = (cyoptim, lr_scheduler, swa_utils)
# What the Schedule-Free classes share: their base has no page, so each documents these itself.
MODES = ("train", "eval", "averaged", "ema")
# Those that users call in the order of a training loop; others follow in the order of the source.
FIRST = ("step", "last_step", "zero_grad", "accumulate")
# What a subclass defines rather than calls, and a decorator that only torch's programs use.
NOT_CALLED = {"update", "get_lr", "profile_hook_step"}


def methods_section(thing: type) -> list[str]:
    """Lines of reStructuredText: signatures with their first sentences."""
    lines = []
    for name in sorted(methods_of(thing), key=_rank):
        member = inspect.getattr_static(thing, name)
        role = "attr" if isinstance(member, property) else "meth"
        shown = name if role == "attr" else name + signature(getattr(thing, name))
        lines += [f":{role}:`{shown} <{documented_at(thing, name)}>`", f"   {summary(member)}", ""]
    return lines


def methods_of(thing: type) -> list[str]:
    """Names of public methods, and of properties that a call sets: own ones first."""
    found: dict[str, None] = {}
    for owner in thing.__mro__:
        if owner.__module__.startswith("cyoptim."):
            found |= dict.fromkeys(_public(owner))
    return list(found)


def documented_at(thing: type, name: str) -> str:
    """The whole name under which the site documents a method."""
    own = name in MODES and is_in_modes(thing)
    owners = [thing] if own else [each for each in thing.__mro__ if name in vars(each)]
    # A method of a base's private base is on the page of the base, which lists inherited ones.
    owners += [base for base in BASES if issubclass(thing, base)]
    return f"{next(filter(None, map(written_name, owners)))}.{name}"


def is_in_modes(thing: type) -> bool:
    return hasattr(thing, "train")


def written_name(thing: type) -> str | None:
    """The name of a class as users write it; None of one that is private."""
    name = thing.__name__
    homes = (home.__name__ for home in HOMES if getattr(home, name, None) is thing)
    return None if name.startswith("_") else next((f"{home}.{name}" for home in homes), None)


def signature(method: Any) -> str:
    """Arguments and defaults, without types."""
    (_, *parameters) = inspect.signature(method).parameters.values()
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in parameters]
    return str(inspect.Signature(bare))


def summary(member: Any) -> str:
    """The first paragraph of its docstring, in which references become plain code: they are
    relative to the class that has the method."""
    first, _, _ = (inspect.getdoc(member) or "").partition("\n\n")
    return re.sub(r":\w+:`([^`]+)`", r"``\1``", " ".join(first.split()))


def _public(owner: type) -> Iterator[str]:
    for name, member in vars(owner).items():
        called = inspect.isfunction(member) or name == "last_step"
        if called and not name.startswith("_") and name not in NOT_CALLED:
            yield name


def _rank(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST)
