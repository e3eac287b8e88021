"""The state of a sharded optimizer, of which each rank has a part, as one: saved and loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from cyoptim._engine import Commit
from cyoptim._types import Group, StateDict
from cyoptim.distributed._agreement import Ranks
from cyoptim.distributed._checks import check_group
from cyoptim.distributed._contents import assembled, contents_of_ranks
from cyoptim.distributed._loading import described, prepare_load
from cyoptim.distributed._saving import Joint
from cyoptim.distributed._shard import Shard, with_parts
from cyoptim.optimizer import Optimizer


class StateOfRanks(Optimizer):
    """What saves and loads the state of a sharded optimizer."""

    # As each rank reads its part, of averages, too.
    _read_in_place: ClassVar[frozenset[str]] = frozenset({"state", "averages"})
    _ranks: Ranks
    _shard: Shard

    if TYPE_CHECKING:  # what Sharded defines

        def _check_before(self, what: str) -> None: ...
        def _make_inner(self, groups: list[Group], parts: Any) -> Any: ...

    def state_dict(self) -> StateDict:
        """The whole state in torch's form, on every rank.

        As :meth:`cyoptim.Optimizer.state_dict` of the class itself, but for the arrays, which are
        copies, collected one after the other. A checkpoint does not need it: :func:`cyoptim.save`
        lets each rank write its own parts.

        Returns
        -------
        dict
            The state; the same on all ranks.

        Raises
        ------
        ValueError
            If gradients of :meth:`accumulate` wait for the step: they are those of each rank.
        RankError
            If another rank has failed.
        """
        return self._ranks.together("state_dict()", super().state_dict)

    def _export(self) -> StateDict:
        return assembled(self._ranks, super()._export())  # type: ignore[no-any-return]

    def _export_parts(self) -> StateDict:
        """The state dict with arrays in parts."""
        return super()._export()

    def _contents(self, params: list[Any], numbers: dict[int, int]) -> dict[str, Any]:
        return contents_of_ranks(self)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Load the whole state that :meth:`state_dict`, here or of the class itself, has returned.

        As :meth:`cyoptim.Optimizer.load_state_dict`, on every rank, of which each takes its parts.

        Parameters
        ----------
        state_dict : dict
            The state to continue from, the same on all ranks.

        Raises
        ------
        TypeError, ValueError
            If it does not fit, has accumulated gradients, or has other options or step counts on
            another rank. Then no rank has changed.
        RankError
            If another rank has failed.
        """
        self._ranks.together("load_state_dict()", super().load_state_dict, state_dict)

    def _load(self, state_dict: StateDict) -> None:
        commit = Commit()
        self._prepare_load(state_dict, commit)
        self._ranks.agree(described(state_dict))
        self._ranks.ready()
        commit.run()

    def _prepare_load(self, state_dict: StateDict, commit: Commit) -> None:
        self._check_before("call load_state_dict()")
        self._settle_names()
        prepare_load(self, state_dict, commit)

    def _loaded_groups(self, saved: list[Group]) -> list[Group]:
        """Loaded groups as the class makes them, with this optimizer's parameters."""
        groups = with_parts(self.param_groups, self._shard.params, self)
        plain = self._make_inner(groups, None)
        plain._load({"state": {}, "param_groups": saved})
        new: list[Group] = plain.param_groups
        for number, group in enumerate(new):
            check_group(group, number, self)
        self._shard.check_cuts(plain)
        return new

    def _joint(self, members: list[Any]) -> Joint:
        """What saves and loads sharded optimizers, which are all in one call, on all ranks."""
        return Joint(members)
