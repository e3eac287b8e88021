"""A short slice of every fuzzer, the same cases each time; `python -m tests.fuzz` runs more."""

from __future__ import annotations

import pytest

from tests.fuzz import runner

FUZZERS = runner.discover()

SAMPLE = """
import ctypes, sys, time, types
sys.path.insert(0, ".")
from tests.fuzz import runner

def check(case):
    if case == 2:
        raise AssertionError("case two")
    if case == 3:
        raise KeyboardInterrupt
    if case == 4:
        ctypes.string_at(0)
    if case == 5:
        time.sleep(60)
    return "even" if case % 2 == 0 else "odd"

runner.discover = lambda: {"sample": types.SimpleNamespace(check=check, LIMIT=1.0)}
runner.worker_main("sample")
"""


@pytest.mark.slow
@pytest.mark.libraries
@pytest.mark.parametrize("name", FUZZERS)
def test_slice(name: str) -> None:
    _skip_without_its_packages(name)
    report = runner.run(name, runner.short_slice(FUZZERS[name]))
    assert not report.failures, str(report)


@pytest.mark.libraries
@pytest.mark.parametrize("name", FUZZERS)
def test_one_case(name: str) -> None:
    _skip_without_its_packages(name)
    assert FUZZERS[name].check(0)


def _skip_without_its_packages(name: str) -> None:
    for package in getattr(FUZZERS[name], "NEEDS", ()):
        pytest.importorskip(package)


@pytest.mark.slow
def test_failures_crashes_and_hangs_are_told_by_their_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WORKER", ("-c", SAMPLE))
    report = runner.run("sample", range(9), jobs=2)
    assert report.tally == {"even": 3, "odd": 2}
    assert sorted(failure.case for failure in report.failures) == [2, 3, 4, 5]
    kinds = {failure.case: failure.kind for failure in report.failures}
    assert kinds[2] == "AssertionError: case two"
    assert kinds[3] == "KeyboardInterrupt"
    crash = "SUMMARY: " if runner.SANITIZER else "the process ended with status"
    assert kinds[4].startswith(crash)
    assert kinds[5] == "the case did not end"
    assert "python -m tests.fuzz sample --start 2 --count 1" in str(
        report.failures[0].__class__("sample", 2, "")
    )
