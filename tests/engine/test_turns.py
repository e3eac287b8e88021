"""One optimizer in several threads: one turn at a time, and whoever cannot have it now waits or is told."""

from __future__ import annotations

import copy
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim

LONG = 20.0  # seconds, for what comes at once


class Held(cyoptim.Optimizer):
    """Its update waits in the middle of a step until it may go on."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})
        self.inside, self.go = threading.Event(), threading.Event()

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        param -= grad
        self.inside.set()
        assert self.go.wait(LONG)
        param -= grad


def held(**options: Any) -> tuple[Any, Any, Any]:
    """A parameter, its optimizer, and the thread that is in the middle of its step."""
    w = cyoptim.Parameter(np.zeros(4))
    optimizer = Held([("w", w)])
    if options.get("average"):
        optimizer.ema(0.5)
    thread = threading.Thread(target=optimizer.step, kwargs={"grads": [np.ones(4)]})
    thread.start()
    assert optimizer.inside.wait(LONG)
    return w, optimizer, thread


def snapshot(optimizer: Any, w: Any, folder: Path) -> Any:
    cyoptim.save(folder / "run.npz", w=w, optimizer=optimizer)
    return cyoptim.load(folder / "run.npz")["w"]


WAITING: dict[str, Any] = {
    "save": snapshot,
    "save the parameter alone": lambda o, w, d: (cyoptim.save(d / "w.npz", w=w), cyoptim.load(d / "w.npz")["w"])[1],
    "state_dict": lambda o, w, d: (o.state_dict(), w.data.copy())[1],
    "deepcopy": lambda o, w, d: copy.deepcopy(o).param_groups[0]["params"][0].data,
    "parameters_to_vector": lambda o, w, d: cyoptim.parameters_to_vector([w]),
    "accumulate": lambda o, w, d: (o.accumulate([np.ones(4)]), w.data.copy())[1],
    "add_param_group": lambda o, w, d: (o.add_param_group({"params": [("v", np.zeros(2))]}), w.data.copy())[1],
    "ema": lambda o, w, d: (o.ema(0.9), w.data.copy())[1],
    "zero_grad": lambda o, w, d: (o.zero_grad(set_to_none=False), w.data.copy())[1],
    "clip_grad_norm_": lambda o, w, d: (cyoptim.clip_grad_norm_([w], 1.0, grads=[np.ones(4)]), w.data.copy())[1],
    "load_state_dict": lambda o, w, d: (o.load_state_dict({"state": {}, "param_groups": [{"params": [0], "param_names": ["w"]}]}), w.data.copy())[1],
    "AveragedModel": lambda o, w, d: (m := cyoptim.swa_utils.AveragedModel({"w": np.zeros(4)}), m.update_parameters({"w": w.data}), m.module["w"])[-1],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", WAITING)
def test_it_waits_for_the_end_of_a_step(name: str, tmp_path: Path) -> None:
    w, optimizer, thread = held()
    found: list[Any] = []
    other = threading.Thread(target=lambda: found.append(WAITING[name](optimizer, w, tmp_path)))
    other.start()
    other.join(0.1)
    assert other.is_alive()
    assert not found
    optimizer.go.set()
    thread.join(LONG)
    other.join(LONG)
    assert found[0].tolist() == [-2] * 4


@pytest.mark.slow
def test_averaged_waits_too() -> None:
    w, optimizer, thread = held(average=True)
    found = []

    def look() -> None:
        with optimizer.averaged():
            found.append(w.data.copy())

    other = threading.Thread(target=look)
    other.start()
    other.join(0.1)
    assert not found
    optimizer.go.set()
    thread.join(LONG)
    other.join(LONG)
    assert found[0].tolist() == [-2] * 4


def test_a_step_beside_a_step_is_refused() -> None:
    w, optimizer, thread = held()
    with pytest.raises(
        RuntimeError, match=r"step\(\) of this optimizer is already running in another thread"
    ):
        optimizer.step(grads=[np.ones(4)])
    optimizer.go.set()
    thread.join(LONG)
    assert w.data.tolist() == [-2] * 4


@pytest.mark.slow
def test_a_scheduler_waits() -> None:
    _, optimizer, thread = held()
    scheduler = cyoptim.lr_scheduler.StepLR(cyoptim.SGD([np.zeros(1)], lr=1.0), 1, 0.5)
    scheduler.optimizer = optimizer
    scheduler._step_count = 2
    other = threading.Thread(target=scheduler.step)
    other.start()
    other.join(0.1)
    assert optimizer.param_groups[0]["lr"] == 1.0
    optimizer.go.set()
    thread.join(LONG)
    other.join(LONG)
    assert optimizer.param_groups[0]["lr"] == 0.5


@pytest.mark.slow
def test_who_waits_longest_is_next() -> None:
    _, optimizer, thread = held()
    order: list[int] = []
    optimizer.register_state_dict_post_hook(lambda *_: None)
    others = []
    for k in range(4):
        others.append(
            threading.Thread(target=lambda k=k: optimizer._turn.write("a test", order.append, k))
        )
        others[-1].start()
        others[-1].join(0.05)
    optimizer.go.set()
    for other in (thread, *others):
        other.join(LONG)
    assert order == [0, 1, 2, 3]


def test_sums_of_several_threads_are_all_there() -> None:
    w, grad = np.zeros(200_000, "f4"), np.ones(200_000, "f4")
    optimizer = cyoptim.SGD([w], lr=1.0)
    threads = [
        threading.Thread(target=lambda: [optimizer.accumulate([grad]) for _ in range(5)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert optimizer.accumulate([grad]) == 16
    optimizer.step()
    assert (w == -1).all()


def test_two_saves_of_the_same_optimizers_do_not_wait_for_each_other(tmp_path: Path) -> None:
    ours = [(np.zeros(1000), cyoptim.SGD([np.zeros(3)])) for _ in range(2)]
    (a, b), errors = [optimizer for _, optimizer in ours], []

    def save(name: str, **objects: Any) -> None:
        try:
            for _ in range(20):
                cyoptim.save(tmp_path / name, **objects)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=save, args=("1.npz",), kwargs={"a": a, "b": b}, daemon=True),
        threading.Thread(target=save, args=("2.npz",), kwargs={"b": b, "a": a}, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert not any(thread.is_alive() for thread in threads)
    assert not errors


# --- within a turn -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("state_dict()", lambda o, w: o.state_dict()),
        ("step()", lambda o, w: o.step(grads=[np.ones(2)])),
        ("accumulate()", lambda o, w: o.accumulate([np.ones(2)])),
        ("zero_grad()", lambda o, w: o.zero_grad()),
        ("cyoptim.save()", lambda o, w: cyoptim.save("never.npz", o=o)),
        ("clip_grad_norm_()", lambda o, w: cyoptim.clip_grad_norm_([w], 1.0, grads=[np.ones(2)])),
        ("parameters_to_vector()", lambda o, w: cyoptim.parameters_to_vector([w])),
    ],
)
def test_a_call_from_within_a_step_is_refused(name: str, call: Any) -> None:
    class Calling(cyoptim.Optimizer):
        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= grad
            call(self, w)

    w = np.zeros(2)
    optimizer = Calling([w], {})
    with pytest.raises(RuntimeError) as caught:
        optimizer.step(grads=[np.ones(2)])
    assert name in str(caught.value)
    assert not w.any()
    assert optimizer.state_dict()["param_groups"]


def test_what_the_closure_of_lbfgs_may_do() -> None:
    x = cyoptim.Parameter(np.array([3.0, -4.0]))
    optimizer = cyoptim.LBFGS([x], max_iter=3)
    seen = []

    def closure() -> Any:
        optimizer.zero_grad()
        x.grad = 2 * x.data
        cyoptim.clip_grad_norm_([x], 100.0)
        seen.append((optimizer.state_dict(), cyoptim.parameters_to_vector([x])))
        for refused in (optimizer.step, optimizer.accumulate):
            with pytest.raises((RuntimeError, TypeError)):
                refused()
        with pytest.raises(
            RuntimeError, match=r"load_state_dict\(\) was called from within step\(\)"
        ):
            optimizer.load_state_dict(optimizer.state_dict())
        return float((x.data**2).sum())

    optimizer.step(closure)
    assert len(seen) > 1
    assert abs(x.data).max() < 1


# --- interrupts and forks ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_an_interrupt_of_a_wait_gives_the_place_up() -> None:
    _, optimizer, thread = held()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.state_dict()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    optimizer.go.set()
    thread.join(LONG)
    optimizer.step(grads=[np.ones(4)])
    assert optimizer.state_dict()["param_groups"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.parametrize("call", ["step", "state_dict"])
def test_a_child_refuses_what_was_half_done(call: str) -> None:
    _, optimizer, thread = held()
    child = os.fork()
    if child == 0:
        try:
            optimizer.step(grads=[np.ones(4)]) if call == "step" else optimizer.state_dict()
        except RuntimeError as error:
            os._exit(0 if "when this process was forked" in str(error) else 3)
        os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    optimizer.go.set()
    thread.join(LONG)


# --- gradients in the memory of state ------------------------------------------------------------------


@pytest.mark.parametrize("cls", [cyoptim.SGD, cyoptim.Muon])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_gradient_that_is_another_parameters_state(
    cls: Any, threads: int, many_threads: None
) -> None:
    def run(copied: bool) -> Any:
        rng = np.random.default_rng(0)
        shape = (300, 200) if cls is cyoptim.SGD else (20, 30)
        p, q = rng.standard_normal((2, *shape))
        options = {"momentum": 0.9} if cls is cyoptim.SGD else {}
        optimizer = cls([p, q], lr=0.1, **options)
        optimizer.step(grads=list(rng.standard_normal((2, *shape))))
        with cyoptim.threads(threads):
            for _ in range(3):
                grads = [optimizer.state[x]["momentum_buffer"] for x in (q, p)]
                optimizer.step(grads=[g.copy() for g in grads] if copied else grads)
        return p.tobytes() + q.tobytes()

    assert run(False) == run(True)


def test_a_gradient_that_is_an_average() -> None:
    def run(copied: bool) -> Any:
        p, q = np.arange(3.0), np.arange(3.0, 6.0)
        optimizer = cyoptim.SGD([p, q], lr=0.1)
        average = optimizer.ema(0.5)
        for _ in range(3):
            grads = [average[q], average[p]]
            optimizer.step(grads=[g.copy() for g in grads] if copied else grads)
        return p.tobytes() + q.tobytes()

    assert run(False) == run(True)
