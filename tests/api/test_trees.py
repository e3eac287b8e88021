"""Parameters and gradients in nested dicts, lists and tuples."""

from __future__ import annotations

import copy
import re
import types
from collections import OrderedDict
from types import MappingProxyType as View
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cyoptim
from cyoptim import named_leaves


class Dense(NamedTuple):
    W: Any
    b: Any


KEYS = st.one_of(st.text("abW_", min_size=1, max_size=3), st.integers(0, 9))


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.dictionaries(KEYS, inner, max_size=3).filter(
                lambda entries: len(set(map(str, entries))) == len(entries)
            ),
            st.dictionaries(KEYS.map(str), inner, max_size=3).map(OrderedDict),
            st.lists(inner, max_size=3),
            st.lists(inner, max_size=3).map(tuple),
            st.builds(Dense, inner, inner),
        ),
        max_leaves=8,
    )


ARRAYS = st.lists(st.integers(0, 3), max_size=2).map(np.ones)
TREES = nested(ARRAYS | st.none())


def mapped(tree: Any, change: Any) -> Any:
    """The tree with its leaves changed, by code other than the package's."""
    if isinstance(tree, dict):
        return type(tree)((key, mapped(value, change)) for key, value in tree.items())
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(value, change) for value in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(mapped(value, change) for value in tree)
    return None if tree is None else change(tree)


def leaves_of(tree: Any) -> list[Any]:
    found: list[Any] = []
    mapped(tree, found.append)
    return found


def is_tree_of_parameters(tree: Any) -> bool:
    if type(tree) in (list, tuple) and not any(
        leaves_of(entry) for entry in tree if not isinstance(entry, np.ndarray)
    ):  # a flat list, with nothing but parameters in it
        return bool(tree) and all(isinstance(entry, np.ndarray) for entry in tree)
    return isinstance(tree, (dict, list, tuple)) and bool(leaves_of(tree))


@pytest.mark.slow
@given(TREES)
def test_leaves_are_the_arrays_themselves_in_order(tree: Any) -> None:
    named = list(named_leaves(tree))
    assert [id(leaf) for _, leaf in named] == list(map(id, leaves_of(tree)))
    assert len({name for name, _ in named}) == len(named)
    for name, leaf in named:
        place = tree
        for key in name.split(".") if name else ():
            if isinstance(place, dict):
                place = place[key] if key in place else place[int(key)]
            else:
                place = getattr(place, key) if hasattr(place, key) else place[int(key)]
        assert place is leaf


@pytest.mark.slow
@given(TREES.filter(is_tree_of_parameters), st.data())
def test_a_step_over_a_tree_is_a_step_over_its_leaves(tree: Any, data: st.DataObject) -> None:
    arrays = leaves_of(tree)
    numbers = iter(range(len(arrays)))
    missing = data.draw(st.sets(st.integers(0, len(arrays) - 1)))
    gradients = [np.full_like(a, i + 1.0) for i, a in enumerate(arrays)]
    expected = [a if i in missing else a - (i + 1.0) for i, a in enumerate(arrays)]

    def gradient(_: Any) -> Any:
        i = next(numbers)
        return None if i in missing else gradients[i]

    optimizer = cyoptim.SGD(tree, lr=1.0)
    params = optimizer.param_groups[0]["params"]
    assert all(a is b for a, b in zip(params, arrays, strict=True))
    addresses = [a.ctypes.data for a in arrays]
    optimizer.step(grads=mapped(tree, gradient))
    for array, value in zip(arrays, expected, strict=True):
        np.testing.assert_array_equal(array, value)
    assert [a.ctypes.data for a in arrays] == addresses


@pytest.mark.slow
@given(TREES.filter(is_tree_of_parameters))
def test_what_is_not_among_the_parameters_is_refused(tree: Any) -> None:
    optimizer = cyoptim.SGD({"net": tree, "scale": np.ones(1)}, lr=1.0)
    before = copy.deepcopy(tree)
    good = mapped(tree, np.ones_like)
    for wrong in (
        {"net": good, "scale": np.ones(1), "other": [np.ones(1)]},
        {"net": np.ones(7), "scale": np.ones(1)},
        {"net": good, "scale": [np.ones(1)]},
        {"nets": good},
    ):
        with pytest.raises((ValueError, TypeError), match="scale|net|other"):
            optimizer.step(grads=wrong)
    for array, value in zip(leaves_of(tree), leaves_of(before), strict=True):
        np.testing.assert_array_equal(array, value)


def network() -> dict[str, Any]:
    return {
        "first": {"W": np.ones((2, 3)), "b": np.ones(3)},
        "rest": [Dense(np.ones((3, 1)), np.ones(1)), np.ones(2)],
    }


NAMES = ["first.W", "first.b", "rest.0.W", "rest.0.b", "rest.1"]


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        (
            {"first": {"V": np.ones(2)}},
            "grads has an entry 'first.V', but the parameters are first.W, first.b, rest.0.W",
        ),
        (
            {"first": np.ones(2)},
            "grads at 'first' is a numpy.ndarray, expected those of first.W, first.b",
        ),
        (
            {"rest": [Dense(np.ones((3, 1)), np.ones(1))]},
            "grads at 'rest' is a list of 1 entries, but there is a parameter at 'rest.1'",
        ),
        (
            {"rest": [None, None, np.ones(2)]},
            "grads has an entry 'rest.2'",
        ),
        (
            {"rest": [(np.ones((3, 1)), np.ones(1)), None]},
            "grads at 'rest.0' is a tuple of 2 entries, but there is a parameter at 'rest.0.W'",
        ),
        (
            {"first": {"b": np.ones(3)}, "first.b": np.ones(3)},
            "grads has two entries for 'first.b'",
        ),
        (
            {"first": {"b": np.ones(4)}},
            "gradient of parameter 1 ('first.b') of group 0 has shape (4,), expected (3,)",
        ),
        ([np.ones(1)], "grads holds 1 gradients, expected 5"),
    ],
)
def test_other_structures_are_refused(grads: Any, message: str) -> None:
    net = network()
    optimizer = cyoptim.Adam(net)
    with pytest.raises(ValueError, match=re.escape(message)):
        optimizer.step(grads=grads)
    assert not optimizer.state
    assert all((array == 1).all() for array in leaves_of(net))


@pytest.mark.parametrize(
    "params",
    [
        lambda net: net,
        lambda net: net.items(),
        lambda net: {"params": net},
        lambda net: [{"params": net, "lr": 1.0}],
        cyoptim.named_leaves,
        lambda net: cyoptim.param_groups(net),
        lambda net: OrderedDict(net),
    ],
    ids=["tree", "items", "group", "groups", "leaves", "rules", "mapping"],
)
def test_ways_to_give_a_tree(params: Any) -> None:
    net = network()
    optimizer = cyoptim.SGD(params(net), lr=1.0)
    assert optimizer.param_groups[0]["param_names"] == NAMES
    optimizer.step(grads=mapped(net, np.ones_like))
    assert all((array == 0).all() for array in leaves_of(net))
    optimizer.step(grads={"rest": None, "first": {"b": np.ones(3)}})
    assert [float(array.max()) for array in leaves_of(net)] == [0, -1, 0, 0, 0]
    optimizer.step(grads={"first.W": np.ones((2, 3))})  # names still do
    optimizer.step(grads=[None, np.ones(3), None, None, None])  # and so does a flat list
    assert [float(array.max()) for array in leaves_of(net)] == [-1, -2, 0, 0, 0]


def test_rules_over_trees() -> None:
    for tree, names in (
        ([{"W": np.ones((2, 2)), "b": np.ones(2)}, [np.ones((2, 1))]], ["0.W", "1.0"]),
        (Dense(np.ones((2, 2)), np.ones(2)), ["W"]),
    ):
        decayed, _ = cyoptim.AdamW(cyoptim.param_groups(tree, no_decay=1)).param_groups
        assert decayed["param_names"] == names


@pytest.mark.parametrize("kind", [list, tuple])
def test_layers_in_a_list(kind: Any) -> None:
    pairs = kind((np.ones((2, 2)), np.ones(2)) for _ in range(2))
    dicts = kind({"W": np.ones(k + 1)} for k in range(2))
    for layers, names in ((pairs, ["0.0", "0.1", "1.0", "1.1"]), (dicts, ["0.W", "1.W"])):
        optimizer = cyoptim.SGD(layers, lr=1.0)
        assert optimizer.param_groups[0]["param_names"] == names
        optimizer.step(grads=mapped(layers, np.ones_like))
        assert all((array == 0).all() for array in leaves_of(layers))
        optimizer.step(grads=[None, mapped(layers[1], np.ones_like)])
        half = len(names) // 2
        assert [a.max() for a in leaves_of(layers)] == [0] * half + [-1] * half
        optimizer.step(grads=[None] * len(layers))


def test_a_flat_list_has_no_names() -> None:
    optimizer = cyoptim.SGD((np.ones(2), np.ones(3)))
    assert "param_names" not in optimizer.param_groups[0]
    with pytest.raises(ValueError, match="the parameters have no names"):
        optimizer.step(grads={"0": np.ones(2)})


def test_a_tuple_at_a_parameter_is_a_sparse_gradient() -> None:
    net = {"table": {"rows": np.ones((4, 2))}, "b": np.ones(1)}
    optimizer = cyoptim.SGD(net, lr=1.0)
    optimizer.step(grads={"table": {"rows": (np.array([2]), np.ones((1, 2)))}, "b": np.ones(1)})
    assert net["table"]["rows"].sum() == 6
    optimizer.step(grads=[(np.array([0]), np.ones((1, 2))), None])
    assert net["table"]["rows"].sum() == 4


def test_groups_of_trees() -> None:
    net = network()
    optimizer = cyoptim.SGD([{"params": {"first": net["first"]}, "lr": 0.5}], lr=1.0)
    optimizer.add_param_group({"params": {"rest": net["rest"]}})
    optimizer.step(grads=mapped(net, np.ones_like))
    assert [array.max() for array in leaves_of(net)] == [0.5, 0.5, 0, 0, 0]


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"a": {"b": np.ones(1)}, "a.b": np.ones(1)}, ValueError, "have the name 'a.b'"),
        ({"a": {"b": 1.0}}, TypeError, "is float: parameter 0 ('a.b') of group 0"),
        (
            {"a": np.ones(1), "lr": 0.1},
            TypeError,
            "have 'lr', a float, which is an option: write it as an argument",
        ),
        ({"a": [np.ones(1, int)]}, TypeError, "parameter 0 ('a.0') of group 0 has dtype int64"),
        ([{"param": [np.ones(1)], "lr": 0.1}], ValueError, "param group 0 has no 'params'"),
    ],
)
def test_trees_that_are_refused(params: Any, error: Any, message: str) -> None:
    with pytest.raises(error) as raised:
        cyoptim.Adam(params)
    assert message in str(raised.value)


def test_a_shared_array_is_stepped_once() -> None:
    w = np.ones(2)
    with pytest.warns(UserWarning, match="duplicate parameters"):
        cyoptim.SGD({"a": w, "b": [w]})


def test_the_fused_step_clips_and_reports_by_path() -> None:
    net = {"a": {"w": np.zeros(1)}, "b": [np.zeros(1)]}
    grads = {"a": {"w": np.array([3.0])}, "b": [np.array([4.0])]}
    optimizer = cyoptim.SGD(net, lr=1.0)
    optimizer.step(grads=grads, max_norm=1.0, zero_grad=True)
    np.testing.assert_allclose([net["a"]["w"][0], net["b"][0][0]], [-0.6, -0.8], rtol=1e-6)
    assert grads["b"][0] == 0
    grads["b"][0][:] = np.nan
    optimizer.step(grads=grads, nonfinite="skip")
    assert optimizer.last_step is not None
    assert optimizer.last_step.nonfinite == ("b.0",)


def test_accumulate_and_closures_take_trees() -> None:
    net = {"a": {"w": np.ones(1)}, "b": [np.ones(1)]}
    optimizer = cyoptim.SGD(net, lr=1.0)
    optimizer.accumulate(mapped(net, np.ones_like))
    optimizer.accumulate({"b": [np.array([3.0])]})
    optimizer.step()
    assert (net["a"]["w"], net["b"][0]) == (0.5, -1.0)
    optimizer = cyoptim.LBFGS(net, line_search_fn="strong_wolfe")
    optimizer.step(
        lambda: (float(net["a"]["w"] @ net["a"]["w"] + net["b"][0] @ net["b"][0]),
                 mapped(net, lambda array: 2 * array))
    )  # fmt: skip
    np.testing.assert_allclose([net["a"]["w"], net["b"][0]], 0, atol=1e-8)


@pytest.mark.parametrize("given", ["tree", "leaves"])
def test_clipping(given: str) -> None:
    net = {"a": {"w": np.zeros(1)}, "b": [np.zeros(1), None]}
    grads = {"a": {"w": np.array([3.0])}, "b": [np.array([4.0]), None]}
    params = net if given == "tree" else list(named_leaves(net))
    assert cyoptim.get_total_norm(grads) == 5
    assert cyoptim.clip_grad_norm_(params, 1.0, grads=grads) == 5
    np.testing.assert_allclose(grads["a"]["w"], 0.6, rtol=1e-6)
    cyoptim.clip_grads_with_norm_(params, 0.5, 1.0, grads=grads)
    np.testing.assert_allclose(grads["b"][0], 0.4, rtol=1e-5)
    cyoptim.clip_grad_value_(params, 0.35, grads=grads)
    assert grads["b"][0] == 0.35
    with pytest.raises(ValueError, match="grads has an entry 'c'"):
        cyoptim.clip_grad_norm_(params, 1.0, grads={"c": np.ones(1)})


def test_parameters_with_gradients_of_their_own() -> None:
    net = {"a": [cyoptim.Parameter(np.zeros(2))]}
    net["a"][0].grad = np.array([3.0, 4.0])
    assert cyoptim.clip_grad_norm_(net, 1.0) == 5
    cyoptim.SGD(net, lr=1.0).step()
    np.testing.assert_allclose(net["a"][0], [-0.6, -0.8], rtol=1e-6)


def test_a_state_continues_in_the_same_tree() -> None:
    net, again = network(), network()
    optimizer = cyoptim.Adam(net)
    optimizer.step(grads=mapped(net, np.ones_like))
    second = cyoptim.Adam(again)
    second.load_state_dict(optimizer.state_dict())
    assert second.param_groups[0]["param_names"] == NAMES
    assert second.state[again["rest"][1]]["step"] == 1


class Foreign:
    """An array of another library: memory that may only be read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.array.flags.writeable = False

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        assert not copy
        return self.array


class Capsule:
    """One that speaks DLPack alone."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("kind", [Foreign, Capsule])
def test_arrays_of_other_libraries(kind: Any) -> None:
    W, b = np.zeros(2), np.zeros(1)
    flat = cyoptim.SGD([W, b], lr=1.0)
    flat.step(grads=[kind(np.ones(2)), kind(np.ones(1))])
    flat.step(grads=[None, kind(np.ones(1))])
    named = cyoptim.SGD({"W": W, "b": b}, lr=1.0)
    named.step(grads={"W": kind(np.ones(2))}, max_norm=100.0)
    nested = cyoptim.SGD({"layer": [W, b]}, lr=1.0)
    nested.step(grads={"layer": [kind(np.ones(2)), np.ones(1)]})
    np.testing.assert_array_equal(W, [-3, -3])
    np.testing.assert_array_equal(b, [-3])
    assert cyoptim.get_total_norm([kind(np.array([3.0, 4.0]))]) == 5


@pytest.mark.parametrize("first", [0, 1])
def test_libraries_may_be_mixed(first: int) -> None:
    params = [np.zeros(2), np.zeros(2), cyoptim.Parameter(np.zeros(2))]
    grads = [np.ones(2), Foreign(np.ones(2)), Capsule(np.ones(2))]
    grads = grads[first:] + grads[:first]
    cyoptim.SGD(params, lr=1.0).step(grads=grads)
    cyoptim.SGD({"a": params[0], "b": params[1:]}, lr=1.0).step(
        grads={"a": grads[0], "b": grads[1:]}
    )
    for param in params:
        np.testing.assert_array_equal(param, [-2, -2])


def test_the_gradient_of_an_object_may_be_that_of_another_library() -> None:
    box = types.SimpleNamespace(data=np.zeros(2), grad=Foreign(np.ones(2)))
    cyoptim.SGD([box], lr=1.0).step()
    np.testing.assert_array_equal(box.data, [-1, -1])


def test_gradients_that_may_only_be_read() -> None:
    optimizer = cyoptim.SGD({"a": [np.zeros(2)]})
    grads = {"a": [Foreign(np.ones(2))]}
    with pytest.raises(ValueError, match="read-only: it cannot be filled with zeros"):
        optimizer.step(grads=grads, zero_grad=True)
    with pytest.raises(ValueError, match="gradient of parameter 0 is read-only"):
        cyoptim.clip_grad_norm_({"a": [np.zeros(2)]}, 1.0, grads=grads)


def test_every_kind_of_mapping_is_a_tree() -> None:
    w = np.ones(2)
    optimizer = cyoptim.SGD(View({"l": View({"w": w})}), lr=1.0)
    assert optimizer.param_groups[0]["param_names"] == ["l.w"]
    optimizer.step(grads=View({"l": View({"w": np.ones(2)})}))
    np.testing.assert_array_equal(w, 0)


@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ([], "grads is a list of 0 entries, but there is a parameter at 'a'"),
        ({"a": []}, "grads at 'a' is a list of 0 entries, but there is a parameter at 'a.0'"),
        ({"a": [None]}, "grads at 'a' is a list of 1 entries, but there is a parameter at 'a.1'"),
    ],
)
def test_a_list_without_the_parameters_places_is_refused(grads: Any, message: str) -> None:
    optimizer = cyoptim.SGD({"a": [np.ones(2), np.ones(1)]}, lr=1.0)
    with pytest.raises(ValueError, match=message):
        optimizer.step(grads=grads)
