"""Every example runs, and says what it needs."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
TIMEOUT = 120  # seconds


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example: Path, tmp_path: Path) -> None:
    needs = re.search(r"^# Needs: (.+)$", example.read_text(), re.M)
    assert needs, "an example names the modules that it imports"
    for module in needs[1].split(", "):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:__main__", str(example), "--quick"],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout, "an example shows its result"
