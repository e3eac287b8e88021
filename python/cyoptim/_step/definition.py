"""What an optimizer's class says of it, beside its public methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

from cyoptim._arrays.doors import UnsupportedError
from cyoptim._engine import STORAGE_OPTIONS, Commit, Plan, Rule, rule_apart, rule_of
from cyoptim._groups.storage import takes_storage
from cyoptim._step.hooks import Hooked
from cyoptim._types import Group, StateDict

Found = Iterable[tuple[int, Any, Any]]
"""Number, array and gradient of each parameter that has a gradient."""


class Definition(Hooked):
    """What a subclass of :class:`cyoptim.Optimizer` may set or override.

    It defines its step by one of

    - ``_rule``, or ``_rules`` and ``_rule_of()``: native rules;
    - ``update()``: Python, one parameter at a time, undone if it raises;
    - ``update()`` and ``_prepare_update()``: Python that computes everything before any change;
    - ``step()``: Python, for all parameters at once.

    What it asks of groups and parameters beyond ``_check_options()``, it adds to
    ``_complete_group()`` or ``_make_plan()``; what a new group does to the state, it says in
    ``_prepare_groups()``.
    """

    # The native rule, if it does not depend on options.
    _rule: ClassVar[str | None] = None
    # All native rules that its groups may have; by default _rule.
    _rules: ClassVar[tuple[str, ...]] = ()
    # Whether _prepare_update() replaces update(). Set automatically for a subclass.
    _prepares_update: ClassVar[bool] = False
    # Whether a native rule or update() makes a step. Set for a subclass.
    _defined: ClassVar[bool] = False

    # Whether the state counts steps under "step", as most of torch's optimizers do.
    _counts_steps: ClassVar[bool] = True
    # Whether a state dict has the count also in the groups, where some packages keep it.
    _exchanges_group_steps: ClassVar[bool] = False
    # Entries of its groups in a state dict that the package needs it comes from, and ours ignore.
    _foreign_options: ClassVar[Mapping[str, Any]] = {}
    # What that package calls the step count in a state.
    _foreign_count: ClassVar[str] = ""
    # Entries of its parameters' states that only that package uses.
    _foreign_state: ClassVar[tuple[str, ...]] = ()
    # The type of torch's step count: a tensor, or int.
    _step_type: ClassVar[type | None] = None
    # Whether its options `foreach` and `fused` may both be True, which torch refuses.
    _fuses_foreach: ClassVar[bool] = False
    # Options that its groups always have, also in a state dict; None: those of its rules.
    _essential_options: ClassVar[tuple[str, ...] | None] = None
    # Entries that the state of a stepped parameter always has; None: those common to all of its
    # rules.
    _essential_state: ClassVar[tuple[str, ...] | None] = None

    # Where its parameters lie in tensors of which other processes have the other parts, and what
    # joins these processes: see cyoptim.distributed.
    _parts: Any = None
    # The entries of a state dict whose arrays it can read from a file into place.
    _read_in_place: ClassVar[frozenset[str]] = frozenset({"state"})

    # Which of `caution` and `cautious_wd` it takes. They are in a group only where they are set.
    _cautious_options: ClassVar[tuple[str, ...]] = ()

    # The message of the error for a sparse gradient; empty: the base's own.
    _no_sparse: ClassVar[str] = ""
    # Whether gradients must be sparse.
    _only_sparse: ClassVar[bool] = False
    # Whether it supports complex parameters, as pairs of real numbers.
    _takes_complex: ClassVar[bool] = True

    # For an overridden step(): whether it uses accumulated gradients, whether its state has any
    # form (set automatically for a subclass), and whether it updates the averages itself.
    _steps_along_sums: ClassVar[bool] = True
    _steps_itself: ClassVar[bool] = False
    _averages_itself: ClassVar[bool] = False

    @classmethod
    def _unset_options(cls) -> dict[str, Any]:
        """The options that are in a group only where they are set, and what they are elsewhere."""
        stored = STORAGE_OPTIONS if takes_storage(cls) else {}
        return {**dict.fromkeys(cls._cautious_options, False), **stored}

    def _check_options(self, group: Group) -> None:
        """Raise ValueError or TypeError for an option out of range."""

    def _check_loaded_options(self, group: Group) -> None:
        """As _check_options, but accepts values that schedules may have set."""
        self._check_options(group)

    def _lacks(
        self, shape: tuple[int, ...], entries: Mapping[str, Any], group: Group
    ) -> Sequence[str]:
        """What the loaded state of a parameter of this shape and group lacks, in a class that has
        several kinds of state; but for what an option may have added since the last step."""
        return ()

    def _own_form(self, state_dict: StateDict) -> StateDict:
        """A copy, to be loaded, of a state dict that may be in the form of another package."""
        return state_dict

    def _rule_of(self, group: Group) -> str | None:
        """The native rule of a group; None: :meth:`update` steps its parameters.

        Groups of both kinds are stepped together, all or none.

        Called after an option has changed. The rule reads the options with the names of its
        scalars; its clock computes scalars that depend on the step count.
        """
        return self._rule

    def _rule_of_state(self, group: Group) -> Rule | None:
        """The rule whose state the parameters of a group have, also while they are not stepped."""
        return rule_of(self, group)

    def _defaults_for(self, group: Group, defaults: dict[str, Any]) -> dict[str, Any]:
        """The options that a group is to have, with their defaults; `defaults` are the optimizer's.
        Not all groups need have the same."""
        return defaults

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape has the rule of :meth:`_rule_apart`."""
        return False

    def _rule_apart(self, group: Group) -> str | None:
        """The native rule of those parameters of a group that are set apart."""
        return self._rule_of(group)

    def _check_agreement(self, groups: list[Group]) -> None:
        """Raise ValueError if groups differ whose rule adds up over all of them; after an option
        has changed."""

    def _stepped_by(self) -> Any:
        """The optimizer that makes the steps of this one, if another does."""
        return None

    def _on_copies(self) -> Callable[[], None] | None:
        """What lets it work on copies of its groups, where copying it as a whole does not."""
        return None

    def _check_steps(self) -> None:
        """Raise RuntimeError if the optimizer does not step now; before a closure is called."""

    def _is_element_wise(self, group: Group) -> bool:
        """Whether an element's update depends on no other element, so that a process can step its
        part of a parameter alone."""
        rule, apart = rule_of(self, group), rule_apart(self, group)
        if rule is None or apart is None:
            # A step() of the user's own consists of torch's operations on distributed tensors.
            return self._steps_itself
        return rule.is_element_wise(group) and apart.is_element_wise(group)

    def _check_element_wise(self, group: Group, shard: str) -> None:
        """Refuse to step a part of a parameter by a rule that needs the whole."""
        if not self._is_element_wise(group):
            name = type(self).__name__
            raise TypeError(
                f"{shard}: with these options {name} needs all elements of a parameter at once. "
                "Use an element-wise optimizer, such as AdamW, Lion, AdEMAMix or AdamWScheduleFree"
                f"{self._element_wise_hint()}"
            )

    def _element_wise_hint(self) -> str:
        if type(self).__module__.startswith("cyoptim."):
            return ""
        return (
            "; if update() treats each element by itself, override _is_element_wise(group) to "
            "return True"
        )

    def _refuse_to_measure(self, shard: str) -> None:
        raise TypeError(
            f"{shard}: max_norm, max_grad_norm and nonfinite need the norm of all gradients. "
            "Leave them out, and call torch.nn.utils.clip_grad_norm_(parameters, max_norm) before "
            "step(): it adds up over the processes"
        )

    def _takes_spans(self, group: Group, label: str) -> bool:
        """Whether the group's rule updates only elements with a gradient, if it is sparse.

        False if a sparse gradient must be made dense; raises if it is not supported.
        """
        self._refuse_sparse(label)
        return False

    def _refuse_sparse(self, label: str) -> None:
        reason = self._no_sparse or f"{type(self).__name__} does not support sparse gradients"
        raise UnsupportedError(f"{reason} (that of {label} is sparse)")

    def _refuse_sparse_bits(self, label: str) -> None:
        raise UnsupportedError(
            f"the gradient of {label} is sparse, and its state is stored in fewer bits: give a "
            "dense gradient, or a float32 parameter in a group without state_dtype"
        )

    def _refuse_complex(self) -> None:
        raise UnsupportedError(f"{type(self).__name__} does not support complex parameters")

    def _refuse_with_caution(self, what: str) -> None:
        raise UnsupportedError(
            f"{type(self).__name__} with caution or cautious_wd does not support {what}"
        )

    def _refuse_dense(self, label: str) -> None:
        raise UnsupportedError(
            f"{type(self).__name__} does not support dense gradients, please consider Adam instead "
            f"(that of {label} is dense)"
        )

    def _prepare_update(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> dict[str, Any]:
        """Compute one parameter's update, and add its changes to `commit`; return new entries of
        the state. Nothing changes here."""
        raise NotImplementedError

    def _prepare_known(
        self, found: Found, params: list[Any], groups: list[Group], commit: Commit
    ) -> Found:
        """Prepare together those updates that can be; return those that cannot."""
        return found

    def _state_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape that a state entry of :meth:`update` must have; None: any."""
        return None

    def _prepare_groups(self, plan: Plan, commit: Commit) -> None:
        """Prepare changes of the state for new groups; the plan already contains them."""
