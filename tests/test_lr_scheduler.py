"""Schedulers: torch's trajectories, states that travel, and what we promise beyond torch."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import json
import math
import pickle
import sys
import types
import warnings
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import lr_scheduler
from cyoptim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    InverseSqrtLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
    WarmupCosineLR,
    WarmupStableDecayLR,
)
from scheduler_cases import (
    ALONE,
    CASE_OF,
    CASES,
    GOLDEN_STEPS,
    LRS,
    PLATEAUS,
    SCENARIOS,
    SEVERAL,
    STEPS,
    Scenario,
    advance,
    decline,
    hyperbola,
    make_optimizer,
    plateau,
    row,
    trajectory,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "schedulers.json").read_text())
OURS: dict[str, Scenario] = {
    "WarmupCosineLR": Scenario(
        lambda lib, o: [lib.WarmupCosineLR(o, 10, 60, start_factor=0.1, end_factor=0.01)]
    ),
    "WarmupStableDecayLR": Scenario(lambda lib, o: [lib.WarmupStableDecayLR(o, 10, 20, 30)]),
    "InverseSqrtLR": Scenario(lambda lib, o: [lib.InverseSqrtLR(o, 10)]),
}
ALL_SCENARIOS = {**SCENARIOS, **OURS}
ONE_SCHEDULER = [name for name in ALL_SCENARIOS if name not in SEVERAL]
CLOSED_FORM = [name for name in ALONE if CASE_OF[name].closed_form] + list(OURS)


def sgd(*lrs: Any, **options: Any) -> cyoptim.SGD:
    groups = [{"params": [cyoptim.Parameter(np.zeros(3))], "lr": lr} for lr in lrs or (1.0,)]
    return cyoptim.SGD(groups, **options)


def ours(name: str = "SGD", lrs: Any = LRS) -> Any:
    return make_optimizer(cyoptim, name, [cyoptim.Parameter(np.zeros(3)) for _ in lrs], lrs)


def theirs(torch: Any, name: str = "SGD", lrs: Any = LRS) -> Any:
    params = [torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in lrs]
    return make_optimizer(torch.optim, name, params, lrs)


def lrs_of(optimizer: Any) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


def step(optimizer: Any, *schedulers: Any, times: int = 1) -> None:
    advance(optimizer, schedulers, times)


def run(optimizer: Any, scheduler: Any, steps: int) -> list[float]:
    """The first group's learning rates from now on."""
    return [lrs_of(optimizer)[0]] + [rows[0] for rows in advance(optimizer, [scheduler], steps)]


def close(found: Any, expected: Any, tolerance: float = 1e-12) -> None:
    np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=tolerance)


def quiet(call: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def recorded(call: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        call()
    return found


# --- torch's trajectories -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_follows_torch_as_recorded(name: str) -> None:
    scenario = SCENARIOS[name]
    rows = trajectory(ours(scenario.optimizer), scenario, lr_scheduler, STEPS)
    close([rows[i] for i in GOLDEN_STEPS], GOLDEN["rows"][name])


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau_follows_torch_as_recorded(name: str) -> None:
    close(plateau(ours(), lr_scheduler, name), GOLDEN["plateaus"][name])


def test_no_scheduler_is_forgotten() -> None:
    assert list(GOLDEN["rows"]) == list(SCENARIOS)
    assert list(GOLDEN["plateaus"]) == list(PLATEAUS)
    things = (getattr(lr_scheduler, name) for name in lr_scheduler.__all__)
    classes = {thing.__name__ for thing in things if isinstance(thing, type)}
    elsewhere = {"ReduceLROnPlateau", "SequentialLR", "ChainedScheduler"}
    bases = {"LRScheduler", "_LRScheduler"}
    assert {case.name for case in CASES} | set(OURS) | elsewhere | bases == classes


@pytest.mark.parametrize("name", SCENARIOS)
def test_follows_torch(torch: Any, name: str) -> None:
    scenario = SCENARIOS[name]
    expected = quiet(
        lambda: trajectory(
            theirs(torch, scenario.optimizer), scenario, torch.optim.lr_scheduler, STEPS
        )
    )
    close(trajectory(ours(scenario.optimizer), scenario, lr_scheduler, STEPS), expected)


JUMPS = [2, 0, 7, None, 30, 30, None, None, 12, 100, 99, None]


@pytest.mark.parametrize("name", ALONE)
def test_jumps_to_an_epoch_as_torch(torch: Any, name: str) -> None:
    def jump(optimizer: Any, lib: Any) -> list[list[float]]:
        schedulers = SCENARIOS[name].build(lib, optimizer)
        rows = []
        for epoch in JUMPS:
            optimizer.step()
            for scheduler in schedulers:
                scheduler.step(epoch)
            rows.append(row(optimizer))
        return rows

    optimizers = SCENARIOS[name].optimizer
    expected = quiet(lambda: jump(theirs(torch, optimizers), torch.optim.lr_scheduler))
    close(quiet(lambda: jump(ours(optimizers), lr_scheduler)), expected)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_states_travel(torch: Any, name: str, direction: str) -> None:
    scenario, lib = SCENARIOS[name], torch.optim.lr_scheduler
    torch_side = [theirs(torch, scenario.optimizer), lib]
    our_side = [ours(scenario.optimizer), lr_scheduler]
    (first, lib1), (second, lib2) = (
        (torch_side, our_side) if direction == "from torch" else (our_side, torch_side)
    )
    begun = quiet(lambda: scenario.build(lib1, first))
    quiet(lambda: advance(first, begun, 47))
    resumed = quiet(lambda: scenario.build(lib2, second))
    for scheduler, other in zip(resumed, begun, strict=True):
        scheduler.load_state_dict(copy.deepcopy(other.state_dict()))
    for group, other in zip(second.param_groups, first.param_groups, strict=True):
        group.update({key: value for key, value in other.items() if key != "params"})
    close(quiet(lambda: advance(second, resumed, 60)), advance(first, begun, 60))


@pytest.mark.parametrize(
    ("name", "last_epoch"),
    [
        (name, last_epoch)
        for name in ALONE
        for last_epoch in (0, 2, 5, 6, 12, 49)
        # Where torch cannot resume, or gets T_cur wrong.
        if not name.startswith(("CyclicLR", "OneCycleLR"))
        and not (name.startswith("CosineAnnealingWarm") and last_epoch > 5)
    ],
)
def test_resumes_from_last_epoch_as_torch(torch: Any, name: str, last_epoch: int) -> None:
    # The optimizer's state is from another epoch: what each makes of that must be the same.
    scenario = SCENARIOS[name]

    def resume(optimizer: Any, lib: Any) -> list[list[float]]:
        for group in optimizer.param_groups:
            group["initial_lr"] = 2 * group["lr"]
        build = functools.partial(_with_last_epoch, lib, last_epoch)
        return trajectory(optimizer, scenario, build(), 60)

    expected = resume(theirs(torch), torch.optim.lr_scheduler)
    close(resume(ours(), lr_scheduler), expected)


def _with_last_epoch(lib: Any, last_epoch: int) -> Any:
    """The library with `last_epoch` given to every scheduler."""

    class Resuming:
        def __getattr__(self, name: str) -> Any:
            return functools.partial(getattr(lib, name), last_epoch=last_epoch)

    return Resuming()


@pytest.mark.parametrize("case", [case for case in CASES if case.closed_form], ids=repr)
def test_groups_added_later_follow_as_in_torch(torch: Any, case: Any) -> None:
    def grow(optimizer: Any, lib: Any, param: Any) -> list[list[float]]:
        built = [getattr(lib, case.name)(optimizer, **case.variants[0])]
        advance(optimizer, built, 3)
        optimizer.add_param_group({"params": [param], "lr": 0.3})
        return advance(optimizer, built, 7)

    expected = grow(theirs(torch), torch.optim.lr_scheduler, torch.zeros(1, requires_grad=True))
    close(grow(ours(), lr_scheduler, cyoptim.Parameter(np.zeros(1))), expected)


METRICS = st.lists(
    st.one_of(st.floats(-2, 2), st.sampled_from([math.nan, math.inf, -math.inf])), max_size=60
)


@settings(max_examples=60, deadline=None)
@given(
    metrics=METRICS,
    options=st.fixed_dictionaries(
        {
            "mode": st.sampled_from(["min", "max"]),
            "factor": st.floats(0, 0.9),
            "patience": st.integers(0, 4),
            "threshold": st.sampled_from([0.0, 1e-4, 0.3]),
            "threshold_mode": st.sampled_from(["rel", "abs"]),
            "cooldown": st.integers(0, 3),
            "min_lr": st.sampled_from([0, 0.2, [0.01, 0.5]]),
            "eps": st.sampled_from([1e-8, 0.05]),
        }
    ),
)
def test_plateau_follows_torch(metrics: list[float], options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    a, b = ours(), theirs(torch)
    found = ReduceLROnPlateau(a, **options)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **options)
    for metric in metrics:
        found.step(metric)
        expected.step(metric)
        assert lrs_of(a) == lrs_of(b) == found.get_last_lr()
    state = found.state_dict()
    assert state.pop("nan_policy") == "bad"
    assert state == expected.state_dict()


# --- a learning rate is a function of the epoch ---------------------------------------------------


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_the_closed_form_is_met_to_the_last_bit(name: str) -> None:
    optimizer = ours()
    (scheduler,) = ALL_SCENARIOS[name].build(lr_scheduler, optimizer)
    for _ in range(STEPS):
        step(optimizer, scheduler)
        assert lrs_of(optimizer) == scheduler._get_closed_form_lr()


# At epoch 5 these are at their least rate, where they forget what the user did.
FORGETFUL = {"CosineAnnealingLR-1", "ExponentialLR-2", "PolynomialLR-0"}


@pytest.mark.parametrize("name", [name for name in CLOSED_FORM if name not in FORGETFUL])
def test_a_rate_that_the_user_changes_is_scaled_from_there(name: str) -> None:
    reference, changed = ours(lrs=(0.1,)), ours(lrs=(0.1,))
    (a,) = ALL_SCENARIOS[name].build(lr_scheduler, reference)
    (b,) = ALL_SCENARIOS[name].build(lr_scheduler, changed)
    step(reference, a, times=5)
    step(changed, b, times=5)
    eta_min = getattr(a, "eta_min", 0.0)
    changed.param_groups[0]["lr"] = eta_min + 3 * (lrs_of(changed)[0] - eta_min)
    for _ in range(4):
        step(reference, a)
        step(changed, b)
        close(lrs_of(changed)[0] - eta_min, 3 * (lrs_of(reference)[0] - eta_min))


@settings(max_examples=50, deadline=None)
@given(
    period=st.integers(1, 12),
    growth=st.integers(1, 3),
    epochs=st.lists(st.integers(0, 200), min_size=1, max_size=5),
)
def test_warm_restarts_jump_to_where_steps_lead(
    period: int, growth: int, epochs: list[int]
) -> None:
    jumping, stepping = sgd(), sgd()
    jumper = CosineAnnealingWarmRestarts(jumping, period, growth)
    stepper = CosineAnnealingWarmRestarts(stepping, period, growth)
    reached = [(stepper.T_cur, stepper.T_i, lrs_of(stepping))]
    for _ in range(200):
        stepper.step()
        reached.append((stepper.T_cur, stepper.T_i, lrs_of(stepping)))
    for epoch in epochs:
        jumper.step(epoch)
        assert (jumper.T_cur, jumper.T_i, lrs_of(jumping)) == reached[epoch]


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(4)), steps=st.integers(0, 60))
def test_the_order_of_a_chain_does_not_matter(order: list[int], steps: int) -> None:
    def build(optimizer: Any, places: Any) -> Any:
        makers = (
            lambda: StepLR(optimizer, 7, 0.5),
            lambda: LinearLR(optimizer, 0.2, total_iters=11),
            lambda: ExponentialLR(optimizer, 0.97),
            lambda: MultiStepLR(optimizer, [3, 30], 0.4),
        )
        return ChainedScheduler([makers[i]() for i in places])

    a, b = sgd(), sgd()
    step(a, build(a, range(4)), times=steps)
    step(b, build(b, order), times=steps)
    close(lrs_of(a), lrs_of(b), 1e-15)


def test_warm_restarts_keep_the_fraction_of_an_epoch() -> None:
    optimizer = sgd()
    scheduler = CosineAnnealingWarmRestarts(optimizer, 4, 2)
    scheduler.step(3.75)
    assert (scheduler.T_cur, scheduler.last_epoch) == (3.75, 3)
    scheduler.step()
    assert (scheduler.T_cur, scheduler.T_i, scheduler.last_epoch) == (0.75, 8, 4)
    scheduler.T_cur = 21  # users do
    scheduler.step()
    assert scheduler.T_cur == 22 % 8


def cosine_of(x: float) -> float:
    return (1 + math.cos(math.pi * x)) / 2


@pytest.mark.parametrize(
    ("build", "factor"),
    [
        (
            lambda o: WarmupCosineLR(o, 5, 25),
            lambda t: t / 5 if t < 5 else cosine_of(min(1, (t - 5) / 20)),
        ),
        (
            lambda o: WarmupCosineLR(o, 4, 10, start_factor=0.2, end_factor=0.1),
            lambda t: 0.2 + 0.2 * t if t < 4 else 0.1 + 0.9 * cosine_of(min(1, (t - 4) / 6)),
        ),
        (lambda o: WarmupCosineLR(o, 0, 8), lambda t: cosine_of(min(1, t / 8))),
        (
            lambda o: WarmupStableDecayLR(o, 4, 6, 8, end_factor=0.1),
            lambda t: (
                t / 4 if t < 4 else 1 if t < 10 else 0.1 + 0.9 * cosine_of(min(1, (t - 10) / 8))
            ),
        ),
        (
            lambda o: WarmupStableDecayLR(o, 0, 6, 8, decay="linear"),
            lambda t: 1 if t < 6 else max(0, 1 - (t - 6) / 8),
        ),
        (
            lambda o: WarmupStableDecayLR(o, 2, 0, 9, start_factor=0.5, decay="1-sqrt"),
            lambda t: 0.5 + t / 4 if t < 2 else 1 - math.sqrt(min(1, (t - 2) / 9)),
        ),
        (lambda o: InverseSqrtLR(o, 9), lambda t: t / 9 if t < 9 else math.sqrt(9 / t)),
        (lambda o: InverseSqrtLR(o, 0), lambda t: math.sqrt(10_000 / (10_000 + t))),
        (
            lambda o: InverseSqrtLR(o, 3, timescale=50, start_factor=0.1),
            lambda t: 0.1 + 0.3 * t if t < 3 else math.sqrt(50 / (50 + t - 3)),
        ),
    ],
)
def test_schedules_with_a_warm_up(build: Any, factor: Any) -> None:
    optimizer = sgd(0.3)
    close(run(optimizer, build(optimizer), 60), [0.3 * factor(t) for t in range(61)], 1e-15)


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_resume_through_json_is_exact(name: str) -> None:
    scenario = ALL_SCENARIOS[name]
    straight = ours(scenario.optimizer)
    schedulers = scenario.build(lr_scheduler, straight)
    step(straight, *schedulers, times=47)
    saved = json.dumps([scheduler.state_dict() for scheduler in schedulers])
    resumed = ours(scenario.optimizer, (9.0, 9.0))
    copies = scenario.build(lr_scheduler, resumed)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    for scheduler, state in zip(copies, json.loads(saved), strict=True):
        scheduler.load_state_dict(state)
    assert row(resumed) == row(straight)
    assert advance(resumed, copies, 70) == advance(straight, schedulers, 70)
    for scheduler, other in zip(copies, schedulers, strict=True):
        assert scheduler.state_dict() == other.state_dict()


PAIRS = [
    (case.name, saved, built)
    for case in CASES
    for saved in case.variants
    for built in case.variants
    if saved is not built and "scale_fn" not in saved and "scale_fn" not in built
]


@pytest.mark.parametrize(("name", "saved", "built"), PAIRS)
def test_a_state_overrides_every_argument(name: str, saved: Any, built: Any) -> None:
    straight, resumed = ours(), ours()
    scheduler = getattr(lr_scheduler, name)(straight, **saved)
    other = getattr(lr_scheduler, name)(resumed, **built)
    step(straight, scheduler, times=5)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    other.load_state_dict(scheduler.state_dict())
    assert advance(resumed, [other], 40) == advance(straight, [scheduler], 40)


@pytest.mark.parametrize("name", ALL_SCENARIOS)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on_alone(name: str, clone: Any) -> None:
    scenario = ALL_SCENARIOS[name]
    optimizer = ours(scenario.optimizer)
    schedulers = scenario.build(lr_scheduler, optimizer)
    step(optimizer, *schedulers, times=1)
    twin, twins = clone((optimizer, schedulers))
    before = row(optimizer)
    found = advance(twin, twins, 20)
    assert row(optimizer) == before
    assert found == advance(optimizer, schedulers, 20)


def test_state_is_a_copy_both_ways() -> None:
    optimizer = sgd()
    scheduler = MultiStepLR(optimizer, [2, 4])
    state = scheduler.state_dict()
    state["base_lrs"][0] = 5.0
    state["milestones"][3] = 1
    assert scheduler.base_lrs == [1.0]
    assert scheduler.milestones == Counter([2, 4])
    other = MultiStepLR(optimizer, [7])
    other.load_state_dict(state)
    state["base_lrs"][0] = 6.0
    assert other.base_lrs == [5.0]
    assert other.milestones == Counter([2, 3, 4])


def test_loading_leaves_the_state_and_the_optimizer_alone() -> None:
    optimizer = sgd()
    for scheduler in (
        LambdaLR(optimizer, hyperbola),
        CyclicLR(optimizer, 0.1, 1.0, cycle_momentum=False),
        SequentialLR(optimizer, [StepLR(optimizer, 3), StepLR(optimizer, 4)], [5]),
    ):
        state = scheduler.state_dict()
        before, lrs = copy.deepcopy(state), lrs_of(optimizer)
        scheduler.load_state_dict(state)
        assert state == before
        assert lrs_of(optimizer) == lrs


class Slope:
    def __init__(self, slope: float) -> None:
        self.slope = slope

    def __call__(self, epoch: float) -> float:
        return 1 - self.slope * epoch


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (lambda o, f: LambdaLR(o, f), "lr_lambdas"),
        (lambda o, f: MultiplicativeLR(o, [f]), "lr_lambdas"),
        (lambda o, f: CyclicLR(o, 0.1, 1.0, cycle_momentum=False, scale_fn=f), "_scale_fn_custom"),
    ],
)
def test_callables_are_saved_as_their_attributes(build: Any, key: str) -> None:
    saved = build(sgd(), Slope(0.25)).state_dict()
    entry = saved[key][0] if key == "lr_lambdas" else saved[key]
    assert entry == {"slope": 0.25}
    function = Slope(0.5)
    build(sgd(), function).load_state_dict(json.loads(json.dumps(saved)))
    assert function.slope == 0.25
    for stateless in (lambda epoch: 1.0, Slope(0.5).__call__, abs):
        state = build(sgd(), stateless).state_dict()
        assert (state[key][0] if key == "lr_lambdas" else state[key]) is None


def test_numbers_of_numpy_are_saved_as_numbers() -> None:
    scheduler = MultiStepLR(sgd(np.array(0.5), np.float32(0.25)), np.array([2, 3]), np.float64(0.5))
    state = json.loads(json.dumps(scheduler.state_dict()))
    assert state["base_lrs"] == state["_last_lr"] == [0.5, 0.25]
    assert state["milestones"] == {"2": 1, "3": 1}


def test_state_has_no_more_than_torchs(torch: Any) -> None:
    for name, scenario in SCENARIOS.items():
        found = scenario.build(lr_scheduler, ours(scenario.optimizer))
        expected = quiet(
            lambda scenario=scenario: scenario.build(
                torch.optim.lr_scheduler, theirs(torch, scenario.optimizer)
            )
        )
        for a, b in zip(found, expected, strict=True):
            assert a.state_dict().keys() == b.state_dict().keys(), name


@pytest.mark.parametrize(
    ("scheduler", "state", "error", "message"),
    [
        (lambda o: StepLR(o, 3), [], TypeError, "state_dict must be a dict, got list"),
        (lambda o: LambdaLR(o, abs), {}, KeyError, "not the state of a LambdaLR"),
        (lambda o: MultiStepLR(o, [3]), {}, KeyError, "not the state of a MultiStepLR"),
        (lambda o: ChainedScheduler([StepLR(o, 3)]), {}, KeyError, "not the state of a Chained"),
        (
            lambda o: ChainedScheduler([StepLR(o, 3)]),
            {"_schedulers": [{}, {}]},
            ValueError,
            "the state is one of 2 schedulers, expected 1",
        ),
        (
            lambda o: CyclicLR(o, 0.1, 1.0, cycle_momentum=False),
            {"_scale_fn_custom": {"slope": 1}},
            ValueError,
            "saved with a scale_fn",
        ),
        (ReduceLROnPlateau, {"mode": "best"}, ValueError, "mode best is unknown!"),
    ],
)
def test_bad_states(scheduler: Any, state: Any, error: type[Exception], message: str) -> None:
    built = scheduler(sgd())
    before = built.state_dict()
    with pytest.raises(error, match=message):
        built.load_state_dict(state)
    assert built.state_dict() == before


def test_a_bad_state_in_a_sequence_changes_none_of_its_schedulers() -> None:
    optimizer = sgd()
    scheduler = ChainedScheduler([StepLR(optimizer, 3), MultiStepLR(optimizer, [2])])
    before = scheduler.state_dict()
    bad = copy.deepcopy(before)
    bad["_schedulers"][0]["step_size"] = 99
    del bad["_schedulers"][1]["milestones"]
    with pytest.raises(KeyError):
        scheduler.load_state_dict(bad)
    assert scheduler.state_dict() == before


def test_a_legacy_state_of_one_cycle() -> None:
    optimizer, legacy = sgd(momentum=0.9), sgd(momentum=0.9)
    scheduler = OneCycleLR(optimizer, 1.0, 30)
    old = OneCycleLR(legacy, 1.0, 30, anneal_strategy="linear")
    del old._anneal_func_type
    old.load_state_dict({**old.state_dict(), "anneal_func": OneCycleLR._annealing_cos})
    assert advance(legacy, [old], 29) == advance(optimizer, [scheduler], 29)


# --- learning rates that are arrays or tensors ----------------------------------------------------


def tensor(value: float) -> Any:
    torch = pytest.importorskip("torch")
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize("scalar", [np.array, tensor])
@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_arrays_are_filled_in_place(scalar: Any, name: str) -> None:
    scenario = ALL_SCENARIOS[name]
    plain = ours(scenario.optimizer)
    expected = trajectory(plain, scenario, lr_scheduler, 50)
    lrs = [scalar(lr) for lr in LRS]
    optimizer = ours(scenario.optimizer, lrs)
    assert trajectory(optimizer, scenario, lr_scheduler, 50) == expected
    assert all(
        group["lr"] is lr and group["initial_lr"] is not lr
        for group, lr in zip(optimizer.param_groups, lrs, strict=True)
    )


@pytest.mark.parametrize("scalar", [np.array, tensor])
@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_what_is_returned_never_aliases(scalar: Any, name: str) -> None:
    scenario = ALL_SCENARIOS[name]
    optimizer = ours(scenario.optimizer, [scalar(lr) for lr in LRS])
    schedulers = scenario.build(lr_scheduler, optimizer)
    step(optimizer, *schedulers)
    before = row(optimizer)
    for scheduler in schedulers:
        last = [float(lr) for lr in scheduler.get_last_lr()]
        returned = scheduler.get_last_lr()
        if type(scheduler).get_lr is not LRScheduler.get_lr:
            returned += quiet(scheduler.get_lr)
        for value in returned:
            if not isinstance(value, float):
                value *= 0
        assert scheduler.get_last_lr() == last
    assert row(optimizer) == before


def test_one_array_for_all_groups_is_stepped_once() -> None:
    lr = np.array(1.0)
    optimizer = sgd(lr, lr)
    plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    plateau.step(1.0)
    plateau.step(1.0)
    assert lr == 0.5
    step(optimizer, ExponentialLR(optimizer, 0.5))
    assert lr == 0.25


def test_a_narrow_tensor_keeps_its_dtype(torch: Any) -> None:
    optimizer = sgd(torch.tensor([0.5]), np.float32(0.5))
    step(optimizer, CosineAnnealingLR(optimizer, 10), times=3)
    tensor, number = (group["lr"] for group in optimizer.param_groups)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (1,))
    assert type(number) is np.float32
    close(lrs_of(optimizer), [0.5 * cosine_of(0.3)] * 2, 1e-7)


# --- warnings -------------------------------------------------------------------------------------

BEFORE = "Detected call of `lr_scheduler.step()` before `optimizer.step()`"
OVERRIDDEN = "Seems like `optimizer.step()` has been overridden"


def call_order(lib: Any, scheduler: Any, optimizer: Any, plan: str) -> list[str]:
    """The warnings of a plan: o and s step the optimizer and scheduler, b builds a scheduler,
    r replaces optimizer.step, w wraps it, e and g call step(epoch) and get_lr()."""
    built = []

    def replace(wrap: Any) -> None:
        old = optimizer.step

        def new(self: Any, *args: Any) -> Any:
            return old(*args)

        optimizer.step = types.MethodType(wrap(old)(new), optimizer)

    def call() -> None:
        for action in plan:
            match action:
                case "b":
                    built.append(scheduler(lib, optimizer))
                case "o":
                    optimizer.step()
                case "s":
                    built[0].step()
                case "e":
                    built[0].step(3)
                case "g":
                    built[0].get_lr()
                case "r":
                    replace(lambda old: lambda new: new)
                case "w":
                    replace(functools.wraps)

    return [str(warning.message)[:50] for warning in recorded(call)]


PLANS = ["bossoos", "bsos", "obs", "obos", "brosos", "brs", "bross", "rbosos", "bwosos", "bwss"]
PLANS += ["bobs", "boses", "bee", "bogs", "bbss", "brbos", "obsob"]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(
    "scheduler",
    [
        lambda lib, o: lib.StepLR(o, 3),
        lambda lib, o: lib.LambdaLR(o, hyperbola),
        lambda lib, o: lib.CosineAnnealingWarmRestarts(o, 3),
        lambda lib, o: lib.CyclicLR(o, 0.1, 1.0),
        lambda lib, o: lib.OneCycleLR(o, 0.1, 10),
    ],
)
def test_warns_when_torch_does(torch: Any, plan: str, scheduler: Any) -> None:
    expected = call_order(torch.optim.lr_scheduler, scheduler, theirs(torch), plan)
    assert call_order(lr_scheduler, scheduler, ours(), plan) == expected


@pytest.mark.parametrize("plan", ["boss", "bss", "bros"])
def test_composed_schedulers_warn_as_torchs(torch: Any, plan: str) -> None:
    def sequence(lib: Any, optimizer: Any) -> Any:
        parts = [lib.StepLR(optimizer, 3), lib.StepLR(optimizer, 4)]
        return lib.SequentialLR(optimizer, parts, [5])

    def chain(lib: Any, optimizer: Any) -> Any:
        return lib.ChainedScheduler([lib.StepLR(optimizer, 3), lib.StepLR(optimizer, 4)])

    for scheduler in (sequence, chain):
        expected = call_order(torch.optim.lr_scheduler, scheduler, theirs(torch), plan)
        assert call_order(lr_scheduler, scheduler, ours(), plan) == expected


def test_warnings_point_at_the_callers_line_and_name_the_remedy() -> None:
    scheduler = StepLR(sgd(), 3)
    (warning,) = recorded(scheduler.step)
    assert str(warning.message).startswith(BEFORE)
    assert "how-to-adjust-learning-rate" in str(warning.message)
    assert warning.filename == __file__
    (warning,) = recorded(lambda: scheduler.step(4))
    assert warning.message.args == (lr_scheduler.EPOCH_DEPRECATION_WARNING,)
    (warning,) = recorded(scheduler.get_lr)
    assert "please use `get_last_lr()`" in str(warning.message)


def test_warnings_are_worded_as_torchs(torch: Any) -> None:
    def messages(lib: Any, optimizer: Any) -> set[str]:
        scheduler = lib.StepLR(optimizer, 3)
        found = recorded(scheduler.step) + recorded(scheduler.get_lr)
        scheduler = lib.StepLR(optimizer, 3)
        optimizer.step = types.MethodType(lambda self: None, optimizer)
        return {str(warning.message) for warning in found + recorded(scheduler.step)}

    found = messages(lr_scheduler, ours())
    assert found == messages(torch.optim.lr_scheduler, theirs(torch))
    assert len(found) == 3
    assert any(text.startswith(OVERRIDDEN) for text in found)
    theirs_of_epoch = torch.optim.lr_scheduler.EPOCH_DEPRECATION_WARNING
    assert theirs_of_epoch.startswith(lr_scheduler.EPOCH_DEPRECATION_WARNING)


def test_stepping_the_optimizer_is_not_slowed() -> None:
    optimizer = sgd()
    StepLR(optimizer, 3)
    assert "step" not in vars(optimizer)
    assert optimizer.step.__func__ is cyoptim.SGD.step


# --- a good guest ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_freed_without_the_collector(name: str) -> None:
    def use() -> list[weakref.ref[Any]]:
        scenario = ALL_SCENARIOS[name]
        optimizer = ours(scenario.optimizer)
        schedulers = scenario.build(lr_scheduler, optimizer)
        step(optimizer, *schedulers)
        for scheduler in schedulers:
            scheduler.preview(2)
            scheduler.load_state_dict(scheduler.state_dict())
        return [weakref.ref(thing) for thing in (optimizer, *schedulers)]

    enabled = gc.isenabled()
    gc.disable()
    try:
        assert [reference() for reference in use()] == [None] * len(use())
    finally:
        if enabled:
            gc.enable()


# --- looking ahead --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ONE_SCHEDULER)
def test_preview_tells_what_comes_and_changes_nothing(name: str) -> None:
    scenario = ALL_SCENARIOS[name]
    optimizer = ours(scenario.optimizer)
    (scheduler,) = scenario.build(lr_scheduler, optimizer)
    step(optimizer, scheduler, times=7)
    state, before = scheduler.state_dict(), row(optimizer)
    seen = scheduler.preview(80)
    assert (scheduler.state_dict(), row(optimizer)) == (state, before)
    assert seen == [rows[:2] for rows in advance(optimizer, [scheduler], 80)]


def test_preview_gives_numbers_for_one_group_and_rows_for_several() -> None:
    assert ExponentialLR(sgd(1.0), 0.5).preview(3) == [0.5, 0.25, 0.125]
    assert ExponentialLR(sgd(1.0, 2.0), 0.5).preview(2) == [[0.5, 1.0], [0.25, 0.5]]
    assert ExponentialLR(sgd(np.array(1.0)), 0.5).preview(1) == [0.5]
    assert ExponentialLR(sgd(), 0.5).preview(0) == []


def test_preview_does_not_copy_parameters() -> None:
    class Heavy(cyoptim.Parameter):
        def __deepcopy__(self, memo: Any) -> Any:
            raise AssertionError("copied")

    optimizer = cyoptim.SGD([Heavy(np.zeros(3))], lr=1.0)
    assert StepLR(optimizer, 1, 0.5).preview(2) == [0.5, 0.25]


def test_preview_refuses() -> None:
    with pytest.raises(ValueError, match="n must be at least 0, got -1"):
        StepLR(sgd(), 3).preview(-1)
    with pytest.raises(TypeError):
        StepLR(sgd(), 3).preview(1.5)
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        OneCycleLR(sgd(momentum=0.9), 0.1, 3).preview(4)
    with pytest.raises(ValueError, match="follows a metric"):
        ReduceLROnPlateau(sgd()).preview(3)
    with pytest.raises(ValueError, match="metrics has 2 values for 3 steps"):
        ReduceLROnPlateau(sgd()).preview(3, metrics=[1, 2])


def test_preview_of_a_plateau() -> None:
    scheduler = ReduceLROnPlateau(sgd(), patience=1)
    scheduler.step(1.0)
    state = scheduler.state_dict()
    assert scheduler.preview(4, metrics=1.0) == [1.0, 0.1, 0.1, 0.1 * 0.1]
    assert scheduler.preview(2, metrics=[0.5, 0.4]) == [1.0, 1.0]
    assert scheduler.state_dict() == state


def test_plot_draws_one_line_for_each_group() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    optimizer = sgd(1.0, 2.0)
    ax = lr_scheduler.plot(ExponentialLR(optimizer, 0.5), 2)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.0, 0.5, 0.25], [2.0, 1.0, 0.5]]
    assert lr_scheduler.plot(StepLR(sgd(), 3), 5, ax=ax) is ax
    assert len(ax.lines) == 3
    importlib.import_module("matplotlib.pyplot").close("all")


def test_plot_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "cyoptim\[demo\]"'):
        lr_scheduler.plot(StepLR(sgd(), 3), 5)


# --- bad arguments --------------------------------------------------------------------------------


def build(name: str, **arguments: Any) -> Any:
    return lambda lib, optimizer: getattr(lib, name)(optimizer, **arguments)


def composed(name: str, *arguments: Any) -> Any:
    """A composed scheduler of `arguments`, in which functions are called with lib and optimizer."""

    def made(lib: Any, optimizer: Any) -> Any:
        called = [
            [part(lib, optimizer) if callable(part) else part for part in argument]
            for argument in arguments
        ]
        first = (optimizer,) if name == "SequentialLR" else ()
        return getattr(lib, name)(*first, *called)

    return made


class NoScheduler:
    optimizer = None


STEP_3 = build("StepLR", step_size=3)
# What torch refuses, too, in the same words.
# (arguments, exception, the message it must contain)
BAD_AS_TORCH: list[tuple[Any, type[Exception], str]] = [
    (
        build("ConstantLR", factor=1.5),
        ValueError,
        "Constant multiplicative factor expected to be between 0 and 1.",
    ),
    (
        build("ConstantLR", factor=-0.1),
        ValueError,
        "Constant multiplicative factor expected to be between 0 and 1.",
    ),
    (
        build("LinearLR", start_factor=0.0),
        ValueError,
        "Starting multiplicative factor expected to be greater than 0 and less",
    ),
    (
        build("LinearLR", start_factor=1.1),
        ValueError,
        "Starting multiplicative factor expected to be greater than 0 and less",
    ),
    (
        build("LinearLR", end_factor=-0.1),
        ValueError,
        "Ending multiplicative factor expected to be between 0 and 1.",
    ),
    (
        build("LinearLR", end_factor=1.1),
        ValueError,
        "Ending multiplicative factor expected to be between 0 and 1.",
    ),
    (build("LambdaLR", lr_lambda=[hyperbola]), ValueError, "Expected 2 lr_lambdas, but got 1"),
    (
        build("MultiplicativeLR", lr_lambda=[hyperbola] * 3),
        ValueError,
        "Expected 2 lr_lambdas, but got 3",
    ),
    (
        build("MultiplicativeLR", lr_lambda=0.95),
        TypeError,
        "lr_lambda should be a function, but got float",
    ),
    (
        build("MultiplicativeLR", lr_lambda=[hyperbola, 0.95]),
        TypeError,
        "lr_lambda should be a function, but got float",
    ),
    (
        build("CosineAnnealingWarmRestarts", T_0=0),
        ValueError,
        "Expected positive integer T_0, but got 0",
    ),
    (
        build("CosineAnnealingWarmRestarts", T_0=1.5),
        ValueError,
        "Expected positive integer T_0, but got 1.5",
    ),
    (
        build("CosineAnnealingWarmRestarts", T_0=3, T_mult=0),
        ValueError,
        "Expected integer T_mult >= 1, but got 0",
    ),
    (
        build("CosineAnnealingWarmRestarts", T_0=3, T_mult=1.5),
        ValueError,
        "Expected integer T_mult >= 1, but got 1.5",
    ),
    (
        build("CosineAnnealingWarmRestarts", T_0=3, eta_min="0"),
        ValueError,
        "Expected float or int eta_min, but got 0 of type <class 'str'>",
    ),
    (
        build("CyclicLR", base_lr=0.1, max_lr=1.0, mode="cats"),
        ValueError,
        "mode is invalid and scale_fn is None",
    ),
    (
        build("CyclicLR", base_lr=[0.1], max_lr=1.0),
        ValueError,
        "base_lr must have the same length as optimizer.param_groups. base_lr",
    ),
    (
        build("CyclicLR", base_lr=0.1, max_lr=(1.0, 2.0, 3.0)),
        ValueError,
        "max_lr must have the same length as optimizer.param_groups. max_lr",
    ),
    (
        build("CyclicLR", base_lr=0.1, max_lr=1.0, max_momentum=[0.9]),
        ValueError,
        "max_momentum must have the same length as optimizer.param_groups.",
    ),
    (
        build("OneCycleLR", max_lr=0.1),
        ValueError,
        "You must define either total_steps OR (epochs AND steps_per_epoch)",
    ),
    (
        build("OneCycleLR", max_lr=0.1, epochs=3),
        ValueError,
        "You must define either total_steps OR (epochs AND steps_per_epoch)",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=0),
        ValueError,
        "Expected positive integer total_steps, but got 0",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=1.5),
        ValueError,
        "Expected positive integer total_steps, but got 1.5",
    ),
    (
        build("OneCycleLR", max_lr=0.1, epochs=0, steps_per_epoch=3),
        ValueError,
        "Expected positive integer epochs, but got 0",
    ),
    (
        build("OneCycleLR", max_lr=0.1, epochs=3, steps_per_epoch=0.5),
        ValueError,
        "Expected positive integer steps_per_epoch, but got 0.5",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=9, pct_start=1.1),
        ValueError,
        "Expected float between 0 and 1 pct_start, but got 1.1",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=9, pct_start=-0.1),
        ValueError,
        "Expected float between 0 and 1 pct_start, but got -0.1",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=9, pct_start=1),
        ValueError,
        "Expected float between 0 and 1 pct_start, but got 1",
    ),
    (
        build("OneCycleLR", max_lr=0.1, total_steps=9, anneal_strategy="cats"),
        ValueError,
        "anneal_strategy must be one of 'cos' or 'linear', instead got cats",
    ),
    (
        build("OneCycleLR", max_lr=[0.1], total_steps=9),
        ValueError,
        "max_lr must have the same length as optimizer.param_groups. max_lr",
    ),
    (build("ReduceLROnPlateau", factor=1.0), ValueError, "Factor should be < 1.0."),
    (build("ReduceLROnPlateau", mode="best"), ValueError, "mode best is unknown!"),
    (
        build("ReduceLROnPlateau", threshold_mode="best"),
        ValueError,
        "threshold mode best is unknown!",
    ),
    (build("ReduceLROnPlateau", min_lr=[0.1]), ValueError, "expected 2 min_lrs, got 1"),
    (
        composed("ChainedScheduler", []),
        ValueError,
        "ChainedScheduler expects at least one scheduler to be chained, but",
    ),
    (
        composed("SequentialLR", [], []),
        ValueError,
        "SequentialLR expects at least one scheduler, but got no scheduler.",
    ),
    (
        composed("SequentialLR", [STEP_3], [3]),
        ValueError,
        "Sequential Schedulers expects number of schedulers provided to be one",
    ),
    (
        composed("SequentialLR", [STEP_3, "StepLR"], [3]),
        TypeError,
        "SequentialLR at index 1 should have `optimizer` as its attribute.",
    ),
    (
        composed("ChainedScheduler", [STEP_3, "StepLR"]),
        TypeError,
        "ChainedScheduler at index 1 should have `optimizer` as its attribute.",
    ),
    (
        composed("SequentialLR", [STEP_3, build("ReduceLROnPlateau")], [3]),
        ValueError,
        "SequentialLR does not support `ReduceLROnPlateau` scheduler as it",
    ),
    (
        composed("ChainedScheduler", [build("ReduceLROnPlateau")]),
        ValueError,
        "ChainedScheduler does not support `ReduceLROnPlateau` scheduler as it",
    ),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_AS_TORCH)
def test_bad_arguments_are_refused_in_torchs_words(
    torch: Any, make: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as expected:
        make(torch.optim.lr_scheduler, theirs(torch))
    with pytest.raises(error) as found:
        make(lr_scheduler, ours())
    assert str(found.value) == str(expected.value)


NO_MOMENTUM = "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
BAD: list[tuple[Any, type[Exception], str]] = [
    (build("StepLR", step_size=0), ValueError, "step_size must be positive, got 0"),
    (build("PolynomialLR", total_iters=0), ValueError, "total_iters must be positive, got 0"),
    (build("CosineAnnealingLR", T_max=0), ValueError, "T_max must be positive, got 0"),
    (build("LambdaLR", lr_lambda=0.95), TypeError, "lr_lambda should be a function, but got float"),
    (
        build("CyclicLR", base_lr=0.1, max_lr=1.0, step_size_up=0),
        ValueError,
        "step_size_up must be positive and step_size_down not negative, got 0 and 0",
    ),
    (
        build("CyclicLR", base_lr=0.1, max_lr=1.0, step_size_down=-3),
        ValueError,
        "step_size_up must be positive and step_size_down not negative, got 2000 and -3",
    ),
    (build("ReduceLROnPlateau", nan_policy="skip"), ValueError, "nan_policy must be 'bad', "),
    (
        composed("SequentialLR", [STEP_3] * 3, [5, 4]),
        ValueError,
        "milestones must not decrease, got [5, 4]",
    ),
    (
        composed("SequentialLR", [STEP_3, lambda lib, o: NoScheduler()], [5]),
        TypeError,
        "SequentialLR at index 1 is no scheduler, but a test_lr_scheduler.NoScheduler",
    ),
    (
        composed("ChainedScheduler", [STEP_3, lambda lib, o: lib.StepLR(ours(), 3)]),
        ValueError,
        "ChainedScheduler expects all schedulers to belong to the same optimizer, but "
        "got scheduler StepLR at index 1 has SGD (",
    ),
    (
        composed("ChainedScheduler", ["StepLR"]),
        TypeError,
        "ChainedScheduler at index 0 should have `optimizer` as its attribute.",
    ),
    (
        build("WarmupCosineLR", warmup_steps=-1, total_steps=5),
        ValueError,
        "warmup_steps must be at least 0, got -1",
    ),
    (
        build("WarmupCosineLR", warmup_steps=5, total_steps=5),
        ValueError,
        "total_steps must be at least 6, got 5",
    ),
    (
        build("WarmupCosineLR", warmup_steps=1, total_steps=5, start_factor=1.5),
        ValueError,
        "start_factor must be between 0 and 1, got 1.5",
    ),
    (
        build("WarmupCosineLR", warmup_steps=1, total_steps=5, end_factor=-1),
        ValueError,
        "end_factor must be between 0 and 1, got -1",
    ),
    (
        build("WarmupStableDecayLR", warmup_steps=1, stable_steps=1, decay_steps=0),
        ValueError,
        "decay_steps must be at least 1, got 0",
    ),
    (
        build("WarmupStableDecayLR", warmup_steps=1, stable_steps=1, decay_steps=1, decay="log"),
        ValueError,
        "decay must be one of cosine, linear, 1-sqrt, got 'log'",
    ),
    (
        build("InverseSqrtLR", warmup_steps=1, timescale=0),
        ValueError,
        "timescale must be positive, got 0",
    ),
    (build("InverseSqrtLR", warmup_steps=1.5), TypeError, "cannot be interpreted as an integer"),
]


@pytest.mark.parametrize(("make", "error", "message"), BAD_AS_TORCH + BAD)
def test_bad_arguments(make: Any, error: type[Exception], message: str) -> None:
    optimizer = ours()
    before = optimizer.state_dict()["param_groups"]
    with pytest.raises(error) as found:
        make(lr_scheduler, optimizer)
    assert message in str(found.value)
    if not make.__qualname__.startswith("composed"):  # those have built their parts
        assert optimizer.state_dict()["param_groups"] == before


@pytest.mark.parametrize("case", CASES, ids=repr)
def test_only_an_optimizer_can_be_driven(case: Any) -> None:
    with pytest.raises(TypeError, match="^str is not an Optimizer$"):
        getattr(lr_scheduler, case.name)("SGD", **case.variants[0])
    with pytest.raises(TypeError, match="^str is not an Optimizer$"):
        ReduceLROnPlateau("SGD")


def test_torchs_optimizers_are_none_of_ours(torch: Any) -> None:
    with pytest.raises(TypeError, match="^SGD is not an Optimizer$"):
        StepLR(theirs(torch), 3)


def test_resuming_needs_initial_lr() -> None:
    with pytest.raises(
        KeyError,
        match=r"param 'initial_lr' is not specified in param_groups\[0\] when resuming "
        "scheduler with last_epoch >= 0",
    ):
        StepLR(sgd(), 3, last_epoch=1)


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_cycling_needs_momentum(name: str) -> None:
    optimizer = cyoptim.Adagrad([np.zeros(3)])
    arguments = {"base_lr": 0.1} if name == "CyclicLR" else {"total_steps": 9}
    with pytest.raises(ValueError, match=NO_MOMENTUM):
        getattr(lr_scheduler, name)(optimizer, max_lr=1.0, **arguments)
    getattr(lr_scheduler, name)(optimizer, max_lr=1.0, cycle_momentum=False, **arguments)


def test_a_schedule_of_the_users_own() -> None:
    class Wrong(LRScheduler):
        def get_lr(self) -> list[Any]:
            return [0.5]

    with pytest.raises(ValueError, match="Wrong has 1 learning rates for 2 parameter groups"):
        Wrong(sgd(1.0, 2.0))
    with pytest.raises(NotImplementedError):
        LRScheduler(sgd())

    class Old(lr_scheduler._LRScheduler):
        def get_lr(self) -> list[Any]:
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

    optimizer = sgd(1.0, 2.0)
    scheduler = Old(optimizer)
    step(optimizer, scheduler)
    assert scheduler.get_last_lr() == [0.5, 1.0]
    assert lr_scheduler._LRScheduler.__name__ == "_LRScheduler"


# --- what differs from torch ----------------------------------------------------------------------


def grown(optimizer: Any, scheduler: Any, steps: int = 3, **group: Any) -> list[float]:
    """Add a group after some steps; its learning rates at the next ones."""
    step(optimizer, scheduler, times=steps)
    optimizer.add_param_group({"params": [cyoptim.Parameter(np.zeros(1))], **group})
    return [rows[len(optimizer.param_groups) - 1] for rows in advance(optimizer, [scheduler], 4)]


@pytest.mark.parametrize(
    ("make", "factor"),
    [
        (lambda o: LambdaLR(o, hyperbola), lambda t: 0.3 * hyperbola(t)),
        (lambda o: MultiplicativeLR(o, [decline] * 2), None),
        (lambda o: CosineAnnealingWarmRestarts(o, 5), lambda t: 0.3 * cosine_of(t % 5 / 5)),
        (lambda o: CyclicLR(o, 0.1, 0.5, 4), lambda t: 0.1 + 0.4 * (1 - abs(t % 8 - 4) / 4)),
        (
            lambda o: OneCycleLR(o, 0.5, 11, pct_start=0.1, anneal_strategy="linear"),
            None,
        ),
        (
            lambda o: ChainedScheduler([CosineAnnealingWarmRestarts(o, 5)]),
            lambda t: 0.3 * cosine_of(t % 5 / 5),
        ),
    ],
)
def test_groups_added_later_join(make: Any, factor: Any) -> None:
    optimizer = sgd(1.0, 1.0, momentum=0.9)
    scheduler = make(optimizer)
    found = grown(optimizer, scheduler, lr=0.3)
    if factor is not None:
        close(found, [factor(t) for t in range(4, 8)])
    else:
        assert lrs_of(optimizer)[2] != 0.3
    momenta = {group["momentum"] for group in optimizer.param_groups}
    assert len(momenta) == 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda o: LambdaLR(o, [hyperbola, decline]), "lr_lambdas"),
        (lambda o: CyclicLR(o, [0.1, 0.2], 1.0), "base_lrs"),
        (lambda o: OneCycleLR(o, [0.1, 0.2], 20), "initial_lr"),
    ],
)
def test_a_group_that_cannot_join_is_an_error_that_says_so(make: Any, name: str) -> None:
    optimizer = sgd(1.0, 1.0, momentum=0.9)
    with pytest.raises(ValueError, match=f"{name} differs between the groups before it"):
        grown(optimizer, make(optimizer))


def test_a_group_may_bring_its_own_bounds() -> None:
    optimizer = sgd(1.0, 1.0, momentum=0.9)
    scheduler = OneCycleLR(optimizer, [0.1, 0.2], 11, pct_start=1 / 11, anneal_strategy="linear")
    found = grown(optimizer, scheduler, initial_lr=0.1, max_lr=1.0, min_lr=0.0)
    close(found, [0.6, 0.5, 0.4, 0.3])


def test_building_a_sequence_undoes_what_building_its_parts_did() -> None:
    # OneCycleLR overwrites initial_lr, which the warm-up has read before.
    optimizer = sgd(1.0, momentum=0.9)
    warmup = LinearLR(optimizer, 0.5, total_iters=2)
    scheduler = SequentialLR(optimizer, [warmup, OneCycleLR(optimizer, 4.0, 10)], [2])
    assert scheduler.get_last_lr() == warmup.get_last_lr() == [0.5]
    close(run(optimizer, scheduler, 2), [0.5, 0.75, 4.0 / 25])


def test_a_sequence_begins_anew_whatever_its_parts_did() -> None:
    optimizer = sgd()
    first, second = ExponentialLR(optimizer, 0.5), CosineAnnealingWarmRestarts(optimizer, 4)
    step(optimizer, first, second, times=3)
    scheduler = SequentialLR(optimizer, [first, second], [2])
    close(run(optimizer, scheduler, 4), [1.0, 0.5, 1.0, cosine_of(0.25), 0.5])


@pytest.mark.parametrize("last_epoch", [0, 1, 2, 3, 8])
def test_a_sequence_resumes_from_last_epoch(last_epoch: int) -> None:
    def make(optimizer: Any, last_epoch: int = -1) -> Any:
        parts = [ConstantLR(optimizer, 0.1, 20), ExponentialLR(optimizer, 0.9)]
        return SequentialLR(optimizer, parts, [3], last_epoch)

    straight, resumed = sgd(), sgd()
    scheduler = make(straight)
    step(straight, scheduler, times=last_epoch + 1)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    later = make(resumed, last_epoch)
    assert later.last_epoch == scheduler.last_epoch == last_epoch + 1
    assert run(resumed, later, 5) == run(straight, scheduler, 5)
    assert resumed._opt_called


def test_composed_schedules_nest() -> None:
    optimizer = sgd()
    decays = [ExponentialLR(optimizer, 0.5), StepLR(optimizer, 2, 0.1)]
    inner = SequentialLR(
        optimizer, [LinearLR(optimizer, 0.5, total_iters=2), StepLR(optimizer, 9)], [2]
    )
    outer = SequentialLR(
        optimizer, [ConstantLR(optimizer, 0.2), ChainedScheduler(decays), inner], [2, 5]
    )
    chained = outer._schedulers[1]
    found = run(optimizer, outer, 2)
    assert chained.get_last_lr() == outer.get_last_lr() == lrs_of(optimizer)
    close(found + run(optimizer, outer, 5)[1:], [0.2, 0.2, 1.0, 0.5, 0.025, 0.5, 0.75, 1.0])


def test_a_chain_at_the_head_of_a_sequence_starts_at_its_first_rate() -> None:
    optimizer = sgd()
    chained = ChainedScheduler([ExponentialLR(optimizer, 0.5), PolynomialLR(optimizer, 4)])
    assert not recorded(lambda: SequentialLR(optimizer, [chained, StepLR(optimizer, 9)], [9]))
    assert lrs_of(optimizer) == [1.0]


def test_last_lr_of_composed_schedules_is_the_optimizers() -> None:
    optimizer = sgd()
    scheduler = ChainedScheduler([ExponentialLR(optimizer, 0.5), StepLR(optimizer, 2)])
    assert scheduler.get_last_lr() == [1.0]
    step(optimizer, scheduler)
    assert scheduler.get_last_lr() == lrs_of(optimizer) == [0.5]


@pytest.mark.parametrize("last_epoch", range(0, 40))
@pytest.mark.parametrize("growth", [1, 2, 3])
def test_warm_restarts_resume_from_any_epoch(last_epoch: int, growth: int) -> None:
    straight = sgd()
    scheduler = CosineAnnealingWarmRestarts(straight, 3, growth)
    step(straight, scheduler, times=last_epoch + 1)
    resumed = sgd()
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    later = CosineAnnealingWarmRestarts(resumed, 3, growth, last_epoch=last_epoch)
    assert run(resumed, later, 9) == run(straight, scheduler, 9)


def test_warm_restarts_find_a_restart_that_a_logarithm_would_miss() -> None:
    optimizer = sgd()
    scheduler = CosineAnnealingWarmRestarts(optimizer, 10, 3)
    scheduler.step(1210)  # 10 * (3**5 - 1) / 2, and log(243, 3) is a little less than 5
    assert (scheduler.T_cur, scheduler.T_i) == (0, 2430)
    assert lrs_of(optimizer) == [1.0]
    with pytest.raises(ValueError, match="Expected non-negative epoch, but got -1"):
        scheduler.step(-1)


@pytest.mark.parametrize(
    "make",
    [
        lambda o, e: StepLR(o, 3, 0.5, e),
        lambda o, e: MultiStepLR(o, [2, 3, 5], 0.5, e),
        lambda o, e: ConstantLR(o, 0.25, 4, e),
        lambda o, e: ExponentialLR(o, 0.9, e),
        lambda o, e: LinearLR(o, 0.1, 1.0, 4, e),
    ],
)
@pytest.mark.parametrize("last_epoch", range(6))
def test_resuming_at_a_decay_does_not_decay_twice(make: Any, last_epoch: int) -> None:
    straight, resumed = sgd(), sgd()
    scheduler = make(straight, -1)
    step(straight, scheduler, times=last_epoch + 1)
    resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
    later = make(resumed, last_epoch)
    assert run(resumed, later, 6) == run(straight, scheduler, 6)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda o: ConstantLR(o, 0.0, 2), [0.0, 0.0, 1.0, 1.0]),
        (lambda o: ConstantLR(o, 0.5, 0), [1.0, 1.0, 1.0, 1.0]),
        (lambda o: LinearLR(o, 0.5, total_iters=0), [1.0, 1.0, 1.0, 1.0]),
        (lambda o: LinearLR(o, 1.0, 0.0, total_iters=2), [1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_edges_of_factors(make: Any, expected: list[float]) -> None:
    optimizer = sgd()
    assert run(optimizer, make(optimizer), 3) == expected


def test_one_cycle_of_phases_without_length() -> None:
    optimizer = sgd(momentum=0.9)
    scheduler = OneCycleLR(optimizer, 1.0, 10, pct_start=0.1)
    assert lrs_of(optimizer) == [1.0]
    optimizer = sgd(momentum=0.9)
    scheduler = OneCycleLR(optimizer, 1.0, 3, pct_start=1.0)
    close(run(optimizer, scheduler, 3), [0.04, 0.52, 1.0, 0.04 / 1e4])


def test_one_cycle_ends() -> None:
    optimizer = sgd(momentum=0.9)
    scheduler = OneCycleLR(optimizer, 1.0, 3)
    step(optimizer, scheduler, times=3)
    before = row(optimizer)
    with pytest.raises(ValueError, match=r"^Tried to step 4 times\. The specified number of total"):
        scheduler.step()
    assert row(optimizer) == before


def test_asking_for_rates_leaves_the_momentum_alone() -> None:
    optimizer = sgd(momentum=0.9)
    scheduler = CyclicLR(optimizer, 0.1, 1.0, 4)
    optimizer.param_groups[0]["momentum"] = 0.5
    quiet(scheduler.get_lr)
    assert optimizer.param_groups[0]["momentum"] == 0.5


def test_bounds_may_be_an_array() -> None:
    optimizer = sgd(1.0, 1.0, momentum=0.9)
    scheduler = CyclicLR(optimizer, np.array([0.25, 0.5]), np.array(1.0), 4)
    assert lrs_of(optimizer) == [0.25, 0.5]
    assert [float(lr) for lr in scheduler.max_lrs] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("policy", "bad_epochs"), [("bad", [0, 1, 2, 0]), ("ignore", [0, 0, 0, 0])]
)
def test_plateau_nan_policy(policy: Any, bad_epochs: list[int]) -> None:
    scheduler = ReduceLROnPlateau(sgd(), patience=5, nan_policy=policy)
    counted = []
    for metric in (1.0, math.nan, np.float32("nan"), 0.5):
        scheduler.step(metric)
        counted.append(scheduler.num_bad_epochs)
    assert counted == bad_epochs
    assert (scheduler.best, scheduler.last_epoch) == (0.5, 4)


def test_plateau_may_raise_on_nan() -> None:
    scheduler = ReduceLROnPlateau(sgd(), nan_policy="raise")
    scheduler.step(1.0)
    state = scheduler.state_dict()
    with pytest.raises(ValueError, match="the metric is NaN"):
        scheduler.step(math.nan)
    assert scheduler.state_dict() == state


def test_plateau_state_is_whole_and_crosses_modes() -> None:
    optimizer = sgd()
    assert ReduceLROnPlateau(optimizer).get_last_lr() == [1.0]
    scheduler = ReduceLROnPlateau(optimizer, "max", patience=1, cooldown=3, nan_policy="ignore")
    for metric in (1.0, 2.0, 1.0, 1.0, 1.0):
        scheduler.step(metric)
    assert scheduler.in_cooldown
    assert scheduler.cooldown_counter == 2
    other = ReduceLROnPlateau(sgd(), "min", patience=9)
    other.load_state_dict(json.loads(json.dumps(scheduler.state_dict())))
    assert other.state_dict() == scheduler.state_dict()
    assert (other.mode_worse, other.best) == (-math.inf, 2.0)


@pytest.mark.parametrize("min_lr", [0.001, [0.001, 0.002]])
def test_plateau_and_groups_added_later(min_lr: Any) -> None:
    optimizer = sgd(1.0, 1.0)
    scheduler = ReduceLROnPlateau(optimizer, patience=0, min_lr=min_lr)
    scheduler.step(1.0)
    optimizer.add_param_group({"params": [cyoptim.Parameter(np.zeros(1))], "lr": 0.5})
    if isinstance(min_lr, list):
        with pytest.raises(RuntimeError, match=r"param groups in the `optimizer` \(3\) differs"):
            scheduler.step(1.0)
        scheduler.min_lrs.append(0.01)
    scheduler.step(1.0)
    close(lrs_of(optimizer), [0.1, 0.1, 0.05])


def test_plateau_warns_of_an_epoch() -> None:
    scheduler = ReduceLROnPlateau(sgd())
    (warning,) = recorded(lambda: scheduler.step(1.0, epoch=7))
    assert str(warning.message) == lr_scheduler.EPOCH_DEPRECATION_WARNING
    assert scheduler.last_epoch == 7
