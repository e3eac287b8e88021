"""Linear models trained on mini-batches, dense or sparse, by the optimizers of this package."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar
from warnings import warn

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    MultiOutputMixin,
    RegressorMixin,
    _fit_context,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from cyoptim.sklearn import _losses
from cyoptim.sklearn._training import CONSTRAINTS, Array, Recipe, Training, training_of

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        """What was a method of estimators."""
        return estimator._validate_data(*args, **kwargs)


NOT_CONVERGED = "the loss or score still improves after max_iter={} epochs; tol=None runs them all"


class _Linear(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: the loop, the penalty, and what is shown."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CONSTRAINTS,
        "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both")],
        "fit_intercept": ["boolean"],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left"), None],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
    }

    coef_: Array
    intercept_: Array
    _training: Training | None = None

    # --- what classifier and regressor define -----------------------------------------------------

    def _batch_loss(self) -> _losses.Loss:
        raise NotImplementedError

    def _show(self, weights: Array, intercepts: Array) -> None:
        """Set ``coef_`` and ``intercept_`` to views of arrays of shape (p, k) and (k,)."""
        raise NotImplementedError

    def _score_of(self, X: Any, y: Array, weight: Array) -> float:
        raise NotImplementedError

    # --- arguments --------------------------------------------------------------------------------

    def _checked_recipe(self) -> Recipe:
        recipe = Recipe.of(self)
        if self._training is None or not self._training.recipe.same_as(recipe):
            recipe.check()
        return recipe

    def _goes_on(self, incremental: bool) -> bool:
        return hasattr(self, "coef_") and (incremental or self.warm_start)

    def _relative(self, sample_weight: Any, X: Any) -> Array:
        """Weights of mean 1."""
        if sample_weight is None:
            return np.ones(X.shape[0], X.dtype)
        weight: Array = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        if weight.min() < 0:
            raise ValueError(f"sample_weight: {weight.min()} is negative")
        if not weight.sum() > 0:
            raise ValueError("sample_weight: all weights are zero")
        relative: Array = weight * (len(weight) / weight.sum())
        return relative

    # --- training ---------------------------------------------------------------------------------

    def _train(
        self, recipe: Recipe, X: Any, y: Array, weight: Array, n_columns: int, incremental: bool
    ) -> None:
        """Run epochs: one, or until the loss or score no longer improves."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        random_state = check_random_state(self.random_state)
        held_out = None
        if self.early_stopping:
            X, y, weight, *held_out = self._hold_out(X, y, weight, random_state)
        if not self._goes_on(incremental):
            self._begin(X, n_columns)
        if self.early_stopping != (self.validation_scores_ is not None):
            self._watch_score() if self.early_stopping else self._watch_loss()
        names, current = self._named_arrays(n_columns)
        training = training_of(self._training, recipe, names, current)
        training.resume(self, current)
        self._training = training
        self.n_iter_ = 0
        try:
            for _ in range(1 if incremental else self.max_iter):
                self._run_epoch(training, X, y, weight, random_state)
                self._end_epoch(training, held_out)
                if self._has_converged():
                    break
            else:
                if self.tol is not None and not incremental:
                    warn(NOT_CONVERGED.format(self.max_iter), ConvergenceWarning, stacklevel=4)
        finally:
            training.shown = self._best or training.result()
            self._show(*self._pair(training.shown))
        if not all(np.isfinite(array).all() for array in training.shown):
            raise ValueError(
                "the coefficients are not finite: lower the learning rate, or scale the data"
            )

    def _begin(self, X: Any, n_columns: int) -> None:
        self._training = None
        self._show(np.zeros((X.shape[1], n_columns), X.dtype), np.zeros(n_columns, X.dtype))
        self.t_ = 0
        self.loss_curve_: list[float] = []
        self.lr_curve_: list[float | list[float]] = []
        self._watch_loss()

    def _watch_loss(self) -> None:
        self.validation_scores_: list[float] | None = None
        self.best_validation_score_: float | None = None
        self.best_loss_: float | None = np.inf
        self._best: list[Array] = []
        self._to_improve, self._no_improvement_count = np.inf, 0

    def _watch_score(self) -> None:
        self._watch_loss()
        self.validation_scores_, self.best_loss_ = [], None

    def _named_arrays(self, n_columns: int) -> tuple[list[str], list[Array]]:
        weights = self.coef_.reshape(n_columns, -1).T
        if not self.fit_intercept:
            return ["coef_"], [weights]
        return ["coef_", "intercept_"], [weights, self.intercept_]

    def _pair(self, arrays: list[Array]) -> tuple[Array, Array]:
        """Weights and intercepts, which are zero where there are none."""
        if self.fit_intercept:
            return arrays[0], arrays[1]
        return arrays[0], np.zeros(arrays[0].shape[1], arrays[0].dtype)

    def _hold_out(self, X: Any, y: Array, weight: Array, random_state: Any) -> tuple[Any, ...]:
        X, X_val, y, y_val, weight, weight_val = train_test_split(
            X,
            y,
            weight,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=y if isinstance(self, ClassifierMixin) else None,
        )
        if X_val.shape[0] < 2 or not weight_val.sum() > 0:
            raise ValueError(
                f"validation_fraction={self.validation_fraction} keeps too few samples back"
            )
        return X, y, weight, X_val, y_val, weight_val

    def _run_epoch(
        self, training: Training, X: Any, y: Array, weight: Array, random_state: Any
    ) -> None:
        n_samples = X.shape[0]
        size = min(200 if self.batch_size == "auto" else self.batch_size, n_samples)
        order = random_state.permutation(n_samples) if self.shuffle else None
        loss, total = self._batch_loss(), 0.0
        for batch in gen_batches(n_samples, size):
            rows = batch if order is None else order[batch]
            mean, grads = self._loss_and_grads(training, loss, X[rows], y[rows], weight[rows])
            training.step(grads)
            total += mean * (batch.stop - batch.start)
        self.n_iter_ += 1
        self.t_ += n_samples
        self.loss_ = total / n_samples
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"epoch {self.n_iter_}, loss = {self.loss_:.8f}")

    def _loss_and_grads(
        self, training: Training, loss: _losses.Loss, X: Any, y: Array, weight: Array
    ) -> tuple[float, list[Array]]:
        weights, intercepts = self._pair(training.arrays)
        values, slopes = loss(safe_sparse_dot(X, weights) + intercepts, y)
        share = weight / X.shape[0]
        slopes *= share[:, None]
        penalty, penalty_slope = self._penalty(weights)
        grads = [safe_sparse_dot(X.T, slopes) + penalty_slope]
        if self.fit_intercept:
            grads.append(slopes.sum(axis=0))
        return float(values @ share) + penalty, grads

    def _penalty(self, weights: Array) -> tuple[float, Array | float]:
        ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": self.l1_ratio, None: 0.0}[self.penalty]
        if self.penalty is None or self.alpha == 0:
            return 0.0, 0.0
        value, slope = 0.0, np.zeros_like(weights)
        if ratio < 1:
            value += self.alpha * (1 - ratio) / 2 * float(np.vdot(weights, weights))
            slope += self.alpha * (1 - ratio) * weights
        if ratio > 0:
            value += self.alpha * ratio * float(abs(weights).sum())
            slope += self.alpha * ratio * np.sign(weights)
        return value, slope

    def _end_epoch(self, training: Training, held_out: Any) -> None:
        """Note whether loss or score has improved, and let the schedule go on."""
        if held_out:
            metric = self._validate(training, *held_out)
            worse = -metric
        else:
            metric = worse = self.loss_
            assert self.best_loss_ is not None
            self.best_loss_ = min(metric, self.best_loss_)
        self._no_improvement_count += 1
        # Small improvements of several epochs add up.
        if worse < self._to_improve - (self.tol or 0.0):
            self._to_improve, self._no_improvement_count = worse, 0
        self.lr_curve_.append(training.end_epoch(metric))

    def _has_converged(self) -> bool:
        return self.tol is not None and self._no_improvement_count >= self.n_iter_no_change

    def _validate(self, training: Training, X: Any, y: Array, weight: Array) -> float:
        """The score; the arrays are kept if it is the best."""
        self._show(*self._pair(training.result()))
        score = self._score_of(X, y, weight)
        if self.verbose:
            print(f"validation score = {score:.8f}")
        assert self.validation_scores_ is not None
        if not self.validation_scores_ or score > max(self.validation_scores_):
            self.best_validation_score_ = score
            self._best = [array.copy() for array in training.result()]
        self.validation_scores_.append(score)
        return score

    # --- prediction -------------------------------------------------------------------------------

    def _scores(self, X: Any) -> Array:
        """Of shape (n, k)."""
        n_columns = len(self.intercept_)
        scores: Array = safe_sparse_dot(X, self.coef_.reshape(n_columns, -1).T)
        return scores + self.intercept_

    def _checked(self, X: Any) -> Any:
        check_is_fitted(self)
        return validate_data(
            self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class LinearClassifier(ClassifierMixin, _Linear):  # type: ignore[misc]
    r"""Linear classifier, trained on mini-batches by any optimizer and schedule of this package.

    Minimizes :math:`\frac{1}{n} \sum_i w_i L(x_i W + b, y_i) + \alpha P(W)`, with weights
    :math:`w` of mean 1, over `X` that may be sparse.

    Parameters
    ----------
    loss : {"hinge", "squared_hinge", "log_loss", "modified_huber"}
        :math:`L`. Of several classes, "log_loss" is that of their softmax; the others are those of
        the margins of each class against the rest.
    penalty : {"l2", "l1", "elasticnet"} or None
        :math:`P`: half the squared norm, the sum of absolute values, or both. Coefficients become
        small by "l1", but not exactly zero.
    alpha : float
        Strength of the penalty.
    l1_ratio : float
        Share of "l1" in "elasticnet".
    fit_intercept : bool
        Whether there is :math:`b`; it has no penalty.
    optimizer : str, class or callable
        The name of an optimizer of this package in any case, its class, or a function
        ``(params, **optimizer_params)`` that returns a :class:`cyoptim.Optimizer` over `params`,
        the pairs ``("coef_", parameter)`` and ``("intercept_", parameter)``.
    optimizer_params : dict, optional
        Options of the optimizer.
    learning_rate_init : float, optional
        The option ``"lr"``; by default the optimizer's own.
    lr_scheduler : str, class or callable, optional
        The name or class of a schedule of :mod:`cyoptim.lr_scheduler`, or a function
        ``(optimizer, **lr_scheduler_params)`` that returns one. ``ReduceLROnPlateau`` follows the
        loss of an epoch, or the validation score with `early_stopping`.
    lr_scheduler_params : dict, optional
        Options of the schedule.
    schedule_per : {"epoch", "batch"}
        After what the schedule goes on: an epoch (a call of `partial_fit` is one), or a step.
    clip_norm : float, optional
        The largest norm of all gradients together; see :func:`cyoptim.clip_grad_norm_`.
    weight_averaging : float, optional
        Predict, and measure the validation score, with a moving average of the parameters over the
        steps that keeps this share of itself at each. Training is not changed by it.
    batch_size : int or "auto"
        Samples a step; "auto": 200, or all if they are fewer.
    max_iter : int
        The most epochs.
    shuffle : bool
        Whether to shuffle the samples before each epoch.
    random_state : int, RandomState or None
        For shuffling and the validation split.
    tol : float or None
        By how much loss or score must improve to count; None: run all epochs.
    verbose : bool
        Print the loss of each epoch.
    warm_start : bool
        Whether `fit` goes on where the last call has stopped: coefficients, the optimizer's state,
        and the schedule.
    early_stopping : bool
        Keep some samples back, and stop when the score on them no longer improves;
        ``coef_`` are the best ones then. A further `fit` goes on from the last ones.
    validation_fraction : float
        The share that is kept back.
    n_iter_no_change : int
        Stop when loss or score has not improved by `tol` over so many epochs.
    class_weight : dict, "balanced" or None
        Factors of the weights of each class's samples; "balanced": inverse to their numbers.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        :math:`W^\top`.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        :math:`b`.
    classes_ : ndarray
        The classes.
    n_iter_ : int
        Epochs of the last call.
    t_ : int
        Samples seen.
    loss_curve_, lr_curve_ : list
        The mean loss of each epoch, and the learning rate at its end.
    loss_, best_loss_ : float
        The last and the smallest of ``loss_curve_``; the latter None with `early_stopping`.
    validation_scores_, best_validation_score_ : list and float, or None
        Accuracy after each epoch, and the best one.

    Raises
    ------
    ValueError, TypeError
        At `fit`, if a parameter has a bad value, before anything is trained.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` epochs were not enough for `tol`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> model = LinearClassifier("log_loss", optimizer="adamw", learning_rate_init=0.01)
    >>> for batch in range(0, 1600, 100):
    ...     rows = slice(batch, batch + 100)
    ...     model = model.partial_fit(X[rows] / 16, y[rows], classes=range(10))
    >>> model.coef_.shape
    (10, 64)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Linear._parameter_constraints,
        "loss": [StrOptions(set(_losses.MARGIN_LOSSES))],
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    def __init__(
        self,
        loss: str = "hinge",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        optimizer: str | Callable[..., Any] = "adam",
        optimizer_params: dict[str, Any] | None = None,
        learning_rate_init: float | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
        batch_size: int | str = "auto",
        max_iter: int = 1000,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float | None = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: dict[Any, float] | str | None = None,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate_init = learning_rate_init
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearClassifier:
        """Train for at most `max_iter` epochs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,)
            Their classes.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ.

        Returns
        -------
        LinearClassifier
            Itself.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> LinearClassifier:
        """Go on for one epoch over these samples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,)
            Their classes.
        classes : array, optional
            All classes; needed in the first call.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ within the call.

        Returns
        -------
        LinearClassifier
            Itself.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all samples at once: give partial_fit a dict"
            )
        return self._fit(X, y, sample_weight, incremental=True, classes=classes)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, incremental: bool, classes: Any = None
    ) -> LinearClassifier:
        recipe = self._checked_recipe()
        goes_on = self._goes_on(incremental)
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=not goes_on
        )
        check_classification_targets(y)
        if incremental:
            _check_partial_fit_first_call(self, classes)
        elif not goes_on:
            self.classes_ = np.unique(y)
        known = self.classes_
        if strange := np.setdiff1d(y, known).tolist():
            raise ValueError(f"y has classes {strange}, which are none of {known}")
        if len(known) < 2:
            raise ValueError(
                f"The number of classes has to be greater than one; got {len(known)} class"
            )
        weight = self._relative(sample_weight, X)
        targets = np.searchsorted(known, y)
        if self.class_weight is not None:
            factors = compute_class_weight(self.class_weight, classes=known, y=y)
            weight = weight * factors[targets].astype(X.dtype)
        self._train(recipe, X, targets, weight, 1 if len(known) == 2 else len(known), incremental)
        return self

    def _batch_loss(self) -> _losses.Loss:
        return _losses.classification(self.loss, len(self.intercept_))

    def _show(self, weights: Array, intercepts: Array) -> None:
        self.coef_, self.intercept_ = weights.T, intercepts

    def _score_of(self, X: Any, y: Array, weight: Array) -> float:
        return float(accuracy_score(y, self._winners(self._scores(X)), sample_weight=weight))

    def _winners(self, scores: Array) -> Array:
        if scores.shape[1] == 1:
            return (scores[:, 0] > 0).astype(np.intp)
        winners: Array = scores.argmax(axis=1)
        return winners

    def decision_function(self, X: Any) -> Array:
        """The scores of samples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes, the second one's.
        """
        scores = self._scores(self._checked(X))
        return scores[:, 0] if scores.shape[1] == 1 else scores

    def predict(self, X: Any) -> Array:
        """The class of each sample.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The classes.
        """
        scores = self._scores(self._checked(X))
        classes: Array = self.classes_[self._winners(scores)]
        return classes

    def _has_probabilities(self) -> bool:
        if self.loss not in ("log_loss", "modified_huber"):
            raise AttributeError(f"loss={self.loss!r} gives no probabilities")
        return True

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """The probabilities of the classes, of "log_loss" and "modified_huber".

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The probabilities.
        """
        scores = self._scores(self._checked(X))
        if self.loss == "log_loss" and scores.shape[1] > 1:
            shares: Array = softmax(scores, axis=1)
            return shares
        one: Array = expit(scores) if self.loss == "log_loss" else (np.clip(scores, -1, 1) + 1) / 2
        if one.shape[1] == 1:
            one = np.hstack([1 - one, one])
        # Where no class is likely, all are equally so.
        one[one.sum(axis=1) == 0] = 1
        one /= one.sum(axis=1, keepdims=True)
        return one

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of :meth:`predict_proba`.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            The logarithms.
        """
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.predict_proba(X))
        return logs


class LinearRegressor(MultiOutputMixin, RegressorMixin, _Linear):  # type: ignore[misc]
    r"""Linear regression, trained on mini-batches by any optimizer and schedule of this package.

    Minimizes :math:`\frac{1}{n} \sum_i w_i L(x_i W + b, y_i) + \alpha P(W)`, with weights
    :math:`w` of mean 1, over `X` that may be sparse. :class:`LinearClassifier` tells how it is
    trained.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"}
        :math:`L` of the residual :math:`r`, summed over the columns of `y`: :math:`r^2 / 2`; the
        same up to `epsilon` and linear beyond; or what :math:`|r|` exceeds `epsilon` by, or its
        square.
    epsilon : float
        See `loss`; it is not used by "squared_error".
    penalty, alpha, l1_ratio, fit_intercept : object
        See :class:`LinearClassifier`.
    optimizer, optimizer_params, learning_rate_init : object
        See :class:`LinearClassifier`.
    lr_scheduler, lr_scheduler_params, schedule_per : object
        See :class:`LinearClassifier`.
    clip_norm, weight_averaging, batch_size, max_iter, shuffle, random_state : object
        See :class:`LinearClassifier`.
    tol, verbose, warm_start, early_stopping, validation_fraction, n_iter_no_change : object
        See :class:`LinearClassifier`.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_targets, n_features)
        :math:`W^\top`.
    intercept_ : ndarray of shape (n_targets,)
        :math:`b`.
    n_iter_, t_, loss_, best_loss_, loss_curve_, lr_curve_ : object
        See :class:`LinearClassifier`.
    validation_scores_, best_validation_score_ : list and float, or None
        :math:`R^2` after each epoch, and the best one.

    Raises
    ------
    ValueError, TypeError
        At `fit`, if a parameter has a bad value, before anything is trained.

    Warns
    -----
    ConvergenceWarning
        If `max_iter` epochs were not enough for `tol`.

    Examples
    --------
    >>> X = np.random.default_rng(0).standard_normal((500, 3))
    >>> model = LinearRegressor("huber", optimizer="adam", learning_rate_init=0.1, random_state=0)
    >>> model.fit(X, X @ [1.0, -2.0, 0.5] + 3).coef_.round(1)
    array([ 1. , -2. ,  0.5])
    """

    _targets_shape: tuple[int, ...]
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **_Linear._parameter_constraints,
        "loss": [StrOptions(set(_losses.RESIDUAL_LOSSES))],
        "epsilon": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        epsilon: float = 0.1,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        optimizer: str | Callable[..., Any] = "adam",
        optimizer_params: dict[str, Any] | None = None,
        learning_rate_init: float | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
        batch_size: int | str = "auto",
        max_iter: int = 1000,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float | None = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
    ) -> None:
        self.loss = loss
        self.epsilon = epsilon
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate_init = learning_rate_init
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegressor:
        """Train for at most `max_iter` epochs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ.

        Returns
        -------
        LinearRegressor
            Itself.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegressor:
        """Go on for one epoch over these samples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ within the call.

        Returns
        -------
        LinearRegressor
            Itself.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> LinearRegressor:
        recipe = self._checked_recipe()
        goes_on = self._goes_on(incremental)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=[np.float64, np.float32],
            multi_output=True,
            y_numeric=True,
            reset=not goes_on,
        )
        targets = y.reshape(len(y), -1).astype(X.dtype, copy=False)
        if goes_on and self._targets_shape != y.shape[1:]:
            raise ValueError(
                f"y has shape {y.shape}, but before it was (n_samples, *{self._targets_shape})"
            )
        self._targets_shape = y.shape[1:]
        weight = self._relative(sample_weight, X)
        self._train(recipe, X, targets, weight, targets.shape[1], incremental)
        return self

    def _batch_loss(self) -> _losses.Loss:
        return _losses.regression(self.loss, self.epsilon)

    def _show(self, weights: Array, intercepts: Array) -> None:
        self.coef_ = weights.T if self._targets_shape else weights[:, 0]
        self.intercept_ = intercepts

    def _score_of(self, X: Any, y: Array, weight: Array) -> float:
        return float(r2_score(y, self._scores(X), sample_weight=weight))

    def predict(self, X: Any) -> Array:
        """The targets of samples.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            As many as there were in `fit`.
        """
        scores = self._scores(self._checked(X))
        return scores if self._targets_shape else scores[:, 0]
