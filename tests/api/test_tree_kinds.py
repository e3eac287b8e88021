"""Trees of dataclasses, classes of attrs and pytrees of JAX, as parameters, gradients and in files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import cyoptim
from cyoptim.swa_utils import AveragedModel


@dataclasses.dataclass
class Dense:
    W: Any
    b: Any = None
    activation: str = dataclasses.field(default="tanh", metadata={"static": True})


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    size: int = dataclasses.field(default=3, metadata={"pytree_node": False})


class Pair(NamedTuple):
    left: Any
    right: Any


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


def of_attrs() -> Any:
    attrs = pytest.importorskip("attrs")

    @attrs.define(frozen=True)
    class Layer:
        W: Any
        name: str = attrs.field(default="layer", metadata={"static": True})

    return [Layer(ones(2)), {"last": Layer((ones(1), Dense(ones(3))))}]


TREES: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "dataclass": (lambda: Dense(ones(2, 3), ones(3)), ["W", "b"]),
    "empty places": (lambda: Dense(ones(2)), ["W"]),
    "frozen": (lambda: Frozen([ones(2), ones(1)]), ["x.0", "x.1"]),
    "nested": (
        lambda: {"net": Frozen([Dense(ones(2), ones(1)), Pair(ones(1), (ones(2),))])},
        ["net.x.0.W", "net.x.0.b", "net.x.1.left", "net.x.1.right.0"],
    ),
    "in a list": (lambda: [Dense(ones(2)), Dense(ones(1), ones(1))], ["0.W", "1.W", "1.b"]),
    "in a tuple": (lambda: (Frozen(ones(2)), ones(1)), ["0.x", "1"]),
    "attrs": (of_attrs, ["0.W", "1.last.W.0", "1.last.W.1.W"]),
}

kinds = pytest.mark.parametrize("kind", TREES)


def leaves(tree: Any) -> list[Any]:
    return [leaf for _, leaf in cyoptim.named_leaves(tree)]


def around(inner: Any) -> Any:
    inner.b = [{"up": inner}]
    return inner


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        (around(Dense(ones(2))), "Dense at 'b.0.up'"),
        ({"net": around(Dense(ones(2)))}, "Dense at 'net.b.0.up'"),
    ],
)
def test_a_tree_that_contains_itself(tree: Any, place: str) -> None:
    for use in (leaves, cyoptim.SGD, cyoptim.param_groups, AveragedModel):
        with pytest.raises(ValueError, match=f"the tree contains itself: the .*{place} is also"):
            use(tree)


def test_a_container_may_be_in_two_places() -> None:
    shared = [ones(2)]
    assert [name for name, _ in cyoptim.named_leaves({"a": shared, "b": [shared]})] == [
        "a.0",
        "b.0.0",
    ]


def halves(tree: Any) -> Any:
    """A tree of the same classes with arrays of 0.5."""
    copy = AveragedModel(tree).module
    for leaf in leaves(copy):
        leaf[...] = 0.5
    return copy


def values(tree: Any) -> list[float]:
    return [float(value) for leaf in leaves(tree) for value in np.ravel(leaf)]


@kinds
@pytest.mark.parametrize("given", ["tree", "group", "groups"])
def test_parameters_and_gradients(kind: str, given: str) -> None:
    make, names = TREES[kind]
    tree = make()
    groups = {"tree": tree, "group": {"params": tree}, "groups": [{"params": tree}]}
    optimizer = cyoptim.SGD(groups[given], lr=1.0)
    assert optimizer.param_groups[0]["param_names"] == names
    assert all(
        a is b for a, b in zip(optimizer.param_groups[0]["params"], leaves(tree), strict=True)
    )
    optimizer.step(grads=halves(tree))
    optimizer.accumulate(halves(tree))
    optimizer.step(max_norm=100.0)
    assert set(values(tree)) == {0.0}
    optimizer.step(lambda: (1.0, halves(tree)))
    optimizer.step(grads={names[-1]: np.full_like(leaves(tree)[-1], 0.5)})
    assert [float(np.ravel(leaf)[0]) for leaf in leaves(tree)] == [-0.5] * (len(names) - 1) + [-1]


@kinds
def test_clipped_and_made_a_vector(kind: str) -> None:
    tree = TREES[kind][0]()
    grads = halves(tree)
    norm = 0.5 * len(values(tree)) ** 0.5
    assert cyoptim.get_total_norm(grads) == pytest.approx(norm)
    assert cyoptim.clip_grad_norm_(tree, norm / 2, grads=grads) == pytest.approx(norm)
    np.testing.assert_allclose(values(grads), 0.25, rtol=1e-5)
    cyoptim.vector_to_parameters(3 * cyoptim.parameters_to_vector(tree), tree)
    assert set(values(tree)) == {3.0}
    decayed, _ = (*cyoptim.param_groups(tree, lr=1.0, no_decay=1), None)[:2]
    assert decayed["params"]


@kinds
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_saved_restored_and_averaged(kind: str, ending: str, tmp_path: Path) -> None:
    tree, path = TREES[kind][0](), tmp_path / f"run.{ending}"
    optimizer, average = cyoptim.Adam(tree), AveragedModel(tree)
    assert type(average.module) is type(tree)
    cyoptim.save(path, net=tree, optimizer=optimizer, average=average)
    optimizer.step(grads=halves(tree))
    average.update_parameters(tree)
    kept = leaves(tree)
    cyoptim.load(path, net=tree, optimizer=optimizer, average=average)
    assert set(values(tree)) == {1.0}
    assert all(a is b for a, b in zip(leaves(tree), kept, strict=True))


def test_a_file_of_other_fields_is_refused(tmp_path: Path) -> None:
    path, tree = tmp_path / "run.npz", Dense(ones(2), ones(1))
    cyoptim.save(path, net={"W": ones(2)}, rest=[ones(1)])
    with pytest.raises(ValueError, match=r"net\['b'\] is missing from the file"):
        cyoptim.load(path, net=tree)
    with pytest.raises(
        ValueError, match="found a list of length 1, expected a Dense with the keys"
    ):
        cyoptim.load(path, rest=tree)
    assert set(values(tree)) == {1.0}


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (Dense(ones(2), ones(1)), "grads has an entry 'b', but the parameters are W"),
        (Dense([ones(2)]), "gradient of parameter 0 ('W') of group 0 is a list"),
        (Frozen(ones(2)), "grads has an entry 'x', but the parameters are W"),
        (Dense(ones(3)), "gradient of parameter 0 ('W') of group 0 has shape (3,), expected (2,)"),
    ],
)
def test_gradients_of_another_structure(grads: Any, message: str) -> None:
    tree = Dense(ones(2))
    with pytest.raises((TypeError, ValueError)) as raised:
        cyoptim.SGD(tree).step(grads=grads)
    assert message in str(raised.value)
    assert set(values(tree)) == {1.0}


@pytest.mark.parametrize(
    ("leaf", "message"),
    [
        (1.0, "is float: parameter 1 ('1.W') of group 0, expected an array"),
        (np.float64(1.0), "is numpy.float64: parameter 1 ('1.W') of group 0"),
        ([1.0, 2.0], "have a list of numbers at '1.W', expected an array"),
        ([[1.0, 2.0], [3.0, 4.0]], "have a list of numbers at '1.W', expected an array"),
        ((1, np.float32(2)), "have a list of numbers at '1.W', expected an array"),
    ],
    ids=str,
)
def test_leaves_that_are_no_arrays(leaf: Any, message: str) -> None:
    for make in (
        lambda: cyoptim.Adam([Dense(ones(2)), Dense(leaf)]),
        lambda: cyoptim.Adam({"params": [Dense(ones(2)), Dense(leaf)]}),
    ):
        with pytest.raises(TypeError) as raised:
            make()
        assert message in str(raised.value)
        assert str(raised.value).endswith("write np.array(...) around it")


@pytest.mark.parametrize("leaf", ["tanh", np.tanh, object()])
def test_fields_that_are_no_parameters(leaf: Any) -> None:
    with pytest.raises(TypeError, match=r"parameter 1 \('b'\) .*mark the field of a dataclass by"):
        cyoptim.Adam(Dense(ones(2), leaf))


@pytest.mark.parametrize("tree", [Dense(None), Frozen([]), {"a": None}, Pair(None, ())])
def test_a_tree_without_parameters(tree: Any) -> None:
    with pytest.raises(ValueError, match=f"a .*{type(tree).__name__} without any parameters"):
        cyoptim.SGD(tree)


def test_an_object_with_data_and_grad_is_a_parameter() -> None:
    @dataclasses.dataclass(eq=False)
    class Box:
        data: np.ndarray
        grad: Any = None

    box = Box(ones(2), ones(2))
    cyoptim.SGD({"box": box}, lr=1.0).step()
    np.testing.assert_array_equal(box.data, 0)


def test_a_module_that_is_a_dataclass_tells_its_parameters_itself() -> None:
    @dataclasses.dataclass
    class Module:
        size: int = 3

        def parameters(self) -> Any:
            return [ones(self.size)]

        named_parameters = parameters

    with pytest.raises(TypeError, match=r"write Adam\(model.parameters\(\)\)"):
        cyoptim.Adam(Module())


def test_a_dict_with_params_stays_as_it_is() -> None:
    variables = {"params": {"dense": {"W": ones(2)}}}
    optimizer = cyoptim.SGD(variables, lr=1.0)
    assert list(variables) == ["params"]
    assert optimizer.param_groups[0]["param_names"] == ["dense.W"]
    optimizer.step(grads={"params": {"dense": {"W": ones(2)}}})
    assert set(values(variables)) == {0.0}
    inner = cyoptim.SGD({"params": {"params": ones(2), "b": ones(1)}}, lr=1.0)
    inner.step(grads={"params": ones(2)})  # that of the parameter with this name
    assert float(inner.param_groups[0]["params"][0][0]) == 0.0


@pytest.mark.slow
def test_jax_is_not_imported() -> None:
    program = (
        "import sys, numpy as np, cyoptim\n"
        "from tests.api.test_tree_kinds import Dense\n"
        "w = np.ones(2)\n"
        "cyoptim.SGD([Dense(w)], lr=1.0).step(grads=[Dense(np.ones(2))])\n"
        "assert not w.any() and not {'jax', 'attr', 'attrs'} & sys.modules.keys() - before\n"
    )
    program = "import sys, pytest, hypothesis; before = {*sys.modules}\n" + program
    subprocess.run([sys.executable, "-c", program], check=True)
