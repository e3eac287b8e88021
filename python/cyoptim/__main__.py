"""``python -m cyoptim``: what a report of a fault should contain."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from cyoptim import show_config

LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "torch", "jax", "autograd", "mygrad", "threadpoolctl",
    "matplotlib",
)  # fmt: skip
VARIABLES = (
    "CYOPTIM_ISA", "CYOPTIM_THREADING_LAYER", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND",
    "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS",
)  # fmt: skip


def main() -> None:
    """Print the configuration and what surrounds it."""
    if len(sys.argv) > 1:
        sys.exit("usage: python -m cyoptim\n(it prints the configuration; for a demonstration: "
                 "python -m cyoptim.demo)")  # fmt: skip
    show_config()
    print("system")
    print(f"  platform         {platform.platform()}")
    print(f"  processors       {os.cpu_count()}, of which {_usable()} may be used")
    print(f"  Python           {sys.executable}")
    print("environment")
    for name in VARIABLES:
        print(f"  {name:24} {os.environ.get(name, 'not set')}")
    print("libraries")
    for name in LIBRARIES:
        print(f"  {name:24} {_version(name)}")


def _usable() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
