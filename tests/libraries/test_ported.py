"""Code that was written for torch.optim, with the import changed: options, state, own optimizers."""

from __future__ import annotations

import collections
import copy
import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.optimizer import required
from tests.support.cards import CLOSURE, DENSE, FUSED, TORCH, Card, Options, takes
from tests.support.doors import TensorDoor
from tests.support.parametrize import every_card, every_variant
from tests.support.runs import advance

torch = pytest.importorskip("torch")


def weight(*shape: int, grad: float = 1.0) -> Any:
    p = torch.nn.Parameter(torch.ones(shape or (3,)))
    p.grad = torch.full_like(p, grad)
    return p


# --- options --------------------------------------------------------------------------------------


@every_card(TORCH, FUSED)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("foreach", "`fused` and `foreach` cannot be `True` together"),
        ("differentiable", "`fused` does not support `differentiable`"),
    ],
)
def test_fused_excludes(card: Card, other: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        card.cls([weight()], fused=True, **{other: True})


@pytest.mark.parametrize("cls", [cyoptim.Adam, cyoptim.AdamW])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.1, "foreach": True}, r"lr as a Tensor is not supported for capturable=False"),
        (
            {"betas": (0.9, 0.99), "foreach": True},
            r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True",
        ),
        ({"lr": [0.1, 0.1]}, "Tensor lr must be 1-element"),
        ({"betas": ([0.9, 0.9], 0.99)}, r"Tensor betas\[0\] must be 1-element"),
        ({"betas": (0.9, [0.9, 0.9])}, r"Tensor betas\[1\] must be 1-element"),
        ({"betas": (1.5, 0.9)}, "Invalid beta parameter at index 0"),
    ],
)
def test_bad_tensors_as_options(cls: Any, options: dict[str, Any], message: str) -> None:
    made = {
        name: torch.tensor(value)
        if name == "lr"
        else tuple(map(torch.tensor, value))
        if name == "betas"
        else value
        for name, value in options.items()
    }
    with pytest.raises(ValueError, match=message):
        cls([weight()], **made)
    with pytest.raises(ValueError, match=message):
        cls([{"params": [weight()], **made}])


@pytest.mark.parametrize("mixed", [(0.9, torch.tensor(0.9)), (torch.tensor(0.9), 0.9)])
def test_betas_of_two_kinds(mixed: Any) -> None:
    with pytest.raises(ValueError, match="betas must be either both floats or both Tensors"):
        cyoptim.Adam([weight()], betas=mixed)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_betas_as_tensors_are_read_at_each_step(shape: tuple[int, ...]) -> None:
    p, q = weight(), weight()
    betas = torch.full(shape, 0.5), torch.full(shape, 0.75)
    a = cyoptim.Adam([p], lr=0.1, betas=betas)
    b = cyoptim.Adam([q], lr=0.1, betas=(0.5, 0.75))
    for k in range(4):
        if k == 2:
            betas[0].fill_(0.25)
            b.param_groups[0]["betas"] = (0.25, 0.75)
        p.grad, q.grad = torch.full((3,), 1.0 + k), torch.full((3,), 1.0 + k)
        a.step()
        b.step()
    assert torch.equal(p, q)


@every_card(takes("differentiable"))
def test_differentiable(card: Card) -> None:
    idle, p = torch.ones(3), weight()
    optimizer = card.cls([idle, p], differentiable=True)
    p.grad = None
    optimizer.step()  # nothing to differentiate
    idle.grad = torch.ones(3)
    optimizer.step()
    moved = idle.clone()
    for param, grad in ((p, torch.ones(3)), (idle, torch.ones(3, requires_grad=True))):
        param.grad = grad
        with pytest.raises(RuntimeError, match="differentiable=True is not supported for"):
            optimizer.step()
        param.grad = None
    assert torch.equal(idle, moved)
    with pytest.raises(ValueError, match="differentiable=True is not supported"):
        card.cls([torch.ones(3), np.ones(3)], differentiable=True)


def test_option_that_another_optimizer_has() -> None:
    with pytest.warns(UserWarning, match="an option 'rho' that SGD does not know: it is kept"):
        optimizer = cyoptim.SGD([{"params": [weight()], "rho": 0.05}], lr=0.1)
    assert optimizer.param_groups[0]["rho"] == 0.05
    assert optimizer.state_dict()["param_groups"][0]["rho"] == 0.05


def test_required_option() -> None:
    class Own(cyoptim.Optimizer):
        def __init__(self, params: Any, lr: Any = required) -> None:
            super().__init__(params, {"lr": lr})

    assert Own([{"params": [weight()], "lr": 0.5}]).param_groups[0]["lr"] == 0.5
    with pytest.raises(
        ValueError, match="didn't specify a value of required optimization parameter lr"
    ):
        Own([weight()])
    assert repr(required) == "<required parameter>"


# --- state ----------------------------------------------------------------------------------------


# L-BFGS keeps vectors over all parameters, as arrays.
@every_variant(TORCH, DENSE, ~CLOSURE)
def test_state_of_a_tensor_is_tensors(card: Card, options: Options) -> None:
    ours, theirs, door = weight(4, 3), weight(4, 3), TensorDoor()
    a, b = card.cls([ours], **options), card.torch_class(torch)([theirs], **options)
    for _ in range(3):
        for optimizer, p in ((a, ours), (b, theirs)):
            advance(card, optimizer, [p], [np.ones((4, 3), np.float32)], door)
    for optimizer, p in (
        (a, ours),
        (copy.deepcopy(a), None),
        (pickle.loads(pickle.dumps(a)), None),
    ):
        state = optimizer.state[optimizer.param_groups[0]["params"][0] if p is None else p]
        for name, expected in b.state[theirs].items():
            if isinstance(expected, torch.Tensor):
                assert isinstance(state[name], torch.Tensor)
                torch.testing.assert_close(state[name], expected, check_dtype=name != "step")


def test_writing_into_a_tensor_of_the_state() -> None:
    p = weight()
    optimizer = cyoptim.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    optimizer.state[p]["momentum_buffer"].fill_(4.0)
    optimizer.step()
    assert p.tolist() == [-3.0] * 3
    mine = torch.zeros(3)
    optimizer.state[p]["momentum_buffer"] = mine
    optimizer.step()
    assert p.tolist() == [-4.0] * 3
    assert optimizer.state[p]["momentum_buffer"].data_ptr() == mine.data_ptr()
    assert mine.tolist() == [1.0] * 3


@pytest.mark.parametrize("cls", [cyoptim.Adam, torch.optim.Adam])
def test_parameters_that_grow_and_shrink(cls: Any) -> None:
    # As Gaussian splatting does: the parameter is replaced, and its state with it.
    p = weight()
    optimizer = cls([{"params": [p], "name": "points", "lr": 0.1}], lr=0.0)
    optimizer.step()
    group = optimizer.param_groups[0]

    def replace(change: Any) -> None:
        old = group["params"][0]
        state = optimizer.state.get(old, None)
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = change(state[name])
        del optimizer.state[old]
        group["params"][0] = torch.nn.Parameter(change(old.detach()))
        group["params"][0].grad = torch.ones_like(group["params"][0])
        optimizer.state[group["params"][0]] = state
        optimizer.step()

    replace(lambda t: torch.cat((t, torch.zeros(2))))
    replace(lambda t: t[torch.tensor([True, False, True, True, False])])
    new = group["params"][0]
    torch.testing.assert_close(
        new.detach(), torch.tensor([0.7, 0.7, -0.160260]), rtol=1e-4, atol=1e-5
    )
    assert float(optimizer.state[new]["step"]) == 3
    assert optimizer.state[new]["exp_avg"].shape == (3,)


def test_loaded_state_is_tensors_and_copied() -> None:
    p, q = weight(), weight(grad=2.0)
    a, b = (cyoptim.SGD([x], lr=0.1, momentum=0.9) for x in (p, q))
    a.step()
    b.load_state_dict(a.state_dict())
    before = a.state[p]["momentum_buffer"].clone()
    b.step()
    assert torch.equal(a.state[p]["momentum_buffer"], before)
    assert isinstance(b.state[q]["momentum_buffer"], torch.Tensor)


@pytest.mark.parametrize("empty", [dict, lambda: collections.defaultdict(dict)])
def test_state_replaced(empty: Any) -> None:
    p = weight()
    optimizer = cyoptim.Adam([p])
    optimizer.step()
    optimizer.state = empty()
    assert len(optimizer.state) == 0
    optimizer.step()
    assert optimizer.state[p]["step"] == 1


def test_tensor_that_numpy_cannot_hold_is_a_note_in_the_state() -> None:
    p = weight()
    optimizer = cyoptim.SGD([p], lr=1.0, momentum=0.5)
    optimizer.state[p]["note"] = torch.zeros(2, dtype=torch.bfloat16)
    optimizer.step()
    assert optimizer.state[p]["note"].dtype is torch.bfloat16


# --- own optimizers -------------------------------------------------------------------------------


def momentum_class(base: Any) -> Any:
    """The same source over both packages."""

    class Momentum(base.Optimizer):
        def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.5) -> None:
            super().__init__(params, {"lr": lr, "beta": beta})

        def __setstate__(self, state: dict[str, Any]) -> None:
            super().__setstate__(state)
            for group in self.param_groups:
                group.setdefault("added", 5)

        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if len(state) == 0:
                        state["step"] = 0
                        state["exp_avg"] = torch.zeros_like(p)
                        state["label"] = 7
                    state["step"] += 1
                    state["exp_avg"].lerp_(p.grad, 1 - group["beta"])
                    bias = 1 - group["beta"] ** state["step"]
                    p.add_(state["exp_avg"], alpha=-group["lr"] / bias)
            return loss

    return Momentum


def test_an_optimizer_written_for_torch() -> None:
    results = []
    for base in (cyoptim, torch.optim):
        cls = momentum_class(base)
        p = weight()
        optimizer = cls([("w", p)])
        scheduler = base.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for k in range(3):
            p.grad = torch.full((3,), 1.0 + k)
            assert optimizer.step(lambda: 7) == 7
            scheduler.step()
        twin = cls([p])
        twin.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        assert twin.state[p]["label"] == 7
        assert type(twin.state[p]["step"]) is int
        twin.step()
        saved = twin.state_dict()
        results.append((p.tolist(), saved["param_groups"], saved["state"][0]["step"]))
        results[-1] += (saved["state"][0]["exp_avg"].tolist(),)
    assert results[0] == results[1]
    assert results[0][1][0]["added"] == 5


def test_base_class_alone() -> None:
    optimizer = cyoptim.Optimizer([weight()], {})
    assert repr(optimizer) == repr(torch.optim.Optimizer([weight()], {}))
    assert optimizer.state_dict() == {"state": {}, "param_groups": [{"params": [0]}]}
    with pytest.raises(NotImplementedError):
        optimizer.step()


def test_an_optimizer_around_another() -> None:
    class Around(cyoptim.Optimizer):
        def __init__(self, base: cyoptim.Optimizer) -> None:
            # No super().__init__, and the state before the groups.
            self.state = collections.defaultdict(dict)
            self.base = base
            self.param_groups, self.defaults = base.param_groups, base.defaults
            self._optimizer_step_pre_hooks = collections.OrderedDict()
            self._optimizer_step_post_hooks = collections.OrderedDict()

        def step(self, closure: Any = None) -> Any:
            return self.base.step(closure)

    p = weight()
    optimizer = Around(cyoptim.SGD([p], lr=1.0))
    scheduler = cyoptim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert p.tolist() == [-0.5] * 3
    assert len(optimizer.state) == 0


def test_setstate_keeps_what_a_subclass_adds() -> None:
    class Counting(cyoptim.SGD):
        count = 0

        def __getstate__(self) -> dict[str, Any]:
            return {**super().__getstate__(), "count": self.count}

    optimizer = Counting([weight()], lr=1.0)
    optimizer.count = 3
    twin = copy.deepcopy(optimizer)
    assert twin.count == 3
    twin.step()


def test_a_subclass_sees_each_group() -> None:
    seen = []

    class Watching(cyoptim.SGD):
        def add_param_group(self, param_group: Any) -> None:
            super().add_param_group(param_group)
            seen.append(len(self.param_groups))

    optimizer = Watching([{"params": [weight()]}, {"params": [weight()]}], lr=0.1)
    optimizer.add_param_group({"params": weight()})
    assert seen == [1, 2, 3]
    optimizer.step()


def test_copy_of_the_state() -> None:
    p = weight()
    optimizer = cyoptim.Adam([p])
    optimizer.step()
    twin = optimizer.state.copy()
    optimizer.state[p]["exp_avg"] = torch.zeros(3)
    assert twin[p]["exp_avg"].any()
    optimizer.state.clear()
    assert len(twin) == 1


@every_variant(DENSE, ~CLOSURE)
def test_gradients_are_not_written_to(card: Card, options: Options) -> None:
    p = weight(3, 2)
    version, before = p.grad._version, p.grad.clone()
    card.cls([p], **options).step()
    assert p.grad._version == version
    assert torch.equal(p.grad, before)
