"""A whole training run in NumPy: handwritten digits, and everything that a real run needs.

    python train_digits.py                # 40 epochs; leaves checkpoints and digits_run.png
    python train_digits.py                # the same again: resumes, and finds nothing left to do

Each epoch shuffles the batches; the learning rate warms up and falls; the step clips gradients and
updates an average of the parameters; weights decay, biases do not. Each epoch ends with a
checkpoint. You may stop the run at any time: the next start continues from the last epoch, with the
bits of an uninterrupted run.
"""
# Needs: sklearn, tqdm, matplotlib

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

import cyoptim
from cyoptim.lr_scheduler import WarmupCosineLR

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
SEED = 0


# --- data -----------------------------------------------------------------------------------------


def load_data() -> tuple[Array, Labels, Array, Labels]:
    """Images of 8 x 8 pixels from 0 to 1 and their digits: a fifth of them to test."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    x, y = images[order].astype(np.float32) / 16, digits[order].astype(np.int64)
    split = len(x) * 4 // 5
    return x[:split], y[:split], x[split:], y[split:]


# --- model: two hidden layers, gradients by hand --------------------------------------------------


def make_model(sizes: tuple[int, ...]) -> dict[str, Array]:
    rng = np.random.default_rng(SEED)
    model = {}
    for k in range(len(sizes) - 1):
        scale = np.sqrt(2 / sizes[k])  # He et al. (2015), for ReLU
        model[f"layer{k}.weight"] = (rng.standard_normal(sizes[k : k + 2]) * scale).astype("f4")
        model[f"layer{k}.bias"] = np.zeros(sizes[k + 1], "f4")
    return model


def forward(model: dict[str, Array], x: Array) -> list[Array]:
    """The input of each layer, and the logits last."""
    flow, last = [x], len(model) // 2 - 1
    for k in range(last + 1):
        z = flow[-1] @ model[f"layer{k}.weight"] + model[f"layer{k}.bias"]
        flow.append(z if k == last else np.maximum(z, 0))
    return flow


def loss_and_gradients(
    model: dict[str, Array], x: Array, y: Labels
) -> tuple[float, dict[str, Array]]:
    """Mean cross-entropy, and its gradients by name."""
    *inputs, logits = forward(model, x)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))
    delta = np.exp(log_p)
    delta[rows, y] -= 1
    delta /= len(x)
    gradients = {}
    for k in reversed(range(len(inputs))):
        gradients[f"layer{k}.weight"] = inputs[k].T @ delta
        gradients[f"layer{k}.bias"] = delta.sum(axis=0)
        delta = (delta @ model[f"layer{k}.weight"].T) * (inputs[k] > 0)
    return -float(log_p[rows, y].mean()), gradients


def accuracy(model: dict[str, Array], x: Array, y: Labels) -> float:
    return float((forward(model, x)[-1].argmax(axis=1) == y).mean())


# --- training -------------------------------------------------------------------------------------


def train(epochs: int, folder: Path, batch: int = 32) -> dict[str, list[float]]:
    x, y, x_test, y_test = load_data()
    model = make_model((64, 128, 64, 10))
    steps = -(-len(x) // batch)

    groups = cyoptim.param_groups(model.items(), no_decay=("bias",))
    optimizer = cyoptim.AdamW(groups, lr=3e-3, weight_decay=0.1)
    optimizer.ema(decay=0.99, warmup=True)
    scheduler = WarmupCosineLR(optimizer, warmup_steps=2 * steps, total_steps=epochs * steps)
    history: dict[str, list[float]] = {"loss": [], "lr": [], "norm": [], "test": [], "averaged": []}

    checkpoints = cyoptim.Checkpoints(folder, keep=3)
    if checkpoints.latest():
        saved = checkpoints.load(model=model, optimizer=optimizer, scheduler=scheduler)
        history = saved["history"]

    progress = tqdm(range(len(history["test"]), epochs), unit="epoch")
    for epoch in progress:
        order = np.random.default_rng([SEED, epoch]).permutation(len(x))
        for rows in np.array_split(order, steps):
            loss, gradients = loss_and_gradients(model, x[rows], y[rows])
            history["loss"].append(loss)
            history["lr"].append(scheduler.get_last_lr()[0])
            optimizer.step(grads=gradients, max_norm=1.0, nonfinite="raise")
            history["norm"].append(optimizer.last_step.total_norm)
            scheduler.step()
        history["test"].append(accuracy(model, x_test, y_test))
        with optimizer.averaged():
            history["averaged"].append(accuracy(model, x_test, y_test))
        progress.set_postfix(
            loss=f"{np.mean(history['loss'][-steps:]):.4f}", test=f"{history['averaged'][-1]:.3f}"
        )
        checkpoints.save(
            epoch + 1, model=model, optimizer=optimizer, scheduler=scheduler, history=history
        )
    return history


def plot(history: dict[str, list[float]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), layout="constrained")
    panels = {"loss": "training loss", "norm": "norm of the gradients", "lr": "learning rate"}
    for ax, (name, title) in zip(axes.flat, panels.items(), strict=False):
        ax.plot(history[name], linewidth=0.8)
        ax.set(title=title, xlabel="step")
    axes[0, 0].set_yscale("log")
    axes[0, 1].axhline(1.0, color="0.5", linestyle=":")
    axes[0, 1].annotate("clipped above", (len(history["norm"]), 1.0), ha="right", va="bottom")
    for name, label in (("test", "as trained"), ("averaged", "averaged")):
        axes[1, 1].plot(range(1, len(history[name]) + 1), history[name], label=label)
    axes[1, 1].set(title="accuracy on unseen digits", xlabel="epoch", ylim=(0.9, 1))
    axes[1, 1].legend(loc="lower right")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("digits_run"), help="of checkpoints")
    parser.add_argument("--quick", action="store_true", help="three epochs")
    arguments = parser.parse_args()
    history = train(3 if arguments.quick else arguments.epochs, arguments.folder)
    plot(history, "digits_run.png")
    last = {name: history[name][-1] for name in ("test", "averaged")}
    print("accuracy on unseen digits: {test:.3f}, averaged {averaged:.3f}".format(**last))
    print("wrote digits_run.png")


if __name__ == "__main__":
    main()
