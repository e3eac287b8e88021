"""All optimizers, as subclasses of ``torch.optim.Optimizer``, and ``torch.optim``'s other classes.

An optimizer over torch tensors is a ``torch.optim.Optimizer`` also without this module, and its
schedules are torch's schedulers. Import it for code that uses a *class* before the first tensor,
such as transformers' ``Trainer`` and checks with ``issubclass``, and for type checkers, which see
the bases here. The classes are those of :mod:`cyoptim`; your own subclass of
:class:`cyoptim.Optimizer`, or of any optimizer, is also one of torch's once torch is in use.

>>> import torch
>>> import cyoptim.torch as optim
>>> model = torch.nn.Linear(3, 2)
>>> optimizer = optim.AdamW(model.parameters(), lr=0.1)
>>> schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
>>> isinstance(optimizer, torch.optim.Optimizer), issubclass(optim.SGD, torch.optim.Optimizer)
(True, True)
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "cyoptim.torch needs PyTorch: pip install torch, or see https://pytorch.org/get-started"
    ) from _error

from cyoptim._libraries import torch_optim as _torch_optim
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers import (
    ADOPT,
    ASGD,
    CAME,
    LBFGS,
    MARS,
    SGD,
    SGDP,
    AdaBelief,
    Adadelta,
    Adafactor,
    AdafactorBigVision,
    AdafactorHF,
    Adagrad,
    Adam,
    AdamAtan2,
    Adamax,
    AdamMini,
    AdamP,
    AdamW,
    AdamWScheduleFree,
    Adan,
    AdEMAMix,
    DAdaptAdam,
    DAdaptLion,
    DAdaptSGD,
    Grams,
    Lamb,
    LaProp,
    Lars,
    Lion,
    Muon,
    MuonWithAuxAdam,
    NAdam,
    NovoGrad,
    Prodigy,
    RAdam,
    RAdamScheduleFree,
    RMSprop,
    Rprop,
    SGDScheduleFree,
    SignSGD,
    SimAdEMAMix,
    SophiaG,
    SparseAdam,
    StableAdamW,
    Yogi,
)
from cyoptim.torch import lr_scheduler, swa_utils
from cyoptim.torch.lr_scheduler import LRScheduler
from cyoptim.torch.swa_utils import SWALR, AveragedModel

_torch_optim.join()

__all__ = [
    "ADOPT",
    "ASGD",
    "CAME",
    "LBFGS",
    "MARS",
    "SGD",
    "SGDP",
    "SWALR",
    "AdEMAMix",
    "AdaBelief",
    "Adadelta",
    "Adafactor",
    "AdafactorBigVision",
    "AdafactorHF",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamMini",
    "AdamP",
    "AdamW",
    "AdamWScheduleFree",
    "Adamax",
    "Adan",
    "AveragedModel",
    "DAdaptAdam",
    "DAdaptLion",
    "DAdaptSGD",
    "Grams",
    "LRScheduler",
    "LaProp",
    "Lamb",
    "Lars",
    "Lion",
    "Muon",
    "MuonWithAuxAdam",
    "NAdam",
    "NovoGrad",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RAdamScheduleFree",
    "RMSprop",
    "Rprop",
    "SGDScheduleFree",
    "SignSGD",
    "SimAdEMAMix",
    "SophiaG",
    "SparseAdam",
    "StableAdamW",
    "Yogi",
    "lr_scheduler",
    "swa_utils",
]
