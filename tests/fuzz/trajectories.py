"""Random layouts and options of the element-wise optimizers, against the float64 references.

(a) A case is made from its number alone. Every array lies in a larger buffer filled with a pattern: what
    is around and between its elements is compared byte for byte after each step.
(b) Errors are relative to the largest value that an element has had, or step that it has made, and at
    least to 1: a parameter that comes back to zero keeps the rounding of where it was.
(c) A step rounds some ten times, and betas and gains are rounded once to the arrays' type: a few units
    of the last place a step, multiplied where a difference of nearly equal numbers is taken (the variance
    of centered RMSprop: 64 times at most, for the decay rates and numbers of steps here). In float64
    that is below 1e-12; in float32 below the 3e-5 that is promised of 60 steps.
(d) What is left where a gradient nearly cancels a penalty may be divided by as little: then rounding is all
    that the step is made of. Options with which this is usual, a divisor that forgets at once, are not
    drawn; and a case that fails is repeated with a second reference, whose gradients and parameters are
    a few units of the last place off: what it differs by is allowed for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import cyoptim
from cyoptim import _dispatch, _engine
from tests.optimizers import cards
from tests.support.cards import COMPLEX, DENSE, ELEMENT_WISE, MODES, Card
from tests.support.doors import Box
from tests.support.draws import Options, Rng, chance, pick, power
from tests.support.dtypes import reach_tolerance, real_size

NAME = "trajectories"
LONG = 50_000

GUARD = 64  # bytes before and after
CANARY = 0xA5
# What the gradients of the second reference are off by, by the size of a real.
NUDGES = {4: 2.0**-21, 8: 2.0**-50}
ALLOWANCE = 4  # for what it differs by


DRAWN = {card.name: card for card in cards(ELEMENT_WISE, DENSE, ~MODES)}
# Cases that once failed keep their optimizer, whichever come later.
KEPT = {83: "RAdam", 49544: "RMSprop"}
SEEDS: tuple[int, ...] = tuple(KEPT)


def options_for(rng: Rng, card: Card) -> Options:
    lr = float(pick(rng, power(rng, -4, -0.5), 0.1, 0.0 if chance(rng, 0.2) else 0.01))
    common = {"lr": lr, **card.only(maximize=chance(rng, 0.3))}
    return {**common, **(card.draw(rng) if card.draw else pick(rng, *card.variants))}


def reference_for(card: Card, options: Options, dtype: Any) -> Any:
    """A reference of one parameter, with the eps that these options stand for."""
    options = dict(options)
    if card.quotient is not None:
        real = np.finfo(dtype).dtype
        options["eps"] = max(
            options.get("eps", card.options.get("eps", 0.0)), card.least_eps(options, real)
        )
    return card.reference_for(options, dtype)


# --- arrays in a pattern --------------------------------------------------------------------------


@dataclass
class Placed:
    """An array within a larger buffer."""

    buffer: np.ndarray
    view: np.ndarray
    inside: np.ndarray  # whether a byte of the buffer belongs to an element

    def surroundings_untouched(self) -> bool:
        return bool((self.buffer[~self.inside] == CANARY).all())


@dataclass(frozen=True)
class Layout:
    offset: int
    strides: tuple[int, ...]
    total: int  # bytes

    def over(self, buffer: np.ndarray, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.ndarray(shape, dtype, buffer, self.offset, self.strides)


def any_layout(rng: Rng, shape: tuple[int, ...], itemsize: int) -> Layout:
    """C or Fortran order, permuted, with gaps, backwards, at odd bytes."""
    plain = chance(rng, 0.35)
    axes = [*range(len(shape))]
    if not plain and chance(rng, 0.5):
        axes = [int(k) for k in rng.permutation(len(shape))]
    gaps, odd = not plain and chance(rng, 0.5), not plain and chance(rng, 0.25)
    strides, span = [0] * len(shape), itemsize
    start = GUARD + (int(rng.integers(1, itemsize)) if odd else 0)
    for axis in reversed(axes):
        step = int(pick(rng, 1, 1, 2, -1, -3)) if gaps else 1
        stride = span * abs(step) + (int(rng.integers(3)) if odd and span > itemsize else 0)
        strides[axis] = stride if step > 0 else -stride
        if step < 0:
            start += stride * max(shape[axis] - 1, 0)
        span = stride * max(shape[axis], 1)
    return Layout(start, tuple(strides), span + 2 * GUARD + itemsize)


def place(rng: Rng, values: np.ndarray) -> Placed:
    layout = any_layout(rng, values.shape, values.itemsize)
    buffer = np.full(layout.total, CANARY, np.uint8)
    view = layout.over(buffer, values.shape, values.dtype)
    view[...] = values
    inside = np.zeros(layout.total, np.uint8)
    whole = f"V{values.itemsize}"
    layout.over(inside, values.shape, whole)[...] = np.void(b"\1" * values.itemsize)
    return Placed(buffer, view, inside.view(np.bool_))


def any_shape(rng: Rng) -> tuple[int, ...]:
    if chance(rng, 0.12):
        size = int(pick(rng, 16, 64, 64, 512, 512, 16384 if chance(rng, 0.15) else 32))
        return (size + int(rng.integers(-1, 2)),)
    return tuple(int(n) for n in rng.integers(0 if chance(rng, 0.1) else 1, 6, rng.integers(5)))


def any_values(rng: Rng, shape: tuple[int, ...], dtype: Any, scale: float) -> np.ndarray:
    values = rng.standard_normal((*shape, 2)) * scale
    values[rng.random(values.shape) < 0.05] = 0
    kind = np.dtype(dtype)
    if kind.kind == "c":
        return np.asarray(values[..., 0] + 1j * values[..., 1]).astype(kind)
    return np.asarray(values[..., 0]).astype(kind)


def reals(values: np.ndarray) -> np.ndarray:
    """In float64, a complex number as two."""
    if values.dtype.kind == "c":
        return np.stack([values.real, values.imag], axis=-1).astype(np.float64)
    return np.array(values, np.float64)


# --- one parameter --------------------------------------------------------------------------------


@dataclass
class Subject:
    """A parameter, and the same in the reference."""

    placed: Placed
    param: Any
    door: str
    group: int
    reference: Any
    expected: np.ndarray
    twin: Any = None  # the second reference, if there is one
    reach: np.ndarray = field(init=False)  # the largest value so far
    nudged: np.ndarray = field(init=False)  # what the second reference has found
    grad: Placed | None = None

    def __post_init__(self) -> None:
        self.reach = np.array(np.maximum(np.abs(self.expected), 1))
        self.nudged = self.expected.copy()

    def follow(self, grad: np.ndarray) -> None:
        """Step the reference along this gradient."""
        before = self.expected.copy()
        self.reference.step([self.expected], [grad])
        for value in (self.expected, self.expected - before):
            np.maximum(self.reach, np.abs(value), out=self.reach)
        if self.twin is not None:
            signs = np.random.default_rng(grad.size).choice([-1, 1], grad.shape)
            nudge = 1 + NUDGES[real_size(self.placed.view.dtype)] * signs
            self.nudged *= nudge
            self.twin.step([self.nudged], [grad * nudge[::-1] if nudge.ndim else grad])

    def check(self) -> None:
        allowed = reach_tolerance(self.placed.view.dtype) * self.reach
        if self.twin is not None:
            allowed = allowed + ALLOWANCE * np.abs(self.nudged - self.expected)
        excess = np.abs(reals(self.placed.view) - self.expected) / allowed
        worst = float(excess.max(initial=0))
        assert worst <= 1, f"{worst} times the tolerated error of {self!r}"
        assert self.placed.surroundings_untouched(), f"memory around {self!r} was written to"

    def __repr__(self) -> str:
        view = self.placed.view
        return (
            f"{view.dtype} {self.door} of shape {view.shape}, strides {view.strides}, "
            f"at byte {view.__array_interface__['data'][0] % 64} of 64, in group {self.group}"
        )


def wrap(view: np.ndarray, door: str) -> Any:
    if door == "array":
        return view
    return cyoptim.Parameter(view) if door == "parameter" else Box(view)


# --- a case ---------------------------------------------------------------------------------------


class Run:
    """One case: an optimizer, its parameters, and what has been done so far."""

    def __init__(self, case: int, twice: bool) -> None:
        self.rng = rng = np.random.default_rng(case)
        self.twice = twice
        drawn = str(pick(rng, *DRAWN))
        self.card = DRAWN[KEPT.get(case, drawn)]
        self.options = [options_for(rng, self.card) for _ in range(rng.integers(1, 4))]
        self.scale = power(rng, -3, 0.5)
        self.threads = int(pick(rng, 1, 1, 2))
        self.isa = str(pick(rng, *_dispatch.available()))
        self.done: list[str] = []
        self.subjects: list[Subject] = []
        for _ in range(rng.integers(1, 6)):
            self.add_subject()
        self.subjects.sort(key=lambda subject: subject.group)
        self.optimizer = self.make()

    def add_subject(self) -> None:
        rng, others = self.rng, self.subjects
        complexes = ("c8", "c16") if COMPLEX(self.card) else ("f4", "f8")
        dtype = str(pick(rng, "f4", "f4", "f4", "f8", "f8", "f8", *complexes))
        shape = any_shape(rng)
        if others and chance(rng, 0.3):  # a gradient may be of two
            dtype, shape = others[-1].placed.view.dtype.str, others[-1].placed.view.shape
        placed = place(rng, any_values(rng, shape, dtype, 1.0))
        door = str(pick(rng, "array", "parameter", "object"))
        group = int(rng.integers(len(self.options)))
        references = [
            reference_for(self.card, self.options[group], placed.view.dtype) for _ in range(2)
        ]
        subject = Subject(placed, wrap(placed.view, door), door, group, references[0], reals(placed.view))  # fmt: skip
        subject.twin = references[1] if self.twice else None
        others.append(subject)

    def make(self) -> Any:
        groups = []
        for number, options in enumerate(self.options):
            params = [s.param for s in self.subjects if s.group == number]
            if params:
                groups.append({"params": params, **options})
        return self.card.cls(groups)

    def describe(self) -> str:
        parts = [f"{self.card} on {self.threads} threads, {self.isa}"]
        parts += [f"group {k}: {options}" for k, options in enumerate(self.options)]
        parts += [repr(subject) for subject in self.subjects]
        return "\n  ".join([*parts, "steps: " + "; ".join(self.done)])

    # --- gradients ---

    def draw_gradients(self) -> None:
        rng, last = self.rng, None
        for subject in self.subjects:
            view = subject.placed.view
            subject.grad = None
            if chance(rng, 0.2):
                continue
            if last is not None and chance(rng, 0.3) and same_kind(last.view, view):
                subject.grad = last
                continue
            subject.grad = last = place(rng, any_values(rng, view.shape, view.dtype, self.scale))

    def hand_over(self) -> list[Any] | None:
        """The gradients for a call; None if the parameters hold them."""
        grads = [None if s.grad is None else s.grad.view for s in self.subjects]
        if any(s.door == "array" for s in self.subjects) or chance(self.rng, 0.3):
            return grads
        for subject, grad in zip(self.subjects, grads, strict=True):
            subject.param.grad = grad
        return None

    def take_back(self) -> None:
        for subject in self.subjects:
            if subject.door != "array":
                subject.param.grad = None

    # --- steps ---

    def step(self) -> None:
        means = self.accumulate() if chance(self.rng, 0.12) else None
        extras = self.draw_extras() if chance(self.rng, 0.3) else {}
        before = [s.placed.buffer.copy() for s in self.subjects]
        grads: list[np.ndarray | None]
        if means is None:
            self.draw_gradients()
            kept = [None if s.grad is None else s.grad.buffer.copy() for s in self.subjects]
            grads = [None if s.grad is None else reals(s.grad.view) for s in self.subjects]
            self.optimizer.step(grads=self.hand_over(), **extras)
            self.take_back()
            for subject, buffer in zip(self.subjects, kept, strict=True):
                check_gradient(subject, buffer, bool(extras.get("zero_grad")))
        else:
            grads = means
            self.optimizer.step(**extras)
        factor = factor_of(grads, extras)
        self.done.append(f"step {extras} {[g is not None for g in grads]}")
        for subject, grad, buffer in zip(self.subjects, grads, before, strict=True):
            if grad is None:
                same = np.array_equal(subject.placed.buffer, buffer)
                assert same, f"changed without a gradient: {subject!r}"
            else:
                subject.follow(grad * factor)
                subject.check()

    def accumulate(self) -> list[np.ndarray | None]:
        """Two parts; return the mean gradients."""
        sums: list[Any] = [None] * len(self.subjects)
        for _ in range(2):
            self.draw_gradients()
            self.optimizer.accumulate(self.hand_over())
            self.take_back()
            for k, subject in enumerate(self.subjects):
                if subject.grad is not None:
                    grad = np.array(subject.grad.view)
                    # Rounded as the sum is that the norm is taken of.
                    sums[k] = grad if sums[k] is None else sums[k] + grad
        self.done.append("accumulate twice")
        return [None if total is None else reals(np.asarray(total)) / 2 for total in sums]

    def length(self) -> int:
        """How many steps: more where the first divide by nothing."""
        quotient = self.card.quotient
        return int(self.rng.integers(1, 7)) + (quotient.steps_before if quotient else 0)

    def draw_extras(self) -> Options:
        rng = self.rng
        extras: Options = {"zero_grad": chance(rng, 0.5)}
        if chance(rng, 0.5):
            extras["max_norm"] = power(rng, -2, 1)
        if chance(rng, 0.5):
            extras["grad_scale"] = float(pick(rng, 2.0, 3.0, -7.0, 0.1))
        return extras

    def change(self) -> None:
        """What may happen between two steps."""
        if chance(self.rng, 0.15):
            saved = self.optimizer.state_dict()
            self.optimizer = self.make()
            self.optimizer.load_state_dict(saved)
            self.done.append("load")
        if chance(self.rng, 0.15):
            number = int(self.rng.integers(len(self.options)))
            self.options[number]["lr"] *= 0.5
            for subject in self.subjects:
                if subject.group == number:
                    for reference in (subject.reference, subject.twin):
                        if reference is not None:
                            reference.lr = self.options[number]["lr"]
            for group, used in zip(self.optimizer.param_groups, self.used(), strict=True):
                group["lr"] = self.options[used]["lr"]
            self.done.append(f"half of lr in group {number}")

    def used(self) -> list[int]:
        return sorted({subject.group for subject in self.subjects})


def same_kind(a: np.ndarray, b: np.ndarray) -> bool:
    return (a.dtype, a.shape) == (b.dtype, b.shape)


def factor_of(grads: list[np.ndarray | None], extras: Options) -> float:
    """What a step with these extras multiplies gradients by."""
    scale = 1 / extras.get("grad_scale", 1.0)
    if "max_norm" not in extras:
        return float(scale)
    squares = sum(float(np.sum(np.square(g))) for g in grads if g is not None)
    return float(scale * min(1.0, extras["max_norm"] / (np.sqrt(squares) * abs(scale) + 1e-6)))


def check_gradient(subject: Subject, before: np.ndarray | None, zeroed: bool) -> None:
    if subject.grad is None or before is None:
        return
    if zeroed:
        before[subject.grad.inside] = 0
    same = np.array_equal(subject.grad.buffer, before)
    assert same, f"the gradient of {subject!r} was {'not zeroed' if zeroed else 'changed'}"


@contextmanager
def setting(run: Run) -> Iterator[None]:
    chosen = _dispatch.chosen
    _dispatch.use(run.isa)
    _engine.take_all_threads(True)
    try:
        with cyoptim.threads(run.threads), np.errstate(all="ignore"):
            yield
    finally:
        _engine.take_all_threads(False)
        _dispatch.use(chosen)


def carry_out(run: Run) -> None:
    with setting(run):
        for number in range(run.length()):
            if number:
                run.change()
            run.step()


def check(case: int) -> str:
    """Run one case; return the kind of outcome."""
    run = Run(case, twice=False)
    try:
        try:
            carry_out(run)
        except AssertionError:
            run = Run(case, twice=True)
            carry_out(run)
    except Exception as error:
        text = f"case {case}: {type(error).__name__}: {error}\n  {run.describe()}"
        raise AssertionError(text) from error
    return f"{run.card} {run.subjects[0].placed.view.dtype}"
