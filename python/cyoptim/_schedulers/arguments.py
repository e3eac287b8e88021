"""Checks of the arguments of schedules."""

from __future__ import annotations

import operator
import sys
from typing import Any

from cyoptim._arrays.doors import type_name
from cyoptim._groups.numbers import number, plain
from cyoptim._groups.options import check_fillable
from cyoptim._schedulers.values import Scalar, copied, group_values
from cyoptim.optimizer import Optimizer


def check_optimizer(optimizer: Any, scheduler: object) -> None:
    """Refuse objects that are not our optimizers, and optimizers with read-only rates."""
    if not isinstance(optimizer, Optimizer):
        raise TypeError(_no_optimizer(optimizer, type(scheduler).__name__))
    for i, group in enumerate(optimizer.param_groups):
        try:
            check_fillable("lr", group["lr"])
        except (TypeError, ValueError) as error:
            raise type(error)(f"parameter group {i}: {error}") from error


def _no_optimizer(found: object, scheduler: str) -> str:
    name = type(found).__name__
    message = (
        f"{name} is not an Optimizer: a scheduler of cyoptim drives an optimizer of cyoptim, "
        f"found a {type_name(found)}"
    )
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(found, torch.optim.Optimizer):
        return f"{message}: write {scheduler}(cyoptim.Adam(params), ...)"
    ours = name if hasattr(sys.modules["cyoptim"], name) else "Optimizer"
    theirs = scheduler if hasattr(torch.optim.lr_scheduler, scheduler) else "LRScheduler"
    return f"{message}: use cyoptim.{ours}, or torch.optim.lr_scheduler.{theirs}"


def check_count(name: str, value: Any, least: int = 0) -> int:
    """An integer; reject other types, and integers below `least`."""
    try:
        count = operator.index(plain(value))
    except TypeError as error:
        raise TypeError(f"{name}: {error}, got {value!r}") from None
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count


def check_positive(name: str, value: Any) -> Any:
    """A number; reject numbers <= 0."""
    found = number(name, value)
    if not found > 0:
        raise ValueError(f"{name} must be positive, got {found}")
    return found


def check_fraction(name: str, value: Any) -> Any:
    """A number; reject numbers outside of [0, 1]."""
    found = number(name, value)
    if not 0 <= found <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {found}")
    return found


def check_resumable(optimizer: Optimizer, last_epoch: int) -> None:
    """Refuse to resume with groups that never had a schedule."""
    for i, group in enumerate(optimizer.param_groups):
        if last_epoch != -1 and "initial_lr" not in group:
            raise KeyError(
                f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                "scheduler with last_epoch >= 0: load the optimizer's state first"
            )


def check_rates(optimizer: Optimizer) -> None:
    """Refuse groups that have no rate which a schedule could change."""
    for i, group in enumerate(optimizer.param_groups):
        if group["lr"] is None:
            raise ValueError(
                f"parameter group {i} has lr None, with which {type(optimizer).__name__} computes "
                "the rate itself: give it an lr that the schedule can change, or leave out the "
                "schedule"
            )


def initial_lrs(optimizer: Optimizer, last_epoch: int) -> list[Scalar]:
    check_resumable(optimizer, last_epoch)
    check_rates(optimizer)
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", copied(group["lr"]))
    return group_values(optimizer, "initial_lr")
