"""The formats of 16 and 8 bits: what is timed is right, and tables say what was measured."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import numpy as np
import pytest

from bench import __main__ as command_line
from bench import accuracy, formats, readme, report, rivals, worker
from bench.contenders import CONTENDERS
from bench.formats import FORMATS, LEAST_SCALED
from bench.runner import Result
from bench.tables import precision
from bench.workloads import named

# What is timed takes all threads, and that does not stay.
pytestmark = pytest.mark.usefixtures("many_threads")

WORKLOAD = named("1x8K")  # of 8 bits, unlike fewer than LEAST_SCALED


def run_of(*results, instructions="avx512") -> report.Run:
    facts = {
        "command": "python -m bench precision --threads 2",
        "threads": 2,
        "cpu": "C",
        "cyoptim": "1",
        "instruction set": instructions,
    }
    return report.Run(facts, list(results))


def timed(workload, contender, *rounds) -> Result:
    return Result(workload, contender, "ready", "", 9, list(rounds))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree_with_the_reference(name):
    pytest.importorskip("ml_dtypes")
    worker.prepare(worker.build(name, WORKLOAD, 1), WORKLOAD)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_keep_the_bytes_that_are_computed(name):
    pytest.importorskip("ml_dtypes")
    chosen = FORMATS[name]
    params = formats.stored(WORKLOAD.random(0), chosen.param)
    grads = formats.stored(WORKLOAD.random(1), chosen.grad)
    optimizer = formats.optimizer_of("Adam", params, chosen)
    optimizer.step(grads=grads)
    state = [np.asarray(value) for value in optimizer.state[params[0]].values()]
    kept = params[0].nbytes + sum(value.nbytes for value in state if value.ndim)
    assert kept == chosen.kept * WORKLOAD.elements
    assert chosen.moved * WORKLOAD.elements == 2 * kept + grads[0].nbytes


@pytest.mark.parametrize("name", ["float32", "bf16-nearest", "dynamic8", "float16"])
def test_a_format_that_does_not_move_is_not_timed(name):
    pytest.importorskip("ml_dtypes")
    still = replace(worker.build(name, WORKLOAD, 1), step=lambda: None)
    with pytest.raises(worker.Invalid):
        worker.prepare(still, WORKLOAD)


def test_a_wrong_master_is_found():
    pytest.importorskip("ml_dtypes")
    subject = worker.build("split", WORKLOAD, 1)
    right = subject.result
    wrong = replace(subject, result=lambda: [p + np.float32(2e-6) for p in right()])
    with pytest.raises(worker.Invalid):
        worker.prepare(wrong, WORKLOAD)


@pytest.mark.parametrize("name", ["torch-fused-bf16", "bitsandbytes-8bit"])
def test_rivals_agree_with_the_reference(name):
    for package in CONTENDERS[name].packages:
        pytest.importorskip(package)
    worker.prepare(worker.build(name, WORKLOAD, 1), WORKLOAD)


def test_slow_rivals_are_timed_on_some_sizes_only():
    def sizes(name):
        row = CONTENDERS[name]
        return [w for w in precision.COMMAND.workloads if row.fits(named(w))]

    assert sizes("bitsandbytes-8bit") == ["1x1024K"]
    assert sizes("torch-fused-bf16") == list(precision.COMMAND.workloads)
    assert sizes("dynamic8") == list(precision.COMMAND.workloads)


def test_every_rival_has_its_format_in_cyoptim():
    for name in ("torch-fused", *rivals.RIVALS):
        assert precision._same(name), name
    # torchao takes blocks of 256 only
    shapes = [named(w) for w in precision.COMMAND.workloads]
    assert all(w.elements % 256 == 0 for w in shapes if w.elements >= LEAST_SCALED)


def test_speeds_of_the_memory():
    assert precision.speeds([]) == [[]]
    assert precision.speeds([1.0, 1.1, 1.05, 1.0]) == [[0, 1, 2, 3]]
    assert precision.speeds([1.0, 1.7, 1.1, 1.8, 1.1, 1.7]) == [[0, 2, 4], [1, 3, 5]]
    assert precision.speeds([1.0, 1.7, 1.1, 1.8, 1.1, 1.0]) == [[0, 1, 2, 3, 4, 5]]  # two are noise


def two_speeds() -> report.Run:
    """float32 moves 28 bytes in 4.7 ms, or 100 GB/s, and in 7.8 ms, or 60 GB/s."""
    return run_of(
        timed("1x16M@2", "float32", *[4.7e-3] * 3, *[7.8e-3] * 3),
        timed("1x16M@2", "bf16", *[4.7e-3] * 3, *[5.2e-3] * 3),
        timed("1x16M@2", "bf16-nearest", *[4.7e-3] * 6),
        timed("1x16K@1", "dynamic8", 16384 * 2e-9),
        timed("1x1024K@1", "dynamic8", 2e-3),
        timed("1x1024K@1", "torchao-8bit", 20e-3),
        Result("1x1024K@1", "bitsandbytes-8bit", "missing", "No module (pip install bitsandbytes)"),
    )


def test_table_of_two_speeds_and_demands():
    text = precision.text(two_speeds(), markdown=True)
    head = "|  | 2 threads, 100 GB/s: per element | float32 / it |"
    head += " 2 threads, 60 GB/s: per element | float32 / it |"
    assert f"**one tensor of 16,777,216, measured**\n\n{head}" in text
    assert "| bf16 | 0.280 ns | 1.00 | 0.310 ns | 1.50 |" in text
    where = "one tensor of 16,777,216, 2 threads"
    assert f"| float32 / bf16: {where}, 100 GB/s | at least 0.75 | 1.00 | yes |" in text
    assert f"| float32 / bf16: {where}, 60 GB/s | at least 1.2 | 1.50 | yes |" in text
    assert f"| float32 / bf16-nearest: {where}, 100 GB/s | at least 1.05 | 1.00 | **no** |" in text
    cache = "dynamic8: one tensor of 16,384, 1 thread"
    assert f"| {cache} | at most 2.4 ns | 2 ns | yes |" in text
    assert "| dynamic8 | float32 | float32 | dynamic8 |  | 6.03 | 16.1 | 1.74 |" in text
    assert "torchao-8bit / dynamic8: one tensor of 1,048,576, 1 thread | at least 8 | 10" in text
    assert "| torchao-8bit | dynamic8 |  |  |  | 10.0 |" in text
    assert "bitsandbytes-8bit: missing: No module (pip install bitsandbytes)" in text


def test_demands_depend_on_the_instruction_set():
    def rows(instructions):
        run = run_of(timed("1x16K@1", "dynamic8", 16384 * 2e-9), instructions=instructions)
        found = list(precision.places(run))
        return [row for demand in precision.DEMANDS for row in demand.rows(found, instructions)]

    (row,) = rows("avx512bf16")
    assert row[1:] == ("at most 1.3 ns", "2 ns", "**no**")
    assert rows("neon") == []


def test_chart(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import bars

    bars.draw_precision(two_speeds(), tmp_path / "precision.png")
    assert os.path.getsize(tmp_path / "precision.png") > 5_000


@pytest.mark.slow
def test_precision_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("ml_dtypes")
    words = ["precision", "--quick", "--rounds", "1", "--threads", "1", "--markdown"]
    words += ["--workload", "1x16K", "--json", str(tmp_path / "run.json")]
    for name in ("float32", "dynamic8", "bf16"):
        words += ["--only", name]
    assert command_line.main(words) == 0
    printed = capsys.readouterr().out
    assert command_line.main(["show", "--markdown", str(tmp_path / "run.json")]) == 0
    again = capsys.readouterr().out
    assert again.splitlines()[:8] == printed.splitlines()[:8]
    results = report.Run.load(tmp_path / "run.json").results
    assert {r.status for r in results} == {"ready"}
    assert "| dynamic8 | float32 |" in printed


# --- accuracy -------------------------------------------------------------------------------------


def losses() -> accuracy.Study:
    facts = {"command": "python -m bench accuracy --seeds 2 --steps 6"}
    found = [accuracy.Losses("float32", [2.0, 2.2]), accuracy.Losses("bf16", [2.1, 2.2])]
    return accuracy.Study(facts, found)


def test_losses_are_compared_seed_by_seed(tmp_path, capsys):
    text = losses().text(markdown=True)
    assert "| float32 | 2.1000 | 2.0000 | 2.2000 | +0.0000 | +0.0000 | +0.0000 |" in text
    assert "| bf16 | 2.1500 | 2.1000 | 2.2000 | +0.0500 | +0.0000 | +0.1000 |" in text
    without = accuracy.Study(losses().environment, losses().results[1:])
    assert "| bf16 | 2.1500 | 2.1000 | 2.2000 |  |  |  |" in without.text(markdown=True)
    losses().save(tmp_path / "run.json")
    assert accuracy.Study.load(tmp_path / "run.json") == losses()
    assert command_line.main(["show", "--markdown", str(tmp_path / "run.json")]) == 0
    assert capsys.readouterr().out == text + "\n"


@pytest.mark.slow
def test_accuracy_from_end_to_end(tmp_path, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    words = ["accuracy", "--seeds", "1", "--steps", "3", "--json", str(tmp_path / "run.json")]
    words += ["--format", "float32", "--format", "split", "--format", "float8"]
    assert command_line.main(words) == 0
    assert "more than float32" in capsys.readouterr().out
    found = {
        each.format: each.losses for each in accuracy.Study.load(tmp_path / "run.json").results
    }
    assert list(found) == ["float32", "split", "float8"]
    begin = np.log(100)  # of about as many characters, all of them equally likely
    assert all(2 < loss < begin for (loss,) in found.values())
    assert len({loss for (loss,) in found.values()}) == 3


def test_accuracy_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(SystemExit, match="pip install torch ml_dtypes"):
        command_line.main(["accuracy", "--steps", "1"])


def test_parts_of_pages_for_one_case_of_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    two_speeds().save(tmp_path / "precision_avx2.json")
    losses().save(tmp_path / "accuracy.json")
    page = "<!-- begin {0}: python -m bench readme -->\n<!-- end {0} -->"
    shown = readme.renewed(page.format("precision_avx2"))
    assert "| bf16 | 0.280 ns | 1.00 | 0.310 ns | 1.50 |" in shown
    assert "| float32 | 2.1000 |" in readme.renewed(page.format("accuracy"))
