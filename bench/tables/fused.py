"""Clipping, stepping and zeroing, in one call and in several."""

from __future__ import annotations

from functools import partial

from bench.contenders import FUSED
from bench.tables import columns
from bench.tables.command import Command

COMMAND = Command(
    "clipping, stepping and zeroing, in one call and in several",
    contenders=FUSED,
    workloads=("1000x1000", "1x1M", "1x16M"),
    text=partial(columns.text, base="step"),
    any_optimizer=False,
)
