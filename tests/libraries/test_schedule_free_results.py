"""What Schedule-Free optimizers give to scikit-learn and SciPy: the average, never the point of gradients."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import MODES, Card
from tests.support.parametrize import every_card

pytest.importorskip("sklearn")

from scipy.optimize import minimize, rosen, rosen_der

from cyoptim.scipy import method
from tests.support.estimators import CLASSES, arrays, assert_same, data, each, small, through_pickle

pytestmark = [
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:the loss or score:sklearn.exceptions.ConvergenceWarning"),
]


def averages_of(estimator: Any) -> list[np.ndarray]:
    """As the optimizer has them, in the order and the form of the estimator's arrays."""
    training = estimator._training
    with training.optimizer.averaged():
        found = [array.copy() for array in training.arrays]
    shapes = [np.shape(array) for array in arrays(estimator)]
    return [
        a.T.reshape(s) if hasattr(estimator, "coef_") else a
        for a, s in zip(found, shapes, strict=True)
    ]


def learnt(estimator: Any) -> list[np.ndarray]:
    return [np.array(array) for array in arrays(estimator)]


# --- scikit-learn ---------------------------------------------------------------------------------


@every_card(MODES)
@each
def test_coefficients_and_predictions_are_averages(cls: Any, card: Card) -> None:
    X, y = data(cls)
    estimator = small(cls, optimizer=card.name.lower(), max_iter=5, learning_rate_init=0.1).fit(
        X, y
    )
    again = small(cls, optimizer=getattr(cyoptim, card.name), max_iter=5, learning_rate_init=0.1)
    assert_same(estimator, again.fit(X, y))
    trained = estimator._training.arrays
    for found, mean in zip(arrays(estimator), averages_of(estimator), strict=True):
        np.testing.assert_array_equal(found, mean)
        assert not any(np.shares_memory(found, array) for array in trained)
    if hasattr(estimator, "coefs_"):
        half = len(trained) // 2
        expected = estimator.predict(X)
        estimator.coefs_, estimator.intercepts_ = trained[:half], trained[half:]
        assert hasattr(estimator, "classes_") or not np.array_equal(expected, estimator.predict(X))


@every_card(MODES)
@each
def test_fits_go_on(cls: Any, card: Card) -> None:
    X, y = data(cls)
    plan = {"optimizer": card.name, "learning_rate_init": 0.1, "clip_norm": 1.0}
    whole = small(cls, max_iter=6, **plan).fit(X, y)
    first = {"classes": [0, 1, 2]} if hasattr(whole, "classes_") else {}
    by_epochs, by_fits = small(cls, **plan), small(cls, max_iter=2, warm_start=True, **plan)
    for k in range(6):
        by_epochs.partial_fit(X, y, **(first if k == 0 else {}))
        if k % 2:
            by_fits.fit(X, y)
            by_fits = through_pickle(by_fits)
        if k == 3:
            by_epochs = through_pickle(by_epochs)
    assert_same(whole, by_epochs)
    assert_same(whole, by_fits)


@every_card(MODES)
@each
def test_scores_of_early_stopping_are_the_averages(cls: Any, card: Card) -> None:
    X, y = data(cls, 200)
    seen: list[Any] = []
    plan = {"optimizer": card.name, "learning_rate_init": 0.1, "early_stopping": True}
    estimator = small(cls, max_iter=6, validation_fraction=0.2, n_iter_no_change=100, **plan)
    name = "_score_of" if hasattr(estimator, "_score_of") else "_score"
    score = getattr(estimator, name, None)
    assert score is not None

    def spied(*args: Any, **kwargs: Any) -> Any:
        seen.append((learnt(estimator), averages_of(estimator)))
        return score(*args, **kwargs)

    setattr(estimator, name, spied)
    estimator.fit(X, y)
    assert len(seen) == 6
    for shown, averages in seen:
        for a, b in zip(shown, averages, strict=True):
            np.testing.assert_array_equal(a, b)
    best = seen[int(np.argmax(estimator.validation_scores_))][0]
    for a, b in zip(arrays(estimator), best, strict=True):
        np.testing.assert_array_equal(a, b)


@every_card(MODES)
@each
def test_values_put_in_place_begin_a_new_average(cls: Any, card: Card) -> None:
    X, y = data(cls)
    plan = {"optimizer": card.name, "learning_rate_init": 1e-12, "max_iter": 3, "warm_start": True}
    estimator = small(cls, **plan).fit(X, y)
    new = [np.full_like(array, 0.1) for array in arrays(estimator)]
    if hasattr(estimator, "coefs_"):
        estimator.coefs_, estimator.intercepts_ = new[:2], new[2:]
    else:
        estimator.coef_, estimator.intercept_ = new
    estimator.fit(X, y)
    for array in arrays(estimator):
        np.testing.assert_allclose(array, 0.1, rtol=1e-6)


@each
def test_another_optimizer_begins_at_the_average(cls: Any) -> None:
    X, y = data(cls)
    plan = {"learning_rate_init": 0.1, "max_iter": 3, "warm_start": True}
    estimator = small(cls, optimizer="SGDScheduleFree", **plan).fit(X, y)
    before = learnt(estimator)
    estimator.set_params(optimizer="sgd", learning_rate_init=1e-12).fit(X, y)
    for a, b in zip(before, arrays(estimator), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@each
def test_a_second_average_is_refused(cls: Any) -> None:
    X, y = data(cls)
    estimator = small(cls, optimizer="AdamWScheduleFree", weight_averaging=0.9)
    with pytest.raises(ValueError, match="weight_averaging=0.9: AdamWScheduleFree averages"):
        estimator.fit(X, y)


def test_an_optimizer_of_some_of_the_arrays() -> None:
    cls = CLASSES[0]
    X, y = data(cls)

    def last(params: Any, **options: Any) -> Any:
        return cyoptim.SGDScheduleFree(params[1:2] + params[3:], **options)

    estimator = small(cls, optimizer=last, max_iter=4, learning_rate_init=0.1).fit(X, y)
    for a, b in zip(arrays(estimator), averages_of(estimator), strict=True):
        np.testing.assert_array_equal(a, b)


# --- SciPy ----------------------------------------------------------------------------------------


@every_card(MODES)
def test_points_of_minimize_are_averages(card: Card) -> None:
    made: list[Any] = []
    seen: list[Any] = []

    def factory(params: list[Any], lr: float = 0.001) -> Any:
        made.append((getattr(cyoptim, card.name)(params, lr=lr), params[0]))
        return made[-1][0]

    def callback(intermediate_result: Any) -> None:
        optimizer, x = made[-1]
        with optimizer.averaged():
            np.testing.assert_array_equal(intermediate_result.x, x)
        seen.append(intermediate_result)

    x0 = np.array([-1.2, 1.0])
    for chosen in (factory, card.name, getattr(cyoptim, card.name)):
        options = {} if chosen is factory else {"lr": 0.001}
        run = partial(minimize, rosen, x0, jac=rosen_der, method=method(chosen, **options))
        found = run(options={"maxiter": 30}, callback=callback if chosen is factory else None)
        expected = seen[int(np.argmin([point.fun for point in seen]))]
        np.testing.assert_array_equal(found.x, expected.x)
        assert found.fun == rosen(found.x)
        np.testing.assert_array_equal(found.jac, rosen_der(found.x))
    for point in seen:
        assert point.fun == rosen(point.x)
    assert made[0][0].param_groups[0]["train_mode"]


@every_card(MODES)
def test_within_bounds(card: Card) -> None:
    points: list[Any] = []

    def fun(x: Any) -> float:
        points.append(x)
        return float(((x - [3.0, 0.5]) ** 2).sum())

    found = minimize(
        fun, [0.0, 0.0], jac=lambda x: 2 * (x - [3.0, 0.5]), bounds=[(-1, 1), (-1, 1)],
        method=method(card.name, lr=0.05), options={"maxiter": 3000, "gtol": 1e-4},
    )  # fmt: skip
    assert np.abs(points).max() <= 1
    np.testing.assert_allclose(found.x, [1.0, 0.5], atol=1e-2)


def test_a_second_average_of_minimize_is_refused() -> None:
    with pytest.raises(ValueError, match="average: SGDScheduleFree returns the average"):
        minimize(
            rosen, [0.0, 0.0], jac=rosen_der, method=method("SGDScheduleFree", lr=0.01),
            options={"average": 0.9},
        )  # fmt: skip
