"""Reads the results of the bench."""

from __future__ import annotations

import json
from pathlib import Path

RESULTS = Path(__file__).parents[2] / "bench" / "results" / "adam.json"
WORKLOADS = {
    "1x100": "one array of 100",
    "100x100": "100 arrays of 100",
    "1000x1000": "1,000 arrays of 1,000",
    "1x1M": "one array of 1,000,000",
    "1x16M": "one array of 16,777,216",
}
CONTENDERS = {
    "cyoptim": "cyoptim",
    "cyoptim-torch": "cyoptim, torch tensors",
    "torch-fused": "torch, fused",
    "torch-default": "torch, default",
    "torch-compiled": "torch, compiled",
    "deepspeed": "deepspeed",
    "optax": "optax",
    "numba": "numba",
    "numpy": "NumPy",
    "sklearn": "scikit-learn",
    "thinc": "thinc",
}
OVERVIEW = (("1x100", "1000x1000", "1x16M"), ("cyoptim", "torch-fused", "torch-default", "numpy"))


def measured() -> tuple[str, dict[str, dict[str, float]]]:
    """The machine, and the seconds of a step by workload and contender."""
    run = json.loads(RESULTS.read_text())
    times: dict[str, dict[str, float]] = {}
    for result in run["results"]:
        if "best" in result:
            times.setdefault(result["workload"], {})[result["contender"]] = result["best"]
    facts = run["environment"]
    return f"{facts['cpu']}, {facts['threads']} threads", times


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
