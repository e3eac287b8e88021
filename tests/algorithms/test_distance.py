"""Prodigy and D-Adaptation: one estimate of the distance to the solution for all groups.

Gradients of the common tests have nothing to do with the parameters, so estimates hardly grow there; here they lead to a
minimum.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler
from tests.support.cards import ADAPTIVE, COMPLEX, Card
from tests.support.parametrize import every_card, every_variant

SHAPES = [(3, 5), (40,), (2, 3, 4), ()]
GOAL = 3.0


def starts(dtype: Any = np.float64, seed: int = 0, shapes: Any = SHAPES) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def slope(p: np.ndarray) -> np.ndarray:
    """Of a quadratic function with its minimum at GOAL, and curvatures between 1 and 2."""
    curvature = 1 + np.arange(p.size).reshape(p.shape) / max(p.size, 1)
    return np.asarray(curvature * (p - GOAL), p.dtype)


def advance(optimizer: Any, params: list[np.ndarray], steps: int = 1, **arguments: Any) -> None:
    for _ in range(steps):
        optimizer.step(grads=[slope(p) for p in params], **arguments)


def numbers(optimizer: Any, group: int = 0) -> dict[str, float]:
    rule = cyoptim._engine.RULES[type(optimizer)._rule]
    return {name: float(optimizer.param_groups[group][name]) for name in rule.numbers}


def estimate(optimizer: Any) -> float:
    return numbers(optimizer)["d"]


# Options that let the estimate of each grow within some steps.
def grown(card: Card, params: list[np.ndarray], steps: int = 40, **options: Any) -> Any:
    optimizer = card.cls(params, **options)
    advance(optimizer, params, steps)
    assert estimate(optimizer) > 2e-6
    return optimizer


@every_card(ADAPTIVE)
def test_estimates_are_those_of_the_paper(card: Card) -> None:
    params = starts()
    expected = [p.copy() for p in params]
    optimizer, reference = card.cls(params), card.reference()
    for _ in range(150):
        advance(optimizer, params)
        reference.step(expected, [slope(p) for p in expected])
    assert estimate(optimizer) > 1e-3
    np.testing.assert_allclose(estimate(optimizer), reference.d, rtol=1e-10)
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@every_card(ADAPTIVE)
def test_estimates_are_those_of_the_authors(torch: Any, card: Card) -> None:
    assert card.source is not None
    pytest.importorskip(card.source.cls.partition(".")[0], exc_type=ImportError)
    theirs_of, shapes = card.source.load(), SHAPES[:3]
    for options in ({}, {"weight_decay": 0.01}):
        params = starts(shapes=shapes)
        others = [torch.from_numpy(p.copy()) for p in params]
        groups = [{"params": others[:1]}, {"params": others[1:]}]
        optimizer = card.cls([{"params": params[:1]}, {"params": params[1:]}], **options)
        other = theirs_of(groups, **options)
        for step in range(100):
            # The last has no gradient at times, not even the first time.
            grads = [slope(p) for p in params]
            optimizer.step(grads=[*grads[:2], None if step % 3 == 0 else grads[2]])
            for p, grad in zip(others, map(slope, map(np.asarray, others)), strict=True):
                p.grad = torch.from_numpy(grad)
            if step % 3 == 0:
                others[2].grad = None
            other.step()
        for group in (0, 1):
            for name, value in numbers(optimizer, group).items():
                expected = other.param_groups[group].get(name, 0.0)
                np.testing.assert_allclose(value, expected, rtol=1e-8, err_msg=name)
        for a, b in zip(params, others, strict=True):
            np.testing.assert_allclose(a, b.numpy(), rtol=1e-9, atol=1e-9)


@every_card(ADAPTIVE)
def test_numbers_are_shown_from_the_start_and_in_all_groups(card: Card) -> None:
    params = starts()
    optimizer = card.cls([{"params": params[:2]}, {"params": params[2:]}], d0=1e-4)
    assert all(group["d"] == 1e-4 and group["k"] == 0 for group in optimizer.param_groups)
    advance(optimizer, params, 10)
    assert numbers(optimizer, 0) == numbers(optimizer, 1)
    assert numbers(optimizer)["k"] == 10
    optimizer.step(grads=[slope(params[0]), None, None, None])  # the others have them, too
    assert numbers(optimizer, 0) == numbers(optimizer, 1)
    saved = optimizer.state_dict()["param_groups"]
    for group in saved:
        assert type(group["d"]) is float
        assert type(group["k"]) is int
        assert group["k"] == 11


@every_card(ADAPTIVE)
def test_a_group_that_is_added_gets_the_numbers_of_the_first(card: Card) -> None:
    params = starts()
    optimizer = grown(card, params[:2])
    held = numbers(optimizer)
    optimizer.add_param_group({"params": params[2:]})
    advance(optimizer, params)
    assert numbers(optimizer, 1) == numbers(optimizer, 0)
    assert numbers(optimizer)["k"] == held["k"] + 1
    assert estimate(optimizer) >= held["d"]


@every_card(ADAPTIVE)
def test_zero_gradients_first(card: Card) -> None:
    # The estimate neither grows nor is spoilt by a division by zero; then it grows.
    for dtype in (np.float32, np.float64):
        params = starts(dtype)
        before = [p.copy() for p in params]
        optimizer = card.cls(params)
        for _ in range(10):
            optimizer.step(grads=[np.zeros_like(p) for p in params])
        for a, b in zip(params, before, strict=True):
            np.testing.assert_array_equal(a, b)
        assert numbers(optimizer) == numbers(card.cls(starts(dtype)))
        fresh = starts(dtype)
        other = card.cls(fresh)
        advance(optimizer, params, 60)
        advance(other, fresh, 60)
        assert estimate(optimizer) == estimate(other) > 1e-5
        for a, b in zip(params, fresh, strict=True):
            np.testing.assert_array_equal(a, b)


@every_card(ADAPTIVE)
def test_zero_gradients_for_ever(card: Card) -> None:
    params = starts(np.float32)
    optimizer = grown(card, params)
    # Lion's steps do not shrink with its averages, so its estimate grows for ever.
    for _ in range(100 if card.name == "DAdaptLion" else 2000):
        optimizer.step(grads=[np.zeros_like(p) for p in params])
    assert all(np.isfinite(p).all() for p in params)
    assert all(np.isfinite(value) for value in numbers(optimizer).values())


@every_card(ADAPTIVE)
def test_decay_needs_no_gradient_once_there_is_an_estimate(card: Card) -> None:
    def after(weight_decay: float) -> np.ndarray:
        w = np.ones(5)
        optimizer = card.cls([w], d0=0.1, weight_decay=weight_decay)
        for factor in (1.0, 0.0, 0.0):
            optimizer.step(grads=[factor * np.ones(5)])
        return w

    assert (after(0.5) < after(0.0)).all()


@every_card(ADAPTIVE)
def test_rates_are_equal_or_zero(card: Card) -> None:
    a, b = np.ones(3), np.ones(4)
    groups = [{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.5}]
    with pytest.raises(ValueError, match="'lr' is 1.0 in group 0 and 0.5 in group 1, expected one"):
        card.cls(groups)
    optimizer = card.cls([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 0.0}], weight_decay=0.1)
    advance(optimizer, [a, b], 20)
    assert not np.array_equal(a, np.ones(3))
    np.testing.assert_array_equal(b, 1)  # not even by decay
    before = copy.deepcopy((a, b, optimizer.state_dict()))
    for lr in (0.5, np.array(0.25)):
        optimizer.param_groups[1]["lr"] = lr
        with pytest.raises(ValueError, match=r"'lr' is .* in group 0 and .* in group 1"):
            advance(optimizer, [a, b])
        optimizer.param_groups[1]["lr"] = 0.0
        assert repr((a, b, optimizer.state_dict())) == repr(before)
    optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = 0.0, 1.0
    held = a.copy()
    advance(optimizer, [a, b], 5)
    np.testing.assert_array_equal(a, held)
    assert not np.array_equal(b, np.ones(4))


@every_card(ADAPTIVE)
def test_a_group_that_stands_still_does_not_count(card: Card) -> None:
    params, alone = starts(), starts()
    optimizer = card.cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.0}])
    other = card.cls(alone[:2])
    advance(optimizer, params, 50)
    advance(other, alone[:2], 50)
    assert numbers(optimizer) == numbers(other)
    for a, b in zip(params, alone, strict=True):
        np.testing.assert_array_equal(a, b)


@every_card(ADAPTIVE)
def test_other_options_are_equal(card: Card) -> None:
    changes = {"betas": (0.5, 0.9), "growth_rate": 2.0, "use_bias_correction": True}
    changes |= {"beta3": 0.5, "d_coef": 2.0, "d0": 0.5}
    for name in ("d0", *card.cls._joint_options):
        groups = [{"params": [np.ones(3)]}, {"params": [np.ones(4)], name: changes[name]}]
        with pytest.raises(ValueError, match=f"'{name}' is .* in group 0 and .* in group 1"):
            card.cls(groups)
        w = np.ones(3), np.ones(4)
        optimizer = card.cls([{"params": [p]} for p in w])
        advance(optimizer, [*w])
        held = copy.deepcopy(w)
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][1][name] = changes[name]
        with pytest.raises(ValueError, match=f"'{name}' is .* in group 0 and .* in group 1"):
            optimizer.load_state_dict(saved)
        optimizer.param_groups[1][name] = changes[name]
        for _ in range(2):
            with pytest.raises(ValueError, match=f"'{name}' is .* in group 0 and .* in group 1"):
                advance(optimizer, [*w])
        np.testing.assert_array_equal(w[0], held[0])
        optimizer.param_groups[0][name] = changes[name]
        advance(optimizer, [*w])


@every_card(ADAPTIVE)
def test_groups_are_compared_once_a_step(card: Card, monkeypatch: Any) -> None:
    # Each by itself against all would take time by the square of their number.
    params = [np.ones(2) for _ in range(20)]
    calls: list[int] = []
    check = card.cls._check_agreement
    monkeypatch.setattr(card.cls, "_check_agreement", lambda *a: (calls.append(1), check(*a)))
    optimizer = card.cls([{"params": [p]} for p in params])
    assert len(calls) == 1
    advance(optimizer, params, 3)
    known = len(calls)
    assert known <= 3
    advance(optimizer, params, 3)
    assert len(calls) == known
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    advance(optimizer, params, 3)
    assert len(calls) == known + 1


@every_card(ADAPTIVE)
def test_the_first_estimate_of_a_group_is_that_of_all(card: Card) -> None:
    groups: list[Any] = [{"params": [p], "d0": 1e-3} for p in starts()]
    optimizer, other = card.cls(groups), card.cls(starts(), d0=1e-3)
    assert numbers(optimizer) == numbers(other)
    advance(optimizer, [p for group in groups for p in group["params"]], 20)
    advance(other, other.param_groups[0]["params"], 20)
    assert numbers(optimizer) == numbers(other)
    optimizer.add_param_group({"params": [np.ones(3)], "d0": 1e-3})
    assert numbers(optimizer, -1) == numbers(optimizer)
    with pytest.raises(ValueError, match="'d0' is 0.001 in group 0 and 1e-06 in group 5"):
        optimizer.add_param_group({"params": [np.ones(3)], "d0": 1e-6})
    for value in (0.0, np.nan, "x", None):
        optimizer.param_groups[0]["d0"] = value
        with pytest.raises((TypeError, ValueError), match="options of param group 0: .*d0"):
            optimizer.step(
                grads=[np.ones_like(p) for g in optimizer.param_groups for p in g["params"]]
            )


@every_card(ADAPTIVE)
def test_schedules_scale_the_rate(card: Card) -> None:
    # From 0 on, and of all groups.
    params = starts()
    optimizer = card.cls([{"params": params[:2]}, {"params": params[2:], "lr": 0.0}])
    schedule = lr_scheduler.LambdaLR(optimizer, lambda epoch: min(epoch / 5, 1.0))
    before = [p.copy() for p in params]
    for step in range(60):
        advance(optimizer, params)
        schedule.step()
        if step == 0:
            for a, b in zip(params, before, strict=True):
                np.testing.assert_array_equal(a, b)
            assert numbers(optimizer)["k"] == 0
    assert all(np.isfinite(value) for value in numbers(optimizer).values())
    assert estimate(optimizer) > 1e-5
    np.testing.assert_array_equal(params[3], before[3])
    held, k = [p.copy() for p in params], numbers(optimizer)
    optimizer.param_groups[0]["lr"] = 0.0  # one step without a rate
    advance(optimizer, params)
    assert numbers(optimizer) == k
    for a, b in zip(params, held, strict=True):
        np.testing.assert_array_equal(a, b)


@every_variant(ADAPTIVE)
@pytest.mark.parametrize("how", ["state dict", "npz", "pickle", "deepcopy"])
def test_going_on_in_the_middle_of_the_growth(
    card: Card, options: dict[str, Any], how: str, tmp_path: Any
) -> None:
    def make(params: list[np.ndarray]) -> Any:
        return card.cls([{"params": params[:2]}, {"params": params[2:]}], **options)

    params = starts()
    optimizer = make(params)
    advance(optimizer, params, 8)
    if how == "pickle":
        other, again = pickle.loads(pickle.dumps((optimizer, params)))
    elif how == "deepcopy":
        other, again = copy.deepcopy((optimizer, params))
    else:
        again = [p.copy() for p in params]
        other = make(again)
        if how == "npz":
            cyoptim.save(tmp_path / "run.npz", params=params, optimizer=optimizer)
            cyoptim.load(tmp_path / "run.npz", params=again, optimizer=other)
        else:
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert numbers(other) == numbers(optimizer)
    advance(optimizer, params, 8)
    advance(other, again, 8)
    assert numbers(other) == numbers(optimizer)
    for a, b in zip(params, again, strict=True):
        np.testing.assert_array_equal(a, b)


@every_card(ADAPTIVE)
def test_a_skipped_step_leaves_the_numbers(card: Card) -> None:
    params = starts()
    optimizer = grown(card, params)
    before = repr((params, optimizer.state_dict()))
    bad = [np.full_like(p, np.nan) for p in params]
    optimizer.step(grads=bad, nonfinite="skip")
    with pytest.raises(FloatingPointError):
        optimizer.step(grads=bad, nonfinite="raise")
    with pytest.raises(ValueError, match="shape"):
        optimizer.step(grads=[*map(slope, params[:3]), np.ones(7)])
    assert repr((params, optimizer.state_dict())) == before


@every_card(ADAPTIVE)
def test_a_number_may_be_set(card: Card) -> None:
    params = starts()
    optimizer = card.cls([{"params": params[:2]}, {"params": params[2:]}])
    for name in {"d", "d_max"} & {*optimizer.param_groups[0]}:
        optimizer.param_groups[0][name] = 0.125
    advance(optimizer, params)
    assert numbers(optimizer, 0) == numbers(optimizer, 1)
    assert estimate(optimizer) >= 0.125
    for name in {"d", "d_max"} & {*optimizer.param_groups[0]}:
        optimizer.param_groups[0][name] = np.float32(0.5)
        optimizer.param_groups[1][name] = 70.0  # that of the first counts
    advance(optimizer, params)
    assert numbers(optimizer, 0) == numbers(optimizer, 1)
    assert 0.5 <= estimate(optimizer) < 70
    for bad in ("big", None, [1.0]):
        optimizer.param_groups[0]["d"] = bad
        held = [p.copy() for p in params]
        if bad is not None:  # which is no number yet
            with pytest.raises((TypeError, ValueError)):
                advance(optimizer, params)
            np.testing.assert_array_equal(params[0], held[0])
        optimizer.param_groups[0]["d"] = 0.5


@every_card(ADAPTIVE)
def test_bad_numbers_do_not_load(card: Card) -> None:
    params = starts()
    optimizer = grown(card, params)
    saved = copy.deepcopy(optimizer.state_dict())
    for name, value in (("d", 0.0), ("d", np.nan), ("d", "big"), ("k", -1)):
        state = copy.deepcopy(saved)
        state["param_groups"][0][name] = value
        with pytest.raises((TypeError, ValueError), match=rf"loaded param group 0: .*\b{name}\b"):
            optimizer.load_state_dict(state)
    assert repr(optimizer.state_dict()) == repr(saved)


@every_card(ADAPTIVE)
def test_gradients_stay_as_they_are(card: Card) -> None:
    options = {"weight_decay": 0.1, **({"decouple": False} if card.takes("decouple") else {})}
    params = starts()
    grads = [slope(p) for p in params]
    before = copy.deepcopy(grads)
    card.cls(params, **options).step(grads=grads)
    for a, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_variant(ADAPTIVE)
@pytest.mark.parametrize("shapes", [[(16384 + 3,), (7, 3000), (5,)], [(300, 1000), (16384,), ()]])
def test_same_bits_on_any_number_of_threads(
    card: Card, options: dict[str, Any], shapes: Any
) -> None:
    from cyoptim import _engine

    def run(threads: int, **arguments: Any) -> list[Any]:
        cyoptim.set_num_threads(threads)
        params = starts(np.float32, shapes=shapes)
        optimizer = card.cls(params, **options)
        advance(optimizer, params, 4, **arguments)
        return [*params, np.array([*numbers(optimizer).values()])]

    before = cyoptim.get_num_threads()
    _engine.take_all_threads(True)
    try:
        for arguments in ({}, {"max_norm": 1.0}):
            expected = run(1, **arguments)
            for threads in (2, 3):
                for a, b in zip(run(threads, **arguments), expected, strict=True):
                    np.testing.assert_array_equal(a, b)
    finally:
        _engine.take_all_threads(False)
        cyoptim.set_num_threads(before)


@every_variant(ADAPTIVE)
@pytest.mark.parametrize("other", [np.float32, np.float64])
def test_arrays_of_any_layout_and_type_side_by_side(
    card: Card, options: dict[str, Any], other: Any
) -> None:
    shapes = [(6, 7), (6, 7), (8, 4), (5,)]
    expected = starts(shapes=shapes)
    reference = card.reference(**options)
    strided = np.zeros((8, 8))[:, ::2]
    strided[...] = expected[2]
    params = [
        np.asfortranarray(expected[0]), expected[1][::-1, ::-1].copy()[::-1, ::-1], strided,
        expected[3].astype(other),
    ]  # fmt: skip
    expected[3] = params[3].astype(np.float64)
    optimizer = card.cls(params, **options)
    for _ in range(10):
        grads = [slope(p) for p in expected]
        grads[3] = grads[3].astype(other)
        optimizer.step(grads=grads)
        reference.step(expected, [g.astype(np.float64) for g in grads])
    # Of the distances that count, the first are as small as a float32's last digits.
    close = 1e-4 if other is np.float32 else 1e-11
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=close, atol=close)


@every_card(ADAPTIVE, COMPLEX)
def test_late_parameters_take_over_the_estimate(card: Card) -> None:
    params, expected = starts(), starts()
    optimizer, reference = card.cls(params), card.reference()
    for step in range(60):
        late = step < 50
        grads = [slope(p) for p in params]
        optimizer.step(grads=[*grads[:3], None if late else grads[3]])
        grads = [slope(p) for p in expected]
        reference.step(expected, [*grads[:3], None if late else grads[3]])
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert not np.array_equal(params[3], starts()[3])


# --- slices ---------------------------------------------------------------------------------------


def test_slices_count_in_the_order_of_c_wherever_elements_lie() -> None:
    expected = starts(shapes=[(6, 7), (9,)])
    params = [np.asfortranarray(expected[0].copy()), expected[1].copy()]
    plain = [p.copy() for p in expected]
    for found in (params, plain):
        optimizer = cyoptim.Prodigy(found, slice_p=4)
        before = found[0].ravel()[::4].copy()
        advance(optimizer, found, 20)
        np.testing.assert_array_equal(optimizer.state[found[0]]["p0"], before)
        assert optimizer.state[found[0]]["s"].shape == (11,)
    for a, b in zip(params, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("every", [2, 3, 11, 1000, 10**6])
def test_slices_of_large_arrays(every: int) -> None:
    # Chunks, and pieces of them, begin at elements that are no multiples of it.
    shapes = [(300, 1000), (16384 + 3,), (5000,), (0,), ()]
    params, expected = starts(shapes=shapes), starts(shapes=shapes)
    optimizer = cyoptim.Prodigy(params, slice_p=every)
    optimizer.ema(0.5)  # which goes by pieces
    from tests.optimizers import BY_NAME

    reference = BY_NAME["Prodigy"].reference(slice_p=every)
    for _ in range(6):
        advance(optimizer, params)
        reference.step(expected, [slope(p) for p in expected])
    np.testing.assert_allclose(estimate(optimizer), reference.d, rtol=1e-11)
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_a_slice_that_changes_is_refused_where_there_is_state() -> None:
    w = np.ones(100)
    optimizer = cyoptim.Prodigy([w])
    optimizer.param_groups[0]["slice_p"] = 2
    advance(optimizer, [w], 2)
    held = w.copy()
    for bad, error in ((3, "shape"), (1, "shape"), (0, "slice_p is 0"), (2.5, "slice_p is 2.5")):
        optimizer.param_groups[0]["slice_p"] = bad
        for _ in range(2):
            with pytest.raises(ValueError, match=error):
                advance(optimizer, [w])
        np.testing.assert_array_equal(w, held)
    optimizer.param_groups[0]["slice_p"] = 2
    advance(optimizer, [w])
    assert not np.array_equal(w, held)
    state = copy.deepcopy(optimizer.state_dict())
    state["state"][0]["s"] = np.zeros(100)
    with pytest.raises(ValueError, match="loaded state 's' .* has shape"):
        optimizer.load_state_dict(state)


def test_states_of_slices_and_of_zeros_go_to_the_authors_and_back(torch: Any) -> None:
    prodigyopt = pytest.importorskip("prodigyopt", exc_type=ImportError)
    for options in ({"slice_p": 3}, {"betas": (0.0, 0.99)}, {"weight_decay": 0.1}):
        values = [np.zeros((3, 4)), starts()[1]]
        ours, others = ([torch.from_numpy(v.copy()) for v in values] for _ in range(2))
        mine, other = cyoptim.Prodigy(ours, **options), prodigyopt.Prodigy(others, **options)
        for load in (None, "here", "there", None):
            if load == "here":
                state = copy.deepcopy(other.state_dict())
                assert state["state"][0]["p0"].shape == ()  # which stands for zeros
                mine = cyoptim.Prodigy(ours, **options)
                mine.load_state_dict(state)
            elif load == "there":
                other = prodigyopt.Prodigy(others, **options)
                other.load_state_dict(copy.deepcopy(mine.state_dict()))
            for _ in range(5):
                for a, b in zip(ours, others, strict=True):
                    a.grad = torch.from_numpy(slope(a.numpy()))
                    b.grad = torch.from_numpy(slope(b.numpy()))
                mine.step()
                other.step()
            for a, b in zip(ours, others, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
