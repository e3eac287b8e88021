"""AdEMAMix."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_finite, check_moments, check_nonnegative, check_positive
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class AdEMAMix(Optimizer):
    r"""AdEMAMix: Adam's step along two averages of the gradient, a fast and a slow one.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        s_t &= \beta_{3,t} s_{t-1} \pm (1 - \beta_{3,t}) g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma
            \frac{m_t / (1 - \beta_1^t) + \alpha_t s_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    During its warm-up, :math:`\alpha_t` grows linearly from 0 to :math:`\alpha`, and
    :math:`\beta_{3,t}` from :math:`\beta_1` to :math:`\beta_3` such that the half-life of the slow
    average grows linearly.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2, \beta_3`, in [0, 1).
    alpha : float
        :math:`\alpha`, the weight of the slow average, >= 0. The paper takes 5 to 10, which is the
        default of other packages.
    beta3_warmup : int, optional
        Steps of the warm-up of :math:`\beta_3`, > 0; None: no warm-up. In the paper it takes the
        whole training.
    alpha_warmup : int, optional
        Steps of the warm-up of :math:`\alpha`, likewise.
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [3]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg_fast`` (:math:`m`), ``exp_avg_slow`` (:math:`s`), ``exp_avg_sq``
    (:math:`v`). The slow average has no bias correction.

    Names, defaults and results are those of the authors' code for PyTorch, which also has no
    ``exp_avg_fast`` where :math:`\beta_1` is 0. Its states load here, and ours there.

    References
    ----------
    .. [1] M. Pagliardini, P. Ablin, D. Grangier, "The AdEMAMix Optimizer: Better, Faster, Older",
       ICLR 2025.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> AdEMAMix([w], lr=0.1, betas=(0.9, 0.999, 0.9)).step(grads=[2 * w])
    >>> w.round(4)
    array([ 0.88, -1.88])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")
    _rule: ClassVar[str | None] = "ademamix"
    _step_type: ClassVar[type | None] = int

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float, float] = (0.9, 0.999, 0.9999),
        alpha: float = 2.0,
        beta3_warmup: int | None = None,
        alpha_warmup: int | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "beta3_warmup": beta3_warmup,
            "alpha_warmup": alpha_warmup,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group, betas=3)
        check_nonnegative("alpha", group["alpha"])
        for name in ("beta3_warmup", "alpha_warmup"):
            if group[name] is not None:
                check_positive(name, group[name])
                check_finite(name, group[name])
