"""Floating-point modes that a caller may have turned on: each is a context."""

from __future__ import annotations

import ctypes
import platform
import sys
from dataclasses import dataclass, field

import pytest

# Per machine: the size of C's fenv_t, where in it the control register is, and its bits.
_LAYOUTS = {
    "x86_64": (32, 28, {"down": 0x2000, "up": 0x4000, "zero": 0x6000, "flush": 0x8040}),
    "aarch64": (8, 0, {"down": 0x800000, "up": 0x400000, "zero": 0xC00000, "flush": 0x1000000}),
}
_KNOWN = sys.platform == "linux" and platform.machine() in _LAYOUTS
_SIZE, _PLACE, _BITS = _LAYOUTS["x86_64" if not _KNOWN else platform.machine()]
_ALL = _BITS["zero"] | _BITS["flush"]

needs_modes = pytest.mark.skipif(not _KNOWN, reason="the mode's place is known on Linux alone")


def _environment() -> tuple[ctypes.CDLL, ctypes.Array[ctypes.c_char]]:
    libm = ctypes.CDLL("libm.so.6")
    place = ctypes.create_string_buffer(_SIZE)
    libm.fegetenv(place)
    return libm, place


def _read() -> int:
    _, place = _environment()
    return int.from_bytes(place.raw[_PLACE : _PLACE + 4], "little")


def _write(mode: int) -> None:
    libm, place = _environment()
    ctypes.memmove(ctypes.addressof(place) + _PLACE, mode.to_bytes(4, "little"), 4)
    libm.fesetenv(place)


@dataclass
class Mode:
    """How results are rounded, and whether denormals are flushed to zero, within the context."""

    bits: int
    before: list[int] = field(default_factory=list)

    def __enter__(self) -> None:
        self.before.append(_read())
        _write(self.before[-1] & ~_ALL | self.bits)

    def __exit__(self, *error: object) -> None:
        _write(self.before.pop())

    def holds(self) -> bool:
        return _read() & _ALL == self.bits


MODES = {
    "nearest": Mode(0),
    "down": Mode(_BITS["down"]),
    "up": Mode(_BITS["up"]),
    "zero": Mode(_BITS["zero"]),
    "flush": Mode(_BITS["flush"]),
    "up and flush": Mode(_BITS["up"] | _BITS["flush"]),
}
