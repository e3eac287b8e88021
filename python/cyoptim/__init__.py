"""torch.optim for NumPy: optimizers that run in place on arrays, at the speed of memory.

Make an optimizer of arrays, compute their gradients, and step:

>>> import numpy as np
>>> import cyoptim
>>> w = np.zeros(3)
>>> optimizer = cyoptim.Adam([w], lr=0.1)
>>> for step in range(300):
...     optimizer.step(grads=[2 * (w - [1.0, -2.0, 0.5])])
>>> w.round(2)
array([ 1. , -2. ,  0.5])

What to call:

parameters
    NumPy arrays, whose gradients go to ``step(grads=...)``; ``Parameter(array)``, which has a
    ``.grad``; CPU tensors of torch; and any of these in dicts, lists and dataclasses.
optimizers
    ``Adam``, ``AdamW``, ``SGD``, ``Muon``, ``LBFGS`` and all others of torch.optim, and further
    ones: ``cyoptim.optimizers.__all__``. Their methods are those of ``Optimizer``: ``step``,
    ``zero_grad``, ``accumulate``, ``add_param_group``, ``state_dict``, ``ema``.
groups
    ``param_groups`` makes groups by rules: no decay for biases, learning rates by layer.
``lr_scheduler``
    ``StepLR``, ``CosineAnnealingLR``, ``OneCycleLR``, ``ReduceLROnPlateau`` and others.
``swa_utils``
    Averages of parameters.
clipping
    ``clip_grad_norm_``, ``clip_grad_value_``, ``get_total_norm``; or ``step(max_norm=1.0)``.
files
    ``save("run.npz", params=params, optimizer=optimizer)``, ``load`` and ``Checkpoints``.
``distributed.Sharded``
    One optimizer over many processes, each of which keeps a part of the state.
``scipy``, ``sklearn``, ``torch``, ``kernel``
    In ``scipy.optimize.minimize``, as estimators, in frameworks of torch, and from Cython.
settings
    ``set_num_threads``, ``threads``, ``set_threading_layer``; ``show_config``, which
    ``python -m cyoptim`` prints.

A step checks everything before it changes anything. Errors name the parameter, what was found, what
was expected, and what to write instead. Names that begin with an underscore are internal.
"""

__version__ = "0.1.0"

import sys as _sys
from types import ModuleType as _ModuleType
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from cyoptim import _dispatch as _dispatch  # first: it binds the kernels that the others need
from cyoptim import lr_scheduler, optimizers, swa_utils
from cyoptim._arrays.trees import named_leaves
from cyoptim._averages.moving import MovingAverage
from cyoptim._config import (
    get_include,
    get_num_threads,
    get_threading_layer,
    set_num_threads,
    set_threading_layer,
    show_config,
    threads,
)
from cyoptim._groups.rules import param_groups
from cyoptim._groups.storage import StorageOptions
from cyoptim._saving.masters import master_weights, set_master_weights
from cyoptim.clip import (
    clip_grad_norm_,
    clip_grad_value_,
    clip_grads_with_norm_,
    get_total_norm,
)
from cyoptim.optimizer import Optimizer, StepReceipt
from cyoptim.optimizers import *  # noqa: F403  - as optimizers.__all__ has them
from cyoptim.optimizers import adadelta as adadelta
from cyoptim.optimizers import adafactor as adafactor
from cyoptim.optimizers import adagrad as adagrad
from cyoptim.optimizers import adam as adam
from cyoptim.optimizers import adamax as adamax
from cyoptim.optimizers import adamw as adamw
from cyoptim.optimizers import asgd as asgd
from cyoptim.optimizers import lbfgs as lbfgs
from cyoptim.optimizers import muon as muon
from cyoptim.optimizers import muon_with_aux_adam as muon_with_aux_adam
from cyoptim.optimizers import nadam as nadam
from cyoptim.optimizers import radam as radam
from cyoptim.optimizers import rmsprop as rmsprop
from cyoptim.optimizers import rprop as rprop
from cyoptim.optimizers import sgd as sgd
from cyoptim.optimizers import sparse_adam as sparse_adam
from cyoptim.parameter import Parameter
from cyoptim.vectors import parameters_to_vector, vector_to_parameters

if _TYPE_CHECKING:
    from cyoptim import checkpoint as checkpoint
    from cyoptim import distributed as distributed
    from cyoptim import kernel as kernel
    from cyoptim import lr_finder as lr_finder
    from cyoptim import scipy as scipy
    from cyoptim import sklearn as sklearn
    from cyoptim.checkpoint import CheckpointError, Checkpoints, load, save

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "MovingAverage",
    "Optimizer",
    "Parameter",
    "StepReceipt",
    "StorageOptions",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_include",
    "get_num_threads",
    "get_threading_layer",
    "get_total_norm",
    "load",
    "lr_scheduler",
    "master_weights",
    "named_leaves",
    "param_groups",
    "parameters_to_vector",
    "save",
    "set_master_weights",
    "set_num_threads",
    "set_threading_layer",
    "show_config",
    "swa_utils",
    "threads",
    "vector_to_parameters",
]
__all__ += optimizers.__all__


class _OptimizerModule(_ModuleType):
    """The module of an optimizer, whose name differs from the class's only in its case."""

    def __call__(self, *args: _Any, **kwargs: _Any) -> _Any:
        short = self.__name__.rpartition(".")[2]
        names = [name for name in optimizers.__all__ if name.lower() == short.replace("_", "")]
        raise TypeError(
            f"'module' object is not callable: cyoptim.{short} is the module of an optimizer; "
            f"write cyoptim.{names[0]}(...)"
        )


# torch has a module for each optimizer beside the package's: `from cyoptim.adam import Adam`.
for _name in optimizers.__all__:
    _module = _sys.modules[getattr(optimizers, _name).__module__]
    _module.__class__ = _OptimizerModule
    _sys.modules[f"{__name__}.{_module.__name__.rpartition('.')[2]}"] = _module

if hasattr(_sys.modules.get("torch"), "optim"):
    from cyoptim._libraries import torch_optim as _torch_optim

    _torch_optim.join()

# Imported on first use: checkpoints need zipfile and json, which take longer to
# import than all the rest, and some modules need a library that may not be installed.
_LAZY_MODULES = ("checkpoint", "distributed", "kernel", "lr_finder", "scipy", "sklearn", "torch")
_LAZY_NAMES = ("CheckpointError", "Checkpoints", "load", "save")  # of checkpoint


def __getattr__(name: str) -> _Any:
    import importlib

    if name in _LAZY_NAMES:
        return getattr(importlib.import_module("cyoptim.checkpoint"), name)
    if name in _LAZY_MODULES:
        try:
            return importlib.import_module(f"cyoptim.{name}")
        except ImportError as error:  # hasattr() and dir() expect no other error
            raise AttributeError(str(error)) from error
    from cyoptim._spelling import missing_attribute

    raise missing_attribute(__name__, name, {*__all__, *_LAZY_MODULES}, lr_scheduler.__all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
