"""The problem: the loss as a function of one vector, and along a line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cyoptim._arrays.doors import announce_update, type_name
from cyoptim._types import Array, Gradients
from cyoptim.optimizers._lbfgs.flat import FlatArrays, dot
from cyoptim.optimizers._lbfgs.line_search import Point


class Objective:
    """The loss as a function of the vector of all parameters."""

    def __init__(
        self,
        call: Callable[[], tuple[Any, Gradients | None]],
        gather: Callable[[Gradients | None, bool], list[Array | None]],
        arrays: Callable[[], list[Array]],
        tensors: list[Any],
        has_border: bool,
    ) -> None:
        self._call = call  # the user's closure
        self._gather = gather  # every parameter's gradient, at the first or a later point
        self._arrays = arrays  # the parameters' memory, once gradients have been gathered
        self._tensors = tensors
        self.has_border = has_border
        self.evaluations = 0
        self.result: Any = None  # the first result of the closure
        self.arrays: FlatArrays

    def evaluate(self) -> tuple[float, Array]:
        """The loss and its gradient at the present parameters."""
        result, grads = self._call()
        loss = loss_as_float(result)
        first = self.evaluations == 0
        gradients = self._gather(grads, first)
        if first:
            self.result = result
            self.arrays = FlatArrays(self._arrays())
        self.evaluations += 1
        return loss, self.arrays.gather(gradients)

    def move(self, length: float, direction: Array) -> None:
        """Move the parameters along a direction."""
        self.arrays.move(length, direction)
        self.announce()

    def put(self, vector: Array) -> None:
        """Set the parameters to a point."""
        self.arrays.put(vector)
        self.announce()

    def announce(self) -> None:
        """Notify autograd that the parameters were changed."""
        if self._tensors:
            announce_update(self._tensors)


def loss_as_float(loss: Any) -> float:
    """A loss, which may be an array or a tensor of one element."""
    try:
        # item() takes an array or a tensor of one element, whatever its shape, without a warning.
        return float(loss.item() if hasattr(loss, "item") else loss)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"the closure returned a {type_name(loss)}, expected the loss, one number, or "
            f"(loss, grads): {error}"
        ) from error


class Line:
    """The parameters on a line through their present values."""

    def __init__(self, objective: Objective, direction: Array) -> None:
        self._objective = objective
        self._direction = direction
        self._origin = objective.arrays.copy()
        self._length = 0.0

    def go(self, length: float) -> None:
        """Set the parameters to a distance from the origin."""
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
