"""A KeyboardInterrupt at every opcode of every call: all is as before the call or as after it, the
call can be repeated, and goes on with the bits of an optimizer that was not interrupted.

A case is an operation and a boundary between two opcodes of the package's own code, at which the
interrupt is raised (`_once`). Or it is one at which a signal would be handled, in a second series
with a second interrupt at each boundary of what then cleans up (`_twice`). A third series uses a
timer's real signals on arrays so large that the time goes by in native code (`_by_timer`).
"""

from __future__ import annotations

import contextlib
import copy
import dis
import importlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

import cyoptim
import cyoptim.checkpoint
from tests.support.doors import Box, TensorDoor

from .states import difference, frozen, looks, members, memory

NAME = "interrupts"
LONG = 10**9  # all there are
SLICE = 1000
LIMIT = 120.0
SEEDS: tuple[int, ...] = ()

SPAN = 100_000  # numbers of an operation's cases in one series
SERIES = 3
PACKAGE = str(Path(cyoptim.__file__).parent)
FIRST = 3  # times that a place is reached; a loop goes on with more
MOST = 100  # second interrupts after one first
BIG = 400_000  # elements where the timer interrupts
TIMED = 60  # cases of the third series, for each operation

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


# --- what an interrupt may leave ------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """How the world looks before and after the call, and where it goes from there."""

    before: dict[str, Any]
    after: dict[str, Any]
    before_final: dict[str, Any]  # call, and what is done afterwards
    after_final: dict[str, Any]  # the call again, and what is done afterwards


@cache
def expected(operation: Operation) -> Expected:
    def final(times: int) -> dict[str, Any]:
        world = operation.make()
        for _ in range(times):
            operation.act(world)
        operation.finish(world)
        return _look_and_close(world)

    world, done = operation.make(), operation.make()
    operation.act(done)
    return Expected(_look_and_close(world), _look_and_close(done), final(1), final(2))


def _look_and_close(world: World) -> dict[str, Any]:
    found = world.look()
    world.close()
    return found


def judge(operation: Operation, world: World, where: str) -> str:
    """Whether the world is whole after an interrupt."""
    wanted, found = expected(operation), world.look()
    finals = []
    if found == wanted.before:
        finals.append(("before", wanted.before_final))
    if found == wanted.after:
        finals.append(("after", wanted.after_final))
    if not finals:
        was, becomes = difference(wanted.before, found), difference(wanted.after, found)
        raise AssertionError(
            f"{where}: not as before: {', '.join(was)}; not as after: {', '.join(becomes)}\n"
            f"half done: {operation}"
        )
    what = "repeat the call"
    try:
        operation.act(world)
        what = "step afterwards"
        operation.finish(world)
    except Exception as error:
        raise AssertionError(
            f"{where}: {type(error).__name__}: {error}\ncannot {what}: {operation}"
        ) from error
    last = world.look()
    for outcome, final in finals:
        if last == final:
            return outcome
    raise AssertionError(
        f"{where}: looked as {' and '.join(o for o, _ in finals)}, but differs later: "
        f"{', '.join(difference(finals[0][1], last))}\nhalf done, hidden: {operation}"
    )


# --- interrupts between opcodes -------------------------------------------------------------------


def _is_traced(code: Any) -> bool:
    return code.co_filename.startswith(PACKAGE) or code.co_filename == contextlib.__file__


class Tracer:
    """Counts the opcodes of the package's frames, and interrupts before those asked for.

    An exception from a trace function ends the tracing. For a second one it begins again with the
    next call or return, of which a profile function hears; no signal is handled before that.
    """

    def __init__(self, at: int = -1, then: int | None = None) -> None:
        self.places: list[tuple[Any, int]] = []
        self.where = ""
        self.since = 0  # opcodes since the first interrupt
        self._at, self._then, self._raised = at, then, False

    def run(self, work: Callable[[], Any]) -> None:
        """Run under this trace, interrupted or not."""
        sys.settrace(self._call)
        if self._then is not None:
            sys.setprofile(self._profile)
        try:
            work()
        except KeyboardInterrupt:
            pass
        except Exception as error:
            raise AssertionError(
                f"interrupted at{self.where}: {error}\nan interrupt comes out as {type(error).__name__}"
            ) from error
        finally:
            sys.setprofile(None)
            sys.settrace(None)

    def _profile(self, frame: Any, event: str, arg: Any) -> None:
        if self._raised and sys.gettrace() is None and self.since == 0:
            sys.settrace(self._call)
            while frame is not None:
                if _is_traced(frame.f_code):
                    frame.f_trace = self._call(frame, event, arg)
                frame = frame.f_back

    def _call(self, frame: Any, event: str, arg: Any) -> Any:
        if not _is_traced(frame.f_code):
            return None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._local

    def _local(self, frame: Any, event: str, arg: Any) -> Any:
        if event == "opcode":
            self._boundary(frame)
        return self._local

    def _boundary(self, frame: Any) -> None:
        if self._raised:
            self.since += 1
            if self.since == self._then:
                self._interrupt(frame)
            return
        self.places.append((frame.f_code, frame.f_lasti))
        if len(self.places) - 1 == self._at:
            self._raised = True
            self._interrupt(frame)

    def _interrupt(self, frame: Any) -> None:
        code = frame.f_code
        file = os.path.basename(code.co_filename)
        self.where += f" {file}:{frame.f_lineno} in {code.co_name} (opcode {frame.f_lasti})"
        raise KeyboardInterrupt


def _boundaries(operation: Operation) -> list[tuple[int, bool]]:
    """Where the call is interrupted: each place in the code when it is first reached, the times
    after that, and the last time; and whether a signal can be handled just before it."""
    warm = operation.make()
    operation.act(warm)  # what is imported or made once
    warm.close()
    world, tracer = operation.make(), Tracer()
    tracer.run(lambda: operation.act(world))
    world.close()
    times: dict[tuple[Any, int], list[int]] = {}
    for number, place in enumerate(tracer.places):
        times.setdefault(place, []).append(number)
    handled = [_handles_signals(*place) for place in tracer.places]
    chosen = [
        (number, number > 0 and handled[number - 1])
        for place, all_times in times.items()
        for number in {*all_times[:FIRST], all_times[-1]}
    ]
    return sorted(chosen)


def _handles_signals(code: Any, place: int) -> bool:
    name = dis.opname[code.co_code[place]]
    return name.startswith(("CALL", "RESUME", "JUMP_BACKWARD", "FOR_ITER"))


def _once(operation: Operation, k: int) -> str:
    expected(operation)
    world, tracer = operation.make(), Tracer(k)
    try:
        tracer.run(lambda: operation.act(world))
        return judge(operation, world, f"interrupted at {k}:{tracer.where}")
    finally:
        world.close()


def _twice(operation: Operation, k: int) -> str:
    """A second interrupt at every boundary after the first."""
    expected(operation)
    second, step = 0, 1
    while True:
        world, tracer = operation.make(), Tracer(k, second)
        try:
            tracer.run(lambda: operation.act(world))  # noqa: B023
            judge(operation, world, f"interrupted at {k} and {second} later:{tracer.where}")
        finally:
            world.close()
        if second == 0:
            step = max(1, -(-tracer.since // MOST))
        elif second > tracer.since - step:
            break
        if tracer.since == 0:
            return "nothing to clean up"
        second += step
    return "twice"


# --- interrupts by a timer ------------------------------------------------------------------------


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


@cache
def _duration(operation: Operation) -> float:
    def timed() -> float:
        world = operation.make()
        begin = time.perf_counter()
        operation.act(world)
        return time.perf_counter() - begin

    return min(timed() for _ in range(3))  # the first makes threads


class Alarm:
    """Raises one KeyboardInterrupt after a delay, unless disarmed before."""

    def __init__(self, delay: float) -> None:
        self._delay, self._armed = max(delay, 1e-6), True
        self._old = signal.signal(signal.SIGALRM, self._handle)

    def start(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, self._delay)

    def disarm(self) -> None:
        self._armed = False

    def close(self) -> None:
        self._armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old)

    def _handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt


def _by_timer(operation: Operation, k: int) -> str:
    expected(operation)
    delay = np.random.default_rng(k).uniform(0, 1.3) * _duration(operation)
    world, alarm = operation.make(), Alarm(delay)
    try:
        alarm.start()
        operation.act(world)
        alarm.disarm()
    except KeyboardInterrupt:
        pass
    finally:
        alarm.close()
    return "timed, " + judge(operation, world, f"interrupted after {delay * 1e6:.0f} us")


# --- cases ----------------------------------------------------------------------------------------


def cases() -> Iterator[int]:
    """Every boundary of every call, once and with second interrupts; then those of the timer."""
    yield from _numbers()


@lru_cache(maxsize=1)
def _numbers() -> tuple[int, ...]:
    numbers: list[int] = []
    with _quiet():
        for o, operation in enumerate(operations()):
            for k, handles_signals in _boundaries(operation):
                numbers += [
                    (o * SERIES + series) * SPAN + k for series in range(1 + handles_signals)
                ]
    for o in range(len(timed_operations())):
        first = (o * SERIES + 2) * SPAN
        numbers += range(first, first + TIMED)
    return tuple(sorted(numbers))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def check(case: int) -> str:
    """Interrupt one call at one place, or once and then at every later place."""
    number, k = divmod(case, SPAN)
    o, series = divmod(number, SERIES)
    with _quiet():
        if series == 2:
            return _by_timer(timed_operations()[o], k)
        return (_once, _twice)[series](operations()[o], k)
