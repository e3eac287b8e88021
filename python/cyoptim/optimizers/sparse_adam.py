"""SparseAdam."""

from __future__ import annotations

from typing import Any, ClassVar

from cyoptim._arrays.doors import is_tensor
from cyoptim._engine import Plan
from cyoptim._groups.options import check_betas, check_lr, check_number
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer


class SparseAdam(Optimizer):
    r"""Adam for sparse gradients: only the elements that have a gradient are updated.

    For each element that has an entry in the gradient,

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) (\pm g_t) \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) g_t^2 \\
        \theta_t &= \theta_{t-1} - \gamma \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t} + \epsilon}

    where :math:`t` counts the parameter's steps. The time of a step depends on the number of
    entries, not on the size of the parameter.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        They are dense and real; their gradients are sparse, in one of these forms:

        - a pair ``(rows, values)`` of arrays: entry ``k`` is ``values[k]``, the gradient of
          ``param[rows[k]]``,
        - a sparse array or matrix of SciPy, of the parameter's shape,
        - a sparse tensor of torch, as from ``torch.nn.Embedding(sparse=True)``.

        Entries for the same element are added up. A zero is an entry, too.
    lr : float
        Learning rate :math:`\gamma`, > 0.
    betas : tuple of float
        :math:`\beta_1` and :math:`\beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, added to the denominator before the bias correction, > 0.
    maximize : bool
        Maximize the objective instead of minimizing it.

    Raises
    ------
    ValueError
        If a parameter is sparse or complex, or an option is out of range.
    TypeError
        From ``step``, if a gradient is dense.

    Notes
    -----
    State: ``step``, ``exp_avg`` (:math:`m`) and ``exp_avg_sq`` (:math:`v`).

    References
    ----------
    .. [1] D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> table = np.ones((1000, 2))
    >>> optimizer = SparseAdam([table], lr=0.1)
    >>> rows, values = np.array([3, 998]), np.array([[1.0, -1.0], [2.0, 0.5]])
    >>> optimizer.step(grads=[(rows, values)])
    >>> table[[2, 3, 998]].round(3)
    array([[1. , 1. ],
           [0.9, 1.1],
           [0.9, 0.9]])
    """

    _only_sparse: ClassVar[bool] = True
    _step_type: ClassVar[type | None] = int
    _takes_complex: ClassVar[bool] = False
    _rule: ClassVar[str | None] = "sparse_adam"
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "betas", "eps")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_number("epsilon", group["eps"])
        # Schedulers may set lr to 0 later; as an option it must be positive, as in torch.
        if not group["lr"] > 0.0:
            raise ValueError(f"Invalid learning rate: {group['lr']}")
        if not group["eps"] > 0.0:
            raise ValueError(f"Invalid epsilon value: {group['eps']}")
        check_betas(group["betas"])

    def _check_loaded_options(self, group: Group) -> None:
        lr = group["lr"]
        check_lr(lr)
        # Schedules may have set it to 0.
        self._check_options({**group, "lr": lr if lr > 0.0 else 1.0})

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        _refuse(groups, "Sparse", _is_sparse, "requires dense parameter tensors")
        _refuse(groups, "Complex", _is_complex, "does not support complex parameters")
        return super()._make_plan(groups, state)

    def _takes_spans(self, group: Group, label: str) -> bool:
        return True


def _refuse(groups: list[Group], kind: str, test: Any, reason: str) -> None:
    found = [
        [g, i]
        for g, group in enumerate(groups)
        for i, param in enumerate(group["params"])
        if test(param)
    ]
    if found:
        raise ValueError(f"{kind} params at indices {found}: SparseAdam {reason}")


def _is_sparse(param: Any) -> bool:
    return is_tensor(param) and bool(param.is_sparse)


def _is_complex(param: Any) -> bool:
    dtype = getattr(param, "dtype", None)
    return bool(getattr(dtype, "is_complex", getattr(dtype, "kind", "") == "c"))
