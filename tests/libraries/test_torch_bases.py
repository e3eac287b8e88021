"""Optimizers and schedules are instances of torch's classes once torch is in use."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import lr_scheduler
from tests.support.cards import FUSED, TORCH, Card
from tests.support.parametrize import every_card

torch: Any = pytest.importorskip("torch")


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[-2]


def tensor(*shape: int) -> Any:
    return torch.nn.Parameter(torch.ones(shape))


def stepped(cls: Any, **options: Any) -> Any:
    w = tensor(3)
    optimizer = cls([w], lr=0.1, **options)
    w.grad = torch.arange(3.0)
    optimizer.step()
    return optimizer


class Own(cyoptim.Optimizer):
    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        param -= group["lr"] * grad


class Stepping(cyoptim.SGD):
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        return super().step(closure)


class Both(cyoptim.AdamW, torch.optim.Optimizer):  # type: ignore[misc]
    """What one had to write by hand."""


# --- instances ------------------------------------------------------------------------------------


@every_card()
def test_every_optimizer(card: Card) -> None:
    assert isinstance(card.cls([tensor(2, 2)]), torch.optim.Optimizer)


@pytest.mark.parametrize("cls", [Own, Stepping, Both])
def test_own_classes(cls: Any) -> None:
    optimizer = stepped(cls)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert isinstance(optimizer, cyoptim.Optimizer)
    assert type(optimizer) is cls
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.slow
def test_torch_comes_with_the_first_tensor() -> None:
    # torch is not imported for arrays; where it comes later, a tensor is enough.
    assert (
        run("""
import sys
import numpy as np
import cyoptim
class Own(cyoptim.SGD): pass
optimizer = cyoptim.Adam([np.zeros(2)])
schedule = cyoptim.lr_scheduler.StepLR(optimizer, 3)
optimizer.step(grads=[np.ones(2)])
assert "torch" not in sys.modules
import torch
optimizer = Own([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
assert isinstance(optimizer, torch.optim.Optimizer)
schedule = cyoptim.lr_scheduler.ReduceLROnPlateau(optimizer)
assert isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
print("done")
""")
        == "done"
    )


@pytest.mark.slow
@pytest.mark.parametrize("line", ["import torch, cyoptim", "import cyoptim.torch, torch"])
def test_classes_before_any_tensor(line: str) -> None:
    assert (
        run(
            line
            + """
for name in cyoptim.optimizers.__all__:
    assert issubclass(getattr(cyoptim, name), torch.optim.Optimizer)
assert issubclass(cyoptim.lr_scheduler.StepLR, torch.optim.lr_scheduler.LRScheduler)
print("done")
"""
        )
        == "done"
    )


@pytest.mark.slow
def test_a_broken_torch_does_no_harm() -> None:
    # An empty module of the name, as a folder "torch" beside a script makes one.
    assert (
        run("""
import sys, types
sys.modules["torch"] = types.ModuleType("torch")
import cyoptim
print("done")
""")
        == "done"
    )


@pytest.mark.slow
def test_bases_in_the_wrong_order_are_told() -> None:
    assert "write cyoptim's first" in run("""
import cyoptim, torch
class Wrong(torch.optim.Optimizer, cyoptim.SGD): pass
try:
    cyoptim.SGD([torch.nn.Parameter(torch.zeros(2))])
except TypeError as error:
    print(error.args[0].replace(chr(10), " "))
""")


def test_schedules() -> None:
    base = torch.optim.lr_scheduler.LRScheduler
    optimizer = cyoptim.SGD([tensor(2)], lr=0.1, momentum=0.9)
    classes = [getattr(lr_scheduler, name) for name in lr_scheduler.__all__]
    classes = [c for c in classes if isinstance(c, type)]
    assert len(classes) > 15
    assert all(issubclass(c, base) for c in classes)
    assert isinstance(cyoptim.swa_utils.SWALR(optimizer, 0.1), base)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
    assert isinstance(plateau, torch.optim.lr_scheduler.ReduceLROnPlateau)


# Before torch 2.13 its SequentialLR passes an epoch, of which its own schedules warn as well.
@pytest.mark.filterwarnings("ignore:The epoch parameter in")
def test_torch_composes_our_schedules() -> None:
    found = []
    for optim in (cyoptim, torch.optim):
        optimizer = optim.SGD([tensor(2)], lr=0.1)
        parts = [
            optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
        ]
        schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, [3])
        rates = []
        for _ in range(6):
            optimizer.step()
            schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        found.append(rates)
    assert found[0] == pytest.approx(found[1], rel=1e-14)


def test_averages() -> None:
    average = cyoptim.swa_utils.AveragedModel(torch.nn.Linear(2, 1))
    assert isinstance(average, torch.optim.swa_utils.AveragedModel)
    average.update_parameters(torch.nn.Linear(2, 1))
    assert average(torch.ones(3, 2)).shape == (3, 1)
    assert pickle.loads(pickle.dumps(average)).n_averaged == 1


def test_namespace() -> None:
    import cyoptim.torch as optim

    bases = {"Optimizer", "LRScheduler", "AveragedModel", "SWALR", "lr_scheduler", "swa_utils"}
    assert {*cyoptim.optimizers.__all__} | bases == {*optim.__all__}
    for name in cyoptim.optimizers.__all__:
        assert getattr(optim, name) is getattr(cyoptim, name)
        assert issubclass(getattr(optim, name), torch.optim.Optimizer)
    assert issubclass(optim.LRScheduler, torch.optim.lr_scheduler.LRScheduler)
    for ours, mirror in ((lr_scheduler, optim.lr_scheduler), (cyoptim.swa_utils, optim.swa_utils)):
        public = {n for n in ours.__all__ if n[0] != "_" and n != "EPOCH_DEPRECATION_WARNING"}
        assert public == {*mirror.__all__}
    assert issubclass(optim.swa_utils.AveragedModel, torch.optim.swa_utils.AveragedModel)


def test_stubs_name_what_there_is() -> None:
    import ast
    from pathlib import Path

    import cyoptim.torch as optim

    for module in (optim, optim.lr_scheduler, optim.swa_utils):
        stub = ast.parse(Path(str(module.__file__)).with_suffix(".pyi").read_text())
        named = {node.name for node in stub.body if isinstance(node, ast.ClassDef)}
        for node in stub.body:
            if isinstance(node, ast.ImportFrom):
                named |= {alias.asname for alias in node.names if alias.asname == alias.name}
        assert named == {*module.__all__}


@pytest.mark.slow
def test_missing_torch_is_told() -> None:
    assert "pip install torch" in run("""
import sys
sys.modules["torch"] = None
import cyoptim
try:
    import cyoptim.torch
except ImportError as error:
    print(error)
""")


# --- copies, pickles and states -------------------------------------------------------------------


@pytest.mark.parametrize("cls", [cyoptim.AdamW, Own, Stepping, Both])
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies(cls: Any, how: str) -> None:
    optimizer = stepped(cls)
    twin = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
    assert type(twin) is cls
    for each in (optimizer, twin):
        (w,) = each.param_groups[0]["params"]
        w.grad = torch.full((3,), 2.0)
        each.step()
    assert torch.equal(twin.param_groups[0]["params"][0], optimizer.param_groups[0]["params"][0])
    assert isinstance(twin, torch.optim.Optimizer)


@pytest.mark.slow
def test_pickle_finds_torch_in_another_process(tmp_path: Any) -> None:
    path = tmp_path / "optimizer.pickle"
    path.write_bytes(
        pickle.dumps((stepped(cyoptim.AdamW), lr_scheduler.StepLR(stepped(cyoptim.SGD), 2)))
    )
    assert (
        run(f"""
import pickle
import cyoptim
optimizer, schedule = pickle.load(open({str(path)!r}, "rb"))
import torch
assert isinstance(optimizer, torch.optim.Optimizer)
optimizer.step()
assert isinstance(schedule, torch.optim.lr_scheduler.LRScheduler)
print("done")
""")
        == "done"
    )


def test_states_of_arrays_and_tensors_are_exchanged(tmp_path: Any) -> None:
    first = stepped(cyoptim.AdamW)
    w = np.ones(3, np.float32)
    second = cyoptim.AdamW([w], lr=0.5)
    second.load_state_dict(first.state_dict())
    assert second.param_groups[0]["lr"] == 0.1
    np.testing.assert_allclose(second.state[w]["exp_avg"], [0.0, 0.1, 0.2], rtol=1e-6)
    third = cyoptim.AdamW([tensor(3)], lr=0.5)
    cyoptim.save(tmp_path / "state.npz", optimizer=second)
    cyoptim.load(tmp_path / "state.npz", optimizer=third)
    (w3,) = third.param_groups[0]["params"]
    assert torch.equal(third.state[w3]["exp_avg"], torch.from_numpy(second.state[w]["exp_avg"]))


# --- what torch's base promises -------------------------------------------------------------------


@pytest.mark.parametrize("cls", [cyoptim.AdamW, Own, Stepping, Both, cyoptim.Adafactor])
def test_hooks_of_torch(cls: Any) -> None:
    from torch.optim import optimizer as theirs

    calls = []
    optimizer = stepped(cls)
    optimizer.register_step_pre_hook(lambda *_: calls.append("own before"))
    handles = [
        theirs.register_optimizer_step_pre_hook(lambda *_: calls.append("before")),
        theirs.register_optimizer_step_post_hook(lambda *_: calls.append("after")),
    ]
    optimizer.step()
    assert calls == ["before", "own before", "after"]
    for handle in handles:
        handle.remove()
    calls.clear()
    optimizer.step()
    assert calls == ["own before"]


def test_hooks_of_torch_change_arguments() -> None:
    from torch.optim import optimizer as theirs

    optimizer = stepped(cyoptim.SGD)

    def before(_: Any, args: Any, kwargs: Any) -> Any:
        return args, {**kwargs, "grads": [torch.full((3,), 10.0)]}

    handle = theirs.register_optimizer_step_pre_hook(before)
    (w,) = optimizer.param_groups[0]["params"]
    was = w.detach().clone()
    optimizer.step()
    handle.remove()
    assert torch.equal(w, was - 1)


@pytest.mark.parametrize("cls", [cyoptim.AdamW, Own, Stepping, cyoptim.Muon, cyoptim.LBFGS])
def test_profiler_sees_steps(cls: Any) -> None:
    w = tensor(2, 2)
    optimizer = cls([w], lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = w.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.autograd.profiler.profile() as profile:
        optimizer.step(closure)
        optimizer.zero_grad()
    names = {event.name for event in profile.function_events}
    assert f"Optimizer.step#{cls.__name__}.step" in names
    assert f"Optimizer.zero_grad#{cls.__name__}.zero_grad" in names
    quick = optimizer._quick is not None
    optimizer.step(closure)
    assert (optimizer._quick is not None) == quick  # the short way is open again


def test_memory_profiler_is_shown_the_optimizer() -> None:
    # It looks out for calls of this method, which has no other use.
    seen = []

    class Watched(cyoptim.SGD):
        def _optimizer_step_code(self) -> None:
            seen.append(self)

    optimizer = stepped(Watched)
    assert not seen
    with torch.autograd.profiler.profile():
        optimizer.step()
    assert seen == [optimizer]


def test_repr() -> None:
    def shown(optim: Any) -> str:
        groups = [{"params": [tensor(2)]}, {"params": [tensor(3)], "lr": 0.2}]
        return repr(optim.Adagrad(groups, lr=0.1))

    assert shown(cyoptim) == shown(torch.optim)


# --- what a scaler leaves -------------------------------------------------------------------------


@every_card(TORCH, FUSED)
def test_scaled_step(card: Card) -> None:
    def trained(cls: Any, found: float) -> Any:
        w = tensor(3)
        optimizer = cls([w], lr=0.1, fused=True)
        w.grad = torch.arange(3.0) * 8
        optimizer.grad_scale, optimizer.found_inf = torch.full((), 8.0), torch.full((), found)
        optimizer.step()
        assert float(optimizer.state[w].get("step", 1 - found)) == 1 - found
        return w.detach()

    for found in (0.0, 1.0):
        torch.testing.assert_close(
            trained(card.cls, found), trained(card.torch_class(torch), found)
        )


def test_scale_is_gone_after_its_step() -> None:
    optimizer = stepped(cyoptim.SGD, fused=True)
    (w,) = optimizer.param_groups[0]["params"]
    assert not hasattr(optimizer, "grad_scale")
    optimizer.grad_scale, optimizer.found_inf = torch.full((), 2.0), None
    optimizer.step(grad_scale=5.0)  # the caller's own on top
    was = w.detach().clone()
    del optimizer.grad_scale, optimizer.found_inf
    optimizer.step()
    torch.testing.assert_close(w, was - 0.1 * torch.arange(3.0))
    with pytest.raises(AttributeError, match="has no attribute 'grad_scale'"):
        del optimizer.grad_scale


def test_scale_is_for_fused_steps_alone() -> None:
    optimizer = stepped(cyoptim.SGD)
    assert not optimizer._step_supports_amp_scaling
    (w,) = optimizer.param_groups[0]["params"]
    was = w.detach().clone()
    optimizer.grad_scale = 2.0  # an attribute of the user's own
    optimizer.step()
    torch.testing.assert_close(w, was - 0.1 * torch.arange(3.0))


def test_a_class_may_say_itself_whether_it_scales() -> None:
    class Scales(cyoptim.SGD):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options)
            self._step_supports_amp_scaling = True

    assert stepped(Scales)._step_supports_amp_scaling is True
