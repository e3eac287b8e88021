"""Objects to JSON and named arrays, and back: the same for every format of file.

In the JSON, ``null``, booleans, strings, finite floats, small integers and lists stand for
themselves; everything else is an object of one key, a tag:
``{"array": "optimizer/state/0/exp_avg"}``, ``{"tuple": [0.9, 0.999]}``. If the format lacks the
type of an array, that type is beside its name: ``{"array": ["params/W", "bfloat16"]}``.

Files are untrusted. Each value is accepted only in the form in which it is written; everything else
raises CheckpointError. An array is referenced once, as a file could otherwise demand many copies.
"""

from __future__ import annotations

import base64
import json
import math
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import IO, Any, NamedTuple

import numpy as np

from cyoptim._arrays.containers import entries_of, is_branch, is_record
from cyoptim._arrays.doors import is_tensor, type_name
from cyoptim._checkpoints.dtypes import beyond_numpy, readable
from cyoptim._checkpoints.parts import Fill, Parts, nowhere
from cyoptim._checkpoints.places import (
    DICT_TYPES,
    CheckpointError,
    Place,
    has_methods,
    memory,
    names,
    short,
    show,
    text,
)
from cyoptim._checkpoints.sources import Sources
from cyoptim._types import Array
from cyoptim.swa_utils import AveragedModel

FORMAT = "cyoptim checkpoint"
VERSION = 1
STRUCTURE = "cyoptim.json"
MAX_DEPTH = 100  # keeps the JSON reader and writer far from Python's recursion limit
MOST_EQUAL_HASHES = 64  # more keys with one hash make a dict slow, and never occur by accident
LONGEST_JSON = 100_000_000  # bytes; the limit of other readers for headers of .safetensors
BUFFER_SIZE = 1 << 20

# Formats ---------------------------------------------------------------------


class Share(NamedTuple):
    """Which checksums of elements this process compares, where several read the same file."""

    rank: int = 0
    size: int = 1


class Reader(ABC):
    """An open file of some format."""

    structure: Any  # the parsed JSON
    sources: Sources  # the arrays that are not read yet

    @abstractmethod
    def read(self, name: str, dtype: str | None) -> Array:
        """A new, writable array, or a view that is in `sources`; `dtype` is what the JSON says."""


class Format(ABC):
    """A file format: how it names and stores arrays."""

    @abstractmethod
    def names(self, place: Place) -> list[str]:
        """Possible names of the array at a place, the best first."""

    @abstractmethod
    def folded(self, name: str) -> str:
        """The name in a form in which clashing names are equal."""

    @abstractmethod
    def refusal(self, array: Any) -> str | None:
        """The reason why an array cannot be stored; None if it can."""

    def described(self, name: str, array: Any) -> Any:
        """What the JSON says of an array: its name, and its type if this format lacks that."""
        return name

    @abstractmethod
    def write(
        self, structure: str, arrays: dict[str, Any], file: IO[bytes], fill: Fill = nowhere
    ) -> None:
        """Write a whole file. Arrays that are in parts are gaps in it, until `fill` is called with
        all of them."""

    @abstractmethod
    def open(self, file: IO[bytes], wanted: tuple[str, ...], share: Share) -> Reader:
        """Read the head of a file; `wanted` are the objects to restore."""


# Plain values ----------------------------------------------------------------


def _int_to_json(value: int) -> Any:
    # Beyond 64 bits hexadecimal, as Python refuses to convert thousands of decimal digits.
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
    # An array, and NumPy's own str(), would drop trailing zeros.
    np.str_: lambda value: {"np.str_": str.__str__(value)},
    np.bytes_: lambda value: {"np.bytes_": _bytes_to_text(value)},
}


def _read_int(text: str) -> int:
    value = int(text, 16)
    if hex(value) != text or -(2**63) <= value < 2**63:
        raise ValueError("no int of over 64 bits in hexadecimal")
    return value


def _read_float(text: str) -> float:
    value = float(text[:40])
    if repr(value) != text:
        raise ValueError("no float as Python writes it")
    return value


def _read_not_finite(text: str) -> float:
    if math.isfinite(value := _read_float(text)):
        raise ValueError("finite")
    return value


def _read_complex(parts: list[str]) -> complex:
    real, imag = parts
    return complex(_read_float(real), _read_float(imag))


def _read_bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


# By tag: the type of its content, and the function that makes the value.
_FROM_JSON: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "int": (str, _read_int),
    "float": (str, _read_not_finite),
    "complex": (list, _read_complex),
    "bytes": (str, _read_bytes),
    "np.str_": (str, np.str_),
    "np.bytes_": (str, lambda text: np.bytes_(_read_bytes(text))),
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
    """Converts objects to JSON, and collects their arrays by name.

    `states` are those of objects that have been asked for them before, by the ids of the objects.
    """

    def __init__(self, form: Format, states: Mapping[int, Any] | None = None) -> None:
        self.arrays: dict[str, Any] = {}
        self._format = form
        self._states = states or {}
        self._exact = False  # whether loading must restore the types of containers
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
        if isinstance(value, Parts):
            return {"tensor" if value.is_tensor else "array": self._add(value, place)}
        elements = memory(value, place)
        if elements is not None:
            return {"tensor" if is_tensor(value) else "array": self._add(elements, place)}
        if isinstance(value, np.random.Generator):
            return self.pack(value.bit_generator.state, place)
        if has_methods(value, "state_dict"):
            return self._pack_state(value, place)
        if self._is_tree(value, place):
            return self._pack_tree(value, place)
        raise TypeError(
            f"{show(place)}: cannot save an object of type {type_name(value)}: leave it out, or "
            "give it state_dict() and load_state_dict()"
        )

    def _pack_state(self, value: Any, place: Place) -> Any:
        outer, self._exact = self._exact, not isinstance(value, AveragedModel)
        known = self._states.get(id(value))
        node = self.pack(value.state_dict() if known is None else known, place)
        self._exact = outer
        return node

    def _is_tree(self, value: Any, place: Place) -> bool:
        """Whether a container of a type that is not stored contains only arrays. These are restored
        in place, for any container; but a state would get a container of another type."""
        if self._exact or not is_branch(value) or len(place) > MAX_DEPTH:
            return False
        items = [item for _, item in entries_of(value) if item is not None]
        return bool(items) and all(
            memory(item, place) is not None or self._is_tree(item, (*place, "")) for item in items
        )

    def _pack_tree(self, value: Any, place: Place) -> Any:
        if is_record(value) or isinstance(value, Mapping):
            return self._pack_dict(dict(entries_of(value)), place)
        return self.pack(list(value) if isinstance(value, list) else tuple(value), place)

    def _pack_dict(self, value: dict[Any, Any], place: Place) -> Any:
        if _is_crowded(value):
            raise TypeError(f"{show(place)}: cannot save so many dict keys of one hash")
        pairs = [
            [_key_to_json(key, place, len(place)), self.pack(item, (*place, key))]
            for key, item in value.items()
        ]
        if all(type(key) is str for key in value):
            return {type(value).__name__: dict(pairs)}
        return {type(value).__name__: pairs}

    def _add(self, array: Array | Parts, place: Place) -> Any:
        refusal = self._format.refusal(array)
        if refusal is not None:
            raise TypeError(f"{show(place)}: cannot save an array of {refusal}")
        name = self._free_name(self._format.names(place))
        self.arrays[name] = array
        return self._format.described(name, array)

    def _free_name(self, wanted: list[str]) -> str:
        folded = self._format.folded
        name = next((name for name in wanted if not self._taken[folded(name)]), wanted[-1])
        while self._taken[folded(name)]:
            self._taken[folded(wanted[-1])] += 1
            name = f"{wanted[-1]}~{self._taken[folded(wanted[-1])]}"
        self._taken[folded(name)] += 1
        return name


def _key_to_json(key: Any, place: Place, depth: int) -> Any:
    if type(key) in _KEYS:
        return _KEYS[type(key)](key)
    if depth > MAX_DEPTH:
        raise ValueError(f"{show(place[:4])}: a dict key is over {MAX_DEPTH} levels deep")
    if type(key) is tuple:
        return {"tuple": [_key_to_json(item, place, depth + 1) for item in key]}
    raise TypeError(f"{show(place)}: cannot save a dict key of type {type_name(key)}: {text(key)}")


def _is_crowded(keys: Collection[Any]) -> bool:
    """Whether many keys have one hash, so that a dict would compare them one by one.

    Anybody can predict the hashes of numbers and tuples, but not those of strings.
    """
    if len(keys) <= MOST_EQUAL_HASHES:
        return False
    hashes = Counter(hash(key) for key in keys if type(key) is not str)
    return max(hashes.values(), default=0) > MOST_EQUAL_HASHES


def check_length(encoded: bytes) -> None:
    if len(encoded) > LONGEST_JSON:
        raise ValueError(
            f"all but the elements of the arrays takes {len(encoded)} bytes, at most "
            f"{LONGEST_JSON} can be saved: keep long lists of numbers as arrays"
        )


# JSON and arrays to objects --------------------------------------------------


def read_json(encoded: bytes, what: str, errors: str = "strict") -> Any:
    """Strict JSON: no duplicate keys, no NaN, no infinity."""
    try:
        return json.loads(
            encoded.decode("utf-8", errors),
            object_pairs_hook=_dict_of_pairs,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise CheckpointError(f"damaged: {what} is nested too deeply") from None
    except CheckpointError as error:
        raise CheckpointError(f"damaged: {what} {error}") from None
    except ValueError as error:
        reason = f"{type_name(error)}: {short(str(error))}"
        raise CheckpointError(f"damaged: {what} is no JSON: {reason}") from None


def _dict_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise CheckpointError(f"has the key {short(twice)} twice")
    return made


def _refuse_constant(name: str) -> Any:
    raise CheckpointError(f"holds the number {name}, which is no JSON")


def _damaged(found: str) -> CheckpointError:
    return CheckpointError(f"damaged: {STRUCTURE} {found}")


class Unpacking:
    """The objects of an open file."""

    def __init__(self, reader: Reader) -> None:
        self.nodes: dict[str, Any] = _nodes(reader.structure)
        self.tensors: set[int] = set()  # ids of the arrays that were torch tensors
        self.sources = reader.sources
        self._read = reader.read
        self._named: set[str] = set()

    def objects(self) -> dict[str, Any]:
        return {name: self._unpack(node, 1) for name, node in self.nodes.items()}

    def _unpack(self, node: Any, depth: int) -> Any:
        """`depth` is the length of the place, as in :meth:`Packing.pack`.

        An unpacked value replaces its node at once: both together would take twice the memory.
        """
        if depth > MAX_DEPTH:
            raise _damaged(f"is over {MAX_DEPTH} levels deep")
        if isinstance(node, list):
            return self._unpack_list(node, depth)
        if not isinstance(node, dict):
            return _plain(node)
        tag, content = _tagged(node)
        if tag in _FROM_JSON:
            return _value(tag, content)
        if tag in _DICTS:
            return _DICTS[tag](self._unpack_dict(tag, content, depth))
        if tag == "tuple":
            return tuple(self._unpack_list(_of(list, tag, content), depth))
        if tag in ("array", "scalar", "tensor"):
            return self._unpack_array(tag, *_array_content(tag, content))
        raise _damaged(f"holds the unknown tag {short(tag)}")

    def _unpack_list(self, nodes: list[Any], depth: int) -> list[Any]:
        for index, node in enumerate(nodes):
            nodes[index] = self._unpack(node, depth + 1)
        return nodes

    def _unpack_dict(self, tag: str, content: Any, depth: int) -> dict[Any, Any]:
        if isinstance(content, dict):
            for key, item in content.items():
                content[key] = self._unpack(item, depth + 1)
            return content
        pairs = _of(list, tag, content)
        if not all(type(pair) is list and len(pair) == 2 for pair in pairs):
            raise _damaged(f"must hold pairs under the tag {tag!r}")
        keys = [_key(pair[0], depth) for pair in pairs]
        if _is_crowded(keys):
            raise _damaged("has too many dict keys of one hash")
        made = {
            key: self._unpack(pair[1], depth + 1) for key, pair in zip(keys, pairs, strict=True)
        }
        if len(made) < len(keys):
            raise _damaged(f"has equal keys under the tag {tag!r}")
        return made

    def _unpack_array(self, tag: str, name: str, dtype: str | None) -> Any:
        if name in self._named:
            raise _damaged(f"names the array {short(name)} twice")
        self._named.add(name)
        array = self._read(name, dtype)
        if tag == "tensor":
            return self._tensor(array, name)
        if tag == "scalar" and array.shape != ():
            raise _damaged(f"has {short(name)} as a scalar, whose shape is {array.shape}")
        return readable(array)[()] if tag == "scalar" else array

    def _tensor(self, array: Array, name: str) -> Array:
        is_torchs = array.dtype.kind in "biufc" and array.dtype.char not in "gG"
        if not is_torchs and beyond_numpy(array.dtype) is None:
            raise _damaged(f"has {short(name)} as a tensor, whose dtype is {array.dtype}")
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        self.tensors.add(id(array))
        return array


def _nodes(structure: Any) -> dict[str, Any]:
    """The nodes of the objects of a file, by name; raises for an unknown version."""
    if not isinstance(structure, dict) or not {"format", "version"} <= structure.keys():
        raise _damaged("says neither format nor version")
    found, version = structure["format"], structure["version"]
    if found != FORMAT:
        raise CheckpointError(
            f"not a checkpoint: its format is {short(found)}, expected {FORMAT!r}"
        )
    if type(version) is not int or not 1 <= version <= VERSION:
        newer = type(version) is int and version > VERSION
        raise CheckpointError(
            f"found format version {short(version)}, this version of cyoptim reads up to {VERSION}"
            + ("; a newer cyoptim wrote it" if newer else "")
        )
    nodes = structure.get("objects")
    if not isinstance(nodes, dict) or len(structure) > 3:
        raise _damaged("must hold objects by name, and nothing else")
    return nodes


def _tagged(node: dict[str, Any]) -> tuple[str, Any]:
    if len(node) != 1:
        raise _damaged(f"has {len(node)} tags in one place: {names(node, 4)}")
    ((tag, content),) = node.items()
    return tag, content


def _of(kind: type, tag: str, content: Any) -> Any:
    if type(content) is not kind:
        raise _damaged(f"has a {type_name(content)} under the tag {tag!r}")
    return content


def _array_content(tag: str, content: Any) -> tuple[str, str | None]:
    """The name of an array, and its type if that is said."""
    if type(content) is not list:
        return _of(str, tag, content), None
    if len(content) != 2 or not all(type(part) is str for part in content):
        raise _damaged(f"has a list under the tag {tag!r} that is no name and type")
    return content[0], content[1]


def _plain(node: Any) -> Any:
    if type(node) is float and not math.isfinite(node):
        raise _damaged("holds a number too large for a float")
    if type(node) is int and not -(2**63) <= node < 2**63:
        raise _damaged("holds a number of over 64 bits in decimal")
    return node


def _value(tag: str, content: Any) -> Any:
    kind, read = _FROM_JSON[tag]
    try:
        return read(_of(kind, tag, content))
    except CheckpointError:
        raise
    except (ValueError, TypeError) as error:
        raise _damaged(f"has {short(content)} under the tag {tag!r}: {short(str(error))}") from None


def _key(node: Any, depth: int) -> Any:
    if isinstance(node, list):
        raise _damaged("has a list as a dict key")
    if not isinstance(node, dict):
        return _plain(node)
    tag, content = _tagged(node)
    if tag in ("int", "float"):
        return _value(tag, content)
    if tag != "tuple" or depth > MAX_DEPTH:
        raise _damaged(f"has a dict key of the tag {short(tag)}, or one that is nested too deeply")
    return tuple([_key(item, depth + 1) for item in _of(list, tag, content)])
