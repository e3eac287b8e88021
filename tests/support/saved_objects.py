"""What the tests of checkpoints save, and how they compare it."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints.npz import Npz
from cyoptim._checkpoints.packing import Packing

STRUCTURE = "cyoptim.json"


def same(a, b):
    """Equal in type, order and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        layout = (a.flags.c_contiguous, a.flags.f_contiguous) == (
            b.flags.c_contiguous,
            b.flags.f_contiguous,
        )
        described = (a.dtype, a.dtype.str, a.shape) == (b.dtype, b.dtype.str, b.shape)
        return layout and described and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if type(a) is int else repr(a) == repr(b)


def temporaries(directory):
    return [name for name in os.listdir(directory) if name.startswith(".cyoptim-")]


def round_trip(tmp_path, value):
    cyoptim.save(tmp_path / "value.npz", value=value)
    return cyoptim.load(tmp_path / "value.npz")["value"]


class Unsaveable:
    pass


class Scheduler:
    """As torch's: a dict of plain values, put back without a check."""

    def __init__(self, epoch, fails=None):
        self.epoch, self.seen, self.fails = epoch, [epoch], fails

    def state_dict(self):
        return {"epoch": self.epoch, "seen": self.seen}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.seen.clear()
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        self.seen.extend(state["seen"])


class Prepared(Scheduler):
    """As cyoptim's optimizers: checks first, then a commit that cannot fail."""

    def _prepare_load(self, state, commit):
        if self.fails is not None:
            raise self.fails
        commit.update(vars(self), {"epoch": state["epoch"], "seen": list(state["seen"])})

    def load_state_dict(self, state):
        pytest.fail("_prepare_load was there for this")


class Average:
    """Keeps what it is given, as carelessly as many a state."""

    def __init__(self, *values):
        self.values = list(values)

    def state_dict(self):
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def contents(objects):
    """A copy of what the objects hold."""
    packing = Packing(Npz())
    nodes = {name: packing.pack(value, (name,)) for name, value in objects.items()}
    return json.dumps(nodes, sort_keys=True), {
        name: array.tobytes() for name, array in packing.arrays.items()
    }
