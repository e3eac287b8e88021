"""The page on faults of others names tests that there are."""

from __future__ import annotations

import re

from tests.support.paths import ROOT

NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")


def test_tests_that_are_named_exist() -> None:
    named = NAMED.findall((ROOT / "docs" / "reported_faults.md").read_text())
    assert len(named) > 50
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for file, test in named:
        assert f"\ndef {test}(" in files.get(file, ""), f"{file}::{test}"
