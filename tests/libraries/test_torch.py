"""CPU torch tensors as parameters: changing the import line is the whole port."""

from __future__ import annotations

import copy
import io
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CLOSURE, DENSE, MATRICES, TORCH, Card, Options
from tests.support.parametrize import every_card, every_variant

torch = pytest.importorskip("torch")


def model(bias: bool = True) -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(8, 16, bias), torch.nn.Tanh(), torch.nn.Linear(16, 4, bias)
    ).double()


def model_for(card: Card) -> Any:
    return model(bias=not MATRICES(card))


def train(net: Any, optimizer: Any, steps: int, start: int = 0) -> None:
    for k in range(start, start + steps):
        x = torch.from_numpy(np.random.default_rng(k).standard_normal((10, 8)))

        def closure(x: Any = x) -> Any:
            optimizer.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def assert_same(a: Any, b: Any) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


# Rows of gradients: see test_an_embedding_of_torch and test_state_dict_both_ways in test_sparse.py.
@pytest.mark.slow
@every_variant(TORCH, DENSE)
def test_training_a_module(card: Card, options: Options) -> None:
    ours, theirs, steps = model_for(card), model_for(card), card.steps(20)
    train(ours, card.cls(ours.parameters(), **options), steps)
    train(theirs, card.torch_class(torch)(theirs.parameters(), **options), steps)
    assert_same(ours, theirs)


@pytest.mark.parametrize("direction", ["torch to cyoptim", "cyoptim to torch"])
@every_variant(TORCH, DENSE)
def test_checkpoints_go_both_ways(card: Card, options: Options, direction: str) -> None:
    theirs_cls, steps = card.torch_class(torch), card.steps(10)
    first_cls, second_cls = (
        (theirs_cls, card.cls) if direction == "torch to cyoptim" else (card.cls, theirs_cls)
    )
    whole = model_for(card)
    train(whole, theirs_cls(whole.parameters(), **options), 2 * steps)

    net = model_for(card)
    first = first_cls(net.parameters(), **options)
    train(net, first, steps)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = second_cls(net.parameters())
    second.load_state_dict(torch.load(buffer))
    train(net, second, steps, start=steps)
    assert_same(net, whole)


# Of L-BFGS also what is in lists: see test_lbfgs.py.
@every_variant(TORCH, DENSE, ~CLOSURE)
def test_state_dict_is_torchs(card: Card, options: Options) -> None:
    ours, theirs = model_for(card), model_for(card)
    a = card.cls(ours.named_parameters(), **options)
    b = card.torch_class(torch)(theirs.named_parameters(), **options)
    train(ours, a, 3)
    train(theirs, b, 3)
    found, expected = a.state_dict(), b.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    assert found["state"].keys() == expected["state"].keys()
    for i, entries in expected["state"].items():
        assert found["state"][i].keys() == entries.keys()
        for name, value in entries.items():
            torch.testing.assert_close(found["state"][i][name], value)


def test_checkpoint_of_torch_in_numpy() -> None:
    # A model trained in torch goes on in NumPy.
    net = model()
    theirs = torch.optim.Adam(net.parameters())
    train(net, theirs, 5)
    arrays = [p.detach().numpy().copy() for p in net.parameters()]
    ours = cyoptim.Adam(arrays)
    ours.load_state_dict(theirs.state_dict())
    net.zero_grad()
    (net(torch.ones(1, 8, dtype=torch.float64)) ** 2).mean().backward()
    ours.step(grads=[p.grad.numpy() for p in net.parameters()])
    theirs.step()
    for array, p in zip(arrays, net.parameters(), strict=True):
        np.testing.assert_allclose(array, p.detach().numpy(), rtol=1e-12)


def test_update_is_in_place_and_seen_by_autograd() -> None:
    p = torch.ones(3, requires_grad=True)
    frozen = torch.ones(3)
    optimizer = cyoptim.SGD([p, frozen], lr=1.0)
    address, version, other = p.data_ptr(), p._version, frozen._version
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    assert p.data_ptr() == address
    assert p._version > version
    assert frozen._version == other
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_closure_runs_with_gradients_enabled() -> None:
    p = torch.ones(3, requires_grad=True)
    optimizer = cyoptim.SGD([p], lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss == 3.0
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.8))


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(4, 5),
        lambda: torch.zeros(5, 4).t(),
        lambda: torch.zeros(4, 10)[:, ::2],
        lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.zeros(()),
        lambda: torch.zeros(0),
        lambda: torch.zeros(3, 1, 2).transpose(0, 1),
    ],
)
def test_any_strides(make: Any) -> None:
    theirs, ours = make(), make()
    a, b = torch.optim.Adam([theirs], lr=0.1), cyoptim.Adam([ours], lr=0.1)
    for k in range(3):
        g = torch.from_numpy(np.random.default_rng(k).standard_normal(tuple(ours.shape))).float()
        theirs.grad, ours.grad = g.clone(), g.clone()
        a.step()
        b.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("tensor_reader")
def test_data_replaced() -> None:
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    optimizer = cyoptim.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    p.data = torch.full((3,), 10.0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 8.5))


@pytest.mark.usefixtures("tensor_reader")
def test_data_replaced_by_a_view_of_the_same_shape() -> None:
    # At the same address, in another order.
    p = torch.arange(4.0).reshape(2, 2).requires_grad_()
    optimizer = cyoptim.SGD([p], lr=1.0)
    p.grad = torch.zeros(2, 2)
    optimizer.step()
    p.data = p.data.t()
    p.grad = torch.tensor([[0.0, 10.0], [20.0, 0.0]])
    optimizer.step()
    assert p.tolist() == [[0.0, -8.0], [-19.0, 3.0]]


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_gradients_are_read_without_an_array(dtype: str, monkeypatch: Any) -> None:
    p = torch.zeros(2, 3, dtype=getattr(torch, dtype)).t().requires_grad_()
    optimizer = cyoptim.SGD([p], lr=1.0)
    monkeypatch.delattr("cyoptim._libraries.torch.view_tensor")
    for _ in range(2):
        p.grad = torch.ones_like(p)
        assert p.grad.stride() == (1, 3)
        optimizer.step()
    assert (p == -2).all()
    with pytest.raises(ImportError, match="view_tensor"):
        optimizer.step(grads=[torch.ones(3, 2, dtype=p.dtype)])


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(3, dtype=torch.float64), "has dtype float64, expected float32"),
        (lambda: torch.ones(3).to(torch.float8_e5m2), "has dtype torch.float8_e5m2"),
        (lambda: torch.ones(3, dtype=torch.int32), "has dtype torch.int32"),
        (lambda: torch.ones(4), r"has shape \(4,\), expected \(3,\)"),
        (lambda: torch.ones(3, device="meta"), "is on device meta"),
    ],
)
def test_gradients_that_do_not_fit(make: Any, message: str) -> None:
    p = torch.zeros(3)
    optimizer = cyoptim.SGD([p], lr=1.0)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=message):
            optimizer.step(grads=[make()])
        assert p.tolist() == [0.0] * 3
    optimizer.step(grads=[torch.ones(3)])
    assert p.tolist() == [-1.0] * 3


@pytest.mark.usefixtures("tensor_reader")
def test_sparse_and_dense_gradients_take_turns() -> None:
    p = torch.zeros(3)
    optimizer = cyoptim.SGD([p], lr=1.0)
    for grad in (
        torch.ones(3),
        torch.ones(3).to_sparse(),
        torch.ones(3).to_sparse(),
        torch.ones(3),
    ):
        optimizer.step(grads=[grad])
    assert p.tolist() == [-4.0] * 3


def test_a_subclass_without_the_exchange_table() -> None:
    # Its attributes may be a user's code: it is read through its array.
    class Old(torch.Tensor):
        __dlpack_c_exchange_api__ = None

    p = torch.zeros(2, 2).as_subclass(Old).requires_grad_()
    empty = torch.zeros(0, 2).as_subclass(Old).requires_grad_()
    optimizer = cyoptim.SGD([p, empty], lr=1.0)
    for data in (p.data, p.data, p.data.t(), torch.ones(2, 2).as_subclass(Old), p.data.double()):
        p.data, empty.grad = data, torch.ones_like(empty)
        p.grad = torch.tensor([[0, 1], [2, 0]], dtype=data.dtype).as_subclass(Old)
        expected = data.detach().numpy() - [[0, 1], [2, 0]]
        optimizer.step()
        np.testing.assert_array_equal(p.detach().numpy(), expected)


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    net = model()
    optimizer = cyoptim.SGD(net.parameters())
    train(net, optimizer, 1)
    optimizer.zero_grad(set_to_none)
    for p in net.parameters():
        assert p.grad is None if set_to_none else not p.grad.any()


def test_deepcopy_and_torch_save_of_the_optimizer() -> None:
    net = model()
    optimizer = cyoptim.Adam(net.parameters())
    train(net, optimizer, 2)
    twin = copy.deepcopy(optimizer)
    assert repr(twin) == repr(optimizer)
    buffer = io.BytesIO()
    torch.save(optimizer, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    params = loaded.param_groups[0]["params"]
    assert set(loaded.state[params[0]]) == {"step", "exp_avg", "exp_avg_sq"}


def test_lr_tensor() -> None:
    p = torch.zeros(3, requires_grad=True)
    p.grad = torch.ones(3)
    lr = torch.tensor(0.5)
    optimizer = cyoptim.SGD([p], lr=lr)
    optimizer.step()
    lr.fill_(1.0)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), -1.5))
    with pytest.raises(ValueError, match="Tensor lr must be 1-element"):
        cyoptim.SGD([p], lr=torch.ones(2))


@pytest.mark.usefixtures("tensor_reader")
def test_grads_argument_takes_tensors() -> None:
    p = torch.zeros(3)
    cyoptim.SGD([p], lr=1.0).step(grads=[torch.ones(3)])
    cyoptim.SGD([p], lr=1.0).step(grads=[np.ones(3, np.float32)])
    assert p.tolist() == [-2.0] * 3


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
@every_card(DENSE, ~CLOSURE)
def test_tensors_without_elements(card: Card, shape: tuple[int, ...]) -> None:
    # torch and NumPy differ in the strides that they give to such shapes.
    empty = torch.zeros(card.fit(shape), requires_grad=True)
    full = torch.ones(2, 2, requires_grad=True)
    empty.grad, full.grad = torch.zeros_like(empty), torch.ones(2, 2)
    optimizer = card.cls([empty, full], lr=0.1)
    for _ in range(1 + card.waits):
        optimizer.step()
    assert (full < 1).all()


def test_a_state_that_asks_for_what_cannot_be_is_not_loaded(torch: Any) -> None:
    saved = torch.optim.Adam([torch.ones(2)]).state_dict()
    saved["param_groups"][0]["capturable"] = True
    optimizer = cyoptim.Adam([torch.ones(2)], lr=0.5)
    with pytest.raises(ValueError, match="capturable=True is not supported"):
        optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["lr"] == 0.5
