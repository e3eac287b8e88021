"""cyoptim.sklearn's perceptrons with scikit-learn's parameters: its results, and both spellings."""

from __future__ import annotations

import copy
import io
import pickle
import re

import numpy as np
import pytest

import cyoptim
from cyoptim import optimizers
from tests.support.cards import CLOSURE, DENSE, MATRICES
from tests.support.dtypes import REALS
from tests.support.parametrize import every_card

pytest.importorskip("sklearn")

import joblib
from sklearn import neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris, make_circles, make_moons, make_regression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, StandardScaler

import cyoptim.sklearn
from cyoptim.sklearn import MLPClassifier, MLPRegressor, _solvers
from tests.support.estimators import arrays, through_pickle

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge"),
    # Of options that scikit-learn before 1.8 passes.
    pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning"),
]
BOTH = pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
X, Y = load_digits(return_X_y=True)
X, Y = X[:300] / 16, Y[:300]


def pair(name, **params):
    """Theirs and ours, with the same parameters."""
    usual = {"hidden_layer_sizes": (12,), "random_state": 1, "max_iter": 12}
    return [getattr(module, name)(**usual | params) for module in (neural_network, cyoptim.sklearn)]


def assert_theirs(theirs, ours, rtol):
    """Ours has learnt what theirs has, to rounding, and tells the same of it."""
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.t_ == theirs.t_
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=rtol)
    for attribute in ("loss_curve_", "validation_scores_"):
        found, expected = (getattr(model, attribute, None) for model in (ours, theirs))
        assert (found is None) == (expected is None)
        if expected is not None:
            np.testing.assert_allclose(found, expected, rtol=rtol)
    for attribute in ("best_loss_", "best_validation_score_"):
        found, expected = (getattr(model, attribute, None) for model in (ours, theirs))
        assert found == (expected if expected is None else pytest.approx(expected, rel=rtol))
    for found, expected in zip(arrays(ours), arrays(theirs), strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=rtol)


# --- scikit-learn's results -----------------------------------------------------------------------

SGD = {"solver": "sgd", "learning_rate_init": 0.2}
SETTINGS = {
    "adam": {},
    "adam with its numbers": {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3, "learning_rate_init": 0.01},
    "adam without averages": {"beta_1": 0, "beta_2": 0},
    "adam, best score": {"early_stopping": True, "n_iter_no_change": 2},
    "sgd": SGD,
    "sgd, momentum": SGD | {"nesterovs_momentum": False, "momentum": 0.5},
    "sgd, no momentum": SGD | {"momentum": 0},
    "sgd, all momentum": SGD | {"momentum": 1, "learning_rate_init": 0.01},
    "sgd, invscaling": SGD | {"learning_rate": "invscaling", "power_t": 0.3},
    "sgd, invscaling without momentum": SGD | {"learning_rate": "invscaling", "momentum": 0},
    "sgd, adaptive": SGD | {"learning_rate": "adaptive", "tol": 0.5, "n_iter_no_change": 1, "max_iter": 60},
    "sgd, best score": SGD | {"early_stopping": True, "n_iter_no_change": 1, "learning_rate_init": 0.02},
    "lbfgs": {"solver": "lbfgs"},
    "ignored by adam": {"learning_rate": "invscaling", "momentum": 0.1, "max_fun": 3},
}  # fmt: skip
SETTING = pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)


@SETTING
@BOTH
def test_a_fit_is_scikit_learns(name, setting):
    theirs, ours = pair(name, **setting)
    y = Y if name == "MLPClassifier" else Y / 9
    assert_theirs(theirs.fit(X, y), ours.fit(X, y), 1e-12)


@SETTING
@BOTH
def test_further_fits_are_scikit_learns(name, setting):
    theirs, ours = pair(name, warm_start=True, **setting)
    y = Y if name == "MLPClassifier" else Y / 9
    for model in (theirs, ours):
        model.fit(X, y).fit(X[::2], y[::2])
        if hasattr(model, "partial_fit") and not model.early_stopping:
            model.partial_fit(X, y).partial_fit(X, y).fit(X, y)
    assert_theirs(theirs, ours, 1e-11)


@BOTH
def test_partial_fits_are_scikit_learns(name):
    known = {"classes": np.arange(10)} if name == "MLPClassifier" else {}
    for setting in ({}, SGD, SGD | {"learning_rate": "invscaling", "power_t": 0.2}):
        theirs, ours = pair(name, **setting)
        for model in (theirs, ours):
            for rows in np.split(np.arange(300), 6):
                model.partial_fit(X[rows], Y[rows], **known)
        assert_theirs(theirs, ours, 1e-12)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_float32_is_scikit_learns(solver):
    theirs, ours = pair("MLPClassifier", solver=solver, learning_rate_init=0.01)
    single = X.astype(np.float32)
    assert_theirs(theirs.fit(single, Y), ours.fit(single, Y), 1e-5)


def test_a_rate_that_vanishes_leaves_the_network_finite():
    for dtype in REALS:
        for power in (60, 1000, 1000.0):
            _, ours = pair("MLPClassifier", **SGD, learning_rate="invscaling", power_t=power)
            ours.fit(X.astype(dtype), Y)
            assert all(np.isfinite(array).all() for array in arrays(ours))
            assert ours._optimizer.learning_rate < 1e-100


def test_a_network_of_several_outputs_and_weights_is_scikit_learns():
    targets = np.stack([Y / 9, X[:, 3]], axis=1)
    theirs, ours = pair("MLPRegressor", solver="sgd")
    assert_theirs(theirs.fit(X, targets), ours.fit(X, targets), 1e-12)
    labels = (X[:, 10:14] > 0.5).astype(int)
    theirs, ours = pair("MLPClassifier")
    assert_theirs(theirs.fit(X, labels), ours.fit(X, labels), 1e-12)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize("learning_rate", ["constant", "adaptive"])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_what_it_prints_is_scikit_learns(learning_rate, early_stopping, capsys):
    shared = {"verbose": True, "tol": 10.0, "n_iter_no_change": 1, "max_iter": 50}
    shared |= {"learning_rate": learning_rate, "early_stopping": early_stopping}
    theirs, ours = pair("MLPClassifier", solver="sgd", learning_rate_init=1e-4, **shared)
    theirs.fit(X, Y)
    expected = capsys.readouterr().out
    ours.fit(X, Y)
    assert capsys.readouterr().out == expected
    assert "Stopping." in expected


def test_adam_is_scikit_learns_where_gradients_are_as_small_as_epsilon():
    weights = [np.array([[1.0, -2.0]]), np.array([0.5])]
    theirs = neural_network._stochastic_optimizers.AdamOptimizer(
        [w.copy() for w in weights], 0.1, 0.9, 0.999, 1e-3
    )
    expected, found = [w.copy() for w in weights], [w.copy() for w in weights]
    ours = _solvers.Adam(found, lr=0.1, betas=(0.9, 0.999), eps=1e-3)
    rng = np.random.default_rng(0)
    for _ in range(20):
        grads = [1e-4 * rng.standard_normal(w.shape) for w in weights]
        theirs.update_params(expected, grads)
        ours.step(grads=grads)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


# --- programs of scikit-learn's users -------------------------------------------------------------
# Each takes the two classes, and returns what is plotted or printed.


def alphas(classifier, regressor):
    """Decision functions for penalties of several strengths."""
    surfaces = []
    for alpha in np.logspace(-1, 1, 3):
        for data in (make_moons(60, noise=0.3, random_state=0), make_circles(60, random_state=1)):
            model = make_pipeline(
                StandardScaler(),
                classifier(
                    solver="lbfgs",
                    alpha=alpha,
                    random_state=1,
                    max_iter=2000,
                    early_stopping=True,
                    hidden_layer_sizes=[10, 10],
                ),
            ).fit(*data)
            surfaces.append(model.predict_proba(data[0])[:, 1])
    return surfaces


def filters(classifier, regressor):
    """The first layer's weights on images."""
    X_train, X_test, y_train, y_test = train_test_split(X, Y, random_state=0, test_size=0.7)
    mlp = classifier(
        hidden_layer_sizes=(40,),
        max_iter=8,
        alpha=1e-4,
        solver="sgd",
        verbose=10,
        random_state=1,
        learning_rate_init=0.2,
    )
    mlp.fit(X_train, y_train)
    return [*mlp.coefs_[0].T, mlp.score(X_train, y_train), mlp.score(X_test, y_test)]


def strategies(classifier, regressor):
    """Loss curves of scikit-learn's learning strategies."""
    plain = {"solver": "sgd", "learning_rate_init": 0.2}
    params = [
        plain | {"learning_rate": "constant", "momentum": 0},
        plain | {"learning_rate": "constant", "momentum": 0.9, "nesterovs_momentum": False},
        plain | {"learning_rate": "constant", "momentum": 0.9, "nesterovs_momentum": True},
        plain | {"learning_rate": "invscaling", "momentum": 0},
        plain | {"learning_rate": "invscaling", "momentum": 0.9, "nesterovs_momentum": True},
        {"solver": "adam", "learning_rate_init": 0.01},
    ]
    scaled = MinMaxScaler().fit_transform(load_iris().data)
    mlps = []
    for param in params:
        mlp = classifier(random_state=0, max_iter=60, **param)
        mlps.append(mlp.fit(scaled, load_iris().target))
    return [np.array(mlp.loss_curve_) for mlp in mlps] + [mlp.loss_ for mlp in mlps]


def dependence(classifier, regressor):
    """A regression with early stopping in a pipeline."""
    data, target = make_regression(200, 6, random_state=0)
    model = make_pipeline(
        QuantileTransformer(n_quantiles=50),
        regressor(
            hidden_layer_sizes=(30, 15),
            learning_rate_init=0.01,
            early_stopping=True,
            random_state=0,
        ),
    )
    return [model.fit(data, target / target.std()).predict(data)]


def guide(classifier, regressor):
    """The first steps of the guide."""
    clf = classifier(solver="lbfgs", alpha=1e-5, hidden_layer_sizes=(5, 2), random_state=1)
    clf.fit([[0.0, 0.0], [1.0, 1.0]], [0, 1])
    assert [coef.shape for coef in clf.coefs_] == [(2, 5), (5, 2), (2, 1)]
    many = classifier(hidden_layer_sizes=(15,), random_state=1, max_iter=1, warm_start=True)
    losses = [many.fit(X, Y).loss_ for _ in range(10)]
    return [clf.predict([[2.0, 2.0], [-1.0, -2.0]]), clf.predict_proba([[2.0, 2.0]]), losses]


def search(classifier, regressor):
    """A grid over the solvers of a step in a pipeline."""
    pipe = Pipeline([("scale", StandardScaler()), ("mlp", classifier(max_iter=5, random_state=0))])
    grid = {
        "mlp__solver": ["lbfgs", "sgd", "adam"],
        "mlp__learning_rate_init": [1e-3, 1e-2],
        "mlp__hidden_layer_sizes": [(5,), (4, 4)],
    }
    found = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(X, Y)
    assert found.best_estimator_.get_params()["mlp__solver"] == found.best_params_["mlp__solver"]
    return [found.cv_results_["mean_test_score"]]


@pytest.mark.parametrize("program", [alphas, filters, strategies, dependence, guide, search])
def test_programs_of_its_gallery_give_what_they_gave(program):
    expected = program(neural_network.MLPClassifier, neural_network.MLPRegressor)
    found = program(MLPClassifier, MLPRegressor)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)


# --- its parameters beside ours -------------------------------------------------------------------


def test_a_schedule_clipping_and_an_average_go_with_a_solver():
    for solver in ("sgd", "adam"):
        plan = {"lr_scheduler": "StepLR", "lr_scheduler_params": {"step_size": 1, "gamma": 0.5}}
        model = MLPClassifier(
            (8,),
            solver=solver,
            learning_rate_init=0.01,
            clip_norm=0.1,
            weight_averaging=0.5,
            max_iter=3,
            warm_start=True,
            random_state=0,
            **plan,
        ).fit(X, Y)
        np.testing.assert_allclose(model.lr_curve_, [0.01, 0.005, 0.0025])
        assert model._training.count == 6
        model.fit(X, Y)  # begins again, as scikit-learn's solvers do
        np.testing.assert_allclose(model.lr_curve_, 2 * [0.01, 0.005, 0.0025])


def test_the_curve_of_rates_is_scikit_learns():
    model = MLPClassifier((4,), max_iter=3, **SGD, learning_rate="invscaling").fit(X, Y)
    np.testing.assert_allclose(model.lr_curve_, [0.2, 0.2 / 301**0.5, 0.2 / 601**0.5])


def test_an_optimizer_has_its_own_rate_unless_one_is_given():
    X, y = load_iris(return_X_y=True)
    for how in (lambda model: model, clone, through_pickle, copy.deepcopy):
        model = how(MLPClassifier((2,), optimizer="adagrad", max_iter=1))
        assert model.fit(X, y).lr_curve_ == [0.01]
        model = how(MLPClassifier((2,), optimizer="adagrad", learning_rate_init=0.001, max_iter=1))
        assert model.fit(X, y).lr_curve_ == [0.001]
    model.set_params(**MLPClassifier().get_params()).set_params(optimizer="adagrad", max_iter=1)
    assert model.fit(X, y).lr_curve_ == [0.01]
    found = GridSearchCV(
        MLPClassifier((2,), optimizer="adagrad", max_iter=1),
        {"learning_rate_init": [0.001]},
        cv=2,
        n_jobs=2,
    ).fit(X, y)
    assert found.best_estimator_.lr_curve_ == [0.001]


def through_joblib(model):
    file = io.BytesIO()
    joblib.dump(model, file)
    return joblib.load(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize("how", [clone, through_pickle, copy.deepcopy, through_joblib])
def test_copies_know_which_parameters_were_given(how):
    theirs = neural_network.MLPClassifier().get_params()
    assert _solvers.given(how(MLPClassifier())) == []
    assert set(_solvers.given(how(MLPClassifier(**theirs)))) == {
        name for name in _solvers.DEFAULTS if name != "nesterovs_momentum"
    }
    assert how(MLPClassifier(**theirs)).get_params() == MLPClassifier().get_params()


@every_card(DENSE, ~MATRICES, ~CLOSURE, lambda card: card.valley is not None)
def test_an_instance_stands_for_its_class_and_options(card):
    X, y = load_iris(return_X_y=True)
    if not card.public:
        pytest.skip("the class needs a name")
    instance = card.cls([("w", np.zeros((2, 2)))])
    shared = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
    by_name = MLPClassifier(optimizer=card.name, **shared).fit(X, y)
    model = MLPClassifier(optimizer=instance, **shared)
    for again in (model, clone(model)):
        again.fit(X, y)
        for a, b in zip(arrays(again), arrays(by_name), strict=True):
            np.testing.assert_array_equal(a, b)


def test_options_of_an_instance_count():
    X, y = load_iris(return_X_y=True)
    instance = cyoptim.SGD([np.zeros(1)], lr=0.05, momentum=0.5)
    shared = {"max_iter": 2, "random_state": 0}
    model = MLPClassifier((3,), optimizer=instance, **shared).fit(X, y)
    group = model._training.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.05, 0.5)
    model.set_params(learning_rate_init=0.01, optimizer_params={"momentum": 0.9}).fit(X, y)
    group = model._training.optimizer.param_groups[0]
    assert (group["lr"], group["momentum"]) == (0.01, 0.9)


BAD = [
    ({"optimizer": "lion", "solver": "sgd"}, "optimizer='lion' and solver='sgd': drop optimizer=, or drop solver="),
    ({"optimizer": "lion", "solver": "adam"}, "optimizer='lion' and solver='adam': drop"),
    ({"optimizer": "sgd", "momentum": 0.9}, r"momentum=0\.9: drop optimizer=, or drop momentum= and write optimizer_params=\{'momentum'"),
    ({"optimizer": "sgd", "nesterovs_momentum": False}, r"write optimizer_params=\{'nesterov': ...\} for nesterovs_m"),
    ({"optimizer": "adam", "beta_1": 0.9, "epsilon": 1e-8}, r"beta_1=0.9, epsilon=1e-08: .*'betas': .* for beta_1=.*'eps'"),
    ({"optimizer": "sgd", "learning_rate": "constant"}, "or drop learning_rate= and write lr_scheduler= for learn"),
    ({"optimizer": "sgd", "power_t": 0.5}, "or drop power_t= and write lr_scheduler= and"),
    ({"optimizer": "sgd", "max_fun": 15000}, "drop optimizer=, or drop max_fun=$"),
    ({"optimizer_params": {"eps": 1e-8}}, r"optimizer_params=\{'eps': 1e-08\} without an optimizer: write optimizer='adam'"),
    ({"solver": "lion"}, "solver='lion': scikit-learn's solvers are 'lbfgs', 'sgd' and 'adam'; write optimizer='lion'"),
    ({"solver": "newton"}, "The 'solver' parameter of"),
    ({"solver": None}, "The 'solver' parameter of"),
    ({"solver": "lbfgs", "clip_norm": 1.0, "lr_scheduler": "steplr"}, "solver='lbfgs' and lr_scheduler='steplr', clip_norm=1.0"),
    ({"solver": "lbfgs", "lr_scheduler_params": {"gamma": 0.1}}, "solver='lbfgs' and lr_scheduler_params={'gamma': 0.1}"),
    ({"solver": "lbfgs", "weight_averaging": 0.5}, "takes no steps on batches; drop weight_averaging="),
    ({"solver": "sgd", "learning_rate": "adaptive", "lr_scheduler": "steplr"}, "learning_rate='adaptive', lr_scheduler='steplr': drop one"),
    ({"lr_scheduler_params": {"gamma": 0.1}}, "without an lr_scheduler"),
    ({"learning_rate_init": None}, "The 'learning_rate_init' parameter"),
    ({"optimizer": "lbfgs"}, "optimizer cannot be LBFGS: .* the perceptrons have solver='lbfgs'"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "message"), BAD, ids=range(len(BAD)))
@BOTH
def test_errors_say_which_to_drop(name, params, message):
    model = getattr(cyoptim.sklearn, name)(**params)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert not hasattr(model, "coefs_")
    with pytest.raises(ValueError, match=message):
        getattr(cyoptim.sklearn, name)().set_params(**params).fit(X, Y)


FURTHER = [
    ({"optimizer": "lion"}, {"momentum": 0.5}, "optimizer='lion' and momentum=0.5: drop"),
    ({"optimizer": "lion"}, {"solver": "sgd"}, "optimizer='lion' and solver='sgd': drop"),
    ({}, {"optimizer_params": {"eps": 1}}, "without an optimizer: write optimizer='adam'"),
    ({}, {"schedule_per": "step"}, "The 'schedule_per' parameter of"),
    ({"solver": "sgd"}, {"learning_rate": "cosine"}, "The 'learning_rate' parameter of"),
    ({"optimizer": "lion"}, {"weight_averaging": 7.0}, "The 'weight_averaging' parameter of"),
]


@pytest.mark.parametrize(("params", "then", "message"), FURTHER, ids=range(len(FURTHER)))
@BOTH
def test_parameters_are_checked_in_further_partial_fits(name, params, then, message):
    known = {"classes": np.arange(10)} if name == "MLPClassifier" else {}
    model = getattr(cyoptim.sklearn, name)(hidden_layer_sizes=(4,), **params)
    model.partial_fit(X, Y, **known).set_params(**then)
    before = [array.copy() for array in arrays(model)]
    with pytest.raises(ValueError, match=message):
        model.partial_fit(X, Y)
    for a, b in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_given_parameter_can_be_taken_back():
    X, y = load_iris(return_X_y=True)
    model = MLPClassifier((2,), solver="sgd", learning_rate_init=0.5, max_iter=1)
    fresh = MLPClassifier()
    model.set_params(solver=fresh.solver, learning_rate_init=fresh.learning_rate_init)
    assert model.set_params(optimizer="adagrad").fit(X, y).lr_curve_ == [0.01]


@BOTH
def test_an_average_of_an_average_leaves_a_trained_network_as_it_was(name):
    model = getattr(cyoptim.sklearn, name)(hidden_layer_sizes=(4,), max_iter=1).fit(X, Y)
    before = [array.copy() for array in arrays(model)]
    model.set_params(optimizer="SGDScheduleFree", weight_averaging=0.9)
    with pytest.raises(ValueError, match=r"weight_averaging=0\.9: SGDScheduleFree averages the"):
        model.fit(X, Y)
    for a, b in zip(arrays(model), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_every_parameter_of_its_solvers_is_refused_beside_an_optimizer():
    for name, value in _solvers.DEFAULTS.items():
        other = pickle.loads(pickle.dumps(value)) if value is not True else False
        model = MLPClassifier(optimizer="sgd", max_iter=1, **{name: other})
        if name == "learning_rate_init":
            model.fit(X, Y)
            continue
        with pytest.raises(ValueError, match=re.escape(f"drop optimizer=, or drop {name}=")):
            model.fit(X, Y)


# --- from one solver to another -------------------------------------------------------------------


def test_partial_fit_is_there_for_solvers_that_take_steps():
    assert not hasattr(MLPClassifier(solver="lbfgs"), "partial_fit")
    for model in (MLPClassifier(solver="sgd"), MLPClassifier(), MLPClassifier(optimizer="lion")):
        assert hasattr(model, "partial_fit")


@pytest.mark.parametrize("early_stopping", [False, True])
@BOTH
def test_a_warm_fit_with_another_solver_goes_on_from_the_coefficients(name, early_stopping):
    plans = [{"solver": "lbfgs"}, {"solver": "adam"}, {"optimizer": "lion"}, {"solver": "sgd"}]
    free = {"solver": _solvers.DEFAULTS["solver"], "optimizer": None}
    model = getattr(cyoptim.sklearn, name)(
        hidden_layer_sizes=(6,),
        warm_start=True,
        random_state=0,
        max_iter=2,
        learning_rate_init=1e-9,
    )
    model.set_params(early_stopping=early_stopping)
    for first in plans:
        model.set_params(**free | first).fit(X, Y)
        for then in plans[1:]:
            before = [array.copy() for array in arrays(model)]
            model.set_params(**free | then).fit(X, Y)
            for a, b in zip(arrays(model), before, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_solver_of_scipy_leaves_no_optimizer_behind():
    model = MLPClassifier((4,), max_iter=2, random_state=0, warm_start=True).fit(X, Y)
    model.set_params(solver="lbfgs").fit(X, Y)
    assert model._training is None


def test_the_adam_of_scikit_learn_survives_a_pickle():
    whole = MLPClassifier((4,), random_state=0, shuffle=False)
    for _ in range(3):
        whole.partial_fit(X, Y, classes=np.arange(10))
    other = through_pickle(whole)
    for model in (whole, other):
        for _ in range(3):
            model.partial_fit(X, Y)
    for a, b in zip(arrays(whole), arrays(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(other._training.optimizer, optimizers.Adam)
