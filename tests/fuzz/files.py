"""Files of checkpoints that are nearly right.

A case takes a valid file apart: the JSON, the description of each array, its elements, and what the
container says of them. It changes some of that, puts it together again with checksums that are
right, and loads it into objects that are in use. So changes get past the checksums, which find
those of bytes alone.
"""

from __future__ import annotations

import atexit
import functools
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter, OrderedDict
from typing import Any

import numpy as np

import cyoptim

from .file_changes import Mutation, Parts

NAME = "files"
LONG = 200_000
SEEDS: tuple[int, ...] = (
    # Groups, names of parameters and averages: an error of another type, or half done.
    18764, 24714, 16409, 29382, 53286, 1000020, 1001358, 1004898, 1008400, 1006474, 1014422,
    1001317, 1004241, 1006285, 1075044, 1089306,
    # Options of optimizers that are no options: the next step ends in an error.
    1000026, 1000338, 1001402, 1001547, 1001596, 1004688, 1029713,
    # States of schedulers that are none, also in the place of their methods.
    1000272, 1000478, 1001172, 1001286, 1001442, 1002996, 1004892, 1010086, 1011205, 1016714,
    1019649, 1021433, 1030499, 1030619, 1146318,
    # A value that overflows in a cast.
    43267, 1177274,
)  # fmt: skip

MOST_SECONDS = 2.0
MOST_MEMORY = 150_000  # kilobytes by which a case may raise the most that the process had

# What a load may raise into objects that can be restored in place, and how it is counted.
REFUSALS: dict[type, str] = {
    type(None): "",
    cyoptim.CheckpointError: "damaged",
    ValueError: "does not fit",
}

# The objects -----------------------------------------------------------------


def make(kind: int, start: float) -> dict[str, Any]:
    """Objects of a run, after two steps."""
    run = (_plain_run, _named_run, _odd_run, _narrow_run)[kind](start)
    for _ in range(2):
        _step(run)
    return run


def _plain_run(start: float) -> dict[str, Any]:
    params = [cyoptim.Parameter(np.full((2, 3), start, "f4")), cyoptim.Parameter(np.full(4, start))]
    groups = [{"params": params[:1], "lr": 0.3}, {"params": params[1:], "betas": (0.8, 0.9)}]
    optimizer = cyoptim.Adam(groups, lr=0.1, amsgrad=True)
    return {
        "params": params,
        "optimizer": optimizer,
        "scheduler": cyoptim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
        "rng": np.random.default_rng(int(start)),
    }


def _named_run(start: float) -> dict[str, Any]:
    params = {"layer.W": np.full((3, 2), start), "layer.b": np.full(2, start, "f4")}
    optimizer = cyoptim.SGD(params.items(), lr=0.1, momentum=0.9, nesterov=True)
    optimizer.ema(0.75)
    return {
        "params": params,
        "optimizer": optimizer,
        "scheduler": cyoptim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5),
        "rng": np.random.Generator(np.random.MT19937(int(start))),
    }


def _odd_run(start: float) -> dict[str, Any]:
    params = {"z": np.full(3, start + 1j), "w": np.asfortranarray(np.full((2, 2), start))}
    optimizer = cyoptim.NAdam(params.items(), lr=0.01)
    return {
        "params": params,
        "optimizer": optimizer,
        "scheduler": cyoptim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5),
        "rng": np.random.Generator(np.random.Philox(int(start))),
    }


def _narrow_run(start: float) -> dict[str, Any]:
    """Parameters of 16 bits, states of 16 and of 8."""
    wide = {"W": np.full((16, 256), start, "f4"), "b": np.full(3, start, "f4")}
    params: dict[str, Any] = {
        name: cyoptim.Parameter(array, dtype="bfloat16").data for name, array in wide.items()
    }
    params["V"] = np.full((4096,), start, "f4")
    formats = {"W": "dynamic8", "b": "bfloat16", "V": "float8_e4m3fn"}
    optimizer = cyoptim.AdamW(
        {"params": [(name, params[name])], "state_dtype": kind, **NO_MASTER.get(name, {})}
        for name, kind in formats.items()
    )
    return {
        "params": params,
        "optimizer": optimizer,
        "scheduler": cyoptim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5),
        "rng": np.random.default_rng(int(start)),
    }


NO_MASTER: dict[str, Any] = {"b": {"master": None}}
NARROW = 3  # the number of these objects


def _step(run: dict[str, Any]) -> None:
    params = run["params"]
    arrays = list(params.values()) if isinstance(params, dict) else [p.data for p in params]
    with np.errstate(all="ignore"):
        run["optimizer"].step(grads=[_gradient(array) for array in arrays])
    run["scheduler"].step()
    run["rng"].random()
    run["rng"].integers(5, dtype=np.int32)


def _gradient(array: Any) -> Any:
    return np.ones(array.shape, "f4") if array.itemsize == 2 else np.ones_like(array)


VALUES: dict[str, Any] = {
    "epoch": 5,
    "history": [0.5, -0.0, float("inf"), 2**70, "text", None, True],
    "odd": {(1, "a"): 1j, 2: b"bytes", 2.5: np.float32(2), None: np.array([True, False])},
    "more": (OrderedDict(a=[], b=()), Counter(x=3), np.str_("s\0"), np.bytes_(b"\0"), {"array": 1}),
}
NPZ_ALONE: dict[str, Any] = {
    "dates": np.array(["2026-01-02"], "M8[D]"),
    "records": np.zeros(2, [("a", "i4"), ("b", "f8", (2,))]),
    "strings": np.array(["ab", "c"]),
    "empty": np.zeros((0, 3), ">f2"),
}


def look(value: Any) -> Any:
    """What objects hold, to compare; the order of the keys in a dict is left out."""
    if isinstance(value, dict):
        return {repr(key): look(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value), [look(item) for item in value]
    if isinstance(value, cyoptim.Parameter):
        return look(value.data)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, np.random.Generator):
        return look(value.bit_generator.state)
    return look(value.state_dict()) if hasattr(value, "state_dict") else repr(value)


# Files taken apart -----------------------------------------------------------


@functools.cache
def _folder(process: int) -> str:
    made = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
    atexit.register(_remove, made, process)
    return made


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # and no fork of it
        shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def original(kind: int, suffix: str) -> tuple[bytes, Parts, Any]:
    """A valid file, whole and in parts, and how the objects look that were saved."""
    run = make(kind, start=3.0)
    path = os.path.join(_folder(os.getpid()), f"original{suffix}")
    cyoptim.save(path, **run, **VALUES, **(NPZ_ALONE if suffix == ".npz" else {}))
    with open(path, "rb") as file:
        content = file.read()
    return content, Parts(content, suffix), look(run)


# A case ----------------------------------------------------------------------


@functools.cache
def _targets(kind: int) -> list[Any]:
    """Objects to load into, kept from case to case while nothing changes them, and their look."""
    run = make(kind, start=1.0)
    return [run, look(run)]


def check(case: int) -> str:
    """Load the file of a case; the kind of outcome. AssertionError if a promise is broken."""
    rng = np.random.default_rng(case)
    return check_with(rng, case, int(rng.integers(3)))


def check_with(rng: np.random.Generator, case: int, kind: int) -> str:
    """As check(), of these objects."""
    suffix = (".npz", ".safetensors")[case % 2]
    content, parts, saved = original(kind, suffix)
    path = os.path.join(_folder(os.getpid()), f"case{suffix}")
    with open(path, "wb") as file:
        mutation = Mutation(rng, suffix, lambda kind: original(kind, suffix)[0])
        file.write(mutation.file(content, parts))
    run, before = _targets(kind)
    strict, convert = bool(rng.integers(8)), not rng.integers(8)
    try:
        refused = _load_within_limits(path, run, strict, convert)
        after = _check_use(run, refused)
        if refused:
            assert after == before, f"objects changed by a load that was refused: {refused}"
            return refused
    except BaseException:
        _targets.cache_clear()  # the next case needs objects that are whole
        raise
    _targets.cache_clear()
    return "loaded as it was" if after == saved else "loaded otherwise"


def _load_within_limits(path: str, run: dict[str, Any], strict: bool, convert: bool) -> str:
    """The kind of refusal, or nothing."""
    memory, start = _peak(), time.process_time()
    raised: Exception | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            cyoptim.load(path, strict=strict, convert=convert, **run)
        except Exception as error:
            raised = error
    seconds = time.process_time() - start
    grown = _peak() - memory
    if type(raised) not in REFUSALS:
        raise AssertionError(f"load raised {raised!r}") from raised
    assert seconds < MOST_SECONDS, f"load took {seconds:.1f} s"
    assert grown < MOST_MEMORY, f"load took {grown} kB of memory"
    # Values that are too great for the dtype of a parameter become infinite there.
    # A state of other types is converted, and what is lost is told.
    known = ("overflow encountered in cast", "state is stored in other types")
    warned = [w.message for w in caught if not any(text in str(w.message) for text in known)]
    assert not warned, f"load warned: {warned[0]}"
    return REFUSALS[type(raised)]


def _peak() -> int:
    """The most memory that this program has had, in kilobytes."""
    if sys.platform == "linux":  # there, ru_maxrss begins with that of the program that started it
        with open("/proc/self/status") as status:
            return int(status.read().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _check_use(run: dict[str, Any], refused: str) -> Any:
    """How the objects look now; after a load they must be fit for use."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            after = look(run)
            if not refused:
                _step(run)
    except Exception as error:
        # Numbers are not judged: a schedule may have one too large for its formula.
        if isinstance(error, ArithmeticError) or "math domain error" in str(error):
            return after
        raise AssertionError(f"the objects cannot be used any more: {error!r}") from error
    return after
