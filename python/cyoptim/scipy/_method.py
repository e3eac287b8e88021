"""A method: how to make an optimizer and its schedule, and the arguments of minimize."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy
from scipy.optimize import OptimizeResult

from cyoptim import optimizers
from cyoptim._arrays.doors import check_unmasked, view_parameter
from cyoptim._groups.options import check_number
from cyoptim._groups.storage import refuse_storage
from cyoptim._names import OPTIMIZERS, SCHEDULERS, class_named
from cyoptim._shown import table
from cyoptim._spelling import close_name
from cyoptim._types import Array
from cyoptim._warnings import warn
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers._schedule_free import ScheduleFree
from cyoptim.scipy._loop import Limits, Stepper, as_observer, run, show
from cyoptim.scipy._problem import Box, Problem

OptimizerLike: TypeAlias = str | type[Optimizer] | Optimizer | Callable[[list[Array]], Optimizer]
SchedulerLike: TypeAlias = str | tuple[str, dict[str, Any]] | Callable[[Optimizer], Any]

# What minimize passes to every method.
PASSED = ("args", "jac", "hess", "hessp", "bounds", "constraints", "callback")

STORED = "minimize works in float32 or float64"

# A step of LBFGS is one iteration, and minimize decides when to stop.
LBFGS_OPTIONS = {
    "max_iter": 1,
    "max_eval": 25,
    "tolerance_grad": 0.0,
    "tolerance_change": 0.0,
    "line_search_fn": "strong_wolfe",
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
    optimizer : str, type, Optimizer or callable
        The name of an optimizer, in any case (``"adam"``); a subclass of
        :class:`cyoptim.Optimizer`; an optimizer of one group, whose class and options are used,
        while its parameters and state stay as they are; or a function that takes a list of one
        array and returns an optimizer of it.
    lr_scheduler : str, (str, dict) or callable, optional
        A learning-rate schedule, stepped once an iteration: the name of a class of
        :mod:`cyoptim.lr_scheduler`, alone or with its arguments, or a function that takes the
        optimizer and returns a scheduler. ``ReduceLROnPlateau`` gets the value of the function.
    clip_norm : float, optional
        Scale gradients down to at most this norm.
    **options
        Options of the optimizer, checked immediately.

    Returns
    -------
    Method
        The value for ``method=``.

    Raises
    ------
    ValueError
        If there is no optimizer or scheduler with the name, or an option is out of range.
    TypeError
        If an option is unknown, or has the wrong type.

    Notes
    -----
    A class or an optimizer is a method itself: ``minimize(fun, x0, method=cyoptim.Adam)`` is
    ``method=method(cyoptim.Adam)``.

    These are the ``options`` of ``minimize``, besides those of the optimizer, `lr_scheduler` and
    `clip_norm`, which replace the arguments here. Unknown ones raise TypeError.

    maxiter : int
        The largest number of iterations, 10,000 by default. Each is one step of the optimizer.
    maxfev : int, optional
        The largest number of evaluations of the function. It is checked after each iteration, so
        finite differences and line searches may exceed it.
    gtol : float
        Stop when no element of the gradient is larger than this; with bounds, of
        ``x - clip(x - gradient)``. 1e-5 by default, and off for a stochastic function; 0 is off.
        ``minimize(tol=...)`` sets it.
    ftol : float
        Stop when the function changes by no more than ``ftol * max(abs(before), abs(now), 1)`` in
        one iteration. Off by default (0), as the function may rise between iterations.
    stochastic : bool
        Whether `fun` and `jac` are estimates from random batches. Then values are not compared:
        the result is the last iterate, and tolerances are off unless given.
    average : float, optional
        Return the moving average of the iterates with this decay, in (0, 1); function and
        gradient are evaluated there once more.
    shape : tuple of int, optional
        The shape of the optimizer's array: ``Muon`` takes only matrices, and ``Adafactor`` saves
        memory for them. `fun` and `jac` always get vectors.
    finite_diff : {"2-point", "3-point"}
        The finite differences for gradients without `jac`. Points are within the bounds; their
        distance depends on the precision of the values, which may be lower than that of `x0`.
    disp : bool
        Print how it ended.

    The result is the point that reached a tolerance, or else the point with the lowest value.
    ``status`` is 0 if a tolerance was reached (or all iterations over a stochastic function
    without tolerances are done), 1 at `maxiter` or `maxfev`, 2 if LBFGS no longer moves, 3 if a
    value or a gradient was not finite, 99 if the callback raised StopIteration. ``lr`` contains the
    learning rates of all iterations.

    The start and every iterate are clipped to the bounds. ``LBFGS``
    does not accept bounds, as its line search would violate them; where the function is not
    finite, the search turns back. By default it gets
    ``line_search_fn="strong_wolfe"`` and one iteration per step.
    ``SparseAdam`` updates only the elements with a nonzero gradient. Of a Schedule-Free optimizer
    every reported point is its average, `fun` and `jac` are evaluated there once more in
    each iteration, and `average` is refused.

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
    >>> import cyoptim
    >>> result = minimize(
    ...     rosen, [-1.2, 1.0], jac=rosen_der, method=cyoptim.Adam, options={"lr": 0.05}
    ... )
    >>> result.success, result.x.round(3)
    (True, array([1., 1.]))
    """
    if isinstance(optimizer, Optimizer):
        optimizer, given = _class_and_options(optimizer)
        options = {**given, **options}
    chosen: Any = _factory(optimizer)
    if not callable(chosen) or (isinstance(chosen, type) and not issubclass(chosen, Optimizer)):
        raise TypeError(
            "optimizer must be a name, an optimizer or its class, or a function that returns one, "
            f"got {optimizer!r}"
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
    """The result of :func:`method`, which :func:`scipy.optimize.minimize` calls."""

    __module__ = "cyoptim.scipy"

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

    def _repr_html_(self) -> str:
        rows = {"lr_scheduler": self.lr_scheduler, "clip_norm": self.clip_norm, **self.options}
        return table(f"method of {self._name}", rows)

    @property
    def _factory(self) -> Any:
        return _factory(self.optimizer)

    @property
    def _name(self) -> str:
        return str(getattr(self._factory, "__name__", type(self._factory).__name__))

    def _check(self) -> None:
        """Check arguments: construct named optimizers and schedules once, over one number."""
        factory = self._factory
        if not isinstance(factory, type):
            if self.options:
                raise TypeError(f"options {list(self.options)} are for a name or a class only")
            return
        for name in self.options:
            if name in OPTIONS:
                raise TypeError(f"{name} is an option of minimize: options={{{name!r}: ...}}")
            if name not in self._known():
                raise _unknown(f"{self._name} has no option", name, self._known())
        if self.options.get("maximize"):
            raise ValueError("maximize=True: minimize the function's negative instead")
        optimizer = self._build(np.zeros((1, 1)))
        if not callable(self.lr_scheduler):
            self._schedule(optimizer)

    def _known(self) -> list[str]:
        """The options of the optimizer."""
        factory = self._factory
        return list(inspect.signature(factory).parameters)[1:] if isinstance(factory, type) else []

    def _with(self, options: dict[str, Any]) -> Method:
        """The method with options of minimize that are the optimizer's, or arguments here."""
        known = self._known()
        for name in options:
            if name not in (*known, *ARGUMENTS):
                everything = [*known, *ARGUMENTS, *OPTIONS]
                raise _unknown("minimize: there is no option", name, everything)
        own = {name: options[name] for name in options if name in ARGUMENTS}
        rest = {name: value for name, value in options.items() if name not in ARGUMENTS}
        if not options:
            return self
        return method(
            self.optimizer,
            lr_scheduler=own.get("lr_scheduler", self.lr_scheduler),
            clip_norm=own.get("clip_norm", self.clip_norm),
            **{**self.options, **rest},
        )

    def _build(self, param: Array) -> Optimizer:
        factory = self._factory
        options = self.options
        if isinstance(factory, type) and issubclass(factory, optimizers.LBFGS):
            options = {**LBFGS_OPTIONS, **options}
        refuse_storage(options, STORED)
        optimizer = factory([param], **options)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{self._name} returned {optimizer!r}, expected a cyoptim.Optimizer")
        for group in optimizer.param_groups:
            refuse_storage(group, STORED)
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
        maxfev: int | None = None,
        gtol: float | None = None,
        ftol: float = 0.0,
        tol: float | None = None,
        stochastic: bool = False,
        average: float | None = None,
        shape: tuple[int, ...] | None = None,
        finite_diff: str = "2-point",
        disp: bool = False,
        **options: Any,
    ) -> OptimizeResult:
        """Minimize; :func:`scipy.optimize.minimize` calls it with its own arguments."""
        self = self._with(options)
        _warn_of_unused(self._name, hess, hessp, constraints)
        if gtol is None:
            gtol = tol if tol is not None else 0.0 if stochastic else 1e-5
        limits = Limits(maxiter, maxfev, gtol, ftol, stochastic)
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
        box = Box.of(bounds, x)
        box.project(x)
        param = x if shape is None else _shaped(x, shape)
        try:
            optimizer = self._build(param)
        except ValueError as error:
            if shape is None and isinstance(self._factory, type):
                error.add_note("minimize works on vectors: the option shape= makes them matrices")
            raise
        problem = Problem(fun, jac, args, box, finite_diff)
        if average is not None and isinstance(optimizer, ScheduleFree):
            raise ValueError(f"average: {self._name} returns the average that it keeps itself")
        stepper = Stepper(optimizer, self._schedule(optimizer), problem, param, self.clip_norm)
        if stepper.searches and bounds is not None:
            raise ValueError("LBFGS cannot keep bounds: use method='L-BFGS-B', or another here")
        result = run(stepper, limits, average, as_observer(callback))
        if disp:
            show(result)
        return result


def _factory(optimizer: OptimizerLike) -> Any:
    """The class or function that makes the optimizer."""
    if isinstance(optimizer, str):
        return class_named("optimizer", optimizer, OPTIMIZERS)
    return optimizer


def _class_and_options(optimizer: Optimizer) -> tuple[type[Optimizer], dict[str, Any]]:
    """What makes another optimizer like this one, of one group."""
    groups = optimizer.param_groups
    if len(groups) != 1:
        raise ValueError(
            f"the optimizer has {len(groups)} groups, and x has one: give a function of [array] "
            "that returns an optimizer"
        )
    group, arguments = groups[0], inspect.signature(type(optimizer)).parameters
    options = {
        name: group[name]
        for name, argument in arguments.items()
        if name in group
        and name != "params"
        and not np.array_equal(group[name], argument.default)  # either may be an array
    }
    return type(optimizer), options


def _unknown(what: str, name: str, known: list[str]) -> TypeError:
    close = close_name(name, known)
    hint = f"did you mean {close!r}?" if close else f"there are {', '.join(known)}"
    return TypeError(f"{what} {name!r}; {hint}")


def _shown(thing: Any) -> str:
    return getattr(thing, "__name__", None) or repr(thing)


# What minimize(options=) takes beside the optimizer's own: arguments of method(), of a call.
ARGUMENTS = ("lr_scheduler", "clip_norm")
OPTIONS = tuple(
    name
    for name, parameter in inspect.signature(Method.__call__).parameters.items()
    if parameter.kind is parameter.KEYWORD_ONLY and name not in PASSED
)


# --- the arguments of minimize --------------------------------------------------------------------


def _warn_of_unused(name: str, hess: Any, hessp: Any, constraints: Any) -> None:
    """Warn as SciPy's own methods do."""
    found = {
        "does not use Hessian information (hess).": hess is not None,
        "does not use Hessian-vector product information (hessp).": hessp is not None,
        "cannot handle constraints.": np.any(constraints),
    }
    for text, given in found.items():
        if given:
            warn(f"Method {name} {text}", RuntimeWarning, through=os.path.dirname(scipy.__file__))


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
