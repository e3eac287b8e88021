"""Sharded optimizers write the file of one process, and any number of ranks reads it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from threading import current_thread
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import npz, sources
from cyoptim.distributed import Sharded
from tests.support.cards import CLOSURE, COMPLEX, DENSE, ELEMENT_WISE, Card
from tests.support.parametrize import every_card, needs_torch
from tests.support.sharded_files import (
    SHAPES,
    SIZES,
    SUFFIXES,
    Run,
    card_run,
    everything_in_place,
    run,
    same_state,
    saved_by_one,
    shared_by_ranks,
)

every_size = pytest.mark.parametrize("size", SIZES)
every_suffix = pytest.mark.parametrize("suffix", SUFFIXES)


def save_after(steps: int, of: Run, path: Path, size: int, **more: Any) -> bytes:
    """The file that ranks write after so many steps."""

    def program(comm: Any) -> None:
        params, optimizer = of.sharded(comm, steps)
        cyoptim.save(path, params=params, optimizer=optimizer, **more)

    run(size, program)
    return path.read_bytes()


# --- the same bytes -------------------------------------------------------------------------------


@every_card(DENSE, ~CLOSURE, shared_by_ranks)
@every_suffix
def test_every_optimizer_writes_the_file_of_one_process(
    card: Card, suffix: str, tmp_path: Path
) -> None:
    of = card_run(card)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, tmp_path / f"sharded{suffix}", 4) == expected


@every_size
@every_suffix
def test_any_number_of_ranks_writes_the_file_of_one_process(
    size: int, suffix: str, tmp_path: Path
) -> None:
    of = Run(cyoptim.AdamW, lr=0.1, averages=True)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 3, epoch=3)
    assert save_after(3, of, tmp_path / f"sharded{suffix}", size, epoch=3) == expected


STORED: dict[str, dict[str, Any]] = {
    "dynamic8": {"state_dtype": "dynamic8"},
    "float8": {"state_dtype": "float8_e4m3fn"},
    "bfloat16, stochastic": {"state_dtype": "bfloat16"},
    "float16": {"state_dtype": "float16"},
}
PARAMETERS = {
    "split": ("bfloat16", {}),
    "float32 master": ("bfloat16", {"master": "float32"}),
    "no master": ("bfloat16", {"master": None}),
    "half": ("float16", {}),
    "split, dynamic8": ("bfloat16", {"state_dtype": "dynamic8"}),
}


@pytest.mark.parametrize("storage", STORED.values(), ids=STORED)
@every_suffix
def test_stored_precision(storage: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    of = Run(cyoptim.AdamW, lr=0.1, **storage)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 3)
    assert save_after(3, of, tmp_path / f"sharded{suffix}", 3) == expected


@pytest.mark.parametrize(("dtype", "storage"), PARAMETERS.values(), ids=PARAMETERS)
@every_suffix
def test_narrow_parameters(
    dtype: str, storage: dict[str, Any], suffix: str, tmp_path: Path
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of = Run(cyoptim.AdamW, dtype=getattr(ml_dtypes, dtype, dtype), averages=True, **storage)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 3)
    assert save_after(3, of, tmp_path / f"sharded{suffix}", 3) == expected


@every_card(COMPLEX, ELEMENT_WISE, DENSE, ~CLOSURE)
@every_suffix
def test_complex_parameters(card: Card, suffix: str, tmp_path: Path) -> None:
    of = Run(card.cls, dtype=np.complex64)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, tmp_path / f"sharded{suffix}", 3) == expected


def strided(array: Any) -> Any:
    """A view of every other element."""
    room = np.zeros((*array.shape, 2), array.dtype)[..., 0]
    room[...] = array
    return room


def fortran(array: Any) -> Any:
    return np.array(array, order="F")


LAYOUTS = {"Fortran": fortran, "strided": strided}


@pytest.mark.parametrize("form", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("storage", [{}, {"state_dtype": "bfloat16"}], ids=["plain", "bfloat16"])
@pytest.mark.parametrize("size", [1, 3])
@every_suffix
def test_parameters_of_other_layouts(
    form: Any, storage: dict[str, Any], size: int, suffix: str, tmp_path: Path
) -> None:
    of = Run(cyoptim.AdamW, form=form, averages=not storage, **storage)
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, tmp_path / f"sharded{suffix}", size) == expected


@needs_torch
@every_suffix
def test_tensors(suffix: str, tmp_path: Path) -> None:
    import torch

    of = Run(cyoptim.Adam, form=lambda a: torch.nn.Parameter(torch.from_numpy(a.copy())))
    of.step = lambda *args: _step_tensors(of, *args)  # type: ignore[method-assign]
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, tmp_path / f"sharded{suffix}", 3) == expected


def _step_tensors(of: Run, optimizer: Any, steps: Any, rank: int = 0) -> None:
    import torch

    for step in steps:
        grads = [
            torch.from_numpy(np.asarray(grad if rank == 0 else 0 * grad)) for grad in of.grads(step)
        ]
        optimizer.step(grads=grads)


def test_groups_that_begin_later_and_parameters_without_gradients(tmp_path: Path) -> None:
    def groups(params: list[Any]) -> Any:
        names = [f"p{i}" for i in range(len(params))]
        named = list(zip(names, params, strict=True))
        return [{"params": named[:2], "lr": 0.5}, {"params": named[2:5]}, {"params": named[5:]}]

    of = Run(cyoptim.AdamW, groups=groups)

    def train(optimizer: Any, rank: int = 0) -> None:
        for missing in ({0, 3}, {5}):
            grads = [np.zeros_like(g) if rank else g for g in of.grads(len(missing))]
            grads = [None if i in missing else grad for i, grad in enumerate(grads)]
            optimizer.step(grads=grads)

    _, plain = of.plain()
    train(plain)
    cyoptim.save(tmp_path / "plain.npz", optimizer=plain)

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm)
        train(optimizer, comm.rank)
        cyoptim.save(tmp_path / "sharded.npz", optimizer=optimizer)

    run(3, program)
    assert (tmp_path / "sharded.npz").read_bytes() == (tmp_path / "plain.npz").read_bytes()


@every_size
def test_an_optimizer_that_has_not_stepped(size: int, tmp_path: Path) -> None:
    of = Run(cyoptim.Adam)
    expected = saved_by_one(tmp_path / "plain.npz", of, 0)
    assert save_after(0, of, tmp_path / "sharded.npz", size) == expected


@every_suffix
def test_ranks_without_any_element(suffix: str, tmp_path: Path) -> None:
    of = Run(cyoptim.Adam, [(3,), (0, 2), ()])
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, tmp_path / f"sharded{suffix}", 4) == expected


# --- what else is in the call ---------------------------------------------------------------------


def test_the_other_objects_are_those_of_rank_0(tmp_path: Path) -> None:
    of, path = Run(cyoptim.Adam, [(5,)]), tmp_path / "run.npz"

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        # What only rank 0 could save.
        rng = np.random.default_rng(comm.rank) if comm.rank == 0 else object()
        cyoptim.save(path, model={"optimizer": [optimizer]}, rank=comm.rank, rng=rng)

    run(3, program)
    saved, rng = cyoptim.load(path), np.random.default_rng(0)
    assert saved["rank"] == 0
    assert saved["rng"] == rng.bit_generator.state
    assert list(saved["model"]["optimizer"][0]["state"]) == [0]


@every_suffix
def test_two_sharded_optimizers_in_one_file(suffix: str, tmp_path: Path) -> None:
    first, second = Run(cyoptim.Adam), Run(cyoptim.SGD, [(20_000,)], momentum=0.5)
    plain = {"a": first.plain(2)[1], "b": second.plain(1)[1]}
    cyoptim.save(tmp_path / f"plain{suffix}", optimizers=plain)

    def program(comm: Any) -> None:
        sharded = {"a": first.sharded(comm, 2)[1], "b": second.sharded(comm, 1)[1]}
        cyoptim.save(tmp_path / f"sharded{suffix}", optimizers=sharded, again=sharded["a"])
        cyoptim.save(tmp_path / f"sharded{suffix}", optimizers=sharded)

    run(3, program)
    found, expected = (tmp_path / f"{name}{suffix}" for name in ("sharded", "plain"))
    assert found.read_bytes() == expected.read_bytes()


def test_a_scheduler_and_hooks(tmp_path: Path) -> None:
    of, path, calls = Run(cyoptim.SGD, [(20_000,)], momentum=0.5), tmp_path / "run.npz", []

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm)
        scheduler = cyoptim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        of.step(optimizer, [0], comm.rank)
        scheduler.step()
        optimizer.register_state_dict_pre_hook(lambda _: calls.append(comm.rank))
        cyoptim.save(path, optimizer=optimizer, scheduler=scheduler)
        saved = cyoptim.load(path, optimizer=optimizer, scheduler=scheduler)
        assert saved["optimizer"]["param_groups"][0]["lr"] == optimizer.param_groups[0]["lr"]

        def changed(_: Any, state_dict: Any) -> Any:
            assert type(state_dict["state"][0]["momentum_buffer"]) is np.ndarray
            return {**state_dict, "hooked": True}

        optimizer.register_state_dict_post_hook(changed)
        cyoptim.save(path, optimizer=optimizer)

    run(2, program)
    assert sorted(calls) == [0, 0, 1, 1]
    assert cyoptim.load(path)["optimizer"]["hooked"] is True


# --- loading --------------------------------------------------------------------------------------


@every_card(DENSE, ~CLOSURE, shared_by_ranks)
def test_every_optimizer_resumes_with_another_number_of_ranks(card: Card, tmp_path: Path) -> None:
    """Saved by four, then two, then one process, then three."""
    of, path = card_run(card), tmp_path / "run.safetensors"
    expected = saved_by_one(tmp_path / "plain.safetensors", of, 5)
    save_after(1, of, path, 4)

    def program(comm: Any, step: int) -> None:
        params, optimizer = of.sharded(comm)
        cyoptim.load(path, params=params, optimizer=optimizer)
        of.step(optimizer, [step], comm.rank)
        cyoptim.save(path, params=params, optimizer=optimizer)

    run(2, lambda comm: program(comm, 1))
    params, optimizer = of.plain()
    cyoptim.load(path, params=params, optimizer=optimizer)
    of.step(optimizer, [2])
    cyoptim.save(path, params=params, optimizer=optimizer)
    run(3, lambda comm: program(comm, 3))
    run(1, lambda comm: program(comm, 4))
    found, wanted = (cyoptim.load(p) for p in (path, tmp_path / "plain.safetensors"))
    for one in (found, wanted):  # loading puts them last
        for group in one["optimizer"]["param_groups"]:
            group["params"] = group.pop("params")
    assert len(expected) == path.stat().st_size
    same_state(found, wanted)


@pytest.mark.parametrize("steps", [0, 1], ids=["new", "stepped"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@every_size
@every_suffix
def test_files_of_one_process_are_loaded(
    steps: int, large: bool, size: int, suffix: str, tmp_path: Path, monkeypatch: Any
) -> None:
    of = Run(cyoptim.AdamW, averages=True, amsgrad=True)
    path, copy = tmp_path / f"plain{suffix}", tmp_path / f"copy{suffix}"
    saved_by_one(path, of, 3)
    params, plain = of.plain(steps)
    cyoptim.load(path, params=params, optimizer=plain)
    cyoptim.save(copy, params=params, optimizer=plain)
    expected = copy.read_bytes()

    def program(comm: Any) -> None:
        params, optimizer = of.sharded(comm, steps)
        cyoptim.load(path, params=params, optimizer=optimizer)
        cyoptim.save(copy, params=params, optimizer=optimizer)

    if large:
        with everything_in_place(monkeypatch):
            run(size, program)
    else:
        run(size, program)
    assert copy.read_bytes() == expected


@pytest.mark.parametrize("storage", STORED.values(), ids=STORED)
@pytest.mark.parametrize("size", [1, 3])
def test_stored_precision_resumes(storage: dict[str, Any], size: int, tmp_path: Path) -> None:
    of, path = Run(cyoptim.AdamW, lr=0.1, **storage), tmp_path / "run.npz"
    saved_by_one(path, of, 3)
    expected, optimizer = of.plain()
    cyoptim.load(path, params=expected, optimizer=optimizer)
    of.step(optimizer, [3])

    def program(comm: Any) -> None:
        params, sharded = of.sharded(comm)
        cyoptim.load(path, params=params, optimizer=sharded)
        of.step(sharded, [3], comm.rank)
        for found, wanted in zip(params, expected, strict=True):
            assert found.tobytes() == wanted.tobytes()
        same_state(sharded.state_dict()["state"], optimizer.state_dict()["state"])

    run(size, program)


@pytest.mark.parametrize("kind", ["dynamic8", "bfloat16"])
def test_a_state_is_loaded_into_one_that_is_stored_otherwise(kind: str, tmp_path: Path) -> None:
    narrow, wide, path = (
        Run(cyoptim.AdamW, state_dtype=kind),
        Run(cyoptim.AdamW),
        tmp_path / "a.npz",
    )
    saved_by_one(path, narrow, 3)
    _, optimizer = wide.plain()
    cyoptim.load(path, optimizer=optimizer)

    def program(comm: Any) -> None:
        _, sharded = wide.sharded(comm)
        cyoptim.load(path, optimizer=sharded)
        same_state(sharded.state_dict()["state"], optimizer.state_dict()["state"])

    run(3, program)


def test_parameters_are_matched_by_name(tmp_path: Path) -> None:
    def named(order: list[int]) -> Any:
        return lambda params: [(f"layer{i}", params[i]) for i in order]

    path = tmp_path / "run.npz"
    backwards = Run(cyoptim.Adam, groups=named([5, 4, 3, 2, 1, 0]))
    forwards = Run(cyoptim.Adam, groups=named([0, 1, 2, 3, 4, 5]))
    _, plain = backwards.plain()
    plain.step(grads={f"layer{i}": grad for i, grad in enumerate(backwards.grads(0))})
    cyoptim.save(path, optimizer=plain)
    _, expected = forwards.plain()
    renamed = {"layer0": "layer1", "layer1": "layer0"}
    swapped = Run(
        cyoptim.Adam, [SHAPES[1], SHAPES[0], *SHAPES[2:]], groups=named([0, 1, 2, 3, 4, 5])
    )
    cyoptim.load(path, optimizer=expected)
    _, other = swapped.plain()
    cyoptim.load(path, optimizer=other, rename=renamed)

    def program(comm: Any) -> None:
        _, sharded = forwards.sharded(comm)
        cyoptim.load(path, optimizer=sharded)
        same_state(sharded.state_dict(), expected.state_dict())
        _, sharded = swapped.sharded(comm)
        cyoptim.load(path, optimizer=sharded, rename=renamed)
        same_state(sharded.state_dict(), other.state_dict())

    run(3, program)


@every_suffix
def test_each_rank_reads_its_own_parts(suffix: str, tmp_path: Path, monkeypatch: Any) -> None:
    """And, where elements have checksums, its share of all arrays for these."""
    of, path = Run(cyoptim.Adam, [(200_000,), (200_000,)], averages=True), tmp_path / f"a{suffix}"
    cyoptim.save(path, optimizer=of.plain(1)[1])
    read, checked = Counter[str](), Counter[str]()  # bytes, by the name of the rank's thread
    place, fill, through = sources.Sources.place, sources.Sources._fill, npz._read_through

    def placed(self: Any, target: Any, source: Any) -> Any:
        found = place(self, target, source)
        read[current_thread().name] += target.nbytes if found else 0
        return found

    def filled(self: Any, target: Any, source: Any) -> None:
        read[current_thread().name] += target.nbytes
        fill(self, target, source)

    def read_through(member: Any, left: int) -> None:
        checked[current_thread().name] += left
        through(member, left)

    monkeypatch.setattr(sources.Sources, "place", placed)
    monkeypatch.setattr(sources.Sources, "_fill", filled)
    monkeypatch.setattr(npz, "_read_through", read_through)

    def program(comm: Any) -> None:
        _, sharded = of.sharded(comm, 1)
        saved = cyoptim.load(path, optimizer=sharded)
        parts = sharded.shard.param_groups[0]["params"]
        assert saved["optimizer"]["state"][0]["exp_avg"].size == parts[0].size
        assert saved["optimizer"]["averages"]["values"][1].size == parts[1].size

    with everything_in_place(monkeypatch):
        run(4, program)
    elements, counts = 3 * 400_000 * 4, 2 * 8  # of two moments and the average; of steps
    assert sum(read.values()) == elements + 4 * counts
    assert max(read.values()) < 1.1 * elements / 4
    assert sum(checked.values()) == (elements + counts if suffix == ".npz" else 0)
    assert max(checked.values(), default=0) <= elements / 2


def test_load_returns_what_is_not_shared(tmp_path: Path) -> None:
    of, path = Run(cyoptim.Adam), tmp_path / "run.npz"
    saved_by_one(path, of, 1, epoch=7, lists=[np.ones(3)])

    def program(comm: Any) -> None:
        params, sharded = of.sharded(comm)
        lists = [np.zeros(3)]
        saved = cyoptim.load(path, params=params, optimizer=sharded, lists=lists)
        assert saved["epoch"] == 7
        assert lists[0].sum() == 3

    run(2, program)


# --- series ---------------------------------------------------------------------------------------


def test_a_series(tmp_path: Path) -> None:
    of, folder = Run(cyoptim.Adam), tmp_path / "a" / "series"
    expected = saved_by_one(tmp_path / "plain.npz", of, 3)

    def program(comm: Any) -> None:
        series = cyoptim.Checkpoints(folder, keep=2)
        params, optimizer = of.sharded(comm)
        for step in range(3):
            of.step(optimizer, [step], comm.rank)
            path = series.save(step, params=params, optimizer=optimizer)
        assert path == folder / "checkpoint-00000002.npz"
        with pytest.raises(Exception, match="step 1 is before"):
            series.save(1, params=params, optimizer=optimizer)
        _, other = of.sharded(comm)
        series.load(optimizer=other, step=1)
        assert other.shard.state[other.shard.param_groups[0]["params"][0]]["step"] == 2
        series.load(optimizer=other)
        assert other.shard.state[other.shard.param_groups[0]["params"][0]]["step"] == 3

    run(3, program)
    assert sorted(os.listdir(folder)) == ["checkpoint-00000001.npz", "checkpoint-00000002.npz"]
    assert (folder / "checkpoint-00000002.npz").read_bytes() == expected


def test_rank_0_decides_which_file_of_a_series(tmp_path: Path) -> None:
    """The others may look at the folder before they see what rank 0 has written."""
    of = Run(cyoptim.Adam, [(5,)])

    def program(comm: Any) -> None:
        series = cyoptim.Checkpoints(tmp_path)
        _, optimizer = of.sharded(comm, 1)
        series.save(1, optimizer=optimizer)
        if comm.rank:
            series.paths = lambda: []  # type: ignore[method-assign]
        assert series.load(optimizer=optimizer)["optimizer"]["param_groups"]
        with pytest.raises(ValueError, match=r"rank 1 has step=1, rank 0 step=0"):
            series.load(step=comm.rank, optimizer=optimizer)

    run(2, program)


def test_what_is_shared_is_found_where_it_is_saved() -> None:
    """In containers, but not behind a scheduler, which does not save it."""
    from cyoptim._checkpoints.ranks import joint_of

    def program(comm: Any) -> None:
        optimizer: Any = Sharded([np.ones(3)], cyoptim.SGD, comm=comm, lr=0.1)
        scheduler = cyoptim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        assert joint_of({"a": {"b": [optimizer]}}) is not None
        assert joint_of({"scheduler": scheduler}) is None

    run(2, program)


class Remembers(cyoptim.Optimizer):
    """Python steps, whose state has containers."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        state.setdefault("history", []).append(grad.copy())
        state["sums"] = {"rows": param.sum(axis=0), "norm": float(np.linalg.norm(grad))}
        state["step"] = state.get("step", 0) + 1
        param -= group["lr"] * sum(state["history"])


@every_suffix
def test_an_optimizer_of_ones_own(suffix: str, tmp_path: Path) -> None:
    """Each tensor is one rank's, whatever its state is."""
    of, path = Run(Remembers, [(300, 200), (7, 2), (100, 100)]), tmp_path / f"sharded{suffix}"
    expected = saved_by_one(tmp_path / f"plain{suffix}", of, 2)
    assert save_after(2, of, path, 3) == expected
    params, plain = of.plain()
    cyoptim.load(path, params=params, optimizer=plain)
    of.step(plain, [2])

    def program(comm: Any) -> None:
        own, optimizer = of.sharded(comm)
        cyoptim.load(path, params=own, optimizer=optimizer)
        of.step(optimizer, [2], comm.rank)
        same_state(own, params)
        same_state(optimizer.state_dict(), plain.state_dict())

    run(2, program)
