"""Adam of other libraries over numbers of 16 and 8 bits: a builder each, and the format of each.

Their optimizers take torch tensors. torchao compiles its step for each size, for half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from bench.formats import Format, stored
from bench.roof import Unavailable
from bench.subject import Subject, reference
from bench.workloads import Arrays, Workload

Tensors = list[Any]

FEWEST, MOST = 1 << 18, 1 << 21
"""Elements of a workload on which slow rivals are timed: there, a step takes some milliseconds."""


def _torch(tensors: Tensors) -> Any:
    import torch

    return torch.optim.Adam(tensors, fused=True)


def _torchao(tensors: Tensors, name: str, **options: bool) -> Any:
    import torchao.optim

    return getattr(torchao.optim, name)(tensors, weight_decay=0.0, **options)


def _bitsandbytes(tensors: Tensors) -> Any:
    import bitsandbytes

    return bitsandbytes.optim.Adam8bit(tensors)


@dataclass(frozen=True)
class Rival:
    """A row: the package, what it makes, and how that stores its numbers."""

    package: str
    make: Callable[[Tensors], Any]
    format: Format
    color: str
    slow: bool = True

    def fits(self, workload: Workload) -> bool:
        """Whether it is timed on this workload."""
        return not self.slow or FEWEST <= workload.elements <= MOST


_HALF = {"param": "bfloat16", "grad": "bfloat16"}

RIVALS = {
    "torch-fused-bf16": Rival(
        "torch", _torch, Format(**_HALF, state="bfloat16", rounding="nearest"), "#1f77b4", False
    ),
    "torchao-bf16": Rival(
        "torchao",
        partial(_torchao, name="_AdamW", bf16_stochastic_round=True),
        Format(**_HALF, state="bfloat16", rounding="stochastic"),
        "#17becf",
    ),
    "torchao-8bit": Rival(
        "torchao", partial(_torchao, name="Adam8bit"), Format(state="dynamic8"), "#17becf"
    ),
    "torchao-8bit-bf16": Rival(
        "torchao",
        partial(_torchao, name="Adam8bit", bf16_stochastic_round=True),
        Format(**_HALF, state="dynamic8", rounding="stochastic"),
        "#17becf",
    ),
    "torchao-fp8": Rival(
        "torchao", partial(_torchao, name="AdamFp8"), Format(state="float8_e4m3fn"), "#17becf"
    ),
    "bitsandbytes-8bit": Rival("bitsandbytes", _bitsandbytes, Format(state="dynamic8"), "#bcbd22"),
}
"""By the name of the contender.

torchao has no Adam over plain bfloat16, but its AdamW without decay computes the same."""


def build(operation: str, params: Arrays, grads: Arrays, threads: int, chosen: Rival) -> Subject:
    """Its step, with parameters and gradients in memory that torch allocates."""
    import torch

    if params[0].dtype != np.float32:
        raise Unavailable("formats are compared with float32 only")
    torch.set_num_threads(threads)
    form = chosen.format
    for arrays, name in ((params, form.param), (grads, form.grad)):
        stored(arrays, name)  # the reference begins with what the tensors hold
    dtype = getattr(torch, form.param)
    tensors = [torch.nn.Parameter(torch.tensor(p, dtype=dtype)) for p in params]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.tensor(grad, dtype=dtype)
    stepper = chosen.make(tensors)

    def load() -> None:
        stored(grads, form.grad)
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad.copy_(torch.from_numpy(grad))

    def result() -> Arrays:
        return [t.detach().float().numpy() for t in tensors]

    return Subject(
        stepper.step,
        params,
        grads,
        reference(operation),
        load=load,
        result=result,
        tolerance=form.tolerance,
    )
