"""Every optimizer with every option that torch's own tests exercise, against torch.

The stored trajectories stand in for torch where it is not installed. What the largest differences
were is printed at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door, TensorDoor
from tests.support.parity import load, options_for, trajectory, worst

OPTIMIZERS: dict[str, list[dict[str, Any]]] = load()["optimizers"]
ROWS = [(name, i) for name, rows in OPTIMIZERS.items() for i in range(len(rows))]
IDS = [f"{name}-{'-'.join(OPTIMIZERS[name][i]['options']) or 'defaults'}" for name, i in ROWS]

DTYPES = {"float32": np.float32, "float64": np.float64}
# 60 steps, each of which rounds values of size 1: see test_trajectories.py.
TOLERANCE = {"float32": 3e-5, "float64": 1e-10}

Record = Callable[[str, object], None]


def check(record: Record, name: str, dtype: str, found: Any, expected: Any) -> None:
    difference = worst(found, expected)
    record("difference from torch", (name, dtype, difference))
    assert difference < TOLERANCE[dtype]


@pytest.mark.parametrize("door", NUMPY_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "i"), ROWS, ids=IDS)
def test_stored(record_property: Record, name: str, i: int, dtype: str, door: Door) -> None:
    row = OPTIMIZERS[name][i]
    options = options_for(row["options"], np.float64)
    found = trajectory(getattr(cyoptim, name), options, door, name, DTYPES[dtype])
    check(record_property, name, dtype, found, row[dtype])


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "i"), ROWS, ids=IDS)
def test_live(
    torch: Any, record_property: Record, name: str, i: int, dtype: str, door: Door
) -> None:
    stored = OPTIMIZERS[name][i]["options"]
    tensor = partial(torch.tensor, dtype=torch.float64)
    options = options_for(stored, tensor if isinstance(door, TensorDoor) else np.float64)
    found = trajectory(getattr(cyoptim, name), options, door, name, DTYPES[dtype])
    check(record_property, name, dtype, found, torchs(name, i, dtype))


@cache
def torchs(name: str, i: int, dtype: str) -> Any:
    import torch

    from tests.support.torch_muon import exact_iteration

    options = options_for(
        OPTIMIZERS[name][i]["options"], partial(torch.tensor, dtype=torch.float64)
    )
    with exact_iteration():
        return trajectory(getattr(torch.optim, name), options, TensorDoor(), name, DTYPES[dtype])


def test_nothing_is_missing(torch: Any) -> None:
    # What torch's own database holds is what is stored.
    database = pytest.importorskip(
        "torch.testing._internal.common_optimizers", exc_type=ImportError
    )
    assert set(OPTIMIZERS) == {info.optim_cls.__name__ for info in database.optim_db}
    for info in database.optim_db:
        expected = [sorted(entry.kwargs) for entry in info.optim_inputs_func(device="cpu")]
        assert [sorted(row["options"]) for row in OPTIMIZERS[info.optim_cls.__name__]] == expected
