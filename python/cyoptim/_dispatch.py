"""Chooses the kernels for this machine when the package is imported.

``_kernels_baseline``, ``_kernels_avx2``, ``_kernels_avx512`` and ``_kernels_avx512bf16`` are one
source compiled four times. The best one that the processor *and* the operating system support is
used; ``CYOPTIM_ISA`` may choose a lower one. Beside some of them is one that ends in ``_far``: the
same, but its loops ask for memory ahead, for steps of large arrays.
"""

from __future__ import annotations

import importlib
import importlib.util
import os

from cyoptim import _cpu

# Before anything else is loaded: the engine and NumPy fail there later, and less clearly.
if not _cpu.in_main_interpreter():
    raise ImportError(
        "cyoptim cannot be used in a subinterpreter: use processes (multiprocessing, "
        "ProcessPoolExecutor) or threads"
    )

from cyoptim import _engine

LEVELS = ("baseline", "avx2", "avx512", "avx512bf16")


def available() -> tuple[str, ...]:
    """Names of the instruction sets that the build and this machine support, lowest first."""
    built = [name for name in LEVELS if importlib.util.find_spec(f"cyoptim._kernels_{name}")]
    return tuple(name for name in built if LEVELS.index(name) <= _cpu.level())


def _choose() -> str:
    names = available()
    asked = os.environ.get("CYOPTIM_ISA")
    if not asked:
        return names[-1]
    if asked not in LEVELS:
        raise ImportError(
            f"CYOPTIM_ISA={asked!r} is not an instruction set, expected one of {', '.join(LEVELS)}"
        )
    if asked not in names:
        raise ImportError(
            f"CYOPTIM_ISA={asked!r} is not possible on this machine, which allows "
            f"{', '.join(names)}"
        )
    return asked


def use(name: str) -> None:
    """Use the kernels of this instruction set from now on."""
    global chosen
    near, far = f"cyoptim._kernels_{name}", f"cyoptim._kernels_{name}_far"
    ahead = importlib.import_module(far) if importlib.util.find_spec(far) else None
    _engine.bind(importlib.import_module(near), ahead)
    chosen = name


chosen = ""
use(_choose())
