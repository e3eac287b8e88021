"""Headers and archives that somebody made to do harm: they are refused in little time and memory."""

from __future__ import annotations

import io
import json
import os
import struct
import warnings
import zipfile

import numpy as np
import pytest

import cyoptim
from tests.support.hostile_files import (
    ARRAY,
    foreign,
    header_of,
    npy,
    one_member,
    posix,
    structure_of,
    tensors_of,
    zip_of,
)
from tests.support.saved_objects import same

# Headers of .npz arrays ------------------------------------------------------

HEADERS = {
    "objects": header_of("'|O'"),
    "objects in a field": header_of("[('a', '|O')]"),
    "old name of a dtype": header_of("'|a8'"),
    "name without order": header_of("'f8'"),
    "no such size": header_of("'<f3'"),
    "names of fields": header_of("'i4,f4'"),
    "shape in a name": header_of("'(2,)f4'"),
    "repeated base": header_of("('<f4', (2,))"),
    "repeated once": header_of("[('a', '<f8', 1)]"),
    "dict of fields": header_of("{'names': ['a'], 'formats': ['<f8']}"),
    "overlapping fields": header_of("{'names': ['a', 'b'], 'formats': ['<f8', '<f8'], 'offsets': [0, 0]}"),
    "equal fields": header_of("[('a', '<f4'), ('a', '<f4')]"),
    "huge field": header_of("[('a', '<f8', (99999, 99999, 99999))]"),
    "unit of no seconds": header_of("'<m8[0s]'"),  # NumPy would divide by it
    "unit of no seconds in 32 bits": header_of("'<M8[4294967296s]'"),
    "unit of no seconds in a field": header_of("[('a', '<m8[0s]')]"),
    "number as name": header_of("[(1, '<f8')]"),
    "number as title": header_of("[((1, 'a'), '<f8')]"),
    "three names": header_of("[(('a', 'b', 'c'), '<f8')]"),
    "huge element": header_of("'|V99999999999'"),
    "escape that is none": header_of(r"[('\d', '<f8')]"),
    "names side by side": header_of("'<f' '8'"),
    "expression": header_of("'<f8' * 1"),
    "call": header_of("exit()"),
    "other order of keys": "{'shape': (1,), 'fortran_order': False, 'descr': '<f8', }\n",
    "missing comma": "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}\n",
    "more keys": header_of()[:-2] + "'more': 1, }\n",
    "number as order": header_of(order="0"),
    "bool as extent": header_of(shape="(True,)"),
    "float as extent": header_of(shape="(1.0,)"),
    "negative extent": header_of(shape="(-1,)"),
    "list as shape": header_of(shape="[1]"),
    "number as shape": header_of(shape="(1)"),
    "zeros before a number": header_of(shape="(01,)"),
    "extent of over 63 bits": header_of(shape="(9223372036854775808, 0)"),
    "lines": header_of() + "\n",
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_is_taken_as_numpy_writes_it_and_no_other_way(tmp_path, case):
    path = tmp_path / "x.npz"
    path.write_bytes(one_member(HEADERS[case], bytes(8)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            cyoptim.CheckpointError, match=r"the member 'a\.npy' (cannot be|holds|has)"
        ):
            cyoptim.load(path)


@pytest.mark.parametrize("version", [2, 3])
def test_the_header_that_they_are_changed_from_is_right(tmp_path, version):
    path = tmp_path / "x.npz"
    member = npy(header_of(), np.float64(0.5).tobytes(), version)
    path.write_bytes(zip_of(structure_of(x=ARRAY), {"a.npy": member}))
    assert same(cyoptim.load(path)["x"], np.array([0.5]))


def test_names_of_fields_of_any_letters_come_back(tmp_path):
    path = tmp_path / "x.npz"
    names = ["it's", 'a"b', "it's \"\\\n\0\x7f", "\u1234\u202e", "\U0001f600", "(a', 'b)", "\ud800"]
    array = np.zeros(2, [(name, "f4") for name in names])
    cyoptim.save(path, x=array)
    assert same(cyoptim.load(path)["x"], array)


@pytest.mark.slow
def test_a_header_that_would_not_be_read_is_not_saved(tmp_path):
    path = tmp_path / "x.npz"
    fits, long = ([(f"field {i:06}", "f4") for i in range(count)] for count in (4900, 6000))
    cyoptim.save(path, x=np.zeros(2, fits))
    assert same(cyoptim.load(path)["x"], np.zeros(2, fits))
    with pytest.raises(TypeError, match=r"^x\[1\]: cannot save an array of dtype .{1,2000}$"):
        cyoptim.save(path, x=[1, np.zeros(2, long)])


def test_elements_without_bytes_come_back_up_to_a_million(tmp_path):
    path, strings = tmp_path / "x.npz", np.zeros(3, [("a", "U0")])["a"]
    cyoptim.save(path, x=np.zeros(1_000_000, "V0"), strings=strings)
    loaded = cyoptim.load(path)
    assert same(loaded["x"], np.zeros(1_000_000, "V0"))
    assert (loaded["strings"].dtype, loaded["strings"].shape) == (np.dtype("U0"), (3,))
    with pytest.raises(TypeError, match=r"^x: cannot save an array of .*V0 and over 1000000 elem"):
        cyoptim.save(path, x=np.zeros(1_000_001, "V0"))


# The zip archive -------------------------------------------------------------


def sample():
    return zip_of(structure_of(x=ARRAY), {"a.npy": npy(header_of(), bytes(8))})


def changed(field, value, *, of="PK\1\2", member=1, form="<H"):
    """The sample with a field of a member's record, in the directory or before the member."""

    def build():
        content, at = bytearray(sample()), -1
        for _ in range(member + 1):
            at = content.index(of.encode(), at + 1)
        struct.pack_into(form, content, at + field, value)
        return bytes(content)

    return build


def twice():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO(sample())
        with zipfile.ZipFile(buffer, "a") as file:
            file.writestr("a.npy", npy(header_of(), np.float64(1).tobytes()))
    return buffer.getvalue()


def long_sizes():
    """Sizes of 64 bits in the directory, which the member's own header and the file deny."""
    content = sample()
    begin, end = content.index(b"PK\1\2"), content.index(b"PK\5\6")
    second = content.index(b"PK\1\2", begin + 1)
    entry = bytearray(content[second:end])
    struct.pack_into("<II", entry, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", entry, 30, 20)
    entry += struct.pack("<HHQQ", 1, 16, 2**62, 2**62)
    tail = bytearray(content[end:])
    struct.pack_into("<I", tail, 12, len(content[begin:second]) + len(entry))
    return content[:second] + bytes(entry) + bytes(tail)


ZIPS = {
    "encrypted": (changed(8, 1), "'a.npy' is encrypted"),
    "strongly encrypted": (changed(8, 64), "'a.npy' is encrypted, or packed in another way"),
    "patched": (changed(8, 32), "'a.npy' is encrypted, or packed in another way"),
    "method": (changed(10, 14), "'a.npy' is compressed by method 14; stored and deflated ones are"),
    "unknown method": (changed(10, 77), "'a.npy' is compressed by method 77"),
    "deflated in the directory": (changed(10, 8), "'a.npy' differs from its entry in the directory"),
    "deflated in its header": (changed(8, 8, of="PK\3\4"), "'a.npy' differs from its entry in the directory"),
    "flags in its header": (changed(6, 0x800, of="PK\3\4"), "'a.npy' differs from its entry in the directory"),
    "size in its header": (changed(22, 5, of="PK\3\4", form="<I"), "differs from its entry in the directory"),
    "sizes in the directory": (changed(24, 5, form="<I"), "bytes in the file and 5 outside of it"),
    "checksum in its header": (changed(14, 5, of="PK\3\4", form="<I"), "differs from its entry"),
    "checksum": (changed(16, 5, form="<I"), "differs from its entry in the directory"),
    "place": (changed(42, 0, form="<I"), "'.*' overlaps the next one"),
    "place beyond the file": (changed(42, 2**31, form="<I"), "overlaps the next one"),
    "name in its header": (changed(30, ord("b"), of="PK\3\4", form="B"), "'a.npy' and header b'b.npy' differ"),
    "long extra field": (changed(28, 60_000, of="PK\3\4"), "'a.npy' overlaps the next one"),
    "version": (changed(6, 99), "NotImplementedError"),
    "name twice": (twice, "it has the member 'a.npy' twice"),
    "sizes of 64 bits": (long_sizes, "'a.npy' overlaps the next one"),
    "more behind it": (lambda: sample() + b"x", "does not end where the file ends"),
    "more before it": (lambda: b"x" * 100 + sample(), "it does not begin with its zip archive"),
    "comment cut": (lambda: sample()[:-2] + b"\5\0abc", "does not end where the file ends"),
}  # fmt: skip


@pytest.mark.parametrize("case", ZIPS)
def test_what_a_zip_archive_may_not_be(tmp_path, case):
    make, message = ZIPS[case]
    path = tmp_path / "x.npz"
    path.write_bytes(make())
    with pytest.raises(cyoptim.CheckpointError, match=message):
        cyoptim.load(path)


def test_the_archive_that_they_are_changed_from_is_right(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(sample()[:-2] + b"\3\0abc")  # with a comment
    assert same(cyoptim.load(path)["x"], np.zeros(1))


def test_sizes_that_follow_a_member_are_read(tmp_path):
    class Pipe(io.RawIOBase):
        """Where zipfile cannot go back to write a member's size before it."""

        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, piece):
            self.content += bytes(piece)
            return len(piece)

    pipe, path = Pipe(), tmp_path / "x.npz"
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("cyoptim.json", structure_of(x=ARRAY))
        file.writestr("a.npy", npy(header_of(), np.float64(2).tobytes()))
    path.write_bytes(pipe.content)
    assert same(cyoptim.load(path)["x"], np.array([2.0]))


# The header of .safetensors --------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    """A file of ours, its content, and where its elements begin."""
    path, w = tmp_path / "x.safetensors", np.zeros(3)
    cyoptim.save(path, params={"w": w, "z": np.ones(2, "c8")}, optimizer=cyoptim.SGD([w], lr=0.125))
    content = path.read_bytes()
    return path, content, 8 + int.from_bytes(content[:8], "little")


@pytest.mark.slow
@posix
def test_every_changed_bit_before_the_elements_is_found(saved):
    path, content, begin = saved
    changes = [(at, 1 << bit) for at in range(begin) for bit in range(8)]
    changes += [(at, change) for at in range(48) for change in range(3, 256, 17)]
    # In place: a file system may write a file that is made anew to the disk at once.
    with open(path, "r+b", buffering=0) as file:
        for at, change in changes:
            os.pwrite(file.fileno(), bytes([content[at] ^ change]), at)
            try:
                cyoptim.load(path)
            except cyoptim.CheckpointError:
                os.pwrite(file.fileno(), content[at : at + 1], at)
                continue
            pytest.fail(f"byte {at} changed by {change} is not found")
    assert set(cyoptim.load(path)) == {"params", "optimizer"}


def test_a_byte_of_the_padding_is_found(tmp_path):
    path = tmp_path / "x.safetensors"
    for length in range(8):
        cyoptim.save(path, a=np.ones(1), b="x" * length)
        content = path.read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        assert begin % 8 == 0
        if content[begin - 1 : begin] == b" ":
            break
    path.write_bytes(content[: begin - 1] + b"\n" + content[begin:])
    with pytest.raises(cyoptim.CheckpointError, match="its header is not the one that was saved"):
        cyoptim.load(path)


def test_without_its_checksum_a_file_of_ours_is_refused(saved):
    path, content, begin = saved
    header = json.loads(content[8:begin])
    del header["__metadata__"]["cyoptim.checksum"]
    path.write_bytes(foreign(header, content[begin:]))
    with pytest.raises(cyoptim.CheckpointError, match="or another program has written it again"):
        cyoptim.load(path)


ENTRY = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "metadata", [{}, {"__metadata__": None}, {"__metadata__": {"format": "pt"}}]
)
def test_files_of_other_programs_are_read(tmp_path, metadata):
    path = tmp_path / "x.safetensors"
    path.write_bytes(foreign({**metadata, "a": ENTRY}, np.float64(2).tobytes()))
    assert same(cyoptim.load(path), {"model": {"a": np.array([2.0])}})


TENSORS = {
    "metadata": ({"__metadata__": [], "a": ENTRY}, "__metadata__ in its header is no JSON object"),
    "more in an entry": ({"a": {**ENTRY, "x": 1}}, "'a' is described by a dict with the keys 'dtype'"),
    "less in an entry": ({"a": {"dtype": "F64"}}, "'a' is described by"),
    "list as dtype": ({"a": {**ENTRY, "dtype": ["F64"]}}, "'a' has the dtype a list of length 1"),
    "long dtype": ({"a": {**ENTRY, "dtype": "F" * 9000}}, r"'a' has the dtype F{60,90}\.\.\., which"),
    "text as shape": ({"a": {**ENTRY, "shape": "1"}}, "'a' has as shape '1', expected up to 64 numbers"),
    "bool in a shape": ({"a": {**ENTRY, "shape": [True]}}, r"'a' has the shape \(True\)"),
    "float in a shape": ({"a": {**ENTRY, "shape": [1.0]}}, r"'a' has the shape \(1\.0\)"),
    "extent of 64 bits": ({"a": {**ENTRY, "shape": [2**63, 0]}}, r"'a' has the shape \(9223372036854775808, 0"),
    "three offsets": ({"a": {**ENTRY, "data_offsets": [0, 8, 8]}}, "'a' has as offsets a list of length 3"),
    "one offset": ({"a": {**ENTRY, "data_offsets": [8]}}, r"'a' has the offsets \(8,\)"),
    "offsets the other way": ({"a": {**ENTRY, "data_offsets": [8, 0]}}, "'a' has -8 bytes of elements"),
    "one place for two": ({"a": ENTRY, "b": ENTRY}, "'b' does not begin at byte 8"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_what_a_header_of_tensors_may_not_hold(tmp_path, case):
    header, message = TENSORS[case]
    path = tmp_path / "x.safetensors"
    path.write_bytes(foreign(header, bytes(8)))
    with pytest.raises(cyoptim.CheckpointError, match=message):
        cyoptim.load(path)


def test_a_name_twice_in_a_header(tmp_path):
    entry = json.dumps({"a": ENTRY})[1:-1]
    (tmp_path / "x.safetensors").write_bytes(foreign(f"{{{entry}, {entry}}}".encode(), bytes(8)))
    with pytest.raises(cyoptim.CheckpointError, match="its header has the key 'a' twice"):
        cyoptim.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("names", ["3", '["b"]', '["a"]', "[[]]", "{"])
def test_names_of_complex_arrays_that_are_none(tmp_path, names):
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensors_of(structure_of(x=ARRAY), {"a": ENTRY}, bytes(8), names))
    with pytest.raises(cyoptim.CheckpointError, match=r"cyoptim\.complex|pairs of real numbers"):
        cyoptim.load(path)
