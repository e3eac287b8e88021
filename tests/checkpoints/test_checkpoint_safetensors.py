"""Checkpoints in .safetensors: what goes in comes out, to and from torch, and damage."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim._checkpoints import safetensors
from cyoptim._checkpoints.safetensors import DTYPES
from tests.checkpoints.test_checkpoint import PLAIN, TEXT, train, training
from tests.support.saved_objects import same

CODES = sorted(set(DTYPES) - {"BF16", "F8_E4M3"})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def tensors_of(path):
    """Header and elements, by the format's own definition."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write(path, header, elements=b""):
    """As another program writes it; with a checksum, by the format's own definition, if asked."""
    encoded = json.dumps(header).encode()
    if header.get("__metadata__"):
        blank = {**header, "__metadata__": {"cyoptim.checksum": "0" * 8, **header["__metadata__"]}}
        encoded = json.dumps({"__metadata__": blank.pop("__metadata__"), **blank}).encode()
        crc = zlib.crc32(struct.pack("<Q", len(encoded)) + encoded)
        encoded = encoded.replace(b"0" * 8, b"%08x" % crc, 1)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + elements)


@pytest.mark.parametrize("metadata", [None, {}, {"format": "pt"}])
def test_metadata_of_others_may_be_null_or_empty(path, metadata):
    header = {"__metadata__": metadata, "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + struct.pack("<f", 2.5))
    a = np.zeros(1, "f4")
    cyoptim.load(path, params={"a": a})
    assert a[0] == 2.5


# What goes in comes out ------------------------------------------------------


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from([*(DTYPES[code] for code in CODES), np.dtype("c16")]))
    shape = draw(st.lists(st.integers(0, 4), max_size=4).map(tuple))
    seed = np.random.default_rng(draw(st.integers(0, 2**32)))
    content = seed.bytes(int(np.prod(shape)) * dtype.itemsize)
    array = np.ndarray(shape, dtype, content or b"\0").copy()
    return array if dtype.kind != "b" else (array.view("u1") & 1).astype(bool)


def is_kept(value):
    """All but two halves of a surrogate pair side by side, which JSON reads as one character."""
    return not isinstance(value, str) or json.loads(json.dumps(value)) == value


WORDS = TEXT.filter(is_kept)
VALUES = st.recursive(
    st.one_of(
        PLAIN.filter(is_kept),
        arrays(),
        arrays().map(lambda array: array.flat[0] if array.size else array),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(WORDS, inner, max_size=4),
        st.dictionaries(st.integers(), inner, max_size=4),
        st.tuples(inner, inner),
    ),
    max_leaves=12,
)
NAMES = st.one_of(WORDS, st.sampled_from(["params", "model"]))


@pytest.mark.slow
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(objects=st.dictionaries(NAMES, VALUES, min_size=1, max_size=3))
def test_every_value_comes_back_exactly(path, objects):
    cyoptim.save(path, **objects)
    assert same(cyoptim.load(path), objects)


@pytest.mark.parametrize(
    "array", [np.arange(24.0).reshape(2, 3, 4).T[::2, ::-1], np.asfortranarray(np.eye(3)[:2])]
)
def test_any_layout_comes_back_in_c_order(path, array):
    cyoptim.save(path, a=array, c=array + 1j)
    saved = cyoptim.load(path)
    assert same(saved["a"], np.ascontiguousarray(array))
    assert same(saved["c"], np.ascontiguousarray(array + 1j))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array(["a"]), r"value\[0\]: .*dtype <U1 in a .safetensors file; a .npz file keeps"),
        (np.zeros(1, "M8[D]"), "datetime64.* a .npz file keeps"),
        (np.zeros(1, ">f4"), "dtype >f4 in a .safetensors"),
        (np.zeros(1, ">c8"), "dtype >c8 in a .safetensors"),
        (np.array([None]), "dtype object in"),
        (np.zeros(1, [("a", "f4")]), "in a .safetensors"),
    ],
)
def test_what_it_cannot_keep_is_refused(path, value, message):
    with pytest.raises(TypeError, match=message):
        cyoptim.save(path, first=np.ones(3), value=[value])
    assert os.listdir(path.parent) == []


def test_arrays_are_named_for_others_to_read(path):
    run = training(1)
    run["params"] = dict(zip(["layer.weight", "layer.bias"], run["params"], strict=True))
    run["optimizer"].step(grads=[np.ones((3, 4), np.float32), np.ones(4)])
    cyoptim.save(path, **run, nested={"W": np.ones(2)})
    header, _ = tensors_of(path)
    assert {"layer.weight", "layer.bias", "nested/W"} < set(header)
    assert {"optimizer/state/0/exp_avg", "optimizer/state/1/max_exp_avg_sq"} < set(header)
    assert header["layer.weight"]["dtype"] == "F32"
    structure = json.loads(header["__metadata__"]["cyoptim.json"])
    assert (structure["format"], structure["version"]) == ("cyoptim checkpoint", 1)


def test_names_never_clash(path):
    objects = {
        "params": {"W": np.full(1, 0), "w": np.full(1, 1), "a/b": np.full(1, 2)},
        "model": {"W": np.full(1, 3), "__metadata__": np.full(1, 4), "a": {"b": np.full(1, 5)}},
        "model/W": np.full(1, 6),
        "__metadata__": np.full(1, 7),
    }
    cyoptim.save(path, **objects)
    assert same(cyoptim.load(path), objects)
    assert {"W", "w", "model/W", "a/b"} < set(tensors_of(path)[0])


def test_every_array_is_aligned(path):
    cyoptim.save(path, a=np.ones(3, "i1"), b=np.ones(3), c=np.ones(1, "f4"), d=np.ones(1, "?"))
    header, _ = tensors_of(path)
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    for name, size in (("b", 8), ("c", 4)):
        assert (8 + length + header[name]["data_offsets"][0]) % size == 0


def test_a_run_continues_to_the_same_bits(path):
    straight, resumed = training(1), training(2)
    train(**straight)
    cyoptim.save(path, **straight)
    cyoptim.load(path, **resumed)
    assert train(**resumed) == train(**straight)


@pytest.mark.slow
def test_no_second_copy_of_an_array_is_made(path):
    W = np.ones((2048, 4096))  # 64 MiB
    cyoptim.save(path, nothing=None)
    tracemalloc.start()
    try:
        cyoptim.save(path, W=W)
        assert tracemalloc.get_traced_memory()[1] < 8e6
        tracemalloc.reset_peak()
        cyoptim.load(path)
        assert tracemalloc.get_traced_memory()[1] < W.nbytes + 8e6
    finally:
        tracemalloc.stop()


def test_a_failure_leaves_the_old_file_whole(path, monkeypatch):
    cyoptim.save(path, W=np.zeros(9), b=np.zeros(9))
    before, calls = path.read_bytes(), []

    def fail_at_the_second(array, file):
        calls.append(file.write(array.tobytes()))
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors, "_write_elements", fail_at_the_second)
    with pytest.raises(OSError, match="No space left"):
        cyoptim.save(path, W=np.ones(9), b=np.ones(9))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


# To and from others ----------------------------------------------------------


def test_the_format_s_own_package_reads_all_arrays(path):
    numpy_side = pytest.importorskip("safetensors.numpy")
    arrays = {
        code: np.arange(6).reshape(2, 3).astype(DTYPES[code]) for code in CODES if code != "C64"
    }
    arrays |= {"empty": np.zeros((0, 2)), "scalar": np.array(3.0), "ü/~": np.ones(1)}
    cyoptim.save(path, params=arrays, epoch=7, text="half \ud83d")
    read = numpy_side.load_file(path)
    assert set(read) == set(arrays)
    for name, array in arrays.items():
        assert same(np.ascontiguousarray(read[name]).reshape(array.shape), array), name


def test_a_file_of_the_format_s_own_package_is_read(path):
    numpy_side = pytest.importorskip("safetensors.numpy")
    arrays = {code: np.arange(6).reshape(2, 3).astype(DTYPES[code]) for code in CODES}
    arrays |= {"empty": np.zeros((0, 2)), "scalar": np.array(3.0)}
    numpy_side.save_file(arrays, path, {"format": "pt"})
    saved = cyoptim.load(path)["model"]
    assert set(saved) == set(arrays)
    assert all(same(saved[name], array) for name, array in arrays.items())


def test_torch_loads_the_parameters_under_their_names(path, torch):
    side = pytest.importorskip("safetensors.torch")
    model = torch.nn.Linear(3, 2)
    params = {name: p.detach().numpy() for name, p in model.named_parameters()}
    optimizer = cyoptim.Adam(params.items())
    optimizer.step(grads={name: np.ones_like(p) for name, p in params.items()})
    cyoptim.save(path, params=params, optimizer=optimizer, z=np.array([1 + 2j]))
    loaded = side.load_file(path)
    assert torch.equal(loaded["weight"], model.weight)
    assert torch.equal(torch.view_as_complex(loaded["z"]), torch.tensor([1 + 2j]).cdouble())
    other = torch.nn.Linear(3, 2)
    assert other.load_state_dict(loaded, strict=False).missing_keys == []
    assert torch.equal(other.bias, model.bias)
    assert torch.equal(loaded["optimizer/state/0/exp_avg"], torch.full((2, 3), 0.1))


@pytest.mark.parametrize("name", ["params", "model"])
def test_a_model_of_torch_gives_the_parameters(path, torch, name):
    side = pytest.importorskip("safetensors.torch")
    model = torch.nn.Linear(3, 2)
    side.save_file(model.state_dict(), path)
    params = {"weight": np.zeros((2, 3), "f4"), "bias": cyoptim.Parameter(np.zeros(2, "f4"))}
    optimizer = cyoptim.Adam(params.items())
    with pytest.raises(ValueError, match=f"has no 'optimizer'; it holds '{name}'"):
        cyoptim.load(path, **{name: params}, optimizer=optimizer)
    assert not params["weight"].any()
    result = cyoptim.load(path, **{name: params}, optimizer=optimizer, strict=False)
    assert result.loaded == [f"{name}['weight']", f"{name}['bias']"]
    assert [(d.kind, d.place) for d in result.skipped] == [("missing", "optimizer")]
    assert np.array_equal(params["weight"], model.weight.detach())
    assert np.array_equal(params["bias"].data, model.bias.detach())
    other = torch.nn.Linear(3, 2)
    cyoptim.load(path, model=other)
    assert torch.equal(other.weight, model.weight)


def test_bfloat16_needs_to_be_asked_for(path, torch):
    side = pytest.importorskip("safetensors.torch")
    values = torch.tensor([1.0, -2.5, float("inf"), 1e-40, 3.140625])
    side.save_file({"W": values.bfloat16(), "half": values.half()}, path)
    exact = values.bfloat16().float().numpy()
    assert same(cyoptim.load(path)["model"]["W"].astype("f4"), exact)
    assert same(cyoptim.load(path)["model"]["half"], values.half().numpy())
    model = {"W": np.zeros(5, "f4"), "half": np.zeros(5)}
    with pytest.raises(ValueError, match=r"dtype +model\['W'\] +bfloat16 \(5,\) +float32 \(5,\)\n"):
        cyoptim.load(path, model=model)
    with pytest.raises(ValueError, match=r"bfloat16 .* expected .* float32 .*; convert=True conv"):
        cyoptim.load(path, model={**model, "half": np.zeros(5, "f2")})
    assert not model["W"].any()
    cyoptim.load(path, model=model, convert=True)
    assert same(model["W"], exact)
    assert same(model["half"], values.half().double().numpy())


# Damage ----------------------------------------------------------------------

W = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "not a checkpoint: it is empty"),
    "npz": (
        lambda path: path.write_bytes(b"PK\3\4" + bytes(20)),
        r"with b'PK\\x03.*, which is not",
    ),
    "long header": (
        lambda path: path.write_bytes(struct.pack("<Q", 10**9) + b"{"),
        "which is not a safetensors file",
    ),
    "cut header": (lambda path: path.write_bytes(struct.pack("<Q", 9) + b'{"W"'), "cut short with"),
    "no json": (
        lambda path: path.write_bytes(struct.pack("<Q", 2) + b"{["),
        "damaged: its header is no JSON: json",
    ),
    "cut": (lambda path: write(path, {"W": W}, bytes(7)), "cut short .* 7 bytes .* needs 8"),
    "long": (lambda path: write(path, {"W": W}, bytes(9)), "overwritten: .* 9 bytes"),
    "hole": (
        lambda path: write(path, {"W": {**W, "data_offsets": [4, 12]}}, bytes(12)),
        "'W' does not begin at byte 0",
    ),
    "overlap": (
        lambda path: write(path, {"W": W, "b": {**W, "data_offsets": [4, 12]}}, bytes(12)),
        "'b' does not begin at byte 8",
    ),
    "shape": (
        lambda path: write(path, {"W": {**W, "shape": [3]}}, bytes(8)),
        r"'W' has 8 bytes of elements, its dtype F32 and shape \(3,\) need 12",
    ),
    "negative": (
        lambda path: write(path, {"W": {**W, "shape": [-1, -2]}}, bytes(8)),
        r"'W' has the shape \(-1, -2\)",
    ),
    "float8": (
        lambda path: write(path, {"W": {**W, "dtype": "F8_E5M2"}}, bytes(8)),
        "'W' has the dtype F8_E5M2, which NumPy lacks; cyoptim reads F64, F32, F16, BF16, F8_E4M3",
    ),
    "entry": (lambda path: write(path, {"W": 3}), "damaged: 'W' is described by 3"),
    "newer": (
        lambda path: write(
            path,
            {
                "__metadata__": {
                    "cyoptim.json": '{"format": "cyoptim checkpoint", "version": 2, "objects": {}}',
                    "cyoptim.complex": "[]",
                }
            },
        ),
        "found format version 2, this version of cyoptim reads up to 1; a newer cyoptim wrote it",
    ),
    "missing": (
        lambda path: write(
            path,
            {
                "__metadata__": {
                    "cyoptim.json": '{"format": "cyoptim checkpoint", "version": 1,'
                    ' "objects": {"W": {"array": "W"}}}',
                    "cyoptim.complex": "[]",
                }
            },
        ),
        "the array 'W' is missing",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_the_file(path, case):
    damage, message = DAMAGE[case]
    damage(path)
    with pytest.raises(cyoptim.CheckpointError, match=message) as caught:
        cyoptim.load(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.slow
def test_every_cut_is_found(path):
    cyoptim.save(path, params={"W": np.arange(6.0)}, state={0: np.ones(2, "f4")}, epoch=3)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(cyoptim.CheckpointError, match=re.escape(str(path))):
            cyoptim.load(path)


@pytest.mark.slow
def test_a_changed_byte_of_the_header_is_an_error_of_ours_or_harmless(path):
    cyoptim.save(path, params={"W": np.arange(6.0)}, state={0: np.ones(2, "f4")}, epoch=3)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    noise = np.random.default_rng(0).integers(1, 256, 8 + length)
    for offset, change in enumerate(noise.tolist()):
        damaged = bytearray(content)
        damaged[offset] ^= change
        path.write_bytes(damaged)
        with contextlib.suppress(cyoptim.CheckpointError):
            cyoptim.load(path)
