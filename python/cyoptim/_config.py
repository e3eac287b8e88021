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

__all__ = ["get_num_threads", "set_num_threads", "show_config", "threads"]


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


def show_config() -> None:
    """Print the version, the instruction set in use, the threads, and the build.

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
    print(f"  OpenMP           {openmp if openmp else 'no: threadpoolctl does not see this build'}")
    print(f"  compiler         {_engine.compiler()}")
    print(f"  Python           {sys.version.split()[0]}, NumPy {np.__version__}")
