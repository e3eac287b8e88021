"""Linear models trained on mini-batches, dense or sparse, by the optimizers of this package."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, _fit_context
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, check_classification_targets

from cyoptim.optimizer import Optimizer
from cyoptim.sklearn import _losses
from cyoptim.sklearn._compat import validate_data
from cyoptim.sklearn._linear_base import LinearBase
from cyoptim.sklearn._training import Array, checked_recipe


class LinearClassifier(ClassifierMixin, LinearBase):  # type: ignore[misc]
    r"""Linear classifier, trained on mini-batches by any optimizer and schedule of this package.

    Minimizes :math:`\frac{1}{n} \sum_i w_i L(x_i W + b, y_i) + \alpha P(W)`, with weights
    :math:`w` of mean 1, over `X` that may be sparse.

    Parameters
    ----------
    loss : str
        :math:`L`: "hinge", "squared_hinge", "modified_huber", "log_loss" or "perceptron", or one of
        :class:`LinearRegressor`, which takes the classes as 1 and -1. For several classes,
        "log_loss" uses their softmax; the other losses use the margins of each class against the
        rest.
    penalty : {"l2", "l1", "elasticnet"} or None
        :math:`P`: half the squared norm, the sum of absolute values, or both. "l1" makes
        coefficients exactly zero: each step is a proximal step in the metric of the optimizer.
    alpha : float
        Strength of the penalty.
    l1_ratio : float or None
        Share of "l1" in "elasticnet".
    fit_intercept : bool
        Whether to fit :math:`b`, which has no penalty.
    max_iter : int
        The largest number of epochs.
    tol : float or None
        The least improvement of loss or score that counts; None: run all epochs.
    shuffle : bool
        Whether to shuffle the samples before each epoch.
    verbose : bool
        Print the loss of each epoch.
    epsilon : float
        See :class:`LinearRegressor`.
    n_jobs : int, optional
        Accepted as in scikit-learn, without effect: all classes are trained together.
    random_state : int, RandomState or None
        For shuffling and the validation split.
    learning_rate : {"constant", "optimal", "invscaling", "adaptive", "pa1", "pa2"}, optional
        Train by scikit-learn's stochastic gradient descent. In step :math:`t`, its rate is `eta0`;
        :math:`1 / (\alpha (t_0 + t - 1))`, from :math:`\alpha^{-1/4}` down; `eta0` by
        :math:`t` to the power of `power_t`; or a fifth of the last rate, whenever
        `n_iter_no_change` epochs bring no improvement. "pa1" and "pa2" are passive-aggressive
        steps, for the loss "hinge" or, of :class:`LinearRegressor`, "epsilon_insensitive": each
        sample takes the step of length :math:`\min(\eta_0, L / |x|^2)`, or
        :math:`L / (|x|^2 + 1 / (2 \eta_0))`, along itself, and a batch the mean of these. By
        default, `optimizer` trains.
    eta0 : float, optional
        See `learning_rate`; by default 0.01.
    power_t : float, optional
        See `learning_rate`; by default 0.5, for :class:`LinearRegressor` 0.25.
    early_stopping : bool
        Hold some samples out, and stop when the score on them no longer improves;
        ``coef_`` are then the best coefficients. A further `fit` continues from the last ones.
    validation_fraction : float
        The share of samples held out.
    n_iter_no_change : int
        Stop when loss or score has not improved by `tol` over this number of epochs.
    class_weight : dict, "balanced" or None
        Factors of the weights of each class's samples; "balanced": inverse to their numbers.
    warm_start : bool
        Whether `fit` continues from the end of the last call, with its coefficients, the
        optimizer's state, and the schedule; with `learning_rate`, with its coefficients.
    average : bool or int
        Predict with the mean of the coefficients after each step, or after each one since this
        number of samples.
    batch_size : int or "auto"
        Samples per step; "auto": 200, or all if they are fewer.
    optimizer : str, class, callable or Optimizer, optional
        The name of an optimizer of this package in any case, its class, or a function
        ``(params, **optimizer_params)`` that returns a :class:`cyoptim.Optimizer` over `params`,
        the pairs ``("coef_", parameter)`` and ``("intercept_", parameter)``. An optimizer stands
        for its class and options. By default Adam.
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
        When the schedule steps: after each epoch (a call of `partial_fit` is one), or each step.
    clip_norm : float, optional
        The largest norm of all gradients together; see :func:`cyoptim.clip_grad_norm_`.
    weight_averaging : float, optional
        The decay of a moving average of the parameters over the steps, which is used to predict
        and for the validation score. It does not affect training.

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
        At `fit`, if a parameter has a bad value, or two spellings of one meet, before anything is
        trained.

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

    _scikit_rate: ClassVar[str] = "optimal"
    _scikit_power: ClassVar[float] = 0.5
    _aggressive_loss: ClassVar[str] = "hinge"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **LinearBase._parameter_constraints,
        "loss": [StrOptions({*_losses.MARGIN_LOSSES, *_losses.RESIDUAL_LOSSES})],
        "n_jobs": [Integral, None],
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
        max_iter: int = 1000,
        tol: float | None = 1e-4,
        shuffle: bool = True,
        verbose: bool = False,
        epsilon: float = 0.1,
        n_jobs: int | None = None,
        random_state: Any = None,
        learning_rate: str | None = None,
        eta0: float | None = None,
        power_t: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        class_weight: dict[Any, float] | str | None = None,
        warm_start: bool = False,
        average: bool | int = False,
        batch_size: int | str = "auto",
        optimizer: str | Callable[..., Any] | Optimizer | None = None,
        optimizer_params: dict[str, Any] | None = None,
        learning_rate_init: float | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate_init = learning_rate_init
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> LinearClassifier:
        """Train for at most `max_iter` epochs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,)
            Their classes.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ.
        coef_init, intercept_init : array, optional
            Where to begin, instead of at 0, or at the end of the last `fit` with `warm_start`.

        Returns
        -------
        LinearClassifier
            Itself.
        """
        start = coef_init, intercept_init
        return self._fit(X, y, sample_weight, incremental=False, start=start)

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
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        classes: Any = None,
        start: tuple[Any, Any] = (None, None),
    ) -> LinearClassifier:
        recipe = checked_recipe(self, self._training)
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
            raise ValueError(f"y has classes {strange}, which are not among {known}")
        if len(known) < 2:
            raise ValueError(
                f"The number of classes has to be greater than one; got {len(known)} class"
            )
        weight = self._relative(sample_weight, X)
        targets = np.searchsorted(known, y)
        if self.class_weight is not None:
            factors = compute_class_weight(self.class_weight, classes=known, y=y)
            weight = weight * factors[targets].astype(X.dtype)
        n_columns = 1 if len(known) == 2 else len(known)
        self._train(recipe, X, targets, weight, n_columns, incremental, start)
        return self

    def _batch_loss(self) -> _losses.Loss:
        return _losses.classification(self.loss, len(self.intercept_), self.epsilon)

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
            The scores; for two classes, those of the second.
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
        """The probabilities of the classes, for "log_loss" and "modified_huber".

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
        # If no class is likely, all are equally likely.
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


class LinearRegressor(MultiOutputMixin, RegressorMixin, LinearBase):  # type: ignore[misc]
    r"""Linear regression, trained on mini-batches by any optimizer and schedule of this package.

    Minimizes :math:`\frac{1}{n} \sum_i w_i L(x_i W + b, y_i) + \alpha P(W)`, with weights
    :math:`w` of mean 1, over `X` that may be sparse. See :class:`LinearClassifier` for the
    training.

    Parameters
    ----------
    loss : {"squared_error", "huber", "epsilon_insensitive", "squared_epsilon_insensitive"}
        :math:`L` of the residual :math:`r`, summed over the columns of `y`: :math:`r^2 / 2`; the
        same up to `epsilon` and linear beyond; or the excess of :math:`|r|` over `epsilon`, or its
        square.
    epsilon : float
        See `loss`; "squared_error" ignores it.
    penalty, alpha, l1_ratio, fit_intercept, max_iter, tol, shuffle, verbose : object
        See :class:`LinearClassifier`.
    random_state, learning_rate, eta0, power_t, early_stopping, validation_fraction : object
        See :class:`LinearClassifier`.
    n_iter_no_change, warm_start, average, batch_size : object
        See :class:`LinearClassifier`.
    optimizer, optimizer_params, learning_rate_init, lr_scheduler, lr_scheduler_params : object
        See :class:`LinearClassifier`.
    schedule_per, clip_norm, weight_averaging : object
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
        At `fit`, if a parameter has a bad value, or two spellings of one meet, before anything is
        trained.

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
    _scikit_rate: ClassVar[str] = "invscaling"
    _scikit_power: ClassVar[float] = 0.25
    _aggressive_loss: ClassVar[str] = "epsilon_insensitive"
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **LinearBase._parameter_constraints,
        "loss": [StrOptions(set(_losses.RESIDUAL_LOSSES))],
    }

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        penalty: str | None = "l2",
        alpha: float = 0.0001,
        l1_ratio: float = 0.15,
        fit_intercept: bool = True,
        max_iter: int = 1000,
        tol: float | None = 1e-4,
        shuffle: bool = True,
        verbose: bool = False,
        epsilon: float = 0.1,
        random_state: Any = None,
        learning_rate: str | None = None,
        eta0: float | None = None,
        power_t: float | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        average: bool | int = False,
        batch_size: int | str = "auto",
        optimizer: str | Callable[..., Any] | Optimizer | None = None,
        optimizer_params: dict[str, Any] | None = None,
        learning_rate_init: float | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
    ) -> None:
        self.loss = loss
        self.penalty = penalty
        self.alpha = alpha
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.max_iter = max_iter
        self.tol = tol
        self.shuffle = shuffle
        self.verbose = verbose
        self.epsilon = epsilon
        self.random_state = random_state
        self.learning_rate = learning_rate
        self.eta0 = eta0
        self.power_t = power_t
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.batch_size = batch_size
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.learning_rate_init = learning_rate_init
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        coef_init: Any = None,
        intercept_init: Any = None,
    ) -> LinearRegressor:
        """Train for at most `max_iter` epochs.

        Parameters
        ----------
        X : array or sparse matrix of shape (n_samples, n_features)
            The samples.
        y : array of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        sample_weight : array of shape (n_samples,), optional
            Their weights; what counts is how they differ.
        coef_init, intercept_init : array, optional
            Where to begin, instead of at 0, or at the end of the last `fit` with `warm_start`.

        Returns
        -------
        LinearRegressor
            Itself.
        """
        start = coef_init, intercept_init
        return self._fit(X, y, sample_weight, incremental=False, start=start)

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

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        incremental: bool,
        start: tuple[Any, Any] = (None, None),
    ) -> LinearRegressor:
        recipe = checked_recipe(self, self._training)
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
        self._train(recipe, X, targets, weight, targets.shape[1], incremental, start)
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
            The targets, as many as in `fit`.
        """
        scores = self._scores(self._checked(X))
        return scores if self._targets_shape else scores[:, 0]
