"""The float32 values of parameters of 16 bits: put together, and given."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import Card, Options
from tests.support.formats import optimizer_with
from tests.support.narrow import full, takes_narrow
from tests.support.parametrize import every_variant

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SHAPES = [(300,), (33, 40), (), (2, 0)]
MASTERS = [(BFLOAT16, "split"), (BFLOAT16, "float32"), (np.dtype("f2"), "float32")]


def values_of(seed: int, shapes: Any = SHAPES) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape), np.float32) for shape in shapes]


def same(found: list[Any], expected: list[Any]) -> bool:
    return all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
        for a, b in zip(found, expected, strict=True)
    )


@every_variant(takes_narrow)
@pytest.mark.parametrize(("dtype", "master"), MASTERS)
def test_training_goes_on_from_all_bits(
    card: Card, options: Options, dtype: Any, master: str
) -> None:
    """As in float32: also what begins as a copy of the parameter has all of its bits."""
    start, grads = values_of(1, card.shapes(SHAPES)), values_of(2, card.shapes(SHAPES))
    wide = [cyoptim.Parameter(array.copy()) for array in start]
    narrow = [cyoptim.Parameter(np.zeros(array.shape, dtype)) for array in start]
    plain, ours = (
        card.cls(wide, **options),
        optimizer_with(card.cls, narrow, options, master=master),
    )
    cyoptim.set_master_weights(ours, start)
    # A split value is rounded away from zero in a tie, which a random one is not.
    assert same([param.data for param in narrow], [array.astype(dtype) for array in start])
    assert same(cyoptim.master_weights(ours), start)
    for _ in range(3):
        plain.step(grads=[card.form(grad) for grad in grads])
        ours.step(grads=[card.form(grad) for grad in grads])
    assert same(cyoptim.master_weights(ours), [param.data for param in wide])
    assert same([full(ours, param) for param in narrow], [param.data for param in wide])


@pytest.mark.parametrize(("dtype", "master"), MASTERS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_given_between_steps(dtype: Any, master: str, order: Any) -> None:
    params = [np.zeros(shape, dtype, order) for shape in SHAPES]
    optimizer = optimizer_with(cyoptim.AdamW, params, master=master)
    optimizer.step(grads=values_of(3))
    before = [dict(optimizer.state[param]) for param in params]
    weights = values_of(4)
    cyoptim.set_master_weights(optimizer, [weights[0], None, *weights[2:]])
    found = cyoptim.master_weights(optimizer)
    assert same([found[0], *found[2:]], [weights[0], *weights[2:]])
    assert not same([found[1]], [weights[1]])
    for param, entries in zip(params, before, strict=True):  # in place
        assert all(optimizer.state[param][name] is value for name, value in entries.items())
    twin = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
    assert same(cyoptim.master_weights(twin), found)
    for one in (optimizer, twin):
        one.step(grads=values_of(5))
    assert same(cyoptim.master_weights(twin), cyoptim.master_weights(optimizer))


def test_other_parameters_and_those_without_a_master() -> None:
    params = [np.ones(3, np.float32), np.ones(3), np.ones(3, np.complex64), np.ones(3, BFLOAT16)]
    optimizer = optimizer_with(cyoptim.AdamW, params, master=None)
    values = cyoptim.master_weights(optimizer)
    assert [value.dtype for value in values] == ["f4", "f8", "c8", "f4"]
    assert not any(np.shares_memory(v, p) for v, p in zip(values, params, strict=True))
    cyoptim.set_master_weights(optimizer, [np.full(3, 0.1, np.float32)] * 4)
    assert params[0].tolist() == params[1].tolist() == [np.float32(0.1)] * 3
    assert params[3].tolist() == [BFLOAT16.type(0.1)] * 3
    assert not optimizer.state[params[3]]
    assert same(cyoptim.master_weights(optimizer)[3:], [params[3].astype("f4")])


def test_a_user_may_write_into_parameters() -> None:
    params = [np.ones(300, BFLOAT16), np.ones(300, BFLOAT16)]
    optimizer = cyoptim.SGD([
        {"params": [params[0]]},
        {"params": [params[1]]},
    ], lr=0.1)  # fmt: skip
    optimizer.step(grads=[np.full(300, 0.123, "f4")] * 2)
    for param in params:
        param[...] = 2
    for value in cyoptim.master_weights(optimizer):
        # A remainder stays: at most half a unit of the parameter's last place.
        assert np.all(np.abs(value - 2) <= 2.0**-7)


def test_names() -> None:
    named = {"a": np.zeros(3, BFLOAT16), "b": {"c": np.zeros(2, BFLOAT16)}}
    optimizer = cyoptim.AdamW(named)
    tree = {"a": np.full(3, 0.1, "f4"), "b": {"c": np.full(2, 0.2, "f4")}}
    cyoptim.set_master_weights(optimizer, dict(cyoptim.named_leaves(tree)))
    assert same(cyoptim.master_weights(optimizer), [tree["a"], tree["b"]["c"]])
    cyoptim.set_master_weights(optimizer, {"b.c": np.zeros(2)})
    assert same(cyoptim.master_weights(optimizer), [tree["a"], np.zeros(2, "f4")])


WRONG: dict[str, tuple[Any, str]] = {
    "few": ([np.zeros(3)], "weights has 1 items, expected 2: one for each parameter"),
    "array": (np.zeros(2), "weights must be a list of arrays or a mapping .* got numpy.ndarray"),
    "shape": ([np.zeros(3), np.zeros(4)], r"parameter 1 .* of group 0 has shape \(4,\), expected"),
    "kind": ([np.zeros(3), np.zeros(2, complex)], "has dtype complex128, expected float32"),
    "list": ([np.zeros(3), [1.0, 2.0]], "the weight of .* is a list, expected an array"),
    "name": ({"x": np.zeros(3)}, "weights has 'x', which is none of the 2 names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights_change_nothing(case: str) -> None:
    weights, message = WRONG[case]
    params = [("a", np.ones(3, BFLOAT16)), ("b", np.ones(2, BFLOAT16))]
    optimizer = cyoptim.AdamW(params)
    with pytest.raises((TypeError, ValueError), match=message):
        cyoptim.set_master_weights(optimizer, weights)
    assert all(np.all(array == 1) for _, array in params)
    assert not any(optimizer.state[array] for _, array in params)


def test_names_of_parameters_without_names() -> None:
    optimizer = cyoptim.AdamW([np.ones(3, BFLOAT16)])
    with pytest.raises(
        ValueError, match="weights has 'a', which is none of the 0 names of the 1 p"
    ):
        cyoptim.set_master_weights(optimizer, {"a": np.zeros(3)})
    with pytest.raises(ValueError, match="weights is a mapping of the 0 names of the 1 parameters"):
        cyoptim.set_master_weights(optimizer, {})


def test_not_inside_averaged() -> None:
    optimizer = cyoptim.AdamW([np.ones(3, BFLOAT16)])
    optimizer.ema(0.5)
    optimizer.step(grads=[np.ones(3, "f4")])
    with optimizer.averaged():
        with pytest.raises(RuntimeError, match=r"call master_weights\(\) after the block"):
            cyoptim.master_weights(optimizer)
        with pytest.raises(RuntimeError, match=r"call set_master_weights\(\) after the block"):
            cyoptim.set_master_weights(optimizer, [np.zeros(3)])


def test_torch() -> None:
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2).bfloat16()
    optimizer = cyoptim.AdamW(model.named_parameters(), lr=0.1)
    weights = {name: torch.randn(p.shape) for name, p in model.named_parameters()}
    version = model.weight._version
    cyoptim.set_master_weights(optimizer, weights)
    assert model.weight._version > version
    assert torch.equal(model.weight, weights["weight"].bfloat16())
    found = cyoptim.master_weights(optimizer)
    assert all(torch.equal(a, b) for a, b in zip(found, weights.values(), strict=True))
    assert optimizer.state[model.weight]["param_remainder"].dtype is torch.int16
    model(torch.ones(1, 3).bfloat16()).sum().backward()
    optimizer.step()
    model.load_state_dict({n: w.bfloat16() for n, w in zip(weights, found, strict=True)})


def test_a_file_of_both(tmp_path: Any) -> None:
    """What a float32 run has saved goes on in bfloat16, with all bits."""
    wide = [np.asarray(array) for array in values_of(1)]
    plain = cyoptim.AdamW(wide, lr=0.1)
    plain.step(grads=values_of(2))
    cyoptim.save(tmp_path / "run.npz", params=wide, optimizer=plain)
    narrow = [np.zeros(array.shape, BFLOAT16) for array in wide]
    ours = cyoptim.AdamW(narrow, lr=0.1)
    saved = cyoptim.load(tmp_path / "run.npz", optimizer=ours)
    cyoptim.set_master_weights(ours, saved["params"])
    for one in (plain, ours):
        one.step(grads=values_of(3))
    assert same(cyoptim.master_weights(ours), wide)
