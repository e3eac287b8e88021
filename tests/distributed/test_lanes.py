"""Gradients that are accumulated on one rank are added up in a tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim._engine import Extras
from cyoptim.distributed._lanes import Lanes
from tests.support.narrow import bfloat16


def reference(lanes: list[Any]) -> Any:
    """The canonical tree; None stands for zeros, or if there is nothing else for itself."""
    if len(lanes) == 1:
        return lanes[0]
    half = 1
    while 2 * half < len(lanes):
        half *= 2
    left, right = reference(lanes[:half]), reference(lanes[half:])
    return right if left is None else left if right is None else left + right


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_tree(there: list[list[bool]]) -> None:
    """At each number of lanes, whichever gradients are missing."""
    rng = np.random.default_rng(0)
    params = [np.zeros(7, "f4"), np.asfortranarray(np.zeros((3, 2))), np.zeros((), "c8")]
    lanes, given = Lanes(), []
    for row in there:
        grads = [
            np.asarray(rng.standard_normal(p.shape), p.dtype) if has else None
            for p, has in zip(params, row, strict=True)
        ]
        given.append([None if grad is None else grad.copy() for grad in grads])
        lanes.add(params, grads, params, [])
        for grad in grads:
            if grad is not None:
                grad[...] = np.nan  # the caller may use it again
        assert lanes.count == len(given)
        found = lanes.gradients(params)
        for number, total in enumerate(found):
            expected = reference([own[number] for own in given])
            assert (total is None) == (expected is None)
            if expected is not None:
                assert total.dtype == expected.dtype
                assert total.tobytes() == expected.tobytes()
    sizes = [level.lanes for level in lanes._levels]
    assert sizes == [1 << k for k in range(20, -1, -1) if len(there) >> k & 1]


def test_sums_of_narrow_gradients_are_wide() -> None:
    pytest.importorskip("ml_dtypes")
    param = np.zeros(3, bfloat16())
    lanes = Lanes()
    for value in (256.0, 1.0, 2.0**-4):
        lanes.add([param], [np.full(3, value, bfloat16())], [param], [])
    (total,) = lanes.gradients([param])
    assert total.dtype == np.float32
    assert (total == 257 + 2.0**-4).all()


def test_arrays_are_used_again() -> None:
    param = np.zeros(5)
    lanes = Lanes()
    seen: set[int] = set()
    for _ in range(3):
        for _ in range(8):
            lanes.add([param], [np.ones(5)], [param], [])
            seen |= {id(level.arrays[0]) for level in lanes._levels}
        assert (lanes.gradients()[0] == 8).all()
        lanes.drop([])
        assert lanes.count == 0
        assert lanes.gradients() == [None]
    assert len(seen) == 3  # of one, two and four lanes


def test_a_step_that_is_done_ends_them() -> None:
    param = np.zeros(2)
    lanes = Lanes()
    lanes.add([param], [np.ones(2)], [param], [])
    step = Extras(np.inf, 1.0, False, 0)
    lanes.give(step)
    assert lanes.count == 1
    optimizer = cyoptim.SGD([param], lr=1.0)
    optimizer._turn.step(optimizer._run, lanes.gradients([param]), step)
    assert lanes.count == 0


def test_parameters_that_come_later() -> None:
    first, second = np.zeros(2), np.zeros(3)
    lanes = Lanes()
    lanes.add([first], [np.ones(2)], [first], [])
    lanes.add([first, second], [np.ones(2), np.ones(3)], [first, second], [])
    found = lanes.gradients([first, second])
    assert [total.tolist() for total in found] == [[2.0, 2.0], [1.0, 1.0, 1.0]]


def test_gradients_of_parameters_are_dropped() -> None:
    param = cyoptim.Parameter(np.zeros(2), grad=np.ones(2))
    lanes = Lanes()
    lanes.add([param], [param.grad], [param.data], [param])
    assert param.grad is None
    assert lanes.gradients([param])[0].tolist() == [1.0, 1.0]
