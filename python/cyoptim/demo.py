"""Train a small network on handwritten digits with several optimizers: ``python -m cyoptim.demo``.

The network, of one hidden layer, and its gradients are plain NumPy. ``python -m examples.demo``, in
the repository, shows more: a schedule, clipping, a checkpoint, plots, and times beside NumPy's.
"""

from __future__ import annotations

from time import perf_counter
from typing import Any

import numpy as np

import cyoptim
from cyoptim._types import Array

__all__ = ["main"]

EPOCHS, BATCH, TEST = 20, 32, 360
OPTIMIZERS: dict[type[cyoptim.Optimizer], dict[str, Any]] = {
    cyoptim.SGD: {"lr": 0.05, "momentum": 0.9},
    cyoptim.Adam: {"lr": 2e-3},
    cyoptim.AdamW: {"lr": 2e-3, "weight_decay": 0.05},
    cyoptim.RMSprop: {"lr": 1e-3},
}


def forward(params: list[Array], x: Array) -> tuple[Array, Array]:
    """The hidden layer and the logits."""
    W1, b1, W2, b2 = params
    hidden: Array = np.maximum(x @ W1 + b1, 0)
    return hidden, hidden @ W2 + b2


def gradients(params: list[Array], x: Array, labels: Array) -> list[Array]:
    """Those of the mean cross-entropy."""
    hidden, logits = forward(params, x)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(x)), labels] -= 1
    p /= len(x)
    back = (p @ params[2].T) * (hidden > 0)
    return [x.T @ back, back.sum(axis=0), hidden.T @ p, p.sum(axis=0)]


def train(optimizer: cyoptim.Optimizer, x: Array, labels: Array) -> float:
    """Train an optimizer's parameters; the mean time of its steps, in microseconds."""
    rng, times = np.random.default_rng(0), []
    for _ in range(EPOCHS):
        for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH):
            grads = gradients(optimizer.param_groups[0]["params"], x[rows], labels[rows])
            start = perf_counter()
            optimizer.step(grads=grads)
            times.append(perf_counter() - start)
    return 1e6 * sum(times) / len(times)


def main() -> None:
    """Print how well each optimizer learns, and how long its steps take."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        reason = f'the demo needs scikit-learn: pip install "cyoptim[demo]" ({error})'
        raise SystemExit(reason) from None
    rng = np.random.default_rng(1)
    pixels, labels = load_digits(return_X_y=True)
    test, rest = np.split(rng.permutation(len(labels)), [TEST])
    x = (pixels / 16).astype(np.float32)
    start = [rng.standard_normal((m, n), np.float32) / m**0.5 for m, n in ((64, 64), (64, 10))]
    cyoptim.show_config()
    print(f"\noptimizer   right of {TEST} unseen digits      one step")
    for kind, options in OPTIMIZERS.items():
        W1, W2 = (W.copy() for W in start)
        params = [W1, np.zeros(64, np.float32), W2, np.zeros(10, np.float32)]
        step = train(kind(params, **options), x[rest], labels[rest])
        right = (forward(params, x[test])[1].argmax(axis=1) == labels[test]).mean()
        print(f"{kind.__name__:11} {right:26.1%} {step:10.1f} us")


if __name__ == "__main__":
    main()
