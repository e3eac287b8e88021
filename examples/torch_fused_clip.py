"""A training loop in torch whose step also clips and zeroes the gradients.

The same training three times: with torch alone, with this package's calls instead of torch's,
and with one fused call.

    python torch_fused_clip.py [--quick]
"""

# Needs: torch, sklearn

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import nn

import cyoptim

MAX_NORM = 0.5


def torch_alone(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    norm = nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return norm.item()


def separate(model: nn.Module, optimizer: cyoptim.Optimizer) -> float:
    norm = cyoptim.clip_grad_norm_(model.parameters(), MAX_NORM)
    optimizer.step()
    optimizer.zero_grad()
    return norm.item()


def fused(model: nn.Module, optimizer: cyoptim.Optimizer) -> float:
    optimizer.step(max_norm=MAX_NORM, zero_grad=True)
    return optimizer.last_step.total_norm


def train(
    library: Any, update: Callable[[nn.Module, Any], float], steps: int
) -> list[torch.Tensor]:
    X, y = load_digits(return_X_y=True)
    X, y = torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    model.append(nn.Linear(512, 10))
    optimizer = library.SGD(model.parameters(), lr=0.2, momentum=0.9)
    clipped, times = 0, []
    for _ in range(steps):
        batch = torch.randint(len(X), (64,))
        loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
        loss.backward()
        before = time.perf_counter()
        norm = update(model, optimizer)
        times.append(time.perf_counter() - before)
        clipped += norm > MAX_NORM
    with torch.no_grad():
        accuracy = (model(X).argmax(1) == y).float().mean().item()
    print(
        f"{update.__name__:11} accuracy {accuracy:.3f}  clipped {clipped} of {steps} steps  "
        f"{1e6 * statistics.median(times):.0f} us to clip, step and zero"
    )
    return [param.detach() for param in model.parameters()]


def main(steps: int) -> None:
    train(torch.optim, torch_alone, steps)
    pairs = zip(train(cyoptim, separate, steps), train(cyoptim, fused, steps), strict=True)
    apart = max((a - b).abs().max().item() for a, b in pairs)
    print(f"parameters of the last two differ by at most {apart:.1e}")
    assert apart < 1e-5  # rounding


if __name__ == "__main__":
    main(steps=100 if "--quick" in sys.argv else 400)
