"""Warnings that point at the user's line, however deep inside the package they arise."""

from __future__ import annotations

import os
import sys
import warnings

_PACKAGE = os.path.dirname(__file__)


def warn(message: str, category: type[Warning] = UserWarning, through: str = _PACKAGE) -> None:
    """Warn at the innermost line outside of this package, and of the folder that `through` is."""
    level, frame = 1, sys._getframe()
    folders = (_PACKAGE, through)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(folders):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
