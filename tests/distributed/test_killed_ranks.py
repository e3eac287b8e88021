"""A rank that is killed at any moment ends the job, and leaves a whole checkpoint."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cyoptim
from tests.support.mpi import Library, end
from tests.support.paths import ROOT

PROGRAM = ROOT / "tests" / "support" / "training_ranks.py"
MOST_SECONDS = 10.0  # from the kill to the end of the job
RANKS = 4
# Of each library and format; with CYOPTIM_TEST_KILLS=25 so many, which takes some minutes.
KILLS = int(os.environ.get("CYOPTIM_TEST_KILLS", "1"))


class Job:
    """A running training, whose output is read as it comes."""

    def __init__(self, library: Library, path: Path, suffix: str) -> None:
        self.checkpoint, self.output = path / f"run{suffix}", path / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                library.command(RANKS, "-m", "mpi4py", str(PROGRAM), str(self.checkpoint)),
                env=library.env,
                cwd=path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def found(self, pattern: str) -> list[str]:
        """All that has been printed of a pattern."""
        return re.findall(pattern, self.output.read_text(errors="replace"))

    def wait_for(self, pattern: str, count: int, seconds: float = 60.0) -> list[str]:
        """Wait until a pattern has been printed so often."""
        limit = time.monotonic() + seconds
        while len(found := self.found(pattern)) < count:
            assert self.process.poll() is None, self.output.read_text(errors="replace")
            assert time.monotonic() < limit, f"no {pattern} within {seconds} s"
            time.sleep(0.01)
        return found


def check_whole(path: Path, steps: int) -> None:
    """Load what was saved: it is of one step, and none of the finished ones is lost."""
    params = {
        "W": np.empty((300, 200), "f4"),
        "b": np.empty(200, "f4"),
        "V": np.empty(50_000, "f4"),
    }
    optimizer = cyoptim.SGD(params.items(), lr=1.0, momentum=0.0)
    optimizer.ema(0.0)
    step = cyoptim.load(path, params=params, optimizer=optimizer)["step"]
    assert step in (steps, steps + 1)
    for name, param in params.items():
        assert (param == -step).all(), name
        assert (optimizer._average[name] == -step).all(), name


@pytest.mark.slow
@pytest.mark.libraries
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
@pytest.mark.parametrize("number", range(KILLS))
def test_no_moment_hangs_or_tears(
    mpi_library: Library, number: int, suffix: str, tmp_path: Path
) -> None:
    moment = random.Random(f"{mpi_library} {number} {suffix}")
    job = Job(mpi_library, tmp_path, suffix)
    try:
        ranks = job.wait_for(r"rank \d is (\d+)", RANKS)
        job.wait_for(r"step \d+", 1)
        time.sleep(moment.uniform(0, 0.5))
        assert job.process.poll() is None, job.output.read_text(errors="replace")
        os.kill(int(moment.choice(ranks)), signal.SIGKILL)
        begun = time.monotonic()
        code = job.process.wait(MOST_SECONDS)
        print(f"ended with {code} after {time.monotonic() - begun:.2f} s")
    finally:
        end(job.process)
    assert code != 0
    check_whole(job.checkpoint, int(job.found(r"step (\d+)")[-1]))
