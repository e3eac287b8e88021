"""The state of a sharded optimizer as one."""

from __future__ import annotations

from typing import Any

from cyoptim._engine import Commit
from cyoptim._types import StateDict


def export(sharded: Any) -> StateDict:
    """The whole state, as every rank gets it."""
    raise NotImplementedError


def prepare_load(sharded: Any, state_dict: StateDict, commit: Commit) -> None:
    """Check and convert a whole state; `commit` will apply this rank's parts of it."""
    raise NotImplementedError
