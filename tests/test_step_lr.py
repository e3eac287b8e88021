"""StepLR against its formula and against torch."""

from __future__ import annotations

import copy
import json
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.lr_scheduler import StepLR


def optimizer(lr: float = 0.5) -> cyoptim.SGD:
    groups = [
        {"params": [cyoptim.Parameter(np.zeros(2))]},
        {"params": [cyoptim.Parameter(np.zeros(2))], "lr": 0.1},
    ]
    return cyoptim.SGD(groups, lr=lr)


def rates(opt: Any, scheduler: Any, epochs: int) -> list[list[float]]:
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in opt.param_groups])
        opt.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (3, 0.1), (30, 0.5), (7, 1.1)])
def test_closed_form(step_size: int, gamma: float) -> None:
    opt = optimizer()
    seen = rates(opt, StepLR(opt, step_size, gamma), 300)
    for epoch, (a, b) in enumerate(seen):
        np.testing.assert_allclose(
            [a, b], np.array([0.5, 0.1]) * gamma ** (epoch // step_size), rtol=1e-12
        )


@pytest.mark.parametrize(("step_size", "gamma"), [(1, 0.9), (3, 0.1), (30, 0.5)])
def test_equals_torch(torch: Any, step_size: int, gamma: float) -> None:
    ours = optimizer()
    theirs = torch.optim.SGD(
        [{"params": [torch.zeros(2)]}, {"params": [torch.zeros(2)], "lr": 0.1}], lr=0.5
    )
    a = StepLR(ours, step_size, gamma)
    b = torch.optim.lr_scheduler.StepLR(theirs, step_size, gamma)
    assert rates(ours, a, 200) == rates(theirs, b, 200)
    assert a.get_last_lr() == b.get_last_lr()
    for name in ("step_size", "gamma", "base_lrs", "last_epoch", "_step_count", "_last_lr"):
        assert a.state_dict()[name] == b.state_dict()[name], name
    a.load_state_dict(b.state_dict())
    b.load_state_dict(a.state_dict())
    assert rates(ours, a, 50) == rates(theirs, b, 50)


@pytest.mark.parametrize(
    "through",
    [copy.deepcopy, lambda d: json.loads(json.dumps(d)), lambda d: pickle.loads(pickle.dumps(d))],
)
def test_resume(through: Any) -> None:
    opt = optimizer()
    expected = rates(opt, StepLR(opt, 3), 20)
    first = optimizer()
    scheduler = StepLR(first, 3)
    seen = rates(first, scheduler, 8)
    saved = through((first.state_dict()["param_groups"], scheduler.state_dict()))
    second = optimizer(lr=9.0)
    resumed = StepLR(second, 1, gamma=0.5)
    second.load_state_dict({"state": {}, "param_groups": saved[0]})
    resumed.load_state_dict(saved[1])
    assert seen + rates(second, resumed, 12) == expected


def test_resume_by_last_epoch() -> None:
    opt = optimizer()
    with pytest.raises(
        KeyError, match="param 'initial_lr' is not specified in param_groups\\[0\\]"
    ):
        StepLR(opt, 3, last_epoch=2)


def test_warns_of_a_step_before_the_optimizers() -> None:
    opt = optimizer()
    scheduler = StepLR(opt, 3)
    with pytest.warns(
        UserWarning, match="Detected call of `lr_scheduler.step\\(\\)` before"
    ) as record:
        scheduler.step()
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        other = optimizer()
        again = StepLR(other, 3)
        other.step()
        again.step()


def test_refuses_what_is_no_optimizer() -> None:
    with pytest.raises(TypeError, match="list is not an Optimizer"):
        StepLR([], 3)  # type: ignore[arg-type]
