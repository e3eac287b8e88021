"""A network in plain NumPy, with gradients by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

import cyoptim

Array = npt.NDArray[Any]


class MLP:
    """A multilayer perceptron: ReLU layers, softmax, and gradients written by hand.

    Parameters
    ----------
    sizes : sequence of int
        The number of inputs, of units in each hidden layer, and of classes.
    rng : numpy.random.Generator
        Draws the initial weights, as He et al. (2015) advise.
    dtype : dtype
        float32 or float64.
    """

    def __init__(
        self, sizes: Sequence[int], rng: np.random.Generator, dtype: Any = np.float32
    ) -> None:
        self.weights = [
            cyoptim.Parameter((rng.standard_normal((m, n)) * math.sqrt(2 / m)).astype(dtype))
            for m, n in pairwise(sizes)
        ]
        self.biases = [cyoptim.Parameter(np.zeros(n, dtype)) for n in sizes[1:]]
        self.layers = list(zip(self.weights, self.biases, strict=True))
        self.parameters = [*self.weights, *self.biases]

    def forward(self, x: Array) -> list[Array]:
        """Return what each layer gets as its input, and the logits last."""
        flow = [x]
        for W, b in self.layers[:-1]:
            flow.append(np.maximum(flow[-1] @ W + b, 0))
        W, b = self.layers[-1]
        return [*flow, flow[-1] @ W + b]

    def backward(self, x: Array, labels: Array) -> float:
        """Set the gradients of a batch's mean cross-entropy, and return its value."""
        *inputs, logits = self.forward(x)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        correct = np.arange(len(x)), labels

        delta = np.exp(log_p)  # d loss / d logits = (softmax - one-hot) / batch size
        delta[correct] -= 1
        delta /= len(x)
        for (W, b), z in zip(reversed(self.layers), reversed(inputs), strict=True):
            W.grad = z.T @ delta
            b.grad = delta.sum(axis=0)
            delta = (delta @ W.T) * (z > 0)
        return -float(log_p[correct].mean())

    def accuracy(self, x: Array, labels: Array) -> float:
        """Return the share of examples whose largest logit is that of their label."""
        return float(np.mean(self.forward(x)[-1].argmax(axis=1) == labels))
