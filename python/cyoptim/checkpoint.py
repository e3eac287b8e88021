"""Checkpoints: parameters, optimizers, schedulers and plain values in one file, without pickle.

(a) The file. The suffix of its name chooses: ``.safetensors``, which torch and others read, or, for
    any other, ``.npz``, which NumPy reads. Both hold the same: named arrays, and JSON for all the
    rest, with the number of the format's version.
(b) Saving. Everything is checked and named before the file is opened, and an older file is replaced
    whole or not at all.
(c) Loading. Whatever is wrong with the file is a :class:`CheckpointError`. Restoring first fits
    every object to what was saved for it and only then changes the first byte.

How each of these is done: ``cyoptim/_checkpoints``.
"""

from __future__ import annotations

from cyoptim._checkpoints.matching import Difference, Loaded
from cyoptim._checkpoints.places import CheckpointError
from cyoptim._checkpoints.series import Checkpoints
from cyoptim._checkpoints.single import load, save

__all__ = ["CheckpointError", "Checkpoints", "Difference", "Loaded", "load", "save"]
