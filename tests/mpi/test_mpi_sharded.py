"""Sharded optimizers over processes of MPI have the bits of one process, and raise together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import RankError, Sharded
from tests.optimizers import BY_NAME
from tests.support.sharding import Arrays, inputs, lanes_of, lanes_run, same

NAMES = ["AdamW", "Lamb", "Prodigy", "Muon", "Adafactor", "AdamWScheduleFree"]
LANES = 8


def steps(comm: Any, name: str, settings: Any) -> tuple[Arrays, Any, Any]:
    """Where a rank is after steps along the lanes of all, which its own share of."""
    card = BY_NAME[name]
    start, lanes = inputs(card, steps=3 * LANES)
    params = [array.copy() for array in start]
    optimizer: Any = Sharded(params, card.cls, comm=comm, **settings, **card.variants[0])
    average = None if name.endswith("Free") else optimizer.ema(0.9)
    for first in range(0, len(lanes), LANES):
        for lane in lanes_of(LANES, comm.size, comm.rank):
            optimizer.accumulate(lanes[first + lane])
        optimizer.step(max_norm=1.0)
    return params, optimizer.last_step, average


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("settings", [{}, {"bucket_size": 40_000}], ids=str)
def test_bits(world: Any, name: str, settings: Any) -> None:
    """On all ranks, on half of them, and on each for itself."""
    card = BY_NAME[name]
    start, lanes = inputs(card, steps=3 * LANES)
    ((expected, receipt),) = lanes_run(1, card, card.variants[0], start, lanes, LANES, max_norm=1.0)
    half = world.Split(world.rank % 2, world.rank)
    for comm in (world, half, _self()):
        found, told, average = steps(comm, name, settings)
        same(found, expected)
        assert told == receipt
        assert average is None or len([*average]) == len(start)
    half.Free()


def _self() -> Any:
    from mpi4py import MPI

    return MPI.COMM_SELF


def test_order_of_the_library(world: Any) -> None:
    """Near, and the same on all ranks."""
    card = BY_NAME["AdamW"]
    start, lanes = inputs(card, steps=3 * LANES)
    ((expected, _),) = lanes_run(1, card, card.variants[0], start, lanes, LANES, max_norm=1.0)
    found, told, _ = steps(world, "AdamW", {"order": "library"})
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    every = world.allgather([array.tobytes() for array in found])
    assert all(one == every[0] for one in every)
    assert len({repr(one) for one in world.allgather(told)}) == 1


def test_one_rank_fails(world: Any) -> None:
    params = [np.ones((200, 100), "f4"), np.ones(3, "f4")]
    optimizer: Any = Sharded(params, cyoptim.Lion, comm=world, lr=0.5)
    grads = [np.ones_like(p) for p in params]
    bad = world.size - 1
    for wrong, kind in (([grads[0]], ValueError), ([grads[0], grads[1].astype("i4")], TypeError)):
        with pytest.raises((RankError, kind)) as caught:
            optimizer.step(grads=wrong if world.rank == bad else grads)
        assert isinstance(caught.value, kind if world.rank == bad else RankError)
        assert all((p == 1).all() for p in params)
    with pytest.raises(ValueError, match=f"rank {bad} has max_norm=1.0, rank 0 max_norm=2.0"):
        optimizer.step(grads=grads, max_norm=1.0 if world.rank == bad else 2.0)
    assert all((p == 1).all() for p in params)
    optimizer.step(grads=grads)
    assert all((p == 0.5).all() for p in params)
