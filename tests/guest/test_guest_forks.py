"""A good guest: forks, and optimizers sent to other processes."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine
from tests.support.guest_runs import (
    TIMEOUT,
    bits,
    by_os_fork,
    go_on,
    may_fork,
    needs_fork,
    run_script,
    serial,
    started,
)

pytestmark = pytest.mark.usefixtures("many_threads", "each_layer")


def by_multiprocessing(work: Callable[[], None]) -> int | None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
    process.join()
    return process.exitcode


class Busy:
    """Other Python threads that step while the block runs."""

    def __init__(self, count: int) -> None:
        self.stop = threading.Event()
        self.steps = [0] * count
        self.threads = [threading.Thread(target=self.work, args=(k,)) for k in range(count)]

    def work(self, k: int) -> None:
        optimizer = started()[1]
        while not self.stop.is_set():
            go_on(optimizer, 0, 1)
            self.steps[k] += 1

    def __enter__(self) -> Busy:
        for thread in self.threads:
            thread.start()
        while 0 in self.steps:
            time.sleep(0.001)
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join(TIMEOUT)


@pytest.mark.slow
@needs_fork
@may_fork
@pytest.mark.parametrize("fork", [by_os_fork, by_multiprocessing])
@pytest.mark.parametrize("others", [0, 2], ids=["quiet", "others-step"])
def test_a_forked_child_goes_on_with_the_same_bits(fork: Any, others: int) -> None:
    expected, midway = serial(4), serial(2)
    with Busy(2):
        pass  # other threads have stepped, and are gone
    optimizer = started()[1]
    assert go_on(optimizer, 0, 2) == midway  # in parallel

    def child() -> None:
        for threads in (1, 2):
            with cyoptim.threads(threads):
                assert go_on(started()[1], 0, 4) == expected
        assert go_on(optimizer, 2, 4) == expected  # the parent's own

    with Busy(others):
        for _ in range(3):
            assert fork(child) == 0
    assert bits(optimizer) == midway
    assert go_on(optimizer, 2, 4) == expected


class Waits:
    """A parameter whose gradient takes as long as a test wants."""

    def __init__(self) -> None:
        self.data = np.zeros(3)
        self.stepped = False
        self.asked, self.go = threading.Event(), threading.Event()

    @property
    def grad(self) -> np.ndarray:
        if self.stepped:
            self.asked.set()
            assert self.go.wait(TIMEOUT)
        return np.ones(3)


@pytest.mark.slow
@needs_fork
@may_fork
@pytest.mark.parametrize("cls", [cyoptim.SGD, cyoptim.Adafactor, cyoptim.LBFGS])
def test_an_optimizer_in_a_step_when_the_process_forks(cls: Any) -> None:
    # In the child nobody will ever finish that step.
    param = Waits()
    optimizer = cls([param], lr=1.0)
    param.stepped = True
    thread = threading.Thread(target=optimizer.step, args=(lambda: 0.0,))
    thread.start()
    assert param.asked.wait(TIMEOUT)

    def child() -> None:
        param.go.set()
        with pytest.raises(RuntimeError, match="in another thread when this process was forked"):
            optimizer.step(lambda: 0.0)
        go_on(started()[1], 0, 1)  # others are as good as ever

    try:
        with pytest.raises(RuntimeError, match="already running"):
            optimizer.step(lambda: 0.0)
        assert by_os_fork(child) == 0
    finally:
        param.go.set()
        thread.join(TIMEOUT)
    optimizer.step(lambda: 0.0)
    assert (param.data != 0).all()


@pytest.mark.slow
@needs_fork
def test_fork_after_other_libraries_pools_have_worked() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    code = """
        import warnings
        import torch
        from sklearn.cluster import KMeans
        from sklearn.neural_network import MLPRegressor
        from tests.support.guest_runs import N, by_os_fork, go_on, gradient, serial, started
        warnings.simplefilter("ignore")
        _engine.take_all_threads(True)
        expected = serial()

        def use_pools():
            a = torch.ones(400, 400)
            torch.mm(a, a) + 1
            torch.nn.functional.relu(torch.ones(1_000_000)).sum()
            x = np.random.default_rng(0).standard_normal((2000, 8))
            KMeans(3, n_init=1, max_iter=3, random_state=0).fit(x)
            MLPRegressor(hidden_layer_sizes=(20,), max_iter=2, random_state=0).fit(x, x[:, 0])

        def tensor_steps():
            # What torch itself does on its threads hangs in a forked child: no torch.zeros here.
            w = torch.from_numpy(np.zeros(N, np.float32))
            optimizer = cyoptim.AdamW([w], lr=0.1)
            for k in range(4):
                w.grad = torch.from_numpy(gradient(k))
                optimizer.step()
            return w.numpy().tobytes()

        def child():
            for threads in (1, 2):
                with cyoptim.threads(threads):
                    assert go_on(started()[1], 0, 4) == expected
                    assert tensor_steps() == expected[: 4 * N]

        use_pools()
        child()
        assert by_os_fork(child) == 0
        busy = threading.Event()
        stop = threading.Event()

        def work():
            a = torch.ones(300, 300)
            while not stop.is_set():
                torch.mm(a, a)
                tensor_steps()
                busy.set()

        thread = threading.Thread(target=work)
        thread.start()
        busy.wait(60)
        assert by_os_fork(child) == 0
        stop.set()
        thread.join(60)
        use_pools()
        child()
        print("fine")
    """
    assert run_script(code) == ["fine"]


@pytest.mark.slow
@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="needs GNU's OpenMP")
def test_fork_after_another_library_has_used_the_team(each_layer: str) -> None:
    # No step of ours was on the team before the fork.
    code = """
        import ctypes
        from tests.support.guest_runs import by_os_fork, go_on, serial, started
        try:
            library = ctypes.CDLL("libgomp.so.1")
        except OSError:
            print("no library")
            sys.exit()
        _engine.set_limits(0, False)  # on however few processors
        _engine.take_all_threads(True)
        with cyoptim.threads(1):
            expected = serial()
        region = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda nothing: None)
        library.GOMP_parallel(region, None, 2, 0)

        def child():
            with cyoptim.threads(2):
                assert go_on(started()[1], 0, 4) == expected

        print(by_os_fork(child))
    """
    lines = run_script(code, OMP_NUM_THREADS="2")
    if lines == ["no library"]:
        pytest.skip("GNU's OpenMP is not here")
    assert lines == ["0"]


def resumed(params: Any, optimizer: Any, expected: bytes) -> None:
    assert params[0] is optimizer.param_groups[0]["params"][0]
    _engine.take_all_threads(True)
    for threads in (1, 2):
        with cyoptim.threads(threads):
            assert go_on(started()[1], 0, 4) == expected
    assert go_on(optimizer, 2, 4) == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_an_optimizer_sent_to_a_fresh_process(method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} here")
    params, optimizer = started()
    go_on(optimizer, 0, 2)
    process = multiprocessing.get_context(method).Process(
        target=resumed, args=(params, optimizer, serial())
    )
    process.start()
    process.join(TIMEOUT)
    if process.is_alive():
        process.kill()
    process.join()
    assert process.exitcode == 0
