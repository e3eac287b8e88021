"""cyoptim.sklearn's linear models: losses, penalties, weights, and scikit-learn's own results."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn")

import scipy.sparse
from sklearn import linear_model
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler

from cyoptim.sklearn import LinearClassifier, LinearRegressor, _losses

pytestmark = pytest.mark.filterwarnings(
    "ignore:the loss or score:sklearn.exceptions.ConvergenceWarning"
)
REGRESSION = sorted(_losses.RESIDUAL_LOSSES)
CLASSIFICATION = sorted(_losses.MARGIN_LOSSES) + REGRESSION


def scaled(load):
    X, y = load(return_X_y=True)
    return StandardScaler().fit_transform(X), y


# --- losses ---------------------------------------------------------------------------------------


def assert_slopes(loss, scores, targets):
    """Slopes are those of the values, by differences over intervals without a kink."""
    values, slopes = loss(scores, targets)
    assert values.shape in [scores.shape, (len(scores), 1)]
    values = values.sum(axis=1)
    assert slopes.shape == scores.shape
    assert np.all(values >= 0)
    h = 1e-6
    for column in range(scores.shape[1]):
        shift = np.zeros_like(scores)
        shift[:, column] = h
        right, left = (loss(scores + h, targets)[0].sum(axis=1) for h in (shift, -shift))
        smooth = np.abs(right + left - 2 * values) < 1e-9  # a kink of slope 1 gives 1e-6
        difference = (right - left) / (2 * h)
        np.testing.assert_allclose(slopes[smooth, column], difference[smooth], atol=1e-6, rtol=1e-6)
        assert smooth.mean() > 0.5


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(CLASSIFICATION),
    columns=st.sampled_from([1, 3, 5]),
    seed=st.integers(0, 10**6),
    scale=st.sampled_from([0.3, 2.0, 5.0]),
)
def test_slopes_of_classification(name, columns, seed, scale):
    rng = np.random.default_rng(seed)
    scores = scale * rng.standard_normal((8, columns))
    targets = rng.integers(0, max(columns, 2), 8)
    assert_slopes(_losses.classification(name, columns, 0.1), scores, targets)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(REGRESSION),
    columns=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
    epsilon=st.sampled_from([0.0, 0.1, 1.5]),
)
def test_slopes_of_regression(name, columns, seed, epsilon):
    rng = np.random.default_rng(seed)
    scores, targets = rng.standard_normal((2, 8, columns))
    if name == "huber" and epsilon == 0:
        return  # zero everywhere
    assert_slopes(_losses.regression(name, epsilon), scores, targets)


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("name", CLASSIFICATION)
def test_large_scores(name, columns):
    scores = np.full((2, columns), 1e4)
    scores[1] = -1e4
    values, slopes = _losses.classification(name, columns, 0.1)(scores, np.array([0, 1]))
    assert np.isfinite(values).all()
    assert np.isfinite(slopes).all()


# --- scikit-learn's stochastic gradient descent ---------------------------------------------------

PENALTIES = [("l2", 0.01), (None, 0.01), ("l2", 0.0)]


@pytest.mark.parametrize(("penalty", "alpha"), PENALTIES)
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
@pytest.mark.parametrize("loss", CLASSIFICATION)
def test_batches_of_one_are_sgd_classifier(loss, load, penalty, alpha):
    X, y = scaled(load)
    if loss == "log_loss" and load is load_iris:
        y = np.minimum(y, 1)  # of three classes theirs has three losses, ours one
    rate = 1e-3 if loss.startswith("squared") else 0.01
    shared = {"loss": loss, "penalty": penalty, "alpha": alpha, "shuffle": False, "max_iter": 3}
    ours = LinearClassifier(
        optimizer="sgd", learning_rate_init=rate, batch_size=1, tol=None, **shared
    ).fit(X, y)
    theirs = linear_model.SGDClassifier(
        learning_rate="constant", eta0=rate, tol=None, random_state=0, **shared
    ).fit(X, y)
    # Theirs keeps a common factor apart from the coefficients.
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        ours.decision_function(X), theirs.decision_function(X), rtol=1e-8, atol=1e-10
    )
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    if hasattr(theirs, "predict_proba"):
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)
        np.testing.assert_allclose(ours.predict_proba(X), np.exp(ours.predict_log_proba(X)))
    else:
        assert not hasattr(ours, "predict_proba")


def test_probabilities_where_no_class_is_likely():
    X, y = scaled(load_iris)
    model = LinearClassifier("modified_huber", max_iter=2).fit(X, y)
    model.coef_[:], model.intercept_[:] = 0, -5
    np.testing.assert_allclose(model.predict_proba(X), 1 / 3)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("loss", REGRESSION)
def test_batches_of_one_are_sgd_regressor(loss, fit_intercept):
    X, y = scaled(load_diabetes)
    y = (y - y.mean()) / y.std()
    shared = {"loss": loss, "alpha": 0.01, "shuffle": False, "max_iter": 3, "epsilon": 0.2}
    shared |= {"tol": None, "fit_intercept": fit_intercept}
    ours = LinearRegressor(optimizer="sgd", learning_rate_init=1e-3, batch_size=1, **shared)
    theirs = linear_model.SGDRegressor(learning_rate="constant", eta0=1e-3, **shared)
    ours.fit(X, y), theirs.fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-8, atol=1e-10)


# --- minima ---------------------------------------------------------------------------------------

EXACT = {
    "optimizer": "adam",
    "learning_rate_init": 0.1,
    "lr_scheduler": "exponentiallr",
    "lr_scheduler_params": {"gamma": 0.99},
    "batch_size": 10**9,
    "max_iter": 2000,
    "tol": None,
}


def fit_exactly(estimator, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Got `batch_size`")
        return estimator.set_params(**EXACT).fit(*args, **kwargs)


@pytest.mark.slow
def test_ridge():
    X, y = make_regression(100, 5, noise=10, random_state=0)
    y = y / y.std()
    weight = np.random.default_rng(0).uniform(0.1, 2, 100)
    ours = fit_exactly(LinearRegressor(alpha=0.1), X, y, sample_weight=weight)
    # Theirs minimizes the sum of squares and alpha times the squared norm.
    theirs = linear_model.Ridge(0.1 * weight.sum()).fit(X, y, sample_weight=weight)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("l1_ratio", [0.0, 0.5, 1.0])
def test_elastic_net(l1_ratio):
    X, y = make_regression(100, 8, n_informative=3, noise=1, random_state=0)
    y = y / y.std()
    ours = LinearRegressor(penalty="elasticnet", alpha=0.05, l1_ratio=l1_ratio)
    fit_exactly(ours, X, y)
    theirs = linear_model.ElasticNet(alpha=0.05, l1_ratio=l1_ratio, tol=1e-10, max_iter=100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of l1_ratio=0, for which there is Ridge
        theirs.fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-6)
    np.testing.assert_array_equal(ours.coef_ == 0, theirs.coef_ == 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # before 1.5
@pytest.mark.parametrize("load", [load_iris, load_breast_cancer])
def test_logistic_regression(load):
    X, y = scaled(load)
    ours = fit_exactly(LinearClassifier("log_loss", alpha=0.1), X, y)
    theirs = linear_model.LogisticRegression(C=1 / (0.1 * len(X)), tol=1e-10, max_iter=1000)
    theirs.fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-5)


def test_several_targets_are_several_regressions():
    X, Y = make_regression(60, 4, n_targets=3, random_state=0)
    shared = {"optimizer": "sgd", "learning_rate_init": 0.01, "max_iter": 4, "shuffle": False}
    together = LinearRegressor(**shared).fit(X, Y)
    assert together.coef_.shape == (3, 4)
    assert together.predict(X).shape == Y.shape
    for column in range(3):
        alone = LinearRegressor(**shared).fit(X, Y[:, column])
        np.testing.assert_allclose(together.coef_[column], alone.coef_, rtol=1e-12)
    with pytest.raises(ValueError, match=r"y has shape \(60,\), but before it was \(n_samples, \*\(3,\)\)"):  # fmt: skip
        together.partial_fit(X, Y[:, 0])


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    counts=st.lists(st.integers(0, 3), min_size=30, max_size=30).filter(lambda c: sum(c) > 3),
    factor=st.floats(0.01, 100),
    classifies=st.booleans(),
)
def test_weights_are_repetitions(counts, factor, classifies):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 3)), rng.standard_normal(30)
    model = LinearRegressor(max_iter=20)
    if classifies:
        model, y = LinearClassifier("log_loss", max_iter=20), np.arange(30) % 3
        counts = [*counts[:-3], 1, 1, 1]
    weighted = model.fit(X, y, sample_weight=factor * np.array(counts))
    coef = weighted.coef_.copy()
    repeated = model.fit(np.repeat(X, counts, axis=0), np.repeat(y, counts))
    # Adam turns sums that differ in their last bits into steps that do.
    np.testing.assert_allclose(coef, repeated.coef_, rtol=1e-6, atol=1e-9)


def test_class_weights_are_weights():
    X, y = scaled(load_breast_cancer)
    shared = {"random_state": 0, "max_iter": 5, "optimizer": "sgd", "learning_rate_init": 0.01}
    weights = LinearClassifier(class_weight="balanced", **shared).fit(X, y)
    numbers = np.bincount(y)
    balanced = len(y) / (2 * numbers)
    by_hand = LinearClassifier(class_weight=dict(enumerate(balanced)), **shared).fit(X, y)
    by_sample = LinearClassifier(**shared).fit(X, y, sample_weight=balanced[y])
    np.testing.assert_allclose(weights.coef_, by_hand.coef_, rtol=1e-10)
    np.testing.assert_allclose(weights.coef_, by_sample.coef_, rtol=1e-10)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all samples at once"):
        LinearClassifier(class_weight="balanced").partial_fit(X, y, classes=[0, 1])


@pytest.mark.parametrize("model", [LinearClassifier(), LinearRegressor()])
def test_bad_weights(model):
    X, y = np.ones((4, 2)), [0, 1, 0, 1]
    with pytest.raises(ValueError, match="sample_weight: -1.0 is negative"):
        model.fit(X, y, sample_weight=[1, 1, -1, 1])
    with pytest.raises(ValueError, match="(?i)sample.weight"):
        model.fit(X, y, sample_weight=np.zeros(4))


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_sparse_data_stay_sparse():
    # Dense they would take 80 GB.
    rng = np.random.default_rng(0)
    shape = (10_000, 1_000_000)
    places = [rng.integers(size, size=100_000) for size in shape]
    X = scipy.sparse.csr_array((rng.random(100_000), places), shape)
    y = np.arange(10_000) % 2
    model = LinearClassifier("log_loss", max_iter=1, batch_size=5000).fit(X, y)
    assert model.coef_.shape == (1, 1_000_000)
    assert model.partial_fit(X, y).predict(X).shape == (10_000,)


def test_stops_when_nothing_improves():
    X, y = scaled(load_breast_cancer)
    model = LinearClassifier(learning_rate_init=1e-9, n_iter_no_change=4, random_state=0)
    assert model.fit(X, y).n_iter_ == 5
    assert model.set_params(tol=None, max_iter=9).fit(X, y).n_iter_ == 9


def test_small_improvements_add_up():
    # One epoch improves by less than tol, five by more.
    X, y = np.ones((10, 1)), np.full(10, 10.0)
    model = LinearRegressor(
        optimizer="sgd", learning_rate_init=1e-4, fit_intercept=False, alpha=0, max_iter=40
    )
    model.fit(X, y)  # by 0.01 an epoch
    first = -np.diff(model.loss_curve_)[0]
    assert model.set_params(tol=3 * first).fit(X, y).n_iter_ == 40
    assert model.set_params(tol=6 * first).fit(X, y).n_iter_ == 6


@pytest.mark.filterwarnings("default")
def test_says_when_it_has_not_converged():
    X, y = scaled(load_breast_cancer)
    with pytest.warns(ConvergenceWarning, match="after max_iter=2 epochs; tol=None runs them all"):
        LinearClassifier(max_iter=2).fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearClassifier(max_iter=2, tol=None).fit(X, y)
        LinearClassifier(max_iter=2).partial_fit(X, y, classes=[0, 1])


def test_divergence_raises():
    X, y = scaled(load_diabetes)
    model = LinearRegressor(optimizer="sgd", learning_rate_init=1e100)
    with (
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="the coefficients are not finite: lower the learning rate"),
    ):
        model.fit(X, y)


def test_verbose(capsys):
    X, y = scaled(load_iris)
    LinearClassifier(max_iter=1, verbose=True, early_stopping=True, random_state=0).fit(X, y)
    loss, score = capsys.readouterr().out.splitlines()
    assert loss.startswith("epoch 1, loss = 3.")
    assert score.startswith("validation score = 0.")


@pytest.mark.slow
def test_classes():
    X, y = scaled(load_iris)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    model = LinearClassifier("log_loss", learning_rate_init=0.1, warm_start=True, random_state=0)
    assert set(model.fit(X, names).predict(X)) == set(names)
    with pytest.raises(
        ValueError, match=r"y has classes \['rose'\], which are not among \['setosa' "
    ):
        model.fit(X, np.where(y == 0, "rose", names))
    assert model.fit(X[y > 0], names[y > 0]).classes_.tolist() == sorted(set(names))
    with pytest.raises(ValueError, match="number of classes has to be greater than one; got 1"):
        LinearClassifier().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        LinearClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y has classes \[2\]"):
        LinearClassifier().partial_fit(X, y, classes=[0, 1])


BAD = [
    ({"loss": "hinges"}, "The 'loss' parameter"),
    ({"penalty": "l3"}, "The 'penalty' parameter"),
    ({"alpha": -1}, "The 'alpha' parameter"),
    ({"batch_size": 0}, "The 'batch_size' parameter"),
    ({"early_stopping": True, "validation_fraction": 0.0}, "The 'validation_fraction' parameter"),
    ({"early_stopping": True, "validation_fraction": 1e-9}, "validation_fraction=1e-09 keeps too few|should be greater"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "message"), BAD)
@pytest.mark.parametrize("cls", [LinearClassifier, LinearRegressor])
def test_errors(cls, params, message):
    with pytest.raises(ValueError, match=message):
        cls(**params).fit(np.eye(10), np.arange(10) % 2)


@pytest.mark.parametrize("cls", [LinearClassifier, LinearRegressor])
def test_early_stopping_may_be_turned_on_and_off(cls):
    X, y = scaled(load_breast_cancer)
    model = cls(warm_start=True, max_iter=2, random_state=0).fit(X, y)
    assert model.validation_scores_ is None
    model.set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == 2
    assert model.best_loss_ is None
    model.set_params(early_stopping=False).fit(X, y)
    assert model.validation_scores_ is None
    assert model.best_loss_ == min(model.loss_curve_[-2:])
    assert len(model.loss_curve_) == 6
