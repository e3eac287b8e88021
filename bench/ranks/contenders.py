"""What is timed: steps of all processes, and the parts of a sharded one.

A builder gets what a process has, allocates memory as users would, and returns a step. To add a
contender, write its builder and add its row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import cyoptim
from bench.roof import Unavailable
from bench.workloads import Array, Arrays, Workload
from cyoptim.distributed import Sharded

OPTIONS: dict[str, Any] = {"lr": 1e-3}
CLIPPED = 0.3
"""To which part of its norm a gradient is clipped."""


@dataclass
class Process:
    """What one process has: its communicator, and the gradients along its part of a batch."""

    comm: Any  # of mpi4py
    workload: Workload
    grads: Arrays
    group: Callable[[], Any]  # starts torch's process group
    _reduced: Arrays = field(default_factory=list)

    @property
    def reduced(self) -> Arrays:
        """Arrays for the sums of gradients, which contenders share."""
        if not self._reduced:
            self._reduced = [np.zeros_like(grad) for grad in self.grads]
        return self._reduced

    def params(self) -> Arrays:
        """New parameters, the same in all processes."""
        return self.workload.random(0)


@dataclass(frozen=True)
class Expectation:
    """What a step does to gradients and parameters."""

    max_norm: float | None = None
    rounds_grads: bool = False  # to bfloat16
    rounds_params: bool = False


@dataclass(frozen=True)
class Step:
    """A step, the parameters that it changes, and what holds the state."""

    step: Callable[[], Any]
    params: Arrays | None = None  # None: it is no whole step
    state: Callable[[], Iterable[Any]] = lambda: ()
    load: Callable[[], None] | None = None  # brings new gradients to where the step reads them
    expected: Expectation = Expectation()
    tolerance: float = 1.0  # of the parameters, in units of the usual one


# --- what people do -------------------------------------------------------------------------------


def build_allreduce(process: Process) -> Step:
    """Add gradients up: on every process all of them."""
    pairs = [*zip(process.grads, process.reduced, strict=True)]

    def step() -> None:
        for grad, total in pairs:
            process.comm.Allreduce(grad, total)

    return Step(step)


def build_allreduce_step(process: Process) -> Step:
    """Every process steps all parameters along the sums."""
    params, exchange = process.params(), build_allreduce(process)
    optimizer = cyoptim.AdamW(params, **OPTIONS)

    def step() -> None:
        exchange.step()
        optimizer.step(grads=process.reduced, grad_scale=process.comm.size)

    return Step(step, params, lambda: arrays_of(optimizer))


# --- sharded --------------------------------------------------------------------------------------


def build_sharded(process: Process, **settings: Any) -> Step:
    params = process.params()
    optimizer = Sharded(params, cyoptim.AdamW, comm=process.comm, **OPTIONS, **settings)
    return Step(
        partial(optimizer.step, grads=process.grads), params, lambda: arrays_of(optimizer.shard)
    )


def build_clipped(process: Process) -> Step:
    """With the norm over all processes."""
    sharded = build_sharded(process)
    norm = CLIPPED * math.sqrt(process.workload.elements)
    step = partial(sharded.step, max_norm=norm)
    return Step(step, sharded.params, expected=Expectation(max_norm=norm))


def build_rounded(process: Process) -> Step:
    """Gradients travel in bfloat16."""
    needs("ml_dtypes")
    sharded = build_sharded(process, comm_dtype="bfloat16")
    return Step(sharded.step, sharded.params, expected=Expectation(rounds_grads=True))


def build_split(process: Process) -> Step:
    """Parameters of bfloat16 with their remainders, and gradients of bfloat16."""
    ml_dtypes = needs("ml_dtypes")
    params = [array.astype(ml_dtypes.bfloat16) for array in process.params()]
    grads = [np.zeros(grad.shape, ml_dtypes.bfloat16) for grad in process.grads]
    optimizer = Sharded(params, cyoptim.AdamW, comm=process.comm, **OPTIONS)

    def load() -> None:
        for grad, source in zip(grads, process.grads, strict=True):
            grad[...] = source

    load()
    step = partial(optimizer.step, grads=grads)
    expected = Expectation(rounds_grads=True, rounds_params=True)
    state = partial(arrays_of, optimizer.shard)
    return Step(step, params, state, load, expected, tolerance=2**-8 / 1e-6)  # as it is rounded


# --- torch ----------------------------------------------------------------------------------------


def tensors_of(process: Process) -> tuple[Arrays, list[Any]]:
    """Parameters, and tensors over them with gradients."""
    import torch

    torch.set_num_threads(1)
    params = process.params()
    tensors = [torch.nn.Parameter(torch.from_numpy(param)) for param in params]
    for tensor, grad in zip(tensors, process.grads, strict=True):
        tensor.grad = torch.from_numpy(grad)
    return params, tensors


def build_all_reduce(process: Process, optimizer: Callable[[list[Any]], Any]) -> Step:
    """Means of gradients in place, and torch's optimizer."""
    process.group()
    import torch.distributed as dist

    params, tensors = tensors_of(process)
    stepper, size = optimizer(tensors), process.comm.size

    def step() -> None:
        for tensor in tensors:
            dist.all_reduce(tensor.grad)
            tensor.grad.div_(size)
        stepper.step()

    own = getattr(stepper, "optim", stepper)
    return Step(step, params, lambda: tensors_in(own.state), tolerance=2)


def torch_adamw(tensors: list[Any]) -> Any:
    from torch.optim import AdamW

    return AdamW(tensors, fused=True, **OPTIONS)


def torch_zero(tensors: list[Any]) -> Any:
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.optim import AdamW

    return ZeroRedundancyOptimizer(tensors, optimizer_class=AdamW, fused=True, **OPTIONS)


def build_torch_sharded(process: Process) -> Step:
    """Sharded over torch's process group, and over tensors."""
    group = process.group()
    params, tensors = tensors_of(process)
    optimizer = Sharded(tensors, cyoptim.AdamW, comm=group, **OPTIONS)
    return Step(optimizer.step, params, lambda: arrays_of(optimizer.shard))


# --- parts ----------------------------------------------------------------------------------------


def needs(package: str) -> Any:
    """A package, or the exception that tells that it is missing."""
    try:
        return __import__(package)
    except ImportError as error:
        raise Unavailable(f"it needs {package} (pip install {package})") from error


def arrays_of(optimizer: Any) -> list[Array]:
    """The arrays of an optimizer's state."""
    return [
        np.asarray(value)
        for entries in optimizer.state.values()
        for value in entries.values()
        if getattr(value, "ndim", 0)
    ]


def tensors_in(state: dict[Any, dict[str, Any]]) -> list[Any]:
    """The tensors of a state of torch."""
    return [value for entries in state.values() for value in entries.values() if value.ndim]


@dataclass(frozen=True)
class Row:
    """A contender."""

    build: Callable[[Process], Step]
    about: str
    color: str
    packages: tuple[str, ...] = ()
    everywhere: bool = False  # also where only the model is checked


ALLREDUCE, REPLICATED, SHARDED, ZERO = "Allreduce", "Allreduce, step", "Sharded", "gloo: ZeRO"
STEPS: dict[str, Row] = {
    ALLREDUCE: Row(build_allreduce, "MPI's Allreduce of each gradient", "#777777", everywhere=True),
    REPLICATED: Row(
        build_allreduce_step,
        "the same, and `cyoptim.AdamW` on every process",
        "#c44e52",
        everywhere=True,
    ),
    SHARDED: Row(build_sharded, "`Sharded(comm=MPI.COMM_WORLD)`", "#4c72b0", everywhere=True),
    "Sharded, max_norm": Row(build_clipped, "with `step(max_norm=...)`, which clips", "#6f93c6"),
    "Sharded, bfloat16": Row(build_rounded, 'with `comm_dtype="bfloat16"`', "#8fb0da"),
    "Sharded, split": Row(build_split, "parameters and gradients of bfloat16", "#afc8e6"),
    "Sharded, library": Row(
        partial(build_sharded, order="library"), 'with `order="library"`', "#cfdff2"
    ),
    "gloo: step": Row(
        partial(build_all_reduce, optimizer=torch_adamw),
        "`all_reduce` of each gradient, and `torch.optim.AdamW(fused=True)` on every process",
        "#dd8452",
        ("torch",),
    ),
    ZERO: Row(
        partial(build_all_reduce, optimizer=torch_zero),
        "`all_reduce` of each gradient, and `ZeroRedundancyOptimizer` of it",
        "#ecb08e",
        ("torch",),
        everywhere=True,
    ),
    "gloo: Sharded": Row(
        build_torch_sharded, "`Sharded(comm=torch.distributed)` over tensors", "#55a868", ("torch",)
    ),
}
