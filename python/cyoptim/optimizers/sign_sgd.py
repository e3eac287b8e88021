"""SignSGD."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_lr, check_nonnegative, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer

MOMENTUM = "Invalid momentum value: {} (expected 0 <= momentum < 1)"


class SignSGD(Optimizer):
    r"""SignSGD: each element moves by the learning rate, along the sign of its average gradient.

    .. math::

        b_t &= \mu b_{t-1} \pm (1 - \mu) g_t \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma \operatorname{sign}(b_t)

    Parameters
    ----------
    params : iterable
        Real parameters, ``(name, parameter)`` pairs, or groups; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    momentum : float
        :math:`\mu`, in [0, 1). With 0 it is the paper's signSGD, otherwise its Signum.
    weight_decay : float
        :math:`\lambda`, >= 0.
    weight_decouple : bool
        Decay the parameters themselves, as above. Otherwise :math:`\pm g_t + \lambda\theta_{t-1}`
        replaces :math:`\pm g_t`.
    foreach : bool, optional
        Accepted as in torch, without effect.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_. Requires a
        momentum.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``momentum_buffer`` (:math:`b`, at first 0), if `momentum` is not 0. The sign of zero is
    zero, and that of NaN is NaN.

    Names, defaults and steps are those of pytorch_optimizer's ``SignSGD``. It also takes complex
    parameters, whose sign is :math:`b / |b|`.

    References
    ----------
    .. [1] J. Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems",
       ICML 2018.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> SignSGD([w], lr=0.1).step(grads=[2 * w])
    >>> w
    array([ 0.9, -1.9])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rules: ClassVar[tuple[str, ...]] = ("sign_sgd", "signum")
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr", "momentum", "weight_decay", "weight_decouple"
    )  # fmt: skip
    _counts_steps: ClassVar[bool] = False
    _takes_complex: ClassVar[bool] = False

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        weight_decouple: bool = True,
        foreach: bool | None = None,
        maximize: bool = False,
        *,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "weight_decouple": weight_decouple,
            "maximize": maximize,
            **execution_switches(foreach=foreach),
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_nonnegative("momentum", group["momentum"], MOMENTUM)
        if not group["momentum"] < 1.0:
            raise ValueError(MOMENTUM.format(group["momentum"]))

    def _rule_of(self, group: Group) -> str:
        return "sign_sgd" if group["momentum"] == 0 else "signum"
