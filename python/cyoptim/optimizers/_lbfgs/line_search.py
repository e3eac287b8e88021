"""A line search for the strong Wolfe conditions, after Nocedal & Wright (2006), section 3.5.

Along a direction of descent, with :math:`\\phi(t)` the loss after a step of length :math:`t`,

.. math::

    \\phi(t) \\le \\phi(0) + c_1 t \\phi'(0), \\qquad |\\phi'(t)| \\le c_2 |\\phi'(0)|.

Two phases: the step grows until an interval holds a point that satisfies both (algorithm 3.5), and
the interval shrinks around it (algorithm 3.6). New lengths come from the cubic through the values
and slopes at two points (equation 3.59). Thresholds, safeguards and the treatment of values that
are not finite are torch's, as trajectories depend on them: comparisons are written so that NaN
has the same effect as there. To make the search turn back at the border of a function's
domain, pass infinity for every loss beyond, and NaN for the slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from cyoptim._types import Array

DECREASE = 1e-4  # c1
CURVATURE = 0.9  # c2
MARGIN = 0.1  # of the interval: of two successive lengths, one must be this far from its ends


@dataclass(frozen=True)
class Point:
    """A step length with the values there."""

    length: float
    loss: float
    slope: float  # along the direction
    grad: Array


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    length: float,
    most: int,
    is_narrow: Callable[[float], bool],
) -> Point:
    """A point that satisfies the strong Wolfe conditions, or the best after `most` refinements.

    Parameters
    ----------
    evaluate : callable
        Returns the point of a step length.
    start : Point
        The point of length 0, of negative slope.
    length : float
        The first length to try.
    most : int
        The largest number of evaluations after the first one.
    is_narrow : callable
        Whether an interval of this width is too narrow to divide.

    Returns
    -------
    Point
        The end of the last interval with the lower loss.
    """
    search = _Search(evaluate, start, most)
    return search.refine(search.bracket(length), is_narrow)


class _Search:
    def __init__(self, evaluate: Callable[[float], Point], start: Point, most: int) -> None:
        self._evaluate = evaluate
        self._start = start
        self._left = max(most, 0)
        self._done = False

    def _next(self, length: float) -> Point:
        self._left -= 1
        return self._evaluate(length)

    def _decreases_too_little(self, point: Point) -> bool:
        start = self._start
        return point.loss > start.loss + DECREASE * point.length * start.slope

    def _is_flat(self, point: Point) -> bool:
        return abs(point.slope) <= -CURVATURE * self._start.slope

    def bracket(self, length: float) -> list[Point]:
        """The ends of an interval with an acceptable point; or a single acceptable point."""
        previous, point = self._start, self._evaluate(length)
        number = 0
        while self._left > 0:
            rises = number > 1 and point.loss >= previous.loss
            if self._decreases_too_little(point) or rises:
                return [previous, point]
            if self._is_flat(point):
                self._done = True
                return [point]
            if point.slope >= 0:
                return [previous, point]
            least = point.length + 0.01 * (point.length - previous.length)
            longer = cubic_minimum(previous, point, least, 10 * point.length)
            previous, point = point, self._next(longer)
            number += 1
        return [self._start, point]

    def refine(self, ends: list[Point], is_narrow: Callable[[float], bool]) -> Point:
        """Shrink the interval until its lower end is acceptable, or evaluations are used up."""
        low = _lower(ends)
        near_an_end = False
        while self._left > 0 and not self._done:
            if is_narrow(abs(ends[1].length - ends[0].length)):
                break
            length, near_an_end = _trial_length(ends, near_an_end)
            point = self._next(length)
            if self._decreases_too_little(point) or point.loss >= ends[low].loss:
                ends[1 - low] = point
                low = _lower(ends)
                continue
            self._done = self._is_flat(point)
            if not self._done and point.slope * (ends[1 - low].length - ends[low].length) >= 0:
                ends[1 - low] = ends[low]
            ends[low] = point
        return ends[low]


def _lower(ends: list[Point]) -> int:
    return 0 if len(ends) == 1 or ends[0].loss <= ends[1].loss else 1


def _trial_length(ends: list[Point], near_an_end: bool) -> tuple[float, bool]:
    """The next length inside the interval, and whether the one after may not be near an end."""
    least = min(ends[0].length, ends[1].length)
    most = max(ends[0].length, ends[1].length)
    length = cubic_minimum(ends[0], ends[1], least, most)
    margin = MARGIN * (most - least)
    if not min(most - length, length - least) < margin:
        return length, False
    if not (near_an_end or length >= most or length <= least):
        return length, True
    return (most - margin if most - length < length - least else least + margin), False


def cubic_minimum(a: Point, b: Point, least: float, most: float) -> float:
    """The minimum of the cubic through two points, clipped to bounds."""
    left, right = (a, b) if a.length <= b.length else (b, a)
    width = right.length - left.length
    d1 = left.slope + right.slope - _divide(3 * (right.loss - left.loss), width)
    square = d1 * d1 - left.slope * right.slope
    if not square >= 0:
        return (least + most) / 2
    d2 = math.sqrt(square)
    share = _divide(right.slope + d2 - d1, right.slope - left.slope + 2 * d2)
    # max and min keep their first argument where the other is NaN or equal.
    return min(max(right.length - width * share, least), most)


def _divide(a: float, b: float) -> float:
    """The quotient in floating-point arithmetic, also by zero (which is never -0 here)."""
    return a / b if b != 0 else a * math.inf
