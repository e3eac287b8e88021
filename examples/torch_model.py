"""A convolutional network in torch, trained by torch.optim and by this package, on the CPU.

Only the two imports in `load` differ. Prints the difference of the losses and the time per epoch.

    python torch_model.py [--quick]
"""

# Needs: torch, sklearn

from __future__ import annotations

import sys
import time
from types import ModuleType

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def load(library: str) -> tuple[ModuleType, ModuleType]:
    if library == "torch":
        from torch import optim
        from torch.optim import lr_scheduler
    else:
        import cyoptim as optim
        from cyoptim import lr_scheduler
    return optim, lr_scheduler


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.LayerNorm(256),
        nn.Linear(256, 10),
    )


def digits() -> list[torch.Tensor]:
    X, y = load_digits(return_X_y=True)
    images = (X / 16).reshape(-1, 1, 8, 8).astype("float32")
    return [torch.as_tensor(part) for part in train_test_split(images, y, random_state=0)]


def train(library: str, epochs: int) -> tuple[list[float], str]:
    optim, lr_scheduler = load(library)
    X_train, X_test, y_train, y_test = digits()
    model = make_model()
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    losses = []
    start, stepping = time.perf_counter(), 0.0
    for _ in range(epochs):
        for batch in torch.randperm(len(X_train)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(X_train[batch]), y_train[batch])
            loss.backward()
            before = time.perf_counter()
            optimizer.step()
            stepping += time.perf_counter() - before
            losses.append(loss.item())
        scheduler.step()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        accuracy = (model(X_test).argmax(1) == y_test).float().mean().item()
    return losses, (
        f"{library:8} accuracy {accuracy:.3f}  last loss {losses[-1]:.4f}  "
        f"{1e3 * seconds / epochs:.1f} ms an epoch, {1e3 * stepping / epochs:.1f} ms of them steps"
    )


def main(epochs: int) -> None:
    for library in ("torch", "cyoptim"):
        train(library, 1)  # the first calls of torch take longer, whichever the optimizer
    expected, of_torch = train("torch", epochs)
    found, of_cyoptim = train("cyoptim", epochs)
    print(of_torch, of_cyoptim, sep="\n")
    first = max(abs(a - b) for a, b in zip(expected[:20], found[:20], strict=True))
    every = max(abs(a - b) for a, b in zip(expected, found, strict=True))
    print(f"losses differ by at most {first:.1e} in 20 steps, {every:.1e} in all {len(found)}")
    # The updates agree to rounding, which training amplifies from step to step.
    assert first < 1e-4
    assert every < 1e-2


if __name__ == "__main__":
    main(epochs=2 if "--quick" in sys.argv else 10)
