"""Builds roof.c with the system's compiler and makes a step of it."""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import Array, Arrays

# Elements below which waking a second thread costs more than it saves.
_WORTH_THREADS = 16384
_FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
_REALS = {"float32": "float", "float64": "double"}


class Unavailable(Exception):
    """A contender cannot run here; the message says what it lacks."""


def roof(
    walks: Sequence[str], params: Arrays, grads: Arrays, scale: float, threads: int
) -> tuple[Callable[[], Any], Any]:
    """A step that walks through this memory and such state, and what to keep alive for it.

    Walks are written as passes are: see `bench.optimizers`.
    """
    names = dict.fromkeys("".join(walks).lower())
    arrays = {"p": params, "g": grads} | {
        name: [_zeros(p) for p in params] for name in names if name not in "pg"
    }
    made = [
        _walk(
            [arrays[x.lower()] for x in walk if x.isupper()],
            [arrays[x] for x in walk if x.islower()],
            scale,
            threads,
        )
        for walk in walks
    ]
    steps, owners = zip(*made, strict=True)
    return steps[0] if len(steps) == 1 else partial(_in_turn, steps), owners


def _zeros(like: Array) -> Array:
    """Zeros in memory of their own: until they are written, all are one page of the system."""
    zeros = np.empty_like(like)
    zeros.fill(0)
    return zeros


def _in_turn(steps: Sequence[Callable[[], Any]]) -> None:
    for step in steps:
        step()


def _walk(
    written: Sequence[Arrays], read: Sequence[Arrays], scale: float, threads: int
) -> tuple[Callable[[], Any], Any]:
    """One walk, and the objects to keep alive for it; see roof.c."""
    streams = (*written, *read)
    first = streams[0]
    threads = threads if sum(a.size for a in first) >= _WORTH_THREADS else 1
    spans, starts = _cut(streams, threads)
    function = _library(_REALS[str(first[0].dtype)], len(written), len(read)).roof
    function.restype = ctypes.c_double
    arguments = (
        ctypes.c_void_p(spans.ctypes.data),
        ctypes.c_void_p(starts.ctypes.data),
        ctypes.c_int(threads),
        ctypes.c_double(scale),
    )
    return partial(function, *arguments), (streams, spans, starts)


def _cut(streams: tuple[Arrays, ...], threads: int) -> tuple[Array, Array]:
    """The spans of all threads, and the number of each thread's first span."""
    total = sum(p.size for p in streams[0])
    limits = [total * t // threads for t in range(threads + 1)]
    spans, starts = [], [0]
    for low, high in pairwise(limits):
        offset = 0
        for row in zip(*streams, strict=True):
            size = row[0].size
            start, stop = max(low - offset, 0), min(high - offset, size)
            if start < stop:
                addresses = [a.ctypes.data + start * a.itemsize for a in row]
                spans.append((*addresses, stop - start))
            offset += size
        starts.append(len(spans))
    return np.array(spans, np.int64), np.array(starts, np.int64)


@cache  # many workloads ask for the same
def _library(real: str, written: int, read: int) -> ctypes.CDLL:
    compiler = shlex.split(os.environ.get("CC", "cc"))
    sizes = (f"-DREAL={real}", f"-DWRITTEN={written}", f"-DREAD={read}")
    source = Path(__file__).with_suffix(".c")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "roof.so")
        try:
            subprocess.run([*compiler, *_FLAGS, *sizes, source, "-o", target], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(
                f"a C compiler with OpenMP, named by CC if it is not cc ({error})"
            ) from error
        return ctypes.CDLL(str(target))
