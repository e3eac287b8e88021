"""Estimators of every kind, their data, and the comparison of what they have learnt."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")


from cyoptim.sklearn import LinearClassifier, LinearRegressor, MLPClassifier, MLPRegressor

CLASSES = (MLPClassifier, MLPRegressor, LinearClassifier, LinearRegressor)
ALL = {
    "weight_averaging": 0.9,
    "clip_norm": 1.0,
    "lr_scheduler": "exponentiallr",
    "lr_scheduler_params": {"gamma": 0.999},
}
each = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def data(cls, n=60, dtype=np.float64):
    """Samples and targets for a classifier of three classes, or a regressor."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((n, 5)).astype(dtype)
    y = X @ rng.standard_normal(5).astype(dtype) + 0.1 * rng.standard_normal(n).astype(dtype)
    return X, np.digitize(y, [-1, 1]) if cls in (MLPClassifier, LinearClassifier) else y


def small(cls, **params):
    """An estimator of a few epochs, in several batches each, in the order of the data."""
    usual = {"batch_size": 16, "shuffle": False, "random_state": 0, "learning_rate_init": 0.01}
    if cls in (MLPClassifier, MLPRegressor):
        usual |= {"hidden_layer_sizes": (4,), "optimizer": "adamw"}
    return cls(**usual | params)


def arrays(estimator):
    if hasattr(estimator, "coefs_"):
        return [*estimator.coefs_, *estimator.intercepts_]
    return [estimator.coef_, estimator.intercept_]


def assert_same(a, b):
    for left, right in zip(arrays(a), arrays(b), strict=True):
        np.testing.assert_array_equal(left, right)
    assert a.loss_curve_ == b.loss_curve_
    assert a.lr_curve_ == b.lr_curve_
    assert a.t_ == b.t_


def through_pickle(estimator):
    return pickle.loads(pickle.dumps(estimator))
