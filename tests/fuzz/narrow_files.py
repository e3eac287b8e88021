"""Files of checkpoints that are nearly right, of parameters of 16 bits and states of 16 and 8."""

from __future__ import annotations

import numpy as np

from .files import NARROW, check_with

NAME = "narrow-files"
NEEDS = ("ml_dtypes",)
LONG = 50_000
SEEDS: tuple[int, ...] = (31060,)  # fewer rates of a schedule than groups, in a tuple


def check(case: int) -> str:
    """As of the fuzzer of files."""
    return check_with(np.random.default_rng(case), case, NARROW)
