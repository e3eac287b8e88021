"""Arrays that a user puts into the state of an optimizer that prepares its updates in Python."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.engine.test_layouts import f_order, strided, unaligned

MAKERS: dict[str, Callable[[Any], Any]] = {
    "Adafactor": cyoptim.Adafactor,
    "AdafactorBigVision": lambda p: cyoptim.AdafactorBigVision(p, min_dim_size_to_factor=2),
    "AdafactorHF": lambda p: cyoptim.AdafactorHF(p, beta1=0.9),
    "CAME": cyoptim.CAME,
    "Muon": cyoptim.Muon,
    "MuonWithAuxAdam": lambda p: cyoptim.MuonWithAuxAdam(
        [{"params": p, "use_muon": True}], variance=True
    ),
    "Adam": cyoptim.Adam,  # whose native rule sets the standard
}


def read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


USABLE: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "another precision": lambda a: a.astype(np.float64),
    "another byte order": lambda a: a.astype(">f4"),
    **{form.__name__: form for form in (f_order, strided, unaligned, read_only)},
}
UNUSABLE: dict[str, Callable[[np.ndarray], Any]] = {
    "integers": lambda a: np.zeros(a.shape, int),
    "complex numbers": lambda a: a.astype(complex),
    "another shape": lambda a: np.zeros((*a.shape, 2), a.dtype),
    "more elements": lambda a: np.zeros((9, *a.shape[1:]), a.dtype),
    "a list": lambda a: a.tolist(),
    "a number": lambda a: 0.0,
}
every_maker = pytest.mark.parametrize("name", MAKERS)


def stepped(name: str) -> tuple[np.ndarray, Any, np.ndarray]:
    """A parameter after a step, its optimizer and the next gradient."""
    w, *grads = np.random.default_rng(0).standard_normal((3, 6, 8)).astype(np.float32)
    optimizer = MAKERS[name]({"W": w})
    optimizer.step(grads=[grads[0]])
    return w, optimizer, grads[1]


@pytest.mark.parametrize("form", USABLE)
@every_maker
def test_another_form_of_the_same_values(name: str, form: str) -> None:
    expected, other, grad = stepped(name)
    other.step(grads=[grad])
    w, optimizer, grad = stepped(name)
    state = optimizer.state[w]
    for key in state.keys() - {"step"}:
        state[key] = USABLE[form](state[key])
    optimizer.step(grads=[grad])
    np.testing.assert_array_equal(w, expected)
    for key, value in other.state[expected].items():
        np.testing.assert_array_equal(state[key], value)
        assert state[key].dtype == value.dtype


@pytest.mark.parametrize("form", UNUSABLE)
@every_maker
def test_what_no_step_can_use_is_refused(name: str, form: str) -> None:
    for key in stepped(name)[1].state_dict()["state"][0].keys() - {"step"}:
        w, optimizer, grad = stepped(name)
        optimizer.state[w][key] = UNUSABLE[form](optimizer.state[w][key])
        before = w.copy(), {k: np.copy(v) for k, v in optimizer.state[w].items()}
        with pytest.raises((ValueError, TypeError)) as error:
            optimizer.step(grads=[grad])
        assert f"state {key!r} of parameter 0 ('W') of group 0 " in str(error.value)
        assert "expected" in str(error.value)
        np.testing.assert_array_equal(w, before[0])
        for k, v in before[1].items():
            np.testing.assert_array_equal(optimizer.state[w][k], v)


@pytest.mark.parametrize("count", [-1, 0.5, "1"])
@pytest.mark.parametrize("name", [name for name in MAKERS if "Muon" not in name])
def test_a_count_that_is_none(name: str, count: Any) -> None:
    w, optimizer, grad = stepped(name)
    optimizer.state[w]["step"] = np.array(count) if count == -1 else count
    with pytest.raises((ValueError, TypeError), match=r"'step' of parameter 0 \('W'\) of group 0"):
        optimizer.step(grads=[grad])


@every_maker
def test_a_parameter_that_is_stepped_twice(name: str) -> None:
    w, *grads = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = MAKERS[name]([w, w])
    optimizer.step(grads=grads[:2])
    key = min(optimizer.state[w].keys() - {"step"})
    optimizer.state[w][key] = np.zeros((9, 9, 9))
    before = w.copy()
    with pytest.raises(ValueError, match=f"state '{key}' of parameter 0 of group 0 has shape"):
        optimizer.step(grads=grads[:2])
    np.testing.assert_array_equal(w, before)


@every_maker
def test_memory_of_another_shape_in_the_parameter(name: str) -> None:
    param = cyoptim.Parameter(np.ones((6, 8)), grad=np.ones((6, 8)))
    optimizer = MAKERS[name]([param])
    optimizer.step()
    param.data, param.grad = np.ones((8, 6)), np.ones((8, 6))
    expected = re.escape("of parameter 0 of group 0 has shape")
    with pytest.raises(ValueError, match=expected):
        optimizer.step()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "Adam"])
def test_an_update_of_unaligned_arrays(name: str) -> None:
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 6, 8))
    params = [lay_out(start) for lay_out in (np.copy, unaligned, f_order)]
    for w, lay_out in zip(params, (np.copy, unaligned, f_order), strict=True):
        optimizer = MAKERS[name]([w])
        optimizer.update(w, lay_out(grad), {}, optimizer.param_groups[0])
        np.testing.assert_array_equal(w, params[0])
    assert (params[0] != start).any()


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "Adam"])
def test_an_update_of_a_read_only_parameter(name: str) -> None:
    w, optimizer, grad = stepped(name)
    for lay_out in (np.copy, f_order):
        other = read_only(lay_out(w)) if lay_out is np.copy else f_order(w)
        other.flags.writeable = False
        with pytest.raises(ValueError, match="read-only|can be written|same shape and dtype"):
            optimizer.update(other, grad, {}, optimizer.param_groups[0])
