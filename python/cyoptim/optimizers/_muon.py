"""What Muon and its relatives share: the step of a matrix, and the checks of its options."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from cyoptim._engine import Commit, MuonStep, Workspace, in_order
from cyoptim._groups.options import (
    as_float,
    as_sequence,
    check_at_least,
    check_finite,
    check_whole,
)
from cyoptim._step.updates import label_of, missing_arrays, update_now
from cyoptim._types import Group
from cyoptim.optimizer import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADJUSTMENTS = ("original", "match_rms_adamw")
POLAR_EXPRESS = (
    (8.237312490495555, -23.157747414558198, 16.680568411445915),
    (4.082441999064835, -2.893047735332586, 0.5252849256975648),
    (3.9263479922546582, -2.8547468034765298, 0.5318022422894988),
    (3.2982187133085143, -2.424541981026706, 0.48632008358844075),
    (2.2970369434552573, -1.63662558125903, 0.4002628455953627),
    (1.8763805351440397, -1.2347896577722228, 0.35891887501668385),
    (1.8564423485617974, -1.2132449880935525, 0.3568003487825883),
    (1.8749994008682747, -1.2499988017229169, 0.3749994008546422),
)
# By name: the coefficients of each iteration, of which the last are repeated, and the factor of the
# length by which a matrix is divided first, for coefficients that leave no room above 1.
ITERATIONS = {"quintic": ((COEFFICIENTS,), 1.0), "polar_express": (POLAR_EXPRESS, 1.01)}


class MuonOptimizer(Optimizer):
    """Updates of one matrix after the other, each prepared before any is made."""

    _workspace: Workspace  # of steps, which have turns

    def _make_own(self) -> None:
        super()._make_own()
        self._workspace = Workspace()

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        update_now(partial(self._prepare, Workspace()), param, grad, state, group)

    def _prepare_update(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> dict[str, Any]:
        return self._prepare(self._workspace, param, grad, state, group, commit)

    def _prepare(
        self,
        workspace: Workspace,
        param: Any,
        grad: Any,
        state: dict[str, Any],
        group: Group,
        commit: Commit,
    ) -> dict[str, Any]:
        shape = param.shape
        if param.dtype.kind == "c":
            self._refuse_complex()
        if len(shape) < 2:  # of a group that has become Muon's since the plan was made
            self._refuse_shape(label_of(self, param), shape)
        shapes = {"momentum_buffer": shape}
        if group.get("variance"):
            shapes["second_momentum_buffer"] = (*shape[:-1], 1)
        new = missing_arrays(self, param, state, shapes)
        averages = [new[name] if name in new else state[name] for name in shapes]
        prepare_muon(workspace, param, grad, averages, self._divisor(group), group, commit)
        return new

    def _divisor(self, group: Group) -> tuple[float, float]:
        """By what a matrix is divided first: the least divisor, and what is added to it."""
        raise NotImplementedError

    def _refuse_shape(self, label: str, shape: tuple[int, ...]) -> None:
        raise NotImplementedError


def check_iteration(group: Group) -> None:
    """Check the number of iterations, and the option of the length of a step."""
    check_at_least("ns_steps", group["ns_steps"], 0)
    name = group["adjust_lr_fn"]
    if not (name is None or (isinstance(name, str) and name in ADJUSTMENTS)):
        names = ", ".join(map(repr, ADJUSTMENTS))
        raise ValueError(
            f"Adjust learning rate function {name} is not supported: adjust_lr_fn is None, {names}"
        )
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    check_whole("ns_steps", group["ns_steps"])


def check_triple(name: str, triple: Any) -> None:
    """Check the coefficients of one iteration."""
    numbers = as_sequence(triple)
    if not isinstance(numbers, (tuple, list)):
        raise TypeError(f"{name} must be three numbers, got {triple!r}")
    if len(numbers) != 3:
        raise ValueError(f"{name} must be a tuple of exactly 3 values, got {triple!r}")
    for index, value in enumerate(numbers):
        check_finite(f"{name}[{index}]", value)


def check_coefficients(value: Any) -> None:
    """Check coefficients by name, of all iterations or of each."""
    value = as_sequence(value)
    if isinstance(value, str):
        if value not in ITERATIONS:
            names = " or ".join(map(repr, ITERATIONS))
            raise ValueError(
                f"ns_coefficients {value!r} is not supported: write {names}, or numbers"
            )
        return
    if not isinstance(value, (tuple, list)) or not value:
        raise TypeError(
            f"ns_coefficients must be a name, three numbers or a list of triples, got {value!r}"
        )
    if isinstance(as_sequence(value[0]), (tuple, list)):
        for number, triple in enumerate(value):
            check_triple(f"ns_coefficients[{number}]", triple)
    else:
        check_triple("ns_coefficients", value)


def prepare_muon(
    workspace: Workspace,
    param: Any,
    grad: Any,
    averages: list[Any],
    divisor: tuple[float, float],
    group: Group,
    commit: Commit,
) -> None:
    """Let `commit` step a parameter. The averages are its momentum, and one of the squares of its
    rows for a group with variance."""
    lr, shape = as_float(group["lr"]), param.shape
    stack = stack_of(shape, group)
    triples, safety = iteration_of(group)
    targets = [param, *averages]
    ordered = [in_order(array) for array in targets]
    step = MuonStep(
        workspace,
        (ordered[0], in_order(grad), ordered[1]),
        stack,
        triples,
        (safety, *divisor),
        momentum=as_float(group["momentum"]),
        nesterov=bool(group["nesterov"]),
        sign=-1.0 if group.get("maximize") else 1.0,
        shrink=1 - lr * as_float(group["weight_decay"]),
        size=lr * _ratio(shape, stack, group),
        cautious=bool(group.get("cautious_wd")),
    )
    if len(averages) > 1:
        step.normalize(ordered[2], as_float(group["beta2"]))
    commit.step(step)
    for target, changed in zip(targets, ordered, strict=True):
        if changed is not target:
            commit.copy(target, changed)


def iteration_of(group: Group) -> tuple[list[tuple[float, ...]], float]:
    """The coefficients of each iteration, and the factor of the length by which a matrix is divided
    first."""
    value, steps = as_sequence(group["ns_coefficients"]), int(as_float(group["ns_steps"]))
    triples, safety = ITERATIONS[value] if isinstance(value, str) else (value, 1.0)
    if not isinstance(as_sequence(triples[0]), (tuple, list)):
        triples = [triples]
    numbers = [tuple(as_float(x) for x in triple) for triple in triples]
    return [numbers[min(k, len(numbers) - 1)] for k in range(steps)], safety


def stack_of(shape: tuple[int, ...], group: Group) -> tuple[int, int, int]:
    """How many matrices a parameter is, and their rows and columns."""
    layout = group.get("layout") or ("conv" if len(shape) == 4 else "stack")
    if layout == "conv":
        return 1, shape[0], math.prod(shape[1:])
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _ratio(shape: tuple[int, ...], stack: tuple[int, int, int], group: Group) -> float:
    """The step of such matrices, as a multiple of the learning rate."""
    adjustment = group["adjust_lr_fn"]
    rows, columns = stack[1:] if adjustment is not None else shape[-2:]
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns)) if columns else 1.0
