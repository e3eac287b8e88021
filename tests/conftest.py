"""What several test files share."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cyoptim import _dispatch
from cyoptim._config import _set_limit


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture
def torch():
    """torch, for the tests that compare with it; without it they are skipped."""
    return pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _default_kernels_and_threads():
    chosen = _dispatch.chosen
    yield
    if _dispatch.chosen != chosen:
        _dispatch.use(chosen)
    _set_limit(0)
