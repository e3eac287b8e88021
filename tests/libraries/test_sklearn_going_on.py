"""Fits that go on: warm starts, partial fits, pickles, and values put in place."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import lr_scheduler

pytest.importorskip("sklearn")

import joblib

from cyoptim.sklearn import LinearClassifier, LinearRegressor, MLPClassifier, MLPRegressor
from tests.support.estimators import (
    ALL,
    CLASSES,
    arrays,
    assert_same,
    data,
    each,
    small,
    through_pickle,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:the loss or score:sklearn.exceptions.ConvergenceWarning"),
]


# --- going on -------------------------------------------------------------------------------------

PLANS = [
    {},
    ALL,
    {"optimizer": "sgd", "optimizer_params": {"momentum": 0.9}, "weight_averaging": 0.5},
    {"optimizer": cyoptim.NAdam, "lr_scheduler": "ReduceLROnPlateau"},
    {
        "optimizer": "rmsprop",
        "lr_scheduler": lr_scheduler.CosineAnnealingLR,
        "lr_scheduler_params": {"T_max": 100},
        "schedule_per": "batch",
    },
    {
        "optimizer_params": {"betas": [0.8, 0.9]},
        "lr_scheduler": "MultiStepLR",
        "lr_scheduler_params": {"milestones": np.array([2, 4])},
    },
]


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
@each
def test_warm_start_goes_on_with_state_and_schedule(cls, plan):
    X, y = data(cls)
    whole = small(cls, max_iter=10, **plan).fit(X, y)
    parts = small(cls, max_iter=5, warm_start=True, **plan).fit(X, y).fit(X, y)
    assert_same(whole, parts)
    assert len(whole.lr_curve_) == len(whole.loss_curve_) == 10


@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
@each
def test_partial_fit_is_an_epoch(cls, plan):
    X, y = data(cls)
    whole = small(cls, max_iter=4, **plan).fit(X, y)
    parts = small(cls, **plan)
    first = {"classes": [0, 1, 2]} if hasattr(whole, "classes_") else {}
    for _ in range(4):
        parts.partial_fit(X, y, **first)
        assert parts.n_iter_ == 1
    assert_same(whole, parts)


def through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    return joblib.load(io.BytesIO(file.getvalue()))


def through_mapped_file(estimator, path):
    joblib.dump(estimator, path / "estimator")
    return joblib.load(path / "estimator", mmap_mode="r")


@pytest.mark.parametrize("way", ["pickle", "joblib", "mapped"])
@pytest.mark.parametrize("plan", PLANS, ids=range(len(PLANS)))
@each
def test_pickled_in_the_middle(cls, plan, way, tmp_path):
    X, y = data(cls)
    whole = small(cls, max_iter=3, warm_start=True, **plan).fit(X, y)
    copy = {
        "pickle": through_pickle,
        "joblib": through_joblib,
        "mapped": partial(through_mapped_file, path=tmp_path),
    }[way](whole)
    np.testing.assert_array_equal(copy.predict(X), whole.predict(X))
    assert_same(copy.fit(X, y), whole.fit(X, y))


@pytest.mark.parametrize("cls", [LinearClassifier, LinearRegressor])
def test_a_random_state_that_goes_on_gives_the_same_order(cls):
    X, y = data(cls)
    whole, parts = (
        small(cls, shuffle=True, random_state=np.random.RandomState(5), max_iter=n, warm_start=True)
        for n in (6, 3)
    )
    assert_same(whole.fit(X, y), parts.fit(X, y).fit(X, y))


@each
def test_a_fit_without_warm_start_begins_anew(cls):
    X, y = data(cls)
    estimator = small(cls, max_iter=3, **ALL).fit(X, y)
    first = [array.copy() for array in arrays(estimator)]
    for array, again in zip(first, arrays(estimator.fit(X, y)), strict=True):
        np.testing.assert_array_equal(array, again)
    assert len(estimator.lr_curve_) == 3


@each
def test_coefficients_are_trained_in_place(cls):
    X, y = data(cls)
    estimator = small(cls, max_iter=2, warm_start=True).fit(X, y)
    before = arrays(estimator)
    kept = [array.copy() for array in before]
    after = arrays(estimator.fit(X, y))
    assert all(np.shares_memory(a, b) for a, b in zip(before, after, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(kept, after, strict=True))


@each
def test_values_put_in_place_of_the_coefficients_are_taken(cls):
    X, y = data(cls)
    plain, averaged = (
        small(cls, max_iter=1, warm_start=True, optimizer="sgd", weight_averaging=decay).fit(X, y)
        for decay in (None, 0.5)
    )
    for estimator in (plain, averaged):
        new = [np.full_like(array, 0.1) for array in arrays(estimator)]
        if hasattr(estimator, "coefs_"):
            estimator.coefs_, estimator.intercepts_ = new[:2], new[2:]
        else:
            estimator.coef_, estimator.intercept_ = new
        estimator.fit(X, y)
    assert plain.loss_curve_[-1] == averaged.loss_curve_[-1]


BEGUN_ANEW = [
    (MLPClassifier, {"optimizer": None}),
    (MLPRegressor, {"optimizer": None, "solver": "sgd"}),
    (LinearClassifier, {"learning_rate": "constant", "learning_rate_init": None}),
    (LinearRegressor, {"learning_rate": "adaptive", "learning_rate_init": None}),
]
begun_anew = pytest.mark.parametrize(("cls", "plan"), BEGUN_ANEW, ids=range(len(BEGUN_ANEW)))


@begun_anew
def test_an_optimizer_that_begins_anew_trains_no_array_of_the_user(cls, plan):
    X, y = data(cls)
    model = small(cls, max_iter=2, warm_start=True, **plan).fit(X, y)
    for dtype in (np.float64, np.float32, int):
        if hasattr(model, "coefs_"):
            model.coefs_ = values = [np.ones(coef.shape, dtype) for coef in model.coefs_]
        else:
            model.coef_ = np.ones(model.coef_.shape, dtype)
            values = [model.coef_]
        model.fit(X, y)
        for value, shown in zip(values, arrays(model), strict=False):
            assert shown.dtype == (np.float32 if dtype is np.float32 else np.float64)
            assert not np.array_equal(shown, np.ones(shown.shape))
            np.testing.assert_array_equal(value, 1)


@begun_anew
def test_an_optimizer_begins_anew_after_a_mapped_file(cls, plan, tmp_path):
    X, y = data(cls)
    whole = small(cls, max_iter=2, warm_start=True, **plan).fit(X, y)
    copy = through_mapped_file(whole, tmp_path)
    assert_same(copy.fit(X, y), whole.fit(X, y))


def test_replaced_by_other_shapes():
    X, y = data(MLPRegressor)
    estimator = small(MLPRegressor, max_iter=1, warm_start=True).fit(X, y)
    estimator.coefs_[0] = np.zeros((7, 4))
    with pytest.raises(ValueError, match=r"cannot go on: the network has layers of \[7, 4, 1\]"):
        estimator.fit(X, y)
    estimator = small(LinearRegressor, max_iter=1, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"there are arrays of shapes \[\(5, 1\)\], expected \[\(5, 1"):  # fmt: skip
        estimator.set_params(fit_intercept=False).fit(X, y)


@pytest.mark.parametrize("cls", CLASSES[2:])
def test_data_that_cannot_be_split_leave_no_coefficients(cls):
    X, y = data(cls, 20)
    estimator = small(cls, early_stopping=True, validation_fraction=0.02)  # one sample
    with pytest.raises(ValueError, match="validation_fraction=0.02 keeps too few|greater or equal"):
        estimator.fit(X, y)
    assert not hasattr(estimator, "coef_")


@each
def test_a_changed_parameter_begins_a_new_optimizer_at_the_same_coefficients(cls):
    X, y = data(cls)
    estimator = small(cls, max_iter=3, warm_start=True, weight_averaging=0.5).fit(X, y)
    trained = [array.copy() for array in estimator._training.arrays]
    estimator.set_params(optimizer="sgd", learning_rate_init=1e-12).fit(X, y)
    for a, b in zip(trained, estimator._training.arrays, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)
    assert isinstance(estimator._training.optimizer, cyoptim.SGD)
    assert estimator.lr_curve_ == [0.01] * 3 + [1e-12] * 3


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    cls=st.sampled_from(CLASSES),
    plan=st.sampled_from(PLANS),
    ends=st.lists(st.sampled_from(["fit", "partial_fit", "pickle", "joblib"]), max_size=6),
    decay=st.sampled_from([None, 0.0, 0.7, 1.0]),
)
def test_however_a_training_is_cut(cls, plan, ends, decay):
    X, y = data(cls)
    plan = {**plan, "weight_averaging": decay, "warm_start": True}
    parts = small(cls, max_iter=2, **plan).fit(X, y)
    epochs = 2
    for end in ends:
        if end in ("fit", "partial_fit"):
            getattr(parts, end)(X, y)
            epochs += 2 if end == "fit" else 1
        else:
            parts = {"pickle": through_pickle, "joblib": through_joblib}[end](parts)
    assert_same(small(cls, max_iter=epochs, **plan).fit(X, y), parts)
