"""L-BFGS over all kinds of parameters, with the same bits whatever the layout, threads, and kernels."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import _dispatch
from cyoptim.optimizers._lbfgs.flat import FlatArrays
from tests.support.bits import digest, digests_on_threads, use_isa
from tests.support.doors import NUMPY_DOORS, TensorDoor
from tests.support.dtypes import REALS
from tests.support.lbfgs_runs import CHUNK, WOLFE, Problem, Run
from tests.support.parametrize import every_real


@pytest.mark.parametrize("options", [{"lr": 0.3}, WOLFE])
@every_real
def test_doors_give_the_same_bits(options: dict[str, Any], dtype: Any) -> None:
    expected = Run(cyoptim.LBFGS, options, dtype=dtype).steps(2)
    for door in NUMPY_DOORS[1:]:
        found = Run(cyoptim.LBFGS, options, door, dtype=dtype).steps(2)
        np.testing.assert_array_equal(found.points, expected.points)


def test_tensors_give_the_same_bits(torch: Any) -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)
    found = Run(cyoptim.LBFGS, WOLFE, TensorDoor()).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)


@pytest.mark.parametrize(
    "lay_out",
    [
        np.asfortranarray,
        lambda a: np.zeros((*a.shape, 2))[..., 0] if a.ndim else a,
        lambda a: np.empty_like(a)[::-1] if a.ndim else a,
        lambda a: np.empty(a.shape[::-1]).T,
    ],
    ids=["fortran", "strided", "reversed", "transposed"],
)
def test_layouts_give_the_same_bits(lay_out: Any) -> None:
    expected = Run(cyoptim.LBFGS, WOLFE).steps(2)
    params = []
    for start in Problem().start:
        array = lay_out(np.array(start))
        array[...] = start
        params.append(cyoptim.Parameter(array))
    found = Run(cyoptim.LBFGS, WOLFE, params=params).steps(2)
    np.testing.assert_array_equal(found.points, expected.points)


def test_gradients_by_name() -> None:
    params = {"W": np.full((2, 2), 3.0), "b": np.full(2, -1.0)}
    optimizer = cyoptim.LBFGS(params.items(), **WOLFE)

    def closure() -> Any:
        loss = sum(float((p * p).sum()) for p in params.values())
        return loss, {name: 2 * p for name, p in params.items()}

    assert optimizer.step(closure) == 38.0
    np.testing.assert_allclose(params["W"], 0, atol=1e-7)
    np.testing.assert_allclose(params["b"], 0, atol=1e-7)


def test_returned_gradients_come_before_a_parameters_own() -> None:
    w = cyoptim.Parameter(np.array([3.0]), grad=np.array([np.nan]))
    loss = cyoptim.LBFGS([w]).step(lambda: (float(w[0] ** 2), [2 * w]))
    assert loss == 9.0
    np.testing.assert_allclose(w.data, 0, atol=1e-7)


def test_a_closure_of_any_optimizer_may_return_the_gradients_of_plain_arrays() -> None:
    w = np.array([1.0, 2.0])
    optimizer = cyoptim.SGD([w], lr=0.5)
    assert optimizer.step(lambda: (5.0, [2 * w])) == 5.0
    np.testing.assert_array_equal(w, [0, 0])
    named = cyoptim.SGD({"w": w}.items(), lr=0.5)
    assert named.step(lambda: (5.0, {"w": np.ones(2)})) == 5.0
    np.testing.assert_array_equal(w, [-0.5, -0.5])
    # Gradients of the call count, and then the result is the closure's own.
    assert optimizer.step(lambda: (1, 2), grads=[np.zeros(2)]) == (1, 2)
    with pytest.raises(ValueError, match="let the closure return \\(loss, grads\\)"):
        optimizer.step(lambda: 5.0)
    with pytest.raises(TypeError, match="grads must be a list of gradients or a dict"):
        optimizer.step(lambda: (5.0, 2.0))


def test_one_plain_array_is_enough_for_a_closure_to_return_the_gradients() -> None:
    w, v = np.array([1.0]), cyoptim.Parameter(np.array([1.0]))
    assert cyoptim.SGD([w, v], lr=0.5).step(lambda: (5.0, [w.copy(), None])) == 5.0
    assert (w[0], v[0]) == (0.5, 1.0)


def test_a_pair_over_parameters_is_the_closures_result() -> None:
    w = cyoptim.Parameter(np.array([1.0]), grad=np.array([1.0]))
    result = (5.0, [np.array([100.0])])
    assert cyoptim.SGD([w], lr=1.0).step(lambda: result) is result
    np.testing.assert_array_equal(w.data, [0.0])


def test_missing_gradients_count_as_zeros() -> None:
    a, b = cyoptim.Parameter(np.ones(2)), cyoptim.Parameter(np.ones(2))

    def closure() -> float:
        a.grad = 2 * a
        return float((a * a).sum())

    cyoptim.LBFGS([a, b], **WOLFE).step(closure)
    np.testing.assert_allclose(a.data, 0, atol=1e-7)
    np.testing.assert_array_equal(b.data, 1)


def test_no_gradient_at_all() -> None:
    w = cyoptim.Parameter(np.ones(2))
    optimizer = cyoptim.LBFGS([w])
    assert optimizer.step(lambda: 3.0) == 3.0
    assert optimizer.state_dict()["state"] == {0: {"func_evals": 1, "n_iter": 0}}
    np.testing.assert_array_equal(w.data, 1)


@pytest.mark.parametrize("size", [0, 1])
@pytest.mark.parametrize("options", [{}, WOLFE])
def test_smallest_sizes(size: int, options: dict[str, Any]) -> None:
    w = cyoptim.Parameter(np.full(size, 3.0))

    def closure() -> Any:
        w.grad = 2 * w
        return (w * w).sum()

    optimizer = cyoptim.LBFGS([w], **options)
    optimizer.step(closure)
    optimizer.step(closure)
    np.testing.assert_allclose(w.data, 0, atol=1e-7)
    pickle.loads(pickle.dumps(optimizer))


def test_no_parameters() -> None:
    assert cyoptim.LBFGS([{"params": []}]).step(lambda: 2.0) == 2.0


@pytest.mark.parametrize("loss", [np.array([[9.0]]), np.float32(9), 9, np.array(9.0)])
def test_forms_of_the_loss(loss: Any) -> None:
    w = np.array([3.0])
    assert cyoptim.LBFGS([w]).step(lambda: (loss, [2 * w])) is loss


def test_mixed_dtypes_are_one_vector_of_the_wider() -> None:
    a, b = cyoptim.Parameter(np.full(2, 3, np.float32)), cyoptim.Parameter(np.full(3, -2.0))

    def closure() -> float:
        a.grad, b.grad = 2 * a, 2 * b
        return float((a * a).sum() + (b * b).sum())

    optimizer = cyoptim.LBFGS([a, b], **WOLFE)
    optimizer.step(closure)
    assert optimizer.state[a]["d"].dtype == np.float64
    np.testing.assert_allclose(np.concatenate([a.data, b.data]), 0, atol=1e-3)
    twin = cyoptim.LBFGS([a, b])
    twin.load_state_dict(optimizer.state_dict())
    assert twin.state[a]["d"].dtype == np.float64


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_a_parameter_that_occurs_twice_moves_twice(torch: Any) -> None:
    ends = []
    for cls in (cyoptim.LBFGS, torch.optim.LBFGS):
        p = torch.full((3,), 2.0, dtype=torch.float64)
        optimizer = cls([p, p], lr=0.05, max_iter=5)

        def closure(p: Any = p) -> float:
            p.grad = p.clone()
            return float((p * p).sum() / 2)

        optimizer.step(closure)
        ends.append(p.numpy())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-10)


def test_complex_arrays_are_pairs_of_reals() -> None:
    z = np.array([[1 + 2j, 3 - 1j], [0j, 5j]]).T
    flat = FlatArrays([z, np.zeros(1)])
    assert flat.size == 9
    vector = flat.copy()
    np.testing.assert_array_equal(vector, [1, 2, 0, 0, 3, -1, 0, 5, 0])
    flat.move(2.0, vector)
    np.testing.assert_array_equal(z, [[3 + 6j, 0], [9 - 3j, 15j]])


def all_digests() -> dict[str, str]:
    """Of runs over sizes around a chunk's length, under the present kernels and threads."""
    found = {}
    problem = Problem([(17,), (CHUNK - 1,), (4 * CHUNK + 5,), (0,)], seed=3)
    for options in ({"lr": 0.2, "max_iter": 6}, {**WOLFE, "max_iter": 6, "history_size": 3}):
        for dtype in REALS:
            run = Run(cyoptim.LBFGS, options, problem=problem, dtype=dtype).steps(2)
            name = f"{options}-{np.dtype(dtype)}"
            found[name] = digest([*run.points, run.end(), *run.state()["old_dirs"]])
    return found


@pytest.fixture(scope="module")
def expected_digests() -> dict[str, str]:
    with cyoptim.threads(1):
        return all_digests()


@pytest.mark.slow
@pytest.mark.parametrize("isa", _dispatch.LEVELS)
def test_same_bits_on_each_instruction_set(isa: str, expected_digests: dict[str, str]) -> None:
    use_isa(isa)
    assert all_digests() == expected_digests


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_same_bits_on_any_number_of_threads(threads: int, expected_digests: dict[str, str]) -> None:
    assert digests_on_threads("tests.algorithms.test_lbfgs_doors", threads) == expected_digests
