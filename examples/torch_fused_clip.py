"""A training loop in torch whose step also clips and zeroes the gradients.

The same training twice: with calls before and after the step as in torch, and with one call. The
parameters agree.

    python torch_fused_clip.py [--quick]
"""

# Needs: torch, sklearn

from __future__ import annotations

import sys
import time

import torch
from sklearn.datasets import load_digits
from torch import nn

import cyoptim


def separate(model: nn.Module, optimizer: cyoptim.Optimizer) -> float:
    norm = cyoptim.clip_grad_norm_(model.parameters(), max_norm=0.5)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    return norm.item()


def fused(model: nn.Module, optimizer: cyoptim.Optimizer) -> float:
    optimizer.step(max_norm=0.5, zero_grad=True)
    return optimizer.last_step.total_norm


def train(update, steps: int) -> list[torch.Tensor]:
    X, y = load_digits(return_X_y=True)
    X, y = torch.as_tensor(X / 16, dtype=torch.float32), torch.as_tensor(y)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU())
    model.append(nn.Linear(512, 10))
    optimizer = cyoptim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    clipped, updating = 0, 0.0
    for _ in range(steps):
        batch = torch.randint(len(X), (64,))
        loss = nn.functional.cross_entropy(model(X[batch]), y[batch])
        loss.backward()
        before = time.perf_counter()
        norm = update(model, optimizer)
        updating += time.perf_counter() - before
        clipped += norm > 0.5
    with torch.no_grad():
        accuracy = (model(X).argmax(1) == y).float().mean().item()
    print(
        f"{update.__name__:8} accuracy {accuracy:.3f}  clipped {clipped} of {steps} steps  "
        f"{1e6 * updating / steps:.0f} us for clipping, step and zeroing"
    )
    return [param.detach() for param in model.parameters()]


def main(steps: int) -> None:
    pairs = zip(train(separate, steps), train(fused, steps), strict=True)
    difference = max((a - b).abs().max().item() for a, b in pairs)
    print(f"parameters differ by at most {difference:.1e}")
    assert difference < 1e-5  # rounding


if __name__ == "__main__":
    main(steps=100 if "--quick" in sys.argv else 400)
