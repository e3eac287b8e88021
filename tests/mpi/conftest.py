"""Tests that all processes of MPI run together: `mpiexec -n 4 python -m mpi4py -m pytest tests/mpi`.

Without a launcher there are none. Every process runs the same tests in the same order. A test fails
on all if it fails on one, and the first process shows the errors of all. If one fails while others
wait for it, all end after a while, and each shows where it is.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = float(os.environ.get("CYOPTIM_TEST_PATIENCE", 60))  # seconds for a test
# Set by the launchers of MPICH and Intel MPI, Open MPI, and Slurm.
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
LAUNCHED = any(int(os.environ.get(name, "1")) > 1 for name in SIZES)

collect_ignore_glob = [] if LAUNCHED else ["*"]


def pytest_report_header() -> str | None:
    return (
        None if LAUNCHED else "tests/mpi: run `mpiexec -n 4 python -m mpi4py -m pytest tests/mpi`"
    )


@pytest.fixture(scope="session")
def world() -> Any:
    """MPI's communicator of all processes."""
    from mpi4py import MPI

    return MPI.COMM_WORLD


@pytest.fixture
def shared_path(world: Any, tmp_path: Path) -> Path:
    """An empty folder, the same one in all processes."""
    path: Path = world.bcast(tmp_path)
    return path


if LAUNCHED:
    from mpi4py import MPI

    OUTCOMES = MPI.COMM_WORLD.Dup()  # of tests, whose own messages must not meet these
    RANK = OUTCOMES.rank
    TERMINAL: list[int] = []  # standard error, where pytest does not capture it
    # Temporary ones of all processes, which would remove each other's from pytest's own place.
    FOLDER = OUTCOMES.bcast(tempfile.mkdtemp() if RANK == 0 else None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(config: pytest.Config) -> None:
        config.option.basetemp = Path(FOLDER, str(RANK))
        capture = config.pluginmanager.get_plugin("capturemanager")
        with capture.global_and_fixture_disabled():
            TERMINAL.append(os.dup(2))

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(session: pytest.Session) -> None:
        if RANK > 0:
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            reporter._tw._file = open(os.devnull, "w")  # noqa: SIM115

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure() -> None:
        OUTCOMES.Barrier()  # the first to leave would end the others, if a test has failed
        if RANK == 0:
            shutil.rmtree(FOLDER, ignore_errors=True)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol() -> Generator[None, object, object]:
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=TERMINAL[0])
        try:
            return (yield)
        finally:
            faulthandler.cancel_dump_traceback_later()

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact() -> None:
        """Wait on: pytest's own plugin has no more patience after an error."""
        faulthandler.dump_traceback_later(PATIENCE, exit=True, file=TERMINAL[0])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        item: pytest.Item,
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        own = f"--- rank {RANK} ---\n{report.longreprtext}" if report.failed else ""
        if own:  # at once, as the others may not come
            os.write(TERMINAL[0], f"{item.nodeid}\n{own}\n".encode())
        errors = [error for error in OUTCOMES.allgather(own) if error]
        if errors:
            report.outcome = "failed"
            report.longrepr = "\n".join(errors)
        return report
