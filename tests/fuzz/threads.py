"""Two public calls at once, on one optimizer and its parameters: each is done whole, before or after
the other, or is refused. Also forks during a step, and signal handlers that call the optimizer.

All elements of an array are equal in every whole state, and both parameters are: what is torn or
lost shows. With momentum 1 and gradients of 1, m steps leave the buffer at m and the parameters at
-m (m + 1) / 2, so that what belongs together shows, too.
"""

from __future__ import annotations

import copy
import os
import pickle
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

import cyoptim
import cyoptim.checkpoint

from .operations import Lion
from .runner import SANITIZER

NAME = "threads"
LONG = 5_000
SLICE = 150
LIMIT = 20.0
SEEDS: tuple[int, ...] = ()

RACES = SANITIZER == "libtsan"  # whether each read that nothing orders is told
LARGE = 2**16 if SANITIZER else 2**18  # elements: a step runs without the GIL
SMALL = 16
START = 2  # steps before the calls
BUSY = "already running"
INSIDE = "averaged()"
WAITING = "wait to be averaged"


# --- what the threads share -----------------------------------------------------------------------


class World:
    """An optimizer over two parameters, and what the calls need."""

    def __init__(self, kind: str, size: int, averaged: bool) -> None:
        shape = (size // 4, 4)
        self.params = {name: cyoptim.Parameter(np.zeros(shape, "f4")) for name in ("a", "b")}
        self.ones = np.ones(shape, "f4")
        self.grads = {name: self.ones for name in self.params}
        self.optimizer = _made(kind, self.params)
        if averaged:
            self.optimizer.ema(0.5)
        for param in self.params.values():
            param.grad = self.ones.copy()
        self.kind = kind
        self.folder = tempfile.mkdtemp(prefix="cyoptim-fuzz-")
        for _ in range(START):
            self.step()
        self.saved = copy.deepcopy(self.optimizer.state_dict())
        self.scheduler = cyoptim.lr_scheduler.StepLR(self.optimizer, 1, 1.0)
        self.file = os.path.join(self.folder, "start.npz")
        self.save(self.file)
        self.readable = True  # by the program's own code, while another thread makes its call

    def close(self) -> None:
        shutil.rmtree(self.folder)

    def values(self) -> list[np.ndarray]:
        return [param.data for param in self.params.values()]

    def step(self) -> None:
        if self.kind == "LBFGS":
            self.optimizer.step(self.closure)
        else:
            self.optimizer.step(grads=self.grads)

    def closure(self) -> float:
        """A bowl around 1, of whose loss only the first element is computed."""
        for param in self.params.values():
            param.grad = param.data - 1
        return float((self.params["a"].data.flat[0] - 1) ** 2)

    def save(self, path: str) -> None:
        cyoptim.save(path, params=self.params, optimizer=self.optimizer)


def _made(kind: str, params: Any) -> Any:
    if kind == "SGD":
        return cyoptim.SGD(params.items(), lr=1.0, momentum=1.0)
    if kind == "LBFGS":
        return cyoptim.LBFGS(params.items(), lr=0.5, max_iter=2, history_size=2)
    return (
        Lion(params, lr=1.0) if kind == "Lion" else getattr(cyoptim, kind)(params.items(), lr=0.1)
    )


# --- the calls ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A public call, and what it leaves of the relations between parameters and state."""

    name: str
    run: Callable[[World, int], Any]  # returns arrays that must look whole, or None
    steps: bool = False
    counted: bool = True  # each step is one more in the state
    related: bool = True  # parameters still belong to their state
    needs: str = ""  # the kind of optimizer


def _whole_optimizer(optimizer: Any) -> Any:
    """Parameters and state of a copy."""
    params = [param for group in optimizer.param_groups for param in group["params"]][:2]
    return [param.data for param in params], [dict(optimizer.state[param]) for param in params]


def _step_own(world: World, _: int) -> None:
    world.optimizer.step(max_norm=0.5, zero_grad=True)


def _state_dict(world: World, _: int) -> None:
    found = world.optimizer.state_dict()
    if not RACES:  # the arrays are the optimizer's own: what is read of them may be torn
        copy.deepcopy(found)


def _save(world: World, k: int) -> Any:
    path = os.path.join(world.folder, f"{threading.get_ident()}-{k}.npz")
    world.save(path)
    found = cyoptim.load(path)
    os.unlink(path)
    state = found["optimizer"]["state"]
    return [found["params"][name] for name in "ab"], [state.get(i, {}) for i in range(2)]


def _load(world: World, _: int) -> None:
    cyoptim.load(world.file, params=world.params, optimizer=world.optimizer, strict=True)


def _add(world: World, k: int) -> None:
    name = f"{threading.get_ident()}-{k}"
    world.optimizer.add_param_group({"params": [(name, cyoptim.Parameter(np.zeros(3, "f4")))]})


def _averaged(world: World, _: int) -> Any:
    with world.optimizer.averaged():
        return ([value.copy() for value in world.values()], []) if world.readable else None


def _to_vector(world: World, _: int) -> Any:
    return [cyoptim.parameters_to_vector(list(world.params.values()))], []


def _from_vector(world: World, _: int) -> None:
    vector = np.full(2 * world.ones.size, -7.0, "f4")
    cyoptim.vector_to_parameters(vector, list(world.params.values()))


def _average(world: World, _: int) -> Any:
    average = cyoptim.swa_utils.AveragedModel({name: np.zeros_like(world.ones) for name in "ab"})
    for _ in range(2):
        average.update_parameters(world.params)
    return list(average.module.values()), []


def _pickle(world: World, _: int) -> None:
    # A pickler reads arrays when it comes to them, long after it has asked the optimizer.
    if RACES:
        world.optimizer.__reduce_ex__(pickle.DEFAULT_PROTOCOL)
    else:
        pickle.loads(pickle.dumps(world.optimizer))


CALLS = (
    Call("step", lambda w, _: w.step(), steps=True),
    Call("step own", _step_own, steps=True, counted=False, related=False),
    Call("accumulate", lambda w, _: w.optimizer.accumulate(w.grads)),
    Call("zero_grad", lambda w, _: w.optimizer.zero_grad(set_to_none=False)),
    Call("state_dict", _state_dict),
    Call("save", _save),
    Call("load", _load, counted=False),
    Call("load_state_dict", lambda w, _: w.optimizer.load_state_dict(w.saved), counted=False, related=False),
    Call("add_param_group", _add),
    Call("ema", lambda w, k: w.optimizer.ema(0.5 + k / 100), related=False),
    Call("averaged", _averaged, related=False),
    Call("clip_grad_norm_", lambda w, _: cyoptim.clip_grad_norm_(list(w.params.values()), 0.5)),
    Call("clip_grad_value_", lambda w, _: cyoptim.clip_grad_value_(list(w.params.values()), 0.5)),
    Call("parameters_to_vector", _to_vector),
    Call("vector_to_parameters", _from_vector, related=False),
    Call("AveragedModel", _average),
    Call("deepcopy", lambda w, _: _whole_optimizer(copy.deepcopy(w.optimizer))),
    Call("pickle", _pickle),
    Call("scheduler step", lambda w, _: w.scheduler.step()),
    Call("set_num_threads", lambda _, k: cyoptim.set_num_threads(1 + k % 2)),
    Call("LBFGS step", lambda w, _: w.step(), steps=True, counted=False, related=False, needs="LBFGS"),
    Call("Adafactor step", lambda w, _: w.step(), steps=True, related=False, needs="Adafactor"),
    Call("Adam step", lambda w, _: w.step(), steps=True, related=False, needs="Adam"),
)  # fmt: skip


def _meet(first: Call, second: Call) -> bool:
    """Whether there is an optimizer that has both."""
    kinds = {first.needs, second.needs} - {""}
    if len(kinds) > 1:
        return False
    others = {"step", "step own", "accumulate"}
    return "LBFGS" not in kinds or not {first.name, second.name} & others


PAIRS = tuple((a, b, size) for size in (LARGE, SMALL) for a in CALLS for b in CALLS if _meet(a, b))


# --- what is whole --------------------------------------------------------------------------------


def torn(arrays: list[Any], states: list[Any], kind: str, related: bool) -> str:
    """What is wrong with parameters, or with their state; empty if nothing is."""
    values = [np.unique(np.asarray(array)) for array in arrays]
    if any(len(value) != 1 for value in values):
        return f"a parameter holds {[value[:4].tolist() for value in values]}"
    if len({float(value[0]) for value in values}) > 1:
        return f"parameters are {[float(value[0]) for value in values]}"
    entries = [_numbers(state) for state in states]
    if any(isinstance(found, str) for found in entries):
        return f"state is {entries}"
    if len(entries) == 2 and kind != "LBFGS" and entries[0] != entries[1]:
        return f"states are {entries[0]} and {entries[1]}"
    if related and kind == "SGD" and entries:
        m = entries[0]["momentum_buffer"]
        if float(values[0][0]) != -m * (m + 1) / 2:
            return f"parameters are {float(values[0][0])} with a buffer of {m}"
    return ""


def _numbers(state: dict[str, Any]) -> dict[str, float] | str:
    """The number in each array of a state; or what is torn."""
    numbers: dict[str, float] = {}
    for name, value in state.items():
        if not isinstance(value, np.ndarray):
            continue
        found = np.unique(value)
        if len(found) != 1:
            return f"{name}: {found[:4].tolist()}"
        numbers[name] = float(found[0])
    return numbers


# --- two threads ----------------------------------------------------------------------------------


@dataclass
class Caller:
    """One call again and again, and what came of it."""

    call: Call
    world: World
    times: int
    partner: Call
    done: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    last: Any = None

    def loop(self, barrier: threading.Barrier, pause: float) -> None:
        barrier.wait(LIMIT)
        time.sleep(pause)
        for k in range(self.times):
            try:
                found = self.call.run(self.world, k)
            except Exception as error:
                self._note(error)
                continue
            self.done, self.last = self.done + 1, found
            if isinstance(found, tuple):
                related = self.call.related and self.partner.related
                what = torn(*found, self.world.kind, related)
                if what:
                    self.wrong.append(f"torn {self.call.name}: {what}")

    def _note(self, error: Exception) -> None:
        both = self.call.steps and self.partner.steps
        names = {self.call.name, self.partner.name}
        allowed = (
            (isinstance(error, RuntimeError) and both and BUSY in str(error))
            or (isinstance(error, (RuntimeError, ValueError)) and "averaged" in names and INSIDE in str(error))
            or (isinstance(error, ValueError) and "accumulate" in names and WAITING in str(error))
            or (isinstance(error, ValueError) and _grown(names) and "groups" in str(error))
        )  # fmt: skip
        if allowed:
            self.refused += 1
        else:
            self.wrong.append(
                f"{self.call.name}: {''.join(traceback.format_exception(error))}\n"
                f"{self.call.name} raises {type(error).__name__}"
            )


def _grown(names: set[str]) -> bool:
    """Whether what is loaded has fewer groups than the optimizer may have by then."""
    return "add_param_group" in names and bool(names & {"load", "load_state_dict"})


@contextmanager
def _switching(interval: float) -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _pair(first: Call, second: Call, size: int, rng: np.random.Generator) -> str:
    averaged = "averaged" in (first.name, second.name) or bool(rng.random() < 0.2)
    kind = first.needs or second.needs or "SGD"
    world = World(kind, size, averaged)
    try:
        world.readable = "vector_to_parameters" not in (first.name, second.name)
        times = 8 if size == LARGE else 30
        callers = [Caller(first, world, times, second), Caller(second, world, times, first)]
        barrier, pauses = threading.Barrier(2), rng.uniform(0, 0.001, 2)
        threads = [
            threading.Thread(target=caller.loop, args=(barrier, pause), daemon=True)
            for caller, pause in zip(callers, pauses, strict=True)
        ]
        with _switching(1e-6 if size == SMALL else 1e-4):
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        wrong = [text for caller in callers for text in caller.wrong] or _after(world, callers)
        assert not wrong, _told(first, second, size, wrong)
    finally:
        world.close()
    return "some refused" if any(caller.refused for caller in callers) else "all done"


def _told(first: Call, second: Call, size: int, wrong: list[str]) -> str:
    kind = wrong[0].splitlines()[-1].partition(":")[0]
    which = "large" if size == LARGE else "small"
    return (
        f"{len(wrong)} times, first: {wrong[0]}\n{first.name} beside {second.name}, {which}: {kind}"
    )


def _after(world: World, callers: list[Caller]) -> list[str]:
    """What is wrong when both threads have ended."""
    related = all(caller.call.related for caller in callers)
    params = list(world.params.values())
    states = [dict(world.optimizer.state[param]) for param in params]
    if world.kind == "LBFGS" and any(caller.call.name == "add_param_group" for caller in callers):
        states = []  # its vectors are those of all parameters, new ones too
    what = torn(world.values(), states, world.kind, related)
    if what:
        return [f"torn at the end: {what}"]
    gradients = [np.unique(param.grad) for param in params if param.grad is not None]
    if any(len(values) != 1 for values in gradients) and world.kind != "LBFGS":
        return [f"torn gradients: {gradients}"]
    averages = [] if world.optimizer._average is None else list(world.optimizer._average)[:2]
    if any(len(np.unique(mean)) != 1 for mean in averages):
        return [f"torn averages: {[np.unique(mean)[:4] for mean in averages]}"]
    return _miscounted(world, callers, states)


def _miscounted(world: World, callers: list[Caller], states: list[Any]) -> list[str]:
    """Whether steps and sums are as many as calls have returned."""
    if not all(caller.call.counted for caller in callers):
        return []
    name = {"SGD": "momentum_buffer", "Lion": ""}.get(world.kind, "step")
    steps = START + sum(caller.done for caller in callers if caller.call.steps)
    if name and float(states[0][name].flat[0]) != steps:
        return [f"miscounted steps: {float(states[0][name].flat[0])}, and {steps} have returned"]
    adding = [caller for caller in callers if caller.call.name == "accumulate"]
    if len(adding) == 2:
        count = world.optimizer.accumulate(world.grads)
        before = world.params["a"].data.flat[0]
        world.optimizer.step()
        move = before - world.params["a"].data.flat[0]
        if count != 1 + sum(caller.done for caller in adding) or move != START + 1:
            return [f"miscounted sums: {count} added, and a step of {move}, expected {START + 1}"]
    return []


# --- forks ----------------------------------------------------------------------------------------


def _child_calls(world: World) -> list[str]:
    """What is wrong with the optimizer, or another one, in a child of a process that was stepping."""
    wrong = []
    other = World("SGD", LARGE, False)
    other.step()
    if torn(other.values(), [], "SGD", False):
        wrong.append("another optimizer's step is torn")
    other.close()
    for call in CALLS:
        if call.name not in (
            "step",
            "save",
            "deepcopy",
            "accumulate",
            "parameters_to_vector",
            "state_dict",
        ):
            continue
        try:
            found = call.run(world, 0)
        except RuntimeError:
            continue
        except ValueError as error:
            if WAITING in str(error):
                continue
            raise
        what = torn(*found, world.kind, False) if isinstance(found, tuple) else ""
        if what:
            wrong.append(f"torn {call.name} in the child: {what}")
    return wrong


def _in_child(work: Callable[[], list[str]]) -> str:
    """Run it in a forked child; what is wrong, or that the child has not ended."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            text = "\n".join(work())
        except BaseException:
            text = traceback.format_exc()
        os.write(write, text.encode()[-60_000:])
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as stream:
        text = stream.read().decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return text if code == 0 else f"{text}\nthe child ended with status {code}"


def _fork(kind: str, rng: np.random.Generator) -> str:
    if SANITIZER:
        return "no forks under a sanitizer"
    world, stop = World(kind, LARGE, False), threading.Event()

    def work() -> None:
        while not stop.is_set():
            world.step()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        time.sleep(rng.uniform(0, 0.005))
        wrong = _in_child(partial(_child_calls, world))
    finally:
        stop.set()
        thread.join()
    what = torn(world.values(), [], kind, False)
    world.close()
    assert not wrong, f"{wrong}\na fork during a step of {kind}: wrong in the child"
    assert not what, f"{what}\na fork during a step of {kind}: wrong in the parent"
    return "fork"


# --- signal handlers ------------------------------------------------------------------------------


HANDLED = (
    "step",
    "accumulate",
    "save",
    "load_state_dict",
    "deepcopy",
    "state_dict",
    "parameters_to_vector",
)


def _by_signal(kind: str, main: Call, handled: Call, rng: np.random.Generator) -> str:
    """One call over and over, and a signal handler in the same thread that makes another."""
    world, wrong, seen = World(kind, SMALL if rng.random() < 0.7 else LARGE, False), [], [0]
    nested = [False]

    def handle(*_: object) -> None:
        if nested[0]:
            return
        nested[0] = True
        try:
            found = handled.run(world, 1000 + seen[0])
            what = torn(*found, kind, False) if isinstance(found, tuple) else ""
            if what:
                wrong.append(f"torn {handled.name} in a handler: {what}")
        except RuntimeError:
            pass
        except ValueError as error:
            if WAITING not in str(error):
                wrong.append(f"{handled.name} in a handler raises {error!r}")
        except Exception as error:
            wrong.append(f"{handled.name} in a handler raises {error!r}")
        finally:
            seen[0] += 1
            nested[0] = False

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, float(rng.uniform(0.0003, 0.0008)))
    try:
        end = time.monotonic() + 0.03
        for k in range(10_000):
            if time.monotonic() > end:
                break
            try:
                main.run(world, k)
            except ValueError as error:
                if WAITING not in str(error):
                    raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    wrong = wrong or [text for text in [torn(world.values(), [], kind, False)] if text]
    world.close()
    assert not wrong, f"{wrong[0]}\n{handled.name} in a handler during {main.name} of {kind}"
    return "signals" if seen[0] else "no signal came"


def _specials() -> list[Callable[[np.random.Generator], str]]:
    found: list[Callable[[np.random.Generator], str]] = []
    if hasattr(os, "fork"):
        found += [partial(_fork, kind) for kind in ("SGD", "Adafactor", "LBFGS", "Lion")]
    if hasattr(signal, "setitimer"):
        calls = [call for call in CALLS if call.name in HANDLED]
        for kind in ("SGD", "Lion", "Adafactor"):
            found += [
                partial(_by_signal, kind, main, handled) for main in calls for handled in calls
            ]
    return found


SPECIALS = _specials()


def check(case: int) -> str:
    """One pair of calls, a fork, or a signal handler; all kinds in turn."""
    rng = np.random.default_rng(case)
    kinds = len(PAIRS) + len(SPECIALS)
    index = case * 7919 % kinds  # neighbours are of different kinds
    threads = cyoptim.get_num_threads()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            if index < len(PAIRS):
                return _pair(*PAIRS[index], rng)
            return SPECIALS[index - len(PAIRS)](rng)
    finally:
        cyoptim.set_num_threads(threads)
