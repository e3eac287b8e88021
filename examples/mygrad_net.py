"""A network of MyGrad's tensors, on scikit-learn's handwritten digits.

Each tensor holds its gradient after backward(); the step changes the tensors' own memory.

    python mygrad_net.py [--quick]
"""

# Needs: mygrad, sklearn

from __future__ import annotations

import sys
import time

import mygrad as mg
import numpy as np
from mygrad.nnet import relu, softmax_crossentropy
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cyoptim


def make_net(rng):
    def dense(m, n):
        W = rng.normal(0, np.sqrt(2 / m), (m, n))
        return {"W": mg.tensor(W), "b": mg.tensor(np.zeros(n))}

    return {"hidden": dense(64, 64), "out": dense(64, 10)}


def scores(net, X):
    hidden = relu(mg.matmul(X, net["hidden"]["W"]) + net["hidden"]["b"])
    return mg.matmul(hidden, net["out"]["W"]) + net["out"]["b"]


def main(epochs):
    rng = np.random.default_rng(0)
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X / 16, y, random_state=0)
    net = make_net(rng)
    optimizer = cyoptim.AdamW(net, lr=3e-3)
    start, stepping = time.perf_counter(), 0.0
    for epoch in range(1, epochs + 1):
        for batch in np.array_split(rng.permutation(len(X_train)), 21):
            loss = softmax_crossentropy(scores(net, X_train[batch]), y_train[batch])
            loss.backward()  # MyGrad locks the tensors' memory until here
            before = time.perf_counter()
            optimizer.step(max_norm=1.0)
            stepping += time.perf_counter() - before
            optimizer.zero_grad()
        if epoch % 5 == 0:
            with mg.no_autodiff:
                accuracy = np.mean(scores(net, X_test).data.argmax(1) == y_test)
            print(f"epoch {epoch:2}  loss {loss.item():.3f}  accuracy {accuracy:.3f}")
    seconds = time.perf_counter() - start
    print(f"{seconds:.2f} s, of which the steps took {stepping:.2f} s")
    assert accuracy > 0.9


if __name__ == "__main__":
    main(epochs=5 if "--quick" in sys.argv else 20)
