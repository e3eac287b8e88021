"""A card: what the tests, the bench and the site know of one optimizer.

(a) A test asks for **traits**, never for names: `cards(TORCH, ~ELEMENT_WISE)`. A new optimizer is one file
    in `tests/optimizers/` with its reference and its card; what it is decides which tests it gets.
(b) A trait that a card claims is tested, and so is its absence: `tests/algorithms/test_cards.py`.
(c) The bench and the site read cards too, so nothing here imports pytest.
"""

from __future__ import annotations

import inspect
import runpy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from math import prod
from typing import Any
from unittest import SkipTest

import numpy as np

Options = dict[str, Any]
Shape = tuple[int, ...]
Refusal = tuple[Options, type[Exception], str]
"""Options, the exception that they raise, and what its message contains."""
Wish = Callable[["Card"], bool]


@dataclass(frozen=True)
class Trait:
    """What an optimizer is or can do. `~trait` asks for those without."""

    meaning: str

    def __call__(self, card: Card) -> bool:
        return self in card.traits

    def __invert__(self) -> Wish:
        return lambda card: self not in card.traits


TORCH = Trait("torch.optim has it: names, defaults, messages, state and trajectories are torch's")
ELEMENT_WISE = Trait("an element's update depends on no other: pieces have the bits of the whole")
DENSE = Trait("takes gradients of the parameter's shape")
SPARSE = Trait("takes sparse gradients, without decay, as spans of rows")
COMPLEX = Trait("takes complex parameters, as pairs of reals")
MATRICES = Trait("takes matrices only, or stacks of matrices")
NATIVE = Trait("a rule of the engine steps it")
KERNEL = Trait("cyoptim.kernel.Kernel takes it")
CLOSURE = Trait("evaluates the loss in a step: needs a closure, and takes no sums of gradients")
ONE_GROUP = Trait("all groups are one problem with one set of options")
JOINED = Trait(
    "joins all gradients of a step by sums over them: a parameter moves by the others' too"
)
ADAPTIVE = Trait("one estimate of all groups scales its steps: lr is equal in all of them, or 0")
SAME_BITS = Trait("has the same bits on every instruction set and number of threads")
CHECKED = Trait("knows its options and its state, and refuses what does not fit")
MODES = Trait("has train() and eval(), and steps in training mode only")
FUSED = Trait("has an argument `fused`: of torch's, those with a fused kernel")

RULE = frozenset({ELEMENT_WISE, DENSE, COMPLEX, NATIVE, KERNEL, SAME_BITS, CHECKED})
"""Of an optimizer that is one loop over the elements of a dense parameter."""

CAUTIOUS = frozenset({"caution", "cautious_wd"})
"""Options that torch's optimizers lack; test_caution.py tries them with every variant."""

STORAGE = frozenset({"state_dtype", "master", "rounding", "seed"})
"""Options of stored precision, which belong to no optimizer's rule; test_storage_options.py tries them."""


def takes(option: str) -> Wish:
    """Ask for optimizers that have this option."""
    return lambda card: card.takes(option)


@dataclass(frozen=True)
class Timed:
    """A row of the bench."""

    written: int  # arrays that a step reads and writes: the parameter and its state
    options: Options = field(default_factory=dict)
    suffix: str = ""  # of the row's name
    passes: tuple[
        str, ...
    ] = ()  # what each pass moves, see bench/optimizers.py, if it is not the usual one
    matrices: bool = False  # whether tensors are matrices, as nearly square as their size allows
    source: str = ""  # which of the card's further sources has these options, if torch and the first one have not


@dataclass(frozen=True)
class Recipe:
    """How the site draws an optimizer on its way down Rosenbrock's valley, to a parameter `p`."""

    code: str
    note: str = ""
    shape: Shape = (2,)
    sparse: bool = False
    closure: bool = False


@dataclass(frozen=True)
class Valley:
    """How SciPy's `minimize` finds the minimum of Rosenbrock's valley with it."""

    options: Options
    gamma: float = 1  # of an exponential schedule: for steps that do not shrink with the gradient


def _as_it_is(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class Source:
    """What stored trajectories are made with where torch has none: another package's optimizer."""

    cls: str  # "lion_pytorch.Lion"; of the paper's authors' file "Lion" alone
    version: str  # of the package, or the commit of the file
    counts_together: bool = False  # one step count a group: gradients must not be missing
    place: str = (
        ""  # what the documentation calls it: a package as it is installed, or "owner/repository"
    )
    twin: Callable[[Any], Any] = _as_it_is  # makes of its class the one to compare with,
    removed: str = ""  # and what that takes away or adds, in words
    variants: tuple[Options, ...] = ()  # the options that it is run with, if not the card's

    @property
    def name(self) -> str:
        return f"{self.cls} {self.version}"

    def load(self, file: str = "") -> Any:
        """The class, which takes torch's tensors; `file` is where the authors' file lies."""
        module, _, name = self.cls.rpartition(".")
        found = runpy.run_path(file)[name] if file else getattr(import_module(module), name)
        return self.twin(found)


@dataclass(frozen=True)
class Quotient:
    """That an optimizer divides by the root of an average of squares, which may be flushed to zero."""

    gain: Callable[[Options], float]  # how much of a square a step adds to the average
    variants: tuple[Options, ...] = ({},)
    squared: bool = False  # eps is of the size of what is flushed, not of its root
    steps_in_eps: bool = False  # steps are as small as the root of eps
    steps_before: int = 0  # steps that divide by nothing
    least: float = 0.0  # the smallest eps that it takes


@dataclass(frozen=True, repr=False, eq=False)
class Card:
    """An optimizer as the tests see it."""

    optimizer: str | type
    """Its name in cyoptim, or a class of the tests' own."""
    reference: Callable[..., Any]
    """(options) -> an object with `.step(parameters, gradients)`, in float64, from the paper."""
    traits: frozenset[Trait]
    variants: tuple[Options, ...]
    states: tuple[str, ...]
    """The entries of a parameter's state, of shape (2, 3), after a step."""
    more_states: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Those that an option adds."""
    state_shapes: dict[str, Shape | Callable[[Options], Shape]] = field(default_factory=dict)
    """Where an array of the state has another shape than its parameter of shape (2, 3): it, or a function of options."""
    slice: str = ""
    """An option that says that arrays of the state with one axis have every so many elements: of real parameters."""
    numbers: tuple[str, ...] = ()
    """Entries that are one number of float32, beside the count `step`."""
    doubles: tuple[str, ...] = ()
    """Entries that are numbers of float64 whatever the parameter's type, of the shape in `state_shapes`."""
    kept: dict[str, str] = field(default_factory=dict)
    """Where the reference keeps an entry: the name of its attribute, a dict by parameter."""
    bad: tuple[Refusal, ...] = ()
    bad_as_torch: tuple[Refusal, ...] = ()
    """What torch refuses with the same message, or one that ours begins with."""
    adapted: Callable[[Any], Any] = _as_it_is
    """Makes of the class one whose groups are all of one kind, where each is to say which."""
    torch: str | None = None
    torch_twin: Callable[[Any], Any] = _as_it_is
    """Makes of torch's class the one to compare with."""
    for_dtype: Callable[[Options, Any], Options] = lambda options, dtype: options
    """The reference's options for parameters of a dtype."""
    sparse_variants: tuple[Options, ...] = ()
    history: dict[str, Any] = field(default_factory=dict)
    """Options with which a step keeps all the state that it can."""
    waits: int = 0
    """The first steps of a parameter, which do not move it."""
    joined_by: str = ""
    """The option that joins all gradients by their norm, unless it is 0 or None: with it, the optimizer has the
    trait JOINED, and is not element-wise."""
    also: str = ""
    """A method that stored runs call with the gradients before each third step."""
    averages: tuple[str, ...] = ()
    """Entries that follow the parameter itself, not its gradient."""
    quotient: Quotient | None = None
    draw: Callable[[np.random.Generator], Options] | None = None
    """Options for the fuzzer of trajectories; variants if there is none."""
    source: Source | None = None
    more_sources: dict[str, Source] = field(default_factory=dict)
    """Those of options that the first, or torch, does not have: "timm" is stored as NAME-timm.json."""
    timed: tuple[Timed, ...] = ()
    drawing: Recipe | None = None
    valley: Valley | None = None

    def __post_init__(self) -> None:
        if self.torch is not None:
            object.__setattr__(self, "traits", self.traits | {TORCH})

    def __repr__(self) -> str:
        return self.name

    def under(self, options: Options) -> Card:
        """The card of the optimizer with these options, which may have other traits."""
        if not options.get(self.joined_by):
            return self
        return replace(self, traits=self.traits - {ELEMENT_WISE, KERNEL} | {JOINED})

    @property
    def public(self) -> bool:
        """Whether the package has it, and not the tests alone."""
        return isinstance(self.optimizer, str)

    @property
    def name(self) -> str:
        return self.optimizer if isinstance(self.optimizer, str) else self.optimizer.__name__

    @cached_property
    def cls(self) -> Any:
        """The class. The bench reads cards in processes that must do without the package."""
        import cyoptim

        return self.adapted(getattr(cyoptim, self.name)) if self.public else self.optimizer

    @cached_property
    def options(self) -> dict[str, Any]:
        """The defaults of the constructor's arguments, by name; but for those of stored precision."""
        _, *arguments = inspect.signature(self.cls).parameters.values()
        defaults = {a.name: a.default for a in arguments if a.default is not a.empty}
        return {name: defaults[name] for name in defaults if name not in STORAGE}

    def takes(self, option: str) -> bool:
        return option in self.options

    def only(self, **options: Any) -> Options:
        """Those of these options that it has."""
        return {name: value for name, value in options.items() if self.takes(name)}

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        return (*self.bad_as_torch, *self.bad)

    def torch_class(self, torch: Any) -> Any:
        assert self.torch is not None, f"torch has no {self}"
        if not hasattr(torch.optim, self.torch):
            raise SkipTest(f"torch {torch.__version__} has no {self.torch}")
        return self.torch_twin(getattr(torch.optim, self.torch))

    def reference_for(self, options: Options, dtype: Any) -> Any:
        """The reference of parameters of this dtype."""
        return self.reference(**self.for_dtype(options, dtype))

    def least_eps(self, options: Options, dtype: Any) -> float:
        """What a smaller eps counts as, so that squares that are flushed to zero do no harm."""
        assert self.quotient is not None
        gain = self.quotient.gain(options)
        least = float(np.finfo(dtype).tiny) / (gain if gain > 0 else 1)
        return least if self.quotient.squared else float(np.sqrt(least))

    def state_shape(self, name: str, shape: Shape, options: Options) -> Shape:
        """Of an array of the state of a parameter of shape (2, 3)."""
        found = self.state_shapes.get(name, shape)
        shape = found(options) if callable(found) else found
        return (-(-shape[0] // options.get(self.slice, 1)),) if len(shape) == 1 else shape

    def takes_reals_alone(self, options: Options) -> bool:
        """Whether it takes complex parameters, but not with these options."""
        return options.get(self.slice, 1) != 1

    def fit(self, shape: Shape) -> Shape:
        """The shape that is nearest to this one among those that it takes."""
        if MATRICES(self):
            return (shape[0] if shape else 1, prod(shape[1:]))
        if not DENSE(self):
            return shape or (1,)  # a sparse gradient has rows
        return shape

    def shapes(self, shapes: Any) -> list[Shape]:
        """All that it takes; without empty ones where it takes means over elements, or rows."""
        empty = DENSE(self) and (ELEMENT_WISE(self) or CLOSURE(self))
        return [shape for shape in map(self.fit, shapes) if empty or prod(shape)]

    def steps(self, count: int) -> int:
        """So many, or three where a step is many, and rounding grows with each."""
        return 3 if CLOSURE(self) else count

    def form(self, grad: Any) -> Any:
        """A gradient in the form in which it takes one: whole, or all of its rows."""
        if grad is None or DENSE(self):
            return grad
        return np.arange(len(grad)), grad
