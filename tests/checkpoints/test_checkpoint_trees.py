"""Containers of every kind that an optimizer takes: saved, restored in place, averaged."""

from __future__ import annotations

import collections
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cyoptim
from cyoptim.swa_utils import AveragedModel


class Layer(NamedTuple):
    W: Any
    b: Any


class Twins(tuple[Any, ...]):
    """A tuple of another type."""


class Rows(list[Any]):
    """A list of another type."""


def ones() -> np.ndarray:
    return np.ones(2)


TREES: dict[str, Callable[[], Any]] = {
    "named tuple": lambda: Layer(ones(), ones()),
    "nested": lambda: {"first": Layer(ones(), None), "rest": [Layer(ones(), ones()), ones()]},
    "parameters": lambda: Layer(cyoptim.Parameter(ones()), cyoptim.Parameter(ones())),
    "defaultdict": lambda: collections.defaultdict(dict, W=ones()),
    "OrderedDict": lambda: collections.OrderedDict(W=ones(), b=ones()),
    "mappingproxy": lambda: types.MappingProxyType(
        {"W": ones(), "inner": types.MappingProxyType({"b": ones()})}
    ),
    "UserDict": lambda: collections.UserDict(W=ones()),
    "ChainMap": lambda: collections.ChainMap({"W": ones()}, {"b": ones()}),
    "tuple": lambda: (ones(), [ones()]),
    "other tuple": lambda: Twins([ones(), ones()]),
    "other list": lambda: Rows([ones(), {"W": ones()}]),
}

kinds = pytest.mark.parametrize("kind", TREES)


def leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in cyoptim.named_leaves(tree)]


def fill(tree: Any, value: float) -> None:
    for leaf in leaves(tree):
        leaf[...] = value


def values(tree: Any) -> set[float]:
    return {float(x) for leaf in leaves(tree) for x in leaf}


@kinds
@pytest.mark.parametrize("name", ["params", "weights"])
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_saved_and_restored_in_place(kind: str, name: str, ending: str, tmp_path: Path) -> None:
    tree, path = TREES[kind](), tmp_path / f"run.{ending}"
    optimizer = cyoptim.SGD(tree, lr=0.1, momentum=0.9)
    grads = [ones() for _ in leaves(tree)]
    optimizer.step(grads=grads)
    kept = leaves(tree)
    cyoptim.save(path, **{name: tree}, optimizer=optimizer)
    fill(tree, 7.0)
    cyoptim.load(path, **{name: tree}, optimizer=optimizer)
    assert values(tree) == {0.9}
    assert all(a is b for a, b in zip(leaves(tree), kept, strict=True))
    optimizer.step(grads=grads)


@kinds
def test_averaged(kind: str, tmp_path: Path) -> None:
    tree, path = TREES[kind](), tmp_path / "run.npz"
    average = AveragedModel(tree)
    for value in (1.0, 5.0):
        fill(tree, value)
        average.update_parameters(tree)
    assert values(average.module) == {3.0}
    assert type(average.module) is type(tree)
    cyoptim.save(path, average=average)
    fill(average.module, 0.0)
    cyoptim.load(path, average=average)
    assert values(average.module) == {3.0}


@kinds
def test_made_a_vector_and_clipped(kind: str) -> None:
    tree = TREES[kind]()
    vector = cyoptim.parameters_to_vector(tree)
    assert vector.shape == (2 * len(leaves(tree)),)
    cyoptim.vector_to_parameters(2 * vector, tree)
    assert values(tree) == {2.0}
    grads = [np.full(2, 3.0) for _ in leaves(tree)]
    cyoptim.clip_grad_norm_(tree, 1.0, grads=grads)
    assert cyoptim.get_total_norm(grads) == pytest.approx(1.0, abs=1e-6)


def test_names_are_matched_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    cyoptim.save(path, params=Layer(np.full(2, 1.0), np.full(2, 2.0)))
    loaded = cyoptim.load(path)["params"]
    assert {name: array[0] for name, array in loaded.items()} == {"W": 1.0, "b": 2.0}
    target = {"b": ones(), "W": ones()}
    cyoptim.load(path, params=target)
    assert (target["W"][0], target["b"][0]) == (1.0, 2.0)
    cyoptim.save(path, params=(np.full(2, 3.0), np.full(2, 4.0)))  # without names, by order
    layer = Layer(ones(), ones())
    cyoptim.load(path, params=layer)
    assert (layer.W[0], layer.b[0]) == (3.0, 4.0)


def test_a_tree_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    cyoptim.save(path, params={"W": ones()})
    layer = Layer(np.zeros(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"params\['b'\] is missing from the file"):
        cyoptim.load(path, params=layer)
    cyoptim.save(path, params=ones())
    with pytest.raises(ValueError, match="expected a Layer with the keys 'W', 'b'"):
        cyoptim.load(path, params=layer)
    assert values(layer) == {0.0}


class Holder:
    """Whose state comes back by load_state_dict, which would be given a dict."""

    def state_dict(self) -> dict[str, Any]:
        return {"layer": Layer(ones(), ones())}

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def test_the_types_in_a_state_are_kept_or_refused(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"^holder\['layer'\]: cannot save an object of type .*Layer"
    ):
        cyoptim.save(tmp_path / "run.npz", holder=Holder())
    with pytest.raises(TypeError, match="cannot save an object of type .*Layer"):
        cyoptim.save(tmp_path / "run.npz", params=Layer(ones(), 3))
