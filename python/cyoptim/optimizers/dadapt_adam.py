"""D-Adaptation of Adam."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_finite, check_moments, check_positive
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._distance import EstimatesDistance, numbers_before_the_first_step


class DAdaptAdam(EstimatesDistance):
    r"""Adam with D-Adaptation: its rate is an estimate of the distance to the solution.

    .. math::

        \delta_t &= \gamma d_t \\
        r_t &= \sqrt{\beta_2} \, r_{t-1} + (1 - \sqrt{\beta_2}) \,
            \delta_t \langle g_t, s_{t-1} / (\sqrt{v_{t-1}} + \epsilon) \rangle \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) \delta_t g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        s_t &= \sqrt{\beta_2} \, s_{t-1} + (1 - \sqrt{\beta_2}) \delta_t g_t \\
        \hat d_t &= \frac{r_t}{(1 - \sqrt{\beta_2}) \lVert s_t \rVert_1} \\
        d_{t+1} &= \max(d_t, \min(\hat d_t, \rho d_t)) \\
        \theta_t &= \theta_{t-1} - \frac{m_t}{\sqrt{v_t} + \epsilon}

    The sums are over all parameters that have a gradient, and :math:`d` is one number for all:
    see ``optimizer.param_groups[0]["d"]``. It begins with :math:`d_0`, grows in the first steps
    by orders of magnitude, and then stays.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        :math:`\gamma`, >= 0, the factor of the estimate: equal in all groups, or 0 in those that
        are to stand still.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    log_every : int
        0: nothing is logged.
    decouple : bool
        Multiply the parameter by :math:`1 - \lambda \delta_t`, rather than add
        :math:`\lambda\theta` to the gradient.
    use_bias_correction : bool
        Multiply :math:`\delta_t` by :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`.
    d0 : float
        :math:`d_0`, > 0, the first estimate, equal in all groups; it should be too small. To change
        the estimate later, write ``d`` of the first group.
    growth_rate : float
        :math:`\rho`, > 0: the most by which the estimate grows in a step.
    fsdp_in_use : bool
        False: parameters are not sharded.
    layer_scale : float
        A factor of the steps of a group, > 0, beside the one `lr` of all: weighs :math:`g` in
        :math:`m` and the sums.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    ValueError
        At a step, too, before anything changes, if groups differ in `lr` (other than 0) or in
        `betas`, `use_bias_correction`, `d0` or `growth_rate`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), ``s``. Groups hold, with
    the same values in all of them, ``d``, ``numerator_weighted`` (:math:`r`) and ``k``, the count
    of steps. Those of the first group count. A parameter that joins late starts with the estimate
    of the others, and is bias-corrected by their count.

    A step whose gradients have all been zero so far moves averages alone, as in ``dadaptation``.
    In contrast to it, a group whose `lr` is 0 does not move at all (there it decays, and goes on
    along its averages), gradients stay as they are without `decouple`, `layer_scale` is an
    argument, too, and options that the first group decides for all must be equal.

    References
    ----------
    .. [1] A. Defazio and K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> optimizer = DAdaptAdam([w])
    >>> for _ in range(500):
    ...     optimizer.step(grads=[2 * w])
    >>> bool(np.abs(w).max() < 0.05)
    True
    >>> bool(0.01 < optimizer.param_groups[0]["d"] < 10)
    True
    """

    _rule: ClassVar[str | None] = "dadapt_adam"
    _joint_options: ClassVar[tuple[str, ...]] = ("betas", "use_bias_correction", "growth_rate")
    # Those of the authors' groups.
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "decouple",
        "use_bias_correction",
        "growth_rate",
        "layer_scale",
    )

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        log_every: int = 0,
        decouple: bool = False,
        use_bias_correction: bool = False,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        *,
        layer_scale: float = 1.0,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "layer_scale": layer_scale,
            "log_every": log_every,
            "growth_rate": growth_rate,
            "use_bias_correction": use_bias_correction,
            "decouple": decouple,
            "d0": d0,
            "fsdp_in_use": fsdp_in_use,
            "maximize": maximize,
            **numbers_before_the_first_step(d0, numerator_weighted=0.0),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        self._check_distance(group)
        check_positive("layer_scale", group["layer_scale"])
        check_finite("layer_scale", group["layer_scale"])
