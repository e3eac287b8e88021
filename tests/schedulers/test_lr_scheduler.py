"""Schedulers: what we promise beyond torch."""

from __future__ import annotations

import copy
import functools
import gc
import importlib
import json
import math
import sys
import weakref
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler
from cyoptim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
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
)
from tests.support.scheduler_cases import (
    LRS,
    Scenario,
    advance,
    decline,
    hyperbola,
    row,
    trajectory,
)
from tests.support.scheduler_runs import (
    ALL_SCENARIOS,
    ONE_SCHEDULER,
    close,
    cosine_of,
    lrs_of,
    ours,
    quiet,
    recorded,
    run,
    sgd,
    step,
)

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
    optimizer = sgd(torch.tensor([0.5]), np.array(0.5, np.float32))
    step(optimizer, CosineAnnealingLR(optimizer, 10), times=3)
    tensor, array = (group["lr"] for group in optimizer.param_groups)
    assert (tensor.dtype, tensor.shape) == (torch.float32, (1,))
    assert (array.dtype, array.shape) == (np.float32, ())
    close(lrs_of(optimizer), [0.5 * cosine_of(0.3)] * 2, 1e-7)


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


def test_preview_leaves_arrays_alone() -> None:
    lr = np.array(1.0)
    assert ExponentialLR(sgd(lr), 0.5).preview(2) == [0.5, 0.25]
    assert lr == 1.0


def test_preview_of_a_schedule_that_looks_at_the_defaults() -> None:
    class Own(LRScheduler):
        def get_lr(self) -> list[Any]:
            return [self.optimizer.defaults["lr"] / (1 + self.last_epoch)]

    assert Own(cyoptim.SGD([np.zeros(3)], lr=1.0)).preview(2) == [0.5, 1 / 3]


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


@pytest.mark.slow
def test_plot_draws_one_line_for_each_group() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    optimizer = sgd(1.0, 2.0)
    ax = lr_scheduler.plot(ExponentialLR(optimizer, 0.5), 2)
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.0, 0.5, 0.25], [2.0, 1.0, 0.5]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["group 0", "group 1"]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("step", "learning rate")
    assert lr_scheduler.plot(StepLR(sgd(), 3), 5, ax=ax) is ax
    assert len(ax.lines) == 3
    assert lr_scheduler.plot(StepLR(sgd(), 3), 5).get_legend() is None
    importlib.import_module("matplotlib.pyplot").close("all")


def test_plot_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match=r'pip install "cyoptim\[demo\]"'):
        lr_scheduler.plot(StepLR(sgd(), 3), 5)


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
    assert "initial_lr" in optimizer.param_groups[2]


def test_the_array_of_a_group_added_later_is_its_own() -> None:
    optimizer = sgd()
    scheduler = ExponentialLR(optimizer, 0.5)
    lr = np.array(2.0)
    grown(optimizer, scheduler, lr=lr)
    group = optimizer.param_groups[1]
    assert group["lr"] is lr
    assert (lr, group["initial_lr"], scheduler.base_lrs[1]) == (0.125, 2.0, 2.0)
    group["initial_lr"][...] = 7.0
    assert scheduler.base_lrs[1] == 2.0


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


class Resuming:
    """The library, with `last_epoch` given to every scheduler that can be resumed so."""

    def __init__(self, last_epoch: int, parts: bool = True) -> None:
        self.last_epoch, self.parts = last_epoch, parts

    def __getattr__(self, name: str) -> Any:
        cls = getattr(lr_scheduler, name, None) or getattr(cyoptim.swa_utils, name)
        if name == "ChainedScheduler" or not (self.parts or name == "SequentialLR"):
            return cls
        return functools.partial(cls, last_epoch=self.last_epoch)


RESUMABLE = ALL_SCENARIOS | {
    f"SWALR-{strategy}-{epochs}": Scenario(
        lambda lib, o, strategy=strategy, epochs=epochs: [
            lib.SWALR(o, [0.05, 0.2], epochs, strategy)
        ]
    )
    for strategy in ("cos", "linear")
    for epochs in (0, 1, 8)
}


@pytest.mark.parametrize("name", RESUMABLE)
def test_every_schedule_resumes_from_last_epoch(name: str) -> None:
    scenario = RESUMABLE[name]
    for last_epoch in (0, 1, 3, 5, 6, 9, 12, 24):
        straight, resumed = ours(scenario.optimizer), ours(scenario.optimizer)
        schedulers = scenario.build(Resuming(-1), straight)
        step(straight, *schedulers, times=last_epoch + 1)
        resumed.load_state_dict(copy.deepcopy(straight.state_dict()))
        # The parts of a sequence are run through again; those of a chain are resumed themselves.
        parts = not isinstance(schedulers[0], SequentialLR)
        later = scenario.build(Resuming(last_epoch, parts), resumed)
        assert row(resumed) == row(straight)
        close(advance(resumed, later, 25), advance(straight, schedulers, 25), 1e-14)


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


def test_bounds_are_numbers_of_their_own() -> None:
    high = np.array(1.0)
    optimizer = sgd(1.0, 1.0, momentum=0.9)
    scheduler = CyclicLR(optimizer, 0.1, high, 4)
    grown(optimizer, scheduler)
    high[...] = 7.0
    assert scheduler.max_lrs == [1.0, 1.0, 1.0]
    assert {type(bound) for bound in scheduler.max_lrs} == {float}


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
    for _ in range(3):
        scheduler.step(1.0)
    close(lrs_of(optimizer), scheduler.min_lrs)
    assert scheduler.min_lrs == ([*min_lr, 0.01] if isinstance(min_lr, list) else [min_lr] * 3)


def test_plateau_warns_of_an_epoch() -> None:
    scheduler = ReduceLROnPlateau(sgd())
    (warning,) = recorded(lambda: scheduler.step(1.0, epoch=7))
    assert str(warning.message) == lr_scheduler.EPOCH_DEPRECATION_WARNING
    assert scheduler.last_epoch == 7
