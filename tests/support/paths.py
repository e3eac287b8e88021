"""Where the repository's files are."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
GOLDEN = TESTS / "golden"
IS_CHECKOUT = (ROOT / ".github").is_dir()
"""Whether the tests run in the repository, and not in a source distribution."""


def is_left_out(path: Path) -> bool:
    """Whether a file is missing here because a source distribution leaves it out."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    patterns = tools["scikit-build"]["sdist"]["exclude"]
    parts = path.relative_to(ROOT).parts
    return not IS_CHECKOUT and any(fnmatchcase(part, each) for part in parts for each in patterns)
