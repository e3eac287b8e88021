"""AdamP."""

from __future__ import annotations

from typing import ClassVar, Unpack

from cyoptim._groups.options import check_moments, check_nonnegative
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class AdamP(Optimizer):
    r"""AdamP: Adam without the part of a step that only lengthens a scale-invariant weight.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t, \qquad
            v_t = \beta_2 v_{t-1} + (1 - \beta_2) d_t^2, \qquad d_t = \pm g_t \\
        u_t &= \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon} \\
        u_t &\leftarrow u_t - \theta_{t-1}
            \frac{\langle \theta_{t-1}, u_t \rangle}{(\lVert\theta_{t-1}\rVert + \epsilon)^2}
            \quad\text{if } \max \lvert\cos(g_t, \theta_{t-1})\rvert < \delta / \sqrt{n} \\
        \theta_t &= (1 - \gamma \lambda r) \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t} u_t

    The projection in the third line is made by rows (:math:`n` elements each: those of one index of
    the first axis), if all of their cosines are small; else over the whole parameter, if its cosine
    is. With a projection :math:`r` is `wd_ratio`, otherwise 1. Vectors and scalars are never
    projected.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Parameters must be real.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0: also the least length in a cosine.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    delta : float
        :math:`\delta`, >= 0: how small a cosine is.
    wd_ratio : float
        :math:`r`, >= 0: the share of the decay that projected parameters have.
    nesterov : bool
        Use :math:`\beta_1 m_t + (1 - \beta_1) d_t` in the place of :math:`m_t` in :math:`u_t`.
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
    State: ``step``, ``exp_avg`` (:math:`m`), ``exp_avg_sq`` (:math:`v`).

    As in the authors' code, the rows are tested before the whole parameter.

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
    >>> AdamP([W], lr=0.1).step(grads=[np.array([[-4.0, 3.0], [0.0, 1.0]])])
    >>> W.round(3)
    array([[ 3.112,  3.916],
           [ 1.   , -0.1  ]])
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution",)
    _rule: ClassVar[str | None] = "adamp"
    _step_type: ClassVar[type | None] = int
    _takes_complex: ClassVar[bool] = False

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        delta: float = 0.1,
        wd_ratio: float = 0.1,
        nesterov: bool = False,
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
            "delta": delta,
            "wd_ratio": wd_ratio,
            "nesterov": nesterov,
            "maximize": maximize,
            "caution": caution,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("delta", group["delta"])
        check_nonnegative("wd_ratio", group["wd_ratio"])

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        return len(shape) < 2

    def _rule_apart(self, group: Group) -> str:
        # Without caution, the rule itself steps what has no rows.
        return "adamp_vector" if group.get("caution") else "adamp"
