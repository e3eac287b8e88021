"""The base of linear models: the loop over mini-batches, the penalty, and fitted attributes."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import scipy.sparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from cyoptim.optimizer import Optimizer
from cyoptim.sklearn import _descent, _losses
from cyoptim.sklearn._absolute import AbsoluteStep
from cyoptim.sklearn._compat import validate_data
from cyoptim.sklearn._training import (
    CONSTRAINTS,
    Array,
    Recipe,
    Training,
    check_real,
    training_of,
)

NOT_CONVERGED = "the loss or score still improves after max_iter={} epochs; tol=None runs them all"


def _check_finite(arrays: list[Array]) -> None:
    if not all(np.isfinite(array).all() for array in arrays):
        raise ValueError(
            "the coefficients are not finite: lower the learning rate, or scale the data"
        )


class LinearBase(BaseEstimator):  # type: ignore[misc]
    """The base of classifier and regressor: the loop, the penalty, and fitted attributes."""

    # Defaults of scikit-learn's stochastic gradient descent.
    _scikit_rate: ClassVar[str]
    _scikit_power: ClassVar[float]
    # The loss of its passive-aggressive steps.
    _aggressive_loss: ClassVar[str]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **CONSTRAINTS,
        "learning_rate_init": [Interval(Real, 0, None, closed="neither"), None],
        "learning_rate": [StrOptions(set(_descent.RATES)), None],
        "eta0": [Interval(Real, 0, None, closed="neither"), None],
        "power_t": [Interval(Real, 0, None, closed="left"), None],
        "average": ["boolean", Interval(Integral, 0, None, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="left")],
        "penalty": [StrOptions({"l2", "l1", "elasticnet"}), None],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "l1_ratio": [Interval(Real, 0, 1, closed="both"), None],
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

    coef_: Any
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

    def _recipe(self) -> Recipe:
        _descent.check_spelling(self)
        if self.learning_rate is not None:
            return _descent.recipe_of(self)
        return Recipe.of_optimizer(self, self.learning_rate_init, default="adam")

    def _goes_on(self, incremental: bool) -> bool:
        goes_on = hasattr(self, "coef_") and (incremental or self.warm_start)
        if goes_on and not hasattr(self, "n_features_in_"):
            raise ValueError(
                "coef_ was set before the first fit, which knows no intercept_ and no classes yet: "
                "fit once, with max_iter=1, and set it then"
            )
        return goes_on

    def _relative(self, sample_weight: Any, X: Any) -> Array:
        """Sample weights, scaled to mean 1."""
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
        self,
        recipe: Recipe,
        X: Any,
        y: Array,
        weight: Array,
        n_columns: int,
        incremental: bool,
        start: tuple[Any, Any] = (None, None),
    ) -> None:
        """Run one epoch, or epochs until the loss or score no longer improves."""
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        random_state = check_random_state(self.random_state)
        held_out = None
        if self.early_stopping:
            X, y, weight, *held_out = self._hold_out(X, y, weight, random_state)
        starts = self._starts(X, n_columns, *start)
        if not self._goes_on(incremental):
            self._begin(X, n_columns)
        for name, value in starts.items():
            setattr(self, name, value)
        if not incremental or self.early_stopping != (self.validation_scores_ is not None):
            self._watch()
        names, current = self._named_arrays(n_columns)
        # scikit-learn's rates begin again in each fit.
        last = self._training if incremental or self.learning_rate is None else None
        training = training_of(last, recipe, names, current)
        training.resume(self, current, anew=not incremental)
        self._show(*self._pair(training.arrays))
        self._training = training
        self.n_iter_ = 0
        try:
            for _ in range(1 if incremental else self.max_iter):
                self._run_epoch(training, X, y, weight, random_state)
                self._end_epoch(training, held_out)
                if self._has_converged(training.optimizer):
                    break
            else:
                if self.tol is not None and not incremental:
                    warn(NOT_CONVERGED.format(self.max_iter), ConvergenceWarning, stacklevel=5)
        finally:
            self._show(*self._pair(training.show(self._best)))
        _check_finite(training.shown)

    def _begin(self, X: Any, n_columns: int) -> None:
        self._training = None
        self._show(np.zeros((X.shape[1], n_columns), X.dtype), np.zeros(n_columns, X.dtype))
        self.t_ = 0
        self.loss_curve_: list[float] = []
        self.lr_curve_: list[float | list[float]] = []
        self.validation_scores_: list[float] | None = None
        self._watch()

    def _starts(self, X: Any, n_columns: int, coef: Any, intercept: Any) -> dict[str, Array]:
        """The attributes to begin at, those of them that are given."""
        starts = {}
        for name, shape, value in (
            ("coef_", (n_columns, X.shape[1]), coef),
            ("intercept_", (n_columns,), intercept),
        ):
            if value is None:
                continue
            check_real(f"{name}init", value)
            # Of one column, a vector or a number will do.
            fits = n_columns == 1 and np.size(value) == math.prod(shape)
            if not fits and np.shape(value) != shape:
                raise ValueError(f"{name}init has shape {np.shape(value)}, expected {shape}")
            starts[name] = np.array(value, X.dtype).reshape(shape)
        if not self.fit_intercept and "intercept_" in starts and starts["intercept_"].any():
            raise ValueError(
                f"intercept_init={intercept!r} and fit_intercept=False: drop one of them; without "
                "fit_intercept the intercept is 0"
            )
        return starts

    def _watch(self) -> None:
        """Reset losses and scores, as those of other data are not comparable."""
        if not self.early_stopping:
            self.validation_scores_ = None
        elif self.validation_scores_ is None:
            self.validation_scores_ = []
        self.best_validation_score_: float | None = None
        self.best_loss_: float | None = None
        self._best: list[Array] = []
        self._to_improve, self._no_improvement_count = np.inf, 0

    def _named_arrays(self, n_columns: int) -> tuple[list[str], list[Array]]:
        """The arrays to continue from, which the user may have set."""
        if scipy.sparse.issparse(self.coef_):
            self.densify()
        coef, intercept = np.asanyarray(self.coef_), np.atleast_1d(self.intercept_)
        expected = (n_columns, self.n_features_in_)
        # A vector is accepted for one column; other shapes of that size may be transposed.
        if coef.shape != expected and not (n_columns == 1 and coef.shape == expected[1:]):
            raise ValueError(f"cannot go on: coef_ has shape {coef.shape}, expected {expected}")
        weights = coef.reshape(n_columns, -1).T
        if not self.fit_intercept:
            return ["coef_"], [weights]
        return ["coef_", "intercept_"], [weights, intercept]

    def _pair(self, arrays: list[Array]) -> tuple[Array, Array]:
        """Weights and intercepts; zeros if there are no intercepts."""
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
            self._step(training, grads, batch.stop - batch.start)
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
        if self.learning_rate in _descent.AGGRESSIVE:
            slopes *= _descent.lengths(self, X, values)
        share = weight / X.shape[0]
        slopes *= share[:, None]
        absolute, squared = self._strengths()
        grads = [safe_sparse_dot(X.T, slopes)]
        penalty = 0.0
        if squared:
            grads[0] += squared * weights
            penalty += squared / 2 * float(np.vdot(weights, weights))
        if absolute:
            penalty += absolute * float(abs(weights).sum())
        if self.fit_intercept:
            grads.append(slopes.sum(axis=0))
        return float(values.sum(axis=1) @ share) + penalty, grads

    def _strengths(self) -> tuple[float, float]:
        """The factors of the absolute values, and of half the squares, of the weights."""
        ratio = {"l2": 0.0, "l1": 1.0, "elasticnet": self.l1_ratio}
        if self.penalty is None:
            return 0.0, 0.0
        share = float(ratio[self.penalty])
        return self.alpha * share, self.alpha * (1 - share)

    def _step(self, training: Training, grads: list[Array], n_samples: int) -> None:
        """Step along the gradients of loss and squares, and the slope of absolute values."""
        absolute, _ = self._strengths()
        if not absolute:
            training.step(grads, n_samples)
            return
        step = AbsoluteStep(training.arrays[0], grads[0], absolute)
        training.step([step.slope, *grads[1:]], n_samples, step.settle)

    def _end_epoch(self, training: Training, held_out: Any) -> None:
        """Record whether loss or score has improved, and step the schedule."""
        if held_out:
            metric = self._validate(training, *held_out)
            worse = -metric
        else:
            metric = worse = self.loss_
            self.best_loss_ = min(self.loss_curve_)
        self._no_improvement_count += 1
        # Small improvements of several epochs add up.
        if worse < self._to_improve - (self.tol or 0.0):
            self._to_improve, self._no_improvement_count = worse, 0
        self.lr_curve_.append(training.end_epoch(metric))

    def _has_converged(self, optimizer: Optimizer) -> bool:
        if self.tol is None or self._no_improvement_count < self.n_iter_no_change:
            return False
        if self.learning_rate == "adaptive" and _descent.lower_rate(optimizer):
            self._no_improvement_count = 0
            return False
        return True

    def _validate(self, training: Training, X: Any, y: Array, weight: Array) -> float:
        """The validation score; keeps the arrays if it is the best."""
        _check_finite(training.result())
        self._show(*self._pair(training.result()))
        score = self._score_of(X, y, weight)
        if self.verbose:
            print(f"validation score = {score:.8f}")
        assert self.validation_scores_ is not None
        if self.best_validation_score_ is None or score > self.best_validation_score_:
            self.best_validation_score_ = score
            self._best = [array.copy() for array in training.result()]
        self.validation_scores_.append(score)
        return score

    # --- coefficients -----------------------------------------------------------------------------

    def sparsify(self) -> Any:
        """Make ``coef_`` a SciPy CSR matrix, which is small if most coefficients are 0.

        Returns
        -------
        LinearClassifier or LinearRegressor
            Itself.
        """
        check_is_fitted(self)
        if not scipy.sparse.issparse(self.coef_):
            self.coef_ = scipy.sparse.csr_matrix(np.atleast_2d(self.coef_))
        return self

    def densify(self) -> Any:
        """Make ``coef_`` an array again, as a further fit does.

        Returns
        -------
        LinearClassifier or LinearRegressor
            Itself.
        """
        check_is_fitted(self)
        if scipy.sparse.issparse(self.coef_):
            self._show(self.coef_.toarray().T, self.intercept_)
        return self

    # --- prediction -------------------------------------------------------------------------------

    def _scores(self, X: Any) -> Array:
        """The scores, of shape (n, k)."""
        n_columns = len(self.intercept_)
        scores: Array = safe_sparse_dot(X, self.coef_.reshape(n_columns, -1).T, dense_output=True)
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
