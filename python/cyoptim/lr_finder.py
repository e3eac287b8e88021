"""A search for a learning rate: train for some steps with rates that grow, and look at the loss.

>>> import numpy as np
>>> import cyoptim
>>> w = np.array([3.0, -4.0])
>>> optimizer = cyoptim.SGD([w])
>>> found = find_lr(optimizer, lambda: (float(w @ w), [2 * w]), start=1e-4)
>>> 0.01 < found.suggestion < 1.0
True
>>> w  # as before
array([ 3., -4.])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cyoptim._arrays.doors import type_name
from cyoptim._gradients.aligned import loss_and_grads
from cyoptim._groups.numbers import number
from cyoptim._plots import new_axes
from cyoptim._schedulers.arguments import check_count, check_positive
from cyoptim._trial import on_trial
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

__all__ = ["LRCurve", "find_lr"]

FEWEST = 10  # fewer points make no curve
TOO_HIGH = 4  # the search ends at a loss that is this many times the first


@dataclass(frozen=True, eq=False)
class LRCurve:
    """The losses of a search for a learning rate; see :func:`find_lr`.

    Attributes
    ----------
    lrs : ndarray
        The learning rates of the first group that were tried.
    losses : ndarray
        The loss at each: that before the step with this rate.
    smoothed : ndarray
        Means of a tenth of all losses, around each.
    suggestion : float or None
        The rate at which the smoothed loss falls fastest, per factor of the rate. None if it falls
        by no more than noise would.
    """

    lrs: NDArray[np.float64] = field(repr=False)
    losses: NDArray[np.float64] = field(repr=False)
    smoothed: NDArray[np.float64] = field(repr=False)
    suggestion: float | None

    def plot(self, ax: Any = None) -> Any:
        """Plot the losses over the rates, on a logarithmic axis, and mark the suggestion.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; new axes by default.

        Returns
        -------
        matplotlib.axes.Axes
            The axes.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        if ax is None:
            ax = new_axes()
        ax.plot(self.lrs, self.losses, alpha=0.35, label="loss")
        ax.plot(self.lrs, self.smoothed, label="smoothed")
        if self.suggestion is not None:
            label = f"suggestion {self.suggestion:.2g}"
            ax.axvline(self.suggestion, linestyle="--", color="gray", label=label)
        ax.set_xscale("log")
        ax.set_xlabel("learning rate")
        ax.set_ylabel("loss")
        ax.legend()
        return ax


def find_lr(
    optimizer: Optimizer,
    closure: Callable[[], Any],
    start: float = 1e-7,
    end: float = 10.0,
    steps: int = 100,
) -> LRCurve:
    r"""Try learning rates that grow from step to step [1]_, and undo these steps.

    At step :math:`i` of :math:`n` the rate is
    :math:`\gamma_i = \gamma_0 (\gamma_{n-1} / \gamma_0)^{i / (n - 1)}`. While rates are too small,
    the loss stays; then it falls; at the end it rises. A good rate for training, or the highest one
    of a schedule, is where the loss falls fastest, well below the rate at which it is lowest.

    Parameters
    ----------
    optimizer : Optimizer
        It may have trained already. `start` and `end` are rates of its first group; those of the
        others keep their ratio to it.
    closure : callable
        Called once for each rate, as a rule with the next batch. It makes a training step and
        returns the loss; or it makes none, but only sets the gradients and returns the loss, or
        returns ``(loss, grads)`` for plain arrays: then the step follows.
    start, end : float
        The first and the last rate, > 0.
    steps : int
        The number of rates, >= 10. The search ends earlier where the loss is not finite, or more
        than four times the first.

    Returns
    -------
    LRCurve
        Rates, losses, and a suggestion; ``.plot()`` draws them.

    Raises
    ------
    TypeError
        If `closure` returns something else than a number.
    ValueError
        If an argument is out of range, a group has no rate of its own, or the first loss is not
        finite.

    Notes
    -----
    Parameters, gradients, state, options, averages and accumulated gradients are afterwards those
    of before, bit for bit, also if `closure` raises. What else it changes is not restored: random
    generators, the place in the data, statistics of batch normalization, schedules.

    In several processes `closure` has to return the same loss in each, such as their mean, as the
    search would end in some of them alone.

    References
    ----------
    .. [1] L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.

    Examples
    --------
    A closure over a Parameter, and a function that makes the steps itself:

    >>> import numpy as np
    >>> import cyoptim
    >>> w = cyoptim.Parameter(np.array([3.0, -4.0]))
    >>> optimizer = cyoptim.SGD([w])
    >>> def closure():
    ...     w.grad = 2 * w
    ...     return (w * w).sum()
    >>> found = find_lr(optimizer, closure, start=1e-4)
    >>> def train_step():
    ...     loss = closure()
    ...     optimizer.step(max_norm=1.0)
    ...     return loss
    >>> clipped = find_lr(optimizer, train_step, start=1e-4)
    >>> found.suggestion < clipped.suggestion
    True
    >>> w
    Parameter([ 3., -4.])
    """
    rates, shares = _checked(optimizer, closure, start, end, steps)
    losses = on_trial(optimizer, "find_lr()", _search, optimizer, closure, rates, shares)
    return _curve(rates[: len(losses)], np.array(losses, float))


def _search(
    optimizer: Optimizer,
    closure: Callable[[], Any],
    rates: NDArray[np.float64],
    shares: list[float],
) -> list[float]:
    """Train with these rates; the losses before the steps."""
    losses: list[float] = []
    made: list[bool] = []
    with optimizer.register_step_post_hook(lambda *_: made.append(True)):
        for rate in rates:
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = float(rate * share)
            made.clear()
            result, grads = loss_and_grads(closure, optimizer.param_groups)
            loss = number("the loss that closure returned", result)
            if not losses and not math.isfinite(loss):
                raise ValueError(
                    f"the loss is {loss} before the first step: look at the data and the "
                    "parameters, as no learning rate can help"
                )
            if not math.isfinite(loss) or loss > _limit(losses or [loss]):
                break
            losses.append(loss)
            if not made:
                optimizer.step(grads=grads)
    return losses


def _limit(losses: list[float]) -> float:
    return losses[0] + (TOO_HIGH - 1) * abs(losses[0])


def _curve(lrs: NDArray[np.float64], losses: NDArray[np.float64]) -> LRCurve:
    smoothed = _smoothed(losses)
    return LRCurve(lrs, losses, smoothed, _suggested(lrs, losses, smoothed))


def _smoothed(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over an odd number of neighbours, fewer at the ends."""
    window = np.ones(_window(losses))
    sums: NDArray[np.float64] = np.convolve(losses, window, "same")
    return sums / np.convolve(np.ones_like(losses), window, "same")


def _suggested(
    lrs: NDArray[np.float64], losses: NDArray[np.float64], smoothed: NDArray[np.float64]
) -> float | None:
    lowest = int(np.argmin(smoothed))
    if smoothed[0] - smoothed[lowest] <= _noise(losses):
        return None
    slopes = np.gradient(smoothed, np.log(lrs))
    return float(lrs[np.argmin(slopes[: lowest + 1])])


def _noise(losses: NDArray[np.float64]) -> float:
    """What the smoothed loss may fall by where nothing is learnt: six standard deviations, which
    follow from neighbours, as the median of their differences disregards a fall."""
    if len(losses) == 1:
        return math.inf
    return float(6 * np.median(np.abs(np.diff(losses)))) / math.sqrt(_window(losses))


def _window(losses: NDArray[np.float64]) -> int:
    """The number of neighbours that are averaged; odd."""
    return len(losses) // 20 * 2 + 1


# --- arguments ------------------------------------------------------------------------------------


def _checked(
    optimizer: Any, closure: Any, start: Any, end: Any, steps: Any
) -> tuple[NDArray[np.float64], list[float]]:
    """The rates of the first group, and the ratios of all groups to it."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer must be an optimizer of cyoptim, got a {type_name(optimizer)}")
    if not callable(closure):
        raise TypeError(
            f"closure must be a function that returns the loss, got a {type_name(closure)}"
        )
    first, last = check_positive("start", start), check_positive("end", end)
    if not first < last < math.inf:
        raise ValueError(f"end must be finite and higher than start={first}, got {last}")
    rates = np.geomspace(first, last, check_count("steps", steps, FEWEST))
    return rates, _shares(optimizer.param_groups)


def _shares(groups: list[Group]) -> list[float]:
    lrs = []
    for i, group in enumerate(groups):
        if group.get("lr") is None:
            raise ValueError(f"parameter group {i} has no learning rate, so none can be tried")
        lrs.append(float(number("lr", group["lr"])))
    if len(lrs) == 1:
        return [1.0]
    if lrs[0] == 0:
        raise ValueError(
            "parameter group 0 has lr=0, and the rates of the others keep their ratio to it: give "
            "it the rate that they are relative to"
        )
    return [lr / lrs[0] for lr in lrs]
