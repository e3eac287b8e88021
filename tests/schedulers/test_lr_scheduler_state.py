"""States of schedulers: saved, loaded, copied, and refused."""

from __future__ import annotations

import copy
import json
import pickle
import weakref
from collections import Counter
from typing import Any

import numpy as np
import pytest

import cyoptim
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
from cyoptim.swa_utils import SWALR
from tests.support.scheduler_cases import CASES, SCENARIOS, advance, hyperbola, row
from tests.support.scheduler_runs import ALL_SCENARIOS, lrs_of, ours, quiet, sgd, step, theirs


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
        (lambda o: StepLR(o, 3), [], TypeError, "state_dict must be a dict, .*, got list"),
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


# --- states of other schedules --------------------------------------------------------------------


def build_own(optimizer: Any) -> Any:
    class Own(lr_scheduler.LRScheduler):
        def __init__(self, optimizer: Any, slope: float) -> None:
            self.slope = slope
            super().__init__(optimizer)

        def get_lr(self) -> list[Any]:
            self.seen = self.last_epoch  # an attribute that is not there from the beginning
            return [base * self.slope for base in self.base_lrs]

    return Own(optimizer, 0.5)


def in_sequence(optimizer: Any, *parts: Any) -> Any:
    return SequentialLR(optimizer, [part(optimizer) for part in parts], [3] * (len(parts) - 1))


def chained(optimizer: Any, *parts: Any) -> Any:
    return ChainedScheduler([part(optimizer) for part in parts])


def step_lr(optimizer: Any) -> Any:
    return StepLR(optimizer, 5)


def cosine_lr(optimizer: Any) -> Any:
    return lr_scheduler.CosineAnnealingLR(optimizer, 7)


BUILDERS: dict[str, Any] = {
    "StepLR": step_lr,
    "MultiStepLR": lambda o: MultiStepLR(o, [3]),
    "ConstantLR": lr_scheduler.ConstantLR,
    "LinearLR": lr_scheduler.LinearLR,
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.5),
    "PolynomialLR": lr_scheduler.PolynomialLR,
    "CosineAnnealingLR": cosine_lr,
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "LambdaLR": lambda o: LambdaLR(o, hyperbola),
    "MultiplicativeLR": lambda o: MultiplicativeLR(o, hyperbola),
    "CyclicLR": lambda o: CyclicLR(o, 0.1, 1.0),
    "OneCycleLR": lambda o: OneCycleLR(o, 1.0, 30),
    "ReduceLROnPlateau": ReduceLROnPlateau,
    "WarmupCosineLR": lambda o: lr_scheduler.WarmupCosineLR(o, 3, 9),
    "WarmupStableDecayLR": lambda o: lr_scheduler.WarmupStableDecayLR(o, 3, 3, 3),
    "InverseSqrtLR": lambda o: lr_scheduler.InverseSqrtLR(o, 3),
    "SWALR": lambda o: SWALR(o, 0.1),
    "SequentialLR": lambda o: in_sequence(o, step_lr, cosine_lr),
    "ChainedScheduler": lambda o: chained(o, step_lr, cosine_lr),
}
# The states of these two have the same entries, in torch as well.
TWINS = {"LambdaLR", "MultiplicativeLR"}


def test_every_schedule_has_a_builder() -> None:
    names = {
        cls.__name__
        for cls in map(lr_scheduler.__dict__.get, lr_scheduler.__all__)
        if isinstance(cls, type)
    }
    assert names - {"LRScheduler", "_LRScheduler"} | {"SWALR"} == set(BUILDERS)


def momentum_sgd() -> Any:
    return sgd(momentum=0.9)


@pytest.mark.parametrize("wanted", BUILDERS)
@pytest.mark.parametrize("saved", BUILDERS)
def test_a_state_of_another_schedule_is_refused(saved: str, wanted: str) -> None:
    state = json.loads(json.dumps(BUILDERS[saved](momentum_sgd()).state_dict()))
    scheduler = BUILDERS[wanted](momentum_sgd())
    before = scheduler.state_dict()
    if saved == wanted or {saved, wanted} == TWINS:
        scheduler.load_state_dict(state)
        assert scheduler.state_dict().keys() == before.keys()
        return
    with pytest.raises(
        ValueError, match=f"this is not the state of a {wanted}, but looks like"
    ) as e:
        scheduler.load_state_dict(state)
    assert saved in str(e.value)
    assert isinstance(e.value, KeyError)  # as torch raises where an entry is missing
    assert scheduler.state_dict() == before


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize(
    ("saved", "wanted"),
    [("StepLR", "CosineAnnealingLR"), ("ExponentialLR", "StepLR"), ("SWALR", "OneCycleLR")],
)
def test_a_checkpoint_of_another_schedule_is_refused(
    tmp_path: Any, saved: str, wanted: str, suffix: str
) -> None:
    path = tmp_path / f"run.{suffix}"
    cyoptim.save(path, scheduler=BUILDERS[saved](momentum_sgd()))
    scheduler = BUILDERS[wanted](momentum_sgd())
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=f"not the state of a {wanted}, .* that of a {saved}"):
        cyoptim.load(path, scheduler=scheduler)
    assert scheduler.state_dict() == before


@pytest.mark.parametrize("compose", [in_sequence, chained])
def test_schedules_made_of_others_are_refused_by_their_number(compose: Any) -> None:
    scheduler = compose(momentum_sgd(), step_lr, cosine_lr)
    before = scheduler.state_dict()
    state = compose(momentum_sgd(), step_lr, BUILDERS["ExponentialLR"]).state_dict()
    message = (
        f"scheduler 1 of the {type(scheduler).__name__}: this is not the state of a "
        r"CosineAnnealingLR, but looks like that of a ExponentialLR \(found gamma, expected T_max, "
    )
    with pytest.raises(ValueError, match=message):
        scheduler.load_state_dict(state)
    assert scheduler.state_dict() == before


def test_states_of_ones_own_schedule_are_told_from_ours() -> None:
    own = build_own(sgd())
    state = own.state_dict()
    for name, build in BUILDERS.items():
        scheduler = build(momentum_sgd())
        before = scheduler.state_dict()
        with pytest.raises(ValueError, match=f"not the state of a {name} .*found none"):
            scheduler.load_state_dict(state)
        assert scheduler.state_dict() == before
        with pytest.raises(ValueError, match=f"not the state of a Own, but looks like .*{name}"):
            own.load_state_dict(before)
    assert own.state_dict() == state


def test_a_schedule_of_ones_own_keeps_its_attributes() -> None:
    optimizer = sgd()
    scheduler = build_own(optimizer)
    scheduler.table, scheduler.names = np.arange(3.0), {"a": [1, 2]}
    step(optimizer, scheduler, times=3)
    other = build_own(sgd())
    other.load_state_dict(scheduler.state_dict())
    assert (other.seen, other.last_epoch, other.names) == (3, 3, {"a": [1, 2]})
    np.testing.assert_array_equal(other.table, np.arange(3.0))

    class Later(StepLR):
        def step(self) -> None:
            super().step()
            self.calls = getattr(self, "calls", 0) + 1

    later = Later(optimizer, 2)
    step(optimizer, later, times=2)
    again = Later(sgd(), 9)
    again.load_state_dict(later.state_dict())
    assert (again.calls, again.step_size) == (3, 2)  # one of them while it was constructed
    StepLR(sgd(), 9).load_state_dict(later.state_dict())  # and the other way round


def test_a_subclass_may_save_less() -> None:
    class Short(StepLR):
        def state_dict(self) -> dict[str, Any]:
            return {"last_epoch": self.last_epoch}

    scheduler = Short(sgd(), 3)
    scheduler.load_state_dict({"last_epoch": 7})
    assert scheduler.last_epoch == 7
    with pytest.raises(ValueError, match="not the state of a Short, but .* of a PolynomialLR"):
        scheduler.load_state_dict(lr_scheduler.PolynomialLR(sgd()).state_dict())


@pytest.mark.parametrize("build", [step_lr, build_own])
def test_the_state_of_an_optimizer_is_refused(build: Any) -> None:
    optimizer = sgd()
    scheduler = build(optimizer)
    with pytest.raises(ValueError, match="looks like that of a Optimizer .found param_groups, st"):
        scheduler.load_state_dict(optimizer.state_dict())


def test_functions_that_one_keeps_are_left_out() -> None:
    class Own(StepLR):
        def __init__(self, optimizer: Any) -> None:
            self.shape = lambda epoch: 1.0
            self.shapes = [abs, self.get_lr]
            super().__init__(optimizer, 3)

    scheduler = Own(sgd())
    json.dumps(scheduler.state_dict())
    shape = scheduler.shape
    scheduler.load_state_dict(scheduler.state_dict())
    assert scheduler.shape is shape


# --- states of older versions of torch ------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in BUILDERS if name not in ("ReduceLROnPlateau",)])
def test_entries_that_other_versions_of_torch_have_or_lack(name: str) -> None:
    optimizer, other = momentum_sgd(), momentum_sgd()
    scheduler, resumed = BUILDERS[name](optimizer), BUILDERS[name](other)
    step(optimizer, scheduler, times=4)

    def old(state: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in state.items() if key not in ("_is_initial",)}
        if "_schedulers" in kept:
            kept["_schedulers"] = [old(part) for part in kept["_schedulers"]]
        return kept | {"verbose": False, "_get_lr_called_within_step": False, "_is_initial": False}

    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(old(scheduler.state_dict()))
    json.dumps(resumed.state_dict())
    assert advance(other, [resumed], 20) == advance(optimizer, [scheduler], 20)


class Older:
    """A schedule as torch kept it before 2.1: states held methods, and by them the optimizer."""

    optimizer = object()

    def _annealing_cos(self) -> None: ...
    def _annealing_linear(self) -> None: ...
    def _cosine_anneal(self) -> None: ...
    def _linear_anneal(self) -> None: ...
    def _triangular_scale_fn(self) -> None: ...


OLDER = Older()


def renamed(state: dict[str, Any], drop: str, **entries: Any) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != drop} | entries


@pytest.mark.parametrize(
    ("build", "age"),
    [
        (
            lambda o, strategy: OneCycleLR(o, 1.0, 40, anneal_strategy=strategy),
            lambda state, strategy: renamed(
                state,
                "_anneal_func_type",
                anneal_func=getattr(OLDER, f"_annealing_{strategy}"),
            ),
        ),
        (
            lambda o, strategy: SWALR(o, 0.5, 9, strategy),
            lambda state, strategy: renamed(
                state,
                "_anneal_strategy",
                anneal_func=getattr(OLDER, f"_{strategy.replace('cos', 'cosine')}_anneal"),
            ),
        ),
        (
            lambda o, strategy: CyclicLR(o, 0.1, 1.0, 4),
            lambda state, strategy: renamed(
                state, "_scale_fn_custom", scale_fn=OLDER._triangular_scale_fn
            ),
        ),
        (
            lambda o, strategy: CyclicLR(o, 0.1, 1.0, 4, mode="exp_range", gamma=0.9),
            lambda state, strategy: {
                **state,
                "_scale_fn_ref": weakref.WeakMethod(OLDER._triangular_scale_fn),
            },
        ),
    ],
)
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("within", [None, chained])
def test_methods_in_the_states_of_older_versions(
    build: Any, age: Any, strategy: str, within: Any, tmp_path: Any
) -> None:
    def made(strategy: str) -> tuple[Any, Any]:
        optimizer = momentum_sgd()
        scheduler = build(optimizer, strategy)
        return optimizer, ChainedScheduler([scheduler]) if within else scheduler

    optimizer, scheduler = made(strategy)
    step(optimizer, scheduler, times=4)
    state = scheduler.state_dict()
    state = (
        {**state, "_schedulers": [age(state["_schedulers"][0], strategy)]}
        if within
        else age(state, strategy)
    )
    # Whatever the new schedule was built with.
    other, resumed = made({"cos": "linear", "linear": "cos"}[strategy])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    resumed.load_state_dict(state | {"verbose": False})
    json.dumps(resumed.state_dict())
    cyoptim.save(tmp_path / "run.npz", scheduler=resumed)
    assert pickle.loads(pickle.dumps(resumed)).state_dict() == resumed.state_dict()
    assert advance(other, [resumed], 30) == advance(optimizer, [scheduler], 30)


def test_callables_in_the_states_of_older_versions() -> None:
    function = Slope(0.5)
    scheduler = CyclicLR(sgd(), 0.1, 1.0, cycle_momentum=False, scale_fn=function)
    for entry in ("scale_fn", "_scale_fn_custom"):
        state = renamed(scheduler.state_dict(), "_scale_fn_custom", **{entry: Slope(0.25)})
        scheduler.load_state_dict(state)
        assert (scheduler._scale_fn_custom, function.slope) == (function, 0.25)
        function.slope = 0.5
    lambdas = LambdaLR(sgd(), function)
    saved = Slope(np.float64(0.125))
    saved.method = saved.__call__  # type: ignore[attr-defined]
    lambdas.load_state_dict({**lambdas.state_dict(), "lr_lambdas": [saved]})
    assert vars(function) == {"slope": 0.125}
    assert type(function.slope) is float


@pytest.mark.parametrize(
    ("functions", "saved", "error"),
    [
        (abs, {"slope": 1.0}, TypeError),
        (Slope(0.5), [1.0], TypeError),
        (Slope(0.5), 1.0, TypeError),
    ],
)
def test_attributes_that_a_function_cannot_have(functions: Any, saved: Any, error: Any) -> None:
    scheduler = LambdaLR(sgd(), functions)
    state = scheduler.state_dict()
    with pytest.raises(error, match="expected a dict of attributes for"):
        scheduler.load_state_dict({**state, "lr_lambdas": [saved], "last_epoch": 9})
    assert scheduler.state_dict() == state
    with pytest.raises(ValueError, match="'lr_lambdas' of 2 values for 1 parameter groups"):
        scheduler.load_state_dict({**state, "lr_lambdas": [None, None]})


def test_states_of_torch_that_are_in_no_scenario(torch: Any) -> None:
    theirs_of, lib = torch.optim.swa_utils, torch.optim.lr_scheduler
    for strategy in ("cos", "linear"):
        begun, resumed = theirs(torch), ours()
        a = theirs_of.SWALR(begun, [0.05, 0.2], 9, strategy)
        b = SWALR(resumed, 0.5)
        quiet(lambda a=a, begun=begun: advance(begun, [a], 4))
        b.load_state_dict(a.state_dict())
        for group, other in zip(resumed.param_groups, begun.param_groups, strict=True):
            group.update({key: value for key, value in other.items() if key != "params"})
        found = quiet(lambda b=b, resumed=resumed: advance(resumed, [b], 10))
        expected = quiet(lambda a=a, begun=begun: advance(begun, [a], 10))
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        a.load_state_dict(b.state_dict())
    plateau = ReduceLROnPlateau(ours())
    plateau.load_state_dict(lib.ReduceLROnPlateau(theirs(torch), patience=3).state_dict())
    assert plateau.patience == 3
