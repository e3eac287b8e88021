"""Averages that follow the parameters: exchanged with them, saved, loaded and copied."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.averages import gradients, plain_arrays, same_bits

# --- averaged() ----------------------------------------------------------------------------------


def stepped(decay: float = 0.5) -> tuple[np.ndarray, Any]:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([("w", w)], lr=1.0)
    optimizer.ema(decay)
    for _ in range(2):
        optimizer.step(grads=[np.ones(2)])
    return w, optimizer


def test_inside_averaged_nothing_can_be_stepped_or_saved() -> None:
    w, optimizer = stepped()
    actions = {
        "step": lambda: optimizer.step(grads=[np.ones(2)]),
        "step with more": lambda: optimizer.step(grads=[np.ones(2)], max_norm=1.0),
        "accumulate": lambda: optimizer.accumulate([np.ones(2)]),
        "state_dict": optimizer.state_dict,
        "load_state_dict": lambda: optimizer.load_state_dict({"state": {}, "param_groups": []}),
        "averaged": lambda: optimizer.averaged().__enter__(),
        "ema": lambda: optimizer.ema(0.9),
        "pickle": lambda: pickle.dumps(optimizer),
        "copy": lambda: copy.deepcopy(optimizer),
    }
    with optimizer.averaged():
        for action in actions.values():
            with pytest.raises(RuntimeError, match=r"averaged\(\).* after the block"):
                action()
        np.testing.assert_array_equal(w, -1.5)
    np.testing.assert_array_equal(w, -2)
    optimizer.step(grads=[np.ones(2)])


def test_an_exception_in_the_block_puts_the_parameters_back() -> None:
    w, optimizer = stepped()
    with pytest.raises(ZeroDivisionError), optimizer.averaged():
        raise ZeroDivisionError
    np.testing.assert_array_equal(w, -2)
    np.testing.assert_array_equal(optimizer.ema(0.5)["w"], -1.5)


def test_before_the_first_step_averages_are_the_parameters() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.ema(0.5)
    w[:] = 5
    with optimizer.averaged():
        np.testing.assert_array_equal(w, 5)
    np.testing.assert_array_equal(w, 5)


def test_autograd_learns_of_the_change() -> None:
    torch = pytest.importorskip("torch")
    w = torch.ones(2, requires_grad=True)
    optimizer = cyoptim.SGD([w], lr=0.1)
    optimizer.ema(0.5)
    w.grad = torch.ones(2)
    optimizer.step()
    loss = (w * w).sum()
    with optimizer.averaged():
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- saving, loading, copying ----------------------------------------------------------------------


class Box:
    """A parameter that is unpickled into memory of its own."""

    def __init__(self, values: list[float]) -> None:
        self.data, self.grad = np.array(values), np.ones(len(values))

    def __reduce__(self) -> Any:
        return Box, (self.data.tolist(),)


def test_averages_in_memory_that_may_only_be_read() -> None:
    # As joblib's mmap_mode gives them: to write there would end the process.
    optimizer = cyoptim.SGD([Box([4.0, 2.0])], lr=1.0)
    optimizer.ema(0.5)
    optimizer.step()
    buffers: list[Any] = []
    text = pickle.dumps(optimizer, protocol=5, buffer_callback=buffers.append)
    memory = [buffer.raw().tobytes() for buffer in buffers]
    assert memory == [np.array([3.0, 1.0]).tobytes()]
    other = pickle.loads(text, buffers=memory)
    other.step()
    np.testing.assert_array_equal(next(iter(other.ema(0.5))), [2.5, 0.5])
    assert memory == [np.array([3.0, 1.0]).tobytes()]


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy", "save"])
@pytest.mark.parametrize("ready", [False, True])
def test_a_resumed_run_has_the_same_bits(how: str, ready: bool, rng: Any, tmp_path: Any) -> None:
    params = plain_arrays(rng, [(5,), (3, 4), ()])
    optimizer = cyoptim.Adam(params, lr=0.1)
    optimizer.ema(0.7, warmup=True)
    for _ in range(3):
        optimizer.step(grads=gradients(rng, params))
    if how == "pickle":
        other = pickle.loads(pickle.dumps(optimizer))
    elif how == "deepcopy":
        other = copy.deepcopy(optimizer)
    else:
        arrays = [p.copy() for p in params]
        other = cyoptim.Adam(arrays, lr=0.5)
        if ready:
            other.ema(0.1)
        if how == "state_dict":
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        else:
            cyoptim.save(tmp_path / "run.npz", optimizer=optimizer)
            cyoptim.load(tmp_path / "run.npz", optimizer=other)
    theirs = other.param_groups[0]["params"]
    for _ in range(3):
        grads = gradients(rng, params)
        optimizer.step(grads=grads)
        other.step(grads=grads)
    same_bits(theirs, params)
    same_bits(other.ema(0.7, warmup=True), optimizer.ema(0.7, warmup=True))
    assert other.ema(0.7).steps == 6


def test_torch_loads_the_state_and_leaves_the_averages_out() -> None:
    torch = pytest.importorskip("torch")
    w = torch.zeros(2, requires_grad=True)
    optimizer = cyoptim.Adam([w])
    optimizer.ema(0.5)
    w.grad = torch.ones(2)
    optimizer.step()
    assert isinstance(optimizer.state_dict()["averages"]["values"][0], torch.Tensor)
    theirs = torch.optim.Adam([w])
    theirs.load_state_dict(optimizer.state_dict())
    theirs.step()
    before = optimizer.ema(0.5)[w].clone()
    optimizer.load_state_dict(theirs.state_dict())
    assert optimizer.ema(0.5).steps == 0
    optimizer.step()
    assert not torch.equal(before, w)
    assert torch.equal(optimizer.ema(0.5)[w], w)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"values": {}}, ValueError, r"has averages, but none of parameter 0 \('w'\) of group 0"),
        ({"values": {0: np.zeros(3)}}, ValueError, r"shape \(3,\), expected \(2,\)"),
        ({"values": {0: np.zeros(2, "i8")}}, TypeError, "dtype int64, expected float64"),
        ({"values": {0: "x"}}, TypeError, "is a str, expected an array"),
        ({"decay": 2}, ValueError, r"decay must be in \[0, 1\], got 2"),
        ({"values": None}, TypeError, "a dict with decay, warmup, steps and values"),
        ({"steps": -1}, ValueError, "steps of the averages is -1, expected a whole number"),
    ],
)
def test_what_cannot_be_loaded(change: Any, error: Any, message: str) -> None:
    w, optimizer = stepped()
    state = copy.deepcopy(optimizer.state_dict())
    state["averages"].update(change)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == repr(before)
    np.testing.assert_array_equal(w, -2)


def test_a_loaded_state_is_a_copy() -> None:
    _, optimizer = stepped()
    _, other = stepped()
    other.load_state_dict(optimizer.state_dict())
    other.step(grads=[np.ones(2)])
    np.testing.assert_array_equal(optimizer.ema(0.5)["w"], -1.5)


# --- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decay", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (np.nan, ValueError), ("x", TypeError)],
)
def test_bad_decay(decay: Any, error: Any) -> None:
    optimizer = cyoptim.SGD([np.zeros(2)], lr=1.0)
    with pytest.raises(error, match="decay must be"):
        optimizer.ema(decay)
    with pytest.raises(RuntimeError, match=r"call ema\(decay\) before training"):
        optimizer.averaged().__enter__()
    average = optimizer.ema(0.5)
    with pytest.raises(error, match="decay must be"):
        average.decay = decay
    assert average.decay == 0.5


def test_the_returned_average() -> None:
    w, optimizer = stepped(0.5)
    average = optimizer.ema(0.75)
    assert optimizer.ema(0.75) is average
    assert repr(average) == "MovingAverage(decay=0.75, warmup=False, steps=2, parameters=1)"
    average.decay, average.warmup = 0.25, True
    assert (average.decay, average.warmup, len(average)) == (0.25, True, 1)
    np.testing.assert_array_equal(average[w], average["w"])
    for missing in ("v", np.zeros(2)):
        with pytest.raises(KeyError, match="no parameter"):
            average[missing]


def test_averaged_finds_parameters_that_have_moved() -> None:
    p = cyoptim.Parameter(np.zeros(2))
    optimizer = cyoptim.SGD([p], lr=1.0)
    optimizer.ema(0.5)
    for _ in range(2):
        optimizer.step(grads=[np.ones(2)])
    p.data = p.data.copy()
    with optimizer.averaged():
        np.testing.assert_array_equal(p.data, -1.5)
    np.testing.assert_array_equal(p.data, -2)


@pytest.mark.parametrize("averages", [{}, {"averages": None}])
def test_a_state_without_averages_begins_them_anew(averages: Any) -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    state = {**optimizer.state_dict(), **averages}
    average = optimizer.ema(0.75, warmup=True)
    optimizer.step(grads=[np.ones(2)])
    optimizer.load_state_dict(state)
    assert optimizer.ema(0.75, warmup=True) is average
    assert (average.steps, average.decay, average.warmup) == (0, 0.75, True)
    optimizer.step(grads=[np.ones(2)])
    assert average.steps == 1
    np.testing.assert_array_equal(average[w], w)
