"""SGDP."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_finite, check_lr, check_nonnegative
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class SGDP(Optimizer):
    r"""SGDP: momentum without the part of a step that only lengthens a scale-invariant weight.

    .. math::

        b_t &= \mu b_{t-1} + (1 - \tau) d_t, \qquad d_t = \pm g_t \\
        u_t &= b_t, \quad\text{or } d_t + \mu b_t \text{ in Nesterov's form} \\
        u_t &\leftarrow u_t - \theta_{t-1}
            \frac{\langle \theta_{t-1}, u_t \rangle}{(\lVert\theta_{t-1}\rVert + \epsilon)^2}
            \quad\text{if } \max \lvert\cos(g_t, \theta_{t-1})\rvert < \delta / \sqrt{n} \\
        \theta_t &= \Bigl(1 - \frac{\gamma \lambda r}{1 - \mu}\Bigr) \theta_{t-1} - \gamma u_t

    The projection in the third line is that of :class:`AdamP`: by rows, or of the whole parameter.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float
        Learning rate :math:`\gamma`, >= 0. In the authors' code it has no default.
    momentum : float
        :math:`\mu`, in [0, 1).
    dampening : float
        :math:`\tau`, of every gradient: also the first, unlike that of :class:`SGD`.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    nesterov : bool
        Use Nesterov's form.
    eps : float
        :math:`\epsilon`, >= 0: the least length in a cosine.
    delta : float
        :math:`\delta`, >= 0: how small a cosine is.
    wd_ratio : float
        :math:`r`, >= 0: the share of the decay that projected parameters have; others have all of
        it.
    maximize : bool
        Follow the gradient upwards.
    caution : bool
        Make the step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_. Where the step is projected, the
        gradient is, too; and then once more the step.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``momentum`` (:math:`b`).

    As in the authors' code, the projection changes the buffer :math:`b` itself, except in
    Nesterov's form; the paper projects the step alone. Caution does not change the buffer.

    References
    ----------
    .. [1] B. Heo et al., "AdamP: Slowing Down the Slowdown for Momentum Optimizers on
       Scale-invariant Weights", ICLR 2021.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[3.0, 4.0], [1.0, 0.0]])
    >>> SGDP([W], lr=0.1).step(grads=[np.array([[-4.0, 3.0], [0.0, 1.0]])])
    >>> W.round(3)
    array([[ 3.4,  3.7],
           [ 1. , -0.1]])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "sgdp"
    _counts_steps: ClassVar[bool] = False
    _takes_complex: ClassVar[bool] = False

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float = 0,
        nesterov: bool = False,
        eps: float = 1e-8,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        *,
        maximize: bool = False,
        caution: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "eps": eps,
            "delta": delta,
            "wd_ratio": wd_ratio,
            "maximize": maximize,
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("momentum", group["momentum"])
        if not group["momentum"] < 1:
            raise ValueError(f"Invalid momentum value: {group['momentum']} (expected < 1)")
        check_finite("dampening", group["dampening"])
        check_nonnegative("weight_decay", group["weight_decay"])
        check_nonnegative("epsilon", group["eps"])
        check_nonnegative("delta", group["delta"])
        check_nonnegative("wd_ratio", group["wd_ratio"])

    def _rule_of(self, group: Group) -> str:
        if group.get("caution") and group["momentum"] == 0:
            raise ValueError("caution=True requires a momentum")
        return "sgdp"

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        return len(shape) < 2

    def _rule_apart(self, group: Group) -> str:
        # Without caution, the rule itself steps what has no rows.
        return "sgdp_vector" if group.get("caution") else "sgdp"
