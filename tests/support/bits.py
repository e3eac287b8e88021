"""Contract 2 in short: digests of runs, and the circumstances under which they must not differ."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from cyoptim import _cpu, _dispatch, _engine
from tests.support.processes import lines_of


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def use_isa(name: str) -> None:
    """Run the kernels for this instruction set until the end of the test."""
    if _dispatch.LEVELS.index(name) > _cpu.level():
        pytest.skip(f"this machine does not allow {name}")
    _dispatch.use(name)


@contextmanager
def asking_ahead(name: str) -> Iterator[None]:
    """Make every step by the kernels for this instruction set that ask for memory ahead."""
    use_isa(name)
    if not importlib.util.find_spec(f"cyoptim._kernels_{name}_far"):
        pytest.skip(f"no kernels for {name} that ask for memory ahead: only GCC builds them")
    elements = _engine.set_far_elements(0)
    by_one = _engine.set_stepped_by_one(0)  # what one thread steps whole asks for nothing
    try:
        assert _engine.asks_ahead(1, 1)
        yield
    finally:
        _engine.set_far_elements(elements)
        _engine.set_stepped_by_one(by_one)


def digests_on_threads(module: str, threads: int) -> dict[str, str]:
    """What the all_digests() of a test module gives on so many threads.

    In a process of its own: OpenMP reads the limit once.
    """
    code = f"""
        import json
        from cyoptim import _engine
        _engine.set_limits(0, False)  # on however few processors
        from {module} import all_digests
        _engine.take_all_threads(True)
        assert cyoptim.get_num_threads() == {threads}
        print(json.dumps(all_digests()))
    """
    (line,) = lines_of(code, OMP_NUM_THREADS=str(threads))
    found: dict[str, str] = json.loads(line)
    return found
