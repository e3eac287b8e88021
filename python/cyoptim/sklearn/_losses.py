"""The losses of the linear models: values and slopes at the scores of samples.

Scores have the shape (n, k). The targets of classifiers are class numbers, of shape (n,); several
classes have one score each, two classes share one. The targets of regressors are of the shape of
the scores.

A softmax is one value of all scores of a sample; each other loss has one value for each score.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logsumexp

Array = npt.NDArray[Any]
Loss: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]
"""``loss(scores, targets)``: the values of shape (n, k) or (n, 1), and the slopes of their sums, of
the scores' shape."""


def hinge(z: Array) -> tuple[Array, Array]:
    """max(0, 1 - z)."""
    lack = np.maximum(1 - z, 0)
    return lack, -(lack > 0).astype(z.dtype)


def perceptron(z: Array) -> tuple[Array, Array]:
    """max(0, -z); at 0, where training begins, it has a slope."""
    return np.maximum(-z, 0), -(z <= 0).astype(z.dtype)


def squared_hinge(z: Array) -> tuple[Array, Array]:
    """max(0, 1 - z)^2."""
    lack = np.maximum(1 - z, 0)
    return lack**2, -2 * lack


def modified_huber(z: Array) -> tuple[Array, Array]:
    """max(0, 1 - z)^2, and -4 z below -1."""
    value, slope = squared_hinge(z)
    return np.where(z < -1, -4 * z, value), np.where(z < -1, -4, slope).astype(z.dtype)


def logistic(z: Array) -> tuple[Array, Array]:
    """log(1 + exp(-z))."""
    return np.logaddexp(0, -z).astype(z.dtype), -expit(-z)


MARGIN_LOSSES = {
    "hinge": hinge,
    "perceptron": perceptron,
    "squared_hinge": squared_hinge,
    "modified_huber": modified_huber,
    "log_loss": logistic,
}


def classification(name: str, n_columns: int, epsilon: float) -> Loss:
    """A loss of classes, with the margins of each class against all others.

    A loss of regression takes 1 and -1 as numbers.
    """
    if name == "log_loss" and n_columns > 1:
        return _softmax

    def loss(scores: Array, targets: Array) -> tuple[Array, Array]:
        signs = np.where(_members(targets, scores.shape[1]), 1, -1).astype(scores.dtype)
        if name in RESIDUAL_LOSSES:
            values, slopes = RESIDUAL_LOSSES[name](scores - signs, epsilon)
        else:
            values, slopes = MARGIN_LOSSES[name](signs * scores)
            slopes = signs * slopes
        return values, slopes

    return loss


def _members(targets: Array, n_columns: int) -> Array:
    """For each column, which samples belong to its class."""
    members: Array = targets[:, None] == (1 if n_columns == 1 else np.arange(n_columns))
    return members


def _softmax(scores: Array, targets: Array) -> tuple[Array, Array]:
    """-log of the softmax of the sample's own class."""
    logs = scores - logsumexp(scores, axis=1, keepdims=True)
    slopes = np.exp(logs)
    rows = np.arange(len(targets))
    slopes[rows, targets] -= 1
    return -logs[rows, targets, None], slopes


def regression(name: str, epsilon: float) -> Loss:
    """A loss of numbers, with a value for each target of a sample."""
    of_residuals = RESIDUAL_LOSSES[name]

    def loss(scores: Array, targets: Array) -> tuple[Array, Array]:
        return of_residuals(scores - targets, epsilon)

    return loss


def squared_error(r: Array, epsilon: float) -> tuple[Array, Array]:
    """r^2 / 2."""
    return r**2 / 2, r


def huber(r: Array, epsilon: float) -> tuple[Array, Array]:
    """r^2 / 2, and epsilon (abs(r) - epsilon / 2) beyond epsilon."""
    slope = np.clip(r, -epsilon, epsilon)
    return slope * (r - slope / 2), slope


def epsilon_insensitive(r: Array, epsilon: float) -> tuple[Array, Array]:
    """max(0, abs(r) - epsilon)."""
    excess = np.maximum(abs(r) - epsilon, 0)
    return excess, np.sign(r) * (excess > 0)


def squared_epsilon_insensitive(r: Array, epsilon: float) -> tuple[Array, Array]:
    """max(0, abs(r) - epsilon)^2."""
    excess = np.maximum(abs(r) - epsilon, 0)
    return excess**2, 2 * np.sign(r) * excess


RESIDUAL_LOSSES = {
    "squared_error": squared_error,
    "huber": huber,
    "epsilon_insensitive": epsilon_insensitive,
    "squared_epsilon_insensitive": squared_epsilon_insensitive,
}
