"""cyoptim.sklearn's linear models with scikit-learn's rates, averages and losses: its results."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import cyoptim

pytest.importorskip("sklearn")

from scipy.sparse import csr_matrix
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, make_blobs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cyoptim.sklearn import LinearClassifier, LinearRegressor, _losses
from tests.support.estimators import through_pickle

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
PAIRS = [
    (linear_model.SGDClassifier, LinearClassifier),
    (linear_model.SGDRegressor, LinearRegressor),
]
both = pytest.mark.parametrize(("theirs", "ours"), PAIRS, ids=["classifier", "regressor"])
ONE_BY_ONE = {"shuffle": False, "tol": None, "max_iter": 3, "loss": "huber"}


def data(cls, n=150):
    load = load_iris if "Classifier" in cls.__name__ else load_diabetes
    X, y = load(return_X_y=True)
    X, y = StandardScaler().fit_transform(X)[::-1][:n], y[::-1][:n]
    return X, y if "Classifier" in cls.__name__ else (y - y.mean()) / y.std()


def assert_same(ours, theirs):
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-9, atol=1e-12)


RATES = [
    {"learning_rate": "constant", "eta0": 0.02},
    {"learning_rate": "invscaling", "eta0": 0.01},
    {"learning_rate": "invscaling", "eta0": 0.1, "power_t": 0.4},
    {"learning_rate": "optimal", "alpha": 0.1},
    {"learning_rate": "adaptive", "eta0": 0.02},
    {"learning_rate": "constant", "eta0": 0.02, "average": True},
    {"learning_rate": "invscaling", "eta0": 0.01, "average": 30},
    {"learning_rate": "constant", "eta0": 0.02, "average": 10**6},  # more than there are
]


@pytest.mark.parametrize("rate", RATES, ids=range(len(RATES)))
@both
def test_batches_of_one_are_scikit_learns_descent(theirs, ours, rate):
    X, y = data(theirs)
    assert_same(
        ours(batch_size=1, **ONE_BY_ONE | rate).fit(X, y), theirs(**ONE_BY_ONE | rate).fit(X, y)
    )


# Theirs has other averages after calls that end before the average begins.
@pytest.mark.parametrize("rate", [rate for rate in RATES if rate.get("average", True) is True])
@both
def test_further_epochs_are_scikit_learns_descent(theirs, ours, rate):
    X, y = data(theirs)
    if "average" in rate and theirs is linear_model.SGDClassifier:
        y = np.arange(150) % 2  # theirs has other averages of classes that the last samples lack
    known = {"classes": np.unique(y)} if theirs is linear_model.SGDClassifier else {}
    models = theirs(**ONE_BY_ONE | rate), ours(batch_size=1, **ONE_BY_ONE | rate)
    for model in models:
        for rows in np.split(np.arange(150), 3):
            model.partial_fit(X[rows], y[rows], **known)
    assert_same(models[1], models[0])


@both
def test_warm_fits_are_scikit_learns_descent(theirs, ours):
    X, y = data(theirs)
    shared = ONE_BY_ONE | {"learning_rate": "invscaling", "eta0": 0.01, "warm_start": True}
    models = theirs(**shared), ours(batch_size=1, **shared)
    for model in models:
        model.fit(X, y).fit(X[::2], y[::2])
    assert_same(models[1], models[0])


@both
def test_the_first_rate_and_the_power_have_scikit_learns_defaults(theirs, ours):
    X, y = data(ours)
    model = ours(learning_rate="invscaling", max_iter=2, random_state=0)
    found = model.fit(X, y).coef_.copy()
    model.set_params(eta0=0.01, power_t=theirs().power_t)
    np.testing.assert_array_equal(model.fit(X, y).coef_, found)
    assert model.lr_curve_[0] == 0.01


@both
def test_adaptive_rates_end_where_scikit_learns_do(theirs, ours):
    X, y = data(theirs)
    if theirs is linear_model.SGDClassifier:
        y = np.minimum(y, 1)  # of three classes theirs ends each on its own
    shared = {"learning_rate": "adaptive", "eta0": 0.01, "shuffle": False, "loss": "huber"}
    shared |= {"tol": 10.0, "n_iter_no_change": 2, "max_iter": 100}
    expected = theirs(**shared).fit(X, y)
    found = ours(batch_size=1, **shared).fit(X, y)
    assert found.n_iter_ == expected.n_iter_ < 100
    assert found.lr_curve_[-1] <= 1e-6
    assert len(set(found.lr_curve_)) == 7
    assert_same(found, expected)


@pytest.mark.parametrize("loss", [*_losses.RESIDUAL_LOSSES, "perceptron"])
def test_losses_of_numbers_classify_as_scikit_learns(loss):
    X, y = data(LinearClassifier)
    shared = {"shuffle": False, "tol": None, "max_iter": 4, "learning_rate": "constant"}
    shared |= {"eta0": 1e-3, "epsilon": 0.3}
    theirs = linear_model.SGDClassifier(loss, **shared).fit(X, y)
    ours = LinearClassifier(loss, batch_size=1, **shared).fit(X, y)
    assert_same(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@both
def test_the_beginning_can_be_given(theirs, ours):
    X, y = data(theirs)
    shape = (3, 4) if theirs is linear_model.SGDClassifier else (10,)
    start = {"coef_init": np.full(shape, 0.5), "intercept_init": np.full(shape[:-1] or (1,), -0.5)}
    shared = ONE_BY_ONE | {"learning_rate": "constant", "eta0": 1e-3}
    # Theirs trains the given array itself.
    expected = theirs(**shared).fit(X, y, **{name: value.copy() for name, value in start.items()})
    found = ours(batch_size=1, **shared)
    assert_same(found.fit(X, y, **start), expected)
    assert_same(found.set_params(warm_start=True).fit(X, y, **start), expected)
    for name in start:
        with pytest.raises(ValueError, match=rf"{name} has shape \(7,\), expected"):
            found.fit(X, y, **{name: np.zeros(7)})


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_beginning_of_another_form_changes_nothing(warm_start):
    X, y = data(LinearClassifier)
    model = LinearClassifier(max_iter=1, warm_start=warm_start, random_state=0).fit(X, y)
    before = model.coef_.copy()
    bad = [
        (np.ones((4, 3)), ValueError, r"coef_init has shape \(4, 3\), expected \(3, 4\)"),
        (np.ones(12), ValueError, r"coef_init has shape \(12,\), expected \(3, 4\)"),
        (np.ones((3, 4)) * 1j, TypeError, "coef_init has dtype complex128, expected real numbers"),
        (np.ma.ones((3, 4)), TypeError, "coef_init is a masked array"),
        ([["1"] * 4] * 3, TypeError, "coef_init has dtype <U1, expected real numbers"),
    ]
    for start, error, message in bad:
        with pytest.raises(error, match=message):
            model.fit(X, y, coef_init=start)
    with pytest.raises(ValueError, match="intercept_init has shape"):
        model.fit(X, y, coef_init=np.ones((3, 4)), intercept_init=np.ones((1, 3)))
    np.testing.assert_array_equal(model.coef_, before)


@both
def test_no_intercept_has_no_beginning(theirs, ours):
    X, y = data(ours)
    model = ours(max_iter=1, fit_intercept=False)
    size = 1 if ours is LinearRegressor else 3
    model.fit(X, y, intercept_init=np.zeros(size))
    with pytest.raises(ValueError, match=r"intercept_init=.* and fit_intercept=False: drop one"):
        model.fit(X, y, intercept_init=np.ones(size))


def test_a_vector_is_a_beginning_of_one_column():
    X, y = data(LinearClassifier)
    model = LinearClassifier(max_iter=1, shuffle=False)
    found = [
        model.fit(X, y > 1, coef_init=start, intercept_init=1.0).coef_.copy()
        for start in (np.full(4, 0.5), np.full((1, 4), 0.5), [0.5] * 4)
    ]
    assert found[0].shape == (1, 4)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_the_average_is_the_mean_of_steps_of_any_optimizer():
    X, y = data(LinearRegressor)
    step = LinearRegressor(
        optimizer="adam", batch_size=50, shuffle=False, tol=None, warm_start=True, max_iter=1
    )
    seen = []
    for _ in range(4):
        for rows in np.split(np.arange(150), 3):
            seen.append(step.partial_fit(X[rows], y[rows]).coef_.copy())
    for start, first in ((True, 0), (1, 0), (101, 2), (150, 2), (301, 6)):
        model = clone(step).set_params(average=start, max_iter=4).fit(X, y)
        np.testing.assert_allclose(model.coef_, np.mean(seen[first:], axis=0), rtol=1e-12)
        model.set_params(average=False).fit(X, y)
        assert not np.allclose(model.coef_, np.mean(seen[first:], axis=0))


@both
def test_descent_goes_through_pickles_and_clones(theirs, ours):
    X, y = data(ours)
    model = ours(learning_rate="invscaling", average=True, penalty="l1", random_state=0, max_iter=3)
    model.fit(X, y)
    copy = through_pickle(model)
    np.testing.assert_array_equal(clone(model).fit(X, y).coef_, model.coef_)
    np.testing.assert_array_equal(copy.partial_fit(X, y).coef_, model.partial_fit(X, y).coef_)
    assert len(copy.lr_curve_) == 4
    assert np.all(np.diff(copy.lr_curve_) < 0)


@both
def test_a_grid_over_rates(theirs, ours):
    X, y = data(ours)
    grid = [
        {"sgd__learning_rate": ["constant", "adaptive", "invscaling"], "sgd__eta0": [0.01, 0.1]},
        {"sgd__learning_rate": ["optimal"], "sgd__alpha": [0.1]},
        {"sgd__optimizer": ["adam", cyoptim.Lion]},
    ]
    pipeline = make_pipeline(StandardScaler(), ours(max_iter=3, random_state=0))
    pipeline.steps[1] = ("sgd", pipeline.steps[1][1])
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 9


BAD = [
    ({"learning_rate": "optimal", "optimizer": "adam"}, "learning_rate='optimal' and optimizer='adam': drop learning_rate=, .* or drop optimizer=$"),
    ({"learning_rate": "constant", "learning_rate_init": 0.1}, "and learning_rate_init=0.1: drop"),
    ({"learning_rate": "constant", "lr_scheduler": "steplr", "lr_scheduler_params": {"step_size": 1}}, "or drop lr_scheduler=, lr_scheduler_params=$"),
    ({"learning_rate": "constant", "optimizer_params": {"momentum": 0.9}}, "and optimizer_params={'momentum': 0.9}"),
    ({"learning_rate": "optimal", "alpha": 0.0}, "learning_rate='optimal' needs alpha > 0"),
    ({"learning_rate": "pa3"}, "The 'learning_rate' parameter of"),
    ({"learning_rate": "pa1", "loss": "huber"}, "learning_rate='pa1' and loss='huber': write loss='(hinge|epsilon_insensitive)', the one that"),
    ({"learning_rate": "pa2", "optimizer": "adam"}, "learning_rate='pa2' and optimizer='adam': drop learning_rate="),
    ({"eta0": 0.1}, "eta0=0.1 without learning_rate=: write .*; scikit-learn's default is '(optimal|invscaling)'. For an optimizer, write"),
    ({"power_t": 0.1, "optimizer": "adam"}, "power_t=0.1 without learning_rate="),
    ({"eta0": 0.0, "learning_rate": "constant"}, "The 'eta0' parameter"),
    ({"power_t": -1.0, "learning_rate": "constant"}, "The 'power_t' parameter"),
    ({"average": True, "weight_averaging": 0.9}, "average=True and weight_averaging=0.9: drop one of them"),
    ({"average": -1}, "The 'average' parameter"),
    ({"average": True, "optimizer": "SGDScheduleFree"}, "average=True: SGDScheduleFree averages the parameters itself"),
    ({"penalty": "elasticnet", "l1_ratio": None}, "penalty='elasticnet' needs an l1_ratio"),
    ({"epsilon": -1.0}, "The 'epsilon' parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "message"), BAD, ids=range(len(BAD)))
@both
def test_errors_say_which_to_drop(theirs, ours, params, message):
    X, y = data(ours)
    model = ours(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    model = ours(max_iter=1).fit(X, y).set_params(**params)
    before = model.coef_.copy()
    with pytest.raises(ValueError, match=message):
        model.fit(X, y)
    np.testing.assert_array_equal(model.coef_, before)


@both
def test_parameters_are_checked_in_further_partial_fits(theirs, ours):
    X, y = data(ours)
    known = {"classes": np.unique(y)} if ours is LinearClassifier else {}
    bad = [
        ({"learning_rate": "Constant"}, "The 'learning_rate' parameter of"),
        ({"learning_rate": "optimal", "alpha": -1.0}, "The 'alpha' parameter of"),
        ({"average": -1}, "The 'average' parameter of"),
        ({"learning_rate": "invscaling", "power_t": -1.0}, "The 'power_t' parameter of"),
        ({"schedule_per": "step"}, "The 'schedule_per' parameter of"),
        ({"eta0": 0.1}, "eta0=0.1 without learning_rate="),
    ]
    for params, message in bad:
        rate = "constant" if "learning_rate" in params else None
        model = ours(learning_rate=rate).partial_fit(X, y, **known).set_params(**params)
        before = model.coef_.copy()
        with pytest.raises(ValueError, match=message):
            model.partial_fit(X, y)
        np.testing.assert_array_equal(model.coef_, before)


def test_an_optimizer_is_short_in_messages():
    X, y = data(LinearRegressor)
    model = LinearRegressor(learning_rate="constant", optimizer=cyoptim.SGD([np.zeros(1)], lr=1))
    with pytest.raises(ValueError, match=r"and optimizer=SGD\(\.\.\.\): drop"):
        model.fit(X, y)


def test_an_l1_ratio_without_its_penalty_may_be_none():
    X, y = data(LinearRegressor)
    for penalty in (None, "l1", "l2"):
        LinearRegressor(penalty=penalty, l1_ratio=None, max_iter=1).fit(X, y)


# --- passive-aggressive steps ---------------------------------------------------------------------


def aggressive(theirs, rate, **options):
    """scikit-learn's estimator with these steps, and the options of ours."""
    options = {"penalty": None, "shuffle": False, "tol": None, "max_iter": 3, **options}
    loss = "hinge" if theirs is linear_model.SGDClassifier else "epsilon_insensitive"
    own = options | {"learning_rate": rate, "loss": loss, "batch_size": 1}
    rates = theirs._parameter_constraints["learning_rate"]
    if any("pa1" in getattr(allowed, "options", ()) for allowed in rates):
        return theirs(**options, loss=loss, learning_rate=rate), own
    if options.pop("penalty") is not None:
        pytest.skip("this scikit-learn has no penalties of passive-aggressive steps")
    options["C"] = options.pop("eta0")
    options.pop("alpha", None)
    if theirs is linear_model.SGDClassifier:
        loss = {"pa1": "hinge", "pa2": "squared_hinge"}[rate]
        return linear_model.PassiveAggressiveClassifier(**options, loss=loss), own
    loss = {"pa1": loss, "pa2": f"squared_{loss}"}[rate]
    return linear_model.PassiveAggressiveRegressor(**options, loss=loss), own


AGGRESSIVE = [
    {"eta0": 1.0},
    {"eta0": 0.02},
    {"eta0": 0.02, "penalty": "l2", "alpha": 0.5},
    {"eta0": 1e6, "fit_intercept": False},
    {"eta0": 0.1, "average": True},
    {"eta0": 0.1, "average": 100},
]


@pytest.mark.parametrize("options", AGGRESSIVE, ids=range(len(AGGRESSIVE)))
@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@both
def test_passive_aggressive_steps_are_scikit_learns(theirs, ours, rate, options):
    """Batches of one, dense and sparse, with both branches of the shorter step of "pa1"."""
    X, y = data(theirs)
    expected, own = aggressive(theirs, rate, **options)
    expected.fit(X, y)
    assert_same(ours(**own).fit(X, y), expected)
    assert_same(ours(**own).fit(csr_matrix(X), y), expected)
    # They are no steps of one length.
    constant = ours(**own | {"learning_rate": "constant"}).fit(X, y)
    assert not np.allclose(constant.coef_, expected.coef_, rtol=1e-3)


@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@both
def test_passive_aggressive_steps_of_samples_without_features(theirs, ours, rate):
    """They move the intercept with "pa2" alone."""
    X, y = data(theirs)
    X = X.copy()
    X[::3] = 0
    expected, own = aggressive(theirs, rate, eta0=0.5)
    assert_same(ours(**own).fit(X, y), expected.fit(X, y))
    model = ours(**own).fit(np.zeros_like(X), y)
    assert np.any(model.intercept_) == (rate == "pa2")


@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@both
def test_passive_aggressive_steps_of_weighted_samples_and_classes(theirs, ours, rate):
    """Weights scale the steps; in ours the mean weight is 1."""
    X, y = data(theirs)
    weight = np.random.default_rng(0).random(len(y))
    weight /= weight.mean()
    options = {}
    if ours is LinearClassifier:  # of several classes, theirs weighs each against the others
        y, options = np.minimum(y, 1), {"class_weight": {0: 0.5, 1: 2.0}}
    expected, own = aggressive(theirs, rate, eta0=0.5, **options)
    if not isinstance(expected, theirs):
        pytest.skip("this scikit-learn takes no sample weights with passive-aggressive steps")
    expected.fit(X, y, sample_weight=weight)
    assert_same(ours(**own).fit(X, y, sample_weight=weight), expected)


@pytest.mark.parametrize("rate", ["pa1", "pa2"])
@both
def test_a_passive_aggressive_step_of_a_batch_is_the_mean_of_its_samples(theirs, ours, rate):
    """From the beginning, where the steps of single samples do not depend on each other."""
    X, y = data(ours, 20)
    y = np.arange(20) % 2 if ours is LinearClassifier else y
    options = {"learning_rate": rate, "eta0": 0.3, "penalty": None, "tol": None, "max_iter": 1}
    loss = "hinge" if ours is LinearClassifier else "epsilon_insensitive"
    known = {"classes": [0, 1]} if ours is LinearClassifier else {}
    whole = ours(loss=loss, batch_size=20, **options).partial_fit(X, y, **known)
    single = [
        ours(loss=loss, batch_size=1, **options).partial_fit(X[i : i + 1], y[i : i + 1], **known)
        for i in range(20)
    ]
    for name in ("coef_", "intercept_"):
        mean = np.mean([getattr(model, name) for model in single], axis=0)
        np.testing.assert_allclose(getattr(whole, name), mean, rtol=1e-12, atol=1e-15)
        assert np.any(mean)


def test_several_targets_take_their_own_passive_aggressive_steps():
    """Each target as if it were alone."""
    X, y = data(LinearRegressor)
    targets = np.stack([y, -3 * y + 1], axis=1)
    options = {"loss": "epsilon_insensitive", "learning_rate": "pa1", "eta0": 0.2, "max_iter": 2}
    options |= {"penalty": None, "tol": None, "shuffle": False, "batch_size": 7}
    together = LinearRegressor(**options).fit(X, targets)
    for column in range(2):
        alone = LinearRegressor(**options).fit(X, targets[:, column])
        np.testing.assert_allclose(together.coef_[column], alone.coef_, rtol=1e-12)


# --- programs of scikit-learn's users -------------------------------------------------------------


def hyperplane(classifier, regressor):
    X, y = make_blobs(n_samples=50, centers=2, random_state=0, cluster_std=0.60)
    clf = classifier(loss="hinge", alpha=0.01, max_iter=200, random_state=0)
    return clf.fit(X, y).score(X, y)


def three_lines(classifier, regressor):
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X[:, :2])
    clf = classifier(alpha=0.001, max_iter=100, random_state=0).fit(X, y)
    assert clf.coef_.shape == (3, 2)
    assert clf.intercept_.shape == (3,)
    return clf.score(X, y)


def weighted(classifier, regressor):
    rng = np.random.RandomState(0)
    X = np.r_[rng.randn(10, 2) + 1, rng.randn(10, 2)]
    y = [1] * 10 + [-1] * 10
    weight = 100 * np.abs(rng.randn(20))
    weight[:10] *= 10
    clf = classifier(alpha=0.01, max_iter=100, random_state=0)
    return clf.fit(X, y, sample_weight=weight).score(X, y, sample_weight=weight)


def early_stopping(classifier, regressor):
    X, y = load_breast_cancer(return_X_y=True)
    clf = classifier(
        loss="log_loss",
        early_stopping=True,
        n_iter_no_change=3,
        tol=0.0001,
        validation_fraction=0.2,
        random_state=0,
    )
    X = StandardScaler().fit_transform(X)
    clf.fit(X, y)
    assert 3 < clf.n_iter_ < clf.max_iter
    return clf.score(X, y)


def averaged(classifier, regressor):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    clf = classifier(max_iter=110, average=True, n_jobs=2, random_state=0)
    for _ in range(10):
        clf.partial_fit(X, y, classes=[0, 1])
    return clf.score(X, y)


def selected(classifier, regressor):
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    clf = classifier(loss="log_loss", penalty="l1", alpha=0.02, max_iter=100, random_state=0)
    assert np.mean(clf.fit(X, y).coef_ == 0) > 0.3
    return clf.sparsify().score(X, y)


def regression(classifier, regressor):
    X, y = load_diabetes(return_X_y=True)
    reg = make_pipeline(
        StandardScaler(),
        regressor(
            max_iter=1000,
            tol=1e-3,
            penalty="elasticnet",
            learning_rate="invscaling",
            eta0=0.01,
            random_state=0,
        ),
    )
    return reg.fit(X, y).score(X, y)


PROGRAMS = [hyperplane, three_lines, weighted, early_stopping, averaged, selected, regression]


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_of_its_gallery_do_as_well(program):
    expected = program(linear_model.SGDClassifier, linear_model.SGDRegressor)
    # These data are few steps an epoch, for which Adam's own rate is small.
    classifier = partial(LinearClassifier, learning_rate_init=0.05)
    assert program(classifier, LinearRegressor) > expected - 0.03


def test_the_warning_is_not_given_for_one_epoch():
    X, y = data(LinearRegressor)
    with pytest.warns(ConvergenceWarning, match="after max_iter=2 epochs"):
        LinearRegressor(learning_rate="constant", eta0=1e-4, max_iter=2).fit(X, y)
