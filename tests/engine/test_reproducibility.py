"""What docs/reproducibility.md promises and no other file checks."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _dispatch
from tests.cases import CASES, VARIANT_IDS, VARIANTS
from tests.support.bits import digest, use_isa
from tests.support.doors import NUMPY_DOORS, Door, TensorDoor, run, trajectory_inputs
from tests.support.processes import lines_of

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (17, 33)]
EVERY = [
    pytest.param(case, options, id=name)
    for (case, options), name in zip(VARIANTS, VARIANT_IDS, strict=True)
]


# --- doors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("case", "options"), EVERY)
def test_every_kind_of_parameter(case: Any, options: dict[str, Any], dtype: Any) -> None:
    start, grads = trajectory_inputs(SHAPES, dtype, 8, seed=3)
    digests = {digest(run(case.cls, options, door, start, grads)) for door in NUMPY_DOORS}
    assert len(digests) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("case", "options"), EVERY)
def test_tensors(torch: Any, case: Any, options: dict[str, Any], dtype: Any) -> None:
    start, grads = trajectory_inputs(SHAPES, dtype, 8, seed=3)
    expected = digest(run(case.cls, options, Door(), start, grads))
    assert digest(run(case.cls, options, TensorDoor(), start, grads)) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_kind_of_parameter_of_adafactor(torch: Any, dtype: Any) -> None:
    start, grads = trajectory_inputs([(17, 33), (5,), (2, 3, 4)], dtype, 8, seed=3)
    doors = (*NUMPY_DOORS, TensorDoor())
    digests = {digest(run(cyoptim.Adafactor, {}, door, start, grads)) for door in doors}
    assert len(digests) == 1


# --- runs -----------------------------------------------------------------------------------------


def digests_of_runs() -> dict[str, str]:
    start, grads = trajectory_inputs([*SHAPES, (300_000,)], np.float32, 3, seed=4)
    return {case.name: digest(run(case.cls, {}, Door(), start, grads)) for case in CASES}


def test_another_process() -> None:
    code = """
        from tests.engine.test_reproducibility import digests_of_runs
        print(digests_of_runs())
    """
    assert lines_of(code, PYTHONHASHSEED="7") == [str(digests_of_runs())]


def through_torch(optimizer: Any, case: Any, options: dict[str, Any]) -> Any:
    """Another optimizer, whose state has been in torch's."""
    torch = pytest.importorskip("torch")
    (w,) = optimizer.param_groups[0]["params"]
    theirs = getattr(torch.optim, case.name)([torch.from_numpy(w.data.copy())], **options)
    theirs.load_state_dict(cyoptim_state_as_tensors(torch, optimizer.state_dict()))
    twin = case.cls([cyoptim.Parameter(w.data.copy())], **options)
    twin.load_state_dict(theirs.state_dict())
    return twin


def cyoptim_state_as_tensors(torch: Any, saved: Any) -> Any:
    def convert(value: Any) -> Any:
        return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value

    states = {
        i: {name: torch.tensor(float(v)) if name == "step" else convert(v) for name, v in s.items()}
        for i, s in saved["state"].items()
    }
    return {**saved, "state": states}


TWINS = {
    "deepcopy": lambda optimizer, case, options: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, case, options: pickle.loads(pickle.dumps(optimizer)),
    "torch": through_torch,
}


@pytest.mark.parametrize("way", TWINS)
@pytest.mark.parametrize(("case", "options"), EVERY)
def test_copies_go_on_alike(case: Any, options: dict[str, Any], way: str) -> None:
    start, (*grads,) = trajectory_inputs([(37,)], np.float32, 12, seed=5, missing=0)
    optimizer = case.cls([cyoptim.Parameter(start[0])], **options)
    for g in grads[:6]:
        optimizer.step(grads=g)
    twin = TWINS[way](optimizer, case, options)
    for g in grads[6:]:
        optimizer.step(grads=g)
        twin.step(grads=g)
    (a,), (b,) = (o.param_groups[0]["params"] for o in (optimizer, twin))
    assert a is not b
    assert a.data.tobytes() == b.data.tobytes()


# --- unusual numbers ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_denormals_on_each_instruction_set(case: Any, dtype: Any) -> None:
    # Parameters and gradients around the smallest normal number, of every size near a vector's.
    rng = np.random.default_rng(6)
    tiny = np.finfo(dtype).tiny
    sizes = [1, 7, 16, 17, 100]
    start = [(tiny * 4 * rng.standard_normal(n)).astype(dtype) for n in sizes]
    grads = [[(tiny * rng.standard_normal(n)).astype(dtype) for n in sizes] for _ in range(3)]
    digests = set()
    for isa in _dispatch.available():
        use_isa(isa)
        digests.add(digest(run(case.cls, {}, Door(), start, grads)))
    assert len(digests) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_not_finite_stays_in_its_element(case: Any, value: float) -> None:
    start, grads = trajectory_inputs([(50,)], np.float32, 4, seed=7, missing=0)
    (expected,) = run(case.cls, {}, Door(), start, grads)
    grads[1][0][[3, 20]] = value
    found = []
    for isa in _dispatch.available():
        use_isa(isa)
        found.append(run(case.cls, {}, Door(), start, grads)[0])
    others = np.delete(np.arange(50), [3, 20])
    assert {digest([f[others]]) for f in found} == {digest([expected[others]])}
    for f in found[1:]:  # which NaN it is, is left open
        np.testing.assert_array_equal(f, found[0])


@pytest.mark.parametrize(
    ("name", "clipping"), [("Adam", {"max_norm": 1.0}), ("Adafactor", {}), ("Muon", {})]
)
def test_what_joins_elements_carries_nan_to_all(name: str, clipping: dict[str, float]) -> None:
    w, g = np.ones((6, 5)), np.random.default_rng(9).standard_normal((6, 5))
    g[2, 3] = np.nan
    getattr(cyoptim, name)([w], lr=0.1).step(grads=[g], **clipping)
    assert np.isnan(w).all()


# --- what is not promised -------------------------------------------------------------------------


def test_norms_depend_on_the_pieces_only_to_rounding() -> None:
    g = np.random.default_rng(8).standard_normal((300, 500))
    norms = [
        float(cyoptim.get_total_norm(pieces)) for pieces in ([g], [np.asfortranarray(g)], list(g))
    ]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-14)
