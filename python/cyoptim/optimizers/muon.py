"""Muon."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cyoptim._engine import Commit, MuonStep, Plan, Workspace
from cyoptim._groups.options import (
    as_float,
    as_sequence,
    check_at_least,
    check_lr,
    check_number,
)
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT
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


class Muon(Optimizer):
    r"""Muon: momentum, orthogonalized before the step.

    .. math::

        B_t &= \mu B_{t-1} + (1 - \mu) G_t \\
        M_t &= \mu B_t + (1 - \mu) G_t \quad\text{(with Nesterov's form, else } B_t\text{)} \\
        O_t &= \text{NS}_k(M_t) \approx U V^\top, \qquad M_t = U S V^\top \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma r O_t

    The Newton-Schulz iteration starts from :math:`X = M / \max(\|M\|_F, \epsilon)`, transposed if
    it has more rows than columns, and takes :math:`k` times

    .. math::

        A = X X^\top, \qquad X \leftarrow a X + (b A + c A^2) X,

    which moves every singular value towards 1. The ratio :math:`r` depends on the shape,
    :math:`n \times m`: :math:`\sqrt{\max(1, n / m)}`, or, to match the size of AdamW's steps,
    :math:`0.2 \sqrt{\max(n, m)}`.

    Parameters
    ----------
    params : iterable
        Parameters, ``(name, parameter)`` pairs, or group dicts; see :class:`cyoptim.Optimizer`.
        Real matrices only: the weights of hidden layers. Leave biases, embeddings and the last
        layer to AdamW.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0.
    momentum : float
        :math:`\mu`, >= 0.
    nesterov : bool
        Use Nesterov's form.
    ns_coefficients : tuple of float
        :math:`a`, :math:`b` and :math:`c`.
    eps : float
        :math:`\epsilon`: the least divisor of a matrix.
    ns_steps : int
        :math:`k`, < 100.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}
        The ratio :math:`r`: "original" and None choose the first of the two, "match_rms_adamw" the
        second.

    Raises
    ------
    ValueError
        If a parameter is not a matrix, or an option is out of range.
    TypeError
        If a parameter is complex.

    Notes
    -----
    State: ``momentum_buffer`` (:math:`B`).

    The iteration runs in the parameter's own precision, while torch rounds it to bfloat16: steps
    are closer to the formula than torch's, and differ from them by the rounding of bfloat16. On
    matrices that are far from square, several iterations are computed as one polynomial of
    :math:`X X^\top`. The optimizer keeps memory for one matrix, of about three times its size and
    four times the square of its shorter side.

    References
    ----------
    .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    .. [2] J. Liu et al., "Muon is Scalable for LLM Training", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> W = np.array([[1.0, -2.0], [3.0, 4.0]])
    >>> Muon([W], lr=0.1, weight_decay=0).step(grads=[W.copy()])
    >>> W.round(1)
    array([[ 0.9, -1.9],
           [ 2.9,  4. ]])
    """

    _takes_complex: ClassVar[bool] = False
    _workspace: Workspace
    _essential_options: ClassVar[tuple[str, ...]] = (
        "lr",
        "weight_decay",
        "momentum",
        "ns_coefficients",
        "eps",
        "ns_steps",
    )

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = COEFFICIENTS,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        }
        self._check_options(defaults)
        super().__init__(params, defaults)

    def _make_own(self) -> None:
        super()._make_own()
        self._workspace = Workspace()

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"], "Learning rate should be >= 0 but is: {}")
        check_at_least("momentum", group["momentum"], 0)
        check_at_least("weight decay", group["weight_decay"], 0)
        check_number("eps", group["eps"])
        check_iteration(group)
        check_triple("ns_coefficients", group["ns_coefficients"])

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        for group in groups:
            for param in group["params"]:
                shape = getattr(param, "shape", (0, 0))
                if len(shape) != 2:
                    raise ValueError(
                        f"Muon only supports 2D parameters whereas we found a parameter with size: "
                        f"{shape}"
                    )
        return super()._make_plan(groups, state)

    def _state_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        return shape if name == "momentum_buffer" else None

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Group) -> None:
        commit = Commit()
        new = self._prepare_update(param, grad, state, group, commit)
        commit.run()
        state.update(new)

    def _prepare_update(
        self, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
    ) -> dict[str, Any]:
        return prepare_muon(self, param, grad, state, group, commit)


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
    optimizer: Any, param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
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
        optimizer._workspace,
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
        step.normalize(average, as_float(group["beta2"]), shape[-2])
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
