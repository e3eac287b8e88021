"""cyoptim.scipy: every optimizer as a method of scipy.optimize.minimize."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from tests.optimizers import cards
from tests.support.cards import CLOSURE, MATRICES, MODES, Card
from tests.support.dtypes import REALS
from tests.support.parametrize import every_card

pytest.importorskip("scipy")

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import (
    Bounds,
    minimize,
    rosen,
    rosen_der,
)

import cyoptim
from cyoptim.scipy import Method, method
from tests.support.minima import bowl, bowl_der

ADAM = method("adam", lr=0.05)


# --- every optimizer ------------------------------------------------------------------------------


def named(card: Card) -> Any:
    """As a user asks for it: by its name, or by its class if that is the user's own."""
    return card.name if card.public else card.cls


@pytest.mark.slow
@every_card(lambda card: card.valley is not None)
def test_finds_what_bfgs_finds(card: Card) -> None:
    options, gamma = card.valley.options, card.valley.gamma
    chosen = method(named(card), lr_scheduler=("ExponentialLR", {"gamma": gamma}), **options)
    run = {"maxiter": 20_000, "gtol": 1e-6, **({"shape": (1, 2)} if MATRICES(card) else {})}
    x0 = np.array([-1.2, 1.0])
    found = minimize(rosen, x0, jac=rosen_der, method=chosen, options=run)
    expected = minimize(rosen, x0, jac=rosen_der, method="BFGS")
    # The valley is flat: 1e-4 along it changes the function by some 1e-9.
    np.testing.assert_allclose(found.x, expected.x, atol=1e-4)
    assert found.fun < 1e-8
    assert found.fun == rosen(found.x)
    np.testing.assert_array_equal(found.jac, rosen_der(found.x))
    assert found.success == (found.status == 0) == (abs(found.jac).max() <= 1e-6)
    assert found.nit == len(found.lr) <= 20_000
    np.testing.assert_array_equal(x0, [-1.2, 1.0])


@every_card(~MATRICES, lambda card: card.valley is not None)
def test_runs_with_its_defaults(card: Card) -> None:
    def flat(x: Any) -> Any:  # where a rate of 1 is small
        return x @ x / 1000, x / 500

    found = minimize(
        flat, [-1.2, 1.0], jac=True, method=method(named(card)), options={"maxiter": 5}
    )
    assert found.nit == len(found.lr) == 5 or found.success
    assert np.isfinite(found.x).all()


def test_lbfgs_counts_iterations_and_caches() -> None:
    seen = []

    def fun(x: Any) -> float:
        seen.append(tuple(x))
        return float(rosen(x))

    steps: list[Any] = []
    result = minimize(
        fun, [-1.2, 1.0], jac=rosen_der, method=method("LBFGS"), callback=steps.append
    )
    assert result.nfev == result.njev == len(seen)
    assert len(set(seen)) == len(seen)
    assert result.nit == len(steps)
    assert result.nfev < 2 * result.nit


def test_lbfgs_that_moves_no_more() -> None:
    result = minimize(bowl, [5.0, 5.0], jac=bowl_der, method=method("lbfgs"), options={"gtol": 0})
    assert (result.status, result.success) == (2, False)
    assert "does not move" in result.message
    np.testing.assert_allclose(result.x, [1, -2], atol=1e-12)


def test_equals_a_loop_by_hand() -> None:
    w = np.array([3.0, 4.0])
    optimizer = cyoptim.Adam([w], lr=0.05)
    for _ in range(30):
        optimizer.step(grads=[bowl_der(w)], max_norm=0.5)
    result = minimize(
        bowl,
        [3.0, 4.0],
        jac=bowl_der,
        method=method("adam", lr=0.05, clip_norm=0.5),
        options={"maxiter": 30},
    )
    np.testing.assert_array_equal(result.x, w)
    assert (result.nit, result.nfev, result.njev, result.status) == (30, 31, 31, 1)


def test_a_class_a_function_and_an_optimizer_of_ones_own() -> None:
    class Sign(cyoptim.Optimizer):
        def __init__(self, params: Any, lr: float = 0.25) -> None:
            super().__init__(params, {"lr": lr})

        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= group["lr"] * np.sign(grad)

    for chosen in (method(Sign, lr=0.5), method(lambda params: Sign(params, lr=0.5))):
        result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=chosen)
        np.testing.assert_array_equal(result.x, [1, -2])
        assert (result.nit, result.fun, result.success) == (12, 0, True)
    with pytest.raises(TypeError, match="returned 3, expected a cyoptim.Optimizer"):
        minimize(bowl, [3.0, 4.0], jac=bowl_der, method=method(lambda params: 3))


def test_a_function_may_wrap_the_array() -> None:
    class Halve(cyoptim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {})

        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= grad / 4

    def wrapped(params: list[Any]) -> cyoptim.Optimizer:
        assert params[0].shape == (2, 1)
        return Halve([cyoptim.Parameter(p) for p in params])

    result = minimize(
        bowl, [3.0, 4.0], jac=bowl_der, method=method(wrapped), options={"shape": (2, 1)}
    )
    assert result.success
    np.testing.assert_allclose(result.x, [1, -2], atol=1e-5)
    assert np.isnan(result.lr).all()  # it has none


@pytest.mark.parametrize("shape", [(6,), (3, 2), (1, 3, 2)])
def test_sparse_adam_leaves_rows_without_a_gradient_alone(shape: tuple[int, ...]) -> None:
    def fun(x: Any) -> float:
        return float((x[:4] ** 2).sum())

    def jac(x: Any) -> Any:
        return np.where(np.arange(6) < 4, 2 * x, 0)

    run = {"shape": shape, "gtol": 1e-3}
    chosen = method("sparseadam", lr=0.05)
    result = minimize(fun, np.ones(6), jac=jac, method=chosen, options=run)
    assert result.success
    np.testing.assert_allclose(result.x, [0, 0, 0, 0, 1, 1], atol=1e-3)
    np.testing.assert_array_equal(result.x[4:], 1)


def test_muon_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="2D") as caught:
        minimize(bowl, [3.0, 4.0], jac=bowl_der, method=method("muon"))
    assert "shape=" in caught.value.__notes__[0]


# --- method() -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ["xyz"],
            {},
            ValueError,
            "optimizer: there is no 'xyz'; the names are ADOPT, ASGD, AdEMAMix, ",
        ),
        (["adma"], {}, ValueError, "did you mean 'Adam'\\?"),
        ([3], {}, TypeError, "optimizer must be a name, .* got 3"),
        ([dict], {}, TypeError, "optimizer must be a name, "),
        (["adam"], {"lr": -1.0}, ValueError, "Invalid learning rate: -1.0"),
        (["adam"], {"colour": 1.0}, TypeError, "Adam has no option 'colour'; there are lr, betas"),
        (["adam"], {"rate": 1.0}, TypeError, "Adam has no option 'rate'; did you mean 'lr'"),
        (["adam"], {"maxiter": 9}, TypeError, "maxiter is an option of minimize: options="),
        (["adam"], {"maximize": True}, ValueError, "minimize the function's negative"),
        (["adam"], {"clip_norm": 0}, ValueError, "clip_norm must be > 0, got 0"),
        (["adam"], {"clip_norm": "1"}, TypeError, "clip_norm must be a number, got str"),
        (["lbfgs"], {"clip_norm": 1.0}, ValueError, "LBFGS has its own step length"),
        (
            ["adam"],
            {"lr_scheduler": "Cosine"},
            ValueError,
            "lr_scheduler: there is no 'Cosine'; the names are ConstantLR, ",
        ),
        (["adam"], {"lr_scheduler": 3}, TypeError, "lr_scheduler must be"),
        (["adam"], {"lr_scheduler": (3, {})}, TypeError, "lr_scheduler must be"),
        (["adam"], {"lr_scheduler": "SequentialLR"}, ValueError, "there is no 'SequentialLR'"),
        ([lambda params: None], {"lr": 1.0}, TypeError, "for a name or a class only"),
    ],
)
def test_checked_at_once(arguments: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        method(*arguments, **options)


def test_repr_and_pickle() -> None:
    chosen = method("Adam", lr=0.1, lr_scheduler=("StepLR", {"step_size": 5}), clip_norm=1.0)
    assert repr(chosen) == (
        "cyoptim.scipy.method('Adam', lr_scheduler=('StepLR', {'step_size': 5}), clip_norm=1.0, "
        "lr=0.1)"
    )
    assert repr(method(cyoptim.SGD)) == "cyoptim.scipy.method(SGD)"
    copy = pickle.loads(pickle.dumps(chosen))
    assert isinstance(copy, Method)
    assert copy == chosen


@pytest.mark.parametrize(
    "scheduler",
    [
        ("StepLR", {"step_size": 2, "gamma": 0.5}),
        ("steplr", {"step_size": 2, "gamma": 0.5}),
        lambda optimizer: cyoptim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
    ],
)
def test_schedules(scheduler: Any) -> None:
    chosen = method("sgd", lr=0.1, lr_scheduler=scheduler)
    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=chosen, options={"maxiter": 5})
    np.testing.assert_array_equal(result.lr, [0.1, 0.1, 0.05, 0.05, 0.025])


def test_reduce_on_plateau_sees_the_function() -> None:
    chosen = method("sgd", lr=1.0, lr_scheduler=("ReduceLROnPlateau", {"patience": 0}))
    # Over this function steps of length 1 go to and fro, at one value.
    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=chosen, options={"maxiter": 3})
    np.testing.assert_allclose(result.lr, [1.0, 1.0, 0.1])


# --- minimize's arguments -------------------------------------------------------------------------


def test_jac_true_evaluates_once() -> None:
    calls = []

    def both(x: Any, shift: float) -> Any:
        calls.append(x)
        return bowl(x - shift), bowl_der(x - shift)

    result = minimize(both, [0.0, 0.0], args=(1.0,), jac=True, method=ADAM)
    np.testing.assert_allclose(result.x, [2, -1], atol=1e-5)
    assert result.nfev == len(calls)


@pytest.mark.parametrize(("scheme", "calls", "atol"), [("2-point", 3, 1e-6), ("3-point", 5, 1e-6)])
def test_numerical_gradients(scheme: str, calls: int, atol: float) -> None:
    seen = []

    def fun(x: Any) -> float:
        seen.append(x)
        return bowl(x)

    result = minimize(fun, [0.0, 0.0], method=ADAM, options={"finite_diff": scheme, "gtol": 1e-6})
    # The gradient, 2 (x - center), is within 1e-6 there, and differences are off by some 1e-8.
    np.testing.assert_allclose(result.x, [1, -2], atol=atol)
    assert result.success
    assert result.nfev == len(seen) == calls * result.njev


def test_numerical_gradients_within_bounds_and_along_a_fixed_side() -> None:
    def fun(x: Any) -> float:
        assert (x >= [0, 0.5, 3]).all()
        assert (x <= [2, 0.5, 3.5]).all()
        return float((x**2).sum())

    for scheme in ("2-point", "3-point"):
        result = minimize(
            fun,
            [2.0, 0.0, 9.0],
            bounds=[(0, 2), (0.5, 0.5), (3, 3.5)],
            method=ADAM,
            options={"finite_diff": scheme},
        )
        assert result.success
        np.testing.assert_allclose(result.x, [0, 0.5, 3], atol=1e-5)


@pytest.mark.parametrize("x0", [[3, 4], np.float32([3, 4]), (3.0, 4.0), np.array([True, False])])
def test_kinds_of_starts(x0: Any) -> None:
    result = minimize(bowl, x0, jac=bowl_der, method=ADAM, options={"gtol": 1e-3})
    single = getattr(x0, "dtype", None) == np.float32
    assert result.x.dtype == (np.float32 if single else np.float64)
    np.testing.assert_allclose(result.x, [1, -2], atol=1e-3)


def test_a_number_as_start() -> None:
    result = minimize(
        lambda x: (x - 3) ** 2, 0.0, jac=lambda x: 2 * (x - 3), method=method("sgd", lr=0.4)
    )
    np.testing.assert_allclose(result.x, [3], atol=1e-5)


def test_functions_may_keep_and_change_what_they_get() -> None:
    kept = []

    def fun(x: Any) -> float:
        kept.append(x)
        value = bowl(x)
        x[:] = np.nan
        return value

    gradient = np.empty(2)

    def jac(x: Any) -> Any:
        gradient[:] = bowl_der(x)  # the same memory each time
        x[:] = np.nan
        return gradient

    result = minimize(fun, [3.0, 4.0], jac=jac, method=ADAM, callback=lambda xk: xk.fill(np.nan))
    assert result.success
    assert len({id(x) for x in kept}) == len(kept)


def test_warns_as_scipy_does() -> None:
    def run(**arguments: Any) -> None:
        minimize(bowl, [1.0, -2.0], jac=bowl_der, method=ADAM, **arguments)

    with pytest.warns(RuntimeWarning, match="Method Adam does not use Hessian information") as seen:
        run(hess=lambda x: np.eye(2))
    assert seen[0].filename == __file__
    with pytest.warns(RuntimeWarning, match="does not use Hessian-vector product information"):
        run(hessp=lambda x, p: p)
    with pytest.warns(RuntimeWarning, match="Method Adam cannot handle constraints."):
        run(constraints={"type": "eq", "fun": lambda x: x[0]})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"options": {"maxiter": 1.5}}, TypeError, "maxiter must be a whole number, got 1.5"),
        ({"options": {"maxiter": -1}}, ValueError, "maxiter must be >= 0, got -1"),
        ({"options": {"maxfev": -1}}, ValueError, "maxfev must be >= 0, got -1"),
        ({"options": {"maxfev": 1.5}}, TypeError, "maxfev must be a whole number, got 1.5"),
        ({"options": {"gtol": float("nan")}}, ValueError, "gtol must be >= 0, got nan"),
        ({"options": {"gtol": "x"}}, TypeError, "gtol must be a number, got str: 'x'"),
        ({"options": {"average": 1.0}}, ValueError, "average must be between 0 and 1, got 1.0"),
        ({"options": {"average": "x"}}, TypeError, "average must be a number, got str: 'x'"),
        (
            {"options": {"shape": (3, 3)}},
            ValueError,
            r"shape=\(3, 3\) does not fit x0, which has 2 ",
        ),
        ({"options": {"shape": 1.5}}, ValueError, "shape=1.5 does not fit x0"),
        ({"options": {"finite_diff": "cs"}}, ValueError, "finite_diff must be '2-point' or"),
        ({"options": {"stochastic": True}, "jac": None}, ValueError, "stochastic: differences"),
        ({"bounds": [(0, 1)]}, ValueError, "bounds do not fit x0, which has 2 elements"),
        ({"bounds": [(0, 1), (2,)]}, ValueError, r"bounds of x\[1\] are \(2,\), expected a pair"),
        ({"bounds": [(0, 1), (2, 1)]}, ValueError, r"bounds of x\[1\] are \(2.0, 1.0\)"),
        ({"bounds": Bounds(0, np.nan)}, ValueError, r"bounds of x\[0\] are \(0.0, nan\)"),
        ({"bounds": [(0, 1)] * 2, "method": method("lbfgs")}, ValueError, "L-BFGS-B"),
        ({"x0": [1j, 0]}, TypeError, "x0 has dtype complex128"),
        ({"x0": [np.nan, 0]}, ValueError, "x0 holds NaN or infinity"),
        ({"jac": lambda x: [1.0]}, ValueError, "jac returned 1 elements, expected 2"),
        ({"fun": lambda x: x}, ValueError, r"fun returned an array of shape \(2,\)"),
    ],
)
def test_bad_arguments(arguments: Any, error: Any, message: str) -> None:
    usual = {"fun": bowl, "x0": [3.0, 4.0], "jac": bowl_der, "method": ADAM}
    with pytest.raises(error, match=message):
        minimize(**{**usual, **arguments})


def test_shows_how_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, method=ADAM, options={"disp": True})
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == result.message
    assert shown[2].split() == ["Iterations:", str(result.nit)]


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    card=st.sampled_from(cards(~MATRICES, ~CLOSURE, lambda card: card.valley is not None)),
    dtype=st.sampled_from(REALS),
    data=st.data(),
    numeric=st.booleans(),
)
def test_never_leaves_the_box(card: Card, dtype: Any, data: Any, numeric: bool) -> None:
    n = data.draw(st.integers(1, 4))
    # Each multiple of 2**-10 is a float32, so that both dtypes can hold the box.
    numbers = st.integers(-3000, 3000).map(lambda k: k / 1024)
    corners = [sorted(data.draw(st.tuples(numbers, numbers))) for _ in range(n)]
    lower, upper = np.array(corners).T
    x0 = np.array(data.draw(st.lists(numbers, min_size=n, max_size=n)), dtype=dtype)
    before = x0.copy()
    center = np.linspace(-2, 2, n)

    def fun(x: Any) -> float:
        assert x.dtype == dtype
        assert (lower <= x).all()
        assert (x <= upper).all()
        return float(((x - center) ** 2).sum())

    average = None if MODES(card) else data.draw(st.sampled_from([None, 0.9]))
    result = minimize(
        fun,
        x0,
        jac=None if numeric else lambda x: 2 * (x - center),
        bounds=data.draw(st.sampled_from([corners, Bounds(lower, upper)])),
        method=method(named(card), lr=0.1),
        callback=fun,
        options={"maxiter": 20, "average": average},
    )
    assert fun(result.x) == result.fun
    np.testing.assert_array_equal(x0, before)


def test_open_sides_and_the_projected_gradient() -> None:
    result = minimize(bowl, [3.0, 4.0], jac=bowl_der, bounds=[(None, 0.5), (0, None)], method=ADAM)
    assert result.success
    np.testing.assert_array_equal(result.x, [0.5, 0])
    expected = minimize(
        bowl, [3.0, 4.0], jac=bowl_der, bounds=[(None, 0.5), (0, None)], method="L-BFGS-B"
    )
    np.testing.assert_array_equal(result.x, expected.x)


def test_bounds_are_rounded_inwards() -> None:
    # The float32 nearest to 0.1 is above it.
    result = minimize(
        bowl, np.float32([0, 0]), jac=bowl_der, bounds=[(None, 0.1), (0.1, 0.1)], method=ADAM
    )
    assert float(result.x[0]) <= 0.1
    np.testing.assert_allclose(result.x, [0.1, 0.1], rtol=1e-6)
