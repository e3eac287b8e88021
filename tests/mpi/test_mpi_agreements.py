"""Agreements of processes of MPI."""

from __future__ import annotations

from typing import Any

import pytest

from cyoptim.distributed._communicators import as_communicator
from tests.support.agreements import CASES, WITH_SIGNALS


@pytest.mark.parametrize("case", [*CASES, *WITH_SIGNALS])
def test_agreements(world: Any, case: str) -> None:
    program = CASES.get(case) or WITH_SIGNALS[case]
    program(as_communicator(world))
