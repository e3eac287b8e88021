"""No file holds more code than can be read at once, and folders stand one upon another."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = next(path for path in Path(__file__).parents if (path / "pyproject.toml").exists())
FOLDERS = ("python", "src", "tests", "bench", "tools", "docs/_ext", "examples")
MOST = 500  # lines of code: neither blank, nor comments, nor docstrings

CYTHON = {".pyx", ".pxi", ".pxd"}
# A docstring is a string that begins a line; a comment in C may be longer than one.
NO_CYTHON_CODE = re.compile(r'^[ \t]*r?"""(?:.|\n)*?"""|#.*', re.M)
NO_C_CODE = re.compile(r"/\*(?:.|\n)*?\*/|//.*")
NO_SHELL_CODE = re.compile(r"^[ \t]*#.*", re.M)
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def count_code(path: Path) -> int:
    """The lines of code of a file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix in (".py", ".pyi"):
        return len(python_code(text))
    pattern = NO_CYTHON_CODE if path.suffix in CYTHON else NO_C_CODE
    pattern = NO_SHELL_CODE if path.suffix == ".sh" else pattern
    return sum(1 for line in pattern.sub("", text).splitlines() if line.strip())


def python_code(text: str) -> set[int]:
    """The numbers of the lines that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines |= {*range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node) is not None and first is not None:
                lines -= {*range(first.lineno, (first.end_lineno or first.lineno) + 1)}
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("folder", FOLDERS)
def test_no_file_is_too_long(folder: str) -> None:
    suffixes = {".py", ".pyi", ".c", ".h", ".sh", *CYTHON}
    files = [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    assert files
    counts = {str(path.relative_to(ROOT)): count_code(path) for path in files}
    assert {path: n for path, n in counts.items() if n > MOST} == {}


@pytest.mark.parametrize(
    ("suffix", "text", "count"),
    [
        (".py", '"""A file."""\n\n# One.\nx = 1  # two\n\n\ndef f():\n    """Nothing."""\n', 2),
        (".py", 'text = """\nall of\n\nit"""\n', 4),
        (
            ".pxi",
            '# One.\n\ncdef int f():\n    """Nothing\n    at all."""\n    return 1  # one\n',
            2,
        ),
        (".c", "/* One\n * two */\nint x; /* three */\n\n// four\n", 1),
        (".sh", "# One\nset -e\n  # two\n", 1),
    ],
)
def test_what_counts(suffix: str, text: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_text(text)
    assert count_code(path) == count


# --- folders --------------------------------------------------------------------------------------

PACKAGE = ROOT / "python" / "cyoptim"
# What the base of the optimizers stands on, from below.
FLOORS = ("_arrays", "_groups", "_state", "_gradients", "_averages", "_step", "_saving")


def imported(path: Path) -> set[str]:
    """The folders and modules of the package that a module needs to be imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    return {
        node.module.split(".")[1]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and id(node) not in later
        if node.module is not None and node.module.startswith("cyoptim.")
    }


@pytest.mark.parametrize("folder", FLOORS)
def test_a_folder_imports_what_stands_below(folder: str) -> None:
    above = {*FLOORS[FLOORS.index(folder) + 1 :], "optimizer", "optimizers", "lr_scheduler"}
    needed = {path.name: imported(path) & above for path in (PACKAGE / folder).glob("*.py")}
    assert needed
    assert {name: found for name, found in needed.items() if found} == {}


def test_no_floor_is_left_out() -> None:
    needed = imported(PACKAGE / "optimizer.py")
    assert {name for name in needed if (PACKAGE / name).is_dir()} == {*FLOORS}
