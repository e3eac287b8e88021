"""Every example in the documentation runs and shows what it says; every link leads somewhere."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

import cyoptim
from cyoptim import _engine
from tests.optimizers import cards
from tests.support.cards import TORCH
from tests.support.paths import ROOT, is_left_out

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMPILED = ("cyoptim._kernels", "cyoptim._engine")
# Whose libraries may be missing, or begin something when they are imported.
ADAPTERS = (
    "cyoptim._libraries.",
    "cyoptim.distributed._communicators.mpi",
    "cyoptim.distributed._communicators.torch",
)


def modules_of(folders: Iterable[str], prefix: str) -> Iterator[str]:
    """All modules of a package, of which none is imported."""
    for module in pkgutil.iter_modules(folders, prefix):
        yield module.name
        if module.ispkg:
            folder = Path(module.module_finder.path) / module.name.rpartition(".")[2]  # type: ignore[union-attr]
            yield from modules_of([str(folder)], f"{module.name}.")


MODULES = sorted(
    name
    for name in modules_of(cyoptim.__path__, "cyoptim.")
    if not name.startswith((*COMPILED, *ADAPTERS))
)
# Which of them need what is not NumPy.
NEEDS = {"cyoptim.sklearn": "sklearn", "cyoptim.scipy": "scipy", "cyoptim.torch": "torch"}


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = ".".join(name.split(".")[:2])
    if package in NEEDS:
        pytest.importorskip(NEEDS[package])
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


# --- pages ----------------------------------------------------------------------------------------

# Code, and what it prints: in comments behind the calls of print, or in a block of text below.
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n?^```text\n(.*?)^```\n)?", re.M | re.S)
FENCED = re.compile(r"^```.*?^```\n", re.M | re.S)


def examples() -> list[object]:
    found = []
    for page in PAGES:
        for number, match in enumerate(EXAMPLE.finditer(page.read_text()), 1):
            found.append(pytest.param(*match.groups(), id=f"{page.stem}-{number}"))
    return found


@pytest.mark.parametrize(("code", "text"), examples())
def test_page_examples(
    code: str, text: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in re.findall(r"^(?:import|from) (\w+)", code, re.M):
        if module != "cyoptim":
            pytest.importorskip(module)
    for module, needed in NEEDS.items():
        if module in code:
            pytest.importorskip(needed)
    if "threadpoolctl" in code and not _engine.openmp():
        pytest.skip("built without OpenMP: threadpoolctl does not see it")
    for name in set(re.findall(r"\bcyoptim\.([A-Z]\w+)", code)):
        if not hasattr(cyoptim, name):
            pytest.skip(f"there is no {name}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "example", "exec", dont_inherit=True), {"__name__": "example"})
    if text is None:
        text = "".join(f"{shown}\n" for shown in re.findall(r"print\(.*\)  # (.*)", code))
    assert printed.getvalue() == text


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", page.read_text()), re.M)
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


LINKED = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "bench").rglob("*.md")), *PAGES[1:]]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", FENCED.sub("", page.read_text()))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() or is_left_out(file), target
        assert not anchor or anchor in anchors(file), target


# --- notebooks ------------------------------------------------------------------------------------

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str) -> list[dict[str, Any]]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == kind]


@pytest.mark.slow
@every_notebook
def test_notebooks_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "notebook"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for number, cell in enumerate(cells(path, "code"), 1):
            exec(compile("".join(cell["source"]), f"{path.stem}-{number}", "exec"), names)
    importlib.import_module("matplotlib.pyplot").close("all")
    assert printed.getvalue()
    assert names["figure"].axes


@every_notebook
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    # The build makes those, so they are never those of an earlier version.
    code = cells(path, "code")
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@every_notebook
def test_links_of_notebooks(path: Path) -> None:
    text = "".join("".join(cell["source"]) for cell in cells(path, "markdown"))
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    for target in targets:
        assert (path.parent / target).exists(), target
    assert f"(notebooks/{path.name})" in (ROOT / "docs" / "examples.md").read_text()


def test_every_page_is_in_the_index() -> None:
    text = (ROOT / "docs" / "index.md").read_text()
    for page in PAGES[1:]:
        assert page.name == "index.md" or f"({page.name})" in text, page.name


def test_public_names_are_documented_in_the_readme() -> None:
    # Optimizers that torch lacks are in the table of docs/optimizers.md.
    text = (ROOT / "README.md").read_text()
    for name in {*cyoptim.__all__} - {card.name for card in cards(~TORCH)}:
        if name not in ("Optimizer", "CheckpointError"):
            assert name in text, name


@pytest.mark.parametrize(
    ("page", "module"),
    [("optimizers.md", cyoptim.optimizers), ("schedulers.md", cyoptim.lr_scheduler)],
)
def test_tables_are_whole(page: str, module: Any) -> None:
    text = (ROOT / "docs" / page).read_text()
    for name in module.__all__:
        if isinstance(getattr(module, name), type) and not name.startswith("_"):
            assert re.search(rf"`{name}[`(]", text), name
