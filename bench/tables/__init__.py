"""The commands that measure: a module each, and a row here.

A module has the defaults of its command, and the table that it prints.
"""

from __future__ import annotations

from bench.tables import (
    adam,
    averages,
    denormals,
    fused,
    instructions,
    optimizers,
    precision,
    roofs,
    scaling,
    sizes,
)
from bench.tables.command import Command

COMMANDS: dict[str, Command] = {
    "adam": adam.COMMAND,
    "optimizers": optimizers.COMMAND,
    "sizes": sizes.COMMAND,
    "roofs": roofs.COMMAND,
    "instructions": instructions.COMMAND,
    "scaling": scaling.COMMAND,
    "denormals": denormals.COMMAND,
    "fused": fused.COMMAND,
    "averages": averages.COMMAND,
    "precision": precision.COMMAND,
}
