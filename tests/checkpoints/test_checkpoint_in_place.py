"""Arrays of a large file are read into the objects; what is small, or must be converted, before."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
import tracemalloc
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import sources
from cyoptim._engine import Commit
from tests.support.cards import Card
from tests.support.parametrize import every_card
from tests.support.paths import ROOT
from tests.support.runs import PARAMETERS, advance
from tests.support.saved_objects import Average, Prepared, Scheduler, contents, same


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch):
    monkeypatch.setattr(sources, "LEAST_FILE", 0)
    monkeypatch.setattr(sources, "LEAST_ARRAY", 1)


def trained(card: Card, seed: int, steps: int) -> tuple[Any, list[Any]]:
    """An optimizer after some steps, and its parameters."""
    rng = np.random.default_rng(seed)
    shapes = [(6, 4), (3, 5)]
    params = [PARAMETERS.wrap(np.zeros(shape, np.float32)) for shape in shapes]
    optimizer = card.cls([(f"p{i}", param) for i, param in enumerate(params)])
    if not card.cls.__name__.endswith("ScheduleFree"):
        optimizer.ema(0.9)
    for _ in range(steps):
        grads = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
        advance(card, optimizer, params, grads)
    return optimizer, params


def arrays_of_state(optimizer: Any) -> dict[tuple[int, str], np.ndarray]:
    """The state's arrays that a rule keeps in the parameter's form, which are read in place."""
    return {
        (number, name): value
        for number, entries in optimizer.state_dict()["state"].items()
        if isinstance(entries, dict)
        for name, value in entries.items()
        if isinstance(value, np.ndarray) and value.ndim
    }


@every_card()
def test_a_run_continues_with_the_same_bits(either, card):
    first, theirs = trained(card, 1, 3)
    second, own = trained(card, 2, 2)
    cyoptim.save(either, optimizer=first, params=theirs)
    loaded = cyoptim.load(either, optimizer=second, params=own)
    assert contents({"o": second, "p": own}) == contents({"o": first, "p": theirs})
    assert contents({"o": loaded["optimizer"]}) == contents({"o": first})
    for step in range(2):
        grads = [np.full(param.shape, 0.5 + step, np.float32) for param in theirs]
        advance(card, first, theirs, grads)
        advance(card, second, own, grads)
    assert contents({"o": second, "p": own}) == contents({"o": first, "p": theirs})


def test_present_arrays_get_the_elements(either):
    first, second = (cyoptim.AdamW([np.full((3, 2), x)], weight_decay=0.1) for x in (1.0, 2.0))
    for optimizer, grad in ((first, 3.0), (second, 4.0)):
        optimizer.step(grads=[np.full((3, 2), grad)])
    before = arrays_of_state(second)
    w, F = np.zeros((3, 2)), np.zeros((2, 3, 2), order="F")
    cyoptim.save(either, optimizer=first, W=first.param_groups[0]["params"][0], F=F + 1, more=w + 2)
    loaded = cyoptim.load(either, optimizer=second, W=w)
    after = arrays_of_state(second)
    assert before.keys() == after.keys() == {(0, "exp_avg"), (0, "exp_avg_sq")}
    assert all(after[key] is before[key] for key in before)
    assert loaded["optimizer"]["state"][0]["exp_avg"] is after[0, "exp_avg"]
    assert loaded["W"] is w
    for name in ("F", "more"):  # what was not asked for is new, as ever
        assert loaded[name].flags.owndata
        assert loaded[name].flags.writeable
    assert (loaded["F"] == 1).all()
    assert (loaded["more"] == 2).all()


def test_a_new_optimizer_gets_new_arrays(either):
    first, params = np.ones(5), np.zeros(5)
    optimizer = cyoptim.Adam([first])
    optimizer.step(grads=[first])
    cyoptim.save(either, optimizer=optimizer)
    fresh = cyoptim.Adam([params])
    loaded = cyoptim.load(either, optimizer=fresh)
    state = fresh.state[params]
    assert same(dict(state), dict(optimizer.state[first]))
    assert loaded["optimizer"]["state"][0]["exp_avg"] is state["exp_avg"]
    fresh.step(grads=[first])


@pytest.mark.parametrize("saved", ["C", "F", "strided"])
@pytest.mark.parametrize("own", ["C", "F", "strided"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_every_layout(either, saved, own, dtype):
    def laid(layout: str, array: np.ndarray) -> np.ndarray:
        if layout == "strided":
            wide = np.zeros((6, 8), array.dtype)
            wide[::2, ::2] = array
            return wide[::2, ::2]
        return np.array(array, order=layout)

    source = laid(saved, np.arange(12.0).reshape(3, 4))
    target = laid(own, np.zeros((3, 4), dtype))
    cyoptim.save(either, W=source, epoch=1)
    cyoptim.load(either, W=target, convert=dtype == "f4")
    assert (target == source).all()


def test_of_two_arrays_in_one_memory_the_last_wins(either):
    cyoptim.save(either, a=np.full(4, 1.0), b=np.full(4, 2.0), c=np.full(2, 3.0))
    W = np.zeros(4)
    cyoptim.load(either, a=W, b=W)
    assert (W == 2).all()
    cyoptim.load(either, b=W, a=W)
    assert (W == 1).all()
    cyoptim.load(either, a=W, c=W[1:3])
    assert W.tolist() == [1, 3, 3, 1]


@pytest.mark.parametrize("present", [5, {"exp_avg": 3}, {"exp_avg": np.zeros(3)}])
def test_a_present_state_of_any_form_is_replaced(either, present):
    w = np.zeros(4)
    first, second = cyoptim.Adam([w]), cyoptim.Adam([w])
    first.step(grads=[np.ones(4)])
    cyoptim.save(either, optimizer=first)
    second.state[w] = present
    cyoptim.load(either, optimizer=second)
    assert contents({"o": second}) == contents({"o": first})


def test_states_that_share_an_array_are_set_apart(either):
    params = [np.zeros(4), np.zeros(4)]
    first, second = (cyoptim.SGD(params, lr=0.1, momentum=0.9) for _ in range(2))
    first.step(grads=[np.full(4, 1.0), np.full(4, 2.0)])
    cyoptim.save(either, optimizer=first)
    second.step(grads=[np.ones(4), np.ones(4)])
    second.state[params[1]]["momentum_buffer"] = second.state[params[0]]["momentum_buffer"]
    cyoptim.load(either, optimizer=second)
    assert [second.state[p]["momentum_buffer"][0] for p in params] == [1, 2]


def test_hooks_and_methods_of_users_see_arrays(either):
    class Own(cyoptim.SGD):
        def __setstate__(self, state: dict[str, Any]) -> None:
            seen.append(next(dict(entries) for entries in state["state"].values()))
            super().__setstate__(state)

    w, seen = np.zeros(3), []
    first = cyoptim.SGD([w], lr=0.1, momentum=0.9)
    first.step(grads=[np.full(3, 7.0)])
    cyoptim.save(either, optimizer=first)
    for optimizer in (cyoptim.SGD([w], lr=0.1, momentum=0.9), Own([w], lr=0.1, momentum=0.9)):
        optimizer.step(grads=[np.ones(3)])
        if type(optimizer) is cyoptim.SGD:

            def hook(_: Any, state_dict: Any) -> None:
                buffer = state_dict["state"][0]["momentum_buffer"]
                seen.append({"momentum_buffer": buffer.copy()})
                buffer += 1  # a hook may change what is loaded

            optimizer.register_load_state_dict_pre_hook(hook)
        cyoptim.load(either, optimizer=optimizer)
        assert (seen[-1]["momentum_buffer"] == 7).all()
        more = 1 if type(optimizer) is cyoptim.SGD else 0
        assert (optimizer.state[w]["momentum_buffer"] == 7 + more).all()


def test_a_state_that_is_refused_stays(either):
    first, second = cyoptim.Adam([np.ones(4)]), cyoptim.Adam([np.ones(4), np.ones(2)])
    first.step(grads=[np.ones(4)])
    second.step(grads=[np.full(4, 3.0), np.full(2, 3.0)])
    saved = {"optimizer": first, "W": np.arange(3.0)}
    before = contents({"o": second})
    cyoptim.save(either, **saved)
    W = np.zeros(3)
    result = cyoptim.load(either, strict=False, optimizer=second, W=W)
    assert contents({"o": second}) == before
    assert W.tolist() == [0, 1, 2]
    assert contents({"o": result["optimizer"]}) == contents({"o": first})


def test_a_state_refused_at_its_last_array_gives_its_places_back(either):
    params = [np.zeros(4), np.zeros(4)]
    first, second = (cyoptim.SGD(params, lr=0.1, momentum=0.9) for _ in range(2))
    for optimizer, grad in ((first, 1.0), (second, 5.0)):
        optimizer.step(grads=[np.full(4, grad)] * 2)
    first.state[params[1]]["momentum_buffer"] = np.ones(3)
    cyoptim.save(either, optimizer=first)
    result = cyoptim.load(either, strict=False, optimizer=second)
    assert [item.kind for item in result.skipped] == ["refused"]
    assert [second.state[p]["momentum_buffer"][0] for p in params] == [5, 5]
    assert (result["optimizer"]["state"][0]["momentum_buffer"] == 1).all()


def test_objects_of_others_get_arrays_of_memory(either):
    values = [np.arange(6.0).reshape(2, 3), (np.ones(2),), {"x": np.zeros(3, np.int8)}]
    cyoptim.save(either, average=Average(*values))
    average = Average()
    cyoptim.load(either, average=average)
    assert same(average.values, values)
    average.values[0] += 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc shows what is mapped")
def test_nothing_of_the_file_stays_mapped(either):
    cyoptim.save(either, a=np.ones(10_000), b=[np.ones(10_000)], c=(np.ones(10_000),))
    W = np.zeros(10_000)
    loaded = cyoptim.load(either, a=W)
    with open("/proc/self/maps") as maps:
        assert str(either) not in maps.read()
    assert all(loaded["b"][0] == 1)
    assert all(loaded["c"][0] == 1)


def test_where_nothing_can_be_mapped_all_is_read_at_once(either, monkeypatch):
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError("no such file system")

    monkeypatch.setattr(mmap, "mmap", refuse)
    cyoptim.save(either, a=np.arange(5.0))
    W = np.zeros(5)
    loaded = cyoptim.load(either, a=W)
    assert W.tolist() == loaded["a"].tolist() == [0, 1, 2, 3, 4]
    assert loaded["a"] is not W


# --- memory ----------------------------------------------------------------------------------------


def peak_of(function: Any) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.thread_unsafe(reason="tracemalloc counts all threads")
def test_save_and_load_take_no_memory_for_arrays_that_are_there(either):
    w = np.ones(3_000_000)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[w])
    assert peak_of(lambda: cyoptim.save(either, w=w, optimizer=optimizer)) < 20e6
    assert os.path.getsize(either) > 3 * w.nbytes
    assert peak_of(lambda: cyoptim.load(either, w=w, optimizer=optimizer)) < 4e6
    fresh = cyoptim.Adam([w])  # whose state is to be allocated
    assert peak_of(lambda: cyoptim.load(either, w=w, optimizer=fresh)) < 2 * w.nbytes + 4e6


# --- damage and failures ---------------------------------------------------------------------------


def test_a_changed_element_is_found_before_anything_changes(tmp_path):
    path, W, V = tmp_path / "run.npz", np.zeros(1000), np.zeros(1000)
    cyoptim.save(path, V=np.ones(1000), W=np.ones(1000))
    data = bytearray(path.read_bytes())
    data[data.rindex(np.ones(1).tobytes())] ^= 1
    path.write_bytes(data)
    with pytest.raises(cyoptim.CheckpointError, match="damaged"):
        cyoptim.load(path, V=V, W=W)
    assert not V.any()
    assert not W.any()


def torn(path: Any) -> Any:
    """An object that is loaded after everything was checked, and cuts the file short."""

    class Shears(Scheduler):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            super().load_state_dict(state)
            os.truncate(path, os.path.getsize(path) // 2)

    return Shears(0)


def test_a_file_that_cannot_be_read_a_second_time(either, tmp_path):
    def run() -> dict[str, Any]:
        w, b = np.zeros(4000), np.zeros(4000)
        optimizer = cyoptim.Adam([w, b])
        return {"optimizer": optimizer, "w": w, "b": b, "scheduler": Prepared(1)}

    first, second = run(), run()
    for _ in range(2):
        first["optimizer"].step(grads=[np.ones(4000)] * 2)
    second["optimizer"].step(grads=[np.full(4000, 5.0)] * 2)
    cyoptim.save(either, **first, foreign=Scheduler(3))
    whole = tmp_path / f"whole{either.suffix}"
    cyoptim.save(whole, **first)
    shears = torn(either)
    with pytest.raises(cyoptim.CheckpointError, match="could not be read a second time") as e:
        cyoptim.load(either, **second, foreign=shears)
    assert isinstance(e.value.__cause__, OSError)
    # Only arrays are torn: counts, options and objects of others are as they were.
    assert second["optimizer"].state[second["w"]]["step"] == 1
    assert second["scheduler"].epoch == 1
    assert shears.epoch == 0
    cyoptim.load(whole, **second)
    assert contents(second) == contents(first)


def test_a_file_that_is_cut_before_all_of_it_is_read(either):
    class Shears(Prepared):
        def _prepare_load(self, state: Any, commit: Any) -> None:
            os.truncate(either, os.path.getsize(either) // 2)

    w, V = np.zeros(4000), np.zeros(4000)
    cyoptim.save(either, w=w + 1, V=V + 1, shears=Scheduler(3))
    for objects in ({"w": w}, {"w": w, "V": V[::-1]}):
        with pytest.raises(cyoptim.CheckpointError, match=rf"{either.name}: damaged: cut short"):
            cyoptim.load(either, shears=Shears(0), **objects)
        assert not w.any()
        assert not V.any()
        cyoptim.save(either, w=w + 1, V=V + 1, shears=Scheduler(3))


class OwnUpdate(cyoptim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        state.setdefault("past", [np.zeros_like(param)])[0][...] += grad


def average(w: Any) -> Any:
    averaged = cyoptim.swa_utils.AveragedModel([w])
    averaged.update_parameters([w])
    return averaged


def stepped(optimizer: Any, w: Any) -> Any:
    for _ in range(2):
        optimizer.step(lambda: (float(w.sum()), [np.cos(w)]))
    return optimizer


def with_average(w: Any) -> Any:
    optimizer = cyoptim.SGD([w], lr=0.1)
    optimizer.ema(0.9)
    return optimizer


def with_sums(w: Any) -> Any:
    optimizer = cyoptim.SGD([w], lr=0.1)
    optimizer.accumulate([np.ones_like(w)])
    return optimizer


def with_notes(w: Any) -> Any:
    optimizer = cyoptim.SGD([w], lr=0.1)
    optimizer.state[w]["note"] = np.ones_like(w)
    optimizer.state["all"] = {"note": np.ones_like(w)}
    return optimizer


READERS = {
    "update": lambda w: stepped(OwnUpdate([w]), w),
    "LBFGS": lambda w: stepped(cyoptim.LBFGS([w], lr=0.1), w),
    "Adafactor": lambda w: stepped(cyoptim.Adafactor([w]), w),
    "ema": with_average,
    "sums": with_sums,
    "notes": with_notes,
    "AveragedModel": average,
    "others": lambda w: Average(w),
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_whoever_reads_its_state_itself_hears_of_a_cut(either, reader):
    """In a process of its own, which a look at a view would end."""
    program = f"""
        import os, sys
        from pathlib import Path
        import numpy as np, cyoptim
        from cyoptim._checkpoints import sources
        from tests.checkpoints.test_checkpoint_in_place import READERS
        from tests.support.saved_objects import Prepared, Scheduler

        sources.LEAST_FILE, sources.LEAST_ARRAY = 0, 1 << 13
        path = Path(sys.argv[1])

        class Shears(Prepared):
            def _prepare_load(self, state, commit):
                os.truncate(path, 8192)

        def made():
            return READERS[{reader!r}](np.zeros((100_000, 4)))

        cyoptim.save(path, shears=Scheduler(3), reader=made())
        try:
            cyoptim.load(path, strict=False, shears=Shears(0), reader=made())
        except cyoptim.CheckpointError as error:
            assert "damaged: cut short" in str(error), error
        else:
            raise AssertionError("loaded")
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(either)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_small_file_changes_all_or_nothing_whatever_happens_to_it(either, monkeypatch):
    monkeypatch.setattr(sources, "LEAST_FILE", 64 << 20)
    cyoptim.save(either, w=np.ones(4000), foreign=Scheduler(3))
    w = np.zeros(4000)
    cyoptim.load(either, w=w, foreign=torn(either))
    assert (w == 1).all()


class Interrupted:
    """A file whose first reads are interrupted, and that gives few bytes at a time."""

    def __init__(self, data: bytes, interrupts: int) -> None:
        self.data, self.at, self.interrupts = data, 0, interrupts

    def seek(self, at: int) -> None:
        self.at = at

    def readinto(self, target: Any) -> int:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        part = self.data[self.at : self.at + 3]
        target[: len(part)] = np.frombuffer(part, np.uint8)
        return len(part)


class Places:
    def __init__(self, file: Any) -> None:
        self.file = file

    def place(self, target: np.ndarray, source: np.ndarray) -> Any:
        return target.view(np.uint8), self.file, 1


@pytest.mark.parametrize("interrupts", [0, 1, 5])
def test_an_interrupt_waits_until_all_is_changed(interrupts):
    commit = Commit(Places(Interrupted(b"?" + np.arange(10.0).tobytes(), interrupts)))
    w, changed = np.zeros(10), {}
    assert commit.read(w, np.zeros(10))
    commit.update(changed, {"epoch": 3})
    if interrupts:
        with pytest.raises(KeyboardInterrupt):
            commit.run()
    else:
        commit.run()
    assert w.tolist() == [*range(10)]
    assert changed == {"epoch": 3}
    assert not commit.torn


def test_a_read_that_ends_too_early_changes_nothing_else():
    commit = Commit(Places(Interrupted(b"?" + bytes(16), 0)))
    changed: dict[str, int] = {}
    commit.update(changed, {"epoch": 3})
    commit.read(np.zeros(10), np.zeros(10))
    with pytest.raises(OSError, match="ends before"):
        commit.run()
    assert commit.torn
    assert not changed
