"""A torch module on two processes: DDP with torch's AdamW, and Sharded with cyoptim's.

    torchrun --nproc-per-node 2 torch_sharded.py      # leaves torch_sharded.png
    python torch_sharded.py --quick                   # starts two processes by itself

DistributedDataParallel averages the gradients of all processes in `backward`, and each process then
makes the whole step, with the whole state. Sharded averages them in its step: each process keeps
half of the state and makes half of the step. So the module itself is trained, without a wrapper.
"""

# Needs: torch, sklearn, matplotlib

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import cyoptim
from cyoptim.distributed import Sharded

BATCH = 64


def make_model() -> nn.Module:
    torch.manual_seed(0)
    hidden = nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(512, 10))


def with_torch(model: nn.Module) -> tuple[nn.Module, Any]:
    return DistributedDataParallel(model), torch.optim.AdamW(model.parameters(), lr=1e-3)


def with_cyoptim(model: nn.Module) -> tuple[nn.Module, Any]:
    return model, Sharded(model.parameters(), cyoptim.AdamW, comm=dist, lr=1e-3)


def state_bytes(optimizer: Any) -> int:
    """Of the arrays in the state of this process."""
    optimizer = getattr(optimizer, "shard", optimizer)
    arrays = (entry for state in optimizer.state.values() for entry in state.values())
    return sum(array.nbytes for array in arrays if getattr(array, "ndim", 0))


def gathered(value: Any) -> list[Any]:
    """The values of all processes."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def train(
    prepare: Callable[[nn.Module], tuple[nn.Module, Any]], epochs: int
) -> tuple[list[float], list[int]]:
    """The mean loss of each epoch, and the bytes of state of each process."""
    X, y = load_digits(return_X_y=True)
    X, y = torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)
    model, optimizer = prepare(make_model())
    order = torch.Generator().manual_seed(0)
    own = slice(dist.get_rank(), None, dist.get_world_size())
    losses = []
    for _ in range(epochs):
        total = torch.zeros(())
        batches = torch.randperm(len(X), generator=order).split(BATCH)[:-1]  # the last is short
        for batch in batches:
            rows = batch[own]
            loss = nn.functional.cross_entropy(model(X[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        dist.all_reduce(total)
        losses.append(total.item() / len(batches) / dist.get_world_size())
    return losses, gathered(state_bytes(optimizer))


def plot(runs: dict[str, Any], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (name, (losses, _)), style in zip(runs.items(), ("k-", "C2:"), strict=True):
        left.plot(range(1, len(losses) + 1), losses, style, label=name, linewidth=2)
    left.set(title="loss", xlabel="epoch", yscale="log")
    left.legend()
    for (name, (_, held)), color in zip(runs.items(), ("0.5", "C2"), strict=True):
        kind = name.partition(",")[0]
        bars = [f"{kind}\nrank {rank}" for rank in range(len(held))]
        right.bar(bars, [size / 1e6 for size in held], color=color)
    right.set(title="state of AdamW", ylabel="MB")
    figure.savefig(path, dpi=120)


def main(epochs: int) -> None:
    torch.set_num_threads(1)  # the processes share the processors
    dist.init_process_group("gloo")
    runs = {
        "DDP, torch.optim.AdamW": train(with_torch, epochs),
        "Sharded, cyoptim.AdamW": train(with_cyoptim, epochs),
    }
    if dist.get_rank() == 0:
        for name, (losses, held) in runs.items():
            sizes = ", ".join(f"{size / 1e6:.2f}" for size in held)
            print(f"{name}  loss {losses[-1]:.6f}  MB of state: {sizes}")
        first, second = (losses for losses, _ in runs.values())
        differences = [abs(a / b - 1) for a, b in zip(first, second, strict=True)]
        print(f"losses differ by {differences[0]:.1e} in epoch 1, {max(differences):.1e} at most")
        plot(runs, "torch_sharded.png")
    dist.destroy_process_group()


if __name__ == "__main__":
    if dist.is_torchelastic_launched():
        main(epochs=3 if "--quick" in sys.argv else 30)
    else:
        from torch.distributed import run

        run.main(["--nproc-per-node=2", "--standalone", *sys.argv])
