"""Write ``tests/golden/schedulers.json``: the trajectories of torch's schedulers.

Run it where torch is installed, after a change to ``tests/support/scheduler_cases.py``::

    python tools/make_scheduler_golden.py
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.scheduler_cases import (
    GOLDEN_STEPS,
    PLATEAUS,
    SCENARIOS,
    STEPS,
    make_optimizer,
    plateau,
    trajectory,
)

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "schedulers.json"


def make(name: str) -> torch.optim.Optimizer:
    """An optimizer of two groups."""
    params = [torch.zeros(2, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return make_optimizer(torch.optim, name, params)


def as_lines(rows: dict[str, list[list[float]]]) -> str:
    """JSON with one line for each name."""
    lines = [f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    return "{\n" + ",\n".join(lines) + "\n  }"


def main() -> None:
    """Run everything under torch and write the results."""
    library = torch.optim.lr_scheduler
    rows = {}
    for name, scenario in SCENARIOS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a chain in a sequence, which steps too early
            found = trajectory(make(scenario.optimizer), scenario, library, STEPS)
        rows[name] = [found[step] for step in GOLDEN_STEPS]
    plateaus = {name: plateau(make("SGD"), library, name) for name in PLATEAUS}
    version = json.dumps(torch.__version__.split("+")[0])
    GOLDEN.write_text(
        f'{{\n  "torch": {version},\n  "rows": {as_lines(rows)},\n'
        f'  "plateaus": {as_lines(plateaus)}\n}}\n'
    )


if __name__ == "__main__":
    main()
