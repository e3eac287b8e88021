"""Sophia-G."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

import numpy as np

from cyoptim._engine import Arrays, Commit, Room, make_counter, same_layout_as
from cyoptim._groups.options import (
    as_float,
    check_betas,
    check_groups,
    check_moments,
    check_nonnegative,
    check_positive,
    execution_switches,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._types import Array, Gradients, Group, ParamsT
from cyoptim.optimizer import Optimizer


class SophiaG(Optimizer):
    r"""Sophia-G: the momentum over an estimate of the curvature, each element at most 1.

    .. math::

        m_t &= \beta_1 m_{t-1} \pm (1 - \beta_1) g_t \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma
            \operatorname{clip}\left(\frac{m_t}{\rho b h + 10^{-15}}, -1, 1\right)

    and in :meth:`update_hessian`, every ten steps or so, with gradients :math:`\hat g` for targets
    that were drawn from the model's own distribution,

    .. math::

        h \leftarrow \beta_2 h + (1 - \beta_2) \hat g^2.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
    lr : float
        Learning rate :math:`\gamma`, >= 0: the largest step of an element.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    rho : float
        :math:`\rho`, >= 0: the larger, the fewer elements are clipped.
    weight_decay : float
        :math:`\lambda`, >= 0.
    bs : float
        :math:`b`, > 0: the number of examples (of a language model: tokens) over which a loss, and
        so :math:`\hat g`, is the mean.
    maximize : bool
        Follow the gradient upwards.
    capturable : bool
        Must be False.
    caution : bool
        Make each step only in the elements in which it follows the gradient, and there by the
        inverse of their share of the parameter larger [2]_.
    cautious_wd : bool
        Decay only the elements that the step does not move away from zero [3]_.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`), ``hessian`` (:math:`h`). Before the first
    :meth:`update_hessian` each element moves by `lr`, along the sign of its momentum.

    Names, defaults and results are those of the authors' code, except that `bs` is there an
    argument of ``step``. Here it is an option, which may be changed between two steps. States of
    that code load here, and ours there.

    References
    ----------
    .. [1] H. Liu et al., "Sophia: A Scalable Stochastic Second-order Optimizer for Language Model
       Pre-training", ICLR 2024.
    .. [2] K. Liang et al., "Cautious Optimizers: Improving Training with One Line of Code", 2024,
       arXiv:2411.16085.
    .. [3] L. Chen et al., "Cautious Weight Decay", 2025, arXiv:2510.12402.

    Examples
    --------
    Logistic regression, which draws labels from its own predictions for the Hessian:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((64, 2)) * [1.0, 10.0]
    >>> y = (x @ [1.0, -0.2] > 0).astype(float)
    >>> w = np.zeros(2)
    >>> optimizer = SophiaG([w], lr=0.01, rho=0.1, weight_decay=0.0, bs=64)
    >>> for step in range(200):
    ...     predicted = 1 / (1 + np.exp(-x @ w))
    ...     if step % 10 == 0:
    ...         drawn = (rng.random(64) < predicted).astype(float)
    ...         optimizer.update_hessian(grads=[x.T @ (predicted - drawn) / 64])
    ...     optimizer.step(grads=[x.T @ (predicted - y) / 64])
    >>> bool(np.mean((x @ w > 0) == y) > 0.95)
    True
    """

    _cautious_options: ClassVar[tuple[str, ...]] = ("caution", "cautious_wd")
    _rule: ClassVar[str | None] = "sophia"
    _essential_options: ClassVar[tuple[str, ...] | None] = ("lr", "betas", "rho", "weight_decay")

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.965, 0.99),
        rho: float = 0.04,
        weight_decay: float = 1e-1,
        *,
        bs: float = 5120,
        maximize: bool = False,
        capturable: bool = False,
        caution: bool = False,
        cautious_wd: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "rho": rho,
            "weight_decay": weight_decay,
            "bs": bs,
            "maximize": maximize,
            **execution_switches(capturable=capturable),
            "caution": caution,
            "cautious_wd": cautious_wd,
            **storage,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        check_nonnegative("rho", group["rho"])
        check_positive("bs", group["bs"])

    def update_hessian(self, grads: Gradients | None = None) -> None:
        """Let the estimate of the Hessian get on; this is no step, and counts as none.

        Parameters
        ----------
        grads : sequence, mapping or tree, optional
            As for :meth:`~cyoptim.Optimizer.step`: the gradients of the loss for targets drawn from
            the model's own distribution, instead of those in the data. Without it they are the
            parameters' own. A parameter without a gradient keeps its estimate.

        Raises
        ------
        TypeError, ValueError
            As :meth:`~cyoptim.Optimizer.step`. Then nothing changes.

        Examples
        --------
        See :class:`SophiaG`. With torch:

        .. code-block:: python

            logits = model(x)
            drawn = torch.distributions.Categorical(logits=logits).sample()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, drawn).backward()
            optimizer.update_hessian()
            optimizer.zero_grad()
        """
        self._turn.write("update_hessian()", self._update_hessian, grads)

    def _update_hessian(self, grads: Gradients | None) -> None:
        self._prepare_hessian(grads).run()

    def _prepare_hessian(self, grads: Gradients | None) -> Commit:
        """What moves the estimate; nothing changes here."""
        check_groups(self.param_groups, lambda group: check_betas(group["betas"]))
        found = self._gather(grads, first=True)
        views = self._plan.arrays()
        room, commit = Room(views), Commit()
        known: dict[int, Array] = {}
        squares = Commit()  # after the entries are there
        number = 0
        for group in self.param_groups:
            beta2 = as_float(group["betas"][1])
            for param in group["params"]:
                if found[number] is not None:
                    if id(param) not in known:
                        known[id(param)] = self._hessian(param, views[number], room, commit)
                    spans = Arrays([known[id(param)]], [found[number]])
                    squares.apply(spans, "squares", (beta2,))
                number += 1
        commit.add(squares)
        return commit

    def _hessian(self, param: Any, view: Array, room: Room, commit: Commit) -> Array:
        """The estimate of a parameter, which is made by `commit` if it has none that fits."""
        state = self.state.arrays(param)
        hessian: Any = state.get("hessian")
        like = np.empty_like(view, subok=False)
        if isinstance(hessian, np.ndarray) and same_layout_as(hessian, like):
            return hessian
        new = {"hessian": room.zeros("hessian", view)}
        if hessian is not None:
            new["hessian"][...] = hessian
        if "step" not in state:
            new = {"step": make_counter(0, "a parameter", room), **new}
        if "exp_avg" not in state:
            new["exp_avg"] = room.zeros("exp_avg", view)
        self.state.prepare(param, new, commit)
        return new["hessian"]
