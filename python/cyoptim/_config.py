"""Threads, and what this build runs on."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TypeAlias

import numpy as np

from cyoptim import _cpu, _dispatch, _engine
from cyoptim._groups.numbers import plain

__all__ = [
    "get_include",
    "get_num_threads",
    "get_threading_layer",
    "set_num_threads",
    "set_threading_layer",
    "show_config",
    "threads",
]


def get_include() -> str:
    """The folder of ``cyoptim.h``, for C and C++ compilers.

    Examples
    --------
    >>> import os
    >>> import cyoptim
    >>> os.listdir(cyoptim.get_include())
    ['cyoptim.h']
    """
    return os.path.join(os.path.dirname(__file__), "include")


def set_num_threads(n: int) -> None:
    """Use at most this many threads for a step, in the whole process.

    Parameters
    ----------
    n : int
        At least 1. A step never uses more threads than ``OMP_NUM_THREADS``, the processors that the
        process may run on, the quota of its control group, or threadpoolctl's limit; small steps
        run on one thread.

    Raises
    ------
    TypeError, ValueError
        If `n` is not an integer, or is less than 1.
    """
    _set_limit(_checked(n))


def get_num_threads() -> int:
    """The largest number of threads that a step may use now."""
    return int(_engine.num_threads())


def threads(n: int) -> AbstractContextManager[None]:
    """Use at most this many threads inside a ``with`` block, in the whole process.

    If there are several blocks, nested or in several Python threads, the one that began last
    applies, until it ends.

    Parameters
    ----------
    n : int
        As in :func:`set_num_threads`.

    Examples
    --------
    >>> with threads(1):
    ...     get_num_threads()
    1
    """
    block: AbstractContextManager[None] = _engine.ThreadLimit(_checked(n))
    return block


def set_threading_layer(name: str) -> None:
    """Choose who runs the threads of a step, in the whole process.

    Parameters
    ----------
    name : {"pool", "openmp"}
        ``"pool"``, the default, is the package's own: a step waits only for threads that work for
        it, whatever other libraries' threads do, and works in forked processes. ``"openmp"`` runs a
        step as a parallel region of OpenMP, on the team that other regions of the program have, and
        on the places that ``OMP_PLACES`` and ``OMP_PROC_BIND`` give it. In a forked process, where
        GNU's OpenMP would wait for ever, steps use the pool.

    Raises
    ------
    TypeError, ValueError
        If `name` is no string, or not a layer of this build: one without OpenMP has the pool alone.

    See Also
    --------
    get_threading_layer, show_config

    Notes
    -----
    The environment variable ``CYOPTIM_THREADING_LAYER`` chooses the layer when the package is
    imported. Both have the same limits (see :func:`set_num_threads`), and the results have the same
    bits.

    Examples
    --------
    >>> set_threading_layer("pool")
    """
    if not isinstance(name, str):
        raise TypeError(f"the threading layer must be a string, got {name!r}")
    _engine.set_layer(_checked_layer(name, "the threading layer"))


def get_threading_layer() -> str:
    """The layer that runs the threads of a step: "pool" or "openmp".

    Examples
    --------
    >>> get_threading_layer()
    'pool'
    """
    return _engine.layer()


def _checked_layer(name: str, what: str) -> str:
    if name == "openmp" and name not in _engine.LAYERS:
        raise ValueError(
            f"{what} is 'openmp', but this build has none: expected 'pool', or build it with OpenMP"
        )
    if name not in _engine.LAYERS:
        expected = " or ".join(map(repr, _engine.LAYERS))
        raise ValueError(f"{what} must be {expected}, got {name!r}")
    return name


def _layer_of_environment() -> None:
    name = os.environ.get("CYOPTIM_THREADING_LAYER")
    if name:
        try:
            _engine.set_layer(_checked_layer(name, "CYOPTIM_THREADING_LAYER"))
        except ValueError as error:
            raise ImportError(str(error)) from None


def _checked(n: int) -> int:
    n = plain(n)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"the number of threads must be an integer, got {n!r}")
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, got {n}")
    return n


def _set_limit(n: int) -> None:
    _engine.set_limit(n)


# Paths are strings here: pathlib would take a tenth of the package's import.
_Path: TypeAlias = "str | os.PathLike[str]"


def _quota(root: _Path = "/sys/fs/cgroup", own: _Path = "/proc/self/cgroup") -> int:
    """The control group's time quota in processors, rounded up; 0 without one.

    OpenMP does not take a quota into account, and would start more threads than can run.
    """
    quotas = []
    for path in _groups(os.fspath(root), own):
        try:
            if os.path.exists(os.path.join(path, "cpu.max")):
                limit, period = _read(path, "cpu.max").split()
            else:
                limit = _read(path, "cpu.cfs_quota_us").strip()
                period = _read(path, "cpu.cfs_period_us").strip()
            if limit not in ("max", "-1"):
                quotas.append(max(1, -(-int(limit) // int(period))))
        except (OSError, ValueError):
            continue
    return min(quotas, default=0)


def _read(*path: _Path) -> str:
    with open(os.path.join(*path), "rb") as file:
        return os.fsdecode(file.read())


def _groups(root: str, own: _Path) -> Iterator[str]:
    """This process's control group and all above it: the tightest quota counts."""
    cpu = os.path.join(root, "cpu")
    bases = [(root, ""), (cpu, ""), (os.path.join(root, "cpu,cpuacct"), "")]
    try:
        lines = _read(own).splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, path = line.split(":", 2) if line.count(":") >= 2 else ("", "", "")
        if controllers == "":
            bases.append((root, path))
        elif "cpu" in controllers.split(","):
            bases += [(cpu, path), (os.path.join(root, controllers), path)]
    for base, path in bases:
        parts = path.strip("/").split("/") if path.strip("/") else []
        for depth in range(len(parts), -1, -1):
            yield os.path.join(base, *parts[:depth])


# Even if OMP_NUM_THREADS is larger: containers often inherit it from a larger machine.
_QUOTA = _quota()
_engine.set_limits(_QUOTA, True)
_layer_of_environment()


def show_config() -> None:
    """Print the version, the instruction set in use, the threads and who runs them, and the build.

    ``python -m cyoptim`` prints it, too, and what surrounds it: the system, the settings in the
    environment, and the versions of the libraries that it works with.

    Examples
    --------
    >>> show_config()  # doctest: +ELLIPSIS
    cyoptim ...
    """
    from cyoptim import __version__

    openmp = _engine.openmp()
    allowed = ", ".join(_dispatch.available())
    print(f"cyoptim {__version__}")
    print(
        f"  instruction set  {_dispatch.chosen} (this machine allows: {allowed}; "
        f"highest level: {_dispatch.LEVELS[_cpu.level()]})"
    )
    print(
        f"  threads          {get_num_threads()}"
        + (f" (control group quota: {_QUOTA})" if _QUOTA else "")
    )
    print(
        f"  threading layer  {get_threading_layer()} (this build has: {', '.join(_engine.LAYERS)})"
    )
    print(f"  OpenMP           {openmp if openmp else 'no: threadpoolctl does not see this build'}")
    print(f"  compiler         {_engine.compiler()}")
    print(f"  Python           {sys.version.split()[0]}, NumPy {np.__version__}")
