"""Write ``tests/golden/trajectories.json``: what torch's optimizers do with every option.

The options are those of torch's own database of optimizers. Run it where torch is installed, and
expecttest, which that database imports::

    pip install torch expecttest && python tools/make_trajectory_golden.py
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from torch.testing._internal.common_optimizers import optim_db

from tests.support.doors import TensorDoor
from tests.support.parity import STORED_RUNS, options_for, trajectory
from tests.support.torch_muon import exact_iteration

number = partial(torch.tensor, dtype=torch.float64)
DTYPES = {"float32": np.float32, "float64": np.float64}


def stored_options(options: dict[str, Any]) -> dict[str, Any]:
    """Options as JSON keeps them."""
    return {k: {"tensor": v.item()} if torch.is_tensor(v) else v for k, v in options.items()}


def rounded(values: Any, dtype: str) -> list[Any]:
    """As few digits as give the number back."""
    flat = np.asarray(values).ravel()
    return [float(str(x)) for x in flat] if dtype == "float32" else flat.tolist()


def runs(info: Any) -> list[dict[str, Any]]:
    """What torch does with each of the optimizer's options."""
    name = info.optim_cls.__name__
    rows = []
    for entry in info.optim_inputs_func(device="cpu"):
        row: dict[str, Any] = {"options": stored_options(entry.kwargs)}
        for label, dtype in DTYPES.items():
            options = options_for(row["options"], number)
            found = trajectory(info.optim_cls, options, TensorDoor(), name, dtype)
            row[label] = [[rounded(array, label) for array in step] for step in found]
        rows.append(row)
    return rows


def main() -> None:
    """Run everything under torch and write what it gives."""
    with exact_iteration():
        optimizers = {info.optim_cls.__name__: runs(info) for info in optim_db}
    version = json.dumps(torch.__version__.split("+")[0])
    blocks = []
    for name, rows in optimizers.items():
        lines = ",\n      ".join(json.dumps(row) for row in rows)
        blocks.append(f"    {json.dumps(name)}: [\n      {lines}\n    ]")
    body = ",\n".join(blocks)
    STORED_RUNS.write_text(f'{{\n  "torch": {version},\n  "optimizers": {{\n{body}\n  }}\n}}\n')


if __name__ == "__main__":
    main()
