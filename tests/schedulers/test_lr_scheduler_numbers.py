"""Numbers of NumPy and torch wherever a schedule asks for one, and what is kept of them."""

from __future__ import annotations

import inspect
import io
import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler, swa_utils
from cyoptim.lr_scheduler import LambdaLR, LRScheduler, MultiplicativeLR, ReduceLROnPlateau, StepLR
from tests.support.scheduler_cases import CASES, LRS, PLATEAUS, advance, row
from tests.support.scheduler_runs import lrs_of, ours, recorded, sgd, step


def tensor(value: Any) -> Any:
    return pytest.importorskip("torch").from_numpy(np.array(value))


FORMS: dict[str, Callable[[Any], Any]] = {
    "scalar": lambda value: np.array(value)[()],
    "no axes": np.array,
    "one axis": lambda value: np.array([value]),
    "two axes": lambda value: np.array([[value]]),
    "masked": lambda value: np.ma.array([value], mask=[False]),
    "tensor": tensor,
    "tensor of one axis": lambda value: tensor([value]),
}

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((case.name, variant) for case in CASES for variant in case.variants),
    ("WarmupCosineLR", {"warmup_steps": 3, "total_steps": 9, "start_factor": 0.1}),
    ("WarmupCosineLR", {"warmup_steps": 3, "total_steps": 9, "end_factor": 0.1}),
    ("WarmupStableDecayLR", {"warmup_steps": 2, "stable_steps": 3, "decay_steps": 5}),
    (
        "WarmupStableDecayLR",
        {"warmup_steps": 2, "stable_steps": 0, "decay_steps": 5}
        | {"start_factor": 0.5, "end_factor": 0.25, "decay": "1-sqrt"},
    ),
    ("InverseSqrtLR", {"warmup_steps": 3, "timescale": 7, "start_factor": 0.25}),
    ("SWALR", {"swa_lr": 0.05, "anneal_epochs": 8}),
    ("SWALR", {"swa_lr": [0.05, 0.1], "anneal_epochs": 5, "anneal_strategy": "linear"}),
]


def make(name: str, optimizer: Any, **arguments: Any) -> Any:
    lib = lr_scheduler if hasattr(lr_scheduler, name) else swa_utils
    return getattr(lib, name)(optimizer, **arguments)


def in_form(form: str, value: Any) -> Any:
    """A number in another form, and a list as an array; all else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float, list)):
        return value
    return np.array(value) if isinstance(value, list) else FORMS[form](value)


def assert_plain(value: Any) -> None:
    if isinstance(value, dict):
        assert type(value) is dict or type(value).__name__ == "Counter"
        for key, item in value.items():
            assert_plain(key)
            assert_plain(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (int, float, bool, str), repr(value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_every_argument_may_be_numpys(name: str, variant: Any, form: str) -> None:
    given = {key: in_form(form, value) for key, value in variant.items()}
    expected, found = ours(), ours()
    a, b = make(name, expected, **variant), make(name, found, **given)
    assert row(found) == row(expected)
    assert advance(found, [b], 30) == advance(expected, [a], 30)
    state = b.state_dict()
    assert_plain(state)
    assert state == a.state_dict()
    # What is kept in the schedule, and in the groups, has Python's types as well.
    for key, value in vars(b).items():
        if key not in ("optimizer", "lr_lambdas", "_scale_fn_ref", "_scale_fn_custom"):
            assert_plain(value)
    for group in found.param_groups:
        assert_plain({key: value for key, value in group.items() if key != "params"})


def test_every_number_of_every_schedule_is_tried() -> None:
    tried: dict[str, set[str]] = {}
    for name, variant in VARIANTS:
        tried.setdefault(name, set()).update(variant)
    for name in {*lr_scheduler.__all__, "SWALR"}:
        cls = getattr(lr_scheduler, name, None) or getattr(swa_utils, name)
        if not isinstance(cls, type) or name.endswith("LRScheduler"):
            continue
        if name in ("SequentialLR", "ChainedScheduler", "ReduceLROnPlateau"):
            continue  # below
        numbers = {
            name
            for name, parameter in inspect.signature(cls).parameters.items()
            if "float" in parameter.annotation or "int" in parameter.annotation
        }
        assert numbers - tried[name] <= {"last_epoch", "optimizer", "scale_fn", "pct_start"}, name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PLATEAUS)
def test_a_plateau_of_numpys_numbers(name: str, form: str) -> None:
    options, metrics = PLATEAUS[name]
    given = {key: in_form(form, value) for key, value in options.items()}
    expected, found = ours(), ours()
    a, b = ReduceLROnPlateau(expected, **options), ReduceLROnPlateau(found, **given)
    for metric in metrics:
        a.step(metric)
        b.step(FORMS[form](metric))
        assert row(found) == row(expected)
        assert all(type(group["lr"]) is float for group in found.param_groups)
    state = b.state_dict()
    assert_plain(state)
    np.testing.assert_equal(state, a.state_dict())
    if not any(map(math.isnan, metrics)):
        metric = FORMS[form](metrics[0])
        assert b.preview(3, [metric] * 3) == a.preview(3, metrics[0])


@pytest.mark.parametrize("bounds", [[0.05, 0.001], [0.05]])
def test_the_bounds_of_a_plateau_may_be_an_array(bounds: list[float]) -> None:
    optimizer = sgd(*[0.1 for _ in bounds])
    scheduler = ReduceLROnPlateau(optimizer, patience=0, min_lr=np.array(bounds))
    for _ in range(4):
        scheduler.step(1.0)
    np.testing.assert_allclose(lrs_of(optimizer), bounds)


def test_a_metric_that_is_masked_is_missing() -> None:
    scheduler = ReduceLROnPlateau(sgd(), nan_policy="ignore")
    for metric in (np.ma.masked, np.ma.array([1.0], mask=[True])):
        assert not recorded(lambda metric=metric: scheduler.step(metric))
        assert scheduler.best == math.inf
    with pytest.raises(ValueError, match="the metric is NaN"):
        ReduceLROnPlateau(sgd(), nan_policy="raise").step(np.ma.masked)


@pytest.mark.parametrize("metric", [None, [1.0], np.ones(2), "low", {}, 1j])
def test_a_metric_that_is_no_number(metric: Any) -> None:
    scheduler = ReduceLROnPlateau(sgd())
    before = scheduler.state_dict()
    with pytest.raises((TypeError, ValueError), match=r"the metric|could not convert"):
        scheduler.step(metric)
    assert scheduler.state_dict() == before


def test_milestones_and_last_epoch_of_a_sequence() -> None:
    def build(milestones: Any, last_epoch: Any) -> Any:
        optimizer = sgd()
        parts = [StepLR(optimizer, 2), lr_scheduler.ExponentialLR(optimizer, 0.5)]
        return lr_scheduler.SequentialLR(optimizer, parts, milestones, last_epoch)

    expected = build([3], 1)
    for milestones in (np.array([3]), [np.int64(3)], (np.array([3]),)):
        found = build(milestones, np.array([1]))
        assert found.preview(5) == expected.preview(5)
        assert_plain(found.state_dict())
        assert_plain(found._milestones)


@pytest.mark.parametrize("form", FORMS)
def test_epochs_and_counts_may_be_numpys(form: str) -> None:
    make_form = FORMS[form]
    optimizer = sgd()
    scheduler = StepLR(optimizer, 3)
    assert scheduler.preview(make_form(4)) == scheduler.preview(4)
    optimizer.step()
    with pytest.warns(UserWarning, match="The epoch parameter"):
        scheduler.step(make_form(6))
    assert (scheduler.last_epoch, type(scheduler.last_epoch)) == (6, int)
    np.testing.assert_allclose(lrs_of(optimizer), [0.01])
    resumed = StepLR(optimizer, 3, last_epoch=make_form(5))
    assert (resumed.last_epoch, type(resumed.last_epoch)) == (6, int)
    restarts = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 4)
    restarts.step(make_form(2.5))
    assert (restarts.T_cur, type(restarts.T_cur)) == (2.5, float)


# --- rates that functions return ------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schedule", [LambdaLR, MultiplicativeLR])
def test_functions_may_return_numpys_numbers(schedule: Any, form: str) -> None:
    optimizer = sgd(0.1, 0.2)
    scheduler = schedule(optimizer, lambda epoch: FORMS[form](0.5))
    step(optimizer, scheduler)
    assert {type(group["lr"]) for group in optimizer.param_groups} == {float}
    assert_plain(scheduler.state_dict())
    cyclic = lr_scheduler.CyclicLR(
        optimizer, 0.1, 1.1, 2, scale_fn=lambda x: FORMS[form](0.5), cycle_momentum=False
    )
    step(optimizer, cyclic)
    np.testing.assert_allclose(lrs_of(optimizer), [0.35, 0.35])
    assert {type(group["lr"]) for group in optimizer.param_groups} == {float}


@pytest.mark.parametrize(
    "rates",
    [
        lambda base: np.array(base) / 2,
        lambda base: np.array(base)[:, None] / 2,
        lambda base: [np.float64(lr) / 2 for lr in base],
        lambda base: (np.array([lr]) / 2 for lr in base),
        lambda base: tuple(Fraction(lr) / 2 for lr in base),
        lambda base: [tensor(lr) / 2 for lr in base],
    ],
)
def test_a_schedule_of_ones_own_may_return_numpys_numbers(rates: Any) -> None:
    class Own(LRScheduler):
        def get_lr(self) -> Any:
            return rates(self.base_lrs)

    optimizer = sgd(0.5, 0.25)
    scheduler = Own(optimizer)
    step(optimizer, scheduler)
    assert lrs_of(optimizer) == [0.25, 0.125]
    assert {type(group["lr"]) for group in optimizer.param_groups} == {float}
    assert_plain(scheduler.state_dict())
    json.dumps(optimizer.state_dict()["param_groups"])


@pytest.mark.parametrize("result", [None, "half", [0.5], np.ones(2), 1j, np.ma.masked, {}])
def test_what_a_function_returns_is_checked(result: Any) -> None:
    results = [1.0]
    optimizer = sgd(0.5, 0.25)
    for build, message in (
        (lambda: LambdaLR(optimizer, lambda e: results[-1]), "result of lr_lambda .* group 0 at 1"),
        (
            lambda: MultiplicativeLR(optimizer, lambda e: results[-1]),
            "of lr_lambda .* group 0 at 1",
        ),
        (
            lambda: lr_scheduler.CyclicLR(
                optimizer, 0.1, 1.0, cycle_momentum=False, scale_fn=lambda x: results[-1]
            ),
            "the result of scale_fn at 1",
        ),
    ):
        scheduler = build()
        optimizer.step()
        state, lrs = scheduler.state_dict(), lrs_of(optimizer)
        results.append(result)
        with pytest.raises(TypeError, match=message):
            scheduler.step()
        assert (scheduler.state_dict(), lrs_of(optimizer)) == (state, lrs)
        results.pop()


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, r"get_lr\(\) of Own returned None, expected a list of 2 learning rates"),
        (0.5, TypeError, r"get_lr\(\) of Own returned 0.5, expected a list of 2"),
        ([0.5], ValueError, "Own has 1 learning rates for 2 parameter groups"),
        ([0.5] * 3, ValueError, "Own has 3 learning rates for 2 parameter groups"),
        ([0.5, None], TypeError, "Own, parameter group 1: lr must be a number, got NoneType"),
        (["0.5", 0.5], TypeError, "Own, parameter group 0: lr must be a number, got str: '0.5'"),
        ([0.5, np.ones(2)], TypeError, "Own, parameter group 1: lr is an array of shape"),
    ],
)
def test_what_get_lr_returns_is_checked(result: Any, error: Any, message: str) -> None:
    results: list[Any] = [[0.25, 0.125]]

    class Own(LRScheduler):
        def get_lr(self) -> Any:
            return results[-1]

    optimizer = sgd(0.5, 0.25)
    scheduler = Own(optimizer)
    optimizer.step()
    before = scheduler.state_dict()
    results.append(result)
    with pytest.raises(error, match=message):
        scheduler.step()
    assert lrs_of(optimizer) == [0.25, 0.125]
    assert scheduler.state_dict() == before


# --- what is refused ------------------------------------------------------------------------------


ONE_A_GROUP = ("base_lr", "max_lr", "swa_lr", "base_momentum", "max_momentum")


@pytest.mark.parametrize("bad", [None, "3", [3], np.array([3, 4]), 1j, np.ma.masked])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_an_argument_that_is_no_number_is_named(name: str, variant: Any, bad: Any) -> None:
    may_be_none = {"step_size_down", "total_steps", "epochs", "steps_per_epoch", "timescale"}
    for key, value in variant.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        if bad is None and key in may_be_none:
            continue
        optimizer = ours()
        before = optimizer.state_dict()["param_groups"]
        if key in ONE_A_GROUP and isinstance(bad, (list, np.ndarray)):
            continue
        with pytest.raises((TypeError, ValueError), match=key):
            make(name, optimizer, **{**variant, key: bad})
        assert optimizer.state_dict()["param_groups"] == before


@pytest.mark.parametrize("bad", [None, "3", [3], np.array([3, 4]), 1j])
@pytest.mark.parametrize("key", ["factor", "patience", "threshold", "cooldown", "eps", "min_lr"])
def test_an_argument_of_a_plateau_that_is_no_number_is_named(key: str, bad: Any) -> None:
    if key == "min_lr" and isinstance(bad, (list, np.ndarray)):
        bad = ["3"]
    with pytest.raises(TypeError, match=rf"{key}(\[0\])? (must be a number|is an array)"):
        ReduceLROnPlateau(sgd(), **{key: bad})


@pytest.mark.parametrize("milestones", [30, np.array(30), None, "ab", [None], [[3]]])
def test_milestones_that_are_none(milestones: Any) -> None:
    with pytest.raises(TypeError, match="milestones"):
        lr_scheduler.MultiStepLR(sgd(), milestones)


WHOLE = [np.array(1), np.array(1, np.uint8), np.array(True)]


@pytest.mark.parametrize("lr", WHOLE)
def test_an_array_that_cannot_hold_rates_is_refused(lr: Any) -> None:
    message = f"lr is an array of {lr.dtype}, in which .* truncated: write lr=1.0, or give an array"
    with pytest.raises(TypeError, match=message):
        cyoptim.SGD([np.zeros(1)], lr=lr)
    optimizer = sgd(0.5, 0.25)
    scheduler = StepLR(optimizer, 1)
    optimizer.step()
    optimizer.param_groups[1]["lr"] = lr
    with pytest.raises(TypeError, match=f"StepLR, parameter group 1: {message}"):
        scheduler.step()
    assert (optimizer.param_groups[0]["lr"], lr) == (0.5, 1)
    with pytest.raises(TypeError, match=f"parameter group 1: {message}"):
        ReduceLROnPlateau(optimizer)


def test_a_tensor_that_cannot_hold_rates_is_refused(torch: Any) -> None:
    with pytest.raises(TypeError, match=r"lr is a tensor of torch.int64, .* write lr=1.0"):
        cyoptim.SGD([np.zeros(1)], lr=torch.tensor(1))


def test_an_array_that_cannot_be_written_is_refused() -> None:
    lr = np.array(0.5)
    lr.flags.writeable = False
    optimizer = sgd(lr)
    with pytest.raises(ValueError, match=r"lr is a read-only array, .*: write lr=0.5, or give a"):
        StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = lr.copy()
    scheduler = StepLR(optimizer, 1, 0.5)
    optimizer.step()
    optimizer.param_groups[0]["lr"].flags.writeable = False
    with pytest.raises(ValueError, match="StepLR, parameter group 0: lr is a read-only array"):
        scheduler.step()


# --- what is saved --------------------------------------------------------------------------------


def test_torch_loads_the_rates_that_schedules_have_set(torch: Any) -> None:
    w = torch.zeros(2, requires_grad=True)
    optimizer = cyoptim.SGD([w], lr=np.float64(0.1), momentum=np.float32(0.5))
    scheduler = LambdaLR(optimizer, lambda epoch: np.exp(-0.1 * epoch))
    step(optimizer, scheduler)
    optimizer.param_groups[0]["weight_decay"] = np.float64(0.25)  # also what is written later
    optimizer.param_groups[0]["dampening"] = np.array([0.5])
    for saved in (optimizer.state_dict(), scheduler.state_dict()):
        file = io.BytesIO()
        torch.save(saved, file)
        file.seek(0)
        torch.load(file, weights_only=True)
    (group,) = optimizer.state_dict()["param_groups"]
    assert_plain(group)
    assert math.isclose(group["lr"], 0.1 * math.exp(-0.1))
    assert (group["momentum"], group["weight_decay"], group["dampening"]) == (0.5, 0.25, 0.5)


def test_rates_of_arrays_and_tensors_stay_what_they_are(torch: Any) -> None:
    for lr in (np.array(0.5), torch.tensor(0.5)):
        optimizer = sgd(lr)
        step(optimizer, StepLR(optimizer, 1, 0.5))
        assert optimizer.param_groups[0]["lr"] is lr
        assert float(lr) == 0.25
        assert optimizer.state_dict()["param_groups"][0]["lr"] is lr


def test_lists_of_several_tensors_are_one_a_group(torch: Any) -> None:
    optimizer = sgd(*LRS)
    swa_utils.SWALR(optimizer, torch.tensor([0.25, 0.5]), 0)
    assert lrs_of(optimizer) == [0.25, 0.5]


def test_arrays_of_functions_are_lists() -> None:
    optimizer = sgd(*LRS)
    functions = np.array([lambda epoch: 0.5, lambda epoch: 0.25], dtype=object)
    LambdaLR(optimizer, functions)
    np.testing.assert_allclose(lrs_of(optimizer), [LRS[0] / 2, LRS[1] / 4])


def test_numbers_of_other_libraries() -> None:
    class Foreign:
        """An array that NumPy can read."""

        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([4])

    assert StepLR(sgd(), Foreign()).step_size == 4
    assert StepLR(sgd(), 4, Fraction(1, 2)).gamma == 0.5
