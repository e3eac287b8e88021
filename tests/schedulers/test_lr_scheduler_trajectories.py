"""Learning rates from epoch to epoch: torch's trajectories, and exact functions of the epoch."""

from __future__ import annotations

import copy
import functools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import lr_scheduler
from cyoptim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    InverseSqrtLR,
    LinearLR,
    MultiStepLR,
    ReduceLROnPlateau,
    StepLR,
    WarmupCosineLR,
    WarmupStableDecayLR,
)
from tests.support.paths import GOLDEN
from tests.support.scheduler_cases import (
    ALONE,
    CASES,
    GOLDEN_STEPS,
    PLATEAUS,
    SCENARIOS,
    STEPS,
    advance,
    plateau,
    row,
    trajectory,
)
from tests.support.scheduler_runs import (
    ALL_SCENARIOS,
    CLOSED_FORM,
    OURS,
    close,
    cosine_of,
    lrs_of,
    ours,
    quiet,
    run,
    sgd,
    step,
    theirs,
)

STORED = json.loads((GOLDEN / "schedulers.json").read_text())


# --- torch's trajectories -------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCENARIOS)
def test_follows_torch_as_recorded(name: str) -> None:
    scenario = SCENARIOS[name]
    rows = trajectory(ours(scenario.optimizer), scenario, lr_scheduler, STEPS)
    close([rows[i] for i in GOLDEN_STEPS], STORED["rows"][name])


@pytest.mark.parametrize("name", PLATEAUS)
def test_plateau_follows_torch_as_recorded(name: str) -> None:
    close(plateau(ours(), lr_scheduler, name), STORED["plateaus"][name])


def test_no_scheduler_is_forgotten() -> None:
    assert list(STORED["rows"]) == list(SCENARIOS)
    assert list(STORED["plateaus"]) == list(PLATEAUS)
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
    # The optimizer's state is that of the epoch before: what each makes of it must be the same.
    scenario = SCENARIOS[name]
    before = trajectory(ours(), scenario, lr_scheduler, last_epoch)[-1]

    def resume(optimizer: Any, lib: Any) -> list[list[float]]:
        for group, lr in zip(optimizer.param_groups, before, strict=False):
            group["initial_lr"] = group["lr"]
            group["lr"] = lr
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
