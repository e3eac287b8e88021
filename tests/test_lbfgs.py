"""L-BFGS: one vector of all parameters, a closure that is called several times, a line search."""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _cpu, _dispatch
from cyoptim._engine import TwoLoop
from cyoptim._flat import FlatArrays
from doors import ALL_DOORS, NUMPY_DOORS, Box, Door, needs_openmp
from reference import lbfgs as reference

CHUNK = 16384
WOLFE = {"line_search_fn": "strong_wolfe"}
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"lr": 0.1},
    {"lr": 0.3, "history_size": 3},
    {"lr": 0.1, "max_iter": 1},
    {"lr": 0.1, "max_iter": 4, "max_eval": 3},
    {"lr": 0.1, "history_size": 1, "max_iter": 7},
    WOLFE,
    {**WOLFE, "lr": 0.01},
    {**WOLFE, "lr": 30.0, "history_size": 4},
    {**WOLFE, "max_iter": 3, "max_eval": 5},
    {**WOLFE, "max_iter": 5, "max_eval": 2},
    {**WOLFE, "max_eval": 1},
    {**WOLFE, "max_iter": 0},
    {**WOLFE, "tolerance_grad": 1e-2},
    {**WOLFE, "tolerance_change": 1e-3},
)
IDS = ["-".join(f"{k}={v}" for k, v in options.items()) or "defaults" for options in OPTIONS]
SHAPES = [(3, 4), (5,), (), (0,), (2, 1, 3)]
SIZE = 24


class Problem:
    """A smooth, convex, well-conditioned loss over some arrays, with steep sides."""

    def __init__(self, shapes: list[tuple[int, ...]] = SHAPES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.start = [rng.standard_normal(shape) * 3 for shape in shapes]
        self.center = [rng.standard_normal(shape) for shape in shapes]
        self.weight = [rng.uniform(0.5, 2.0, shape) for shape in shapes]

    def loss(self, arrays: list[np.ndarray]) -> float:
        return sum(
            float((w * (np.sqrt(1 + (a - c) ** 2) + 0.1 * (a - c) ** 4)).sum())
            for a, c, w in zip(arrays, self.center, self.weight, strict=True)
        )

    def grads(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        return [
            np.asarray(w * ((a - c) / np.sqrt(1 + (a - c) ** 2) + 0.4 * (a - c) ** 3), a.dtype)
            for a, c, w in zip(arrays, self.center, self.weight, strict=True)
        ]


class Run:
    """An optimizer on a problem through a door, and every point at which the loss was evaluated."""

    def __init__(
        self,
        cls: Any,
        options: dict[str, Any],
        door: Door = NUMPY_DOORS[0],
        problem: Problem | None = None,
        dtype: Any = np.float64,
        params: list[Any] | None = None,
    ) -> None:
        self.problem = problem or Problem()
        self.door = door
        if params is None:
            params = [door.wrap(np.array(a, dtype)) for a in self.problem.start]
        self.params = params
        self.optimizer = cls(params, **options)
        self.points: list[np.ndarray] = []

    def values(self) -> list[np.ndarray]:
        return [self.door.read(param) for param in self.params]

    def closure(self) -> Any:
        values = self.values()
        self.points.append(np.concatenate([a.ravel() for a in values]))
        loss, grads = self.problem.loss(values), self.problem.grads(values)
        if self.door.name == "array":
            return loss, grads
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = self.door.gradient(grad)
        return loss

    def steps(self, count: int) -> Run:
        for _ in range(count):
            self.optimizer.step(self.closure)
        return self

    def end(self) -> np.ndarray:
        return np.concatenate([a.ravel() for a in self.values()])

    def state(self) -> dict[str, Any]:
        return dict(self.optimizer.state.get(self.params[0], {}))


class TensorDoor(Door):
    name = "tensor"

    wrap = ALL_DOORS[-1].wrap
    read = ALL_DOORS[-1].read
    gradient = ALL_DOORS[-1].gradient


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


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


# --- doors, layouts, bits -------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"lr": 0.3}, WOLFE])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_doors_give_the_same_bits(options: dict[str, Any], dtype: Any) -> None:
    expected = Run(cyoptim.LBFGS, options, dtype=dtype).steps(2)
    for door in NUMPY_DOORS[1:]:
        found = Run(cyoptim.LBFGS, options, door, dtype=dtype).steps(2)
        np.testing.assert_array_equal(found.points, expected.points)


def test_tensors_give_the_same_bits(torch: Any) -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)
    found = Run(cyoptim.LBFGS, WOLFE, TensorDoor()).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)


@pytest.mark.parametrize(
    "lay_out",
    [
        np.asfortranarray,
        lambda a: np.zeros((*a.shape, 2))[..., 0] if a.ndim else a,
        lambda a: np.empty_like(a)[::-1] if a.ndim else a,
        lambda a: np.empty(a.shape[::-1]).T,
    ],
    ids=["fortran", "strided", "reversed", "transposed"],
)
def test_layouts_give_the_same_bits(lay_out: Any) -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)
    params = []
    for start in Problem().start:
        array = lay_out(np.array(start))
        array[...] = start
        params.append(cyoptim.Parameter(array))
    found = Run(cyoptim.LBFGS, WOLFE, params=params).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)


def test_gradients_by_name() -> None:
    params = {"W": np.full((2, 2), 3.0), "b": np.full(2, -1.0)}
    optimizer = cyoptim.LBFGS(params.items(), **WOLFE)

    def closure() -> Any:
        loss = sum(float((p * p).sum()) for p in params.values())
        return loss, {name: 2 * p for name, p in params.items()}

    assert optimizer.step(closure) == 38.0
    np.testing.assert_allclose(params["W"], 0, atol=1e-7)
    np.testing.assert_allclose(params["b"], 0, atol=1e-7)


def test_returned_gradients_come_before_a_parameters_own() -> None:
    w = cyoptim.Parameter(np.array([3.0]), grad=np.array([np.nan]))
    loss = cyoptim.LBFGS([w]).step(lambda: (float(w[0] ** 2), [2 * w]))
    assert loss == 9.0
    np.testing.assert_allclose(w.data, 0, atol=1e-7)


def test_a_closure_of_any_optimizer_may_return_the_gradients_of_plain_arrays() -> None:
    w = np.array([1.0, 2.0])
    optimizer = cyoptim.SGD([w], lr=0.5)
    assert optimizer.step(lambda: (5.0, [2 * w])) == 5.0
    np.testing.assert_array_equal(w, [0, 0])
    named = cyoptim.SGD({"w": w}.items(), lr=0.5)
    assert named.step(lambda: (5.0, {"w": np.ones(2)})) == 5.0
    np.testing.assert_array_equal(w, [-0.5, -0.5])
    # Gradients of the call count, and then the result is the closure's own.
    assert optimizer.step(lambda: (1, 2), grads=[np.zeros(2)]) == (1, 2)
    with pytest.raises(ValueError, match="let the closure return \\(loss, grads\\)"):
        optimizer.step(lambda: 5.0)
    with pytest.raises(TypeError, match="grads must be a list of gradients or a dict"):
        optimizer.step(lambda: (5.0, 2.0))


def test_a_pair_over_parameters_is_the_closures_result() -> None:
    w = cyoptim.Parameter(np.array([1.0]), grad=np.array([1.0]))
    result = (5.0, [np.array([100.0])])
    assert cyoptim.SGD([w], lr=1.0).step(lambda: result) is result
    np.testing.assert_array_equal(w.data, [0.0])


def test_missing_gradients_count_as_zeros() -> None:
    a, b = cyoptim.Parameter(np.ones(2)), cyoptim.Parameter(np.ones(2))

    def closure() -> float:
        a.grad = 2 * a
        return float((a * a).sum())

    cyoptim.LBFGS([a, b], **WOLFE).step(closure)
    np.testing.assert_allclose(a.data, 0, atol=1e-7)
    np.testing.assert_array_equal(b.data, 1)


def test_no_gradient_at_all() -> None:
    w = cyoptim.Parameter(np.ones(2))
    optimizer = cyoptim.LBFGS([w])
    assert optimizer.step(lambda: 3.0) == 3.0
    assert optimizer.state_dict()["state"] == {0: {"func_evals": 1, "n_iter": 0}}
    np.testing.assert_array_equal(w.data, 1)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("options", [{}, WOLFE])
def test_smallest_sizes(size: int, options: dict[str, Any]) -> None:
    w = cyoptim.Parameter(np.full(size, 3.0))

    def closure() -> Any:
        w.grad = 2 * w
        return (w * w).sum()

    optimizer = cyoptim.LBFGS([w], **options)
    optimizer.step(closure)
    optimizer.step(closure)
    np.testing.assert_allclose(w.data, 0, atol=1e-7)
    pickle.loads(pickle.dumps(optimizer))


def test_no_parameters() -> None:
    assert cyoptim.LBFGS([{"params": []}]).step(lambda: 2.0) == 2.0


@pytest.mark.parametrize("loss", [np.array([[9.0]]), np.float32(9), 9, np.array(9.0)])
def test_forms_of_the_loss(loss: Any) -> None:
    w = np.array([3.0])
    assert cyoptim.LBFGS([w]).step(lambda: (loss, [2 * w])) is loss


def test_mixed_dtypes_are_one_vector_of_the_wider() -> None:
    a, b = cyoptim.Parameter(np.full(2, 3, np.float32)), cyoptim.Parameter(np.full(3, -2.0))

    def closure() -> float:
        a.grad, b.grad = 2 * a, 2 * b
        return float((a * a).sum() + (b * b).sum())

    optimizer = cyoptim.LBFGS([a, b], **WOLFE)
    optimizer.step(closure)
    assert optimizer.state[a]["d"].dtype == np.float64
    np.testing.assert_allclose(np.concatenate([a.data, b.data]), 0, atol=1e-3)
    twin = cyoptim.LBFGS([a, b])
    twin.load_state_dict(optimizer.state_dict())
    assert twin.state[a]["d"].dtype == np.float64


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_occurs_twice_moves_twice(torch: Any) -> None:
    ends = []
    for cls in (cyoptim.LBFGS, torch.optim.LBFGS):
        p = torch.full((3,), 2.0, dtype=torch.float64)
        optimizer = cls([p, p], lr=0.05, max_iter=5)

        def closure(p: Any = p) -> float:
            p.grad = p.clone()
            return float((p * p).sum() / 2)

        optimizer.step(closure)
        ends.append(p.numpy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-10)


def test_complex_arrays_are_pairs_of_reals() -> None:
    z = np.array([[1 + 2j, 3 - 1j], [0j, 5j]]).T
    flat = FlatArrays([z, np.zeros(1)])
    assert flat.size == 9
    vector = flat.copy()
    np.testing.assert_array_equal(vector, [1, 2, 0, 0, 3, -1, 0, 5, 0])
    flat.move(2.0, vector)
    np.testing.assert_array_equal(z, [[3 + 6j, 0], [9 - 3j, 15j]])


def all_digests() -> dict[str, str]:
    """Of runs over sizes around a chunk's length, under the present kernels and threads."""
    found = {}
    problem = Problem([(17,), (CHUNK - 1,), (4 * CHUNK + 5,), (0,)], seed=3)
    for options in ({"lr": 0.2, "max_iter": 6}, {**WOLFE, "max_iter": 6, "history_size": 3}):
        for dtype in (np.float32, np.float64):
            run = Run(cyoptim.LBFGS, options, problem=problem, dtype=dtype).steps(2)
            name = f"{options}-{np.dtype(dtype)}"
            found[name] = digest([*run.points, run.end(), *run.state()["old_dirs"]])
    return found


@pytest.fixture(scope="module")
def expected_digests() -> dict[str, str]:
    with cyoptim.threads(1):
        return all_digests()


@pytest.mark.parametrize("isa", _dispatch.LEVELS)
def test_same_bits_on_each_instruction_set(isa: str, expected_digests: dict[str, str]) -> None:
    if _dispatch.LEVELS.index(isa) > _cpu.level():
        pytest.skip(f"this machine does not allow {isa}")
    _dispatch.use(isa)
    assert all_digests() == expected_digests


@needs_openmp
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_on_any_number_of_threads(threads: int, expected_digests: dict[str, str]) -> None:
    code = (
        "import json, test_lbfgs, cyoptim; from cyoptim import _engine; "
        "_engine.set_least_share(1); "
        f"assert cyoptim.get_num_threads() == {threads}; "
        "print(json.dumps(test_lbfgs.all_digests()))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected_digests


# --- groups ---------------------------------------------------------------------------------------


def test_groups_are_one_problem() -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)

    def grouped(params: list[Any], **options: Any) -> Any:
        return cyoptim.LBFGS([{"params": params[:2]}, {"params": params[2:]}], **options)

    found = Run(grouped, WOLFE).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)
    assert len(found.optimizer.state) == 1


DISAGREEMENT = r"LBFGS doesn't support per-parameter options \(parameter groups\): "


def test_groups_must_agree() -> None:
    a, b = np.ones(2), np.ones(2)
    with pytest.raises(ValueError, match=DISAGREEMENT + "'lr' is 1 in group 0 and 0.5 in group 1"):
        cyoptim.LBFGS([{"params": [a]}, {"params": [b], "lr": 0.5}])
    optimizer = cyoptim.LBFGS([a])
    with pytest.raises(ValueError, match=DISAGREEMENT + "'history_size' is 100 in group 0 and 3"):
        optimizer.add_param_group({"params": [b], "history_size": 3})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [b]})
    optimizer.param_groups[1]["lr"] = 0.1
    with pytest.raises(ValueError, match=DISAGREEMENT + "'lr' is 1 in group 0 and 0.1 in group 1"):
        optimizer.step(lambda: pytest.fail("the closure must not be called"))
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step(lambda: (4.0, [2 * a, 2 * b]))


def test_add_param_group_begins_the_history_anew() -> None:
    a, b = cyoptim.Parameter(np.full(2, 3.0)), cyoptim.Parameter(np.full(3, -2.0))

    def closure() -> float:
        a.grad, b.grad = 2 * a, 4 * b
        return float((a * a).sum() + 2 * (b * b).sum())

    optimizer = cyoptim.LBFGS([a], max_iter=2, lr=0.2)
    optimizer.step(closure)
    assert optimizer.state[a]["n_iter"] == 1
    optimizer.state[a]["note"] = "kept"
    optimizer.add_param_group({"params": [b]})
    assert dict(optimizer.state[a]) == {"func_evals": 2, "n_iter": 0, "note": "kept"}
    points = [np.concatenate([a.data, b.data])]
    fresh = cyoptim.LBFGS([cyoptim.Parameter(points[0].copy())], max_iter=2, lr=0.2)
    v = fresh.param_groups[0]["params"][0]
    scale = np.array([2.0, 2, 4, 4, 4])
    optimizer.step(closure)
    fresh.step(lambda: (float((scale * v * v).sum() / 2), [scale * v]))
    np.testing.assert_array_equal(np.concatenate([a.data, b.data]), v.data)
    assert optimizer.state[a]["func_evals"] == 4
    for _ in range(20):
        optimizer.step(closure)
    np.testing.assert_allclose(np.concatenate([a.data, b.data]), 0, atol=0.1)


# --- nothing half done ----------------------------------------------------------------------------


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("call", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("options", [{"lr": 0.3}, WOLFE])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_failing_closure_changes_nothing(
    steps: int, options: dict[str, Any], call: int, error: type[BaseException]
) -> None:
    options = {**options, "max_iter": 8, "history_size": 3, "tolerance_change": 0.0}
    run = Run(cyoptim.LBFGS, options).steps(steps)
    twin = Run(cyoptim.LBFGS, options).steps(steps)
    before, values = copy.deepcopy(run.state()), run.end()
    calls = 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return run.closure()

    with pytest.raises(error):
        run.optimizer.step(closure)
    np.testing.assert_array_equal(run.end(), values)
    assert pickle.dumps(run.state()) == pickle.dumps(before)
    assert len(run.optimizer.state) == (1 if steps else 0)
    np.testing.assert_array_equal(run.steps(1).end(), twin.steps(1).end())


def test_bad_gradients_in_the_middle_of_a_search_change_nothing() -> None:
    w = cyoptim.Parameter(np.full(2, 3.0))
    shapes = iter([2, 2, 2, 3])

    def closure() -> float:
        w.grad = np.resize(w.data**3, next(shapes))
        return float((w * w).sum())

    optimizer = cyoptim.LBFGS([w], **WOLFE)
    with pytest.raises(ValueError, match=r"gradient of parameter 0 of group 0 has shape \(3,\)"):
        optimizer.step(closure)
    np.testing.assert_array_equal(w.data, 3)
    assert len(optimizer.state) == 0


@pytest.mark.parametrize(
    ("grad", "error", "message"),
    [
        (
            np.ones(3),
            ValueError,
            r"gradient of parameter 0 of group 0 has shape (3,), expected (2,)",
        ),
        (
            np.ones(2, np.float32),
            TypeError,
            "gradient of parameter 0 of group 0 has dtype float32, expected float64",
        ),
        ([1.0, 2.0], TypeError, "gradient of parameter 0 of group 0 is a list"),
    ],
)
def test_bad_gradients(grad: Any, error: type[Exception], message: str) -> None:
    w = np.ones(2)
    optimizer = cyoptim.LBFGS([w])
    with pytest.raises(error) as found:
        optimizer.step(lambda: (1.0, [grad]))
    assert message in str(found.value)
    np.testing.assert_array_equal(w, 1)
    assert len(optimizer.state) == 0


@pytest.mark.parametrize(
    ("closure", "error", "message"),
    [
        (
            lambda: None,
            TypeError,
            "the closure returned a NoneType, expected the loss, one number, or (loss, grads)",
        ),
        (lambda: np.ones(2), TypeError, "the closure returned a numpy.ndarray, expected the loss"),
        (lambda: "low", TypeError, "the closure returned a str, expected the loss"),
        (lambda: (1.0, [None, None]), ValueError, "grads holds 2 gradients, expected 1"),
        (lambda: (1.0, np.ones(2)), TypeError, "grads must be a list of gradients or a dict"),
        (lambda: (1.0, 2.0, 3.0), TypeError, "the closure returned a tuple"),
    ],
)
def test_bad_closures(closure: Any, error: type[Exception], message: str) -> None:
    w = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    with pytest.raises(error) as found:
        cyoptim.LBFGS([w]).step(closure)
    assert message in str(found.value)
    np.testing.assert_array_equal(w.data, 1)


def test_plain_arrays_need_returned_gradients() -> None:
    with pytest.raises(ValueError, match="let the closure return \\(loss, grads\\)"):
        cyoptim.LBFGS([np.ones(2)]).step(lambda: 1.0)


def test_a_closure_is_needed() -> None:
    optimizer = cyoptim.LBFGS([np.ones(2)])
    message = "LBFGS evaluates the loss at several points of a step: call step\\(closure\\)"
    with pytest.raises(TypeError, match=message):
        optimizer.step()
    with pytest.raises(TypeError, match=message):
        optimizer.step(grads=[np.ones(2)])
    with pytest.raises(TypeError, match=message):
        optimizer.step(lambda: 1.0, grads=[np.ones(2)])


def test_a_step_within_a_step() -> None:
    w = cyoptim.Parameter(np.ones(2), grad=np.ones(2))
    optimizer = cyoptim.LBFGS([w])
    with pytest.raises(RuntimeError, match="step\\(\\) of this optimizer is already running"):
        optimizer.step(lambda: optimizer.step(lambda: 1.0))
    assert optimizer.step(lambda: 1.0) == 1.0


def test_parameters_replaced_in_the_middle() -> None:
    w = cyoptim.Parameter(np.full(2, 3.0))
    old, calls = w.data, []

    def closure() -> float:
        calls.append(1)
        if len(calls) == 3:
            w.data = w.data.copy()
        w.grad = w.data**3
        return float((w * w).sum())

    with pytest.raises(RuntimeError, match="parameters were replaced while the step was running"):
        cyoptim.LBFGS([w], lr=0.1).step(closure)
    np.testing.assert_array_equal(old, 3)


BAD: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"lr": -0.5}, ValueError, "Invalid learning rate: -0.5"),
    ({"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    ({"lr": "fast"}, TypeError, "learning rate must be a number, got str: 'fast'"),
    ({"max_iter": -1}, ValueError, "Invalid max_iter value: -1"),
    ({"max_iter": "x"}, TypeError, "max_iter must be a number, got str: 'x'"),
    ({"max_eval": -2}, ValueError, "Invalid max_eval value: -2"),
    ({"tolerance_grad": math.nan}, ValueError, "Invalid tolerance_grad value: nan"),
    ({"tolerance_change": None}, TypeError, "tolerance_change must be a number, got NoneType"),
    ({"history_size": 0}, ValueError, "Invalid history_size value: 0"),
    ({"history_size": 2.5}, TypeError, "history_size must be a whole number, got 2.5"),
    (
        {"line_search_fn": "armijo"},
        RuntimeError,
        "only 'strong_wolfe' is supported, got line_search_fn='armijo'",
    ),
)


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as found:
        cyoptim.LBFGS([np.ones(2)], **options)
    assert message in str(found.value)
    optimizer = cyoptim.LBFGS([np.ones(2)])
    optimizer.param_groups[0].update(options)
    with pytest.raises(error) as found:
        optimizer.step(lambda: pytest.fail("the closure must not be called"))
    assert f"options of param group 0: {message}" in str(found.value)


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=IDS)
def test_save_and_resume_does_not_matter(
    options: dict[str, Any], dtype: Any, tmp_path: Path
) -> None:
    options = {"max_iter": 3, **options}
    expected = Run(cyoptim.LBFGS, options, dtype=dtype).steps(5)
    first = Run(cyoptim.LBFGS, options, dtype=dtype).steps(2)
    cyoptim.save(tmp_path / "half.npz", params=first.params, optimizer=first.optimizer)
    second = Run(cyoptim.LBFGS, {"lr": 0.5}, dtype=dtype)
    cyoptim.load(tmp_path / "half.npz", params=second.params, optimizer=second.optimizer)
    second.steps(3)
    np.testing.assert_array_equal(first.points + second.points, expected.points)
    np.testing.assert_array_equal(second.end(), expected.end())


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))])
def test_copies_go_on_alike(twin_of: Any) -> None:
    run = Run(cyoptim.LBFGS, {**WOLFE, "max_iter": 3}).steps(2)
    twin = twin_of(run)
    assert repr(twin.optimizer) == repr(run.optimizer)
    np.testing.assert_array_equal(twin.steps(2).end(), run.steps(2).end())


def test_loading_copies() -> None:
    run = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1)
    other = Run(cyoptim.LBFGS, {})
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    for name in ("d", "prev_flat_grad"):
        assert not np.shares_memory(run.state()[name], other.state()[name])
    assert not np.shares_memory(run.state()["old_dirs"][0], other.state()["old_dirs"][0])


def test_loading_what_does_not_fit_changes_nothing() -> None:
    state = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1).optimizer.state_dict()

    def refused(change: Any, error: type[Exception], message: str) -> None:
        changed = copy.deepcopy(state)
        change(changed["state"][0])
        run = Run(cyoptim.LBFGS, {"max_iter": 3}).steps(1)
        before = pickle.dumps(run.state())
        with pytest.raises(error) as found:
            run.optimizer.load_state_dict(changed)
        assert message in str(found.value)
        assert pickle.dumps(run.state()) == before

    label = "of parameter 0 of group 0"
    refused(
        lambda s: s.update(d=np.zeros(3)),
        ValueError,
        f"state 'd' {label} has shape (3,) and dtype float64, expected ({SIZE},) and float64",
    )
    refused(lambda s: s["old_stps"].pop(), ValueError, "old_dirs")
    refused(lambda s: s.pop("prev_loss"), ValueError, "but no prev_loss")
    refused(lambda s: s.update(d="x"), TypeError, f"state 'd' {label} is a str, expected an array")


def test_a_state_without_numbers_of_its_own() -> None:
    w = np.ones(2)
    optimizer = cyoptim.LBFGS([w])
    optimizer.state[w]["note"] = [1]
    twin = cyoptim.LBFGS([w])
    twin.load_state_dict(optimizer.state_dict())
    assert dict(twin.state[w]) == {"note": [1]}


def test_a_smaller_history_from_now_on() -> None:
    run = Run(cyoptim.LBFGS, {"lr": 0.1, "max_iter": 6, "tolerance_change": 0.0}).steps(1)
    assert len(run.state()["ro"]) == 5
    run.optimizer.param_groups[0]["history_size"] = 2
    run.steps(1)
    for name in ("old_dirs", "old_stps", "ro", "al"):
        assert len(run.state()[name]) == 2


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
