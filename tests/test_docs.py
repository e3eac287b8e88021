"""Every example in the documentation runs and shows what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import cyoptim

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(cyoptim.__path__, "cyoptim.")
    if not module.name.startswith(("cyoptim._kernels", "cyoptim._engine", "cyoptim.integrations."))
)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert result.failed == 0


def test_examples_exist() -> None:
    # doctest passes where there is nothing to run.
    finder = doctest.DocTestFinder()
    for name in cyoptim.__all__:
        thing = getattr(cyoptim, name)
        if name not in (
            "Optimizer",
            "CheckpointError",
            "lr_scheduler",
            "get_num_threads",
            "set_num_threads",
        ):
            assert any(test.examples for test in finder.find(thing)), name


def readme_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("block", readme_blocks())
def test_readme_examples(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "torch" in block:
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    printed: list[str] = []
    exec(block, {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    shown = re.findall(r"print\(.*\)  # (.*)", block)
    assert printed[-len(shown) :] == shown if shown else True


def test_public_names_are_documented_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for name in cyoptim.__all__:
        if name not in ("Optimizer", "CheckpointError"):
            assert name in text, name
