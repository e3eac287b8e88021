"""What docs/reproducibility.md promises and no other file checks."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _dispatch
from tests.optimizers import cards, label, variants
from tests.support import runs
from tests.support.bits import digest, use_isa
from tests.support.cards import (
    CLOSURE,
    DENSE,
    ELEMENT_WISE,
    MATRICES,
    SAME_BITS,
    TORCH,
    Card,
    Options,
)
from tests.support.doors import NUMPY_DOORS, TensorDoor, trajectory_inputs
from tests.support.parametrize import every_card, every_real, every_variant
from tests.support.processes import lines_of
from tests.support.runs import advance, run

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (17, 33)]


# --- doors ----------------------------------------------------------------------------------------


@every_real
@every_variant()
def test_every_kind_of_parameter(card: Card, options: Options, dtype: Any) -> None:
    start, grads = trajectory_inputs(card.shapes(SHAPES), dtype, 8, seed=3)
    digests = {digest(run(card, options, start, grads, door)) for door in NUMPY_DOORS}
    assert len(digests) == 1


@every_real
@every_variant()
def test_tensors(torch: Any, card: Card, options: Options, dtype: Any) -> None:
    start, grads = trajectory_inputs(card.shapes(SHAPES), dtype, 8, seed=3)
    expected = digest(run(card, options, start, grads))
    assert digest(run(card, options, start, grads, TensorDoor())) == expected


# --- runs -----------------------------------------------------------------------------------------


def digests_of_runs() -> dict[str, str]:
    found = {}
    for card in cards():
        large = (300, 200) if MATRICES(card) else (300_000,)
        shapes = card.shapes([*SHAPES, large])
        start, grads = trajectory_inputs(shapes, np.float32, 3, seed=4)
        found[card.name] = digest(run(card, card.variants[0], start, grads))
    return found


@pytest.mark.slow
def test_another_process() -> None:
    code = f"""
        from {__name__ if "." in __name__ else "tests.engine." + __name__} import digests_of_runs
        print(digests_of_runs())
    """
    assert lines_of(code, PYTHONHASHSEED="7") == [str(digests_of_runs())]


def through_torch(optimizer: Any, card: Card, options: Options) -> Any:
    """Another optimizer, whose state has been in torch's."""
    torch = pytest.importorskip("torch")
    (w,) = optimizer.param_groups[0]["params"]
    theirs = card.torch_class(torch)([torch.from_numpy(w.data.copy())], **options)
    theirs.load_state_dict(cyoptim_state_as_tensors(torch, optimizer.state_dict()))
    twin = card.cls([cyoptim.Parameter(w.data.copy())], **options)
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


TWINS: dict[str, Callable[[Any, Card, Options], Any]] = {
    "deepcopy": lambda optimizer, card, options: copy.deepcopy(optimizer),
    "pickle": lambda optimizer, card, options: pickle.loads(pickle.dumps(optimizer)),
    "torch": through_torch,
}
# Where elements are added up, and by closures, a parameter is a matrix here.
WAYS = [
    pytest.param(way, card, options, id=f"{card}-{label(options)}-{way}")
    for way in TWINS
    # torch keeps L-BFGS's numbers as tensors of another form: see test_lbfgs.py.
    for card, options in variants(*((TORCH, ~CLOSURE) if way == "torch" else ()))
]


@pytest.mark.parametrize(("way", "card", "options"), WAYS)
def test_copies_go_on_alike(card: Card, options: Options, way: str) -> None:
    shape = (37,) if ELEMENT_WISE(card) else (6, 7)
    start, (*grads,) = trajectory_inputs([shape], np.float32, 12, seed=5, missing=0)
    optimizer = card.cls([cyoptim.Parameter(start[0])], **options)
    for g in grads[:6]:
        advance(card, optimizer, optimizer.param_groups[0]["params"], g)
    twin = TWINS[way](optimizer, card, options)
    (a,), (b,) = (o.param_groups[0]["params"] for o in (optimizer, twin))
    for g in grads[6:]:
        advance(card, optimizer, [a], g)
        advance(card, twin, [b], g)
    assert a is not b
    assert a.data.tobytes() == b.data.tobytes()


# --- unusual numbers ------------------------------------------------------------------------------


@every_real
@every_card(SAME_BITS)
def test_denormals_on_each_instruction_set(card: Card, dtype: Any) -> None:
    # Parameters and gradients around the smallest normal number, of every size near a vector's.
    rng = np.random.default_rng(6)
    tiny = np.finfo(dtype).tiny
    sizes = [1, 7, 16, 17, 100]
    start = [(tiny * 4 * rng.standard_normal(n)).astype(dtype) for n in sizes]
    grads = [[(tiny * rng.standard_normal(n)).astype(dtype) for n in sizes] for _ in range(3)]
    digests = set()
    for isa in _dispatch.available():
        use_isa(isa)
        digests.add(digest(run(card, {}, start, grads)))
    assert len(digests) == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_card(ELEMENT_WISE)
def test_what_is_not_finite_stays_in_its_element(card: Card, value: float) -> None:
    start, grads = trajectory_inputs([(50,)], np.float32, 4, seed=7, missing=0)
    (expected,) = run(card, {}, start, grads)
    grads[1][0][[3, 20]] = value
    found = []
    with np.errstate(invalid="ignore"):
        for isa in _dispatch.available():
            use_isa(isa)
            found.append(run(card, {}, start, grads)[0])
    others = np.delete(np.arange(50), [3, 20])
    assert {digest([f[others]]) for f in found} == {digest([expected[others]])}
    for f in found[1:]:  # which NaN it is, is left open
        np.testing.assert_array_equal(f, found[0])


def with_nan(where: Any) -> tuple[Any, Any]:
    g = np.random.default_rng(9).standard_normal((6, 5))
    g[where] = np.nan
    return [np.ones((6, 5))], [[g]]


@every_card(~ELEMENT_WISE, ~CLOSURE)
def test_what_joins_elements_carries_nan_as_its_formula_does(card: Card) -> None:
    start, grads = with_nan((2, 3))
    with np.errstate(invalid="ignore"):
        (found,), (expected,) = run(card, {}, start, grads), runs.expected(card, {}, start, grads)
    assert np.isnan(found[2, 3])
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@every_card(DENSE, ~CLOSURE)
def test_clipping_carries_nan_to_all(card: Card) -> None:
    # As if the whole gradient were NaN, of which Rprop makes no step.
    found = []
    for where, clipping in (((2, 3), {"max_norm": 1.0}), (..., {})):
        (w,), ((g,),) = with_nan(where)
        with np.errstate(invalid="ignore"):
            card.cls([w], lr=0.1).step(grads=[g], **clipping)
        found.append(w)
    np.testing.assert_array_equal(*found)


# --- what is not promised -------------------------------------------------------------------------


def test_norms_depend_on_the_pieces_only_to_rounding() -> None:
    g = np.random.default_rng(8).standard_normal((300, 500))
    norms = [
        float(cyoptim.get_total_norm(pieces)) for pieces in ([g], [np.asfortranarray(g)], list(g))
    ]
    np.testing.assert_allclose(norms, norms[0], rtol=1e-14)
