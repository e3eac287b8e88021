"""Any writable layout: C and Fortran order, permuted, strided, reversed, unaligned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim._engine import is_dense
from tests.optimizers import cards
from tests.support.cards import DENSE, ELEMENT_WISE, Card
from tests.support.doors import trajectory_inputs
from tests.support.dtypes import REALS
from tests.support.parametrize import every_card, every_real
from tests.support.runs import advance, run

SHAPE = (6, 5, 4)


def c_order(a: np.ndarray) -> np.ndarray:
    return a.copy()


def f_order(a: np.ndarray) -> np.ndarray:
    return np.asfortranarray(a)


def permuted(a: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(a.transpose(1, 2, 0)).transpose(2, 0, 1)


def strided(a: np.ndarray) -> np.ndarray:
    base = np.full([2 * n for n in a.shape], 7, a.dtype)
    view = base[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def reversed_(a: np.ndarray) -> np.ndarray:
    view = np.ascontiguousarray(np.flip(a))
    return np.flip(view)


def unaligned(a: np.ndarray) -> np.ndarray:
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def column(a: np.ndarray) -> np.ndarray:
    base = np.zeros((*a.shape, 3), a.dtype)
    base[..., 1] = a
    return base[..., 1]


LAYOUTS = {
    f.__name__: f for f in (c_order, f_order, permuted, strided, reversed_, unaligned, column)
}
DENSE_LAYOUTS = ("c_order", "f_order", "permuted")


@pytest.mark.parametrize("grad_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@every_real
def test_same_result_in_any_layout(layout: str, grad_layout: str, dtype: Any) -> None:
    rng = np.random.default_rng(11)
    start = rng.standard_normal(SHAPE).astype(dtype)
    grads = [rng.standard_normal(SHAPE).astype(dtype) for _ in range(3)]
    plain = start.copy()
    optimizer = cyoptim.Adam([plain], lr=0.1)
    for g in grads:
        optimizer.step(grads=[g])

    param = LAYOUTS[layout](start)
    optimizer = cyoptim.Adam([param], lr=0.1)
    for g in grads:
        grad = LAYOUTS[grad_layout](g)
        optimizer.step(grads=[grad])
        np.testing.assert_array_equal(grad, g)
    np.testing.assert_array_equal(param, plain)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_single_unaligned_element_is_not_dense(shape: tuple[int, ...]) -> None:
    assert not is_dense(unaligned(np.ones(shape)))
    assert is_dense(np.ones(shape))


def test_gaps_between_strided_elements_are_left_alone() -> None:
    base = np.arange(20, dtype=np.float32)
    optimizer = cyoptim.SGD([base[::2]], lr=1.0)
    optimizer.step(grads=[np.ones(10, np.float32)])
    np.testing.assert_array_equal(base[1::2], np.arange(1, 20, 2))
    np.testing.assert_array_equal(base[::2], np.arange(0, 20, 2) - 1)


@pytest.mark.parametrize("layout", DENSE_LAYOUTS)
def test_state_has_the_parameters_layout(layout: str) -> None:
    param = LAYOUTS[layout](np.zeros(SHAPE))
    optimizer = cyoptim.Adam([param])
    optimizer.step(grads=[np.ones(SHAPE)])
    assert optimizer.state[param]["exp_avg"].strides == param.strides


@pytest.mark.thread_unsafe(reason="tracemalloc counts all threads")
@pytest.mark.parametrize("layout", DENSE_LAYOUTS)
def test_dense_layouts_are_updated_without_a_copy(layout: str) -> None:
    # Big enough for a copy to show: nothing of the parameter's size may be allocated in a step.
    import tracemalloc

    param = LAYOUTS[layout](np.zeros((60, 50, 40)))
    grad = LAYOUTS[layout](np.ones((60, 50, 40)))
    optimizer = cyoptim.Adam([param])
    optimizer.step(grads=[grad])
    tracemalloc.start()
    optimizer.step(grads=[grad])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < param.nbytes / 10


shapes = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    shape=shapes,
    data=st.data(),
    card=st.sampled_from(cards(ELEMENT_WISE, DENSE)),
    dtype=st.sampled_from(REALS),
)
def test_any_view_of_any_shape(shape: tuple[int, ...], data: Any, card: Card, dtype: Any) -> None:
    def draw_view(values: np.ndarray) -> np.ndarray:
        axes = data.draw(st.permutations(range(len(shape))))
        steps = [data.draw(st.sampled_from([1, 2, -1, -3])) for _ in shape]
        base = np.zeros([abs(s) * n for s, n in zip(steps, shape, strict=True)], dtype)
        base = (
            base.transpose(axes)
            .copy(order="C")
            .transpose([axes.index(k) for k in range(len(shape))])
        )
        view = base[(..., *(slice(None, None, s) for s in steps))]
        view[...] = values
        return view

    rng = np.random.default_rng(12)
    start = np.asarray(rng.standard_normal(shape), dtype)
    grads = [np.asarray(rng.standard_normal(shape), dtype) for _ in range(2)]
    plain = start.copy()
    expected = card.cls([plain])
    param = draw_view(start)
    optimizer = card.cls([param])
    for g in grads:
        expected.step(grads=[g])
        optimizer.step(grads=[draw_view(g)])
    np.testing.assert_array_equal(param, plain)


@pytest.mark.parametrize("layout", ["F", "gaps", "reversed", "unaligned"])
@every_card(~ELEMENT_WISE)
def test_where_elements_are_joined_to_rounding(card: Card, layout: str) -> None:
    # What sums them may add in another order.
    start, grads = trajectory_inputs([(6, 8)], np.float64, card.steps(5), seed=4, missing=0)
    options = card.variants[0]
    expected = run(card, options, start, grads)
    lay_out = {
        "F": np.asfortranarray,
        "gaps": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        "reversed": lambda a: a[::-1].copy()[::-1],
        "unaligned": unaligned,
    }[layout]
    param = cyoptim.Parameter(lay_out(start[0].copy()))
    optimizer = card.cls([param], **options)
    for step in grads:
        advance(card, optimizer, [param], [lay_out(step[0])])
    np.testing.assert_allclose(param.data, expected[0], rtol=1e-12)


# --- gradients that share memory with parameters --------------------------------------------------


def test_gradient_that_is_the_parameter_itself() -> None:
    w = np.array([1.0, -2.0, 3.0])
    cyoptim.SGD([w], lr=0.5).step(grads=[w])
    np.testing.assert_array_equal(w, [0.5, -1.0, 1.5])


def test_gradient_that_is_another_parameter() -> None:
    # min over x, max over y of x * y: each one's gradient is the other, before the step.
    x, y = np.full(50_000, 2.0), np.full(50_000, 3.0)
    optimizer = cyoptim.SGD([{"params": [x]}, {"params": [y], "maximize": True}], lr=0.1)
    optimizer.step(grads=[y, x])
    np.testing.assert_allclose(x, 2 - 0.1 * 3)
    np.testing.assert_allclose(y, 3 + 0.1 * 2)


def test_gradient_that_overlaps_its_parameter() -> None:
    base = np.arange(40_001, dtype=np.float64)
    before = base.copy()
    cyoptim.SGD([base[1:]], lr=1.0).step(grads=[base[:-1]])
    np.testing.assert_array_equal(base[1:], before[1:] - before[:-1])


def test_one_gradient_for_two_parameters() -> None:
    a, b, g = np.zeros(3), np.zeros(3), np.ones(3)
    cyoptim.SGD([a, b], lr=1.0).step(grads=[g, g])
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(g, np.ones(3))


# --- arrays that other code resizes while a step is being prepared ----------------------------------

MANY = 100_000  # elements: such memory goes back to the system, where what still reads it dies


class Resizing:
    """A parameter whose ``.grad`` once resizes another array, as code of a library might."""

    def __init__(self, grad: np.ndarray, other: np.ndarray | None = None) -> None:
        self.data, self.other, self._grad = np.zeros_like(grad), other, grad

    @property
    def grad(self) -> np.ndarray:
        if self.other is not None:
            self.other.resize(8 * MANY, refcheck=False)
            self.other = None
        return self._grad


@pytest.mark.parametrize("cls", [cyoptim.SGD, cyoptim.Adafactor])
@pytest.mark.parametrize("options", [
    {},
    {"max_norm": 1.0},
    {"nonfinite": "raise"},
    {"nonfinite": "skip", "zero_grad": True},
])  # fmt: skip
def test_gradient_that_is_resized_by_another(cls: Any, options: dict[str, Any]) -> None:
    grad = np.ones(MANY, np.float32)
    first, second = Resizing(grad), Resizing(np.ones(5, np.float32))
    optimizer = cls([first, second], lr=0.1)
    optimizer.step(**options)
    before = first.data.copy()
    grad[:] = np.nan if "nonfinite" in options else 1
    second.other = grad
    with pytest.raises(RuntimeError, match=r"parameter 0 .* was changed in size or place"):
        optimizer.step(**options)
    np.testing.assert_array_equal(first.data, before)


class Number:
    """A number that, when it is asked for, resizes an array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __float__(self) -> float:
        self.array.resize(8 * MANY, refcheck=False)
        return 1.0


def test_state_that_is_resized_by_an_option() -> None:
    w, buffer = cyoptim.Parameter(np.zeros(MANY, np.float32)), np.zeros(MANY, np.float32)
    w.grad = np.ones(MANY, np.float32)
    optimizer = cyoptim.SGD([w], lr=1.0, momentum=0.5)
    optimizer.state[w]["momentum_buffer"] = buffer
    optimizer.step()
    before = w.data.copy()
    optimizer.param_groups[0]["lr"] = Number(buffer)
    with pytest.raises(RuntimeError, match="state was changed in size or place"):
        optimizer.step()
    np.testing.assert_array_equal(w.data, before)


@pytest.mark.parametrize("late", [False, True])
def test_state_that_is_resized_by_another(late: bool) -> None:
    # Where the second gradient is late, the first parameter's state has been in use before.
    params = [cyoptim.Parameter(np.zeros(MANY, np.float32)) for _ in range(2)]
    average = np.zeros(MANY, np.float32)
    optimizer = cyoptim.NAdam(params, lr=0.1)
    optimizer.state[params[0]]["exp_avg"] = average
    optimizer.state[params[1]]["mu_product"] = Number(average)
    params[0].grad = np.ones(MANY, np.float32)
    if late:
        optimizer.step()
    before = params[0].data.copy()
    params[1].grad = np.ones(MANY, np.float32)
    with pytest.raises(RuntimeError, match="state was changed in size or place"):
        optimizer.step()
    np.testing.assert_array_equal(params[0].data, before)
