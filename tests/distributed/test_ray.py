"""A Sharded in actors of Ray, which have made a process group of torch."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import Local, RankError, Sharded

SIZE = 40_000  # elements, which are divided
TIMEOUT = 120  # seconds


class Rank:
    """An actor: a rank with all parameters."""

    def __init__(self, comm: Any) -> None:
        self.values = np.linspace(-1, 1, SIZE)
        self.optimizer = Sharded([self.values], cyoptim.AdamW, comm=comm, lr=0.1)

    def step(self, gradient: np.ndarray) -> tuple[np.ndarray, bool]:
        self.optimizer.step(grads=[gradient], max_norm=1.0)
        return self.values, gradient.flags.writeable


class RayRank(Rank):
    def __init__(self, rank: int, size: int, meeting: str) -> None:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
        super().__init__(dist)


def gradients(step: int) -> list[np.ndarray]:
    return [*np.random.default_rng(step).standard_normal((2, SIZE))]


def in_threads(comm: Any) -> np.ndarray:
    rank = Rank(comm)
    for step in range(3):
        rank.step(gradients(step)[comm.rank])
    return rank.values


def main(folder: Path) -> None:
    """What the test runs in a process of its own, as Ray leaves threads and handlers behind."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    meeting = (folder / "meeting").as_uri()
    ranks = [ray.remote(RayRank).remote(rank, 2, meeting) for rank in range(2)]
    for step in range(3):
        found = ray.get([r.step.remote(g) for r, g in zip(ranks, gradients(step), strict=True)])
    assert not any(writeable for _, writeable in found), "gradients are those of the object store"
    np.save(folder / "values.npy", [values for values, _ in found])

    wrong = [np.ones(SIZE), np.ones(SIZE - 1)]
    first, second = (r.step.remote(g) for r, g in zip(ranks, wrong, strict=True))
    with pytest.raises(RankError, match="rank 1 raised ValueError: gradient of parameter 0"):
        ray.get(first)
    with pytest.raises(ValueError, match=r"shape \(39999,\), expected \(40000,\)"):
        ray.get(second)
    ray.shutdown()


@pytest.mark.slow
def test_sharded_in_ray_actors(tmp_path: Path) -> None:
    for module in ("ray", "torch"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    result = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "values.npy"), Local(2).run(in_threads))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
