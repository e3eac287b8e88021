"""Steps over parameters and states that are stored in 16 and 8 bits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import _dispatch
from cyoptim._engine import NONNEGATIVE, widened
from tests.optimizers import cards, variants
from tests.support import cautious
from tests.support.bits import asking_ahead, digest, digests_on_threads, use_isa
from tests.support.cards import ELEMENT_WISE, MODES, Card, Options
from tests.support.doors import trajectory_inputs
from tests.support.narrow import (
    FORMATS,
    bfloat16,
    full,
    narrowed,
    optimizer_of,
    stored,
    takes_narrow,
)
from tests.support.parametrize import every_card, every_variant

pytest.importorskip("ml_dtypes")

CHUNK = 16384
BFLOAT16 = bfloat16()
# One element to several chunks and bundles; matrices, for rules by rows.
SHAPES = [(1,), (17,), (513,), (33, 40), (CHUNK + 5,), (64, 512), ()]
LARGE = [(5000,), (16, 256, 2), (2 * CHUNK + 300,)]
narrow = every_variant(takes_narrow)
CAUTIOUS = [(card, options) for card, options in cautious.FORMS if takes_narrow(card)]


def inputs(shapes: Any, steps: int, seed: int, dtype: Any = None) -> tuple[list[Any], list[Any]]:
    """Parameters and gradients that bfloat16 has."""
    start, grads = trajectory_inputs(shapes, np.float32, steps, seed=seed)
    dtype = BFLOAT16 if dtype is None else dtype
    return narrowed(start, dtype), [narrowed(step, dtype) for step in grads]


def as_float32(steps: Any) -> list[list[Any]]:
    return [narrowed(step, np.float32) for step in steps]


# --- masters: the bits of float32 -----------------------------------------------------------------


@narrow
@pytest.mark.parametrize("master", ["split", "float32"])
def test_a_master_has_the_bits_of_float32(card: Card, options: Options, master: str) -> None:
    start, grads = inputs(card.shapes(SHAPES), 6, seed=1)
    ours, params = stored(card, start, grads, options, master=master)
    plain, expected = stored(card, narrowed(start, np.float32), as_float32(grads), options)
    for param, other in zip(params, expected, strict=True):
        np.testing.assert_array_equal(full(ours, param), other.data)
        # What is seen is the float32 value, rounded to nearest; of a tie, either.
        error = np.abs(param.data.astype(np.float32) - other.data)
        assert np.all(error <= np.abs(other.data) * 2.0**-8 + 1e-38)
        for name, value in plain.state[other].items():
            np.testing.assert_array_equal(ours.state[param][name], value)


@pytest.mark.parametrize(("card", "options"), CAUTIOUS)
def test_a_master_has_the_bits_of_float32_with_caution(card: Card, options: Options) -> None:
    test_a_master_has_the_bits_of_float32(card, options, "split")


SPECIAL = st.sampled_from([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-38, -1e-40, 3e38, 1e-20])
NUMBERS = st.one_of(st.floats(-2, 2, width=16), SPECIAL)
GRADIENTS = st.sampled_from([BFLOAT16, np.float32, np.float16, None])


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    card=st.sampled_from(cards(takes_narrow)),
    sizes=st.lists(
        st.sampled_from([0, 1, 15, 255, 257, 511, 513, CHUNK + 1]), min_size=1, max_size=4
    ),
    layout=st.sampled_from(["C", "F", "gaps"]),
    kinds=st.lists(GRADIENTS, min_size=3, max_size=3),
    numbers=st.lists(NUMBERS, min_size=4, max_size=4),
    seed=st.integers(0, 5),
)
def test_whatever_the_size_layout_and_numbers(
    card: Card, sizes: Any, layout: str, kinds: Any, numbers: Any, seed: int
) -> None:
    shapes = card.shapes([(size, 2) if layout == "F" else (size,) for size in sizes])
    rng = np.random.default_rng(seed)

    def draw(shape: Any) -> Any:
        array = rng.standard_normal(shape).astype(np.float32)
        flat = array.reshape(-1)
        flat[: len(numbers)] = numbers[: flat.size]
        return array

    def laid_out(array: Any) -> Any:
        if layout == "gaps":
            room = np.zeros([2 * n for n in array.shape], array.dtype)
            view = room[tuple(slice(None, None, 2) for _ in array.shape)]
            view[...] = array
            return view
        return np.array(array, order=layout)

    with np.errstate(all="ignore"):
        start = narrowed(map(draw, shapes), BFLOAT16)
        steps = [
            [None if kind is None else draw(shape).astype(kind) for shape in shapes]
            for kind in kinds
        ]
        wide = as_float32(steps)
    params = [laid_out(array) for array in start]
    plain = narrowed(start, np.float32)
    ours, theirs = optimizer_of(card, params, {}), optimizer_of(card, plain, {})
    for step, other in zip(steps, wide, strict=True):
        ours.step(grads=[None if g is None else laid_out(g) for g in step])
        theirs.step(grads=other)
    for param, other in zip(params, plain, strict=True):
        np.testing.assert_array_equal(full(ours, param), other)


@narrow
def test_a_master_of_float16_has_the_bits_of_float32(card: Card, options: Options) -> None:
    start, grads = inputs(card.shapes(SHAPES), 4, seed=2, dtype=np.float16)
    ours, params = stored(card, start, grads, options)
    _, expected = stored(card, narrowed(start, np.float32), as_float32(grads), options)
    for param, other in zip(params, expected, strict=True):
        np.testing.assert_array_equal(full(ours, param), other.data)
        np.testing.assert_array_equal(param.data, other.data.astype(np.float16))


@narrow
def test_gradients_of_another_precision(card: Card, options: Options) -> None:
    start, grads = inputs(card.shapes(SHAPES), 4, seed=3)
    wide = narrowed(start, np.float32)
    _, expected = stored(card, wide, as_float32(grads), options)
    _, found = stored(card, wide, grads, options)  # bfloat16 over float32
    half = [narrowed(narrowed(step, np.float32), np.float16) for step in grads]
    _, of_half = stored(card, wide, half, options)
    _, widened_half = stored(card, wide, as_float32(half), options)
    ours, params = stored(card, start, as_float32(grads), options)  # float32 over bfloat16
    mixed = [
        step if i % 2 else narrow
        for i, (step, narrow) in enumerate(zip(as_float32(grads), grads, strict=True))
    ]
    both, params_of_both = stored(card, start, mixed, options)
    for i, other in enumerate(expected):
        np.testing.assert_array_equal(found[i].data, other.data)
        np.testing.assert_array_equal(of_half[i].data, widened_half[i].data)
        np.testing.assert_array_equal(full(ours, params[i]), other.data)
        np.testing.assert_array_equal(full(both, params_of_both[i]), other.data)


EXTRAS: dict[str, dict[str, Any]] = {
    "clipped": {"max_norm": 0.5},
    "scaled": {"grad_scale": 8.0},
    "both": {"max_norm": 0.5, "grad_scale": 8.0, "zero_grad": False},
    "skip": {"nonfinite": "skip"},
}


@pytest.mark.parametrize("extras", EXTRAS.values(), ids=EXTRAS)
@every_card(takes_narrow)
def test_what_a_step_takes_beside_gradients(card: Card, extras: dict[str, Any]) -> None:
    start, grads = inputs(card.shapes(SHAPES), 5, seed=4)
    grads[2] = [None if g is None else np.full_like(g, np.inf) for g in grads[2]]
    if "nonfinite" not in extras:
        del grads[2]
    runs = []
    for begin, steps in ((start, grads), (narrowed(start, np.float32), as_float32(grads))):
        params = [cyoptim.Parameter(array.copy()) for array in begin]
        optimizer = optimizer_of(card, params, {})
        average = () if MODES(card) else optimizer.ema(0.9)
        receipts = []
        for step in steps:
            optimizer.step(grads=step, **extras)
            receipts.append(optimizer.last_step)
        runs.append((optimizer, params, list(average), receipts))
    (ours, params, means, receipts), (_, expected, others, known) = runs
    for param, other in zip(params, expected, strict=True):
        np.testing.assert_array_equal(full(ours, param), other.data)
    for mean, other in zip(means, others, strict=True):
        assert mean.dtype == np.float32
        np.testing.assert_array_equal(mean, other)
    assert [r.total_norm for r in receipts] == [r.total_norm for r in known]


@every_card(takes_narrow)
def test_gradients_are_accumulated_in_float32(card: Card) -> None:
    start, grads = inputs(card.shapes(SHAPES), 6, seed=5)
    runs = []
    for begin, steps in ((start, grads), (narrowed(start, np.float32), as_float32(grads))):
        params = [cyoptim.Parameter(array.copy()) for array in begin]
        optimizer = optimizer_of(card, params, {})
        for number, step in enumerate(steps):
            optimizer.accumulate(step)
            if number % 3 == 2:
                optimizer.step()
        runs.append((optimizer, params))
    for param, other in zip(runs[0][1], runs[1][1], strict=True):
        np.testing.assert_array_equal(full(runs[0][0], param), other.data)


@every_card(takes_narrow, ~MODES)
def test_inside_averaged_parameters_are_the_rounded_averages(card: Card) -> None:
    start, grads = inputs(card.shapes(SHAPES), 4, seed=6)
    params = [cyoptim.Parameter(array.copy()) for array in start]
    optimizer = optimizer_of(card, params, {})
    average = optimizer.ema(0.5)
    with optimizer.averaged():  # of no step yet
        pass
    for step in grads:
        optimizer.step(grads=step)
    before = [param.data.copy() for param in params]
    means = [mean.copy() for mean in average]
    with optimizer.averaged():
        for param, mean in zip(params, means, strict=True):
            np.testing.assert_array_equal(param.data, mean.astype(BFLOAT16))
    for param, old, mean, now in zip(params, before, means, average, strict=True):
        np.testing.assert_array_equal(param.data, old)
        np.testing.assert_array_equal(now, mean)


def test_gradients_are_filled_with_zeros() -> None:
    w = cyoptim.Parameter(np.ones(1000, BFLOAT16))
    for grad in (np.ones(1000, BFLOAT16), np.ones(1000, np.float32)):
        for extras in ({}, {"max_norm": 1.0}):
            room = np.ones(1100, grad.dtype)  # what lies beyond stays
            w.grad = room[:1000]
            optimizer_of(next(c for c, _ in variants(takes_narrow)), [w], {}).step(
                zero_grad=True, **extras
            )
            assert np.all(room[:1000].astype(float) == 0)
            assert np.all(room[1000:].astype(float) == 1)


# --- rounding by random bits ----------------------------------------------------------------------


def adamw(p: Any, **options: Any) -> Any:
    return cyoptim.AdamW([{"params": [p], **options}], lr=1e-3, weight_decay=0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_defaults_train_where_rounding_to_nearest_does_not() -> None:
    found = {}
    for name, storage in {
        "split": {},
        "float32": {"master": "float32"},
        "stochastic": {"master": None, "state_dtype": "bfloat16"},
        "nearest": {"master": None, "rounding": "nearest", "state_dtype": "bfloat16"},
    }.items():
        p = np.ones(4096, BFLOAT16)
        optimizer = adamw(p, **storage)
        for _ in range(300):
            optimizer.step(grads=[np.full(4096, 0.5, BFLOAT16)])
        second = widened(optimizer.state[p]["exp_avg_sq"]).mean(dtype=np.float64)
        for _ in range(2000):
            optimizer.step(grads=[np.zeros(4096, BFLOAT16)])
        third = widened(optimizer.state[p]["exp_avg_sq"]).mean(dtype=np.float64)
        found[name] = p.astype(float).mean(), second, third
    # In float32: 0.6975 after 300 steps, of which 0.7 is the sum of steps of lr; the squares' average
    # 0.0648 there, and 0.00876 after 2,000 more. Each of 4,096 elements is rounded by up to 2**-9 of itself.
    for name in ("split", "float32", "stochastic"):
        assert abs(found[name][1] - 0.0648) < 0.001, name
        assert abs(found[name][2] - 0.00876) < 0.0003, name
    assert found["nearest"][0] == 1.0
    assert found["nearest"][2] > 0.06


def test_random_bits_are_those_of_seed_step_parameter_and_element() -> None:
    shape = (70, 300)
    start, grads = inputs([shape, shape], 5, seed=8)
    start[1], grads = start[0], [[step[0], step[0]] for step in grads]

    def run(begin: Any = start, steps: Any = grads, **storage: Any) -> list[Any]:
        settings = {"master": None, "state_dtype": "bfloat16", "seed": 3, **storage}
        params = [array.copy("K") for array in begin]
        optimizer = cyoptim.AdamW([{"params": params, **settings}])
        for step in steps:
            optimizer.step(grads=step)
        return params

    first = run()
    assert not np.array_equal(first[0], first[1])  # two parameters
    assert not np.array_equal(first[0], run(seed=4)[0])
    np.testing.assert_array_equal(first, run())
    fortran = [np.asfortranarray(array) for array in start]
    in_fortran = [[g if g is None else np.asfortranarray(g) for g in step] for step in grads]
    of_fortran = run(fortran, in_fortran)
    gaps = [np.zeros((140, 600), BFLOAT16)[::2, ::2] for _ in start]
    for gap, array in zip(gaps, start, strict=True):
        gap[...] = array
    for found in (of_fortran, run(gaps), run(start[:1], [step[:1] for step in grads])):
        for array, other in zip(found, first, strict=False):
            np.testing.assert_array_equal(array, other)


# --- states of fewer bits -------------------------------------------------------------------------


def depends_on_signs(card: Card, options: Options) -> bool:
    return card.name in ("Lion", "SignSGD", "SophiaG") or options.get("mars_type") == "mars-lion"


def is_delicate(card: Card, options: Options) -> bool:
    """Whether its averages begin with squares that are tiny beside others, so that few bits have them only
    as the least number above 0: steps are then smaller, but not larger."""
    return card.name in ("DAdaptAdam", "Prodigy") or (
        card.name == "ADOPT" and options.get("clip_lambda", 0) is None
    )


@every_variant(takes_narrow)
@pytest.mark.parametrize("form", FORMATS)
def test_states_of_fewer_bits_stay_near(card: Card, options: Options, form: str) -> None:
    start, grads = trajectory_inputs(card.shapes(LARGE), np.float32, 5, seed=9, missing=0)
    ours, params = stored(card, start, grads, options, state_dtype=form)
    _, expected = stored(card, start, grads, options)
    for param, other, begin in zip(params, expected, start, strict=True):
        assert np.isfinite(param.data).all()
        moved = np.linalg.norm(other.data.astype(float) - begin)
        error = np.linalg.norm(param.data.astype(float) - other.data)
        # Of five steps: rounding is by up to 2**-8 (bfloat16) or a sixteenth (8 bits) of an average, and by
        # more where numbers within a block differ by orders of magnitude, or are below 6e-8, the least of
        # float16. The sign of what is near 0 may be another.
        tolerance = 0.02 if form == "bfloat16" and not depends_on_signs(card, options) else 0.5
        tolerance = 1.5 if form != "bfloat16" and is_delicate(card, options) else tolerance
        assert error <= moved * tolerance + 1e-5, error / moved
        for name, value in ours.state[param].items():
            if name in NONNEGATIVE:
                assert np.all(widened(value, ours.state[param].get(name + "_scale"), name) >= 0)


@every_variant(takes_narrow)
@pytest.mark.parametrize("form", FORMATS)
def test_a_copy_goes_on_alike(card: Card, options: Options, form: str) -> None:
    start, grads = inputs(card.shapes(LARGE), 6, seed=10)
    storage: dict[str, Any] = {"state_dtype": form, "master": None}
    ours, params = stored(card, start, grads, options, **storage)
    half, _ = stored(card, start, grads[:3], options, **storage)
    twin = copy.deepcopy(half)
    for step in grads[3:]:
        twin.step(grads=step)
    for param, other in zip(params, twin.param_groups[0]["params"], strict=True):
        assert param.data.tobytes() == other.data.tobytes()
        for name, value in ours.state[param].items():
            assert value.tobytes() == twin.state[other][name].tobytes()


@every_card(takes_narrow)
def test_small_and_ragged_tensors_keep_float32(card: Card) -> None:
    start, grads = trajectory_inputs(
        card.shapes([(4095,), (37, 140)]), np.float32, 1, seed=11, missing=0
    )
    ours, params = stored(card, start, grads, {}, state_dtype="dynamic8")
    for name in ours.state[params[0]]:
        assert not name.endswith("_scale")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_no_step_of_8_bits_explodes() -> None:
    # Runs of 64 elements whose gradients differ by e**10 within a block of 256.
    rng = np.random.default_rng(0)
    scale = np.exp(np.repeat(rng.uniform(-8, 2, 256), 64)).astype(np.float32)
    for form in ("dynamic8", "float8_e4m3fn"):
        p = np.zeros(scale.size, np.float32)
        optimizer = adamw(p, state_dtype=form)
        largest = 0.0
        for _ in range(100):
            before = p.copy()
            optimizer.step(grads=[(rng.normal(size=p.size) * scale).astype(np.float32)])
            largest = max(largest, float(np.abs(p - before).max() / 1e-3))
        assert largest < 5, form  # in units of lr; with nearest codes it is 200,000


# --- the same bits --------------------------------------------------------------------------------


WAYS: dict[str, dict[str, Any]] = {
    "split": {},
    "stochastic": {"master": None, "state_dtype": "bfloat16"},
    "half": {"master": "float32", "state_dtype": "float16"},
    "dynamic8": {"state_dtype": "dynamic8"},
    "float8": {"state_dtype": "float8_e4m3fn", "master": None},
}


def all_digests() -> dict[str, str]:
    found = {}
    for card, options in variants(takes_narrow):
        start, grads = inputs(card.shapes([*SHAPES, *LARGE, (6 * CHUNK + 5,)]), 3, seed=12)
        for way, storage in WAYS.items():
            _, params = stored(card, start, grads, options, **storage)
            found[f"{card}-{options}-{way}"] = digest([param.data for param in params])
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    with cyoptim.threads(1):
        return all_digests()


@pytest.mark.slow
@pytest.mark.parametrize("isa", _dispatch.LEVELS)
def test_same_bits_on_each_instruction_set(isa: str, expected: dict[str, str]) -> None:
    use_isa(isa)
    assert all_digests() == expected


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512", "avx512bf16"])
def test_same_bits_where_memory_is_asked_for_ahead(isa: str, expected: dict[str, str]) -> None:
    with asking_ahead(isa):
        assert all_digests() == expected


@pytest.mark.slow
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_same_bits_on_any_number_of_threads(threads: int, expected: dict[str, str]) -> None:
    assert digests_on_threads("tests.engine.test_storage", threads) == expected


TILED: dict[str, dict[str, Any]] = {
    "split": {},
    "split, bfloat16": {"state_dtype": "bfloat16"},
    "stochastic": {"master": None},
    "all stochastic": {"master": None, "state_dtype": "bfloat16"},
    "all to nearest": {"master": None, "state_dtype": "bfloat16", "rounding": "nearest"},
    "one state": {"master": None, "state_dtype": {"exp_avg": "bfloat16"}},
}


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
@pytest.mark.parametrize("storage", TILED.values(), ids=TILED)
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_tiles_have_the_bits_of_pieces(name: str, storage: Any, options: Options) -> None:
    (card,) = [card for card in cards(takes_narrow) if card.name == name]
    start, grads = inputs([(n,) for n in (63, 64, 4097, CHUNK + 255, 300_000)], 4, seed=14)
    for dtype in (BFLOAT16, np.float32):
        runs = []
        for in_pieces in (False, True):
            params = [array.copy() for array in start]
            optimizer = optimizer_of(card, params, options, **storage)
            if in_pieces:
                optimizer.ema(0.9)  # what follows a parameter does so in pieces
            for step in grads:
                optimizer.step(grads=narrowed(step, dtype))
            states = [optimizer.state[param] for param in params]
            runs.append([array.tobytes() for state in states for array in state.values()])
            runs[-1] += [param.tobytes() for param in params]
        assert runs[0] == runs[1]


@pytest.mark.parametrize("way", WAYS)
@every_card(takes_narrow, ELEMENT_WISE)
def test_other_parameters_change_no_bit(card: Card, way: str) -> None:
    shapes = [(70,), (300_000,), (40, 700)]
    start, grads = inputs(card.shapes(shapes), 3, seed=13)
    _, together = stored(card, start, grads, {}, **WAYS[way])
    _, alone = stored(card, start[:2], [step[:2] for step in grads], {}, **WAYS[way])
    for param, other in zip(alone, together, strict=False):
        np.testing.assert_array_equal(param.data, other.data)
