"""Every example runs, and says what it needs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.mpi import launchers, library_of, run_ranks
from tests.support.paths import ROOT

FOLDER = ROOT / "examples"
MPI = FOLDER / "mpi_digits.py"  # which its own test runs in several processes
EXAMPLES = [path for path in sorted(FOLDER.glob("*.py")) if path != MPI]
TIMEOUT = 120  # seconds


def command(example: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error::DeprecationWarning:__main__", str(example), *arguments]


def actors_have_equal_bits(output: str) -> None:
    digests = re.findall(r"parameters ([0-9a-f]{16})", output)
    assert len(digests) == 2
    assert digests[0] == digests[1]
    (whole,), halves = ([*map(float, sizes.split(","))] for sizes in megabytes(output))
    assert halves == pytest.approx([whole / 2] * 2, rel=0.1)


def losses_are_those_of_torch(output: str) -> None:
    found = re.search(r"losses differ by (\S+) in epoch 1, (\S+) at most", output)
    assert found
    assert float(found[1]) < 1e-5
    assert float(found[2]) < 1e-3
    whole, halves = ([*map(float, sizes.split(","))] for sizes in megabytes(output))
    assert len(halves) == 2
    assert halves == pytest.approx([whole[0] / 2] * 2, rel=0.1)


def megabytes(output: str) -> list[str]:
    return re.findall(r"MB of state[^:]*: ([\d.]+(?:, [\d.]+)*)", output)


SHOWN: dict[str, Callable[[str], None]] = {
    "ray_actors": actors_have_equal_bits,
    "torch_sharded": losses_are_those_of_torch,
}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    needs = re.search(r"^# Needs: (.+)$", example.read_text(), re.M)
    assert needs, "an example names the modules that it imports"
    for module in needs[1].split(", "):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    result = subprocess.run(
        command(example, "--quick"),
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout, "an example shows its result"
    SHOWN.get(example.stem, lambda output: None)(result.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_killed_training_run_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module)
    environment = {**os.environ, "MPLBACKEND": "agg"}
    whole, killed = (
        command(FOLDER / "train_digits.py", "--epochs", "8", "--folder", name)
        for name in ("whole", "killed")
    )
    run = subprocess.Popen(killed, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
    series = cyoptim.Checkpoints(tmp_path / "killed")
    deadline = time.monotonic() + TIMEOUT
    while len(series.paths()) < 2:
        assert run.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    run.kill()
    run.wait()
    done = len(series.load()["history"]["test"])
    assert 2 <= done < 8

    for arguments in (killed, whole):
        subprocess.run(arguments, cwd=tmp_path, env=environment, capture_output=True, check=True)
    resumed, straight = series.load(), cyoptim.Checkpoints(tmp_path / "whole").load()
    assert resumed["history"] == straight["history"]
    for name, array in straight["model"].items():
        np.testing.assert_array_equal(resumed["model"][name], array)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", launchers())
def test_any_number_of_processes_has_the_same_bits(launcher: str, tmp_path: Path) -> None:
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module)
    library = library_of(launcher)
    if library is None:
        pytest.skip(f"{launcher} does not run mpi4py")

    def output(size: int, *arguments: str) -> str:
        result = run_ranks(
            library,
            size,
            *("-m", "mpi4py", str(MPI), "--quick", *arguments),
            timeout=TIMEOUT,
            check=True,
            cwd=tmp_path,
            MPLBACKEND="agg",
        )
        assert result.stdout.count("digest") == 1, "one process prints"
        return result.stdout

    def digest(*arguments: Any) -> str:
        return output(*arguments).split()[-1]

    shown = output(4, "--folder", "on4")
    (sizes,) = megabytes(shown)
    assert len(sizes.split(",")) == 4
    straight = shown.split()[-1]
    assert digest(2, "--folder", "on2") == straight
    assert digest(4, "--folder", "moves", "--stop", "1") != straight
    assert digest(2, "--folder", "moves", "--stop", "2") != straight
    assert digest(1, "--folder", "moves") == straight
    alone = subprocess.run(
        command(MPI, "--quick", "--folder", "alone"),
        cwd=tmp_path,
        env={**library.env, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    assert alone.stdout.split()[-1] == straight
