"""States of every precision are loaded into optimizers of every precision."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from tests.support.cards import DENSE, MATRICES, NATIVE, Card
from tests.support.formats import (
    EIGHT,
    FORMATS,
    PLAIN,
    SIXTEEN,
    dtype_of,
    least_error,
    numbers,
    optimizer_with,
    trained,
    twin_of,
)
from tests.support.parametrize import every_card

ml_dtypes = pytest.importorskip("ml_dtypes")

ARRAYS = ("exp_avg", "exp_avg_sq")
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)


def load(optimizer: Any, state_dict: Any) -> list[str]:
    """Load a state; what is told of it."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        optimizer.load_state_dict(state_dict)
    return [str(warning.message) for warning in told]


def step(optimizer: Any, param: Any, seed: int = 9) -> None:
    optimizer.step(grads=[np.random.default_rng(seed).normal(size=param.shape).astype("f4")])


def same_bits(a: Any, b: Any) -> bool:
    """Whether both states have the same entries, of the same types, with the same bytes."""
    return a.keys() == b.keys() and all(
        (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes())
        for k in a
    )


# --- the same format ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_same_format_keeps_its_bytes(dtype: Any, kind: str, order: Any) -> None:
    param, optimizer = trained((65, 70), dtype, kind)
    twin_param = np.array(param, order=order)
    twin = optimizer_with(cyoptim.AdamW, [twin_param], state_dtype=kind)
    assert load(twin, optimizer.state_dict()) == []
    assert same_bits(optimizer.state[param], twin.state[twin_param])
    for one, its in ((optimizer, param), (twin, twin_param)):
        step(one, its)
    assert same_bits(optimizer.state[param], twin.state[twin_param])
    assert param.tobytes() == twin_param.tobytes()


@pytest.mark.parametrize("master", ["split", "float32", None])
def test_what_is_kept_beside_elements_goes_along(master: Any) -> None:
    param, optimizer = trained((10, 50), ml_dtypes.bfloat16, "bfloat16", master=master)
    beside = {"split": "param_remainder", "float32": "param_master", None: "rounding_key"}[master]
    twin_param, twin = twin_of(optimizer, param, "bfloat16", master=master)
    assert load(twin, optimizer.state_dict()) == []
    assert beside in twin.state[twin_param]
    assert same_bits(optimizer.state[param], twin.state[twin_param])


def takes_narrow(card: Card) -> bool:
    return NATIVE(card) and DENSE(card) and not MATRICES(card) and not card.cls._has_update()


@pytest.mark.parametrize("kind", FORMATS)
@every_card(takes_narrow)
def test_a_twin_goes_on_with_the_same_bits(card: Card, kind: str) -> None:
    rng = np.random.default_rng(4)
    shapes = [(32, 256), (5, 3), ()]
    start = [np.asarray(rng.normal(size=shape), ml_dtypes.bfloat16) for shape in shapes]
    grads = [[rng.normal(size=shape).astype("f4") for shape in shapes] for _ in range(4)]
    first = [cyoptim.Parameter(array.copy()) for array in start]
    optimizer = optimizer_with(card.cls, first, state_dtype=kind)
    for grad in grads[:2]:
        optimizer.step(grads=[card.form(g) for g in grad])
    second = [cyoptim.Parameter(param.data.copy()) for param in first]
    twin = optimizer_with(card.cls, second, state_dtype=kind)
    assert load(twin, optimizer.state_dict()) == []
    for one in (optimizer, twin):
        for grad in grads[2:]:
            one.step(grads=[card.form(g) for g in grad])
    for param, other in zip(first, second, strict=True):
        assert param.data.tobytes() == other.data.tobytes()
        assert same_bits(optimizer.state[param], twin.state[other])


# --- another format -------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from(FORMATS),
    st.sampled_from(FORMATS),
    st.sampled_from([(4096,), (4095,), (17, 256), (70, 60), (4097,), (3,), ()]),
    st.integers(0, 2**16),
)
def test_any_format_is_loaded_into_any_other(
    dtype: Any, found: str, wanted: str, shape: Any, seed: int
) -> None:
    param, optimizer = trained(shape, dtype, found, seed)
    twin_param, twin = twin_of(optimizer, param, wanted)
    load(twin, optimizer.state_dict())
    before, after = optimizer.state[param], twin.state[twin_param]
    is_small = param.size < 4096
    for name in ARRAYS:
        kind = PLAIN if wanted in EIGHT and is_small else wanted
        assert after[name].dtype == dtype_of(kind)
        values = numbers(name, before[name], before.get(name + "_scale"))
        ours = numbers(name, after[name], after.get(name + "_scale"))
        if before[name].dtype == after[name].dtype:
            np.testing.assert_array_equal(ours, values)
            continue
        # By way of float32: codes times their scale are rounded to it, 2**-24 of themselves.
        close = 2.0**-22 * np.abs(values) + 1e-38
        np.testing.assert_array_less(np.abs(ours - values), least_error(name, kind, values) + close)
        if name == "exp_avg_sq" and kind in EIGHT:
            assert np.all(after[name].view(np.uint8)[values > 0] > 0)  # never divided by 0
    step(twin, twin_param)
    assert np.all(np.isfinite(twin_param.astype("f4")))


@pytest.mark.parametrize("found", FORMATS)
def test_more_exact_numbers_are_not_told(found: str) -> None:
    param, optimizer = trained(5000, np.float32, found)
    _, twin = twin_of(optimizer, param, PLAIN)
    assert load(twin, optimizer.state_dict()) == []


def test_what_is_rounded_is_told_once() -> None:
    params = [np.ones(5000, np.float32) for _ in range(3)]
    optimizer = optimizer_with(cyoptim.AdamW, params)
    optimizer.step(grads=params)
    twin = optimizer_with(cyoptim.AdamW, [p.copy() for p in params], state_dtype="dynamic8")
    (told,) = load(twin, optimizer.state_dict())
    assert told == (
        "the loaded state is stored in other types than this optimizer keeps. Of parameter 0 of "
        "group 0 (and the like of 2 more parameters), exp_avg, exp_avg_sq: rounded from float32 to "
        "dynamic8. The options state_dtype, master and rounding of its groups say what it keeps"
    )


def test_if_told_is_an_error_nothing_is_loaded() -> None:
    param, optimizer = trained(5000, np.float32, PLAIN)
    twin_param, twin = twin_of(optimizer, param, "bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="rounded from float32 to bfloat16"):
            twin.load_state_dict(optimizer.state_dict())
    assert not twin.state.get(twin_param)


def test_a_remainder_is_not_taken_by_others_and_told() -> None:
    param, optimizer = trained(100, ml_dtypes.bfloat16, PLAIN)
    wide = param.astype(np.float32)
    plain = optimizer_with(cyoptim.AdamW, [wide])
    (told,) = load(plain, optimizer.state_dict())
    assert "Of parameter 0 of group 0, param_remainder: not taken." in told
    assert plain.state[wide].keys() == {"step", *ARRAYS}
    other = param.copy()
    mastered = optimizer_with(cyoptim.AdamW, [other], master="float32")
    assert "param_remainder: not taken" in load(mastered, optimizer.state_dict())[0]
    step(mastered, other)
    assert "param_remainder" not in mastered.state[other]
    assert mastered.state[other]["param_master"].dtype == np.float32


def test_a_remainder_begins_anew_where_the_state_has_none() -> None:
    wide, optimizer = trained(100, np.float32, PLAIN)
    param = wide.astype(ml_dtypes.bfloat16)
    narrow = optimizer_with(cyoptim.AdamW, [param])
    assert load(narrow, optimizer.state_dict()) == []
    exact = optimizer_with(cyoptim.AdamW, [param.astype(np.float32)])
    exact.load_state_dict(optimizer.state_dict())
    for one, its in ((narrow, param), (exact, exact.param_groups[0]["params"][0])):
        step(one, its)
    bits = param.view(np.uint16).astype(np.uint32) << 16
    full = bits + narrow.state[param]["param_remainder"].astype(np.uint32)
    np.testing.assert_array_equal(full.view(np.float32), exact.param_groups[0]["params"][0])


def test_how_a_state_is_stored_the_optimizer_says_and_not_the_state() -> None:
    param, optimizer = trained(5000, np.float32, "dynamic8", rounding="nearest")
    _, plain = twin_of(optimizer, param, PLAIN)
    plain.load_state_dict(optimizer.state_dict())
    assert not {"state_dtype", "rounding"} & plain.param_groups[0].keys()
    _, other = twin_of(optimizer, param, "bfloat16", seed=3)
    load(other, optimizer.state_dict())
    assert other.param_groups[0]["state_dtype"] == "bfloat16"
    assert other.param_groups[0]["seed"] == 3


# --- errors, before anything changes --------------------------------------------------------------


def without(name: str) -> Any:
    return lambda state: state.pop(name)


def having(name: str, value: Any) -> Any:
    return lambda state: state.update({name: value(state[name]) if callable(value) else value})


BROKEN: dict[str, tuple[str, Any, str]] = {
    "no scale": (
        "dynamic8",
        without("exp_avg_scale"),
        r"state 'exp_avg' of parameter 0 of group 0 has dtype uint8, and no 'exp_avg_scale' is besi",
    ),
    "no codes": (
        "dynamic8",
        having("exp_avg", None),
        r"state 'exp_avg_scale' of parameter 0 of group 0 belongs to 'exp_avg', which the state doe",
    ),
    "few scales": (
        "float8_e4m3fn",
        having("exp_avg_sq_scale", lambda scale: scale[1:]),
        r"'exp_avg_sq_scale' of .* dtype float32 and shape \(19,\), expected float32 and \(20,\)",
    ),
    "whole scales": (
        "float8_e4m3fn",
        having("exp_avg_scale", lambda scale: scale.astype(int)),
        r"'exp_avg_scale' of .* dtype int64 and shape \(20,\), expected float32",
    ),
    "shape": (
        "dynamic8",
        having("exp_avg", lambda codes: codes.reshape(50, 100)),
        r"'exp_avg' of parameter 0 of group 0 has shape \(50, 100\), expected \(5000,\)",
    ),
    "fewer codes": (
        "dynamic8",
        having("exp_avg", lambda codes: codes[:-1]),
        r"'exp_avg' of parameter 0 of group 0 has shape \(4999,\), expected \(5000,\)",
    ),
    "numbers for codes": (
        "dynamic8",
        having("exp_avg", lambda codes: codes.astype(np.float32)),
        r"'exp_avg' of .* has dtype float32, and 'exp_avg_scale' is beside it: another program",
    ),
    "remainder": (
        "bfloat16",
        having("param_remainder", np.zeros(3, np.int16)),
        r"'param_remainder' of parameter 0 of group 0 has shape \(3,\), expected \(5000,\)",
    ),
    "key": (
        "bfloat16",
        having("rounding_key", np.zeros(3, np.int64)),
        r"'rounding_key' of parameter 0 of group 0 has shape \(3,\), expected \(\)",
    ),
    "text": (
        "bfloat16",
        having("exp_avg", np.array(["a"] * 5000)),
        r"'exp_avg' of parameter 0 of group 0 has dtype <U1, expected (numbers|float32)",
    ),
    "list": ("bfloat16", having("exp_avg", [1.0]), r"'exp_avg' of .* is a list, expected an array"),
}


@pytest.mark.parametrize("wanted", [PLAIN, "bfloat16", "dynamic8"])
@pytest.mark.parametrize("case", BROKEN)
def test_broken_states(case: str, wanted: str) -> None:
    found, damage, message = BROKEN[case]
    param, optimizer = trained(5000, ml_dtypes.bfloat16, found)
    state_dict = copy.deepcopy(optimizer.state_dict())
    damage(state_dict["state"][0])
    twin_param, twin = twin_of(optimizer, param, wanted)
    step(twin, twin_param)
    before = copy.deepcopy(dict(twin.state[twin_param]))
    with pytest.raises((TypeError, ValueError), match=message):
        load(twin, state_dict)
    assert same_bits(before, dict(twin.state[twin_param]))


@pytest.mark.parametrize("dtype", [np.uint8, ml_dtypes.float8_e4m3fn])
def test_codes_are_no_numbers(dtype: Any) -> None:
    optimizer = cyoptim.Adam([np.ones(2, np.float32)])
    state = {0: {"step": 1, "exp_avg": np.ones(2, dtype), "exp_avg_sq": np.ones(2, dtype)}}
    with pytest.raises(ValueError, match="no 'exp_avg_scale' is beside it"):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


# --- copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_go_on_with_the_same_bits(dtype: Any, kind: str, copied: Any) -> None:
    param, optimizer = trained((65, 70), dtype, kind)
    optimizer.ema(0.5)
    optimizer.accumulate([np.ones((65, 70), "f4")])
    twin = copied(optimizer)
    (twin_param,) = twin.param_groups[0]["params"]
    for one, its in ((optimizer, param), (twin, twin_param)):
        one.step()
        step(one, its)
    assert same_bits(optimizer.state[param], twin.state[twin_param])
    assert param.dtype == twin_param.dtype
    assert param.tobytes() == twin_param.tobytes()
    assert [a.tobytes() for a in optimizer.ema(0.5)] == [a.tobytes() for a in twin.ema(0.5)]
    assert repr(optimizer.state) == repr(twin.state)
    assert optimizer.state._repr_html_() == twin.state._repr_html_()


# --- torch ----------------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def of_torch(torch: Any, dtype: Any, steps: int = 3) -> tuple[Any, Any]:
    """A tensor, and torch's optimizer after a few steps."""
    torch.manual_seed(0)
    param = torch.randn(70, 64, dtype=dtype, requires_grad=True)
    optimizer = torch.optim.AdamW([param], lr=0.01, eps=1e-3)  # 1e-8 is 0 in float16
    for _ in range(steps):
        param.grad = torch.randn(70, 64).to(dtype)
        optimizer.step()
    return param, optimizer


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("found", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("own", ["bfloat16", "float16", "float32"])
def test_torchs_state_goes_on_here(torch: Any, found: str, own: str, kind: str) -> None:
    param, theirs = of_torch(torch, getattr(torch, found))
    mine = param.detach().to(getattr(torch, own)).clone().requires_grad_()
    ours = optimizer_with(cyoptim.AdamW, [mine], state_dtype=kind)
    load(ours, theirs.state_dict())
    for name in ARRAYS:
        assert ours.state[mine][name].dtype is getattr(torch, kind, torch.uint8)
    if kind == PLAIN:
        expected = theirs.state[param]["exp_avg"].float()
        assert torch.equal(ours.state[mine]["exp_avg"], expected)
    mine.grad = torch.ones_like(mine)
    ours.step()
    assert int(ours.state[mine]["step"]) == 4
    assert torch.isfinite(mine.float()).all()


@pytest.mark.parametrize("kind", [PLAIN, *SIXTEEN])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_our_state_goes_on_in_torch(torch: Any, dtype: str, kind: str) -> None:
    param = torch.full((70, 64), 0.5, dtype=getattr(torch, dtype), requires_grad=True)
    ours = optimizer_with(cyoptim.AdamW, [param], {"lr": 0.01}, state_dtype=kind)
    for _ in range(3):
        param.grad = torch.full_like(param, 0.25)
        ours.step()
    state = ours.state_dict()
    types = {name: value.dtype for name, value in state["state"][0].items()}
    assert {types[name] for name in ARRAYS} == {getattr(torch, kind)}
    assert dtype != "bfloat16" or types["param_remainder"] is torch.int16
    theirs = torch.optim.AdamW([param], lr=0.01)
    theirs.load_state_dict(state)
    assert theirs.state[param]["exp_avg"].dtype is param.dtype
    before = param.detach().clone()
    param.grad = torch.full_like(param, 0.25)
    theirs.step()
    assert torch.isfinite(param).all()
    # The next step of a constant gradient is lr, but for what their type rounds away.
    moved = (before - param).detach().float() / 0.01
    assert dtype == "bfloat16" or torch.allclose(moved, torch.ones(()), atol=0.1)
    # And back: what torch has converted, as it does not know it, begins anew.
    load(ours, theirs.state_dict())
    param.grad = torch.full_like(param, 0.25)
    ours.step()
    assert int(ours.state[param]["step"]) == 5
