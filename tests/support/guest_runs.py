"""Steps large enough for several threads, and their bits, in this process and in fresh ones."""

from __future__ import annotations

import os
import signal
import textwrap
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.processes import lines_of

N = 200_001  # elements: thirteen bundles
TIMEOUT = 60

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs /proc")
may_fork = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def gradient(k: int, n: int = N) -> np.ndarray:
    return np.random.default_rng(k).standard_normal(n, dtype=np.float32)


def bits(optimizer: Any) -> bytes:
    """All that a step changes, parameters and state."""
    found = b""
    for group in optimizer.param_groups:
        for param in group["params"]:
            state = optimizer.state[param]
            found += np.asarray(param).tobytes()
            found += b"".join(np.asarray(state[name]).tobytes() for name in sorted(state))
    return found


def started(n: int = N) -> tuple[list[Any], Any]:
    params = [cyoptim.Parameter(np.zeros(n, np.float32))]
    return params, cyoptim.AdamW(params, lr=0.1)


def go_on(optimizer: Any, first: int, last: int) -> bytes:
    for k in range(first, last):
        optimizer.step(grads=[gradient(k)])
    return bits(optimizer)


def serial(last: int = 4) -> bytes:
    with cyoptim.threads(1):
        return go_on(started()[1], 0, last)


def run_script(code: str, *args: str, **env: str) -> list[str]:
    """The lines that a fresh process prints, with all imported that these tests need."""
    head = (
        "import os, signal, sys, threading, time\nimport numpy as np\nfrom cyoptim import _engine\n"
    )
    return lines_of(head + textwrap.dedent(code), *args, **env)


def by_os_fork(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(TIMEOUT)  # a child that hangs is killed
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def denormals_work() -> bool:
    return bool(np.float32(1e-40) * np.float32(0.5) != 0)
