"""cyoptim.sklearn: the contract of estimators, scikit-learn's own results, and what a fit continues."""

from __future__ import annotations

import inspect
import subprocess
import sys
import warnings

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler
from tests.support.cards import CLOSURE, DENSE, MATRICES
from tests.support.dtypes import REALS
from tests.support.parametrize import every_card, every_real

pytest.importorskip("sklearn")

import scipy.sparse
from sklearn import linear_model, neural_network
from sklearn.base import clone
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

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


# --- the contract of estimators -------------------------------------------------------------------


NETWORKS = ({"optimizer": "adamw"}, {"solver": "sgd", "learning_rate": "adaptive"})
SPELLINGS = {
    MLPClassifier: NETWORKS,
    MLPRegressor: NETWORKS,
    # Small, for a check whose class weights multiply the first step by 1000.
    LinearClassifier: ({"learning_rate": "constant", "eta0": 1e-5, "penalty": "l1"},),
    LinearRegressor: ({"learning_rate": "invscaling", "penalty": "l1", "average": True},),
}
CHECKED = [
    pytest.param(cls, params, id=f"{cls.__name__}-{number}")
    for cls, spellings in SPELLINGS.items()
    for number, params in enumerate([{}, ALL, *spellings])
]


@pytest.mark.slow
@pytest.mark.parametrize(("cls", "params"), CHECKED)
def test_check_estimator(cls, params):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator_checks.check_estimator(cls(**params))


@each
def test_params_are_cloned_and_set(cls):
    estimator = small(cls, optimizer=cyoptim.SGD, optimizer_params={"momentum": 0.5})
    assert clone(estimator).get_params() == estimator.get_params()
    assert estimator.set_params(clip_norm=2.0).clip_norm == 2.0


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_all_parameters_of_scikit_learn_are_there(name):
    theirs = getattr(neural_network, name)().get_params()
    ours = getattr(sys.modules["cyoptim.sklearn"], name)().get_params()
    assert {key: ours.get(key) for key in theirs} == theirs


def test_all_parameters_of_scikit_learns_descent_are_there():
    for name, kind in (("SGDClassifier", LinearClassifier), ("SGDRegressor", LinearRegressor)):
        theirs, ours = getattr(linear_model, name)().get_params(), kind().get_params()
        # Without them an optimizer decides.
        others = {"learning_rate", "eta0", "power_t", "tol"}
        shared = theirs.keys() - others
        assert {key: ours.get(key) for key in shared} == {key: theirs[key] for key in shared}
        assert others <= ours.keys()


@pytest.mark.slow
def test_missing_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None\nimport cyoptim.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = 'ImportError: cyoptim.sklearn needs scikit-learn: pip install "cyoptim[sklearn]"'
    assert done.stderr.strip().endswith(message)


# --- scikit-learn's own solvers -------------------------------------------------------------------

DIGITS = load_digits(return_X_y=True)


def relative(a, b):
    return np.max(np.abs(np.subtract(a, b) / b))


@every_real
def test_sgd_gives_the_bits_of_scikit_learns(dtype):
    X, y = (DIGITS[0] / 16).astype(dtype), DIGITS[1]
    shared = {"hidden_layer_sizes": (20, 10), "max_iter": 5, "random_state": 1}
    ours = MLPClassifier(optimizer="sgd", learning_rate_init=0.1, **shared).fit(X, y)
    theirs = neural_network.MLPClassifier(
        solver="sgd", momentum=0, learning_rate_init=0.1, **shared
    ).fit(X, y)
    assert ours.loss_curve_ == theirs.loss_curve_
    for a, b in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_scikit_learns(nesterov):
    # Theirs accumulates lr * gradient, ours gradients: the order of the roundings differs.
    X, y = load_iris(return_X_y=True)
    shared = {"hidden_layer_sizes": (20,), "max_iter": 20, "random_state": 1}
    ours = MLPRegressor(
        optimizer="sgd",
        optimizer_params={"momentum": 0.9, "nesterov": nesterov},
        learning_rate_init=0.01,
        **shared,
    ).fit(X, y)
    theirs = neural_network.MLPRegressor(
        solver="sgd", nesterovs_momentum=nesterov, learning_rate_init=0.01, **shared
    ).fit(X, y)
    assert relative(ours.loss_curve_, theirs.loss_curve_) < 1e-12


def test_adam_is_scikit_learns():
    # Theirs adds eps before the second moment's bias correction, ours after. Where all gradients
    # are far larger than eps, so far below it the difference is: eps / sqrt(1 - beta_2) / |g|.
    X, y = load_iris(return_X_y=True)
    shared = {"hidden_layer_sizes": (20,), "activation": "tanh", "max_iter": 20, "random_state": 1}
    ours = MLPClassifier(optimizer="adam", optimizer_params={"eps": 1e-16}, **shared).fit(X, y)
    theirs = neural_network.MLPClassifier(epsilon=1e-16, **shared).fit(X, y)
    assert relative(ours.loss_curve_, theirs.loss_curve_) < 1e-10


def test_early_stopping_is_scikit_learns():
    X, y = DIGITS[0][:500] / 16, DIGITS[1][:500]
    shared = {"hidden_layer_sizes": (20,), "early_stopping": True, "random_state": 1, "tol": 1e-2}
    shared |= {"learning_rate_init": 0.3, "n_iter_no_change": 3}
    ours = MLPClassifier(optimizer="sgd", **shared).fit(X, y)
    theirs = neural_network.MLPClassifier(solver="sgd", momentum=0, **shared).fit(X, y)
    assert ours.n_iter_ == theirs.n_iter_ < 200
    assert ours.validation_scores_ == theirs.validation_scores_
    assert ours.best_validation_score_ == theirs.best_validation_score_
    assert ours.best_loss_ is None
    np.testing.assert_array_equal(ours.coefs_[0], theirs.coefs_[0])


def test_sample_weights_are_scikit_learns():
    X, y = load_iris(return_X_y=True)
    if "sample_weight" not in inspect.signature(neural_network.MLPClassifier.fit).parameters:
        pytest.skip("scikit-learn's perceptrons take sample weights from 1.7 on")
    weight = np.random.default_rng(0).uniform(0, 2, len(y))
    shared = {"hidden_layer_sizes": (5,), "max_iter": 5, "random_state": 1}
    for dtype in REALS:
        ours = MLPClassifier(optimizer="sgd", **shared).fit(X.astype(dtype), y, weight)
        theirs = neural_network.MLPClassifier(solver="sgd", momentum=0, **shared)
        theirs.fit(X.astype(dtype), y, weight)
        # In float32 their intercepts' gradients are float64, which the step here rounds first.
        assert (
            relative(ours.loss_curve_, theirs.loss_curve_) < 1e-6 if dtype == np.float32 else 1e-15
        )


# --- schedules ------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["epoch", "batch"])
@each
def test_lr_curve(cls, per):
    X, y = data(cls)  # 60 samples: 4 batches of at most 16
    plan = {"lr_scheduler": "steplr", "lr_scheduler_params": {"step_size": 1, "gamma": 0.5}}
    estimator = small(cls, max_iter=3, schedule_per=per, **plan).fit(X, y)
    steps = [0, 1, 2] if per == "epoch" else [3, 7, 11]
    np.testing.assert_allclose(estimator.lr_curve_, [0.01 * 0.5**n for n in steps], rtol=1e-12)


@each
def test_plateau_follows_loss_or_score(cls):
    X, y = data(cls)
    plan = {
        "lr_scheduler": "ReduceLROnPlateau",
        "lr_scheduler_params": {"patience": 0, "threshold": 10.0, "threshold_mode": "abs"},
        "max_iter": 4,
    }
    # No epoch is better by 10 than the first one.
    for stopping in (False, True):
        estimator = small(cls, early_stopping=stopping, validation_fraction=0.2, **plan).fit(X, y)
        assert estimator._training.scheduler.mode == ("max" if stopping else "min")
        np.testing.assert_allclose(estimator.lr_curve_, [1e-2, 1e-2, 1e-3, 1e-4])


@each
def test_plateau_leaves_the_rate_while_the_loss_falls(cls):
    X, y = data(cls)
    plan = {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_params": {"threshold": 0.0}}
    assert set(small(cls, max_iter=5, **plan).fit(X, y).lr_curve_) == {0.01}


@each
def test_callables(cls):
    X, y = data(cls)
    names = []

    def optimizer(params, lr, decay):
        names.extend(name for name, _ in params)
        return cyoptim.AdamW(
            [
                {"params": [p for p in params if "coef" in p[0]], "weight_decay": decay},
                {"params": [p for p in params if "intercept" in p[0]], "lr": 2 * lr},
            ],
            lr=lr,
        )

    def scheduler(optimizer, epochs):
        warmup = lr_scheduler.LinearLR(optimizer, 0.5, total_iters=epochs)
        rest = lr_scheduler.ExponentialLR(optimizer, 0.5)
        return lr_scheduler.SequentialLR(optimizer, [warmup, rest], milestones=[epochs])

    estimator = small(
        cls,
        optimizer=optimizer,
        optimizer_params={"decay": 0.1},
        lr_scheduler=scheduler,
        lr_scheduler_params={"epochs": 2},
        max_iter=4,
    ).fit(X, y)
    np.testing.assert_allclose(
        estimator.lr_curve_, [[0.005, 0.01], [0.0075, 0.015], [0.01, 0.02], [0.005, 0.01]]
    )
    many = ["coefs_.0", "coefs_.1", "intercepts_.0", "intercepts_.1"]
    assert names == (many if hasattr(estimator, "coefs_") else ["coef_", "intercept_"])


@every_card(DENSE, ~MATRICES, ~CLOSURE, lambda card: card.valley is not None)
def test_every_optimizer_trains_with_its_defaults(card):
    X, y = data(MLPRegressor)
    optimizer = card.name if card.public else card.cls
    estimator = small(MLPRegressor, max_iter=3, optimizer=optimizer).fit(X, y)
    assert len(estimator.lr_curve_) == 3
    assert all(np.isfinite(array).all() for array in arrays(estimator))


@each
def test_parameters_that_the_optimizer_leaves_out_stay(cls):
    X, y = data(cls)
    estimator = small(cls, max_iter=1, warm_start=True).fit(X, y)
    before = [array.copy() for array in arrays(estimator)]
    estimator.set_params(optimizer=lambda params, lr: cyoptim.SGD(params[:1], lr=lr)).fit(X, y)
    same = [np.array_equal(a, b) for a, b in zip(before, arrays(estimator), strict=True)]
    assert same == [False] + [True] * (len(same) - 1)


# --- averages and clipping ------------------------------------------------------------------------


@each
def test_averaged_coefficients(cls):
    X, y = data(cls)
    X, y = X[:16], y[:16]  # one step an epoch
    trained = small(cls, max_iter=1, warm_start=True)
    expected = None
    for _ in range(5):
        now = arrays(trained.fit(X, y))
        if expected is None:
            expected = [array.copy() for array in now]
        else:
            expected = [0.8 * a + (1 - 0.8) * b for a, b in zip(expected, now, strict=True)]
    averaged = small(cls, max_iter=5, weight_averaging=0.8).fit(X, y)
    for a, b in zip(arrays(averaged), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)
    assert averaged.loss_curve_ == trained.loss_curve_  # training itself is the same


@pytest.mark.parametrize("decay", [None, 0.9])
@each
def test_early_stopping_keeps_the_best_and_goes_on_from_the_last(cls, decay):
    X, y = data(cls, 200)
    settings = {"early_stopping": True, "validation_fraction": 0.2, "max_iter": 8}
    settings |= {"weight_averaging": decay, "learning_rate_init": 0.1, "n_iter_no_change": 100}
    whole = small(cls, **settings).fit(X, y)
    assert len(whole.validation_scores_) == 8
    assert whole.best_validation_score_ == max(whole.validation_scores_)
    assert whole.best_loss_ is None
    parts = small(cls, warm_start=True, **settings | {"max_iter": 4}).fit(X, y)
    shown = [array.copy() for array in arrays(parts)]
    best = parts.best_validation_score_
    parts.fit(X, y)
    if hasattr(parts, "coef_"):
        assert_same(whole, parts)
    else:  # scikit-learn draws another split, as there are no initial weights to draw before
        assert parts._training.optimizer.state[parts._training.params[0]]["step"] == 80
    if parts.best_validation_score_ == best:  # then nothing has touched them
        for a, b in zip(shown, arrays(parts), strict=True):
            np.testing.assert_array_equal(a, b)


@each
def test_clip_norm(cls):
    X, y = data(cls)
    X, y = X[:16], y[:16]
    begun = small(cls, optimizer="sgd", learning_rate_init=1e-30, max_iter=1, tol=0).fit(X, y)
    start = [array.copy() for array in arrays(begun)]
    clipped = small(cls, optimizer="sgd", learning_rate_init=1.0, max_iter=1, clip_norm=1e-3)
    moved = arrays(clipped.fit(X, y))
    distance = np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(start, moved, strict=True)))
    # Less than 1e-3 by the 1e-6 that is added to the gradients' norm, which is about 1.
    np.testing.assert_allclose(distance, 1e-3, rtol=1e-4)


# --- in scikit-learn's company --------------------------------------------------------------------


@each
def test_pipeline_and_grid_search(cls):
    X, y = data(cls)
    pipeline = make_pipeline(StandardScaler(), small(cls, max_iter=3))
    step = cls.__name__.lower()
    grid = {
        f"{step}__optimizer": ["sgd", cyoptim.AdamW],
        f"{step}__weight_averaging": [None, 0.9],
        f"{step}__lr_scheduler": [None, "cosineannealinglr"],
        f"{step}__lr_scheduler_params": [None],
    }
    grid = [
        {**grid, f"{step}__lr_scheduler": [None]},
        {
            **grid,
            f"{step}__lr_scheduler": ["cosineannealinglr"],
            f"{step}__lr_scheduler_params": [{"T_max": 3}],
        },
    ]
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
    assert len(search.cv_results_["params"]) == 8
    assert search.predict(X).shape == y.shape


@each
def test_sparse_input_is_dense_input(cls):
    X, y = data(cls)
    X[np.abs(X) < 0.8] = 0
    dense = small(cls, max_iter=5).fit(X, y)
    for kind in (scipy.sparse.csr_array, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix):
        sparse = small(cls, max_iter=5).fit(kind(X), y)
        np.testing.assert_allclose(sparse.loss_curve_, dense.loss_curve_, rtol=1e-12)
        for a, b in zip(arrays(sparse), arrays(dense), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(sparse.predict(kind(X)), dense.predict(X), rtol=1e-9)


@each
def test_float32_stays(cls):
    X, y = data(cls, dtype=np.float32)
    weight = np.ones(len(y))
    estimator = small(cls, max_iter=2, **ALL)
    estimator = estimator.fit(X, y) if cls in CLASSES[:2] else estimator.fit(X, y, weight)
    assert {array.dtype for array in arrays(estimator)} == {np.dtype(np.float32)}


def test_bench_shifts():
    from bench.sklearn_mlp import shifted

    image = np.arange(1.0, 65.0)
    images = shifted(image[None]).reshape(9, 8, 8)
    np.testing.assert_array_equal(images[0].ravel(), image)
    assert images[1:, 4, 4].tolist() == [28, 29, 30, 36, 38, 44, 45, 46]
    assert np.sum(images == 0) == 4 * 8 + 4 * 15


# --- errors ---------------------------------------------------------------------------------------

BAD = [
    ({"optimizer": "adamm"}, ValueError, "optimizer: there is no 'adamm'; did you mean 'Adam'\\? The names are ADOPT, ASGD, "),
    ({"optimizer": "lbfgs"}, ValueError, "optimizer cannot be LBFGS: it evaluates all data several"),
    ({"optimizer": cyoptim.SparseAdam}, ValueError, "optimizer cannot be SparseAdam: it takes sparse"),
    ({"optimizer": "muon"}, ValueError, "Muon only supports 2D parameters"),
    ({"optimizer": 3}, ValueError, "The 'optimizer' parameter of .* must be"),
    ({"optimizer": dict}, TypeError, "."),
    ({"optimizer": list}, TypeError, "."),
    ({"optimizer": lambda params, lr: None}, TypeError, "optimizer made a NoneType, expected a cyoptim.Opt"),
    (
        {"optimizer": lambda params, lr: cyoptim.SGD([np.zeros(2)], lr=lr)},
        ValueError,
        "optimizer has a parameter that is not one of coef",
    ),
    ({"optimizer_params": {"beta": 0.9}}, TypeError, "unexpected keyword argument 'beta'"),
    ({"optimizer_params": {"betas": (0.9, 2)}}, ValueError, "beta"),
    ({"optimizer_params": {"lr": 0.1}}, ValueError, r"learning_rate_init=0.01 and optimizer_params\['lr'\]=0.1"),
    ({"optimizer_params": [0.1]}, ValueError, "The 'optimizer_params' parameter"),
    ({"learning_rate_init": 0.0}, ValueError, "The 'learning_rate_init' parameter"),
    ({"lr_scheduler": "step"}, ValueError, "lr_scheduler: there is no 'step'; did you mean 'StepLR'\\? The names are ConstantLR, Cos"),
    ({"lr_scheduler": "SequentialLR"}, ValueError, "lr_scheduler: there is no 'SequentialLR'"),
    ({"lr_scheduler": "steplr"}, TypeError, "step_size"),
    ({"lr_scheduler": lambda optimizer: None}, TypeError, r"lr_scheduler made a NoneType, which has no step\(\)"),
    ({"lr_scheduler_params": {"gamma": 1}}, ValueError, "lr_scheduler_params={'gamma': 1} without an lr_sch"),
    ({"lr_scheduler": "ReduceLROnPlateau", "schedule_per": "batch"}, ValueError, "schedule_per='batch': Reduce"),
    (
        {"lr_scheduler": "ReduceLROnPlateau", "lr_scheduler_params": {"mode": "max"}},
        ValueError,
        "lr_scheduler has mode='max', but follows the loss: expected mode='min'",
    ),
    (
        {"lr_scheduler": lr_scheduler.ReduceLROnPlateau, "lr_scheduler_params": {"mode": "min"}, "early_stopping": True},
        ValueError,
        "mode='min', but follows the validation score: expected mode='max'",
    ),
    ({"schedule_per": "step"}, ValueError, "The 'schedule_per' parameter"),
    ({"clip_norm": 0}, ValueError, "The 'clip_norm' parameter"),
    ({"clip_norm": -1.0}, ValueError, "The 'clip_norm' parameter"),
    ({"weight_averaging": 1.5}, ValueError, "The 'weight_averaging' parameter"),
    ({"weight_averaging": "swa"}, ValueError, "The 'weight_averaging' parameter"),
]  # fmt: skip


@pytest.mark.parametrize(("params", "error", "message"), BAD, ids=range(len(BAD)))
@each
def test_errors(cls, params, error, message):
    X, y = data(cls)
    with pytest.raises(error, match=message):
        small(cls, **params).fit(X, y)


@each
def test_an_error_leaves_a_trained_estimator_as_it_was(cls):
    X, y = data(cls)
    estimator = small(cls, max_iter=2, warm_start=True, **ALL).fit(X, y)
    twin = through_pickle(estimator)
    for bad in ({"optimizer": "adamm"}, {"optimizer_params": {"betas": (2, 2)}}, {"clip_norm": -1}):
        good = {name: getattr(estimator, name) for name in bad}
        with pytest.raises(ValueError, match=r"."):
            estimator.set_params(**bad).fit(X, y)
        assert_same(estimator, twin)
        estimator.set_params(**good)
    assert_same(estimator.fit(X, y), twin.fit(X, y))


@each
def test_partial_fit_cannot_stop_early(cls):
    X, y = data(cls)
    estimator = small(cls, early_stopping=True, max_iter=2).fit(X, y)
    shown = [array.copy() for array in arrays(estimator)]
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        estimator.partial_fit(X, y)
    for a, b in zip(shown, arrays(estimator), strict=True):
        np.testing.assert_array_equal(a, b)
