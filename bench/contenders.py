"""The contenders: a row for each.

A builder gets the optimizer's name, the parameters, the gradients and the number of threads,
allocates memory as users would, and returns a :class:`Subject`. To add a contender, write
its builder and add its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from bench import averaged_steps, fused_steps, peers
from bench.optimizers import OPTIMIZERS
from bench.roof import Unavailable, roof
from bench.subject import Subject, reference, stepper_of, tensors_of, views_of
from bench.workloads import Array, Arrays, Stream

Scalars = tuple[Any, ...]


@dataclass(frozen=True)
class Contender:
    """A row of the table."""

    build: Callable[[str, Arrays, Arrays, int], Subject]
    packages: tuple[str, ...]
    color: str
    knows: Callable[[str], bool] = lambda optimizer: True
    variables: dict[str, str] = field(default_factory=dict)  # of the environment of its process


def build_cyoptim(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)
    return Subject(stepper.step, params, grads, reference(optimizer))


def build_instruction_set(
    optimizer: str, params: Arrays, grads: Arrays, threads: int, level: str
) -> Subject:
    """cyoptim with these kernels, which the process has selected before the import."""
    try:
        import cyoptim
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # the processor or the build lacks these kernels
        raise Unavailable(str(error)) from error
    if cyoptim._dispatch.chosen != level:
        raise Unavailable(f"a process that starts with {_VARIABLE}={level}")
    return build_cyoptim(optimizer, params, grads, threads)


def build_cyoptim_torch(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    return _step_tensors(cyoptim, optimizer, params, grads, threads)


def build_torch(
    optimizer: str, params: Arrays, grads: Arrays, threads: int, **mode: bool
) -> Subject:
    import torch

    return _step_tensors(torch.optim, optimizer, params, grads, threads, **mode)


def build_numpy(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    scratch = np.empty(max(p.size for p in params), params[0].dtype)
    views = [scratch[: p.size].reshape(p.shape) for p in params]
    update = {"Adam": _adam_numpy}[optimizer]
    return _step_each(optimizer, update, params, grads, float, views)


def build_numba(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import numba

    from bench.numba_loops import compiled

    numba.set_num_threads(threads)
    return _step_each(optimizer, compiled(optimizer), params, grads, params[0].dtype.type)


def build_roof(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    scale = 0.01
    count = OPTIMIZERS[optimizer].written
    state = [[np.zeros_like(p) for p in params] for _ in range(count - 1)]
    step, owner = roof((params, *state), (grads,), scale, threads)
    return Subject(step, params, grads, Stream(scale, count), owner)


def _is_adam(optimizer: str) -> bool:
    return optimizer == "Adam"


def _is_fused(optimizer: str) -> bool:
    return OPTIMIZERS[optimizer].fused


def _in_torch(optimizer: str) -> bool:
    return OPTIMIZERS[optimizer].in_torch


_VARIABLE = "CYOPTIM_ISA"


def _instruction_set(level: str, color: str) -> Contender:
    build = partial(build_instruction_set, level=level)
    return Contender(build, ("cyoptim",), color, variables={_VARIABLE: level})


CONTENDERS = {
    "cyoptim": Contender(build_cyoptim, ("cyoptim",), "#d62728"),
    "cyoptim-torch": Contender(build_cyoptim_torch, ("cyoptim", "torch"), "#ff9896"),
    "torch-fused": Contender(partial(build_torch, fused=True), ("torch",), "#1f77b4", _is_fused),
    "torch-default": Contender(build_torch, ("torch",), "#aec7e8", _in_torch),
    "torch-foreach": Contender(
        partial(build_torch, foreach=True), ("torch",), "#9edae5", _in_torch
    ),
    "torch-single": Contender(
        partial(build_torch, foreach=False), ("torch",), "#c7c7c7", _in_torch
    ),
    "numba": Contender(build_numba, ("numba",), "#2ca02c", _is_adam),
    "numpy": Contender(build_numpy, ("numpy",), "#9467bd", _is_adam),
    "torch-compiled": Contender(peers.build_torch_compiled, ("torch",), "#17becf", _is_adam),
    "optax": Contender(peers.build_optax, ("jax", "jaxlib", "optax"), "#ff7f0e", _is_adam),
    "sklearn": Contender(peers.build_sklearn, ("scikit-learn",), "#8c564b", _is_adam),
    "thinc": Contender(peers.build_thinc, ("thinc",), "#e377c2", _is_adam),
    "deepspeed": Contender(peers.build_deepspeed, ("deepspeed", "ninja"), "#bcbd22", _is_adam),
    "cyoptim-avx512": _instruction_set("avx512", "#d62728"),
    "cyoptim-avx2": _instruction_set("avx2", "#ff7f0e"),
    "cyoptim-baseline": _instruction_set("baseline", "#bcbd22"),
    "step": Contender(fused_steps.build_step, ("cyoptim",), "#d62728", _is_adam),
    "step-clip": Contender(fused_steps.build_step_clip, ("cyoptim",), "#d62728", _is_adam),
    "step-clip-zero": Contender(
        fused_steps.build_step_clip_zero, ("cyoptim",), "#d62728", _is_adam
    ),
    "calls": Contender(fused_steps.build_calls, ("cyoptim",), "#ff9896", _is_adam),
    "calls-torch": Contender(fused_steps.build_calls_torch, ("torch",), "#1f77b4", _is_adam),
    "ema": Contender(averaged_steps.build_ema, ("cyoptim",), "#d62728", _is_adam),
    "averaged": Contender(averaged_steps.build_averaged, ("cyoptim",), "#ff9896", _is_adam),
    "averaged-torch": Contender(
        averaged_steps.build_averaged_torch, ("torch",), "#1f77b4", _is_adam
    ),
    "roof": Contender(build_roof, (), "#222222"),
}

PEERS = (
    *("cyoptim", "cyoptim-torch", "torch-fused", "torch-default", "torch-compiled"),
    *("deepspeed", "optax", "numba", "numpy", "sklearn", "thinc", "roof"),
)
"""Who is timed on the workloads of Adam."""

SLOW = ("torch-compiled",)
"""Who takes minutes to get ready, which ``--quick`` does not have."""

INSTRUCTION_SETS = ("cyoptim-avx512", "cyoptim-avx2", "cyoptim-baseline")
"""cyoptim with the kernels of each."""

FUSED = ("step", "step-clip", "step-clip-zero", "calls", "calls-torch")
"""What ``python -m bench fused`` compares."""

AVERAGED = ("cyoptim", "ema", "averaged", "torch-fused", "averaged-torch")
"""What ``python -m bench averages`` compares."""

TORCH = ("torch-fused", "torch-default", "torch-foreach")
"""The modes of torch. On a processor its default is torch-single, so that this is not timed too."""


def _step_tensors(
    library: Any, optimizer: str, params: Arrays, grads: Arrays, threads: int, **mode: bool
) -> Subject:
    """Step tensors with an optimizer of torch, or one with its interface."""
    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(library, optimizer, tensors, **mode)
    return Subject(stepper.step, *views_of(tensors), reference(optimizer))


def _step_each(
    optimizer: str,
    update: Callable[..., None],
    params: Arrays,
    grads: Arrays,
    number: Callable[[float], Any],
    *more: Arrays,
) -> Subject:
    """Call an update once per tensor, with the scalars of the step as numbers of this type."""
    averages = [[np.zeros_like(p) for p in params] for _ in range(2)]
    rows = list(zip(params, grads, *averages, *more, strict=True))
    options = OPTIMIZERS[optimizer].options
    count = 0

    def step() -> None:
        nonlocal count
        count += 1
        scalars = tuple(map(number, _adam_scalars(count, **options)))
        for row in rows:
            update(*row, scalars)

    return Subject(step, params, grads, reference(optimizer))


def _adam_scalars(
    t: int, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
) -> Scalars:
    beta1, beta2 = betas
    size, unbias = lr / (1 - beta1**t), (1 - beta2**t) ** -0.5
    return beta1, 1 - beta1, beta2, 1 - beta2, eps, size, unbias


def _adam_numpy(p: Array, g: Array, m: Array, v: Array, d: Array, scalars: Scalars) -> None:
    beta1, gain1, beta2, gain2, eps, size, unbias = scalars
    m *= beta1
    np.multiply(g, gain1, out=d)
    m += d
    v *= beta2
    np.multiply(g, g, out=d)
    d *= gain2
    v += d
    np.sqrt(v, out=d)
    d *= unbias
    d += eps
    np.divide(m, d, out=d)
    d *= size
    p -= d
