"""Warnings that point at the user's line, however deep inside the package they arise."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_PACKAGE = os.path.dirname(__file__)
_silent: ContextVar[bool] = ContextVar("silent", default=False)


def warn(message: str, category: type[Warning] = UserWarning, through: str = _PACKAGE) -> None:
    """Warn at the innermost line outside of this package, and of the folder that `through` is."""
    if _silent.get():
        return
    level, frame = 1, sys._getframe()
    folders = (_PACKAGE, through)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def already_warned() -> Iterator[None]:
    """Leave out warnings, in this thread: those of something that is made of what was warned of."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)
