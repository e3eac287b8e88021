"""What `tests/libraries/test_framework_runs.py` and `tools/make_framework_table.py` compare: optimizers, each in every
framework, beside another's in the same one."""

from __future__ import annotations

import importlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import framework_trainers as framework_trainers  # each adds itself
from tests.support.framework_tasks import FEATURES, FRAMEWORKS, Framework, Task


@dataclass(frozen=True)
class Pair:
    """An optimizer, and the one of others that it is compared with in the same framework."""

    name: str
    reference: str
    """A module and a class; empty: it is compared with itself in a loop."""
    options: dict[str, Any]
    features: tuple[str, ...] = ("optimizer", "save and resume")
    grouped: bool = False
    modes: bool = False

    def cls(self, ours: bool) -> Any:
        module, _, name = self.reference.rpartition(".")
        if ours or not module:
            return getattr(importlib.import_module("cyoptim.torch"), self.name)
        return getattr(importlib.import_module(module), name)

    def has_reference(self) -> bool:
        with suppress(ImportError):
            return bool(self.reference and self.cls(ours=False))
        return False


PAIRS = {
    pair.name: pair
    for pair in (
        Pair("AdamW", "torch.optim.AdamW", {"lr": 0.05, "weight_decay": 0.1}, FEATURES),
        Pair(
            "AdamWScheduleFree",
            "schedulefree.AdamWScheduleFree",
            {"lr": 0.05, "weight_decay": 0.1},
            modes=True,
        ),
        Pair("Prodigy", "prodigyopt.Prodigy", {"lr": 1.0, "d0": 1e-2, "weight_decay": 0.1}),
        Pair("MuonWithAuxAdam", "", {}, grouped=True),
    )
}

_found: dict[tuple[Any, ...], Any] = {}


def trained(framework: Framework, pair: Pair, feature: str, ours: bool, folder: Path) -> Any:
    """The parameters after the steps; each is trained once in a process."""
    key = framework.name, pair.name, feature, ours
    if key not in _found:
        place = folder / "-".join(str(part).replace(" ", "_") for part in key)
        place.mkdir(parents=True)
        task = Task(pair.cls(ours), pair.options, feature, place, pair.grouped, pair.modes)
        _found[key] = framework.run(task)
    return _found[key]


def expected(framework: Framework, pair: Pair, feature: str, folder: Path) -> Any:
    """What the reference comes to in the same framework, or in a loop; without one, the optimizer itself in a loop."""
    ours = not pair.has_reference()
    if ours or (feature == "save and resume" and pair.name in framework.not_resumed):
        return trained(FRAMEWORKS["a loop, torch.save"], pair, "optimizer", ours, folder)
    return trained(framework, pair, feature, False, folder)
