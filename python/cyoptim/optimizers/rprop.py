"""Rprop."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_lr, check_number, check_pair, execution_switches
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class Rprop(Optimizer):
    r"""Resilient backpropagation: a step size for each element, which depends on signs alone.

    .. math::

        s_t &= \begin{cases}
            \min(\eta^+ s_{t-1}, s_{max}) & g_t g_{t-1} > 0 \\
            \max(\eta^- s_{t-1}, s_{min}),\ g_t \leftarrow 0 & g_t g_{t-1} < 0 \\
            s_{t-1} & \text{otherwise}
        \end{cases} \\
        \theta_t &= \theta_{t-1} - s_t \operatorname{sign}(g_t)

    For full batches. A NaN in the gradient counts as 0, as in torch.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Initial step size, >= 0.
    etas : tuple of float
        :math:`\eta^-, \eta^+`, with :math:`0 < \eta^- < 1 < \eta^+`.
    step_sizes : tuple of float
        :math:`s_{min}, s_{max}`.
    maximize : bool
        Maximize the objective instead of minimizing it.
    foreach : bool, optional
        Accepted as in torch, without effect.
    capturable, differentiable : bool
        Must be False.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``prev`` (the last gradient), ``step_size`` (:math:`s`).

    References
    ----------
    .. [1] M. Riedmiller, H. Braun, "A direct adaptive method for faster backpropagation learning:
       the RPROP algorithm", 1993.
    .. [2] C. Igel, M. Huesken, "Improving the Rprop Learning Algorithm", 2000.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([1.0, -2.0])
    >>> optimizer = Rprop([w], lr=0.25)
    >>> optimizer.step(grads=[2 * w])
    >>> w
    array([ 0.75, -1.75])
    """

    _rule: ClassVar[str | None] = "rprop"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "etas", "step_sizes")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "maximize": maximize,
            **execution_switches(
                foreach=foreach, differentiable=differentiable, capturable=capturable
            ),
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        for name in ("etas", "step_sizes"):
            check_pair(name, group[name])
            for index, value in enumerate(group[name]):
                check_number(f"{name}[{index}]", value)
                if value != value:
                    raise ValueError(f"Invalid {name} value at index {index}: {value}")
        minus, plus = group["etas"]
        if not 0.0 < minus < 1.0 < plus:
            raise ValueError(f"Invalid eta values: {minus}, {plus}")
