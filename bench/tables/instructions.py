"""Adam with the kernels of each instruction set."""

from __future__ import annotations

from functools import partial

from bench.contenders import INSTRUCTION_SETS
from bench.tables import columns
from bench.tables.command import Command

COMMAND = Command(
    "cyoptim with the kernels of each instruction set",
    contenders=(*INSTRUCTION_SETS, "roof"),
    workloads=("1x16K", "1x1M", "1x16M"),
    text=partial(columns.text, base="roof"),
)
