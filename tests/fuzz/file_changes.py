"""Files of checkpoints taken apart, changed, and put together again with checksums that are right."""

from __future__ import annotations

import copy
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np


class Parts:
    """A file as what it is made of: `header` is the text that describes an array in a ``.npz``, and
    its entry in a ``.safetensors``."""

    def __init__(self, content: bytes, suffix: str) -> None:
        self.suffix = suffix
        self.structure: Any = None
        self.headers: dict[str, Any] = {}
        self.elements: dict[str, bytes] = {}
        self.metadata: dict[str, Any] = {}
        (self._take_npz if suffix == ".npz" else self._take_safetensors)(content)

    def _take_npz(self, content: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            for name in file.namelist():
                member = file.read(name)
                if name == "cyoptim.json":
                    self.structure = member.decode("utf-8", "surrogatepass")
                else:
                    end = 10 + int.from_bytes(member[8:10], "little")
                    self.headers[name] = member[10:end].decode("latin-1")
                    self.elements[name] = member[end:]

    def _take_safetensors(self, content: bytes) -> None:
        end = 8 + int.from_bytes(content[:8], "little")
        self.headers = json.loads(content[8:end])
        self.metadata = self.headers.pop("__metadata__")
        self.structure = self.metadata.pop("cyoptim.json")
        for name, entry in self.headers.items():
            begin, last = entry["data_offsets"]
            self.elements[name] = content[end + begin : end + last]


NUMBERS = (0, 1, -1, 2, 4, 5, 255, 623, 624, 625, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63))
JUNK: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "x", "fast", "0x10", 0.5, -1.0, 1e308, float("nan"),
    float("inf"), 2**64, 10**30, [], {}, [[]], [1, 2], {"a": 1}, {"tuple": []}, {"tuple": "abc"},
    {"tuple": [0.5, 2.0]}, {"dict": {}}, {"dict": [[[], 1]]}, {"dict": [[1, 2], [True, 3]]},
    {"dict": [[{"dict": {}}, 1]]}, {"dict": 5}, {"float": "nan"}, {"float": "-inf"},
    {"float": "1" * 5000}, {"float": 1}, {"int": "0x1" + "0" * 40}, {"int": "12"}, {"int": []},
    {"complex": ["1", "2"]}, {"complex": ["1.0"]}, {"complex": ["1.0", "nan"]}, {"bytes": "?"},
    {"bytes": "AA=="}, {"np.str_": 1}, {"np.str_": "fast"}, {"np.bytes_": "A"}, {"array": 1},
    {"array": "missing"}, {"scalar": "dates"}, {"OrderedDict": [["a"]]}, {"Counter": {"a": {}}},
    {"pickle": "x"}, {"int": "1", "float": "1"}, "\ud800", "W" * 300,
)  # fmt: skip
GOOD: tuple[Any, ...] = (
    *NUMBERS, None, True, False, "", "x", "fast", 0.5, -1.0, 1e308, 1e-320, [], [0], [1, 2], [[]],
    {"tuple": []}, {"tuple": [0.5, 2.0]}, {"dict": {}}, {"dict": [[0, {"dict": {}}]]},
    {"float": "nan"}, {"float": "inf"}, {"int": "0x1" + "0" * 40}, {"int": "-0x1" + "0" * 30},
    {"complex": ["1.0", "nan"]}, {"bytes": "AA=="}, {"np.str_": "fast"}, {"Counter": {"a": 1}},
)  # fmt: skip
TAGS = ("array", "scalar", "tensor", "tuple", "dict", "OrderedDict", "Counter", "int", "float",
        "complex", "bytes", "np.str_", "np.bytes_", "pickle")  # fmt: skip


class Mutation:
    """The changes of one case."""

    def __init__(
        self, rng: np.random.Generator, suffix: str, other: Callable[[int], bytes]
    ) -> None:
        self._rng, self._suffix = rng, suffix
        self._other = other  # a valid file of this kind of objects

    def _below(self, most: int) -> int:
        return int(self._rng.integers(most))

    def _chance(self, one_in: int) -> bool:
        return self._below(one_in) == 0

    def _one(self, choices: Any) -> Any:
        return choices[self._below(len(choices))]

    def file(self, content: bytes, parts: Parts) -> bytes:
        way = self._below(10)
        if way < 2:
            return self._bytes(content)
        parts = copy.copy(parts)
        parts.headers, parts.elements = dict(parts.headers), dict(parts.elements)
        parts.metadata = dict(parts.metadata)
        if way < 7:
            parts.structure = self._json(parts.structure)
        if way in (6, 7, 8):
            self._array(parts)
        container = way == 9 or self._chance(20)
        make = self._npz if self._suffix == ".npz" else self._safetensors
        made = make(parts, container)
        return self._bytes(made) if self._chance(50) else made

    def _bytes(self, content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(1 + self._below(4)):
            way, at = self._below(7), self._below(len(changed) + 1)
            length = 1 << self._below(12)
            if way < 3 and at < len(changed):
                changed[at] ^= 1 + self._below(255)
            elif way == 3:
                del changed[at:]
            elif way == 4:
                del changed[at : at + length]
            elif way == 5:
                other = self._other(self._below(3))
                begin = self._below(len(other))
                changed[at : at + self._below(2) * length] = other[begin : begin + length]
            else:
                changed[at:at] = self._rng.bytes(1 + self._below(16))
        return bytes(changed)

    # JSON --------------------------------------------------------------------

    def _json(self, text: str) -> Any:
        structure = json.loads(text)
        for _ in range(1 + self._below(3) // 2):
            self._change_node(structure)
        text = json.dumps(structure, ensure_ascii=False)
        if self._chance(20):
            at = self._below(len(text))
            text = (
                text[:at] + self._one(("NaN", "{", "[" * 1000, '"a":1,', "1e999", "\0")) + text[at:]
            )
        if self._chance(50):
            text = text.replace("{", '{"format":1,', 1)
        return text

    def _change_node(self, structure: Any) -> None:
        places = list(_places(structure))
        holder, key = self._one(places)
        other_holder, other_key = self._one(places)
        node, other = holder[key], copy.deepcopy(other_holder[other_key])
        way = self._below(10)
        if way < 3:
            holder[key] = self._one(JUNK if self._chance(3) else GOOD)
        elif way == 3:
            holder[key] = other
        elif way == 4:
            holder[key], other_holder[other_key] = other, copy.deepcopy(node)
        elif way == 5:
            self._retag(holder, key)
        elif way == 6:
            holder[key] = {self._one(TAGS): node}
        elif way == 7:
            self._lengthen(holder, key, other)
        elif type(node) in (int, float):
            holder[key] = self._number(node)
        elif way == 8:
            for _ in range(1 << self._below(9)):
                node = [node]
            holder[key] = node
        else:
            del holder[key]

    def _retag(self, holder: Any, key: Any) -> None:
        node = holder[key]
        if isinstance(node, dict) and node:
            tag = next(iter(node))
            holder[key] = {self._one(TAGS): node[tag]}
        elif isinstance(holder, dict):
            holder[self._one((*TAGS, "lr", "state", "step"))] = holder.pop(key)

    def _lengthen(self, holder: Any, key: Any, other: Any) -> None:
        if isinstance(holder, list):
            holder.insert(self._below(len(holder) + 1), other)
        else:
            holder[self._one(("x", "array", key, "lr", "1"))] = other

    def _number(self, number: Any) -> Any:
        changes = (
            number + 1,
            -number,
            number * 2,
            number / 3,
            int(number) ^ (1 << self._below(63)),
        )
        return self._one((*changes, *NUMBERS))

    # Arrays ------------------------------------------------------------------

    def _array(self, parts: Parts) -> None:
        for _ in range(1 + self._below(2)):
            names = list(parts.headers)
            if not names:
                return
            name, other = self._one(names), self._one(names)
            way = self._below(8)
            if way < 4:
                change = self._npy_header if self._suffix == ".npz" else self._entry
                parts.headers[name] = change(parts.headers[name])
            elif way == 4:
                parts.headers[name], parts.elements[name] = (
                    parts.headers[other],
                    parts.elements[other],
                )
            elif way == 5:
                parts.headers[name] = parts.headers[other]
            elif way == 6:
                parts.elements[name] = self._bytes(parts.elements[name])
            elif self._chance(2):
                del parts.headers[name], parts.elements[name]
            else:
                name_of_copy = self._one((name + "x", "x.npy", "a/" + name))
                parts.headers[name_of_copy] = parts.headers[name]
                parts.elements[name_of_copy] = parts.elements[name]

    def _npy_header(self, header: str) -> str:
        match = re.match(r".{10}(.*), 'fortran_order': (.*), 'shape': (.*), }", header)
        if match is None:  # it was changed before
            return header
        descr, order, shape = match.groups()
        way = self._below(6)
        if way < 2:
            descr = self._one(DESCRS)
        elif way < 4:
            shape = self._one(SHAPES)
        elif way == 4:
            order = self._one(("True", "False", "1", "None"))
        else:
            at = self._below(len(header))
            insert: str = self._one(("(" * 300, "-" * 9000, "'", "1 or " * 999))
            return header[:at] + insert + header[at:]
        made = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
        return made + " " * (-(len(made) + 11) % 64) + "\n"

    def _entry(self, entry: dict[str, Any]) -> Any:
        entry = copy.deepcopy(entry)
        key = self._one(("dtype", "shape", "shape", "data_offsets"))
        way = self._below(8)
        if way < 3:
            entry["dtype"] = self._one(
                ("F64", "F32", "F16", "BF16", "C64", "I64", "U8", "BOOL", "F8")
            )
        elif way < 5:
            entry["shape"] = self._one(
                ([], [0], [2**63], [0, 2**62], [1] * 70, [1.0], [True], [-1], "2")
            )
        elif way == 5:
            entry[key] = self._one(JUNK)
        elif way == 6 and isinstance(entry.get("shape"), list) and entry["shape"]:
            entry["shape"][self._below(len(entry["shape"]))] = self._one(NUMBERS)
        else:
            entry.pop(key, None)
        return entry

    # Containers --------------------------------------------------------------

    def _npz(self, parts: Parts, change: bool) -> bytes:
        structure = parts.structure.encode("utf-8", "surrogatepass")
        members = [("cyoptim.json", structure)]
        for name, header in parts.headers.items():
            members.append((name, self._npy(header, change) + parts.elements[name]))
        packed = self._chance(10)
        entries = [_entry_of(name, content, packed) for name, content in members]
        if change:
            for _ in range(1 + self._below(3)):
                self._change_entry(entries)
        return self._archive(entries, change)

    def _npy(self, header: str, change: bool) -> bytes:
        encoded = header.encode("utf-8", "replace")
        version, length = 2, len(encoded)
        if change and self._chance(20):
            version = self._one((0, 1, 2, 3, 4, 255))
        if change and self._chance(20):
            length = self._one((0, 1, length - 1, length + 1, 2**17 + 1, 2**32 - 1))
        return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<I", length) + encoded

    def _change_entry(self, entries: list[dict[str, Any]]) -> None:
        entry, other = self._one(entries), self._one(entries)
        way = self._below(6)
        if way == 0:
            entry["name"] = self._one((other["name"], b"", b"a\0b", b"\xff", b"x" * 300))
        elif way == 1:
            entries.insert(self._below(len(entries)), dict(other))
        elif way == 2:
            entry["like"] = other["name"]  # the directory leads to another's bytes
        elif way == 3:
            entry["extra"] = struct.pack("<HHQQQ", 1, self._one((0, 8, 16, 24, 99)), *NUMBERS[8:11])
        else:
            field = self._one(("flags", "method", "crc", "packed", "unpacked", "offset"))
            entry[self._one(("directory", "local"))] = {field: self._field(field)}

    def _field(self, field: str) -> int:
        if field == "flags":
            return 1 << self._below(16)
        if field == "method":
            return int(self._one((0, 8, 12, 14, 93, 99)))
        return int(self._one((0, 1, 1 << self._below(32), 2**32 - 1, self._below(5000))))

    def _archive(self, entries: list[dict[str, Any]], change: bool) -> bytes:
        made = bytearray()
        offsets: dict[bytes, int] = {}
        for entry in entries:
            offsets.setdefault(entry["name"], len(made))
            entry["offset"] = len(made)
            fields = {**entry, **entry["local"]}
            made += struct.pack("<4s5H3I2H", b"PK\3\4", 20, *_fields(fields)) + fields["name"]
            made += fields["content"]
        start = len(made)
        for entry in entries:
            offset = offsets.get(entry["like"], entry["offset"])
            fields = {**entry, "offset": offset, **entry["directory"]}
            name_and_extra = (len(fields["name"]), len(fields["extra"]))
            made += struct.pack(
                "<4s6H3I2H", b"PK\1\2", 20, 20, *_fields(fields)[:-2], *name_and_extra
            )
            made += struct.pack("<3H2I", 0, 0, 0, 0, fields["offset"])
            made += fields["name"] + fields["extra"]
        end = [0, 0, len(entries), len(entries), len(made) - start, start, 0]
        if change and self._chance(3):
            place = self._below(7)
            end[place] = self._one((0, 1, end[place] + 1, end[place] * 2, 65535)) % 65536
        made += struct.pack("<4s4H2IH", b"PK\5\6", *end)
        return bytes(made + self._one((b"", b"x", b"PK\5\6", bytes(99))) if change else made)

    def _safetensors(self, parts: Parts, change: bool) -> bytes:
        header, elements, end = {}, [], 0
        for name, entry in parts.headers.items():
            content = parts.elements[name]
            offsets = [end, end + len(content)]
            if isinstance(entry, dict) and "data_offsets" in entry and not self._chance(50):
                entry = {**entry, "data_offsets": offsets}
            header[name], end = entry, offsets[1]
            elements.append(content)
        # Half a surrogate pair has no place in the header.
        structure = parts.structure.encode("utf-8", "backslashreplace").decode()
        metadata: Any = {
            "cyoptim.checksum": "00000000", **parts.metadata, "cyoptim.json": structure
        }  # fmt: skip
        metadata["cyoptim.checksum"] = "00000000"
        if change:
            metadata = self._metadata(metadata)
        encoded = json.dumps({"__metadata__": metadata, **header}, ensure_ascii=False)
        return self._with_checksum(encoded.encode("utf-8", "replace"), b"".join(elements), change)

    def _metadata(self, metadata: dict[str, Any]) -> Any:
        key = self._one(list(metadata))
        way = self._below(6)
        if way == 0:
            return self._one((None, {}, [], "x", {"format": "pt"}))
        if way == 1:
            del metadata[key]
        elif way < 4:
            names = ("[]", "[1]", '["z"]', '["rng"]', "{", "null", '["params/z"]', '["w"]')
            metadata["cyoptim.complex"] = self._one(names)
        elif way == 4:
            metadata[key] = self._one(JUNK)
        else:
            metadata[self._one(("x", "cyoptim.json", "format"))] = metadata.pop(key)
        return metadata

    def _with_checksum(self, encoded: bytes, elements: bytes, change: bool) -> bytes:
        number = len(encoded)
        if change and self._chance(5):
            number = self._one((0, 1, number - 1, number + 1, 10**8, 2**63, 2**64 - 1))
        length = struct.pack("<Q", number)
        at = encoded.find(b"00000000")
        digits = b"%08x" % zlib.crc32(encoded, zlib.crc32(length))
        if at >= 0:
            encoded = encoded[:at] + digits + encoded[at + 8 :]
        return length + encoded + elements


DESCRS = (
    "'<f8'", "'<f4'", "'>f8'", "'|O'", "'<U0'", "'|V0'", "'|S0'", "'<f2'", "'<c16'", "'<m8[s]'",
    "'a5'", "'f4,f4'", "'(99999,)f8'", "'<U999999999'", "'|V2147483647'", "[]", "()", "1", "None",
    "[('a', '<f8')]", "[('a', '<f8'), ('a', '<f8')]", "[('a', '<f8', (3,))]", "[('a', '|O')]",
    "[('a', '<f4', 1)]", "('<f8', (2,))", "{'names': ['a'], 'formats': ['f8']}", "[('', '<f8')]",
    "[('a', '<f8', (" + "9999999, " * 9 + "))]", "[(('t', 'n'), '<f8')]", "'\\d'", "'x' * 9",
    "[" * 40 + "]" * 40, "'<i8'", "'<u4'", "'|b1'", "'<f16'",
)  # fmt: skip
SHAPES = (
    "()", "(0,)", "(1,)", "(4,)", "(6,)", "(3, 2)", "(2, 3)", "(1, 6)", "(-1,)", "(True,)", "(1.0,)",
    "(4611686018427387904,)", "(0, 4611686018427387904)", "(9999999999999999999999999,)", "[4]",
    "4", "(" + "1, " * 65 + "1)", "(" + "1, " * 32 + "1)", "(4, )", "( 4,)", "(04,)", "(4)",
)  # fmt: skip


def _places(node: Any) -> Any:
    """Every place in parsed JSON: what holds it, and the key or index."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], (dict, list)):
            yield from _places(node[key])


def _entry_of(name: str, content: bytes, packed: bool) -> dict[str, Any]:
    compressed = content
    if packed:
        compressor = zlib.compressobj(1, zlib.DEFLATED, -15)
        compressed = compressor.compress(content) + compressor.flush()
    return {
        "name": name.encode(), "flags": 0x800, "method": 8 if packed else 0, "local": {},
        "crc": zlib.crc32(content), "packed": len(compressed), "unpacked": len(content),
        "content": compressed, "extra": b"", "like": None, "directory": {},
    }  # fmt: skip


def _fields(fields: dict[str, Any]) -> tuple[int, ...]:
    sizes = (fields["crc"], fields["packed"], fields["unpacked"])
    return (fields["flags"], fields["method"], 0, 0, *sizes, len(fields["name"]), 0)
