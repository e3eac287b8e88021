"""Checkpoints: parameters, optimizers, schedulers and plain values in one file, without pickle.

(a) The file. Its suffix selects the format: ``.safetensors``, which torch and others read; any
    other suffix means ``.npz``, which NumPy reads. Both contain the same: named arrays, and JSON
    for all the rest, with the number of the format's version.
(b) Saving. Everything is checked and named before the file is opened, and an older file is replaced
    atomically.
(c) Loading. An invalid file raises :class:`CheckpointError`. Restoring first checks every object
    against its saved state, and only then changes the first byte.

``cyoptim/_checkpoints`` has the implementation.
"""

from __future__ import annotations

from cyoptim._checkpoints.eight_bits import (
    from_bitsandbytes,
    from_torchao,
    to_bitsandbytes,
    to_torch,
    to_torchao,
)
from cyoptim._checkpoints.matching import Difference, Loaded
from cyoptim._checkpoints.places import CheckpointError
from cyoptim._checkpoints.series import Checkpoints
from cyoptim._checkpoints.single import load, save

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "Difference",
    "Loaded",
    "from_bitsandbytes",
    "from_torchao",
    "load",
    "save",
    "to_bitsandbytes",
    "to_torch",
    "to_torchao",
]
