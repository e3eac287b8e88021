"""Files that somebody made to do harm: they are refused in little time and memory."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import npz, packing, single
from tests.support.hostile_files import (
    ARRAY,
    MIB,
    SUFFIXES,
    foreign,
    header_of,
    npy,
    one_array,
    one_member,
    posix,
    structure_of,
    tensors_of,
    zip_of,
)
from tests.support.saved_objects import same

# Little for little -----------------------------------------------------------

LONG_TEXT = structure_of(x=0)[:-2] + " " * (8 * MIB) + "}}"
BIG = npy(header_of(shape="(1000000,)"), bytes(8_000_000))
HASH = sys.hash_info.modulus


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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.thread_unsafe(reason="tracemalloc counts all threads")
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


@pytest.mark.slow
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


# Regular files ---------------------------------------------------------------


@pytest.mark.slow
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
