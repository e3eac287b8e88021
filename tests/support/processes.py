"""Fresh Python processes, for what a process decides once or might not survive."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.support.paths import ROOT

TIMEOUT = 120  # seconds


def run_python(
    code: str, *args: str, check: bool = False, **env: str
) -> subprocess.CompletedProcess[str]:
    """A process that runs this code, can import the tests' modules, and is killed if it hangs.

    `env` sets variables of its environment; an empty one is taken out.
    """
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    # LLVM's OpenMP ends the process if OMP_NUM_THREADS is there and empty.
    kept = {name: value for name, value in os.environ.items() if name not in env}
    env = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), **env}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *args],
        env={**kept, **{name: value for name, value in env.items() if value}},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert not check or result.returncode == 0, result.stderr
    return result


def lines_of(code: str, *args: str, **env: str) -> list[str]:
    """What a process prints that must not fail, without what a rebuild at import prints."""
    head = "import cyoptim\nprint('begin')\n"
    lines = run_python(head + textwrap.dedent(code), *args, check=True, **env).stdout.splitlines()
    return lines[lines.index("begin") + 1 :]
