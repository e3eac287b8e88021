"""What all estimators of cyoptim.sklearn do with losses, weights, scores, and parameters that change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")

from numpy.testing import assert_allclose, assert_array_equal
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from cyoptim.sklearn import (
    LinearClassifier,
    LinearRegressor,
    MLPClassifier,
    MLPRegressor,
    _losses,
)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
LINEAR = pytest.mark.parametrize("cls", [LinearClassifier, LinearRegressor])
EVERY = pytest.mark.parametrize(
    "cls", [MLPClassifier, MLPRegressor, LinearClassifier, LinearRegressor]
)


def data(cls: Any, n: int = 60) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, 5))
    y = X @ rng.standard_normal(5) + 0.1 * rng.standard_normal(n)
    return X, np.digitize(y, [-1, 1]) if "Classifier" in cls.__name__ else y


def small(cls: Any, **params: Any) -> Any:
    usual = {"batch_size": 16, "shuffle": False, "random_state": 0, "learning_rate_init": 0.01}
    if cls.__name__.startswith("MLP"):
        usual |= {"hidden_layer_sizes": (4,), "optimizer": "adamw"}
    return cls(**usual | params)


def arrays(model: Any) -> list[Any]:
    if hasattr(model, "coefs_"):
        return [*model.coefs_, *model.intercepts_]
    return [model.coef_, model.intercept_]


# --- losses ---------------------------------------------------------------------------------------


def test_values_of_the_losses() -> None:
    z = np.array([-3.0, -1, 0.5, 1, 2])
    margins = {
        "hinge": np.maximum(1 - z, 0),
        "squared_hinge": np.maximum(1 - z, 0) ** 2,
        "modified_huber": [12, 4, 0.25, 0, 0],
        "log_loss": np.log1p(np.exp(-z)),
    }
    for name, expected in margins.items():
        loss = _losses.classification(name, 1, 0.1)
        assert_allclose(loss(z[:, None], np.ones(5, int))[0][:, 0], expected)
    scores = np.array([[1.0, 2, 4]])
    softmax = _losses.classification("log_loss", 3, 0.1)
    assert_allclose(softmax(scores, np.array([1]))[0], [[np.log(np.exp(scores).sum()) - 2]])
    r = np.array([-2.0, 0.25, 1])
    residuals = {
        "squared_error": r**2 / 2,
        "huber": [0.5 * 1.75, 1 / 32, 0.375],
        "epsilon_insensitive": [1.5, 0, 0.5],
        "squared_epsilon_insensitive": [2.25, 0, 0.25],
    }
    for name, expected in residuals.items():
        values, _ = _losses.regression(name, 0.5)(r[:, None], np.zeros((3, 1)))
        assert_allclose(values[:, 0], expected)


@pytest.mark.parametrize("penalty", [None, "l1", "l2", "elasticnet"])
def test_the_loss_is_that_of_all_samples_and_the_penalty(penalty: Any) -> None:
    X, y = data(LinearRegressor)  # in batches of 16, 16, 16 and 12
    model = small(
        LinearRegressor,
        optimizer="sgd",
        learning_rate_init=1e-30,
        max_iter=1,
        warm_start=True,
        penalty=penalty,
        alpha=0.5,
        l1_ratio=0.25,
    ).fit(X, y)
    model.coef_ = w = np.array([1.0, -2, 0, 3, 1])
    one, two = abs(w).sum(), w @ w / 2
    size = {None: 0, "l1": one, "l2": two, "elasticnet": 0.25 * one + 0.75 * two}[penalty]
    expected = ((X @ w - y) ** 2).mean() / 2 + 0.5 * size
    assert model.fit(X, y).loss_ == pytest.approx(expected, rel=1e-12)
    assert model.t_ == 120


def test_sample_and_class_weights_are_those_of_sgd_classifier() -> None:
    X, y = data(LinearRegressor)
    y = (y > 0).astype(int)
    weight = np.random.default_rng(0).uniform(0.5, 1.5, 60)
    weight /= weight.mean()
    shared = {"shuffle": False, "max_iter": 3, "tol": None, "class_weight": {0: 1.0, 1: 3.0}}
    ours = LinearClassifier(
        "log_loss", optimizer="sgd", learning_rate_init=0.01, batch_size=1, **shared
    )
    theirs = linear_model.SGDClassifier("log_loss", learning_rate="constant", eta0=0.01, **shared)
    expected = theirs.fit(X, y, sample_weight=weight).coef_
    assert_allclose(ours.fit(X, y, weight).coef_, expected, rtol=1e-9)


def test_a_score_of_zero_is_the_first_class() -> None:
    X, y = data(LinearRegressor)
    model = LinearClassifier(max_iter=1).fit(X, y > 0)
    model.coef_[:], model.intercept_[:] = 0, 0
    assert not model.predict(X).any()


# --- when it stops, and what it keeps -------------------------------------------------------------


def test_the_best_loss_is_the_smallest() -> None:
    X, y = data(LinearRegressor)
    model = small(LinearRegressor, optimizer="sgd", learning_rate_init=0.9, max_iter=6, tol=None)
    assert model.fit(X, y).best_loss_ == min(model.loss_curve_) < model.loss_


def test_without_a_tolerance_to_exceed_it_stops_where_the_loss_stays() -> None:
    X, y = data(LinearRegressor)
    model = small(LinearRegressor, optimizer="sgd", learning_rate_init=1e-30, tol=0)
    assert model.fit(X, y).n_iter_ == 6


def test_it_goes_on_while_the_score_rises_and_no_longer() -> None:
    X, y = data(LinearRegressor)
    shared = {
        "optimizer": "sgd",
        "early_stopping": True,
        "validation_fraction": 0.2,
        "n_iter_no_change": 2,
        "max_iter": 30,
    }
    model = small(LinearRegressor, **shared | {"learning_rate_init": 1e-3}).fit(X, y)
    assert np.all(np.diff(model.validation_scores_) > 1e-4)
    assert model.n_iter_ == 30
    model = small(LinearRegressor, **shared | {"learning_rate_init": 1e-12}).fit(X, y)
    assert model.n_iter_ == 3


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("decay", [None, 0.5])
@LINEAR
def test_the_coefficients_are_those_of_the_best_score(cls: Any, decay: Any, weighted: bool) -> None:
    X, y = data(cls, 200)
    classifies = cls is LinearClassifier
    if not classifies:
        y = y + np.random.default_rng(1).standard_normal(200)
    weight = np.random.default_rng(0).uniform(0, 2, 200) if weighted else np.ones(200)
    model = small(
        cls,
        optimizer="sgd",
        learning_rate_init=0.8 if classifies else 0.85 if decay else 0.5,
        early_stopping=True,
        validation_fraction=0.2,
        batch_size=4,
        max_iter=9,
        tol=None,
        weight_averaging=decay,
    ).fit(X, y, weight if weighted else None)
    scores = model.validation_scores_
    assert max(scores) > scores[-1]  # or the last ones would do
    stratify = y if classifies else None
    _, X_val, _, y_val, _, weight_val = train_test_split(
        X, y, weight, test_size=0.2, random_state=0, stratify=stratify
    )
    assert model.score(X_val, y_val, weight_val) == pytest.approx(max(scores), abs=1e-12)
    assert model.best_validation_score_ == max(scores)


@LINEAR
def test_samples_without_weight_validate_nothing(cls: Any) -> None:
    X, y = data(cls)
    stratify = y if cls is LinearClassifier else None
    _, held = train_test_split(np.arange(60), test_size=0.1, random_state=0, stratify=stratify)
    weight = np.ones(60)
    weight[held] = 0
    with pytest.raises(ValueError, match=r"validation_fraction=0\.1 keeps too few samples back"):
        small(cls, early_stopping=True).fit(X, y, weight)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_what_is_not_finite_is_told(early_stopping: bool) -> None:
    X, y = data(LinearRegressor)
    model = LinearRegressor(
        optimizer="sgd", learning_rate_init=1e100, early_stopping=early_stopping
    )
    with pytest.raises(ValueError, match="coefficients are not finite: lower the learning rate"):
        model.fit(X, y)


@pytest.mark.filterwarnings("default::sklearn.exceptions.ConvergenceWarning")
def test_the_warning_is_of_the_line_that_called() -> None:
    X, y = data(LinearRegressor)
    with pytest.warns(ConvergenceWarning, match="max_iter=2") as caught:
        LinearRegressor(max_iter=2).fit(X, y)
    assert caught[0].filename == __file__


@LINEAR
def test_each_epoch_shuffles_anew(cls: Any) -> None:
    X, y = data(cls)
    whole = small(cls, shuffle=True, max_iter=3, random_state=7).fit(X, y)
    parts, rng = small(cls), np.random.RandomState(7)
    first = {"classes": [0, 1, 2]} if cls is LinearClassifier else {}
    for _ in range(3):
        order = rng.permutation(len(y))
        parts.partial_fit(X[order], y[order], **first)
    assert_array_equal(whole.coef_, parts.coef_)


# --- parameters that change between two fits ------------------------------------------------------


@EVERY
def test_a_bad_schedule_leaves_a_fitted_estimator_as_it_was(cls: Any) -> None:
    X, y = data(cls)
    model = small(cls, max_iter=2).fit(X, y)
    before = [array.copy() for array in arrays(model)]
    with pytest.raises(TypeError, match="step_size"):
        model.set_params(lr_scheduler="StepLR").fit(X, y)
    for old, new in zip(before, arrays(model), strict=True):
        assert_array_equal(old, new)


@pytest.mark.parametrize(
    "change",
    [
        {"lr_scheduler": "ExponentialLR", "lr_scheduler_params": {"gamma": 0.1}},
        {"lr_scheduler_params": {"step_size": 1, "gamma": 0.1}},
        {"schedule_per": "batch"},
        {"optimizer_params": {"weight_decay": 0.0, "momentum": 0.0}},
    ],
)
@EVERY
def test_every_changed_parameter_begins_a_new_schedule(cls: Any, change: Any) -> None:
    X, y = data(cls)
    schedule = {"lr_scheduler": "StepLR", "lr_scheduler_params": {"step_size": 1, "gamma": 0.5}}
    model = small(cls, optimizer="sgd", max_iter=2, warm_start=True, **schedule).fit(X, y)
    model.set_params(**change).fit(X, y)
    gamma = change.get("lr_scheduler_params", schedule["lr_scheduler_params"])["gamma"]
    steps = (3, 7) if "schedule_per" in change else (0, 1)
    assert_allclose(model.lr_curve_, [0.01, 0.005, *(0.01 * gamma**step for step in steps)])


def test_a_plateau_is_that_of_the_score_once_it_is_watched() -> None:
    X, y = data(LinearRegressor)
    model = small(
        LinearRegressor,
        max_iter=3,
        warm_start=True,
        lr_scheduler="ReduceLROnPlateau",
        lr_scheduler_params={"patience": 0, "threshold": 0.0},
        validation_fraction=0.2,
    ).fit(X, y)
    model.set_params(early_stopping=True).fit(X, y)
    assert np.all(np.diff(model.validation_scores_) > 0)
    assert set(model.lr_curve_) == {0.01}


@EVERY
def test_without_averaging_the_trained_arrays_are_shown_again(cls: Any) -> None:
    X, y = data(cls)
    shared = {"max_iter": 2, "warm_start": True, "optimizer": "sgd"}
    plain, averaged = (small(cls, weight_averaging=d, **shared).fit(X, y) for d in (None, 0.9))
    plain.fit(X, y)
    averaged.set_params(weight_averaging=None).fit(X, y)
    for expected, found in zip(arrays(plain), arrays(averaged), strict=True):
        assert_array_equal(found, expected)


@EVERY
def test_clipping_that_is_turned_on_clips(cls: Any) -> None:
    X, y = data(cls)
    model = small(cls, max_iter=2, warm_start=True, optimizer="sgd").fit(X, y)
    before = [array.copy() for array in arrays(model)]
    model.set_params(clip_norm=1e-6).fit(X, y)
    moved = sum(((a - b) ** 2).sum() for a, b in zip(before, arrays(model), strict=True)) ** 0.5
    assert 0 < moved <= 8 * 1e-6 * 0.01 * 1.001  # eight steps


@pytest.mark.parametrize("kept", [{"weight_averaging": 0.9}, {"early_stopping": True}])
@EVERY
def test_values_written_into_what_is_shown_count(cls: Any, kept: Any) -> None:
    X, y = data(cls)
    rate = {"optimizer": "sgd", "learning_rate_init": 1e-12}
    model = small(cls, max_iter=2, warm_start=True, **rate, **kept).fit(X, y)
    for array in arrays(model):
        array[...] = 5
    model.fit(X, y)
    trained = model._training.arrays
    for array in trained:
        assert_allclose(array, 5, rtol=1e-8)


# --- fits that begin again ------------------------------------------------------------------------


def two_tasks(cls: Any) -> tuple[Any, Any, Any]:
    """Samples, easy targets, and targets that are harder to fit."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 3))
    easy, hard = X @ [1.0, 2, 3], X @ [-3.0, 5, 1] + 2 * rng.standard_normal(300)
    if "Classifier" in cls.__name__:
        return X, easy > 0, hard > 0
    return X, easy, hard


def trainee(cls: Any, **params: Any) -> Any:
    usual = {"learning_rate_init": 0.05, "random_state": 0, "max_iter": 200, "warm_start": True}
    if cls.__name__.startswith("MLP"):
        usual |= {"hidden_layer_sizes": (8,), "optimizer": "adamw"}
    else:
        usual["loss"] = "log_loss" if cls is LinearClassifier else "squared_error"
    return cls(**usual | params)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_warm_fit_is_measured_by_its_own_data(cls: Any, early_stopping: bool) -> None:
    X, before, now = two_tasks(cls)
    params = {"early_stopping": early_stopping, "n_iter_no_change": 5}
    cold = trainee(cls, warm_start=False, **params).fit(X, now).score(X, now)
    warm = trainee(cls, **params).fit(X, before)
    old = [array.copy() for array in arrays(warm)]
    warm.fit(X, now)
    assert warm.n_iter_ > 5
    assert warm.score(X, now) > cold - 0.05
    assert not any(np.array_equal(a, b) for a, b in zip(arrays(warm), old, strict=True))


@EVERY
def test_a_plateau_schedule_is_measured_by_its_own_data(cls: Any) -> None:
    X, before, now = two_tasks(cls)
    params = {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_params": {"patience": 3}}
    model = trainee(cls, max_iter=4, tol=0.0, **params).fit(X, before)
    rate = model.lr_curve_[-1]
    model.set_params(max_iter=3).fit(X, now)  # three epochs above the old best are no plateau
    assert model.lr_curve_[-1] == rate


@EVERY
def test_early_stopping_switched_between_fits(cls: Any) -> None:
    X, y, _ = two_tasks(cls)
    model = trainee(cls, max_iter=5).fit(X, y)
    assert model.validation_scores_ is None
    model.set_params(early_stopping=True).fit(X, y)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None
    model.set_params(early_stopping=False).fit(X, y)
    assert model.best_loss_ == min(model.loss_curve_)
    assert model.best_validation_score_ is None
    model.set_params(early_stopping=True).fit(X, y)
    model.set_params(early_stopping=False).partial_fit(X, y)
    assert model.best_loss_ == min(model.loss_curve_)


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize(
    "changed",
    [{"learning_rate_init": 0.01}, {"tol": 0.5}, {"n_iter_no_change": 2}, {"optimizer": "sgd"}],
    ids=lambda changed: next(iter(changed)),
)
def test_parameters_changed_between_fits_count(cls: Any, changed: dict[str, Any]) -> None:
    X, y, _ = two_tasks(cls)
    model = trainee(cls, max_iter=60).fit(X, y)
    model.set_params(**changed).fit(X, y)
    if "learning_rate_init" in changed:
        assert model.lr_curve_[-1] == 0.01
    elif "tol" in changed:
        assert model.n_iter_ <= 15
    model.fit(X[:, ::-1], y)  # and once more, after all that
    assert model.score(X[:, ::-1], y) > 0.7


@pytest.mark.slow
@EVERY
def test_fit_after_partial_fit_and_the_reverse(cls: Any) -> None:
    X, before, now = two_tasks(cls)
    model = trainee(cls)
    known = {"classes": [False, True]} if "Classifier" in cls.__name__ else {}
    for _ in range(30):
        model.partial_fit(X, before, **known)
    model.fit(X, now)
    assert model.n_iter_ > 5
    score = model.score(X, now)
    for _ in range(3):
        model.partial_fit(X, now)
    assert model.score(X, now) > score - 0.1
    cold = model.set_params(warm_start=False).fit(X, now)
    other = trainee(cls, warm_start=False).fit(X, now)
    for a, b in zip(arrays(cold), arrays(other), strict=True):
        assert_array_equal(a, b)


@EVERY
def test_another_number_of_features_is_refused(cls: Any) -> None:
    X, y, _ = two_tasks(cls)
    model = trainee(cls, max_iter=2).fit(X, y)
    before = [array.copy() for array in arrays(model)]
    with pytest.raises(ValueError, match="features"):
        model.fit(X[:, :2], y)
    with pytest.raises(ValueError, match="features"):
        model.partial_fit(X[:, :2], y)
    for a, b in zip(arrays(model), before, strict=True):
        assert_array_equal(a, b)


@pytest.mark.parametrize("cls", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("layers", [(4,), (8, 8), 9])
def test_other_layers_are_refused_by_a_warm_fit(cls: Any, layers: Any) -> None:
    X, y, _ = two_tasks(cls)
    model = trainee(cls, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="cannot go on: the network has layers of"):
        model.set_params(hidden_layer_sizes=layers).fit(X, y)
    model.set_params(warm_start=False).fit(X, y)


def test_another_number_of_targets_is_refused() -> None:
    X, y, other = two_tasks(LinearRegressor)
    for cls in (LinearRegressor, MLPRegressor):
        model = trainee(cls, max_iter=2).fit(X, y)
        with pytest.raises(ValueError, match="y has shape|cannot go on"):
            model.fit(X, np.stack([y, other], axis=1))


@LINEAR
@pytest.mark.parametrize("kind", ["float32", "int", "list", "Fortran", "vector"])
def test_coefficients_set_by_hand(cls: Any, kind: str) -> None:
    X, y, _ = two_tasks(cls)
    model = trainee(cls, max_iter=1, optimizer="sgd", learning_rate_init=1e-12).fit(X, y)
    values = np.array([3.0, -1.0, 2.0]).reshape(model.coef_.shape)
    model.coef_ = {
        "float32": values.astype(np.float32),
        "int": values.astype(int),
        "list": values.tolist(),
        "Fortran": np.asfortranarray(values),
        "vector": values.ravel(),
    }[kind]
    model.intercept_ = 0.5 if kind == "vector" else [0.5]
    model.fit(X, y)
    assert_allclose(model.coef_, values, atol=1e-9)
    assert_allclose(model.intercept_, [0.5], atol=1e-9)
    assert model.coef_.dtype == np.float64


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (np.ones((3, 2)), ValueError, r"coef_ has shape \(3, 2\), expected \(2, 3\)"),
        (np.ones(6), ValueError, "coef_ has shape"),
        (1j * np.ones((2, 3)), TypeError, "dtype complex128"),
        (np.ma.masked_array(np.ones((2, 3))), TypeError, "masked array"),
        (
            np.full((2, 3), "a"),
            TypeError,
            "cannot go on: coef_ has dtype <U1, expected real numbers",
        ),
    ],
)
def test_bad_coefficients_set_by_hand(wrong: Any, error: Any, message: str) -> None:
    X, y, other = two_tasks(LinearRegressor)
    targets = np.stack([y, other], axis=1)
    model = trainee(LinearRegressor, max_iter=1).fit(X, targets)
    trained = [array.copy() for array in model._training.arrays]
    model.coef_ = wrong
    with pytest.raises(error, match=message):
        model.fit(X, targets)
    for a, b in zip(model._training.arrays, trained, strict=True):
        assert_array_equal(a, b)


def test_coefficients_before_the_first_fit_are_refused() -> None:
    X, y, _ = two_tasks(LinearRegressor)
    model = trainee(LinearRegressor)
    model.coef_ = np.ones(3)
    with pytest.raises(ValueError, match="coef_ was set before the first fit"):
        model.fit(X, y)


def test_classes_of_a_warm_fit() -> None:
    X, y, _ = two_tasks(LinearClassifier)
    three = np.where(X[:, 0] > 1, 2, y.astype(int))
    for cls in (LinearClassifier, MLPClassifier):
        model = trainee(cls, max_iter=2).fit(X, y.astype(int))
        with pytest.raises(ValueError, match="class"):
            model.fit(X, three)
        model.set_params(warm_start=False).fit(X, three)
        assert len(model.classes_) == 3
