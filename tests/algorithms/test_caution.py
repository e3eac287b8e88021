"""The options `caution` and `cautious_wd`, of all optimizers that have them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._arrays.doors import UnsupportedError
from cyoptim.kernel import Kernel
from tests.optimizers import BY_NAME, cards, label
from tests.support import runs
from tests.support.cards import ELEMENT_WISE, Card, Options
from tests.support.cautious import FORMS, Cautious, forms, has_caution
from tests.support.doors import trajectory_inputs
from tests.support.dtypes import assert_close
from tests.support.parametrize import every_card, every_numpy_door, every_real

SHAPES: list[tuple[int, ...]] = [(3, 4), (), (0,), (1,), (17, 33), (70, 60)]


WITHOUT_DECAY = {"weight_decay": 0.0, "weight_decay_1d": 0.0}
every_form = pytest.mark.parametrize(
    ("card", "options"), FORMS, ids=[f"{card}-{label(options)}" for card, options in FORMS]
)
# Of each some, where a parameter does not depend on others.
FIRST = [
    (card, {**options, **card.only(max_grad_norm=None)})
    for card in cards(has_caution)
    for options in [options for options in forms(card) if options.get("lr") != 0][:3]
]
every_first_form = pytest.mark.parametrize(
    ("card", "options"), FIRST, ids=[f"{card}-{label(options)}" for card, options in FIRST]
)
every_first_form_of_elements = pytest.mark.parametrize(
    ("card", "options"),
    OF_ELEMENTS := [(card, options) for card, options in FIRST if ELEMENT_WISE(card)],
    ids=[f"{card}-{label(options)}" for card, options in OF_ELEMENTS],
)


def expected(card: Card, options: Options, start: Any, grads: Any) -> Any:
    params = [np.array(array, np.float64) for array in start]
    reference = Cautious(card, options) if ELEMENT_WISE(card) else card.reference(**options)
    for step in grads:
        reference.step(params, [None if g is None else g.astype(np.float64) for g in step])
    return params


@every_numpy_door
@every_real
@every_form
def test_follows_the_papers(card: Card, options: Options, dtype: Any, door: Any) -> None:
    start, grads = trajectory_inputs(card.shapes(SHAPES), dtype, 60, seed=1)
    found = runs.run(card, options, start, grads, door)
    assert_close(found, expected(card, options, start, grads), dtype)


@every_real
@every_first_form
def test_large_parameters(card: Card, options: Options, dtype: Any) -> None:
    start, grads = trajectory_inputs(
        [(16_385,), (2, 50_000), (300, 200), (5,)], dtype, 4, seed=2, missing=0
    )
    found = runs.run(card, options, start, grads)
    assert_close(found, expected(card, options, start, grads), dtype)


@pytest.mark.parametrize("size", [1, 511, 4096, 4097, 16_384, 16_385, 70_000])
@every_real
@every_card(has_caution, ELEMENT_WISE)
def test_steps_that_all_agree_are_those_without_caution(card: Card, dtype: Any, size: int) -> None:
    # The first step follows its gradient.
    start, grads = trajectory_inputs([(size,)], dtype, 1, seed=3, missing=0)
    options = {"lr": 0.1, **card.only(momentum=0.9, initial_accumulator=0.0)}
    found = runs.run(card, {**options, "caution": True}, start, grads)
    np.testing.assert_array_equal(found, runs.run(card, options, start, grads))


@every_card(has_caution)
def test_steps_that_all_disagree_move_nothing(card: Card) -> None:
    w, options = np.full(50, 2.0), {"lr": 0.1, **card.only(momentum=0.9, **WITHOUT_DECAY)}
    optimizer = card.cls([w], **options, caution=True)
    for _ in range(8):
        optimizer.step(grads=[np.ones(50)])
    before = w.copy()
    optimizer.step(grads=[np.full(50, -1e-3)])
    np.testing.assert_array_equal(w, before)


def test_a_step_of_few_elements_is_scaled_by_a_thousand_at_most() -> None:
    w, grad = np.zeros(10_000), np.ones(10_000)
    optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.5, caution=True)
    optimizer.step(grads=[grad])
    grad[1:] = -0.25  # their momentum is 0.25 then, that of the first 1.5
    before = w.copy()
    optimizer.step(grads=[grad])
    np.testing.assert_array_equal(w[1:], before[1:])
    assert before[0] - w[0] == pytest.approx(1500)


@every_real
def test_signs_are_compared_and_not_products(dtype: Any) -> None:
    # The product of momentum and gradient is below the smallest number.
    small = np.finfo(dtype).tiny * 1e6
    w = np.zeros(3, dtype)
    optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.5, caution=True)
    optimizer.step(grads=[np.array([small, -small, small], dtype)])
    optimizer.step(grads=[np.array([small, -small, -small / 4], dtype)])
    np.testing.assert_allclose(w / small, [-3.25, 3.25, -1.0], rtol=1e-6)
    lion = cyoptim.Lion(
        [v := np.full(2, small, dtype)], lr=small / 2, weight_decay=0.5 / small, cautious_wd=True
    )
    lion.step(grads=[np.array([1, -1], dtype)])
    np.testing.assert_allclose(v / small, [0.25, 1.5], rtol=1e-6)


ALONG_AVERAGES = ["AdaBelief", "Adam", "AdamW", "Adamax", "RAdam", "SGD", "Yogi"]


@pytest.mark.parametrize("size", [2, 300, 20_000, 2_000_000])
@pytest.mark.parametrize("name", ALONG_AVERAGES)
def test_a_step_that_is_flushed_to_zero_follows_its_gradient(name: str, size: int) -> None:
    # As in the authors' code, whose mask is of the average: steps do not become longer where others are tiny.
    card = BY_NAME[name]
    grad, w = np.ones(size, np.float32), np.zeros(size, np.float32)
    grad[::2] = 1e-36
    options = {"lr": 1e-12, **card.only(momentum=0.9, initial_accumulator=0.0)}
    optimizer = card.cls([w], **options, caution=True)
    for _ in range(3):  # RAdam does not adapt yet
        optimizer.step(grads=[grad])
    plain = card.cls([v := np.zeros(size, np.float32)], **options)
    for _ in range(3):
        plain.step(grads=[grad])
    assert np.count_nonzero(v[1::2]) == size // 2
    np.testing.assert_array_equal(w, v)


def test_what_decays_cautiously() -> None:
    # Where the step goes towards zero, or stands still.
    p = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    g = np.array([3.0, -3.0, -3.0, 3.0, 0.0])
    w = p.copy()
    cyoptim.Lion([w], lr=0.1, weight_decay=1.0, cautious_wd=True).step(grads=[g])
    np.testing.assert_allclose(w, [0.8, -0.8, 1.1, -1.1, 0.9])


def test_what_caution_masks_decays() -> None:
    w = np.array([1.0, 1.0])
    optimizer = cyoptim.Lion(
        [w], lr=0.1, betas=(0.9, 0.9), weight_decay=1.0, caution=True, cautious_wd=True
    )
    optimizer.state[w]["exp_avg"] = np.array([-1.0, 1.0])  # both would go up
    optimizer.step(grads=[np.array([0.5, 0.5])])
    np.testing.assert_allclose(w, [0.9, 0.9 - 0.2])


@pytest.mark.parametrize("size", [40, 20_000])
@pytest.mark.parametrize("value", [np.nan, np.inf])
@every_first_form_of_elements
def test_nonfinite_gradients_stay_in_their_element(
    card: Card, options: Options, value: float, size: int
) -> None:
    a, b = np.ones(size), np.ones(size)
    optimizer = card.cls([a, b], **options)
    grads = np.random.default_rng(6).standard_normal((3, size))
    optimizer.step(grads=[grads[0], grads[0]])
    spoilt = grads[1].copy()
    spoilt[17] = value
    optimizer.step(grads=[spoilt, grads[1]])
    optimizer.step(grads=[grads[2], grads[2]])
    clean = np.arange(size) != 17
    assert np.isfinite(b).all()
    assert np.isfinite(a[clean]).all()
    if np.isnan(value):
        assert np.isnan(a[17])


@every_first_form
def test_gradients_of_zero_move_nothing(card: Card, options: Options) -> None:
    for dtype in (np.float32, np.float64):
        w = np.ones(10, dtype)
        optimizer = card.cls([w], **{**options, **card.only(**WITHOUT_DECAY)})
        for _ in range(3):
            optimizer.step(grads=[np.zeros(10, dtype)])
        np.testing.assert_array_equal(w, 1)


# --- the step -------------------------------------------------------------------------------------


def all_alike(found: list[Any]) -> None:
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@every_first_form
def test_stages_see_the_same_step(card: Card, options: Options) -> None:
    # Averages, gradients that are scaled, and zeros, in the passes of the step and outside of them.
    shapes = [(7,), (600,), (5000,), (40_000,), (20, 30), (200, 200)]
    start, grads = trajectory_inputs(shapes, np.float32, 4, seed=5, missing=0)
    fused, plain = ([array.copy() for array in start] for _ in range(2))
    one, other = card.cls(fused, **options), card.cls(plain, **options)
    averages = one.ema(0.5)
    mean = None
    for step in grads:
        gone = [g.copy() for g in step]
        one.step(grads=gone, grad_scale=2.0, zero_grad=True)
        other.step(grads=[g / np.float32(2) for g in step])
        assert not any(g.any() for g in gone)
        mean = [p.copy() for p in plain] if mean is None else [
            m + np.float32(0.5) * (p - m) for m, p in zip(mean, plain, strict=True)
        ]  # fmt: skip
    all_alike([fused, plain])
    for p, m in zip(fused, mean or [], strict=True):
        np.testing.assert_allclose(averages[p], m, rtol=1e-5, atol=1e-6)


@every_real
@every_first_form
def test_what_is_kept_from_pass_to_pass_changes_nothing(
    card: Card, options: Options, dtype: Any
) -> None:
    # Beside a large parameter, nothing is kept.
    start, grads = trajectory_inputs([(100, 200), (1_200_000,)], dtype, 2, seed=10, missing=0)
    beside = runs.run(card, options, start, grads)
    alone = runs.run(card, options, start[:1], [step[:1] for step in grads])
    np.testing.assert_array_equal(beside[0], alone[0])


@every_first_form
def test_gradients_are_clipped_unscaled_and_skipped_before(card: Card, options: Options) -> None:
    start, grads = trajectory_inputs([(30,), (2, 3)], np.float64, 6, seed=8, missing=0)
    params, expected = ([array.copy() for array in start] for _ in range(2))
    one, other = card.cls(params, **options), card.cls(expected, **options)
    for step in grads:
        one.step(grads=[8 * g for g in step], max_norm=0.5, grad_scale=8.0)
        norm = np.sqrt(sum((g**2).sum() for g in step))
        other.step(grads=[g * (0.5 / (norm + 1e-6)) for g in step])
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
    before = [array.copy() for array in params]
    one.step(grads=[np.full_like(g, np.nan) for g in grads[0]], nonfinite="skip")
    for a, b in zip(params, before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_first_form
def test_a_parameter_that_joins_late(card: Card, options: Options) -> None:
    start, grads = trajectory_inputs([(30,), (30,)], np.float64, 6, seed=7, missing=0)
    late = [[g[0], None if k < 3 else g[1]] for k, g in enumerate(grads)]
    found = runs.run(card, options, start, late)
    alone = runs.run(card, options, start[1:], [g[1:] for g in grads[3:]])
    np.testing.assert_array_equal(found[1], alone[0])


@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
@every_first_form
def test_a_parameter_that_occurs_twice(card: Card, options: Options) -> None:
    start, grads = trajectory_inputs([(5000,)], np.float64, 6, seed=8, missing=0)
    w, v = start[0].copy(), start[0].copy()
    twice, once = card.cls([w, w], **options), card.cls([v], **options)
    for k in range(3):
        twice.step(grads=[grads[2 * k][0], grads[2 * k + 1][0]])
        once.step(grads=grads[2 * k])
        once.step(grads=grads[2 * k + 1])
    np.testing.assert_array_equal(w, v)


@every_first_form
def test_kernels(card: Card, options: Options) -> None:
    if options.get("caution"):
        with pytest.raises(TypeError, match=f"{card} has no kernel: it is not element-wise"):
            Kernel(card.cls, **options)
    else:
        assert Kernel(card.cls, **options).state_names == Kernel(card.cls).state_names


# --- groups and options ---------------------------------------------------------------------------


@every_first_form
def test_groups_may_differ_and_change(card: Card, options: Options) -> None:
    start, grads = trajectory_inputs([(60, 100), (5,)], np.float64, 6, seed=9, missing=0)
    plain = {k: v for k, v in options.items() if not k.startswith("cauti")}
    cautious = {k: v for k, v in options.items() if k.startswith("cauti")}
    a, b = (array.copy() for array in start)
    mixed = card.cls([{"params": [a], **cautious}, {"params": [b]}], **plain)
    assert not {*cautious} & {*mixed.param_groups[1]}
    for step in grads[:3]:
        mixed.step(grads=step)
    one = runs.run(card, options, start[:1], [g[:1] for g in grads[:3]])
    other = runs.run(card, plain, start[1:], [g[1:] for g in grads[:3]])
    all_alike([[a, b], one + other])
    mixed.param_groups[0].update(dict.fromkeys(cautious, False))
    mixed.param_groups[1].update(cautious)
    twin = copy.deepcopy(mixed)
    c, d = (group["params"][0] for group in twin.param_groups)
    mixed.load_state_dict(mixed.state_dict())
    for step in grads[3:]:
        mixed.step(grads=step)
        twin.step(grads=step)
    all_alike([[a, b], [c, d]])
    assert not np.array_equal(a, one[0])


@every_card(has_caution)
def test_groups_without_caution_are_torchs(card: Card) -> None:
    optimizer = card.cls([np.zeros(2)])
    assert not {"caution", "cautious_wd"} & {*optimizer.param_groups[0], *optimizer.defaults}
    cautious = card.cls([np.zeros(2)], **card.only(momentum=0.5), caution=True)
    assert cautious.param_groups[0]["caution"] is True
    cautious.load_state_dict(card.cls([np.zeros(2)], **card.only(momentum=0.5)).state_dict())
    assert cautious.param_groups[0]["caution"] is True


@every_card(has_caution)
def test_what_is_refused(card: Card) -> None:
    options = {**card.only(momentum=0.5), "caution": True}
    with pytest.raises(UnsupportedError, match="does not support complex parameters"):
        card.cls([w := np.zeros(3, complex)], **options).step(grads=[np.ones(3, complex)])
    assert not w.any()
    with pytest.raises(UnsupportedError, match="caution or cautious_wd does not support sparse"):
        card.cls([w := np.zeros((3, 2))], **options).step(grads=[([1], np.ones((1, 2)))])
    assert not w.any()
    for bad in ("", "yes", [True]):
        with pytest.raises(TypeError, match="caution must be True or False"):
            card.cls([np.zeros(3)], **{**options, "caution": bad})
        with pytest.raises(TypeError, match="caution must be True or False"):
            card.cls([{"params": [np.zeros(3)], "caution": bad}], **card.only(momentum=0.5))
    if card.takes("momentum"):
        with pytest.raises(ValueError, match="caution=True requires a momentum"):
            card.cls([np.zeros(3)], momentum=0.0, caution=True)
    if card.takes("decoupled_weight_decay"):
        with pytest.raises(ValueError, match="cautious_wd=True requires decoupled weight decay"):
            card.cls([np.zeros(3)], cautious_wd=True)


def test_what_is_changed_in_a_group_is_checked() -> None:
    optimizer = cyoptim.SGD([w := np.zeros(3)], lr=0.1)
    optimizer.param_groups[0]["caution"] = True
    with pytest.raises(ValueError, match="param group 0: caution=True requires a momentum"):
        optimizer.step(grads=[np.ones(3)])
    assert not w.any()


def test_those_of_other_packages_are_kept_without_effect() -> None:
    with pytest.warns(UserWarning, match="it is kept and has no effect"):
        optimizer = cyoptim.Rprop([{"params": [np.zeros(3)], "caution": True}])
    optimizer.step(grads=[np.ones(3)])
    plain, w = np.zeros(3), np.zeros(3)
    with pytest.warns(UserWarning, match="it is kept and has no effect"):
        optimizer = cyoptim.LaProp([{"params": [w], "cautious_wd": True}], weight_decay=0.1)
    for one in (optimizer, cyoptim.LaProp([plain], weight_decay=0.1)):
        one.step(grads=[np.ones(3)])
    np.testing.assert_array_equal(w, plain)


def test_who_is_cautious() -> None:
    assert has_caution(BY_NAME["Lion"])
    for card in cards(has_caution):
        assert card.cls._cautious_options == tuple(card.only(caution=1, cautious_wd=1))
    others = cards(lambda card: card.takes("caution") and not has_caution(card))
    assert [*map(str, others)] == ["AdafactorBigVision"]  # always in its groups
