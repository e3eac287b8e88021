"""The calls that are interrupted, and the worlds that they are made in."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

import cyoptim
import cyoptim.checkpoint
from tests.support.doors import Box, TensorDoor

from .states import frozen, looks, members, memory

BIG = 400_000  # elements where the timer interrupts

Make = Callable[[], "World"]
Act = Callable[["World"], Any]


# --- what is interrupted --------------------------------------------------------------------------


@dataclass
class World:
    """An optimizer and what is about it."""

    optimizer: Any
    others: dict[str, Any] = field(default_factory=dict)  # what is saved and loaded with it
    arguments: dict[str, Any] = field(default_factory=dict)  # of the call
    folder: str | None = None
    path: str | None = None
    gradients: list[Any] = field(default_factory=list)  # that parameters held at first
    closes: bool = False  # whether a closure of the user's own sets gradients

    def hold(self) -> World:
        """Note which gradients there are now."""
        self.gradients = [getattr(param, "grad", None) for param in members(self.optimizer)]
        return self

    def look(self) -> dict[str, Any]:
        """Everything that can be seen."""
        found = looks(self.optimizer)
        grads = [getattr(param, "grad", None) for param in members(self.optimizer)]
        kept = [*self.gradients, *[None] * len(grads)]
        found["gradients kept"] = [g is kept[i] for i, g in enumerate(grads)]
        if self.closes:
            del found["gradients"], found["gradients kept"]
        for name, value in self.others.items():
            found[name] = _seen(value)
        for name, value in self.arguments.items():
            found[name] = frozen(value)
        if self.path is not None:
            found["file"] = frozen(cyoptim.load(self.path)) if os.path.exists(self.path) else None
        return found

    def close(self) -> None:
        if self.folder is not None:
            shutil.rmtree(self.folder)


def _seen(value: Any) -> Any:
    if isinstance(value, np.random.Generator):
        return frozen(value.bit_generator.state)
    if isinstance(value, cyoptim.swa_utils.AveragedModel):
        return frozen(value.state_dict())
    if hasattr(value, "state_dict"):
        return frozen(value.state_dict())
    if isinstance(value, dict):
        return {key: _seen(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_seen(item) for item in value]
    return frozen(memory(value) if hasattr(value, "data") else value)


@dataclass(frozen=True)
class Operation:
    """A call, the world it is made in, and what is done afterwards to see hidden differences."""

    name: str
    make: Make
    act: Act
    finish: Act

    def __str__(self) -> str:
        return self.name


class Lion(cyoptim.Optimizer):
    """An optimizer of a user's own."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        average = state.setdefault("exp_avg", np.zeros_like(param))
        param -= group["lr"] * np.sign(0.9 * average + 0.1 * grad)
        average += 0.01 * (grad - average)


OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (cyoptim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    "Adam": (cyoptim.Adam, {"lr": 0.1, "amsgrad": True}),
    "NAdam": (cyoptim.NAdam, {"lr": 0.1}),
    "ASGD": (cyoptim.ASGD, {"lr": 0.1}),
    "Rprop": (cyoptim.Rprop, {"lr": 0.1}),
    "SparseAdam": (cyoptim.SparseAdam, {"lr": 0.1}),
    "Adafactor": (cyoptim.Adafactor, {"lr": 0.1}),
    "Muon": (cyoptim.Muon, {"lr": 0.1}),
    "LBFGS": (cyoptim.LBFGS, {"lr": 0.5, "max_iter": 2, "history_size": 2}),
    "Lion": (Lion, {"lr": 0.1}),
}
SHAPES: tuple[tuple[int, ...], ...] = ((2, 3), (3, 1))


def _values(seed: int, shapes: Any = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


def _wrapped(door: str, array: np.ndarray) -> Any:
    if door == "array":
        return array
    if door == "object":
        return Box(array)
    return TensorDoor().wrap(array) if door == "tensor" else cyoptim.Parameter(array)


def _grads(name: str, seed: int, shapes: Any = SHAPES) -> list[Any]:
    values = _values(seed, shapes)
    if name == "SparseAdam":
        return [(np.array([1]), value[:1]) for value in values]
    return list(values)


def _hold(world: World, seed: int) -> World:
    """Give parameters gradients of their own."""
    params = members(world.optimizer)
    for param, value in zip(params, _values(seed, [memory(p).shape for p in params]), strict=True):
        param.grad = TensorDoor().gradient(value) if hasattr(param, "detach") else value
    return world.hold()


def _step(world: World, seed: int = 50) -> None:
    """A step without anything else to it."""
    optimizer = world.optimizer
    name = type(optimizer).__name__
    if name == "LBFGS":
        optimizer.step(_bowl(world))
        return
    shapes = [memory(param).shape for param in members(optimizer)]
    optimizer.step(grads=_grads(name, seed, shapes))


def _bowl(world: World) -> Callable[[], Any]:
    params = members(world.optimizer)

    def closure() -> Any:
        values = [memory(param) for param in params]
        grads = [4 * (value - 0.5) ** 3 + value for value in values]
        if all(isinstance(param, np.ndarray) for param in params):
            return sum(float(((v - 0.5) ** 4 + v * v / 2).sum()) for v in values), grads
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad
        return sum(float(((v - 0.5) ** 4 + v * v / 2).sum()) for v in values)

    return closure


def _maker(
    name: str,
    door: str,
    steps: int,
    *,
    groups: int = 1,
    shapes: Any = SHAPES,
    averaged: bool = False,
) -> Make:
    def make() -> World:
        cls, options = OPTIMIZERS[name]
        params = [(f"p{i}", _wrapped(door, v)) for i, v in enumerate(_values(1, shapes))]
        items: Any = params if groups == 1 else [{"params": [pair]} for pair in params]
        world = World(cls(items, **options))
        if averaged:
            world.optimizer.ema(0.5)
        for k in range(steps):
            _step(world, 10 + k)
        return world.hold()

    return make


def _after(make: Make, *changes: Callable[[World], Any]) -> Make:
    """A world to which more has happened."""

    def changed() -> World:
        world = make()
        for change in changes:
            change(world)
        return world.hold()

    return changed


def _step_and_step(world: World) -> None:
    """Steps that show sums, counts, momentum, and what is kept of earlier steps."""
    world.optimizer.step(**({} if _has_sums(world) else {"grads": _grads_for(world)}))
    _step(world, 60)


def _grads_for(world: World) -> list[Any]:
    shapes = [memory(param).shape for param in members(world.optimizer)]
    return _grads(type(world.optimizer).__name__, 55, shapes)


def _has_sums(world: World) -> bool:
    try:
        world.optimizer.step(grads=[None] * len(members(world.optimizer)), max_norm=1.0)
    except ValueError:  # sums wait, and nothing has changed
        return True
    return False


def _closed(world: World) -> None:
    _step(world, 60)
    _step(world, 61)


# --- the calls ------------------------------------------------------------------------------------


def _steps() -> Iterator[Operation]:
    for name in OPTIMIZERS:
        for steps, when in ((0, "first"), (2, "later")):
            make = _maker(name, "array", steps, groups=1 if name == "LBFGS" else 2)
            yield Operation(f"{name} step {when}", make, _step, _closed)
    for name in ("SGD", "Adam", "Adafactor", "Lion", "Muon"):
        make = _maker(name, "parameter", 1, groups=2)
        yield Operation(f"{name} step fused", _after(make, _give), _fused, _closed)
        yield Operation(
            f"{name} step own", _after(make, lambda w: _hold(w, 5)), _fused_own, _closed
        )
        yield Operation(f"{name} step skipped", _after(make, _spoil), _skipped, _closed)
        first = _maker(name, "parameter", 0)
        yield Operation(
            f"{name} step of sums", _after(first, _accumulate, _accumulate), _of_sums, _closed
        )
        yield Operation(f"{name} step replaced", _after(make, _replace), _step, _closed)
        yield Operation(f"{name} step hooked", _after(make, _hook), _step, _closed)
        averaged = _after(_maker(name, "parameter", 1, averaged=True), _give)
        yield Operation(f"{name} step averaged", averaged, _fused, _closed)
    for door in _doors():
        for name in ("SGD", "NAdam"):
            held = _after(_maker(name, door, 0), lambda w: _hold(w, 5))
            yield Operation(f"{name} {door} step first", held, _own, _closed)
            yield Operation(f"{name} {door} step fused", held, _fused_own, _closed)
    for door in ("parameter", "object"):
        make = _after(_maker("LBFGS", door, 1), _close)
        yield Operation(f"LBFGS {door} step", make, _step, _closed)
    make = _maker("Adam", "array", 1)
    yield Operation("Adam step closure", make, _by_closure, _closed)
    yield Operation(
        "LBFGS step averaged", _maker("LBFGS", "array", 1, averaged=True), _step, _closed
    )


def _doors() -> tuple[str, ...]:
    return ("parameter", "object", *(("tensor",) if importlib.util.find_spec("torch") else ()))


def _give(world: World) -> None:
    world.arguments["grads"] = _grads_for(world)


def _close(world: World) -> None:
    world.closes = True


def _fused(world: World) -> None:
    world.optimizer.step(
        grads=world.arguments["grads"], max_norm=0.5, grad_scale=2.0, nonfinite="raise"
    )


def _own(world: World) -> None:
    world.optimizer.step()


def _fused_own(world: World) -> None:
    world.optimizer.step(max_norm=0.5, zero_grad=True)


def _skipped(world: World) -> None:
    world.optimizer.step(nonfinite="skip", zero_grad=True)


def _of_sums(world: World) -> None:
    world.optimizer.step(
        **({"max_norm": 0.5} if _has_sums(world) else {"grads": _grads_for(world)})
    )


def _by_closure(world: World) -> None:
    world.optimizer.step(_bowl(world))


def _spoil(world: World) -> None:
    _hold(world, 5)
    members(world.optimizer)[1].grad[0] = np.nan


def _replace(world: World) -> None:
    for param in members(world.optimizer):
        param.data = param.data * 2.0


def _hook(world: World) -> None:
    world.optimizer.register_step_pre_hook(lambda *_: None)
    world.optimizer.register_step_post_hook(lambda *_: None)


def _accumulate(world: World) -> None:
    world.optimizer.accumulate(_grads_for(world))


def _accumulate_own(world: World) -> None:
    world.optimizer.accumulate()


def _sums() -> Iterator[Operation]:
    for name in ("SGD", "Adam", "Adafactor"):
        make = _maker(name, "array", 1, groups=2)
        yield Operation(f"{name} accumulate first", make, _accumulate, _step_and_step)
        yield Operation(
            f"{name} accumulate later", _after(make, _accumulate), _accumulate, _step_and_step
        )
    for door in _doors():
        make = _maker("SGD", door, 1, groups=2)
        own = _after(make, lambda w: _hold(w, 5))
        yield Operation(f"{door} accumulate own", own, _accumulate_own, _step_and_step)
        again = _after(make, _accumulate, lambda w: _hold(w, 5))
        yield Operation(f"{door} accumulate own later", again, _accumulate_own, _step_and_step)


def _others() -> Iterator[Operation]:
    for name in ("SGD", "NAdam", "Adafactor", "LBFGS"):
        door = "array" if name == "LBFGS" else "parameter"
        make = _maker(name, door, 2)
        for averaged in (False, True):
            what = "averages" if averaged else "state"
            load = _loading(name, door, averaged=averaged)
            yield Operation(f"{name} load_state_dict {what}", make, load, _closed)
        if name != "NAdam":
            filed = _after(make, _surround, _in_folder(name, door))
            yield Operation(f"{name} load", filed, _load, _closed)
            yield Operation(f"{name} save", filed, _save, _closed)
        yield Operation(f"{name} add_param_group", _after(make, _give_groups), _add, _closed)
        yield Operation(f"{name} ema", make, lambda w: w.optimizer.ema(0.75), _closed)
        averaged_make = _maker(name, door, 2, averaged=True)
        yield Operation(
            f"{name} ema again", averaged_make, lambda w: w.optimizer.ema(0.75), _closed
        )
        yield Operation(f"{name} averaged", averaged_make, _averaged, _closed)
        averaged_load = _loading(name, door, averaged=True)
        yield Operation(f"{name} load_state_dict both", averaged_make, averaged_load, _closed)
    for door in _doors():
        own = _after(_maker("SGD", door, 1, groups=2), lambda w: _hold(w, 5))
        yield Operation(f"{door} zero_grad", own, lambda w: w.optimizer.zero_grad(), _closed)
        yield Operation(f"{door} zero_grad zeros", own, _zeros, _closed)
        yield Operation(f"{door} clip_grad_norm_", own, _clip_norm, _closed)
        yield Operation(f"{door} vector_to_parameters", own, _from_vector, _closed)
    scheduled = _after(_maker("Adam", "array", 1, groups=2), _surround)
    yield Operation("scheduler step", scheduled, lambda w: w.others["scheduler"].step(), _closed)
    yield Operation("AveragedModel update", scheduled, _update_average, _closed)
    yield Operation("state_dict", scheduled, lambda w: w.optimizer.state_dict(), _closed)
    yield Operation("deepcopy", scheduled, lambda w: copy.deepcopy(w.optimizer), _closed)


def _surround(world: World) -> None:
    """What a run has beside its optimizer."""
    params = members(world.optimizer)
    model = {"a": memory(params[0]), "b": [memory(params[1])]}
    average = cyoptim.swa_utils.AveragedModel(model)
    average.update_parameters(model)
    world.others = {
        "params": {f"p{i}": param for i, param in enumerate(params)},
        "scheduler": cyoptim.lr_scheduler.StepLR(world.optimizer, 1, 0.5),
        "rng": np.random.default_rng(3),
        "average": average,
        "nested": {"x": np.zeros(3), "more": [np.zeros(2), {"y": np.zeros(1)}], "epoch": 1},
    }


def _in_folder(name: str, door: str) -> Callable[[World], None]:
    """A file of another run."""

    def put(world: World) -> None:
        world.folder = tempfile.mkdtemp(prefix="cyoptim-fuzz-")
        world.path = os.path.join(world.folder, "run.npz")
        other = _maker(name, door, 3)()
        _surround(other)
        other.others["scheduler"].step()
        other.others["rng"].random(5)
        nested = {"x": np.ones(3), "more": [np.ones(2), {"y": np.ones(1)}], "epoch": 9}
        cyoptim.save(world.path, optimizer=other.optimizer, **{**other.others, "nested": nested})

    return put


def _load(world: World) -> None:
    assert world.path is not None
    cyoptim.load(world.path, optimizer=world.optimizer, **world.others)


def _save(world: World) -> None:
    assert world.path is not None
    cyoptim.save(world.path, optimizer=world.optimizer, **world.others)


def _loading(name: str, door: str, *, averaged: bool) -> Act:
    @lru_cache(maxsize=1)
    def saved() -> Any:
        other = _maker(name, door, 3, averaged=averaged)()
        other.optimizer.param_groups[0]["lr"] = 0.03
        return copy.deepcopy(other.optimizer.state_dict())

    return lambda world: world.optimizer.load_state_dict(saved())


def _add(world: World) -> None:
    second = len(world.optimizer.param_groups) > 1  # the call has been made before
    world.optimizer.add_param_group(world.arguments["second" if second else "group"])


def _give_groups(world: World) -> None:
    for name in ("group", "second"):
        world.arguments[name] = {"params": [(f"new {name}", np.ones((2, 2)))]}


def _averaged(world: World) -> None:
    with world.optimizer.averaged():
        pass


def _zeros(world: World) -> None:
    world.optimizer.zero_grad(set_to_none=False)


def _clip_norm(world: World) -> None:
    cyoptim.clip_grad_norm_(members(world.optimizer), 0.5)


def _from_vector(world: World) -> None:
    params = members(world.optimizer)
    size = sum(memory(param).size for param in params)
    cyoptim.vector_to_parameters(np.arange(float(size)), params)


def _update_average(world: World) -> None:
    params = members(world.optimizer)
    world.others["average"].update_parameters({"a": memory(params[0]), "b": [memory(params[1])]})


@lru_cache(maxsize=1)
def operations() -> tuple[Operation, ...]:
    if importlib.util.find_spec("torch"):
        importlib.import_module(
            "torch"
        )  # the package runs other code where torch has been imported
    return (*_steps(), *_sums(), *_others())


# --- calls so long that a timer interrupts them ---------------------------------------------------


def _large(name: str, door: str, steps: int, averaged: bool = False) -> Make:
    return _maker(
        name, door, steps, shapes=((BIG // 400, 400), (400, BIG // 400)), averaged=averaged
    )


@lru_cache(maxsize=1)
def timed_operations() -> tuple[Operation, ...]:
    if not hasattr(signal, "setitimer"):
        return ()
    made = []
    for name in ("SGD", "Adafactor"):
        make = _large(name, "parameter", 1)
        own = _after(make, lambda w: _hold(w, 5))
        later = _after(make, _accumulate, lambda w: _hold(w, 5))
        made += [
            Operation(f"{name} step, timed", own, _fused_own, _closed),
            Operation(f"{name} accumulate, timed", own, _accumulate_own, _step_and_step),
            Operation(f"{name} accumulate later, timed", later, _accumulate_own, _step_and_step),
            Operation(f"{name} load_state_dict, timed", make, _loading_large(name), _closed),
        ]
    return tuple(made)


def _loading_large(name: str) -> Act:
    @lru_cache(maxsize=1)
    def saved() -> Any:
        return copy.deepcopy(_large(name, "parameter", 2)().optimizer.state_dict())

    return lambda world: world.optimizer.load_state_dict(saved())
