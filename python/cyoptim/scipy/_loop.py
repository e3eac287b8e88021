"""The iterations: their limits, their steps, and their result."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import OptimizeResult

from cyoptim import lr_scheduler as schedulers
from cyoptim import optimizers
from cyoptim._groups.options import check_number
from cyoptim._types import Array
from cyoptim.optimizer import Optimizer
from cyoptim.scipy._problem import Point, Problem

CONVERGED, MAXITER, STUCK, NONFINITE, STOPPED = 0, 1, 2, 3, 99
MESSAGES = {
    MAXITER: "Maximum number of iterations has been exceeded.",
    STUCK: "The optimizer does not move any more, and no tolerance has been reached.",
    NONFINITE: "NaN or infinity was found; x is the best point before.",
    STOPPED: "`callback` raised `StopIteration`.",
}


@dataclass
class Limits:
    """The limits at which iterations end."""

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
        """The reached tolerance, as a sentence; empty if none is reached."""
        if self.gtol and slope <= self.gtol:
            return "Optimization terminated successfully: the gradient is within gtol."
        if self.ftol and before is not None:
            scale = max(abs(before), abs(now), 1.0)
            if abs(before - now) <= self.ftol * scale:
                return "Optimization terminated successfully: the change of fun is within ftol."
        return ""

    def exhausted(self) -> tuple[int, str]:
        """Status and message at maxiter."""
        if self.stochastic and not (self.gtol or self.ftol):
            return CONVERGED, "All iterations over a stochastic function are done."
        return MAXITER, MESSAGES[MAXITER]


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
        # The last evaluated point.
        self.point = Point(self.x.copy(), np.nan, np.zeros_like(self.x))

    def start(self) -> Point:
        return self._evaluate()

    def lr(self) -> float:
        return float(self.optimizer.param_groups[0].get("lr", np.nan))

    def advance(self) -> Point:
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

    def _seen(self) -> Point:
        """Evaluate the present point, unless the line search has just evaluated it."""
        return self.point if np.array_equal(self.point.x, self.x) else self._evaluate()

    def _evaluate(self) -> Point:
        self.point = self.problem.at(self.x)
        return self.point


def run(
    stepper: Stepper, limits: Limits, average: float | None, observe: Callable[[Any], bool]
) -> OptimizeResult:
    """Iterate until a limit is reached or `observe` returns True."""
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
