"""A good guest: what a process that cyoptim runs in can rely on.

Forks, Python threads, signals, limits on threads, files as memory, the floating-point mode.
test_pool.py looks at the pool alone, test_config.py at what the settings are.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _config, _engine
from doors import needs_openmp

N = 200_001  # elements: thirteen bundles
TIMEOUT = 60

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
may_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def _many_threads() -> Any:
    _engine.set_least_share(1)
    yield
    _engine.set_least_share(8)


def gradient(k: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(k).standard_normal(n, dtype=np.float32)


def bits(optimizer: Any) -> bytes:
    """All that a step changes, parameters and state."""
    found = b""
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state[param]
            found += np.asarray(param).tobytes()
            found += b"".join(np.asarray(state[name]).tobytes() for name in sorted(state))
    return found


def started(n: int = N) -> tuple[list[Any], Any]:
    params = [cyoptim.Parameter(np.zeros(n, np.float32))]
    return params, cyoptim.AdamW(params, lr=0.1)


def go_on(optimizer: Any, first: int, last: int) -> bytes:
    for k in range(first, last):
        optimizer.step(grads=[gradient(k)])
    return bits(optimizer)


def serial(last: int = 4) -> bytes:
    with cyoptim.threads(1):
        return go_on(started()[1], 0, last)


def run_script(code: str, *args: str, **env: str) -> list[str]:
    """The lines that a fresh process prints, which fails or hangs with this test."""
    head = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import os, signal, threading, time\n"
        "import numpy as np\n"
        "import cyoptim\n"
        "from cyoptim import _engine\n"
        "print('begin')\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(code), os.path.dirname(__file__), *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    return lines[lines.index("begin") + 1 :]


# --- forks ----------------------------------------------------------------------------------------


def by_os_fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(TIMEOUT)  # a child that hangs is killed
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


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


@needs_fork
def test_fork_after_other_libraries_pools_have_worked() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    code = """
        import warnings
        import torch
        from sklearn.cluster import KMeans
        from sklearn.neural_network import MLPRegressor
        from test_guest import by_os_fork, go_on, gradient, serial, started, N
        warnings.simplefilter("ignore")
        _engine.set_least_share(1)
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


def resumed(params: Any, optimizer: Any, expected: bytes) -> None:
    assert params[0] is optimizer.param_groups[0]["params"][0]
    _engine.set_least_share(1)
    for threads in (1, 2):
        with cyoptim.threads(threads):
            assert go_on(started()[1], 0, 4) == expected
    assert go_on(optimizer, 2, 4) == expected


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


def test_exit_while_a_daemon_thread_steps() -> None:
    code = """
        from test_guest import started, gradient
        _engine.set_least_share(1)
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
    from test_guest import bits
    _engine.set_least_share(1)
    tensors = sys.argv[2] == "tensors"
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


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("kind", ["arrays", "tensors"])
def test_an_interrupt_during_a_step_waits_for_its_end(kind: str) -> None:
    # Whenever it comes, KeyboardInterrupt finds parameters, state, counts and sums of gradients
    # as they were before the step or as they are after it, never between.
    if kind == "tensors" and importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    assert run_script(INTERRUPTS, kind) == ["fine"]


# --- limits on threads ----------------------------------------------------------------------------


@needs_openmp
@needs_proc
def test_no_more_threads_than_work_and_none_that_idle_busily() -> None:
    code = """
        def threads():
            return len(os.listdir("/proc/self/task"))

        def step(bundles):
            w = np.zeros(16384 * bundles, np.float32)
            cyoptim.SGD([w], lr=1.0).step(grads=[np.ones_like(w)])
            cyoptim.clip_grad_norm_([w], 1.0, grads=[w])
            return threads() - before

        before = threads()
        print(cyoptim.get_num_threads(), step(1), step(15), step(16), step(31), step(40), step(640))
        with cyoptim.threads(1):
            print(step(640))
        time.sleep(0.05)
        start = time.process_time()
        time.sleep(0.3)
        print(time.process_time() - start < 0.1)
    """
    assert run_script(code, OMP_NUM_THREADS="8") == ["8 0 0 1 2 4 7", "7", "True"]


@needs_openmp
@needs_proc
def test_threadpoolctl_is_respected() -> None:
    # Its limit is OpenMP's, which is that of the Python thread that sets it.
    pytest.importorskip("threadpoolctl")
    code = """
        import threadpoolctl

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


@needs_openmp
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
    # Whoever sets OMP_NUM_THREADS gets as many, on however few processors.
    assert run_script(code, OMP_NUM_THREADS="") == ["True", "1 0"]
    assert run_script(code, OMP_NUM_THREADS="2")[1] == "2 1"


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
def test_threads_that_cannot_be_started_are_done_without() -> None:
    code = """
        import resource
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


# --- files as memory ------------------------------------------------------------------------------


def mapped(path: Path, array: Any, offset: int = 0, mode: str = "r+") -> Any:
    """The array in a file."""
    array = np.asarray(array)
    with path.open("wb") as file:
        file.truncate(offset + array.nbytes)
    np.memmap(path, array.dtype, "r+", offset, array.shape)[...] = array
    return np.memmap(path, array.dtype, mode, offset, array.shape)


@pytest.mark.parametrize("door", [cyoptim.Parameter, lambda array: array])
def test_all_in_files(door: Any, tmp_path: Path) -> None:
    # An optimizer larger than memory: parameter, gradient and state are used where they are.
    expected = serial()
    file = tmp_path / "w"
    memory = mapped(file, np.zeros(N, np.float32))
    w = door(memory)
    optimizer = cyoptim.AdamW([w], lr=0.1)
    state = {k: mapped(tmp_path / k, np.zeros(N, np.float32)) for k in ("exp_avg", "exp_avg_sq")}
    for name, array in state.items():
        optimizer.state[w][name] = array
    for k in range(4):
        grad = mapped(tmp_path / f"grad{k}", gradient(k), mode="r")
        cyoptim.clip_grad_norm_([w], 1e9, grads=[grad.copy()])
        optimizer.step(grads=[grad])
    assert bits(optimizer) == expected
    for name, array in state.items():
        assert optimizer.state[w][name] is array
        array.flush()
        assert np.fromfile(tmp_path / name, np.float32).tobytes() == array.tobytes()
    memory.flush()
    assert np.fromfile(file, np.float32).tobytes() == expected[: 4 * N]


def test_state_moved_into_files_in_the_middle_of_a_run(tmp_path: Path) -> None:
    params, optimizer = started()
    go_on(optimizer, 0, 2)
    state = optimizer.state[params[0]]
    for name in ("exp_avg", "exp_avg_sq"):
        state[name] = mapped(tmp_path / name, state[name])
    kept = dict(state)
    assert go_on(optimizer, 2, 4) == serial()
    assert all(state[name] is kept[name] for name in kept)
    assert np.fromfile(tmp_path / "exp_avg", np.float32).tobytes() == kept["exp_avg"].tobytes()


def test_files_at_odd_offsets(tmp_path: Path) -> None:
    # Behind a header of three bytes no element is aligned: parameter and gradient are stepped
    # through a copy, a state array is replaced by an aligned one.
    w = mapped(tmp_path / "w", np.zeros(N, np.float32), 3)
    assert not w.flags.aligned
    optimizer = cyoptim.AdamW([w], lr=0.1)
    odd = mapped(tmp_path / "s", np.zeros(N, np.float32), 3)
    optimizer.state[w]["exp_avg"] = odd
    for k in range(4):
        optimizer.step(grads=[mapped(tmp_path / "g", gradient(k), 3, "r")])
    assert bits(optimizer) == serial()
    assert optimizer.state[w]["exp_avg"] is not odd
    assert optimizer.state[w]["exp_avg"].flags.aligned


def test_a_read_only_file_is_refused(tmp_path: Path) -> None:
    w = mapped(tmp_path / "w", np.zeros(5), mode="r")
    with pytest.raises(ValueError, match="parameter 0 of group 0 is read-only"):
        cyoptim.SGD([w])
    v = np.zeros(5)
    grad = mapped(tmp_path / "g", np.ones(5), mode="r")
    with pytest.raises(ValueError, match="gradient of parameter 0 .* is read-only"):
        cyoptim.SGD([v], lr=1.0).step(grads=[grad], zero_grad=True)
    assert (v == 0).all()


@pytest.mark.skipif(sys.platform != "linux" or sys.maxsize < 2**32, reason="maps memory at will")
def test_more_elements_than_fit_into_32_bits() -> None:
    # 2**31 + 10 elements of two megabytes of memory, which is mapped again and again, one piece
    # after the other: every element of memory is each of 4096 or 4097 elements of the array.
    # A step on one thread subtracts 1 from each of them in turn, so that each has been done
    # exactly once if memory holds minus 4096, and the first ten elements minus 4097.
    code = """
        import ctypes, mmap
        SIZE, N, FIXED, NORESERVE = 1 << 21, 2**31 + 10, 0x10, 0x4000
        libc = ctypes.CDLL(None)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [
            ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int,
            ctypes.c_long,
        ]

        def mapped_again_and_again(value):
            file = os.memfd_create("memory")
            os.truncate(file, SIZE)
            count = -(-4 * N // SIZE)
            private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NORESERVE
            base = libc.mmap(None, count * SIZE, 0, private, -1, 0)
            for k in range(count):
                place, access = base + k * SIZE, 3  # read, write
                if libc.mmap(place, SIZE, access, mmap.MAP_SHARED | FIXED, file, 0) != place:
                    print("no room")
                    sys.exit()
            array = np.frombuffer((ctypes.c_char * (4 * N)).from_address(base), np.float32)
            array[: SIZE // 4] = value
            return array

        w, g = mapped_again_and_again(0), mapped_again_and_again(1)
        optimizer = cyoptim.SGD([w], lr=1.0)
        with cyoptim.threads(1):
            optimizer.step(grads=[g])
        print((w[:10] == -4097).all(), (w[10 : SIZE // 4] == -4096).all())

        # Sums of doubles are exact: every element is counted.
        print(cyoptim.get_total_norm([g], 1.0) == N, cyoptim.get_total_norm([g], 0.0) == N)

        # Sparse: single elements on both sides of the border, of an array that is all zeros.
        w[: SIZE // 4] = 0
        rows = np.array([3, 2**31 - 2, 2**31 + 9], np.int64)
        optimizer.step(grads=[(rows, np.array([1, 2, 4], np.float32))])
        print(w[:16].tolist() == [0, 0, 0, -1, 0, 0, 0, 0, 0, -4] + [0] * 6, w[SIZE // 4 - 2])
        print(np.count_nonzero(w[: SIZE // 4]))
    """
    lines = run_script(code)
    if lines == ["no room"]:
        pytest.skip("no room for so many addresses")
    assert lines == ["True True", "True True", "True -2.0", "3"]


# --- the caller's floating-point mode -------------------------------------------------------------


def denormals_work() -> bool:
    return bool(np.float32(1e-40) * np.float32(0.5) != 0)


def test_floating_point_mode_of_other_python_threads() -> None:
    found: list[bool] = []

    def work() -> None:
        found.append(denormals_work())
        optimizer = started()[1]
        go_on(optimizer, 0, 2)
        found.append(denormals_work())
        bad = gradient(0)
        bad[-1] = np.nan
        with pytest.raises(FloatingPointError, match="not finite"):
            optimizer.step(grads=[bad], nonfinite="raise")
        found.append(denormals_work())
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(grads=[bad[1:]])
        found.append(denormals_work())

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert found == [True] * 12
    with np.errstate(all="raise"):  # no flag is left behind for NumPy to find
        go_on(started()[1], 0, 1)
        np.ones(3) / np.ones(3)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library's fesetround")
def test_the_rounding_of_the_caller() -> None:
    # A step rounds to nearest in every thread, whatever the caller's mode, or that of the thread
    # whose step has started the workers; the caller finds that mode again after the step.
    code = """
        import ctypes, platform
        from test_guest import bits, gradient
        UP = {"x86_64": 0x800, "aarch64": 0x400000}.get(platform.machine())
        if UP is None:
            print("unknown")
            sys.exit()
        _engine.set_least_share(1)
        libm = ctypes.CDLL("libm.so.6")
        params = [np.zeros(200_001, np.float32) for _ in range(3)]
        optimizers = [cyoptim.RMSprop([p], lr=0.125) for p in params]
        grads = [gradient(0)]
        modes = []
        for optimizer, threads, mode in zip(optimizers, (2, 1, 2), (UP, UP, 0)):
            with cyoptim.threads(threads):
                libm.fesetround(mode)
                for k in range(8):
                    optimizer.step(grads=grads)
                modes.append(libm.fegetround() == mode)
                try:
                    optimizer.step(grads=[grads[0][1:]])
                except ValueError:
                    modes.append(libm.fegetround() == mode)
                libm.fesetround(0)
        print(modes == [True] * 6, len({bits(o) for o in optimizers}))
    """
    lines = run_script(code)
    if lines == ["unknown"]:
        pytest.skip("the mode's number is not known here")
    assert lines == ["True 1"]


def test_flushing_that_the_caller_has_turned_on() -> None:
    pytest.importorskip("torch")
    code = """
        import torch
        from test_guest import go_on, serial, started, denormals_work
        _engine.set_least_share(1)
        assert torch.set_flush_denormal(True)
        print(denormals_work(), go_on(started()[1], 0, 4) == serial(), denormals_work())
        torch.set_flush_denormal(False)
        print(denormals_work(), go_on(started()[1], 0, 4) == serial(), denormals_work())
    """
    assert run_script(code) == ["False True False", "True True True"]
