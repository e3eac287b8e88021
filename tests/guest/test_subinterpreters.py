"""A subinterpreter is refused before anything else is loaded: never undefined behaviour."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.support.processes import run_python

MODULES = ("_interpreters", "_xxsubinterpreters")  # of Python's own: from 3.13 on, and before
MODULE = next((name for name in MODULES if importlib.util.find_spec(name)), None)
EDITABLE = any("editable" in type(finder).__module__ for finder in sys.meta_path)

CODE = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
name, first, kind = sys.argv[1:]
if first == "first":
    import cyoptim
inside = f"import sys; sys.path[:] = {sys.path}; name = {name!r}" + '''
try:
    __import__(name)
except ImportError as error:
    print(type(error).__name__, error)
print([name for name in ("numpy", "cyoptim", "cyoptim._engine") if name in sys.modules], flush=True)
'''
for _ in range(2):
    if hasattr(interpreters, "new_config"):
        number = interpreters.create(kind)
    else:
        number = interpreters.create(isolated=kind == "isolated")
    failed = interpreters.run_string(number, inside)
    assert failed is None, failed
    interpreters.destroy(number)
import cyoptim
import numpy as np
w = np.zeros(2)
cyoptim.SGD([w], lr=1.0).step(grads=[np.ones(2)])
print(w.tolist())
"""


# An isolated interpreter has a GIL of its own from Python 3.12 on, a legacy one is what embedders have made
# for long. What finds an editable install starts a build, and isolated interpreters start no processes.
KINDS = [
    pytest.param(
        "isolated", marks=pytest.mark.skipif(EDITABLE, reason="an editable install starts a build")
    ),
    "legacy",
]


@pytest.mark.skipif(MODULE is None, reason="needs Python's own module for subinterpreters")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["first", "never"], ids=["loaded before", "not loaded before"])
@pytest.mark.parametrize("name", ["cyoptim", "cyoptim.optimizer", "cyoptim._engine"])
def test_subinterpreters_are_refused(kind: str, first: str, name: str) -> None:
    result = run_python(CODE, name, first, kind, check=True)
    refused = [
        "ImportError cyoptim cannot be used in a subinterpreter: use processes (multiprocessing, "
        "ProcessPoolExecutor) or threads",
        "[]",
    ]
    assert result.stdout.splitlines() == [*refused, *refused, "[-1.0, -1.0]"]
