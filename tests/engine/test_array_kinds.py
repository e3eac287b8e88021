"""Arrays that are not what they seem: masked arrays, matrices, mapped files, sparse operands."""

from __future__ import annotations

import copy
import inspect
import operator
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.swa_utils import AveragedModel

HIDDEN = np.ma.masked_array([1.0, 99.0, 1.0], mask=[0, 1, 0])


class Updated(cyoptim.Optimizer):
    """Whose update multiplies and raises to powers, which matrices do in a way of their own."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr})
        self.kinds: set[type] = set()

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        average = state.setdefault("average", np.zeros_like(param))
        self.kinds |= {type(param), type(grad), type(average)}
        average += grad**2
        param -= group["lr"] * grad * grad


# --- masked arrays --------------------------------------------------------------------------------


def with_average(value: Any) -> None:
    model = AveragedModel([np.ones(3)], avg_fn=lambda a, c, n: value)
    model.update_parameters([np.ones(3)])
    model.update_parameters([np.ones(3)])


def with_state(name: str) -> Callable[[Any], Any]:
    def step(value: Any) -> None:
        w = np.ones(3)
        optimizer = Updated([w]) if name == "average" else cyoptim.Adam([w])
        optimizer.step(grads=[np.ones(3)])
        optimizer.state[w][name] = value
        optimizer.step(grads=[np.ones(3)])

    return step


def with_loaded_state(value: Any) -> None:
    w = np.ones(3)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.ones(3)])
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["exp_avg"] = value
    optimizer.load_state_dict(state)


PLACES: dict[str, Callable[[Any], Any]] = {
    "parameter": lambda a: cyoptim.SGD([a]),
    "parameter of a group": lambda a: cyoptim.SGD([np.ones(3)]).add_param_group({"params": [a]}),
    "data of a Parameter": lambda a: cyoptim.Parameter(a),
    "gradient of a Parameter": lambda a: cyoptim.Parameter(np.ones(3), grad=a),
    "gradient": lambda a: cyoptim.SGD([np.ones(3)]).step(grads=[a]),
    "gradient by name": lambda a: cyoptim.Adam({"w": np.ones(3)}).step(grads={"w": a}),
    "gradient of update": lambda a: Updated([np.ones(3)]).step(grads=[a]),
    "gradient of a closure": lambda a: cyoptim.SGD([np.ones(3)]).step(lambda: (1.0, [a])),
    "gradient of LBFGS": lambda a: cyoptim.LBFGS([np.ones(3)]).step(lambda: (1.0, [a])),
    "values of a pair": lambda a: cyoptim.SGD([np.ones((3, 1))]).step(
        grads=[(np.arange(3), a[:, None])]
    ),
    "rows of a pair": lambda a: cyoptim.SGD([np.ones((100, 1))]).step(
        grads=[(a.astype(int), np.ones((3, 1)))]
    ),
    "accumulate": lambda a: cyoptim.SGD([np.ones(3)]).accumulate([a]),
    "get_total_norm": lambda a: cyoptim.get_total_norm([a]),
    "clip_grad_norm_": lambda a: cyoptim.clip_grad_norm_([np.ones(3)], 1.0, grads=[a]),
    "clip_grad_value_": lambda a: cyoptim.clip_grad_value_([np.ones(3)], 1.0, grads=[a]),
    "clip_grads_with_norm_": lambda a: cyoptim.clip_grads_with_norm_(
        [np.ones(3)], 1.0, 5.0, grads=[a]
    ),
    "parameters_to_vector": lambda a: cyoptim.parameters_to_vector([a]),
    "vector_to_parameters": lambda a: cyoptim.vector_to_parameters(a, [np.ones(3)]),
    "AveragedModel": lambda a: AveragedModel([a]),
    "update_parameters": lambda a: AveragedModel([np.ones(3)]).update_parameters([a]),
    "new average": with_average,
    "state": with_state("exp_avg"),
    "state of update": with_state("average"),
    "loaded state": with_loaded_state,
}


@pytest.mark.parametrize("place", PLACES)
def test_a_masked_array_is_refused(place: str) -> None:
    PLACES[place](np.ones(3) if place != "rows of a pair" else np.arange(3.0))  # itself no error
    with pytest.raises(TypeError, match=r"masked array, .*\.filled\(0\)"):
        PLACES[place](HIDDEN.copy())


def test_a_refused_masked_gradient_changes_nothing() -> None:
    v, w = np.ones(3), np.ones(3)
    optimizer = cyoptim.SGD([("v", v), ("w", w)], lr=0.1)
    message = r"gradient of parameter 1 \('w'\) of group 0 is a masked array"
    with pytest.raises(TypeError, match=message):
        optimizer.step(grads=[np.ones(3), HIDDEN])
    np.testing.assert_array_equal([v, w], np.ones((2, 3)))
    optimizer.step(grads=[None, HIDDEN.filled(0)])
    np.testing.assert_array_equal(w, [0.9, 1.0, 0.9])


# --- other subclasses -----------------------------------------------------------------------------


def matrix(rows: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(rows)


def test_update_is_given_plain_arrays() -> None:
    w = matrix([[1.0, 2.0], [3.0, 4.0]])
    optimizer = Updated([w])
    optimizer.step(grads=[matrix([[1.0, 2.0], [3.0, 4.0]])])
    np.testing.assert_array_equal(w, [[0.5, 0.0], [-1.5, -4.0]])
    assert optimizer.kinds == {np.ndarray}
    np.testing.assert_array_equal(optimizer.state[w]["average"], [[1, 4], [9, 16]])


@pytest.mark.parametrize("cls", [cyoptim.Muon, cyoptim.Adafactor, cyoptim.LBFGS, cyoptim.SGD])
def test_matrices_are_stepped_as_arrays(cls: Any) -> None:
    start, grad = np.arange(1.0, 5.0).reshape(2, 2), np.array([[1.0, -2.0], [0.5, 3.0]])
    plain, odd = start.copy(), matrix(start)
    for param, gradient in ((plain, grad), (odd, matrix(grad))):
        optimizer = cls([param])
        for _ in range(3):
            optimizer.step(lambda g=gradient: (1.0, [g]))
    np.testing.assert_array_equal(odd, plain)


def test_a_vector_of_matrices() -> None:
    vector = cyoptim.parameters_to_vector([matrix([[1.0, 2.0]]), np.array([3.0])])
    assert type(vector) is np.ndarray
    np.testing.assert_array_equal(vector, [1.0, 2.0, 3.0])
    target = matrix([[0.0, 0.0]])
    cyoptim.vector_to_parameters(np.array([4.0, 5.0]), [target])
    np.testing.assert_array_equal(target, [[4.0, 5.0]])


@pytest.mark.parametrize("cls", [cyoptim.Adam, Updated])
def test_mapped_files_are_used_where_they_are(cls: Any, tmp_path: Path) -> None:
    w = np.memmap(tmp_path / "w", np.float64, "w+", shape=(3,))
    g = np.memmap(tmp_path / "g", np.float64, "w+", shape=(3,))
    w[...], g[...] = 1.0, 2.0
    plain = np.ones(3)
    for param, grad in ((w, g), (plain, np.full(3, 2.0))):
        optimizer = cls([param], lr=0.1)
        for _ in range(2):
            optimizer.step(grads=[grad])
    w.flush()
    np.testing.assert_array_equal(np.fromfile(tmp_path / "w"), plain)


# --- a Parameter as its array ---------------------------------------------------------------------


def outcome(function: Callable[[], Any]) -> tuple[Any, Any]:
    """The type of a result or an error, and the values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = function()
        except Exception as error:
            return type(error), None
    return type(result), np.asarray(result.toarray() if hasattr(result, "toarray") else result)


OPERATIONS = [
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
]
KINDS = ("csr_array", "csr_matrix", "csc_array", "coo_array", "dok_matrix", "lil_array")


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("kind", [*KINDS, "matrix"])
def test_operators_beside_other_arrays(kind: str, name: str) -> None:
    dense = np.array([[0.0, 1.0], [2.0, 3.0]])
    if kind == "matrix":
        other = matrix(dense)
    else:
        other = getattr(pytest.importorskip("scipy.sparse"), kind)(dense)
    array, operate = np.array([[1.0, 2.0], [0.0, 4.0]]), getattr(operator, name)
    w = cyoptim.Parameter(array.copy())
    for found, expected in (
        (lambda: operate(w, other), lambda: operate(array, other)),
        (lambda: operate(other, w), lambda: operate(other, array)),
    ):
        (kind_found, values), (kind_expected, right) = outcome(found), outcome(expected)
        assert kind_found is kind_expected
        np.testing.assert_array_equal(values, right)
    assert type(w) is cyoptim.Parameter
    np.testing.assert_array_equal(w, array)


def test_in_place_operators_beside_sparse_arrays() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    array = np.array([[1.0, 2.0], [0.0, 4.0]])
    other = sparse.csr_array(np.array([[0.0, 1.0], [2.0, 3.0]]))
    w = same = cyoptim.Parameter(array.copy())
    w += other
    w *= other
    w -= other
    assert w is same
    dense = other.toarray()
    np.testing.assert_array_equal(w, (array + dense) * dense - dense)


class Own:
    """An operand that does all its operators itself."""

    __array_ufunc__ = None

    def __add__(self, other: Any) -> Any:
        return "own", type(other)

    __radd__ = __add__


def test_an_operand_with_operators_of_its_own() -> None:
    w = cyoptim.Parameter(np.ones(2))
    assert w + Own() == ("own", np.ndarray)
    assert (Own() + w)[0] == "own"


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "complex": complex,
    "bool": bool,
    "index": operator.index,
    "len": len,
    "list": list,
    "round": round,
    "format": lambda a: f"{a:.3f}",
    "format as a whole": lambda a: f"{a:>8}",
    "contains": lambda a: 1.5 in a,
    "memoryview": lambda a: memoryview(a).tolist(),
    "interface": lambda a: np.asarray(dict(a.__array_interface__)["shape"]),
    "from_dlpack": np.from_dlpack,
    "asarray": np.asarray,
    "no copy": lambda a: np.asarray(a, copy=False),
    "no copy of another dtype": lambda a: np.asarray(a, dtype="c16", copy=False),
    "another dtype": lambda a: np.asarray(a, dtype="f4"),
    "divmod": lambda a: divmod(a, 2)[1],
    "rdivmod": lambda a: divmod(2, a)[0],
    "abs": abs,
}


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize(
    "array",
    [np.array(1.5), np.array([1.5]), np.array([[1.5, -2.0]]), np.zeros((0, 2)), np.array(1)],
    ids=["0-d", "one element", "matrix", "empty", "whole number"],
)
def test_conversions_are_those_of_the_array(array: np.ndarray, name: str) -> None:
    param = cyoptim.Parameter(array)
    if name in ("no copy", "no copy of another dtype") and np.__version__ < "2":
        pytest.skip("NumPy 1 knows no copy=")
    kind, values = outcome(lambda: CONVERSIONS[name](array))
    found, same = outcome(lambda: CONVERSIONS[name](param))
    assert found is kind
    np.testing.assert_array_equal(same, values)


def test_a_parameter_of_what_has_no_buffer() -> None:
    dates = np.array(["2026-01-01"], "M8[D]")
    np.testing.assert_array_equal(np.asarray(cyoptim.Parameter(dates)), dates)


def test_a_copy_has_memory_of_its_own() -> None:
    p = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    twin = copy.copy(p)
    twin += 1
    twin.grad[...] = 7
    np.testing.assert_array_equal(p, [1, 1])
    np.testing.assert_array_equal(p.grad, [1, 1])
    assert type(twin) is cyoptim.Parameter


class Named(cyoptim.Parameter):
    """With an attribute, and a constructor, of its own."""

    def __init__(self, name: str, size: int) -> None:
        super().__init__(np.zeros(size))
        self.name = name


def test_a_subclass_has_attributes_of_its_own() -> None:
    param = Named("w", 2)
    param.layer = 3
    for twin in (copy.copy(param), copy.deepcopy(param), pickle.loads(pickle.dumps(param))):
        assert (type(twin), twin.name, twin.layer) == (Named, "w", 3)


def test_what_is_shown_of_a_parameter() -> None:
    assert repr(cyoptim.Parameter(np.zeros(2))) == "Parameter([0., 0.])"
    assert repr(cyoptim.Parameter(np.zeros(1, "f4"))) == "Parameter([0.], dtype=float32)"
    assert str(inspect.signature(cyoptim.Parameter)) == "(data, *, grad=None, dtype=None)"
    assert {"data", "grad", "shape", "T", "sum"} <= set(dir(cyoptim.Parameter(np.zeros(2))))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gard", "did you mean 'grad'"),
        ("date", "did you mean 'data'"),
        ("lr", r"param_groups\[0\]\['lr'\]"),
        ("shape", "holds data and grad"),
    ],
)
def test_an_attribute_that_there_is_not_is_refused(name: str, message: str) -> None:
    param = cyoptim.Parameter(np.ones(2))
    with pytest.raises(AttributeError, match=message):
        setattr(param, name, np.ones(2))
