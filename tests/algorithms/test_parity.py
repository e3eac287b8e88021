"""Every optimizer against the stored trajectories of its source, and against the source itself.

torch's were made with every option that its own tests exercise. The stored numbers stand in for a source
that is not installed. What the largest differences were is printed at the end of a run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import pytest

from tests.optimizers import cards
from tests.support.cards import TORCH
from tests.support.doors import Door, TensorDoor
from tests.support.dtypes import tolerance
from tests.support.parametrize import every_door, every_numpy_door, lets_packages_age
from tests.support.parity import load, options_for, stored_by, trajectory, worst

CARDS = {name: card for card in cards() for name in stored_by(card)}
SOURCE = {name: source for card in cards() for name, source in stored_by(card).items()}


def is_package(name: str) -> bool:
    """Whether a source can be installed, and not only downloaded."""
    source = SOURCE[name]
    return source is None or "." in source.cls


SOURCES = load()
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {name: file["runs"] for name, file in SOURCES.items()}
ROWS = [(name, i) for name, rows in OPTIMIZERS.items() for i in range(len(rows))]
IDS = [f"{name}-{'-'.join(OPTIMIZERS[name][i]['options']) or 'defaults'}" for name, i in ROWS]
LIVE = [(row, id_) for row, id_ in zip(ROWS, IDS, strict=True) if is_package(row[0])]

DTYPES = {"float32": np.float32, "float64": np.float64}


Record = Callable[[str, object], None]


def check(record: Record, name: str, dtype: str, found: Any, expected: Any) -> None:
    difference = worst(found, expected)
    record("difference from the source", (name, dtype, difference))
    assert difference < tolerance(dtype)


@every_numpy_door
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "i"), ROWS, ids=IDS)
def test_stored(record_property: Record, name: str, i: int, dtype: str, door: Door) -> None:
    row, card = OPTIMIZERS[name][i], CARDS[name]
    options = options_for(row["options"], np.float64)
    found = trajectory(card, card.cls, options, door, DTYPES[dtype])
    check(record_property, name, dtype, found, row[dtype])


@pytest.mark.slow
@lets_packages_age
@every_door
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "i"), [row for row, _ in LIVE], ids=[i for _, i in LIVE])
def test_live(
    torch: Any, record_property: Record, name: str, i: int, dtype: str, door: Door
) -> None:
    stored, card, source = OPTIMIZERS[name][i]["options"], CARDS[name], SOURCE[name]
    if source is not None:
        pytest.importorskip(source.cls.partition(".")[0], exc_type=ImportError)
    tensor = partial(torch.tensor, dtype=torch.float64)
    options = options_for(stored, tensor if isinstance(door, TensorDoor) else np.float64)
    found = trajectory(card, card.cls, options, door, DTYPES[dtype])
    check(record_property, name, dtype, found, live(name, i, dtype))


@cache
def live(name: str, i: int, dtype: str) -> Any:
    import torch

    card, source, tensor = CARDS[name], SOURCE[name], partial(torch.tensor, dtype=torch.float64)
    options = options_for(OPTIMIZERS[name][i]["options"], tensor)
    cls = source.load() if source is not None else card.torch_class(torch)
    return trajectory(card, cls, options, TensorDoor(), DTYPES[dtype])


def test_every_source_is_stored() -> None:
    assert set(OPTIMIZERS) == set(SOURCE)
    expected = {name: source.name for name, source in SOURCE.items() if source is not None}
    assert {name: SOURCES[name]["source"] for name in expected} == expected


@pytest.mark.slow
def test_nothing_is_missing(torch: Any) -> None:
    # What torch's own database holds is what is stored.
    database = pytest.importorskip(
        "torch.testing._internal.common_optimizers", exc_type=ImportError
    )
    assert {card.torch for card in cards(TORCH)} == {
        info.optim_cls.__name__ for info in database.optim_db
    }
    for info in database.optim_db:
        expected = [sorted(entry.kwargs) for entry in info.optim_inputs_func(device="cpu")]
        assert [sorted(row["options"]) for row in OPTIMIZERS[info.optim_cls.__name__]] == expected
