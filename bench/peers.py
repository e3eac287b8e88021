"""Other libraries: a builder each.

All but torch's own support only Adam. The options make all compute the same; see README.md.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from bench.optimizers import OPTIMIZERS
from bench.roof import Unavailable
from bench.subject import (
    Preceded,
    Subject,
    reference,
    step_tensors,
    stepper_of,
    tensors_of,
    views_of,
)
from bench.workloads import Arrays

MOST_COMPILED = 200
"""Tensors that torch.compile takes in less than a minute: it unrolls the loop over them."""


def _only_float32(params: Arrays) -> None:
    if params[0].dtype != np.float32:
        raise Unavailable("it steps float32 only")


def build_torch(
    optimizer: str, params: Arrays, grads: Arrays, threads: int, **mode: bool
) -> Subject:
    import torch

    return step_tensors(torch.optim, optimizer, params, grads, threads, **mode)


SOURCES = "CYOPTIM_BENCH_SOURCES"
"""The folder with the files of authors who have made no package: ``AdEMAMix.py``, ..."""


def build_source(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """The authors' own class, with tensors, as its users install it."""
    row = OPTIMIZERS[optimizer]
    source = row.source
    assert source is not None
    file = Path(os.environ.get(SOURCES, "")) / f"{row.cls}.py"
    if "." not in source.cls and not file.is_file():
        raise Unavailable(f"{row.cls}.py of {source.name} in the folder {SOURCES}")
    try:
        cls = source.load("" if "." in source.cls else str(file))
    except ImportError as error:
        raise Unavailable(f"{source.name}: {error}") from error
    if "lr" in row.card.options:  # some have no default
        cls = partial(cls, lr=row.card.options["lr"])
    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(SimpleNamespace(**{row.cls: cls}), optimizer, tensors)
    values, taken = views_of(tensors)

    def load() -> None:  # some write into their gradients
        for g, given in zip(taken, grads, strict=True):
            np.copyto(g, given)

    return Subject(Preceded(stepper.step, load), values, grads, reference(optimizer))


def build_torch_compiled(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import torch

    if len(params) > MOST_COMPILED:
        raise Unavailable(f"compiling a step over {len(params):,} tensors takes minutes")
    # After eight compilations of one function torch runs it uncompiled, and only logs this.
    torch._dynamo.reset()
    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(torch.optim, optimizer, tensors)
    return Subject(torch.compile(stepper.step), *views_of(tensors), reference(optimizer))


def build_deepspeed(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    _only_float32(params)
    # It compiles its kernel at the first use, and searches for ninja on PATH.
    programs = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([programs, os.environ.get("PATH", "")])
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    tensors = tensors_of(params, grads, threads)
    try:
        stepper = DeepSpeedCPUAdam(tensors, adamw_mode=False)
    except Exception as error:  # any error of its build
        raise Unavailable(f"its kernel was not built: {error}") from error
    return Subject(stepper.step, *views_of(tensors), reference(optimizer))


def build_optax(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    os.environ["NPROC"] = str(threads)  # XLA's threads; read when jax starts
    os.environ["JAX_PLATFORMS"] = "cpu"
    import jax
    import optax

    jax.config.update("jax_enable_x64", params[0].dtype == np.float64)

    rule = optax.adam(1e-3)

    def update(values: Any, state: Any, slopes: Any) -> tuple[Any, Any]:
        changes, state = rule.update(slopes, state, values)
        return optax.apply_updates(values, changes), state

    compiled = jax.jit(update, donate_argnums=(0, 1))
    values = [jax.numpy.array(p) for p in params]
    state = rule.init(values)
    slopes = [jax.numpy.array(g) for g in grads]

    def load() -> None:
        nonlocal slopes
        slopes = [jax.numpy.array(g) for g in grads]

    def step() -> None:
        nonlocal values, state
        values, state = compiled(values, state, slopes)
        jax.block_until_ready((values, state))

    def result() -> Arrays:
        return [np.array(value) for value in values]

    return Subject(step, params, grads, reference(optimizer), load=load, result=result)


def build_sklearn(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

    stepper = AdamOptimizer(params, epsilon=0.0)

    def step() -> None:
        stepper.update_params(params, grads)

    return Subject(step, params, grads, reference(optimizer, eps=0.0))


def build_thinc(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    from thinc.api import Adam, NumpyOps, set_current_ops

    _only_float32(params)
    set_current_ops(NumpyOps())
    stepper = Adam(learn_rate=1e-3, eps=0.0, L2=0.0, grad_clip=0.0)
    taken = [g.copy() for g in grads]
    rows = [((i, "W"), p, g) for i, (p, g) in enumerate(zip(params, taken, strict=True))]

    def load() -> None:
        for g, values in zip(taken, grads, strict=True):
            np.copyto(g, values)

    def step() -> None:
        for row in rows:
            stepper(*row)
        stepper.step_schedules()

    return Subject(Preceded(step, load), params, grads, reference(optimizer, eps=0.0))
