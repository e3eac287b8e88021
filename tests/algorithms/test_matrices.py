"""Adafactor and Muon: the optimizers that look at a parameter as a matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import _dispatch
from cyoptim._config import _set_limit
from tests.optimizers.adafactor import Adafactor
from tests.support.doors import Door, TensorDoor, run, trajectory_inputs
from tests.support.parametrize import every_real


def test_muon_as_torch_rounds_it(torch: Any) -> None:
    # The orthogonal factor has elements of size 1 / sqrt(n); bfloat16 keeps 8 bits of them, and
    # five iterations add that up: some per cent of a step, which is 0.1 here.
    start, grads = trajectory_inputs([(16, 32)], np.float32, 1, seed=3, missing=0)
    options = {"lr": 0.1, "weight_decay": 0}
    expected = run(torch.optim.Muon, options, TensorDoor(), start, grads)
    found = run(cyoptim.Muon, options, Door(), start, grads)
    difference = np.abs(found[0] - expected[0]).max()
    assert 0 < difference < 0.1 * 0.05


def test_muon_makes_steps_orthogonal() -> None:
    rng = np.random.default_rng(0)
    w = np.zeros((20, 30))
    cyoptim.Muon([w], lr=1.0, weight_decay=0).step(grads=[rng.standard_normal((20, 30))])
    assert (np.abs(np.linalg.svd(w, compute_uv=False) - 1) < 0.5).all()


ADAFACTOR_SHAPES = [(3, 50_000), (2000, 70), (200, 129), (40_000,), (6, 5, 3, 3), (64, 64)]


@pytest.mark.parametrize("shape", ADAFACTOR_SHAPES, ids=str)
@every_real
def test_adafactor_gives_the_same_bits(dtype: Any, shape: tuple[int, ...]) -> None:
    start, grads = trajectory_inputs([shape], dtype, 3, seed=5, missing=0)
    results = []
    for isa in _dispatch.available():
        for threads in (1, 2):
            _dispatch.use(isa)
            _set_limit(threads)
            results.append(run(cyoptim.Adafactor, {"lr": 0.1}, Door(), start, grads)[0])
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    rows=st.sampled_from([1, 2, 15, 63, 64, 65, 200]),
    columns=st.sampled_from([1, 3, 15, 16, 17, 129, 16383, 16384, 16385]),
    count=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_adafactor_for_any_shape(rows: int, columns: int, count: int, seed: int) -> None:
    if rows * columns * count > 500_000:
        rows = 2
    rng = np.random.default_rng(seed)
    start, grad = rng.standard_normal((2, count, rows, columns))
    w, expected = start.copy(), [start.copy()]
    optimizer = cyoptim.Adafactor([w], lr=0.1)
    reference = Adafactor(lr=0.1, eps=(float(np.finfo(float).eps), 1e-3))
    for _ in range(2):
        optimizer.step(grads=[grad])
        reference.step(expected, [grad])
    np.testing.assert_allclose(w, expected[0], rtol=1e-12, atol=1e-14)


# --- errors ---------------------------------------------------------------------------------------


def test_muon_takes_matrices_only(torch: Any) -> None:
    message = "Muon only supports 2D parameters whereas we found a parameter with size: "
    for cls, param in ((torch.optim.Muon, torch.ones(3)), (cyoptim.Muon, torch.ones(3))):
        with pytest.raises(ValueError, match=message + r"torch.Size\(\[3\]\)"):
            cls([param])
    with pytest.raises(ValueError, match=message + r"\(3,\)"):
        cyoptim.Muon([np.ones((2, 2)), np.ones(3)])
    optimizer = cyoptim.Muon([np.ones((2, 2))])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": [np.ones(3)]})
    assert len(optimizer.param_groups) == 1
