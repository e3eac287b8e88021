"""A network whose parameters live in two Ray actors, half of them in each, with their optimizers.

    pip install ray scikit-learn matplotlib
    python ray_actors.py                 # leaves ray_actors.png
    python ray_actors.py --quick

All parameters are one vector, of which each actor has a part and steps it. Tasks take the whole
vector and a part of the batch, and return the gradient in as many parts as there are actors. Arrays
travel through Ray's object store: an actor sees a gradient as a read-only array in shared memory,
and its optimizer adds it up from there. The program that starts all this only passes references.

AdamW treats each element by itself, so the parts could be in any number of actors. The program
trains with one actor, too, and compares the bits.
"""

# Needs: ray, sklearn, matplotlib

from __future__ import annotations

import sys
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
from sklearn.datasets import load_digits

import cyoptim
from cyoptim.lr_scheduler import WarmupCosineLR

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SIZES = (64, 512, 512, 10)  # of the layers
TRAINED = 1437  # of 1,797 images; the others are for the accuracy
BATCH = 64
WORKERS = 2  # tasks that share a batch


# --- model: two hidden layers in one vector, gradients by hand ------------------------------------


def layers_of(vector: Array) -> list[tuple[Array, Array]]:
    """The weights and the biases of each layer: views into the vector."""
    layers, start = [], 0
    for rows, columns in pairwise(SIZES):
        weights, start = vector[start : start + rows * columns], start + rows * columns
        biases, start = vector[start : start + columns], start + columns
        layers.append((weights.reshape(rows, columns), biases))
    return layers


def make_parameters() -> Array:
    rng = np.random.default_rng(0)
    vector = np.zeros(sum((rows + 1) * columns for rows, columns in pairwise(SIZES)), "f4")
    for weights, _ in layers_of(vector):
        scale = np.sqrt(2 / len(weights))  # He et al. (2015), for ReLU
        weights[:] = rng.standard_normal(weights.shape) * scale
    return vector


def forward(layers: list[tuple[Array, Array]], x: Array) -> list[Array]:
    """The input of each layer, and the logits last."""
    flow = [x]
    for k, (weights, biases) in enumerate(layers):
        z = flow[-1] @ weights + biases
        flow.append(z if k == len(layers) - 1 else np.maximum(z, 0))
    return flow


def loss_and_gradient(vector: Array, x: Array, y: Labels) -> tuple[float, Array]:
    """Mean cross-entropy, and its gradient."""
    gradient = np.empty_like(vector)
    layers = layers_of(vector)
    *inputs, logits = forward(layers, x)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    rows = np.arange(len(x))
    delta = np.exp(log_p)
    delta[rows, y] -= 1
    delta /= len(x)
    for entry, (weights, _), (to_weights, to_biases) in zip(
        reversed(inputs), reversed(layers), reversed(layers_of(gradient)), strict=True
    ):
        np.matmul(entry.T, delta, out=to_weights)
        delta.sum(axis=0, out=to_biases)
        delta = (delta @ weights.T) * (entry > 0)
    return -float(log_p[rows, y].mean()), gradient


# --- what runs in Ray -----------------------------------------------------------------------------


class Part:
    """An actor: a part of the parameters, which it steps."""

    def __init__(self, values: Array, steps: int) -> None:
        self.values = values.copy()  # what comes from the object store is read-only
        self.optimizer = cyoptim.AdamW([self.values], lr=1e-3)
        self.scheduler = WarmupCosineLR(self.optimizer, warmup_steps=steps // 10, total_steps=steps)

    def step(self, *gradients: Array) -> Array:
        """Step along the mean of the gradients that the tasks have for this part."""
        for gradient in gradients:
            self.optimizer.accumulate([gradient])
        self.optimizer.step()
        self.scheduler.step()
        return self.values  # Ray copies it into the object store, for the next tasks

    def bytes(self) -> tuple[int, int]:
        """Of the parameters, and of the optimizer's state."""
        entries = self.optimizer.state[self.values].values()
        return self.values.nbytes, sum(getattr(entry, "nbytes", 0) for entry in entries)


def parts_of_gradient(
    x: Array, y: Labels, rows: npt.NDArray[np.int64], *values: Array
) -> tuple[Any, ...]:
    """A task: the loss of these images, and its gradient in as many parts as the parameters."""
    loss, gradient = loss_and_gradient(np.concatenate(values), x[rows], y[rows])
    stops = np.cumsum([part.size for part in values])
    return loss, *np.split(gradient, stops[:-1])


# --- training -------------------------------------------------------------------------------------


def load_data() -> tuple[Array, Labels]:
    """Images of 8 x 8 pixels from 0 to 1, and their digits."""
    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    return images[order].astype("f4") / 16, digits[order]


def train(actors: int, steps: int) -> dict[str, Any]:
    images, digits = load_data()
    data = ray.put(images[:TRAINED]), ray.put(digits[:TRAINED])
    task = ray.remote(parts_of_gradient).options(num_returns=1 + actors)
    vector: list[Any] = np.array_split(make_parameters(), actors)
    parts = [ray.remote(Part).remote(values, steps) for values in vector]
    losses = []
    rng = np.random.default_rng(0)
    for _ in range(steps):
        batch = rng.integers(TRAINED, size=BATCH)
        results = [task.remote(*data, rows, *vector) for rows in np.array_split(batch, WORKERS)]
        found, *gradients = zip(*results, strict=True)
        vector = [part.step.remote(*pieces) for part, pieces in zip(parts, gradients, strict=True)]
        losses.append(np.mean(ray.get([*found])))
    trained = np.concatenate(ray.get(vector))
    scores = forward(layers_of(trained), images[TRAINED:])[-1]
    return {
        "losses": losses,
        "accuracy": (scores.argmax(axis=1) == digits[TRAINED:]).mean(),
        "digest": blake2b(trained.tobytes(), digest_size=8).hexdigest(),
        "bytes": ray.get([part.bytes.remote() for part in parts]),
    }


def plot(runs: dict[int, dict[str, Any]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (actors, run), style in zip(runs.items(), ("C0-", "C1:"), strict=True):
        left.plot(run["losses"], style, label=f"{actors} actors" if actors > 1 else "1 actor")
    left.set(title="loss of each batch", xlabel="step", yscale="log")
    left.legend()
    names = [f"actor {i + 1} of {n}" for n, run in runs.items() for i in range(len(run["bytes"]))]
    held = np.array([each for run in runs.values() for each in run["bytes"]]) / 1e6
    right.bar(names, held[:, 0], label="parameters", color="C2")
    right.bar(names, held[:, 1], bottom=held[:, 0], label="state of AdamW", color="C4")
    right.set(title="memory of each actor", ylabel="MB")
    right.legend()
    figure.savefig(path, dpi=120)


def main(steps: int) -> None:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    runs = {actors: train(actors, steps) for actors in (1, 2)}
    ray.shutdown()
    for actors, run in runs.items():
        held = ", ".join(f"{state / 1e6:.1f}" for _, state in run["bytes"])
        print(
            f"actors: {actors}  loss {np.mean(run['losses'][-20:]):.4f}  "
            f"accuracy {run['accuracy']:.3f}  parameters {run['digest']}  MB of state: {held}"
        )
    assert runs[1]["digest"] == runs[2]["digest"]
    print("The parameters have the same bits.")
    plot(runs, "ray_actors.png")


if __name__ == "__main__":
    main(steps=20 if "--quick" in sys.argv else 200)
