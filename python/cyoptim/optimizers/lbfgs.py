"""Limited-memory BFGS."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from cyoptim._arrays.doors import (
    announce_update,
    is_tensor,
    loaded_array,
    type_name,
    view_parameter,
)
from cyoptim._engine import Commit, Plan, Room, TwoLoop, Undo, whole_count
from cyoptim._groups.numbers import plain
from cyoptim._groups.options import as_float, check_lr, check_nonnegative, check_number
from cyoptim._types import Array, Gradients, Group, ParamsT, StateDict
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers._lbfgs.flat import FlatArrays, dot, largest, norm
from cyoptim.optimizers._lbfgs.line_search import Point, strong_wolfe

# A pair of step and change of gradient with a smaller product is not remembered.
LEAST_CURVATURE = 1e-10


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

    where :math:`t_k = \gamma`, or what a line search [3]_ that begins there finds; in the first
    iteration :math:`d = -g` and :math:`\gamma` is multiplied by :math:`\min(1, 1 / \|g\|_1)`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`. All
        of them are one vector, and one problem: groups may not differ in their options.
    lr : float
        Step length :math:`\gamma`, >= 0.
    max_iter : int
        The most iterations in one call of ``step``, >= 0.
    max_eval : int, optional
        The most evaluations of the closure in one call of ``step``, >= 0; ``max_iter * 5 // 4`` if
        left out. A line search may exceed it by one.
    tolerance_grad : float
        Stop where no element of the gradient is larger.
    tolerance_change : float
        Stop where no parameter, or the loss, changes by more.
    history_size : int
        How many pairs of :math:`s` and :math:`y` are remembered, >= 1. Each takes as much memory as
        two copies of the parameters.
    line_search_fn : str, optional
        ``"strong_wolfe"``, or None for steps of length :math:`\gamma`.

    Notes
    -----
    ``step`` needs a closure, which it calls several times. The closure computes the loss, stores
    the gradients in the parameters' ``.grad``, and returns the loss; or it returns
    ``(loss, grads)``, with gradients as ``step(grads=...)`` of other optimizers takes them, which
    plain arrays need. A missing gradient counts as zero. If the closure fails, parameters and state
    are put back to where the step began.

    State, that of the first parameter: ``func_evals`` and ``n_iter``, the counts of evaluations and
    iterations; ``d`` and ``t``, the last direction and step length; ``old_dirs`` and ``old_stps``,
    the :math:`y` and :math:`s`, with ``ro`` their :math:`\rho`; ``H_diag``, the factor between the
    loops; ``prev_flat_grad`` and ``prev_loss``; ``al``, the :math:`\alpha`.

    ``add_param_group`` changes the problem, to which no vector of the state fits any more: the
    history begins anew, as in a first iteration. ``func_evals`` goes on.

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

    Parameters have a place for their gradients:

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
    # Whether the search turns back where the loss is not finite, rather than go as torch's does.
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
        check_nonnegative("max_iter", max_iter)  # before it is multiplied
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
        if group["line_search_fn"] not in (None, "strong_wolfe"):
            raise RuntimeError(
                f"only 'strong_wolfe' is supported, got line_search_fn={group['line_search_fn']!r}"
            )

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        _check_agreement([*others, group], self.defaults)
        return group

    def _prepare_groups(self, plan: Plan, commit: Commit) -> None:
        state = self.state.get(self._first(), {})
        if state:
            commit.become(state, _anew(state))

    def _first(self) -> Any:
        """The parameter whose state is that of the whole problem; None if there is none."""
        return next(self._members(), None)

    def _members(self) -> Iterator[Any]:
        return chain.from_iterable(group["params"] for group in self.param_groups)

    def _common_options(self) -> Group:
        for number, group in enumerate(self.param_groups):
            try:
                self._check_options(group)
            except (TypeError, ValueError, RuntimeError) as error:
                raise type(error)(f"options of param group {number}: {error}") from error
        _check_agreement(self.param_groups, self.defaults)
        group = self.param_groups[0]
        return {**self._plain_group(group), "lr": as_float(group["lr"])}

    def _takes_spans(self, group: Group, label: str) -> bool:
        return False  # a sparse gradient is part of a dense vector

    # --- the step ---------------------------------------------------------------------------------

    def step(  # type: ignore[override]  # what it does not take makes no sense in a line search
        self, closure: Callable[[], Any] | None = None, *, grads: Gradients | None = None
    ) -> Any:
        """Minimize for up to ``max_iter`` iterations.

        Parameters
        ----------
        closure : callable
            Computes the loss and the gradients at the parameters' present values, and returns the
            loss, or ``(loss, grads)``.
        grads : None
            Not used: gradients are needed at several points.

        Returns
        -------
        object
            The loss where the step began, as `closure` returned it.

        Raises
        ------
        TypeError, ValueError
            If there is no closure, or it returns something other than described, or a gradient has
            another shape, dtype or type than its parameter's. Parameters and state are as they were
            before the step, as they are when the closure itself raises.
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
        options = self._common_options()
        objective = _Objective(self, closure)
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

    def _search(self, objective: _Objective, start: tuple[float, Array], options: Group) -> Commit:
        """Move the parameters; the result is what then changes with them."""
        state = self.state
        known = state.get(self._first(), {})
        members = list(self._members())
        if self._ordered is not None and not _are_the_same(members, self._ordered):
            known = _anew(known)  # the parts of its vectors are of other parameters
        memory = _Memory.of_state(known, objective.arrays, "the first parameter")
        _minimize(objective, start, memory, options)
        memory.func_evals += objective.evaluations
        state.staged = []
        state.stage(self._first(), memory.as_state())
        commit = Commit()
        commit.set(self, "_ordered", members)
        for target, entries in state.staged:
            commit.update(target, entries)
        if self._average is not None:
            commit.average(self._plan)
        return commit

    def _loss_and_grads(self, closure: Callable[[], Any]) -> tuple[Any, Gradients | None]:
        # No loss of torch's LBFGS is a pair, so that a pair is always loss and gradients.
        result, grads = super()._loss_and_grads(closure)
        if grads is None and isinstance(result, tuple) and len(result) == 2:
            return result
        return result, grads

    # --- loading ----------------------------------------------------------------------------------

    def _in_own_order(
        self, state: Mapping[Any, Any], before: list[Any], keys: list[Any], views: list[Array]
    ) -> Mapping[Any, Any]:
        """The state of the whole problem, with the parts of its vectors in the new order."""
        values = state.get(before[0]) if before else None
        if before == keys or not isinstance(values, dict):
            return state
        sizes = {
            key: view.size * (2 if view.dtype.kind == "c" else 1)
            for key, view in zip(keys, views, strict=True)
        }
        ends = list(itertools.accumulate((sizes[key] for key in before), initial=0))
        parts = {key: slice(*ends[i : i + 2]) for i, key in enumerate(before)}

        def moved(value: Any) -> Any:
            array = loaded_array(value, "a vector of the loaded state")
            if array.shape != (ends[-1],):
                return value  # which is refused, with its shape
            return np.concatenate([array[parts[key]] for key in keys])

        entries = {name: value for name, value in values.items() if name in _STATE_NAMES}
        for name in entries.keys() & {*_VECTORS}:
            entries[name] = moved(entries[name])
        for name in entries.keys() & {"old_dirs", "old_stps"}:
            entries[name] = [moved(value) for value in entries[name]]
        notes = {name: value for name, value in values.items() if name not in _STATE_NAMES}
        ordered = {**state, before[0]: notes}
        return {**ordered, keys[0]: {**ordered.get(keys[0], {}), **entries}}

    def _prepare_load(self, state_dict: StateDict, commit: Commit) -> None:
        super()._prepare_load(state_dict, commit)
        commit.set(self, "_ordered", None)

    def _import_state(self, param: Any, values: Any, label: str, room: Room) -> dict[str, Any]:
        if not isinstance(values, dict):
            raise TypeError(f"loaded state of {label} is a {type_name(values)}, expected a dict")
        views = [view_parameter(p, "a parameter")[1] for p in self._members()]
        notes = {name: copy.deepcopy(values[name]) for name in values.keys() - _STATE_NAMES}
        if values.keys() <= notes.keys():
            return notes
        memory = _Memory.of_state(copy.deepcopy(values), FlatArrays(views), label)
        return {**memory.as_state(), **notes}


def _anew(state: dict[str, Any]) -> dict[str, Any]:
    """A state that begins anew, with what does not depend on the problem."""
    kept = {k: v for k, v in state.items() if k == "func_evals" or k not in _STATE_NAMES}
    return {**kept, "n_iter": 0}


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
    """Refuse groups that differ in an option: they are one problem, with one step length."""
    for name in names:
        for number, group in enumerate(groups):
            if group[name] != groups[0][name]:
                raise ValueError(
                    "LBFGS doesn't support per-parameter options (parameter groups): "
                    f"{name!r} is {groups[0][name]!r} in group 0 and {group[name]!r} in group "
                    f"{number}"
                )


# --- the problem ----------------------------------------------------------------------------------


class _Objective:
    """The loss as a function of one vector, which is all parameters together."""

    def __init__(self, optimizer: LBFGS, closure: Callable[[], Any]) -> None:
        self._optimizer = optimizer
        self._closure = closure
        self.has_border = optimizer._has_border
        self._tensors = [param for param in optimizer._members() if is_tensor(param)]
        self.evaluations = 0
        self.result: Any = None  # what the closure returned first
        self.arrays: FlatArrays

    def evaluate(self) -> tuple[float, Array]:
        """The loss and its gradient where the parameters are."""
        turn = self._optimizer._turn
        result, grads = turn.outside(self._optimizer._loss_and_grads, self._closure)
        loss = _loss_as_float(result)
        gradients = self._optimizer._gather(grads, first=self.evaluations == 0)
        if self.evaluations == 0:
            self.result = result
            self.arrays = FlatArrays(self._optimizer._plan.arrays())
        self.evaluations += 1
        return loss, self.arrays.gather(gradients)

    def move(self, length: float, direction: Array) -> None:
        """Move the parameters along a direction."""
        self.arrays.move(length, direction)
        self.announce()

    def put(self, vector: Array) -> None:
        """Put the parameters to a point."""
        self.arrays.put(vector)
        self.announce()

    def announce(self) -> None:
        """Tell autograd that the parameters were changed."""
        if self._tensors:
            announce_update(self._tensors)


def _loss_as_float(loss: Any) -> float:
    try:
        # item() takes an array or a tensor of one element, whatever its shape, without a warning.
        return float(loss.item() if hasattr(loss, "item") else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the closure returned a {type_name(loss)}, expected the loss, one number, or "
            f"(loss, grads): {error}"
        ) from error


class _Line:
    """The parameters on a line through where they are."""

    def __init__(self, objective: _Objective, direction: Array) -> None:
        self._objective = objective
        self._direction = direction
        self._origin = objective.arrays.copy()
        self._length = 0.0

    def go(self, length: float) -> None:
        """Put the parameters to a distance from the origin."""
        if length == self._length:
            return
        if self._length != 0:
            self._objective.put(self._origin)
        if length != 0:
            self._objective.move(length, self._direction)
        self._length = length

    def evaluate(self, length: float) -> Point:
        """Loss, gradient and slope at a distance from the origin."""
        self.go(length)
        loss, grad = self._objective.evaluate()
        slope = dot(grad, self._direction)
        if self._objective.has_border and not (math.isfinite(loss) and math.isfinite(slope)):
            loss, slope = math.inf, math.nan  # higher than all else: the search walks back
        return Point(length, loss, slope, grad)


# --- the method -----------------------------------------------------------------------------------

_COUNTS = ("func_evals", "n_iter")
_VECTORS = ("d", "prev_flat_grad")
_HISTORY = ("old_dirs", "old_stps", "ro")
_STATE_NAMES = frozenset({*_COUNTS, *_VECTORS, *_HISTORY, "t", "H_diag", "prev_loss", "al"})


@dataclass
class _Memory:
    """What one iteration leaves to the next, under torch's names."""

    dtype: Any
    func_evals: int = 0
    n_iter: int = 0
    d: Any = None
    t: float = 0.0
    old_dirs: list[Array] = field(default_factory=list)
    old_stps: list[Array] = field(default_factory=list)
    ro: list[float] = field(default_factory=list)
    H_diag: float = 1
    prev_flat_grad: Any = None
    prev_loss: float = 0.0
    al: list[float | None] | None = None
    _reach: float | None = None

    @classmethod
    def of_state(cls, state: dict[str, Any], arrays: FlatArrays, label: str) -> _Memory:
        """From the entries of a state, whose vectors must have the size of the problem."""
        memory = cls(arrays.dtype)
        for name in _COUNTS:
            count = state.get(name, 0)
            if not isinstance(count, int):
                count = whole_count(count, f"state {name!r} of {label}")
            if count < 0:
                raise ValueError(f"state {name!r} of {label} is {count}, expected at least 0")
            setattr(memory, name, count)
        if memory.n_iter == 0:
            return memory
        missing = _STATE_NAMES - state.keys() - {"al"}
        if missing:
            raise ValueError(f"state of {label} has n_iter {memory.n_iter}, but no {min(missing)}")

        def vector(name: str, value: Any) -> Array:
            what = f"state {name!r} of {label}"
            array = loaded_array(value, what)
            if array.shape != (arrays.size,) or array.dtype.kind not in "fiub":
                raise ValueError(
                    f"{what} has shape {array.shape} and dtype {array.dtype}, expected "
                    f"{(arrays.size,)} and {arrays.dtype}"
                )
            return np.ascontiguousarray(array, arrays.dtype)

        for name in _VECTORS:
            setattr(memory, name, vector(name, state[name]))
        for name in ("old_dirs", "old_stps"):
            setattr(memory, name, [vector(name, value) for value in state[name]])
        memory.ro = [float(value) for value in state["ro"]]
        memory.t, memory.prev_loss = float(state["t"]), float(state["prev_loss"])
        memory.H_diag = _number(state["H_diag"])
        memory.al = _numbers(state.get("al"))
        if not len(memory.old_dirs) == len(memory.old_stps) == len(memory.ro):
            raise ValueError(
                f"state of {label} has {len(memory.old_dirs)} old_dirs, {len(memory.old_stps)} "
                f"old_stps and {len(memory.ro)} ro"
            )
        return memory

    def as_state(self) -> dict[str, Any]:
        """The entries of a state: numbers of the method are arrays without axes, as in torch."""
        entries: dict[str, Any] = {name: getattr(self, name) for name in _COUNTS}
        if self.n_iter == 0:
            return entries
        for name in (*_VECTORS, "old_dirs", "old_stps", "t", "prev_loss"):
            entries[name] = getattr(self, name)
        entries["ro"] = [self._scalar(value) for value in self.ro]
        entries["H_diag"] = self._scalar(self.H_diag)
        if self.al is not None:
            entries["al"] = [self._scalar(value) for value in self.al]
        return entries

    def _scalar(self, value: float | None) -> Any:
        # The first factor between the loops is the number 1 itself.
        return value if value is None or isinstance(value, int) else np.array(value, self.dtype)

    @property
    def reach(self) -> float:
        """The largest element of the direction."""
        if self._reach is None:
            self._reach = largest(self.d)
        return self._reach

    @np.errstate(all="ignore")  # what is not finite is for the caller to see in the result
    def turn(self, loss: float, grad: Array, history_size: int) -> float:
        """Set the next direction; its product with the gradient."""
        self.n_iter += 1
        self._reach = None
        if self.n_iter == 1:
            self.d = -grad
            slope = -dot(grad, grad)
        else:
            self._remember(grad, history_size)
            slope = self._recur(grad, history_size)
        self.prev_flat_grad, self.prev_loss = grad, loss
        return slope

    def _remember(self, grad: Array, history_size: int) -> None:
        """Take the last step, and the change of the gradient over it, into the history."""
        change = grad - self.prev_flat_grad
        step = self.d * self.dtype.type(self.t)
        curvature = dot(change, step)
        if not curvature > LEAST_CURVATURE:
            return
        for entries in (self.old_dirs, self.old_stps, self.ro):
            del entries[: max(len(entries) + 1 - history_size, 0)]
        self.old_dirs.append(change)
        self.old_stps.append(step)
        # Rounded as they are saved, so that a resumed run has the same bits.
        self.ro.append(float(self.dtype.type(1.0 / curvature)))
        self.H_diag = float(self.dtype.type(curvature / dot(change, change)))

    def _recur(self, grad: Array, history_size: int) -> float:
        if not self.ro:
            self.d = grad * self.dtype.type(-self.H_diag)
            self.al = [None] * history_size
            return dot(grad, self.d)
        self.d = grad.copy()
        weights, slope = TwoLoop([self.d]).run(
            grad, self.old_dirs, self.old_stps, self.ro, self.H_diag
        )
        self.al = [*weights, *[None] * (history_size - len(weights))]
        return slope


def _number(value: Any) -> float:
    return value if isinstance(value, int) else float(value)


def _numbers(values: Any) -> list[float | None] | None:
    return None if values is None else [None if v is None else float(v) for v in values]


def _minimize(
    objective: _Objective, start: tuple[float, Array], memory: _Memory, options: Group
) -> None:
    """Iterate until a tolerance or a limit is reached."""
    loss, grad = start
    iterations = 0
    if largest(grad) <= options["tolerance_grad"]:
        return
    while iterations < options["max_iter"]:
        iterations += 1
        slope = memory.turn(loss, grad, options["history_size"])
        memory.t = _first_length(memory, grad, options["lr"])
        if slope > -options["tolerance_change"]:
            return
        final = iterations == options["max_iter"]
        loss, grad = _advance(objective, memory, Point(0.0, loss, slope, grad), final, options)
        if (
            final
            or objective.evaluations >= options["max_eval"]
            or largest(grad) <= options["tolerance_grad"]
            or memory.reach * abs(memory.t) <= options["tolerance_change"]
            or abs(loss - memory.prev_loss) < options["tolerance_change"]
        ):
            return


def _first_length(memory: _Memory, grad: Array, lr: float) -> float:
    """The step length to begin with: nothing is known of the scale of the first gradient."""
    if memory.n_iter > 1:
        return lr
    total = norm(grad, 1)
    return 1 / total * lr if total > 1 else lr


def _advance(
    objective: _Objective, memory: _Memory, origin: Point, final: bool, options: Group
) -> tuple[float, Array]:
    """Step along the direction; loss and gradient there."""
    # A step of no length, as at the beginning of a warm-up, leaves nothing to search.
    if options["line_search_fn"] is None or memory.t == 0:
        objective.move(memory.t, memory.d)
        # Nothing looks at the loss after the last iteration.
        return (origin.loss, origin.grad) if final else objective.evaluate()
    line = _Line(objective, memory.d)
    point = strong_wolfe(
        line.evaluate,
        origin,
        memory.t,
        options["max_eval"] - objective.evaluations,
        lambda width: width * memory.reach < options["tolerance_change"],
    )
    line.go(point.length)
    memory.t = point.length
    return point.loss, point.grad
