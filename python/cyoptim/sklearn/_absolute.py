"""Steps under a penalty of absolute values, which makes weights exactly 0.

The proximal step of one weight w at the rate r and the slope g of the loss is the point with the
least g v + strength |v| + (v - w)^2 / (2 r).

(A) The optimizer steps along the slope of loss and penalty. This is the proximal step in the metric
    of the optimizer, whatever its rule, for all weights that keep their sign.
(B) A weight of 0 has a slope of its own on either side. It stays 0 if they point towards it;
    otherwise, the optimizer steps along the one that points away.
(C) The rate of a weight is its step by its slope. A weight that would change its sign becomes the
    proximal point at this rate: 0, or a value beyond if the loss alone would carry it there.

For gradient descent and rules without momentum, whose step is a rate of each weight by its slope,
this is the proximal step itself.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class AbsoluteStep:
    """One step of an optimizer over weights with this penalty."""

    def __init__(self, weights: Array, slope: Array, strength: float) -> None:
        """Begin a step at these weights, where the loss has this slope."""
        self.before, self.strength = weights.copy(), strength
        towards = np.sign(weights) * strength
        self.slope = np.where(
            weights == 0, slope - np.clip(slope, -strength, strength), slope + towards
        ).astype(slope.dtype, copy=False)

    def settle(self, weights: Array) -> None:
        """Correct the weights after the optimizer's step, in place."""
        side = np.where(self.before == 0, -np.sign(self.slope), np.sign(self.before))
        left = (np.sign(weights) != side) & (weights != 0) & np.isfinite(weights)
        if not left.any():
            return
        w, side = weights[left], side[left]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = (self.before[left] - w) / self.slope[left]
            beyond = w + 2 * rate * self.strength * side
        reached = (side != 0) & (rate > 0) & (np.sign(beyond) == -side)
        weights[left] = np.where(reached, beyond, 0)
