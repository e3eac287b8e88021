"""Averages that follow the parameters in the step."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cyoptim
from cyoptim import _cpu, _dispatch
from cyoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.support.bits import digest, digests_on_threads, use_isa
from tests.support.cards import Card
from tests.support.doors import ALL_DOORS, Door, TensorDoor
from tests.support.parametrize import every_card, every_real
from tests.support.runs import ARRAYS, advance

SHAPES = [(), (0,), (1,), (7,), (33,), (3, 5), (2047,), (2048,), (2049,), (16385,), (40_000,)]
TABLES = [(1, 1), (3, 5), (40, 30)]
DECAY = 0.9


def plain_arrays(rng: np.random.Generator, shapes: Any = SHAPES, dtype: Any = "f4") -> list[Any]:
    return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]


def gradients(rng: np.random.Generator, params: list[Any], missing: float = 0.2) -> list[Any]:
    return [
        None if rng.random() < missing else rng.standard_normal(p.shape).astype(p.dtype)
        for p in params
    ]


def same_bits(found: Any, expected: Any) -> None:
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for k, (a, b) in enumerate(zip(found, expected, strict=True)):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), k


# --- the same bits as an average of its own --------------------------------------------------------


@every_card()
@every_real
def test_same_bits_as_a_model_averaged_after_each_step(card: Card, dtype: Any, rng: Any) -> None:
    for variant in card.variants[:3]:
        params = plain_arrays(rng, card.shapes([*SHAPES, *TABLES]), dtype)
        plain = [p.copy() for p in params]
        fused, apart = card.cls(params, **variant), card.cls(plain, **variant)
        average = fused.ema(DECAY)
        model = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        for _ in range(card.steps(6)):
            grads = gradients(rng, params)
            advance(card, fused, params, grads, ARRAYS)
            advance(card, apart, plain, grads, ARRAYS)
            model.update_parameters(plain)
        same_bits(params, plain)
        same_bits(average, model.module)
        assert average.steps == card.steps(6)


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
def test_every_door(door: Door, rng: Any) -> None:
    if isinstance(door, TensorDoor):
        pytest.importorskip("torch")
    arrays = plain_arrays(rng, [(5,), (3, 4)])
    params = [door.wrap(array) for array in arrays]
    plain = [array.copy() for array in arrays]
    optimizer, other = cyoptim.Adam(params, lr=0.1), cyoptim.Adam(plain, lr=0.1)
    average = optimizer.ema(DECAY)
    model = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    for _ in range(3):
        grads = gradients(rng, plain)
        door.step(optimizer, params, grads)
        other.step(grads=grads)
        model.update_parameters(plain)
    same_bits(average, model.module)
    same_bits((average[param] for param in params), model.module)
    before = [door.read(param) for param in params]
    with optimizer.averaged():
        same_bits(map(door.read, params), model.module)
    same_bits(map(door.read, params), before)


def layouts(rng: np.random.Generator) -> list[np.ndarray]:
    base = rng.standard_normal((8, 6))
    return [
        base[::2, ::3],
        np.asfortranarray(rng.standard_normal((3, 4))),
        rng.standard_normal(9)[::-1],
        rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4)),
        np.frombuffer(bytearray(8 * 5 + 1), "u1")[1:].view("f8"),  # unaligned
        rng.standard_normal((2, 3, 4)).transpose(2, 0, 1),
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_every_layout(apart: bool, rng: Any) -> None:
    params = layouts(rng)
    plain = [np.array(p) for p in params]
    cls = type("Own", (cyoptim.SGD,), {"update": _descend}) if apart else cyoptim.SGD
    optimizer = cls(params, lr=0.1)
    average = optimizer.ema(DECAY)
    means = [p.copy() for p in plain]
    for step in range(4):
        grads = gradients(rng, plain, missing=0.3)
        optimizer.step(grads=grads)
        for p, g, mean in zip(plain, grads, means, strict=True):
            if g is not None:
                p -= 0.1 * g
            mean += (p - mean) * (1 if step == 0 else 1 - DECAY)
    for found, mean, p, q in zip(average, means, params, plain, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-14, atol=1e-15)
        np.testing.assert_allclose(found, mean, rtol=1e-14, atol=1e-15)
    with optimizer.averaged():
        for p, mean in zip(params, means, strict=True):
            np.testing.assert_allclose(p, mean, rtol=1e-14, atol=1e-15)
    for p, q in zip(params, plain, strict=True):
        np.testing.assert_allclose(p, q, rtol=1e-14, atol=1e-15)


def _descend(self: Any, param: Any, grad: Any, state: Any, group: Any) -> None:
    param -= group["lr"] * grad


def all_digests() -> dict[str, str]:
    found = {}
    for dtype in ("f4", "f8"):
        rng = np.random.default_rng(0)
        params = plain_arrays(rng, [*SHAPES, (200_001,)], dtype)
        optimizer = cyoptim.AdamW(params)
        average = optimizer.ema(DECAY)
        for _ in range(3):
            optimizer.step(grads=gradients(rng, params))
        found[dtype] = digest([*params, *average])
    return found


@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_on_any_number_of_threads(threads: int) -> None:
    assert digests_on_threads("tests.engine.test_ema", threads) == all_digests()


@pytest.mark.parametrize("isa", _dispatch.LEVELS[: _cpu.level() + 1])
def test_same_bits_with_any_kernels(isa: str) -> None:
    expected = all_digests()
    use_isa(isa)
    assert all_digests() == expected


@given(
    decay=st.floats(0, 1),
    warmup=st.booleans(),
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12),
)
def test_formula(decay: float, warmup: bool, values: list[float]) -> None:
    w = np.zeros(3)
    optimizer = cyoptim.SGD([w], lr=1.0)
    average = optimizer.ema(decay, warmup=warmup)
    expected = np.nan
    for t, value in enumerate(values, start=1):
        optimizer.step(grads=[w - value])
        d = min(decay, (1 + t) / (10 + t)) if warmup else decay
        expected = w.copy() if t == 1 else d * expected + (1 - d) * w
    # Each step rounds to half a unit of the largest value that has come by.
    np.testing.assert_allclose(average[w], expected, rtol=1e-15, atol=1e-15 * 1e6 * len(values))


def test_values_that_are_not_finite_are_averaged_as_they_come() -> None:
    w = np.array([np.nan, np.inf, 1.0])
    optimizer = cyoptim.SGD([w], lr=0.0)
    average = optimizer.ema(0.5)
    for _ in range(3):
        optimizer.step(grads=[np.zeros(3)])
    np.testing.assert_array_equal(average[w], [np.nan, np.nan, 1.0])


# --- which steps are averaged -----------------------------------------------------------------------


def test_a_skipped_step_and_a_failed_one_leave_the_averages() -> None:
    w = np.ones(3)
    for cls in (cyoptim.SGD, type("Own", (cyoptim.SGD,), {"update": _descend})):
        optimizer = cls([w], lr=0.1)
        average = optimizer.ema(DECAY)
        optimizer.step(grads=[np.ones(3)])
        before = average[w].copy()
        optimizer.step(grads=[np.full(3, np.nan)], nonfinite="skip")
        with pytest.raises(FloatingPointError):
            optimizer.step(grads=[np.full(3, np.nan)], nonfinite="raise")
        with pytest.raises(ValueError, match="shape"):
            optimizer.step(grads=[np.ones(4)])
        assert average.steps == 1
        same_bits([average[w]], [before])


def test_clipped_scaled_zeroed_and_accumulated_steps(rng: Any) -> None:
    params = plain_arrays(rng)
    plain = [p.copy() for p in params]
    fused, apart = cyoptim.Adam(params), cyoptim.Adam(plain)
    average = fused.ema(DECAY)
    model = AveragedModel(plain, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    for _ in range(3):
        grads = gradients(rng, params)
        copies = [None if g is None else g.copy() for g in grads]
        for optimizer, own in ((fused, grads), (apart, copies)):
            optimizer.step(grads=own, max_norm=1.0, grad_scale=8.0, zero_grad=True)
        assert not any(g.any() for g in grads if g is not None)
        model.update_parameters(plain)
    grads = gradients(rng, params, missing=0)
    for optimizer in (fused, apart):
        optimizer.accumulate(grads)
        optimizer.accumulate(grads)
        optimizer.step()
    model.update_parameters(plain)
    same_bits(average, model.module)
    assert average.steps == 4


def test_a_parameter_that_occurs_twice_is_averaged_once() -> None:
    w = np.zeros(3)
    with pytest.warns(UserWarning, match="duplicate"):
        optimizer = cyoptim.SGD([w, w], lr=1.0)
    average = optimizer.ema(0.5)
    optimizer.step(grads=[np.ones(3), np.ones(3)])
    optimizer.step(grads=[np.ones(3), None])
    np.testing.assert_array_equal(w, -3)
    np.testing.assert_array_equal(average[w], -2.5)
    assert len(average) == 1


def test_a_sparse_gradient_moves_the_whole_average() -> None:
    torch = pytest.importorskip("torch")
    w = torch.zeros(4, 2, requires_grad=True)
    optimizer = cyoptim.SGD([w], lr=1.0)
    average = optimizer.ema(0.5)
    for row in (1, 2):
        w.grad = torch.sparse_coo_tensor(
            torch.tensor([[row]]), torch.ones(1, 2), (4, 2), check_invariants=True
        )
        optimizer.step()
    assert average[w].tolist() == [[0, 0], [-1, -1], [-0.5, -0.5], [0, 0]]


def test_an_optimizer_with_a_step_of_its_own_is_averaged_once_per_step() -> None:
    class Twice(cyoptim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            super().step(*args, **kwargs)
            return super().step(*args, **kwargs)

    class Alone(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 1.0})

        def step(self, closure: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
            for group in self.param_groups:
                for param in group["params"]:
                    param -= 2

    for make in (lambda w: Twice([w], lr=1.0), lambda w: Alone([w])):
        w = np.zeros(3)
        optimizer = make(w)
        average = optimizer.ema(0.5)
        optimizer.step(grads=[np.ones(3)])
        optimizer.step(grads=[np.ones(3)])
        np.testing.assert_array_equal(average[w], -3)
        assert average.steps == 2
        with optimizer.averaged():
            with pytest.raises(RuntimeError, match=r"inside averaged\(\)"):
                optimizer.step(grads=[np.ones(3)])
            np.testing.assert_array_equal(w, -3)


def test_the_average_of_a_parameter_that_its_optimizer_replaces() -> None:
    class Alone(cyoptim.Optimizer):
        def step(self, closure: Any = None, **kwargs: Any) -> None:  # type: ignore[override]
            for param in self.param_groups[0]["params"]:
                param.data = param.data - 2

    p = cyoptim.Parameter(np.zeros(2))
    optimizer = Alone([p], {"lr": 1.0})
    average = optimizer.ema(0.5)
    optimizer.step()
    optimizer.step()
    np.testing.assert_array_equal(average[p], -3)


def test_hooks_see_the_average_of_their_step() -> None:
    w = np.zeros(1)
    for cls in (
        cyoptim.SGD,
        type("Own", (cyoptim.SGD,), {"step": lambda self, **k: _step(self, k)}),
    ):
        optimizer = cls([w], lr=1.0)
        average = optimizer.ema(0.5)
        seen: list[float] = []
        optimizer.register_step_post_hook(lambda *_: seen.append(average.steps))  # noqa: B023
        optimizer.step(grads=[np.ones(1)])
        optimizer.step(grads=[np.ones(1)])
        assert seen == [1, 2]


def _step(self: Any, arguments: dict[str, Any]) -> None:
    cyoptim.SGD.step(self, **arguments)


def test_parameters_that_are_replaced_or_added() -> None:
    p, late = cyoptim.Parameter(np.zeros(2)), np.full(2, 7.0)
    optimizer = cyoptim.SGD([p], lr=1.0)
    average = optimizer.ema(0.5)
    p.grad = np.ones(2)
    optimizer.step()
    p.data = p.data.copy()
    optimizer.step()
    np.testing.assert_array_equal(average[p], -1.5)
    optimizer.add_param_group({"params": [late]})
    assert len(average) == 2
    optimizer.step(grads=[np.ones(2), np.ones(2)])
    np.testing.assert_array_equal(average[late], 6.5)
    p.data = np.zeros(3)
    with pytest.raises(
        ValueError, match=r"average of parameter 0 .*shape \(2,\).* expected \(3,\)"
    ):
        optimizer.step(grads=[np.ones(3), np.ones(2)])


def test_the_names_of_all_groups() -> None:
    v, w = np.zeros(1), np.zeros(1)
    optimizer = cyoptim.SGD([{"params": {"v": v}}, {"params": {"w": w}}], lr=1.0)
    average = optimizer.ema(0.5)
    optimizer.step(grads={"w": np.ones(1)})
    assert (average["v"], average["w"]) == (0, -1)


def test_another_dtype_is_refused() -> None:
    p = cyoptim.Parameter(np.zeros(2))
    optimizer = cyoptim.SGD([p], lr=1.0)
    optimizer.ema(0.5)
    optimizer.step(grads=[np.ones(2)])
    p.data = np.zeros(2, "f4")
    with pytest.raises(ValueError, match="average of parameter 0 .*float64, expected .*float32"):
        optimizer.step(grads=[np.ones(2, "f4")])


def test_another_layout_is_followed(rng: Any) -> None:
    p = cyoptim.Parameter(rng.standard_normal((3, 4)))
    optimizer = cyoptim.SGD([p], lr=0.1)
    average = optimizer.ema(0.5)
    mean = None
    for step in range(4):
        optimizer.step(grads=[rng.standard_normal((3, 4))])
        mean = p.data.copy() if mean is None else (mean + p.data) / 2
        p.data = np.asfortranarray(p.data) if step == 0 else p.data[:]
    np.testing.assert_allclose(average[p], mean, rtol=1e-14)
    with optimizer.averaged():
        np.testing.assert_allclose(p.data, mean, rtol=1e-14)


def test_lists_of_parameters_may_be_edited() -> None:
    a, b, c = np.zeros(2), np.zeros(3), np.zeros(4)
    optimizer = cyoptim.SGD([a, b], lr=1.0, momentum=0.9)
    average = optimizer.ema(0.5)
    optimizer.step(grads=[np.ones(2), np.ones(3)])
    params = optimizer.param_groups[0]["params"]
    params.pop()
    state = optimizer.state_dict()
    assert (list(state["state"]), list(state["averages"]["values"])) == ([0], [0])
    params.append(c)
    state = optimizer.state_dict()
    assert list(state["averages"]["values"]) == [0, 1]
    optimizer.load_state_dict(copy.deepcopy(state))
    assert len(average) == 2


def test_a_step_of_one_s_own_that_is_skipped_is_not_averaged() -> None:
    class Own(cyoptim.SGD):
        def step(self, *args: Any, **kwargs: Any) -> Any:
            return super().step(*args, **kwargs)

    w = np.zeros(2)
    optimizer = Own([w], lr=1.0)
    average = optimizer.ema(0.5)
    optimizer.step(grads=[np.ones(2)])
    w[:] = 9
    optimizer.step(grads=[np.full(2, np.nan)], nonfinite="skip")
    assert average.steps == 1
    np.testing.assert_array_equal(average[w], -1)


def test_called_again_it_takes_the_new_warmup() -> None:
    optimizer = cyoptim.SGD([np.zeros(1)], lr=1.0)
    average = optimizer.ema(0.9)
    assert optimizer.ema(0.9, warmup=True) is average
    assert average.warmup is True
    assert optimizer.ema(0.9).warmup is False


def test_where_it_fails_there_are_no_averages() -> None:
    w = np.zeros(2)
    optimizer = cyoptim.SGD([w], lr=1.0)
    w.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        optimizer.ema(0.5)
    w.flags.writeable = True
    assert "averages" not in optimizer.state_dict()
    with pytest.raises(RuntimeError, match=r"call ema\(decay\)"), optimizer.averaged():
        pass


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
