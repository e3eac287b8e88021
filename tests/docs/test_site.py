"""What the site of the documentation draws, and where its links lead.

The site itself is built with warnings as errors, which tests the rest.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cyoptim import lr_scheduler, optimizers
from tests.support.cards import Card
from tests.support.parametrize import every_card
from tests.support.paths import ROOT

EXTENSIONS = ROOT / "docs" / "_ext"
SCHEDULES = [
    name
    for name in lr_scheduler.__all__
    if not name.startswith("_")
    and isinstance(thing := getattr(lr_scheduler, name), type)
    and issubclass(thing, lr_scheduler.LRScheduler)
    and thing is not lr_scheduler.LRScheduler
]


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import an extension of the site by its name."""
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module


@every_card(lambda card: card.drawing is not None)
def test_every_optimizer_is_drawn_on_its_way_down(
    card: Card, extension: Callable[[str], Any]
) -> None:
    paths = extension("optimizer_paths")
    path = paths.run(card.drawing)
    assert len(path.points) == paths.STEPS + 1
    assert tuple(path.points[0]) == paths.START
    assert np.all(np.isfinite(path.losses))
    assert path.losses[-1] < path.losses[0] / 4


@pytest.mark.parametrize("name", [*SCHEDULES, "SWALR"])
def test_every_schedule_is_drawn_where_it_does_something(
    name: str, extension: Callable[[str], Any]
) -> None:
    curves = extension("schedule_curves")
    curve = curves.run(name)
    assert len(curve.rates) == curves.STEPS + 1
    assert max(curve.rates) > 1.5 * min(curve.rates)


def test_no_drawing_is_without_a_page(extension: Callable[[str], Any]) -> None:
    assert set(optimizers.__all__) <= set(extension("optimizer_paths").RECIPES)
    assert set(extension("schedule_curves").CODE) == {*SCHEDULES, "SWALR"}


def test_the_rate_falls_once_on_each_plateau(extension: Callable[[str], Any]) -> None:
    rates = extension("schedule_curves").run("ReduceLROnPlateau").rates
    assert list(dict.fromkeys(rates)) == [0.1, 0.05, 0.025, 0.0125]


@pytest.mark.parametrize(
    ("page", "link", "shown"),
    [
        ("speed", "[b](../bench/README.md#sizes)", "[b](project/measuring.md#sizes)"),
        ("speed", "[c](clipping.md)", "[c](clipping.md)"),
        ("speed", "[a](../python/cyoptim/optimizers/adam.py)", "[a](reference/optimizers/adam.md)"),
        ("speed", "[e](../examples/jax_net.py)", "[e](project/examples/jax_net.md)"),
        ("speed", "[t](../tests/engine/test_bits.py)", "t"),
        ("speed", "[h](#threads) [w](https://numpy.org)", "[h](#threads) [w](https://numpy.org)"),
        ("speed", "`[c](clipping.md)`", "`[c](clipping.md)`"),
        (
            "project/measuring",
            "[s](../docs/sklearn.md#time-to-accuracy)",
            "[s](../sklearn.md#time-to-accuracy)",
        ),
        ("project/contributing", "[r](README.md)", "[r](../index.md)"),
    ],
)
def test_links_of_the_repository_lead_to_pages(
    page: str, link: str, shown: str, extension: Callable[[str], Any]
) -> None:
    pytest.importorskip("sphinx")
    assert extension("repository_pages").with_links_of_the_site(link, page) == shown
