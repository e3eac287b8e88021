"""Adam over numbers of 16 and 8 bits: the formats of ``bench precision`` and ``bench accuracy``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.roof import Unavailable
from bench.subject import Subject, reference
from bench.workloads import Array, Arrays

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "dynamic8": 1, "float8_e4m3fn": 1}
SCALED = 256
"""Elements of 8 bits that share a float32 scale."""

MASTERS = {None: 0, "split": 2, "float32": 4}
"""Bytes that a master adds to a parameter of 16 bits: an int16 remainder, or a float32 number."""

LEAST_SCALED = 4096
"""Elements of a tensor from which on its state has 8 bits."""

ROUNDED_PARAM, ROUNDED_STATE, SCALED_STATE = 40_000, 1_000, 10_000
"""How far from the float64 reference lossy formats may be, in units of the tolerance of float32.

Of a million elements the farthest are at 33,000, 400 and 4,300; at 76,000 if none moves."""


@dataclass(frozen=True)
class Format:
    """How the numbers of a step are stored. Arithmetic is float32."""

    param: str = "float32"
    grad: str = "float32"
    state: str = "float32"
    master: str | None = None
    rounding: str | None = None  # of what has no master; None if there is nothing to choose

    @property
    def kept(self) -> float:
        """Bytes of a parameter with its state. This is computed, not measured."""
        return BYTES[self.param] + MASTERS[self.master] + 2 * self._state

    @property
    def moved(self) -> float:
        """Bytes that a step reads and writes: all that is kept both, the gradient is only read."""
        return BYTES[self.grad] + 2 * self.kept

    @property
    def _state(self) -> float:
        size = BYTES[self.state]
        return size + 4 / SCALED if size == 1 else size

    @property
    def tolerance(self) -> float:
        """How far steps may be from the reference, in units of that of float32."""
        if self.param != "float32" and self.master is None:
            return ROUNDED_PARAM
        return {4: 1, 2: ROUNDED_STATE, 1: SCALED_STATE}[BYTES[self.state]]

    @property
    def options(self) -> dict[str, Any]:
        """The options of cyoptim's optimizers."""
        found: dict[str, Any] = {}
        if self.state != "float32":
            found["state_dtype"] = self.state
        if self.param != "float32":
            found["master"] = self.master
        if self.rounding:
            found["rounding"] = self.rounding
        return found


_HALF = {"param": "bfloat16", "grad": "bfloat16"}

FORMATS = {
    "float32": Format(),
    "bf16-grads": Format(grad="bfloat16"),
    "bf16-state": Format(state="bfloat16", rounding="stochastic"),
    "bf16-state-nearest": Format(state="bfloat16", rounding="nearest"),
    "bf16-params": Format(**_HALF, rounding="stochastic"),
    "bf16-params-nearest": Format(**_HALF, rounding="nearest"),
    "bf16": Format(**_HALF, state="bfloat16", rounding="stochastic"),
    "bf16-nearest": Format(**_HALF, state="bfloat16", rounding="nearest"),
    "split": Format(**_HALF, master="split"),
    "split-bf16-state": Format(**_HALF, master="split", state="bfloat16", rounding="stochastic"),
    "master": Format(**_HALF, master="float32"),
    "float16": Format("float16", "float16", master="float32"),
    "dynamic8": Format(state="dynamic8"),
    "float8": Format(state="float8_e4m3fn"),
    "bf16-dynamic8": Format(**_HALF, state="dynamic8", rounding="stochastic"),
    "split-dynamic8": Format(**_HALF, master="split", state="dynamic8"),
    "split-float8": Format(**_HALF, master="split", state="float8_e4m3fn"),
}
"""By the name of the contender."""


def dtype_of(name: str) -> Any:
    """The dtype of parameters or gradients. NumPy has no bfloat16."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def optimizer_of(cls: str, params: Sequence[Any], chosen: Format, **options: Any) -> Any:
    """An optimizer of cyoptim that stores its numbers so."""
    import cyoptim

    with warnings.catch_warnings():
        # Rounding bfloat16 to nearest is warned of; here it is timed nevertheless.
        warnings.simplefilter("ignore", UserWarning)
        return getattr(cyoptim, cls)(params, **chosen.options, **options)


def build(operation: str, params: Arrays, grads: Arrays, threads: int, chosen: Format) -> Subject:
    """Its step. The reference begins with rounded parameters, and gets rounded gradients."""
    import cyoptim
    from cyoptim import _engine

    if params[0].dtype != np.float32:
        raise Unavailable("formats are compared with float32 only")
    cyoptim.set_num_threads(threads)
    _engine.take_all_threads(True)  # as the rivals, and whatever disturbs the first steps
    held, slopes = stored(params, chosen.param), stored(grads, chosen.grad)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(held, slopes, strict=True)]
    stepper = optimizer_of(operation, wrapped, chosen)

    def load() -> None:
        for given, own in zip(grads, slopes, strict=True):
            own[...] = given
            given[...] = own

    def result() -> Arrays:
        return [_wide(p, stepper.state[w]) for p, w in zip(held, wrapped, strict=True)]

    return Subject(
        stepper.step,
        params,
        grads,
        reference(operation),
        load=load,
        result=result,
        tolerance=chosen.tolerance,
    )


def stored(arrays: Arrays, name: str) -> Arrays:
    """The arrays in this type, to which they are rounded."""
    held = [a if name == "float32" else a.astype(dtype_of(name)) for a in arrays]
    for a, rounded in zip(arrays, held, strict=True):
        a[...] = rounded
    return held


def _wide(param: Array, state: dict[str, Any]) -> Array:
    """A parameter with its master, in float32."""
    wide: Array = param.astype(np.float32)
    if "param_master" in state:
        wide = state["param_master"]
    elif "param_remainder" in state:
        wide.view(np.uint32)[...] += state["param_remainder"].astype(np.uint32)
    return wide
