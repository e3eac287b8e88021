"""The benchmark's own parts: it may not time what is wrong, or miss what has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench import memory, report, roof, worker
from bench.contenders import CONTENDERS, Subject
from bench.runner import ROOT, Result, Worker
from bench.workloads import WORKLOADS, Stream, Workload

UNEVEN = Workload("uneven", ((7,), (40, 50), (1,), (30000,)))


def peer(name):
    """Skip the test where a peer is not installed."""
    for package in CONTENDERS[name].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("name", CONTENDERS)
def test_every_contender_agrees_with_the_reference(name):
    peer(name)
    try:
        worker.prepare(name, WORKLOADS["1x100"], 1)
    except roof.Unavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_roof_touches_everything(threads):
    params, grads, first, second = (UNEVEN.random(seed) for seed in range(4))
    for state in [*first, *second]:
        state.fill(0)
    try:
        step, owner = roof.roof((params, grads, first, second), 1e-3, threads)
    except roof.Unavailable as error:
        pytest.skip(str(error))
    worker.validate(Subject(step, params, grads, Stream(1e-3), owner), UNEVEN)


def test_cut_is_even_and_complete():
    streams = tuple(UNEVEN.random(seed) for seed in range(4))
    spans, starts = roof._cut(streams, 3)
    lengths = [spans[a:b, 4].sum() for a, b in pairwise(starts)]
    assert sum(lengths) == UNEVEN.elements
    assert max(lengths) - min(lengths) <= 1
    covered = sorted((address, address + 4 * size) for address, *_, size in spans.tolist())
    whole = {a.ctypes.data: a.ctypes.data + a.nbytes for a in streams[0]}
    for low, high in covered:
        inside = [a for a in whole if a <= low < whole[a]]
        assert len(inside) == 1
        assert high <= whole[inside[0]]


def test_a_wrong_step_is_invalid():
    subject = CONTENDERS["numpy"].build("Adam", UNEVEN.random(0), UNEVEN.random(1), 1)

    def step():
        subject.step()
        subject.params[-1][12345] += 1e-5

    wrong = Subject(step, subject.params, subject.grads, subject.reference)
    with pytest.raises(worker.Invalid, match="times the tolerance"):
        worker.validate(wrong, UNEVEN)


def test_not_a_number_is_invalid():
    subject = CONTENDERS["numpy"].build("Adam", UNEVEN.random(0), UNEVEN.random(1), 1)
    subject.params[1][0, 0] = np.nan
    with pytest.raises(worker.Invalid):
        worker.validate(subject, UNEVEN)


def test_data_is_far_from_zero():
    for array in UNEVEN.random(3):
        assert array.dtype == np.float32
        assert np.abs(array).min() >= np.float32(1e-3)


@pytest.mark.parametrize("cost", [3e-7, 1e-4, 0.03, 1.0])
def test_calibration(monkeypatch, cost):
    monkeypatch.setattr(worker, "duration", lambda step, count: count * cost)
    assert worker.steps_within(lambda: None, 0.2) == max(1, round(0.2 / cost))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text("raise ModuleNotFoundError(\"No module named 'numba'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = Worker("numba", WORKLOADS["1x100"], 1)
    with found.process:
        pass
    assert found.result.status == "missing"
    assert found.result.message == "No module named 'numba' (pip install numba)"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(2.5e-7, "250 ns"), (3.456e-6, "3.46 us"), (0.01234, "12.3 ms"), (1.5, "1.50 s")],
)
def test_durations(seconds, shown):
    assert report.duration(seconds) == shown


def run_of(**times) -> report.Run:
    facts = {"command": "python -m bench", "threads": 2}
    rounds = {name.replace("_", "-"): values for name, values in times.items()}
    return report.Run(
        facts, [Result("1x100", name, "ready", "", 9, v) for name, v in rounds.items()]
    )


def test_tables_and_json(tmp_path):
    run = run_of(cyoptim=[2e-6, 3e-6, 4e-6], roof=[1e-6, 1e-6])
    run.results.append(Result("1x100", "numba", "missing", "No module named 'numba'"))
    run.save(tmp_path / "run.json")
    assert report.Run.load(tmp_path / "run.json") == run
    assert "| cyoptim | 2.00 us | 1.00 | 2.00 | 1.50 |" in report.markdown(run)
    for shown in (report.markdown(run), report.text(run)):
        assert "the roof moves 3 GB/s" in shown
        assert "numba: missing: No module named 'numba'" in shown


def test_compare_reports_what_is_beyond_the_noise():
    before = run_of(cyoptim=[1.0, 1.0], numpy=[1.0, 1.2, 1.3], roof=[1.0, 1.0], numba=[1.0])
    after = run_of(cyoptim=[0.9, 0.9], numpy=[1.15, 1.2], roof=[1.01, 1.01], torch_fused=[1.0])
    assert report.compare(before, after).splitlines() == [
        "1x100 cyoptim: 1.00 s -> 900 ms, x 0.90 (noise 2%)",
        "1 of 3 results changed beyond the noise",
        "only in the first: 1x100 numba",
        "only in the second: 1x100 torch-fused",
    ]
    after.environment["threads"] = 4
    assert report.compare(before, after).startswith("threads: 2 -> 4\n")


def test_adam_adds_its_state_and_nothing_else():
    workload = WORKLOADS["1x1M"]
    constructed, first, last, peak = memory.measure(workload)
    small = 65536  # the plan of the step, and the bookkeeping of Python
    assert constructed.traced < small
    for added in (first, last, peak):
        assert abs(added.traced - memory.STATE_BYTES * workload.elements) < small


def test_from_end_to_end(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "bench", "--quick", "--rounds", "2", "--workload", "1x100"]
    command += ["--only", "cyoptim", "--only", "numpy", "--threads", "1"]
    command += ["--json", tmp_path / "run.json", "--plot", tmp_path / "run.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "one tensor of 100 float32" in done.stdout
    assert "round 2/2" in done.stderr
    content = json.loads((tmp_path / "run.json").read_text())
    assert [r["contender"] for r in content["results"]] == ["cyoptim", "numpy"]
    assert all(len(r["rounds"]) == 2 for r in content["results"])
    assert os.path.getsize(tmp_path / "run.png") > 10_000
    compare = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    same = [sys.executable, "-m", "bench", "compare", *[tmp_path / "run.json"] * 2]
    assert "0 of 2 results changed" in compare(same).stdout
