"""A torch model on the CPU, trained with torch.optim and with cyoptim: one import differs.

    python torch_model.py

The network is deep and narrow, as many small parameters as in a network for tables or control;
there a step of torch's optimizer takes as long as the backward pass.
"""
# Needs: torch, sklearn

from __future__ import annotations

import argparse
import time
from types import ModuleType

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(self.norm(x))))


def make_model(width: int = 32, depth: int = 16) -> nn.Module:
    blocks = (Block(width) for _ in range(depth))
    return nn.Sequential(nn.Linear(64, width), *blocks, nn.LayerNorm(width), nn.Linear(width, 10))


def train(optim: ModuleType, epochs: int, batch: int = 64) -> dict[str, float]:
    """Nothing in here knows which library `optim` is."""
    torch.manual_seed(0)
    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(images))
    x, y = torch.from_numpy(images)[order].float() / 16, torch.from_numpy(digits)[order].long()
    split = len(x) * 4 // 5

    model = make_model()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    steps = epochs * -(-split // batch)
    scheduler = optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)

    best, stepping = float("inf"), 0.0
    for _ in range(epochs):
        start, in_steps = time.perf_counter(), 0.0
        for rows in torch.randperm(split).split(batch):
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            begin = time.perf_counter()
            optimizer.step()
            in_steps += time.perf_counter() - begin
            scheduler.step()
        if time.perf_counter() - start < best:
            best, stepping = time.perf_counter() - start, in_steps
    with torch.no_grad():
        right = (model(x[split:]).argmax(1) == y[split:]).float().mean()
    return {"loss": loss.item(), "accuracy": right.item(), "epoch": best, "steps": stepping}


def main() -> None:
    parser = argparse.ArgumentParser(description="Train with torch.optim and with cyoptim.")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="three epochs")
    arguments = parser.parse_args()
    epochs = 3 if arguments.quick else arguments.epochs

    import torch.optim

    import cyoptim  # with `import cyoptim as optim` the rest of your program stays as it is

    for optim in (torch.optim, cyoptim):
        found = train(optim, epochs)
        print(
            f"{optim.__name__:12} accuracy {found['accuracy']:.3f}   last loss {found['loss']:.4f}"
            f"   fastest epoch {found['epoch'] * 1e3:.0f} ms,"
            f" of which in steps {found['steps'] * 1e3:.1f} ms"
        )


if __name__ == "__main__":
    main()
