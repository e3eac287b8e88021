"""States of schedulers: saved, loaded, copied, and refused."""

from __future__ import annotations

import copy
import json
import pickle
from collections import Counter
from typing import Any

import numpy as np
import pytest

from cyoptim import lr_scheduler
from cyoptim.lr_scheduler import (
    ChainedScheduler,
    CyclicLR,
    LambdaLR,
    MultiplicativeLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
    StepLR,
)
from scheduler_cases import CASES, SCENARIOS, advance, hyperbola, row
from scheduler_runs import ALL_SCENARIOS, lrs_of, ours, quiet, sgd, step, theirs


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
    assert json.dumps([scheduler.state_dict() for scheduler in copies]) == saved
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


def test_tensors_of_one_element_are_saved_as_numbers(torch: Any) -> None:
    scheduler = StepLR(sgd(torch.tensor([0.5]), torch.tensor(0.25)), 3)
    state = json.loads(json.dumps(scheduler.state_dict()))
    assert state["base_lrs"] == state["_last_lr"] == [0.5, 0.25]


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


CYCLIC = CyclicLR(sgd(), 0.1, 1.0, cycle_momentum=False).state_dict()
PLATEAU = ReduceLROnPlateau(sgd()).state_dict()


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
            CYCLIC | {"_scale_fn_custom": {"slope": 1}},
            ValueError,
            "saved with a scale_fn",
        ),
        (ReduceLROnPlateau, PLATEAU | {"mode": "best"}, ValueError, "mode best is unknown!"),
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
