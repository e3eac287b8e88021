"""L-BFGS: one vector of all parameters, a closure that is called several times, a line search."""

from __future__ import annotations

import inspect
import io
import math
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._engine import TwoLoop
from tests.optimizers import lbfgs as reference
from tests.support.doors import Box, TensorDoor
from tests.support.lbfgs_runs import CHUNK, IDS, OPTIONS, WOLFE, Problem, Run


def rosenbrock(w: np.ndarray) -> tuple[float, np.ndarray]:
    x, y = w
    gradient = np.array([-400 * x * (y - x * x) - 2 * (1 - x), 200 * (y - x * x)])
    return 100 * (y - x * x) ** 2 + (1 - x) ** 2, gradient


# --- the method -----------------------------------------------------------------------------------


@pytest.mark.parametrize("history_size", [1, 2, 5, 100])
@pytest.mark.parametrize("lr", [0.2, 1.0])
def test_fixed_steps_are_the_references(history_size: int, lr: float) -> None:
    problem = Problem([(6,)])
    expected = reference.LBFGS(lr, history_size).minimize(
        lambda x: problem.grads([x])[0], problem.start[0], 25
    )
    options = {"lr": lr, "history_size": history_size, "max_iter": 26, "max_eval": 100}
    run = Run(cyoptim.LBFGS, {**options, "tolerance_change": 0.0}, problem=problem).steps(1)
    np.testing.assert_allclose(run.points[: len(expected)], expected[: len(run.points)], rtol=1e-10)
    assert len(run.points) > 10


def test_one_long_step_is_many_short_ones() -> None:
    # Iterations of one call, or one a call: without a search the points are the same.
    options = {"lr": 0.2, "tolerance_change": 0.0, "max_eval": 1000}
    long = Run(cyoptim.LBFGS, {**options, "max_iter": 30}).steps(1)
    short = Run(cyoptim.LBFGS, {**options, "max_iter": 1}).steps(30)
    np.testing.assert_array_equal(long.points, short.points)
    np.testing.assert_array_equal(long.end(), short.end())


def test_rosenbrock() -> None:
    w = np.array([-1.2, 1.0])

    def closure() -> Any:
        loss, gradient = rosenbrock(w)
        return loss, [gradient]

    optimizer = cyoptim.LBFGS(
        [w], max_iter=100, tolerance_grad=1e-10, tolerance_change=0.0, **WOLFE
    )
    assert math.isclose(optimizer.step(closure), 24.2)
    np.testing.assert_allclose(w, [1, 1], rtol=1e-8)
    assert optimizer.state[w]["func_evals"] < 80


def test_two_loops_against_the_reference(rng: np.random.Generator) -> None:
    n = 2 * CHUNK + 17
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-4)):
        slow = reference.LBFGS()
        grad = rng.standard_normal(n).astype(dtype)
        for _ in range(4):
            s = rng.standard_normal(n).astype(dtype)
            slow.pairs.append((s, (2 * s + 0.1 * rng.standard_normal(n)).astype(dtype)))
        pairs = [(s.astype(np.float64), y.astype(np.float64)) for s, y in slow.pairs]
        s, y = pairs[-1]
        d = grad.copy()
        _, product = TwoLoop([d]).run(
            grad,
            [y for _, y in slow.pairs],
            [s for s, _ in slow.pairs],
            [1 / (y @ s) for s, y in pairs],
            (s @ y) / (y @ y),
        )
        slow.pairs = pairs
        expected = slow.direction(grad)
        np.testing.assert_allclose(d, expected, rtol=tolerance, atol=tolerance)
        assert math.isclose(product, grad.astype(np.float64) @ expected, rel_tol=tolerance)


def test_two_loops_refuse_a_history_that_does_not_fit() -> None:
    d = np.zeros(3)
    for dirs, stps, ro in (([], [], []), ([d], [], [1.0]), ([d], [d], [])):
        with pytest.raises(ValueError, match="a history of"):
            TwoLoop([d]).run(d, dirs, stps, ro, 1.0)
    with pytest.raises(ValueError, match="a vector of the history has dtype float64 and shape"):
        TwoLoop([d]).run(d, [np.zeros(4)], [d], [1.0], 1.0)


# --- against torch --------------------------------------------------------------------------------


def test_signature_is_torchs(torch: Any) -> None:
    ours = inspect.signature(cyoptim.LBFGS).parameters
    theirs = inspect.signature(torch.optim.LBFGS).parameters
    assert [(p.name, p.default) for p in ours.values()] == [
        (p.name, p.default) for p in theirs.values()
    ]
    params = [torch.zeros(1)]
    assert cyoptim.LBFGS(params).defaults == torch.optim.LBFGS(params).defaults


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-10), (np.float32, 3e-5)])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_points_are_torchs(torch: Any, options: dict[str, Any], dtype: Any, rtol: float) -> None:
    # In float32 the last points before convergence are noise: few steps, of no tight tolerance.
    steps = 8 if dtype is np.float64 else 1
    if dtype is np.float32:
        options = {"max_iter": 6, **options}
    theirs = Run(torch.optim.LBFGS, options, TensorDoor(), dtype=dtype).steps(steps)
    ours = Run(cyoptim.LBFGS, options, TensorDoor(), dtype=dtype).steps(steps)
    assert len(ours.points) == len(theirs.points)
    np.testing.assert_allclose(ours.points, theirs.points, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(ours.end(), theirs.end(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_state_is_torchs(torch: Any, options: dict[str, Any]) -> None:
    options = {"max_iter": 7, **options}
    theirs = Run(torch.optim.LBFGS, options, TensorDoor()).steps(2)
    ours = Run(cyoptim.LBFGS, options, TensorDoor()).steps(2)
    found, expected = ours.optimizer.state_dict(), theirs.optimizer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    found, expected = found["state"][0], dict(expected["state"][0])
    if expected["n_iter"] == 0:
        expected = {name: expected[name] for name in ("func_evals", "n_iter")}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("t", "prev_loss"):
            assert math.isclose(found[name], float(value), rel_tol=1e-10)
        elif name == "al":
            count = len(expected["ro"])
            assert len(found["al"]) == len(value)
            assert all(entry is None for entry in found["al"][count:])
            for a, b in zip(found["al"][:count], value, strict=False):
                torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
        else:
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("direction", ["torch to cyoptim", "cyoptim to torch"])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_checkpoints_go_both_ways(torch: Any, options: dict[str, Any], direction: str) -> None:
    classes = [torch.optim.LBFGS, cyoptim.LBFGS]
    if direction == "cyoptim to torch":
        classes.reverse()
    options = {"max_iter": 3, **options}
    whole = Run(torch.optim.LBFGS, options, TensorDoor()).steps(6)
    first = Run(classes[0], options, TensorDoor()).steps(3)
    buffer = io.BytesIO()
    torch.save(first.optimizer.state_dict(), buffer)
    buffer.seek(0)
    second = Run(classes[1], {"lr": 5.0}, TensorDoor(), params=first.params)
    second.optimizer.load_state_dict(torch.load(buffer))
    second.steps(3)
    points = first.points + second.points
    assert len(points) == len(whole.points)
    np.testing.assert_allclose(points, whole.points, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(second.end(), whole.end(), rtol=1e-10, atol=1e-10)


@pytest.mark.slow
def test_torch_module_and_its_closure(torch: Any) -> None:
    def train(cls: Any) -> list[np.ndarray]:
        torch.manual_seed(0)
        net = torch.nn.Linear(4, 2).double()
        x, y = torch.randn(20, 4).double(), torch.randn(20, 2).double()
        optimizer = cls(net.parameters(), **WOLFE)

        def closure() -> Any:
            optimizer.zero_grad()
            loss = ((net(x) - y) ** 2).mean()
            loss.backward()
            return loss

        with torch.no_grad():
            loss = optimizer.step(closure)
        assert loss.grad_fn is not None
        return [p.detach().numpy() for p in net.parameters()]

    for a, b in zip(train(cyoptim.LBFGS), train(torch.optim.LBFGS), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_moves_are_seen_by_autograd(torch: Any) -> None:
    p = torch.ones(3, requires_grad=True)
    graph = (p * p).sum()

    def closure() -> float:
        p.grad = 2 * p.detach()
        return float((p.detach() ** 2).sum())

    cyoptim.LBFGS([p]).step(closure)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        graph.backward()


@pytest.mark.parametrize("options", [{}, WOLFE])
@pytest.mark.parametrize("bad", ["loss", "gradient", "both", "infinite"])
def test_what_is_not_finite_ends_as_in_torch(torch: Any, options: Any, bad: str) -> None:
    def train(cls: Any, after: int) -> tuple[list[float], int]:
        p = torch.full((3,), 2.0, dtype=torch.float64, requires_grad=True)
        optimizer = cls([p], **options)
        calls = 0

        def closure() -> float:
            nonlocal calls
            calls += 1
            p.grad = 2 * p.detach()
            loss = float((p.detach() ** 2).sum())
            if calls <= after:
                return loss
            if bad != "loss":
                p.grad[0] = math.inf if bad == "infinite" else math.nan
            return {"gradient": loss, "infinite": math.inf}.get(bad, math.nan)

        optimizer.step(closure)
        return p.tolist(), calls

    for after in (0, 1, 2):
        try:
            expected = train(torch.optim.LBFGS, after)
        except IndexError:  # torch's own line search, where a flat point has a loss of NaN
            assert train(cyoptim.LBFGS, after)[1] <= 26
            continue
        found = train(cyoptim.LBFGS, after)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-10, atol=1e-10)
        assert found[1] == expected[1] <= 26


# --- the rest of an optimizer ---------------------------------------------------------------------


def test_hooks_and_zero_grad() -> None:
    log: list[str] = []
    w = cyoptim.Parameter(np.full(2, 3.0))
    optimizer = cyoptim.LBFGS([w])
    optimizer.register_step_pre_hook(lambda *_: log.append("pre"))
    optimizer.register_step_post_hook(lambda *_: log.append("post"))

    def closure() -> float:
        optimizer.zero_grad()
        assert w.grad is None
        log.append("closure")
        w.grad = 2 * w
        return float((w * w).sum())

    optimizer.step(closure)
    assert log[0] == "pre"
    assert log[-1] == "post"
    assert set(log[1:-1]) == {"closure"}


def test_schedules() -> None:
    a, b = cyoptim.Parameter(np.full(2, 3.0)), cyoptim.Parameter(np.full(2, 1.0))
    optimizer = cyoptim.LBFGS([{"params": [a]}, {"params": [b]}], lr=0.4, max_iter=2, max_eval=9)
    scheduler = cyoptim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for k in range(3):
        optimizer.step(lambda: (float((a * a).sum() + (b * b).sum()), [2 * a, 2 * b]))
        assert optimizer.state[a]["t"] == 0.4 * 0.5**k
        scheduler.step()


@pytest.mark.parametrize("options", [{}, WOLFE])
def test_a_learning_rate_of_zero_moves_nothing(options: dict[str, Any]) -> None:
    # As a warm-up may begin.
    run = Run(cyoptim.LBFGS, {**options, "lr": 0.0})
    before = run.end()
    run.steps(2)
    np.testing.assert_array_equal(run.end(), before)
    run.optimizer.param_groups[0]["lr"] = 1.0
    assert Problem().loss(run.steps(1).values()) < Problem().loss(Problem().start)


def test_lr_tensor(torch: Any) -> None:
    lr = torch.tensor(0.25)
    run = Run(cyoptim.LBFGS, {"lr": lr, "max_iter": 2, "max_eval": 9}, TensorDoor()).steps(1)
    assert run.state()["t"] == 0.25
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        cyoptim.LBFGS([np.ones(2)], lr=torch.ones(2))


def test_objects_with_data_and_grad() -> None:
    box = Box(np.full(2, 3.0))

    def closure() -> float:
        box.grad = 2 * box.data
        return float((box.data**2).sum())

    cyoptim.LBFGS([box], **WOLFE).step(closure)
    np.testing.assert_allclose(box.data, 0, atol=1e-7)


def test_module_alias() -> None:
    from cyoptim.lbfgs import LBFGS

    assert LBFGS is cyoptim.LBFGS


def test_iterations_without_end_need_evaluations_with_one() -> None:
    w = np.ones(2)
    with pytest.raises(ValueError, match=r"Invalid max_iter value: inf \(expected a finite number"):
        cyoptim.LBFGS([w], max_iter=np.inf)
    optimizer = cyoptim.LBFGS([w], max_iter=np.inf, max_eval=50)
    optimizer.step(lambda: (float(w @ w), [2 * w]))
    assert np.abs(w).max() < 1e-6
