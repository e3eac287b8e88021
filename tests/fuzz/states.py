"""Damaged state dicts: each is either loaded, and the optimizer then works, or refused with a
ValueError or TypeError, and the optimizer is what it was, to the bit and the object."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.optimizers import variants
from tests.support.cards import (
    CHECKED,
    CLOSURE,
    COMPLEX,
    DENSE,
    ELEMENT_WISE,
    MATRICES,
    MODES,
    ONE_GROUP,
)
from tests.support.doors import ALL_DOORS, NUMPY_DOORS, Door

NAME = "states"
LONG = 20_000
SLICE = 300
SEEDS: tuple[int, ...] = ()

Rng = np.random.Generator
DOORS = ALL_DOORS if importlib.util.find_spec("torch") else (*NUMPY_DOORS, NUMPY_DOORS[0])
SHAPES: tuple[tuple[int, ...], ...] = ((3,), (2, 3), (), (0,), (1,), (4, 2), (2, 1, 3))
TABLES: tuple[tuple[int, ...], ...] = ((2, 3), (3, 2), (1, 1), (4, 4))
# Twice those that no loop over elements steps, which have more state of their own.
KINDS = (*variants(CHECKED), *variants(CHECKED, ~ELEMENT_WISE))


# --- what can be seen of an optimizer -------------------------------------------------------------


def frozen(value: Any, identity: bool = False) -> Any:
    """A value that equals another where both look the same; with `identity`, arrays, lists and
    dicts must be the same objects, too."""
    mark = (id(value), getattr(value, "strides", None)) if identity else ()
    if hasattr(value, "detach"):  # a tensor over a state array is made each time it is asked for
        place = (value.data_ptr(),) if identity else ()
        return ("tensor", *place, frozen(value.detach().numpy()))
    if isinstance(value, np.ndarray):
        if value.dtype.kind == "O":
            return (type(value), *mark, "O", frozen(value.tolist(), identity))
        order = value.dtype.newbyteorder("=")  # which a copy may not keep
        return (type(value), *mark, order, value.shape, value.astype(order).tobytes())
    if isinstance(value, dict):
        items = [
            (repr(key), frozen(item, identity)) for key, item in value.items() if key != "params"
        ]
        return (dict, *mark, tuple(sorted(items)))
    if isinstance(value, (list, tuple)):
        return (type(value), *mark, tuple(frozen(item, identity) for item in value))
    if isinstance(value, (float, complex, np.generic)):
        return (type(value), repr(value))
    return (type(value), value if isinstance(value, (int, str, bytes, type(None))) else "")


def memory(param: Any) -> np.ndarray:
    """The elements of a parameter of any kind."""
    if isinstance(param, np.ndarray):
        return param
    return param.detach().numpy() if hasattr(param, "detach") else param.data


def members(optimizer: Any) -> list[Any]:
    return [param for group in optimizer.param_groups for param in group["params"]]


def looks(optimizer: Any, identity: bool = False) -> dict[str, Any]:
    """Everything that can be seen of an optimizer; with `identity` also which objects it is in."""
    params = members(optimizer)
    numbers = {id(param): i for i, param in reversed(list(enumerate(params)))}
    found: dict[str, Any] = {
        "parameters": [
            frozen(param if hasattr(param, "detach") else memory(param), identity)
            for param in params
        ],
        "gradients": [frozen(getattr(param, "grad", None), identity) for param in params],
        "groups": [frozen(group, identity) for group in optimizer.param_groups],
        "sizes": [len(group["params"]) for group in optimizer.param_groups],
        "state": sorted(
            (repr(numbers.get(id(param), param)), frozen(state, identity))
            for param, state in optimizer.state.items()
        ),
        "averages": None,
    }
    average = optimizer._average
    if average is not None:
        numbers_of = (average.decay, average.warmup, average.steps)
        found["averages"] = (*numbers_of, [frozen(mean, identity) for mean in average])
    if identity:
        found["objects"] = (
            id(optimizer.param_groups),
            [id(p) for p in params],
            id(optimizer.state),
        )
    return found


def difference(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    return [name for name in first if first[name] != second[name]]


# --- optimizers -----------------------------------------------------------------------------------


class Setup:
    """How to make an optimizer; the same parameters and options each time."""

    def __init__(self, rng: Rng) -> None:
        self.card, self.options = KINDS[rng.integers(len(KINDS))]
        self.door: Door = DOORS[rng.integers(len(DOORS))]
        if not DENSE(self.card):
            self.door = NUMPY_DOORS[1]
        complex_too = COMPLEX(self.card) and ELEMENT_WISE(self.card)
        dtypes = (
            ("f4", "f8", "f8", "c16")
            if complex_too and self.door.name != "tensor"
            else ("f4", "f8")
        )
        self.dtype = np.dtype(dtypes[rng.integers(len(dtypes))])
        shapes = TABLES if MATRICES(self.card) or not DENSE(self.card) else SHAPES
        self.shapes = [shapes[rng.integers(len(shapes))] for _ in range(rng.integers(1, 5))]
        self.named = bool(rng.random() < 0.4)
        most = 1 if ONE_GROUP(self.card) else len(self.shapes)
        self.groups = int(rng.integers(1, most + 1))
        self.averaged = bool(rng.random() < 0.4) and not MODES(self.card)

    def make(self, seed: int, steps: int) -> Any:
        """An optimizer that has done some steps."""
        rng = np.random.default_rng(seed)
        arrays = [np.array(rng.standard_normal(shape), self.dtype) for shape in self.shapes]
        params: list[Any] = [self.door.wrap(array) for array in arrays]
        items = [(f"p{i}", param) for i, param in enumerate(params)] if self.named else params
        groups = [{"params": items[k :: self.groups]} for k in range(self.groups)]
        optimizer = self.card.cls(groups if self.groups > 1 else items, **self.options)
        if self.averaged:
            optimizer.ema(0.75)
        for k in range(steps):
            self.step(optimizer, k)
        return optimizer

    def step(self, optimizer: Any, seed: int) -> None:
        params = members(optimizer)
        if CLOSURE(self.card):
            optimizer.step(lambda: _bowl(params))
            return
        rng = np.random.default_rng(seed)
        grads: list[Any] = []
        for param in params:
            value = np.asarray(rng.standard_normal(memory(param).shape), self.dtype)
            grads.append((np.array([0]), value[:1]) if not DENSE(self.card) else value)
        optimizer.step(grads=grads)


def _bowl(params: list[Any]) -> Any:
    """A loss and its gradients, which LBFGS asks for."""
    values = [memory(param) for param in params]
    grads = [np.asarray(value - 1, value.dtype) for value in values]
    loss = sum(float((grad**2).sum()) for grad in grads) / 2
    if any(isinstance(param, np.ndarray) for param in params):
        return loss, grads
    for param, grad in zip(params, grads, strict=True):
        if hasattr(param, "detach"):
            import torch

            param.grad = torch.from_numpy(grad.copy())
        else:
            param.grad = grad
    return loss


# --- damage ---------------------------------------------------------------------------------------


def _overlapping(shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.array(2.0), shape)


def _read_only(shape: tuple[int, ...]) -> np.ndarray:
    array = np.full(shape, 0.5)
    array.flags.writeable = False
    return array


def _unaligned(shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    return np.frombuffer(b"\0" * (8 * size + 1), np.uint8)[1:].view("f8").reshape(shape)


ARRAYS: tuple[Callable[[tuple[int, ...]], Any], ...] = (
    lambda shape: np.zeros(shape, "f4"),
    lambda shape: np.zeros(shape, "f2"),
    lambda shape: np.zeros(shape, np.longdouble),
    lambda shape: np.zeros(shape, "i8"),
    lambda shape: np.zeros(shape, "?"),
    lambda shape: np.zeros(shape, "c16"),
    lambda shape: np.zeros(shape, "M8[s]"),
    lambda shape: np.zeros(shape, "m8[s]"),
    lambda shape: np.zeros(shape, "U3"),
    lambda shape: np.zeros(shape, "S3"),
    lambda shape: np.zeros(shape, "V8"),
    lambda shape: np.zeros(shape, [("a", "f8")]),
    lambda shape: np.full(shape, None, object),
    lambda shape: np.full(shape, 1.0, object),
    lambda shape: np.full(shape, np.nan),
    lambda shape: np.full(shape, -np.inf),
    lambda shape: np.full(shape, 1e300),
    lambda shape: np.full(shape, -1.0),
    lambda shape: np.zeros(shape, ">f8"),
    lambda shape: np.zeros(shape, ">f4"),
    lambda shape: np.ma.masked_array(np.ones(shape), np.ones(shape, bool)),
    lambda shape: np.zeros(shape).view(np.memmap) if shape else np.zeros(shape),
    lambda shape: np.asfortranarray(np.ones(shape)),
    lambda shape: np.ones(shape)[..., ::-1] if shape else np.ones(shape),
    lambda shape: np.zeros((*shape, 1)),
    lambda shape: np.zeros(shape[1:]),
    lambda shape: np.zeros(0),
    lambda shape: np.array(3.0),
    lambda shape: np.zeros((1,)),
    lambda shape: np.zeros((5, 7)),
    _overlapping,
    _read_only,
    _unaligned,
)


def _scalars() -> list[Any]:
    return [
        None, True, False, 0, 1, -1, 2, 7, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400,
        0.0, -0.0, 0.5, 1.0, -1.0, 1e-320, 1e300, 1e308, float("nan"), float("inf"), -float("inf"),
        1j, "", "x", "0.1", "step", b"x", (), [], {}, (1,), [1, 2], (0.9, 0.999), (2.0, 2.0), [0.5, "x"],
        (None, None), ("a", "b"), {"a": 1}, {1: {}}, {"params": [0]}, range(3), set(), {1, 2}, frozenset(),
        object(), int, Exception("x"), threading.Lock(), iter([1]), np.float32(1), np.int64(3), np.nan,
        np.array(5), np.array(5.5), np.array("x"), np.array([1, 2]), np.array(-1), np.array(np.nan),
        np.datetime64("NaT"), np.str_("x"), np.bool_(True), OrderedDict(), [[], []], ["p0"], ["p0", "p0"],
        [None], "strong_wolfe", "match_rms_adamw", slice(1), Ellipsis, NotImplemented,
    ]  # fmt: skip


Path = tuple[Any, ...]


def _paths(tree: Any, path: Path = ()) -> list[Path]:
    """The places of all entries of a tree."""
    keys: list[Any] = []
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = list(range(len(tree)))
    found: list[Path] = []
    for key in keys:
        found += [(*path, key), *_paths(tree[key], (*path, key))]
    return found


def _branches_copied(tree: Any) -> Any:
    """A copy of the dicts and lists of a tree."""
    if isinstance(tree, dict):
        return {key: _branches_copied(value) for key, value in tree.items()}
    return [_branches_copied(value) for value in tree] if isinstance(tree, list) else tree


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


class Damage:
    """Changes a state dict in one place after another."""

    def __init__(self, rng: Rng, tree: dict[str, Any], live: Any) -> None:
        self._rng, self.tree, self._live = rng, tree, live
        self.done: list[str] = []

    def _pick(self, options: Any) -> Any:
        return options[self._rng.integers(len(options))]

    def _path(self, within: str = "") -> Path:
        paths = _paths(self.tree)
        if within:
            paths = [path for path in paths if path[0] == within] or paths
        return self._pick(paths) if paths else ()

    def once(self) -> None:
        """One change, chosen at random."""
        weights = np.array([weight for _, weight in self._KINDS], float)
        kind = self._KINDS[self._rng.choice(len(self._KINDS), p=weights / weights.sum())][0]
        if isinstance(self.tree, dict) and self.tree:
            kind(self)

    def _put(self, path: Path, value: Any) -> None:
        self.done.append(f"{path} = {value!r:.60}")
        if path:
            _at(self.tree, path[:-1])[path[-1]] = value

    def _drop(self) -> None:
        path = self._path()
        if path:
            self.done.append(f"without {path}")
            del _at(self.tree, path[:-1])[path[-1]]

    def _rename(self) -> None:
        path = self._path()
        parent = _at(self.tree, path[:-1])
        if isinstance(parent, dict) and path:
            new = self._pick(
                [f"{path[-1]}x", 0, 1, 99, -1, "", None, 0.5, (1,), "step", "params", True]
            )
            self.done.append(f"{path} named {new!r}")
            parent[new] = parent.pop(path[-1])

    def _duplicate(self) -> None:
        path, other = self._path(), self._path()
        if path and path != other[: len(path)]:
            self._put(other, _branches_copied(_at(self.tree, path)))

    def _retype(self) -> None:
        self._put(self._path(), self._pick(_scalars()))

    def _retype_option(self) -> None:
        self._put(self._path("param_groups"), self._pick(_scalars()))

    def _array(self) -> None:
        paths = [p for p in _paths(self.tree) if hasattr(_at(self.tree, p), "shape")]
        path = self._pick(paths) if paths else self._path()
        shape = tuple(getattr(_at(self.tree, path), "shape", (3,)))
        self._put(path, self._pick(ARRAYS)(shape))

    def _alive(self) -> None:
        """An array that the optimizer itself reads or writes."""
        arrays = [memory(param) for param in members(self._live)]
        for state in self._live.state.values():
            arrays += [value for value in state.values() if isinstance(value, np.ndarray)]
        paths = [p for p in _paths(self.tree) if hasattr(_at(self.tree, p), "shape")]
        if paths:
            self._put(self._pick(paths), self._pick(arrays))

    def _step(self) -> None:
        keys = [
            path
            for path in _paths(self.tree)
            if path[-1] in ("step", "n_iter", "func_evals", "steps")
        ]
        values = (
            0,
            -1,
            -5,
            2**53 + 1,
            2**63 - 2,
            2**63 - 1,
            2**63,
            2**64,
            1.5,
            -0.5,
            1e17,
            1e19,
            np.nan,
        )
        value: Any = self._pick(values)
        forms: tuple[Any, ...] = (
            lambda v: v,
            float,
            np.float64,
            np.array,
            lambda v: np.array([v]),
            str,
        )
        if keys:
            self._put(self._pick(keys), self._pick(forms)(value))

    def _numbers(self) -> None:
        groups = self.tree.get("param_groups")
        group = self._pick(groups) if isinstance(groups, list) and groups else None
        if not isinstance(group, dict) or not isinstance(group.get("params"), list):
            return
        numbers = group["params"]
        if not all(type(number) is int for number in numbers):
            return
        changed = (
            numbers[:-1], [*numbers, 99], [0] * len(numbers), [n + 1 for n in numbers],
            [-1 - n for n in numbers], [str(n) for n in numbers], [[n] for n in numbers], tuple(numbers),
            [None] * len(numbers), numbers[::-1], [float(n) for n in numbers], np.array(numbers), 3, "0",
            [np.array([n, n]) for n in numbers], dict.fromkeys(numbers), {*numbers}, members(self._live),
        )  # fmt: skip
        group["params"] = self._pick(changed)
        self.done.append(f"params {group['params']!r:.60}")

    def _names(self) -> None:
        groups = self.tree.get("param_groups")
        group = self._pick(groups) if isinstance(groups, list) and groups else None
        if not isinstance(group, dict):
            return
        count = len(members(self._live))
        # [None] * count is taken where it should not be: test_names_that_are_none_are_refused.
        changed = (
            [], ["a"] * count, ["a"], [[]] * count, [3] * count, "p0", 5, None,
            [f"q{i}" for i in range(count)], [f"q{i}" for i in range(count + 1)], ("p0",), {"p0": 1},
            [np.zeros(2)] * count, ["p0", *range(count - 1)], iter(["p0"]), [{}], [float("nan")] * count,
        )  # fmt: skip
        group["param_names"] = self._pick(changed)
        self.done.append(f"param_names {group['param_names']!r:.60}")

    def _groups(self) -> None:
        groups = self.tree.get("param_groups")
        if isinstance(groups, list):
            changed = (
                [],
                groups * 2,
                groups[:-1],
                tuple(groups),
                dict(enumerate(groups)),
                [{}] * len(groups),
            )
            self._put(("param_groups",), self._pick(changed))

    def _averages(self) -> None:
        if "averages" in self.tree:
            self._put(self._path("averages"), self._pick(_scalars()))
        else:
            values = {i: np.ones(memory(p).shape) for i, p in enumerate(members(self._live))}
            entry = {"decay": 0.5, "warmup": False, "steps": 3, "values": values}
            self._put(("averages",), self._pick((entry, None, {}, [], {**entry, "decay": 2.0})))

    def _whole(self) -> None:
        if self._rng.random() < 0.1:
            self.tree = self._pick(_scalars())
            self.done.append(f"the whole is {self.tree!r:.60}")

    _KINDS: tuple[tuple[Callable[[Damage], None], int], ...] = (
        (_drop, 3), (_rename, 3), (_duplicate, 3), (_retype, 6), (_retype_option, 6), (_array, 6),
        (_alive, 2), (_step, 3), (_numbers, 2), (_names, 3), (_groups, 1), (_averages, 3), (_whole, 1),
    )  # fmt: skip


# --- one case -------------------------------------------------------------------------------------


def check(case: int) -> str:
    """Load one damaged state."""
    rng = np.random.default_rng(case)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        setup = Setup(rng)
        seed, steps = int(rng.integers(2**31)), int(rng.integers(3))
        subject, twin = setup.make(seed, steps), setup.make(seed, steps)
        source = setup.make(seed + 1, int(rng.integers(1, 4)))
        damage = Damage(rng, copy.deepcopy(source.state_dict()), subject)
        for _ in range(rng.integers(4)):
            damage.once()
        before = looks(subject, identity=True)
        try:
            subject.load_state_dict(damage.tree)
        except (TypeError, ValueError) as error:
            _check_refused(setup, subject, twin, before, damage, error)
            return "refused"
        except Exception as error:
            if not (isinstance(error, RuntimeError) and _documented(str(error))):
                raise AssertionError(
                    f"{setup.card}: {damage.done}: {error}\n"
                    f"neither loaded nor a ValueError or TypeError, but {type(error).__name__}"
                ) from error
            _check_refused(setup, subject, twin, before, damage, error)
            return "refused with torch's RuntimeError"
        _check_accepted(setup, subject, damage)
        return "accepted" if damage.done else "undamaged"


def _documented(message: str) -> bool:
    """Whether it is a RuntimeError that constructors raise, as torch's do."""
    return "`fused`" in message or "only 'strong_wolfe' is supported" in message


def _check_refused(
    setup: Setup, subject: Any, twin: Any, before: dict[str, Any], damage: Damage, error: Exception
) -> None:
    what = f"{setup.card}: {damage.done}: {error}"
    changed = difference(before, looks(subject, identity=True))
    assert not changed, f"{what}\nrefused, but changed: {', '.join(changed)}"
    for k in range(2):
        try:
            setup.step(subject, 100 + k)
        except Exception as later:
            raise AssertionError(f"{what}: {later}\nrefused, and no step afterwards") from later
        setup.step(twin, 100 + k)
    changed = difference(looks(subject), looks(twin))
    assert not changed, f"{what}\nrefused, then other bits: {', '.join(changed)}"


def _check_accepted(setup: Setup, subject: Any, damage: Damage) -> None:
    what = "step"
    try:
        setup.step(subject, 100)
        what = "state_dict"
        saved = copy.deepcopy(subject.state_dict())
        what = "load_state_dict of its own state"
        subject.load_state_dict(saved)
        what = "pickle"
        copied = pickle.loads(pickle.dumps(subject))
        what = "step of a copy"
        setup.step(copied, 101)
        what = "second step"
        setup.step(subject, 101)
    except Exception as error:
        raise AssertionError(
            f"{setup.card}: {damage.done}: {error}\nloaded, then no {what}: {type(error).__name__}"
        ) from error
    changed = difference(looks(subject), looks(copied))
    assert not changed, (
        f"{setup.card}: {damage.done}\nloaded, then a copy steps otherwise: {', '.join(changed)}"
    )
