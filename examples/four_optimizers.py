"""One network, four ways to train it: AdamW, Schedule-Free AdamW, Muon with AdamW, and Prodigy.

    python four_optimizers.py             # 30 epochs each; leaves four_optimizers.png

A NumPy network reads handwritten digits. What differs between the four is what a user writes: AdamW
and Muon have rates and a schedule, Schedule-Free needs no schedule, and Prodigy no rate. One run on
one small set says which of them learns here, and nothing about other models.
"""
# Needs: sklearn, tqdm, matplotlib

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import cyoptim
from cyoptim.lr_scheduler import CosineAnnealingLR

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Model = dict[str, Array]
SEED = 0
BATCH = 32


# --- data and model: two hidden layers, gradients by hand -----------------------------------------


def load_data() -> tuple[Array, Labels, Array, Labels]:
    """Images of 8 x 8 pixels from 0 to 1 and their digits: a fifth of them to test."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    x, y = images[order].astype(np.float32) / 16, digits[order].astype(np.int64)
    split = len(x) * 4 // 5
    return x[:split], y[:split], x[split:], y[split:]


def make_model(sizes: tuple[int, ...] = (64, 128, 64, 10)) -> Model:
    rng = np.random.default_rng(SEED)
    model = {}
    for k in range(len(sizes) - 1):
        scale = np.sqrt(2 / sizes[k])  # He et al. (2015), for ReLU
        model[f"layer{k}.weight"] = (rng.standard_normal(sizes[k : k + 2]) * scale).astype("f4")
        model[f"layer{k}.bias"] = np.zeros(sizes[k + 1], "f4")
    return model


def forward(model: Model, x: Array) -> list[Array]:
    """The input of each layer, and the logits last."""
    flow, last = [x], len(model) // 2 - 1
    for k in range(last + 1):
        z = flow[-1] @ model[f"layer{k}.weight"] + model[f"layer{k}.bias"]
        flow.append(z if k == last else np.maximum(z, 0))
    return flow


def log_softmax(logits: Array) -> Array:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def gradients_of(model: Model, x: Array, y: Labels) -> Model:
    """The gradients of the mean cross-entropy, by name."""
    *inputs, logits = forward(model, x)
    delta = np.exp(log_softmax(logits))
    delta[np.arange(len(x)), y] -= 1
    delta /= len(x)
    gradients = {}
    for k in reversed(range(len(inputs))):
        gradients[f"layer{k}.weight"] = inputs[k].T @ delta
        gradients[f"layer{k}.bias"] = delta.sum(axis=0)
        delta = (delta @ model[f"layer{k}.weight"].T) * (inputs[k] > 0)
    return gradients


def judge(model: Model, x: Array, y: Labels) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    logits = forward(model, x)[-1]
    loss = -float(log_softmax(logits)[np.arange(len(x)), y].mean())
    return loss, float((logits.argmax(axis=1) == y).mean())


# --- the four -------------------------------------------------------------------------------------


def make_adamw(model: Model) -> Any:
    groups = cyoptim.param_groups(model.items(), no_decay=("bias",))
    return cyoptim.AdamW(groups, lr=3e-3, weight_decay=0.1)


def make_schedule_free(model: Model) -> Any:
    groups = cyoptim.param_groups(model.items(), no_decay=("bias",))
    optimizer = cyoptim.AdamWScheduleFree(groups, lr=1e-2, weight_decay=0.1, warmup_steps=50)
    optimizer.train()
    return optimizer


def make_muon(model: Model) -> Any:
    """Muon for the matrices of the hidden layers, AdamW for the last layer and all biases."""
    groups = cyoptim.param_groups(
        model.items(), lr=3e-3, no_decay=("bias",), muon={"lr": 0.02}, not_muon=("layer2",)
    )
    return cyoptim.MuonWithAuxAdam(groups)


def make_prodigy(model: Model) -> Any:
    groups = cyoptim.param_groups(model.items(), no_decay=("bias",))
    return cyoptim.Prodigy(groups, weight_decay=0.1, safeguard_warmup=True)


FOUR: dict[str, tuple[Callable[[Model], Any], bool]] = {
    "AdamW": (make_adamw, True),
    "Schedule-Free AdamW": (make_schedule_free, False),
    "Muon with AdamW": (make_muon, True),
    "Prodigy": (make_prodigy, True),
}
"""How each is made, and whether a cosine takes its rate down."""


def at_its_average(optimizer: Any) -> AbstractContextManager[None]:
    """Schedule-Free is judged at its average; the others are where they are."""
    free = isinstance(optimizer, cyoptim.AdamWScheduleFree)
    return optimizer.averaged() if free else nullcontext()


def train(name: str, epochs: int) -> list[tuple[float, float]]:
    """The loss and the accuracy on unseen digits after each epoch."""
    x, y, x_test, y_test = load_data()
    make, falls = FOUR[name]
    model = make_model()
    optimizer = make(model)
    steps = -(-len(x) // BATCH)
    scheduler = CosineAnnealingLR(optimizer, epochs * steps) if falls else None
    found = []
    progress = tqdm(range(epochs), desc=f"{name:>20}", unit="epoch")
    for epoch in progress:
        order = np.random.default_rng([SEED, epoch]).permutation(len(x))
        for rows in np.array_split(order, steps):
            optimizer.step(grads=gradients_of(model, x[rows], y[rows]))
            if scheduler is not None:
                scheduler.step()
        with at_its_average(optimizer):
            found.append(judge(model, x_test, y_test))
        progress.set_postfix(loss=f"{found[-1][0]:.4f}", accuracy=f"{found[-1][1]:.3f}")
    return found


def plot(curves: dict[str, list[tuple[float, float]]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    titles = ("loss on unseen digits", "accuracy on unseen digits")
    for k, (axis, title) in enumerate(zip(axes, titles, strict=True)):
        for name, found in curves.items():
            axis.plot(range(1, len(found) + 1), [pair[k] for pair in found], label=name)
        axis.set(title=title, xlabel="epoch")
    axes[0].set_yscale("log")
    axes[1].set_ylim(0.85, 1)
    axes[1].legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train one network with four optimizers.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="2 epochs each")
    parser.add_argument("--plot", default="four_optimizers.png", help="where the picture goes")
    arguments = parser.parse_args()
    epochs = 2 if arguments.quick else arguments.epochs
    curves = {name: train(name, epochs) for name in FOUR}
    plot(curves, arguments.plot)
    print(f"wrote {arguments.plot}")


if __name__ == "__main__":
    main()
