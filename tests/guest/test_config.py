"""Instruction sets, threads, floating-point mode, forks: cyoptim as a guest in a process."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _config, _cpu, _dispatch, _engine
from tests.support.guest_runs import denormals_work
from tests.support.processes import run_python

LARGE = 600_000  # elements: bundles enough for a step on two threads


# --- instruction sets -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", _dispatch.LEVELS)
def test_isa_may_be_chosen(name: str) -> None:
    result = run_python("import cyoptim; print(cyoptim._dispatch.chosen)", CYOPTIM_ISA=name)
    if name in _dispatch.available():
        assert result.stdout.splitlines()[-1] == name
    else:
        assert f"CYOPTIM_ISA='{name}' is not possible on this machine" in result.stderr


@pytest.mark.slow
def test_unknown_isa() -> None:
    result = run_python("import cyoptim", CYOPTIM_ISA="sse9")
    assert result.returncode != 0
    assert (
        "CYOPTIM_ISA='sse9' is not an instruction set, expected one of baseline, avx2, avx512, "
        "avx512bf16" in result.stderr
    )


@pytest.mark.parametrize("level", range(4))
def test_isa_above_the_machines_is_refused(level: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(_cpu, "level", lambda: level)
    for name in _dispatch.LEVELS:
        monkeypatch.setenv("CYOPTIM_ISA", name)
        if _dispatch.LEVELS.index(name) > level:
            with pytest.raises(ImportError, match=f"'{name}' is not possible on this machine"):
                _dispatch._choose()
        elif name in _dispatch.available():
            assert _dispatch._choose() == name
    monkeypatch.delenv("CYOPTIM_ISA")
    assert _dispatch._choose() == _dispatch.available()[-1]


def test_show_config(capsys: Any) -> None:
    cyoptim.show_config()
    text = capsys.readouterr().out
    assert text.startswith(f"cyoptim {cyoptim.__version__}\n")
    assert _dispatch.chosen in text
    assert f"threads          {cyoptim.get_num_threads()}" in text
    assert f"threading layer  {cyoptim.get_threading_layer()} (this build has: pool" in text
    for word in ("OpenMP", "compiler", "Python", "NumPy"):
        assert word in text


# --- threads --------------------------------------------------------------------------------------


def test_threading_layer(each_layer: str) -> None:
    for name in _engine.LAYERS:
        cyoptim.set_threading_layer(name)
        assert cyoptim.get_threading_layer() == name
    before = cyoptim.get_threading_layer()
    with pytest.raises(ValueError, match="the threading layer must be 'pool'.*, got 'tbb'"):
        cyoptim.set_threading_layer("tbb")
    with pytest.raises(TypeError, match="the threading layer must be a string, got 1"):
        cyoptim.set_threading_layer(1)  # type: ignore[arg-type]
    assert cyoptim.get_threading_layer() == before


def test_threading_layer_that_the_build_lacks(monkeypatch: Any) -> None:
    monkeypatch.setattr(_engine, "LAYERS", ("pool",))
    with pytest.raises(ValueError, match="is 'openmp', but this build has none: expected 'pool'"):
        cyoptim.set_threading_layer("openmp")


def test_threading_layer_of_the_environment() -> None:
    code = "import cyoptim; print(cyoptim.get_threading_layer())"
    assert run_python(code).stdout.splitlines()[-1] == "pool"
    for name in _engine.LAYERS:
        result = run_python(code, CYOPTIM_THREADING_LAYER=name)
        assert result.stdout.splitlines()[-1] == name
    result = run_python(code, CYOPTIM_THREADING_LAYER="tbb")
    assert result.returncode == 1
    assert "ImportError: CYOPTIM_THREADING_LAYER must be 'pool'" in result.stderr
    assert "got 'tbb'" in result.stderr


@pytest.mark.thread_unsafe(reason="the limit is that of the process")
def test_number_of_threads() -> None:
    most = cyoptim.get_num_threads()
    cyoptim.set_num_threads(1)
    assert cyoptim.get_num_threads() == 1
    cyoptim.set_num_threads(10_000)
    assert cyoptim.get_num_threads() == most
    with cyoptim.threads(1):
        assert cyoptim.get_num_threads() == 1
        with cyoptim.threads(np.int64(1)):
            assert cyoptim.get_num_threads() == 1
    assert cyoptim.get_num_threads() == most
    with pytest.raises(ZeroDivisionError), cyoptim.threads(1):
        raise ZeroDivisionError
    assert cyoptim.get_num_threads() == most


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)]
)
def test_bad_number_of_threads(n: Any, error: Any) -> None:
    with pytest.raises(error, match="the number of threads must be"):
        cyoptim.set_num_threads(n)
    with pytest.raises(error, match="the number of threads must be"), cyoptim.threads(n):
        pass


def threads_with(**env: str) -> int:
    code = "import cyoptim; print(cyoptim.get_num_threads())"
    return int(run_python(code, **env).stdout.splitlines()[-1])


@pytest.mark.slow
def test_omp_num_threads_is_honoured() -> None:
    assert threads_with(OMP_NUM_THREADS="1") == 1


@pytest.mark.slow
@pytest.mark.parametrize("n", ["64", "300", "2147483647", "99999999999", "9" * 30])
def test_omp_num_threads_above_the_processors_is_not_taken(n: str) -> None:
    # A container often inherits it from a larger machine.
    assert threads_with(OMP_NUM_THREADS=n) == threads_with(OMP_NUM_THREADS="")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_more_threads_than_processors_are_never_used() -> None:
    code = """
        import os, cyoptim
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        cyoptim.set_num_threads(10**30)
        print(cyoptim.get_num_threads())
    """
    assert run_python(code, OMP_NUM_THREADS="8").stdout.splitlines()[-1] == "1"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs control groups")
def test_the_quota_counts_also_where_omp_num_threads_is_more() -> None:
    code = """
        import builtins, io, os
        quota, opened, exists = "/sys/fs/cgroup/cpu.max", builtins.open, os.path.exists
        os.path.exists = lambda path: path == quota or exists(path)
        builtins.open = lambda path, *args, **options: (
            io.BytesIO(b"100000 100000") if path == quota else opened(path, *args, **options)
        )
        import cyoptim
        print(cyoptim.get_num_threads())
    """
    assert run_python(code, OMP_NUM_THREADS="64").stdout.splitlines()[-1] == "1"


def test_the_number_of_threads_may_be_numpys() -> None:
    for n in (np.int64(1), np.array(1), np.array([1])):
        with cyoptim.threads(n):
            assert cyoptim.get_num_threads() == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs processor affinity")
def test_affinity_is_honoured() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "import cyoptim; print(cyoptim.get_num_threads())"
    )
    assert run_python(code, OMP_NUM_THREADS="").stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "max 100000"}, 0),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "10000 100000"}, 1),
        ({"cpu.max": "max 100000", "a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 0),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu.max": "nonsense"}, 0),
        ({}, 0),
    ],
)
def test_quota(files: dict[str, str], quota: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    assert _config._quota(tmp_path, own) == quota
    assert _config._quota(tmp_path, tmp_path / "missing") in (0, quota)


# --- the caller's floating-point mode -------------------------------------------------------------


@pytest.mark.parametrize("n", [10, LARGE])
def test_floating_point_mode_is_given_back(n: int) -> None:
    assert denormals_work()
    w = np.zeros(n, np.float32)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.full(n, 1e-30, np.float32)])
    assert denormals_work()
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(grads=[np.zeros(n + 1, np.float32)])
    assert denormals_work()
    cyoptim.clip_grad_norm_([w], 1.0, grads=[np.ones(n, np.float32)])
    assert denormals_work()


@pytest.mark.parametrize("n", [10, LARGE])
def test_denormal_state_is_flushed(n: int) -> None:
    w = np.zeros(n, np.float32)
    optimizer = cyoptim.Adam([w], betas=(0.5, 0.5))
    optimizer.step(grads=[np.full(n, 1e-30, np.float32)])
    for _ in range(40):
        optimizer.step(grads=[np.zeros(n, np.float32)])
    assert (optimizer.state[w]["exp_avg"] == 0).all()


# --- several Python threads -----------------------------------------------------------------------


def trained(n: int) -> np.ndarray:
    w = np.zeros(n)
    optimizer = cyoptim.Adam([w])
    for k in range(20):
        optimizer.step(grads=[np.full(n, 1.0 + k)])
    return w


@pytest.mark.slow
def test_two_optimizers_in_two_threads() -> None:
    expected = trained(LARGE)
    found: dict[int, np.ndarray] = {}
    workers = [
        threading.Thread(target=lambda k=k: found.update({k: trained(LARGE)})) for k in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    for array in found.values():
        np.testing.assert_array_equal(array, expected)


@pytest.mark.slow
def test_one_optimizer_in_two_threads_is_refused_or_in_turn() -> None:
    # Whichever happens, no update is lost or half done.
    w = np.zeros(2_000_000)
    g = np.ones_like(w)
    optimizer = cyoptim.SGD([w], lr=1.0)
    done: list[int] = []
    refused: list[str] = []

    def work() -> None:
        for _ in range(20):
            try:
                optimizer.step(grads=[g])
                done.append(1)
            except RuntimeError as error:
                refused.append(str(error))

    workers = [threading.Thread(target=work) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(done) + len(refused) == 40
    assert all("already running in another thread" in message for message in refused)
    np.testing.assert_array_equal(w, np.full_like(w, -float(len(done))))


# --- forks ----------------------------------------------------------------------------------------


def child(n: int, queue: Any) -> None:
    queue.put(trained(n)[-1])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_step_after_fork() -> None:
    expected = trained(LARGE)[-1]  # the parent's workers exist from here on
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(LARGE, queue))
    process.start()
    assert queue.get(timeout=60) == expected
    process.join(timeout=60)
    assert process.exitcode == 0
    np.testing.assert_array_equal(trained(LARGE)[-1], expected)


# --- import ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_masked_arrays_are_looked_for_without_their_module() -> None:
    code = """
        import sys
        import numpy, cyoptim
        before = "numpy.ma" in sys.modules
        cyoptim.lr_scheduler.StepLR(cyoptim.SGD([numpy.zeros(1)], lr=numpy.float64(0.5)), 3)
        print(("numpy.ma" in sys.modules) == before)
    """
    assert run_python(code).stdout.splitlines()[-1] == "True"


@pytest.mark.slow
def test_import_brings_in_numpy_alone() -> None:
    code = (
        "import sys, cyoptim; "
        "print([m for m in ('torch', 'sklearn', 'matplotlib', 'tqdm', 'scipy') if m in sys.modules])"
    )
    assert run_python(code).stdout.splitlines()[-1] == "[]"
