"""Objects to JSON and named arrays, and back: the same for every format of file.

In the JSON, ``null``, booleans, strings, finite floats, small integers and lists stand for
themselves; everything else is an object of one key, a tag:
``{"array": "optimizer/state/0/exp_avg"}``, ``{"tuple": [0.9, 0.999]}``.
"""

from __future__ import annotations

import base64
import json
import math
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable
from types import NoneType
from typing import IO, Any

import numpy as np

from cyoptim._checkpoints.places import (
    DICT_TYPES,
    CheckpointError,
    Place,
    has_methods,
    memory,
    show,
    text,
)
from cyoptim._doors import Array, is_tensor, type_name

FORMAT = "cyoptim checkpoint"
VERSION = 1
STRUCTURE = "cyoptim.json"
MAX_DEPTH = 100  # keeps the JSON reader and writer far from Python's recursion limit
CHUNK = 1 << 20

# What a format is ------------------------------------------------------------


class Reader(ABC):
    """An open file of some format."""

    structure: Any  # the parsed JSON
    widened: dict[int, str]  # the dtype in the file, by id of an array that NumPy has wider

    @abstractmethod
    def read(self, name: str) -> Array:
        """A new, writable array."""


class Format(ABC):
    """How a kind of file names arrays and keeps them."""

    @abstractmethod
    def names(self, place: Place) -> list[str]:
        """What to call the array there, the best name first."""

    @abstractmethod
    def folded(self, name: str) -> str:
        """Names that are folded into one would clash."""

    @abstractmethod
    def refusal(self, dtype: np.dtype[Any]) -> str | None:
        """Why arrays of a dtype cannot be kept; None if they can."""

    @abstractmethod
    def write(self, structure: str, arrays: dict[str, Array], file: IO[bytes]) -> None:
        """Write a whole file."""

    @abstractmethod
    def open(self, file: IO[bytes], wanted: tuple[str, ...]) -> Reader:
        """Read the head of a file; `wanted` are the objects that are to be restored."""


# Plain values ----------------------------------------------------------------


def _int_to_json(value: int) -> Any:
    # Beyond 64 bits in hexadecimal: Python refuses to read or write thousands of decimal digits.
    return value if -(2**63) <= value < 2**63 else {"int": hex(value)}


def _float_to_json(value: float) -> Any:
    return value if math.isfinite(value) else {"float": repr(value)}


def _bytes_to_text(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


_KEYS: dict[type, Callable[[Any], Any]] = {
    NoneType: lambda value: value,
    bool: lambda value: value,
    str: lambda value: value,
    int: _int_to_json,
    float: _float_to_json,
}
_TO_JSON: dict[type, Callable[[Any], Any]] = {
    **_KEYS,
    complex: lambda value: {"complex": [repr(value.real), repr(value.imag)]},
    bytes: lambda value: {"bytes": _bytes_to_text(value)},
    # An array, and NumPy's own str(), would drop the zeros at their ends.
    np.str_: lambda value: {"np.str_": str.__str__(value)},
    np.bytes_: lambda value: {"np.bytes_": _bytes_to_text(value)},
}
_FROM_JSON: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "float": float,
    "complex": lambda parts: complex(float(parts[0]), float(parts[1])),
    "bytes": lambda text: base64.b64decode(text, validate=True),
    "np.str_": np.str_,
    "np.bytes_": lambda text: np.bytes_(base64.b64decode(text, validate=True)),
}
_DICTS: dict[str, Callable[[Any], Any]] = {
    "dict": dict,
    "OrderedDict": OrderedDict,
    "Counter": Counter,
}


def is_plain(value: object) -> bool:
    return type(value) in _TO_JSON or isinstance(value, np.generic)


# Objects to JSON and arrays --------------------------------------------------


class Packing:
    """Turns objects into JSON and keeps their arrays by name."""

    def __init__(self, form: Format) -> None:
        self.arrays: dict[str, Array] = {}
        self._format = form
        self._taken: Counter[str] = Counter([form.folded(STRUCTURE)])

    def structure(self, objects: dict[str, object]) -> str:
        nodes = {name: self.pack(value, (name,)) for name, value in objects.items()}
        structure = {"format": FORMAT, "version": VERSION, "objects": nodes}
        return json.dumps(structure, ensure_ascii=False, allow_nan=False)

    def pack(self, value: Any, place: Place) -> Any:
        if len(place) > MAX_DEPTH:
            raise ValueError(
                f"{show(place[:4])}... is over {MAX_DEPTH} levels deep; does it contain itself?"
            )
        if type(value) in _TO_JSON:
            return _TO_JSON[type(value)](value)
        if type(value) in DICT_TYPES:
            return self._pack_dict(value, place)
        if type(value) in (list, tuple):
            items = [self.pack(item, (*place, index)) for index, item in enumerate(value)]
            return items if type(value) is list else {"tuple": items}
        if isinstance(value, np.generic):
            return {"scalar": self._add(np.asarray(value), place)}
        return self._pack_object(value, place)

    def _pack_object(self, value: Any, place: Place) -> Any:
        elements = memory(value, place)
        if elements is not None:
            return {"tensor" if is_tensor(value) else "array": self._add(elements, place)}
        if isinstance(value, np.random.Generator):
            return self.pack(value.bit_generator.state, place)
        if has_methods(value, "state_dict"):
            return self.pack(value.state_dict(), place)
        raise TypeError(f"{show(place)}: cannot save an object of type {type_name(value)}")

    def _pack_dict(self, value: dict[Any, Any], place: Place) -> Any:
        pairs = [
            [_key_to_json(key, place), self.pack(item, (*place, key))]
            for key, item in value.items()
        ]
        if all(type(key) is str for key in value):
            return {type(value).__name__: dict(pairs)}
        return {type(value).__name__: pairs}

    def _add(self, array: Array, place: Place) -> str:
        refusal = self._format.refusal(array.dtype)
        if refusal is not None:
            raise TypeError(f"{show(place)}: cannot save an array of dtype {refusal}")
        name = self._free_name(self._format.names(place))
        self.arrays[name] = array
        return name

    def _free_name(self, wanted: list[str]) -> str:
        folded = self._format.folded
        name = next((name for name in wanted if not self._taken[folded(name)]), wanted[-1])
        while self._taken[folded(name)]:
            self._taken[folded(wanted[-1])] += 1
            name = f"{wanted[-1]}~{self._taken[folded(wanted[-1])]}"
        self._taken[folded(name)] += 1
        return name


def _key_to_json(key: Any, place: Place) -> Any:
    if type(key) in _KEYS:
        return _KEYS[type(key)](key)
    if type(key) is tuple:
        return {"tuple": [_key_to_json(item, place) for item in key]}
    raise TypeError(f"{show(place)}: cannot save a dict key of type {type_name(key)}: {text(key)}")


# JSON and arrays to objects --------------------------------------------------


class Unpacking:
    """The objects of an open file."""

    def __init__(self, reader: Reader) -> None:
        found, version = reader.structure["format"], reader.structure["version"]
        if found != FORMAT:
            raise CheckpointError(f"not a checkpoint: its format is {found!r}, expected {FORMAT!r}")
        if type(version) is not int or not 1 <= version <= VERSION:
            newer = type(version) is int and version > VERSION
            raise CheckpointError(
                f"found format version {version!r}, this version of cyoptim reads up to {VERSION}"
                + ("; a newer cyoptim wrote it" if newer else "")
            )
        self.nodes: dict[str, Any] = dict(reader.structure["objects"].items())
        self.tensors: set[int] = set()  # ids of the arrays that were torch tensors
        self.widened = reader.widened
        self._read = reader.read

    def objects(self) -> dict[str, Any]:
        return {name: self._unpack(node) for name, node in self.nodes.items()}

    def _unpack(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._unpack(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((tag, content),) = node.items()
        if tag in _FROM_JSON:
            return _FROM_JSON[tag](content)
        if tag in _DICTS:
            pairs = content.items() if isinstance(content, dict) else content
            return _DICTS[tag]({self._unpack(key): self._unpack(item) for key, item in pairs})
        if tag == "tuple":
            return tuple(self._unpack(item) for item in content)
        return self._unpack_array(tag, content)

    def _unpack_array(self, tag: str, name: str) -> Any:
        if tag not in ("array", "scalar", "tensor"):
            raise CheckpointError(f"damaged: {STRUCTURE} holds the unknown tag {tag!r}")
        array = self._read(name)
        if tag == "tensor":
            self.tensors.add(id(array))
        return array[()] if tag == "scalar" else array
