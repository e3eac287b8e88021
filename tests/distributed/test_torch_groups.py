"""Exchanges and agreements over process groups of torch.distributed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cyoptim.distributed._communicators import as_communicator
from tests.support.paths import ROOT
from tests.support.torch_ranks import PROGRAMS

torch: Any = pytest.importorskip("torch")
if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

SIZES = (2, 3)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, dict[str, str]]]]:
    """What came of each program, by the number of processes and in each."""
    results = {}
    for size in SIZES:
        folder = tmp_path_factory.mktemp("ranks")
        subprocess.run(
            [sys.executable, "-m", "tests.support.torch_ranks", str(folder), str(size)],
            cwd=ROOT,
            check=True,
            timeout=200,
        )
        results[size] = [json.loads(Path(folder, f"{n}.json").read_text()) for n in range(size)]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str, found: dict[int, list[dict[str, dict[str, str]]]]) -> None:
    groups = 0
    for size, results in found.items():
        for rank, result in enumerate(results):
            for group, outcome in result.items():
                groups += 1
                assert not outcome.get(name, "did not run"), f"{group} of {size}: rank {rank}"
    assert groups == 2 + 3 + 2


@pytest.fixture
def alone(tmp_path: Path):
    """A default group of this process alone."""
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("alone")
def test_what_is_a_group() -> None:
    for comm in (
        torch.distributed,
        torch.distributed.group.WORLD,
        torch.distributed.new_group([0]),
    ):
        found = as_communicator(comm)
        assert (found.rank, found.size) == (0, 1)
        assert found.share(b"text") == [b"text"]
        assert repr(found) == "<rank 0 of 1 of torch.distributed>"


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_what_is_not_added(dtype: str) -> None:
    buffer = np.zeros(16, np.uint8)
    message = f"the group adds float32, float64, complex64, complex128, and the pieces are {dtype}: write order='tree'"
    with pytest.raises(TypeError) as caught:
        as_communicator(torch.distributed).reduce_scatter(buffer, [(0, 16)], buffer, dtype)
    assert str(caught.value) == message


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("config", "name"),
    [("cuda:nccl", "cuda:nccl"), ("cpu:ucc,cuda:nccl", "ucc")],
)
def test_groups_of_devices_are_refused(
    config: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda group: config)
    message = (
        f"comm is a process group of {name}, which cannot exchange what is in main memory: "
        'write comm=torch.distributed.new_group(backend="gloo")'
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        as_communicator(torch.distributed)
    assert str(caught.value) == message


def test_without_a_group() -> None:
    message = (
        "torch.distributed has no process group: call "
        'torch.distributed.init_process_group("gloo") before'
    )
    with pytest.raises(RuntimeError) as caught:
        as_communicator(torch.distributed)
    assert str(caught.value) == message


def test_other_things_of_torch() -> None:
    for comm in (torch, torch.device("cpu")):
        with pytest.raises(TypeError, match=r"write comm=torch\.distributed for the default group"):
            as_communicator(comm)
