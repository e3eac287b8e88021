"""How a minimization ends: tolerances, callbacks, noise, and what is no success."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

pytest.importorskip("scipy")

from scipy.optimize import (
    OptimizeResult,
    basinhopping,
    dual_annealing,
    minimize,
)

import cyoptim
from cyoptim.scipy import method
from tests.support.minima import bowl, bowl_der

ADAM = method("adam", lr=0.05)


# --- how it ends ----------------------------------------------------------------------------------


def test_ends_at_a_good_start() -> None:
    result = minimize(bowl, [1.0, -2.0], jac=bowl_der, method=ADAM)
    assert (result.nit, result.nfev, result.success, result.status) == (0, 1, True, 0)


def test_no_iterations() -> None:
    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=ADAM, options={"maxiter": 0})
    np.testing.assert_array_equal(result.x, [3, 4])
    assert (result.nit, result.success, result.status) == (0, False, 1)


def test_tolerances() -> None:
    loose = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=ADAM, tol=0.1)
    assert 1e-3 < abs(loose.jac).max() <= 0.1
    assert "gtol" in loose.message
    sgd = method("sgd", lr=0.1)
    change = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=sgd, options={"ftol": 1e-3})
    assert "ftol" in change.message
    assert change.success
    assert abs(change.jac).max() > 1e-3
    neither = minimize(
        bowl, [1.0, -2.0], jac=bowl_der, method=sgd, options={"gtol": 0, "maxiter": 3}
    )
    assert (neither.nit, neither.status) == (3, 1)


def test_returns_the_best_at_maxiter() -> None:
    # A rate so large that every step leads further away.
    result = minimize(
        bowl, [3.0, 4.0], jac=bowl_der, method=method("sgd", lr=1.5), options={"maxiter": 5}
    )
    np.testing.assert_array_equal(result.x, [3, 4])
    assert (result.fun, result.nit) == (bowl(np.array([3.0, 4.0])), 5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["fun", "jac"])
def test_stops_at_nan(bad: float, where: str) -> None:
    def broken(kind: str, function: Any) -> Any:
        # The bowl's slope leads below 2, where nothing is defined.
        return lambda x: function(x) + (bad if x[0] < 2 and kind == where else 0)

    result = minimize(broken("fun", bowl), [3.0, 4.0], jac=broken("jac", bowl_der), method=ADAM)
    assert (result.status, result.success) == (3, False)
    assert "NaN or infinity" in result.message
    assert 2 <= result.x[0] < 2.1
    assert np.isfinite(result.fun)
    assert np.isfinite(result.jac).all()


def test_fun_never_sees_what_is_not_finite() -> None:
    def fun(x: Any) -> float:
        assert np.isfinite(x).all()
        return float(-x[0])

    def jac(x: Any) -> Any:
        return np.full(2, -1.0)

    result = minimize(fun, [0.0, 0.0], jac=jac, method=method("sgd", lr=1e308))
    assert (result.status, result.nit) == (3, 2)
    np.testing.assert_array_equal(result.x, [1e308, 1e308])


def test_callbacks() -> None:
    iterates: list[Any] = []
    results: list[OptimizeResult] = []

    def observe(intermediate_result: OptimizeResult) -> None:
        results.append(intermediate_result)

    run: dict[str, Any] = {"jac": bowl_der, "method": ADAM, "options": {"maxiter": 4}}
    minimize(bowl, [3.0, 4.0], callback=iterates.append, **run)
    minimize(bowl, [3.0, 4.0], callback=observe, **run)
    assert len(iterates) == len(results) == 4
    for x, result in zip(iterates, results, strict=True):
        np.testing.assert_array_equal(result.x, x)
        assert result.fun == bowl(x)
    assert [result.nit for result in results] == [1, 2, 3, 4]


def test_a_callback_ends_it() -> None:
    def enough(intermediate_result: OptimizeResult) -> None:
        if intermediate_result.nit == 3:
            raise StopIteration

    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=ADAM, callback=enough)
    assert (result.status, result.success, result.nit) == (99, False, 3)
    assert result.message == "`callback` raised `StopIteration`."

    def fail(xk: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        minimize(bowl, [3.0, 4.0], jac=bowl_der, method=ADAM, callback=fail)


# --- stochastic functions -------------------------------------------------------------------------


def noisy(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)

    def both(x: Any) -> Any:
        shift = rng.normal(size=2)
        return bowl(x + shift), bowl_der(x + shift)

    return both


def test_stochastic_functions_run_to_the_end_and_return_the_last() -> None:
    seen: list[Any] = []
    result = minimize(
        noisy(),
        [3.0, 4.0],
        jac=True,
        method=ADAM,
        callback=seen.append,
        options={"stochastic": True, "maxiter": 500},
    )
    assert (result.nit, result.status, result.success) == (500, 0, True)
    np.testing.assert_array_equal(result.x, seen[-1])


def test_average() -> None:
    seen: list[Any] = []
    result = minimize(
        noisy(),
        [1.0, -2.0],
        jac=True,
        method=method("sgd", lr=0.1),
        callback=seen.append,
        options={"stochastic": True, "maxiter": 400, "average": 0.98},
    )
    weights = 0.98 ** np.arange(399, -1, -1)
    np.testing.assert_allclose(result.x, weights @ np.array(seen) / weights.sum(), rtol=1e-12)
    assert result.nfev == result.njev == 402
    # The average varies less than the iterates: 400 of them spread by 0.67, the mean by 0.2.
    assert abs(result.x - [1, -2]).max() < 0.5


# --- beside minimize ------------------------------------------------------------------------------


@pytest.mark.slow
def test_basinhopping_and_annealing() -> None:
    def wells(x: Any) -> float:
        return float(((x**2 - 1) ** 2 + 0.3 * x).sum())

    def wells_der(x: Any) -> Any:
        return 4 * x * (x**2 - 1) + 0.3

    local = {"method": ADAM, "jac": wells_der}
    lowest = minimize(wells, [-1.0, -1.0]).fun
    np.random.seed(0)  # noqa: NPY002  # the argument that takes a generator was renamed in SciPy
    result = basinhopping(wells, [1.0, 1.0], niter=15, stepsize=2.0, minimizer_kwargs=local)
    assert result.fun == pytest.approx(lowest, abs=1e-8)
    box = [(-2, 2), (-2, 2)]
    result = dual_annealing(wells, box, maxiter=20, minimizer_kwargs={**local, "bounds": box})
    assert result.fun == pytest.approx(lowest, abs=1e-8)


@pytest.mark.slow
def test_says_what_is_missing() -> None:
    code = "import sys; sys.modules['scipy.optimize'] = None; import cyoptim.scipy"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'ImportError: cyoptim.scipy needs SciPy: pip install "cyoptim[scipy]"' in run.stderr


# --- success that is none -------------------------------------------------------------------------


def in_precision(dtype: Any, shown: Any = lambda value: value) -> Any:
    """A loss that is computed in a dtype, with its minimum at 3 everywhere."""
    data = np.full(8, 3, dtype)
    return lambda x: shown(((x.astype(dtype)[:, None] - data) ** 2).mean(dtype=dtype))


@pytest.mark.parametrize("finite_diff", ["2-point", "3-point"])
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs", "sgd"])
@pytest.mark.parametrize("shown", [lambda v: v, float, lambda v: 1 + float(v)])
@pytest.mark.parametrize(("dtype", "near"), [(np.float32, 0.01), (np.float16, 0.1)])
def test_functions_of_a_lower_precision(
    dtype: Any, near: float, shown: Any, optimizer: str, finite_diff: str
) -> None:
    options = {"finite_diff": finite_diff, "maxiter": 1500}
    how = method(optimizer) if optimizer == "lbfgs" else method(optimizer, lr=0.05)
    for x0 in ([0.0, 0.0], [0.3, 0.7]):
        result = minimize(in_precision(dtype, shown), x0, method=how, options=options)
        np.testing.assert_allclose(result.x, 3.0, atol=near)


def test_steps_of_differences_follow_the_precision_of_the_values() -> None:
    seen: dict[Any, set[float]] = {np.float32: set(), np.float64: set()}
    for dtype, points in seen.items():

        def loss(x: np.ndarray, dtype: Any = dtype, points: Any = points) -> Any:
            points.add(float(x[0]))
            return dtype(np.sin(x[0]) + 1.7)

        minimize(loss, [0.5], method=method("sgd", lr=0.1), options={"maxiter": 0})
        assert abs(max(points, key=lambda p: abs(p - 0.5)) - 0.5) == pytest.approx(
            np.finfo(dtype).eps ** 0.5, rel=1e-6
        )


@pytest.mark.parametrize("value", [0.0, 1.0, 1.7])
def test_a_constant_function_is_at_its_minimum(value: float) -> None:
    result = minimize(lambda x: value, [1.0, 2.0], method=method("adam"))
    assert result.success
    np.testing.assert_array_equal(result.x, [1.0, 2.0])


def test_a_minimum_of_round_numbers_is_found_at_once() -> None:
    for start in (0.0, 1.0):
        result = minimize(lambda x, s=start: s + x @ x, [0.0, 0.0], method=method("adam"))
        assert (result.success, result.nit) == (True, 0)


@np.errstate(invalid="ignore", divide="ignore")
def with_border(x: np.ndarray) -> float:
    return float(np.sum(x - np.log(x)))


@np.errstate(invalid="ignore", divide="ignore")
def infinite_beyond(x: np.ndarray) -> float:
    return with_border(x) if (x > 0).all() else np.inf


@pytest.mark.parametrize("loss", [with_border, infinite_beyond])
@pytest.mark.parametrize("jac", [lambda x: 1 - 1 / x, None], ids=["jac", "differences"])
@pytest.mark.parametrize("start", [[5.0], [0.01], [50.0, 0.5]])
def test_a_line_search_turns_back_at_a_border(loss: Any, jac: Any, start: Any) -> None:
    result = minimize(loss, start, jac=jac, method=method("lbfgs"))
    np.testing.assert_allclose(result.x, 1.0, atol=1e-4)
    assert np.isfinite(result.fun)


def test_the_search_outside_of_minimize_is_torchs() -> None:
    w = np.array([5.0])
    with np.errstate(all="ignore"):
        optimizer = cyoptim.LBFGS([w], line_search_fn="strong_wolfe")
        optimizer.step(lambda: (with_border(w), [1 - 1 / w]))
    assert not optimizer._has_border
    assert not w[0] > 0  # out of the domain, where torch's ends, too


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "lbfgs"])
def test_what_becomes_nan_is_no_success(name: str) -> None:
    def falls_off(x: np.ndarray) -> float:  # down to a cliff
        return float(x[0]) if x[0] > 0.25 else np.nan

    how = method(name) if name == "lbfgs" else method(name, lr=0.01)
    result = minimize(falls_off, [1.0], jac=lambda x: np.ones(1), method=how)
    assert not result.success
    assert 0.25 < result.x[0] < 1.0
    assert result.fun == result.x[0]


def test_an_average_out_of_the_domain_is_no_success() -> None:
    def ring(x: np.ndarray) -> float:  # two valleys with a wall between them
        return float((abs(x[0]) - 2) ** 2) if abs(x[0]) > 1 else np.nan

    def slope(x: np.ndarray) -> np.ndarray:  # leaps to the other valley at each step
        return 2 * x

    options = {"average": 0.5, "maxiter": 4, "stochastic": True}
    result = minimize(ring, [2.0], jac=slope, method=method("sgd", lr=1.0), options=options)
    assert not result.success
    assert abs(result.x[0]) == 2.0


@pytest.mark.parametrize("where", ["x0", "fun", "jac"])
def test_masked_arrays_are_refused(where: str) -> None:
    masked = np.ma.masked_array([1.0, 99.0], mask=[0, 1])
    fun = (lambda x: np.ma.masked) if where == "fun" else (lambda x: x @ x)
    jac = (lambda x: masked) if where == "jac" else (lambda x: 2 * x)
    x0 = masked if where == "x0" else np.ones(2)
    with pytest.raises(TypeError, match=f"{where}.* a masked array"):
        method("adam")(fun, x0, jac=jac)  # minimize itself makes a plain array of x0


def test_a_complex_value_is_refused() -> None:
    with pytest.raises(TypeError, match="fun returned a complex number"):
        minimize(lambda x: 1j * x[0], [1.0], method=method("adam"))
