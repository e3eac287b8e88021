"""Arrays of 16 and 8 bits in checkpoints: what goes in comes out, with and without ml_dtypes."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim._checkpoints import sources
from tests.support.formats import FORMATS, optimizer_with, trained, twin_of
from tests.support.processes import lines_of
from tests.support.saved_objects import STRUCTURE, contents, same

ml_dtypes = pytest.importorskip("ml_dtypes")

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
DTYPES = [BFLOAT16, FLOAT8, np.dtype("f2"), np.dtype("u1"), np.dtype("i2")]
PARAMS = (np.float32, ml_dtypes.bfloat16, np.float16)


@pytest.fixture(params=["small", "large"])
def size_of_file(request: Any, monkeypatch: Any) -> str:
    """As files below 64 MiB are read, and as others."""
    if request.param == "large":
        monkeypatch.setattr(sources, "LEAST_FILE", 0)
        monkeypatch.setattr(sources, "LEAST_ARRAY", 1)
    return str(request.param)


def bits(shape: Any, dtype: Any, seed: int = 0) -> Any:
    """An array of any bits."""
    size = int(np.prod(shape)) * dtype.itemsize
    content = np.random.default_rng(seed).bytes(size) or b"\0"
    return np.frombuffer(content, dtype, int(np.prod(shape))).reshape(shape).copy()


# --- what goes in comes out -----------------------------------------------------------------------


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=4).map(tuple),
    st.sampled_from("CF"),
    st.integers(0, 2**16),
)
@pytest.mark.usefixtures("size_of_file")
def test_every_bit_comes_back(either: Any, dtype: Any, shape: Any, order: Any, seed: int) -> None:
    array = np.asarray(bits(shape, dtype, seed), order=order)
    cyoptim.save(either, W=array, more={"gaps": array[..., ::2] if array.ndim else array})
    loaded = cyoptim.load(either)
    if either.suffix == ".safetensors":  # which has one order of elements
        assert same(loaded["W"], np.asarray(array, order="C"))
    else:
        assert same(loaded["W"], array)
    own = np.zeros_like(array)
    cyoptim.load(either, W=own)
    assert own.tobytes() == array.tobytes()
    if array.ndim:
        gaps = loaded["more"]["gaps"]
        assert gaps.dtype == dtype
        assert gaps.tobytes() == array[..., ::2].tobytes()


def test_numbers(either: Any) -> None:
    cyoptim.save(either, x=ml_dtypes.bfloat16(1.5), y=[np.float16(2)])
    loaded = cyoptim.load(either)
    assert same(loaded["x"], ml_dtypes.bfloat16(1.5))
    assert same(loaded["y"], [np.float16(2)])


def test_numpy_reads_the_integers(tmp_path: Any) -> None:
    W = bits((2, 3), BFLOAT16)
    path = tmp_path / "run.npz"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cyoptim.save(path, params={"W": W})
    with np.load(path, allow_pickle=False) as file:
        assert same(file["params/W"], W.view("u2"))
        assert json.loads(file[STRUCTURE])["objects"]["params"] == {
            "dict": {"W": {"array": ["params/W", "bfloat16"]}}
        }


def test_safetensors_own_library_reads_ours_and_we_read_its(tmp_path: Any) -> None:
    library = pytest.importorskip("safetensors.numpy")
    arrays = {str(dtype): bits((3, 5), dtype) for dtype in DTYPES if dtype != FLOAT8}
    path = tmp_path / "x.safetensors"  # of float8 see test_tensors
    cyoptim.save(path, params=arrays)
    for name, array in library.load_file(path).items():
        assert array.tobytes() == arrays[name].tobytes()
        assert array.dtype == arrays[name].dtype
    library.save_file(arrays, path)
    for name, array in cyoptim.load(path)["model"].items():
        assert same(array, arrays[name])


def test_tensors(either: Any, size_of_file: str) -> None:
    torch = pytest.importorskip("torch")
    dtypes = ("bfloat16", "float8_e4m3fn", "float16", "uint8", "int16")
    tensors = {
        name: torch.from_numpy(bits((5, 3), np.dtype("i2"))[:, : 3 * 2 // 2].copy())
        .view(torch.int16)
        .to(torch.uint8)
        .repeat(1, 2)
        .view(getattr(torch, name))
        for name in dtypes
    }
    cyoptim.save(either, model=tensors)
    own = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    cyoptim.load(either, model=own)
    for name, tensor in tensors.items():
        assert torch.equal(own[name].view(torch.uint8), tensor.view(torch.uint8))
    if either.suffix == ".safetensors":
        library = pytest.importorskip("safetensors.torch")
        for name, tensor in library.load_file(either).items():
            assert tensor.dtype is tensors[name].dtype
            assert torch.equal(tensor.view(torch.uint8), tensors[name].view(torch.uint8))
        library.save_file({"W": tensors["bfloat16"]}, either)
        own["bfloat16"].zero_()
        cyoptim.load(either, model={"W": own["bfloat16"]})
        assert torch.equal(own["bfloat16"].view(torch.uint8), tensors["bfloat16"].view(torch.uint8))


@pytest.mark.usefixtures("size_of_file")
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", PARAMS)
def test_a_run_continues_with_the_same_bits(either: Any, dtype: Any, kind: str) -> None:
    first, optimizer = trained((65, 70), dtype, kind)
    optimizer.ema(0.5)
    optimizer.accumulate([np.ones((65, 70), "f4")])
    cyoptim.save(either, params=[first], optimizer=optimizer)
    second, twin = twin_of(optimizer, np.zeros_like(first), kind)
    twin.step(grads=[np.ones((65, 70), "f4")])  # its own state is there
    own = dict(twin.state[second])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cyoptim.load(either, params=[second], optimizer=twin)
    assert contents({"o": twin, "p": second}) == contents({"o": optimizer, "p": first})
    for one, its in ((optimizer, first), (twin, second)):
        one.step()
        one.step(grads=[np.asarray(its, "f4")])
    assert contents({"o": twin, "p": second}) == contents({"o": optimizer, "p": first})
    assert own.keys() == twin.state[second].keys()


@pytest.mark.parametrize("kind", FORMATS)
def test_a_large_file_is_read_into_the_arrays_that_are_there(
    either: Any, kind: str, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sources, "LEAST_FILE", 0)
    monkeypatch.setattr(sources, "LEAST_ARRAY", 1)
    param, optimizer = trained((65, 70), ml_dtypes.bfloat16, kind)
    cyoptim.save(either, optimizer=optimizer)
    before = {name: id(a) for name, a in optimizer.state[param].items() if a.shape == param.shape}
    optimizer.step(grads=[np.ones((65, 70), "f4")])
    cyoptim.load(either, optimizer=optimizer)
    after = optimizer.state[param]
    assert before == {name: id(after[name]) for name in before}
    assert before.keys() == {"exp_avg", "exp_avg_sq", "param_remainder"}


@pytest.mark.usefixtures("size_of_file")
@pytest.mark.parametrize("wanted", FORMATS)
@pytest.mark.parametrize("found", FORMATS)
def test_a_file_of_another_format(either: Any, found: str, wanted: str) -> None:
    param, optimizer = trained(5000, np.float32, found)
    cyoptim.save(either, optimizer=optimizer)
    twins = []
    for load in (lambda twin: cyoptim.load(either, optimizer=twin), None):
        _, twin = twin_of(optimizer, param, wanted)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(twin) if load else twin.load_state_dict(optimizer.state_dict())
        twins.append(twin)
    assert contents({"o": twins[0]}) == contents({"o": twins[1]})


@pytest.mark.slow
def test_averages_and_sums_in_mapped_files(tmp_path: Any, either: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("cyoptim._saving.files.LEAST", 1)
    folder = tmp_path / "state"
    folder.mkdir()
    runs = []
    for is_mapped in (False, True):
        param, optimizer = trained((65, 70), ml_dtypes.bfloat16, "dynamic8")
        optimizer.ema(0.5)
        if is_mapped:
            optimizer.map_state(folder)
        optimizer.step(grads=[np.ones((65, 70), "f4")])
        cyoptim.save(either, optimizer=optimizer)
        optimizer.step(grads=[np.ones((65, 70), "f4")])
        cyoptim.load(either, optimizer=optimizer)
        optimizer.step(grads=[np.ones((65, 70), "f4")])
        runs.append(contents({"o": optimizer, "p": param}))
    assert runs[0] == runs[1]


# --- another type ---------------------------------------------------------------------------------


def test_another_type_needs_to_be_asked_for(either: Any) -> None:
    values = np.array([1.0, -2.5, 3.140625, np.inf, 0.0], "f4")
    cyoptim.save(either, params={"W": values.astype(BFLOAT16), "V": values})
    own = {"W": np.zeros(5, "f4"), "V": np.zeros(5, BFLOAT16)}
    with pytest.raises(ValueError, match="differs in 2 places") as caught:
        cyoptim.load(either, params=own)
    text = re.sub(" +", " ", str(caught.value))
    assert "dtype params['W'] bfloat16 (5,) float32 (5,)" in text
    assert "dtype params['V'] float32 (5,) bfloat16 (5,)" in text
    cyoptim.load(either, params=own, convert=True)
    assert same(own["W"], values)
    assert same(own["V"], values.astype(BFLOAT16))
    half = {"W": np.zeros(5, "f2"), "V": np.zeros(5, "f2")}
    cyoptim.load(either, params=half, convert=True)
    assert same(half["W"], values.astype("f2"))


@pytest.mark.parametrize(
    ("found", "wanted"),
    [(BFLOAT16, "i4"), ("c8", BFLOAT16), (FLOAT8, "f4"), ("f4", FLOAT8), ("u2", BFLOAT16)],
)
def test_types_that_are_not_converted(either: Any, found: Any, wanted: Any) -> None:
    W, own = np.zeros(3, found), np.ones(3, wanted)
    cyoptim.save(either, W=W)
    with pytest.raises(ValueError, match=rf"W: found an array of dtype {np.dtype(found)}"):
        cyoptim.load(either, W=own)
    if found != "u2":  # whole numbers are, as NumPy casts them to float16
        with pytest.raises(ValueError, match=rf"expected an array of dtype {np.dtype(wanted)}"):
            cyoptim.load(either, W=own, convert=True)
    assert np.all(own.astype(float) == 1)


@pytest.mark.parametrize("name", ["float8_e5m2", "int4"])
def test_other_types_are_refused(either: Any, name: str) -> None:
    W = np.zeros(3, getattr(ml_dtypes, name))
    with pytest.raises(TypeError, match=f"W: cannot save an array of dtype {name}"):
        cyoptim.save(either, W=W)


# --- damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (["W", "float32"], "cyoptim.json says 'float32' of its elements, which are uint16"),
        (
            ["W", "float8_e4m3fn"],
            "cyoptim.json says 'float8_e4m3fn' of its elements, which are uint16",
        ),
        (["W"], "has a list under the tag 'array' that is no name and type"),
        (["W", None], "has a list under the tag 'array' that is no name and type"),
        (["W", "bfloat16", 1], "has a list under the tag 'array' that is no name and type"),
    ],
)
def test_what_the_json_says_of_a_type_is_checked(tmp_path: Any, node: Any, message: str) -> None:
    old, path = tmp_path / "old.npz", tmp_path / "new.npz"
    cyoptim.save(old, W=np.zeros(3, BFLOAT16))
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == STRUCTURE:
                structure = json.loads(content)
                structure["objects"]["W"] = {"array": node}
                content = json.dumps(structure).encode()
            target.writestr(name, content)
    with pytest.raises(cyoptim.CheckpointError, match=re.escape(message)):
        cyoptim.load(path)


# --- without ml_dtypes ----------------------------------------------------------------------------

WITHOUT = """
import sys, warnings
import numpy as np
from cyoptim._engine import dtype_beyond_numpy, name_of_dtype, widened
warnings.simplefilter("error")
def grad(): return np.linspace(-1, 1, 5000, dtype="f4")
"""


@pytest.fixture
def blocked(tmp_path: Any) -> str:
    """A folder in which importing ml_dtypes fails."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "ml_dtypes.py").write_text("raise ImportError('blocked')")
    return str(folder)


@pytest.mark.slow
def test_arrays_are_read_without_ml_dtypes(either: Any, blocked: str) -> None:
    W = np.array([1.5, -2.0], BFLOAT16)
    cyoptim.save(either, params={"W": W, "n": [ml_dtypes.bfloat16(3)]}, codes=bits(3, FLOAT8))
    lines = lines_of(
        f"""import sys; sys.path.insert(0, {blocked!r})
{WITHOUT}
loaded = cyoptim.load(sys.argv[1])
print(loaded["params"]["W"], loaded["params"]["W"].dtype, float(loaded["params"]["n"][0]))
print(name_of_dtype(loaded["codes"].dtype), loaded["codes"].tobytes().hex())
own = np.zeros(2, dtype_beyond_numpy("bfloat16"))
cyoptim.load(sys.argv[1], params={{"W": own, "n": [0.0]}})
print(widened(own))
wide = np.zeros(2, "f4")
try:
    cyoptim.load(sys.argv[1], params={{"W": wide, "n": [0.0]}})
except ValueError as error:
    print(error)
cyoptim.load(sys.argv[1], params={{"W": wide, "n": [0.0]}}, convert=True)
print(wide)
integers = np.zeros(2, "u2")
try:
    cyoptim.load(sys.argv[1], params={{"W": integers, "n": [0.0]}})
except ValueError as error:
    print(error)
""",
        str(either),
    )
    assert lines[0] == "[ 1.5 -2. ] float32 3.0"
    assert lines[1] == f"float8_e4m3fn {bits(3, FLOAT8).tobytes().hex()}"
    assert lines[2] == lines[4] == "[ 1.5 -2. ]"
    assert "found an array of dtype bfloat16 and shape (2,), expected an array of dtyp" in lines[3]
    assert "dtype bfloat16 and shape (2,), expected an array of dtype uint16" in lines[5]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_run_goes_on_without_ml_dtypes(
    either: Any, kind: str, blocked: str, tmp_path: Any
) -> None:
    param = np.linspace(-1, 1, 5000, dtype="f4").astype(BFLOAT16)
    optimizer = optimizer_with(cyoptim.AdamW, [param], state_dtype=kind)
    optimizer.step(grads=[np.linspace(-1, 1, 5000, dtype="f4")])
    cyoptim.save(either, params=[param], optimizer=optimizer)
    other = tmp_path / f"other{either.suffix}"
    lines_of(
        f"""import sys; sys.path.insert(0, {blocked!r})
{WITHOUT}
import copy, pickle
param = np.zeros(5000, dtype_beyond_numpy("bfloat16"))
warnings.simplefilter("ignore")
optimizer = cyoptim.AdamW([{{"params": [param], "state_dtype": {kind!r}}}])
warnings.simplefilter("error")
cyoptim.load(sys.argv[1], params=[param], optimizer=optimizer)
optimizer.load_state_dict(cyoptim.load(sys.argv[1])["optimizer"])
optimizer = pickle.loads(pickle.dumps(copy.deepcopy(optimizer)))
(param,) = optimizer.param_groups[0]["params"]
repr(optimizer.state)
optimizer.step(grads=[grad()])
cyoptim.save(sys.argv[2], params=[param], optimizer=optimizer)
""",
        str(either),
        str(other),
    )
    own, twin = twin_of(optimizer, np.zeros_like(param), kind)
    cyoptim.load(other, params=[own], optimizer=twin)
    optimizer.step(grads=[np.linspace(-1, 1, 5000, dtype="f4")])
    assert contents({"o": twin, "p": own}) == contents({"o": optimizer, "p": param})


def digest_of(optimizer: Any, param: Any) -> str:
    state = optimizer.state[param]
    return hashlib.sha256(b"".join(state[name].tobytes() for name in sorted(state))).hexdigest()


@pytest.mark.slow
def test_every_format_becomes_any_other_without_ml_dtypes(tmp_path: Any, blocked: str) -> None:
    expected = []
    for found in FORMATS:
        param, optimizer = trained(5000, np.float32, found)
        cyoptim.save(tmp_path / f"{found}.npz", optimizer=optimizer)
        for wanted in FORMATS:
            own, twin = twin_of(optimizer, param, wanted)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                twin.load_state_dict(optimizer.state_dict())
            expected.append(f"{found} {wanted} {digest_of(twin, own)}")
    lines = lines_of(
        f"""import sys, hashlib; sys.path.insert(0, {blocked!r})
{WITHOUT}
warnings.simplefilter("ignore")
for found in {FORMATS}:
    for wanted in {FORMATS}:
        param = np.zeros(5000, "f4")
        optimizer = cyoptim.AdamW([param], state_dtype=wanted)
        cyoptim.load(f"{tmp_path}/{{found}}.npz", optimizer=optimizer)
        state = optimizer.state[param]
        content = b"".join(state[name].tobytes() for name in sorted(state))
        print(found, wanted, hashlib.sha256(content).hexdigest())
"""
    )
    assert lines == expected
