"""What several test files share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _dispatch, _engine
from cyoptim._config import _set_limit


@pytest.fixture(scope="session", autouse=True)
def _compiled_code_goes_with_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    # torch makes this folder when parts of it are imported, compiled code or not.
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(tmp_path_factory.mktemp("torch"))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def torch():
    """torch, for the tests that compare with it; without it they are skipped."""
    return pytest.importorskip("torch")


@pytest.fixture(params=["exchange table", "attributes"])
def tensor_reader(request, monkeypatch, torch):
    """How tensors are read: attribute by attribute by a torch without an exchange table."""
    if request.param == "attributes":
        monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", None, raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a checkpoint can be saved, in a folder with nothing else in it."""
    return tmp_path / "run.npz"


@pytest.fixture
def many_threads() -> Iterator[None]:
    """Steps on several threads even where one would be worth more."""
    _engine.take_all_threads(True)
    yield
    _engine.take_all_threads(False)


@pytest.fixture(params=["pool", "openmp"])
def each_layer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Each threading layer of the build, here and in the processes that a test starts."""
    if request.param not in _engine.LAYERS:
        pytest.skip("this build has no OpenMP")
    before = cyoptim.get_threading_layer()
    monkeypatch.setenv("CYOPTIM_THREADING_LAYER", request.param)
    cyoptim.set_threading_layer(request.param)
    yield request.param
    cyoptim.set_threading_layer(before)


@pytest.fixture(autouse=True)
def _default_kernels_and_threads():
    chosen, layer, takes_all = _dispatch.chosen, _engine.layer(), _engine.takes_all_threads()
    yield
    if _dispatch.chosen != chosen:
        _dispatch.use(chosen)
    _engine.set_layer(layer)
    _engine.take_all_threads(takes_all)
    _set_limit(0)


SHARED = {
    "path",
    "either",
    "w",
    "rng",
    "many_threads",
}  # fixtures that threads of one test would share


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Tell pytest-run-parallel which tests it must leave to one thread."""
    shared = SHARED & set(getattr(item, "fixturenames", ()))
    if shared:
        reason = f"threads would share {', '.join(sorted(shared))}"
        item.add_marker(pytest.mark.thread_unsafe(reason=reason))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `quick` the first case of each test, and of each optimizer in it, unless it is `slow`."""
    seen = set()
    for item in items:
        callspec = getattr(item, "callspec", None)
        card = callspec.params.get("card") if callspec else None
        key = item.path, getattr(item, "originalname", item.name), card
        if key not in seen and item.get_closest_marker("slow") is None:
            item.add_marker("quick")
        seen.add(key)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--passed",
        type=Path,
        metavar="FILE",
        help="write the tests that pass into FILE; of those that are in it already, run alone the quick ones "
        "and those marked `libraries`: for a second run, with libraries that the first lacked. "
        "Write --passed=FILE: pytest takes a FILE after a space for a folder of tests, once it exists",
    )


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--passed"):
        config.pluginmanager.register(Passed(config.getoption("--passed")))


class Passed:
    """Leaves out, and notes, the tests that have passed."""

    def __init__(self, file: Path) -> None:
        self.file, self.before = file, {*file.read_text().splitlines()} if file.exists() else set()
        self.failed_or_skipped: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        again = [
            item
            for item in items
            if item.nodeid not in self.before
            or any(item.get_closest_marker(name) is not None for name in ("quick", "libraries"))
        ]
        config.hook.pytest_deselected(items=[*{*items} - {*again}])
        items[:] = again

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self.failed_or_skipped.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in self.failed_or_skipped:
            with self.file.open("a") as file:
                file.write(report.nodeid + "\n")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The largest differences from torch and other sources that the parity tests have seen."""
    worst: dict[tuple[str, str], float] = {}
    for report in [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]:
        for label, value in getattr(report, "user_properties", ()):
            if label == "difference from the source":
                name, dtype, difference = value
                worst[name, dtype] = max(worst.get((name, dtype), 0.0), difference)
    if worst:
        terminalreporter.section("largest differences from the sources, of max(1, |parameter|)")
    for name in sorted({name for name, _ in worst}):
        found = [f"{d} {worst[name, d]:.1e}" for d in ("float32", "float64") if (name, d) in worst]
        terminalreporter.write_line(f"{name:<11} {'   '.join(found)}")
