"""AdamP and SGDP over rows of every size: within a chunk, of one, of several, and by any number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine
from tests.optimizers import BY_NAME
from tests.support.cards import Options

CHUNK = 16384
SHAPES = [
    (7, 3000), (3, CHUNK + 5), (2, CHUNK), (40, 30), (CHUNK + 3,), (5, 7, 30), (CHUNK + 9, 1),
    (1, CHUNK + 9), (5000,), (4, 1023), (1, 1), (1,), (),
]  # fmt: skip
DELTAS = [1.0, 4.0, 1e4]  # by whole parameters or not at all, by some, by all rows


def stepped(name: str, options: Options, threads: int, order: str = "C") -> tuple[Any, Any]:
    """The parameters, and what the reference makes of them."""
    rng = np.random.default_rng(0)
    start = [rng.standard_normal(shape) for shape in SHAPES]
    params = [np.array(array, order=order) for array in start]  # type: ignore[call-overload]
    expected = [array.copy() for array in start]
    reference, optimizer = BY_NAME[name].reference(**options), BY_NAME[name].cls(params, **options)
    before = cyoptim.get_num_threads()
    _engine.take_all_threads(True)
    try:
        cyoptim.set_num_threads(threads)
        for _ in range(3):
            grads = [rng.standard_normal(shape) for shape in SHAPES]
            optimizer.step(grads=grads)
            reference.step(expected, grads)
    finally:
        _engine.take_all_threads(False)
        cyoptim.set_num_threads(before)
    return params, expected


@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("name", ["AdamP", "SGDP"])
def test_rows_of_every_size(name: str, delta: float, nesterov: bool, caution: bool) -> None:
    options = {"lr": 0.01, "weight_decay": 0.1, "delta": delta, "nesterov": nesterov}
    options["caution"] = caution
    options |= {"momentum": 0.9} if name == "SGDP" else {}
    one, expected = stepped(name, options, 1)
    for a, b in zip(one, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    for threads in (2, 3):
        for a, b in zip(stepped(name, options, threads)[0], one, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(stepped(name, options, 2, "F")[0], one, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("caution", [False, True])
@pytest.mark.parametrize("name", ["AdamP", "SGDP"])
@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_zeros_have_no_direction(name: str, eps: float, caution: bool) -> None:
    w, b = np.zeros((2, 3)), np.ones((2, 3))
    options = {"lr": 0.1, "eps": eps, "weight_decay": 0.5, "delta": 1.0, "caution": caution}
    # A weak momentum, whose share of the decay is all but 1.
    options |= {"momentum": 1e-12} if caution and name == "SGDP" else {}
    optimizer = BY_NAME[name].cls([w, b], **options)
    optimizer.step(grads=[np.zeros((2, 3)), np.zeros((2, 3))])
    np.testing.assert_array_equal(w, 0)
    np.testing.assert_allclose(b, 1 - 0.1 * 0.5 * 0.1)  # a gradient of zeros is orthogonal
    optimizer.step(grads=[np.ones((2, 3)), np.zeros((2, 3))])
    assert np.isfinite(w).all()


def test_caution_does_not_change_the_buffer() -> None:
    rng = np.random.default_rng(0)
    start = rng.standard_normal((6, 50))
    grads = rng.standard_normal((2, 6, 50))
    buffers = []
    for caution in (False, True):
        w = start.copy()
        optimizer = cyoptim.SGDP([w], lr=0.0, momentum=0.9, delta=10.0, caution=caution)
        for grad in grads:
            optimizer.step(grads=[grad])
        buffers.append(optimizer.state[w]["momentum"])
    np.testing.assert_array_equal(*buffers)


@pytest.mark.parametrize("delta", [10.0, 0.0])
@pytest.mark.parametrize("shape", [(8, 1000), (3, 20_000), (1, 70_000), (400, 200)])
def test_cautious_steps_are_orthogonal_where_they_are_projected(
    shape: tuple[int, int], delta: float
) -> None:
    rng = np.random.default_rng(0)
    w = rng.standard_normal(shape)
    optimizer = cyoptim.AdamP([w], lr=0.1, delta=delta, caution=True)
    optimizer.step(grads=[rng.standard_normal(shape)])
    before = w.copy()
    optimizer.step(grads=[rng.standard_normal(shape)])
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(w - before, axis=1)
    cosines = np.abs(((w - before) * before).sum(axis=1)) / lengths
    assert (cosines.max() < 1e-9) == (delta > 0)
