"""Who is timed: a row per contender.

A contender gets the optimizer's name and option, the parameters and the gradients, puts them into
memory as its users would, and returns a :class:`Subject`. To add a contender, write its builder
and add its row.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.workloads import OPTIONS, REFERENCES, Array, Arrays, Stream


class Unavailable(Exception):
    """A contender cannot run here; the message says what would make it run."""


@dataclass(frozen=True)
class Subject:
    """A step that is ready to be called, and the memory that it works on."""

    step: Callable[[], Any]
    params: Arrays
    grads: Arrays
    reference: Any


Builder = Callable[[str, Arrays, Arrays, int], Subject]


@dataclass(frozen=True)
class Contender:
    """A row of the table: how to build it, install it, and draw it."""

    build: Builder
    packages: tuple[str, ...]
    color: str


def cyoptim_parameters(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = getattr(cyoptim, optimizer)(wrapped, **OPTIONS[optimizer])
    return Subject(stepper.step, params, grads, _reference(optimizer))


def cyoptim_tensors(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    tensors = _tensors(params, grads, threads)
    import cyoptim

    cyoptim.set_num_threads(threads)
    stepper = getattr(cyoptim, optimizer)(tensors, **OPTIONS[optimizer])
    return _tensor_subject(optimizer, stepper, tensors)


def torch_fused(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return _torch(optimizer, params, grads, threads, fused=True)


def torch_default(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    return _torch(optimizer, params, grads, threads)


def _torch(
    optimizer: str, params: Arrays, grads: Arrays, threads: int, **switches: bool
) -> Subject:
    tensors = _tensors(params, grads, threads)
    import torch

    stepper = getattr(torch.optim, optimizer)(tensors, **OPTIONS[optimizer], **switches)
    return _tensor_subject(optimizer, stepper, tensors)


def _tensors(params: Arrays, grads: Arrays, threads: int) -> list[Any]:
    """Parameters in memory that torch has allocated."""
    import torch

    torch.set_num_threads(threads)
    tensors = [torch.nn.Parameter(torch.from_numpy(p).clone()) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad).clone()
    return tensors


def _tensor_subject(optimizer: str, stepper: Any, tensors: list[Any]) -> Subject:
    params = [tensor.detach().numpy() for tensor in tensors]
    grads = [tensor.grad.numpy() for tensor in tensors]
    return Subject(stepper.step, params, grads, _reference(optimizer))


def _reference(optimizer: str) -> Any:
    return REFERENCES[optimizer](**OPTIONS[optimizer])


def numpy_in_place(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    update = _offered({"Adam": _numpy_adam}, optimizer, "numpy")
    return _per_tensor(optimizer, update, params, grads, scratch=1)


def _numpy_adam(
    p: Array, g: Array, m: Array, v: Array, scratch: Array, scalars: tuple[Any, ...]
) -> None:
    beta1, gain1, beta2, gain2, eps, size, unbias = scalars
    m *= beta1
    np.multiply(g, gain1, out=scratch)
    m += scratch
    v *= beta2
    np.multiply(g, g, out=scratch)
    scratch *= gain2
    v += scratch
    np.sqrt(v, out=scratch)
    scratch *= unbias
    scratch += eps
    np.divide(m, scratch, out=scratch)
    scratch *= size
    p -= scratch
