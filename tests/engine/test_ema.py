"""Averages that follow the parameters in the step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cyoptim
from cyoptim import _cpu, _dispatch
from cyoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tests.support.averages import DECAY, SHAPES, TABLES, gradients, plain_arrays, same_bits
from tests.support.bits import digest, digests_on_threads, use_isa
from tests.support.cards import MODES, Card
from tests.support.doors import ALL_DOORS, Door, TensorDoor
from tests.support.parametrize import every_card, every_real
from tests.support.runs import ARRAYS, advance

# --- the same bits as an average of its own --------------------------------------------------------


@every_card(~MODES)
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


@every_card(~MODES)
def test_every_optimizer_takes_another_order_of_elements(card: Card, rng: Any) -> None:
    for variant in card.variants[:2]:
        straight = plain_arrays(rng, card.shapes([(130, 40), (3, 5)]), np.float32)
        params = [np.asfortranarray(p) for p in straight]
        both = [card.cls(arrays, **variant) for arrays in (params, straight)]
        averages = [optimizer.ema(DECAY) for optimizer in both]
        for _ in range(card.steps(3)):
            grads = gradients(rng, straight)
            for optimizer, arrays in zip(both, (params, straight), strict=True):
                advance(card, optimizer, arrays, grads, ARRAYS)
        for found, expected in zip(*averages, strict=True):
            # Sums over the whole of a parameter have another order.
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bfloat16", "float8_e4m3fn", "dynamic8"])
def test_another_order_of_elements_with_state_of_fewer_bits(kind: str, rng: Any) -> None:
    straight = rng.standard_normal((130, 40)).astype(np.float32)
    turned = np.asfortranarray(straight)
    averages = []
    for param in (straight, turned):
        optimizer = cyoptim.AdamW([param], lr=0.1, state_dtype=kind)
        averages.append(optimizer.ema(DECAY))
        for step in range(3):
            optimizer.step(grads=[np.full((130, 40), step + 1.0, np.float32)])
    same_bits(*averages)


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


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3])
def test_same_bits_on_any_number_of_threads(threads: int) -> None:
    assert digests_on_threads("tests.engine.test_ema", threads) == all_digests()


@pytest.mark.parametrize("isa", _dispatch.LEVELS[: _cpu.level() + 1])
def test_same_bits_with_any_kernels(isa: str) -> None:
    expected = all_digests()
    use_isa(isa)
    assert all_digests() == expected


@pytest.mark.slow
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
