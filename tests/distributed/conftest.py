"""Each MPI library that is here."""

from __future__ import annotations

import pytest

from tests.support.mpi import Library, launchers, library_of

LAUNCHERS = launchers()


@pytest.fixture(
    params=LAUNCHERS or [None], ids=[f"launcher {n}" for n in range(len(LAUNCHERS) or 1)]
)
def mpi_library(request: pytest.FixtureRequest) -> Library:
    """An MPI library under which programs can run; without any, the test is skipped."""
    found = None if request.param is None else library_of(request.param)
    if found is None:
        pytest.skip("needs mpi4py, and mpiexec of the MPI library that it finds")
    return found
