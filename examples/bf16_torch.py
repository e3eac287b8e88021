"""A bfloat16 network in torch, trained by torch.optim and by this package, beside float32.

    python bf16_torch.py              # leaves bf16_torch.png
    python bf16_torch.py --quick

A bfloat16 number has 8 bits of precision: a step of less than 1/512 of a weight is rounded away,
and so is the decay of Adam's second moments. torch stores both in bfloat16, rounded to nearest.
cyoptim by default keeps beside each parameter the bits that bfloat16 has not, and the state in
float32; with as few bytes as torch it rounds up or down at random. All runs see the same batches.
"""

# Needs: torch, sklearn, matplotlib

from __future__ import annotations

import sys
import time
from functools import partial
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import cyoptim

RUNS = {
    "float32, torch": (torch.float32, torch.optim.AdamW),
    "bfloat16, torch": (torch.bfloat16, torch.optim.AdamW),
    "bfloat16, cyoptim": (torch.bfloat16, cyoptim.AdamW),
    "bfloat16, cyoptim, sparing": (
        torch.bfloat16,
        partial(cyoptim.AdamW, master=None, state_dtype="bfloat16"),
    ),
}


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    X, y = load_digits(return_X_y=True)
    return torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)


def make_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    hidden = nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(128, 10)).to(dtype)


def loss_of(model: nn.Module, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    return nn.functional.cross_entropy(model(X.to(dtype)).float(), y)


def bytes_per_weight(optimizer: Any) -> float:
    """Of parameters and state; gradients are as large as the parameters."""
    weights, stored = 0, 0
    for param, state in optimizer.state.items():
        arrays = [param, *(v for v in state.values() if torch.is_tensor(v) and v.ndim)]
        weights += param.numel()
        stored += sum(array.numel() * array.element_size() for array in arrays)
    return stored / weights


def train(name: str, epochs: int) -> list[float]:
    """The losses of all digits, after each epoch."""
    dtype, make = RUNS[name]
    X, y = digits()
    model = make_model(dtype)
    optimizer = make(model.parameters(), lr=1e-3)
    schedule: Any = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    start, losses = time.perf_counter(), []
    for _ in range(epochs):
        for batch in torch.randperm(len(X)).split(32):
            optimizer.zero_grad()
            loss_of(model, X[batch], y[batch]).backward()
            optimizer.step()
        schedule.step()
        with torch.no_grad():
            losses.append(loss_of(model, X, y).item())
    print(
        f"{name:26} loss {losses[-1]:.4f}  {bytes_per_weight(optimizer):4.1f} bytes a weight  "
        f"{time.perf_counter() - start:.1f} s"
    )
    return losses


def plot(curves: dict[str, list[float]], path: str) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (name, losses), style in zip(curves.items(), ("k-", "C3--", "C0-.", "C2:"), strict=True):
        axes.plot(range(1, len(losses) + 1), losses, style, label=name, linewidth=2)
    axes.set(xlabel="epoch", ylabel="loss of all digits", yscale="log")
    axes.legend()
    figure.savefig(path, dpi=120)


def main(epochs: int) -> None:
    torch.set_num_threads(1)  # more are of no use to layers this small
    curves = {name: train(name, epochs) for name in RUNS}
    exact, *others = (losses[-1] for losses in curves.values())
    print("above float32:", ", ".join(f"{loss / exact - 1:+.0%}" for loss in others))
    plot(curves, "bf16_torch.png")


if __name__ == "__main__":
    main(epochs=2 if "--quick" in sys.argv else 30)
