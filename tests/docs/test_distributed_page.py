"""The page on many processes names which optimizers are cut where, and which are refused."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import Local, Sharded
from tests.support.cards import Card
from tests.support.parametrize import every_card
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "distributed.md").read_text()
HEADINGS = ("rules that take each element", "rules that need matrices", "`LBFGS`, a `step()`")
CUT, WHOLE, REFUSED = (
    {name for row in re.findall(rf"^\| ({re.escape(begin)}.*)$", PAGE, re.M)
     for name in re.findall(r"`(\w+)`", row) if hasattr(cyoptim, name)}
    for begin in HEADINGS
)  # fmt: skip
GROUPS: dict[str, dict[str, Any]] = {
    "AdamMini": {"unit": "row"},
    "MuonWithAuxAdam": {"use_muon": True},
}


def is_whole(name: str) -> bool:
    """Whether a large matrix stays whole where there are two ranks."""

    def program(comm: Any) -> list[int]:
        params = {"params": [np.ones((400, 200), np.float32)], **GROUPS.get(name, {})}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer: Any = Sharded([params], getattr(cyoptim, name), comm=comm)
        return [p.size for group in optimizer.shard.param_groups for p in group["params"]]

    return sorted(Local(2).run(program)) == [[0], [80_000]]


@every_card(lambda card: True)
def test_the_table_of_optimizers(card: Card) -> None:
    if card.name in REFUSED:
        with pytest.raises(TypeError, match=r"knows of no ranks|cannot be shared"):
            is_whole(card.name)
    else:
        assert is_whole(card.name) == (card.name in WHOLE)


def test_the_rows_of_the_table() -> None:
    assert {"LBFGS", "SparseAdam"} == REFUSED
    assert "Muon" in WHOLE
    assert "Lamb" in CUT
    assert not CUT & WHOLE
