"""scikit-learn's multi-layer perceptrons, trained by the optimizers of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from sklearn import neural_network

from cyoptim.optimizer import Optimizer
from cyoptim.sklearn import _solvers
from cyoptim.sklearn._solvers import DEFAULTS
from cyoptim.sklearn._training import (
    CONSTRAINTS,
    Array,
    Recipe,
    Training,
    checked_recipe,
    training_of,
)


class _Optimized:
    """scikit-learn's training loop around another optimizer.

    With an `optimizer`, a further fit continues its state, the schedule and the average, and is
    measured by its own data. With a `solver`, all of this is as in scikit-learn.
    """

    _training: Training | None = None
    solver: str
    optimizer: str | Callable[..., Any] | Optimizer | None
    learning_rate_init: float
    early_stopping: bool
    lr_curve_: list[float | list[float]]
    coefs_: list[Array]
    intercepts_: list[Array]
    _best_coefs: list[Array]
    _best_intercepts: list[Array]
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    best_validation_score_: float | None

    # A default is told from an equal value by identity, which a pickle would lose.
    def __getstate__(self) -> dict[str, Any]:
        state: Any = super().__getstate__()
        return {k: value for k, value in state.items() if value is not DEFAULTS.get(k, self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**DEFAULTS, **state})  # type: ignore[misc]

    def _validate_params(self) -> None:
        _solvers.check_name(self.solver)
        super()._validate_params()  # type: ignore[misc]

    def _recipe(self) -> Recipe:
        if self.optimizer is None:
            return _solvers.recipe_of(self)
        rate = self.learning_rate_init
        return Recipe.of_optimizer(self, None if rate is DEFAULTS["learning_rate_init"] else rate)

    def _fit(self, *args: Any, **kwargs: Any) -> Any:
        _solvers.check_spelling(self)
        if self.optimizer is not None or self.solver != "lbfgs":
            checked_recipe(self, self._training)
        return super()._fit(*args, **kwargs)  # type: ignore[misc]

    def _initialize(self, *args: Any) -> None:
        super()._initialize(*args)  # type: ignore[misc]
        self._training = None
        self.lr_curve_ = []

    def _fit_lbfgs(self, *args: Any) -> None:
        self._training = None
        super()._fit_lbfgs(*args)  # type: ignore[misc]

    def _fit_stochastic(self, *args: Any) -> None:
        *_, layer_units, incremental = args
        self._check_layers(layer_units)
        continues = self.optimizer is not None or incremental
        current = [*self.coefs_, *self.intercepts_]
        names = [f"coefs_.{i}" for i in range(len(self.coefs_))]
        names += [f"intercepts_.{i}" for i in range(len(self.intercepts_))]
        self._begin_curves()
        if self.optimizer is not None:
            self._watch(anew=not incremental)
        last = self._training if continues else None
        training = training_of(last, self._recipe(), names, current)
        training.resume(self, current, anew=not incremental)
        self._training = training
        self._optimizer = _solvers.Solver(training, self)
        self._show(training.arrays)
        try:
            with self._optimizer_is_given():
                super()._fit_stochastic(*args)  # type: ignore[misc]
        finally:
            best: list[Array] = []
            if self.early_stopping and hasattr(self, "_best_coefs"):
                best = [*self._best_coefs, *self._best_intercepts]
            self._show(training.show(best))
            if self.optimizer is not None and self.loss_curve_ and not self.early_stopping:
                self.best_loss_ = min(self.loss_curve_)

    def _check_layers(self, layer_units: Sequence[int]) -> None:
        """Refuse to continue with other layers: scikit-learn would train the old network."""
        found = [np.shape(coef)[:1] for coef in self.coefs_] + [np.shape(self.coefs_[-1])[1:]]
        sizes = [n for shape in found for n in shape]
        if sizes != list(layer_units):
            raise ValueError(
                f"cannot go on: the network has layers of {sizes}, but the data and "
                f"hidden_layer_sizes are of {list(layer_units)}; fit without warm_start"
            )

    def _begin_curves(self) -> None:
        """Set what is missing after ``solver="lbfgs"``, or coefficients that the user has set."""
        self.lr_curve_ = getattr(self, "lr_curve_", [])
        if not hasattr(self, "loss_curve_"):
            self.loss_curve_, self.validation_scores_ = [], None
            self._watch(anew=True)

    def _watch(self, anew: bool) -> None:
        """Reset losses and scores, as those of other data are not comparable."""
        early = self.early_stopping
        if early == (self.validation_scores_ is not None):
            if not anew:
                return
        else:
            self.validation_scores_ = [] if early else None
        self.best_loss_ = None if early else np.inf
        self.best_validation_score_ = -np.inf if early else None
        self._no_improvement_count = 0
        self._best_coefs = [np.array(coef) for coef in self.coefs_]
        self._best_intercepts = [np.array(intercept) for intercept in self.intercepts_]

    def _update_no_improvement_count(self, early_stopping: bool, *args: Any) -> None:
        training = self._training
        assert training is not None
        self._show(training.result())
        try:
            super()._update_no_improvement_count(early_stopping, *args)  # type: ignore[misc]
        finally:
            self._show(training.arrays)
        scores = self.validation_scores_ if early_stopping else self.loss_curve_
        assert scores is not None
        metric = scores[-1]
        self.lr_curve_.append(training.end_epoch(metric))

    def _show(self, arrays: Sequence[Array]) -> None:
        half = len(arrays) // 2
        self.coefs_, self.intercepts_ = list(arrays[:half]), list(arrays[half:])

    @contextmanager
    def _optimizer_is_given(self) -> Iterator[None]:
        """Provide our optimizer: scikit-learn creates only its own, but its loop accepts any."""
        solver, self.solver = self.solver, "cyoptim"
        try:
            yield
        finally:
            self.solver = solver


def _constraints(parent: Any) -> dict[str, list[Any]]:
    return {**CONSTRAINTS, **parent._parameter_constraints}


class MLPClassifier(_Optimized, neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's ``MLPClassifier``, trained by any optimizer and schedule of this package.

    The network, its gradients, the training loop and the fitted attributes are scikit-learn's;
    see `sklearn.neural_network.MLPClassifier`. With a `solver`, so are the results, to rounding.
    The step writes into ``coefs_`` and ``intercepts_``. With an `optimizer`, `partial_fit`, and
    `fit` with `warm_start`, continue its state and the schedule.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int
        Neurons of each hidden layer.
    activation : {"identity", "logistic", "tanh", "relu"}
        Activation of the hidden layers.
    solver : {"lbfgs", "sgd", "adam"}
        scikit-learn's solver: SciPy's L-BFGS-B, or this package's :class:`cyoptim.SGD` or
        :class:`cyoptim.Adam` in scikit-learn's form. `optimizer` replaces it.
    alpha : float
        Strength of the L2 penalty in the loss. The optimizer may have its own ``weight_decay``
        in addition, as AdamW by default.
    batch_size : int or "auto"
        Samples per step; "auto": 200, or all if they are fewer.
    learning_rate : {"constant", "invscaling", "adaptive"}
        scikit-learn's schedule of "sgd": `learning_rate_init`; this by a power of the number of
        samples; or a fifth of the last rate, whenever `n_iter_no_change` epochs bring no
        improvement.
    learning_rate_init : float
        The learning rate of "sgd" and "adam". With an `optimizer`: the option ``"lr"``, by default
        the optimizer's own.
    power_t : float
        The power of "invscaling".
    max_iter : int
        The largest number of epochs, or of iterations of "lbfgs".
    shuffle : bool
        Whether to shuffle the samples before each epoch.
    random_state : int, RandomState or None
        For initial weights, the validation split and shuffling.
    tol : float
        The least improvement of loss or score that counts.
    verbose : bool
        Print the loss of each epoch.
    warm_start : bool
        Whether `fit` continues from the coefficients of the last call; with an `optimizer`, also
        with its state.
    momentum, nesterovs_momentum : float and bool
        Momentum of "sgd", and whether it is Nesterov's.
    early_stopping : bool
        Hold some samples out, and stop when the score on them no longer improves. ``coefs_`` are
        then the best coefficients; with an `optimizer`, a further `fit` continues from the last
        ones.
    validation_fraction : float
        The share of samples held out.
    beta_1, beta_2, epsilon : float
        The decay rates of the two averages of "adam", and what it adds to the denominator before
        the bias correction.
    n_iter_no_change : int
        Stop after more than this number of epochs in a row without improvement.
    max_fun : int
        The largest number of evaluations of "lbfgs".
    optimizer : str, class, callable or Optimizer, optional
        The name of an optimizer of this package in any case, its class, or a function
        ``(params, **optimizer_params)`` that returns a :class:`cyoptim.Optimizer` over `params`,
        the ``(name, parameter)`` pairs ``"coefs_.0"``, ..., ``"intercepts_.0"``, ... Parameters
        that it omits are not trained. An optimizer stands for its class and options.
    optimizer_params : dict, optional
        Options of the optimizer.
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
        and for the validation score; see :mod:`cyoptim.swa_utils`. It does not affect training.

    Attributes
    ----------
    lr_curve_ : list
        The learning rate at the end of each epoch; a list of them if there are several groups.

    Raises
    ------
    ValueError, TypeError
        At `fit`, if a parameter has a bad value, or two spellings of one meet, before anything is
        trained.

    Notes
    -----
    If a parameter of optimizer or schedule changes between two fits with `warm_start`, a new
    optimizer begins, with a new schedule and average. With a `solver` each `fit` begins a new one,
    as in scikit-learn.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPClassifier(
    ...     (16,),
    ...     optimizer="adamw",
    ...     learning_rate_init=0.01,
    ...     lr_scheduler="CosineAnnealingLR",
    ...     lr_scheduler_params={"T_max": 200},
    ...     n_iter_no_change=200,
    ...     max_iter=200,
    ...     random_state=0,
    ... )
    >>> import warnings
    >>> with warnings.catch_warnings(action="ignore"):  # all epochs are done
    ...     bool(model.fit(X, y).score(X, y) > 0.95)
    True
    >>> round(model.lr_curve_[100], 4)
    0.005
    """

    _parameter_constraints = _constraints(neural_network.MLPClassifier)
    loss = "log_loss"

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = DEFAULTS["solver"],
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = DEFAULTS["learning_rate"],
        learning_rate_init: float = DEFAULTS["learning_rate_init"],
        power_t: float = DEFAULTS["power_t"],
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = DEFAULTS["momentum"],
        nesterovs_momentum: bool = DEFAULTS["nesterovs_momentum"],
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = DEFAULTS["beta_1"],
        beta_2: float = DEFAULTS["beta_2"],
        epsilon: float = DEFAULTS["epsilon"],
        n_iter_no_change: float = 10,
        max_fun: int = DEFAULTS["max_fun"],
        optimizer: str | Callable[..., Any] | Optimizer | None = None,
        optimizer_params: dict[str, Any] | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging


class MLPRegressor(_Optimized, neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's ``MLPRegressor``, trained by any optimizer and schedule of this package.

    See `sklearn.neural_network.MLPRegressor` for the network, and :class:`MLPClassifier` for the
    training.

    Parameters
    ----------
    loss : {"squared_error", "poisson"}
        The loss; "poisson" with scikit-learn 1.7 or later.
    hidden_layer_sizes, activation, solver, alpha, batch_size : object
        See :class:`MLPClassifier`.
    learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol : object
        See :class:`MLPClassifier`.
    verbose, warm_start, momentum, nesterovs_momentum, early_stopping : object
        See :class:`MLPClassifier`.
    validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change, max_fun : object
        See :class:`MLPClassifier`.
    optimizer, optimizer_params, lr_scheduler, lr_scheduler_params, schedule_per : object
        See :class:`MLPClassifier`.
    clip_norm, weight_averaging : object
        See :class:`MLPClassifier`.

    Attributes
    ----------
    lr_curve_ : list
        The learning rate at the end of each epoch; a list of them if there are several groups.

    Raises
    ------
    ValueError, TypeError
        At `fit`, if a parameter has a bad value, or two spellings of one meet, before anything is
        trained.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(-2, 2, 200)[:, None]
    >>> y = np.sin(2 * X.ravel())
    >>> model = MLPRegressor(
    ...     hidden_layer_sizes=(32,),
    ...     optimizer="radam",
    ...     learning_rate_init=0.05,
    ...     batch_size=20,
    ...     random_state=0,
    ... )
    >>> bool(model.fit(X, y).score(X, y) > 0.9)
    True
    """

    _parameter_constraints = _constraints(neural_network.MLPRegressor)

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: str = "relu",
        *,
        solver: str = DEFAULTS["solver"],
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str = DEFAULTS["learning_rate"],
        learning_rate_init: float = DEFAULTS["learning_rate_init"],
        power_t: float = DEFAULTS["power_t"],
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = DEFAULTS["momentum"],
        nesterovs_momentum: bool = DEFAULTS["nesterovs_momentum"],
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = DEFAULTS["beta_1"],
        beta_2: float = DEFAULTS["beta_2"],
        epsilon: float = DEFAULTS["epsilon"],
        n_iter_no_change: float = 10,
        max_fun: int = DEFAULTS["max_fun"],
        optimizer: str | Callable[..., Any] | Optimizer | None = None,
        optimizer_params: dict[str, Any] | None = None,
        lr_scheduler: str | Callable[..., Any] | None = None,
        lr_scheduler_params: dict[str, Any] | None = None,
        schedule_per: str = "epoch",
        clip_norm: float | None = None,
        weight_averaging: float | None = None,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.optimizer = optimizer
        self.optimizer_params = optimizer_params
        self.lr_scheduler = lr_scheduler
        self.lr_scheduler_params = lr_scheduler_params
        self.schedule_per = schedule_per
        self.clip_norm = clip_norm
        self.weight_averaging = weight_averaging
