"""One optimizer over many processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

import numpy as np

from cyoptim._arrays.doors import announce_update, is_tensor
from cyoptim._arrays.sparse import is_sparse, values_to_zero
from cyoptim._averages.moving import MovingAverage, checked_decay
from cyoptim._engine import Commit, Extras, Plan
from cyoptim._gradients.aligned import align, warn_if_forgotten
from cyoptim._groups.completion import prepare_groups
from cyoptim._groups.groups import labels_of
from cyoptim._groups.options import check_keywords, check_switch
from cyoptim._shown import lines_of_groups, table_of_groups
from cyoptim._step.receipt import Asked, extras_of
from cyoptim._types import Array, Gradients, Group, ParamsT
from cyoptim._warnings import already_warned
from cyoptim.distributed._agreement import Ranks, Words
from cyoptim.distributed._average import ShardedAverage, average_of
from cyoptim.distributed._checks import check_group, check_settings, checked_class
from cyoptim.distributed._communicators import as_communicator
from cyoptim.distributed._exchange import Parameters, usual_bucket
from cyoptim.distributed._growing import begin_averages, move_state
from cyoptim.distributed._lanes import Lanes
from cyoptim.distributed._shard import Parts, Settings, Shard
from cyoptim.distributed._state import StateOfRanks
from cyoptim.distributed._weights import collected, prepare_parts
from cyoptim.distributed._words import (
    Options,
    gradients_in_full,
    options_in_full,
    parameters_in_full,
    words_of,
)
from cyoptim.optimizer import Optimizer
from cyoptim.optimizers import AdamW
from cyoptim.optimizers._schedule_free import ScheduleFree


class _OfAClass(Optimizer):
    """Makes a Sharded an instance of its optimizer's class. Were this in Sharded, the signature of
    the class would be that of `__new__`."""

    if not TYPE_CHECKING:

        def __new__(cls, params=None, optimizer=AdamW, *others, **options):
            if cls is Sharded:
                cls = _sharded_class(checked_class(optimizer))
            return Optimizer.__new__(cls)


class Sharded(_OfAClass, StateOfRanks):
    r"""An optimizer whose state and steps are shared among processes.

    Every process, a rank, has all parameters and computes gradients along its part of the batch. A
    step adds the gradients of all ranks up, and each rank steps the part of the parameters whose
    state it keeps: of P ranks each has 1/P of the state, and does 1/P of the step. Then all get the
    new parameters. All ranks make the same calls.

    It is an instance of the optimizer's class, too: groups, schedulers, closures, hooks,
    ``step``, ``accumulate`` and ``ema`` are as there.

    Parameters
    ----------
    params : iterable or tree
        As for :class:`cyoptim.Optimizer`; on every rank the same, in their own memory. All get the
        values that they have on rank 0.
    optimizer : type
        The class of the optimizer. Those with a ``step`` of their own, such as ``LBFGS``, and
        ``SparseAdam`` cannot be sharded.
    comm : communicator
        ``MPI.COMM_WORLD`` or another communicator of mpi4py; ``torch.distributed`` or one of its
        process groups; a member of :class:`Local`; or any :class:`Communicator`.
    order : {"tree", "library"}
        In which order gradients are added up. "tree": by each rank, in a binary tree, whose bits do
        not depend on the number of ranks. "library": by the communicator's library on their way.
    reduce : {"mean", "sum"}
        Whether steps are along the mean of the gradients of all ranks, or along their sum.
    comm_dtype : {None, "bfloat16"}
        In what float32 gradients travel: as they are, or rounded to 16 bits, which halves what is
        sent and is another trajectory. They are added up in float32.
    bucket_size : int, optional
        Bytes that a rank sends at once, while others are packed or added up: by default 16 MiB, and
        at least 64 KiB for each rank.
    **options
        Those of the optimizer's class.

    Attributes
    ----------
    shard : Optimizer
        The optimizer of this rank's parts of the parameters, with their state.

    Raises
    ------
    TypeError, ValueError
        As the optimizer's class; if the class or an option cannot be sharded; or, on every rank, if
        ranks differ in parameters or options. Then no parameter has changed.
    RankError
        If another rank has failed.

    Notes
    -----
    The parameters, one behind the other, are cut into P ranges of about equal bytes. A rule that
    takes each element by itself, or adds up over tensors, groups or all parameters, gets parts of
    large tensors; one that needs rows or matrices, such as Muon's, whole tensors.

    With ``order="tree"`` a step has the same bits on any number of ranks along the same gradients,
    if each rank has a power of two of them: one, or a call of ``accumulate`` for each. On one
    rank with one gradient they are those of the class itself.

    A step first exchanges a digest of options, arguments, and which gradients there are. If one
    rank fails, or differs, every rank raises, and nothing has changed on any.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> from cyoptim.distributed import Local, Sharded
    >>> def train(comm):
    ...     w = np.zeros(4)
    ...     optimizer = Sharded([w], cyoptim.SGD, comm=comm, lr=0.5)
    ...     optimizer.step(grads=[np.full(4, comm.rank + 1.0)])  # the mean is 1.5
    ...     return w
    >>> Local(2).run(train)
    [array([-0.75, -0.75, -0.75, -0.75]), array([-0.75, -0.75, -0.75, -0.75])]
    """

    _plain_class: ClassVar[type[Optimizer]] = Optimizer
    # A scaler of torch would make or skip the step on each rank by itself: it is to tell us.
    _step_supports_amp_scaling: Any = True
    _ranks: Ranks
    _settings: Settings
    _shard: Shard
    _options: dict[str, Any]
    _sums: Lanes

    def _make_own(self) -> None:
        super()._make_own()
        self._sums = Lanes()
        self._words = Options()

    def __init__(
        self,
        params: ParamsT,
        optimizer: type[Optimizer] = AdamW,
        *,
        comm: Any,
        order: Literal["tree", "library"] = "tree",
        reduce: Literal["mean", "sum"] = "mean",
        comm_dtype: Literal["bfloat16"] | None = None,
        bucket_size: int | None = None,
        **options: Any,
    ) -> None:
        self._ranks = Ranks(as_communicator(comm))
        if bucket_size is None:
            bucket_size = usual_bucket(self._ranks.size)
        settings = Settings(order, reduce, comm_dtype, bucket_size)
        self._ranks.together("Sharded()", self._construct, params, settings, options)

    def _construct(self, params: ParamsT, settings: Settings, options: dict[str, Any]) -> None:
        check_settings(settings)
        self._settings, self._options = settings, options
        check_keywords(self._plain_class, options)
        self._plain_class.__init__(self, params, **options)
        self._shard = Shard(self, self.param_groups, self._plan, self._make_inner)
        self._agree_on(self.param_groups, self._shard)
        self._ranks.ready()
        self._shard.copy_from(0)

    def _make_inner(self, groups: list[Group], parts: Parts | None) -> Any:
        """The optimizer of the parts of this rank."""
        kind: Any = self._plain_class
        inner = kind.__new__(kind)
        if parts is not None:
            inner._parts = parts
        with already_warned():
            inner.__init__(groups, **self._options)
        return inner

    def _agree_on(self, groups: list[Group], shard: Shard) -> None:
        """Raise on all ranks if parameters or options are not the same on all of them."""
        told: dict[str, object] = {"optimizer": self._plain_class.__name__}
        told |= self._settings._asdict()
        told["the number of parameters"] = len(shard.params)
        told |= parameters_in_full(shard.arrays, labels_of(groups))
        told |= options_in_full(groups, frozenset())
        self._ranks.agree(told)

    @property
    def shard(self) -> Optimizer:
        """The optimizer of this rank's parts of the parameters, with their state."""
        inner: Optimizer = self._shard.inner
        return inner

    # --- groups -----------------------------------------------------------------------------------

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        group = super()._complete_group(param_group, others)
        check_group(group, len(others), self)
        return group

    def _prepare_groups(self, plan: Plan, commit: Commit) -> None:
        """Nothing: the state is that of the parts."""

    def _add_param_group(self, param_group: Group) -> None:
        if not hasattr(self, "_shard"):  # called by a constructor
            super()._add_param_group(param_group)
            return
        self._ranks.together("add_param_group()", self._add_group_on_ranks, param_group)

    def _add_group_on_ranks(self, param_group: Group) -> None:
        self._check_before("call add_param_group()")
        shard = self._settled_shard()
        prepared = prepare_groups([param_group], self)
        new = Shard(self, prepared.groups, prepared.plan, self._make_inner)
        self._agree_on(prepared.groups, new)
        move_state(self, new, prepared.groups)
        self._ranks.ready()
        prepared.add()
        self._shard = new
        new.copy_from(0, len(shard.params))
        begin_averages(new, len(shard.params))

    def _settled_shard(self) -> Shard:
        """The shard, at the memory that the parameters have now, and with the options of now."""
        self._shard.check_params()
        if self._ranks.size > 1:
            self._refit()
            if self._plan is not self._shard.plan:
                self._shard.follow(self._plan)
        self._shard.take_options()
        return self._shard

    def _check_before(self, what: str) -> None:
        """Refuse what is not done now."""
        average = self._average
        if average is not None:
            average.check_unswapped(what)

    # --- the step ---------------------------------------------------------------------------------

    def _step_as_asked(
        self, closure: Callable[[], Any] | None, grads: Gradients | None, asked: Asked
    ) -> Any:
        return self._ranks.together("step()", super()._step_as_asked, closure, grads, asked)

    def _step_in_turn(self, grads: Gradients | None, given: bool, asked: Asked) -> None:
        self._check_before("step")
        if given:
            self._sums.check_nothing_waits()
        if self._has_scaler_inputs:
            raise TypeError(
                "a GradScaler scales the gradients, and each rank would skip steps by itself: "
                "write step(grad_scale=scale, nonfinite='skip'), which skips on all ranks"
            )
        shard, lanes = self._settled_shard(), self._sums.count
        if grads is None and not lanes and self._is_new and not hasattr(self, "_watched_step"):
            warn_if_forgotten(self.param_groups)
        if self._ranks.size == 1:
            self._step_alone(shard, grads, asked, lanes)
        else:
            self._step_with_others(shard, grads, asked, lanes)
        self._is_new = False

    def _step_alone(self, shard: Shard, grads: Gradients | None, asked: Asked, lanes: int) -> None:
        found: list[Any] | None
        if lanes:
            found = self._sums.gradients(shard.params)
        else:
            found = None if grads is None else align(grads, self.param_groups)
            self._refuse_sparse_ones(shard, found)
        extras = self._extras_for(asked, lanes)
        self._run_shard(shard, found, extras, extras, lanes)

    def _step_with_others(
        self, shard: Shard, grads: Gradients | None, asked: Asked, lanes: int
    ) -> None:
        originals: list[Any] = []
        if lanes:
            found = self._sums.gradients(shard.params)
        else:
            found, originals = self._found(shard, grads)
        zeros = self._zeros_of(originals if asked.zero_grad else [])
        extras = shown = self._extras_for(asked, max(lanes, 1) * self._ranks.size)
        if asked.zero_grad:  # of the gradients of all, and not of their sums
            asked_of_parts = asked._replace(zero_grad=False)
            extras = self._extras_for(asked_of_parts, max(lanes, 1) * self._ranks.size)
            shown = extras or shown
        way, words = shard.gradients(found)
        back = shard.parameters([grad is not None for grad in found])
        shard.fill()
        self._agree_to_step(shard, found, words, asked, lanes)
        sums = way.exchange(found)
        plain = not (lanes or asked.given())
        self._run_shard(shard, sums, extras, None if plain else shown, lanes)
        if extras is None or not extras.skipped:
            shard.spread(back)
        zeros.run()

    def _extras_for(self, asked: Asked, lanes: int) -> Extras | None:
        """What was asked for, along gradients that are sums of so many."""
        return extras_of(asked, 1.0, lanes if self._settings.reduce == "mean" else min(lanes, 1))

    def _run_shard(
        self,
        shard: Shard,
        grads: list[Any] | None,
        extras: Extras | None,
        shown: Extras | None,
        lanes: int,
    ) -> None:
        """Step the parts; `shown` is what the receipt tells of."""
        if lanes and extras is not None:
            self._sums.give(extras)
        self._opt_called = True
        try:
            shard.step(grads, extras)
        except FloatingPointError:
            self._extras = shown
            raise
        self._extras = shown
        shard.give_numbers()

    def _found(self, shard: Shard, grads: Gradients | None) -> tuple[list[Any], list[Any]]:
        """The gradient of each parameter, as an array and as it was given."""
        aligned = None if grads is None else align(grads, self.param_groups)
        originals = self._refuse_sparse_ones(shard, aligned)
        found = self._plan.gather(self, aligned)
        if found is None:
            raise RuntimeError("parameters were replaced while the step was being prepared")
        return found, originals

    def _refuse_sparse_ones(self, shard: Shard, aligned: list[Any] | None) -> list[Any]:
        """The gradients as they are, of which none is sparse."""
        if aligned is None:
            aligned = [getattr(param, "grad", None) for param in shard.params]
        for number, grad in enumerate(aligned):
            if type(grad) is not np.ndarray and grad is not None and is_sparse(grad):
                label = labels_of(self.param_groups)[number]
                raise TypeError(
                    f"the gradient of {label} is sparse, which cannot be shared among ranks: give "
                    "a dense one, grad.to_dense() or grad.toarray()"
                )
        return aligned

    def _zeros_of(self, grads: list[Any]) -> Commit:
        """What fills gradients with zeros."""
        commit = Commit()
        if not grads:
            return commit
        for grad, label in zip(grads, labels_of(self.param_groups), strict=False):
            if grad is not None:
                commit.zero(values_to_zero(grad, f"gradient of {label}"))
        tensors = [grad for grad in grads if is_tensor(grad)]
        if tensors:
            announce_update(tensors)
        return commit

    def _agree_to_step(
        self, shard: Shard, found: list[Array | None], words: str, asked: Asked, lanes: int
    ) -> None:
        """Raise on all ranks if they do not step alike."""
        numbers = shard.numbers
        arguments = ";".join(map(words_of, asked))
        options = self._words.short(self.param_groups, numbers)
        if self._words.are_new:
            shard.check_cuts(self)

        def told() -> dict[str, object]:
            return {
                "the number of calls of accumulate()": lanes,
                **asked._asdict(),
                **gradients_in_full(found, labels_of(self.param_groups)),
                **options_in_full(self.param_groups, numbers),
            }

        self._ranks.agree(Words(f"{lanes};{arguments};{words};{options}", told))

    def _accumulate(self, grads: Gradients | None) -> int:
        self._check_before("accumulate")
        self._shard.check_params()
        aligned = None if grads is None else align(grads, self.param_groups)
        self._refuse_sparse_ones(self._shard, aligned)
        return super()._accumulate(aligned)

    # --- what some classes have -------------------------------------------------------------------

    def _switch_on_ranks(self, trains: bool) -> None:
        """Change the mode of a Schedule-Free optimizer."""
        call = "train()" if trains else "eval()"
        self._check_before(f"call {call}")
        if any(bool(group["train_mode"]) != trains for group in self.param_groups):
            self._ranks.together(call, self._switch_parts, call, trains)

    def _switch_parts(self, call: str, trains: bool) -> None:
        shard = self._settled_shard()
        self._change_parts(shard, call, partial(shard.inner._prepare_switch, trains))
        shard.give_numbers()

    def _hessian_on_ranks(self, grads: Gradients | None) -> None:
        """Move the estimate of the Hessian by the gradients of all ranks."""
        self._ranks.together("update_hessian()", self._hessian_of_parts, grads)

    def _hessian_of_parts(self, grads: Gradients | None) -> None:
        self._check_before("call update_hessian()")
        shard = self._settled_shard()
        self._refit()
        found, _ = self._found(shard, grads)
        if self._ranks.size > 1:
            way, words = shard.gradients(found)
            self._agree_to_step(shard, found, words, Asked(), 0)
            found = way.exchange(found)
            if self._settings.reduce == "mean":
                for grad in found:
                    if grad is not None:
                        grad *= 1 / self._ranks.size
        prepare = partial(shard.inner._prepare_hessian, found)
        commit = shard.inner._turn.write("update_hessian()", prepare)
        self._ranks.ready()
        shard.inner._turn.write("update_hessian()", commit.run)

    def _change_parts(self, shard: Shard, call: str, prepare: Callable[[], Commit]) -> None:
        """Change parameters, on all ranks or on none."""
        self._ranks.agree(Words(call, dict))
        way = shard.parameters([True] * len(shard.params))
        shard.fill()
        commit = shard.inner._turn.write(call, prepare)
        self._ranks.ready()
        shard.inner._turn.write(call, commit.run)
        shard.spread(way)

    # --- averages ---------------------------------------------------------------------------------

    @property
    def _average(self) -> MovingAverage | None:  # type: ignore[override]
        shard = getattr(self, "_shard", None)
        return None if shard is None or shard.inner._average is None else self._averages

    @property
    def _averages(self) -> ShardedAverage:
        found: ShardedAverage | None = vars(self).get("_kept_averages")
        if found is None:
            found = vars(self)["_kept_averages"] = ShardedAverage(self)
        return found

    def ema(self, decay: float = 0.999, *, warmup: bool = False) -> MovingAverage:
        """Keep moving averages of the parameters from now on.

        As :meth:`cyoptim.Optimizer.ema`. Each rank keeps those of its parts. An average that is
        asked for is collected from all ranks, so every rank asks for it.

        Parameters
        ----------
        decay : float
            In [0, 1].
        warmup : bool
            Whether the decay is smaller in the first steps.

        Returns
        -------
        MovingAverage
            The averages, by parameter or by its name.

        Raises
        ------
        TypeError, ValueError
            If `decay` is not a number in [0, 1], or is another one on another rank.
        """
        average: MovingAverage = self._turn.write(
            "ema()", self._ranks.together, "ema()", self._begin_average, decay, warmup
        )
        return average

    def _begin_average(self, decay: float, warmup: bool) -> MovingAverage:
        self._check_averaged_elsewhere()
        self._check_before("call ema()")
        check_switch("warmup", warmup)
        checked_decay(decay)
        shard = self._settled_shard()
        self._ranks.agree({"decay": float(decay), "warmup": bool(warmup)})
        self._ranks.ready()
        shard.inner.ema(decay, warmup=warmup)
        return self._averages

    def _average_of(self, number: int) -> Any:
        """The average of a parameter, on every rank."""
        call = f"the average of parameter {number}"
        return self._turn.read(
            call, self._ranks.together, call, self._collected_average, call, number
        )

    def _collected_average(self, call: str, number: int) -> Any:
        self._ranks.agree(Words(call, dict))
        self._ranks.ready()
        return average_of(self._shard, number)

    def averaged(self) -> AbstractContextManager[None]:
        """Give the parameters the values of their averages inside a ``with`` block.

        As :meth:`cyoptim.Optimizer.averaged`, on all ranks: every rank enters the block, and leaves
        it.

        Raises
        ------
        RuntimeError
            If there are no averages, or the block is inside another.
        """
        return self._averaged()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        call = "averaged()"
        block, way = self._turn.write(call, self._ranks.together, call, self._swap, call)
        try:
            yield
        finally:
            call = "the end of averaged()"
            self._turn.write(call, self._ranks.together, call, self._swap_back, block, way)

    def _swap(self, call: str) -> tuple[AbstractContextManager[None], Parameters | None]:
        shard = self._settled_shard()
        block = shard.inner.averaged()
        self._ranks.agree(Words(call, dict))
        way = shard.parameters([True] * len(shard.params))
        shard.fill()
        block.__enter__()
        try:
            self._ranks.ready()
        except BaseException:
            block.__exit__(None, None, None)
            raise
        shard.spread(way)
        return block, way

    def _swap_back(self, block: AbstractContextManager[None], way: Parameters | None) -> None:
        self._ranks.ready()
        block.__exit__(None, None, None)
        self._shard.spread(way)

    # --- memory, weights and copies ---------------------------------------------------------------

    def _replace_state(self, value: Any) -> NoReturn:
        raise TypeError(
            "the state of a Sharded is that of its parts, on several ranks: write "
            "load_state_dict() with the whole state, or shard.state = ..."
        )

    def map_state(self, folder: str | os.PathLike[str] | None) -> None:
        """Keep the state of this rank's parts in memory-mapped files.

        As :meth:`cyoptim.Optimizer.map_state`; gradients that are accumulated stay in memory. Each
        rank calls it for itself.

        Parameters
        ----------
        folder : str, path-like or None
            A folder on a disk with room for the state. None moves the state into ordinary memory.
        """
        self._turn.write("map_state()", self._shard.inner.map_state, folder)

    def _master_weights(self) -> list[Any]:
        """The float32 values of the parameters, on every rank."""
        call = "master_weights()"
        return self._ranks.together(call, self._collect_weights, call)

    def _collect_weights(self, call: str) -> list[Any]:
        shard = self._settled_shard()
        self._ranks.agree(Words(call, dict))
        shard.fill()
        self._ranks.ready()
        return collected(shard)

    def _set_master_weights(self, weights: Any) -> None:
        """Give the parameters float32 values, of which each rank keeps all bits of its parts."""
        call = "set_master_weights()"
        self._ranks.together(call, self._put_weights, call, weights)

    def _put_weights(self, call: str, weights: Any) -> None:
        shard = self._settled_shard()
        shard.fill()
        commit, given = prepare_parts(self, weights)
        labels = labels_of(self.param_groups)
        self._ranks.agree(
            {f"weight of {label}": has for label, has in zip(labels, given, strict=True)}
        )
        way = shard.parameters(given)
        self._ranks.ready()
        shard.inner._turn.write(call, commit.run)
        shard.spread(way)

    def _stepped_by(self) -> Optimizer:
        return self.shard

    def _on_copies(self) -> Callable[[], None]:
        commit = Commit()
        groups = [{**group} for group in self.param_groups]
        self._plan_for(groups, self.state, None, commit)
        for name, value in {"param_groups": groups, "_sums": Lanes(), "_words": Options()}.items():
            commit.set(self, name, value)
        return commit.run

    def _refuse_to_copy(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} belongs to its processes, and cannot be copied or pickled: "
            "save its state_dict(), and load it into another Sharded"
        )

    if not TYPE_CHECKING:
        __getstate__ = __setstate__ = __deepcopy__ = __reduce_ex__ = _refuse_to_copy

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} is not called: write optimizer.step(...). For "
            f"scipy.optimize.minimize, method={self._plain_class.__name__} itself is"
        )

    def _name(self) -> str:
        return f"{type(self).__name__} on rank {self._ranks.rank} of {self._ranks.size}"

    def __repr__(self) -> str:
        return lines_of_groups(self._name(), self.param_groups)

    def _repr_html_(self) -> str:
        return table_of_groups(self._name(), self.param_groups)


@cache
def _sharded_class(kind: type[Optimizer]) -> Any:
    """The class of sharded optimizers of a class."""
    methods: dict[str, Any] = {"_plain_class": kind, "__doc__": Sharded.__doc__}
    methods["__module__"] = kind.__module__
    if issubclass(kind, ScheduleFree):
        methods["_switch"] = Sharded._switch_on_ranks
    if hasattr(kind, "_update_hessian"):
        methods["_update_hessian"] = Sharded._hessian_on_ranks
    return type(f"Sharded{kind.__name__}", (Sharded, kind), methods)
