"""The contenders: a row for each.

A builder gets the optimizer's name, the parameters, the gradients and the number of threads,
allocates memory as users would, and returns a :class:`Subject`. To add a contender, write
its builder and add its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bench import averaged_steps, formats, fused_steps, loops, norms, own, peers, rivals
from bench.optimizers import NORM, OPERATIONS, OPTIMIZERS
from bench.roof import roof
from bench.subject import Subject
from bench.workloads import Arrays, Stream, Workload


@dataclass(frozen=True)
class Contender:
    """A row of the table."""

    build: Callable[[str, Arrays, Arrays, int], Subject]
    packages: tuple[str, ...]
    color: str
    knows: Callable[[str], bool] = OPTIMIZERS.__contains__  # or other operations
    variables: dict[str, str] = field(default_factory=dict)  # of the environment of its process
    fits: Callable[[Workload], bool] = lambda workload: True  # whether it is timed on this size


def build_roof(operation: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    if operation == NORM:
        return norms.of_roof(grads, threads)
    walks = OPERATIONS[operation].walks(max(p.size for p in params))
    # What several passes write, later ones read: with a larger factor it would grow.
    scale = 0.01 if len(walks) == 1 else 1e-4
    step, owner = roof(walks, params, grads, scale, threads)
    return Subject(step, params, grads, Stream(scale, walks), owner)


def _is_adam(optimizer: str) -> bool:
    return optimizer == "Adam"


def _is_fused(operation: str) -> bool:
    return OPERATIONS[operation].fused


def _in_torch(operation: str) -> bool:
    return OPERATIONS[operation].in_torch


def _has_source(operation: str) -> bool:
    return operation in OPTIMIZERS and OPTIMIZERS[operation].source is not None


def _is_norm(operation: str) -> bool:
    return operation == NORM


def _any(operation: str) -> bool:
    return True


def _instruction_set(level: str, color: str) -> Contender:
    build = partial(own.build_instruction_set, level=level)
    return Contender(build, ("cyoptim",), color, variables={own.INSTRUCTION_SET: level})


def _layer(name: str, color: str) -> Contender:
    return Contender(partial(own.build_layer, layer=name), ("cyoptim",), color, _any)


def _format(chosen: formats.Format) -> Contender:
    build = partial(formats.build, chosen=chosen)
    return Contender(build, ("cyoptim", "ml_dtypes"), "#d62728", _is_adam)


def _rival(chosen: rivals.Rival) -> Contender:
    packages = tuple({"torch": None, chosen.package: None})
    build = partial(rivals.build, chosen=chosen)
    return Contender(build, packages, chosen.color, _is_adam, fits=chosen.fits)


CONTENDERS = {
    "cyoptim": Contender(own.build_cyoptim, ("cyoptim",), "#d62728", _any),
    "cyoptim-1": Contender(own.build_one_thread, ("cyoptim",), "#ff7f0e", _any),
    "cyoptim-all": Contender(own.build_all_threads, ("cyoptim",), "#8c564b", _any),
    "cyoptim-pool": _layer("pool", "#d62728"),
    "cyoptim-openmp": _layer("openmp", "#e377c2"),
    "cyoptim-torch": Contender(own.build_cyoptim_torch, ("cyoptim", "torch"), "#ff9896"),
    "torch-fused": Contender(
        partial(peers.build_torch, fused=True), ("torch",), "#1f77b4", _is_fused
    ),
    "torch-default": Contender(peers.build_torch, ("torch",), "#aec7e8", _in_torch),
    "torch-foreach": Contender(
        partial(peers.build_torch, foreach=True), ("torch",), "#9edae5", _in_torch
    ),
    "torch-single": Contender(
        partial(peers.build_torch, foreach=False), ("torch",), "#c7c7c7", _in_torch
    ),
    "source": Contender(peers.build_source, ("torch",), "#1f77b4", _has_source),
    "torch-norm": Contender(norms.build_torch, ("torch",), "#1f77b4", _is_norm),
    "numba": Contender(loops.build_numba, ("numba",), "#2ca02c", loops.NUMPY.__contains__),
    "numba-1": Contender(
        loops.build_numba_one_thread, ("numba",), "#98df8a", loops.NUMPY.__contains__
    ),
    "numpy": Contender(loops.build_numpy, ("numpy",), "#9467bd", loops.NUMPY.__contains__),
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
    **{name: _format(chosen) for name, chosen in formats.FORMATS.items()},
    **{name: _rival(chosen) for name, chosen in rivals.RIVALS.items()},
    "roof": Contender(build_roof, (), "#222222", _any),
}

PEERS = (
    *("cyoptim", "cyoptim-torch", "torch-fused", "torch-default", "torch-compiled"),
    *("deepspeed", "optax", "numba", "numpy", "sklearn", "thinc", "roof"),
)
"""Who is timed on the workloads of Adam."""

SLOW = ("torch-compiled", *(name for name in rivals.RIVALS if name.startswith("torchao")))
"""Who takes minutes to get ready, which ``--quick`` does not have."""

INSTRUCTION_SETS = ("cyoptim-avx512", "cyoptim-avx2", "cyoptim-baseline")
"""cyoptim with the kernels of each."""

FUSED = ("step", "step-clip", "step-clip-zero", "calls", "calls-torch")
"""What ``python -m bench fused`` compares."""

AVERAGED = ("cyoptim", "ema", "averaged", "torch-fused", "averaged-torch")
"""What ``python -m bench averages`` compares."""

TORCH = ("torch-fused", "torch-default", "torch-foreach")
"""The modes of torch. On a processor its default is torch-single, so that this is not timed too."""

SOURCES = (*TORCH, "source")
"""What an optimizer is compared with: torch, or where torch has none the class of its authors."""
