"""The state of training: an optimizer over an estimator's arrays, its schedule, and an average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from numbers import Real
from operator import is_
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils._param_validation import Interval, StrOptions

from cyoptim import optimizers
from cyoptim._arrays.doors import check_unmasked, type_name
from cyoptim._groups.storage import refuse_storage
from cyoptim._names import OPTIMIZERS, SCHEDULERS, class_named
from cyoptim.lr_scheduler import ReduceLROnPlateau
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers._schedule_free import ScheduleFree
from cyoptim.parameter import Parameter
from cyoptim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn, move

Array = npt.NDArray[Any]

CONSTRAINTS: dict[str, list[Any]] = {
    "optimizer": [str, callable, Optimizer, None],
    "optimizer_params": [dict, None],
    "lr_scheduler": [str, callable, None],
    "lr_scheduler_params": [dict, None],
    "schedule_per": [StrOptions({"epoch", "batch"})],
    "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
    "weight_averaging": [Interval(Real, 0, 1, closed="both"), None],
}
"""What scikit-learn checks of the parameters that choose and drive an optimizer."""

UNSUITED = {
    optimizers.LBFGS: "it evaluates all data several times a step; the perceptrons have "
    "solver='lbfgs'",
    optimizers.SparseAdam: "it takes sparse gradients alone",
}
STORED = "an estimator's coefficients and their state are float32 or float64"


def _named(argument: str, value: Any, known: dict[str, type]) -> Any:
    """The class of this name; other values unchanged."""
    return class_named(argument, value, known, UNSUITED) if isinstance(value, str) else value


def is_set(value: Any) -> bool:
    """Whether a parameter whose default is None has another value; no options are none."""
    return value is not None and value != {}


def spelt(estimator: Any, names: Sequence[str]) -> str:
    """Parameters as they are written, for messages."""
    values = [getattr(estimator, name) for name in names]
    texts = [
        f"{type(value).__name__}(...)" if isinstance(value, Optimizer) else repr(value)
        for value in values
    ]
    return ", ".join(f"{name}={text}" for name, text in zip(names, texts, strict=True))


def _options_of(optimizer: Optimizer) -> dict[str, Any]:
    """The options that make another optimizer like this one, without numbers of its state."""
    known = signature(type(optimizer)).parameters
    return {name: value for name, value in optimizer.defaults.items() if name in known}


def _equal(a: Any, b: Any) -> bool:
    """Whether options are equal; they may be arrays."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a is b or bool(a == b)


@dataclass(frozen=True, eq=False)
class Recipe:
    """How to make an optimizer and its schedule. Training continues while both stay the same."""

    make_optimizer: Callable[..., Any]
    options: dict[str, Any]
    make_scheduler: Callable[..., Any] | None
    schedule: dict[str, Any]
    per: str
    mode: str  # whether a smaller or a larger metric is better

    @classmethod
    def of(cls, estimator: Any, make_optimizer: Any, options: dict[str, Any]) -> Recipe:
        """The recipe of this optimizer and of the estimator's schedule."""
        schedule = dict(estimator.lr_scheduler_params or {})
        if schedule and estimator.lr_scheduler is None:
            raise ValueError(f"lr_scheduler_params={schedule} without an lr_scheduler")
        return cls(
            make_optimizer,
            options,
            _named("lr_scheduler", estimator.lr_scheduler, SCHEDULERS),
            schedule,
            estimator.schedule_per,
            "max" if estimator.early_stopping else "min",
        )

    @classmethod
    def of_optimizer(cls, estimator: Any, lr: float | None, default: str = "") -> Recipe:
        """The recipe of an estimator with an `optimizer`; `lr` is its `learning_rate_init`."""
        make: Any = default if estimator.optimizer is None else estimator.optimizer
        options = dict(estimator.optimizer_params or {})
        if lr is not None:
            if "lr" in options:
                raise ValueError(
                    f"learning_rate_init={lr} and optimizer_params['lr']={options['lr']}: "
                    "give one of them"
                )
            options["lr"] = lr
        if isinstance(make, Optimizer):
            make, options = type(make), {**_options_of(make), **options}
        return cls.of(estimator, _named("optimizer", make, OPTIMIZERS), options)

    def same_as(self, other: Recipe) -> bool:
        """Whether both recipes make the same."""
        return _equal(vars(self), vars(other))

    def check(self) -> None:
        """Raise for options that a class does not take, before training begins.

        Functions are not called, as they may have effects, and expect the real arrays.
        """
        if not isinstance(self.make_optimizer, type):
            return
        trial = [(f"array {n}", Parameter(np.zeros((1,) * n))) for n in (2, 1)]
        optimizer = self.optimizer(trial)
        if isinstance(self.make_scheduler, type):
            self.scheduler(optimizer)

    def optimizer(self, params: list[tuple[str, Parameter]]) -> Optimizer:
        """An optimizer over these parameters, or some of them."""
        refuse_storage(self.options, STORED)
        optimizer = self.make_optimizer(params, **self.options)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer made a {type_name(optimizer)}, expected a cyoptim.Optimizer"
            )
        for cls, reason in UNSUITED.items():
            if isinstance(optimizer, cls):
                raise ValueError(f"optimizer cannot be {cls.__name__}: {reason}")
        for group in optimizer.param_groups:
            refuse_storage(group, STORED)
        given = {id(param) for _, param in params}
        if not {id(p) for group in optimizer.param_groups for p in group["params"]} <= given:
            names = ", ".join(name for name, _ in params)
            raise ValueError(f"optimizer has a parameter that is not one of {names}")
        return optimizer

    def scheduler(self, optimizer: Optimizer) -> Any:
        """The schedule of an optimizer; None without one."""
        if self.make_scheduler is None:
            return None
        options = self.schedule
        if self.make_scheduler is ReduceLROnPlateau:
            options = {"mode": self.mode, **options}
        scheduler = self.make_scheduler(optimizer, **options)
        if not callable(getattr(scheduler, "step", None)):
            raise TypeError(f"lr_scheduler made a {type_name(scheduler)}, which has no step()")
        if isinstance(scheduler, ReduceLROnPlateau):
            self._check_plateau(scheduler)
        return scheduler

    def _check_plateau(self, scheduler: ReduceLROnPlateau) -> None:
        if self.per == "batch":
            raise ValueError(
                "schedule_per='batch': ReduceLROnPlateau follows the loss or score of an epoch"
            )
        if scheduler.mode != self.mode:
            metric = {"min": "loss", "max": "validation score"}[self.mode]
            raise ValueError(
                f"lr_scheduler has mode={scheduler.mode!r}, but follows the {metric}: "
                f"expected mode={self.mode!r}"
            )


def checked_recipe(estimator: Any, last: Training | None) -> Recipe:
    """The recipe of an estimator; raises for bad parameters, before training begins."""
    # scikit-learn checks the parameters in the first partial_fit only.
    if last is None or not last.has_checked(estimator):
        estimator._validate_params()
    recipe: Recipe = estimator._recipe()
    if last is None or not last.recipe.same_as(recipe):
        recipe.check()
    if isinstance(recipe.make_optimizer, type):
        _check_average(estimator, recipe.make_optimizer)
    return recipe


def _parameters_of(estimator: Any) -> list[Any]:
    """The values of the parameters; get_params() would read the signature each time."""
    return [getattr(estimator, name, None) for name in estimator._parameter_constraints]


def _check_average(estimator: Any, kind: type) -> None:
    name = "average" if getattr(estimator, "average", False) else "weight_averaging"
    if issubclass(kind, ScheduleFree) and getattr(estimator, name) is not None:
        raise ValueError(
            f"{spelt(estimator, [name])}: {kind.__name__} averages the parameters itself; "
            f"drop {name}="
        )


def check_real(name: str, array: Any) -> None:
    """Raise for coefficients of the user that are no real numbers."""
    check_unmasked(array, name)
    if (dtype := np.asarray(array).dtype).kind not in "fiub":
        raise TypeError(f"{name} has dtype {dtype}, expected real numbers")


class TrainedArray(Parameter):
    """A Parameter that can be trained after joblib has mapped its file into memory, read-only."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _trained, (self.data,)


def _trained(array: Array) -> TrainedArray:
    return TrainedArray(_writable(array))


def _own(array: Array) -> Array:
    """A copy that can be trained; the user may have set the array, or mapped it into memory."""
    single = np.asarray(array).dtype == np.float32
    return np.array(array, np.float32 if single else np.float64)


def _writable(array: Array) -> Array:
    return array if array.flags.writeable else np.array(array)


class Training:
    """An optimizer over arrays, with its schedule and the moving average of the arrays.

    The arrays are trained in place. An estimator may show and predict with other arrays: the
    average, or the best so far. A later fit continues from the trained ones.

    The optimizer holds the arrays in Parameters: joblib duplicates an array with two references,
    but not other objects.
    """

    def __init__(self, recipe: Recipe, names: Sequence[str], arrays: Sequence[Array]) -> None:
        self.recipe = recipe
        self.params = [TrainedArray(array) for array in arrays]
        self.optimizer = recipe.optimizer(list(zip(names, self.params, strict=True)))
        if isinstance(self.optimizer, ScheduleFree):
            self.optimizer.train()
        self.scheduler = recipe.scheduler(self.optimizer)
        self.clip_norm: float | None = None
        self.decay: float | None = None
        self.average_from = 0  # samples before the mean of all steps begins; 0: there is none
        self.average: list[Array] = []
        self.count = 0  # steps in the average
        self.samples = 0  # seen since the optimizer began
        self.shown = list(arrays)
        self.checked: list[Any] = []  # the estimator's parameters in the last fit

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.average = [_writable(array) for array in self.average]
        for entries in self.optimizer.state.values():
            for name, value in entries.items():
                if isinstance(value, np.ndarray):
                    entries[name] = _writable(value)

    @property
    def arrays(self) -> list[Array]:
        """The arrays that are trained."""
        return [param.data for param in self.params]

    @property
    def lr(self) -> float | list[float]:
        """The learning rate, NaN if the optimizer has none; a list if there are several groups."""
        found = [group["lr"] for group in self.optimizer.param_groups]
        lrs = [float("nan" if lr is None else lr) for lr in found]  # some compute it themselves
        return lrs if len(lrs) > 1 else lrs[0]

    def has_checked(self, estimator: Any) -> bool:
        """Whether all parameters are the same objects as in the last fit."""
        now = _parameters_of(estimator)
        return len(now) == len(self.checked) and all(map(is_, now, self.checked))

    def resume(self, estimator: Any, current: Sequence[Array], anew: bool) -> None:
        """Begin a fit: apply the estimator's settings, and values that the user has assigned.

        `anew`: the data may be others, so earlier losses are not comparable.
        """
        if anew and isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler._reset()
        self.checked = _parameters_of(estimator)
        self.clip_norm, self.decay = estimator.clip_norm, estimator.weight_averaging
        self.average_from = int(getattr(estimator, "average", 0))
        _check_average(estimator, type(self.optimizer))
        if self.decay is None and not self.average_from:
            self.count = 0
        shapes = [[np.shape(array) for array in arrays] for arrays in (self.shown, current)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"cannot go on: there are arrays of shapes {shapes[1]}, expected {shapes[0]}; "
                "another model needs a fit without warm_start"
            )
        pairs = list(zip(current, self.shown, strict=True))
        if not all(now is shown or np.array_equal(now, shown) for now, shown in pairs):
            for array, now in zip(self.arrays, current, strict=True):
                array[...] = now
            self.count = 0
            self._restart_average()

    def _restart_average(self) -> None:
        """Forget the average that the optimizer keeps of values before these."""
        if isinstance(self.optimizer, ScheduleFree):
            for group in self.optimizer.param_groups:
                group["weight_sum"] = 0.0
                for param in group["params"]:
                    self.optimizer.state[param].pop("z", None)

    def step(
        self,
        grads: Sequence[Array],
        n_samples: int = 1,
        settle: Callable[[Array], None] | None = None,
    ) -> None:
        """Step along these gradients of some samples, one for each array.

        `settle` corrects the first array after the step.
        """
        for param, grad in zip(self.params, grads, strict=True):
            # scikit-learn's are float64 where float32 meets sample weights.
            param.grad = grad.astype(param.data.dtype, copy=False)
        if self.clip_norm is None:
            self.optimizer.step()
        else:
            self.optimizer.step(max_norm=self.clip_norm)
        for param in self.params:
            param.grad = None
        # An optimizer that averages has a copy of the array, which would remain.
        if settle is not None and not isinstance(self.optimizer, ScheduleFree):
            settle(self.arrays[0])
        self.samples += n_samples
        if self.decay is not None:
            self._take_average(get_ema_multi_avg_fn(self.decay))
        elif 0 < self.average_from <= self.samples:
            self._take_average(get_swa_multi_avg_fn())
        self._last_lr = self.lr
        if self.scheduler is not None and self.recipe.per == "batch":
            self.scheduler.step()

    def _take_average(self, move_towards: Any) -> None:
        if self.count == 0:
            self.average = [array.copy() for array in self.arrays]
        else:
            move(self.average, self.arrays, self.count, None, move_towards)
        self.count += 1

    def show(self, best: list[Array]) -> list[Array]:
        """The arrays for an estimator to show: the best, or else the result. Arrays that are not
        trained are copied, to notice values that the user writes into them."""
        self.shown = best or self.result()
        pairs = zip(self.shown, self.arrays, strict=True)
        return [shown if shown is trained else shown.copy() for shown, trained in pairs]

    def result(self) -> list[Array]:
        """The arrays to predict with: the average if there is one."""
        if isinstance(self.optimizer, ScheduleFree):
            with self.optimizer.averaged():
                return [array.copy() for array in self.arrays]
        return self.average if self.count else self.arrays

    def end_epoch(self, metric: float) -> float | list[float]:
        """Step the schedule; return the learning rate of the epoch, at its last step."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(metric)
        elif self.scheduler is not None and self.recipe.per == "epoch":
            self.scheduler.step()
        return self._last_lr


def training_of(
    last: Training | None, recipe: Recipe, names: Sequence[str], arrays: Sequence[Array]
) -> Training:
    """The last training or its successor; if there is none, a new one of copies of `arrays`."""
    for name, array in zip(names, arrays, strict=True):
        check_real(f"cannot go on: {name}", array)
    if last is None:
        return Training(recipe, names, [_own(array) for array in arrays])
    if last.recipe.same_as(recipe):
        return last
    arrays = last.result() if isinstance(last.optimizer, ScheduleFree) else last.arrays
    training = Training(recipe, names, arrays)
    training.shown = last.shown
    return training
