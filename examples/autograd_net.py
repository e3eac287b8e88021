"""A network whose gradients HIPS autograd computes, on scikit-learn's handwritten digits.

The parameters are a list of layers; autograd returns gradients of the same structure, which the
step accepts.

    python autograd_net.py [--quick]
"""

# Needs: autograd, sklearn

from __future__ import annotations

import sys
import time
from itertools import pairwise

import autograd.numpy as anp
import numpy as np
from autograd import value_and_grad
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cyoptim


def make_layers(sizes, rng):
    return [
        {"W": rng.normal(0, np.sqrt(2 / m), (m, n)), "b": np.zeros(n)} for m, n in pairwise(sizes)
    ]


def scores(layers, X):
    for layer in layers[:-1]:
        X = anp.maximum(X @ layer["W"] + layer["b"], 0)
    return X @ layers[-1]["W"] + layers[-1]["b"]


def loss(layers, X, y):
    out = scores(layers, X)
    out = out - anp.max(out, axis=1, keepdims=True)
    log_likelihood = out[anp.arange(len(y)), y] - anp.log(anp.sum(anp.exp(out), axis=1))
    return -anp.mean(log_likelihood)


def main(epochs):
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    layers = make_layers([64, 64, 10], rng)
    optimizer = cyoptim.AdamW(layers, lr=3e-3)
    loss_and_grads = value_and_grad(loss)
    start, stepping = time.perf_counter(), 0.0
    for epoch in range(1, epochs + 1):
        for batch in np.array_split(rng.permutation(len(X_train)), 21):
            value, grads = loss_and_grads(layers, X_train[batch], y_train[batch])
            before = time.perf_counter()
            optimizer.step(grads=grads, max_norm=1.0)
            stepping += time.perf_counter() - before
        if epoch % 5 == 0:
            accuracy = np.mean(scores(layers, X_test).argmax(1) == y_test)
            print(f"epoch {epoch:2}  loss {value:.3f}  accuracy {accuracy:.3f}")
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s, of which the steps took {stepping:.2f} s")
    assert accuracy > 0.9


if __name__ == "__main__":
    main(epochs=5 if "--quick" in sys.argv else 20)
