"""Clipping in torch: as a call of its own, by torch and by cyoptim, and in cyoptim's step.

    python torch_fused_clip.py

A recurrent network learns to add the two marked numbers of a sequence (Hochreiter and Schmidhuber,
1997): without clipping its gradients explode. All three ways train alike. The last one scales no
gradient in memory, refuses gradients that are not finite, and zeroes them on the way.
"""
# Needs: torch

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

import cyoptim

MAX_NORM = 1.0


class Adder(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.cell = nn.GRU(2, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1]).squeeze(1)


def sequences(rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Random numbers, two of which are marked in each row, and the sums of these."""
    numbers = torch.rand(rows, length)
    marks = torch.zeros(rows, length)
    marks[torch.arange(rows), torch.randint(length // 2, (rows,))] = 1
    marks[torch.arange(rows), torch.randint(length // 2, length, (rows,))] = 1
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1)


Step = Callable[[], None]


def torch_alone(model: nn.Module) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)

    def step() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()

    return step


def clip_of_cyoptim(model: nn.Module) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)

    def step() -> None:
        cyoptim.clip_grad_norm_(model.parameters(), MAX_NORM, error_if_nonfinite=True)
        optimizer.step()
        optimizer.zero_grad()

    return step


def all_in_the_step(model: nn.Module) -> Step:
    optimizer = cyoptim.Adam(model.parameters(), lr=2e-3)

    def step() -> None:
        optimizer.step(max_norm=MAX_NORM, nonfinite="raise", zero_grad=True)

    return step


def train(make_step: Callable[[nn.Module], Step], batches: int) -> tuple[float, float]:
    """The mean loss of the last fifth of the batches, and microseconds per step (the median)."""
    torch.manual_seed(0)
    model = Adder()
    step = make_step(model)
    losses, times = [], []
    for _ in range(batches):
        inputs, sums = sequences(64, 20)
        loss = functional.mse_loss(model(inputs), sums)
        loss.backward()
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
        losses.append(loss.item())
    last = losses[-(batches // 5) :]
    return sum(last) / len(last), 1e6 * sorted(times)[batches // 2]


def main() -> None:
    parser = argparse.ArgumentParser(description="Three ways to clip.")
    parser.add_argument("--batches", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="50 batches")
    arguments = parser.parse_args()
    for make_step in (torch_alone, clip_of_cyoptim, all_in_the_step):
        loss, duration = train(make_step, 50 if arguments.quick else arguments.batches)
        name = make_step.__name__.replace("_", " ")
        print(f"{name:16} mean squared error {loss:.5f}   clip, step and zero {duration:.0f} us")


if __name__ == "__main__":
    main()
