"""A failure on any rank, at any point of a save or load, is one on all: the old file and all objects stay as they are."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import files, single
from cyoptim.distributed import Local, RankError, _saving
from tests.support.saved_objects import temporaries
from tests.support.sharded_files import SUFFIXES, Run, everything_in_place, run, same_state

OF = Run(cyoptim.Adam, [(40_000,), (5,)])
RANKS = 3

every_rank = pytest.mark.parametrize("rank", range(RANKS))
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


class Failure(OSError):
    """What a test lets a rank raise."""


def rank_of_thread() -> int:
    name = threading.current_thread().name
    return int(name.removeprefix("rank ")) if name.startswith("rank ") else -1


def fails(
    monkeypatch: Any, target: Any, name: str, rank: int, error: Callable[[], BaseException]
) -> list[int]:
    """Let a function raise in one rank; the list that is returned gets an item when it has."""
    original, failed = getattr(target, name), []

    def function(*args: Any, **kwargs: Any) -> Any:
        if rank_of_thread() == rank:
            failed.append(rank)
            raise error()
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, function)
    return failed


def outcomes(program: Callable[[Any], Any]) -> list[BaseException | None]:
    """What each rank has raised."""

    def attempt(comm: Any) -> BaseException | None:
        try:
            program(comm)
        except BaseException as error:
            return error
        return None

    return run(RANKS, attempt)


# --- saving ---------------------------------------------------------------------------------------

POINTS: dict[str, tuple[Any, str]] = {
    "describes its call": (_saving.Joint, "_called"),
    "describes its state": (_saving, "_parts_in"),
    "writes its elements": (_saving, "write_elements"),
    "writes them to disk": (os, "fsync"),
}
OF_THE_OTHERS: dict[str, tuple[Any, str]] = {
    "opens the file": (_saving.Joint, "_opened"),
}
OF_RANK_0: dict[str, tuple[Any, str]] = {
    "makes the file": (files, "_open_temporary"),
    "renames it": (os, "replace"),
}


def check_save_fails(path: Path, rank: int, kind: type[BaseException]) -> None:
    """One rank raises its own error, the others tell of it, and the old file stays."""
    path.write_bytes(b"old")

    def program(comm: Any) -> None:
        params, optimizer = OF.sharded(comm, 1)
        cyoptim.save(path, params=params, optimizer=optimizer)

    found = outcomes(program)
    assert type(found[rank]) is kind
    for other, error in enumerate(found):
        if other != rank:
            assert type(error) is RankError
            assert error.ranks == (rank,)
            assert f"cyoptim.save(): rank {rank} raised {kind.__name__}" in str(error)
    assert path.read_bytes() == b"old"
    assert temporaries(path.parent) == []


@pytest.mark.parametrize(
    ("point", "rank"),
    [
        *product(POINTS, range(RANKS)),
        *product(OF_THE_OTHERS, range(1, RANKS)),
        *product(OF_RANK_0, [0]),
    ],
)
@every_suffix
def test_a_rank_that_fails_while_it(
    point: str, rank: int, suffix: str, tmp_path: Path, monkeypatch: Any
) -> None:
    target, name = {**POINTS, **OF_THE_OTHERS, **OF_RANK_0}[point]
    full = lambda: Failure(errno.ENOSPC, os.strerror(errno.ENOSPC))  # noqa: E731
    failed = fails(monkeypatch, target, name, rank, full)
    check_save_fails(tmp_path / f"run{suffix}", rank, Failure)
    assert failed


@every_rank
def test_an_interrupt_of_a_rank(rank: int, tmp_path: Path, monkeypatch: Any) -> None:
    failed = fails(monkeypatch, _saving, "write_elements", rank, KeyboardInterrupt)
    check_save_fails(tmp_path / "run.npz", rank, KeyboardInterrupt)
    assert failed


def test_a_rank_that_fails_while_rank_0_collects_an_array(tmp_path: Path, monkeypatch: Any) -> None:
    """Of which parts are not together in the file."""
    of, path = (
        Run(cyoptim.Adam, [(200, 200)], form=lambda a: np.array(a, order="F")),
        tmp_path / "a.npz",
    )
    path.write_bytes(b"old")
    failed = fails(monkeypatch, _saving, "write_elements", 0, lambda: Failure("full"))

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        cyoptim.save(path, optimizer=optimizer)

    assert [type(error) for error in outcomes(program)] == [Failure, RankError, RankError]
    assert len(failed) == 1
    assert path.read_bytes() == b"old"
    assert temporaries(tmp_path) == []


def test_an_object_that_cannot_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"

    def program(comm: Any) -> None:
        _, optimizer = OF.sharded(comm, 1)
        cyoptim.save(path, optimizer=optimizer, rest=object())

    first, *others = outcomes(program)
    assert "cannot save an object of type object" in str(first)
    assert all("rank 0 raised TypeError: rest: cannot save" in str(error) for error in others)
    assert os.listdir(tmp_path) == []


def test_a_file_that_a_rank_does_not_see(tmp_path: Path, monkeypatch: Any) -> None:
    missing = lambda: FileNotFoundError(errno.ENOENT, "gone")  # noqa: E731
    monkeypatch.setattr(_saving, "open", open, raising=False)
    fails(monkeypatch, _saving, "open", 2, missing)
    path = tmp_path / "run.npz"

    def program(comm: Any) -> None:
        _, optimizer = OF.sharded(comm, 1)
        cyoptim.save(path, optimizer=optimizer)

    for error in outcomes(program):
        assert "rank 2 does not see the file that rank 0 writes" in str(error)
        assert "a file system that all ranks share" in str(error)
    assert os.listdir(tmp_path) == []


def test_calls_that_differ(tmp_path: Path) -> None:
    def differ(call: Callable[[Any, Any], Any], message: str) -> None:
        def program(comm: Any) -> None:
            _, optimizer = OF.sharded(comm, 1)
            before = optimizer.state_dict()
            with pytest.raises(ValueError, match=message):
                call(comm.rank, optimizer)
            same_state(optimizer.state_dict(), before)

        run(RANKS, program)

    differ(
        lambda rank, optimizer: cyoptim.save(tmp_path / f"{rank}.npz", optimizer=optimizer),
        r"rank 1 has path='.*1\.npz', rank 0 path='.*0\.npz'",
    )
    differ(
        lambda rank, optimizer: cyoptim.save(tmp_path / "a.npz", **{f"of{rank}": optimizer}),
        "rank 1 has no of0, rank 0 of0='ShardedAdam'",
    )

    def only_rank_0_saves(rank: int, optimizer: Any) -> None:
        if rank == 0:
            cyoptim.save(tmp_path / "a.npz", optimizer=optimizer)
        else:
            optimizer.step(grads=OF.grads(0))

    differ(only_rank_0_saves, r"rank 1 calls step\(\), rank 0 cyoptim.save\(\)")
    assert os.listdir(tmp_path) == []


def test_optimizers_of_different_communicators(tmp_path: Path) -> None:
    def program(comm: Any) -> None:
        _, optimizer = OF.sharded(comm, 1)

        def alone(one: Any) -> None:
            _, other = OF.sharded(one)
            with pytest.raises(ValueError, match=r"b is on rank 0 of 1, and a on rank . of 3"):
                cyoptim.save(tmp_path / "run.npz", a=optimizer, b=other)

        Local(1).run(alone)

    run(RANKS, program)


def test_a_failed_save_does_not_hinder_the_next(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "run.npz"

    def program(comm: Any) -> None:
        _, optimizer = OF.sharded(comm, 1)
        with pytest.raises((Failure, RankError)):
            cyoptim.save(path, optimizer=optimizer)
        comm.share(b"")
        if comm.rank == 0:
            monkeypatch.undo()
            (tmp_path / ".cyoptim-0123456789abcdef.tmp").write_bytes(b"of a killed job")
        comm.share(b"")
        cyoptim.save(path, optimizer=optimizer)

    fails(monkeypatch, _saving, "write_elements", 1, lambda: Failure("full"))
    run(RANKS, program)
    assert os.listdir(tmp_path) == ["run.npz"]


# --- loading --------------------------------------------------------------------------------------


def check_load_fails(
    path: Path, change: Callable[[int, dict[str, Any]], Any] = lambda *_: None, **options: Any
) -> list[BaseException | None]:
    """All ranks raise, and nothing changes on any."""

    def program(comm: Any) -> None:
        params, optimizer = OF.sharded(comm, 1)
        objects: dict[str, Any] = {"params": params, "optimizer": optimizer}
        change(comm.rank, objects)
        before = [param.copy() for param in params], optimizer.state_dict()
        try:
            cyoptim.load(path, **objects, **options)
        finally:
            same_state((params, optimizer.state_dict()), before)

    found = outcomes(program)
    assert all(found)
    return found


@pytest.fixture(params=SUFFIXES)
def saved(request: Any, tmp_path: Path) -> Path:
    path = tmp_path / f"run{request.param}"
    params, optimizer = OF.plain(3)
    cyoptim.save(path, params=params, optimizer=optimizer)
    return path


@every_rank
def test_parameters_that_do_not_fit_on_one_rank(rank: int, saved: Path) -> None:
    def change(own: int, objects: dict[str, Any]) -> None:
        if own == rank:
            objects["params"] = [*objects["params"][:1], np.zeros(6, np.float32)]

    found = check_load_fails(saved, change)
    assert "params[1]: found" in str(found[rank])
    assert all(type(error) is RankError for i, error in enumerate(found) if i != rank)


@every_rank
def test_a_file_that_one_rank_cannot_open(rank: int, saved: Path, monkeypatch: Any) -> None:
    fails(monkeypatch, single, "open_regular", rank, lambda: Failure(errno.EIO, "broken"))
    found = check_load_fails(saved)
    assert type(found[rank]) is Failure
    assert all(f"rank {rank} raised Failure" in str(e) for i, e in enumerate(found) if i != rank)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_a_changed_byte_of_a_zip_archive(large: bool, tmp_path: Path, monkeypatch: Any) -> None:
    """Which of a large file only one rank sees, as each checks some of the arrays."""
    path = tmp_path / "run.npz"
    params, optimizer = OF.plain(3)
    cyoptim.save(path, params=params, optimizer=optimizer)
    content = bytearray(path.read_bytes())
    place = content.index(optimizer.state_dict()["state"][0]["exp_avg_sq"].tobytes())
    content[place + 100_000] ^= 1
    path.write_bytes(content)
    if not large:
        found = check_load_fails(path)
        assert all("Bad CRC-32" in str(error) for error in found)
        return
    with everything_in_place(monkeypatch):
        found = check_load_fails(path)
    seen = [type(error) is cyoptim.CheckpointError for error in found]
    assert sum(seen) == 1
    assert all("Bad CRC-32" in str(error) for error in found)


def test_ranks_that_see_different_files(saved: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """As where a rank has an old one in its cache."""
    params, optimizer = OF.plain(4)
    other = saved.with_stem("other")
    cyoptim.save(other, params=params, optimizer=optimizer)
    original = single.open_regular
    monkeypatch.setattr(
        single, "open_regular", lambda path: original(other if rank_of_thread() == 2 else path)
    )
    found = check_load_fails(saved)
    assert all("rank 2 has digest of optimizer in the file" in str(error) for error in found)


def test_an_optimizer_that_one_rank_would_leave_out(saved: Path) -> None:
    def change(rank: int, objects: dict[str, Any]) -> None:
        if rank == 1:
            objects["optimizer"].register_load_state_dict_pre_hook(_refuse)

    found = check_load_fails(saved, change, strict=False)
    assert all("rank 1 has optimizer restored=False" in str(error) for error in found)


def _refuse(*_: Any) -> None:
    raise ValueError("not now")


class Foreign:
    """An object of another library, which may refuse to load."""

    def __init__(self, value: int, refuses: bool = False) -> None:
        self.value, self.refuses = value, refuses

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if self.refuses and state["value"] != self.value:
            raise ValueError("never")
        self.value = state["value"]


def test_objects_of_others_become_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    params, optimizer = OF.plain(3)
    cyoptim.save(path, params=params, optimizer=optimizer, foreign=Foreign(7))
    made: list[Foreign] = []

    def change(rank: int, objects: dict[str, Any]) -> None:
        objects["foreign"] = Foreign(rank, refuses=rank == 1)
        made.append(objects["foreign"])

    found = check_load_fails(path, change)
    assert "foreign refuses the saved state: never" in str(found[1])
    assert sorted(one.value for one in made) == [0, 1, 2]


def test_a_disk_that_fails_when_all_have_agreed(saved: Path, monkeypatch: Any) -> None:
    """The others are told, though they have loaded all."""

    class Torn:
        """A file whose elements cannot be read."""

        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def readinto(self, target: Any) -> int:
            raise OSError(errno.EIO, "the disk has failed")

    from cyoptim._checkpoints.sources import Sources

    place = Sources.place

    def placed(self: Any, target: Any, source: Any) -> Any:
        found = place(self, target, source)
        if found is None or rank_of_thread() != 1:
            return found
        return found[0], Torn(found[1]), found[2]

    monkeypatch.setattr(Sources, "place", placed)

    def program(comm: Any) -> None:
        params, optimizer = OF.sharded(comm, 1)
        cyoptim.load(saved, params=params, optimizer=optimizer)

    with everything_in_place(monkeypatch):
        found = outcomes(program)
    assert type(found[1]) is cyoptim.CheckpointError
    for error in (found[0], found[2]):
        assert type(error) is RankError
        assert "could not be read a second time" in str(error)


# --- series ---------------------------------------------------------------------------------------


def test_a_series_of_which_rank_0_cannot_make_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    def program(comm: Any) -> None:
        _, optimizer = OF.sharded(comm, 1)
        cyoptim.Checkpoints(tmp_path / "file" / "series").save(1, optimizer=optimizer)

    first, *others = outcomes(program)
    assert isinstance(first, OSError)
    assert all(type(error) is RankError for error in others)


def test_a_failed_save_deletes_no_file_of_a_series(tmp_path: Path, monkeypatch: Any) -> None:
    def program(comm: Any) -> None:
        series = cyoptim.Checkpoints(tmp_path, keep=1)
        _, optimizer = OF.sharded(comm, 1)
        series.save(1, optimizer=optimizer)
        comm.share(b"")
        if comm.rank == 0:
            fails(monkeypatch, _saving, "write_elements", 2, lambda: Failure("full"))
        comm.share(b"")
        with pytest.raises((Failure, RankError)):
            series.save(2, optimizer=optimizer)
        assert series.steps() == [1]

    run(RANKS, program)
    assert os.listdir(tmp_path) == ["checkpoint-00000001.npz"]
