"""Programs of ranks in processes of torch.distributed: `python -m tests.support.torch_ranks FOLDER 3`.

All run in one set of processes, as these take seconds to start; each process writes what came of
each program into a file of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from cyoptim.distributed import Communicator
from cyoptim.distributed._communicators import as_communicator
from tests.support import agreements, exchanges

PROGRAMS: dict[str, Callable[[Communicator], None]] = {
    **exchanges.CASES,
    **agreements.CASES,
    **agreements.WITH_SIGNALS,
}


def outcomes(comm: Communicator) -> dict[str, str]:
    """An empty text for each program that has ended, or its error; none follow an error."""
    found = {}
    for name, program in PROGRAMS.items():
        found[name] = "did not run"
        try:
            program(comm)
        except BaseException:
            found[name] = traceback.format_exc()
            break
        found[name] = ""
    return found


def work(rank: int, size: int, folder: Path) -> None:
    import torch.distributed as dist

    dist.init_process_group(
        "gloo",
        init_method=(folder / "meeting").as_uri(),
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=30),
    )
    found = {"all": outcomes(as_communicator(dist))}
    # Of two, with other numbers than in the whole.
    pair = dist.new_group([size - 1, 0], sort_ranks=False) if size > 2 else None
    if pair is not None and rank in (0, size - 1):
        found["pair"] = outcomes(as_communicator(pair))
    (folder / f"{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


def main(folder: Path, size: int) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, size, folder)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), int(sys.argv[2]))
