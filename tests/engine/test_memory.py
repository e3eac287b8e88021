"""Memory safety: what Python can change behind the plan's back is noticed before C reads or writes it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _engine


def alone(code: str) -> None:
    """Run a program in a process of its own, where a crash is a failure and not the end."""
    program = "import numpy as np, cyoptim\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_names_that_are_not_as_many_as_parameters(count: int) -> None:
    params = {"a": np.zeros(2), "b": np.zeros(2)}
    optimizer = cyoptim.SGD(params.items(), lr=1.0)
    optimizer.param_groups[0]["param_names"] = ["a", "b", "c"][:count]
    with pytest.raises(ValueError, match=f"{count} names in 'param_names' for 2 parameters"):
        optimizer.step(grads={"a": np.ones(2)} if count else {"c": np.ones(2)})
    assert not params["a"].any()


def test_a_list_of_gradients_that_shrinks_while_it_is_read() -> None:
    class Shrinking:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            for frame_list in given:
                frame_list.clear()
            return np.ones(2)

    given: list[list[Any]] = []
    params = [cyoptim.Parameter(np.zeros(2)) for _ in range(50)]
    optimizer = cyoptim.SGD(params, lr=1.0)
    grads: list[Any] = [np.ones(2) for _ in params]
    grads[3] = Shrinking()
    given.append(grads)
    optimizer.step(grads=grads)
    assert all((param.data == -1).all() for param in params)


@pytest.mark.parametrize("groups", [None, (), [None], [{}], [{"params": None}], [{"params": ()}]])
def test_groups_that_are_none(groups: Any) -> None:
    optimizer = cyoptim.SGD([np.zeros(2)], lr=1.0)
    optimizer.step(grads=[np.ones(2)])
    optimizer.param_groups = groups
    with pytest.raises((TypeError, ValueError, KeyError, AttributeError)):
        optimizer.step(grads=[np.ones(2)])


@pytest.mark.parametrize("state", [None, 5, [1]])
def test_a_state_that_is_no_dict(state: Any) -> None:
    w = np.zeros(2)
    optimizer = cyoptim.Adam([w])
    optimizer.state[w] = state
    with pytest.raises(TypeError, match="expected a dict"):
        optimizer.step(grads=[np.ones(2)])
    assert not w.any()


# --- sparse gradients ------------------------------------------------------------------------------


class Coo:
    """As SciPy's arrays look from outside."""

    nnz = 2

    def __init__(self, coords: Any, data: Any, shape: Any = (1000,)) -> None:
        self.coords, self.data, self.shape = coords, data, shape

    def tocoo(self) -> Coo:
        return self


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "object", "complex128", "bool", "datetime64[s]"]
)
def test_indices_that_are_no_whole_numbers(dtype: str) -> None:
    w = np.zeros(1000)
    optimizer = cyoptim.SGD([w], lr=1.0)
    indices = np.array([1, 2]).astype(dtype)
    for grad in (Coo((indices,), np.ones(2)), (indices, np.ones(2))):
        with pytest.raises(TypeError, match="expected whole numbers"):
            optimizer.step(grads=[grad])
    assert not w.any()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint32", "int64", "uint64"])
def test_indices_of_every_whole_type(dtype: str) -> None:
    for kind in (Coo, tuple):
        w = np.zeros(1000)
        indices = np.array([1, 2], dtype)
        grad: Any = Coo((indices,), np.ones(2)) if kind is Coo else (indices, np.ones(2))
        cyoptim.SGD([w], lr=1.0).step(grads=[grad])
        assert np.flatnonzero(w).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("coords", "data"),
    [
        ((np.array([2**64 - 1], np.uint64),), np.ones(1)),
        ((np.array([-1]),), np.ones(1)),
        ((np.array([1000]),), np.ones(1)),
        ((np.array([1, 2]),), np.ones(1)),
        ((np.array([1]), np.array([1])), np.ones(1)),
        ((np.array([[1]]),), np.ones(1)),
        ((), np.ones(1)),
    ],
)
def test_indices_out_of_range_or_of_another_form(coords: Any, data: Any) -> None:
    w = np.zeros(1000)
    with pytest.raises((TypeError, ValueError)):
        cyoptim.SGD([w], lr=1.0).step(grads=[Coo(coords, data)])
    assert not w.any()


# --- arrays that change in place -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["array", "Parameter", "object"])
@pytest.mark.parametrize(
    "change", ["w.resize(10, refcheck=False)", "w.resize(9000, refcheck=False)", "w.dtype = 'i8'"]
)
def test_a_parameter_that_is_resized_or_retyped(kind: str, change: str) -> None:
    alone(f"""
        class Holder:
            def __init__(self, data): self.data, self.grad = data, None
        wrap = dict(array=lambda w: w, Parameter=cyoptim.Parameter, object=Holder)[{kind!r}]
        for trial in range(20):
            w = np.full(4000, 5.0)
            p = wrap(w)
            optimizer = cyoptim.SGD([p], lr=1.0)
            optimizer.step(grads=[np.zeros(4000)])
            {change}
            fill = [np.full(300, 7.0) for _ in range(40)]  # takes the memory that was given back
            try:
                optimizer.step(grads=[np.ones(w.shape)])
            except (TypeError, ValueError):
                assert w.dtype != float, "a parameter of another size is a parameter"
            else:
                assert (w[4000:] == -1).all() and (w[:4000] == 4).all()
            assert all((f == 7).all() for f in fill)
    """)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["momentum_buffer", "exp_avg", "step"])
def test_a_state_array_of_the_users_that_is_resized(name: str) -> None:
    alone(f"""
        name = {name!r}
        for trial in range(20):
            w = np.zeros(4000)
            optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.9) if name == "momentum_buffer" else cyoptim.Adam([w])
            optimizer.step(grads=[np.ones(4000)])
            own = np.array(optimizer.state[w][name])
            optimizer.state[w][name] = own
            optimizer.step(grads=[np.ones(4000)])
            own.resize((3,) if own.ndim else (), refcheck=False) if own.ndim else own.__setstate__(
                (1, (0,), own.dtype, False, b""))
            fill = [np.full(300, 7.0) for _ in range(40)]
            before = w.copy()
            try:
                optimizer.step(grads=[np.ones(4000)])
            except (TypeError, ValueError):
                assert (w == before).all()
            assert all((f == 7).all() for f in fill)
    """)


@pytest.mark.slow
def test_a_gradient_that_code_of_another_resizes_while_they_are_gathered() -> None:
    alone("""
        class Resizing:
            def __array__(self, dtype=None, copy=None):
                first.resize(1, refcheck=False)
                return np.ones(4)
        first = np.ones(4000)
        w = [np.zeros(4000), np.zeros(4)]
        try:
            cyoptim.SGD(w, lr=1.0).step(grads=[first, Resizing()])
        except RuntimeError as error:
            assert "changed in size or place" in str(error), error
        else:
            raise AssertionError
        assert not w[0].any() and not w[1].any()
    """)


# --- the engine's own functions ----------------------------------------------------------------------


def vector_step() -> _engine.FactoredStep:
    return _engine.FactoredStep(np.zeros(2), None, (np.zeros(2),), (), np.array(0))


@pytest.mark.parametrize(
    "call",
    [
        lambda: _engine.memory_bounds(None),
        lambda: _engine.is_dense(None),
        lambda: _engine.same_layout_as(np.zeros(1), None),
        lambda: _engine.Arrays(None),
        lambda: _engine.Arrays([None]),
        lambda: _engine.Arrays([np.zeros(3)], [None]),
        lambda: _engine.Arrays([np.zeros(3)], []),
        lambda: _engine.Arrays([np.zeros(3, int)]),
        lambda: _engine.Arrays([np.zeros(6)[::2]]),
        lambda: _engine.Arrays([np.zeros(3)]).apply("adam", (0.0,) * 7),
        lambda: _engine.Arrays([np.zeros(3)]).apply("axpby", (1.0, 1.0)),
        lambda: _engine.Arrays([np.zeros(3)]).apply("none such", ()),
        lambda: _engine.FactoredStep(None, None, (), (), None),
        lambda: _engine.FactoredStep(np.zeros(2), None, (np.zeros(3),), (), np.array(0)),
        lambda: _engine.FactoredStep(np.zeros(2), None, (), (), np.array(0)),
        lambda: _engine.FactoredStep(np.zeros(2), None, (np.zeros(2),) * 7, (), np.array(0)),
        lambda: _engine.FactoredStep(
            np.zeros((2, 2)), None, (np.zeros(2),) * 2, (np.zeros(2),) * 2, np.array(0)
        ),
        lambda: _engine.Commit().factor(
            _engine.FactoredStep.__new__(_engine.FactoredStep), np.zeros(2)
        ),
        lambda: _engine.Commit().factor(vector_step(), np.zeros(2)),  # which has not begun
        lambda: vector_step().__init__(np.zeros(3), None, (np.zeros(3),), (), np.array(0)),  # type: ignore[misc]
        lambda: _engine.TwoLoop([None]),
        lambda: _engine.TwoLoop([np.zeros(3)]).run(None, [], [], [], 1.0),
        lambda: _engine.TwoLoop([np.zeros(3)]).run(np.zeros(3), [None], [None], [1.0], 1.0),
        lambda: _engine.Room(None),
        lambda: _engine.Commit().update(None, {}),
        lambda: _engine.Commit().put([], 0, 1),
        lambda: _engine.Commit().put((1,), 0, 1),
        lambda: _engine.Commit().copy(np.zeros(3), np.zeros(4)),
        lambda: _engine.Commit().copy(np.zeros(3), np.zeros(3, "f4")),
        lambda: _engine.Undo().keep_entries(None),
        lambda: _engine.Averaged(None, None),
    ],
)  # fmt: skip
def test_wrong_arguments_raise(call: Any) -> None:
    with pytest.raises((TypeError, ValueError, IndexError)):
        call()


@pytest.mark.parametrize("rule", ["", "sdg", -1, 99, [], "sgd_momentum ", b"sgd"])
def test_the_name_of_a_rule_is_checked(rule: Any) -> None:
    class Strange(cyoptim.SGD):
        def _rule_of(self, group: Any) -> Any:
            return rule

    w = np.zeros(2)
    with pytest.raises((TypeError, ValueError)):
        Strange([w]).step(grads=[np.ones(2)])
    assert not w.any()
