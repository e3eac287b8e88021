"""Programs under each MPI library: the tests of tests/mpi, and what happens when a process fails."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.support.mpi import Library, run_ranks

PROGRAM = "tests/support/failing_ranks.py"
AT_ONCE = 10  # seconds
pytestmark = pytest.mark.slow


@pytest.mark.libraries
def test_tests_of_all_processes(mpi_library: Library) -> None:
    """`mpiexec -n 4 python -m mpi4py -m pytest tests/mpi`."""
    result = run_ranks(
        mpi_library,
        4,
        *(
            "-m",
            "mpi4py",
            "-m",
            "pytest",
            "-q",
            "--color=no",
            "-p",
            "no:cacheprovider",
            "tests/mpi",
        ),
        timeout=400,
    )
    assert result.returncode == 0, f"{mpi_library}\n{result.stdout}\n{result.stderr}"
    assert " passed in " in result.stdout


def run(library: Library, how: str, *before: str) -> tuple[int, dict[int, list[str]]]:
    """How a job ended soon after one process had failed: the exit code, and what each rank said."""
    result = run_ranks(library, 4, *before, PROGRAM, how, timeout=60)
    end = time.time()
    said: dict[int, list[str]] = {rank: [] for rank in range(4)}
    for line in result.stdout.splitlines():
        if line.startswith("rank "):
            rank, text = line.removeprefix("rank ").split(": ", 1)
            if text.startswith("time "):
                assert end - float(text.removeprefix("time ")) < AT_ONCE
            else:
                said[int(rank)].append(text)
    assert " time " in result.stdout, f"{result.stdout}\n{result.stderr}"
    return result.returncode, said


@pytest.mark.parametrize("how", ["kill", "kill in a step"])
def test_a_rank_is_killed(mpi_library: Library, how: str) -> None:
    code, said = run(mpi_library, how, "-m", "mpi4py")
    assert code != 0
    assert said == {0: [], 1: [], 2: [], 3: []}


@pytest.mark.parametrize(("how", "expected"), [("raise", 1), ("exit", 3)])
def test_a_rank_leaves(mpi_library: Library, how: str, expected: int) -> None:
    """What is raised between two steps ends the job if `-m mpi4py` runs the program."""
    code, said = run(mpi_library, how, "-m", "mpi4py")
    assert code == expected
    assert said == {0: [], 1: [], 2: [], 3: []}


def test_without_that_the_others_wait_for_ever(mpi_library: Library) -> None:
    """Why programs are run by `python -m mpi4py`."""
    with pytest.raises(subprocess.TimeoutExpired):
        run_ranks(mpi_library, 4, PROGRAM, "raise", timeout=6)


@pytest.mark.parametrize("before", [(), ("-m", "mpi4py")], ids=["python", "python -m mpi4py"])
def test_what_is_raised_in_a_step_is_raised_on_all(
    mpi_library: Library, before: tuple[str, ...]
) -> None:
    """The ranks catch it and go on together, with or without `-m mpi4py`."""
    code, said = run(mpi_library, "catch", *before)
    assert code == 0
    wrong = "ValueError: the gradient of parameter 3 is no array"
    differs = "ValueError: step: rank 1 has length=32768, rank 0 length=65536"
    on_itself = [wrong, "KeyboardInterrupt: ", wrong, "KeyboardInterrupt: ", differs]
    error, interrupt = f"rank 1 raised {wrong}", "rank 1 raised KeyboardInterrupt"
    on_others = [f"RankError: step: {text}" for text in (error, interrupt, error, interrupt)]
    steps = range(8, 18, 2)
    for rank in range(4):
        expected = on_itself if rank == 1 else [*on_others, differs]
        assert said[rank] == [
            *(f"{number}: {text}" for number, text in zip(steps, expected, strict=True)),
            "done",
        ]


@pytest.mark.parametrize("before", [(), ("-m", "mpi4py")], ids=["python", "python -m mpi4py"])
def test_what_is_raised_in_a_step_ends_the_job(
    mpi_library: Library, before: tuple[str, ...]
) -> None:
    code, said = run(mpi_library, "uncaught", *before)
    assert code == 1
    assert said[1] == ["10: ValueError: the gradient of parameter 3 is no array"]
    assert all("done" not in texts for texts in said.values())
