"""Adam."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._arrays.doors import is_tensor
from cyoptim._groups.options import check_moments, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Adam(Optimizer):
    r"""Adam: steps scaled by running averages of the gradient and of its square.

    .. math::

        d_t &= \pm g_t + \lambda \theta_{t-1} \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 \\
        \theta_t &= \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    With `amsgrad`, the largest :math:`v` so far replaces :math:`v_t`. With
    `decoupled_weight_decay`, :math:`d_t = \pm g_t` and :math:`\theta_{t-1}` is first multiplied by
    :math:`1 - \gamma\lambda`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`: the decay rates of the two averages, in [0, 1).
    eps : float
        :math:`\epsilon`, added to the denominator, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    amsgrad : bool
        Use the AMSGrad variant.
    maximize : bool
        Maximize the objective instead of minimizing it.
    decoupled_weight_decay : bool
        Decay the parameters themselves, as :class:`cyoptim.AdamW` does.
    foreach, fused : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [3]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [4]_. Requires
        decoupled weight decay.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), and ``max_exp_avg_sq``
    with `amsgrad`.

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    .. [2] S. J. Reddi, S. Kale, S. Kumar, "On the Convergence of Adam and Beyond", ICLR 2018.
    .. [3] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [4] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = Adam([w], lr=0.1)
    >>> optimizer.step(grads=[2 * w])
    >>> w.round(6)
    array([ 0.9, -1.9])
    """

    _no_sparse: ClassVar[str] = (
        "Adam does not support sparse gradients, please consider SparseAdam instead"
    )
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _rules: ClassVar[tuple[str, ...]] = ("adam", "adam_amsgrad")
    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
            **execution_switches(
                foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused
            ),
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        _check_tensors(group)
        check_moments(group)

    def _rule_of(self, group: Group) -> str:
        return "adam_amsgrad" if group["amsgrad"] else "adam"


def _check_tensors(group: Group) -> None:
    """Refuse tensors as options where torch refuses them."""
    betas = group["betas"]
    named = {"lr": group["lr"]}
    if isinstance(betas, (tuple, list)) and len(betas) == 2:
        if is_tensor(betas[0]) != is_tensor(betas[1]):
            raise ValueError("betas must be either both floats or both Tensors")
        named |= {"betas[0]": betas[0], "betas[1]": betas[1]}
    for name, value in named.items():
        if not is_tensor(value):
            continue
        if group["foreach"]:
            raise ValueError(
                f"{name} as a Tensor is not supported for capturable=False and foreach=True"
            )
        if value.numel() != 1:
            raise ValueError(f"Tensor {name} must be 1-element")
