"""penalty="l1": the proximal step against slow references, exact zeros, and coordinate descent's minima."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim.optimizers._schedule_free import ScheduleFree
from tests.support.cards import CLOSURE, DENSE, MATRICES
from tests.support.dtypes import REALS
from tests.support.parametrize import every_card

pytest.importorskip("sklearn")

import scipy.optimize
import scipy.sparse
from sklearn import linear_model
from sklearn.datasets import load_breast_cancer, make_regression
from sklearn.preprocessing import StandardScaler

from cyoptim.sklearn import LinearClassifier, LinearRegressor
from cyoptim.sklearn._absolute import AbsoluteStep

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, Y = make_regression(100, 8, n_informative=3, noise=1, random_state=0)
Y = Y / Y.std()


# --- references -----------------------------------------------------------------------------------


def soft(values, thresholds):
    """The point v with the least (v - value)^2 / 2 + threshold |v|."""
    return np.sign(values) * np.maximum(np.abs(values) - thresholds, 0)


def slope_with(w, g, strength):
    """The slope of loss and penalty; where w is 0, the least in size."""
    return np.where(w == 0, soft(g, strength), g + strength * np.sign(w))


class Descent:
    """The rate of every weight is lr."""

    name, options = "sgd", {}

    def rates(self, slope, lr):
        return np.full_like(slope, lr)


class Squares:
    """RMSprop: rates by a running average of squared slopes."""

    name, options = "rmsprop", {"alpha": 0.9, "eps": 1e-6}

    def __init__(self):
        self.v = 0.0

    def rates(self, slope, lr):
        self.v = 0.9 * self.v + 0.1 * slope**2
        return lr / (np.sqrt(self.v) + 1e-6)


class Sums:
    """Adagrad: rates by the sum of squared slopes."""

    name, options = "adagrad", {"eps": 1e-6}

    def __init__(self):
        self.v = 0.0

    def rates(self, slope, lr):
        self.v = self.v + slope**2
        return lr / (np.sqrt(self.v) + 1e-6)


@pytest.mark.parametrize("lr", [0.05, 0.5])
@pytest.mark.parametrize("l1_ratio", [0.5, 1.0])
@pytest.mark.parametrize("size", [10, 100])
@pytest.mark.parametrize("rule", [Descent, Squares, Sums])
def test_steps_are_proximal_steps_in_the_metric_of_the_rule(rule, size, l1_ratio, lr):
    alpha, epochs = 0.1, 15
    ours = LinearRegressor(
        penalty="elasticnet",
        alpha=alpha,
        l1_ratio=l1_ratio,
        optimizer=rule.name,
        optimizer_params=rule.options,
        learning_rate_init=lr,
        fit_intercept=False,
        batch_size=size,
        shuffle=False,
        tol=None,
        max_iter=epochs,
    ).fit(X, Y)
    w, metric, zeros = np.zeros(8), rule(), 0
    for _ in range(epochs):
        for begin in range(0, 100, size):
            x, y = X[begin : begin + size], Y[begin : begin + size]
            g = x.T @ (x @ w - y) / size + alpha * (1 - l1_ratio) * w
            rates = metric.rates(slope_with(w, g, alpha * l1_ratio), lr)
            w = soft(w - rates * g, rates * alpha * l1_ratio)
            zeros += np.sum(w == 0)
    np.testing.assert_allclose(ours.coef_, w, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(ours.coef_ == 0, w == 0)
    assert zeros > 0


@settings(max_examples=200, deadline=None)
@given(
    w=st.sampled_from([0.0, 1e-3, -1e-3, 1.0, -1.0]),
    g=st.sampled_from([0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0, 100.0, -100.0]),
    strength=st.sampled_from([1e-6, 0.5, 1.0, 2.0]),
    rate=st.sampled_from([1e-4, 0.1, 1.0, 10.0]),
)
def test_one_step_of_descent_is_the_proximal_point(w, g, strength, rate):
    weights = np.array([[w]])
    step = AbsoluteStep(weights, np.array([[g]]), strength)
    weights -= rate * step.slope
    step.settle(weights)
    expected = soft(w - rate * g, rate * strength)
    np.testing.assert_allclose(weights[0, 0], expected, rtol=1e-9, atol=1e-13)
    assert (weights[0, 0] == 0) == (expected == 0)


def test_momentum_alone_carries_no_weight_over_0():
    weights = np.array([1e-3, -1e-3, 0.0, 0.0, 1e-3])
    step = AbsoluteStep(weights, np.array([-2.0, 2.0, 0.1, 5.0, -1.0]), 1.0)
    np.testing.assert_array_equal(step.slope, [-1.0, 1.0, 0.0, 4.0, 0.0])
    weights[...] = [-1.0, 1.0, 1.0, 1.0, -1.0]  # against the slope, or where there is none
    step.settle(weights)
    np.testing.assert_array_equal(weights, 0)


def test_numbers_that_are_not_finite_stay():
    weights = np.array([1.0, -1.0, 0.0])
    step = AbsoluteStep(weights, np.array([1.0, 1.0, 0.0]), 0.5)
    weights[...] = [np.nan, np.inf, -np.inf]
    step.settle(weights)
    np.testing.assert_array_equal(weights, [np.nan, np.inf, -np.inf])


# --- minima ---------------------------------------------------------------------------------------

WHOLE = {"batch_size": 1000, "tol": None, "lr_scheduler": "exponentiallr"}
DECAY = {"lr_scheduler_params": {"gamma": 0.995}}


def objective(coef, intercept, alpha):
    return ((X @ coef + intercept - Y) ** 2).mean() / 2 + alpha * np.abs(coef).sum()


# The rates that need no other than 0.05; None: the optimizer's own.
RATES = {
    "ASGD": 0.3, "Adadelta": None, "DAdaptAdam": None, "DAdaptLion": None, "DAdaptSGD": None, "Lars": 1.0,
    "Lion": 0.02, "Prodigy": None, "Rprop": None, "SGD": 0.3, "SignSGD": 0.02,
}  # fmt: skip
# With the lr that scales the weights' size: they begin at 0.
FROM_SMALL = {"Adafactor", "AdafactorHF"}


@pytest.mark.slow
@every_card(DENSE, ~MATRICES, ~CLOSURE, lambda card: card.public)
def test_every_optimizer_finds_the_zeros_of_coordinate_descent(card):
    if issubclass(card.cls, ScheduleFree) or card.name in FROM_SMALL:
        pytest.skip("it averages the weights, or scales steps by their size, which begins at 0")
    lasso = linear_model.Lasso(0.05, tol=1e-12, max_iter=10**5).fit(X, Y)
    ours = LinearRegressor(
        penalty="l1",
        alpha=0.05,
        optimizer=card.name,
        learning_rate_init=RATES.get(card.name, 0.05),
        max_iter=1500,
        **WHOLE,
        **DECAY,
    ).fit(X, Y)
    np.testing.assert_array_equal(ours.coef_ == 0, lasso.coef_ == 0)
    least = objective(lasso.coef_, lasso.intercept_, 0.05)
    assert objective(ours.coef_, ours.intercept_, 0.05) < least + 1e-3
    assert np.sum(ours.coef_ == 0) == 6


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "nadam", "lion"])
@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.05, 1.0), (0.3, 0.5), (0.01, 0.9)])
def test_the_minimum_is_that_of_coordinate_descent(optimizer, alpha, l1_ratio):
    theirs = linear_model.ElasticNet(alpha, l1_ratio=l1_ratio, tol=1e-14, max_iter=10**5)
    theirs.fit(X, Y)
    ours = LinearRegressor(
        penalty="elasticnet",
        alpha=alpha,
        l1_ratio=l1_ratio,
        optimizer=optimizer,
        optimizer_params={"momentum": 0.5} if optimizer == "sgd" else None,
        learning_rate_init=0.1 if optimizer == "sgd" else 0.02,
        max_iter=2500,
        **WHOLE,
        **DECAY,
    ).fit(X, Y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(ours.coef_ == 0, theirs.coef_ == 0)


def least_by_scipy(loss, data, target, alpha):
    """The minimum over the positive and negative parts of the weights, which have bounds."""
    n = data.shape[1]

    def value(parts):
        w, b = parts[:n] - parts[n : 2 * n], parts[-1]
        total, slope = loss(data @ w + b, target)
        g = data.T @ slope / len(target)
        grad = np.concatenate([g + alpha, alpha - g, [slope.mean()]])
        return total.mean() + alpha * parts[: 2 * n].sum(), grad

    bounds = [(0, None)] * (2 * n) + [(None, None)]
    found = scipy.optimize.minimize(
        value,
        np.zeros(2 * n + 1),
        jac=True,
        bounds=bounds,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 10**4, "maxfun": 10**5},
    )
    return found.fun, found.x[:n] - found.x[n : 2 * n]


def logistic(scores, target):
    signs = np.where(target > 0, 1.0, -1.0)
    return np.logaddexp(0, -signs * scores), -signs / (1 + np.exp(signs * scores))


def huber(scores, target):
    r = scores - target
    slope = np.clip(r, -0.1, 0.1)
    return slope * (r - slope / 2), slope


def test_the_minimum_of_other_losses_is_scipys():
    data, classes = load_breast_cancer(return_X_y=True)
    data = StandardScaler().fit_transform(data)[:, ::3]
    shared = {"penalty": "l1", "alpha": 0.02, "optimizer": "sgd", "learning_rate_init": 0.2}
    shared |= {"max_iter": 3000, "batch_size": 1000, "tol": None, "shuffle": False}
    shared |= {"optimizer_params": {"momentum": 0.9}}
    cases = [
        (logistic, LinearClassifier("log_loss", **shared), data, classes),
        (huber, LinearRegressor("huber", **shared), X, Y),
    ]
    for loss, model, samples, target in cases:
        least, coef = least_by_scipy(loss, samples, target, 0.02)
        model.fit(samples, target)
        found = model.coef_.ravel()
        scores = samples @ found + model.intercept_
        assert loss(scores, target)[0].mean() + 0.02 * abs(found).sum() < least + 1e-6
        np.testing.assert_allclose(found, coef, atol=5e-3)
        assert 0 < np.sum(found == 0) < len(found)
        assert np.all(abs(coef[found == 0]) < 1e-4)


# --- in estimators --------------------------------------------------------------------------------


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
@pytest.mark.parametrize("dtype", REALS)
def test_zeros_of_any_kind_of_samples(dtype, form, early_stopping):
    data, classes = load_breast_cancer(return_X_y=True)
    data = StandardScaler().fit_transform(data).astype(dtype)
    model = LinearClassifier(
        "log_loss",
        penalty="l1",
        alpha=0.05,
        learning_rate_init=0.01,
        max_iter=100,
        early_stopping=early_stopping,
        random_state=0,
    ).fit(form(data), classes)
    assert model.coef_.dtype == dtype
    assert 5 <= np.sum(model.coef_ == 0) < 30
    assert model.score(form(data), classes) > 0.9


def test_zeros_of_several_targets_are_those_of_each():
    targets = np.stack([Y, X[:, 0] - X[:, 5]], axis=1)
    shared = {"penalty": "l1", "alpha": 0.05, "optimizer": "sgd", "learning_rate_init": 0.1}
    shared |= {"max_iter": 400, "tol": None, "batch_size": 100}
    both = LinearRegressor(**shared).fit(X, targets)
    for column in (0, 1):
        one = LinearRegressor(**shared).fit(X, targets[:, column])
        np.testing.assert_array_equal(both.coef_[column] == 0, one.coef_ == 0)
        assert np.sum(one.coef_ == 0) == 6


def test_coefficients_can_be_sparse():
    shared = {"penalty": "l1", "alpha": 0.05, "learning_rate_init": 0.1, "random_state": 0}
    labels = (Y > 0).astype(int)
    for model, target in (
        (LinearRegressor(**shared), Y),
        (LinearRegressor(**shared), np.stack([Y, -Y], axis=1)),
        (LinearClassifier(**shared), labels),
        (LinearClassifier(**shared), np.digitize(Y, [-1, 1])),
    ):
        model.set_params(max_iter=30, warm_start=True).fit(X, target)
        shape, expected = model.coef_.shape, model.predict(X)
        assert model.sparsify().sparsify() is model
        assert scipy.sparse.issparse(model.coef_)
        for form in (np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_array):
            found = model.predict(form(X))
            assert (type(found), found.shape) == (np.ndarray, expected.shape)
            np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert model.densify().densify().coef_.shape == shape
        np.testing.assert_allclose(model.predict(X), expected, rtol=1e-12)
        twin = model.sparsify().fit(X, target).coef_
        assert twin.shape == shape


@pytest.mark.parametrize(
    "average", [{"optimizer": "SGDScheduleFree", "learning_rate_init": 0.5}, {"weight_averaging": 0.9}, {"average": True}]
)  # fmt: skip
def test_averages_are_small_where_the_minimum_is_0(average):
    lasso = linear_model.Lasso(0.05).fit(X, Y)
    ours = LinearRegressor(
        **{"optimizer": "adam", "learning_rate_init": 0.05} | average,
        penalty="l1",
        alpha=0.05,
        batch_size=100,
        max_iter=2000,
        tol=None,
    ).fit(X, Y)
    np.testing.assert_allclose(ours.coef_, lasso.coef_, atol=0.02)


def test_parameters_that_an_optimizer_leaves_out_stay_0():
    model = LinearRegressor(
        penalty="l1",
        alpha=1e-3,
        optimizer=lambda params, lr: cyoptim.SGD(params[1:], lr=lr),
        learning_rate_init=0.1,
        max_iter=3,
    ).fit(X, Y)
    assert not model.coef_.any()
    assert model.intercept_.any()
