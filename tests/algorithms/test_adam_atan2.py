"""Adam-atan2: the error of its angle, cautious steps, and decay that does not depend on the rate."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import BY_NAME
from tests.support.cards import Options
from tests.support.dtypes import assert_close
from tests.support.parametrize import every_real

CARD = BY_NAME["AdamAtan2"]


# --- the angle ------------------------------------------------------------------------------------


def angles(y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The angles of points whose x is not negative as a step computes them, and the x that it takes.

    After many steps there is no bias to correct; these betas halve the average, and the root of the other.
    """
    w, grad = np.zeros_like(y), np.zeros_like(y)
    optimizer = cyoptim.AdamAtan2([w], lr=1.0, betas=(0.5, 0.25), a=-1.0)
    optimizer.step(grads=[grad])
    state = optimizer.state[w]
    state["step"][...] = 10_000
    state["exp_avg"][...] = 2 * y
    state["exp_avg_sq"][...] = 4 * x * x
    w[...] = 0
    optimizer.step(grads=[grad])
    return w, np.sqrt(x * x)


def errors(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """In units in the last place of the exact result."""
    found, x = angles(y, x)
    wide = np.float64 if y.dtype == np.float32 else np.longdouble
    expected = np.arctan2(y.astype(wide), x.astype(wide))
    unit = np.spacing(np.abs(expected).astype(y.dtype)).astype(wide)
    return np.asarray(np.abs(found - expected) / unit)


@every_real
def test_the_error_of_the_angle(record_property: Any, dtype: Any) -> None:
    if dtype == np.float64 and np.finfo(np.longdouble).nmant < 60:
        pytest.skip("there is no wider type")
    count, most = 2_000_000, {np.float32: 1.8, np.float64: 2.0}[dtype]
    rng = np.random.default_rng(1)
    worst = 0.0
    ratios = np.concatenate(
        [
            np.linspace(0.0, 1.0, count),
            1 + np.linspace(-1e-3, 1e-3, count // 10),
            np.geomspace(1e-12, 1, count // 2),
        ]
    )
    for x in (np.ones_like(ratios), rng.uniform(1, 2, ratios.size), 1 / np.maximum(ratios, 1e-9)):
        x = x.astype(dtype)
        found = errors((ratios * x).astype(dtype), x)
        worst = max(worst, float(found.max()))
        found = errors(-x, (ratios * x).astype(dtype))
        worst = max(worst, float(found.max()))
    record_property("ulp", worst)
    assert 0.5 < worst < most, worst


@every_real
def test_angles_of_special_points(dtype: Any) -> None:
    inf, nan = np.inf, np.nan
    y = np.array([0.0, -0.0, 1, -1, inf, -inf, inf, -inf, 1, nan, 1, 0.0, nan], dtype)
    x = np.array([1.0, 1, 0, 0, 1, 1, inf, inf, inf, 1, nan, 0, nan], dtype)
    found, _ = angles(y, x)
    np.testing.assert_allclose(found, np.arctan2(y, x), rtol=1e-6)


@every_real
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_no_gradient_is_no_step(dtype: Any, weight_decay: float) -> None:
    w = np.array([1.0, -2.0, 0.0, 5.0], dtype)
    start = w.copy()
    grad = np.array([0.0, -0.0, np.finfo(dtype).smallest_subnormal, 0.0], dtype)
    optimizer = cyoptim.AdamAtan2([w], lr=0.1, weight_decay=weight_decay)
    optimizer.step(grads=[grad])
    np.testing.assert_array_equal(w, start * dtype(1 - 0.1 * weight_decay))


@every_real
def test_tiny_gradients_make_no_longer_steps(dtype: Any) -> None:
    info = np.finfo(dtype)
    magnitudes = np.geomspace(float(info.tiny) * 1.01, 1e-12, 200).astype(dtype)
    for betas in ((0.9, 0.99), (0.9, 0.9999), (0.0, 0.5)):
        w = np.zeros_like(magnitudes)
        optimizer = cyoptim.AdamAtan2([w], lr=1.0, betas=betas)
        for _ in range(20):
            optimizer.step(grads=[magnitudes])
        assert np.abs(w).max() <= 20 * 1.27 * np.pi / 4 * 1.0001
        np.testing.assert_allclose(w[-10:], -20 * 1.27 * np.pi / 4, rtol=1e-3)


@every_real
def test_the_scale_of_gradients_does_not_matter(dtype: Any) -> None:
    grads = np.random.default_rng(0).standard_normal((10, 50)).astype(dtype)
    found = []
    for scale in (1.0, 2.0**30, 2.0**-20):
        w = np.zeros(50, dtype)
        optimizer = cyoptim.AdamAtan2([w], lr=0.1)
        for grad in grads:
            optimizer.step(grads=[grad * dtype(scale)])
        found.append(w.tobytes())
    assert len({*found}) == 1


# --- cautious steps -------------------------------------------------------------------------------

CAUTIOUS: tuple[Options, ...] = (
    {"cautious_factor": 0.0},
    {"cautious_factor": 0.5, "weight_decay": 0.1},
    {"cautious_factor": 0.0, "weight_decay": 0.1, "cautious_wd": True, "maximize": True},
    {"cautious_factor": 0.25, "regen_reg_rate": 0.5},
)
every_cautious = pytest.mark.parametrize("options", CAUTIOUS, ids=str)
SHAPES = [(3, 4), (5,), (), (0,), (600,), (5000,), (3, 20_000)]


def walk(options: Options, dtype: Any, cls: Any = cyoptim.AdamAtan2, steps: int = 20) -> list[Any]:
    rng = np.random.default_rng(2)
    start = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
    params = start
    optimizer: Any
    if cls is CARD.reference:
        params = [p.astype(np.float64) for p in start]
        optimizer = cls(lr=0.01, **options)
    else:
        optimizer = cls(params, lr=0.01, **options)
    for _ in range(steps):
        grads = [rng.standard_normal(shape).astype(dtype) for shape in SHAPES]
        if cls is CARD.reference:
            optimizer.step(params, grads)
        else:
            optimizer.step(grads=grads)
    return params


@every_real
@every_cautious
def test_cautious_steps_follow_the_paper(options: Options, dtype: Any) -> None:
    assert_close(walk(options, dtype), walk(options, dtype, CARD.reference), dtype)


@pytest.mark.usefixtures("many_threads")
@every_cautious
def test_cautious_steps_have_the_same_bits_on_any_threads(options: Options) -> None:
    found = []
    for threads in (1, 2, 7):
        with cyoptim.threads(threads):
            found.append([p.tobytes() for p in walk(options, np.float32, steps=3)])
    assert found[0] == found[1] == found[2]


@every_cautious
def test_cautious_steps_equal_the_packages(torch: Any, options: Options) -> None:
    package = pytest.importorskip("adam_atan2_pytorch")
    options = {name: value for name, value in options.items() if name != "maximize"}
    mine = [torch.randn(3, 5, dtype=torch.float64), torch.randn(700, dtype=torch.float64)]
    theirs = [p.clone() for p in mine]
    optimizer = cyoptim.AdamAtan2(mine, lr=0.01, **options)
    other = package.AdamAtan2(theirs, lr=0.01, **options)
    for _ in range(30):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn(a.shape, dtype=torch.float64)
            b.grad = a.grad.clone()
        optimizer.step()
        other.step()
    # The package computes the factor of a cautious decay in float32.
    tolerance = 1e-6 if options.get("cautious_wd") else 1e-12
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.step()


def test_a_step_against_every_gradient_is_finite() -> None:
    w = np.zeros(4)
    optimizer = cyoptim.AdamAtan2([w], lr=0.1, cautious_factor=0.0)
    optimizer.step(grads=[np.ones(4)])
    before = w.copy()
    optimizer.step(grads=[-1e-3 * np.ones(4)])
    np.testing.assert_array_equal(w, before)


# --- decay and pull -------------------------------------------------------------------------------


def test_decay_by_the_first_rate_in_every_group() -> None:
    first, second, third = (np.ones(2) for _ in range(3))
    groups = [{"params": [first]}, {"params": [second], "weight_decay": 0.2, "lr": 0.5}]
    optimizer = cyoptim.AdamAtan2(groups, lr=0.1, weight_decay=0.01, decoupled_wd=True)
    optimizer.add_param_group({"params": [third]})
    found = [group["weight_decay"] for group in optimizer.param_groups]
    assert found == [0.01 / 0.1, 0.2 / 0.1, 0.01 / 0.1]
    optimizer.step(grads=[np.zeros(2)] * 3)
    np.testing.assert_allclose([first[0], second[0], third[0]], [0.99, 0.0, 0.99], atol=1e-15)
    again = copy.deepcopy(optimizer)
    again.load_state_dict(optimizer.state_dict())
    assert [group["weight_decay"] for group in again.param_groups] == found
    with pytest.raises(ValueError, match="decoupled_wd=True requires a learning rate > 0, got 0.0"):
        cyoptim.AdamAtan2([first], lr=0.0, decoupled_wd=True)


def test_a_pull_goes_back_to_the_start() -> None:
    w = np.array([3.0, -1.0])
    start = w.copy()
    optimizer = cyoptim.AdamAtan2([w], lr=0.1, regen_reg_rate=5.0, betas=(0.0, 0.0))
    optimizer.step(grads=[np.ones(2)])
    np.testing.assert_array_equal(optimizer.state[w]["param_init"], start)
    for _ in range(60):
        optimizer.step(grads=[np.zeros(2)])
    np.testing.assert_allclose(w, start, rtol=1e-12)
