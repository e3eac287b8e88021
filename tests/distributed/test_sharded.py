"""Sharded optimizers do what plain ones do: groups, schedules, averages, gradients in any form."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.distributed import Local, Sharded
from cyoptim.lr_finder import find_lr
from cyoptim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from tests.optimizers import BY_NAME
from tests.support.cards import CLOSURE, DENSE, MODES, Card
from tests.support.doors import Door
from tests.support.parametrize import every_card, every_door
from tests.support.sharding import inputs, same, same_everywhere

ADAMW = BY_NAME["AdamW"]
SIZES = (1, 2, 4)


def both(size: int, program: Any, start: Any, *args: Any, **settings: Any) -> None:
    """A program of an optimizer leads to the same parameters plain and on ranks: it gets the parameters
    and a function that makes an optimizer of its arguments, and returns what is to be equal, too."""

    def plain(params: Any, cls: Any = cyoptim.AdamW, **options: Any) -> Any:
        return cls(params, **options)

    expected = [array.copy() for array in start]
    told = program(expected, plain, *args)

    def on_rank(comm: Any) -> Any:
        def sharded(params: Any, cls: Any = cyoptim.AdamW, **options: Any) -> Any:
            return Sharded(params, cls, comm=comm, **settings, **options)

        own = [array.copy() for array in start]
        return own, program(own, sharded, *args)

    for found, own in Local(size).run(on_rank):
        same(found, expected)
        assert own == told


def _values(array: Any) -> np.ndarray:
    return np.array(array) if isinstance(array, np.ndarray) else np.array(array.detach().numpy())


@pytest.fixture
def data() -> Any:
    return inputs(ADAMW, steps=6)


@pytest.mark.parametrize("size", SIZES)
def test_groups_and_schedules(size: int, data: Any) -> None:
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        groups = [
            {"params": params[:2], "lr": 0.01},
            {"params": params[2:4], "weight_decay": 0.0, "betas": (0.8, 0.9), "name": "head"},
            {"params": params[4:], "maximize": True},
        ]
        optimizer = make(groups, lr=0.05, amsgrad=True)
        schedule = SequentialLR(
            optimizer,
            [LinearLR(optimizer, total_iters=2), CosineAnnealingLR(optimizer, T_max=4)],
            milestones=[2],
        )
        for k, step in enumerate(grads):
            optimizer.step(grads=step, max_norm=1.0)
            schedule.step()
            if k == 2:
                optimizer.param_groups[1]["weight_decay"] = 0.3
                optimizer.param_groups[2]["eps"] = np.float64(1e-4)
                optimizer.param_groups[0]["_mine"] = object()
        rates = [group["lr"] for group in optimizer.param_groups]
        return rates, optimizer.last_step, schedule.get_last_lr()

    both(size, program, start)


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize("size", [2, 4])
def test_missing_gradients(card: Card, size: int) -> None:
    """Alternately, and of one parameter always."""
    start, grads = inputs(card, steps=4)

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params, card.cls, **card.variants[0])
        for k, step in enumerate(grads):
            some = [g if i != 1 and i % 3 != k % 3 else None for i, g in enumerate(step)]
            optimizer.step(grads=some, max_norm=1.0)
        optimizer.step(grads=[None] * len(start))
        return optimizer.last_step

    both(size, program, start)


@every_door
@pytest.mark.parametrize("size", SIZES)
def test_every_kind_of_parameter(door: Door, size: int, data: Any) -> None:
    start, grads = data
    expected = [array.copy() for array in start]
    plain = cyoptim.AdamW(expected, lr=0.05)
    for step in grads:
        plain.step(grads=step, max_norm=0.5)

    def program(comm: Any) -> Any:
        params = [door.wrap(array.copy()) for array in start]
        optimizer: Any = Sharded(params, comm=comm, lr=0.05)
        for step in grads:
            if door.name == "array":
                optimizer.step(grads=step, max_norm=0.5)
                continue
            for param, grad in zip(params, step, strict=True):
                param.grad = door.gradient(grad)
            optimizer.step(max_norm=0.5)
            optimizer.zero_grad()
            assert all(param.grad is None for param in params)
        return [door.read(param) for param in params]

    same_everywhere(Local(size).run(program), expected)


@every_door
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_filled_with_zeros(door: Door, size: int, data: Any) -> None:
    start, grads = data

    def program(comm: Any) -> Any:
        params = [door.wrap(array.copy()) for array in start]
        optimizer: Any = Sharded(params, cyoptim.SGD, comm=comm, lr=0.05)
        own = [door.gradient(grad.copy()) for grad in grads[0]]
        if door.name == "array":
            optimizer.step(grads=own, zero_grad=True)
        else:
            for param, grad in zip(params, own, strict=True):
                param.grad = grad
            optimizer.step(zero_grad=True)
            assert all(p.grad is grad for p, grad in zip(params, own, strict=True))
        assert optimizer.last_step == cyoptim.StepReceipt(None, 1.0, False, ())
        return [door.read(param) for param in params], [_values(grad) for grad in own]

    for found, own in Local(size).run(program):
        assert all((grad == 0).all() for grad in own)
        expected = [array.copy() for array in start]
        cyoptim.SGD(expected, lr=0.05).step(grads=grads[0])
        same(found, expected)


@pytest.mark.parametrize("size", SIZES)
def test_a_step_that_is_skipped(size: int, data: Any) -> None:
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        optimizer = make([(f"w{i}", p) for i, p in enumerate(params)], lr=0.05)
        receipts = []
        for k, step in enumerate(grads):
            own = [grad.copy() for grad in step]
            if k == 2:
                own[0].reshape(-1)[30_000] = np.nan
                own[3][0] = np.inf
            optimizer.step(grads=own, max_norm=1.0, nonfinite="skip", zero_grad=True)
            assert all((grad == 0).all() for grad in own)
            receipts.append(repr(optimizer.last_step))
        return receipts

    both(size, program, start)


@pytest.mark.parametrize("size", SIZES)
def test_a_step_along_numbers_that_are_not_finite(size: int, data: Any) -> None:
    """One rank has them; all raise, and the lanes of all wait."""
    start, grads = data

    def program(comm: Any) -> Any:
        params = [array.copy() for array in start]
        optimizer: Any = Sharded(params, comm=comm, lr=0.05)
        own = [grad.copy() for grad in grads[0]]
        if comm.rank == comm.size - 1:
            own[4][-1] = np.nan
        optimizer.accumulate(own)
        with pytest.raises(FloatingPointError) as caught:
            optimizer.step(nonfinite="raise")
        assert str(caught.value) == "gradients are not finite: of parameter 4 of group 0"
        assert optimizer.last_step.nonfinite == (4,)
        same(params, start)
        assert not optimizer.shard.state
        optimizer.zero_grad()
        optimizer.step(grads=grads[0], nonfinite="raise")
        return params

    expected = [array.copy() for array in start]
    cyoptim.AdamW(expected, lr=0.05).step(grads=grads[0])
    same_everywhere(Local(size).run(program), expected)


@pytest.mark.parametrize("size", SIZES)
def test_closures_and_names(size: int, data: Any) -> None:
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        tree = {"layers": [{"w": params[0], "b": params[1]}, params[2]], "more": params[3:]}
        optimizer = make(tree, cyoptim.NAdam, lr=0.05)
        losses = []
        for k, step in enumerate(grads):
            named = {"layers": [{"w": step[0], "b": step[1]}, step[2]], "more": step[3:]}
            losses.append(optimizer.step(lambda k=k, named=named: (float(k), named)))
        return losses

    both(size, program, start)


@pytest.mark.parametrize("size", SIZES)
def test_hooks_run_once(size: int, data: Any) -> None:
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        called: list[str] = []
        optimizer = make(params, lr=0.05)
        optimizer.register_step_pre_hook(lambda *_: called.append("before"))
        optimizer.register_step_post_hook(lambda *_: called.append("after"))
        before = cyoptim.optimizer.register_optimizer_step_pre_hook(
            lambda found, *_: called.append("all") if found is optimizer else None
        )
        with before:
            optimizer.step(grads=grads[0])
        optimizer.step(grads=grads[1])
        return called

    both(size, program, start)


# --- averages -----------------------------------------------------------------------------------------


@every_card(DENSE, ~CLOSURE, ~MODES)
@pytest.mark.parametrize("size", SIZES)
def test_moving_averages(card: Card, size: int) -> None:
    start, grads = inputs(card, steps=4)

    def program(params: Any, make: Any) -> Any:
        optimizer = make([(f"w{i}", p) for i, p in enumerate(params)], card.cls, **card.variants[0])
        average = optimizer.ema(0.9, warmup=True)
        for k, step in enumerate(grads):
            optimizer.step(grads=step)
            if k == 1:
                assert optimizer.ema(0.8) is average
        with optimizer.averaged():
            inside = [array.tobytes() for array in params]
            with pytest.raises(RuntimeError, match="parameters and averages have changed places"):
                optimizer.ema(0.5)
        told = [average["w1"].tobytes(), *(mean.tobytes() for mean in average)]
        assert told[1:] == inside
        return inside, told, average.steps, average.decay, average.warmup, len(average)

    both(size, program, start)


@every_card(DENSE, MODES)
@pytest.mark.parametrize("size", SIZES)
def test_modes(card: Card, size: int) -> None:
    start, grads = inputs(card, steps=6)

    def program(params: Any, make: Any) -> Any:
        kind = getattr(cyoptim, card.name)
        optimizer = make(params, kind, **card.variants[0])
        with pytest.raises(RuntimeError, match="is in evaluation mode"):
            optimizer.step(grads=grads[0])
        told = []
        optimizer.train()
        for k, step in enumerate(grads):
            optimizer.train()
            optimizer.step(grads=step)
            if k == 2:
                with optimizer.averaged():
                    told.append([array.tobytes() for array in params])
            if k == 3:
                optimizer.eval()
                told.append([array.tobytes() for array in params])
        optimizer.eval()
        assert optimizer.param_groups[0]["train_mode"] is False
        return told, float(optimizer.param_groups[0]["weight_sum"])

    both(size, program, start)


@pytest.mark.parametrize("size", SIZES)
def test_estimates_of_the_hessian(size: int, data: Any) -> None:
    start, grads = data

    def program(arrays: Any, make: Any) -> Any:
        params = [cyoptim.Parameter(array) for array in arrays]
        optimizer = make(params, cyoptim.SophiaG, lr=0.05, bs=4)
        for k, step in enumerate(grads):
            for param in params:
                param.data = param.data.copy()
            if k % 2 == 0:
                optimizer.update_hessian(grads=[*step[:-1], None])
            optimizer.step(grads=step)
        return [param.data.tobytes() for param in params]

    both(size, program, start)


@pytest.mark.parametrize("size", SIZES)
def test_numbers_of_groups(size: int, data: Any) -> None:
    """They are those of the shard, and the user may write them."""
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params, cyoptim.Prodigy)
        told = []
        for k, step in enumerate(grads):
            optimizer.step(grads=step)
            told.append([float(optimizer.param_groups[0][name]) for name in ("d", "d_max", "k")])
            if k == 2:
                optimizer.param_groups[0]["d"] = optimizer.param_groups[0]["d_max"] = 0.25
        assert told[3][0] >= 0.25
        return told

    both(size, program, start)


# --- what there is beside ----------------------------------------------------------------------------


def test_it_is_an_optimizer_of_its_class() -> None:
    def program(comm: Any) -> Any:
        params = [np.zeros((200, 100), "f4"), np.zeros(3, "f4")]
        optimizer: Any = Sharded(params, cyoptim.AdamW, comm=comm, lr=0.5)
        assert isinstance(optimizer, Sharded)
        assert isinstance(optimizer, cyoptim.AdamW)
        assert type(optimizer) is type(Sharded([np.zeros(3)], comm=comm))
        optimizer.step(grads=[np.ones_like(p) for p in params])
        assert not optimizer.state
        kept = [
            value.size
            for entries in optimizer.shard.state.values()
            for name, value in entries.items()
            if name != "step"
        ]
        return type(optimizer).__name__, repr(optimizer).split(" (")[0], sum(kept)

    found = Local(2).run(program)
    assert [name for name, *_ in found] == ["ShardedAdamW"] * 2
    assert [text for _, text, _ in found] == [f"ShardedAdamW on rank {r} of 2" for r in (0, 1)]
    assert [kept for *_, kept in found] == [2 * 8192, 2 * (20_000 - 8192) + 2 * 3]


def test_all_begin_where_rank_0_is() -> None:
    pytest.importorskip("torch")
    import torch

    def program(comm: Any) -> Any:
        rng = np.random.default_rng(comm.rank)
        params: list[Any] = [
            rng.standard_normal((40, 30)),
            np.asfortranarray(rng.standard_normal((40, 30))),
            rng.standard_normal((5, 8))[:, ::2],
            torch.from_numpy(rng.standard_normal((3, 3))).requires_grad_(),
            np.empty((0, 3)),
            np.asarray(rng.standard_normal()),
        ]
        Sharded(params, comm=comm)
        return [*map(_values, params)]

    runs = Local(3).run(program)
    same_everywhere(runs, runs[0])
    assert runs[0][0].any()


def test_versions_of_tensors() -> None:
    """Autograd is told of all that changes."""
    torch = pytest.importorskip("torch")

    def program(comm: Any) -> Any:
        params = [torch.ones(200, 100, requires_grad=True), torch.ones(3, requires_grad=True)]
        optimizer: Any = Sharded(params, comm=comm)
        before = [p._version for p in params]
        for p in params:
            p.grad = torch.ones_like(p)
        optimizer.step()
        return all(p._version > v for p, v in zip(params, before, strict=True))

    assert Local(2).run(program) == [True, True]


def test_memory_that_moves(data: Any) -> None:
    """Parameters may get other arrays, of the same shape: their state goes with them."""
    start, grads = data

    def program(comm: Any) -> Any:
        params = [cyoptim.Parameter(array.copy()) for array in start]
        optimizer: Any = Sharded(params, comm=comm, lr=0.05)
        optimizer.ema(0.5)
        for k, step in enumerate(grads):
            optimizer.step(grads=step)
            if k == comm.rank:
                for param in params:
                    param.data = param.data.copy()
        return [param.data for param in params], [*optimizer.ema(0.5)]

    plain = [array.copy() for array in start]
    optimizer = cyoptim.AdamW(plain, lr=0.05)
    average = optimizer.ema(0.5)
    for step in grads:
        optimizer.step(grads=step)
    for found, means in Local(3).run(program):
        for a, b in zip(found, plain, strict=True):  # three gradients are not exactly the mean
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(means, average, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_sums_or_means() -> None:
    def program(comm: Any, reduce: Any) -> Any:
        w = np.zeros(3)
        optimizer: Any = Sharded([w], cyoptim.SGD, comm=comm, lr=1.0, reduce=reduce)
        optimizer.step(grads=[np.full(3, comm.rank + 1.0)])
        assert optimizer.last_step is None
        for _ in range(2):
            optimizer.accumulate([np.full(3, comm.rank + 1.0)])
        optimizer.step(grad_scale=4.0, max_norm=100.0)
        return w[0], optimizer.last_step.total_norm

    root = 3**0.5
    for reduce, expected in (("mean", (-2 - 0.5, 0.5 * root)), ("sum", (-6 - 3, 3 * root))):
        for found in Local(3).run(lambda comm, reduce=reduce: program(comm, reduce)):
            np.testing.assert_allclose(found, expected)


def test_it_cannot_be_copied() -> None:
    (optimizer,) = Local(1).run(lambda comm: Sharded([np.zeros(3)], comm=comm))
    average = optimizer.ema(0.9)
    message = (
        "ShardedAdamW belongs to its processes, and cannot be copied or pickled: save its "
        "state_dict(), and load it into another Sharded"
    )
    for copies in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError) as caught:
            copies(optimizer)
        assert str(caught.value) == message
        with pytest.raises(TypeError, match="are parts on several ranks"):
            copies(average)


def test_files_of_the_state(data: Any, tmp_path: Any) -> None:
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params, lr=0.05)
        optimizer.step(grads=grads[0])
        optimizer.map_state(tmp_path)
        for step in grads[1:]:
            optimizer.step(grads=step)

    both(2, program, start)


class OwnMomentum(cyoptim.Optimizer):
    """An optimizer in Python, whose momentum is an attribute and not an option."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        self.momentum = momentum
        super().__init__(params, {"lr": lr})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        average = state.setdefault("average", np.zeros_like(param))
        average *= self.momentum
        average += grad
        param -= group["lr"] * average / (1 + np.abs(average).mean())


@pytest.mark.parametrize("size", SIZES)
def test_an_optimizer_in_python(size: int, data: Any) -> None:
    """It gets whole parameters."""
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params, OwnMomentum, momentum=0.5)
        optimizer.ema(0.5)
        for step in grads:
            optimizer.step(grads=step, max_norm=1.0)
        return [array.tobytes() for array in optimizer.ema(0.5)]

    both(size, program, start)


@every_card(DENSE, ~CLOSURE)
@pytest.mark.parametrize("size", [1, 4])
def test_groups_that_come_later(card: Card, size: int) -> None:
    """Before and after the first steps: the parameters are cut anew, and their state moves."""
    start, grads = inputs(card, steps=6)

    def program(params: Any, make: Any) -> Any:
        first = {"params": [("a", params[0]), ("b", params[1])]}
        optimizer = make([first], card.cls, **card.variants[0])
        average = None if MODES(card) else optimizer.ema(0.7)
        optimizer.add_param_group({"params": [("c", params[2]), ("d", params[3])]})
        optimizer.step(grads=grads[0][:4])
        optimizer.accumulate(grads[1][:4])
        group = {"params": [("e", params[4]), ("f", params[5])], "_mine": 1}
        optimizer.add_param_group(group)
        assert optimizer.param_groups[2] is group
        optimizer.step()
        for step in grads[2:]:
            optimizer.step(grads=step)
        return None if average is None else [mean.tobytes() for mean in average]

    both(size, program, start)


@pytest.mark.parametrize("state_dtype", ["bfloat16", "dynamic8"])
def test_stored_states_move(state_dtype: str, data: Any, tmp_path: Any) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start, grads = data
    start = [array.astype(ml_dtypes.bfloat16) for array in start]

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params[:3], lr=0.05, state_dtype=state_dtype)
        optimizer.map_state(tmp_path)
        for step in grads[:2]:
            optimizer.step(grads=step[:3])
        optimizer.add_param_group({"params": params[3:]})
        inner = getattr(optimizer, "shard", optimizer)
        assert inner._turn.files.folder == str(tmp_path)
        for step in grads[2:]:
            optimizer.step(grads=step)
        return [w.tobytes() for w in cyoptim.master_weights(optimizer)]

    both(4, program, start)


def test_new_groups_begin_where_rank_0_is() -> None:
    def program(comm: Any) -> Any:
        first, second = np.full(3, comm.rank), np.full((30, 1000), comm.rank + 1.0)
        optimizer: Any = Sharded([first.astype("f4")], comm=comm)
        optimizer.add_param_group({"params": second})
        return second.max()

    assert Local(3).run(program) == [1.0] * 3


@pytest.mark.parametrize("size", SIZES)
def test_rates_on_trial(size: int, data: Any) -> None:
    """The steps of a search are undone on all ranks."""
    start, grads = data

    def program(params: Any, make: Any) -> Any:
        optimizer = make(params, lr=0.05, amsgrad=True)
        optimizer.ema(0.7)
        optimizer.step(grads=grads[0])
        optimizer.accumulate(grads[1])
        before = [array.tobytes() for array in params]

        def closure() -> Any:
            loss = sum(float(np.vdot(array, array)) for array in params)
            return loss, [2 * array for array in params]

        found = find_lr(optimizer, closure, 1e-5, 1.0, 20)
        assert [array.tobytes() for array in params] == before
        optimizer.step()
        optimizer.step(grads=grads[2], max_norm=1.0)
        means = [mean.tobytes() for mean in optimizer.ema(0.7)]
        return found.losses.tolist(), found.suggestion, means, optimizer.last_step

    both(size, program, start)


@pytest.mark.parametrize("master", ["split", "float32", None])
@pytest.mark.parametrize("size", SIZES)
def test_master_weights(size: int, master: Any, data: Any) -> None:
    """All bits of parameters of 16 bits, on every rank, and back."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    start, grads = data
    start = [array.astype(ml_dtypes.bfloat16) for array in start]
    wanted = {f"w{i}": grad for i, grad in enumerate(grads[-1]) if i != 2}

    def program(params: Any, make: Any) -> Any:
        named = [(f"w{i}", p) for i, p in enumerate(params)]
        optimizer = make(named, lr=0.05, master=master)
        told = []
        for k, step in enumerate(grads[:4]):
            optimizer.step(grads=step)
            if k == 2:
                cyoptim.set_master_weights(optimizer, wanted)
            told.append([w.tobytes() for w in cyoptim.master_weights(optimizer)])
        with pytest.raises(ValueError, match="weights has 'other', which is none of the 6 names"):
            cyoptim.set_master_weights(optimizer, {"other": start[0]})
        return told

    both(size, program, start)
