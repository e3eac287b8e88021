"""Several Python threads at once, with the GIL and without: each call is done whole or refused.

In parameters and state everything tells how often a step was made: with momentum 1 and gradients of 1,
m steps leave the buffer at m and the parameters at -m (m + 1) / 2.
"""

from __future__ import annotations

import copy
import gc
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.kernel import Kernel
from tests.support.guest_runs import TIMEOUT, bits
from tests.support.processes import lines_of

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
THREADS = 4
LITTLE, MUCH = 7, 40_000  # elements: with the GIL held, and without
# Threads must be at it for long enough to meet within a few instructions.
SECONDS = 0.4


def rounds(most: int = 1_000_000) -> Iterator[int]:
    """Numbers from 0 on, for some time."""
    end = time.monotonic() + SECONDS
    for k in range(most):
        yield k
        if time.monotonic() > end:
            break


@contextmanager
def quick_switches() -> Any:
    """With a GIL, let threads take turns a thousand times as often."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """Run the functions in threads that begin together; their results, or the first error."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(k: int) -> None:
        try:
            barrier.wait(TIMEOUT)
            results[k] = works[k]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(works))]
    with quick_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    if errors:
        raise errors[0]
    return results


def while_it_steps(optimizer: Any, other: Callable[[int], Any], most: int = 1_000_000) -> int:
    """Step in one thread while others make calls; how many steps there were."""

    def step() -> int:
        steps = 0
        for _ in rounds(most):
            optimizer.step()
            steps += 1
        return steps

    def call() -> None:
        for k in rounds():
            other(k)

    steps: int = at_once(step, *[call] * (THREADS - 1))[0]
    return steps


def momentum(size: int = LITTLE, count: int = 3) -> tuple[list[cyoptim.Parameter], cyoptim.SGD]:
    params = [cyoptim.Parameter(np.zeros(size)) for _ in range(count)]
    for param in params:
        param.grad = np.ones(size)
    return params, cyoptim.SGD(params, lr=1.0, momentum=1.0)


def check_steps(params: list[cyoptim.Parameter], optimizer: Any, m: int) -> None:
    for param in params:
        assert (param.data == -m * (m + 1) / 2).all()
        assert (optimizer.state[param]["momentum_buffer"] == m).all()


# --- the declaration ------------------------------------------------------------------------------


@pytest.mark.skipif(not FREE_THREADED, reason="needs a free-threaded Python")
def test_the_gil_stays_off() -> None:
    code = """
        import sys, warnings
        warnings.simplefilter("error")
        import numpy as np
        import cyoptim.kernel, cyoptim.checkpoint
        from cyoptim import _dispatch
        for name in _dispatch.available():
            _dispatch.use(name)
        cyoptim.Adam([np.zeros(3)]).step(grads=[np.ones(3)])
        print(sys._is_gil_enabled())
    """
    assert lines_of(code, PYTHON_GIL="") == ["False"]


# --- each its own ---------------------------------------------------------------------------------

OPTIMIZERS = [
    ("Adam", {}),
    ("SGD", {"momentum": 0.9, "dampening": 0.5}),
    ("NAdam", {}),
    ("Adafactor", {}),
    ("Muon", {}),
    ("Lamb", {}),
    ("LBFGS", {"max_iter": 3}),
]


@pytest.mark.parametrize(("name", "options"), OPTIMIZERS, ids=[name for name, _ in OPTIMIZERS])
def test_every_thread_has_its_own(name: str, options: dict[str, Any]) -> None:
    # Made, stepped, saved and copied in every thread: the bits of one thread alone.
    def train() -> bytes:
        rng = np.random.default_rng(1)
        params = [cyoptim.Parameter(rng.standard_normal((6, 5))) for _ in range(4)]
        optimizer = getattr(cyoptim, name)(params, lr=0.1, **options)
        schedule = cyoptim.lr_scheduler.StepLR(optimizer, 5, 0.5)

        def closure() -> float:
            for param in params:
                param.grad = 2 * param.data
            return float(sum((param.data**2).sum() for param in params))

        for k in range(25):
            optimizer.step(closure)
            schedule.step()
            if k % 10 == 0:
                cyoptim.clip_grad_norm_(params, 1.0)
                optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        return b"".join(param.data.tobytes() for param in params)

    alone = train()
    assert at_once(*[train] * THREADS) == [alone] * THREADS


def test_they_are_made_and_dropped_while_others_look_for_them() -> None:
    # A clip looks through all optimizers for those that use the memory of its arrays.
    params, optimizer = momentum()

    def make() -> None:
        for k in rounds():
            made = [cyoptim.SGD([np.zeros(2)], lr=1.0) for _ in range(5)]
            made[k % 5].self = made[k % 5]  # a cycle, which the collector ends
            if k % 50 == 0:
                gc.collect()

    def clip() -> None:
        for _ in rounds():
            cyoptim.clip_grad_norm_(params, 1e9)
            cyoptim.parameters_to_vector(params)

    at_once(make, clip, clip, make)
    optimizer.step()
    check_steps(params, optimizer, 1)


# --- one optimizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [{}, {"max_norm": 1e9}], ids=["plain", "with a norm"])
@pytest.mark.parametrize("size", [LITTLE, MUCH])
def test_steps_are_done_whole_or_refused(size: int, arguments: dict[str, Any]) -> None:
    params, optimizer = momentum(size)

    def work() -> int:
        done = 0
        for _ in rounds():
            try:
                optimizer.step(**arguments)
                done += 1
            except RuntimeError as error:
                refusals.add(str(error))
        return done

    refusals: set[str] = set()
    m = sum(at_once(*[work] * THREADS))
    assert m
    assert refusals <= {"step() of this optimizer is already running in another thread"}
    check_steps(params, optimizer, m)


@pytest.mark.parametrize("size", [LITTLE, MUCH])
def test_the_step_count_adds_up(size: int) -> None:
    params = [cyoptim.Parameter(np.zeros(size)) for _ in range(3)]
    grads = [np.ones(size) for _ in params]
    optimizer = cyoptim.Adam(params, lr=0.1)

    def work() -> int:
        done = 0
        for _ in rounds(3000):
            with suppress(RuntimeError):
                optimizer.step(grads=grads)
                done += 1
        return done

    m = sum(at_once(*[work] * THREADS))
    alone = cyoptim.Adam([cyoptim.Parameter(np.zeros(size)) for _ in params], lr=0.1)
    for _ in range(m):
        alone.step(grads=grads)
    assert [int(optimizer.state[param]["step"]) for param in params] == [m] * 3
    assert bits(optimizer) == bits(alone)


def test_calls_that_wait_all_get_their_turn() -> None:
    params, optimizer = momentum(MUCH)

    ones = [np.ones(MUCH)] * 3

    def work() -> int:
        calls = 0
        for _ in rounds():
            optimizer.accumulate(ones)
            calls += 1
        return calls

    calls = sum(at_once(*[work] * THREADS))
    assert optimizer.accumulate(ones) == calls + 1
    optimizer.step()
    for param in params:
        assert len(np.unique(param.data)) == 1
        np.testing.assert_allclose(param.data, -1, rtol=1e-12)  # calls * (1 / calls)


# --- other calls while it steps -------------------------------------------------------------------


def _looks_whole(values: list[np.ndarray], buffers: list[np.ndarray]) -> None:
    found = {float(m) for buffer in buffers for m in np.unique(buffer)}
    assert len(found) <= 1, found
    for m in found:
        assert all((value == -m * (m + 1) / 2).all() for value in values)


def test_copies_are_whole() -> None:
    params, optimizer = momentum(MUCH)
    optimizer.step()

    def copied(_: int) -> None:
        new = copy.deepcopy(optimizer)
        own = new.param_groups[0]["params"]
        _looks_whole([p.data for p in own], [new.state[p]["momentum_buffer"] for p in own])

    check_steps(params, optimizer, 1 + while_it_steps(optimizer, copied))


READERS: dict[str, Callable[[Any, int], Any]] = {
    "state_dict": lambda o, _: o.state_dict(),
    "repr": lambda o, _: repr(o),
    "state": lambda o, _: [dict(o.state[p]) for p in o.state],
    "groups": lambda o, _: [dict(group) for group in o.param_groups],
    "last_step": lambda o, _: o.last_step,
    "num_threads": lambda _, k: cyoptim.set_num_threads(1 + k % 2),
    "threads": lambda _, k: cyoptim.threads(1 + k % 2).__class__,
    "other optimizers": lambda _, k: cyoptim.SGD([np.zeros(3)], lr=1.0 + k),
    "vector": lambda o, _: cyoptim.parameters_to_vector(o.param_groups[0]["params"]),
}


@pytest.mark.parametrize("name", READERS)
def test_what_only_reads_changes_nothing(name: str) -> None:
    params, optimizer = momentum()
    check_steps(params, optimizer, while_it_steps(optimizer, lambda k: READERS[name](optimizer, k)))


def test_a_gradient_is_replaced_whenever() -> None:
    # Each step takes one of the gradients that there were, whole; no step takes what has ended.
    params, optimizer = momentum(LITTLE, 5)
    optimizer.step()  # a first one without any gradient would warn
    seen = [param.data for param in params]

    def replace(k: int) -> None:
        for param in params:
            param.grad = np.ones(LITTLE) if k % 3 else None
            found = param.grad  # of any thread
            assert found is None or found.tolist() == [1.0] * LITTLE

    assert while_it_steps(optimizer, replace)
    for param, data in zip(params, seen, strict=True):
        assert param.data is data
        assert len(np.unique(data)) == 1


def test_data_is_replaced_whenever() -> None:
    params, optimizer = momentum(LITTLE, 5)

    def replace() -> None:
        for k in rounds():
            params[k % 5].data = np.zeros(LITTLE)
            assert params[k % 5].data.shape == (LITTLE,)

    def step() -> None:
        for _ in rounds():
            with suppress(RuntimeError, ValueError):  # replaced while the step was prepared
                optimizer.step()

    at_once(step, replace, replace)
    for param in params:
        param.data = np.zeros(LITTLE)
    optimizer.step()
    assert all(len(np.unique(param.data)) == 1 for param in params)


def test_an_option_that_is_set_applies_from_the_next_step_on() -> None:
    # Set by another thread, and read while it is set: never a mixture that stays.
    params, optimizer = momentum()
    group = optimizer.param_groups[0]

    def work() -> None:
        for k in rounds(3000):
            group["lr"] = float(2 + k % 7)

    def step() -> None:
        for _ in rounds(1000):
            optimizer.step()

    for _ in range(10):
        at_once(step, work)
        group["lr"] = 0.0
        before = [param.data.copy() for param in params]
        optimizer.step()
        assert all((param.data == old).all() for param, old in zip(params, before, strict=True))
        group["lr"] = 1.0
        optimizer.step()
        assert not any((p.data == old).all() for p, old in zip(params, before, strict=True))


def test_state_that_is_put_in_is_used() -> None:
    # The step that begins next uses the array that was put in, whatever it met.
    params, optimizer = momentum(LITTLE, 2)
    optimizer.step()
    for _ in range(30):
        done = threading.Event()

        def step(done: threading.Event = done) -> None:
            while not done.is_set():
                optimizer.step()

        def put(done: threading.Event = done) -> None:
            for param in params:
                optimizer.state[param]["momentum_buffer"] = np.full(LITTLE, 1e6)
            done.set()

        at_once(step, put)
        for param in params:
            buffer = optimizer.state[param]["momentum_buffer"]
            before = buffer.copy()
            assert before[0] >= 1e6
            param.grad = np.ones(LITTLE)
        optimizer.step()
        for param in params:
            assert (optimizer.state[param]["momentum_buffer"] > 1e6).all()


def test_the_list_of_parameters_is_changed_whenever() -> None:
    params, optimizer = momentum()
    listed = optimizer.param_groups[0]["params"]

    def step() -> None:
        for _ in rounds():
            with suppress(RuntimeError, ValueError, IndexError):
                optimizer.step()

    def change() -> None:
        for _ in rounds():
            for _ in range(50):
                listed.append(cyoptim.Parameter(np.zeros(2)))
            del listed[3:]

    at_once(step, change)
    del listed[3:]
    optimizer.step()
    for param in params:
        assert len(np.unique(param.data)) == 1


def test_groups_are_added_while_it_steps() -> None:
    params, optimizer = momentum()
    added: list[int] = []

    def add(k: int) -> None:
        if len(added) < 30:
            optimizer.add_param_group({"params": [cyoptim.Parameter(np.zeros(2))]})
            added.append(k)

    steps = while_it_steps(optimizer, add)
    assert len(optimizer.param_groups) == 1 + len(added)
    check_steps(params, optimizer, steps)


def test_loads_and_steps() -> None:
    params, optimizer = momentum()
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert while_it_steps(optimizer, lambda _: optimizer.load_state_dict(saved))
    buffers = [optimizer.state[param]["momentum_buffer"] for param in params]
    assert len({float(m) for buffer in buffers for m in np.unique(buffer)}) == 1
    optimizer.load_state_dict(saved)
    assert all((optimizer.state[param]["momentum_buffer"] == 1).all() for param in params)


def test_options_are_there_while_a_state_is_loaded() -> None:
    _, optimizer = momentum()
    saved = copy.deepcopy(optimizer.state_dict())
    group = optimizer.param_groups[0]

    def load() -> None:
        for _ in rounds():
            optimizer.load_state_dict(saved)

    def look() -> None:
        for _ in rounds():
            assert group["lr"] == 1.0
            assert group["momentum"] == 1.0

    at_once(load, look, look)


def test_averages_and_steps() -> None:
    params, optimizer = momentum(MUCH)
    optimizer.ema(0.5)
    optimizer.step()

    def step() -> int:
        done = 0
        for _ in rounds():
            try:
                optimizer.step()
                done += 1
            except RuntimeError as error:
                refusals.add(str(error))
        return done

    def average() -> None:
        for _ in rounds():
            with suppress(RuntimeError), optimizer.averaged():  # it may be another thread's block
                time.sleep(0)

    refusals: set[str] = set()
    done, *_ = at_once(step, average, average)
    assert all("averaged()" in text for text in refusals), refusals
    check_steps(params, optimizer, 1 + done)


def test_a_block_of_averages_that_two_threads_leave_is_left_once() -> None:
    params, optimizer = momentum()
    optimizer.ema(0.5)
    for _ in range(4):
        optimizer.step()
    for _ in rounds():
        block = optimizer.averaged()
        block.__enter__()
        refused = []

        def leave(block: Any = block, refused: list[str] = refused) -> None:
            try:
                block.__exit__(None, None, None)
            except RuntimeError as error:
                refused.append(str(error))

        at_once(leave, leave)
        assert refused == ["the block of averaged() was left without being entered"]
        check_steps(params, optimizer, 4)


def test_schedules_and_steps() -> None:
    params, optimizer = momentum()
    schedule = cyoptim.lr_scheduler.StepLR(optimizer, 1, 1.0)
    optimizer.step()
    check_steps(params, optimizer, 1 + while_it_steps(optimizer, lambda _: schedule.step()))


def test_hooks_get_numbers_of_their_own() -> None:
    _, optimizer = momentum()

    def register() -> list[int]:
        return [optimizer.register_step_pre_hook(print).id for _ in rounds(20_000)]

    found = at_once(*[register] * THREADS)
    numbers = [number for part in found for number in part]
    assert len(set(numbers)) == len(numbers)
    assert len(optimizer._optimizer_step_pre_hooks) == len(numbers)


def test_clips_and_sums_while_it_steps() -> None:
    params, optimizer = momentum(MUCH)
    clipped = while_it_steps(optimizer, lambda _: cyoptim.clip_grad_norm_(params, 1e9))
    grads = [param.grad for param in params]
    measured = while_it_steps(optimizer, lambda _: cyoptim.get_total_norm(grads))
    check_steps(params, optimizer, clipped + measured)


# --- other objects --------------------------------------------------------------------------------


def test_gradients_of_one_parameter_from_many_threads() -> None:
    # Every reference is counted: none of the arrays is left, and none ends early.
    param = cyoptim.Parameter(np.zeros(LITTLE))
    shared = np.ones(LITTLE)
    before = sys.getrefcount(shared)

    def work() -> None:
        for k in rounds():
            param.grad = shared if k % 2 else None
            param.grad = np.ones(LITTLE)
            found = param.grad
            assert found is None or found[0] == 1

    at_once(*[work] * THREADS)
    param.grad = None
    assert sys.getrefcount(shared) == before


def test_kernels() -> None:
    # A Kernel is one thread's at a time; many threads have many.
    def work() -> list[Any]:
        kernel = Kernel(cyoptim.Adam, lr=0.5)
        for k in range(50):
            kernel.optimizer.param_groups[0]["lr"] = 0.1 * (1 + k % 3)
            kernel.read_options()
            kernel.state = {"step": k}
        return [kernel.state, kernel.state_names, kernel.initial_values]

    found = at_once(*[work] * THREADS)
    assert all(one == found[0] for one in found)


def test_trees() -> None:
    def work() -> list[Any]:
        tree = {"a": [np.zeros(3), np.zeros(2)], "b": {"c": np.zeros(1)}}
        optimizer = cyoptim.SGD(tree, lr=1.0)
        for _ in range(20):
            optimizer.step(grads={"a": [np.ones(3), np.ones(2)], "b": {"c": np.ones(1)}})
        return [array.tolist() for _, array in cyoptim.named_leaves(tree)]

    expected = [[-20.0] * 3, [-20.0] * 2, [-20.0]]
    assert at_once(*[work] * THREADS) == [expected] * THREADS


@pytest.mark.slow
@pytest.mark.skipif(not FREE_THREADED, reason="needs a free-threaded Python")
def test_small_steps_of_two_optimizers_run_side_by_side() -> None:
    # With a GIL the second thread would wait for the first: here both are inside of a step at once.
    code = """
        import sys, threading, time
        import numpy as np
        assert not sys._is_gil_enabled()
        inside, met = [0, 0], [0]
        class Slow(cyoptim.Optimizer):
            def __init__(self, params, number):
                self.number = number
                super().__init__(params, {})
            def update(self, param, grad, state, group):
                inside[self.number] = 1
                end = time.monotonic() + 0.002
                while time.monotonic() < end:
                    met[0] += inside[1 - self.number]
                inside[self.number] = 0
        sys.setswitchinterval(100)      # no thread would give up a GIL by itself
        def work(number):
            optimizer = Slow([np.zeros(3)], number)
            for _ in range(100):
                optimizer.step(grads=[np.ones(3)])
        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        [t.start() for t in threads], [t.join() for t in threads]
        print(met[0] > 0)
    """
    assert lines_of(code, PYTHON_GIL="") == ["True"]
