"""clip_grad_norm_ and clip_grad_value_ over all front doors."""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import _cpu, _dispatch
from tests.support.doors import Box, trajectory_inputs
from tests.support.parametrize import every_real

SHAPES: list[tuple[int, ...]] = [(3, 4), (), (0,), (17,), (40, 500)]
ORDERS = [2.0, 1.0, math.inf, 3.0, 0.5, 2, "inf"]


def gradients(dtype: Any, seed: int = 0, order: Any = 2) -> list[np.ndarray]:
    # torch has no infinity norm of an empty tensor; ours is 0.
    shapes = [s for s in SHAPES if 0 not in s] if math.isinf(float(order)) else SHAPES
    return [g for g in trajectory_inputs(shapes, dtype, 1, seed, missing=0)[1][0] if g is not None]


def boxed(make: Any, grads: list[np.ndarray]) -> list[Any]:
    params = [make(np.zeros_like(g)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    return params


@pytest.mark.parametrize("order", ORDERS)
@every_real
@pytest.mark.parametrize("door", ["parameter", "object", "array", "tensor"])
def test_norm_equals_torchs(torch: Any, door: str, dtype: Any, order: Any) -> None:
    grads = gradients(dtype, order=order)
    theirs = [torch.zeros(g.shape, dtype=torch.from_numpy(g).dtype) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    expected = torch.nn.utils.clip_grad_norm_(theirs, 0.7, order)

    ours = [g.copy() for g in grads]
    if door == "array":
        total = cyoptim.clip_grad_norm_([np.zeros_like(g) for g in ours], 0.7, order, grads=ours)
    elif door == "tensor":
        tensors = [torch.zeros(g.shape, dtype=torch.from_numpy(g).dtype) for g in ours]
        for p, g in zip(tensors, ours, strict=True):
            p.grad = torch.from_numpy(g)
        total = cyoptim.clip_grad_norm_(iter(tensors), 0.7, order)
        assert isinstance(total, torch.Tensor)
        assert total.shape == ()
    else:
        make = cyoptim.Parameter if door == "parameter" else Box
        total = cyoptim.clip_grad_norm_(boxed(make, ours), 0.7, order)
    # torch sums float32 in float32, in its own order: 20,000 terms leave it some 1e-5.
    rtol = 1e-4 if dtype == np.float32 else 1e-12
    assert str(total.dtype).endswith(np.dtype(dtype).name)
    np.testing.assert_allclose(float(total), float(expected), rtol=rtol)
    for g, p in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=rtol)


@pytest.mark.parametrize("order", [2.0, 1.0, math.inf, -math.inf, 0.0, 3.0, -1.0])
@every_real
def test_norm_is_that_of_one_vector(dtype: Any, order: float) -> None:
    grads = gradients(dtype)
    grads[0][0, 0] = 0 if order >= 0 else 1
    flat = np.concatenate([g.ravel() for g in grads]).astype(np.float64)
    total = cyoptim.clip_grad_norm_(boxed(cyoptim.Parameter, grads), 1e9, order)
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    np.testing.assert_allclose(float(total), np.linalg.norm(flat, order), rtol=rtol)


def test_small_norms_are_left_alone() -> None:
    grads = gradients(np.float64)
    before = [g.copy() for g in grads]
    cyoptim.clip_grad_norm_(boxed(cyoptim.Parameter, grads), 1e6)
    for g, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(g, b)


@pytest.mark.slow
def test_many_float32_values_lose_nothing() -> None:
    # In float32 this sum would stop growing at 2**24.
    g = np.full(2**24 + 2**22, 1.0, np.float32)
    total = cyoptim.clip_grad_norm_([np.zeros(1)], 1e9, 1.0, grads=[g])
    assert float(total) == len(g)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("order", [2.0, 1.0, math.inf, 3.0])
def test_nonfinite(torch: Any, bad: float, order: float) -> None:
    def make() -> list[np.ndarray]:
        grads = gradients(np.float64, order=order)
        grads[-1][5] = bad
        return grads

    grads = make()
    with pytest.raises(
        RuntimeError,
        match=f"The total norm of order {order} for gradients from `parameters` is non-finite",
    ):
        cyoptim.clip_grad_norm_(
            boxed(cyoptim.Parameter, grads), 1.0, order, error_if_nonfinite=True
        )
    for g, b in zip(grads, make(), strict=True):
        np.testing.assert_array_equal(g, b)

    theirs = [torch.zeros(g.shape, dtype=torch.float64) for g in grads]
    for p, g in zip(theirs, make(), strict=True):
        p.grad = torch.from_numpy(g)
    expected = torch.nn.utils.clip_grad_norm_(theirs, 1.0, order)
    total = cyoptim.clip_grad_norm_(boxed(cyoptim.Parameter, grads), 1.0, order)
    np.testing.assert_array_equal(float(total), float(expected))
    for g, p in zip(grads, theirs, strict=True):
        np.testing.assert_array_equal(g, p.grad.numpy())


@every_real
def test_value(torch: Any, dtype: Any) -> None:
    grads = gradients(dtype)
    grads[3][:3] = [np.nan, np.inf, -np.inf]
    theirs = torch.zeros(17)
    theirs = theirs.to(torch.from_numpy(grads[3]).dtype)
    theirs.grad = torch.from_numpy(grads[3].copy())
    torch.nn.utils.clip_grad_value_(theirs, 0.5)
    expected = [np.clip(g, -0.5, 0.5) for g in grads]
    assert cyoptim.clip_grad_value_(boxed(cyoptim.Parameter, grads), 0.5) is None
    for g, e in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(g, e)
    np.testing.assert_array_equal(grads[3], theirs.grad.numpy())


def test_layouts_and_missing_gradients() -> None:
    base = np.full((4, 6), 2.0)
    p, q = cyoptim.Parameter(np.zeros((2, 3))), cyoptim.Parameter(np.zeros(2))
    p.grad = base[::2, ::2]
    total = cyoptim.clip_grad_norm_([p, q], 1.0)
    np.testing.assert_allclose(float(total), np.sqrt(24))
    np.testing.assert_allclose(base[::2, ::2], 2 / np.sqrt(24), rtol=1e-6)
    assert (base[1::2] == 2.0).all()


def test_single_parameter_and_empty() -> None:
    p = cyoptim.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    assert float(cyoptim.clip_grad_norm_(p, 1.0)) == 5.0
    assert float(cyoptim.clip_grad_norm_([], 1.0)) == 0.0
    assert float(cyoptim.clip_grad_norm_([cyoptim.Parameter(np.zeros(2))], 1.0)) == 0.0
    with pytest.warns(UserWarning, match="empty generator") as record:
        cyoptim.clip_grad_norm_((x for x in ()), 1.0)
    assert record[0].filename == __file__


USED_UP: dict[str, Any] = {
    "filter": lambda items: filter(lambda item: True, items),
    "map": lambda items: map(lambda item: item, items),
    "itertools.chain": lambda items: itertools.chain(items),
    "itertools.islice": lambda items: itertools.islice(items, 5),
    "list_iterator": iter,
    "dict_valueiterator": lambda items: iter(dict(enumerate(items)).values()),
    "zip": lambda items: zip("abc", items, strict=False),
}


@pytest.mark.parametrize("kind", USED_UP)
def test_an_iterator_that_is_used_up_is_told(kind: str) -> None:
    w = cyoptim.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    for call, argument in (
        (lambda it: cyoptim.clip_grad_norm_(it, 1.0), "parameters"),
        (lambda it: cyoptim.clip_grad_value_(it, 1.0), "parameters"),
        (lambda it: cyoptim.clip_grads_with_norm_(it, 1.0, 5.0), "parameters"),
        (cyoptim.get_total_norm, "tensors"),
    ):
        iterator = USED_UP[kind]([w])
        list(iterator)
        with pytest.warns(UserWarning, match=f"`{argument}` is an empty {kind}") as record:
            call(iterator)
        assert record[0].filename == __file__
    assert w.grad.tolist() == [3.0, 4.0]
    if kind != "zip":
        assert float(cyoptim.get_total_norm(USED_UP[kind]([w.grad]))) == 5.0
    assert float(cyoptim.clip_grad_norm_(USED_UP[kind]([w]), 1.0)) == 5.0
    assert abs(w.grad[0] - 0.6) < 1e-6


def test_what_is_empty_and_no_iterator_is_not_told() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for empty in ([], (), {}, {}.values(), cyoptim.Adam([np.zeros(1)]).state.values()):
            assert float(cyoptim.clip_grad_norm_(empty, 1.0)) == 0.0
        assert float(cyoptim.get_total_norm([])) == 0.0


def test_a_group_of_an_iterator_that_is_used_up_is_told() -> None:
    used = filter(None, [])
    message = "'params' of param group 1 is an empty filter: has it been used up before"
    with pytest.warns(UserWarning, match=message):
        cyoptim.SGD([{"params": [np.zeros(1)]}, {"params": used}])
    optimizer = cyoptim.SGD([np.zeros(1)])
    with pytest.warns(UserWarning, match=message):
        optimizer.add_param_group({"params": used})
    for call in (
        cyoptim.SGD,
        cyoptim.param_groups,
        cyoptim.parameters_to_vector,
        lambda it: cyoptim.vector_to_parameters(np.zeros(0), it),
    ):
        with pytest.raises(ValueError, match=r"empty|no parameters|at least one parameter"):
            call(used)


@pytest.mark.parametrize("make", [np.float32, np.array, lambda v: np.array([v]), np.int64])
def test_numbers_of_numpy(make: Any) -> None:
    for call in (
        lambda w: cyoptim.clip_grad_norm_(w, make(1), make(2)),
        lambda w: cyoptim.clip_grads_with_norm_(w, make(1), make(5)),
    ):
        w = cyoptim.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
        call(w)
        np.testing.assert_allclose(w.grad, [0.6, 0.8], rtol=1e-6)
    w = cyoptim.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    cyoptim.clip_grad_value_(w, make(1))
    assert w.grad.tolist() == [1.0, 1.0]
    assert float(cyoptim.get_total_norm([np.array([3.0, 4.0])], make(1))) == 7.0


def test_limits_that_would_turn_gradients_round() -> None:
    # torch multiplies the gradients by a negative number.
    w = cyoptim.Parameter(np.zeros(2), grad=np.array([3.0, 4.0]))
    for call, name in (
        (lambda: cyoptim.clip_grad_norm_(w, -1.0), "max_norm"),
        (lambda: cyoptim.clip_grad_value_(w, -1.0), "clip_value"),
        (lambda: cyoptim.clip_grads_with_norm_(w, -1.0, 5.0), "max_norm"),
        (lambda: cyoptim.clip_grads_with_norm_(w, 1.0, -5.0), "total_norm"),
    ):
        with pytest.raises(ValueError, match=rf"{name} is -\d.0, expected a number >= 0"):
            call()
    assert w.grad.tolist() == [3.0, 4.0]
    cyoptim.clip_grad_norm_(w, 0)
    assert w.grad.tolist() == [0.0, 0.0]


def test_shared_gradient_is_scaled_once() -> None:
    g = np.array([3.0, 4.0])
    cyoptim.clip_grad_norm_([np.zeros(2), np.zeros(2)], 1.0, grads=[g, g])
    np.testing.assert_allclose(g, np.array([3.0, 4.0]) / np.sqrt(50), rtol=1e-6)


READ_ONLY = np.ones(2)
READ_ONLY.flags.writeable = False


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        (
            ([np.zeros(2)], 1.0),
            {},
            ValueError,
            "parameter 0 is a plain array and has no gradient of its own",
        ),
        (([np.zeros(2)], 1.0), {"grads": []}, ValueError, "grads holds 0 gradients, expected 1"),
        (
            ([np.zeros(2)], 1.0),
            {"grads": np.zeros(2)},
            TypeError,
            "grads must be a list or dict of gradients",
        ),
        (([np.zeros(2)], 1.0), {"grads": [[1.0]]}, TypeError, "gradient of parameter 0 is a list"),
        (
            ([np.zeros(2)], 1.0),
            {"grads": [np.zeros(2, int)]},
            TypeError,
            "gradient of parameter 0 has dtype int64",
        ),
        (
            ([np.zeros(2)], 1.0),
            {"grads": [READ_ONLY]},
            ValueError,
            "gradient of parameter 0 is read-only",
        ),
        (
            ([np.zeros(2)], "much"),
            {"grads": [np.ones(2)]},
            TypeError,
            "must be a number, got 'much'",
        ),
        (([1.0], 1.0), {}, TypeError, "parameter 0 is a float, expected an array"),
        (
            (1.0, 1.0),
            {},
            TypeError,
            "parameters must be a parameter or an iterable of them, got float",
        ),
    ],
)
@pytest.mark.parametrize("function", [cyoptim.clip_grad_norm_, cyoptim.clip_grad_value_])
def test_bad_arguments(function: Any, args: Any, kwargs: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        function(*args, **kwargs)


@pytest.mark.parametrize("order", [2.0, 1.0, math.inf, -math.inf, 0.0, 3.0])
@every_real
def test_same_bits_on_each_instruction_set_and_number_of_threads(dtype: Any, order: float) -> None:
    grads = [np.random.default_rng(3).standard_normal(200_003).astype(dtype) for _ in range(3)]

    def norm() -> bytes:
        params = [np.zeros(1)] * len(grads)
        return cyoptim.clip_grad_norm_(params, 1e9, order, grads=grads).tobytes()

    expected = norm()
    for name in _dispatch.LEVELS[: _cpu.level() + 1]:
        _dispatch.use(name)
        for threads in (1, 2):
            with cyoptim.threads(threads):
                assert norm() == expected, (name, threads)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=0, max_size=70
    ),
    order=st.sampled_from([2.0, 1.0, math.inf, 0.0]),
)
def test_any_values(values: list[float], order: float) -> None:
    g = np.array(values, np.float32)
    # Denormals count as zero in our kernels.
    exact = np.where(np.abs(g) < np.finfo(np.float32).tiny, 0, g).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = np.float32(np.linalg.norm(exact, order) if len(g) else 0.0)
    total = cyoptim.clip_grad_norm_([np.zeros(1)], math.inf, order, grads=[g.copy()])
    np.testing.assert_allclose(float(total), float(expected), rtol=2e-7)


@pytest.mark.parametrize("order", [2.0, 1.0, math.inf])
def test_norm_and_scaling_apart(torch: Any, order: float) -> None:
    grads = gradients(np.float64, order=order)
    theirs = [torch.zeros(g.shape, dtype=torch.float64) for g in grads]
    for p, g in zip(theirs, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    expected = torch.nn.utils.get_total_norm([p.grad for p in theirs], order)
    torch.nn.utils.clip_grads_with_norm_(theirs, 0.7, expected)
    total = cyoptim.get_total_norm(grads, order)
    np.testing.assert_allclose(float(total), float(expected), rtol=1e-12)
    tensors = cyoptim.get_total_norm(iter([torch.from_numpy(g) for g in grads]), order)
    assert isinstance(tensors, torch.Tensor)
    assert cyoptim.clip_grads_with_norm_(boxed(cyoptim.Parameter, grads), 0.7, total) is None
    for g, p in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-12)


def test_total_norm_of_what_may_not_be_written() -> None:
    assert float(cyoptim.get_total_norm(READ_ONLY)) == np.sqrt(2)
    assert float(cyoptim.get_total_norm([])) == 0.0
    with pytest.raises(RuntimeError, match="non-finite"):
        cyoptim.get_total_norm(np.array([math.nan]), error_if_nonfinite=True)
    with pytest.raises(TypeError, match="gradient of parameter 0 is a float"):
        cyoptim.get_total_norm([[1.0]])


def test_vectors() -> None:
    W, b = np.arange(6.0).reshape(2, 3), cyoptim.Parameter(np.array([6.0]))
    vector = cyoptim.parameters_to_vector([W.T, b])
    np.testing.assert_array_equal(vector, [0, 3, 1, 4, 2, 5, 6])
    cyoptim.vector_to_parameters(2 * vector, [W.T, b])
    np.testing.assert_array_equal(W, 2 * np.arange(6.0).reshape(2, 3))
    assert b.data[0] == 12
    with pytest.raises(ValueError, match=r"vec has shape \(6,\), expected \(7,\)"):
        cyoptim.vector_to_parameters(np.zeros(6), [W, b])
    with pytest.raises(TypeError, match="expected torch.Tensor or numpy.ndarray, but got: list"):
        cyoptim.vector_to_parameters([1.0], [b])
    with pytest.raises(ValueError, match="at least one parameter"):
        cyoptim.parameters_to_vector([])


def test_vectors_of_tensors(torch: Any) -> None:
    net = torch.nn.Linear(3, 2)
    vector = cyoptim.parameters_to_vector(net.parameters())
    torch.testing.assert_close(
        vector, torch.nn.utils.parameters_to_vector(net.parameters()).detach()
    )
    cyoptim.vector_to_parameters(vector * 2, net.parameters())
    torch.testing.assert_close(
        torch.nn.utils.parameters_to_vector(net.parameters()).detach(), vector * 2
    )


def test_error_says_which_gradients_are_not_finite() -> None:
    grads = [np.ones(3), None, np.array([1.0, np.nan, np.inf]), np.array([[np.inf]])]
    with pytest.raises(
        RuntimeError, match="by the number of the gradient: 2 has 2 of 3, 3 has 1 of 1\\)"
    ):
        cyoptim.clip_grad_norm_([np.ones(3)] * 4, 1.0, error_if_nonfinite=True, grads=grads)
    with pytest.raises(RuntimeError, match="all elements are finite: their norm is too large"):
        cyoptim.get_total_norm([np.full(3, 1e300)], error_if_nonfinite=True)


def test_error_names_the_first_five_gradients() -> None:
    with pytest.raises(RuntimeError, match=r": 0 has 1 of 1, .*, 4 has 1 of 1, \.\.\.\)$"):
        cyoptim.get_total_norm([np.array([np.nan])] * 6, error_if_nonfinite=True)


def test_gradients_that_begin_at_the_same_address() -> None:
    base = np.arange(1.0, 7.0)
    for views in ((base[:3], base[::2]), (base[:2], base)):  # of one shape, or of one stride
        expected = np.linalg.norm(np.concatenate(views))
        assert cyoptim.get_total_norm(views) == pytest.approx(expected, rel=1e-15)


def test_the_norm_has_the_widest_precision_of_the_gradients() -> None:
    grads = [np.ones(2, np.float32), np.ones(2)]
    for order in (grads, grads[::-1]):
        assert cyoptim.get_total_norm(order).dtype == np.float64


def test_a_norm_beyond_its_precision_is_infinite_without_a_warning() -> None:
    grad = np.full(4, 3e38, np.float32)
    assert cyoptim.get_total_norm(grad) == np.inf
    assert cyoptim.clip_grad_norm_([np.zeros(4)], 6e30, grads=[grad]) == np.inf
    np.testing.assert_allclose(grad, 3e30, rtol=1e-6)  # scaled by what the norm is in double


def test_a_norm_that_is_not_finite_is_not_hidden() -> None:
    # As in torch: NaN spreads to all, infinity takes what is finite to zero.
    for bad, rest in ((np.nan, np.nan), (np.inf, 0.0)):
        grads = [np.array([1.0, bad]), np.ones(2)]
        cyoptim.clip_grad_norm_([np.ones(2)] * 2, 1.0, grads=grads)
        np.testing.assert_array_equal(grads[1], [rest, rest])
        assert np.isnan(grads[0][1])


def test_gradients_by_name() -> None:
    params = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    grads = {"b": np.array([3.0]), "a": np.array([4.0])}
    assert cyoptim.clip_grad_norm_(params.values(), 1.0, grads=grads) == 5
    np.testing.assert_allclose(grads["b"], [0.6], rtol=1e-6)
    with pytest.raises(ValueError, match="grads holds 2 gradients, expected 1 at most"):
        cyoptim.clip_grad_norm_([np.zeros(1)], 1.0, grads=grads)
