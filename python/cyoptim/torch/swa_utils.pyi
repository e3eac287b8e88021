from torch.optim import lr_scheduler, swa_utils

from cyoptim import swa_utils as _ours
from cyoptim.swa_utils import get_ema_avg_fn as get_ema_avg_fn
from cyoptim.swa_utils import get_ema_multi_avg_fn as get_ema_multi_avg_fn
from cyoptim.swa_utils import get_swa_avg_fn as get_swa_avg_fn
from cyoptim.swa_utils import get_swa_multi_avg_fn as get_swa_multi_avg_fn
from cyoptim.swa_utils import update_bn as update_bn

class AveragedModel(_ours.AveragedModel, swa_utils.AveragedModel): ...  # type: ignore[misc]
class SWALR(_ours.SWALR, lr_scheduler.LRScheduler): ...  # type: ignore[misc]
