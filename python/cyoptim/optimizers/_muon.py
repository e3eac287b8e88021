"""What Muon and its relatives share: the step of a matrix, and the checks of its options."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from cyoptim._engine import Commit, MuonStep, Workspace
from cyoptim._groups.options import as_float, as_sequence, check_at_least, check_number
from cyoptim._step.updates import update_now
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

    def _prepare(self, workspace: Workspace, param: Any, *others: Any) -> dict[str, Any]:
        if param.dtype.kind == "c":
            self._refuse_complex()
        return prepare_muon(workspace, param, *others)


def check_iteration(group: Group) -> None:
    """Check the number of iterations, and the option of the length of a step."""
    check_at_least("ns_steps", group["ns_steps"], 0)
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in ADJUSTMENTS:
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")


def check_triple(name: str, triple: Any) -> None:
    """Check the coefficients of one iteration."""
    if len(triple) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    for index, value in enumerate(triple):
        check_number(f"{name}[{index}]", value)


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
    if isinstance(value[0], (tuple, list)):
        for number, triple in enumerate(value):
            check_triple(f"ns_coefficients[{number}]", triple)
    else:
        check_triple("ns_coefficients", value)


def prepare_muon(
    workspace: Workspace,
    param: Any,
    grad: Any,
    state: dict[str, Any],
    group: Group,
    commit: Commit,
) -> dict[str, Any]:
    """Let `commit` step a parameter; return new entries of its state."""
    lr, shape = as_float(group["lr"]), param.shape
    stack = stack_of(shape, group)
    triples, safety = iteration_of(group)
    new: dict[str, Any] = {}
    copies: list[tuple[Any, Any]] = []

    def in_order(array: Any) -> Any:
        if array.flags.c_contiguous:
            return array
        copies.append((array, array.copy(order="C")))
        return copies[-1][1]

    def state_array(name: str, shape: tuple[int, ...]) -> Any:
        if state.get(name) is not None:
            return in_order(state[name])
        like = param if shape == param.shape else np.empty(shape, param.dtype)
        new[name] = np.zeros_like(like, subok=False)
        return in_order(new[name])

    step = MuonStep(
        workspace,
        (in_order(param), np.asarray(grad, order="C"), state_array("momentum_buffer", shape)),
        stack,
        triples,
        (safety, as_float(group.get("eps", 0.0)), 0.0 if "eps" in group else 1e-7),
        momentum=as_float(group["momentum"]),
        nesterov=bool(group["nesterov"]),
        sign=-1.0 if group.get("maximize") else 1.0,
        shrink=1 - lr * as_float(group["weight_decay"]),
        size=lr * _ratio(shape, stack, group),
        cautious=bool(group.get("cautious_wd")),
    )
    if group.get("variance"):
        average = state_array("second_momentum_buffer", (*shape[:-1], 1))
        step.normalize(average, as_float(group["beta2"]))
    commit.step(step)
    for array, changed in copies:
        commit.copy(array, changed)
    return new


def iteration_of(group: Group) -> tuple[list[tuple[float, ...]], float]:
    """The coefficients of each iteration, and the factor of the length by which a matrix is divided
    first."""
    value, steps = as_sequence(group["ns_coefficients"]), int(as_float(group["ns_steps"]))
    triples, safety = ITERATIONS[value] if isinstance(value, str) else (value, 1.0)
    if not isinstance(triples[0], (tuple, list)):
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
