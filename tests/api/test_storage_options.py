"""Options of stored precision: where they are taken, what they ask for, and what is refused or warned of."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import typing
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._engine import STORAGE_OPTIONS, name_of_dtype
from cyoptim._groups import stored
from cyoptim._groups.native import rules_of
from cyoptim._groups.storage import takes_storage
from tests.support.cards import DENSE, MODES, NATIVE, STORAGE, TORCH, Card
from tests.support.parametrize import every_card
from tests.support.runs import ARRAYS, advance

SHAPE = (64, 256)  # of 8 bits: at least 4,096 elements, in rows of whole blocks
NARROW = ("bfloat16", "float16", "float8_e4m3fn", "dynamic8")


def takes(card: Card) -> bool:
    """Whether it is to have these options: native rules step dense gradients."""
    return NATIVE(card) and DENSE(card) and not card.cls._has_update()


def takes_none(card: Card) -> bool:
    return not (NATIVE(card) and DENSE(card)) and card.name != "MuonWithAuxAdam"


def single(*shape: int) -> Any:
    return np.ones(shape or SHAPE, np.float32)


def half(*shape: int) -> Any:
    return np.ones(shape or SHAPE, np.float16)


def brain(*shape: int) -> Any:
    """Of bfloat16."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    return np.ones(shape or SHAPE, ml_dtypes.bfloat16)


def dtypes_in(optimizer: Any, param: Any) -> dict[str, str]:
    """The types of all arrays of a state."""
    found = optimizer.state[param].items()
    return {name: name_of_dtype(value.dtype) for name, value in found if np.ndim(value)}


def step(optimizer: Any, *params: Any) -> None:
    optimizer.step(grads=[np.full(p.shape, 0.5, np.float32) for p in params])


def named(dtype: str) -> str:
    """The name of the type in which elements of a state_dtype lie in memory."""
    return "uint8" if dtype == "dynamic8" else dtype


# --- where they are taken -------------------------------------------------------------------------


@every_card()
def test_constructors_name_them(card: Card) -> None:
    parameters = inspect.signature(card.cls).parameters
    if not NATIVE(card) or not DENSE(card):
        assert not STORAGE & {*parameters}
        return
    *_, a, b, c, d = parameters.values()
    assert {p.name: p.default for p in (a, b, c, d)} == STORAGE_OPTIONS
    assert {p.kind for p in (a, b, c, d)} == {inspect.Parameter.KEYWORD_ONLY}
    assert {*typing.get_type_hints(card.cls.__init__)} >= STORAGE
    assert STORAGE == {*STORAGE_OPTIONS} == {*cyoptim.StorageOptions.__annotations__}
    assert "cyoptim.StorageOptions" in getattr(cyoptim, card.name).__doc__


@pytest.mark.parametrize("name", cyoptim.optimizers.__all__)
def test_every_class_with_native_rules_takes_them(name: str) -> None:
    cls = getattr(cyoptim, name)
    assert ({*inspect.signature(cls).parameters} >= STORAGE) == takes_storage(cls)
    assert takes_storage(cls) == (bool(rules_of(cls)) and cls is not cyoptim.SparseAdam)


@every_card(takes)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.filterwarnings("ignore:.*in float16")
def test_of_an_optimizer(card: Card, dtype: str) -> None:
    w = single()
    optimizer = card.cls([w], state_dtype=dtype)
    advance(card, optimizer, [w], [single()], ARRAYS)
    found = dtypes_in(optimizer, w)
    for rule in rules_of(card.cls):
        for name in {*rule.states} & {*found}:
            # Copies of the parameter and slices of it are as exact as it is.
            own = name in rule.slices or rule.starts.get(name) == "param"
            assert found[name] == ("float32" if own else named(dtype)), name


@every_card(takes)
def test_groups_are_torchs_where_nothing_is_given(card: Card) -> None:
    for options in ({}, STORAGE_OPTIONS):
        optimizer = card.cls([single()], **options)
        assert not STORAGE & optimizer.param_groups[0].keys()
        assert not STORAGE & optimizer.defaults.keys()


@every_card(takes)
def test_of_a_group_and_of_a_state(card: Card) -> None:
    names = sorted({name for rule in rules_of(card.cls) for name in rule.states if not rule.slices})
    plain, other = single(), single()
    group = {"params": [other], "state_dtype": dict.fromkeys(names, "bfloat16")}
    optimizer = card.cls([{"params": [plain]}, group])
    assert "state_dtype" not in optimizer.param_groups[0]
    advance(card, optimizer, [plain, other], [single(), single()], ARRAYS)
    assert {*dtypes_in(optimizer, plain).values()} <= {"float32"}
    found = dtypes_in(optimizer, other)
    assert {found[name] for name in {*names} & {*found}} <= {"bfloat16"}


def test_of_one_state() -> None:
    w = single()
    optimizer = cyoptim.AdamW([w], state_dtype={"exp_avg": "bfloat16", "exp_avg_sq": None})
    step(optimizer, w)
    assert dtypes_in(optimizer, w) == {"exp_avg": "bfloat16", "exp_avg_sq": "float32"}


def test_a_group_overrides_its_optimizer() -> None:
    a, b = single(), single()
    groups = [{"params": [a], "state_dtype": None}, {"params": [b], "rounding": "nearest"}]
    optimizer = cyoptim.SGD(groups, momentum=0.9, state_dtype="bfloat16")
    step(optimizer, a, b)
    assert dtypes_in(optimizer, a) == {"momentum_buffer": "float32"}
    assert dtypes_in(optimizer, b) == {"momentum_buffer": "bfloat16"}
    assert "rounding_key" not in optimizer.state[b]


def test_masters() -> None:
    for master, entry in (
        ({}, "param_remainder"),
        ({"master": "auto"}, "param_remainder"),
        ({"master": "split"}, "param_remainder"),
        ({"master": "float32"}, "param_master"),
        ({"master": None}, "rounding_key"),
    ):
        w, h = brain(), half()
        optimizer = cyoptim.AdamW([w], **master)
        step(optimizer, w)
        assert {*optimizer.state[w]} == {"step", "exp_avg", "exp_avg_sq", entry}
        if master.get("master") != "split":
            optimizer = cyoptim.AdamW([h], **master)
            step(optimizer, h)
            assert ("param_master" in optimizer.state[h]) == (entry != "rounding_key")


def test_the_seed_decides_the_bits() -> None:
    def run(**options: Any) -> Any:
        w = brain()
        optimizer = cyoptim.AdamW([w], master=None, **options)
        step(optimizer, w)
        return w.tobytes()

    assert run() == run(seed=0) == run(seed=np.int64(0)) != run(seed=1)
    assert run(seed=1) == run(seed=1) != run(seed=-1)


def test_one_group_may_have_parameters_of_several_types() -> None:
    narrow, wide = brain(), single()
    for options in ({}, {"master": "split"}, {"master": "float32", "state_dtype": "bfloat16"}):
        optimizer = cyoptim.AdamW([narrow, wide], **options)
        step(optimizer, narrow, wide)
        assert not {"param_master", "param_remainder"} & optimizer.state[wide].keys()
    # Given for all groups, of which some have nothing to keep a master of.
    optimizer = cyoptim.AdamW([{"params": [narrow]}, {"params": [wide]}], master="split")
    optimizer.add_param_group({"params": [single()]})
    copy.deepcopy(optimizer)


@every_card(TORCH, takes)
def test_in_cyoptim_torch(torch: Any, card: Card) -> None:
    import cyoptim.torch as optim

    p = torch.ones(SHAPE)
    optimizer = getattr(optim, card.name)([p], state_dtype="bfloat16")
    p.grad = torch.ones_like(p)
    optimizer.step()
    types = {value.dtype for value in optimizer.state[p].values() if value.ndim}
    assert types <= {torch.bfloat16, torch.float32}


# --- what is refused ------------------------------------------------------------------------------

W, C, D = single, lambda: np.ones(3, np.complex64), lambda: np.ones(3)
Refused = tuple[Callable[[], Any], dict[str, Any], type[Exception], str]

# By what is wrong: a parameter, options, the error and what its message contains.
OF_ANY_PARAMETER: dict[str, Refused] = {
    "type: misspelt": (W, {"state_dtype": "bflaot16"}, ValueError, "state_dtype: there is no type 'bflaot16'; did you mean 'bfloat16'? The types are float32, float64, bfloat16, float16, float8_e4m3fn, dynamic8"),
    "type: unknown": (W, {"state_dtype": "int4"}, ValueError, "state_dtype: there is no type 'int4'; the types are float32"),
    "type: NumPy's": (W, {"state_dtype": np.float16}, TypeError, "state_dtype must be the name of a type, got type: <class 'numpy.float16'>; write 'float16'"),
    "type: a number": (W, {"state_dtype": 8}, TypeError, "state_dtype must be the name of a type, got int: 8; write 'bfloat16'"),
    "type: of a state": (W, {"state_dtype": {"exp_avg": "bf16"}}, ValueError, "state_dtype['exp_avg']: there is no type 'bf16'; the types are"),
    "state: misspelt": (W, {"state_dtype": {"exp_av": "bfloat16"}}, ValueError, "state_dtype names a state 'exp_av' that AdamW does not have; did you mean 'exp_avg'? It has exp_avg, exp_avg_sq, max_exp_avg_sq"),
    "state: another's": (W, {"state_dtype": {"momentum_buffer": "bfloat16"}}, ValueError, "state_dtype names a state 'momentum_buffer' that AdamW does not have: it has exp_avg,"),
    "state: the count": (W, {"state_dtype": {"step": "bfloat16"}}, ValueError, "state_dtype names a state 'step' that AdamW does not have"),
    "master: misspelt": (W, {"master": "splt"}, ValueError, "master must be 'auto', 'split', 'float32' or None, got 'splt'"),
    "master: a switch": (W, {"master": True}, TypeError, "master must be 'auto', 'split', 'float32' or None, got True"),
    "rounding: unknown": (W, {"rounding": "up"}, ValueError, "rounding must be 'stochastic' or 'nearest', got 'up'"),
    "rounding: None": (W, {"rounding": None}, TypeError, "rounding must be 'stochastic' or 'nearest', got None"),
    "seed: a fraction": (W, {"seed": 0.5}, TypeError, "seed must be a whole number, got float: 0.5"),
    "seed: a switch": (W, {"seed": True}, TypeError, "seed must be a whole number, got bool: True"),
    "seed: text": (W, {"seed": "7"}, TypeError, "seed must be a whole number, got str: '7'"),
}  # fmt: skip
OF_THIS_PARAMETER: dict[str, Refused] = {
    "state of complex": (C, {"state_dtype": "bfloat16"}, TypeError, "state_dtype='bfloat16' is not for complex parameters, and parameter 0 of group 0 has dtype complex64: put it into a group with 'state_dtype': None"),
    "double beside single": (W, {"state_dtype": "float64"}, ValueError, "state_dtype='float64', but parameter 0 of group 0 has dtype float32, and its steps compute in float32: leave float64 out, or make the parameter float64"),
    "double beside half": (half, {"state_dtype": {"exp_avg": "float64"}}, ValueError, "parameter 0 of group 0 has dtype float16, and its steps compute in float32"),
    "split of half": (half, {"master": "split"}, ValueError, "master='split' is for bfloat16 parameters, whose bits are the upper half of a float32's, and parameter 0 of group 0 has dtype float16: write master='float32'"),
    "split of single": (W, {"master": "split"}, ValueError, "param group 0: master='split' is for parameters of 16 bits, and its parameters have dtype float32: leave it out, or make them cyoptim.Parameter(data, dtype=\"bfloat16\")"),
    "master of double": (D, {"master": "float32"}, ValueError, "param group 0: master='float32' is for parameters of 16 bits, and its parameters have dtype float64"),
    "no master of single": (W, {"master": None}, ValueError, "param group 0: master=None is for parameters of 16 bits"),
}  # fmt: skip
REFUSED = {**OF_ANY_PARAMETER, **OF_THIS_PARAMETER}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, options, error, message = REFUSED[name]
    with pytest.raises(error, match=_quoted(message)):
        cyoptim.AdamW([make()], **options)
    with pytest.raises(error, match=_quoted(message)) as of_group:
        cyoptim.AdamW([{"params": [make()], **options}])
    assert "group 0" in str(of_group.value)


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_group_changes_nothing(name: str) -> None:
    make, options, error, message = REFUSED[name]
    optimizer = cyoptim.AdamW([brain()])
    group = {"params": [make()], **options}
    before = {**group}
    with pytest.raises(
        error,
        match=_quoted(message.replace("of group 0", "of group 1").replace("group 0:", "group 1:")),
    ):
        optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    assert group.keys() == before.keys()
    assert all(group[key] is before[key] for key in group)


def _quoted(message: str) -> str:
    return re.escape(message)


@every_card(takes)
@pytest.mark.parametrize("name", OF_ANY_PARAMETER)
def test_every_optimizer_refuses(card: Card, name: str) -> None:
    _, options, error, message = OF_ANY_PARAMETER[name]
    message = "state_dtype names a state" if name.startswith("state") else message
    if isinstance(options.get("state_dtype"), dict):  # that no optimizer has
        options, error = {"state_dtype": {"nothing": "bfloat16"}}, ValueError
        message = f"state_dtype names a state 'nothing' that {card.cls.__name__} does not have"
    with pytest.raises(error, match=_quoted(message)):
        card.cls([single()], **options)


@every_card(takes)
def test_unknown_arguments(card: Card) -> None:
    for name, hint in (("state_type", "state_dtype"), ("rouding", "rounding"), ("colour", None)):
        text = f"unexpected keyword argument '{name}'"
        text += f"; did you mean '{hint}'?" if hint else ""
        with pytest.raises(TypeError, match=_quoted(text) + "$"):
            card.cls([single()], **{name: "bfloat16"})
    with pytest.raises(
        ValueError, match="has an option 'state_type' .*; did you mean 'state_dtype'"
    ):
        card.cls([{"params": [single()], "state_type": "bfloat16"}])


@every_card(takes_none)
def test_optimizers_without_native_rules(card: Card) -> None:
    for name, value in (("state_dtype", "bfloat16"), ("master", None), ("seed", 1)):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}': its steps are"):
            card.cls([single()], **{name: value})
        with pytest.raises(
            TypeError, match=f"option '{name}' that {card.cls.__name__} does not have"
        ):
            card.cls([{"params": [single()], name: value}])
    for make in (half, brain):
        with pytest.raises(
            TypeError,
            match=f"float16, which steps by native rules take, .* {card.cls.__name__} has none",
        ):
            card.cls([make()])


def test_slices_are_as_exact_as_the_parameter() -> None:
    for cls, name in ((cyoptim.Prodigy, "s"), (cyoptim.Prodigy, "p0")):
        with pytest.raises(
            ValueError, match=f"names the state '{name}', which always has the prec"
        ):
            cls([single()], state_dtype={name: "bfloat16"})


def test_groups_that_muon_steps() -> None:
    def groups(**muon: Any) -> list[dict[str, Any]]:
        return [
            {"params": [single()], "use_muon": True, **muon},
            {"params": [brain()], "use_muon": False},
        ]

    optimizer = cyoptim.MuonWithAuxAdam(groups(), state_dtype="bfloat16", master="float32")
    first, second = optimizer.param_groups
    assert not STORAGE & first.keys()
    assert (second["state_dtype"], second["master"]) == ("bfloat16", "float32")
    step(optimizer, first["params"][0], second["params"][0])
    assert optimizer.state[second["params"][0]].keys() >= {"param_master", "rounding_key"}
    with pytest.raises(
        TypeError,
        match="param group 0 has an option 'state_dtype' that MuonWithAuxAdam does not take there: no native rule",
    ):
        cyoptim.MuonWithAuxAdam(groups(state_dtype="bfloat16"))
    with pytest.raises(
        TypeError, match="'seed' that MuonWithAuxAdam does not know where use_muon is True"
    ):
        cyoptim.MuonWithAuxAdam(groups(seed=1), seed=2)
    with pytest.raises(
        TypeError,
        match="parameter 0 of group 0 has dtype bfloat16, which steps by native rules take, such as AdamW's; MuonWithAuxAdam has none there",
    ):
        cyoptim.MuonWithAuxAdam(groups(params=[brain()]))


# --- options that are written later ---------------------------------------------------------------


@pytest.mark.parametrize("stepped", [False, True])
def test_written_later(stepped: bool) -> None:
    w = single()
    optimizer = cyoptim.AdamW([w], state_dtype="bfloat16")
    if stepped:
        step(optimizer, w)
    group, before = optimizer.param_groups[0], w.copy()
    for name, value, old in (
        ("state_dtype", "dynamic8", "'bfloat16'"),
        ("master", None, "'auto'"),
        ("rounding", "nearest", "'stochastic'"),
        ("seed", 3, "0"),
    ):
        known = {**group}
        group[name] = value
        message = f"options of param group 0: {name} is {value!r}, expected {old} as when the state began: write {name} = {old}, or make a new optimizer with {name}={value!r} and load"
        for _ in range(2):
            with pytest.raises(ValueError, match=_quoted(message)):
                step(optimizer, w)
            np.testing.assert_array_equal(w, before)
        group.clear()
        group.update(known)
    group.update(seed=0, rounding="stochastic")  # what they were before
    step(optimizer, w)
    assert not np.array_equal(w, before)


def test_misspelt_later() -> None:
    w = single()
    optimizer = cyoptim.AdamW([w])
    optimizer.param_groups[0]["state_dtpye"] = "bfloat16"
    with pytest.raises(ValueError, match="'state_dtpye' .* did you mean 'state_dtype'"):
        step(optimizer, w)


def test_checked_again_when_parameters_are_replaced() -> None:
    w = cyoptim.Parameter(single(), dtype="float16")
    optimizer = cyoptim.AdamW([w], master="float32")
    w.data = single()
    with pytest.raises(ValueError, match="master='float32' is for parameters of 16 bits"):
        step(optimizer, w)


@every_card(takes, MODES)
def test_also_of_an_optimizer_that_does_not_step_now(card: Card) -> None:
    w = cyoptim.Parameter(single())
    optimizer = getattr(cyoptim, card.name)([w], state_dtype="bfloat16")
    optimizer.train()
    step(optimizer, w)
    optimizer.eval()
    with pytest.raises(ValueError, match="param group 1: master=None is for parameters of 16 bits"):
        optimizer.add_param_group({"params": [single()], "master": None})
    optimizer.add_param_group({"params": [single()]})
    optimizer.load_state_dict(copy.deepcopy(optimizer).state_dict())


# --- warnings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "lr"), [(brain, "1e-3"), (half, "1e-4")])
def test_warned_of_parameters_rounded_to_nearest(make: Any, lr: str) -> None:
    message = f"param group 0 rounds .*float16 parameters to nearest, without a master: .*AdamW with lr={lr} never"
    with pytest.warns(UserWarning, match=message) as caught:
        optimizer = cyoptim.AdamW([make()], master=None, rounding="nearest", lr=float(lr))
    assert [warning.filename for warning in caught] == [__file__]
    # What it says is so; and later calls do not say it again.
    w = optimizer.param_groups[0]["params"][0]
    for _ in range(10):
        step(optimizer, w)
    assert np.all(w.astype(float) == 1)
    copy.deepcopy(optimizer)
    optimizer.add_param_group({"params": [single(3)], "rounding": "stochastic"})
    optimizer.load_state_dict(optimizer.state_dict())


def test_warned_of_averages_of_squares_rounded_to_nearest() -> None:
    w = single()
    with pytest.warns(
        UserWarning,
        match="param group 0 rounds its state 'exp_avg_sq' to nearest in 16 bits: .*beta2=0.999.* never decays",
    ) as caught:
        optimizer = cyoptim.AdamW([w], state_dtype="bfloat16", rounding="nearest")
    assert len(caught) == 1
    step(optimizer, w)
    average = optimizer.state[w]["exp_avg_sq"].copy()
    for _ in range(5):
        optimizer.step(grads=[np.zeros_like(w)])
    np.testing.assert_array_equal(optimizer.state[w]["exp_avg_sq"], average)


@every_card(takes)
def test_warned_by_every_optimizer_that_has_such(card: Card) -> None:
    squares = {"exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_avg_var", "hessian", "v"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        optimizer = card.cls([single()], state_dtype="bfloat16", rounding="nearest")
    rule = optimizer._rule_of(optimizer.param_groups[0])
    (rule,) = [each for each in rules_of(card.cls) if each.name == rule]
    expected = bool({*rule.states} & (squares | {"exp_inf", "exp_avg_slow"}))
    assert len(caught) == expected


def test_warned_of_squares_in_float16() -> None:
    w, exact = single(), single()
    with pytest.warns(
        UserWarning,
        match="param group 0 keeps its state 'exp_avg_sq' in float16, which has no numbers between 0 and 6e-8: .*too small along gradients below 1e-3 \\(a seventh of AdamW's along 1e-4",
    ) as caught:
        optimizer = cyoptim.AdamW([w], state_dtype="float16", weight_decay=0)
    assert len(caught) == 1
    other = cyoptim.AdamW([exact], weight_decay=0)
    for _ in range(300):
        for each, p in ((optimizer, w), (other, exact)):
            each.step(grads=[np.full_like(p, 1e-4)])
    assert 6.5 < np.mean(1 - exact) / np.mean(1 - w) < 7.5


@pytest.mark.parametrize(
    "options",
    [
        {"state_dtype": "bfloat16"},
        {"state_dtype": {"exp_avg": "bfloat16"}, "rounding": "nearest"},
        {"state_dtype": {"exp_avg": "float16"}},
        {"state_dtype": "dynamic8", "rounding": "nearest"},
        {"rounding": "nearest"},
    ],
)
def test_not_warned(options: dict[str, Any]) -> None:
    cyoptim.AdamW([single()], **options)
    cyoptim.AdamW([brain()], **options)
    cyoptim.AdamW([brain()], master=None, **{**options, "rounding": "stochastic"})


# --- copies, files, subclasses --------------------------------------------------------------------

GIVEN = {"state_dtype": {"exp_avg": "bfloat16"}, "master": "float32", "seed": 7}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(copied: Any) -> None:
    w, v = half(), half()
    optimizer = cyoptim.AdamW([{"params": [w], "rounding": "nearest"}, {"params": [v]}], **GIVEN)
    step(optimizer, w, v)
    twin = copied(optimizer)
    assert twin.defaults == optimizer.defaults
    for mine, other in zip(twin.param_groups, optimizer.param_groups, strict=True):
        assert {**mine, "params": 0} == {**other, "params": 0}
    params = [group["params"][0] for group in twin.param_groups]
    step(optimizer, w, v)
    step(twin, *params)
    for mine, other in zip(params, (w, v), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_state_dict_has_them() -> None:
    w, v = half(), half()
    optimizer = cyoptim.AdamW([w], **GIVEN)
    step(optimizer, w)
    saved = optimizer.state_dict()
    group = json.loads(json.dumps(saved["param_groups"][0]))
    assert {name: group[name] for name in GIVEN} == GIVEN
    other = cyoptim.AdamW([v], **GIVEN)
    v[...] = w
    other.load_state_dict(saved)
    assert {**other.param_groups[0], "params": 0} == {**optimizer.param_groups[0], "params": 0}
    step(optimizer, w)
    step(other, v)
    np.testing.assert_array_equal(v, w)


class Passing(cyoptim.AdamW):
    def __init__(self, params: Any, **options: Any) -> None:
        super().__init__(params, **options)


class Fixed(cyoptim.AdamW):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)


class Plain(cyoptim.AdamW):
    pass


class Wrapper(cyoptim.Optimizer):
    """A user's class around an optimizer, whose groups it shares."""

    def __init__(self, base: Any) -> None:
        self.base = base
        super().__init__(base.param_groups, {})

    def step(self, *args: Any, **kwargs: Any) -> Any:
        return self.base.step(*args, **kwargs)


def test_subclasses() -> None:
    for cls in (Passing, Plain):
        assert cls([single()], state_dtype="bfloat16").defaults["state_dtype"] == "bfloat16"
        with pytest.raises(TypeError, match="'state_dtpye'; did you mean 'state_dtype'"):
            cls([single()], state_dtpye="bfloat16")
    assert {*inspect.signature(Plain).parameters} >= STORAGE
    assert list(inspect.signature(Passing).parameters) == ["params", "options"]
    with pytest.raises(
        TypeError,
        match=r"Fixed.__init__\(\) got an unexpected keyword argument 'seed': write it into a group",
    ):
        Fixed([single()], 0.1, seed=1)  # type: ignore[call-arg]
    w = single()
    optimizer = Fixed([{"params": [w], "state_dtype": "bfloat16"}], 0.1)
    step(optimizer, w)
    assert dtypes_in(optimizer, w)["exp_avg"] == "bfloat16"


def test_a_wrapper_shares_groups() -> None:
    w = brain()
    optimizer = Wrapper(cyoptim.AdamW([w], state_dtype="bfloat16", master=None))
    step(optimizer, w)
    assert optimizer.base.state[w]["exp_avg"].dtype == w.dtype


def test_plain_optimizers_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("cyoptim.optimizer.check_stored", refuse)
    monkeypatch.setattr("cyoptim._groups.completion.warn_of_rounding", refuse)
    optimizer = cyoptim.AdamW([single(), np.ones(3), C()])
    optimizer.add_param_group({"params": [single(2)]})
    with pytest.raises(AssertionError):
        cyoptim.AdamW([half()])
    with pytest.raises(AssertionError):
        cyoptim.AdamW([single()], seed=1)
    assert stored.check_stored is not refuse


# --- where models are float32 or float64 ----------------------------------------------------------


def test_scikit_learn_refuses_them() -> None:
    pytest.importorskip("sklearn")
    from cyoptim.sklearn import MLPClassifier

    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
    for parameters in (
        {"optimizer": "adamw", "optimizer_params": {"state_dtype": "bfloat16"}},
        {"optimizer": cyoptim.AdamW([single()], state_dtype="bfloat16")},
        {"optimizer": lambda params: cyoptim.AdamW(params, state_dtype="bfloat16")},
    ):
        with pytest.raises(
            ValueError,
            match="state_dtype='bfloat16': an estimator's coefficients and their state are float32 or float64; leave it out",
        ):
            MLPClassifier(**parameters).fit(X, y)


def test_scipy_refuses_them() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    from cyoptim.scipy import method

    message = "seed=1: minimize works in float32 or float64; leave it out"
    with pytest.raises(ValueError, match=message):
        method("adam", seed=1)
    with pytest.raises(ValueError, match=message):
        method(cyoptim.Adam([np.ones(2)], seed=1))
    by_function = method(lambda params: cyoptim.Adam(params, seed=1))
    for options in ({"method": cyoptim.Adam, "options": {"seed": 1}}, {"method": by_function}):
        with pytest.raises(ValueError, match=message):
            optimize.minimize(lambda x: float(x @ x), np.ones(2), jac=lambda x: 2 * x, **options)
