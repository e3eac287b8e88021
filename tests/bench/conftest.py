"""What the tests of the benchmark share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _temporary_files_of_other_processes(tmp_path, monkeypatch):
    # torch.compile leaves compiled headers there, wherever else its own folder is.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
