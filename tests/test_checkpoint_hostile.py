"""Files that somebody made to do harm: they are refused in little time and memory."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import npz, packing, single
from cyoptim._checkpoints.generators import checked_state
from saved_objects import same

SUFFIXES = (".npz", ".safetensors")
MIB = 1 << 20
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files and limits")


@pytest.fixture(params=SUFFIXES)
def either(request, tmp_path):
    return tmp_path / f"run{request.param}"


# Files by the formats' own definitions ---------------------------------------


def structure_of(**objects):
    return json.dumps({"format": "cyoptim checkpoint", "version": 1, "objects": objects})


def npy(header, elements=b"", version=2, length=None):
    encoded = header.encode("latin-1")
    length = len(encoded) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", length) + encoded + elements


def header_of(descr="'<f8'", shape="(1,)", order="False"):
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n"


def zip_of(structure, members=(), compress=False):
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("cyoptim.json", structure)
        for name, content in dict(members).items():
            file.writestr(name, content)
    return buffer.getvalue()


def tensors_of(structure, entries=(), elements=b"", complex_names="[]"):
    metadata = {
        "cyoptim.checksum": "00000000",
        "cyoptim.json": structure,
        "cyoptim.complex": complex_names,
    }
    encoded = json.dumps({"__metadata__": metadata, **dict(entries)}).encode()
    return with_checksum(encoded) + elements


def with_checksum(encoded):
    length = struct.pack("<Q", len(encoded))
    digits = b"%08x" % zlib.crc32(length + encoded)
    return length + encoded.replace(b"00000000", digits, 1)


def foreign(encoded, elements=b""):
    encoded = encoded if isinstance(encoded, bytes) else json.dumps(encoded).encode()
    return struct.pack("<Q", len(encoded)) + encoded + elements


def one_array(path, node):
    """A file of the object `x`, in whose JSON `{"array": "a"}` stands for eight bytes."""
    structure = structure_of(x=node) if not isinstance(node, str) else node
    if path.suffix == ".npz":
        path.write_bytes(zip_of(structure, {"a.npy": npy(header_of(), bytes(8))}))
    else:
        entry = {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}
        path.write_bytes(tensors_of(structure, {"a": entry}, bytes(8)))


# Little for little -----------------------------------------------------------

ARRAY = {"array": "a"}
LONG_TEXT = structure_of(x=0)[:-2] + " " * (8 * MIB) + "}}"
BIG = npy(header_of(shape="(1000000,)"), bytes(8_000_000))
HASH = sys.hash_info.modulus


def one_member(header, elements=b"", **options):
    return zip_of(structure_of(x=ARRAY), {"a.npy": npy(header, elements)}, **options)


def overlapping():
    """A directory that leads to one member's bytes under a thousand names."""
    count, sizes = 1000, (zlib.crc32(BIG), len(BIG), len(BIG), 9)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, *sizes, 0)
    nodes = [{"array": f"{i:05x}"} for i in range(count)]
    content = zip_of(structure_of(x=nodes))
    begin = content.index(b"PK\1\2")
    size = content.index(b"PK\5\6") - begin
    directory = content[begin : begin + size]
    for i in range(count):
        record = struct.pack(
            "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, *sizes, 0, 0, 0, 0, 0, begin
        )
        directory += record + f"{i:05x}.npy".encode()
    made = content[:begin] + local + b"00000.npy" + BIG
    end = struct.pack(
        "<4s4H2IH", b"PK\5\6", 0, 0, count + 1, count + 1, len(directory), len(made), 0
    )
    return made + directory + end


BOMBS = {
    "header that is a long expression": (
        ".npz",
        lambda: one_member("1 or " * 1_000_000 + "1", compress=True),
        r"the member 'a\.npy' of 5000013 bytes has a header of 5000001; at most 131072",
    ),
    "header of many operators": (".npz", lambda: one_member("-" * 50_000 + "1"), "not as NumPy writes it"),
    "header of many brackets": (
        ".npz",
        lambda: one_member(header_of("(" * 60_000 + ")" * 60_000)),
        "the dtype in its header is not as NumPy",
    ),
    "header longer than the file": (
        ".npz",
        lambda: zip_of(structure_of(x=ARRAY), {"a.npy": npy("{", length=2**32 - 1)}),
        "has a header of 4294967295",
    ),
    "headers that unpack": (
        ".npz",
        lambda: zip_of(
            structure_of(x=[{"array": str(i)} for i in range(60)]),
            {
                f"{i}.npy": npy(header_of(repr([(f"{k:x}", "|u1") for k in range(5000)]), "(0,)"))
                for i in range(60)
            },
            compress=True,
        ),
        "its text unpacks to over 1048576 bytes more than the file has: unpack it, and pack it without",
    ),
    "text that unpacks": (".npz", lambda: zip_of(LONG_TEXT, compress=True), "its text unpacks to over 1048576"),
    "elements that unpack": (
        ".npz",
        lambda: one_member(header_of(shape="(9000000,)"), bytes(72_000_000), compress=True),
        "its members unpack to 720001.* bytes, over 67108864 more than the file's .*: unpack it, and",
    ),
    "one array under many names": (".npz", overlapping, r"'0000[01]\.npy' overlaps the next one"),
    "one array named often": (
        ".npz",
        lambda: zip_of(structure_of(x=[ARRAY] * 1000), {"a.npy": BIG}),
        r"cyoptim\.json names the array 'a' twice",
    ),
    "one tensor named often": (
        ".safetensors",
        lambda: tensors_of(
            structure_of(x=[ARRAY] * 1000),
            {"a": {"dtype": "U8", "shape": [8_000_000], "data_offsets": [0, 8_000_000]}},
            bytes(8_000_000),
        ),
        r"cyoptim\.json names the array 'a' twice",
    ),
    "elements without bytes": (
        ".npz",
        lambda: one_member(header_of("'|V0'", "(1099511627776,)")),
        "over 1000000 elements without a byte",
    ),
    "strings without letters": (
        ".npz",
        lambda: one_member(header_of("'<U0'", "(1099511627776,)")),
        "over 1000000 elements without a byte",
    ),
    "shape that overflows": (
        ".npz",
        lambda: one_member(header_of(shape="(4294967296, 4294967296, 0)")),
        "cannot be read: array is too big",
    ),
    "tensor's shape that overflows": (
        ".safetensors",
        lambda: foreign({"a": {"dtype": "U8", "shape": [2**62, 4, 0], "data_offsets": [0, 0]}}),
        "too big|Maximum allowed",
    ),
    "many axes": (".npz", lambda: one_member(header_of(shape="(" + "1, " * 64 + "1)"), bytes(8)), "not as NumPy writes it"),
    "tensor of many axes": (
        ".safetensors",
        lambda: foreign({"a": {"dtype": "U8", "shape": [2**62] * 100_000, "data_offsets": [0, 0]}}),
        "has as shape a list of length 100000, expected up to 64 numbers",
    ),
    "tensors' header longer than the file": (
        ".safetensors",
        lambda: struct.pack("<Q", 10**8) + b"{",
        "cut short within its header",
    ),
    "tensors' header longer than is read": (
        ".safetensors",
        lambda: struct.pack("<Q", 10**8 + 1) + b"{",
        "not a checkpoint: it begins with",
    ),
    "keys of one hash": (
        ".npz",
        lambda: zip_of(
            structure_of(x={"dict": [[{"int": hex(i * HASH)}, 0] for i in range(16, 20_000)]})
        ),
        r"cyoptim\.json has too many dict keys of one hash",
    ),
    "long number": (
        ".npz",
        lambda: zip_of(structure_of(x=0).replace(": 0", ": " + "1" * 1_000_000)),
        r"cyoptim\.json is no JSON: ValueError: ",
    ),
    "long name": (
        ".safetensors",
        lambda: foreign({"a" * 1_000_000: 3}),
        r"^.{0,300}'aaa.*\.\.\. is described by 3$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BOMBS)
def test_little_time_for_a_file_that_promises_much(tmp_path, case):
    suffix, make, message = BOMBS[case]
    path = tmp_path / f"x{suffix}"
    path.write_bytes(make())
    start = time.process_time()
    with pytest.raises(cyoptim.CheckpointError, match=message):
        cyoptim.load(path)
    assert time.process_time() - start < 10


CHILD = """
import resource, sys
import cyoptim

def peak():  # of this program alone: ru_maxrss begins with that of the one that started it
    with open("/proc/self/status") as status:
        return int(status.read().split("VmHWM:")[1].split()[0])

before = peak()
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
for path in sys.argv[1:]:
    try:
        cyoptim.load(path)
    except Exception as error:
        print(type(error).__name__, str(error).replace(path, "PATH"))
print(peak() - before)
"""


def in_a_child(*paths):
    """What is said of each file, and the kilobytes by which the process grew."""
    command = [sys.executable, "-c", CHILD, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    *said, grown = [line for line in done.stdout.splitlines() if line[:1].isalnum()][
        -len(paths) - 1 :
    ]
    return said, int(grown)


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="kilobytes, and a limit that holds")
def test_the_process_does_not_grow_by_more_than_the_files(tmp_path):
    paths = []
    for number, (suffix, make, _) in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{number}{suffix}")
        paths[-1].write_bytes(make())
    said, grown = in_a_child(*paths)
    assert all(line.startswith("CheckpointError PATH: ") for line in said)
    assert len(said) == len(BOMBS)
    assert 1000 < grown < 120_000


@pytest.mark.parametrize(
    "text", ["[" * 90 + "]" * 90, "[]", "[[]]", '{"dict":{}}', '{"dict":{"":0}}']
)
def test_json_takes_at_most_sixty_bytes_of_memory_for_a_byte(either, text):
    nodes = ",".join([text] * (400_000 // len(text)))
    one_array(either, structure_of(x=[0]).replace("[0]", f"[{nodes}]"))
    tracemalloc.start()
    try:
        loaded = cyoptim.load(either)["x"]
        assert tracemalloc.get_traced_memory()[1] < 60 * either.stat().st_size
    finally:
        tracemalloc.stop()
    assert len(loaded) == 400_000 // len(text)


def test_bfloat16_takes_three_times_its_bytes(tmp_path):
    path, count = tmp_path / "x.safetensors", 4 * MIB
    path.write_bytes(
        foreign(
            {"a": {"dtype": "BF16", "shape": [count], "data_offsets": [0, 2 * count]}},
            bytes(2 * count),
        )
    )
    tracemalloc.start()
    try:
        cyoptim.load(path)
        assert tracemalloc.get_traced_memory()[1] < 6 * count + MIB
    finally:
        tracemalloc.stop()


def test_a_compressed_file_within_the_limit_is_read(tmp_path):
    path = tmp_path / "x.npz"
    path.write_bytes(one_member(header_of(shape="(8000000,)"), bytes(64_000_000), compress=True))
    assert path.stat().st_size < 100_000
    assert same(cyoptim.load(path)["x"], np.zeros(8_000_000))


# JSON ------------------------------------------------------------------------


def test_what_the_cases_below_are_changed_from_is_right(either):
    one_array(
        either,
        {"dict": [[{"tuple": [1, "a"]}, ARRAY], [{"float": "inf"}, {"int": "-0x" + "f" * 20}]]},
    )
    expected = {(1, "a"): np.zeros(1), float("inf"): 1 - 2**80}
    assert same(cyoptim.load(either)["x"], expected)


NODES = {
    "two tags": ({"tuple": [], "int": "0x1"}, "has 2 tags in one place: 'tuple', 'int'"),
    "no tag": ({}, "has 0 tags in one place"),
    "unknown tag": ({"pickle": "x"}, "unknown tag 'pickle'"),
    "long tag": ({"t" * 9000: "x"}, r"unknown tag 'ttt.{60,80}\.\.\.$"),
    "text as tuple": ({"tuple": "abc"}, "has a str under the tag 'tuple'"),
    "dict as tuple": ({"tuple": {"a": 1}}, "has a dict under the tag 'tuple'"),
    "number as dict": ({"dict": 3}, "has a int under the tag 'dict'"),
    "no pairs": ({"dict": [[1, 2, 3]]}, "must hold pairs under the tag 'dict'"),
    "text as pair": ({"OrderedDict": ["ab"]}, "must hold pairs under the tag 'OrderedDict'"),
    "list as key": ({"dict": [[[], 1]]}, "has a list as a dict key"),
    "array as key": ({"dict": [[ARRAY, 1]]}, "has a dict key of the tag 'array'"),
    "dict as key": ({"dict": [[{"dict": {}}, 1]]}, "has a dict key of the tag 'dict'"),
    "equal keys": ({"dict": [[1, 2], [True, 3]]}, "has equal keys under the tag 'dict'"),
    "equal keys of a Counter": ({"Counter": [[0, 1], [0.0, 1]]}, "equal keys under the tag 'Counter'"),
    "long float": ({"float": "1" * 1_000_000}, "has '111.{70,90} under the tag 'float'"),
    "finite float": ({"float": "1.0"}, "under the tag 'float': 'finite'"),
    "another nan": ({"float": "NaN"}, "under the tag 'float'"),
    "number as float": ({"float": 1.0}, "has a float under the tag 'float'"),
    "small int": ({"int": "0x1"}, "has '0x1' under the tag 'int'"),
    "decimal int": ({"int": "9" * 30}, "under the tag 'int'"),
    "spaced int": ({"int": " 0x" + "f" * 20}, "under the tag 'int'"),
    "underlined int": ({"int": "0x" + "f_f" * 9}, "under the tag 'int'"),
    "no complex": ({"complex": ["1.0"]}, "has a list of length 1 under the tag 'complex'"),
    "complex of numbers": ({"complex": [1.0, 2.0]}, "under the tag 'complex'"),
    "complex of texts": ({"complex": ["1", "2"]}, "under the tag 'complex'"),
    "complex as text": ({"complex": "12"}, "has a str under the tag 'complex'"),
    "no base64": ({"bytes": "?"}, "under the tag 'bytes'"),
    "no ASCII": ({"bytes": "é"}, "under the tag 'bytes'"),
    "number as bytes": ({"np.bytes_": 1}, "has a int under the tag 'np.bytes_'"),
    "number as text": ({"np.str_": 1}, "has a int under the tag 'np.str_'"),
    "number as a name": ({"array": 1}, "has a int under the tag 'array'"),
    "list as a name": ({"tensor": ["a"]}, "has a list under the tag 'tensor'"),
    "missing array": ({"array": "b"}, "'b(.npy)?' is missing"),
    "array as scalar": ({"scalar": "a"}, r"has 'a' as a scalar, whose shape is \(1,\)"),
    "one array twice": ([ARRAY, {"tensor": "a"}], "names the array 'a' twice"),
    "long number": (2**63, "holds a number of over 64 bits in decimal"),
    "a hundred levels": (json.loads("[" * 101 + "]" * 101), "is over 100 levels deep"),
}  # fmt: skip


@pytest.mark.parametrize("case", NODES)
def test_what_the_json_may_not_hold(either, case):
    node, message = NODES[case]
    one_array(either, node)
    x = np.full(1, 7.0)
    with pytest.raises(cyoptim.CheckpointError, match=message):
        cyoptim.load(either, x=x)
    assert x[0] == 7


RIGHT = structure_of(x=0)
TEXTS = {
    "no object": ("[]", "says neither format nor version"),
    "no version": ('{"format": "cyoptim checkpoint"}', "says neither format nor version"),
    "list of objects": (RIGHT.replace('{"x": 0}', "[]"), "must hold objects by name"),
    "more than objects": (RIGHT[:-1] + ', "more": 1}', "must hold objects by name, and nothing else"),
    "no objects": (RIGHT.replace("objects", "subject"), "must hold objects by name"),
    "key twice": (RIGHT.replace('"x": 0', '"x": 0, "y": 0, "x": 0'), "has the key 'x' twice"),
    "tag twice": (RIGHT.replace(": 0", ': {"int": "0x1", "int": "0x2"}'), "has the key 'int' twice"),
    "NaN": (RIGHT.replace(": 0", ": NaN"), "holds the number NaN, which is no JSON"),
    "Infinity": (RIGHT.replace(": 0", ": [-Infinity]"), "holds the number -Infinity"),
    "number too great": (RIGHT.replace(": 0", ": 1e999"), "holds a number too large for a float"),
    "deep": (RIGHT.replace(": 0", ": " + "[" * 100_000), "is nested too deeply"),
    "deep and whole": (RIGHT.replace(": 0", ": " + "[" * 600 + "]" * 600), "is over 100 levels|too deeply"),
    "more behind it": (RIGHT + "1", "is no JSON: json.decoder.JSONDecodeError"),
    "mark of UTF-8": ("\ufeff" + RIGHT, "is no JSON"),
    "version of many digits": (RIGHT.replace(": 1,", ": " + "1" * 4000 + ","), "found format version"),
    "long format": (RIGHT.replace("point", "o" * 9000), r"its format is 'cyo.{60,90}\.\.\., expected"),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_not_the_json_of_a_checkpoint(either, case):
    text, message = TEXTS[case]
    one_array(either, text)
    with pytest.raises(cyoptim.CheckpointError, match=message) as caught:
        cyoptim.load(either)
    assert len(str(caught.value)) < 500


def test_a_text_that_is_no_utf8(tmp_path):
    (tmp_path / "x.npz").write_bytes(zip_of(b"\xff\xfe" + RIGHT.encode("utf-16-le")))
    with pytest.raises(cyoptim.CheckpointError, match="is no JSON: UnicodeDecodeError"):
        cyoptim.load(tmp_path / "x.npz")


def test_a_tensor_has_a_dtype_that_torch_has(tmp_path):
    path = tmp_path / "x.npz"
    member = npy(header_of("'<M8[s]'"), bytes(8))
    path.write_bytes(zip_of(structure_of(x={"tensor": "a"}), {"a.npy": member}))
    with pytest.raises(
        cyoptim.CheckpointError, match=r"'a' as a tensor, whose dtype is datetime64"
    ):
        cyoptim.load(path)


def test_keys_of_one_hash_are_not_saved(either):
    keys = [i * HASH for i in range(100)]
    cyoptim.save(either, x=dict.fromkeys(keys[:60], 0))
    assert same(cyoptim.load(either)["x"], dict.fromkeys(keys[:60], 0))
    with pytest.raises(TypeError, match=r"^x\[0\]: cannot save so many dict keys of one hash$"):
        cyoptim.save(either, x=[dict.fromkeys(keys, 0)])


def test_a_key_of_many_levels_is_not_saved(either):
    key = ()
    for _ in range(98):
        key = (key,)
    cyoptim.save(either, x={key: 1})
    assert same(cyoptim.load(either)["x"], {key: 1})
    for _ in range(5000):
        key = (key,)
    with pytest.raises(ValueError, match=r"^x: a dict key is over 100 levels deep$"):
        cyoptim.save(either, x={key: 1})


def test_no_more_text_is_saved_than_is_read(either, monkeypatch):
    monkeypatch.setattr(packing, "LONGEST_JSON", 1000)
    cyoptim.save(either, x="a" * 500)
    with pytest.raises(
        ValueError, match="takes .* bytes, at most 1000 can be saved: keep long lists"
    ):
        cyoptim.save(either, x="a" * 1000)
    assert cyoptim.load(either) == {"x": "a" * 500}


def test_no_more_text_is_read_than_is_saved(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    cyoptim.save(path, x="a" * 1000)
    monkeypatch.setattr(npz, "LONGEST_JSON", 1000)
    with pytest.raises(
        cyoptim.CheckpointError, match=r"cyoptim\.json has .* bytes, at most 1000 are"
    ):
        cyoptim.load(path)


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


# Regular files ---------------------------------------------------------------


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="a limit of memory that holds")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_regular_file_is_not_read(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("zero", "pipe", "socket")]
    paths[0].symlink_to("/dev/zero")
    os.mkfifo(paths[1])  # without a writer: to open it would wait for one
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(paths[2]))
        said, _ = in_a_child(*paths)
    assert said == ["CheckpointError PATH: not a checkpoint: it is no regular file"] * 3


def test_a_folder_is_told(tmp_path):
    with pytest.raises(IsADirectoryError):
        cyoptim.load(tmp_path)


@posix
def test_a_file_that_becomes_a_pipe_before_it_is_opened(tmp_path, monkeypatch):
    path, pipe = tmp_path / "x.npz", tmp_path / "pipe"
    cyoptim.save(path, a=1)
    os.mkfifo(pipe)
    opened = os.open
    monkeypatch.setattr(os, "open", lambda name, *rest: opened(pipe, *rest))
    with pytest.raises(cyoptim.CheckpointError, match="it is no regular file"):
        cyoptim.load(path)


@posix
def test_a_file_that_shrinks_while_it_is_read(either, monkeypatch):
    cyoptim.save(either, a=np.ones(1 << 18), b=1)
    empty = np.empty

    def shrink(*args):
        os.truncate(either, 1 << 18)
        return empty(*args)

    monkeypatch.setattr(np, "empty", shrink)
    with pytest.raises(cyoptim.CheckpointError, match="damaged"):
        cyoptim.load(either)


@posix
def test_a_pipe_that_is_named_like_a_temporary_is_left_alone(tmp_path):
    pipe = tmp_path / ".cyoptim-0123456789abcdef.tmp"
    os.mkfifo(pipe)
    cyoptim.save(tmp_path / "x.npz", a=1)
    assert pipe.exists()


# A series --------------------------------------------------------------------


@posix
def test_a_series_has_regular_files_alone(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path, keep=1)
    names = [f"checkpoint-{number:08}.npz" for number in range(5, 9)]
    (tmp_path / names[0]).mkdir()
    os.mkfifo(tmp_path / names[1])
    (tmp_path / names[2]).symlink_to(names[2])  # a loop
    (tmp_path / names[3]).symlink_to("missing")
    digits = "9" * 200
    (tmp_path / f"checkpoint-{digits}.npz").touch()
    assert (checkpoints.latest(), checkpoints.steps()) == (None, [])
    checkpoints.save(1, a=1)
    checkpoints.save(2, a=2)
    assert checkpoints.load() == {"a": 2}
    assert checkpoints.steps() == [2]
    assert len(os.listdir(tmp_path)) == 6


def test_steps_of_more_digits_than_a_name_holds(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    checkpoints.save(10**18 - 1, a=1)
    assert checkpoints.steps() == [10**18 - 1]
    for step in (10**18, 10**5000):
        with pytest.raises(ValueError, match="step must have at most 18 digits"):
            checkpoints.save(step, a=1)
    with pytest.raises(FileNotFoundError, match="no checkpoint of step a long int"):
        checkpoints.load(step=10**5000)


@posix
def test_a_folder_that_cannot_be_looked_into_is_no_empty_series(tmp_path, monkeypatch):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    checkpoints.save(1, a=1)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", refuse)
        with pytest.raises(PermissionError):
            checkpoints.latest()


# Random generators -----------------------------------------------------------

KINDS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")


def generator(kind, seed=0):
    return np.random.Generator(getattr(np.random, kind)(seed))


def put(state, place, value):
    *outer, last = place
    for key in outer:
        state = state[key]
    state[last] = value


NUMBERS = {
    ("MT19937", "state", "pos"): 624,
    ("Philox", "buffer_pos"): 4,
    ("Philox", "has_uint32"): 1,
    ("Philox", "uinteger"): 2**32 - 1,
    ("SFC64", "has_uint32"): 1,
    ("SFC64", "uinteger"): 2**32 - 1,
    ("PCG64", "has_uint32"): 1,
    ("PCG64", "uinteger"): 2**32 - 1,
    ("PCG64", "state", "state"): 2**128 - 1,
    ("PCG64", "state", "inc"): 2**128 - 1,
    ("PCG64DXSM", "state", "state"): 2**128 - 1,
    ("PCG64DXSM", "state", "inc"): 2**128 - 1,
}


@pytest.mark.parametrize(
    ("kind", "place", "greatest"), [(k[0], k[1:], v) for k, v in NUMBERS.items()]
)
def test_numbers_of_a_random_state_out_of_range(either, kind, place, greatest):
    rng, state = generator(kind, 1), generator(kind).bit_generator.state
    before = repr(rng.bit_generator.state)
    bad = [-1, -(2**30), greatest + 1, greatest + 2**30, 2**64, 10**5000, True, 0.0, None, "0", [0]]
    for value in [*bad, np.zeros(1, np.int64)]:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= greatest:
            continue
        put(state, place, value)
        cyoptim.save(either, rng=state)
        with pytest.raises(ValueError, match="rng refuses the saved state: state") as caught:
            cyoptim.load(either, rng=rng)
        assert f"['{place[-1]}']" in str(caught.value)
    assert repr(rng.bit_generator.state) == before


@pytest.mark.parametrize(
    ("kind", "place", "greatest"), [(k[0], k[1:], v) for k, v in NUMBERS.items()]
)
def test_numbers_of_a_random_state_at_the_ends_of_their_range(either, kind, place, greatest):
    least = 1 if place[-1] == "inc" else 0
    for value in (least, greatest, np.int64(1)):
        theirs, ours = generator(kind), generator(kind, 1)
        state = theirs.bit_generator.state
        put(state, place, int(value))
        theirs.bit_generator.state = state
        put(state, place, value)
        cyoptim.save(either, rng=state)
        cyoptim.load(either, rng=ours)
        assert (
            ours.integers(2**31, size=3, dtype=np.int32).tolist()
            == theirs.integers(2**31, size=3, dtype=np.int32).tolist()
        )
        assert ours.random(700).tolist() == theirs.random(700).tolist()


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM"])
def test_an_even_increment_is_refused(kind):
    state = generator(kind).bit_generator.state
    state["state"]["inc"] = 2
    with pytest.raises(ValueError, match=r"^state\['state'\]\['inc'\] must be odd$"):
        checked_state(generator(kind), state)


ARRAYS = {
    ("MT19937", "state", "key"): (624, "u4"),
    ("Philox", "state", "counter"): (4, "u8"),
    ("Philox", "state", "key"): (2, "u8"),
    ("Philox", "buffer"): (4, "u8"),
    ("SFC64", "state", "state"): (4, "u8"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_of_a_random_state_of_another_form(either, case):
    (kind, *place), (length, dtype) = case, ARRAYS[case]
    rng, state = generator(kind), generator(kind).bit_generator.state
    others = [
        np.zeros(length - 1, dtype),
        np.zeros(length + 1, dtype),
        np.zeros((1, length), dtype),
    ]
    others += [np.zeros(length, code) for code in ("i8", "f8", "u2", "?")]
    for value in (*others, [0] * length, 0, None, "x"):
        put(state, place, value)
        cyoptim.save(either, rng=state)
        with pytest.raises(ValueError, match=r"refuses the saved state: state\["):
            cyoptim.load(either, rng=rng)


@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_a_random_state(kind):
    rng, state = generator(kind), generator(kind).bit_generator.state
    for bad in (
        None,
        [],
        {},
        {**state, "more": 1},
        {**state, "state": 0},
        {**state, "bit_generator": 1},
    ):
        with pytest.raises(ValueError, match="state"):
            checked_state(rng, bad)
    for key in state:
        with pytest.raises(ValueError, match="state|random generator"):
            checked_state(rng, {k: v for k, v in state.items() if k != key})


@pytest.mark.parametrize("kind", KINDS)
def test_a_random_state_is_copied_and_fits(kind):
    rng, other = generator(kind, 5), generator(kind)
    rng.integers(9, dtype=np.int32)
    saved = rng.bit_generator.state
    state = checked_state(other, saved)
    assert repr(other.bit_generator.state) == repr(generator(kind).bit_generator.state)
    other.bit_generator.state = state
    assert other.random(9).tolist() == rng.random(9).tolist()
    assert state is not saved
    assert state["state"] is not saved["state"]
    for key, value in saved["state"].items():
        assert not isinstance(value, np.ndarray) or not np.shares_memory(value, state["state"][key])


def test_arrays_of_the_other_byte_order_fit():
    rng = generator("MT19937")
    saved = rng.bit_generator.state
    saved["state"]["key"] = saved["state"]["key"].astype(">u4")
    state = checked_state(rng, saved)
    assert same(state, generator("MT19937").bit_generator.state)


class Theirs(np.random.PCG64):
    """A generator of another package, with a state of its own form."""

    def __init__(self, seed=0):
        super().__init__(seed)
        self.extra = [np.zeros(3, "f4"), (1, "text")]

    @property
    def state(self):
        return {**super().state, "extra": self.extra}

    @state.setter
    def state(self, value):
        if value["extra"][1][0] == 13:
            raise RuntimeError("no luck")
        np.random.PCG64.state.__set__(self, value)
        self.extra = value["extra"]


@pytest.mark.parametrize(
    "extra",
    [
        [np.zeros(3, "f8"), (1, "text")],
        [np.zeros(4, "f4"), (1, "text")],
        [np.zeros(3, "f4"), [1, "text"]],
        [np.zeros(3, "f4"), (1.0, "text")],
        [np.zeros(3, "f4"), (1, 2)],
        [np.zeros(3, "f4")],
        [np.zeros(3, "f4"), (13, "text")],
    ],
)
def test_a_generator_of_another_package_gets_a_state_of_its_form(either, extra):
    rng, good = np.random.Generator(Theirs()), [np.ones(3, "f4"), (5, "other")]
    state = {**Theirs(1).state, "extra": extra}
    cyoptim.save(either, rng=state)
    with pytest.raises(
        ValueError,
        match=r"refuses the saved state: (state\['extra'\]\[|no luck|state\['extra'\] is)",
    ):
        cyoptim.load(either, rng=rng)
    assert rng.bit_generator.extra[1] == (1, "text")
    cyoptim.save(either, rng={**state, "extra": good})
    cyoptim.load(either, rng=rng)
    assert same(rng.bit_generator.extra, good)
    assert rng.random() == np.random.Generator(np.random.PCG64(1)).random()


# Counts, and errors that are no file's ---------------------------------------


def test_counts_keep_all_their_bits(either):
    counts = [2**53 + 1, 2**63 - 1, -(2**63), 2**64, -(2**100)]
    arrays = [np.array(2**53 + 1), np.array([2**63 - 1, -(2**63)]), np.uint64(2**64 - 1)]
    cyoptim.save(either, counts=counts, arrays=arrays)
    assert same(cyoptim.load(either), {"counts": counts, "arrays": arrays})


@pytest.mark.parametrize(
    "error",
    [
        KeyError("k"),
        AttributeError("a"),
        OverflowError("o"),
        EOFError(),
        zlib.error("z"),
        struct.error("s"),
        RuntimeError("r"),
        NotImplementedError("n"),
        RecursionError("d"),
        UnicodeDecodeError("utf-8", b"", 0, 1, "u"),
    ],
    ids=repr,
)
def test_whatever_a_reader_raises_is_damage(either, monkeypatch, error):
    cyoptim.save(either, a=1)

    def fail(*args):
        raise error

    monkeypatch.setattr(single.Unpacking, "objects", fail)
    with pytest.raises(cyoptim.CheckpointError, match=f"damaged: .*{type(error).__name__}"):
        cyoptim.load(either)
