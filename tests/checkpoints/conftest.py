"""What the tests of checkpoints share."""

from __future__ import annotations

import pytest

from tests.support.hostile_files import SUFFIXES


@pytest.fixture(params=SUFFIXES)
def either(request, tmp_path):
    return tmp_path / f"run{request.param}"
