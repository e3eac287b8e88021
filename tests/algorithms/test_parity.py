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

from tests.optimizers import BY_NAME, cards
from tests.support.cards import TORCH, Card
from tests.support.doors import Door, TensorDoor
from tests.support.dtypes import tolerance
from tests.support.parametrize import every_door, every_numpy_door, lets_packages_age
from tests.support.parity import load, options_for, trajectory, worst


def is_package(card: Card) -> bool:
    """Whether its source can be installed, and not only downloaded."""
    return TORCH(card) or (card.source is not None and "." in card.source.cls)


SOURCES = load()
OPTIMIZERS: dict[str, list[dict[str, Any]]] = {name: file["runs"] for name, file in SOURCES.items()}
ROWS = [(name, i) for name, rows in OPTIMIZERS.items() for i in range(len(rows))]
IDS = [f"{name}-{'-'.join(OPTIMIZERS[name][i]['options']) or 'defaults'}" for name, i in ROWS]
LIVE = [(row, id_) for row, id_ in zip(ROWS, IDS, strict=True) if is_package(BY_NAME[row[0]])]

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
    row, card = OPTIMIZERS[name][i], BY_NAME[name]
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
    stored, card = OPTIMIZERS[name][i]["options"], BY_NAME[name]
    if card.source is not None:
        pytest.importorskip(card.source.cls.partition(".")[0], exc_type=ImportError)
    tensor = partial(torch.tensor, dtype=torch.float64)
    options = options_for(stored, tensor if isinstance(door, TensorDoor) else np.float64)
    found = trajectory(card, card.cls, options, door, DTYPES[dtype])
    check(record_property, name, dtype, found, live(name, i, dtype))


@cache
def live(name: str, i: int, dtype: str) -> Any:
    import torch

    card, tensor = BY_NAME[name], partial(torch.tensor, dtype=torch.float64)
    options = options_for(OPTIMIZERS[name][i]["options"], tensor)
    cls = card.source.load() if card.source is not None else card.torch_class(torch)
    return trajectory(card, cls, options, TensorDoor(), DTYPES[dtype])


def test_every_source_is_stored() -> None:
    with_source = cards(lambda card: TORCH(card) or card.source is not None)
    assert set(OPTIMIZERS) == {card.name for card in with_source}
    expected = {card.name: card.source.name for card in with_source if card.source is not None}
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
