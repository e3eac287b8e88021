"""Checkpoints: what goes in comes out, and nothing is ever half written or half restored."""

from __future__ import annotations

import doctest
import io
import json
import os
import random
import re
import stat
import string
import subprocess
import sys
import threading
import time
import tracemalloc
import zipfile
from collections import Counter, OrderedDict, defaultdict, namedtuple
from enum import IntEnum
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import checkpoint

STRUCTURE = "cyoptim.json"


def same(a, b):
    """Equal in type, order and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (np.ndarray, np.generic)):
        layout = (a.flags.c_contiguous, a.flags.f_contiguous) == (
            b.flags.c_contiguous,
            b.flags.f_contiguous,
        )
        described = (a.dtype, a.dtype.str, a.shape) == (b.dtype, b.dtype.str, b.shape)
        return layout and described and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b if type(a) is int else repr(a) == repr(b)


def temporaries(directory):
    return [name for name in os.listdir(directory) if name.startswith(".cyoptim-")]


def round_trip(tmp_path, value):
    cyoptim.save(tmp_path / "value.npz", value=value)
    return cyoptim.load(tmp_path / "value.npz")["value"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


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


class Unsaveable:
    pass


CYCLE: list[object] = []
CYCLE.append(CYCLE)

REFUSED = {
    "object": (Unsaveable(), r"^value: cannot save an object of type .*Unsaveable$"),
    "nested": (
        {"state": {0: {"exp_avg": {1, 2}}}},
        r"^value\['state'\]\[0\]\['exp_avg'\]: cannot save an object of type set$",
    ),
    "class": (Unsaveable, r"^value: cannot save an object of type type$"),
    "optimizer class": (cyoptim.Adam, r"^value: cannot save an object of type .*$"),
    "function": ([len], r"^value\[0\]: .* type builtin_function_or_method$"),
    "named tuple": (Point(1, 2), r"^value: .*Point$"),
    "enum": ([Colour.RED], r"^value\[0\]: .*Colour$"),
    "defaultdict": (defaultdict(list), r"^value: .*collections.defaultdict$"),
    "object array": (np.array([None]), r"^value: cannot save an array of dtype object$"),
    "object field": (np.zeros(2, [("a", "O")]), r"^value: cannot save an array of dtype .*'O'"),
    "overlapping fields": (
        np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        r"^value: cannot save an array of dtype .*offsets",
    ),
    "record dtype": (np.zeros(2, np.dtype((np.record, [("a", "i4")]))), r"^value: .*record"),
    "masked array": (np.ma.masked_equal([1, 2], 2), r"^value: .*MaskedArray$"),
    "sparse look-alike": (type("csr", (), {"data": np.ones(2)})(), r"^value: .*csr$"),
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


# The file --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run", "run.ckpt", "run.npz", "x" * (100 if os.name == "nt" else 255)]
)
def test_the_name_is_taken_as_given(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    cyoptim.save(name, a=1)
    cyoptim.save(Path(name), a=2)
    assert os.listdir(tmp_path) == [name]
    assert cyoptim.load(Path(name)) == cyoptim.load(name) == {"a": 2}


def test_an_object_may_be_called_path(path):
    cyoptim.save(path, path=3)
    assert cyoptim.load(path) == {"path": 3}


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions, links and locks")


@posix
def test_permissions_are_those_of_any_new_file(path):
    before = os.umask(0o026)
    try:
        cyoptim.save(path, a=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("mode", [0o604, 0o777, 0o600])
def test_permissions_of_an_older_file_stay(path, mode):
    path.touch()
    path.chmod(mode)
    cyoptim.save(path, a=1)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_while_it_is_written_nobody_reads_what_the_old_file_hid(path, monkeypatch):
    path.touch()
    path.chmod(0o600)
    modes = []

    def spy(structure, arrays, file):
        modes.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    monkeypatch.setattr(checkpoint, "_write", spy)
    cyoptim.save(path, a=1)
    assert modes == [0o600]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path, exists):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "real.npz", tmp_path / "link.npz"
    link.symlink_to(Path("disk") / "real.npz")
    if exists:
        cyoptim.save(target, a=1)
    cyoptim.save(link, a=2)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert cyoptim.load(target) == {"a": 2}


@posix
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        cyoptim.save(tmp_path / "pipe", a=1)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        cyoptim.save(tmp_path / "folder", a=1)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        cyoptim.save(tmp_path / "none" / "run.npz", a=1)
    assert caught.value.filename == str(tmp_path / "none" / "run.npz")


# All or nothing: writing -----------------------------------------------------


def fail_on_call(number, error, function):
    calls = iter(range(1, 1000))

    def failing(*args, **kwargs):
        if next(calls) == number:
            raise error
        return function(*args, **kwargs)

    return failing


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (checkpoint.npy, "write_array", 2),
        (checkpoint.zipfile.ZipFile, "close", 1),
        (checkpoint.os, "fsync", 1),
        (checkpoint.os, "replace", 1),
    ],
)
def test_a_failure_leaves_the_old_file_whole(path, monkeypatch, module, name, call, error):
    cyoptim.save(path, a=np.zeros(9), b=np.zeros(9))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_on_call(call, error, getattr(module, name)))
        with pytest.raises(type(error)):
            cyoptim.save(path, a=np.ones(9), b=np.ones(9))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    cyoptim.save(path, a=np.ones(9), b=np.ones(9))
    assert cyoptim.load(path)["b"].all()


def test_the_bytes_are_on_the_disk_before_the_name_changes(path, monkeypatch):
    cyoptim.save(path, a=1)
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        found = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    def spy_replace(*names):
        calls.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    cyoptim.save(path, a=2)
    folder = [] if os.name == "nt" else ["folder"]
    assert calls == [path.stat().st_size, "replace", *folder]


def test_an_abandoned_temporary_goes_with_the_next_save(path):
    (path.parent / ".cyoptim-0123456789abcdef.tmp").write_bytes(b"left by a killed save")
    (path.parent / ".cyoptim-notes.tmp").write_bytes(b"no temporary of ours")
    cyoptim.save(path, a=1)
    assert temporaries(path.parent) == [".cyoptim-notes.tmp"]


def test_a_temporary_in_use_is_left_alone(path, monkeypatch):
    original = checkpoint._write

    def save_another_meanwhile(structure, arrays, file):
        monkeypatch.setattr(checkpoint, "_write", original)
        cyoptim.save(path.with_name("other.npz"), a=1)
        assert len(temporaries(path.parent)) == 1
        original(structure, arrays, file)

    monkeypatch.setattr(checkpoint, "_write", save_another_meanwhile)
    cyoptim.save(path, a=2)
    assert cyoptim.load(path) == {"a": 2}
    assert temporaries(path.parent) == []


@posix
def test_a_temporary_lost_before_its_lock_is_made_anew(path, monkeypatch):
    original, lost = checkpoint._hold, []

    def lose_the_first(descriptor):
        if not lost:
            lost.extend(temporaries(path.parent))
            checkpoint._remove_abandoned(path.parent)
        return original(descriptor)

    monkeypatch.setattr(checkpoint, "_hold", lose_the_first)
    cyoptim.save(path, a=2)
    assert len(lost) == 1
    assert cyoptim.load(path) == {"a": 2}


@posix
def test_threads_that_save_to_one_file(path):
    failures = []
    cyoptim.save(path, number=-1, W=np.full(20_000, -1.0))

    def save(thread):
        try:
            for k in range(25):
                number = 100 * thread + k
                cyoptim.save(path, number=number, W=np.full(20_000, float(number)))
                saved = cyoptim.load(path)
                assert (saved["W"] == saved["number"]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(path.parent) == [path.name]


SAVE_UNTIL_KILLED = """
import os, sys
import numpy as np
import cyoptim

print("ready", flush=True)
for line in sys.stdin:
    writer = os.fork()
    if not writer:
        for number in range(int(line) + 1, int(line) + 10_000):
            W = np.full(200_000, number, np.float64)
            cyoptim.save(sys.argv[1], first=W, number=number, last=[W])
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("dead", flush=True)
"""


@posix
def test_kill_9_at_any_moment_leaves_a_whole_file(path):
    start = time.perf_counter()
    cyoptim.save(path, first=np.zeros(200_000), number=0, last=[np.zeros(200_000)])
    longest = 0.02 + 3 * (time.perf_counter() - start)
    moments, abandoned, numbers = random.Random(0), 0, [0]
    command = [sys.executable, "-W", "ignore", "-c", SAVE_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1) as server:
        assert "ready\n" in server.stdout
        for _ in range(24):
            server.stdin.write(f"{numbers[-1]}\n")
            writer = int(server.stdout.readline())
            time.sleep(moments.uniform(0.0, longest))
            os.kill(writer, 9)
            assert server.stdout.readline() == "dead\n"
            saved = cyoptim.load(path)
            assert (saved["first"] == saved["number"]).all()
            assert (saved["last"][0] == saved["number"]).all()
            numbers.append(saved["number"])
            abandoned += len(temporaries(path.parent))
            assert len(temporaries(path.parent)) <= 1
        server.stdin.close()
    assert numbers == sorted(numbers)
    assert numbers[-1] > 0, "no save came to its end: the moments prove nothing"
    assert abandoned > 0, "no save was cut off: the moments prove nothing"
    cyoptim.save(path, number=0)
    assert os.listdir(path.parent) == [path.name]


# Damage ----------------------------------------------------------------------

SAMPLE = {
    "W": np.arange(6.0).reshape(2, 3),
    "optimizer": {"state": {0: {"step": np.int64(3), "exp_avg": np.ones(2, np.float32)}}},
    "plain": [1, (2.5, None), "text", b"bytes", 1j],
}


@pytest.fixture
def sample(path):
    cyoptim.save(path, **SAMPLE)
    return path.read_bytes()


def test_every_cut_is_found(path, sample):
    for length in range(len(sample)):
        path.write_bytes(sample[:length])
        with pytest.raises(cyoptim.CheckpointError, match=re.escape(str(path))):
            cyoptim.load(path)


def test_a_cut_behind_a_whole_checkpoint_inside_is_found(path, sample):
    cyoptim.save(path, inner=np.frombuffer(sample, np.uint8), more=np.ones(9))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(sample) + len(sample)])
    with pytest.raises(cyoptim.CheckpointError, match="beginning is not that of its zip"):
        cyoptim.load(path)


def test_every_changed_byte_is_found_or_harmless(path, sample):
    noise = np.random.default_rng(0).integers(1, 256, len(sample))
    found = 0
    for offset, change in enumerate(noise.tolist()):
        damaged = bytearray(sample)
        damaged[offset] ^= change
        path.write_bytes(damaged)
        try:
            loaded = cyoptim.load(path)
        except cyoptim.CheckpointError:
            found += 1
        else:
            assert same(loaded, SAMPLE), offset
    assert found > len(sample) / 2


def with_members(**changes):
    """The sample with members replaced, removed (None) or added."""

    def build(sample):
        with zipfile.ZipFile(io.BytesIO(sample)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        for name, change in changes.items():
            members[name] = change(members[name]) if callable(change) else change
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                if content is not None:
                    file.writestr(name, content)
        return buffer.getvalue()

    return build


def with_structure(**changes):
    def change(text):
        return json.dumps({**json.loads(text), **changes}).encode()

    return with_members(**{STRUCTURE: change})


def npy_bytes(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def corrupted_member(sample):
    at = sample.index(np.float64(4.0).tobytes())
    return sample[:at] + b"\xff" + sample[at + 1 :]


DAMAGE = {
    "empty": (lambda _: b"", "not a checkpoint: it is empty"),
    "text": (lambda _: b"once upon a time", "begins with b'once up', which is not a zip"),
    "pickle": (lambda _: b"\x80\x04N.", r"begins with b'\\x80\\x04N\.', which is not a zip"),
    "npy": (lambda _: npy_bytes(np.ones(3)), r"begins with b'\\x93NUMPY"),
    "cut": (lambda sample: sample[:-5], "begins as a zip archive but is cut short"),
    "foreign npz": (
        with_members(**{STRUCTURE: None}),
        r"without cyoptim\.json, found 'W\.npy', 'optimizer/",
    ),
    "empty zip": (lambda _: b"PK\5\6" + bytes(18), r"without cyoptim\.json, found nothing"),
    "checksum": (corrupted_member, r"the member 'W\.npy' cannot be read: Bad CRC-32"),
    "missing member": (with_members(**{"W.npy": None}), r"the member 'W\.npy' is missing"),
    "short member": (
        with_members(**{"W.npy": lambda b: b[:-8]}),
        r"'W\.npy' has 40 bytes of elements, its dtype float64 and shape \(2, 3\) need 48",
    ),
    "long member": (with_members(**{"W.npy": lambda b: b + b"0"}), r"'W\.npy' has 49 bytes of"),
    "huge shape": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3)", b"(9**9,").replace(b"**", b"99")}),
        r"'W\.npy'",
    ),
    "negative shape": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3), ", b"(-2,-3),")}),
        r"'W\.npy' has the shape \(-2, -3\)",
    ),
    "objects": (
        with_members(**{"W.npy": npy_bytes(np.array([None]), True)}),
        r"'W\.npy' holds Python objects",
    ),
    "pickled pointers": (
        with_members(**{"W.npy": lambda b: b.replace(b"<f8", b"|O ")}),
        r"'W\.npy'",
    ),
    "npy version": (
        with_members(**{"W.npy": lambda b: b.replace(b"NUMPY\1", b"NUMPY\7")}),
        r"\.npy version \(7, 0\)",
    ),
    "no npy": (with_members(**{"W.npy": b"hello"}), r"the member 'W\.npy' cannot be read"),
    "code in a header": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3)", b"exit()")}),
        r"the member 'W\.npy' cannot be read",
    ),
    "newer": (with_structure(version=2), "found format version 2, .* reads up to 1"),
    "version": (with_structure(version="1"), "found format version '1'"),
    "format": (with_structure(format="other"), "its format is 'other', expected 'cyoptim checkp"),
    "not json": (with_members(**{STRUCTURE: b"{"}), "damaged: json"),
    "json list": (with_members(**{STRUCTURE: b"[]"}), "damaged: TypeError"),
    "no objects": (with_structure(objects=3), "damaged: AttributeError"),
    "unknown tag": (with_structure(objects={"W": {"pickle": "x"}}), "unknown tag 'pickle'"),
    "two tags": (with_structure(objects={"W": {"int": "1", "float": "1"}}), "damaged: ValueError"),
    "bad bytes": (with_structure(objects={"W": {"bytes": "?"}}), "damaged: "),
    "list as key": (with_structure(objects={"W": {"dict": [[[], 1]]}}), "unhashable"),
    "depths": (
        with_members(**{STRUCTURE: b'{"objects":' + b"[" * 100_000}),
        "damaged: RecursionError",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_the_file(path, sample, case):
    damage, message = DAMAGE[case]
    path.write_bytes(damage(sample))
    W = np.full((2, 3), 7.0)
    with pytest.raises(cyoptim.CheckpointError, match=message) as caught:
        cyoptim.load(path, W=W)
    assert str(caught.value).startswith(f"{path}: ")
    assert (W == 7).all()


def test_a_checkpoint_packed_again_and_compressed_is_read(path, sample):
    path.write_bytes(with_members()(sample))
    assert same(cyoptim.load(path), SAMPLE)


def test_no_pickle_is_ever_loaded(path, sample):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = npy_bytes(np.array([Trap()], object), allow_pickle=True)
    path.write_bytes(with_members(**{"W.npy": trap})(sample))
    with pytest.raises(cyoptim.CheckpointError, match="holds Python objects"):
        cyoptim.load(path)


def test_a_checkpoint_error_is_a_value_error():
    assert issubclass(cyoptim.CheckpointError, ValueError)


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        cyoptim.load(path)


def test_an_unreadable_disk_is_no_damage(path, sample, monkeypatch):
    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile.ZipExtFile, "read", broken)
    with pytest.raises(OSError, match="Input/output error"):
        cyoptim.load(path)


# All or nothing: restoring ---------------------------------------------------


class Scheduler:
    """As torch's: a dict of plain values, put back without a check."""

    def __init__(self, epoch, fails=None):
        self.epoch, self.seen, self.fails = epoch, [epoch], fails

    def state_dict(self):
        return {"epoch": self.epoch, "seen": self.seen}

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.seen.clear()
        if self.fails is not None:
            error, self.fails = self.fails, None
            raise error
        self.seen.extend(state["seen"])


class Prepared(Scheduler):
    """As cyoptim's optimizers: checks first, then a commit that cannot fail."""

    def _prepare_load(self, state):
        if self.fails is not None:
            raise self.fails
        return lambda: Scheduler.load_state_dict(self, state)

    def load_state_dict(self, state):
        pytest.fail("_prepare_load was there for this")


class Average:
    """Keeps what it is given, as carelessly as many a state."""

    def __init__(self, *values):
        self.values = list(values)

    def state_dict(self):
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def restorable():
    """One of each kind, with the values (9, 99) that SAVED does not have."""
    return {
        "array": np.full((2, 3), 9.0),
        "parameter": cyoptim.Parameter(np.full(3, 9, np.float32)),
        "nested": {"a": [np.full(2, 9), 99], "b": (np.full((), 9.0),), 0: "99"},
        "scheduler": Scheduler(99),
        "optimizer": Prepared(99),
    }


SAVED = {
    "array": np.arange(6.0).reshape(2, 3),
    "parameter": np.arange(3, dtype=np.float32),
    "nested": {"a": [np.arange(2), 3], "b": (np.array(1.5),), 0: "text"},
    "scheduler": {"epoch": 3, "seen": [1, 2, 3]},
    "optimizer": {"epoch": 4, "seen": [4]},
}


def contents(objects):
    """A copy of what the objects hold."""
    packing = checkpoint._Packing()
    nodes = {name: packing.pack(value, (name,)) for name, value in objects.items()}
    return json.dumps(nodes, sort_keys=True), {
        name: array.tobytes() for name, array in packing.arrays.items()
    }


def test_everything_is_restored_in_place(path):
    cyoptim.save(path, **SAVED, extra=[1])
    targets = restorable()
    memory = [targets["array"], targets["parameter"].data, targets["nested"]["a"][0]]
    saved = cyoptim.load(path, **targets)
    assert same(saved, {**SAVED, "extra": [1]})
    assert contents(targets) == contents(SAVED)
    assert targets["array"] is memory[0]
    assert targets["parameter"].data is memory[1]
    assert targets["nested"]["a"][0] is memory[2]
    assert not any(np.shares_memory(saved["array"], array) for array in memory)
    saved["scheduler"]["seen"].append(7)
    assert targets["scheduler"].seen == [1, 2, 3]


def test_the_loaded_dict_shares_nothing_with_what_was_restored(path):
    values = [np.ones((2, 3), order="F"), 3, (0.9, 0.999), Counter({3: 1}), OrderedDict(a=None)]
    cyoptim.save(path, average=Average(*values))
    average = Average()
    saved = cyoptim.load(path, average=average)
    assert same(average.values, values)
    assert not np.shares_memory(average.values[0], saved["average"]["values"][0])
    assert average.values is not saved["average"]["values"]


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_an_array_of_another_layout_is_restored(path, layout):
    W = {
        "C": np.zeros((2, 3)),
        "F": np.zeros((2, 3), order="F"),
        "strided": np.zeros((4, 6))[::2, ::-2],
    }[layout]
    cyoptim.save(path, W=np.asfortranarray(SAVED["array"]))
    cyoptim.load(path, W=W)
    assert np.array_equal(W, SAVED["array"])


def test_a_list_restores_a_tuple(path):
    W, b = np.zeros((2, 3)), np.zeros(1)
    cyoptim.save(path, params=[np.ones((2, 3)), np.ones(1)])
    cyoptim.load(path, params=(W, b))
    assert W.all()
    assert b.all()


def read_only(array):
    array.flags.writeable = False
    return array


MISFITS = {
    "shape": (
        {"array": np.zeros((3, 2))},
        r"array: found an array of dtype float64 and shape \(2, 3\), "
        r"expected an array of dtype float64 and shape \(3, 2\)",
    ),
    "dtype": ({"array": np.zeros((2, 3), "f4")}, "found .* float64 .*expected .* float32"),
    "byte order": ({"array": np.zeros((2, 3), ">f8")}, "expected an array of dtype >f8"),
    "parameter": (
        {"parameter": cyoptim.Parameter(np.zeros(4, np.float32))},
        r"parameter: found .* shape \(3,\), expected .* shape \(4,\)",
    ),
    "array for a dict": ({"nested": np.zeros(2)}, "nested: found a dict with the keys 'a', 'b', 0"),
    "dict for an array": (
        {"array": {}},
        "found an array .*, expected a dict with the keys nothing",
    ),
    "list for a dict": ({"nested": [1, 2, 3]}, "found a dict .* expected a list of length 3"),
    "value for an array": (
        {"nested": {"a": [np.zeros(2, int), np.zeros(2)], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]\[1\]: found a value of type int, expected an array",
    ),
    "array for a value": (
        {"nested": {"a": [0, 0], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]\[0\]: found an array .*, expected a value of type int",
    ),
    "keys": ({"nested": {"a": [np.zeros(2), 0]}}, "with the keys 'a', 'b', 0, expected .* 'a'$"),
    "length": (
        {"nested": {"a": [np.zeros(2)], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]: found a list of length 2, expected a list of length 1",
    ),
    "read-only": ({"array": read_only(np.zeros((2, 3)))}, "array is read-only"),
    "overlapping": (
        {"array": np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8))},
        "array is a view whose elements overlap",
    ),
    "unknown": ({"model": np.zeros(2)}, "has no 'model'; it holds 'array', 'parameter', 'nested'"),
    "prepare": (
        {"optimizer": Prepared(99, fails=KeyError("betas"))},
        "optimizer refuses the saved state: 'betas'",
    ),
    "load_state_dict": (
        {"optimizer": Scheduler(99, fails=RuntimeError("no such layer"))},
        "optimizer refuses the saved state: no such layer",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_changes_nothing(path, case):
    change, message = MISFITS[case]
    cyoptim.save(path, **SAVED)
    targets = {**restorable(), **change}
    before = contents(targets)
    with pytest.raises(ValueError, match=message) as caught:
        cyoptim.load(path, **targets)
    assert not isinstance(caught.value, cyoptim.CheckpointError)
    assert contents(targets) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (0, "^number: int cannot be restored in place; take it from the dict that load returns"),
        (np.float64(1), "^number: numpy.float64 cannot be restored"),
        ((0,), r"^number\[0\]: int cannot be restored"),
        (Unsaveable(), "^number: .*Unsaveable cannot be restored"),
        (Scheduler, "^number: type cannot be restored"),
    ],
)
def test_what_cannot_be_restored_in_place(path, target, message):
    cyoptim.save(path, number=[3] if isinstance(target, tuple) else 3, W=np.ones(2))
    W = np.zeros(2)
    with pytest.raises(TypeError, match=message):
        cyoptim.load(path, W=W, number=target)
    assert not W.any()


def test_an_interrupt_while_restoring_is_undone(path):
    cyoptim.save(path, **SAVED)
    targets = {**restorable(), "optimizer": Scheduler(99, fails=KeyboardInterrupt())}
    before = contents(targets)
    with pytest.raises(KeyboardInterrupt):
        cyoptim.load(path, **targets)
    assert contents(targets) == before


# torch -----------------------------------------------------------------------


def test_tensors_are_saved_as_arrays_and_restored_in_place(path):
    torch = pytest.importorskip("torch")
    tensors = {
        "leaf": torch.arange(6.0).reshape(2, 3).requires_grad_(),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "integers": torch.arange(3),
        "step": torch.tensor(3.0),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "empty": torch.zeros(0, 2, dtype=torch.float16),
    }
    cyoptim.save(path, tensors=tensors)
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    targets["leaf"].requires_grad_()
    version = targets["leaf"]._version
    saved = cyoptim.load(path, tensors=targets)["tensors"]
    for name, tensor in tensors.items():
        assert type(saved[name]) is np.ndarray
        assert saved[name].dtype == tensor.detach().resolve_conj().numpy().dtype
        assert torch.equal(targets[name], tensor)
    assert targets["leaf"]._version > version
    assert targets["leaf"].is_leaf


def test_a_state_gets_its_tensors_back_as_tensors(path):
    torch = pytest.importorskip("torch")
    cyoptim.save(path, average=Average(torch.ones(3), np.ones(2), (torch.tensor(1),)))
    average = Average()
    saved = cyoptim.load(path, average=average)["average"]["values"]
    tensor, array, (step,) = average.values
    assert torch.equal(tensor, torch.ones(3))
    assert torch.equal(step, torch.tensor(1))
    assert same(array, np.ones(2))
    assert [type(value) for value in saved] == [np.ndarray, np.ndarray, tuple]
    tensor.zero_()
    assert saved[0].all()


def test_torch_goes_on_from_the_state_of_an_optimizer_of_arrays(path):
    torch = pytest.importorskip("torch")
    x, state = torch.ones(2), {0: {"step": 1, "square_avg": np.ones(2, np.float32)}}
    theirs = torch.optim.RMSprop([x])
    groups = theirs.state_dict()["param_groups"]
    cyoptim.save(path, optimizer={"state": state, "param_groups": groups})
    cyoptim.load(path, optimizer=theirs)
    assert torch.equal(theirs.state[x]["square_avg"], torch.ones(2))


def test_tensors_without_an_array_are_refused(path):
    torch = pytest.importorskip("torch")
    for tensor, message in [
        (torch.zeros(2, dtype=torch.bfloat16), r"^W\[0\]: a tensor of torch.bfloat16 has no array"),
        (torch.zeros(2, device="meta"), r"^W\[0\]: .*found torch.strided on meta"),
        (torch.eye(2).to_sparse(), r"^W\[0\]: .*found torch.sparse_coo on cpu"),
    ]:
        with pytest.raises(TypeError, match=message):
            cyoptim.save(path, W=[tensor])
    assert not path.exists()


def test_tensors_that_cannot_be_changed_are_refused(path):
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        frozen = torch.zeros(2)
    cyoptim.save(path, W=np.ones(2, np.float32), V=np.ones(2, np.float32))
    for target in (frozen, torch.zeros(1).expand(2), torch.zeros(3), torch.zeros(2).double()):
        V = np.zeros(2, np.float32)
        with pytest.raises(ValueError, match=r"\bW\b"):
            cyoptim.load(path, V=V, W=target)
        assert not V.any()


def test_torch_modules_optimizers_and_schedulers_continue(path):
    torch = pytest.importorskip("torch")
    x = torch.linspace(-1, 1, 12).reshape(4, 3)

    def build(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True)
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5]),
        }

    def train(model, optimizer, scheduler):
        for _ in range(4):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()
            scheduler.step()
        return [value.clone() for value in model.state_dict().values()]

    straight, resumed = build(1), build(2)
    train(**straight)
    cyoptim.save(path, **straight)
    cyoptim.load(path, **resumed)
    for a, b in zip(train(**straight), train(**resumed), strict=True):
        assert torch.equal(a, b)
    assert resumed["scheduler"].state_dict() == straight["scheduler"].state_dict()

    misfit = build(3) | {"model": torch.nn.Linear(3, 4)}
    before = contents(misfit)
    with pytest.raises(ValueError, match="model refuses the saved state"):
        cyoptim.load(path, **misfit)
    assert contents(misfit) == before


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


def test_the_examples_run():
    assert doctest.testmod(checkpoint).attempted > 10
    assert doctest.testmod(checkpoint).failed == 0
