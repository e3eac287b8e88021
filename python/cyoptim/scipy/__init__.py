"""The optimizers as methods of :func:`scipy.optimize.minimize`."""

from __future__ import annotations

try:
    import scipy.optimize as _optimize  # noqa: F401
except ModuleNotFoundError as _error:
    raise ImportError('cyoptim.scipy needs SciPy: pip install "cyoptim[scipy]"') from _error

from cyoptim.scipy._method import Method, method

__all__ = ["Method", "method"]
