"""Complex parameters: a complex number is optimized as a pair of reals, as in torch."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CLOSURE, COMPLEX, TORCH, Card, Options
from tests.support.doors import Door, TensorDoor
from tests.support.dtypes import assert_close
from tests.support.parametrize import (
    every_card,
    every_complex,
    every_door,
    every_numpy_door,
    every_variant,
)
from tests.support.runs import advance, run

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (17, 9)]


def as_pairs(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array)[..., None].view(array.real.dtype)


def complex_inputs(
    dtype: Any, steps: int, seed: int
) -> tuple[list[np.ndarray], list[list[np.ndarray | None]]]:
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), dtype)

    start = [draw(shape) for shape in SHAPES]
    grads = [[None if rng.random() < 0.25 else draw(s) for s in SHAPES] for _ in range(steps)]
    return start, grads


@every_numpy_door
@every_complex
@every_variant(COMPLEX, ~CLOSURE)
def test_is_a_pair_of_reals(card: Card, options: Options, dtype: Any, door: Door) -> None:
    # The same bits as the pairs give: a complex number is nothing but its parts.
    if card.takes_reals_alone(options):
        check_refused(card, options)
        return
    start, grads = complex_inputs(dtype, 10, seed=1)
    found = run(card, options, start, grads, door)
    pairs = [[None if g is None else as_pairs(g) for g in step] for step in grads]
    expected = run(card, options, [as_pairs(array) for array in start], pairs, door)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(as_pairs(a), b)


@pytest.mark.slow
@every_door
@every_complex
@every_variant(TORCH, COMPLEX)
def test_equals_torch(torch: Any, card: Card, options: Options, dtype: Any, door: Door) -> None:
    start, grads = complex_inputs(dtype, card.steps(60), seed=2)
    expected = run(card, options, start, grads, TensorDoor(), card.torch_class(torch))
    assert_close(run(card, options, start, grads, door), expected, dtype)


@every_card(TORCH, COMPLEX)
def test_state_is_complex_and_goes_both_ways(torch: Any, card: Card) -> None:
    start, grads = complex_inputs(np.complex128, 8, seed=3)
    door, options = TensorDoor(), {**card.variants[0], "lr": 0.01}

    def resumed(first: Any, second: Any) -> list[np.ndarray]:
        params = [door.wrap(array.copy()) for array in start]
        before = first(params, **options)
        for step in grads[:4]:
            advance(card, before, params, step, door)
        after = second(params, **options)
        after.load_state_dict(before.state_dict())
        for step in grads[4:]:
            advance(card, after, params, step, door)
        return [door.read(param) for param in params]

    theirs = card.torch_class(torch)
    expected = resumed(theirs, theirs)
    for classes in ((card.cls, theirs), (theirs, card.cls), (card.cls, card.cls)):
        assert_close(resumed(*classes), expected, np.complex128)


def check_refused(card: Card, options: Options) -> None:
    w = np.ones(5, np.complex128)
    with pytest.raises(
        ValueError, match=f"{card.slice} is .*, expected 1 as parameter 0 .*complex"
    ):
        card.cls([w], **options).step(grads=[np.ones_like(w)])
    np.testing.assert_array_equal(w, 1)


@every_variant(COMPLEX)
def test_state_is_complex_and_goes_on(card: Card, options: Options) -> None:
    if card.takes_reals_alone(options):
        return
    start, grads = complex_inputs(np.complex64, 8, seed=3)
    expected = run(card, options, start, grads)
    params = [cyoptim.Parameter(array.copy()) for array in start]
    first, second = (card.cls(params, **options) for _ in range(2))
    for step in grads[:4]:
        advance(card, first, params, step)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in grads[4:]:
        advance(card, second, params, step)
    for param, array in zip(params, expected, strict=True):
        np.testing.assert_array_equal(param.data, array)


@every_card(~COMPLEX)
def test_complex_parameters_are_refused(card: Card) -> None:
    w = cyoptim.Parameter(np.ones((2, 2), complex))
    message = f"{card} does not support complex parameters|{card} does(n't| not) support complex"
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        advance(card, card.cls([w]), [w], [w.data])
    np.testing.assert_array_equal(w.data, 1)


@every_card(TORCH, ~COMPLEX)
def test_complex_tensors_are_refused_with_torchs_message(torch: Any, card: Card) -> None:
    door, w = TensorDoor(), np.ones((2, 2), complex)

    def tried(cls: Any) -> str:
        tensor = door.wrap(w)
        with pytest.raises((RuntimeError, ValueError)) as found:
            advance(card, cls([tensor]), [tensor], [w], door)
        return str(found.value)

    assert tried(card.cls) == tried(card.torch_class(torch))
    np.testing.assert_array_equal(w, 1)


def test_any_layout() -> None:
    base = np.arange(48, dtype=np.complex128).reshape(6, 8) * (1 + 2j)
    for view in (base[::2, ::-1], base.T, base[1:3, 2:5].T):
        expected = view.copy()
        cyoptim.Adam([expected], lr=0.1).step(grads=[expected * 1j])
        target = base.copy() if view.base is None else view
        cyoptim.Adam([target], lr=0.1).step(grads=[view * 1j])
        np.testing.assert_array_equal(target, expected)


def test_a_real_gradient_is_refused() -> None:
    w = np.ones(3, np.complex64)
    with pytest.raises(TypeError, match="gradient of parameter 0 of group 0 has dtype float32"):
        cyoptim.SGD([w], lr=0.1).step(grads=[np.ones(3, np.float32)])


@pytest.mark.usefixtures("tensor_reader")
def test_conjugate_views(torch: Any) -> None:
    # torch keeps a conjugate as a flag on the same memory: a gradient may be one.
    values = torch.tensor([1 + 2j, 3 - 1j])
    ours, theirs = (torch.zeros(2, dtype=torch.complex64).requires_grad_() for _ in range(2))
    ours.grad, theirs.grad = values.conj(), values.conj()
    cyoptim.SGD([ours], lr=0.1).step()
    torch.optim.SGD([theirs], lr=0.1).step()
    assert torch.equal(ours.detach(), theirs.detach())
    single = torch.zeros(1).requires_grad_()
    single.grad = values[:1].conj().imag  # carries a sign flag
    cyoptim.SGD([single], lr=0.5).step()
    assert single.item() == 1
    with pytest.raises(ValueError, match="parameter 0 of group 0 is a conjugate or negative view"):
        cyoptim.SGD([values.conj()], lr=0.1)


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize("name", ["complex", "single", "gaps"])
def test_a_parameter_that_becomes_a_conjugate_view(torch: Any, name: str) -> None:
    # The address, dtype, shape and strides stay the same.
    values = torch.tensor([1 + 2j, 3 - 1j])
    before, after = {
        "complex": (values, values.conj()),
        "single": (values[:1].imag, values[:1].conj().imag),
        "gaps": (values.imag, values.conj().imag),
    }[name]
    param = before.detach().requires_grad_()
    param.grad = torch.ones_like(before, memory_format=torch.contiguous_format)
    optimizer = cyoptim.SGD([param], lr=0.5)
    optimizer.step()
    param.data = after
    stored = values.clone()
    with pytest.raises(ValueError, match="parameter 0 of group 0 is a conjugate or negative view"):
        optimizer.step()
    assert torch.equal(values, stored)


@pytest.mark.parametrize("order", [1, 2, 3.5, np.inf, -np.inf])
def test_norm_is_that_of_absolute_values(order: float) -> None:
    rng = np.random.default_rng(4)
    grads = [rng.standard_normal(9) + 1j * rng.standard_normal(9) for _ in range(3)]
    found = cyoptim.get_total_norm(grads, order)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, np.linalg.norm(np.concatenate(grads), order), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3.5, np.inf, -np.inf])
def test_norm(torch: Any, order: float) -> None:
    rng = np.random.default_rng(4)
    grads = [rng.standard_normal(9) + 1j * rng.standard_normal(9) for _ in range(3)]
    tensors = [torch.zeros(9, dtype=torch.complex128).requires_grad_() for _ in grads]
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = torch.from_numpy(grad.copy())
    expected = torch.nn.utils.clip_grad_norm_(tensors, 0.5, order)
    found = cyoptim.clip_grad_norm_([np.zeros(9, complex)] * 3, 0.5, order, grads=grads)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected.item(), rtol=1e-12)
    for tensor, grad in zip(tensors, grads, strict=True):
        np.testing.assert_allclose(grad, tensor.grad.numpy(), rtol=1e-12)


def test_values_of_complex_gradients_cannot_be_clipped() -> None:
    grad = np.full(3, 5 + 5j)
    with pytest.raises(TypeError, match="complex gradients have no order"):
        cyoptim.clip_grad_value_([np.zeros(3, complex)], 1.0, grads=[grad])
    assert (grad == 5 + 5j).all()


def test_vector_and_average() -> None:
    w = np.array([1 + 2j, 3.0])
    vector = cyoptim.parameters_to_vector([w])
    cyoptim.vector_to_parameters(vector * 2, [w])
    np.testing.assert_array_equal(w, [2 + 4j, 6])
    averaged = cyoptim.swa_utils.AveragedModel([w])
    averaged.update_parameters([w])
    averaged.update_parameters([w * 3])
    np.testing.assert_allclose(averaged.module[0], [4 + 8j, 12])


def test_checkpoint(tmp_path: Any) -> None:
    w = np.array([1 + 2j, 3.0])
    optimizer = cyoptim.Adam([w], lr=0.1)
    optimizer.step(grads=[w * 1j])
    cyoptim.save(tmp_path / "run.npz", w=w, optimizer=optimizer)
    again, copy = np.zeros(2, complex), cyoptim.Adam([np.zeros(2, complex)], lr=0.5)
    cyoptim.load(tmp_path / "run.npz", w=again, optimizer=copy)
    np.testing.assert_array_equal(again, w)
    state, found = optimizer.state[w], copy.state[copy.param_groups[0]["params"][0]]
    np.testing.assert_array_equal(found["exp_avg"], state["exp_avg"])
    assert found["exp_avg"].dtype == np.complex128
