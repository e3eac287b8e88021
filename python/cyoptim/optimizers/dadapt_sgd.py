"""D-Adaptation of SGD."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from cyoptim._arrays.doors import is_tensor
from cyoptim._groups.options import check_interval, check_lr, check_nonnegative
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._state.form import Form
from cyoptim._state.mapping import in_kind
from cyoptim._state.storage import numbers_of
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._distance import EstimatesDistance, numbers_before_the_first_step


class DAdaptSGD(EstimatesDistance):
    r"""SGD with D-Adaptation: its rate is an estimate of the distance to the solution.

    .. math::

        d'_t &= g_t + \lambda \theta_{t-1}, \qquad \delta_t = \gamma d_t / \lVert g_1 \rVert_2 \\
        r_t &= r_{t-1} + \delta_t \langle d'_t, s_{t-1} \rangle \\
        s_t &= s_{t-1} + \delta_t d'_t \\
        d_{t+1} &= \max(d_t, \min(2 r_t / \lVert s_t \rVert_2, \rho d_t)) \\
        \theta_t &= \mu \theta_{t-1} + (1 - \mu) (\theta_0 - s_t)

    The sums and the norm of the first gradient are over all parameters that have a gradient, and
    :math:`d` is one number for all: see ``optimizer.param_groups[0]["d"]``. It begins with
    :math:`d_0`, grows in the first steps by orders of magnitude, and then stays.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        :math:`\gamma`, >= 0, the factor of the estimate: equal in all groups, or 0 in those that
        are to stand still.
    momentum : float
        :math:`\mu`, in [0, 1].
    weight_decay : float
        :math:`\lambda`, >= 0, an L2 penalty.
    log_every : int
        0: nothing is logged.
    d0 : float
        :math:`d_0`, > 0, the first estimate, equal in all groups; it should be too small. To change
        the estimate later, write ``d`` of the first group.
    growth_rate : float
        :math:`\rho`, > 0: the most by which the estimate grows in a step.
    fsdp_in_use : bool
        False: parameters are not sharded.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    ValueError
        At a step, too, before anything changes, if groups differ in `lr` (other than 0) or in
        `d0` or `growth_rate`.

    Notes
    -----
    State: ``s`` and ``x0`` (:math:`\theta_0`). Of torch tensors a state dict has ``z``, too, the
    difference of the two, which the authors' class keeps. Groups hold, with the same values in
    all of them, ``d``, ``numerator_weighted`` (:math:`r`), ``g0_norm`` (:math:`\lVert g_1
    \rVert`, 0 before the first step) and ``k``, the count of steps. Those of the first group
    count. A parameter that joins late starts where it is, with the estimate of the others.

    The norm of the first gradient is without the penalty, as in ``dadaptation``. In contrast to
    it, a first step whose gradients are all zero does nothing (there it divides by zero), a group
    whose `lr` is 0 stands still, momentum and penalty are each group's own, and gradients stay as
    they are.

    References
    ----------
    .. [1] A. Defazio and K. Mishchenko, "Learning-Rate-Free Learning by D-Adaptation", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([3.0, -4.0])
    >>> optimizer = DAdaptSGD([w])
    >>> for _ in range(500):
    ...     optimizer.step(grads=[2 * w])
    >>> bool(np.abs(w).max() < 0.05)
    True
    >>> bool(0.1 < optimizer.param_groups[0]["d"] < 10)
    True
    """

    _rule: ClassVar[str | None] = "dadapt_sgd"
    _counts_steps: ClassVar[bool] = False
    _foreign_state: ClassVar[tuple[str, ...]] = ("z",)
    _joint_options: ClassVar[tuple[str, ...]] = ("growth_rate",)
    # Those of the authors' groups.
    _essential_options: ClassVar[tuple[str, ...] | None] = (
        "lr",
        "momentum",
        "weight_decay",
        "growth_rate",
        "d",
        "numerator_weighted",
    )

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        log_every: int = 0,
        d0: float = 1e-6,
        growth_rate: float = float("inf"),
        fsdp_in_use: bool = False,
        *,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "log_every": log_every,
            "d0": d0,
            "growth_rate": growth_rate,
            "fsdp_in_use": fsdp_in_use,
            "maximize": maximize,
            **numbers_before_the_first_step(d0, numerator_weighted=0.0, g0_norm=0.0),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    @classmethod
    def _signed_numbers(cls) -> tuple[str, ...]:
        return ("numerator_weighted", "g0_norm")

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_interval("momentum", group["momentum"], 0.0, 1.0)
        check_nonnegative("weight_decay", group["weight_decay"])
        self._check_distance(group)

    def _form(self) -> _DualForm:
        return _DualForm(self)


class _DualForm(Form):
    """Of torch tensors with ``z``, without which the authors' class would begin anew."""

    def saved(self, param: Any, values: Any) -> Any:
        saved = super().saved(param, values)
        if is_tensor(param) and isinstance(saved, dict) and {"s", "x0"} <= saved.keys():
            from cyoptim._libraries.torch import as_array

            arrays = {name: as_array(value) for name, value in saved.items()}
            dual = numbers_of("x0", arrays) - numbers_of("s", arrays)
            saved |= in_kind(param, {"z": dual})
        return saved
