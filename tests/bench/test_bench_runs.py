"""The benchmark from end to end: its commands, their tables, memory and epochs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial

import pytest

from bench import __main__ as command_line
from bench import epochs, memory, report
from bench.runner import ROOT
from bench.workloads import (
    named,
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "contenders", "shown"),
    [
        ("denormals", ("cyoptim", "numpy"), "after 1,000 zero gradients"),
        ("scaling", ("cyoptim", "roof"), "of the roof"),
        ("fused", ("step", "step-clip-zero", "calls"), "x step"),
        ("instructions", ("cyoptim-baseline", "roof"), "x roof"),
    ],
)
def test_tables_from_end_to_end(command, contenders, shown, tmp_path, capsys):
    words = [command, "--quick", "--rounds", "1", "--workload", "1x100", "--threads", "2"]
    words += ["--optimizer", "Adam"] if command == "scaling" else []
    for name in contenders:
        words += ["--only", name]
    assert command_line.main([*words, "--markdown", "--json", str(tmp_path / "run.json")]) == 0
    printed = capsys.readouterr().out
    assert shown in printed
    results = report.Run.load(tmp_path / "run.json").results
    assert len(results) == len(contenders) * (2 if command in ("denormals", "scaling") else 1)
    assert all(len(r.rounds) == 1 for r in results)
    rows = [line for line in printed.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == (2 if command == "scaling" else len(contenders))
    assert all(cell.strip() for row in rows for cell in row.split("|")[1:-1])
    if command != "scaling":
        with pytest.raises(SystemExit, match="no plot"):
            command_line.main([*words, "--plot", "x.png"])


def quick(*words, path):
    """The results of a command, from its JSON file, and whether it ended well."""
    words = [*words, "--quick", "--rounds", "1", "--threads", "2", "--json", str(path)]
    status = command_line.main([*words, "--only", "cyoptim", "--only", "roof"])
    return report.Run.load(path).results, status


@pytest.mark.slow
def test_roofs_from_end_to_end(tmp_path, capsys):
    words = ["--optimizer", "SGD", "--workload", "1x100", "--workload", "1x16K"]
    results, status = quick("roofs", *words, path=tmp_path / "run.json")
    assert status == 0
    assert [r.workload for r in results if r.contender == "roof"] == [
        f"SGD:{shapes}@{threads}"
        for threads in (1, 2)
        for shapes in ("1x100", "1x16K", "1x100:float64", "1x16K:float64")
    ]
    printed = capsys.readouterr().out
    assert printed.count("x roof, 2 threads") == 2
    assert printed.count("\nSGD ") == 4


@pytest.mark.slow
def test_sizes_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    words = ["--plot", str(tmp_path / "run.png"), "--dtype", "float64"]
    for shapes in ("1x100", "1x16K", "30x100"):
        words += ["--workload", shapes]
    words += ["--optimizer", "Adam"]
    results, status = quick("sizes", *words, path=tmp_path / "run.json")
    assert status == 0
    loop, products = [r for r in results if not r.means], [r for r in results if r.means]
    assert len(loop) == 6
    assert {r.workload for r in products} == {f"{r.workload}:openblas" for r in loop} or {
        r.status for r in results if r.workload.endswith("openblas")
    } == {"unavailable"}
    printed = capsys.readouterr().out
    assert_same_when_shown(tmp_path / "run.json", printed, capsys)
    printed = printed.splitlines()
    first = printed.index("Adam, float64, one tensor")
    assert printed[first + 1].split() == ["elements", "cyoptim", "roof"]
    assert [line.split()[0] for line in printed[first + 2 : first + 4]] == ["100", "16,384"]
    second = printed.index("Adam, float64, tensors of 100")
    assert [line.split()[0] for line in printed[second + 2 : second + 4]] == ["1", "30"]
    for context in ("loop", "openblas"):
        assert os.path.getsize(tmp_path / f"run-{context}.png") > 5_000


def assert_same_when_shown(path, printed, capsys):
    """The tables of a stored run are those that its command printed, but for a digit."""
    assert command_line.main(["show", str(path)]) == 0
    again = capsys.readouterr().out
    assert len(again.splitlines()) == len(printed.splitlines())
    assert again.splitlines()[:12] == printed.splitlines()[:12]


@pytest.mark.slow
def test_adam_adds_its_state_and_nothing_else():
    workload = named("1x1M")
    constructed, first, last, peak = memory.measure(workload)
    small = 262144  # the plan of the step, and the bookkeeping of Python: 150 KB in 3.14
    assert constructed.traced < small
    for added in (first, last, peak):
        assert abs(added.traced - memory.STATE_BYTES * workload.elements) < small


@pytest.mark.slow
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
    assert os.path.getsize(tmp_path / "run.png") > 5_000
    compare = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True, check=True)
    same = [sys.executable, "-m", "bench", "compare", *[tmp_path / "run.json"] * 2]
    assert "0 of 2 results changed" in compare(same).stdout


@pytest.mark.slow
def test_all_optimizers_from_end_to_end(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "bench", "optimizers", "--quick", "--rounds", "1"]
    command += ["--optimizer", "SGD", "--optimizer", "Rprop", "--workload", "1000x1000"]
    command += ["--only", "cyoptim", "--markdown", "--threads", "1"]
    command += ["--json", tmp_path / "run.json", "--plot", tmp_path / "run.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "\n| Rprop |" in done.stdout
    found = report.Run.load(tmp_path / "run.json").results
    assert [r.workload for r in found] == ["SGD:1000x1000", "Rprop:1000x1000"]
    assert os.path.getsize(tmp_path / "run.png") > 5_000


@pytest.mark.slow
def test_epochs_of_all_contenders_begin_with_the_same_losses(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    assert epochs.run(["mlp"], ["AdamW", "RMSprop"], threads=1, runs=1, rounds=1) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[2].strip() for line in lines[2:]] == [
        *("cyoptim", "torch, fused", "torch, default"),
        *("cyoptim", "torch, default"),
    ]
    assert all("6 tensors, 17,226 elements" in line for line in lines[2:])


def test_epochs_tell_of_losses_that_differ(monkeypatch, capsys):
    def measure(*_):
        return [
            epochs.Epochs(name, 1, 1, [1.0], [0.5], [loss, 1.0])
            for name, loss in (("cyoptim", 1.0), ("torch, fused", 1.1))
        ]

    monkeypatch.setattr(epochs, "measure", measure)
    assert epochs.run(["mlp"], ["AdamW"]) == 1
    assert "losses differ by 10.0%" in capsys.readouterr().out
