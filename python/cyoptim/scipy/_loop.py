"""The iterations: their limits, their steps, and their result."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import OptimizeResult

from cyoptim import lr_scheduler as schedulers
from cyoptim import optimizers
from cyoptim._groups.options import check_number
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers._schedule_free import ScheduleFree
from cyoptim.scipy._problem import Point, Problem

CONVERGED, EXCEEDED, STUCK, NONFINITE, STOPPED = 0, 1, 2, 3, 99
MAXITER = "Maximum number of iterations has been exceeded."
MAXFEV = "Maximum number of function evaluations has been exceeded."
MESSAGES = {
    STUCK: "The optimizer does not move any more, and no tolerance has been reached.",
    NONFINITE: "NaN or infinity was found; x is the best point before.",
    STOPPED: "`callback` raised `StopIteration`.",
}


Ending: TypeAlias = tuple[int, str]  # status and message


def ended(status: int) -> Ending:
    """An ending with its message."""
    return status, MESSAGES[status]


@dataclass
class Limits:
    """The limits at which iterations end."""

    maxiter: int
    maxfev: int | None
    gtol: float
    ftol: float
    stochastic: bool

    def __post_init__(self) -> None:
        self.maxiter = _whole("maxiter", self.maxiter)
        if self.maxfev is not None:
            self.maxfev = _whole("maxfev", self.maxfev)
        for name in ("gtol", "ftol"):
            check_number(name, getattr(self, name))
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)!r}")

    def ending(
        self, slope: float, before: float | None, now: float, done: int, nfev: int
    ) -> Ending | None:
        """How iterations end at a point to which `done` of them and `nfev` evaluations have led;
        None if they go on."""
        if self.gtol and slope <= self.gtol:
            return CONVERGED, "Optimization terminated successfully: the gradient is within gtol."
        if self.ftol and before is not None:
            scale = max(abs(before), abs(now), 1.0)
            if abs(before - now) <= self.ftol * scale:
                return (
                    CONVERGED,
                    "Optimization terminated successfully: the change of fun is within ftol.",
                )
        if done < self.maxiter and (self.maxfev is None or nfev < self.maxfev):
            return None
        if self.stochastic and not (self.gtol or self.ftol):
            return CONVERGED, "All iterations over a stochastic function are done."
        return EXCEEDED, MAXITER if done >= self.maxiter else MAXFEV


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number}")
    return number


class Stepper:
    """The optimizer, its schedule, and the array on which it works."""

    def __init__(
        self,
        optimizer: Optimizer,
        scheduler: Any,
        problem: Problem,
        param: Array,
        clip_norm: float | None,
    ) -> None:
        self.optimizer, self.scheduler, self.problem = optimizer, scheduler, problem
        self.shape, self.x = param.shape, param.ravel()  # a view, as the reshaped array is one
        self.searches = isinstance(optimizer, optimizers.LBFGS)
        self._clipping: dict[str, Any] = {} if clip_norm is None else {"max_norm": clip_norm}
        if isinstance(optimizer, ScheduleFree):
            optimizer.train()
        # The last evaluated point of the array.
        self.point = Point(self.x.copy(), np.nan, np.zeros_like(self.x))

    def start(self) -> Point:
        return self._evaluate()

    def lr(self) -> float:
        lr = self.optimizer.param_groups[0].get("lr")
        return float("nan" if lr is None else lr)  # some compute their rate themselves

    def advance(self) -> Point:
        """Step from the last point to the next."""
        if self.searches:
            self.optimizer.step(self._closure)
            point = self._seen()
        else:
            self.optimizer.step(grads=[self._gradient()], **self._clipping)
            self._project()
            point = self._evaluate()
            if isinstance(self.optimizer, ScheduleFree):
                point = self._average(self.optimizer)
        if isinstance(self.scheduler, schedulers.ReduceLROnPlateau):
            self.scheduler.step(point.fun)
        elif self.scheduler is not None:
            self.scheduler.step()
        return point

    def _project(self) -> None:
        """Clip the array to the bounds, and first what an average is taken of."""
        if isinstance(self.optimizer, ScheduleFree):
            y = self.x.copy()
            places = self.optimizer._iterates()
            for view, z, _ in places:
                view[...] = z
            self.problem.box.project(self.x)
            for view, z, _ in places:
                z[...] = view
            self.x[...] = y
        self.problem.box.project(self.x)

    def _average(self, optimizer: ScheduleFree) -> Point:
        """The point of the average, which is what a Schedule-Free optimizer finds."""
        y = self.x.copy()
        for (
            view,
            z,
            share,
        ) in optimizer._iterates():  # not averaged(), which takes as long as 50 steps
            view += view.dtype.type(share) * (z - view)
        x = self.x.copy()
        self.x[...] = y
        self.problem.box.project(x)
        return self.problem.at(x)

    def _gradient(self) -> Any:
        gradient = self.point.jac.reshape(self.shape)
        if self.optimizer._only_sparse:
            rows = np.flatnonzero(gradient.any(axis=tuple(range(1, gradient.ndim))))
            return rows, gradient[rows]
        return gradient

    def _closure(self) -> tuple[float, list[Array]]:
        point = self._seen()
        return point.fun, [point.jac.reshape(self.shape)]

    def _seen(self) -> Point:
        """Evaluate the present point, unless the line search has just evaluated it."""
        return self.point if np.array_equal(self.point.x, self.x) else self._evaluate()

    def _evaluate(self) -> Point:
        self.point = self.problem.at(self.x)
        return self.point


class _Mean:
    """The running average of the iterates, of which a share is kept at each."""

    def __init__(self, share: float, x: Array) -> None:
        self._share, self._dtype = share, x.dtype
        self._sum, self._weight = np.zeros(x.shape), 0.0

    def add(self, x: Array) -> None:
        """Take an iterate in."""
        self._sum = self._share * self._sum + (1 - self._share) * x
        self._weight = self._share * self._weight + (1 - self._share)

    def value(self) -> Array | None:
        """The average; None if there have been no iterates."""
        if not self._weight:
            return None
        average: Array = (self._sum / self._weight).astype(self._dtype)
        return average


def run(
    stepper: Stepper, limits: Limits, average: float | None, observe: Callable[[Any], bool]
) -> OptimizeResult:
    """Iterate until a limit is reached or `observe` returns True."""
    problem = stepper.problem
    last = best = stepper.start()
    rates: list[float] = []
    mean = None if average is None else _Mean(average, last.x)
    before: float | None = None
    ending: Ending | None = None if last.is_finite() else ended(NONFINITE)
    while ending is None:
        slope = problem.box.slope(last.x, last.jac)
        ending = limits.ending(slope, before, last.fun, len(rates), problem.nfev)
        if ending is not None:
            break
        rates.append(stepper.lr())
        point = stepper.advance()
        if not point.is_finite():
            ending = ended(NONFINITE)
            break
        stuck = stepper.searches and rates[-1] > 0 and np.array_equal(point.x, last.x)
        before, last = last.fun, point
        best = last if last.fun < best.fun else best
        if mean is not None:
            mean.add(last.x)
        if observe(OptimizeResult(x=last.x.copy(), fun=last.fun, jac=last.jac, nit=len(rates))):
            ending = ended(STOPPED)
        elif stuck:
            ending = ended(STUCK)
    chosen = last if limits.stochastic or ending[0] == CONVERGED else best
    x = None if mean is None else mean.value()
    if x is not None:
        problem.box.project(x)
        chosen = problem.at(x)
        if not chosen.is_finite():
            chosen, ending = best, ended(NONFINITE)
    return _result(problem, chosen, rates, ending)


def _result(problem: Problem, chosen: Point, rates: list[float], ending: Ending) -> OptimizeResult:
    status, message = ending
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


def as_observer(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], bool]:
    """Calls the callback with either of SciPy's signatures; True if it stops the iteration."""
    if callback is None:
        return lambda result: False
    try:
        names: Sequence[str] = list(inspect.signature(callback).parameters)
    except ValueError:  # a builtin without a signature
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


def show(result: OptimizeResult) -> None:
    """Print how it ended, as SciPy's own methods do."""
    print(result.message)
    print(f"         Current function value: {result.fun:f}")
    print(f"         Iterations: {result.nit:d}")
    print(f"         Function evaluations: {result.nfev:d}")
    print(f"         Gradient evaluations: {result.njev:d}")
