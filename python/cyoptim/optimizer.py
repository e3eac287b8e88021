"""The base of all optimizers: parameter groups, lazy state, the step, and state_dict."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from cyoptim._arrays.doors import check_disjoint, view_parameter
from cyoptim._averages.moving import MovingAverage, begin_average
from cyoptim._engine import Averaged, Commit, Extras, Plan, detours
from cyoptim._gradients.aligned import (
    EditedNames,
    align,
    check_closure,
    check_droppable,
    check_unrecorded,
    evaluate,
    loss_and_grads,
    warn_if_forgotten,
)
from cyoptim._gradients.reset import reset_gradients
from cyoptim._gradients.sums import Sums
from cyoptim._groups.attributes import OptionOfGroups
from cyoptim._groups.completion import add_groups, complete_group
from cyoptim._groups.groups import (
    as_groups,
    check_one_group_each,
    check_spelling,
    labels_of,
    note_shards,
    options_of_others,
    own_group,
    parameters_of,
    share_groups,
)
from cyoptim._groups.names import Named, renamed
from cyoptim._groups.native import rules_of
from cyoptim._groups.options import check_switch, plain_options, required, without_unset
from cyoptim._groups.stored import check_stored
from cyoptim._saving.files import follow, map_state
from cyoptim._saving.foreign import to_the_package
from cyoptim._saving.saving import contents_of, state_dict_of
from cyoptim._shown import lines_of_groups, table_of_groups
from cyoptim._state.form import Form
from cyoptim._state.mapping import State
from cyoptim._step.definition import Definition
from cyoptim._step.hooks import (
    call_around_step,
    calls_step,
    hooks_in,
    is_minimize,
    minimized,
    passed_through,
    recorded,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
    with_hooks,
)
from cyoptim._step.receipt import Asked, StepReceipt, extras_of, receipt_of
from cyoptim._step.scaler import ScalerInput, ScalesItself, scaler_inputs
from cyoptim._step.updates import update_all
from cyoptim._types import Args, Gradients, Group, Kwargs, NonfinitePolicy, ParamsT, StateDict

__all__ = [
    "Optimizer",
    "ParamsT",
    "StepReceipt",
    "register_optimizer_step_post_hook",
    "register_optimizer_step_pre_hook",
    "required",
]

GlobalOptimizerPreHook: TypeAlias = Callable[
    ["Optimizer", Args, Kwargs], tuple[Args, Kwargs] | None
]
GlobalOptimizerPostHook: TypeAlias = Callable[["Optimizer", Args, Kwargs], None]


class Optimizer(Definition):
    """Base class for all optimizers.

    Parameters
    ----------
    params : iterable or tree
        Parameters, ``(name, parameter)`` pairs, or dicts that each define a
        group, with ``"params"`` and options that differ from the defaults. Or a tree: parameters
        nested in dicts, lists, tuples, dataclasses and pytrees of JAX, with names as
        :func:`cyoptim.named_leaves` gives them; a dict with the key ``"params"`` is a group, which
        may contain a tree. A parameter is a :class:`cyoptim.Parameter`, a writable ndarray, a CPU
        torch tensor, or any object with ``.data`` and ``.grad`` arrays; float32, float64, complex64
        or complex128 (a complex number is optimized as a pair of real numbers, as in torch), or,
        where steps are native rules, float16 or bfloat16; of any shape and layout.
    defaults : dict
        Options of groups that do not set their own.

    Attributes
    ----------
    param_groups : list of dict
        The groups; a change of an option (``opt.param_groups[0]["lr"] = 0.1``) takes effect at the
        next step.
    state : mapping
        ``state[p]`` is the dict of the parameter's state: arrays (for a torch tensor: tensors) of
        the parameter's shape and dtype, or of those that :class:`cyoptim.StorageOptions` ask for,
        under torch's names, and the step count. Parameters are keys by identity.
    defaults : dict
        The options given to the constructor.

    Raises
    ------
    TypeError
        If a parameter is not an array, or has another dtype.
    ValueError
        If there are no parameters, if two of them share memory, if one is read-only, or if an
        option has a value out of range or a misspelt name.
    RuntimeError
        If ``fused`` is set together with ``foreach`` or ``differentiable``.

    Warns
    -----
    UserWarning
        If a group lists a parameter twice, or has an unknown option.
    """

    OptimizerPreHook: ClassVar[Any] = GlobalOptimizerPreHook
    OptimizerPostHook: ClassVar[Any] = GlobalOptimizerPostHook

    # The arguments of the last step besides gradients, and its results.
    _extras: Extras | None = None
    _average: MovingAverage | None = None
    # Rules that change every gradient before the rule of its group, and their scalars.
    _stages: tuple[tuple[str, tuple[float, ...]], ...] = ()
    # Whether a group has differentiable=True, which a step must check.
    _differentiable: bool = False
    # Whether it has neither stepped nor taken over what another has done.
    _is_new: bool = True
    _plan: Any = None
    _named: Named | None = None
    _sums: Sums
    _state: State
    param_groups: list[Group]
    defaults: dict[str, Any]
    # For torch.amp.GradScaler.
    grad_scale: ScalerInput = ScalerInput()
    found_inf: ScalerInput = ScalerInput()
    _step_supports_amp_scaling = ScalesItself()
    _has_scaler_inputs: bool = False

    if not TYPE_CHECKING:
        lr, momentum, weight_decay, betas, eps = (OptionOfGroups() for _ in range(5))
        learning_rate = OptionOfGroups("lr")

    def _make_own(self) -> None:
        super()._make_own()
        self._sums, self._state = Sums(), State()

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        self.defaults = {}
        self.defaults = self._plain_group(without_unset(defaults, self))
        self._state = State()
        self.param_groups = []
        share_groups(params, self)
        groups = [own_group(group, self) for group in as_groups(params, type(self).__name__)]
        if type(self).add_param_group is Optimizer.add_param_group:
            add_groups(groups, self)
        else:  # a subclass overrides it
            for group in groups:
                self.add_param_group(group)

    @property
    def state(self) -> State:
        """The state of each parameter, as arrays under torch's names and the step count."""
        return self._state

    @state.setter
    def state(self, value: Mapping[Any, Any]) -> None:
        self._turn.write("setting the state", self._replace_state, value)

    def _replace_state(self, value: Mapping[Any, Any]) -> None:
        self._settle_names()
        state = State()
        state.update(value)
        commit = Commit()
        if hasattr(self, "param_groups"):
            self._plan_for(self.param_groups, state, self._average, commit)
        commit.set(self, "_state", state)
        commit.run()

    @property
    def _opt_called(self) -> bool:
        """Whether the optimizer has stepped: schedulers warn if they are stepped first."""
        return self._turn.has_stepped

    @_opt_called.setter
    def _opt_called(self, value: bool) -> None:
        self._turn.has_stepped = value

    # --- what an optimizer defines: see Definition ------------------------------------------------

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "step" in cls.__dict__:
            cls._take_step(cls.__dict__["step"])
        if {"step", "update"} & cls.__dict__.keys():  # its state may have any entries
            if "_essential_state" not in cls.__dict__:
                cls._essential_state = ()
            if "_lacks" not in cls.__dict__:
                cls._lacks = Definition._lacks  # type: ignore[method-assign]
        if "update" in cls.__dict__:
            cls._steps_itself = False
            cls._prepares_update = "_prepare_update" in cls.__dict__
            # A parent that has rules alone; one with an update, too, tells which groups are whose.
            native = getattr(super(cls, cls), "update", None) is Optimizer.update
            if native and not {"_rule", "_rule_of"} & cls.__dict__.keys():
                cls._rule, cls._rules = None, ()
                cls._rule_of = Optimizer._rule_of  # type: ignore[method-assign]
        cls._defined = cls._is_native() or cls._has_update()

    @classmethod
    def _take_step(cls, step: Callable[..., Any]) -> None:
        """Inspect a subclass's step(), and wrap it with hooks and averages."""
        if "_steps_along_sums" not in cls.__dict__:
            cls._steps_itself = True
            # A step() that calls its parent's uses sums as that does.
            cls._steps_along_sums = cls._steps_along_sums and calls_step(cls, step)
        averages = bool(cls.__dict__.get("_averages_itself"))
        cls.step = with_hooks(step, averages)  # type: ignore[method-assign]

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        """Update one parameter: the method that a custom optimizer overrides.

        A step checks all gradients, then calls it for each parameter that has one. Groups,
        schedulers, hooks, closures, ``state_dict``, checkpoints and
        every kind of parameter work as for the optimizers of this package.

        Parameters
        ----------
        param : ndarray
            The parameter's memory, to be changed in place (``param -= ...``, ``param[...] = ...``).
        grad : ndarray
            Its gradient, of the same shape and dtype; do not change it.
        state : dict
            The parameter's state, empty at first; its numbers and arrays are saved and loaded
            under their names.
        group : dict
            The options of the parameter's group.

        Examples
        --------
        Gradient descent along the sign of an average of the gradients [1]_:

        >>> import numpy as np
        >>> class SignDescent(Optimizer):
        ...     def __init__(self, params, lr=1e-4, momentum=0.9):
        ...         super().__init__(params, {"lr": lr, "momentum": momentum})
        ...
        ...     def update(self, param, grad, state, group):
        ...         average = state.setdefault("average", np.zeros_like(param))
        ...         average += (1 - group["momentum"]) * (grad - average)
        ...         param -= group["lr"] * np.sign(average)
        >>> w = np.array([1.0, -2.0])
        >>> SignDescent([w], lr=0.1).step(grads=[2 * w])
        >>> w
        array([ 0.9, -1.9])

        References
        ----------
        .. [1] J. Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems",
           ICML 2018.
        """
        raise self._undefined()

    def _undefined(self) -> NotImplementedError:
        return NotImplementedError(
            f"{type(self).__name__} defines no step: override update(param, grad, state, group)"
        )

    @classmethod
    def _has_update(cls) -> bool:
        return cls.update is not Optimizer.update

    @classmethod
    def _is_native(cls) -> bool:
        """Whether its groups may have native rules."""
        return cls._rule is not None or cls._rule_of is not Optimizer._rule_of

    def _form(self) -> Form:
        """The required form of a state, for loading and saving."""
        return Form(self)

    # --- groups -----------------------------------------------------------------------------------

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters, for instance layers to be trained from now on.

        The dict itself becomes the group. If it is a group of another optimizer, a copy without
        that one's defaults becomes the group.

        Parameters
        ----------
        param_group : dict
            ``"params"`` and options that differ from the defaults.

        Raises
        ------
        TypeError, ValueError
            As the constructor. Then the optimizer does not change.
        """
        group = own_group(param_group, self)
        self._turn.write("add_param_group()", self._add_param_group, group)

    def _add_param_group(self, param_group: Group) -> None:
        self._settle_names()
        add_groups([param_group], self)

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        """A copy with names and defaults, checked without the plan."""
        return complete_group(param_group, others, self)

    def _check_written(self, group: Group, number: int, before: int) -> None:
        """Refuse misspelt options that were written into a group behind those `before`."""
        known = {**self._unset_options(), **self._defaults_for(group, self.defaults)}
        known |= {name: 0 for rule in rules_of(type(self)) for name in rule.group_numbers}
        others = options_of_others(group)
        written = [name for name in list(group)[before:] if name not in others]
        check_spelling(written, number, known, type(self).__name__)

    def _plain_group(self, group: Group) -> Group:
        """A copy of a group with Python numbers."""
        own = type(self)._check_options is not Optimizer._check_options
        plain = plain_options(group, rules=own)
        # Steps write these in place. Those of them that count are whole numbers.
        for name in {name for rule in rules_of(type(self)) for name in rule.group_numbers}:
            if isinstance(plain.get(name), np.ndarray):
                plain[name] = float(plain[name])
            value = plain.get(name)
            if type(self.defaults.get(name)) is int and type(value) is float and value.is_integer():
                plain[name] = int(value)
        return plain

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        """A plan for these groups and state, after all checks of parameters."""
        labels = labels_of(groups)
        params = list(parameters_of(groups))
        doors = [view_parameter(p, label) for p, label in zip(params, labels, strict=True)]
        check_one_group_each(groups, labels)
        check_disjoint([view for _, view in doors], params, labels)
        plan = Plan(
            doors,
            labels,
            groups,
            self._counts_steps,
            state.watch,
            self._only_sparse,
            self._turn,
            rules_of(type(self)),
        )
        if plan.coded:
            check_stored(groups, plan.arrays(), labels, self)
        if type(self)._is_apart is not Optimizer._is_apart:
            plan.set_apart([i for i, (_, view) in enumerate(doors) if self._is_apart(view.shape)])
        for rule, scalars in self._stages:
            plan.precede(rule, scalars)
        note_shards(plan, groups, labels, self)
        return plan

    def _plan_for(
        self,
        groups: list[Group],
        state: State,
        average: MovingAverage | None,
        commit: Commit,
    ) -> Plan:
        """Prepare to step these groups; `commit` will make the new plan the optimizer's."""
        plan = self._make_plan(groups, state)
        if average is not None:
            average.attach(plan, groups, commit)
        differentiable = any(group.get("differentiable") for group in groups)
        commit.set(self, "_plan", plan)
        commit.set(self, "_named", Named(groups, self._named))
        commit.set(self, "_differentiable", differentiable)
        commit.set(self, "_quick", None)  # until the next step
        commit.adopt(plan, self._plan)
        return plan

    def _renew_plan(self) -> None:
        """Make a new plan, as parameters have been replaced, moved, added or removed."""
        self._settle_names()
        commit = Commit()
        self._plan_for(self.param_groups, self.state, self._average, commit)
        commit.run()

    def _settle_names(self) -> None:
        """Reorder names with their parameters if the lists of groups have been edited."""
        settled = {} if self._named is None else self._named.settle(self.param_groups)
        if settled:
            commit = Commit()
            groups = renamed(self.param_groups, settled, commit)
            commit.set(self, "_named", Named(groups, self._named))
            commit.run()

    # --- the step ---------------------------------------------------------------------------------

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grads: Gradients | None = None,
        max_norm: float | None = None,
        grad_scale: float | None = None,
        zero_grad: bool = False,
        nonfinite: NonfinitePolicy = "propagate",
    ) -> Any:
        """Update every parameter that has a gradient, in place.

        The arguments after `grads` replace calls before and after the step by work in the same
        pass over memory: no scaled copy of a gradient is written.

        Parameters
        ----------
        closure : callable, optional
            Called first, to compute the gradients; ``step`` returns its result. For plain arrays
            it returns ``(loss, grads)``, with `grads` as below; ``step`` then returns the loss.
        grads : sequence, mapping or tree, optional
            Gradients to use instead of the parameters' own: one per parameter in the order of
            the groups, a mapping from parameter names, or a tree of the same structure as the
            parameters. Parameters with None, or without an entry, are skipped. Arrays of other
            libraries, such as JAX, are read in place. Plain arrays need it, as they have no
            ``.grad``.
        max_norm : float, optional
            Clip: step as if all gradients, as one vector, had been scaled down to this norm; see
            :func:`cyoptim.clip_grad_norm_`. The gradients themselves do not change.
        grad_scale : float, optional
            Divide gradients by this number first: the scale of the loss, or the number of
            accumulated batches.
        zero_grad : bool
            Fill the gradients with zeros, in place.
        nonfinite : {"propagate", "raise", "skip"}
            If a gradient contains NaN or infinity: step nevertheless, raise, or skip the step
            (gradients are still zeroed if `zero_grad`).

        Returns
        -------
        object
            The result of `closure`, without gradients; or None. If one of the last four arguments
            was given, ``last_step`` is a :class:`cyoptim.StepReceipt` with the norm, clipping and
            checks, else None.

        Raises
        ------
        TypeError, ValueError
            If a gradient has another shape, dtype or type than its parameter, there are too few
            or too many, a tree has another structure than the parameters, or an argument is out
            of range. Then nothing changes.
        FloatingPointError
            If a gradient is not finite and `nonfinite` is "raise". Then nothing changes.

        Warns
        -----
        UserWarning
            If it is the first step, and no Parameter has a gradient.

        Examples
        --------
        >>> import numpy as np
        >>> from cyoptim import SGD
        >>> w, gradient = np.zeros(2), np.array([3.0, 4.0])
        >>> optimizer = SGD([w], lr=1.0)
        >>> optimizer.step(grads=[gradient], max_norm=1.0, zero_grad=True)
        >>> w.round(3), gradient
        (array([-0.6, -0.8]), array([0., 0.]))
        >>> optimizer.last_step.total_norm
        5.0
        """
        quick = self._quick
        if (
            quick is not None
            and closure is None
            and max_norm is None
            and grad_scale is None
            and not zero_grad
            and nonfinite == "propagate"
        ):
            # The path of most steps, short because a small step takes half a microsecond in total.
            try:
                if quick(self, None if grads is None else align(grads, self.param_groups)):
                    return None
            except EditedNames:  # which the slow path resolves
                pass
        if closure is not None:
            check_closure(closure)
        asked = Asked(max_norm, grad_scale, zero_grad, nonfinite)
        if self._has_hooks() and not self._turn.within_step:
            args = (self,) if closure is None else (self, closure)
            given = asked.given() if grads is None else {"grads": grads, **asked.given()}
            return call_around_step(Optimizer._step, args, given)
        return self._step_as_asked(closure, grads, asked)

    @property
    def last_step(self) -> StepReceipt | None:
        """The receipt of the last step, if it had arguments besides gradients."""
        extras = self._extras
        return None if extras is None else receipt_of(extras, self.param_groups)

    def accumulate(self, grads: Gradients | None = None) -> int:
        """Accumulate gradients; the next step uses their mean.

        For batches that do not fit into memory at once. Each call adds the gradients of one part
        of the batch, and sets gradients that parameters hold to None, for the next
        part. ``step()`` then steps along the sum divided by the number of calls.

        The sums are separate arrays, as large as the parameters, which are reused.
        torch's ``backward`` accumulates by itself: there, ``step(grad_scale=k)`` is enough.

        Parameters
        ----------
        grads : sequence, mapping or tree, optional
            As for :meth:`step`. A missing gradient counts as zeros, unless it is missing in every
            call: then the step skips the parameter.

        Returns
        -------
        int
            The number of calls that the next step will average.

        Raises
        ------
        TypeError, ValueError
            If a gradient does not fit its parameter, or steps of this optimizer do not use sums:
            those of L-BFGS, or of a custom ``step``. Then nothing is added.

        Notes
        -----
        Accumulated gradients are part of the optimizer: of :meth:`state_dict`,
        :func:`cyoptim.save`, copies and pickles. :meth:`zero_grad` drops them, as does
        :meth:`load_state_dict`.

        Examples
        --------
        >>> import numpy as np
        >>> from cyoptim import SGD
        >>> w = np.zeros(2)
        >>> optimizer = SGD([w], lr=1.0)
        >>> optimizer.accumulate([np.array([1.0, 2.0])])
        1
        >>> optimizer.accumulate([np.array([3.0, 6.0])])
        2
        >>> optimizer.step(max_norm=100.0)
        >>> w
        array([-2., -4.])
        """
        return int(self._turn.write("accumulate()", self._accumulate, grads))

    def _check_sums_are_of_use(self) -> None:
        """Refuse to accumulate gradients that no step would use."""
        if not (self._steps_along_sums and self._defined):
            raise TypeError(
                f"{type(self).__name__} overrides step() and does not use the "
                "gradients of accumulate(): add gradients up yourself"
            )

    def _accumulate(self, grads: Gradients | None) -> int:
        self._check_sums_are_of_use()
        found = self._gather(grads, first=True)
        holders = list(parameters_of(self.param_groups)) if grads is None else []
        check_droppable(holders)
        self._quick = None  # before there are sums, which a quick step would ignore
        params = list(parameters_of(self.param_groups))
        self._sums.add(params, found, self._plan.arrays(), holders)
        return self._sums.count

    def _step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        grads: Gradients | None = None,
        **asked: Any,
    ) -> Any:
        """A step, with arguments that hooks may have changed."""
        return self._step_as_asked(closure, grads, Asked(**asked))

    def _step_as_asked(
        self, closure: Callable[[], Any] | None, grads: Gradients | None, asked: Asked
    ) -> Any:
        self._check_steps()
        given = closure is not None or grads is not None
        if given:
            self._sums.check_nothing_waits()
        loss = None
        if closure is not None and grads is None:
            loss, grads = loss_and_grads(closure, self.param_groups)
        elif closure is not None:
            loss = evaluate(closure)
        self._turn.step(self._step_in_turn, grads, given, asked)
        return loss

    def _step_in_turn(self, grads: Gradients | None, given: bool, asked: Asked) -> None:
        if given:
            self._sums.check_nothing_waits()
        averaged, scale = self._sums.count, 1.0
        if averaged:
            grads = self._sums.gradients(list(parameters_of(self.param_groups)))
        if self._has_scaler_inputs:
            scale, overflow = scaler_inputs(self)
            if overflow:
                self._opt_called = True
                return
        extras = extras_of(asked, scale, averaged)
        if averaged and extras is not None:
            self._sums.give(extras)
        if grads is not None:
            self._refit()  # first, as it updates names
        elif self._is_new and self._defined and not hasattr(self, "_watched_step"):
            # Where a schedule follows the steps, programs make them without gradients on purpose.
            warn_if_forgotten(self.param_groups)
        aligned = None if grads is None else align(grads, self.param_groups)
        if self._differentiable:
            check_unrecorded(self.param_groups)
        self._quick = None  # in case of an interrupt; the slow path sets it again
        self._opt_called = True
        try:
            if not self._run(aligned, extras):
                self._renew_plan()
                if not self._run(aligned, extras):
                    raise RuntimeError("parameters were replaced while the step was being prepared")
        except FloatingPointError:  # the receipt names the gradients, too
            self._extras = extras
            raise
        self._set_quick()
        self._is_new = False

    def _has_hooks(self) -> bool:
        return bool(self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or detours())

    def _set_quick(self) -> None:
        """Record whether and how the next step may call the plan directly."""
        detour = (
            self._plan.updates
            or self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or self._differentiable
            or self._sums.count
            or self._extras is not None
            or self._has_scaler_inputs
        )
        self._quick = None if detour else self._plan.step

    def _gather(self, grads: Gradients | None, first: bool) -> list[Any]:
        """Every parameter's checked gradient as an array, or None. At the first of several points
        of a step, parameters may have been replaced; later they may not."""
        if first and grads is not None:
            self._refit()
        aligned = None if grads is None else align(grads, self.param_groups)
        found: list[Any] | None = self._plan.gather(self, aligned)
        if found is None and first:
            self._renew_plan()
            found = self._plan.gather(self, aligned)
        if found is None:
            raise RuntimeError("parameters were replaced while the step was running")
        return found

    def _run(self, grads: list[Any] | None, extras: Extras | None) -> bool:
        """Step along these gradients, or the parameters' own; False if the plan no longer fits."""
        if not self._defined:
            raise self._undefined()
        return bool(self._plan.step_in_turn(self, grads, extras, update_all))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Reset the gradients of all parameters.

        Parameters
        ----------
        set_to_none : bool
            Set the gradients to None, rather than fill them with zeros. The next step skips a
            parameter without a gradient; with a gradient of zeros, it still moves by momentum and
            decay.

        Notes
        -----
        Accumulated gradients (:meth:`accumulate`) are dropped, too.
        """
        check_switch("set_to_none", set_to_none)
        with recorded(self, "zero_grad"):
            self._turn.touch(
                "zero_grad()", reset_gradients, self.param_groups, self._sums, set_to_none
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Minimize a function, as a method of :func:`scipy.optimize.minimize`.

        The class and the options of the optimizer's group are used; its parameters and its state
        stay as they are. A class is such a method, too.

        Parameters
        ----------
        *args, **kwargs
            What :func:`scipy.optimize.minimize` passes to ``method=``.

        Returns
        -------
        scipy.optimize.OptimizeResult
            As from :func:`cyoptim.scipy.method`.

        Raises
        ------
        TypeError
            If it is called otherwise.
        """
        if not is_minimize(args, kwargs):
            raise TypeError(
                f"{type(self).__name__} is called by scipy.optimize.minimize(method=optimizer) "
                "alone: to update parameters, write optimizer.step(...)"
            )
        return minimized(self, args, kwargs)

    # --- averages ---------------------------------------------------------------------------------

    def ema(self, decay: float = 0.999, *, warmup: bool = False) -> MovingAverage:
        r"""Keep moving averages of the parameters from now on.

        Each step ends with :math:`\bar\theta \leftarrow \delta\bar\theta + (1 - \delta)\theta`
        for every parameter, with or without a gradient, in the same pass over memory as the
        update. The first step copies the parameters. The averages are part of
        :meth:`state_dict` (torch's optimizers load the rest of it).

        Parameters
        ----------
        decay : float
            :math:`\delta`, in [0, 1]: averages reach back about :math:`1 / (1 - \delta)` steps.
        warmup : bool
            At step t use :math:`\min(\delta, (1 + t) / (10 + t))`, to give less weight to the first
            steps.

        Returns
        -------
        MovingAverage
            The averages, by parameter or by its name. A further call returns the same object, with
            the new `decay` and `warmup`.

        Raises
        ------
        TypeError, ValueError
            If `decay` is not a number in [0, 1].

        See Also
        --------
        averaged : use the averages instead of the parameters.
        cyoptim.swa_utils.AveragedModel : averages updated by a separate call, with any weights.

        References
        ----------
        .. [1] B. T. Polyak and A. B. Juditsky, "Acceleration of Stochastic Approximation by
           Averaging", SIAM J. Control Optim. 30 (1992).

        Examples
        --------
        >>> import numpy as np
        >>> from cyoptim import SGD
        >>> w = np.array([4.0])
        >>> optimizer = SGD([w], lr=1.0)
        >>> average = optimizer.ema(decay=0.75)
        >>> for _ in range(3):
        ...     optimizer.step(grads=[np.array([1.0])])  # w = 3, 2, 1
        >>> with optimizer.averaged():
        ...     print(w)
        [2.3125]
        >>> w
        array([1.])
        """
        average: MovingAverage = self._turn.write(
            "ema()", begin_average, self, MovingAverage(decay, warmup)
        )
        return average

    def _check_averaged_elsewhere(self) -> None:
        """Raise TypeError if the optimizer needs no other averages."""

    def _refit(self) -> None:
        """Make a new plan if parameters have been replaced, moved, added or removed."""
        if not self._plan.fits(self):
            self._renew_plan()

    def _catch_up(self) -> None:
        """Update the averages after a step without the plan."""
        self._turn.write("the end of a step", self._catch_up_in_turn)

    def _catch_up_in_turn(self) -> None:
        if not self._plan.catch_up(self):
            self._renew_plan()
            self._plan.catch_up(self)

    def _prepare_averaged(self) -> tuple[Plan, Commit | None, Commit | None]:
        """The plan that swaps parameters and averages, and what else is to be done before and after
        the block."""
        if self._average is None:
            raise RuntimeError("averaged() has no averages: call ema(decay) before training")
        self._average.check_unswapped("call averaged()")
        self._refit()
        return self._plan, None, None

    def averaged(self) -> AbstractContextManager[None]:
        """Give the parameters the values of their averages inside a ``with`` block.

        The contents of both are swapped in place, so all references to the parameters see the
        averages. Inside the block the optimizer can be neither stepped nor saved. Values that are
        written into the parameters there are lost.

        Raises
        ------
        RuntimeError
            If :meth:`ema` has not been called, or the block is inside another.

        Examples
        --------
        See :meth:`ema`.
        """
        block: AbstractContextManager[None] = Averaged(self, self._turn)
        return block

    # --- memory -----------------------------------------------------------------------------------

    def map_state(self, folder: str | os.PathLike[str] | None) -> None:
        """Keep the state in memory-mapped files, for parameters that are larger than the memory.

        State, averages and accumulated gradients move into files in the folder, and all arrays that
        the optimizer makes from now on are in files, too, if they have 1 MiB or more. The system
        reads and writes their pages as they are used. The files have no names: they end with the
        optimizer, or with the process, even if it is killed.

        Copies by ``copy.deepcopy`` have files of their own; an unpickled optimizer has its
        state in ordinary memory. A forked process shares the files, and must call this method
        before it steps.

        Parameters
        ----------
        folder : str, path-like or None
            A folder on a disk with room for the state. None moves the state into ordinary memory.

        Raises
        ------
        TypeError, ValueError
            If it is not a folder.
        OSError
            If the disk has no room. This, and every later call that finds it full, changes nothing.

        Examples
        --------
        >>> import numpy as np
        >>> from cyoptim import Adam
        >>> w = np.memmap("weights.bin", "float32", "w+", shape=(1000, 1000))
        >>> optimizer = Adam([w], lr=0.1)
        >>> optimizer.map_state(".")
        >>> optimizer.step(grads=[np.ones_like(w)])
        >>> float(w[0, 0])
        -0.10000000149011612
        """
        self._turn.write("map_state()", map_state, self, folder)

    # --- saving and loading -----------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """The optimizer's state in torch's form.

        Returns
        -------
        dict
            ``"state"``: per parameter number its state, and ``"param_groups"``: options, with
            parameter numbers instead of parameters. Arrays are the optimizer's own, not copies.
            For torch tensors, they are tensors that share memory, which torch can load.
            ``"averages"``: after :meth:`ema`, its numbers and, per parameter number, the average.
            ``"accumulated"``: after :meth:`accumulate`, and before the step, the number of calls
            and, per parameter number, the sum.
        """
        if self._average is not None:
            self._average.check_unswapped("call state_dict()")
        for hook in hooks_in(self._optimizer_state_dict_pre_hooks):
            hook(self)
        state_dict: StateDict = self._turn.read("state_dict()", self._export)
        return passed_through(self._optimizer_state_dict_post_hooks, self, state_dict)

    def _export(self) -> StateDict:
        self._settle_names()
        if self._average is not None:
            self._average.check_unswapped("call state_dict()")
            self._refit()
        groups = [self._plain_group(group) for group in self.param_groups]
        return to_the_package(state_dict_of(groups, self), self)

    _contents = contents_of

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load a state that :meth:`state_dict`, here or in torch, has returned.

        State arrays are copied, in the types in which this optimizer stores them and the layout of
        their parameters; parameters themselves are not part of it. Averages in the state are
        restored, even if :meth:`ema` has not been called; if the state has none, averages restart.
        Accumulated gradients are restored, or dropped if the state has none.

        Parameters that have names here and in the state are matched by name, in any order;
        otherwise by their order. An optimizer without names takes those of the state.

        Parameters
        ----------
        state_dict : dict
            The state to continue from.

        Raises
        ------
        TypeError, ValueError
            If it is not a state dict, has other groups, names or shapes, or belongs to another
            optimizer class. Then the optimizer does not change.

        Warns
        -----
        UserWarning
            If the state has more bits than this optimizer keeps.
        """
        state_dict = self._before_load(state_dict)
        self._turn.write("load_state_dict()", self._load, state_dict)
        self._after_load()

    def _before_load(self, state_dict: StateDict) -> StateDict:
        if self._average is not None:
            self._average.check_unswapped("call load_state_dict()")
        if self._optimizer_load_state_dict_pre_hooks:
            state_dict = copy.copy(state_dict)
        return passed_through(self._optimizer_load_state_dict_pre_hooks, self, state_dict)

    def _after_load(self) -> None:
        for hook in hooks_in(self._optimizer_load_state_dict_post_hooks):
            hook(self)

    def _load(self, state_dict: StateDict) -> None:
        commit = Commit()
        self._prepare_load(state_dict, commit)
        commit.run()

    def _prepare_load(self, state_dict: StateDict, commit: Commit) -> None:
        """Check and convert a state dict; `commit` will apply it."""
        if self._average is not None:
            self._average.check_unswapped("call load_state_dict()")
        self._settle_names()
        from cyoptim._saving.loading import prepare_load  # here, as not every program loads

        self._turn.allocate(prepare_load, state_dict, self, commit)

    def __getstate__(self) -> dict[str, Any]:
        self._settle_names()
        state: dict[str, Any] = {
            "defaults": self.defaults,
            "state": self.state,
            "param_groups": self.param_groups,
        }
        if self._average is not None:
            state["_average"] = self._average
        if self._sums.count:
            state["_sums"] = self._sums.copy()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        commit = Commit()
        commit.set(self, "_is_new", False)
        for name, value in state.items():
            if name != "state":
                commit.set(self, name, value)
        groups = state.get("param_groups", getattr(self, "param_groups", []))
        defaults = state.get("defaults", getattr(self, "defaults", {}))
        for group in groups:
            for name, default in self._defaults_for(group, defaults).items():
                group.setdefault(name, default)
        if "state" in state:
            own = State()
            own.update(state["state"])
            self._plan_for(groups, own, state.get("_average", self._average), commit)
            commit.set(self, "_state", own)
        commit.run()

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        return self._turn.read("copy.deepcopy()", self._copied, memo)  # type: ignore[no-any-return]

    def _copied(self, memo: dict[int, Any]) -> Optimizer:
        new = memo[id(self)] = type(self).__new__(type(self))
        new.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        follow(new, self)
        return new

    def __repr__(self) -> str:
        return lines_of_groups(type(self).__name__, self.param_groups)

    def _repr_html_(self) -> str:
        return table_of_groups(type(self).__name__, self.param_groups)
