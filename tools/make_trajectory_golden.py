"""Write ``tests/golden/trajectories/NAME.json``: what torch and other sources do with every option.

The options of torch's optimizers are those of its own database. Run it where torch is installed,
and expecttest, which that database imports::

    pip install torch expecttest && python tools/make_trajectory_golden.py

An optimizer that torch lacks is run with its card's variants by the source that the card names, a
package or a file of the paper's authors. To make or renew some, and to leave all others as they are
stored::

    python tools/make_trajectory_golden.py Lion AdamW-timm LAMB=downloads/lamb.py
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.optimizers import BY_NAME, cards
from tests.support.cards import TORCH, Card, Options, Source
from tests.support.doors import TensorDoor
from tests.support.parity import STORED_RUNS, options_for, stored_by, trajectory

number = partial(torch.tensor, dtype=torch.float64)
DTYPES = {"float32": np.float32, "float64": np.float64}


def stored_options(options: Options) -> Options:
    """Options as JSON keeps them."""
    return {k: {"tensor": v.item()} if torch.is_tensor(v) else v for k, v in options.items()}


def rounded(values: Any, dtype: str) -> list[Any]:
    """As few digits as give the number back."""
    flat = np.asarray(values).ravel()
    return [float(str(x)) for x in flat] if dtype == "float32" else flat.tolist()


def options_of_torch(card: Card) -> Iterator[Options]:
    """Those that torch's own database tests it with."""
    from torch.testing._internal.common_optimizers import optim_db

    (info,) = (info for info in optim_db if info.optim_cls.__name__ == card.torch)
    for entry in info.optim_inputs_func(device="cpu"):
        yield entry.kwargs


def runs(card: Card, source: Source | None, file: str) -> list[dict[str, Any]]:
    """What the source does with each of the optimizer's options."""
    if source is None:
        cls, variants = card.torch_class(torch), [*options_of_torch(card)]
    else:
        cls, variants = source.load(file), [*source.variants]
        known = inspect.signature(cls).parameters  # ours may have more options
        variants = variants or [options for options in card.variants if {*options} <= {*known}]
    rows = []
    for variant in variants:
        row: dict[str, Any] = {"options": stored_options(variant)}
        for label, dtype in DTYPES.items():
            found = trajectory(card, cls, options_for(row["options"], number), TensorDoor(), dtype)
            row[label] = [[rounded(array, label) for array in step] for step in found]
        rows.append(row)
    return rows


def main(names: list[str]) -> None:
    """Run the named optimizers, or all of torch's, and write what their sources give."""
    for name, _, file in (name.partition("=") for name in names or map(str, cards(TORCH))):
        card = BY_NAME[name.partition("-")[0]]
        source = stored_by(card)[name]
        label = f"torch.optim.{card.torch} {torch.__version__.split('+')[0]}"
        if source is not None:
            label = source.name
        rows = ",\n    ".join(json.dumps(row) for row in runs(card, source, file))
        text = f'{{\n  "source": {json.dumps(label)},\n  "runs": [\n    {rows}\n  ]\n}}\n'
        (STORED_RUNS / f"{name}.json").write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
