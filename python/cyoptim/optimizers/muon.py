"""Muon."""

from __future__ import annotations

from typing import ClassVar

from cyoptim._engine import Plan
from cyoptim._groups.options import as_float, check_at_least, check_finite, check_lr
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._muon import COEFFICIENTS, MuonOptimizer, check_iteration, check_triple


class Muon(MuonOptimizer):
    r"""Muon: momentum, orthogonalized before the step.

    .. math::

        B_t &= \mu B_{t-1} + (1 - \mu) G_t \\
        M_t &= \mu B_t + (1 - \mu) G_t \quad\text{(with Nesterov's form, else } B_t\text{)} \\
        O_t &= \text{NS}_k(M_t) \approx U V^\top, \qquad M_t = U S V^\top \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma r O_t

    The Newton-Schulz iteration starts from :math:`X = M / \max(\|M\|_F, \epsilon)`, transposed if
    it has more rows than columns, and takes :math:`k` times

    .. math::

        A = X X^\top, \qquad X \leftarrow a X + (b A + c A^2) X,

    which moves every singular value towards 1. The ratio :math:`r` depends on the shape,
    :math:`n \times m`: :math:`\sqrt{\max(1, n / m)}`, or, to match the size of AdamW's steps,
    :math:`0.2 \sqrt{\max(n, m)}`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Real matrices only: the weights of hidden layers. Leave biases, embeddings and the last
        layer to AdamW.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    momentum : float
        :math:`\mu`, >= 0.
    nesterov : bool
        Use Nesterov's form.
    ns_coefficients : tuple of float
        :math:`a`, :math:`b` and :math:`c`.
    eps : float
        :math:`\epsilon`: the least divisor of a matrix.
    ns_steps : int
        :math:`k`, < 100.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}
        The ratio :math:`r`: "original" and None choose the first of the two, "match_rms_adamw" the
        second.

    Raises
    ------
    ValueError
        If a parameter is not a matrix, or an option is out of range.
    TypeError
        If a parameter is complex.

    Notes
    -----
    State: ``momentum_buffer`` (:math:`B`).

    The iteration runs in the parameter's own precision, while torch rounds it to bfloat16: steps
    are closer to the formula than torch's, and differ from them by the rounding of bfloat16. On
    matrices that are far from square, several iterations are computed as one polynomial of
    :math:`X X^\top`. The optimizer keeps memory for one matrix, of about three times its size and
    four times the square of its shorter side.

    References
    ----------
    .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    .. [2] J. Liu et al., "Muon is Scalable for LLM Training", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> Muon([W], lr=0.1, weight_decay=0).step(grads=[W.copy()])
    >>> W.round(1)
    array([[ 0.9, -1.9],
           [ 2.9,  4. ]])
    """

    _takes_complex: ClassVar[bool] = False
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr",
        "weight_decay",
        "momentum",
        "ns_coefficients",
        "eps",
        "ns_steps",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"], "Learning rate should be >= 0 but is: {}")
        check_at_least("momentum", group["momentum"], 0)
        check_at_least("weight decay", group["weight_decay"], 0)
        check_finite("eps", group["eps"])
        check_iteration(group)
        check_triple("ns_coefficients", group["ns_coefficients"])

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        for group in groups:
            for param in group["params"]:
                shape = getattr(param, "shape", (0, 0))
                if len(shape) != 2:
                    self._refuse_shape("a parameter", shape)
        return super()._make_plan(groups, state)

    def _divisor(self, group: Group) -> tuple[float, float]:
        return as_float(group["eps"]), 0.0

    def _refuse_shape(self, label: str, shape: tuple[int, ...]) -> None:
        raise ValueError(
            f"Muon only supports 2D parameters whereas we found {label} with size: {shape}"
        )

    def _state_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape if name == "momentum_buffer" else None
