"""A user's program, for type checkers: nothing here may need a cast, an ignore, or Any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Unpack, assert_type

import numpy as np
import numpy.typing as npt

import cyoptim
from cyoptim.checkpoint import Difference, Loaded
from cyoptim.kernel import Kernel
from cyoptim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    ReduceLROnPlateau,
    SequentialLR,
    WarmupCosineLR,
)
from cyoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Array = npt.NDArray[np.float32]


class Network:
    def __init__(self, sizes: list[int], rng: np.random.Generator) -> None:
        self.weights = [
            cyoptim.Parameter(rng.standard_normal((m, n)).astype(np.float32))
            for m, n in pairwise(sizes)
        ]

    def named_parameters(self) -> Iterator[tuple[str, cyoptim.Parameter]]:
        for number, weight in enumerate(self.weights):
            yield f"weights.{number}", weight

    def gradients(self, x: Array) -> dict[str, Array]:
        return {name: np.zeros_like(weight.data) for name, weight in self.named_parameters()}


def make_optimizer(network: Network) -> cyoptim.Optimizer:
    groups = cyoptim.param_groups(network.named_parameters(), no_decay=("bias",))
    optimizer = cyoptim.AdamW(
        groups, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1, state_dtype="bfloat16", seed=1
    )
    optimizer.add_param_group({"params": [cyoptim.Parameter(np.zeros(2))], "lr": 0.1})
    return optimizer


class Slow(cyoptim.AdamW):
    """Passes on how state is stored."""

    def __init__(
        self, params: list[cyoptim.Parameter], **storage: Unpack[cyoptim.StorageOptions]
    ) -> None:
        super().__init__(params, lr=1e-5, **storage)


def make_slow(network: Network) -> Slow:
    narrow = [cyoptim.Parameter(w.data, dtype="bfloat16") for w in network.weights]
    return Slow(narrow, state_dtype={"exp_avg": "dynamic8", "exp_avg_sq": None}, master=None)


def make_scheduler(optimizer: cyoptim.Optimizer) -> LRScheduler:
    schedulers = [
        LinearLR(optimizer, start_factor=0.1, total_iters=10),
        CosineAnnealingLR(optimizer, T_max=90),
    ]
    return SequentialLR(optimizer, schedulers, milestones=[10])


def train(network: Network, batches: list[Array], path: Path) -> float:
    optimizer = make_optimizer(network)
    assert_type(optimizer.ema(decay=0.99), cyoptim.MovingAverage)
    scheduler = make_scheduler(optimizer)
    plateau = ReduceLROnPlateau(optimizer, patience=3)
    average = AveragedModel(dict(network.named_parameters()), None, None, get_ema_multi_avg_fn(0.9))
    for x in batches:
        optimizer.step(grads=network.gradients(x), max_norm=1.0, grad_scale=2.0, nonfinite="skip")
        receipt = optimizer.last_step
        if receipt is not None:
            assert_type(receipt, cyoptim.StepReceipt)
            assert_type(receipt.total_norm, float | None)
            assert_type(receipt.skipped, bool)
        scheduler.step()
        plateau.step(0.5)
        average.update_parameters(dict(network.named_parameters()))
    with optimizer.averaged():
        network.gradients(batches[0])
    rates: list[float] = scheduler.get_last_lr()
    assert rates
    cyoptim.save(path, weights=network.weights, optimizer=optimizer, scheduler=scheduler)
    saved = cyoptim.load(str(path), optimizer=optimizer)
    if "scheduler" in saved:
        scheduler.load_state_dict(saved["scheduler"])
    return float(optimizer.param_groups[0]["lr"])


def resume(network: Network, optimizer: cyoptim.Optimizer, folder: Path) -> int:
    checkpoints = cyoptim.Checkpoints(folder, keep=None, suffix=".safetensors")
    params, rng = dict(network.named_parameters()), np.random.default_rng(0)
    epoch = 0
    if checkpoints.latest():
        epoch = int(checkpoints.load(params=params, optimizer=optimizer, rng=rng)["epoch"])
    path = checkpoints.save(epoch + 1, params=params, optimizer=optimizer, rng=rng, epoch=epoch + 1)
    assert_type(path, Path)
    assert_type(checkpoints.paths(), list[Path])
    assert_type(checkpoints.steps(), list[int])
    result = cyoptim.load(path, params=params, strict=False, rename={"w0": "weights.0"})
    assert_type(result, Loaded)
    assert_type(result.skipped, list[Difference])
    newest = checkpoints.load(step=1, strict=False, convert=True, rename=str.lower, params=params)
    print(*result.loaded, *(item.place for item in newest.skipped))
    return epoch


def plain_arrays() -> None:
    w = np.ones(3)
    optimizer = cyoptim.SGD([("w", w)], lr=0.1, momentum=0.9, nesterov=True)

    def closure() -> tuple[float, list[npt.NDArray[np.float64]]]:
        return float(w @ w), [2 * w]

    optimizer.step(closure)
    cyoptim.clip_grad_norm_([w], max_norm=1.0, grads=[2 * w], error_if_nonfinite=True)
    cyoptim.LBFGS([w], line_search_fn="strong_wolfe").step(closure)
    handle = optimizer.register_step_post_hook(lambda optimizer, args, kwargs: None)
    handle.remove()
    with cyoptim.threads(2):
        optimizer.step(grads={"w": 2 * w})
    WarmupCosineLR(optimizer, warmup_steps=5, total_steps=50).step()


class Dense(NamedTuple):
    W: Array
    b: Array


def trees(x: Array) -> None:
    net = {"hidden": Dense(np.ones((2, 2), np.float32), np.ones(2, np.float32)), "out": [x, x]}
    grads = {"hidden": Dense(net["hidden"][0], net["hidden"][1]), "out": None}
    optimizer = cyoptim.Adam(net, lr=1e-3)
    optimizer.step(grads=grads, max_norm=1.0)
    optimizer.step(grads={"out": [x, None], "hidden": {"W": x}})
    cyoptim.SGD([(x, x), (x, x)]).step(grads=[(x, x), (x, None)])
    cyoptim.clip_grad_norm_(net, 1.0, grads=grads)
    for name, leaf in cyoptim.named_leaves(net):
        assert_type(name, str)
        print(name, leaf)


class Decay(cyoptim.Optimizer):
    """An optimizer of one's own."""

    def __init__(self, params: list[cyoptim.Parameter], lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def update(
        self,
        param: npt.NDArray[np.floating],
        grad: npt.NDArray[np.floating],
        state: dict[str, object],
        group: dict[str, object],
    ) -> None:
        param -= 0.1 * grad


def choose(name: str) -> Callable[[list[cyoptim.Parameter]], cyoptim.Optimizer]:
    return {"adam": cyoptim.Adam, "sgd": cyoptim.SGD}[name]


kernel = Kernel(cyoptim.Adam, lr=0.01, betas=(0.9, 0.95))
assert_type(kernel.state_names, tuple[str, ...])
