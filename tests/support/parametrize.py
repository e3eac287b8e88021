"""Tests ask for optimizers by their traits: `@every_card(TORCH)`, `@every_variant(ELEMENT_WISE)`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.optimizers import cards, label, variants
from tests.support.cards import Wish
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door, TensorDoor
from tests.support.dtypes import COMPLEXES, REALS


def every_card(*wishes: Wish) -> Any:
    """Argument `card`: each optimizer that has these traits."""
    return pytest.mark.parametrize("card", cards(*wishes), ids=str)


def every_variant(*wishes: Wish) -> Any:
    """Arguments `card` and `options`: each of them with each of its options."""
    found = variants(*wishes)
    ids = [f"{card}-{label(options)}" for card, options in found]
    return pytest.mark.parametrize(("card", "options"), found, ids=ids)


def _name(value: Any) -> str:
    return str(value.name if isinstance(value, Door) else value.__name__)


def _door(door: Door) -> Any:
    return pytest.param(door, marks=needs_torch if isinstance(door, TensorDoor) else ())


def _has_torch() -> bool:
    from importlib.util import find_spec

    return find_spec("torch") is not None


needs_torch = pytest.mark.skipif(not _has_torch(), reason="torch is not installed")
# Packages may use what has become deprecated in torch since.
lets_packages_age = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:.* is deprecated:UserWarning"
)
every_numpy_door = pytest.mark.parametrize("door", NUMPY_DOORS, ids=_name)
every_door = pytest.mark.parametrize("door", [*map(_door, ALL_DOORS)], ids=_name)
every_real = pytest.mark.parametrize("dtype", REALS)
every_complex = pytest.mark.parametrize("dtype", COMPLEXES)
