"""What fails changes nothing: loads, updates in Python, sums, schedules, resets."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CHECKED, CLOSURE, Card
from tests.support.parametrize import every_card

PACKAGE = str(Path(cyoptim.__file__).parent)


def trained(cls: Any, **options: Any) -> tuple[list[Any], Any]:
    params = [cyoptim.Parameter(np.full((3, 3), 1.0 + k)) for k in range(2)]
    optimizer = cls([{"params": [("a", params[0])]}, {"params": [("b", params[1])]}], **options)
    optimizer.step(grads=[np.eye(3)] * 2)
    return params, optimizer


def look(params: list[Any], optimizer: Any) -> Any:
    state = {
        i: {k: (id(v), np.asarray(v).tobytes()) for k, v in optimizer.state[p].items()}
        for i, p in enumerate(params)
        if p in optimizer.state
    }
    groups = [{k: repr(v) for k, v in g.items()} for g in optimizer.param_groups]
    return (
        [p.data.tobytes() for p in params],
        state,
        groups,
        [id(g) for g in optimizer.param_groups],
    )


def check_unchanged(params: list[Any], optimizer: Any, before: Any, twin: Any) -> None:
    assert look(params, optimizer) == before
    optimizer.step(grads=[np.eye(3)] * 2)
    twin[1].step(grads=[np.eye(3)] * 2)
    assert [p.data.tobytes() for p in params] == [p.data.tobytes() for p in twin[0]]


# --- loads -----------------------------------------------------------------------------------------

ADAM = (
    ("lr", "fast"),
    ("lr", float("nan")),
    ("lr", -1.0),
    ("betas", (2, 2)),
    ("betas", 5),
    ("eps", -1.0),
)
BAD_OPTIONS = (
    *ADAM,
    ("differentiable", True),
    ("amsgrad", "yes"),
    ("fused", None),
    ("weight_decay", None),
)
BAD_NAMES = ["a"], [], 5, [[]], "a", [None, None]


@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [(n, v) for n, v in BAD_OPTIONS if n != "fused"]
    + [("param_names", n) for n in BAD_NAMES if n != ["a"]],
)
def test_a_state_that_is_refused_changes_nothing(name: str, value: Any, averages: bool) -> None:
    made = [trained(cyoptim.Adam, lr=0.1) for _ in range(3)]
    for _, optimizer in made:
        if averages:
            optimizer.ema(0.9)
    (params, optimizer), twin, (_, other) = made
    state = copy.deepcopy(other.state_dict())
    state["param_groups"][1][name] = value
    before = look(params, optimizer)
    with pytest.raises((TypeError, ValueError)):
        optimizer.load_state_dict(state)
    check_unchanged(params, optimizer, before, twin)


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_file_that_is_refused_changes_nothing(tmp_path: Path, suffix: str) -> None:
    (params, optimizer), twin, (others, other) = (trained(cyoptim.Adam, lr=0.1) for _ in range(3))
    state = copy.deepcopy(other.state_dict())
    state["param_groups"][0]["param_names"] = ["a", "b"]
    path = tmp_path / f"run.{suffix}"
    cyoptim.save(path, optimizer=state, params=others)
    before = look(params, optimizer)
    with pytest.raises(
        ValueError, match="'param_names' of loaded param group 0 holds 2 names, expected 1"
    ):
        cyoptim.load(path, params=params, optimizer=optimizer)
    check_unchanged(params, optimizer, before, twin)


@every_card(CHECKED, ~CLOSURE)
def test_loaded_options_are_checked_as_those_of_the_constructor(card: Card) -> None:
    tried = 0
    for arguments, error, _ in card.refusals:
        w = np.ones((3, 2))
        optimizer = card.cls([w])
        optimizer.step(grads=[card.form(np.ones((3, 2)))])
        if not arguments.keys() <= optimizer.defaults.keys():
            continue  # a misspelt one, or one that this optimizer has not
        if arguments == {"lr": 0.0}:
            continue  # to which a schedule may have brought it
        tried += 1
        state = copy.deepcopy(optimizer.state_dict())
        state["param_groups"][0].update(arguments)
        before = w.copy()
        with pytest.raises((error, ValueError)):
            optimizer.load_state_dict(state)
        optimizer.step(grads=[card.form(np.zeros((3, 2)))])
        assert np.isfinite(w).all()
        assert before.shape == w.shape
    assert tried


# --- step counts -------------------------------------------------------------------------------------

COUNTS = 2**24 + 1, 2**53 + 1, 2**62 + 3, 2**63 - 2


@pytest.mark.parametrize("count", COUNTS)
def test_counts_keep_all_their_bits(count: int, tmp_path: Path) -> None:
    w = np.zeros(3)
    optimizer = cyoptim.Adam([w])
    optimizer.step(grads=[np.ones(3)])
    optimizer.state[w]["step"][...] = count
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert int(optimizer.state[w]["step"]) == count
    for suffix in ("npz", "safetensors"):
        cyoptim.save(tmp_path / f"run.{suffix}", optimizer=optimizer)
        other = cyoptim.Adam([w])
        cyoptim.load(tmp_path / f"run.{suffix}", optimizer=other)
        assert int(other.state[w]["step"]) == count


@pytest.mark.parametrize("count", COUNTS)
def test_counts_keep_all_their_bits_in_torchs_form(count: int, torch: Any) -> None:
    w = torch.zeros(3)
    optimizer = cyoptim.Adam([w])
    w.grad = torch.ones(3)
    optimizer.step()
    optimizer.state[w]["step"][...] = count
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert int(optimizer.state[w]["step"]) == count


@pytest.mark.parametrize("cls", [cyoptim.Adam, cyoptim.Adafactor])
def test_counting_ends(cls: Any) -> None:
    w = np.ones((2, 2))
    optimizer = cls([w], lr=0.1)
    optimizer.step(grads=[np.ones((2, 2))])
    optimizer.state[w]["step"][...] = 2**63 - 2
    optimizer.step(grads=[np.ones((2, 2))])
    assert int(optimizer.state[w]["step"]) == 2**63 - 2
    assert np.isfinite(w).all()


def test_a_count_that_is_negative_is_refused() -> None:
    w = np.ones(2)
    optimizer = cyoptim.Adam([("w", w)])
    optimizer.step(grads=[np.ones(2)])
    before, optimizer.state[w]["step"][...] = w.copy(), -3
    with pytest.raises(ValueError, match=r"state 'step' of parameter 0 \('w'\) of group 0 is -3"):
        optimizer.step(grads=[np.ones(2)])
    assert (w == before).all()


# --- updates in Python -------------------------------------------------------------------------------


class Lion(cyoptim.Optimizer):
    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": 0.0})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        param *= 1 - group["lr"] * group["weight_decay"]
        state.setdefault("log", []).append(1.0)
        state.setdefault("exp_avg", np.zeros_like(param))[...] += grad
        param -= group["lr"] * np.sign(state["exp_avg"])


@pytest.mark.parametrize("cls", [cyoptim.Adafactor, cyoptim.Muon, cyoptim.Adam, Lion])
@pytest.mark.parametrize("what", ["lr", "weight_decay", "state"])
def test_a_bad_later_parameter_leaves_the_earlier_ones(cls: Any, what: str) -> None:
    (params, optimizer), twin = trained(cls, lr=0.1), trained(cls, lr=0.1)
    kept: Any
    if what == "state":
        kept = dict(optimizer.state[params[1]])
        for name in kept:
            if name not in ("step", "log"):
                optimizer.state[params[1]][name] = np.ones(7)
    else:
        kept = optimizer.param_groups[1][what]
        optimizer.param_groups[1][what] = "x"
    before = look(params, optimizer)
    with pytest.raises((TypeError, ValueError)):
        optimizer.step(grads=[np.eye(3)] * 2)
    assert look(params, optimizer) == before
    if what == "state":
        optimizer.state[params[1]].update(kept)
    else:
        optimizer.param_groups[1][what] = kept
    optimizer.step(grads=[np.eye(3)] * 2)
    twin[1].step(grads=[np.eye(3)] * 2)
    assert [p.data.tobytes() for p in params] == [p.data.tobytes() for p in twin[0]]


def test_an_update_that_fails_at_first_leaves_no_state() -> None:
    params = [np.ones(3), np.ones(3)]
    optimizer = Lion(params)
    with pytest.raises(ValueError, match="broadcast"):
        optimizer.step(grads=[np.ones(3), np.ones(3)]) if False else _step_with_bad_second(
            optimizer
        )
    assert (params[0] == 1).all()
    assert [dict(state) for state in optimizer.state.values()] == []


def _step_with_bad_second(optimizer: Any) -> None:
    update = optimizer.update
    optimizer.update = lambda param, *rest: update(
        param if param is optimizer.param_groups[0]["params"][0] else np.ones(5), *rest
    )
    optimizer.step(grads=[np.ones(3), np.ones(3)])


def test_a_second_interrupt_leaves_no_new_state() -> None:
    def run(interrupts: bool) -> Any:
        params = [np.zeros(3), np.zeros(3)]
        optimizer = cyoptim.SGD(params, lr=1.0, momentum=0.9, dampening=0.5)
        if interrupts:
            stage, calls = optimizer.state.stage, []

            def interrupted(param: Any, entries: Any) -> None:
                stage(param, entries)
                calls.append(param)
                if len(calls) == 2:
                    raise KeyboardInterrupt

            optimizer.state.stage = interrupted
            with pytest.raises(KeyboardInterrupt):
                optimizer.step(grads=[np.ones(3)] * 2)
            assert len(calls) == 2
            assert len(optimizer.state) == 0
            optimizer.state.stage = stage
        optimizer.step(grads=[np.ones(3)] * 2)
        return params[0].tobytes()

    assert run(True) == run(False)


# --- gradients ---------------------------------------------------------------------------------------


def read_only(array: Any) -> Any:
    array.setflags(write=False)
    return array


class Lil:
    """As SciPy's lists of lists: its data are no numbers."""

    nnz, shape = 1, (3,)

    def __init__(self) -> None:
        self.data = np.array([[1.0]], object)

    def tocoo(self) -> Any:
        coo = Lil()
        coo.coords, coo.data = (np.array([1]),), np.ones(1)  # type: ignore[attr-defined]
        return coo


@pytest.mark.parametrize(
    "grad", [(np.array([1]), read_only(np.ones(1))), Lil(), read_only(np.ones(3))]
)
def test_gradients_that_cannot_be_zeroed_are_found_before_the_step(grad: Any) -> None:
    params = [np.zeros(3), np.zeros(3)]
    first = np.ones(3)
    optimizer = cyoptim.SGD(params, lr=1.0)
    with pytest.raises(
        (TypeError, ValueError), match=r"gradient of parameter 1.*(read-only|cannot be filled)"
    ):
        optimizer.step(grads=[first, grad], zero_grad=True)
    assert not params[0].any()
    assert (first == 1).all()


def test_a_reset_that_fails_resets_nothing() -> None:
    params = [cyoptim.Parameter(np.zeros(3)) for _ in range(2)]
    params[0].grad, params[1].grad = np.ones(3), read_only(np.ones(3))
    with pytest.raises(ValueError, match="gradient of parameter 1 of group 0 is read-only"):
        cyoptim.SGD(params).zero_grad(set_to_none=False)
    assert (params[0].grad == 1).all()


def test_sums_of_gradients_that_cannot_be_dropped() -> None:
    class Holder:
        def __init__(self) -> None:
            self.data = np.zeros(3)

        @property
        def grad(self) -> Any:
            return np.ones(3)

    params = [cyoptim.Parameter(np.zeros(3)), Holder()]
    params[0].grad = np.ones(3)
    optimizer = cyoptim.SGD(params, lr=1.0)
    with pytest.raises(TypeError, match="the gradient of a .*Holder cannot be dropped"):
        optimizer.accumulate()
    assert (params[0].grad == 1).all()
    optimizer.step()
    assert (params[0].data == -1).all()


# --- schedules, vectors, averages ---------------------------------------------------------------------


def test_a_schedule_whose_function_raises() -> None:
    optimizer = cyoptim.SGD([np.zeros(2)], lr=1.0)
    scheduler = cyoptim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (2 - epoch))
    optimizer.step(grads=[np.ones(2)])
    scheduler.step()
    before = scheduler.state_dict(), optimizer.param_groups[0]["lr"]
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert (scheduler.state_dict(), optimizer.param_groups[0]["lr"]) == before


def test_a_part_of_a_composed_schedule_that_raises() -> None:
    lr = np.array(1.0)
    optimizer = cyoptim.SGD([np.zeros(2)], lr=lr)
    parts = [
        cyoptim.lr_scheduler.StepLR(optimizer, 1, 0.5),
        cyoptim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 - epoch)),
    ]
    scheduler = cyoptim.lr_scheduler.ChainedScheduler(parts)
    optimizer.step(grads=[np.ones(2)])
    before = scheduler.state_dict(), float(lr)
    with pytest.raises(ZeroDivisionError):
        scheduler.step()
    assert (scheduler.state_dict(), float(lr)) == before


@pytest.mark.parametrize("name", ["step", "get_lr", "last_epoch", "base_lrs", "step_size"])
def test_a_schedule_refuses_a_state_that_is_none(name: str) -> None:
    optimizer = cyoptim.SGD([np.zeros(2)], lr=1.0)
    scheduler = cyoptim.lr_scheduler.StepLR(optimizer, 2)
    before = scheduler.state_dict()
    wrong = {"step": 5, "get_lr": None, "last_epoch": "x", "base_lrs": [1.0, 2.0], "step_size": 0}
    with pytest.raises((TypeError, ValueError), match=f"has an entry '{name}'"):
        scheduler.load_state_dict({**before, name: wrong[name]})
    assert scheduler.state_dict() == before


def test_an_average_whose_function_raises() -> None:
    def function(average: Any, value: Any, count: Any) -> Any:
        if value[0] == 9:
            raise RuntimeError("no")
        return value

    model = {"a": np.ones(2), "b": np.ones(2)}
    average = cyoptim.swa_utils.AveragedModel(model, avg_fn=function)
    average.update_parameters(model)
    model["a"][...], model["b"][...] = 3, 9
    with pytest.raises(RuntimeError, match="no"):
        average.update_parameters(model)
    assert average.n_averaged == 1
    assert (average.module["a"] == 1).all()


def test_a_vector_that_is_a_view_of_its_parameters() -> None:
    memory = np.arange(4.0)
    a, b = memory[:2], memory[2:]
    cyoptim.vector_to_parameters(memory[::-1], [a, b])
    assert memory.tolist() == [3, 2, 1, 0]


# --- an interrupt between any two lines of a load ----------------------------------------------------


# An interrupt may come between the opening of a file and its `with`; it is closed when it is dropped.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unclosed file:ResourceWarning")
@pytest.mark.filterwarnings("ignore:.*FileIO:pytest.PytestUnraisableExceptionWarning")
def test_loads_of_many_objects_are_whole(tmp_path: Path) -> None:
    def make(value: float) -> dict[str, Any]:
        params, optimizer = trained(cyoptim.Adam, lr=0.1 * value)
        for param in params:
            param.data[...] = value
        scheduler = cyoptim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        optimizer.step(grads=[np.eye(3)] * 2)
        for _ in range(int(value)):
            scheduler.step()
        return {
            "params": params,
            "optimizer": optimizer,
            "scheduler": scheduler,
            "rng": np.random.default_rng(int(value)),
        }

    def seen(objects: dict[str, Any]) -> Any:
        state = [s["exp_avg"].tobytes() for s in objects["optimizer"].state.values()]
        return (
            [p.data.tobytes() for p in objects["params"]],
            state,
            objects["optimizer"].param_groups[0]["lr"],
            objects["scheduler"].last_epoch,
            repr(objects["rng"].bit_generator.state),
        )

    path = tmp_path / "run.npz"
    cyoptim.save(path, **make(2.0))
    whole = make(1.0)
    cyoptim.load(path, **whole)
    for line in range(1, 4000, 7):
        objects, count = make(1.0), [0]
        before = seen(objects)

        def trace(
            frame: Any, event: str, _: Any, count: list[int] = count, line: int = line
        ) -> Any:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            count[0] += 1
            if count[0] == line:
                raise KeyboardInterrupt
            return trace

        known = sys.gettrace()
        sys.settrace(trace)
        try:
            cyoptim.load(path, **objects)
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(known)
        assert seen(objects) in (before, seen(whole))
    assert line > 100
