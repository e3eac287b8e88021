"""The averages of :mod:`cyoptim.swa_utils`, as subclasses of torch's.

``AveragedModel`` is the class for averages of torch modules, and a torch module itself.
"""

from cyoptim._libraries.torch_swa import AveragedModule as AveragedModel
from cyoptim.swa_utils import (
    SWALR,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

__all__ = [
    "SWALR",
    "AveragedModel",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]
