"""torch's Muon with its iteration in full precision.

torch iterates in bfloat16, which keeps 8 bits; all else in its Muon is exact. With the iteration in
float64 on its side, the rest can be compared to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.optimizers.muon import newton_schulz


def _iterate(grad: Any, coefficients: Any, steps: int, eps: float) -> Any:
    result = newton_schulz(grad.double().numpy(), coefficients, steps, eps)
    return torch.from_numpy(np.ascontiguousarray(result)).to(grad.dtype)


@contextmanager
def exact_iteration() -> Iterator[None]:
    """While this is open, torch's Muon follows the formula."""
    with mock.patch.object(torch.optim._muon, "_zeropower_via_newtonschulz", _iterate):
        yield
