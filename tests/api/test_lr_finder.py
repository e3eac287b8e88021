"""The search for a learning rate: what it tries, what it suggests, and that it leaves no trace."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import Parameter, _trial
from cyoptim.lr_finder import find_lr
from tests.support.cards import CLOSURE, MODES, SPARSE, Card
from tests.support.doors import Door
from tests.support.parametrize import every_card, every_door, needs_torch
from tests.support.runs import ARRAYS, advance, bowl


def descent(w: np.ndarray) -> Callable[[], Any]:
    """A closure over the squared length of an array."""
    return lambda: (float(w @ w), [2 * w])


def look(params: list[Any], optimizer: Any, door: Door = ARRAYS) -> Any:
    """All that a search must not change: contents, and the objects that hold them."""
    state = [
        {name: (id(value), np.asarray(value).tobytes()) for name, value in sorted(entries.items())}
        for entries in (optimizer.state.get(p, {}) for p in params)
    ]
    groups = [(id(g), {k: (id(v), repr(v)) for k, v in g.items()}) for g in optimizer.param_groups]
    attributes = {k: id(v) for k, v in vars(optimizer).items()}
    attributes.pop("_quick", None)  # which path the next step takes
    values = [door.read(p).tobytes() for p in params]
    return values, state, groups, attributes, optimizer._opt_called


# --- no trace -------------------------------------------------------------------------------------


@every_card()
def test_a_search_leaves_no_trace(card: Card) -> None:
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal((3, 2)) for _ in range(2)]
    runs = []
    for _ in range(2):
        params = [np.ones((3, 2)), np.full((3, 2), -2.0)]
        optimizer = card.cls(params, lr=0.5, **card.history)
        advance(card, optimizer, params, grads, ARRAYS)
        runs.append((params, optimizer))
    (params, optimizer), (others, twin) = runs

    def step() -> float:
        advance(card, optimizer, params, grads, ARRAYS)
        return float(sum(np.vdot(p, p).real for p in params))

    before = look(params, optimizer)
    found = find_lr(optimizer, step, 1e-4, 0.1, 10)
    assert CLOSURE(card) or len(set(found.losses)) > 1  # L-BFGS is at the minimum already
    assert look(params, optimizer) == before
    for each, its in ((params, optimizer), (others, twin)):
        for _ in range(2):
            advance(card, its, each, grads, ARRAYS)
    assert [p.tobytes() for p in params] == [p.tobytes() for p in others]


@every_card(~CLOSURE, ~MODES, ~SPARSE)
def test_a_search_before_the_first_step_leaves_no_state(card: Card) -> None:
    params = [np.ones((3, 2))]
    optimizer = card.cls(params, lr=0.5, **card.history)
    before = look(params, optimizer)
    find_lr(optimizer, bowl(params, [np.ones((3, 2))], ARRAYS), 1e-4, 0.1, 10)
    assert look(params, optimizer) == before
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = cyoptim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


@every_door
@pytest.mark.parametrize("given", [False, True], ids=["no-gradient", "a-gradient"])
def test_every_kind_of_parameter(door: Door, given: bool) -> None:
    params = [door.wrap(np.array([[3.0, -4.0], [1.0, 2.0]]))]
    optimizer = cyoptim.Adam(params, lr=0.1)
    advance_once = bowl(params, [np.full((2, 2), 0.5)], door)
    optimizer.step(advance_once)
    held = hasattr(params[0], "grad")
    if held:
        params[0].grad = door.gradient(np.full((2, 2), 7.0)) if given else None
    gradient, before = getattr(params[0], "grad", None), look(params, optimizer, door)
    found = find_lr(optimizer, advance_once, 1e-4, 1.0, 20)
    assert found.losses[-1] < found.losses[0]
    assert look(params, optimizer, door) == before
    if held:
        assert params[0].grad is gradient
        assert gradient is None or float(np.asarray(gradient).sum()) == 28


def test_gradients_that_are_filled_in_place_come_back() -> None:
    w = Parameter(np.array([1.0, 2.0]), grad=np.array([5.0, 6.0]))
    gradient, optimizer = w.grad, cyoptim.SGD([w], lr=0.1)

    def step() -> float:
        gradient[:] = 2 * w.data
        optimizer.step(zero_grad=True)
        return float((w.data * w.data).sum())

    find_lr(optimizer, step, steps=10)
    assert w.grad is gradient
    assert gradient.tolist() == [5.0, 6.0]


class Counting(cyoptim.Optimizer):
    """An optimizer of a user's, with an attribute that its steps replace."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.updates = 0

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        self.updates += 1
        state["sum"] = state.get("sum", 0) + grad
        param -= group["lr"] * state["sum"]


class Whole(cyoptim.Optimizer):
    """An optimizer of a user's with a step of its own."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def step(self, closure: Any = None) -> Any:
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["count"] = self.state[p].get("count", 0) + 1
                p.data -= group["lr"] * p.grad
        return loss


def test_optimizers_of_users() -> None:
    w = np.array([3.0, -4.0])
    optimizer = Counting([w])
    optimizer.step(grads=[2 * w])
    before = look([w], optimizer)
    assert find_lr(optimizer, descent(w), 1e-4).suggestion > 0
    assert look([w], optimizer) == before
    assert optimizer.updates == 1

    v = Parameter(np.array([3.0, -4.0]))
    whole = Whole([v])

    def closure() -> float:
        v.grad = 2 * v.data
        return float(v.data @ v.data)

    whole.step(closure)
    values, count = v.data.copy(), whole.state[v]["count"]
    assert find_lr(whole, lambda: whole.step(closure), 1e-4).suggestion > 0
    assert v.data.tobytes() == values.tobytes()
    assert whole.state[v]["count"] == count == 1


@needs_torch
def test_a_torch_loop_with_backward() -> None:
    import torch

    w = torch.nn.Parameter(torch.tensor([3.0, -4.0]))
    optimizer = cyoptim.Adam([w], lr=0.1)

    def step() -> Any:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        optimizer.step()
        return loss

    version = w._version
    found = find_lr(optimizer, step, 1e-4, 10.0)
    assert w.tolist() == [3.0, -4.0]
    assert w.grad is None
    assert w._version > version, "autograd is told"
    assert 1e-2 < found.suggestion < 10


@pytest.mark.parametrize("given", [False, True], ids=["no-gradient", "a-gradient"])
def test_tensors_of_mygrad_whose_gradient_cannot_be_set(given: bool) -> None:
    mygrad = pytest.importorskip("mygrad")
    w = mygrad.tensor([3.0, -4.0])
    optimizer = cyoptim.SGD([w])

    def closure() -> float:
        loss = (w * w).sum()
        loss.backward()
        return float(loss)

    if given:
        closure()
    assert find_lr(optimizer, closure, 1e-4).suggestion > 0
    assert w.data.tolist() == [3.0, -4.0]
    assert (None if w.grad is None else w.grad.tolist()) == ([6.0, -8.0] if given else None)


def test_averages_and_sums_stay() -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([("w", w)], lr=0.1)
    average = optimizer.ema(0.5)
    optimizer.step(grads=[w.copy()])
    kept = average["w"].copy()
    optimizer.accumulate([np.ones(2)])

    def step() -> float:
        optimizer.step(grads=[2 * w])
        return float(w @ w)

    with pytest.raises(RuntimeError, match=r"find_lr\(\)"), optimizer.averaged():
        find_lr(optimizer, step)
    find_lr(optimizer, step, 1e-4, 0.4)
    assert optimizer.ema(0.5) is average
    assert average.steps == 1
    assert average["w"].tobytes() == kept.tobytes()
    assert optimizer.accumulate([np.ones(2)]) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_a_closure_that_raises_leaves_no_trace(error: type[BaseException]) -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.Adam([w], lr=0.1)
    optimizer.step(grads=[2 * w])
    calls: list[int] = []

    def closure() -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise error
        return float(w @ w), [2 * w]

    before = look([w], optimizer)
    with pytest.raises(error):
        find_lr(optimizer, closure, 1e-3, 1.0)
    assert look([w], optimizer) == before
    assert not optimizer._optimizer_step_post_hooks


def as_float32(p: Any) -> None:
    p.data = p.data.astype(np.float32)


def as_integers(p: Any) -> None:
    p.data = p.data.astype(int)


def longer(p: Any) -> None:
    p.data = np.ones(3)


def read_only(p: Any) -> None:
    p.data.flags.writeable = False


CHANGES = {
    "float32": as_float32,
    "integers": as_integers,
    "longer": longer,
    "read-only": read_only,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_closure_that_makes_parameters_useless_leaves_no_trace(change: str) -> None:
    params = [Parameter(np.array([3.0, -4.0])), Parameter(np.array([1.0, 2.0]))]
    optimizer = cyoptim.Adam(params, lr=0.1)
    calls: list[int] = []

    def closure() -> float:
        for p in params:
            p.grad = np.array([1.0, -1.0])
        calls.append(1)
        if len(calls) == 3:
            CHANGES[change](params[0])
        return float(params[1] @ params[1])

    closure()
    optimizer.step()
    arrays, before = [p.data for p in params], look(params, optimizer)
    with pytest.raises((TypeError, ValueError), match="of group 0"):
        find_lr(optimizer, closure, 1e-3, 1.0)
    assert all(p.data is array for p, array in zip(params, arrays, strict=True))
    assert look(params, optimizer) == before
    arrays[0].flags.writeable = True
    closure()
    optimizer.step()


@every_door
def test_a_closure_may_replace_the_memory_of_parameters(door: Door) -> None:
    if door.name == "array":
        pytest.skip("an array is its own memory")
    array = np.array([3.0, -4.0])
    w = door.wrap(array)
    optimizer = cyoptim.SGD([w], lr=0.1)
    descend = bowl([w], [np.zeros(2)], door)

    def step() -> Any:
        loss = optimizer.step(descend)
        w.data = w.data.clip(-3.5, 3.5)
        return loss

    find_lr(optimizer, step, 1e-4, 0.1)
    assert array.tolist() == door.read(w).tolist() == [3.0, -4.0]
    optimizer.step(descend)
    assert array.tolist() == door.read(w).tolist() != [3.0, -4.0]


def test_an_interrupt_at_the_end_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.Adam([w], lr=0.1)
    before, ends = look([w], optimizer), []
    end = _trial._end

    def interrupted(*args: Any) -> None:
        ends.append(1)
        if len(ends) < 3:
            raise KeyboardInterrupt
        end(*args)

    monkeypatch.setattr(_trial, "_end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_lr(optimizer, descent(w), 1e-3, 1.0)
    assert len(ends) == 3
    assert look([w], optimizer) == before


def test_a_search_without_gradients_warns() -> None:
    w = Parameter(np.array([3.0, -4.0]))
    optimizer = cyoptim.SGD([w])
    for _ in range(2):  # the search leaves it as new as it was
        with pytest.warns(UserWarning, match="no parameter has a gradient") as seen:
            find_lr(optimizer, lambda: float(w @ w))
        assert len(seen) == 1


# --- what is tried --------------------------------------------------------------------------------


def test_rates_grow_by_a_factor_and_groups_keep_their_ratio() -> None:
    a, b = np.array([1.0]), np.array([1.0])
    lr = np.array(0.2)
    optimizer = cyoptim.SGD([{"params": [a], "lr": lr}, {"params": [b], "lr": 0.02}])
    tried = []

    def step() -> float:
        tried.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step(grads=[np.zeros(1), np.zeros(1)])
        return 1.0

    found = find_lr(optimizer, step, 1e-3, 1.0, 13)
    np.testing.assert_allclose(found.lrs, np.geomspace(1e-3, 1.0, 13))
    np.testing.assert_allclose(tried, [[rate, rate / 10] for rate in found.lrs])
    assert optimizer.param_groups[0]["lr"] is lr
    assert float(lr) == 0.2


def test_a_closure_is_followed_by_a_step_and_a_step_by_none() -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w], momentum=0.9)

    def step() -> float:
        loss, grads = descent(w)()
        optimizer.step(grads=grads)
        return loss

    one, other = (find_lr(optimizer, function, 1e-4, 1.0) for function in (descent(w), step))
    assert one.losses.tolist() == other.losses.tolist()
    # By hand: each loss is that before the step at its rate.
    x, buffer = w.copy(), None
    for rate, loss in zip(one.lrs, one.losses, strict=True):
        assert loss == pytest.approx(float(x @ x), rel=1e-12)
        buffer = 2 * x if buffer is None else 0.9 * buffer + 2 * x
        x -= rate * buffer


def test_the_search_ends_where_the_loss_grows_or_is_not_finite() -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w], lr=0.1)
    found = find_lr(optimizer, descent(w), 1e-2, 1e3)
    assert len(found.lrs) == len(found.losses) == len(found.smoothed) < 100
    assert found.losses.max() <= 4 * found.losses[0]
    losses = iter([-1.0, -2.0, 1.9, 2.1])
    assert find_lr(optimizer, lambda: (next(losses), [0 * w])).losses.tolist() == [-1.0, -2.0, 1.9]
    losses = iter([1.0, 1.0, float("nan")])
    assert find_lr(optimizer, lambda: (next(losses), [0 * w])).losses.tolist() == [1.0, 1.0]


# --- what is suggested ----------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_the_suggestion_trains_and_follows_the_scale(scale: float) -> None:
    # The loss scale * w**2 is stable below 1 / scale.
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w])
    closure = lambda: (scale * float(w @ w), [2 * scale * w])  # noqa: E731
    found = find_lr(optimizer, closure, 1e-5 / scale, 10 / scale)
    assert 0.01 < found.suggestion * scale < 0.3
    assert found.suggestion in found.lrs
    optimizer.param_groups[0]["lr"] = found.suggestion
    for _ in range(300):
        optimizer.step(closure)
    assert abs(w).max() < 1e-3


def test_noise_alone_suggests_nothing() -> None:
    w, rng = np.zeros(2), np.random.default_rng(0)
    optimizer = cyoptim.SGD([w])
    for _ in range(20):
        assert find_lr(optimizer, lambda: (2 + rng.normal(), [0 * w])).suggestion is None
    assert find_lr(optimizer, lambda: (2.0, [0 * w])).suggestion is None
    losses = iter([1.0, 5.0])
    assert find_lr(optimizer, lambda: (next(losses), [0 * w])).suggestion is None


def test_noise_does_not_hide_a_fall() -> None:
    w, rng = np.zeros(2), np.random.default_rng(0)
    shape = 1.3 - np.exp(-((np.linspace(-7, 1, 100) + 1) ** 2))
    for _ in range(20):
        losses = iter(shape + 0.1 * rng.normal(size=100))
        found = find_lr(cyoptim.SGD([w]), lambda: (next(losses), [0 * w]), 1e-7, 10.0)  # noqa: B023
        assert 1e-3 < found.suggestion < 0.1


# --- arguments, and pictures ----------------------------------------------------------------------

BAD = [
    ({"optimizer": 3}, TypeError, "optimizer must be an optimizer of cyoptim, got a int"),
    ({"closure": 3.0}, TypeError, "closure must be a function that returns the loss, got a float"),
    ({"start": 0.0}, ValueError, "start must be positive, got 0.0"),
    ({"start": "a"}, TypeError, "start must be a number, got str: 'a'"),
    ({"end": -1}, ValueError, "end must be positive, got -1"),
    ({"end": 1e-9}, ValueError, "end must be finite and higher than start=1e-07, got 1e-09"),
    ({"end": np.inf}, ValueError, "end must be finite and higher than start=1e-07, got inf"),
    ({"steps": 9}, ValueError, "steps must be at least 10, got 9"),
    ({"steps": 10.5}, TypeError, "steps: "),
    ({"closure": lambda: None}, TypeError, "the loss that closure returned must be a number, got NoneType: None"),
    ({"closure": lambda: (np.nan, [np.ones(2)])}, ValueError, "the loss is nan before the first step: look at the data and the parameters, as no learning rate can help"),
    ({"closure": lambda: (1.0, [np.ones(3)])}, ValueError, "gradient of parameter 0 of group 0 has shape (3,), expected (2,)"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w])
    before = look([w], optimizer)
    with pytest.raises(error, match=re.escape(message)):
        find_lr(**{"optimizer": optimizer, "closure": descent(w), **arguments})
    assert look([w], optimizer) == before


def test_groups_without_a_rate() -> None:
    a, b = np.ones(1), np.ones(1)
    zero = cyoptim.SGD([{"params": [a], "lr": 0.0}, {"params": [b], "lr": 0.1}])
    with pytest.raises(ValueError, match="parameter group 0 has lr=0, and the rates of the others"):
        find_lr(zero, lambda: 1.0)
    own = cyoptim.AdafactorHF([a], lr=None)
    with pytest.raises(ValueError, match="parameter group 0 has no learning rate, so none can be"):
        find_lr(own, lambda: 1.0)


def test_one_group_may_begin_at_zero() -> None:
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w], lr=0.0)
    assert find_lr(optimizer, descent(w), 1e-4).suggestion > 0
    assert optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.slow
def test_plot_draws_losses_and_the_suggestion() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    w = np.array([3.0, -4.0])
    optimizer = cyoptim.SGD([w])
    found = find_lr(optimizer, descent(w), 1e-4)
    ax = found.plot()
    raw, smoothed, line = ax.lines
    assert raw.get_ydata().tolist() == found.losses.tolist()
    assert smoothed.get_ydata().tolist() == found.smoothed.tolist()
    assert line.get_xdata()[0] == found.suggestion
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "learning rate", "loss")
    nothing = find_lr(optimizer, lambda: (1.0, [0 * w]))
    assert nothing.plot(ax) is ax
    assert len(ax.lines) == 5
    importlib.import_module("matplotlib.pyplot").close("all")


def test_plot_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    w = np.array([3.0, -4.0])
    found = find_lr(cyoptim.SGD([w]), descent(w), 1e-4)
    assert repr(found) == f"LRCurve(suggestion={found.suggestion})"
    with pytest.raises(ImportError, match=r'pip install "cyoptim\[demo\]"'):
        found.plot()
