"""What is written in C alone, tested in C: the pool, and the choice of the number of threads."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "tests" / "threads"


def built(name: str, folder: Path, *flags: str) -> Path:
    """A program of tests/threads, compiled."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if os.name == "nt" or not compiler or not shutil.which(compiler[0]):
        pytest.skip("no C compiler")
    program = folder / name
    command = [*compiler, "-std=gnu11", "-O2", "-Wall", "-Wno-unused-function", "-Werror", *flags]
    source = str(PROGRAMS / f"{name}.c")
    result = subprocess.run(
        [*command, f"-I{ROOT / 'src'}", source, "-o", str(program), "-pthread"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return program


def output_of(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_the_choice_of_threads_costs_little_and_follows_changes(tmp_path: Path) -> None:
    assert "changing" in output_of(built("choice_program", tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("flags", [(), ("-fopenmp",)], ids=["pool", "with OpenMP"])
def test_a_pool_of_many_more_threads_than_processors(tmp_path: Path, flags: tuple[str]) -> None:
    if flags and sys.platform == "darwin":
        pytest.skip("Apple's compiler has no OpenMP")
    assert " 0 wrong, 0 elsewhere" in output_of(built("pool_program", tmp_path, *flags), "600")
