"""Every example runs, and says what it needs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cyoptim
from tests.support.paths import ROOT

FOLDER = ROOT / "examples"
EXAMPLES = sorted(FOLDER.glob("*.py"))
TIMEOUT = 120  # seconds


def command(example: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error::DeprecationWarning:__main__", str(example), *arguments]


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
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout, "an example shows its result"


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
