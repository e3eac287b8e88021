"""A step and a moving average of the parameters, in one pass over memory and in two."""

from __future__ import annotations

from functools import partial

from bench.contenders import AVERAGED
from bench.tables import columns
from bench.tables.command import Command

COMMAND = Command(
    "a step and a moving average of the parameters, in one pass and in two",
    contenders=AVERAGED,
    workloads=("1000x1000", "1x1M", "1x16M"),
    text=partial(columns.text, base="cyoptim"),
    any_optimizer=False,
)
