"""The pool of threads: every bundle once, whoever does it, and never waiting for others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.processes import lines_of

N = 700_001


pytestmark = pytest.mark.usefixtures("many_threads", "each_layer")


def step_once(n: int = N) -> np.ndarray:
    w = np.zeros(n, np.float32)
    cyoptim.SGD([w], lr=1.0).step(grads=[np.arange(n, dtype=np.float32)])
    return w


@pytest.mark.slow
def test_every_element_is_done_once() -> None:
    for n in (1, 16384, 16385, 40_000, 16384 * 7, N):
        for _ in range(20):
            np.testing.assert_array_equal(step_once(n), -np.arange(n, dtype=np.float32))


@pytest.mark.slow
def test_many_more_threads_than_processors() -> None:
    code = """
        import numpy as np
        from cyoptim import _engine
        from tests.guest.test_pool import N, step_once
        _engine.set_limits(0, False)  # on however few processors
        _engine.take_all_threads(True)
        assert cyoptim.get_num_threads() == 300
        for _ in range(50):
            np.testing.assert_array_equal(step_once(), -np.arange(N, dtype=np.float32))
    """
    lines_of(code, OMP_NUM_THREADS="300")


@pytest.mark.slow
def test_runs_from_many_python_threads_at_once() -> None:
    failures: list[str] = []

    def work() -> None:
        for _ in range(40):
            if not (step_once(200_000) == -np.arange(200_000, dtype=np.float32)).all():
                failures.append("wrong")

    workers = [threading.Thread(target=work) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
    assert not failures
    assert not any(worker.is_alive() for worker in workers)


def forked(depth: int, queue: Any) -> None:
    fine = bool((step_once() == -np.arange(N, dtype=np.float32)).all())
    if depth:
        process = multiprocessing.get_context("fork").Process(
            target=forked, args=(depth - 1, queue)
        )
        process.start()
        process.join(60)
        fine = fine and process.exitcode == 0
    queue.put(fine)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forks_of_forks_while_other_threads_step() -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            step_once()

    busy = threading.Thread(target=work)
    busy.start()
    try:
        context = multiprocessing.get_context("fork")
        for _ in range(5):
            queue = context.Queue()
            process = context.Process(target=forked, args=(1, queue))
            process.start()
            assert queue.get(timeout=60)
            assert queue.get(timeout=60)
            process.join(60)
            assert process.exitcode == 0
    finally:
        stop.set()
        busy.join()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signals_reach_the_main_thread() -> None:
    # Workers block all signals: a handler runs in the main thread, and no step is spoilt.
    seen: list[bool] = []
    old = signal.signal(
        signal.SIGALRM,
        lambda *_: seen.append(threading.current_thread() is threading.main_thread()),
    )
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            np.testing.assert_array_equal(step_once(), -np.arange(N, dtype=np.float32))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert len(seen) > 3
    assert all(seen)
