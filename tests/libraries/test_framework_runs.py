"""Twenty steps in every trainer, alone and with its schedule, accumulation, clipping and checkpoints: the numbers of torch's
own optimizer there, and of the authors' where torch has none.

Each framework is optional; what is not installed is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.framework_runs import PAIRS, expected, trained
from tests.support.framework_tasks import FRAMEWORKS, Framework, flat, network

torch: Any = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.libraries,
    pytest.mark.filterwarnings("ignore"),  # the frameworks' own
]

RUNS = [
    pytest.param(framework, pair, feature, id=f"{framework.name}-{pair.name}-{feature}")
    for framework in FRAMEWORKS.values()
    for pair in PAIRS.values()
    for feature in framework.features
    if feature in pair.features and pair.name not in framework.notes
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frameworks")


@pytest.mark.parametrize(("framework", "pair", "feature"), RUNS)
def test_the_same_numbers(framework: Framework, pair: Any, feature: str, folder: Path) -> None:
    if not framework.is_here():
        pytest.skip(f"needs {framework.package}")
    found = trained(framework, pair, feature, True, folder)
    # In float64: a step or a rate that is missing would make 1e-2.
    torch.testing.assert_close(
        found, expected(framework, pair, feature, folder), rtol=1e-9, atol=1e-9
    )
    assert not torch.allclose(found, flat(network()), atol=1e-3)
    if "optimizer" in framework.features and feature != "optimizer":
        alone = trained(framework, pair, "optimizer", True, folder)
        if feature == "save and resume":
            torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)
        else:  # the framework did something
            assert not torch.allclose(found, alone, atol=1e-4)
