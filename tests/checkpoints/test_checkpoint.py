"""Checkpoints: what goes in comes out, and runs continue."""

from __future__ import annotations

import json
import os
import string
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cyoptim
from tests.support.saved_objects import STRUCTURE, Scheduler, Unsaveable, contents, round_trip, same

# What goes in comes out ------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=()), max_size=8)
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**200), 2**200),
    st.floats(),
    st.complex_numbers(),
    TEXT,
    st.binary(max_size=20),
)
KEYS = st.recursive(
    st.one_of(st.integers(), TEXT, st.floats(), st.booleans(), st.none()),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=4,
)
DTYPES = st.one_of(hnp.scalar_dtypes(), hnp.array_dtypes(max_size=3), st.just(np.dtype("V5")))
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@st.composite
def arrays(draw):
    dtype, shape = draw(DTYPES), draw(SHAPES)
    count = int(np.prod(shape)) * dtype.itemsize
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    # Any bits at all: NaNs with a payload, denormals, strings with zeros inside.
    flat = np.frombuffer(seed.bytes(count), np.uint8) if count else np.zeros(0, np.uint8)
    array = np.zeros(shape, dtype, order=draw(st.sampled_from("CF")))
    if "U" not in str(dtype.descr) and dtype.kind != "b" and "?" not in str(dtype.descr):
        array = np.ndarray(shape, dtype, flat.tobytes(), order=draw(st.sampled_from("CF"))).copy(
            "K"
        )
    return array


SCALARS = st.sampled_from(
    [
        np.float16(-0.0),
        np.float32(1 / 3),
        np.float64("nan"),
        np.int8(-5),
        np.uint64(2**64 - 1),
        np.bool_(True),
        np.complex64(1 - 2j),
        np.str_("a\0"),
        np.str_(""),
        np.bytes_(b"\0"),
        np.datetime64("2026-01-02T03:04", "m"),
        np.timedelta64("NaT", "s"),
        np.zeros((), [("a", "<i4"), ("b", ">f8", (2,))])[()],
    ]
)
VALUES = st.recursive(
    st.one_of(PLAIN, arrays(), SCALARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(TEXT, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.dictionaries(KEYS, st.integers(), max_size=3).map(Counter),
    ),
    max_leaves=12,
)


@pytest.mark.slow
@settings(
    deadline=None, max_examples=250, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(objects=st.dictionaries(TEXT, VALUES, min_size=1, max_size=3))
def test_every_value_comes_back_exactly(tmp_path, objects):
    cyoptim.save(tmp_path / "values.npz", **objects)
    assert same(cyoptim.load(tmp_path / "values.npz"), objects)


@pytest.mark.parametrize(
    "value",
    [
        -0.0,
        float("-inf"),
        complex(float("nan"), -0.0),
        [10**5000, -(10**5000)],
        -(2**63),
        2**63,
        "\ud83d\ude00 half \ud83d",
        "\ud83d" + "\ude00",
        {1: "int", "1": "str", (1, ("a", None)): "tuple", 1.5: "float", None: "none"},
        {True: 1},
        {10**5000: np.ones(1), (10**5000,): np.zeros(1)},
        Counter({3: 2, 10: 1}),
        OrderedDict(b=1, a=2),
        {"array": "not a tag"},
        {"dict": {}},
        [[], (), {}],
    ],
)
def test_a_value_that_json_alone_would_change(tmp_path, value):
    assert same(round_trip(tmp_path, value), value)


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.0),
        np.zeros((0, 3), np.float16),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
        np.array(["2026-01-02", "NaT"], "M8[7D]"),
        np.array(["ab", "c\0"], "U4"),
        np.zeros(3, "V0"),
        np.zeros(2, "U0"),
        np.zeros(2, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
        np.zeros(2, [("é", "i4"), ("名", "f4", (2, 3))]),
        np.zeros(2, [(f"field {i}", "f4") for i in range(3000)]),
        np.zeros(2, [(("title", "name"), "c8")]),
        np.zeros(2, []),
    ],
    ids=lambda array: f"{array.dtype!s:.20}{array.shape}",
)
def test_an_array_keeps_dtype_shape_and_order(tmp_path, array):
    assert same(round_trip(tmp_path, array), array)


def test_an_array_in_no_order_at_all_keeps_its_elements(tmp_path):
    strided = np.arange(120.0).reshape(4, 5, 6)[::2, ::-1].transpose(1, 2, 0)
    assert same(round_trip(tmp_path, strided), np.ascontiguousarray(strided))


def test_loaded_arrays_are_fresh(tmp_path):
    W = np.ones((3, 4))
    cyoptim.save(tmp_path / "a.npz", C=W, F=np.asfortranarray(W), again=[W, W], scalar=np.array(1))
    saved = cyoptim.load(tmp_path / "a.npz")
    loaded = [saved["C"], saved["F"], *saved["again"], saved["scalar"]]
    assert all(array.flags.owndata and array.flags.writeable for array in loaded)
    for array in loaded:
        array[...] = 5
        array[...] = 0
        assert sum(other.sum() == 0 for other in loaded) == 1
        array[...] = 1


def test_parameters_are_saved_as_their_arrays(tmp_path):
    W = cyoptim.Parameter(np.arange(6, dtype=np.float32).reshape(2, 3))
    assert same(round_trip(tmp_path, [W])[0], W.data)


def test_a_state_dict_is_taken_anywhere(tmp_path):
    assert round_trip(tmp_path, {"all": [Scheduler(3), Scheduler(4)]}) == {
        "all": [{"epoch": 3, "seen": [3]}, {"epoch": 4, "seen": [4]}]
    }


def test_numpy_alone_reads_the_arrays_under_readable_names(path):
    state = {"state": {0: {"exp_avg": np.arange(3.0)}}, "param_groups": [{"lr": 0.1}]}
    cyoptim.save(path, model={"W": np.eye(2), "b": np.float32(2)}, optimizer=state)
    with np.load(path, allow_pickle=False) as file:
        assert sorted(file.files) == [
            "cyoptim.json",
            "model/W",
            "model/b",
            "optimizer/state/0/exp_avg",
        ]
        assert same(file["optimizer/state/0/exp_avg"], np.arange(3.0))
        structure = json.loads(file["cyoptim.json"])
    assert (structure["format"], structure["version"]) == ("cyoptim checkpoint", 1)


def test_member_names_are_safe_and_never_clash(path):
    keys = ["a/b", "a_b", "../../x", "..", ".", "", "A_B", "w.npy", "w", "x\0y", "ü", "k" * 70_000]
    model = {key: np.full(2, i) for i, key in enumerate(keys)}
    cyoptim.save(path, model=model, **{STRUCTURE: np.zeros(1), "/abs": np.ones(1)})
    loaded = cyoptim.load(path)
    assert same(loaded["model"], model)
    assert same(loaded[STRUCTURE], np.zeros(1))
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            assert not {"", ".", ".."} & set(name.split("/"))
            assert set(name) <= set(string.ascii_letters + string.digits + "_-./~ü")
            assert len(name) < 200
        assert len({name.casefold() for name in file.files}) == len(keys) + 3
        found = [file[name].tolist() for name in file.files if name != STRUCTURE]
        assert sorted(found) == sorted([*([i, i] for i in range(len(keys))), [0], [1]])


def test_the_same_objects_give_the_same_bytes(tmp_path, monkeypatch):
    objects = {"W": np.eye(3), "options": {"lr": 0.1, "betas": (0.9, 0.999)}}
    cyoptim.save(tmp_path / "a.npz", **objects)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(1e9))
    cyoptim.save(tmp_path / "b.npz", **objects)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("order", ["C", "F"])
def test_no_second_copy_of_an_array_is_made(path, order):
    W = np.ones((2048, 4096), order=order)  # 64 MiB; NumPy writes at most 16 at a time
    cyoptim.save(path, nothing=None)
    tracemalloc.start()
    try:
        cyoptim.save(path, W=W)
        assert tracemalloc.get_traced_memory()[1] < 40e6
        tracemalloc.reset_peak()
        cyoptim.load(path)
        assert tracemalloc.get_traced_memory()[1] < W.nbytes + 8e6
    finally:
        tracemalloc.stop()


# What cannot be saved --------------------------------------------------------

Point = namedtuple("Point", "x y")
Colour = IntEnum("Colour", "RED")


CYCLE: list[object] = []
CYCLE.append(CYCLE)

REFUSED = {
    "object": (Unsaveable(), r"^value: cannot save an object of type .*Unsaveable: leave it out"),
    "nested": (
        {"state": {0: {"exp_avg": {1, 2}}}},
        r"^value\['state'\]\[0\]\['exp_avg'\]: cannot save an object of type set: leave it out",
    ),
    "class": (Unsaveable, r"^value: cannot save an object of type type: leave it out"),
    "optimizer class": (cyoptim.Adam, r"^value: cannot save an object of type .*: leave it out"),
    "function": ([len], r"^value\[0\]: .* type builtin_function_or_method: leave it out"),
    "named tuple": (Point(1, 2), r"^value: .*Point: leave it out"),
    "enum": ([Colour.RED], r"^value\[0\]: .*Colour: leave it out"),
    "defaultdict": (defaultdict(list), r"^value: .*collections.defaultdict: leave it out"),
    "object array": (np.array([None]), r"^value: cannot save an array of dtype object$"),
    "object field": (np.zeros(2, [("a", "O")]), r"^value: cannot save an array of dtype .*'O'"),
    "overlapping fields": (
        np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        r"^value: cannot save an array of dtype .*offsets",
    ),
    "record dtype": (np.zeros(2, np.dtype((np.record, [("a", "i4")]))), r"^value: .*record"),
    "masked array": (np.ma.masked_equal([1, 2], 2), r"^value: .*MaskedArray: leave it out"),
    "sparse look-alike": (type("csr", (), {"data": np.ones(2)})(), r"^value: .*csr: leave it out"),
    "bytes key": ({"a": {b"k": 1}}, r"^value\['a'\]: cannot save a dict key of type bytes: b'k'$"),
    "numpy key": ({np.int64(3): 1}, r"^value: cannot save a dict key of type numpy.int64"),
    "long key": ({10**5000: len}, r"^value\[a long int\]: cannot save"),
    "key in a tuple": ({(1, b"k"): 1}, r"^value: cannot save a dict key of type bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(path, case):
    value, message = REFUSED[case]
    with pytest.raises(TypeError, match=message):
        cyoptim.save(path, first=np.ones(3), value=value)
    assert os.listdir(path.parent) == []


def test_strings_of_any_length_are_refused(path):
    StringDType = pytest.importorskip("numpy.dtypes").__dict__.get("StringDType")
    if StringDType is None:
        pytest.skip("NumPy 1 has no StringDType")
    with pytest.raises(TypeError, match="cannot save an array of dtype StringDType"):
        cyoptim.save(path, value=np.array(["a"], StringDType()))


def test_a_container_in_itself_is_refused(path):
    with pytest.raises(ValueError, match=r"^value\[0\]\[0\]\[0\]\.\.\. is over 100 levels deep"):
        cyoptim.save(path, value=CYCLE)
    assert os.listdir(path.parent) == []


def test_a_hundred_levels_can_be_saved(tmp_path):
    value: object = 1
    for _ in range(99):
        value = {0: value}
    assert same(round_trip(tmp_path, value), value)
    with pytest.raises(ValueError, match="over 100 levels deep"):
        round_trip(tmp_path, [value])


def test_nothing_to_save(path):
    with pytest.raises(ValueError, match="nothing to save"):
        cyoptim.save(path)
    assert not path.exists()


# cyoptim's own ---------------------------------------------------------------


def training(seed):
    rng = np.random.default_rng(seed)
    W = cyoptim.Parameter(rng.normal(size=(3, 4)).astype(np.float32))
    b = cyoptim.Parameter(rng.normal(size=4))
    groups = [{"params": [W], "lr": 0.3}, {"params": [b], "betas": (0.8, 0.9)}]
    optimizer = cyoptim.Adam(groups, lr=0.1, amsgrad=True)
    return {
        "params": [W, b],
        "optimizer": optimizer,
        "scheduler": cyoptim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5),
    }


def train(params, optimizer, scheduler, steps=5):
    for _ in range(steps):
        for p in params:
            p.grad = np.cos(p.data) + p.data
        optimizer.step()
        scheduler.step()
    return [p.data.tobytes() for p in params]


def test_a_run_continues_to_the_same_bits(path):
    straight, resumed = training(1), training(2)
    train(**straight)
    cyoptim.save(path, **straight)
    saved = cyoptim.load(path, **resumed)
    assert train(**resumed) == train(**straight)
    assert contents(resumed) == contents(straight)
    assert saved["optimizer"]["state"][0]["exp_avg"].dtype == np.float32


def test_loading_into_a_used_optimizer_replaces_its_state(path):
    straight, resumed = training(1), training(2)
    train(**straight, steps=2)
    train(**resumed, steps=7)
    cyoptim.save(path, **straight)
    cyoptim.load(path, **resumed)
    assert train(**resumed) == train(**straight)


SIDES = ["torch", "cyoptim on tensors", "cyoptim on arrays"]


@pytest.mark.parametrize("saved", SIDES)
@pytest.mark.parametrize("loaded", SIDES)
def test_a_checkpoint_continues_on_either_side_of_torch(path, saved, loaded):
    torch = pytest.importorskip("torch")

    def build(side, values):
        optim = torch.optim if side == "torch" else cyoptim
        W = values.copy() if side == "cyoptim on arrays" else torch.from_numpy(values.copy())
        return optim.Adam([W], lr=0.1), W, np.asarray(W)

    def train(optimizer, W, values):
        for _ in range(3):
            grad = values * values + 1
            if W is values:
                optimizer.step(grads=[grad])
            else:
                W.grad = torch.from_numpy(grad)
                optimizer.step()
        return values

    first = build(saved, np.linspace(-1, 1, 6).reshape(2, 3))
    second = build(loaded, train(*first))
    cyoptim.save(path, optimizer=first[0])
    cyoptim.load(path, optimizer=second[0])
    np.testing.assert_allclose(train(*second), train(*first), rtol=1e-12)


def test_the_loaded_dict_shares_nothing_with_the_optimizer(path):
    run = training(1)
    train(**run)
    cyoptim.save(path, **run)
    saved = cyoptim.load(path, **run)
    before = contents(run)
    saved["optimizer"]["state"][0]["exp_avg"][...] = 7
    saved["optimizer"]["param_groups"][0]["lr"] = 7
    saved["params"][0][...] = 7
    assert contents(run) == before


def test_an_optimizer_of_other_parameters_changes_nothing(path):
    run = training(1)
    train(**run)
    cyoptim.save(path, **run)
    other = training(2)
    train(**other)
    other["optimizer"] = cyoptim.Adam([p for p in other["params"]][:1])
    before = contents(other)
    with pytest.raises(ValueError, match=r"run\.npz: optimizer refuses the saved state: "):
        cyoptim.load(path, **other)
    assert contents(other) == before
