"""Files that several ranks write or read together.

(a) All ranks have the same state dict, whose arrays are in parts. Rank 0 lays out the file, writes
    what it alone has, and leaves gaps for the parts; then every rank writes its own elements there.
(b) The file gets its name when all are on disk, and every rank returns when it has it. Until then
    an error on any rank is one on all, and the old file is there.
(c) Each rank loads the same file. Nothing changes on any before all have checked all.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import IO, Any, TypeVar

import numpy as np

from cyoptim._checkpoints.parts import Gap, Parts, joined, write_elements
from cyoptim._checkpoints.places import Place, show
from cyoptim._checkpoints.single import write
from cyoptim._checkpoints.turns import in_turns
from cyoptim._step.hooks import hooks_in
from cyoptim._types import Array, StateDict
from cyoptim.distributed._agreement import Ranks
from cyoptim.distributed._contents import exchanged, gathered
from cyoptim.distributed._loading import described
from cyoptim.optimizer import Optimizer

T = TypeVar("T")

WRITTEN = np.dtype([("checksum", "<u4"), ("length", "<u8")])  # what a rank has put into a gap


class Joint:
    """The ranks in one call of save or load.

    Parameters
    ----------
    members : list of (place, optimizer)
        The sharded optimizers among the objects of this rank, and where they are there.
    """

    def __init__(self, members: list[tuple[Place, Any]]) -> None:
        self._members = members
        self._ranks: Ranks = members[0][1]._ranks
        self.rank, self.size = self._ranks.rank, self._ranks.size
        for place, sharded in members:
            ranks = sharded._ranks
            if (ranks.rank, ranks.size) != (self.rank, self.size):
                raise ValueError(
                    f"{show(place)} is on rank {ranks.rank} of {ranks.size}, and "
                    f"{show(members[0][0])} on rank {self.rank} of {self.size}: save and load "
                    "optimizers of different communicators in calls of their own"
                )

    def decided(self, what: str, function: Callable[..., T], **arguments: object) -> T:
        """What a function returns on rank 0, where alone it is called."""
        result: T = self._ranks.together(what, self._decided, function, arguments)
        return result

    def _decided(self, function: Callable[..., Any], arguments: dict[str, object]) -> Any:
        self._ranks.agree(arguments)
        message = pickle.dumps(function(**arguments)) if self.rank == 0 else b""
        return pickle.loads(exchanged(self._ranks, message, b"what rank 0 decides")[0])

    def _called(self, path: str | os.PathLike[str]) -> dict[str, object]:
        places = {show(place): type(sharded).__name__ for place, sharded in self._members}
        return {"path": os.fsdecode(path), **places}

    # Saving ------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], objects: dict[str, object]) -> None:
        """Write the objects of rank 0, and of the sharded ones the parts of all ranks."""
        self._ranks.together("cyoptim.save()", self._save, path, objects)

    def _save(self, path: str | os.PathLike[str], objects: dict[str, object]) -> None:
        # Only rank 0 looks at the other objects.
        own = objects if self.rank == 0 else [sharded for _, sharded in self._members]
        in_turns("read", "cyoptim.save()", own, partial(self._write, path, objects))

    def _write(self, path: str | os.PathLike[str], objects: dict[str, object]) -> None:
        self._ranks.agree(self._called(path))
        states: dict[int, Any] = {}
        for _, sharded in self._members:
            if id(sharded) not in states:
                states[id(sharded)] = _state_of(sharded)
        parts = list(_parts_in(list(states.values())))
        if self.rank == 0:
            write(path, objects, states, partial(self._fill, parts))
        else:
            self._write_parts(parts)

    def _fill(self, parts: list[Parts], file: IO[bytes], gaps: Sequence[Gap]) -> list[int]:
        """Let all ranks fill the gaps in the file of rank 0; return the checksums of these."""
        file.flush()
        numbers = {id(array): number for number, array in enumerate(parts)}
        named = [(numbers[id(gap.array.source)], *gap[1:]) for gap in gaps]
        self._laid_out(pickle.dumps((file.name, named)))
        # Nothing fails before all have opened the file, which is removed if rank 0 fails.
        return self._checksums(self._write_gaps(file, gaps))

    def _write_parts(self, parts: list[Parts]) -> None:
        """Write what this rank has into the file of rank 0."""
        name, named = pickle.loads(self._laid_out(b""))
        with self._opened(name) as file:
            written = self._write_gaps(file, [Gap(parts[number], *rest) for number, *rest in named])
            file.flush()
            os.fsync(file.fileno())
        self._checksums(written)

    def _laid_out(self, message: bytes) -> bytes:
        return exchanged(self._ranks, message, b"the file is laid out")[0]

    def _write_gaps(self, file: IO[bytes], gaps: Sequence[Gap]) -> Array:
        """Write this rank's elements; return what it has written into each gap."""
        self._ranks.agree(b"the file is open")
        written = np.zeros(len(gaps), WRITTEN)
        for k, gap in enumerate(gaps):
            if not gap.fortran:
                written[k] = _write_own(file, gap, self.rank)
        for k, gap in enumerate(gaps):
            if gap.fortran:
                written[k] = self._write_whole(file, gap)
        return written

    def _checksums(self, written: Array) -> list[int]:
        """The checksum of each gap, of which the ranks have filled consecutive parts."""
        every = exchanged(self._ranks, written.tobytes(), b"the parts are on disk")
        sums = [0] * len(written)
        for message in every:
            for k, (checksum, length) in enumerate(np.frombuffer(message, WRITTEN).tolist()):
                sums[k] = joined(sums[k], checksum, length)
        return sums

    def _opened(self, name: str) -> IO[bytes]:
        try:
            return open(name, "r+b")
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"rank {self.rank} does not see the file that rank 0 writes, {name}: save into a "
                "folder of a file system that all ranks share"
            ) from error

    def _write_whole(self, file: IO[bytes], gap: Gap) -> tuple[int, int]:
        """Let rank 0 write an array of which parts are not together in the file."""
        whole = gathered(self._ranks, gap.array)
        if whole is None:
            return 0, 0
        file.seek(gap.begin)
        return write_elements(file, whole.T, gap), whole.nbytes

    # Loading -----------------------------------------------------------------

    def load(self, path: str | os.PathLike[str], function: Callable[[], T], **said: object) -> T:
        """Call a function that loads a file on every rank."""
        result: T = self._ranks.together("cyoptim.load()", self._load, path, function, said)
        return result

    def _load(
        self, path: str | os.PathLike[str], function: Callable[[], T], said: dict[str, object]
    ) -> T:
        self._ranks.agree({**self._called(path), **said})
        return function()

    def check_file(self, saved: dict[str, Any]) -> None:
        """Raise if another rank has read another file."""
        said: dict[str, object] = {}
        for place, _ in self._members:
            for name, value in described(_at(saved, place)).items():
                said[f"{name} of {show(place)} in the file"] = value
        self._ranks.agree(said)

    def check_restored(self, loaded: list[str]) -> None:
        """Raise if another rank does not restore the same of the sharded optimizers."""
        self._ranks.agree({f"{show(p)} restored": show(p) in loaded for p, _ in self._members})


def _state_of(sharded: Any) -> StateDict:
    """The state dict that all ranks together have, in parts unless users' code wants to see it."""
    changed = sharded._plain_class.state_dict is not Optimizer.state_dict
    if changed or sharded._optimizer_state_dict_post_hooks:
        whole: StateDict = sharded.state_dict()
        return whole
    for hook in hooks_in(sharded._optimizer_state_dict_pre_hooks):
        hook(sharded)
    parts: StateDict = sharded._turn.read("cyoptim.save()", sharded._export_parts)
    return parts


def _parts_in(value: Any) -> Iterator[Parts]:
    """The arrays in parts, each once: their order is the same on all ranks."""
    if isinstance(value, Parts):
        yield value.source
    elif isinstance(value, dict):
        for item in value.values():
            yield from _parts_in(item)
    elif type(value) in (list, tuple):
        for item in value:
            yield from _parts_in(item)


def _write_own(file: IO[bytes], gap: Gap, rank: int) -> tuple[int, int]:
    array = gap.array
    first, _ = array.spans[rank]
    if not array.own.size:
        return 0, 0
    file.seek(gap.begin + first * array.itemsize)
    return write_elements(file, array.own, gap), array.own.nbytes


def _at(saved: Any, place: Place) -> Any:
    """What a file has at a place, if it has it."""
    for key in place:
        try:
            saved = saved[key]
        except (KeyError, IndexError, TypeError):
            return None
    return saved
