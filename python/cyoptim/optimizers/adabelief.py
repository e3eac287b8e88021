"""AdaBelief."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from cyoptim._groups.options import check_moments
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class AdaBelief(Optimizer):
    r"""AdaBelief: long steps where gradients are as their average predicts, short ones elsewhere.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        s_t &= \beta_2 s_{t-1} + (1 - \beta_2) (\pm g_t - m_t)^2 + \epsilon \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \frac{\gamma m_t}{1 - \beta_1^t} \cdot
            \begin{cases}
                r_t \sqrt{1 - \beta_2^t} / (\sqrt{s_t} + \epsilon) & \rho_t \ge 5 \\
                1 & \text{otherwise}
            \end{cases}

    with :math:`\rho_t` and :math:`r_t` as in :class:`cyoptim.RAdam`. Without `rectify`, all steps
    are

    .. math::

        \theta_t = (1 - \gamma \lambda) \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{s_t / (1 - \beta_2^t)} + \epsilon}

    :math:`\epsilon` adds up in :math:`s`, to :math:`\epsilon / (1 - \beta_2)`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0. The authors recommend 1e-16 where Adam is better than SGD, and 1e-8
        elsewhere.
    weight_decay : float
        :math:`\lambda`, >= 0.
    amsgrad : bool
        Divide by the largest :math:`s` so far. With `rectify` it is kept without effect, as in the
        authors' code.
    weight_decouple : bool
        Decay the parameters themselves, as above. Otherwise :math:`\pm g_t + \lambda\theta_{t-1}`
        replaces :math:`\pm g_t`.
    fixed_decay : bool
        Multiply by :math:`1 - \lambda` instead of :math:`1 - \gamma\lambda`.
    rectify : bool
        Rectify the first steps, as RAdam does.
    degenerated_to_sgd : bool
        Where :math:`\rho_t < 5`, make a step of plain momentum, as above, instead of none.
    print_change_log : bool
        Accepted as in adabelief-pytorch; nothing is printed.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_var`` (:math:`s`), and ``max_exp_avg_var``
    with `amsgrad`.

    Names, defaults and steps are those of adabelief-pytorch 0.2.1, in which `weight_decouple`,
    `fixed_decay`, `rectify` and `degenerated_to_sgd` belong to the optimizer; here each group has
    its own. With ``weight_decouple=False`` that package adds the decay to the gradients; here they
    do not change.

    References
    ----------
    .. [1] J. Zhuang et al., "AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed
       Gradients", NeurIPS 2020.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> AdaBelief([w], lr=0.1, rectify=False).step(grads=[2 * w])
    >>> w.round(4)
    array([ 0.8889, -1.8889])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rules: ClassVar[tuple[str, ...]] = ("adabelief", "adabelief_amsgrad")
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps", "weight_decay")
    _step_type: ClassVar[type | None] = int
    _foreign_options: ClassVar[dict[str, Any]] = {"buffer": [[None] * 3 for _ in range(10)]}

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float = 0,
        amsgrad: bool = False,
        weight_decouple: bool = True,
        fixed_decay: bool = False,
        rectify: bool = True,
        degenerated_to_sgd: bool = True,
        print_change_log: bool = True,
        *,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "weight_decouple": weight_decouple,
            "fixed_decay": fixed_decay,
            "rectify": rectify,
            "degenerated_to_sgd": degenerated_to_sgd,
            "print_change_log": print_change_log,
            "maximize": maximize,
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)

    def _rule_of(self, group: Group) -> str:
        return "adabelief_amsgrad" if group["amsgrad"] else "adabelief"
