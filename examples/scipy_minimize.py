"""The optimizers inside scipy.optimize.minimize, on the breast-cancer data of scikit-learn.

Logistic regression: L-BFGS-B and optimizers of cyoptim on the whole data, then on random batches
of 64; and a fit with non-negative weights.
"""

# Needs: scipy, sklearn

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.datasets import load_breast_cancer

from cyoptim.scipy import method

RIDGE = 1e-2
BATCH = 64


def data() -> tuple[Any, Any]:
    """Standardized features and a column of ones; labels -1 and 1."""
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return np.hstack([X, np.ones((len(X), 1))]), 2.0 * y - 1.0


def loss(w: Any, X: Any, y: Any) -> tuple[float, Any]:
    """The mean logistic loss with a ridge, and its gradient."""
    margin = y * (X @ w)
    value = np.logaddexp(0, -margin).mean() + RIDGE / 2 * w @ w
    pull = -y * np.exp(-np.logaddexp(0, margin)) / len(y)
    return value, X.T @ pull + RIDGE * w


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer iterations")
    quick = parser.parse_args().quick

    X, y = data()
    w0 = np.zeros(X.shape[1])

    def row(name: str, result: Any) -> None:
        value, gradient = loss(result.x, X, y)
        print(
            f"{name:<28}{value:.6f}  |gradient| {abs(gradient).max():.1e}  "
            f"{result.nit:5d} iterations, {result.nfev} evaluations"
        )

    print("whole data                  loss")
    options = {"gtol": 1e-6, "maxiter": 20_000}
    row("L-BFGS-B", minimize(loss, w0, args=(X, y), jac=True, method="L-BFGS-B", tol=1e-9))
    chosen: Any
    for chosen in (
        method("lbfgs"),
        method("adam", lr=0.05),
        method("sgd", lr=0.5, momentum=0.9, nesterov=True),
    ):
        name = f"{chosen.optimizer}"
        row(name, minimize(loss, w0, args=(X, y), jac=True, method=chosen, options=options))

    print(f"\nbatches of {BATCH}               loss of the whole data")
    steps = 500 if quick else 5_000
    for average in (None, 0.99):
        rng = np.random.default_rng(0)

        def batch(w: Any, rng: Any = rng) -> tuple[float, Any]:
            rows = rng.choice(len(y), BATCH, replace=False)
            return loss(w, X[rows], y[rows])

        options = {"stochastic": True, "maxiter": steps, "average": average}
        result = minimize(batch, w0, jac=True, method=method("adam", lr=0.01), options=options)
        row("adam" if average is None else f"adam, average of {average}", result)

    print("\nweights >= 0                loss")
    bounds = [(0, None)] * len(w0)
    flipped = (-X, y)  # most features speak against a benign tumour
    for chosen in ("L-BFGS-B", method("adam", lr=0.05)):
        name = chosen if isinstance(chosen, str) else chosen.optimizer
        result = minimize(loss, w0, args=flipped, jac=True, method=chosen, bounds=bounds)
        print(f"{name:<28}{result.fun:.6f}  {np.count_nonzero(result.x)} weights are not 0")


if __name__ == "__main__":
    main()
