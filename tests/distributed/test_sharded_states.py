"""State dicts of sharded optimizers are those of plain ones, on every rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import RankError, Sharded
from tests.support.cards import CLOSURE, DENSE, Card
from tests.support.parametrize import every_card, needs_torch
from tests.support.sharded_files import (
    SIZES,
    Run,
    arrays,
    card_run,
    run,
    same_state,
    shared_by_ranks,
)

every_size = pytest.mark.parametrize("size", SIZES)


@every_card(DENSE, ~CLOSURE, shared_by_ranks)
def test_every_optimizer_has_the_state_dict_of_one_process(card: Card) -> None:
    of = card_run(card)
    expected = of.plain(2)[1].state_dict()
    for found in run(3, lambda comm: of.sharded(comm, 2)[1].state_dict()):
        same_state(found, expected)


@every_card(DENSE, ~CLOSURE, shared_by_ranks)
def test_every_optimizer_goes_on_from_the_state_dict_of_one_process(card: Card) -> None:
    of = card_run(card)
    start, plain = of.plain(2)
    state = plain.state_dict()
    params, again = of.plain()
    again.load_state_dict(state)
    _copy(params, start)
    of.step(again, [2])
    expected = again.state_dict()

    def program(comm: Any) -> None:
        own, optimizer = of.sharded(comm)
        optimizer.load_state_dict(state)
        _copy(own, start)
        of.step(optimizer, [2], comm.rank)
        same_state(optimizer.state_dict(), expected)
        same_state(own, params)

    run(3, program)


def _copy(params: list[Any], values: list[Any]) -> None:
    for param, value in zip(params, values, strict=True):
        param[...] = value


@every_size
@pytest.mark.parametrize("steps", [0, 2])
def test_averages_options_and_counts(size: int, steps: int) -> None:
    of = Run(cyoptim.NAdam, averages=True)
    expected = of.plain(steps)[1].state_dict()

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, steps)
        same_state(optimizer.state_dict(), expected)
        _, other = of.sharded(comm, 1)
        other.load_state_dict(expected)
        same_state(other.state_dict()["state"], expected["state"])
        same_state(other.state_dict()["averages"], expected["averages"])

    run(size, program)


def test_arrays_are_copies() -> None:
    def program(comm: Any) -> None:
        _, optimizer = Run(cyoptim.Adam).sharded(comm, 1)
        state = optimizer.state_dict()["state"]
        before = state[0]["exp_avg"].copy()
        Run(cyoptim.Adam).step(optimizer, [1], comm.rank)
        assert np.array_equal(before, state[0]["exp_avg"])

    run(2, program)


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tensors_where_parameters_are(dtype: str) -> None:
    import torch

    kind = getattr(torch, dtype)
    shapes = [(40_000,), (3, 2), ()]

    def drawn(seed: int) -> list[Any]:
        return [torch.from_numpy(array).to(kind) for array in arrays(shapes, seed=seed)]

    def tensors() -> list[Any]:
        return [torch.nn.Parameter(tensor) for tensor in drawn(0)]

    def train(optimizer: Any, params: list[Any], rank: int = 0) -> None:
        for param, grad in zip(params, drawn(1), strict=True):
            param.grad = grad if rank == 0 else torch.zeros_like(grad)
        optimizer.step()

    params = tensors()
    plain = cyoptim.AdamW(params, lr=0.1)
    train(plain, params)
    expected = plain.state_dict()

    def program(comm: Any) -> None:
        own = tensors()
        optimizer: Any = Sharded(own, cyoptim.AdamW, comm=comm, reduce="sum", lr=0.1)
        train(optimizer, own, comm.rank)
        found = optimizer.state_dict()
        same_state(found, expected)
        if dtype == "float32":
            theirs = torch.optim.AdamW(own)
            theirs.load_state_dict(found)
        optimizer.load_state_dict(expected)
        again = optimizer.state_dict()["state"]
        assert again.keys() == expected["state"].keys()
        for number, entries in again.items():
            for name, value in entries.items():
                same_state(value, expected["state"][number][name])

    run(3, program)


@every_size
@pytest.mark.parametrize(
    ("dtype", "storage"),
    [
        ("bfloat16", {}),
        ("bfloat16", {"master": "float32"}),
        ("bfloat16", {"master": None}),
        ("float16", {}),
    ],
)
def test_master_weights(size: int, dtype: str, storage: dict[str, Any]) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    of = Run(cyoptim.AdamW, dtype=getattr(ml_dtypes, dtype, dtype), **storage)
    params, plain = of.plain(2)
    expected = cyoptim.master_weights(plain)
    changed: list[Any] = [np.asarray(2 * weight) for weight in expected]
    changed[1] = None
    cyoptim.set_master_weights(plain, changed)

    def program(comm: Any) -> None:
        own, optimizer = of.sharded(comm, 2)
        same_state(cyoptim.master_weights(optimizer), expected)
        cyoptim.set_master_weights(optimizer, changed)
        same_state(own, params)
        same_state(optimizer.state_dict()["state"], plain.state_dict()["state"])
        with pytest.raises((ValueError, RankError), match="has 5 items, expected 6"):
            cyoptim.set_master_weights(optimizer, changed[comm.rank == 0 :])

    run(size, program)


# --- what is refused ------------------------------------------------------------------------------


def test_gradients_that_wait_are_not_saved(tmp_path: Any) -> None:
    of, path = Run(cyoptim.Adam, [(5,)]), tmp_path / "run.npz"

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        optimizer.accumulate(of.grads(1))
        for call in (optimizer.state_dict, lambda: cyoptim.save(path, optimizer=optimizer)):
            with pytest.raises(ValueError, match=r"1 calls of accumulate\(\) wait on each rank"):
                call()
        optimizer.zero_grad()
        optimizer.state_dict()

    run(2, program)
    assert not path.exists()


def test_gradients_that_wait_are_not_loaded() -> None:
    of = Run(cyoptim.Adam, [(5,)])
    _, plain = of.plain(1)
    empty = plain.state_dict()
    plain.accumulate(of.grads(1))
    state = plain.state_dict()

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        before = optimizer.state_dict()
        with pytest.raises(ValueError, match="not divided among ranks"):
            optimizer.load_state_dict(state)
        same_state(optimizer.state_dict(), before)
        optimizer.accumulate(of.grads(1))
        optimizer.load_state_dict(empty)  # as with one process, those of before are dropped
        optimizer.state_dict()

    run(2, program)


def another_class(state: Any) -> None:
    for entries in state["state"].values():
        entries.pop("exp_avg")


def another_shape(state: Any) -> None:
    state["state"][0]["exp_avg"] = np.zeros((130, 299), np.float32)


def another_count(state: Any) -> None:
    state["state"][1]["step"] = np.array(7)


def another_option(state: Any) -> None:
    state["param_groups"][0]["lr"] = 7.0


def a_bad_option(state: Any) -> None:
    state["param_groups"][0]["lr"] = -1.0


def other_groups(state: Any) -> None:
    state["param_groups"] = [*state["param_groups"], {"params": []}]


BAD = {
    another_class: "is not that of",
    another_shape: r"state 'exp_avg' of parameter 0 of group 0 has shape \(130, 299\), expected \(130, 300\)",
    another_count: "digest",
    another_option: r"'lr': 7\.0",
    a_bad_option: "(?i)learning rate",
    other_groups: "a different number of parameter groups",
}


@pytest.mark.parametrize("spoil", BAD)
@pytest.mark.parametrize("spoilt", [0, 2])
def test_a_state_that_fits_on_all_ranks_but_one_changes_none(spoil: Any, spoilt: int) -> None:
    of = Run(cyoptim.Adam, averages=True)
    _, plain = of.plain(3)

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        before, state = optimizer.state_dict(), plain.state_dict()
        if comm.rank == spoilt:
            spoil(state)
        # A difference is one on all ranks; of an error, the others are told.
        with pytest.raises((ValueError, RankError), match=BAD[spoil]):
            optimizer.load_state_dict(state)
        same_state(optimizer.state_dict(), before)
        optimizer.load_state_dict(plain.state_dict())
        of.step(optimizer, [3], comm.rank)

    run(3, program)


def test_options_that_need_whole_tensors_are_refused_where_these_are_cut() -> None:
    of, sliced = Run(cyoptim.Prodigy, [(80_000,)]), Run(cyoptim.Prodigy, [(80_000,)], slice_p=3)
    state = sliced.plain(1)[1].state_dict()

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        with pytest.raises(
            (ValueError, RankError), match="needs tensors whole, and parameter 0 is cut"
        ):
            optimizer.load_state_dict(state)
        _, optimizer = sliced.sharded(comm)
        optimizer.load_state_dict(state)

    run(2, program)


def test_hooks_see_the_whole_state() -> None:
    of = Run(cyoptim.Adam)
    state = of.plain(1)[1].state_dict()

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm)
        seen = []

        def before(_: Any, loaded: Any) -> Any:
            seen.append(loaded["state"][0]["exp_avg"].shape)
            return {**loaded, "param_groups": [{**loaded["param_groups"][0], "lr": 0.25}]}

        optimizer.register_load_state_dict_pre_hook(before)
        optimizer.register_load_state_dict_post_hook(
            lambda own: seen.append(own.param_groups[0]["lr"])
        )
        optimizer.load_state_dict(state)
        assert seen == [(130, 300), 0.25]
        optimizer.register_state_dict_post_hook(
            lambda _, saved: {**saved, "size": saved["state"][0]["exp_avg"].size}
        )
        assert optimizer.state_dict()["size"] == 130 * 300

    run(2, program)


def test_inside_a_block_of_averages_nothing_is_saved_or_loaded(tmp_path: Any) -> None:
    of = Run(cyoptim.Adam, [(40_000,)], averages=True)

    def program(comm: Any) -> None:
        _, optimizer = of.sharded(comm, 1)
        state = optimizer.state_dict()
        calls = (
            optimizer.state_dict,
            lambda: optimizer.load_state_dict(state),
            lambda: cyoptim.save(tmp_path / "run.npz", optimizer=optimizer),
        )
        with optimizer.averaged():
            for call in calls:
                with pytest.raises(RuntimeError, match=r"after the block"):
                    call()
        same_state(optimizer.state_dict(), state)

    run(2, program)
    assert not (tmp_path / "run.npz").exists()


def test_groups_and_schedulers_go_on_after_a_load() -> None:
    """The dicts of the groups stay: what follows them is not left behind."""
    of = Run(cyoptim.SGD, [(40_000,), (3,)], momentum=0.9)
    _, plain = of.plain(2)
    plain.param_groups[0]["lr"] = 0.125
    state = plain.state_dict()

    def program(comm: Any) -> None:
        params, optimizer = of.sharded(comm)
        group = optimizer.param_groups[0]
        optimizer.load_state_dict(state)
        assert group is optimizer.param_groups[0]
        assert group["lr"] == 0.125
        assert all(one is other for one, other in zip(group["params"], params, strict=True))
        group["lr"] = 0.5
        of.step(optimizer, [2], comm.rank)
        assert optimizer.shard.param_groups[0]["lr"] == 0.5

    run(2, program)


def test_names_come_from_the_state() -> None:
    shapes = [(40_000,), (3,)]

    def named(params: list[Any]) -> Any:
        return [("w", params[0]), ("b", params[1])]

    state = Run(cyoptim.Adam, shapes, groups=named).plain(1)[1].state_dict()

    def program(comm: Any) -> None:
        of = Run(cyoptim.Adam, shapes)
        _, optimizer = of.sharded(comm)
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["param_names"] == ["w", "b"]
        zeros = 1.0 if comm.rank == 0 else 0.0
        grads = dict(zip("wb", (zeros * grad for grad in of.grads(1)), strict=True))
        optimizer.step(grads=grads)
        assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["w", "b"]

    run(2, program)
