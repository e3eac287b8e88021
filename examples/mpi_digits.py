"""A network in NumPy, trained by several processes of MPI: handwritten digits, on 1, 2, 4 or 8.

    pip install "cyoptim[mpi,demo]"
    mpiexec -n 4 python -m mpi4py mpi_digits.py   # leaves checkpoints and mpi_digits.png
    mpiexec -n 2 python -m mpi4py mpi_digits.py   # on another number: continues, if that was ended
    python mpi_digits.py                          # one process

Every process computes gradients along its part of each batch, and keeps the state of its part of
the parameters. A batch is cut into eight lanes, which are added up in the same order by any number
of processes. So the parameters have the same bits on 1, 2, 4 and 8, also if a run is stopped and
continues on another number: compare the digests that are printed. With `python -m mpi4py` an error
in one process ends all of them.
"""

# Needs: mpi4py, sklearn, tqdm, matplotlib

from __future__ import annotations

import argparse
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import cyoptim
from cyoptim.distributed import Sharded
from cyoptim.lr_scheduler import WarmupCosineLR

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SEED = 0
TRAINED = 1408  # of 1,797 images: 11 batches
LANES = 8  # of a batch
LANE = 16  # images


# --- data -----------------------------------------------------------------------------------------


def load_data() -> tuple[Array, Labels, Array, Labels]:
    """Images of 8 x 8 pixels from 0 to 1 and their digits: first those to train on."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    x, y = images[order].astype(np.float32) / 16, digits[order].astype(np.int64)
    return x[:TRAINED], y[:TRAINED], x[TRAINED:], y[TRAINED:]


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


def train(comm: MPI.Comm, epochs: int, stop: int, folder: Path) -> dict[str, Any]:
    x, y, x_test, y_test = load_data()
    model = make_model((64, 512, 512, 10))
    steps = TRAINED // (LANES * LANE)
    lanes = LANES // comm.size  # of this process
    own = slice(comm.rank * lanes, (comm.rank + 1) * lanes)

    groups = cyoptim.param_groups(model.items(), no_decay=("bias",))
    optimizer = Sharded(groups, cyoptim.AdamW, comm=comm, lr=1e-3, weight_decay=0.1)
    optimizer.ema(decay=0.99, warmup=True)
    scheduler = WarmupCosineLR(optimizer, warmup_steps=2 * steps, total_steps=epochs * steps)
    history: dict[str, list[float]] = {"loss": [], "norm": [], "test": []}

    checkpoints = cyoptim.Checkpoints(folder, keep=3)
    if checkpoints.latest():
        saved = checkpoints.load(model=model, optimizer=optimizer, scheduler=scheduler)
        history = saved["history"]

    progress = tqdm(range(len(history["test"]), stop), unit="epoch", disable=comm.rank > 0)
    for epoch in progress:
        order = np.random.default_rng([SEED, epoch]).permutation(len(x))
        losses = []
        for batch in order.reshape(steps, LANES, LANE):
            for rows in batch[own]:
                loss, gradients = loss_and_gradients(model, x[rows], y[rows])
                optimizer.accumulate(gradients)
                losses.append(loss)
            optimizer.step(max_norm=1.0, nonfinite="raise")
            history["norm"].append(optimizer.last_step.total_norm)
            scheduler.step()
        of_lanes = np.hstack(comm.allgather(np.reshape(losses, (steps, lanes))))
        history["loss"] += of_lanes.mean(axis=1).tolist()
        with optimizer.averaged():
            history["test"].append(accuracy(model, x_test, y_test))
        progress.set_postfix(
            loss=f"{np.mean(history['loss'][-steps:]):.4f}", test=f"{history['test'][-1]:.3f}"
        )
        checkpoints.save(
            epoch + 1, model=model, optimizer=optimizer, scheduler=scheduler, history=history
        )

    memory = {
        "parameters and gradients": 2 * sum(array.nbytes for array in model.values()),
        "state of AdamW": sum(
            getattr(entry, "nbytes", 0)
            for entries in optimizer.shard.state.values()
            for entry in entries.values()
        ),
        "average": sum(
            part.nbytes for group in optimizer.shard.param_groups for part in group["params"]
        ),
    }
    return {"history": history, "digest": digest(model), "memory": comm.allgather(memory)}


def digest(model: dict[str, Array]) -> str:
    content = blake2b(digest_size=8)
    for array in model.values():
        content.update(array.tobytes())
    return content.hexdigest()


def plot(run: dict[str, Any], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    left.plot(run["history"]["loss"], linewidth=0.8)
    left.set(title="loss of each batch", xlabel="step", yscale="log")
    ranks = run["memory"]
    names = ["one process\nalone", *(f"rank {rank}" for rank in range(len(ranks)))]
    top = np.zeros(len(names))
    for kind, color in zip(ranks[0], ("0.8", "C2", "C4"), strict=True):
        held = [memory[kind] for memory in ranks]
        alone = held[0] if kind == "parameters and gradients" else sum(held)
        heights = np.array([alone, *held]) / 1e6
        right.bar(names, heights, bottom=top, label=kind, color=color)
        top += heights
    right.set(title="memory", ylabel="MB", ylim=(0, 1.35 * top.max()))
    right.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    comm = MPI.COMM_WORLD
    parser = argparse.ArgumentParser(description="Train on handwritten digits, with MPI.")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--folder", type=Path, default=Path("mpi_digits_run"), help="of checkpoints"
    )
    parser.add_argument("--quick", action="store_true", help="three epochs")
    parser.add_argument("--stop", type=int, help="after this epoch, to continue another time")
    arguments = parser.parse_args()
    if LANES % comm.size:
        parser.error(f"{LANES} lanes cannot be shared among {comm.size} processes")
    epochs = 3 if arguments.quick else arguments.epochs
    stop = min(arguments.stop or epochs, epochs)
    with threadpool_limits(1):  # products by several threads may have other bits
        run = train(comm, epochs, stop, arguments.folder)
    if comm.rank == 0:
        plot(run, "mpi_digits.png")
        print(f"accuracy on unseen digits: {run['history']['test'][-1]:.3f}")
        state = [memory["state of AdamW"] / 1e6 for memory in run["memory"]]
        print(f"MB of state on each rank: {', '.join(f'{size:.2f}' for size in state)}")
        print(f"digest of the parameters: {run['digest']}")


if __name__ == "__main__":
    main()
