"""Hooks around steps, saves and loads, with torch's calling conventions."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


@pytest.fixture
def w() -> Any:
    return cyoptim.Parameter(np.zeros(3), grad=np.ones(3))


class Own(cyoptim.SGD):
    """A user's optimizer that calls its parent's step."""

    def step(self, closure: Any = None, **kwargs: Any) -> Any:
        self.calls = getattr(self, "calls", 0) + 1
        return super().step(closure, **kwargs)


@pytest.mark.parametrize("cls", [cyoptim.SGD, Own])
def test_order_and_arguments(cls: Any, w: Any) -> None:
    optimizer = cls([w], lr=1.0)
    log: list[Any] = []

    def hook(name: str) -> Any:
        return lambda o, args, kwargs: log.append((name, o is optimizer, args[0] is o, kwargs))

    handles = [
        optimizer.register_step_post_hook(hook("own post")),
        optimizer.register_step_pre_hook(hook("own pre")),
        register_optimizer_step_post_hook(hook("global post")),
        register_optimizer_step_pre_hook(hook("global pre")),
    ]
    grads = [np.ones(3)]
    assert optimizer.step(lambda: log.append("closure") or 5, grads=grads) == 5
    names = ["global pre", "own pre", "closure", "own post", "global post"]
    assert [entry if isinstance(entry, str) else entry[0] for entry in log] == names
    for entry in log:
        assert entry == "closure" or entry[1:] == (True, True, {"grads": grads})
    for handle in handles:
        handle.remove()
        handle.remove()
    log.clear()
    optimizer.step()
    assert log == []
    np.testing.assert_array_equal(w.data, -2 * np.ones(3))


@pytest.mark.parametrize(
    "register", [register_optimizer_step_pre_hook, register_optimizer_step_post_hook]
)
def test_a_global_hook_alone(w: Any, register: Any) -> None:
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.step()
    calls: list[Any] = []
    with register(lambda o, a, k: calls.append(o)):
        optimizer.step()
    optimizer.step()
    assert calls == [optimizer]
    np.testing.assert_array_equal(w.data, np.full(3, -3.0))


def test_every_argument_passes_the_hooks(w: Any) -> None:
    seen: list[Any] = []
    optimizer = cyoptim.SGD([w], lr=1.0)
    optimizer.register_step_pre_hook(lambda o, a, k: seen.append(k))
    optimizer.step(max_norm=100.0, grad_scale=2.0, zero_grad=True, nonfinite="raise")
    expected = {"max_norm": 100.0, "grad_scale": 2.0, "zero_grad": True, "nonfinite": "raise"}
    assert seen == [expected]
    np.testing.assert_array_equal(w.data, np.full(3, -0.5))
    assert (w.grad == 0).all()


def test_pre_hook_may_replace_the_arguments(w: Any) -> None:
    optimizer = cyoptim.SGD([w], lr=1.0)
    with optimizer.register_step_pre_hook(lambda o, a, k: (a, {"grads": [np.full(3, 5.0)]})):
        optimizer.step()
    np.testing.assert_array_equal(w.data, np.full(3, -5.0))
    optimizer.register_step_pre_hook(lambda o, a, k: "nonsense")
    with pytest.raises(RuntimeError, match="must return None or a tuple of"):
        optimizer.step()


def test_state_dict_hooks(w: Any) -> None:
    optimizer = cyoptim.Adam([w])
    log: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda o: log.append("b"))
    optimizer.register_state_dict_pre_hook(lambda o: log.append("a"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, d: d.update(note=1))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "more": 2})
    saved = optimizer.state_dict()
    assert log == ["a", "b"]
    assert (saved["note"], saved["more"]) == (1, 2)


def test_load_state_dict_hooks(w: Any) -> None:
    optimizer = cyoptim.Adam([w])
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved)
    seen: list[Any] = []

    def pre(o: Any, d: Any) -> Any:
        groups = [{**d["param_groups"][0], "lr": 0.25}]
        d["param_groups"] = groups  # into the copy

    optimizer.register_load_state_dict_pre_hook(pre)
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append(o.param_groups[0]["lr"]))
    optimizer.load_state_dict(saved)
    assert seen == [0.25]
    assert saved == before


def test_hooks_are_not_copied_with_the_optimizer(w: Any) -> None:
    optimizer = cyoptim.SGD([w])
    optimizer.register_step_pre_hook(lambda o, a, k: pytest.fail("called"))
    copy.deepcopy(optimizer).step()


def test_a_users_optimizer(w: Any) -> None:
    optimizer = Own([w], lr=1.0)
    scheduler = cyoptim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    optimizer.step()
    scheduler.step()
    optimizer.step()
    assert optimizer.calls == 2
    np.testing.assert_array_equal(w.data, np.full(3, -1.5))


def test_a_step_that_is_decorated_already(w: Any) -> None:
    class Decorated(cyoptim.SGD):
        @cyoptim.Optimizer.profile_hook_step
        def step(self, closure: Any = None, **kwargs: Any) -> Any:
            return super().step(closure, **kwargs)

    optimizer = Decorated([w], lr=1.0)
    calls: list[int] = []
    optimizer.register_step_pre_hook(lambda o, a, k: calls.append(1))
    optimizer.register_step_post_hook(lambda o, a, k: calls.append(2))
    optimizer.step()
    assert calls == [1, 2]


def test_types_of_hooks() -> None:
    from cyoptim import optimizer

    assert cyoptim.Optimizer.OptimizerPreHook is optimizer.GlobalOptimizerPreHook
    assert cyoptim.Optimizer.OptimizerPostHook is optimizer.GlobalOptimizerPostHook
    for name in ("Args", "Kwargs", "StateDict", "ParamsT"):
        assert hasattr(optimizer, name)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_handles_can_be_copied(clone: Any) -> None:
    # A copy of an optimizer has no hooks: the copy of the handle has nothing to take out.
    calls: list[int] = []
    w = np.zeros(1)
    optimizer = cyoptim.SGD([w], lr=1.0)
    handle = optimizer.register_step_post_hook(lambda *_: calls.append(1))
    clone(handle).remove()
    optimizer.step(grads=[np.ones(1)])
    assert calls == [1]
    handle.remove()
    optimizer.step(grads=[np.ones(1)])
    assert calls == [1]
