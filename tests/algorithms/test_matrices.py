"""Adafactor and Muon: the optimizers that look at a parameter as a matrix."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import _dispatch
from cyoptim._config import _set_limit
from tests.optimizers.adafactor import Adafactor
from tests.optimizers.muon import Muon
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door, TensorDoor, run, trajectory_inputs

STEPS = 60
# As in test_trajectories.py.
TOLERANCE = {np.float64: 1e-10, np.float32: 3e-5}
DTYPES = [np.float32, np.float64]

SHAPES: dict[str, list[tuple[int, ...]]] = {
    "Adafactor": [(3, 4), (5,), (), (17, 33), (1,), (1, 9), (9, 1), (2, 3, 5, 4)],
    "Muon": [(3, 4), (17, 33), (33, 17), (1, 9), (9, 1), (1, 1)],
}
REFERENCES: dict[str, Any] = {"Adafactor": Adafactor, "Muon": Muon}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("Adafactor", {}),
    ("Adafactor", {"lr": 0.5, "weight_decay": 0.1}),
    ("Adafactor", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adafactor", {"beta2_decay": -0.3, "d": 1.5}),
    ("Adafactor", {"eps": (1e-4, 0.5)}),
    ("Muon", {}),
    ("Muon", {"lr": 0.1, "weight_decay": 0.0}),
    ("Muon", {"lr": 0.1, "momentum": 0.5, "nesterov": False}),
    ("Muon", {"lr": 0.1, "adjust_lr_fn": "original"}),
    ("Muon", {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw"}),
    ("Muon", {"lr": 0.1, "ns_steps": 2, "ns_coefficients": (1.5, -0.5, 0.0), "eps": 1e-3}),
]
IDS = [f"{name}-{'-'.join(options)}" for name, options in VARIANTS]
NAMES = list(SHAPES)


def assert_close(found: list[Any], expected: list[Any], dtype: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("door", NUMPY_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_follows_the_paper(name: str, options: dict[str, Any], dtype: Any, door: Door) -> None:
    start, grads = trajectory_inputs(SHAPES[name], dtype, STEPS, seed=1)
    expected = [array.astype(np.float64) for array in start]
    if name == "Adafactor" and "eps" not in options:
        reference = Adafactor(**options, eps=(float(np.finfo(dtype).eps), 1e-3))
    else:
        reference = REFERENCES[name](**options)
    for step in grads:
        reference.step(expected, [None if g is None else g.astype(np.float64) for g in step])
    found = run(getattr(cyoptim, name), options, door, start, grads)
    assert_close(found, expected, dtype)


@pytest.fixture
def exact_muon(torch: Any) -> Iterator[None]:
    from tests.support.torch_muon import exact_iteration

    with exact_iteration():
        yield


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_equals_torch(
    torch: Any,
    exact_muon: None,
    name: str,
    options: dict[str, Any],
    dtype: Any,
    door: Door,
) -> None:
    start, grads = trajectory_inputs(SHAPES[name], dtype, STEPS, seed=2)
    expected = run(getattr(torch.optim, name), options, TensorDoor(), start, grads)
    assert_close(run(getattr(cyoptim, name), options, door, start, grads), expected, dtype)


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


@pytest.mark.parametrize("layout", ["F", "gaps", "reversed"])
@pytest.mark.parametrize("name", NAMES)
def test_any_layout(name: str, layout: str) -> None:
    start, grads = trajectory_inputs([(6, 8)], np.float64, 5, seed=4, missing=0)
    expected = run(getattr(cyoptim, name), {}, Door(), start, grads)
    lay_out = {
        "F": np.asfortranarray,
        "gaps": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "reversed": lambda a: a[::-1].copy()[::-1],
    }[layout]
    param = cyoptim.Parameter(lay_out(start[0].copy()))
    optimizer = getattr(cyoptim, name)([param])
    for step in grads:
        optimizer.step(grads=[lay_out(step[0])])
    # Muon's matrix products may add in another order.
    np.testing.assert_allclose(param.data, expected[0], rtol=1e-13)


ADAFACTOR_SHAPES = [(3, 50_000), (2000, 70), (200, 129), (40_000,), (6, 5, 3, 3), (64, 64)]


@pytest.mark.parametrize("shape", ADAFACTOR_SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
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


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_both_ways(torch: Any, exact_muon: None, name: str) -> None:
    start, grads = trajectory_inputs(SHAPES[name], np.float64, 10, seed=6)
    door = TensorDoor()

    def resumed(first: Any, second: Any) -> list[np.ndarray]:
        params = [door.wrap(array.copy()) for array in start]
        before, after = first(params, lr=0.1), second(params, lr=0.1)
        for step in grads[:5]:
            door.step(before, params, step)
        after.load_state_dict(copy.deepcopy(before.state_dict()))
        for step in grads[5:]:
            door.step(after, params, step)
        return [door.read(param) for param in params]

    ours, theirs = getattr(cyoptim, name), getattr(torch.optim, name)
    expected = resumed(theirs, theirs)
    for classes in ((ours, ours), (ours, theirs), (theirs, ours)):
        assert_close(resumed(*classes), expected, np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_state_has_torchs_names_and_shapes(torch: Any, name: str) -> None:
    start, grads = trajectory_inputs(SHAPES[name], np.float32, 1, seed=7, missing=0)
    door = TensorDoor()
    dicts = []
    for library in (torch.optim, cyoptim):
        params = [door.wrap(array.copy()) for array in start]
        optimizer = getattr(library, name)(params)
        door.step(optimizer, params, grads[0])
        dicts.append(optimizer.state_dict())
    for i, state in dicts[0]["state"].items():
        found = dicts[1]["state"][i]
        assert list(found) == list(state) or set(found) == set(state)
        for key, value in state.items():
            assert found[key].shape == value.shape, key
            assert found[key].dtype == value.dtype, key
    assert dicts[0]["param_groups"] == dicts[1]["param_groups"]


@pytest.mark.parametrize("name", NAMES)
def test_loading_a_wrong_shape_changes_nothing(name: str) -> None:
    w = np.ones((3, 4))
    optimizer = getattr(cyoptim, name)([w])
    optimizer.step(grads=[w.copy()])
    saved = copy.deepcopy(optimizer.state_dict())
    for key, value in saved["state"][0].items():
        if np.ndim(value):
            saved["state"][0][key] = np.ones((2, 7))
    before = {k: np.array(v) for k, v in optimizer.state[w].items()}
    with pytest.raises(ValueError, match=r"of parameter 0 of group 0 has shape \(2, 7\), expected"):
        optimizer.load_state_dict(saved)
    for key, value in before.items():
        np.testing.assert_array_equal(optimizer.state[w][key], value)


@pytest.mark.parametrize("name", NAMES)
def test_pickle_deepcopy_and_checkpoint(name: str, tmp_path: Any) -> None:
    start, grads = trajectory_inputs([(4, 6), (3, 3)], np.float64, 6, seed=8, missing=0)
    cls = getattr(cyoptim, name)
    expected = run(cls, {}, Door(), start, grads)
    for how in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o)), None):
        params = [cyoptim.Parameter(array.copy()) for array in start]
        optimizer = cls(params)
        for step in grads[:3]:
            optimizer.step(grads=step)
        if how is not None:
            optimizer = how(optimizer)
            params = optimizer.param_groups[0]["params"]
        else:
            cyoptim.save(tmp_path / "run.npz", params=params, optimizer=optimizer)
            params = [cyoptim.Parameter(np.zeros_like(array)) for array in start]
            optimizer = cls(params)
            cyoptim.load(tmp_path / "run.npz", params=params, optimizer=optimizer)
        for step in grads[3:]:
            optimizer.step(grads=step)
        for a, b in zip(params, expected, strict=True):
            np.testing.assert_array_equal(a.data, b)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nonfinite_gradients_reach_the_parameter(name: str, value: float) -> None:
    # Statistics are shared along rows and columns, so all of the matrix may be lost; another
    # parameter is not.
    a, b = np.ones((3, 4)), np.ones((3, 4))
    grad = np.ones((3, 4))
    grad[1, 2] = value
    with np.errstate(invalid="ignore"):
        getattr(cyoptim, name)([a, b]).step(grads=[grad, np.ones((3, 4))])
    assert np.isnan(a).any()
    assert np.isfinite(b).all()


def test_empty_parameters() -> None:
    for shape in ((0, 3), (3, 0)):
        w = np.ones(shape)
        for name in NAMES:
            getattr(cyoptim, name)([w]).step(grads=[np.ones(shape)])
    w = np.ones(0)
    optimizer = cyoptim.Adafactor([w])
    optimizer.step(grads=[w.copy()])
    assert int(optimizer.state[w]["step"]) == 1


# --- errors ---------------------------------------------------------------------------------------

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("Adafactor", {"lr": -0.1}, "Learning rate should be >= 0 but is: -0.1"),
    ("Adafactor", {"beta2_decay": 0.8}, "beta2_decay should be <= 0 but is: 0.8"),
    ("Adafactor", {"eps": (-1e-30, 1e-3)}, "epsilon1 should be >= 0 but is: -1e-30"),
    ("Adafactor", {"eps": (None, -1e-3)}, "epsilon2 should be >= 0 but is: -0.001"),
    ("Adafactor", {"d": 0.0}, "Clipping threshold d should be >= 1 but is: 0.0"),
    ("Adafactor", {"weight_decay": -1}, "weight_decay should be >= 0 but is: -1"),
    ("Muon", {"lr": -0.1}, "Learning rate should be >= 0 but is: -0.1"),
    ("Muon", {"momentum": -0.1}, "momentum should be >= 0 but is: -0.1"),
    ("Muon", {"weight_decay": -0.1}, "weight decay should be >= 0 but is: -0.1"),
    ("Muon", {"adjust_lr_fn": "arbitrary"}, "Adjust learning rate function arbitrary is not supp"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_bad_options(torch: Any, name: str, options: dict[str, Any], message: str) -> None:
    for cls, param in (
        (getattr(torch.optim, name), torch.ones(2, 2)),
        (getattr(cyoptim, name), np.ones((2, 2))),
    ):
        with pytest.raises(ValueError, match=message):
            cls([param], **options)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("Adafactor", {"eps": 1e-3}, TypeError, "eps must be a pair of numbers, got 0.001"),
        ("Adafactor", {"lr": math.nan}, ValueError, "Learning rate should be >= 0 but is: nan"),
        ("Muon", {"ns_steps": 100}, ValueError, "Number of steps must be less than 100"),
        ("Muon", {"ns_coefficients": (1, 2)}, ValueError, "must be a tuple of exactly 3 values"),
    ],
)
def test_bad_options_of_ours(
    name: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(cyoptim, name)([np.ones((2, 2))], **options)


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


@pytest.mark.parametrize("name", NAMES)
def test_complex_and_sparse_are_refused(torch: Any, name: str) -> None:
    tensor = torch.ones(2, 2, dtype=torch.complex64).requires_grad_()
    tensor.grad = torch.ones_like(tensor)
    with pytest.raises(RuntimeError) as expected:
        getattr(torch.optim, name)([tensor]).step()
    for door in (np.ones((2, 2), complex), torch.ones(2, 2, dtype=torch.complex64)):
        optimizer = getattr(cyoptim, name)([door])
        with pytest.raises(RuntimeError, match=str(expected.value)):
            optimizer.step(grads=[door])
        assert (door == 1).all()
        assert not optimizer.state.get(door)
    w = np.ones((2, 2))
    with pytest.raises(RuntimeError, match=f"{name} does not support sparse gradients"):
        getattr(cyoptim, name)([w]).step(grads=[(np.array([1]), np.ones((1, 2)))])
    assert (w == 1).all()
