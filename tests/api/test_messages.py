"""One table of what torch says of bad arguments: the same is said here.

Each row is tried on torch, where it is installed, and here, with arrays and with tensors. A message of
ours may go on where torch's ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import cards, label
from tests.support.cards import CHECKED, TORCH, Card, Options
from tests.support.parametrize import every_card

Error = type[Exception]
Row = tuple[Card, Options, Error, str]

OPTIONS: list[Row] = [(card, *row) for card in cards() for row in card.bad_as_torch]

# (what is called with the library and a maker of matrices of ones, error, message)
Act = Callable[[Any, Callable[[], Any]], object]
CALLS: dict[str, tuple[Act, Error, str]] = {
    "one parameter": (lambda lib, p: lib.SGD(p()), TypeError, "params argument given to the optimizer should be an iterable of Tensors or dicts"),
    "no parameter": (lambda lib, p: lib.SGD([]), ValueError, "optimizer got an empty parameter list"),
    "a string": (lambda lib, p: lib.SGD(["w"]), TypeError, "optimizer can only optimize Tensors, but one of the params is str"),
    "a number": (lambda lib, p: lib.SGD([1.0]), TypeError, "optimizer can only optimize Tensors, but one of the params is float"),
    "a set": (lambda lib, p: lib.SGD([{"params": {1, 2}}]), TypeError, "optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change between runs. Please use a list instead."),
    "a group that is no dict": (lambda lib, p: lib.SGD([p()]).add_param_group([p()]), TypeError, "param_group must be a dict, but got <class 'list'>"),
    "twice": (lambda lib, p: twice(lib, p()), ValueError, "some parameters appear in more than one parameter group"),
    "some names": (lambda lib, p: lib.SGD([("a", p()), p()]), ValueError, "all optimizer params should be with/without names. Some param names are missing"),
    "named groups": (lambda lib, p: lib.SGD([("a", p())]).add_param_group({"params": [p()]}), ValueError, "all optimizer param groups should be with/without names. cannot add param group without names to the optimizer"),
    "unnamed groups": (lambda lib, p: lib.SGD([p()]).add_param_group({"params": [("a", p())]}), ValueError, "all optimizer param groups should be with/without names. cannot add param group with names to the optimizer"),
    "number of groups": (lambda lib, p: lib.SGD([p()]).load_state_dict(lib.SGD([{"params": [p()]}, {"params": [p()]}]).state_dict()), ValueError, "loaded state dict has a different number of parameter groups"),
    "size of group": (lambda lib, p: lib.SGD([p()]).load_state_dict(lib.SGD([p(), p()]).state_dict()), ValueError, "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"),
    "step of the base": (lambda lib, p: lib.Optimizer([p()], {}).step(), NotImplementedError, ""),
    "decay": (lambda lib, p: lib.swa_utils.get_ema_avg_fn(1.5), ValueError, "Invalid decay value 1.5 provided. Please provide a value in [0,1] range."),
    "decays": (lambda lib, p: lib.swa_utils.get_ema_multi_avg_fn(-0.5), ValueError, "Invalid decay value -0.5 provided. Please provide a value in [0,1] range."),
}  # fmt: skip

# Of schedulers: (what is called with lr_scheduler and an optimizer of SGD, error, message)
Schedule = Callable[[Any, Any], object]
SCHEDULES: dict[str, tuple[Schedule, Error, str]] = {
    "no optimizer": (lambda s, o: s.StepLR([1], 1), TypeError, "list is not an Optimizer"),
    "plateau of no optimizer": (lambda s, o: s.ReduceLROnPlateau([1]), TypeError, "list is not an Optimizer"),
    "cycle of no optimizer": (lambda s, o: s.CyclicLR([1], 0.1, 1), TypeError, "list is not an Optimizer"),
    "one cycle of no optimizer": (lambda s, o: s.OneCycleLR([1], 1.0, 10), TypeError, "list is not an Optimizer"),
    "resumed": (lambda s, o: s.StepLR(o, 1, last_epoch=3), KeyError, "param 'initial_lr' is not specified in param_groups[0] when resuming scheduler with last_epoch >= 0"),
    "lambdas": (lambda s, o: s.LambdaLR(o, [abs, abs]), ValueError, "Expected 1 lr_lambdas, but got 2"),
    "factors": (lambda s, o: s.MultiplicativeLR(o, [abs, abs]), ValueError, "Expected 1 lr_lambdas, but got 2"),
    "no function": (lambda s, o: s.MultiplicativeLR(o, [0.5]), TypeError, "lr_lambda should be a function, but got float"),
    "constant": (lambda s, o: s.ConstantLR(o, factor=1.5), ValueError, "Constant multiplicative factor expected to be between 0 and 1."),
    "linear start": (lambda s, o: s.LinearLR(o, start_factor=0), ValueError, "Starting multiplicative factor expected to be greater than 0 and less or equal to 1."),
    "linear end": (lambda s, o: s.LinearLR(o, end_factor=1.5), ValueError, "Ending multiplicative factor expected to be between 0 and 1."),
    "empty sequence": (lambda s, o: s.SequentialLR(o, [], []), ValueError, "SequentialLR expects at least one scheduler, but got no scheduler."),
    "milestones": (lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1)], [1]), ValueError, "Sequential Schedulers expects number of schedulers provided to be one more than the number of milestone points, but got number of schedulers 1 and the number of milestones to be equal to 1"),
    "plateau in sequence": (lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1), s.ReduceLROnPlateau(o)], [1]), ValueError, "SequentialLR does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be specified when calling `step`, but got one at index 1 in the given schedulers sequence."),
    "stranger in sequence": (lambda s, o: s.SequentialLR(o, [s.StepLR(o, 1), 5], [1]), TypeError, "SequentialLR at index 1 should have `optimizer` as its attribute."),
    "empty chain": (lambda s, o: s.ChainedScheduler([]), ValueError, "ChainedScheduler expects at least one scheduler to be chained, but got no scheduler."),
    "plateau in chain": (lambda s, o: s.ChainedScheduler([s.StepLR(o, 1), s.ReduceLROnPlateau(o)]), ValueError, "ChainedScheduler does not support `ReduceLROnPlateau` scheduler as it requires additional kwargs to be specified when calling `step`, but got one at index 1 in the given schedulers sequence."),
    "stranger in chain": (lambda s, o: s.ChainedScheduler([s.StepLR(o, 1), 5]), TypeError, "ChainedScheduler at index 1 should have `optimizer` as its attribute."),
    "plateau factor": (lambda s, o: s.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor should be < 1.0."),
    "plateau mode": (lambda s, o: s.ReduceLROnPlateau(o, mode="up"), ValueError, "mode up is unknown!"),
    "plateau threshold": (lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="up"), ValueError, "threshold mode up is unknown!"),
    "plateau floors": (lambda s, o: s.ReduceLROnPlateau(o, min_lr=[0.1, 0.2]), ValueError, "expected 1 min_lrs, got 2"),
    "cycle bounds": (lambda s, o: s.CyclicLR(o, [0.1, 0.2], 1.0), ValueError, "base_lr must have the same length as optimizer.param_groups. base_lr has 2 values, param_groups has 1."),
    "cycle mode": (lambda s, o: s.CyclicLR(o, 0.1, 1.0, mode="up"), ValueError, "mode is invalid and scale_fn is None"),
    "warm restarts": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 0), ValueError, "Expected positive integer T_0, but got 0"),
    "restart factor": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 2, 0), ValueError, "Expected integer T_mult >= 1, but got 0"),
    "restart floor": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 2, eta_min="x"), ValueError, "Expected float or int eta_min, but got x of type <class 'str'>"),
    "restart epoch": (lambda s, o: s.CosineAnnealingWarmRestarts(o, 2).step(-1), ValueError, "Expected non-negative epoch, but got -1"),
    "one cycle's steps": (lambda s, o: s.OneCycleLR(o, 1.0, total_steps=0), ValueError, "Expected positive integer total_steps, but got 0"),
    "one cycle's length": (lambda s, o: s.OneCycleLR(o, 1.0), ValueError, "You must define either total_steps OR (epochs AND steps_per_epoch)"),
    "one cycle's epochs": (lambda s, o: s.OneCycleLR(o, 1.0, epochs=0, steps_per_epoch=1), ValueError, "Expected positive integer epochs, but got 0"),
    "one cycle's steps an epoch": (lambda s, o: s.OneCycleLR(o, 1.0, epochs=1, steps_per_epoch=0), ValueError, "Expected positive integer steps_per_epoch, but got 0"),
    "one cycle's start": (lambda s, o: s.OneCycleLR(o, 1.0, 10, pct_start=2.0), ValueError, "Expected float between 0 and 1 pct_start, but got 2.0"),
    "one cycle's shape": (lambda s, o: s.OneCycleLR(o, 1.0, 10, anneal_strategy="x"), ValueError, "anneal_strategy must be one of 'cos' or 'linear', instead got x"),
    "one cycle's end": (lambda s, o: exhaust(s.OneCycleLR(o, 1.0, 2)), ValueError, "Tried to step 3 times. The specified number of total steps is 2"),
}  # fmt: skip


def twice(library: Any, param: Any) -> None:
    library.SGD([{"params": [param]}, {"params": [param]}])


def exhaust(scheduler: Any) -> None:
    for _ in range(3):
        scheduler.optimizer.step()
        scheduler.step()


def says(act: Callable[[], object], error: Error, message: str) -> None:
    with pytest.raises(error, match=re.escape(message) or None):
        act()


@pytest.fixture(params=["parameters", "tensors", "torch itself"])
def world(request: pytest.FixtureRequest) -> tuple[Any, Callable[[], Any]]:
    """A library, and what makes a parameter for it."""
    if request.param == "parameters":
        return cyoptim, lambda: cyoptim.Parameter(np.ones((2, 2)))
    torch = pytest.importorskip("torch")
    library = cyoptim if request.param == "tensors" else torch.optim
    return library, lambda: torch.ones(2, 2, requires_grad=True)


@pytest.mark.parametrize("row", OPTIONS, ids=[f"{row[0]}-{label(row[1])}" for row in OPTIONS])
def test_options(world: Any, row: Row) -> None:
    library, make = world
    card, options, error, message = row
    cls = card.cls if library is cyoptim else getattr(library, card.torch)
    says(lambda: cls([make()], **options), error, message)


@pytest.mark.parametrize("name", CALLS)
def test_calls(world: Any, name: str) -> None:
    library, make = world
    act, error, message = CALLS[name]
    says(lambda: act(library, make), error, message)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules(world: Any, name: str) -> None:
    library, make = world
    act, error, message = SCHEDULES[name]
    optimizer = library.SGD([make()], lr=0.1, momentum=0.9)
    says(lambda: act(library.lr_scheduler, optimizer), error, message)


@every_card(CHECKED)
def test_learning_rate_of_two_elements(torch: Any, card: Card) -> None:
    classes = [card.cls, *([card.torch_class(torch)] if TORCH(card) else [])]
    for cls in classes:
        says(
            lambda cls=cls: cls([torch.ones(2, 2)], lr=torch.tensor([0.1, 0.1])),  # type: ignore[misc]
            ValueError,
            "Tensor lr must be 1-element",
        )


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_tensors_as_options(torch: Any, name: str) -> None:
    a, b = torch.tensor(0.9), torch.tensor(0.99)
    for library in (torch.optim, cyoptim):
        for options, message in (
            ({"betas": (a, 0.99)}, "betas must be either both floats or both Tensors"),
            ({"betas": (0.9, b)}, "betas must be either both floats or both Tensors"),
            (
                {"betas": (a, b), "foreach": True},
                "betas[0] as a Tensor is not supported for capturable=False and foreach=True",
            ),
            (
                {"lr": a, "foreach": True},
                "lr as a Tensor is not supported for capturable=False and foreach=True",
            ),
        ):
            says(
                lambda library=library, options=options: getattr(library, name)(  # type: ignore[misc]
                    [torch.ones(2)], **options
                ),
                ValueError,
                message,
            )


DUPLICATES = "a parameter group with duplicate parameters"


@every_card()
def test_duplicates_in_a_group_warn(card: Card) -> None:
    param = cyoptim.Parameter(np.ones((2, 2)))
    with pytest.warns(UserWarning, match=DUPLICATES):
        card.cls([param, param])


@every_card(TORCH)
def test_duplicate_tensors_in_a_group_warn(torch: Any, card: Card) -> None:
    param = torch.ones(2, 2, requires_grad=True)
    for cls in (card.torch_class(torch), card.cls):
        with pytest.warns(UserWarning, match=DUPLICATES):
            cls([param, param])


def test_a_tensor_that_is_no_leaf(torch: Any) -> None:
    result = torch.ones(2, requires_grad=True) * 2
    for library in (torch.optim, cyoptim):
        says(
            lambda library=library: library.SGD([result]),  # type: ignore[misc]
            ValueError,
            "can't optimize a non-leaf Tensor",
        )
