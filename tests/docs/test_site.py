"""What the site of the documentation draws, and where its links lead.

The site itself is built with warnings as errors, which tests the rest.
"""

from __future__ import annotations

import importlib
import inspect
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import Optimizer, lr_scheduler, optimizers
from tests.support.cards import Card
from tests.support.parametrize import every_card
from tests.support.paths import ROOT, is_left_out

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


@pytest.mark.parametrize("name", [*optimizers.__all__, *SCHEDULES])
def test_every_page_lists_all_methods(name: str, extension: Callable[[str], Any]) -> None:
    thing = getattr(optimizers, name, None) or getattr(lr_scheduler, name)
    lines = extension("methods").methods_section(thing)
    base = "cyoptim.Optimizer" if issubclass(thing, Optimizer) else "cyoptim.lr_scheduler"
    listed = set(re.findall(rf"<(?:{base}|cyoptim)\S*\.(\w+)>`$", "\n".join(lines), re.M))
    public = {
        each
        for each, member in inspect.getmembers_static(thing, inspect.isfunction)
        if not each.startswith("_") and each not in ("update", "get_lr")
    }
    assert listed - {"last_step"} == public
    assert all(line.endswith((".", ". ")) for line in lines if line.startswith("   "))


def test_every_example_has_a_card(extension: Callable[[str], Any]) -> None:
    pytest.importorskip("sphinx")
    pytest.importorskip("PIL")
    pages = extension("example_cards").pages()
    files = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert {name for name in pages if name.endswith(".py")} == files
    cards = {name: extension("example_cards").thumbnail(name) for name in pages}
    if not is_left_out(ROOT / "docs/pictures/train_digits.png"):
        assert cards["train_digits.py"].startswith('<img alt="" src="data:image/png;base64,')
    assert cards["jax_net.py"] == '<div class="subject">jax</div>'
    assert all(map(len, cards.values()))


@pytest.mark.parametrize("name", [*optimizers.__all__, "swa_utils.AveragedModel"])
def test_every_class_shows_its_arguments(name: str, extension: Callable[[str], Any]) -> None:
    pytest.importorskip("sphinx")
    thing = operator.attrgetter(name)(cyoptim)
    found = ("class", f"cyoptim.{name}", thing, None, "(*args, **kwargs)", None)
    shown, _ = extension("reference").arguments_of_class(None, *found)
    expected = list(inspect.signature(thing.__init__).parameters)[1:]
    assert re.findall(r"(\w+)(?:=[^()]*?(?:\([^()]*\))?)?(?:, |\)$)", shown) == expected
    assert ":" not in shown, "types are in the description"


def test_a_method_leads_to_where_it_is_documented(extension: Callable[[str], Any]) -> None:
    documented_at = extension("methods").documented_at
    of = {name: getattr(optimizers, name) for name in optimizers.__all__}
    assert documented_at(of["AdamW"], "step") == "cyoptim.Optimizer.step"
    assert documented_at(of["LBFGS"], "step") == "cyoptim.LBFGS.step"
    assert documented_at(of["AdamWScheduleFree"], "averaged").startswith("cyoptim.AdamWSch")
    assert documented_at(of["Adam"], "register_step_pre_hook").startswith("cyoptim.Optimizer.")
    schedule = lr_scheduler.LambdaLR
    assert documented_at(schedule, "state_dict") == "cyoptim.lr_scheduler.LRScheduler.state_dict"


@pytest.mark.parametrize(
    ("page", "suffix"),
    [("speed", ".md"), ("reference/clip", ""), ("project/changelog", ""), ("notebooks/a", ".md")],
)
def test_pages_that_are_made_link_to_no_file(
    page: str, suffix: str, extension: Callable[[str], Any]
) -> None:
    pytest.importorskip("sphinx")
    context = {"page_source_suffix": ".md"}
    extension("repository_pages").leave_out_source(None, page, "page.html", context, None)
    assert context == {"page_source_suffix": suffix}


@pytest.mark.parametrize(
    ("page", "link", "shown"),
    [
        ("speed", "[b](../bench/README.md#sizes)", "[b](project/measuring.md#sizes)"),
        ("speed", "[c](clipping.md)", "[c](clipping.md)"),
        ("speed", "[a](../python/cyoptim/optimizers/adam.py)", "[a](reference/optimizers/adam.md)"),
        (
            "schedulers",
            "[`StepLR(step_size)`](../python/cyoptim/_schedulers/decays.py)",
            "[`StepLR(step_size)`](reference/lr_scheduler/StepLR.md)",
        ),
        (
            "schedulers",
            "[`swa_utils.SWALR(swa_lr)`](../python/cyoptim/_schedulers/swa.py)",
            "[`swa_utils.SWALR(swa_lr)`](reference/swa_utils.md)",
        ),
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
