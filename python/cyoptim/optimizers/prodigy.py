"""Prodigy."""

from __future__ import annotations

import operator
from typing import Any, ClassVar, Unpack

from cyoptim._groups.numbers import plain
from cyoptim._groups.options import check_finite, check_interval, check_moments, check_positive
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._distance import EstimatesDistance, numbers_before_the_first_step

MOST_ELEMENTS = 2**53  # what is exact as a double


class Prodigy(EstimatesDistance):
    r"""Prodigy: Adam that finds its learning rate, an estimate of the distance to the solution.

    .. math::

        \delta_t &= \gamma d_t \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) d_t^2 g_t^2 \\
        s_t &= \beta_3 s_{t-1} + \frac{d_t}{d_0} \delta_t g_t \\
        r_t &= \beta_3 r_{t-1}
            + \frac{d_t}{d_0} \delta_t \langle g_t, \theta_0 - \theta_{t-1} \rangle \\
        \hat d_t &= c \, r_t / \lVert s_t \rVert_1 \\
        d_{t+1} &= \min(\max(d_t, \hat d_1, \dots, \hat d_t), \rho d_t) \\
        \theta_t &= (1 - \lambda \delta_t) \theta_{t-1}
            - \delta_t \frac{m_t}{\sqrt{v_t} + d_{t+1} \epsilon}

    The sums are over all parameters that have a gradient, and :math:`d` is one number for all:
    see ``optimizer.param_groups[0]["d"]``. It begins with :math:`d_0`, grows in the first steps
    by orders of magnitude, and then stays; :math:`\gamma = 1` is right for most problems, with a
    schedule that lowers it in the end.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        :math:`\gamma`, >= 0, the factor of the estimate: equal in all groups, or 0 in those that
        are to stand still.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    beta3 : float, optional
        :math:`\beta_3`, in [0, 1]; None is :math:`\sqrt{\beta_2}`.
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        :math:`\lambda`, >= 0.
    decouple : bool
        Decay the parameter as in the formula, rather than add :math:`\lambda\theta` to the
        gradient.
    use_bias_correction : bool
        Multiply :math:`\delta_t` by :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`.
    safeguard_warmup : bool
        Take :math:`d_t` for :math:`\delta_t` in :math:`s`: for schedules that begin with a small
        `lr`.
    d0 : float
        :math:`d_0`, > 0, the first estimate, equal in all groups; it should be too small. To change
        the estimate later, write ``d`` and ``d_max`` of the first group.
    d_coef : float
        :math:`c`, > 0: what to tune, if anything.
    growth_rate : float
        :math:`\rho`, > 0: the most by which the estimate grows in a step, but for its first growth.
    fsdp_in_use : bool
        False: parameters are not sharded.
    slice_p : int
        Take :math:`s`, :math:`\theta_0` and the sums over every `slice_p`-th element of each
        parameter, which saves memory; the authors suggest 11.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    ValueError
        At a step, too, before anything changes, if groups differ in `lr` (other than 0) or in
        `betas`, `beta3`, `use_bias_correction`, `d0`, `d_coef` or `growth_rate`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`), and flat arrays of one
    element in `slice_p`: ``s`` and ``p0`` (:math:`\theta_0`). Elements are counted in C order,
    the order of ``param.ravel()``, whatever the order in memory; a parameter in another order
    than C's is updated through a copy. Complex parameters support `slice_p` = 1 only.

    Groups hold, with the same values in all of them, ``d``, ``d_max`` (the largest :math:`\hat
    d`), ``d_numerator`` (:math:`r`), ``d_denom`` (:math:`\lVert s \rVert_1`), ``d_hat`` and
    ``k``, the count of steps. Those of the first group count. A parameter that joins late starts
    with the estimate of the others, and is bias-corrected by their count.

    As in ``prodigyopt``, :math:`m_t` is :math:`d_{t+1} g_t` with :math:`\beta_1 = 0`, and a step
    whose gradients have all been zero so far moves averages alone. In contrast to it, a group
    whose `lr` is 0 does not move at all (there it decays, and goes on along its averages), a
    parameter that is zero has its own ``p0``, gradients stay as they are without `decouple`, and
    options that the first group decides for all must be equal.

    References
    ----------
    .. [1] K. Mishchenko and A. Defazio, "Prodigy: An Expeditiously Adaptive Parameter-Free
       Learner", ICML 2024.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> optimizer = Prodigy([w])
    >>> for _ in range(300):
    ...     optimizer.step(grads=[2 * w])
    >>> bool(np.abs(w).max() < 0.05)
    True
    >>> bool(0.1 < optimizer.param_groups[0]["d"] < 10)
    True
    """

    _rule: ClassVar[str | None] = "prodigy"
    _joint_options: ClassVar[tuple[str, ...]] = (
        "betas",
        "beta3",
        "use_bias_correction",
        "d_coef",
        "growth_rate",
    )
    # What the authors' class always has: no exp_avg without beta1.
    _essential_state: ClassVar[tuple[str, ...] | None] = ("step", "exp_avg_sq", "s", "p0")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        betas: tuple[float, float] = (0.9, 0.999),
        beta3: float | None = None,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decouple: bool = True,
        use_bias_correction: bool = False,
        safeguard_warmup: bool = False,
        d0: float = 1e-6,
        d_coef: float = 1.0,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        slice_p: int = 1,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "beta3": beta3,
            "eps": eps,
            "weight_decay": weight_decay,
            "d0": d0,
            "d_coef": d_coef,
            "growth_rate": growth_rate,
            "use_bias_correction": use_bias_correction,
            "decouple": decouple,
            "safeguard_warmup": safeguard_warmup,
            "fsdp_in_use": fsdp_in_use,
            "slice_p": slice_p,
            "maximize": maximize,
            **numbers_before_the_first_step(d0, d_max=d0, d_numerator=0.0, d_denom=0.0, d_hat=0.0),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    @classmethod
    def _signed_numbers(cls) -> tuple[str, ...]:
        return ("d_max", "d_numerator", "d_denom", "d_hat")

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        if group["beta3"] is not None:
            check_interval("beta3", group["beta3"], 0.0, 1.0)
        self._check_distance(group)
        check_positive("d_coef", group["d_coef"])
        check_finite("d_coef", group["d_coef"])
        _check_slice(group["slice_p"])


def _check_slice(every: Any) -> None:
    try:
        valid = 1 <= operator.index(plain(every)) <= MOST_ELEMENTS
    except TypeError:
        raise TypeError(f"slice_p must be a whole number, got {every!r}") from None
    if not valid:
        raise ValueError(f"Invalid slice_p value: {every} (expected >= 1)")
