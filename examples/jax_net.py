"""A network whose gradients JAX computes on the CPU, on scikit-learn's handwritten digits.

The parameters are NumPy arrays in a dict; a jitted function takes them and returns the gradients as
a dict of JAX's arrays, which the step reads in place.

    python jax_net.py [--quick]
"""

# Needs: jax, sklearn

from __future__ import annotations

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cyoptim


def make_net(rng):
    def dense(m, n):
        W = rng.normal(0, np.sqrt(2 / m), (m, n)).astype(np.float32)
        return {"W": W, "b": np.zeros(n, np.float32)}

    return {"hidden": dense(64, 64), "out": dense(64, 10)}


@jax.jit
def scores(net, X):
    hidden = jax.nn.relu(X @ net["hidden"]["W"] + net["hidden"]["b"])
    return hidden @ net["out"]["W"] + net["out"]["b"]


@jax.jit
@jax.value_and_grad
def loss_and_grads(net, X, y):
    log_likelihood = jax.nn.log_softmax(scores(net, X))
    return -jnp.mean(log_likelihood[jnp.arange(len(y)), y])


def main(epochs):
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    net = make_net(rng)
    optimizer = cyoptim.AdamW(net, lr=3e-3)
    start, stepping = time.perf_counter(), 0.0
    for epoch in range(1, epochs + 1):
        order = rng.permutation(len(X_train))
        for batch in order[: len(order) // 64 * 64].reshape(-1, 64):  # one shape: compiled once
            # JAX computes in the background and may still read the parameters: wait until it is
            # done before they change.
            value, grads = jax.block_until_ready(
                loss_and_grads(net, X_train[batch], y_train[batch])
            )
            before = time.perf_counter()
            optimizer.step(grads=grads, max_norm=1.0)
            stepping += time.perf_counter() - before
        if epoch % 5 == 0:
            # np.asarray waits, too.
            accuracy = np.mean(np.asarray(scores(net, X_test)).argmax(1) == y_test)
            print(f"epoch {epoch:2}  loss {value:.3f}  accuracy {accuracy:.3f}")
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s, of which the steps took {stepping:.2f} s")
    assert accuracy > 0.9


if __name__ == "__main__":
    main(epochs=5 if "--quick" in sys.argv else 20)
