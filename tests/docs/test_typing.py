"""Type checkers accept what is right in a user's program, and find what is wrong."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cyoptim
from cyoptim.optimizer import Optimizer
from tests.support.paths import TESTS

PROGRAMS = sorted((TESTS / "typing").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_a_users_program_is_checked(program: Path, tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    # An editable installation is found by an import hook, of which mypy does not know.
    package = Path(cyoptim.__file__).parent
    found = {} if "site-packages" in package.parts else {"MYPYPATH": str(package.parent)}
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", str(program)],
        cwd=tmp_path,
        env={**os.environ, **found},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def pyright(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    package = Path(cyoptim.__file__).parent
    searched = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    found = {} if "site-packages" in package.parts else {"PYTHONPATH": searched}
    return subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **found},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_types_of_public_names_are_complete(tmp_path: Path) -> None:
    for needed in ("pyright", "torch", "scipy"):  # classes of ours stand on theirs
        pytest.importorskip(needed)
    if pyright("--version", folder=tmp_path).returncode:
        pytest.skip(
            "pyright does not start: at first it downloads its program, which needs Node.js"
        )
    result = pyright(
        "--verifytypes", "cyoptim", "--ignoreexternal", "--outputjson", folder=tmp_path
    )
    symbols = json.loads(result.stdout)["typeCompleteness"]["symbols"]
    assert len(symbols) > 800
    unknown = {symbol["name"] for symbol in symbols if not symbol["isTypeKnown"]}
    # The estimators stand on classes of scikit-learn, which has no types.
    assert {name for name in unknown if not name.startswith("cyoptim.sklearn.")} == set()


def test_constructors_name_their_options() -> None:
    classes = [getattr(cyoptim, name) for name in cyoptim.__all__]
    classes += [getattr(cyoptim.lr_scheduler, name) for name in cyoptim.lr_scheduler.__all__]
    classes += [getattr(cyoptim.swa_utils, name) for name in cyoptim.swa_utils.__all__]
    constructors = [thing for thing in classes if "__init__" in getattr(thing, "__dict__", {})]
    assert len(constructors) > 30
    for thing in constructors:
        kinds = {p.kind for p in inspect.signature(thing.__init__).parameters.values()}
        assert inspect.Parameter.VAR_KEYWORD not in kinds, thing
        if issubclass(thing, Optimizer):
            hints = inspect.get_annotations(thing.__init__)
            assert set(hints) >= set(inspect.signature(thing).parameters), thing
