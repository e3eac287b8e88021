"""Files of checkpoints by the formats' own definitions, right or wrong."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib

import pytest

SUFFIXES = (".npz", ".safetensors")
MIB = 1 << 20
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX files and limits")


ARRAY = {"array": "a"}


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


def one_member(header, elements=b"", **options):
    return zip_of(structure_of(x=ARRAY), {"a.npy": npy(header, elements)}, **options)
