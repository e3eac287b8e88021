"""The same training in every framework, as a user of it writes it: what changes is the optimizer.

A **task** says what is trained with, and what else the framework does; a **framework** is a function that trains the
same network on the same batches for 20 steps and returns its parameters. Both libraries' optimizers make the same
tasks, so nothing here is of one of them. `tests/libraries/test_framework_runs.py` compares the results, and
`tools/make_framework_table.py` writes them down.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS, SAVED, BATCH, ROWS = 20, 8, 8, 32  # it is saved after two epochs of five
SCHEDULE: dict[str, Any] = {"step_size": 5, "gamma": 0.5}
OF_WEIGHTS = {"use_muon": True, "lr": 0.05, "weight_decay": 0.1}
OF_BIASES = {"use_muon": False, "lr": 0.02}
FEATURES = ("optimizer", "schedule", "accumulation", "clipping", "save and resume")


@dataclass(frozen=True)
class Task:
    """What to train with, and how."""

    cls: Any
    options: dict[str, Any]
    feature: str = "optimizer"
    folder: Path = Path()
    grouped: bool = False
    """Whether weights and biases are in groups of their own, with `use_muon`."""
    modes: bool = False
    """Whether the optimizer is to be in training mode for steps, and in evaluation mode at the end."""

    def groups(self, model: Any) -> list[Any]:
        if not self.grouped:
            return list(model.parameters())
        weights = [p for p in model.parameters() if p.ndim > 1]
        biases = [p for p in model.parameters() if p.ndim == 1]
        return [{"params": weights, **OF_WEIGHTS}, {"params": biases, **OF_BIASES}]

    def make(self, model: Any) -> Any:
        return self.cls(self.groups(model), **self.options)

    def schedule_of(self, optimizer: Any) -> Any:
        """torch's, or the one of the optimizer's library."""
        if self.feature != "schedule":
            return None
        import torch

        ours = type(optimizer).__module__.startswith("cyoptim")
        library = importlib.import_module("cyoptim") if ours else torch.optim
        return library.lr_scheduler.StepLR(optimizer, **SCHEDULE)

    @property
    def accumulation(self) -> int:
        return 2 if self.feature == "accumulation" else 1

    @property
    def clip(self) -> float | None:
        return 0.1 if self.feature == "clipping" else None

    @property
    def resumes(self) -> bool:
        return self.feature == "save and resume"

    @property
    def parts(self) -> tuple[int, ...]:
        """After how many steps it is saved, and continued by others."""
        return (SAVED, STEPS) if self.resumes else (STEPS,)

    @property
    def epochs(self) -> int:
        return self.epochs_of(STEPS)

    def epochs_of(self, steps: int) -> int:
        return steps * self.accumulation * BATCH // ROWS

    def train(self, optimizer: Any) -> None:
        if self.modes:
            optimizer.train()

    def eval(self, optimizer: Any) -> None:
        if self.modes:
            optimizer.eval()


@dataclass(frozen=True)
class Framework:
    """A framework, and how to train in it."""

    name: str
    package: str
    run: Callable[[Task], Any]
    features: tuple[str, ...] = FEATURES
    notes: dict[str, str] = field(default_factory=dict)
    """Of features that it does not have, or has in a way of its own, and of optimizers that it does not take."""
    not_resumed: tuple[str, ...] = ()
    """Of which optimizers it cannot resume the authors' own."""
    imports: str = ""
    """The module, if it is not called as the package."""
    needs: Callable[[], bool] = lambda: True

    @property
    def version(self) -> str:
        return importlib.metadata.version(self.package).partition("+")[0]

    def is_here(self) -> bool:
        try:
            importlib.import_module(self.imports or self.package)
        except ImportError:
            return False
        return self.needs()


FRAMEWORKS: dict[str, Framework] = {}


def a_framework(name: str, package: str, **more: Any) -> Callable[[Any], Any]:
    def add(run: Callable[[Task], Any]) -> Any:
        FRAMEWORKS[name] = Framework(name, package, run, **more)
        return run

    return add


# --- what all train -----------------------------------------------------------------------------------


def network() -> Any:
    import torch

    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    return torch.nn.Sequential(*layers).double()


def data() -> tuple[Any, Any]:
    import torch

    torch.manual_seed(1)
    x = torch.randn(ROWS, 4, dtype=torch.float64)
    return x, torch.sin(x.sum(dim=1, keepdim=True))


def batches(first: int = 0) -> Iterator[tuple[Any, Any]]:
    x, y = data()
    whole = [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]
    return itertools.islice(itertools.cycle(whole), first, None)


def dataset() -> Any:
    from torch.utils.data import TensorDataset

    return TensorDataset(*data())


def loader() -> Any:
    from torch.utils.data import DataLoader

    return DataLoader(dataset(), batch_size=BATCH)


def loss_of(model: Any, batch: tuple[Any, Any]) -> Any:
    return (model(batch[0]) - batch[1]).square().mean()


def flat(model: Any) -> Any:
    import torch

    found = [p.detach() for p in model.parameters()]
    found = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in found]
    return torch.cat([p.ravel().clone() for p in found])


def loop(task: Task, model: Any, optimizer: Any, first: int, last: int) -> None:
    """A loop of one's own."""
    import torch

    schedule, k = task.schedule_of(optimizer), task.accumulation
    found = batches(first * k)
    task.train(optimizer)
    for _ in range(first, last):
        optimizer.zero_grad()
        for _ in range(k):
            (loss_of(model, next(found)) / k).backward()
        if task.clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), task.clip)
        optimizer.step()
        if schedule is not None:
            schedule.step()


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """A process group of this process alone."""
    import torch

    if torch.distributed.is_initialized():
        yield
        return
    place = folder / "rendezvous"
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{place}", rank=0, world_size=1
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()
