"""Parameters that are DTensors, as `fully_shard` and tensor parallelism make them: each process steps its part."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import cyoptim
from tests.support.paths import ROOT
from tests.support.shard_runs import PROCESSES, RUNS

torch: Any = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 7):
    pytest.skip("fully_shard runs on CPUs since torch 2.7", allow_module_level=True)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What came of each run in each process."""
    folder = tmp_path_factory.mktemp("shards")
    subprocess.run(
        [sys.executable, "-m", "tests.support.shard_runs", str(folder)],
        cwd=ROOT,
        check=True,
        timeout=300,
    )
    return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(PROCESSES)]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_in_two_processes(name: str, results: list[dict[str, str]]) -> None:
    for rank, found in enumerate(results):
        assert not found.get(name, "did not run"), f"process {rank}: {found.get(name)}"


class Wrapped(torch.Tensor):  # type: ignore[misc, name-defined]
    """A tensor without memory of its own, as libraries of quantization make them."""

    @staticmethod
    def __new__(cls, inner: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return args[0]


def test_other_tensors_without_memory() -> None:
    message = r"parameter 0 of group 0 is a .*Wrapped, whose memory torch does not show"
    with pytest.raises(TypeError, match=message):
        cyoptim.AdamW([Wrapped(torch.ones(3))])
