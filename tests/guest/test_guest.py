"""A good guest: what a process that cyoptim runs in can rely on.

Python threads, signals, limits on threads; test_guest_forks.py, test_guest_files.py and
test_guest_floats.py are about forks, files as memory, and the floating-point mode. test_pool.py looks
at the pool alone, test_config.py at what the settings are.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _config
from tests.support.doors import needs_openmp
from tests.support.guest_runs import TIMEOUT, bits, needs_proc, run_script

pytestmark = pytest.mark.usefixtures("many_threads", "each_layer")


# --- Python threads -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (cyoptim.Adam, {}),
        (cyoptim.Adam, {"max_norm": 1.0, "nonfinite": "raise"}),
        (cyoptim.NAdam, {}),
        (cyoptim.Adafactor, {}),
    ],
)
def test_one_optimizer_from_two_threads(cls: Any, arguments: dict[str, Any]) -> None:
    # Each step is done once and whole, or refused.
    def make() -> Any:
        return cls([np.zeros((500, 800)), np.zeros(3)], lr=0.1)

    grads = [np.ones((500, 800)), np.ones(3)]
    optimizer, done, refused = make(), [], []
    barrier = threading.Barrier(2)

    def work() -> None:
        barrier.wait(TIMEOUT)
        for _ in range(15):
            try:
                optimizer.step(grads=grads, **arguments)
                done.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert len(done) + len(refused) == 30
    assert done
    assert all("already running in another thread" in text for text in refused)
    alone = make()
    for _ in done:
        alone.step(grads=grads, **arguments)
    assert bits(optimizer) == bits(alone)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "clip"])
def test_other_threads_run_during_a_step(what: str) -> None:
    w, g = np.zeros(8_000_000), np.ones(8_000_000)
    optimizer = cyoptim.SGD([w], lr=1.0)
    seen: list[float] = []
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            seen.append(time.perf_counter())

    def during(start: float, end: float) -> int:
        # With the GIL held there is none, whatever the machine is busy with.
        third = (end - start) / 3
        return sum(start + third < moment < end - third for moment in seen)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        for _ in range(50):
            seen.clear()
            start = time.perf_counter()
            with cyoptim.threads(1):
                if what == "step":
                    optimizer.step(grads=[g])
                else:
                    cyoptim.clip_grad_norm_([w], 1e9, grads=[g])
            if during(start, time.perf_counter()):
                break
        else:
            pytest.fail("no other Python thread has run during fifty long steps")
    finally:
        stop.set()
        thread.join(TIMEOUT)


def test_blocks_of_threads_that_end_in_another_order() -> None:
    # The limit is the process's: the block entered last counts, and nothing is left of any.
    most = cyoptim.get_num_threads()
    first, second = cyoptim.threads(1), cyoptim.threads(10_000)
    first.__enter__()
    assert cyoptim.get_num_threads() == 1
    second.__enter__()
    assert cyoptim.get_num_threads() == most
    first.__exit__(None, None, None)
    assert cyoptim.get_num_threads() == most
    second.__exit__(None, None, None)
    assert cyoptim.get_num_threads() == most
    with cyoptim.threads(10_000):
        cyoptim.set_num_threads(1)  # until the end of the block
        assert cyoptim.get_num_threads() == 1
    assert cyoptim.get_num_threads() == most


@pytest.mark.slow
def test_exit_while_a_daemon_thread_steps() -> None:
    code = """
        from tests.support.guest_runs import started, gradient
        _engine.take_all_threads(True)
        def work():
            optimizer, grad = started()[1], gradient(0)
            while True:
                optimizer.step(grads=[grad])
                ready.set()
        ready = threading.Event()
        for _ in range(2):
            threading.Thread(target=work, daemon=True).start()
        assert ready.wait(60)
        print("leaving")
    """
    for _ in range(2):
        assert run_script(code) == ["leaving"]


# --- signals --------------------------------------------------------------------------------------

INTERRUPTS = """
    import hashlib
    from tests.support.guest_runs import bits
    _engine.take_all_threads(True)
    tensors = sys.argv[1] == "tensors"
    if tensors:
        import torch

    def in_kind(arrays):
        return [torch.from_numpy(a) for a in arrays] if tensors else arrays

    def values(x):
        return in_kind([np.full(1_000_000, x, np.float32), np.full((3, 5), x, np.float32)])

    grads = values(0.5)

    def look(optimizer):
        digest = hashlib.sha1(bits(optimizer))
        for array in optimizer._sums.gradients():
            digest.update(b"" if array is None else array.tobytes())
        return digest.digest(), optimizer._sums.count

    def versions(optimizer):
        params = optimizer.param_groups[0]["params"]
        return [p._version for p in params] if tensors else [0]

    def prepare(optimizer):
        if how == "accumulated" and not optimizer._sums.count:
            optimizer.accumulate(grads)
        return look(optimizer)

    def step(optimizer):
        if how == "plain":
            optimizer.step(grads=grads)
        elif how == "extras":
            optimizer.step(grads=grads, max_norm=1.0, nonfinite="skip")
        elif how == "accumulated":
            optimizer.step()
        else:
            optimizer.accumulate(grads)

    # What Ctrl-C does, at a moment that a timer of the system's keeps.
    signal.signal(signal.SIGALRM, signal.default_int_handler)

    met, most = 0, cyoptim.get_num_threads()
    for cls, how in [
        (cyoptim.AdamW, "plain"),
        (cyoptim.NAdam, "extras"),
        (cyoptim.SGD, "plain"),
        (cyoptim.Adam, "accumulated"),
        (cyoptim.Adam, "accumulating"),
    ]:
        if tensors and how.startswith("accumulat"):
            continue
        options = {"momentum": 0.9, "dampening": 0.5} if cls is cyoptim.SGD else {}
        alone, snapshots, durations = cls(values(0.0), lr=0.1, **options), [], []
        for k in range(8):
            prepare(alone)
            with cyoptim.threads(1 + k % 2):
                start = time.perf_counter()
                step(alone)
                durations.append(time.perf_counter() - start)
            snapshots.append(look(alone))
        usual = sorted(durations)[2]
        optimizer, done = cls(values(0.0), lr=0.1, **options), 0
        for k in range(8):
            before, ended = prepare(optimizer), False
            version = versions(optimizer)
            try:
                with cyoptim.threads(1 + k % 2):
                    signal.setitimer(signal.ITIMER_REAL, usual * (k % 4 + 0.5) / 4)
                    step(optimizer)
                ended = True
                while True:
                    pass
            except KeyboardInterrupt:
                pass
            after = look(optimizer)
            assert after in (before, snapshots[done]), (cls, how, k, before, after)
            done += after == snapshots[done]
            # Autograd knows of every change; of one too many if the step was not made.
            assert not tensors or after == before or min(versions(optimizer)) > max(version)
            met += after != before and not ended
        assert cyoptim.get_num_threads() == most
        while done < 8:
            prepare(optimizer)
            step(optimizer)
            done += 1
        assert look(optimizer) == snapshots[-1]
    assert met > 3, "hardly an interrupt came during a step"
    print("fine")
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_an_interrupt_during_a_step_waits_for_its_end(kind: str) -> None:
    # Whenever it comes, KeyboardInterrupt finds parameters, state, counts and sums of gradients
    # as they were before the step or as they are after it, never between.
    if kind == "tensors" and importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    assert run_script(INTERRUPTS, kind) == ["fine"]


# --- limits on threads ----------------------------------------------------------------------------


@pytest.mark.slow
@needs_proc
def test_no_more_threads_than_work_and_none_that_idle_busily() -> None:
    code = """
        def threads():
            return len(os.listdir("/proc/self/task"))

        def step(n, dtype=np.float32):
            w = np.zeros(n, dtype)
            cyoptim.SGD([w], lr=1.0).step(grads=[np.ones_like(w)])
            cyoptim.clip_grad_norm_([w], 1.0, grads=[w])
            return threads() - before

        _engine.set_limits(0, False)  # on however few processors
        before = threads()
        print(cyoptim.get_num_threads(), step(16383), step(16383, np.float64))
        _engine.take_all_threads(True)
        print(step(16383), step(16384), step(16384, np.float64), step(20481), step(640_000))
        with cyoptim.threads(1):
            print(step(640_000))
        time.sleep(0.05)
        start = time.process_time()
        time.sleep(0.3)
        print(time.process_time() - start < 0.1)
    """
    assert run_script(code, OMP_NUM_THREADS="8") == ["8 0 0", "0 3 3 5 7", "7", "True"]


@pytest.mark.slow
@needs_openmp
@needs_proc
def test_threadpoolctl_is_respected() -> None:
    # Its limit is OpenMP's, which is that of the Python thread that sets it.
    pytest.importorskip("threadpoolctl")
    code = """
        import threadpoolctl
        _engine.set_limits(0, False)  # on however few processors
        _engine.take_all_threads(True)

        def step():
            before = len(os.listdir("/proc/self/task"))
            w = np.zeros(1_000_000, np.float32)
            cyoptim.SGD([w], lr=1.0).step(grads=[np.ones_like(w)])
            return cyoptim.get_num_threads(), len(os.listdir("/proc/self/task")) - before

        with threadpoolctl.threadpool_limits(1):
            print(step())
        with threadpoolctl.threadpool_limits(2, user_api="openmp"):
            print(step())
            with threadpoolctl.threadpool_limits(1, user_api="blas"):
                print(step())
        print(step())
    """
    assert run_script(code, OMP_NUM_THREADS="4") == ["(1, 0)", "(2, 1)", "(2, 0)", "(4, 2)"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_affinity_narrowed_after_the_import() -> None:
    code = """
        processors = os.sched_getaffinity(0)
        print(1 <= cyoptim.get_num_threads() <= len(processors))
        os.sched_setaffinity(0, [min(processors)])
        w = np.zeros(1_000_000, np.float32)
        before = len(os.listdir("/proc/self/task"))
        cyoptim.SGD([w], lr=1.0).step(grads=[np.ones_like(w)])
        print(cyoptim.get_num_threads(), len(os.listdir("/proc/self/task")) - before)
        os.sched_setaffinity(0, processors)
    """
    for chosen in ("", "2", "64"):
        assert run_script(code, OMP_NUM_THREADS=chosen) == ["True", "1 0"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_threads_that_cannot_be_started_are_done_without(each_layer: str) -> None:
    if each_layer == "openmp":
        pytest.skip("OpenMP itself ends a process whose threads cannot be started")
    code = """
        import resource
        _engine.set_limits(0, False)  # on however few processors
        w = np.zeros(2_000_000, np.float32)
        g = np.ones_like(w)
        optimizer = cyoptim.SGD([w], lr=1.0)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), resource.RLIM_INFINITY))
        before = len(os.listdir("/proc/self/task"))
        optimizer.step(grads=[g])
        started = len(os.listdir("/proc/self/task")) - before
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(started, (w == -1).all())
        optimizer.step(grads=[g])
        print((w == -2).all())
    """
    assert run_script(code, OMP_NUM_THREADS="4") == ["0 True", "True"]


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        # Version 1: mounted under its controllers' names; groups above count, too.
        ("4:cpu,cpuacct:/a/b\n1:name=systemd:/a\n", {"cpu,cpuacct/a/b/cpu.cfs": 300_000}, 3),
        (
            "4:cpu,cpuacct:/a/b\n",
            {"cpu/a/b/cpu.cfs": 300_000, "cpu/a/cpu.cfs": 150_000, "cpu/cpu.cfs": -1},
            2,
        ),
        # Inside a container its own path may not exist, or lead out of what is mounted.
        ("4:cpu:/docker/123\n", {"cpu/cpu.cfs": 200_000}, 2),
        ("0::/../../other\n", {"cpu.max": 100_000}, 1),
        # Names are bytes; what cannot be made out is no reason to fail.
        (b"0::/caf\xe9\n", {b"caf\xe9/cpu.max": 300_000}, 3),
        ("nonsense\n\n0::/a\n", {"a/cpu.max": 300_000}, 3),
        ("0::/a\n", {"a/cpu.max": 0}, 1),
    ],
)
def test_control_groups(own: Any, files: dict[Any, int], quota: int, tmp_path: Path) -> None:
    for name, value in files.items():
        path = tmp_path / os.fsdecode(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            pytest.skip("no such file name here")
        if path.name == "cpu.max":
            path.write_text(f"{value} 100000\n")
        else:
            path.with_name("cpu.cfs_quota_us").write_text(f"{value}\n")
            path.with_name("cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_bytes(own if isinstance(own, bytes) else own.encode())
    assert _config._quota(tmp_path, tmp_path / "own") == quota
