"""Runs in two processes, each of which has a part of every parameter: `python -m tests.support.shard_runs`.

Each function here is one run. All of them are made by one pair of processes, as these take seconds to start; a
process writes what came of each run into a file of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

import cyoptim
from tests.optimizers import cards, variants
from tests.support.cards import CLOSURE, DENSE, ELEMENT_WISE

RUNS: dict[str, Callable[[Path], None]] = {}
"""By name; each gets a folder that both processes see."""
PROCESSES = 2
STEPS = 20


def a_run(function: Callable[[Path], None]) -> Callable[[Path], None]:
    RUNS[function.__name__] = function
    return function


# --- models and parameters --------------------------------------------------------------------------


def mesh() -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (PROCESSES,))


def sharded_network() -> Any:
    """Of layers whose rows two processes cannot share evenly, one of them with a single element."""
    import torch
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1))
    fully_shard(model[0], mesh=mesh())
    fully_shard(model, mesh=mesh())
    return model


def data(part: int) -> tuple[Any, Any]:
    import torch

    torch.manual_seed(100 + part)
    x = torch.randn(16, 4)
    return x, torch.sin(x.sum(1, keepdim=True))


def train(model: Any, optimizer: Any, steps: int, schedule: Any = None) -> None:
    """Each process with its own half of the data, accumulated over two batches, and clipped."""
    import torch

    x, y = data(torch.distributed.get_rank())
    for step in range(steps):
        optimizer.zero_grad()
        for half in (slice(0, 8), slice(8, 16)):
            ((model(x[half]) - y[half]).square().mean() / 2).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        if step == 3:
            model[2].bias.grad = None
        optimizer.step()
        if schedule is not None:
            schedule.step()


def whole(model: Any) -> Any:
    import torch

    return torch.cat([p.full_tensor().detach().ravel() for p in model.parameters()])


def spread(array: np.ndarray, shard: bool = True) -> Any:
    """A parameter of this value, its rows shared by the processes."""
    import torch
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    place = Shard(0) if shard and array.ndim else Replicate()
    tensor = distribute_tensor(torch.from_numpy(array.copy()), mesh(), [place])
    return torch.nn.Parameter(tensor)


def near(found: Any, expected: Any) -> None:
    import torch

    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def refused(call: Callable[[], Any], kind: type[Exception], *words: str) -> None:
    import pytest

    with pytest.raises(kind) as raised:
        call()
    missing = [word for word in words if word not in str(raised.value)]
    assert not missing, f"{missing} not in {raised.value}"


# --- the same numbers -------------------------------------------------------------------------------


@a_run
def as_torch(folder: Path) -> None:
    import torch

    found = []
    for library in (cyoptim, torch.optim):
        model = sharded_network()
        optimizer = library.AdamW(model.parameters(), lr=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        train(model, optimizer, 1, schedule)  # torch may move parts before the first step
        locals_ = [p._local_tensor.data_ptr() for p in model.parameters()]
        train(model, optimizer, STEPS - 1, schedule)
        assert locals_ == [p._local_tensor.data_ptr() for p in model.parameters()]
        found.append(whole(model))
    near(*found)


@a_run
def every_element_wise_optimizer(folder: Path) -> None:
    """Parts have the bits of the whole."""
    rng = np.random.default_rng(1)
    for card, options in variants(ELEMENT_WISE, DENSE):
        if CLOSURE(card):
            continue
        start = [rng.standard_normal(shape).astype("f4") for shape in ((5, 3), (1,), ())]
        grads = [[rng.standard_normal(a.shape).astype("f4") for a in start] for _ in range(3)]
        one, two = [*map(np.copy, start)], [*map(spread, start)]
        plain, parted = card.cls(one, **options), card.cls(two, **options)
        for step in grads:
            plain.step(grads=step)
            for p, grad in zip(two, step, strict=True):
                p.grad = spread(grad).detach()
            parted.step()
        for p, expected in zip(two, one, strict=True):
            np.testing.assert_array_equal(p.full_tensor().detach().numpy(), expected, card.name)
            for name, value in plain.state[expected].items():
                found = parted.state[p][name]
                found = found.full_tensor() if hasattr(found, "full_tensor") else found
                np.testing.assert_array_equal(found, value, f"{card.name}: {name}")


@a_run
def parts_of_16_bits(folder: Path) -> None:
    """They have a master of their own."""
    import torch
    from torch.distributed.tensor import Shard, distribute_tensor

    for dtype in (torch.bfloat16, torch.float16):
        torch.manual_seed(3)
        one = torch.nn.Parameter(torch.randn(5, 3).to(dtype))
        two = torch.nn.Parameter(distribute_tensor(one.detach().clone(), mesh(), [Shard(0)]))
        optimizers = [cyoptim.AdamW([p], lr=0.1) for p in (one, two)]
        for of_grad in (dtype, dtype, torch.float32):
            grad = torch.randn(5, 3).to(of_grad)
            optimizers[0].step(grads=[grad])
            optimizers[1].step(grads=[distribute_tensor(grad, mesh(), [Shard(0)])])
        assert torch.equal(one.detach(), two.full_tensor().detach())


@a_run
def modes(folder: Path) -> None:
    import torch

    model = sharded_network()
    optimizer = cyoptim.AdamWScheduleFree(model.parameters(), lr=0.05)
    start = whole(model)
    optimizer.train()
    train(model, optimizer, 5)
    at_y = whole(model)
    with optimizer.averaged():
        at_x = whole(model)
    assert torch.equal(at_y, whole(model))
    optimizer.eval()
    near(whole(model), at_x)
    assert not torch.equal(at_x, start)


@a_run
def partial_and_replicated(folder: Path) -> None:
    """A gradient that is still to be added up, and rules that need the whole, which is here."""
    import torch
    from torch.distributed.tensor import DTensor, Partial

    w = spread(np.ones((4, 3)), shard=False)
    w.grad = DTensor.from_local(torch.full((4, 3), 2.0, dtype=torch.float64), mesh(), [Partial()])
    cyoptim.SGD([w], lr=0.25).step()
    np.testing.assert_array_equal(w._local_tensor.detach(), np.zeros((4, 3)))
    rng = np.random.default_rng(2)
    start, grad = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    found, expected = spread(start, shard=False), start.copy()
    found.grad = spread(grad, shard=False).detach()
    cyoptim.Muon([found], lr=0.1).step(max_norm=1.0)
    cyoptim.Muon([expected], lr=0.1).step(grads=[grad], max_norm=1.0)
    np.testing.assert_array_equal(found._local_tensor.detach(), expected)


@a_run
def by_operations_of_torch(folder: Path) -> None:
    """A user's own step()."""
    import torch

    class Own(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            for p in self.param_groups[0]["params"]:
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                average.lerp_(p.grad, 0.5)
                p.sub_(average / average.norm(), alpha=0.1)

    w = spread(np.ones((4, 3)))
    w.grad = spread(np.ones((4, 3))).detach()
    optimizer = Own([w])
    optimizer.step()
    near(w.full_tensor().detach(), torch.full((4, 3), 1 - 0.1 / 12**0.5, dtype=torch.float64))


# --- what is refused --------------------------------------------------------------------------------


@a_run
def every_other_optimizer(folder: Path) -> None:
    whose = "parameter 0 ('w') of group 0 is a part of a DTensor", "over 2 processes", "AdamW, Lion"
    for card in cards(~ELEMENT_WISE):
        if not (card.public and DENSE(card)):
            continue
        pairs = [("w", spread(np.ones((4, 4))))]
        refused(lambda: card.cls(pairs), TypeError, *whose, card.name)  # noqa: B023
    assert len(cards(~ELEMENT_WISE)) > 10


@a_run
def codes_with_scales(folder: Path) -> None:
    """Each process has its own, and torch.distributed.checkpoint takes such for everyone's."""
    whose = "parameter 0 ('w') of group 0 is a part of a DTensor", "over 2 processes"
    for asked in ("dynamic8", {"exp_avg": "float8_e4m3fn"}):
        pairs = [("w", spread(np.ones((64, 80), "f4")))]
        words = *whose, f"state_dtype={asked!r}", "write state_dtype='bfloat16'"
        refused(lambda: cyoptim.AdamW(pairs, state_dtype=asked), TypeError, *words)  # noqa: B023


class Update(cyoptim.Optimizer):
    """A custom optimizer, of which nobody knows whether it is element-wise."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.5})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        state["steps"] = state.get("steps", 0) + 1
        param -= group["lr"] * grad


class ElementWise(Update):
    def _is_element_wise(self, group: Any) -> bool:
        return True


@a_run
def custom_updates(folder: Path) -> None:
    w = spread(np.ones((3, 2)))
    w.grad = spread(np.ones((3, 2))).detach()
    refused(lambda: Update([w]), TypeError, "override _is_element_wise(group) to return True")
    optimizer = ElementWise([w])
    optimizer.step()
    np.testing.assert_array_equal(w.full_tensor().detach(), np.full((3, 2), 0.5))
    assert optimizer.state[w]["steps"] == 1


@a_run
def norms(folder: Path) -> None:
    import torch

    w = spread(np.ones((3, 2)))
    w.grad = spread(np.ones((3, 2))).detach()
    adan = cyoptim.Adan([w], lr=0.1)
    adan.step()
    adan.param_groups[0]["max_grad_norm"] = 1.0
    optimizer = cyoptim.AdamW([w], lr=0.1)
    before = w.full_tensor().detach().clone()
    whose = "parameter 0 of group 0 is a part of a DTensor (Shard(dim=0) over 2 processes)"
    advice = "torch.nn.utils.clip_grad_norm_(parameters, max_norm)"
    refused(adan.step, TypeError, whose)
    v = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    v.grad = torch.ones_like(v)  # its group is clipped by the norm of both
    groups = [{"params": [w], "max_grad_norm": 0.0}, {"params": [v], "max_grad_norm": 1.0}]
    refused(cyoptim.Adan(groups).step, TypeError, whose, "max_grad_norm", advice)
    assert (v == 1).all()
    refused(lambda: cyoptim.AdamW([w], caution=True), TypeError, whose)
    for arguments in ({"max_norm": 1.0}, {"nonfinite": "skip"}, {"nonfinite": "raise"}):
        refused(lambda: optimizer.step(**arguments), TypeError, whose, advice)  # noqa: B023
    refused(lambda: cyoptim.clip_grad_norm_([w], 1.0), TypeError, "torch.nn.utils clips DTensors")
    refused(lambda: cyoptim.clip_grad_value_([w], 1.0), TypeError, "torch.nn.utils")
    refused(lambda: cyoptim.get_total_norm([w.grad]), TypeError, "torch.nn.utils")
    refused(lambda: cyoptim.parameters_to_vector([w]), TypeError, ".full_tensor()")
    assert (w.full_tensor() == before).all()
    assert not optimizer.state
    optimizer.step(grad_scale=2.0, zero_grad=True)
    assert (w.grad.full_tensor() == 0).all()
    assert (w.full_tensor() != before).all()
    w.grad = spread(np.ones((3, 2))).detach()
    optimizer.zero_grad(set_to_none=False)
    assert (w.grad.full_tensor() == 0).all()


@a_run
def values_of_others(folder: Path) -> None:
    """Gradients of a parameter that is no DTensor or has another shape or mesh, states of wholes, and files."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    w, v = torch.nn.Parameter(torch.ones(4)), spread(np.ones(4, "f4"))
    optimizer = cyoptim.AdamW([w])
    refused(lambda: optimizer.step(grads=[v.detach()]), TypeError, "and its parameter is none")
    optimizer.step(grads=[torch.ones(4)])
    other = cyoptim.AdamW([v])
    refused(
        lambda: other.load_state_dict(optimizer.state_dict()),
        ValueError,
        "loaded state 'exp_avg' of parameter 0 of group 0 has shape (4,), expected (2,)",
    )
    other.step(grads=[v.detach()])
    refused(
        lambda: optimizer.load_state_dict(other.state_dict()),
        TypeError,
        "loaded state 'exp_avg' of parameter 0 of group 0 is a DTensor, and its parameter is none",
    )
    u = spread(np.ones(3, "f4"))  # of which the first process has as many elements as of v
    before = v.full_tensor().detach().clone()
    refused(lambda: other.step(grads=[u.detach()]), ValueError, "gradient of parameter 0", "shape")
    state = other.state_dict()
    state["state"][0]["exp_avg"] = u.detach()
    refused(lambda: other.load_state_dict(state), ValueError, "'exp_avg' of parameter 0", "shape")
    two = init_device_mesh("cpu", (1, PROCESSES))
    grad = distribute_tensor(torch.ones(4), two, [Replicate(), Shard(0)])
    refused(lambda: other.step(grads=[grad]), ValueError, "gradient of parameter 0", "full_tensor")
    assert torch.equal(v.full_tensor(), before)
    for objects in ({"v": v}, {"optimizer": other}):
        name = str(folder / f"{torch.distributed.get_rank()}.npz")
        refused(lambda: cyoptim.save(name, **objects), TypeError, "torch.distributed.checkpoint")  # noqa: B023


@a_run
def not_shared_twice(folder: Path) -> None:
    """Parts of torch's cannot be cut again."""
    import torch.distributed

    from cyoptim.distributed import Sharded

    refused(
        lambda: Sharded([spread(np.ones((3, 2)))], comm=torch.distributed),
        TypeError,
        "param group 0 has a DTensor, of which torch has given each process a part",
    )


# --- the state --------------------------------------------------------------------------------------


@a_run
def state_is_distributed(folder: Path) -> None:
    from torch.distributed.tensor import DTensor

    model = sharded_network()
    optimizer = cyoptim.AdamW(model.named_parameters(), lr=0.05, amsgrad=True)
    average = optimizer.ema(0.5)
    train(model, optimizer, 2)
    weight = model[0].weight
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        value = optimizer.state[weight][name]
        assert isinstance(value, DTensor)
        assert value.shape == weight.shape
        assert value.placements == weight.placements
    assert not isinstance(optimizer.state[weight]["step"], DTensor)
    mean = average["0.weight"].full_tensor()
    train(model, optimizer, 1)
    near(average["0.weight"].full_tensor(), (mean + weight.full_tensor().detach()) / 2)
    twin = cyoptim.AdamW(model.named_parameters())
    twin.load_state_dict(optimizer.state_dict())
    (mine, theirs) = (o.state_dict()["averages"]["values"][0] for o in (optimizer, twin))
    near(mine.full_tensor(), theirs.full_tensor())


@a_run
def accumulated(folder: Path) -> None:
    w = spread(np.zeros((3, 2)))
    optimizer = cyoptim.SGD([w], lr=1.0)
    for value in (1.0, 3.0):
        w.grad = spread(np.full((3, 2), value)).detach()
        optimizer.accumulate()
    other = cyoptim.SGD([w], lr=1.0)
    other.load_state_dict(optimizer.state_dict())
    other.step()
    np.testing.assert_array_equal(w.full_tensor().detach(), np.full((3, 2), -2.0))


@a_run
def searched_for_a_rate(folder: Path) -> None:
    import torch

    from cyoptim.lr_finder import find_lr

    model = sharded_network()
    optimizer = cyoptim.AdamW(model.parameters(), lr=0.01)
    train(model, optimizer, 3)
    before = whole(model)
    gradients = [(p.grad, p.grad.full_tensor()) for p in model.parameters()]
    averages = [optimizer.state[p]["exp_avg"].full_tensor() for p in model.parameters()]
    x, y = data(torch.distributed.get_rank())

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        mean = loss.detach().clone()
        torch.distributed.all_reduce(mean)
        return mean / PROCESSES  # the same in each, so that the search ends in each

    found = find_lr(optimizer, closure, 1e-5, 10.0, 30)
    assert found.losses.min() < found.losses[0]
    assert torch.equal(whole(model), before)
    for param, (gradient, values) in zip(model.parameters(), gradients, strict=True):
        assert param.grad is gradient
        assert torch.equal(gradient.full_tensor(), values)
    for param, values in zip(model.parameters(), averages, strict=True):
        assert torch.equal(optimizer.state[param]["exp_avg"].full_tensor(), values)


@a_run
def saved_and_loaded(folder: Path) -> None:
    """By torch.distributed.checkpoint, which makes the state before it loads."""
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint import state_dict as states

    def part(model: Any, optimizer: Any) -> dict[str, Any]:
        weights, state = states.get_state_dict(model, optimizer)
        return {"model": weights, "optimizer": state}

    found = []
    for library, name in ((cyoptim, "AdamW"), (torch.optim, "AdamW"), (cyoptim, "Lion")):
        model = sharded_network()
        optimizer = getattr(library, name)(model.parameters(), lr=0.05)
        train(model, optimizer, 5)
        path = folder / f"{library.__name__}-{name}"
        checkpoint.save(part(model, optimizer), checkpoint_id=path)
        train(model, optimizer, 5)
        again = sharded_network()
        other = getattr(library, name)(again.parameters(), lr=0.7)
        loaded = part(again, other)
        checkpoint.load(loaded, checkpoint_id=path)
        states.set_state_dict(
            again,
            other,
            model_state_dict=loaded["model"],
            optim_state_dict=loaded["optimizer"],
        )
        train(again, other, 5)
        assert torch.equal(whole(again), whole(model))
        full = states.StateDictOptions(full_state_dict=True)
        state = states.get_optimizer_state_dict(model, optimizer, options=full)
        found.append((whole(model), state))
    (ours, our_state), (theirs, their_state), _ = found
    near(ours, theirs)
    assert our_state["state"].keys() == their_state["state"].keys()
    for name, entries in their_state["state"].items():
        assert our_state["state"][name].keys() == entries.keys()
        for entry, value in entries.items():
            near(our_state["state"][name][entry], value)


@a_run
def averages_saved_and_loaded(folder: Path) -> None:
    """As the page on frameworks says: torch's functions leave them out."""
    import torch
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    model = sharded_network()
    optimizer = cyoptim.AdamW(model.parameters(), lr=0.05)
    average = optimizer.ema(0.5)
    train(model, optimizer, 3)
    weights, state = get_state_dict(model, optimizer)
    assert state.keys() == {"state", "param_groups"}
    checkpoint.save({"averages": optimizer.state_dict()["averages"]}, checkpoint_id=folder)
    again = sharded_network()
    other = cyoptim.AdamW(again.parameters(), lr=0.05)
    set_state_dict(again, other, model_state_dict=weights, optim_state_dict=state)
    found = other.ema(0.9)
    state = other.state_dict()
    loaded = {"averages": state["averages"]}
    checkpoint.load(loaded, checkpoint_id=folder)
    other.load_state_dict({**state, **loaded})
    train(model, optimizer, 2)
    train(again, other, 2)
    assert (found.decay, found.steps) == (average.decay, average.steps)
    assert torch.equal(whole(again), whole(model))
    for mine, theirs in zip(found, average, strict=True):
        assert torch.equal(mine.full_tensor(), theirs.full_tensor())


@a_run
def averages_of_models(folder: Path) -> None:
    import torch

    model = torch.nn.Linear(4, 3)
    model.weight, model.bias = spread(np.ones((3, 4))), spread(np.ones(3))
    average = cyoptim.swa_utils.AveragedModel(model)
    optimizer = cyoptim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.step(grads=[torch.ones_like(p) for p in model.parameters()])
        average.update_parameters(model)
    near(whole(average.module), torch.full((15,), -1.0, dtype=torch.float64))


# --- both processes ---------------------------------------------------------------------------------


def work(rank: int, folder: str) -> None:
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=PROCESSES,
        timeout=timedelta(seconds=60),
    )
    found = {}
    for name, run in RUNS.items():
        place = Path(folder) / name
        place.mkdir(exist_ok=True)
        try:
            run(place)
            found[name] = ""
        except BaseException:  # a failed pytest.raises is no Exception
            found[name] = traceback.format_exc()
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def main(folder: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(r, folder)) for r in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(sys.argv[1])
