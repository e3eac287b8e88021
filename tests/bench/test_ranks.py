"""The benchmark of many processes: its model, its tables, and a run of it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest

from bench import __main__ as command_line
from bench import readme
from bench.ranks import checks, command, model, tables
from bench.ranks.contenders import ALLREDUCE, REPLICATED, SHARDED, STEPS
from bench.ranks.parts import GATHER, PARTS, ROOF, STEP_PART, SUM, TO_ALL, moved
from bench.ranks.study import Held, Study, Timed
from bench.ranks.workloads import title, workload_of
from tests.support.mpi import Library, libraries, run_ranks

N = 1 << 24
FACTS = {
    "command": "python -m bench distributed",
    "cpu": "C",
    "threads": 1,
    "cyoptim": "1",
}
RATE = 10e9  # bytes per second of one process, and of one of two; of four, half of it


def ready(library: str, ranks: int, contender: str, seconds: float) -> Timed:
    rounds = [1.5 * seconds, seconds, 2 * seconds]
    return Timed(library, ranks, "1x16M", contender, "ready", rounds=rounds)


def machine_study(slower: float = 1.0) -> Study:
    """A machine of two processors, on which a whole step takes this many times as long as its
    parts."""
    times = []
    for ranks, rate in ((1, RATE), (2, RATE), (4, RATE / 2)):
        parts = {name: part.bytes(N, ranks) / rate for name, part in PARTS.items()}
        moving = {name: parts[name] for name in (TO_ALL, SUM, STEP_PART, GATHER, ROOF)}
        times += [ready("MPICH", ranks, name, time) for name, time in moving.items() if time]
        allreduce = 0.03 if ranks == 2 else 0.09
        times.append(ready("MPICH", ranks, ALLREDUCE, allreduce))
        full = 28 * N / rate + (allreduce if ranks > 1 else 8 * N / rate)
        times.append(ready("MPICH", ranks, REPLICATED, full))
        times.append(ready("MPICH", ranks, SHARDED, slower * moved(N, ranks) / rate))
    return Study(FACTS, times, [])


# --- what is stepped ------------------------------------------------------------------------------


def test_the_transformer_has_as_many_elements_as_the_array() -> None:
    workload = workload_of("transformer")
    assert (workload.tensors, workload.elements) == (101, workload_of("1x16M").elements)
    assert title(workload) == "a transformer's 101 arrays of 16,777,216 elements"
    assert title(workload_of("1x16M")) == "one array of 16,777,216"


def test_data_repeat_after_the_workload_s_period() -> None:
    workload = replace(workload_of("1x1000"), period=300)
    (array,) = workload.random(3)
    np.testing.assert_array_equal(array[:700], array[300:])
    assert len(np.unique(array[:300])) == 300


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2, 8, 1024])
def test_volumes(ranks: int) -> None:
    """A sharded step brings each process as many bytes as an Allreduce."""
    network = model.Network("", speed=1.0, memory=math.inf, latency=0)
    received = {way: model.seconds(way, N, ranks, network) for way in model.WAYS}
    twice = 2 * 4 * N * (ranks - 1) / ranks
    assert received["Sharded"] == received["Allreduce and full step"] == twice
    assert received["ZeroRedundancyOptimizer"] == 1.5 * twice


def test_one_process_steps() -> None:
    network = model.Network("", speed=1e9, memory=1e9)
    for way in model.WAYS:
        assert model.seconds(way, N, 1, network) == 28 * N / 1e9


def test_memory_and_messages() -> None:
    network = model.Network("", speed=math.inf, memory=1.0, latency=0)
    assert sum(model.sharded(N, 4, network).values()) == 28 * N / 4 + 4 * N * 5 / 4
    network = model.Network("", speed=math.inf, memory=math.inf, latency=1.0)
    assert model.seconds("Sharded", N, 1024, network) == 2 * 1023  # each in one bucket
    assert model.seconds("Sharded", N, 16, network) == 4 * 2 * 15


def test_the_parts_move_the_bytes_of_a_step() -> None:
    assert moved(N, 1) == 28 * N
    assert moved(N, 2) == (4 + 6 + 14 + 4) * N
    assert moved(N, 4) == (6 + 5 + 7 + 6) * N


# --- checks ---------------------------------------------------------------------------------------


def test_the_model_of_a_machine_whose_parts_make_the_step() -> None:
    rows = [*checks.compared(machine_study())]
    assert [(row.contender, row.ranks) for row in rows] == [
        (name, ranks) for name in (SHARDED, REPLICATED) for ranks in (1, 2, 4)
    ]
    for row in rows:
        assert row.model == pytest.approx(row.measured)


def test_the_model_does_not_see_what_is_not_in_the_parts() -> None:
    rows = [row for row in checks.compared(machine_study(1.25)) if row.contender == SHARDED]
    assert [row.measured / row.model for row in rows] == pytest.approx([1.25] * 3)


def test_without_a_part_there_is_no_model() -> None:
    study = machine_study()
    study.times = [timed for timed in study.times if timed.contender != GATHER]
    assert checks.machine_of(study) is None
    assert "A model of the times" not in tables.text(study, markdown=True)


def test_demands() -> None:
    text = tables.text(machine_study(), markdown=True)
    assert "| MPICH: a sharded step, over Allreduce | at most 0.8 | 1.57 | **no** |" in text
    assert "| MPICH: a sharded step, over Allreduce, step | at most 0.6 | 0.61 | **no** |" in text
    text = tables.text(machine_study(0.5), markdown=True)
    assert "| MPICH: a sharded step, over Allreduce | at most 0.8 | 0.78 | yes |" in text


# --- tables and pictures --------------------------------------------------------------------------


def test_tables() -> None:
    study = machine_study()
    study.times.append(Timed("MPICH", 2, "1x16M", "gloo: ZeRO", "unavailable", "it needs torch"))
    for ranks in (1, 2):
        study.memory.append(
            Held("MPICH", ranks, "1x16M", SHARDED, "ready", "", 8 * N // ranks, 12 * N)
        )
    text = tables.text(study, markdown=True)
    assert "**MPICH, 2 processes, one array of 16,777,216**" in text
    assert "| Allreduce | 30.0 ms | 1.00 | 0.39 | 1.50 |" in text
    assert "| a part's step | 23.5 ms | 235 | 10.0 | 1.00 |" in text
    assert "| a whole step | 47.0 ms | 470 | 10.0 | 1.00 |" in text
    assert "| Sharded | 8.00 | 12.00 | 4.00 | 12.00 |" in text
    assert "gloo: ZeRO: unavailable: it needs torch (MPICH, 2 processes, 1x16M)" in text


def test_a_study_is_the_same_from_its_file(tmp_path, capsys) -> None:
    study = machine_study()
    study.memory.append(Held("MPICH", 2, "1x16M", SHARDED, "failed", "no memory"))
    study.save(tmp_path / "run.json")
    again = Study.load(tmp_path / "run.json")
    assert tables.text(again, True) == tables.text(study, True)
    assert command_line.main(["show", str(tmp_path / "run.json"), "--markdown"]) == 0
    assert capsys.readouterr().out.rstrip("\n") == tables.text(study, True)


def test_pictures(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    from bench.ranks import charts

    charts.draw(machine_study(), tmp_path / "run.png")
    assert {path.name for path in tmp_path.iterdir()} == {"run.png", "run-model.png"}
    assert all(os.path.getsize(path) > 5_000 for path in tmp_path.iterdir())


def test_a_page_has_the_model_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    machine_study().save(tmp_path / "distributed.json")
    begin, end = "<!-- begin {0}: python -m bench readme -->\n", "<!-- end {0} -->"
    page = "".join((begin + end).format(name) for name in ("distributed", "distributed_model"))
    text = readme.renewed(page)
    assert text.count("| MPICH: Sharded | 2 |") == 2
    assert text.count("x Allreduce") == 6


# --- the command ----------------------------------------------------------------------------------


def options(*words: str):
    return command_line.parser().parse_args(["distributed", *words])


def test_what_is_timed_where() -> None:
    everywhere = [name for name, row in STEPS.items() if row.everywhere]
    assert command.chosen(options(), 2, first=True) == {
        "1x16M": [*STEPS, *PARTS],
        "transformer": [*STEPS],
    }
    assert command.chosen(options(), 4, first=True)["1x16M"] == [*everywhere, *PARTS]
    alone = command.chosen(options(), 1, first=False)["1x16M"]
    assert alone == [ALLREDUCE, REPLICATED, SHARDED, STEP_PART, ROOF]
    only = options("--only", SHARDED, "--workload", "1x100", "--ranks", "3")
    assert command.chosen(only, 3, first=True) == {"1x100": [SHARDED]}


def test_words_of_the_command() -> None:
    words = ["--rounds", "3", "--only", "Allreduce, step", "--json", "x", "--mpiexec", "y"]
    expected = 'python -m bench distributed --rounds 3 --only "Allreduce, step"'
    assert command.words(options(*words)) == expected
    with pytest.raises(SystemExit):
        options("--workload", "large")


def test_errors_are_found_among_what_a_launcher_says() -> None:
    text = "Traceback\n  File\nnumpy.exceptions.AxisError: axis 3\nAbort(1) on node: rank 1\n\n"
    assert command.error_in(text) == "numpy.exceptions.AxisError: axis 3"
    assert command.error_in("killed\n") == "killed"


def test_processes_that_fail_are_told_of(monkeypatch) -> None:
    monkeypatch.setattr(command, "TIMEOUT", 60)
    library = Library("none", "/bin/false", ())
    (found,) = command.timed(library, 2, {"1x100": [SHARDED]}, 1, 1)
    assert (found.status, found.message, found.rounds) == ("failed", "exit status 1", [])
    assert command.held(library, 2, "1x100", SHARDED).status == "failed"


@pytest.fixture
def mpi_library(monkeypatch) -> Library:
    found = libraries()
    if not found:
        pytest.skip("no MPI library that mpi4py runs on")
    monkeypatch.delenv("TMPDIR")  # names of MPI's sockets are short
    return found[0]


@pytest.mark.slow
def test_a_run(mpi_library, tmp_path, capsys) -> None:
    launcher = mpi_library.launcher
    words = ["distributed", "--rounds", "1", "--ranks", "1", "--ranks", "2", "--mpiexec", launcher]
    words += ["--workload", "3x64K", "--workload", "1x64K", "--json", str(tmp_path / "run.json")]
    assert command_line.main([*words, "--markdown"]) == 0
    study = Study.load(tmp_path / "run.json")
    assert {each.status for each in [*study.times, *study.memory]} <= {"ready", "unavailable"}
    found = study.of(mpi_library.name, 2, "1x64K")
    assert {*found} >= {ALLREDUCE, REPLICATED, SHARDED, TO_ALL, SUM, STEP_PART, GATHER}
    assert all(timed.best > 0 for timed in found.values())
    state = {(held.contender, held.ranks): held.state for held in study.memory}
    assert state[REPLICATED, 2] == state[SHARDED, 1] == 2 * 4 * (1 << 16)
    assert state[SHARDED, 2] == state[SHARDED, 1] / 2
    assert "A model of the times on this machine" in capsys.readouterr().out


WRONG = """
import json, sys
from bench.ranks import contenders, program

contenders.OPTIONS["lr"] = 2e-3
program.main(json.loads(sys.argv[1]))
"""


def test_what_holds_memory_is_timed() -> None:
    assert {*command.HOLDING} <= {*STEPS}


@pytest.mark.slow
def test_what_is_wrong_is_not_timed(mpi_library, tmp_path) -> None:
    """Steps of another length than the reference's."""
    request = {"workloads": {"1x1000": [SHARDED]}, "rounds": 1, "count": 1, "library": "MPI"}
    words = json.dumps(request | {"path": str(tmp_path / "found.json")})
    run_ranks(mpi_library, 2, "-m", "mpi4py", "-c", WRONG, words, check=True)
    (found,) = json.loads((tmp_path / "found.json").read_text())
    assert (found["status"], found["rounds"]) == ("invalid", [])
    assert "times the tolerance" in found["message"]
