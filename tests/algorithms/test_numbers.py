"""Unusual numbers: a tiny eps, squares that are flushed to zero, NaN and infinity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.optimizers import cards
from tests.support.cards import DENSE, ELEMENT_WISE, TORCH, Card, Options, Quotient
from tests.support.doors import TensorDoor
from tests.support.parametrize import every_real, every_variant
from tests.support.runs import advance

Arrays = list[np.ndarray]


# --- tiny eps -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Divider:
    """An optimizer that divides by an average of squares, with some options."""

    card: Card
    options: Options

    def __str__(self) -> str:
        return "-".join([self.card.name, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def quotient(self) -> Quotient:
        assert self.card.quotient is not None
        return self.card.quotient

    def least(self, dtype: Any) -> float:
        return self.card.least_eps(self.options, dtype)

    def whole(self, dtype: Any) -> float:
        """A gradient from which on flushing takes less from its square than rounding does."""
        digits = 2.0 ** -np.finfo(dtype).nmant
        return 4 * float(np.sqrt(np.finfo(dtype).tiny / self.quotient.gain(self.options) / digits))

    def rate(self, number: int) -> float:
        """The learning rate of a step: none as long as it divides by nothing."""
        return 0.0 if number <= self.quotient.steps_before else 1.0

    def run(self, start: np.ndarray, grads: Arrays, eps: float) -> Arrays:
        """The parameters after each step."""
        w, found = start.copy(), []
        optimizer = self.card.cls([w], lr=1.0, eps=max(eps, self.quotient.least), **self.options)
        for number, g in enumerate(grads, 1):
            optimizer.param_groups[0]["lr"] = self.rate(number)
            optimizer.step(grads=[self.card.form(g.copy())])
            found.append(w.copy())
        return found

    def expected(self, start: np.ndarray, grads: Arrays, eps: float) -> Arrays:
        """The same by the reference, from gradients of ordinary size: a step does not depend on the
        unit of the gradients, if eps has it, too. That of Adadelta is in this unit itself."""
        eps = max(eps, self.least(grads[0].dtype))
        unit = 2.0 ** (600 if grads[0].dtype == np.float64 else 70)
        power = 1.0
        if self.quotient.steps_in_eps:
            power = unit = 2.0**400
            eps *= unit
        eps *= unit
        reference = self.card.reference(lr=1.0, eps=eps, **self.options)
        w, found = start.astype(np.float64), []
        for number, g in enumerate(grads, 1):
            reference.lr = self.rate(number)
            reference.step([w], [g.astype(np.float64) * unit])
            found.append(w / power)
        return found


DIVIDERS = [
    Divider(card, options)
    for card in cards(lambda card: card.quotient is not None)
    for options in card.quotient.variants
]
every_divider = pytest.mark.parametrize("divider", DIVIDERS, ids=str)
every_eps = pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-160, 1e-45, 1e-30])


def sizes(dtype: Any) -> np.ndarray:
    """From the smallest normal number to 1e-15, or to the square root of as much."""
    info = np.finfo(dtype)
    last = 1e-15 if dtype == np.float32 else 1e-145
    return np.geomspace(float(info.tiny) * 1.01, last, 150).astype(dtype)


def runs_of(magnitudes: np.ndarray) -> dict[str, Arrays]:
    """Gradients of 40 steps: constant, of random sign, first zero, and falling."""
    rng = np.random.default_rng(3)
    dtype, zero = magnitudes.dtype, np.zeros_like(magnitudes)
    tiny = np.finfo(dtype).tiny
    falling = [magnitudes * dtype.type(1e6 * 0.6**t) for t in range(40)]
    return {
        "constant": [magnitudes] * 40,
        "signs": [
            magnitudes * rng.choice([-1, 1], magnitudes.size).astype(dtype) for _ in range(40)
        ],
        "late": [zero] * 15 + [magnitudes] * 25,
        "falling": [np.where(g < tiny, 0, g).astype(dtype) for g in falling],
    }


@every_divider
@every_real
@every_eps
def test_flushing_never_blows_a_step_up(divider: Divider, dtype: Any, eps: float) -> None:
    magnitudes = sizes(dtype)
    start = np.zeros_like(magnitudes)
    for kind, grads in runs_of(magnitudes).items():
        found = [start, *divider.run(start, grads, eps)]
        expected = [start, *divider.expected(start, grads, eps)]
        assert np.isfinite(found).all(), kind
        # The largest step of all magnitudes, with nothing flushed.
        bound = np.abs(np.diff(expected, axis=0)).max()
        assert np.abs(np.diff(found, axis=0)).max() <= 1.02 * bound, kind


@every_divider
@every_real
@every_eps
def test_steps_of_what_is_not_flushed(divider: Divider, dtype: Any, eps: float) -> None:
    magnitudes = np.geomspace(1, 1e6, 50) * divider.whole(dtype)
    magnitudes = magnitudes.astype(dtype)
    start = np.zeros_like(magnitudes)
    # Of a constant gradient the variance is a difference of nearly equal numbers.
    tolerance = 1e-5 if dtype == np.float32 else 1e-13
    for kind, grads in runs_of(magnitudes).items():
        if kind == "falling":
            continue  # ends in what is flushed
        found = divider.run(start, grads, eps)
        expected = divider.expected(start, grads, eps)
        # Of where a parameter has been: it may come back to zero.
        scale = np.maximum.accumulate(np.abs(expected), axis=0)
        if not divider.quotient.steps_in_eps:
            scale = np.maximum(scale, 1)
        error = np.abs(np.array(found) - expected) / np.where(scale > 0, scale, 1)
        assert error.max() < tolerance, kind


@every_divider
@every_real
def test_an_eps_below_the_least_counts_as_the_least(divider: Divider, dtype: Any) -> None:
    magnitudes = sizes(dtype)
    start = np.zeros_like(magnitudes)
    grads = runs_of(magnitudes)["signs"]
    least = divider.least(dtype)
    expected = divider.run(start, grads, 0.0)[-1].tobytes()
    for eps in (least / 3, least * (1 - 1e-6)):
        assert divider.run(start, grads, eps)[-1].tobytes() == expected
    assert divider.run(start, grads, least * (1 + 1e-6))[-1].tobytes() != expected


@every_divider
@every_real
@pytest.mark.parametrize("eps", [0.0, 1e-300, 1e-8])
def test_a_gradient_of_zero_is_no_step(divider: Divider, dtype: Any, eps: float) -> None:
    # 0/0 in torch, if eps is 0.
    start = np.linspace(-2, 2, 37).astype(dtype)
    for zero in (dtype(0), dtype(-0.0), np.finfo(dtype).smallest_subnormal):
        found = divider.run(start, [np.full_like(start, zero)] * 3, eps)
        assert found[-1].tobytes() == start.tobytes()


@every_divider
@every_real
@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_eps_does_not_hide_what_is_not_finite(divider: Divider, dtype: Any, eps: float) -> None:
    start = np.zeros(20, dtype)
    grad = np.resize(np.array([np.nan, np.inf, -np.inf], dtype), 20)
    later = np.ones_like(grad)
    found = divider.run(start, [later, grad, *[later] * 7], eps)
    assert not np.isfinite(found[-1]).any()


@every_real
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_variance_is_not_negative_because_squares_are_flushed(
    dtype: Any, momentum: float
) -> None:
    # The square of the mean is above the smallest number, what the mean of squares gains is below.
    scale = float(np.sqrt(np.finfo(dtype).tiny))
    magnitudes = np.geomspace(scale / 100, scale * 100, 200).astype(dtype)
    w = np.zeros_like(magnitudes)
    optimizer = cyoptim.RMSprop([w], lr=1.0, centered=True, momentum=momentum)
    for _ in range(300):
        optimizer.step(grads=[magnitudes])
    # Beside eps = 1e-8 these gradients are nothing.
    bound = 1.01 * 300 * 100 * scale * 1e8 / (1 - momentum)
    assert np.abs(w).max() <= bound
    assert (w < 0).all()


@every_real
def test_averages_that_gain_nothing(dtype: Any) -> None:
    # Nothing that is gained can be flushed: eps is what it is.
    w = np.zeros(3, dtype)
    cyoptim.RMSprop([w], lr=1.0, alpha=1.0, eps=0.5).step(grads=[np.ones_like(w)])
    np.testing.assert_array_equal(w, -2)
    w = np.zeros(3, dtype)
    cyoptim.Adadelta([w], lr=1.0, rho=1.0, eps=0.25).step(grads=[np.ones_like(w)])
    np.testing.assert_array_equal(w, -1)


# --- NaN and infinity -----------------------------------------------------------------------------

SPECIAL = np.array([np.nan, np.inf, -np.inf])
PLACES = ("gradient", "parameter", "state")


def put(array: np.ndarray, grad: np.ndarray) -> None:
    """What is not finite into the first elements, and into the next, which have no gradient."""
    array[:6] = np.tile(SPECIAL, 2)
    grad[3:6] = 0


def never_plausible(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """What is finite is right; what is NaN or infinite may be the other of the two."""
    finite = np.isfinite(found)
    assert np.isfinite(expected[finite]).all(), (found, expected)
    np.testing.assert_allclose(found[finite], expected[finite], rtol=tolerance, atol=tolerance)
    # Elements that nothing was done to are finite.
    assert finite[6:].all()


def names_of_state(optimizer: Any, param: Any) -> list[str]:
    return [name for name, value in optimizer.state[param].items() if np.ndim(value)]


@every_variant(ELEMENT_WISE)
@every_real
@pytest.mark.parametrize("before", [1, 7])
@pytest.mark.parametrize("place", PLACES)
@np.errstate(all="ignore")
def test_what_is_not_finite_by_the_formula(
    card: Card, options: Options, dtype: Any, before: int, place: str
) -> None:
    start, *grads = np.random.default_rng(4).standard_normal((12, 30)).astype(dtype)
    names = [""]
    if place == "state":
        w = start.copy()
        optimizer = card.cls([w], **options)
        optimizer.step(grads=[card.form(grads[0])])
        names = names_of_state(optimizer, w)
    for name in names:
        w, r = start.copy(), start.astype(np.float64)
        optimizer, reference = card.cls([w], **options), card.reference_for(options, dtype)
        for number, g in enumerate(grads):
            g = g.copy()
            if number == before and place == "gradient":
                g[:3] = SPECIAL
            elif number == before:
                arrays = (w, r)
                if place == "state":
                    kept = getattr(reference, card.kept[name])
                    kept[0] = np.array(kept[0])
                    arrays = optimizer.state[w][name], kept[0]
                for array in arrays:
                    put(array, g)
            optimizer.step(grads=[card.form(g)])
            reference.step([r], [g.astype(np.float64)])
            never_plausible(w, r, 1e-3 if dtype == np.float32 else 1e-9)


# torch's SparseAdam adds a difference to an average, which is NaN if the average is infinite.
@every_variant(TORCH, ELEMENT_WISE, DENSE)
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("before", [1, 7])
def test_what_is_not_finite_as_in_torch(
    torch: Any, card: Card, options: Options, before: int, place: str
) -> None:
    start, *grads = np.random.default_rng(5).standard_normal((12, 30))
    names = card.states if place == "state" else ("",)
    door = TensorDoor()
    for name in names:
        w, theirs = cyoptim.Parameter(start.copy()), torch.from_numpy(start.copy()).requires_grad_()
        optimizer = card.cls([w], **options)
        other = card.torch_class(torch)([theirs], **card.only(foreach=False), **options)
        for number, g in enumerate(grads):
            if number == before and place == "gradient":
                g[:3] = SPECIAL
            elif number == before:
                pair: Any = w.data, theirs.detach().numpy()
                if place == "state":
                    pair = optimizer.state[w][name], other.state[theirs][name]
                    if not np.ndim(pair[0]):
                        break
                    pair = pair[0], pair[1].numpy()
                for array in pair:
                    put(array, g)
            advance(card, optimizer, [w], [g.copy()])
            advance(card, other, [theirs], [g], door)
            never_plausible(w.data, theirs.detach().numpy(), 1e-9)
            for kept in names_of_state(optimizer, w):
                never_plausible(optimizer.state[w][kept], other.state[theirs][kept].numpy(), 1e-9)


ORDERS = (0, 0.5, 1, 2, 3, -1, -2, np.inf, -np.inf)


@every_real
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("size", [1, 15, 17, 65, 16385])
@np.errstate(all="ignore")
def test_norms_of_what_is_not_finite(dtype: Any, order: float, size: int) -> None:
    # In each lane, in what is left over, and in another chunk.
    for value in (np.nan, np.inf, -np.inf, 0.0):
        for place in {0, size // 2, size - 1}:
            arrays = [np.random.default_rng(k).standard_normal(size).astype(dtype) for k in (1, 2)]
            arrays[1][place] = value
            both = np.concatenate(arrays).astype(np.float64)
            found = float(cyoptim.get_total_norm(arrays, order))
            np.testing.assert_allclose(found, np.linalg.norm(both, order), rtol=1e-6)


@every_real
def test_clipping_of_what_is_not_finite(dtype: Any) -> None:
    g = np.resize(np.array([np.nan, np.inf, -np.inf, 3, -3, 0.5], dtype), 40)
    w = cyoptim.Parameter(np.zeros_like(g))
    w.grad = g.copy()
    cyoptim.clip_grad_value_([w], 1.0)
    np.testing.assert_array_equal(w.grad, np.clip(g, -1, 1))
    cyoptim.clip_grad_value_([w], np.inf)
    np.testing.assert_array_equal(w.grad, np.clip(g, -1, 1))
    cyoptim.clip_grad_value_([w], np.nan)
    assert np.isnan(w.grad).all()
    for limit, order in ((np.nan, 2.0), (1.0, np.nan)):
        w.grad = np.ones_like(g)
        cyoptim.clip_grad_norm_([w], limit, order)
        assert np.isnan(w.grad).all()
    for value, others in ((np.nan, np.nan), (np.inf, 0)):  # as in torch: 1 / inf is nothing
        w.grad = np.ones_like(g)
        w.grad[7] = value
        cyoptim.clip_grad_norm_([w], 1.0)
        assert np.isnan(w.grad[7])
        np.testing.assert_array_equal(np.delete(w.grad, 7), others)
