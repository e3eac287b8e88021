"""Limited-memory BFGS."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from cyoptim._arrays.doors import is_tensor
from cyoptim._engine import Commit, Plan, Undo
from cyoptim._gradients.aligned import loss_and_grads
from cyoptim._groups.numbers import plain
from cyoptim._groups.options import (
    as_float,
    check_finite,
    check_groups,
    check_lr,
    check_nonnegative,
    check_number,
)
from cyoptim._types import Array, Gradients, Group, ParamsT, StateDict
from cyoptim.optimizer import Optimizer

if TYPE_CHECKING:
    # Imported where they are used, as most programs use no L-BFGS.
    from cyoptim.optimizers._lbfgs.history import HistoryForm
    from cyoptim.optimizers._lbfgs.objective import Objective


class LBFGS(Optimizer):
    r"""Limited-memory BFGS, optionally with a line search for the strong Wolfe conditions.

    A quasi-Newton method for smooth losses that can be evaluated exactly, such as those of a fit
    to all data at once. With :math:`s_k = \theta_{k+1} - \theta_k`,
    :math:`y_k = g_{k+1} - g_k` and :math:`\rho_k = 1 / (y_k^\top s_k)` of the last iterations, the
    direction :math:`d_k = -H_k g_k` comes from two loops over them [1]_,

    .. math::

        q &\leftarrow -g_k \\
        \alpha_i &= \rho_i s_i^\top q, \quad q \leftarrow q - \alpha_i y_i
            \qquad (i = k-1, \dots, k-m) \\
        d &\leftarrow \frac{s_{k-1}^\top y_{k-1}}{y_{k-1}^\top y_{k-1}} q \\
        d &\leftarrow d + (\alpha_i - \rho_i y_i^\top d) s_i
            \qquad (i = k-m, \dots, k-1) \\
        \theta_{k+1} &= \theta_k + t_k d

    where :math:`t_k = \gamma`, or the result of a line search [3]_ that begins there; in the first
    iteration :math:`d = -g` and :math:`\gamma` is multiplied by :math:`\min(1, 1 / \|g\|_1)`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`. All
        of them form one vector and one problem: groups must have the same options.
    lr : float
        Step length :math:`\gamma`, >= 0.
    max_iter : int
        The largest number of iterations in one call of ``step``, >= 0.
    max_eval : int, optional
        The largest number of evaluations of the closure in one call of ``step``, >= 0; by default
        ``max_iter * 5 // 4``. A line search may exceed it by one.
    tolerance_grad : float
        Stop when no element of the gradient is larger.
    tolerance_change : float
        Stop when no parameter, or the loss, changes by more.
    history_size : int
        The number of stored pairs of :math:`s` and :math:`y`, >= 1. Each takes the memory of
        two copies of the parameters.
    line_search_fn : str, optional
        ``"strong_wolfe"``, or None for steps of length :math:`\gamma`.

    Notes
    -----
    ``step`` needs a closure, which it calls several times. The closure computes the loss, stores
    the gradients in the parameters' ``.grad``, and returns the loss; or it returns
    ``(loss, grads)``, with gradients in the forms of ``step(grads=...)`` of other optimizers, as
    plain arrays need. A missing gradient counts as zero. If the closure raises, parameters and
    state are restored.

    The first parameter has the state: ``func_evals`` and ``n_iter``, the counts of evaluations and
    iterations; ``d`` and ``t``, the last direction and step length; ``old_dirs`` and ``old_stps``,
    the :math:`y` and :math:`s`, with ``ro`` their :math:`\rho`; ``H_diag``, the factor between the
    loops; ``prev_flat_grad`` and ``prev_loss``; ``al``, the :math:`\alpha`.

    ``add_param_group`` changes the problem, so that no vector of the state fits any more: the
    history restarts, as in a first iteration. ``func_evals`` continues.

    References
    ----------
    .. [1] J. Nocedal, "Updating quasi-Newton matrices with limited storage", Mathematics of
       Computation 35, 1980.
    .. [2] D. C. Liu, J. Nocedal, "On the limited memory BFGS method for large scale optimization",
       Mathematical Programming 45, 1989.
    .. [3] J. Nocedal, S. J. Wright, "Numerical Optimization", 2nd edition, 2006, sections 3.5 and
       7.2.

    Examples
    --------
    A least-squares fit of plain arrays, whose gradients the closure returns:

    >>> import numpy as np
    >>> X, y = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]]), np.array([1.0, 3.0, 5.0])
    >>> w = np.zeros(2)
    >>> def loss_and_gradients():
    ...     residual = X @ w - y
    ...     return 0.5 * residual @ residual, [X.T @ residual]
    >>> optimizer = LBFGS([w], line_search_fn="strong_wolfe")
    >>> float(optimizer.step(loss_and_gradients))  # of where the step began
    17.5
    >>> w.round(4)
    array([1., 2.])

    Parameters hold their own gradients:

    >>> import cyoptim
    >>> v = cyoptim.Parameter(np.array([3.0, -4.0]))
    >>> def loss():
    ...     v.grad = 2 * v
    ...     return (v * v).sum()
    >>> float(LBFGS([v]).step(loss))
    25.0
    >>> float(abs(v).max()) < 1e-6
    True
    """

    _counts_steps: ClassVar[bool] = False
    _steps_along_sums: ClassVar[bool] = False
    _averages_itself: ClassVar[bool] = True
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr",
        "max_iter",
        "max_eval",
        "tolerance_grad",
        "tolerance_change",
        "history_size",
        "line_search_fn",
    )
    # The parameters, in the order of the last step's vectors.
    _ordered: list[Any] | None = None
    # Whether the search turns back where the loss is not finite, instead of behaving as torch's.
    _has_border: bool = False

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_nonnegative("max_iter", max_iter)
        if max_eval is None:  # it is multiplied
            check_finite("max_iter", max_iter)
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    # --- options and groups -----------------------------------------------------------------------

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"])
        check_nonnegative("max_iter", group["max_iter"])
        check_nonnegative("max_eval", group["max_eval"])
        for name in ("tolerance_grad", "tolerance_change"):
            check_number(name, group[name])
            if group[name] != group[name]:
                raise ValueError(f"Invalid {name} value: {group[name]}")
        _check_history_size(group["history_size"])
        search = group["line_search_fn"]
        if search is not None and not (isinstance(search, str) and search == "strong_wolfe"):
            raise RuntimeError(f"only 'strong_wolfe' is supported, got line_search_fn={search!r}")

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        _check_agreement([*others, group], self.defaults)
        return group

    def _prepare_groups(self, plan: Plan, commit: Commit) -> None:
        state = self.state.get(self._first(), {})
        if state:
            from cyoptim.optimizers._lbfgs.history import restarted

            commit.become(state, restarted(state))

    def _first(self) -> Any:
        """The parameter with the state of the whole problem; None if there are no parameters."""
        return next(self._members(), None)

    def _members(self) -> Iterator[Any]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def _common_options(self) -> Group:
        check_groups(self.param_groups, self._check_options)
        _check_agreement(self.param_groups, self.defaults)
        group = self.param_groups[0]
        return {**self._plain_group(group), "lr": as_float(group["lr"])}

    def _is_element_wise(self, group: Group) -> bool:
        return False

    def _takes_spans(self, group: Group, label: str) -> bool:
        return False  # a sparse gradient is part of a dense vector

    # --- the step ---------------------------------------------------------------------------------

    def step(  # type: ignore[override]  # other arguments make no sense in a line search
        self, closure: Callable[[], Any] | None = None, *, grads: Gradients | None = None
    ) -> Any:
        """Minimize for up to ``max_iter`` iterations.

        Parameters
        ----------
        closure : callable
            Computes the loss and the gradients at the parameters' present values, and returns the
            loss, or ``(loss, grads)``.
        grads : None
            Must be None: gradients are needed at several points.

        Returns
        -------
        object
            The loss at the start of the step, as `closure` returned it.

        Raises
        ------
        TypeError, ValueError
            If there is no closure, or it returns another value than described, or a gradient has
            another shape, dtype or type than its parameter. Then parameters and state are restored,
            as if the closure itself raises.
        """
        if closure is None or grads is not None:
            raise TypeError(
                "LBFGS evaluates the loss at several points of a step: call step(closure), where "
                "closure() sets the gradients and returns the loss, or returns (loss, grads)"
            )
        return self._turn.step(self._step_alone, closure)

    def _step_alone(self, closure: Callable[[], Any]) -> Any:
        if self._average is not None:
            self._average.check_unswapped("step")
        from cyoptim.optimizers._lbfgs.objective import Objective

        options = self._common_options()
        objective = Objective(
            # torch's LBFGS does not allow a pair as a loss: a pair is always loss and gradients.
            call=partial(self._turn.outside, loss_and_grads, closure, None),
            gather=self._gather_floats,
            arrays=lambda: self._plan.arrays(),  # of the plan after the first gathering
            tensors=[param for param in self._members() if is_tensor(param)],
            has_border=self._has_border,
        )
        start = objective.evaluate()
        if self._first() is not None:
            undo = Undo()
            undo.keep(self._plan.arrays())
            try:
                undo.run(self._search, objective, start, options)
            except BaseException:
                objective.announce()
                raise
        return objective.result

    def _gather_floats(self, grads: Gradients | None, first: bool) -> list[Any]:
        found = self._gather(grads, first)
        if first:
            self._plan.check_updatable()
        return found

    def _search(self, objective: Objective, start: tuple[float, Array], options: Group) -> Commit:
        """Move the parameters; return the further changes as a Commit."""
        from cyoptim.optimizers._lbfgs.history import History, restarted
        from cyoptim.optimizers._lbfgs.iterations import minimize

        state = self.state
        known = state.get(self._first(), {})
        members = list(self._members())
        if self._ordered is not None and not _are_the_same(members, self._ordered):
            known = restarted(known)  # its vectors belong to other parameters
        history = History.of_state(known, objective.arrays, "the first parameter")
        minimize(objective, start, history, options)
        history.func_evals += objective.evaluations
        commit = Commit()
        commit.set(self, "_ordered", members)
        state.staged = []
        state.stage(self._first(), history.as_state())
        for target, entries in state.staged:
            commit.update(target, entries)
        if self._average is not None:
            commit.average(self._plan)
        return commit

    # --- loading ----------------------------------------------------------------------------------

    def _form(self) -> HistoryForm:
        from cyoptim.optimizers._lbfgs.history import HistoryForm

        return HistoryForm(self)

    def _prepare_load(self, state_dict: StateDict, commit: Commit) -> None:
        if commit.sources is not None:  # none of its vectors is read in place
            state_dict = commit.sources.settled(state_dict)
        super()._prepare_load(state_dict, commit)
        commit.set(self, "_ordered", None)


def _are_the_same(members: list[Any], others: list[Any]) -> bool:
    return len(members) == len(others) and all(map(operator.is_, members, others))


# --- options --------------------------------------------------------------------------------------


def _check_history_size(size: Any) -> None:
    try:
        valid = 1 <= operator.index(plain(size)) <= sys.maxsize
    except TypeError:
        raise TypeError(f"history_size must be a whole number, got {size!r}") from None
    if not valid:
        raise ValueError(f"Invalid history_size value: {size}")


def _check_agreement(groups: list[Group], names: Iterable[str]) -> None:
    """Refuse groups with different options: they form one problem, with one step length."""
    for name in names:
        for number, group in enumerate(groups):
            if group[name] != groups[0][name]:
                raise ValueError(
                    "LBFGS doesn't support per-parameter options (parameter groups): "
                    f"{name!r} is {groups[0][name]!r} in group 0 and {group[name]!r} in group "
                    f"{number}"
                )
