"""State in mapped files: map_state."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._saving import files
from tests.support.cards import CLOSURE, DENSE, MODES, Card
from tests.support.doors import Door
from tests.support.parametrize import every_card, every_door
from tests.support.runs import PARAMETERS, advance
from tests.support.saved_objects import contents

MULTIARRAY = getattr(np, "_core", None) or np.core
ALLOCATOR: Any = MULTIARRAY.multiarray.get_handler_name  # type: ignore[attr-defined]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc, and limits of data")


@pytest.fixture
def small(monkeypatch):
    """Every array with a byte gets a file."""
    monkeypatch.setattr(files, "LEAST", 1)


def owner(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def is_in_a_file(value: Any) -> bool:
    array = owner(np.asarray(value))
    if array.flags.owndata:
        return ALLOCATOR(array) == "cyoptim_files" and array.nbytes >= files.LEAST
    if not sys.platform.startswith("linux"):
        pytest.skip("whose memory a tensor uses can be seen on Linux alone")
    with open("/proc/self/maps") as maps:
        spans = [line.split()[0].split("-") for line in maps if " rw-s " in line]
    return any(int(low, 16) <= array.ctypes.data < int(high, 16) for low, high in spans)


def arrays_in(value: Any) -> list[np.ndarray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [array for item in value.values() for array in arrays_in(item)]
    if isinstance(value, (list, tuple)):
        return [array for item in value for array in arrays_in(item)]
    return [np.asarray(value)] if hasattr(value, "numpy") else []


def kept_by(optimizer: Any) -> list[np.ndarray]:
    """All arrays of the state, averages and sums."""
    entries = [dict(entries) for entries in optimizer.state.values() if isinstance(entries, dict)]
    average = optimizer._average
    means = [] if average is None else [mean for _, mean in average._entries.values()]
    return arrays_in([entries, means, optimizer._sums._arrays])


SHAPES = [(6, 4), (3, 5)]


def gradients(step: int, dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(step)
    return [rng.normal(size=shape).astype(dtype) for shape in SHAPES]


def trained(card: Card, door: Door, between: Any) -> tuple[Any, list[Any]]:
    """Six steps with everything that an optimizer may keep; `between` is called between them."""
    params = [door.wrap(np.full(shape, 0.1, np.float32)) for shape in SHAPES]
    optimizer = card.cls([params[0]])
    if not MODES(card):
        optimizer.ema(0.9)
    between(optimizer)
    for step in range(6):
        if step == 2 and not CLOSURE(card):
            optimizer.add_param_group({"params": [params[1]]})
        count = len([p for group in optimizer.param_groups for p in group["params"]])
        grads = gradients(step)[:count]
        if step == 3 and DENSE(card) and not CLOSURE(card):
            optimizer.accumulate(grads=grads)
            between(optimizer)
            optimizer.step()
        else:
            advance(card, optimizer, params[:count], grads, door)
        if step in (0, 4):
            between(optimizer)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return optimizer, params


@every_card()
def test_the_bits_are_those_of_ordinary_memory(card, small, tmp_path):
    plain, own = trained(card, PARAMETERS, lambda _: None)
    mapped, params = trained(card, PARAMETERS, lambda optimizer: optimizer.map_state(tmp_path))
    assert contents({"o": mapped, "p": params}) == contents({"o": plain, "p": own})
    assert all(is_in_a_file(array) for array in kept_by(mapped) if array.nbytes)
    assert not any(is_in_a_file(array) for array in kept_by(plain))
    assert os.listdir(tmp_path) == []


@every_door
@pytest.mark.parametrize("name", ["Adam", "LBFGS", "Adafactor"])
def test_every_kind_of_parameter(door, name, small, tmp_path):
    from tests.optimizers import cards

    card = next(card for card in cards() if card.name == name)
    _, own = trained(card, door, lambda _: None)
    mapped, params = trained(card, door, lambda optimizer: optimizer.map_state(tmp_path))
    for one, other in zip(params, own, strict=True):
        np.testing.assert_array_equal(door.read(one), door.read(other))
    assert all(is_in_a_file(array) for array in kept_by(mapped) if array.nbytes)


def test_it_begins_and_ends_at_any_time(tmp_path):
    w = np.zeros(1 << 18)
    optimizer = cyoptim.Adam([w, np.zeros(3)])
    optimizer.map_state(tmp_path)
    grads = [np.ones(1 << 18), np.ones(3)]
    optimizer.step(grads=grads)
    first = optimizer.state[w]["exp_avg"]
    assert is_in_a_file(first)
    assert not any(
        is_in_a_file(a) for a in optimizer.state[optimizer.param_groups[0]["params"][1]].values()
    )
    optimizer.map_state(None)
    assert not any(map(is_in_a_file, kept_by(optimizer)))
    assert (optimizer.state[w]["exp_avg"] == first).all()
    optimizer.step(grads=grads)
    assert (first == first[0]).all()  # no step goes on in the old memory
    assert optimizer.state[w]["exp_avg"][0] > first[0]


def test_groups_hooks_and_schedulers_stay(tmp_path):
    w = np.zeros(4)
    optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.9)
    group = optimizer.param_groups[0]
    scheduler = cyoptim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    optimizer.map_state(str(tmp_path))
    optimizer.step(grads=[np.ones(4)])
    scheduler.step()
    assert optimizer.param_groups[0] is group
    assert group["lr"] == 0.5


def test_arrays_of_the_program_are_where_they_were(small, tmp_path):
    made = []

    def closure() -> Any:
        made.append(np.ones(4))
        return 1.0, [made[-1]]

    w = np.zeros(4)
    first, second = cyoptim.SGD([w], momentum=0.9), cyoptim.LBFGS([np.zeros(4)])
    for optimizer in (first, second):
        optimizer.map_state(tmp_path)
        optimizer.register_step_pre_hook(lambda *_: made.append(np.ones(4)))
        optimizer.register_step_post_hook(lambda *_: made.append(np.ones(4)))
        optimizer.step(closure)
    with pytest.raises(ValueError, match="shape"):
        first.step(grads=[np.ones(3)])
    made.append(np.ones(4))
    assert len(made) > 6
    assert not any(map(is_in_a_file, made))


def test_two_optimizers_have_their_own_folders(small, tmp_path):
    params = [np.zeros(4), np.zeros(4)]
    first, second = (cyoptim.Adam([p]) for p in params)
    first.map_state(tmp_path)
    for optimizer in (first, second, first):
        optimizer.step(grads=[np.ones(4)])
    assert all(map(is_in_a_file, kept_by(first)))
    assert not any(map(is_in_a_file, kept_by(second)))
    path = tmp_path / "run.npz"
    cyoptim.save(path, first=first, second=second)
    news = [cyoptim.Adam([p]) for p in params]
    news[1].map_state(tmp_path)
    cyoptim.load(path, first=news[0], second=news[1])
    assert not any(map(is_in_a_file, kept_by(news[0])))
    assert all(map(is_in_a_file, kept_by(news[1])))


class OwnUpdate(cyoptim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 1.0})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        state.setdefault("sum", np.zeros_like(param))
        state["sum"] += grad
        param -= state["sum"]


def test_state_that_an_update_in_python_makes(small, tmp_path):
    w = np.zeros(4)
    optimizer = OwnUpdate([w])
    optimizer.map_state(tmp_path)
    optimizer.step(grads=[np.ones(4)])
    assert is_in_a_file(optimizer.state[w]["sum"])


def test_values_in_the_state_keep_their_kind(small, tmp_path):
    w, masked = np.zeros(4), np.ma.array(np.zeros(4), mask=[True, False, True, False])
    optimizer = OwnUpdate([w])
    nested = defaultdict(list, past=[np.ones(4)], more=OrderedDict(m=np.ones(4)))
    optimizer.state[w].update(masked=masked, nested=nested)
    optimizer.map_state(tmp_path)
    state = optimizer.state[w]
    assert state["masked"] is masked
    assert state["nested"] is not nested
    assert state["nested"].default_factory is list
    assert type(state["nested"]["more"]) is OrderedDict
    assert all(map(is_in_a_file, arrays_in(state["nested"])))


def test_an_interrupt_after_the_move_undoes_no_part_of_it(small, tmp_path):
    def interrupt(frame: Any, event: str, _: Any) -> Any:
        if frame.f_code.co_name == "_move" and event == "return":
            raise KeyboardInterrupt
        return interrupt

    w = np.zeros(4)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.ones(4)])
    before = sys.gettrace()
    sys.settrace(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.map_state(tmp_path)
    finally:
        sys.settrace(before)
    assert not any(map(is_in_a_file, kept_by(optimizer)))
    optimizer.load_state_dict(optimizer.state_dict())
    assert not any(map(is_in_a_file, kept_by(optimizer)))


@every_door
def test_copies(door, small, tmp_path):
    param = door.wrap(np.zeros(4))
    optimizer = cyoptim.Adam([param])
    optimizer.map_state(tmp_path)
    door.step(optimizer, [param], [np.ones(4)])
    twin = copy.deepcopy(optimizer)
    assert all(map(is_in_a_file, kept_by(twin)))
    assert not any(np.shares_memory(a, b) for a in kept_by(twin) for b in kept_by(optimizer))
    before = contents({"o": optimizer})
    door.step(twin, twin.param_groups[0]["params"], [np.ones(4)])
    assert contents({"o": optimizer}) == before
    loaded = pickle.loads(pickle.dumps(optimizer))
    assert contents({"o": loaded}) == before
    assert not any(map(is_in_a_file, kept_by(loaded)))


# --- files -----------------------------------------------------------------------------------------


@linux
def test_files_end_with_their_arrays_and_hold_no_descriptor(small, tmp_path):
    def mapped() -> int:
        with open("/proc/self/maps") as maps:
            return sum(str(tmp_path) in line for line in maps)

    params = [np.zeros(4) for _ in range(50)]
    before = len(os.listdir("/proc/self/fd"))
    optimizer = cyoptim.Adam(params)
    optimizer.map_state(tmp_path)
    optimizer.step(grads=params)
    assert os.listdir(tmp_path) == []
    assert mapped() > 0
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    del optimizer
    assert mapped() == 0


def alone(code: str, *args: Any) -> None:
    """Run a program in a process of its own."""
    program = "import os, resource, sys\nimport numpy as np, cyoptim\n" + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", program, *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@linux
def test_a_full_disk_is_an_error_before_anything_changes(tmp_path):
    alone(
        """
        w = np.zeros(1 << 20)
        optimizer = cyoptim.Adam([w])
        optimizer.map_state(sys.argv[1])
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, 4 << 20))
        for call in (lambda: optimizer.step(grads=[w]), lambda: optimizer.ema(0.9)):
            try:
                call()
            except OSError as error:
                assert error.filename == sys.argv[1], error
                assert "no file for the state" in str(error), error
            else:
                raise AssertionError("the disk was not full")
        assert not w.any() and not optimizer.state[w] and np.empty(1 << 20).size
        optimizer.map_state(None)
        optimizer.step(grads=[np.ones_like(w)])
        try:
            optimizer.map_state(sys.argv[1])
        except OSError:
            pass
        optimizer.step(grads=[np.ones_like(w)])
        assert optimizer.state[w]["step"] == 2
        """,
        tmp_path,
    )


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_is_none(tmp_path, folder):
    (tmp_path / "file").touch()
    optimizer = cyoptim.SGD([np.zeros(2)])
    with pytest.raises(ValueError, match=f"{folder}' (does not exist|is no folder): make it first"):
        optimizer.map_state(tmp_path / folder)
    with pytest.raises(TypeError, match="path of a folder, or None, got int"):
        optimizer.map_state(3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.thread_unsafe(reason="forks")
def test_a_forked_child_must_move_first(tmp_path):
    alone(
        """
        w = np.zeros(1 << 18)
        optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.5)
        optimizer.map_state(sys.argv[1])
        optimizer.step(grads=[np.ones_like(w)])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                optimizer.step(grads=[np.ones_like(w)])
            except RuntimeError as error:
                assert "call map_state(folder) here first" in str(error), error
                optimizer.map_state(sys.argv[1])
                optimizer.step(grads=[np.ones_like(w)])
                assert (optimizer.state[w]["momentum_buffer"] == 1.5).all()
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        assert (optimizer.state[w]["momentum_buffer"] == 1).all()
        optimizer.step(grads=[np.ones_like(w)])
        """,
        tmp_path,
    )


@pytest.mark.slow
@linux
def test_training_beyond_the_limit_of_memory(tmp_path):
    """The limit is RLIMIT_DATA: of private memory, ordinary arrays for instance. Pages of shared
    mappings are not private: the system writes them to their files, and takes them away at need."""
    alone(
        """
        import mmap, tempfile, zipfile, cyoptim.checkpoint, cyoptim._saving.loading
        n = 8 << 20  # 32 MiB of parameters, 64 of Adam's state, 32 of gradients
        status = open("/proc/self/status").read()
        limit = int(status.split("VmData:")[1].split()[0]) * 1024 + (48 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.chdir(sys.argv[1])
        w = np.memmap("w", "f4", "w+", shape=n)
        g = np.memmap("g", "f4", "w+", shape=n)
        g[:] = 1
        optimizer = cyoptim.Adam([w], lr=0.1)
        try:
            optimizer.step(grads=[g])
        except MemoryError:
            pass
        else:
            raise AssertionError("the limit is too high for this test")
        optimizer.map_state(".")
        for _ in range(3):
            optimizer.step(grads=[g])
        os.mkdir("saved")
        saved = {"w": w, "optimizer": optimizer}
        cyoptim.save("saved/run.safetensors", **saved)
        before = w[:3].copy(), w[-1]
        optimizer.step(grads=[g])
        cyoptim.load("saved/run.safetensors", **saved)
        assert (w[:3] == before[0]).all() and w[-1] == before[1] == w.min() == w.max()
        new = cyoptim.Adam([w], lr=0.1)
        new.map_state(".")
        cyoptim.load("saved/run.safetensors", optimizer=new)
        small = np.zeros(1, "f4")
        reference = cyoptim.Adam([small], lr=0.1)
        for _ in range(4):
            reference.step(grads=[np.ones(1, "f4")])
        new.step(grads=[g])
        assert (w == small[0]).all()
        """,
        tmp_path,
    )
