"""A process that is killed while all save ends the job, and leaves a whole file."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import pytest

import cyoptim
from tests.support.mpi import Library, run_ranks
from tests.support.saved_objects import temporaries
from tests.support.sharded_files import SUFFIXES

PROGRAM = "tests/support/saving_ranks.py"
RANKS = 3
KILLS = int(os.environ.get("CYOPTIM_TEST_KILLS", 6))  # for each format
MOST_KILLS = 10 * KILLS  # until one of them has cut off a save
AT_ONCE = 10  # seconds until the job has ended


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kill_9_of_any_rank_at_any_moment(
    mpi_library: Library, suffix: str, tmp_path: Path
) -> None:
    path, moments, cut_off, number = tmp_path / f"run{suffix}", random.Random(0), 0, 0
    for kill in range(MOST_KILLS):
        if kill >= KILLS and number and cut_off:
            break
        job = (PROGRAM, str(path), str(number + 1), str(kill % RANKS))
        seconds = f"{moments.uniform(0.05, 0.25)}"
        result = run_ranks(mpi_library, RANKS, "-m", "mpi4py", *job, seconds)
        (killed,) = [line for line in result.stdout.splitlines() if line.startswith("time ")]
        assert time.time() - float(killed.removeprefix("time ")) < AT_ONCE
        assert result.returncode != 0
        left = temporaries(tmp_path)
        cut_off += len(left)
        assert len(left) <= 1, "the next save has to remove that of the one before"
        if not path.exists():
            continue
        saved = cyoptim.load(path)
        number = saved["number"]
        state = saved["optimizer"]["state"]
        for array in (
            *saved["params"],
            *(entries["momentum_buffer"] for entries in state.values()),
        ):
            assert (array == number).all()
    assert number > 0, "no save came to its end: the moments prove nothing"
    assert cut_off > 0, "no save was cut off: the moments prove nothing"
