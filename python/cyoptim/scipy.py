"""The optimizers as methods of :func:`scipy.optimize.minimize`."""

from __future__ import annotations

import inspect
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cyoptim import lr_scheduler as schedulers
from cyoptim import optimizers
from cyoptim._arrays.doors import check_unmasked, view_parameter
from cyoptim._groups.options import check_number
from cyoptim._names import OPTIMIZERS, SCHEDULERS, class_named
from cyoptim.optimizer import Optimizer

try:
    from scipy.optimize import Bounds, OptimizeResult, OptimizeWarning
except ModuleNotFoundError as error:
    raise ImportError('cyoptim.scipy needs SciPy: pip install "cyoptim[scipy]"') from error

__all__ = ["Method", "method"]

Array: TypeAlias = NDArray[Any]
OptimizerLike: TypeAlias = str | type[Optimizer] | Callable[[list[Array]], Optimizer]
SchedulerLike: TypeAlias = str | tuple[str, dict[str, Any]] | Callable[[Optimizer], Any]

# A step of LBFGS is one iteration, and minimize decides when to stop.
LBFGS_OPTIONS = {
    "max_iter": 1,
    "max_eval": 25,
    "tolerance_grad": 0.0,
    "tolerance_change": 0.0,
    "line_search_fn": "strong_wolfe",
}
CONVERGED, MAXITER, STUCK, NONFINITE, STOPPED = 0, 1, 2, 3, 99
MESSAGES = {
    MAXITER: "Maximum number of iterations has been exceeded.",
    STUCK: "The optimizer does not move any more, and no tolerance has been reached.",
    NONFINITE: "NaN or infinity was found; x is the best point before.",
    STOPPED: "`callback` raised `StopIteration`.",
}


def method(
    optimizer: OptimizerLike,
    *,
    lr_scheduler: SchedulerLike | None = None,
    clip_norm: float | None = None,
    **options: Any,
) -> Method:
    """An optimizer as a method of :func:`scipy.optimize.minimize`.

    Parameters
    ----------
    optimizer : str, type or callable
        The name of an optimizer, in any case (``"adam"``); a subclass of
        :class:`cyoptim.Optimizer`; or a function that takes a list of one array and returns an
        optimizer of it.
    lr_scheduler : str, (str, dict) or callable, optional
        A learning-rate schedule, stepped once an iteration: the name of a class of
        :mod:`cyoptim.lr_scheduler`, alone or with its arguments, or a function that takes the
        optimizer and returns a scheduler. ``ReduceLROnPlateau`` is given the value of the function.
    clip_norm : float, optional
        Scale gradients down to this norm.
    **options
        Options of the optimizer, checked at once.

    Returns
    -------
    Method
        What to pass as ``method=``.

    Raises
    ------
    ValueError
        If there is no optimizer or scheduler of the name, or an option is out of range.
    TypeError
        If the optimizer has no option of a name, or one has the wrong type.

    Notes
    -----
    These are the ``options`` of ``minimize``:

    maxiter : int
        The most iterations, 10,000 by default. An iteration is one step of the optimizer.
    gtol : float
        Stop where no element of the gradient is larger than this; with bounds, of
        ``x - clip(x - gradient)``. 1e-5 by default, and off for a stochastic function; 0 is off.
        ``minimize(tol=...)`` sets it.
    ftol : float
        Stop where the function changes by no more than ``ftol * max(abs(before), abs(now), 1)`` in
        one iteration. 0, which is off, by default: the function may well rise in between.
    stochastic : bool
        Say that `fun` and `jac` are estimates, from a batch drawn anew: nothing is compared, so
        that the last iterate is returned and tolerances are off unless given.
    average : float, optional
        Return the running average of the iterates, of which this part, in (0, 1), is kept at each
        iteration; function and gradient are evaluated there once more.
    shape : tuple of int, optional
        The shape in which the optimizer sees the parameters: ``Muon`` takes only matrices, and
        ``Adafactor`` saves memory for them. `fun` and `jac` see vectors, whatever the shape.
    finite_diff : {"2-point", "3-point"}
        How gradients are computed if there is no `jac`: from that many values of the function for
        each element. Points are within the bounds, and as far apart as the precision of the
        values wants, which may be lower than that of `x0`.
    disp : bool
        Print how it ended.

    The result is the point with the lowest value, or the last one, if a tolerance was reached
    there. ``status`` is 0 if a tolerance was reached (or all iterations over a stochastic function
    without tolerances are done), 1 at `maxiter`, 2 if LBFGS moves no more, 3 if a value or a
    gradient was not finite, 99 if the callback raised StopIteration. ``lr`` holds the
    learning rates of all iterations.

    Bounds are kept by projection: the start and every iterate are clipped to the box. ``LBFGS``
    refuses bounds, since its line search would leave them; where the function is not finite, the
    search turns back. It is given
    ``line_search_fn="strong_wolfe"`` and one iteration a step, unless you say otherwise.
    ``SparseAdam`` updates the elements whose gradient is not zero.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> result = minimize(rosen, [-1.2, 1.0], jac=rosen_der, method=method("adam", lr=0.05))
    >>> result.success, result.x.round(3)
    (True, array([1., 1.]))
    >>> result = minimize(
    ...     rosen, [0.0, 0.0], jac=rosen_der, method=method("lbfgs"), options={"gtol": 1e-8}
    ... )
    >>> result.success, result.x.round(6)
    (True, array([1., 1.]))
    """
    chosen: Any = _factory(optimizer)
    if not callable(chosen) or (isinstance(chosen, type) and not issubclass(chosen, Optimizer)):
        raise TypeError(
            "optimizer must be a name, a subclass of cyoptim.Optimizer or a function that returns "
            f"one, got {optimizer!r}"
        )
    if clip_norm is not None:
        check_number("clip_norm", clip_norm)
        if not clip_norm > 0:
            raise ValueError(f"clip_norm must be > 0, got {clip_norm!r}")
    result = Method(optimizer, lr_scheduler, clip_norm, options)
    result._check()
    return result


@dataclass(frozen=True, repr=False)
class Method:
    """What :func:`method` returns; :func:`scipy.optimize.minimize` calls it."""

    optimizer: OptimizerLike
    lr_scheduler: SchedulerLike | None
    clip_norm: float | None
    options: dict[str, Any]

    def __repr__(self) -> str:
        shown = [_shown(self.optimizer)]
        if self.lr_scheduler is not None:
            shown.append(f"lr_scheduler={_shown(self.lr_scheduler)}")
        if self.clip_norm is not None:
            shown.append(f"clip_norm={self.clip_norm!r}")
        shown += [f"{name}={value!r}" for name, value in self.options.items()]
        return f"cyoptim.scipy.method({', '.join(shown)})"

    @property
    def _factory(self) -> Any:
        return _factory(self.optimizer)

    @property
    def _name(self) -> str:
        return str(getattr(self._factory, "__name__", type(self._factory).__name__))

    def _check(self) -> None:
        """Make what has a name once, over one number, for the errors of its arguments."""
        factory = self._factory
        if not isinstance(factory, type):
            if self.options:
                raise TypeError(f"options {list(self.options)} are for a name or a class only")
            return
        known = list(inspect.signature(factory).parameters)[1:]
        for name in self.options:
            if name not in known:
                raise TypeError(f"{self._name} has no option {name!r}; it has {', '.join(known)}")
        if self.options.get("maximize"):
            raise ValueError("maximize=True: minimize the function's negative instead")
        optimizer = self._build(np.zeros((1, 1)))
        if not callable(self.lr_scheduler):
            self._schedule(optimizer)

    def _build(self, param: Array) -> Optimizer:
        factory = self._factory
        options = self.options
        if isinstance(factory, type) and issubclass(factory, optimizers.LBFGS):
            options = {**LBFGS_OPTIONS, **options}
        optimizer = factory([param], **options)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self._name} returned {optimizer!r}, expected a cyoptim.Optimizer")
        members = [p for group in optimizer.param_groups for p in group["params"]]
        views = [view_parameter(p, "the array")[1] for p in members]
        if param.size and not all(np.may_share_memory(view, param) for view in views):
            raise ValueError(
                f"{self._name} returned an optimizer of other arrays than it was given"
            )
        if isinstance(optimizer, optimizers.LBFGS):
            if self.clip_norm is not None:
                raise ValueError("clip_norm: LBFGS has its own step length, and clips no gradient")
            optimizer._has_border = True
        return optimizer

    def _schedule(self, optimizer: Optimizer) -> Any:
        chosen = self.lr_scheduler
        if chosen is None or callable(chosen):
            return chosen and chosen(optimizer)
        pair = (chosen, {}) if isinstance(chosen, str) else chosen
        if not (isinstance(pair, (tuple, list)) and list(map(type, pair)) == [str, dict]):
            raise TypeError(
                f"lr_scheduler must be a name, (name, dict) or a callable, got {chosen!r}"
            )
        name, arguments = pair
        return class_named("lr_scheduler", name, SCHEDULERS)(optimizer, **arguments)

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Callable[..., Any] | None = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[..., Any] | None = None,
        maxiter: int = 10_000,
        gtol: float | None = None,
        ftol: float = 0.0,
        tol: float | None = None,
        stochastic: bool = False,
        average: float | None = None,
        shape: tuple[int, ...] | None = None,
        finite_diff: str = "2-point",
        disp: bool = False,
        **unknown: Any,
    ) -> OptimizeResult:
        """Minimize: called by :func:`scipy.optimize.minimize`, whose arguments these are."""
        _warn_of_unused(self._name, hess, hessp, constraints, unknown)
        if gtol is None:
            gtol = tol if tol is not None else 0.0 if stochastic else 1e-5
        limits = _Limits(maxiter, gtol, ftol, stochastic)
        if average is not None:
            check_number("average", average)
            if not 0 < average < 1:
                raise ValueError(f"average must be between 0 and 1, got {average!r}")
        if jac is not None and not callable(jac):
            raise TypeError(f"jac must be callable or None, got {jac!r}")
        if jac is None and stochastic:
            raise ValueError("stochastic: differences of a noisy function are noise; give jac")
        if finite_diff not in ("2-point", "3-point"):
            raise ValueError(f"finite_diff must be '2-point' or '3-point', got {finite_diff!r}")

        x = _start(x0)
        box = _Box.of(bounds, x)
        box.project(x)
        param = x if shape is None else _shaped(x, shape)
        try:
            optimizer = self._build(param)
        except ValueError as error:
            if shape is None and isinstance(self._factory, type):
                error.add_note("minimize works on vectors: the option shape= makes them matrices")
            raise
        problem = _Problem(fun, jac, args, box, finite_diff)
        stepper = _Stepper(optimizer, self._schedule(optimizer), problem, param, self.clip_norm)
        if stepper.searches and bounds is not None:
            raise ValueError("LBFGS cannot keep bounds: use method='L-BFGS-B', or another here")
        result = _minimize(stepper, limits, average, _as_observer(callback))
        if disp:
            _show(result)
        return result


def _factory(optimizer: OptimizerLike) -> Any:
    """What makes an optimizer; of a name its class."""
    if isinstance(optimizer, str):
        return class_named("optimizer", optimizer, OPTIMIZERS)
    return optimizer


def _shown(thing: Any) -> str:
    return getattr(thing, "__name__", None) or repr(thing)


# --- the arguments of minimize --------------------------------------------------------------------


def _warn_of_unused(name: str, hess: Any, hessp: Any, constraints: Any, unknown: Any) -> None:
    """What SciPy's own methods say."""
    here = 4  # of who called minimize, which called the method, which calls this
    if hess is not None:
        text = f"Method {name} does not use Hessian information (hess)."
        warnings.warn(text, RuntimeWarning, stacklevel=here)
    if hessp is not None:
        text = f"Method {name} does not use Hessian-vector product information (hessp)."
        warnings.warn(text, RuntimeWarning, stacklevel=here)
    if np.any(constraints):
        text = f"Method {name} cannot handle constraints."
        warnings.warn(text, RuntimeWarning, stacklevel=here)
    if unknown:
        text = f"Unknown solver options: {', '.join(unknown)}"
        warnings.warn(text, OptimizeWarning, stacklevel=here)


def _start(x0: Any) -> Array:
    """A copy of the start, float32 or float64."""
    check_unmasked(x0, "x0")
    given = np.asarray(x0)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"x0 has dtype {given.dtype}, expected real numbers")
    dtype = np.float32 if given.dtype == np.float32 else np.float64
    x = np.array(given, dtype=dtype).ravel()
    if not np.isfinite(x).all():
        raise ValueError("x0 holds NaN or infinity")
    return x


def _shaped(x: Array, shape: tuple[int, ...]) -> Array:
    try:
        return x.reshape(shape)
    except (TypeError, ValueError):
        raise ValueError(f"shape={shape!r} does not fit x0, which has {x.size} elements") from None


@dataclass
class _Limits:
    maxiter: int
    gtol: float
    ftol: float
    stochastic: bool

    def __post_init__(self) -> None:
        try:
            self.maxiter = operator.index(self.maxiter)
        except TypeError:
            raise TypeError(f"maxiter must be a whole number, got {self.maxiter!r}") from None
        for name in ("maxiter", "gtol", "ftol"):
            check_number(name, getattr(self, name))
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")

    def reached(self, slope: float, before: float | None, now: float) -> str:
        """Which tolerance has been reached, as a sentence; empty if none has."""
        if self.gtol and slope <= self.gtol:
            return "Optimization terminated successfully: the gradient is within gtol."
        if self.ftol and before is not None:
            scale = max(abs(before), abs(now), 1.0)
            if abs(before - now) <= self.ftol * scale:
                return "Optimization terminated successfully: the change of fun is within ftol."
        return ""

    def exhausted(self) -> tuple[int, str]:
        """How to end at maxiter."""
        if self.stochastic and not (self.gtol or self.ftol):
            return CONVERGED, "All iterations over a stochastic function are done."
        return MAXITER, MESSAGES[MAXITER]


@dataclass
class _Box:
    lower: Array
    upper: Array

    @classmethod
    def of(cls, bounds: Any, x: Array) -> _Box:
        """The box of ``minimize(bounds=)``, in the dtype of `x`."""
        if bounds is None:
            bounds = Bounds()
        pairs = (bounds.lb, bounds.ub) if isinstance(bounds, Bounds) else _columns(bounds, x.size)
        try:
            lower, upper = (
                np.broadcast_to(np.asarray(side, np.float64), x.shape) for side in pairs
            )
        except ValueError:
            raise _misfit(x.size) from None
        wrong = np.flatnonzero(~(lower <= upper))
        if wrong.size:
            i = wrong[0]
            raise ValueError(
                f"bounds of x[{i}] are ({lower[i]}, {upper[i]}), expected lower <= upper"
            )
        return cls(*_rounded_inwards(lower, upper, x.dtype))

    def project(self, x: Array) -> None:
        np.clip(x, self.lower, self.upper, out=x)

    def slope(self, x: Array, gradient: Array) -> float:
        """The largest element of the projected gradient."""
        # x - clip(x - gradient, lower, upper), which would round to the precision of x.
        return float(abs(np.clip(gradient, x - self.upper, x - self.lower)).max(initial=0.0))


def _misfit(size: int) -> ValueError:
    return ValueError(f"bounds do not fit x0, which has {size} elements")


def _columns(bounds: Any, size: int) -> tuple[list[float], list[float]]:
    pairs = [tuple(pair) for pair in bounds]
    if len(pairs) != size:
        raise _misfit(size)
    for i, pair in enumerate(pairs):
        if len(pair) != 2:
            raise ValueError(f"bounds of x[{i}] are {pair}, expected a pair (lower, upper)")
    return (
        [-np.inf if lower is None else lower for lower, _ in pairs],
        [np.inf if upper is None else upper for _, upper in pairs],
    )


def _rounded_inwards(lower: Array, upper: Array, dtype: Any) -> tuple[Array, Array]:
    low, high = _cast(lower, dtype), _cast(upper, dtype)
    within_low = np.where(low < lower, np.nextafter(low, dtype.type(np.inf)), low)
    within_high = np.where(high > upper, np.nextafter(high, dtype.type(-np.inf)), high)
    empty = within_low > within_high  # no number of this dtype lies between the two
    return np.where(empty, low, within_low), np.where(empty, low, within_high)


def _cast(values: Any, dtype: Any) -> Array:
    with np.errstate(over="ignore"):
        return np.array(values, dtype=dtype)


# --- the function ---------------------------------------------------------------------------------


@dataclass
class _Point:
    x: Array
    fun: float
    jac: Array

    def is_finite(self) -> bool:
        return bool(np.isfinite(self.fun)) and bool(np.isfinite(self.jac).all())


class _Problem:
    """The function and its gradient; counts evaluations."""

    def __init__(
        self,
        fun: Callable[..., Any],
        jac: Callable[..., Any] | None,
        args: tuple[Any, ...],
        box: _Box,
        finite_diff: str,
    ) -> None:
        self._fun, self._jac, self._args = fun, jac, args
        self.box = box
        self._finite_diff = finite_diff
        self._coarse: Any = None  # the dtype in which the values are computed, if not that of x
        self.nfev = self.njev = 0

    def at(self, x: Array) -> _Point:
        """Value and gradient at a point. The user's functions see copies, which they may keep."""
        if not np.isfinite(x).all():
            return _Point(x.copy(), np.nan, np.full_like(x, np.nan))
        fun = self._value(x)
        self.njev += 1
        if self._jac is None:
            return _Point(x.copy(), fun, self._differences(x, fun))
        returned = self._jac(x.copy(), *self._args)
        check_unmasked(returned, "what jac returned")
        gradient = _cast(returned, x.dtype).ravel()
        if gradient.size != x.size:
            raise ValueError(f"jac returned {gradient.size} elements, expected {x.size}")
        return _Point(x.copy(), fun, gradient)

    def _value(self, x: Array) -> float:
        self.nfev += 1
        returned = self._fun(x.copy(), *self._args)
        check_unmasked(returned, "what fun returned")
        value = np.asarray(returned)
        if value.size != 1:
            raise ValueError(f"fun returned an array of shape {value.shape}, expected one number")
        if value.dtype.kind == "c":
            raise TypeError(f"fun returned a complex number, {value.item()}, expected a real one")
        if value.dtype.kind == "f" and value.dtype.itemsize < _precision(self._coarse, x).itemsize:
            self._coarse = value.dtype
        return float(value.item())

    def _differences(self, x: Array, fun: float) -> Array:
        """The gradient by differences of values, over steps as long as their precision wants."""
        dtype = _precision(self._coarse, x)
        gradient, values = self._slopes(x, fun, dtype)
        # A function may compute in a lower precision than that of the number that it returns.
        for coarser in (np.dtype(np.float32), np.dtype(np.float16)):
            if coarser.itemsize < dtype.itemsize and fun != 0 and _are_of(coarser, values):
                trial, others = self._slopes(x, fun, coarser)
                if trial.any() and _are_of(coarser, others):
                    self._coarse, gradient = coarser, trial
        return _cast(gradient, x.dtype)

    def _slopes(self, x: Array, fun: float, dtype: Any) -> tuple[Array, list[float]]:
        """Differences within the box, 0 along a side of no length; and the values that they are
        made of."""
        central = self._finite_diff == "3-point"
        # As SciPy's own, which looks at the dtypes of x and of the value.
        width = np.finfo(dtype).eps ** (1 / 3 if central else 1 / 2) * np.maximum(1, abs(x))
        gradient = np.zeros(x.shape)
        values = [fun]
        for i in range(x.size):
            above, below = x.copy(), x.copy()
            above[i] = min(x[i] + width[i], self.box.upper[i])
            below[i] = max(x[i] - width[i], self.box.lower[i])
            if not central:  # to the side that has more room
                if above[i] - x[i] >= x[i] - below[i]:
                    below = x
                else:
                    above = x
            if above[i] > below[i]:
                ends = [fun if end[i] == x[i] else self._value(end) for end in (above, below)]
                gradient[i] = (ends[0] - ends[1]) / (float(above[i]) - float(below[i]))
                values += ends
        return gradient, values


def _precision(coarse: Any, x: Array) -> np.dtype[Any]:
    return x.dtype if coarse is None else coarse


def _are_of(dtype: np.dtype[Any], values: list[float]) -> bool:
    """Whether all values are finite numbers of a lower precision: those computed in a higher one
    seldom are."""
    with np.errstate(over="ignore"):
        rounded = np.array(values).astype(dtype)
    return bool(np.isfinite(rounded).all() and (rounded == np.array(values)).all())


# --- iterations -----------------------------------------------------------------------------------


class _Stepper:
    """The optimizer, its schedule, and the array on which it works."""

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Any,
        problem: _Problem,
        param: Array,
        clip_norm: float | None,
    ) -> None:
        self.optimizer, self.scheduler, self.problem = optimizer, scheduler, problem
        self.shape, self.x = param.shape, param.ravel()  # a view, as what was reshaped is one
        self.searches = isinstance(optimizer, optimizers.LBFGS)
        self._clipping: dict[str, Any] = {} if clip_norm is None else {"max_norm": clip_norm}
        # The last that was evaluated.
        self.point = _Point(self.x.copy(), np.nan, np.zeros_like(self.x))

    def start(self) -> _Point:
        return self._evaluate()

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0].get("lr", np.nan))

    def advance(self) -> _Point:
        """Step from the last point to the next."""
        if self.searches:
            self.optimizer.step(self._closure)
            point = self._seen()
        else:
            self.optimizer.step(grads=[self._gradient()], **self._clipping)
            self.problem.box.project(self.x)
            point = self._evaluate()
        if isinstance(self.scheduler, schedulers.ReduceLROnPlateau):
            self.scheduler.step(point.fun)
        elif self.scheduler is not None:
            self.scheduler.step()
        return point

    def _gradient(self) -> Any:
        gradient = self.point.jac.reshape(self.shape)
        if self.optimizer._only_sparse:
            rows = np.flatnonzero(gradient.any(axis=tuple(range(1, gradient.ndim))))
            return rows, gradient[rows]
        return gradient

    def _closure(self) -> tuple[float, list[Array]]:
        point = self._seen()
        return point.fun, [point.jac.reshape(self.shape)]

    def _seen(self) -> _Point:
        """Evaluate where a line search is, unless it was the last to look there."""
        return self.point if np.array_equal(self.point.x, self.x) else self._evaluate()

    def _evaluate(self) -> _Point:
        self.point = self.problem.at(self.x)
        return self.point


def _minimize(
    stepper: _Stepper, limits: _Limits, average: float | None, observe: Callable[[Any], bool]
) -> OptimizeResult:
    problem = stepper.problem
    last = best = stepper.start()
    rates: list[float] = []
    mean, weight = np.zeros(last.x.shape), 0.0
    status, message = NONFINITE, MESSAGES[NONFINITE]
    before: float | None = None
    while last.is_finite():
        message = limits.reached(problem.box.slope(last.x, last.jac), before, last.fun)
        if message:
            status = CONVERGED
            break
        if len(rates) == limits.maxiter:
            status, message = limits.exhausted()
            break
        rates.append(stepper.lr())
        point = stepper.advance()
        if not point.is_finite():
            status, message = NONFINITE, MESSAGES[NONFINITE]
            break
        stuck = stepper.searches and rates[-1] > 0 and np.array_equal(point.x, last.x)
        before, last = last.fun, point
        best = last if last.fun < best.fun else best
        if average is not None:
            mean = average * mean + (1 - average) * last.x
            weight = average * weight + (1 - average)
        if observe(OptimizeResult(x=last.x.copy(), fun=last.fun, jac=last.jac, nit=len(rates))):
            status, message = STOPPED, MESSAGES[STOPPED]
            break
        if stuck:
            status, message = STUCK, MESSAGES[STUCK]
            break
    chosen = last if limits.stochastic or status == CONVERGED else best
    if weight:
        x = (mean / weight).astype(last.x.dtype)
        problem.box.project(x)
        chosen = problem.at(x)
        if not chosen.is_finite():
            chosen, status, message = best, NONFINITE, MESSAGES[NONFINITE]
    return OptimizeResult(
        x=chosen.x,
        fun=chosen.fun,
        jac=chosen.jac,
        nit=len(rates),
        nfev=problem.nfev,
        njev=problem.njev,
        status=status,
        success=status == CONVERGED,
        message=message,
        lr=np.array(rates),
    )


def _as_observer(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], bool]:
    """Calls the callback by either of SciPy's signatures; True if it says stop."""
    if callback is None:
        return lambda result: False
    try:
        names: Sequence[str] = list(inspect.signature(callback).parameters)
    except ValueError:  # a builtin that does not tell
        names = []
    whole = list(names) == ["intermediate_result"]

    def observe(result: OptimizeResult) -> bool:
        try:
            if whole:
                callback(intermediate_result=result)
            else:
                callback(result.x)
        except StopIteration:
            return True
        return False

    return observe


def _show(result: OptimizeResult) -> None:
    print(result.message)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit:d}")
    print(f"         Function evaluations: {result.nfev:d}")
    print(f"         Gradient evaluations: {result.njev:d}")
