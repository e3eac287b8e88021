"""Complex parameters: a complex number is optimized as a pair of reals, as in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.cases import CASES, VARIANT_IDS, VARIANTS
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door, TensorDoor, run

SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), (), (0,), (17, 9)]
REAL = {np.complex64: np.float32, np.complex128: np.float64}
# As in test_trajectories.py: rounding of 60 steps.
TOLERANCE = {np.complex64: 3e-5, np.complex128: 1e-10}


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


@pytest.mark.parametrize("door", NUMPY_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("case", "options"), VARIANTS, ids=VARIANT_IDS)
def test_is_a_pair_of_reals(case: Any, options: dict[str, Any], dtype: Any, door: Door) -> None:
    # The same bits as the pairs give: a complex number is nothing but its parts.
    start, grads = complex_inputs(dtype, 10, seed=1)
    found = run(case.cls, options, door, start, grads)
    pairs = [[None if g is None else as_pairs(g) for g in step] for step in grads]
    expected = run(case.cls, options, door, [as_pairs(array) for array in start], pairs)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(as_pairs(a), b)


@pytest.mark.parametrize("door", ALL_DOORS, ids=lambda door: door.name)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize(("case", "options"), VARIANTS, ids=VARIANT_IDS)
def test_equals_torch(
    torch: Any, case: Any, options: dict[str, Any], dtype: Any, door: Door
) -> None:
    start, grads = complex_inputs(dtype, 60, seed=2)
    expected = run(getattr(torch.optim, case.name), options, TensorDoor(), start, grads)
    for a, b in zip(run(case.cls, options, door, start, grads), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_state_is_complex_and_goes_both_ways(torch: Any, case: Any) -> None:
    start, grads = complex_inputs(np.complex128, 8, seed=3)
    door = TensorDoor()

    def resumed(first: Any, second: Any) -> list[np.ndarray]:
        params = [door.wrap(array.copy()) for array in start]
        before = first(params, lr=0.01)
        for step in grads[:4]:
            door.step(before, params, step)
        after = second(params, lr=0.01)
        after.load_state_dict(before.state_dict())
        for step in grads[4:]:
            door.step(after, params, step)
        return [door.read(param) for param in params]

    theirs = getattr(torch.optim, case.name)
    expected = resumed(theirs, theirs)
    for classes in ((case.cls, theirs), (theirs, case.cls), (case.cls, case.cls)):
        for a, b in zip(resumed(*classes), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


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
