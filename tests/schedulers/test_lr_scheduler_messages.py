"""What schedulers warn of and refuse, in whose words."""

from __future__ import annotations

import functools
import types
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler, swa_utils
from cyoptim.lr_scheduler import LRScheduler, ReduceLROnPlateau, StepLR
from tests.support.scheduler_cases import CASES, hyperbola
from tests.support.scheduler_runs import ALL_SCENARIOS, ours, recorded, sgd, step, theirs

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
PLANS += ["bobs", "boses", "bee", "bogs", "bbss", "brbos", "obsob", "bwrs", "brws"]


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
    (warning,) = recorded(lambda: scheduler.step())  # the line of the call is here
    assert str(warning.message).startswith(BEFORE)
    assert "Call `optimizer.step()` first, then `lr_scheduler.step()`" in str(warning.message)
    assert warning.filename == __file__
    (warning,) = recorded(lambda: scheduler.step(4))
    assert warning.message.args == (lr_scheduler.EPOCH_DEPRECATION_WARNING,)
    (warning,) = recorded(scheduler.get_lr)
    assert "please use `get_last_lr()`" in str(warning.message)


@pytest.mark.parametrize("name", ALL_SCENARIOS)
def test_get_lr_is_no_way_to_see_the_present_rate(name: str) -> None:
    scenario = ALL_SCENARIOS[name]
    for scheduler in scenario.build(lr_scheduler, ours(scenario.optimizer)):
        if type(scheduler).get_lr is not LRScheduler.get_lr:  # composed ones have none
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
    expected = messages(torch.optim.lr_scheduler, theirs(torch))
    assert len(found) == len(expected) == 3
    for every in (found, expected):  # torch's goes on about its version 1.1.0
        every.remove(next(text for text in every if text.startswith(BEFORE)))
    assert found == expected
    assert any(text.startswith(OVERRIDDEN) for text in found)
    theirs_of_epoch = torch.optim.lr_scheduler.EPOCH_DEPRECATION_WARNING
    assert theirs_of_epoch.startswith(lr_scheduler.EPOCH_DEPRECATION_WARNING)


def test_stepping_the_optimizer_is_not_slowed() -> None:
    optimizer = sgd()
    StepLR(optimizer, 3)
    assert "step" not in vars(optimizer)
    assert optimizer.step.__func__ is cyoptim.SGD.step


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
    assert str(found.value).startswith(str(expected.value))  # ours may go on


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
        f"SequentialLR at index 1 is no scheduler, but a {__name__}.NoScheduler",
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
    message = "^str is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, found a str: write "
    with pytest.raises(TypeError, match=message):
        getattr(lr_scheduler, case.name)("SGD", **case.variants[0])


@pytest.mark.parametrize(
    "make",
    [
        ReduceLROnPlateau,
        lambda o: swa_utils.SWALR(o, 0.1),
        lambda o: lr_scheduler.SequentialLR(o, [StepLR(sgd(), 3)], []),
        lambda o: lr_scheduler.ChainedScheduler([StepLR(sgd(), 3)], optimizer=o),
        LRScheduler,
        lambda o: lr_scheduler.WarmupCosineLR(o, 1, 3),
        lambda o: lr_scheduler.WarmupStableDecayLR(o, 1, 1, 3),
        lambda o: lr_scheduler.InverseSqrtLR(o, 1),
    ],
)
def test_only_an_optimizer_can_be_driven_by_others(make: Any) -> None:
    with pytest.raises(TypeError, match="^list is not an Optimizer: .*found a list: write "):
        make([])


def test_torchs_optimizers_are_none_of_ours(torch: Any) -> None:
    found = "is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, found a "
    with pytest.raises(TypeError) as raised:
        StepLR(theirs(torch), 3)
    assert str(raised.value) == (
        f"SGD {found}torch.optim.sgd.SGD: use cyoptim.SGD, or torch.optim.lr_scheduler.StepLR"
    )

    class Own(torch.optim.SGD):
        """Whose name is none of ours, as is that of the scheduler none of torch's."""

    with pytest.raises(TypeError, match="use cyoptim.Optimizer, or .*lr_scheduler.LRScheduler$"):
        lr_scheduler.InverseSqrtLR(Own([torch.zeros(2)]), 1)


def test_resuming_needs_initial_lr() -> None:
    with pytest.raises(
        KeyError,
        match=r"param 'initial_lr' is not specified in param_groups\[0\] when resuming "
        "scheduler with last_epoch >= 0",
    ):
        StepLR(sgd(), 3, last_epoch=1)
    optimizer = sgd()
    with pytest.raises(KeyError, match="param 'initial_lr' is not specified"):
        swa_utils.SWALR(optimizer, 0.1, last_epoch=1)
    assert "swa_lr" not in optimizer.param_groups[0]


SCALING = {
    "StepLR": {"step_size": 1},
    "LambdaLR": {"lr_lambda": lambda epoch: 1.0},
    "MultiplicativeLR": {"lr_lambda": lambda epoch: 1.0},
    "CosineAnnealingLR": {"T_max": 3},
    "ReduceLROnPlateau": {},
    "WarmupCosineLR": {"warmup_steps": 2, "total_steps": 9},
}


@pytest.mark.parametrize("name", SCALING)
def test_a_rate_that_the_optimizer_computes_has_no_schedule(name: str) -> None:
    made, w = getattr(lr_scheduler, name), np.ones((2, 2))
    message = "group {} has lr None, with which AdafactorHF computes the rate itself: give it an lr"
    optimizer = cyoptim.AdafactorHF([w])
    with pytest.raises(ValueError, match=message.format(0)):
        made(optimizer, **SCALING[name])
    assert "initial_lr" not in optimizer.param_groups[0]
    optimizer.step(grads=[w])
    made(cyoptim.AdafactorHF([w], lr=0.1), **SCALING[name])


def test_a_later_group_without_a_rate_has_no_schedule() -> None:
    v, w = np.ones(2), np.ones((2, 2))
    optimizer = cyoptim.AdafactorHF([{"params": [w], "lr": 0.1}])
    schedule = StepLR(optimizer, 1)
    optimizer.step(grads=[w])
    schedule.step()
    optimizer.add_param_group({"params": [v]})
    before = schedule.last_epoch, optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="parameter group 1 has lr None"):
        schedule.step()
    assert (schedule.last_epoch, optimizer.param_groups[0]["lr"]) == before


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
