"""Files that processes of MPI write and read together."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import cyoptim
from cyoptim.distributed import RankError
from tests.support.saved_objects import temporaries
from tests.support.sharded_files import SUFFIXES, Run, same_state, saved_by_one

NAMES = ["AdamW", "Muon", "Prodigy"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_all_write_the_file_of_one_and_half_of_them_go_on(
    world: Any, name: str, suffix: str, shared_path: Path
) -> None:
    of = Run(getattr(cyoptim, name), [(130, 300), (7, 1), (33_000, 1), (8192, 3)], averages=True)
    path, plain = shared_path / f"run{suffix}", shared_path / f"plain{suffix}"
    params, optimizer = of.sharded(world, 2)
    cyoptim.save(path, params=params, optimizer=optimizer, by=world.rank)
    if world.rank == 0:
        assert path.read_bytes() == saved_by_one(plain, of, 2, by=0)
    world.Barrier()
    expected, alone = of.plain()
    cyoptim.load(path, params=expected, optimizer=alone)
    of.step(alone, [2])
    half = world.Split(world.rank % 2, world.rank)
    params, optimizer = of.sharded(half)
    cyoptim.load(path, params=params, optimizer=optimizer)
    of.step(optimizer, [2], half.rank)
    same_state(optimizer.state_dict(), alone.state_dict())
    same_state(params, expected)
    half.Free()


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("full", [0, 2])
def test_a_disk_that_is_full_for_one_rank(
    world: Any, full: int, suffix: str, shared_path: Path
) -> None:
    import resource

    of, path = Run(cyoptim.Adam, [(400_000,)]), shared_path / f"run{suffix}"
    _, optimizer = of.sharded(world, 1)
    cyoptim.save(path, optimizer=optimizer)
    before = path.read_bytes()
    world.Barrier()
    of.step(optimizer, [1], world.rank)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if world.rank == full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError if world.rank == full else RankError, match="File too large"):
            cyoptim.save(path, optimizer=optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    world.Barrier()
    assert path.read_bytes() == before
    assert temporaries(shared_path) == []
    world.Barrier()
    cyoptim.save(path, optimizer=optimizer)
    assert path.read_bytes() != before


def test_a_series(world: Any, shared_path: Path) -> None:
    of, series = Run(cyoptim.Adam), cyoptim.Checkpoints(shared_path / "series", keep=2)
    params, optimizer = of.sharded(world)
    for step in range(4):
        of.step(optimizer, [step], world.rank)
        path = series.save(step, params=params, optimizer=optimizer)
    world.Barrier()
    assert sorted(os.listdir(series.folder)) == [f"checkpoint-0000000{step}.npz" for step in (2, 3)]
    assert path == series.latest()
    _, other = of.sharded(world)
    series.load(optimizer=other)
    same_state(other.state_dict()["state"], optimizer.state_dict()["state"])
