"""Muon."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from cyoptim._engine import Arrays, Commit, Plan
from cyoptim._groups.options import as_float, check_at_least, check_lr, check_number
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT
from cyoptim.optimizer import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ADJUSTMENTS = ("original", "match_rms_adamw")


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
    are closer to the formula than torch's, and differ from them by the rounding of bfloat16. NumPy
    computes the matrix products, on the threads of its BLAS, which may give other bits on another
    machine or number of threads.

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

    def _check_options(self, group: Group) -> None:
        check_lr(group["lr"], "Learning rate should be >= 0 but is: {}")
        check_at_least("momentum", group["momentum"], 0)
        check_at_least("weight decay", group["weight_decay"], 0)
        check_number("eps", group["eps"])
        check_iteration(group)

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
        return prepare_muon(param, grad, state, group, commit)


def check_iteration(group: Group) -> None:
    """Check the options of the iteration, and of the length of a step."""
    check_at_least("ns_steps", group["ns_steps"], 0)
    if group["adjust_lr_fn"] is not None and group["adjust_lr_fn"] not in ADJUSTMENTS:
        raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
    if group["ns_steps"] >= 100:
        raise ValueError("Number of steps must be less than 100 for computational efficiency")
    if len(group["ns_coefficients"]) != 3:
        raise ValueError("Coefficients must be a tuple of exactly 3 values")
    for index, value in enumerate(group["ns_coefficients"]):
        check_number(f"ns_coefficients[{index}]", value)


def prepare_muon(
    param: Any, grad: Any, state: dict[str, Any], group: Group, commit: Commit
) -> dict[str, Any]:
    """Let `commit` step a parameter; return new entries of its state."""
    lr, momentum = as_float(group["lr"]), as_float(group["momentum"])
    buffer = state.get("momentum_buffer")
    moved = np.zeros_like(param, subok=False) if buffer is None else buffer.copy(order="K")
    with np.errstate(all="ignore"):
        moved += (1 - momentum) * (grad - moved)
        direction = grad + momentum * (moved - grad) if group["nesterov"] else moved
    matrices = np.ascontiguousarray(direction).reshape(_stack_shape(param.shape, group))
    steps = [
        orthogonalize(
            matrix,
            group["ns_coefficients"],
            int(as_float(group["ns_steps"])),
            group.get("eps"),
        )
        for matrix in matrices
    ]
    update = np.array(steps, param.dtype).reshape(param.shape)
    update *= lr * _ratio(param.shape, matrices.shape, group)
    target = param * (1 - lr * as_float(group["weight_decay"]))
    target -= update
    commit.copy(param, target)
    if buffer is None:
        return {"momentum_buffer": moved}
    commit.copy(buffer, moved)
    return {}


def _stack_shape(shape: tuple[int, ...], group: Group) -> tuple[int, int, int]:
    """How many matrices a parameter is, and their rows and columns."""
    layout = group.get("layout") or ("conv" if len(shape) == 4 else "stack")
    if layout == "conv":
        return 1, shape[0], math.prod(shape[1:])
    return math.prod(shape[:-2]), shape[-2], shape[-1]


def _ratio(shape: tuple[int, ...], stack: tuple[int, ...], group: Group) -> float:
    """The step of such matrices, as a multiple of the learning rate."""
    adjustment = group["adjust_lr_fn"]
    rows, columns = stack[-2:] if adjustment is not None else shape[-2:]
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns)) if columns else 1.0


def orthogonalize(matrix: Any, coefficients: Any, steps: int, eps: float | None) -> Any:
    """The matrix with singular values near 1, by Newton-Schulz iterations."""
    a, b, c = (as_float(value) for value in coefficients)
    tall = matrix.shape[0] > matrix.shape[1]
    x = np.array(matrix.T if tall else matrix, order="C")
    norm = Arrays([x]).norm(2)
    if not math.isfinite(norm):
        x.fill(math.nan)  # in every element, for any number of iterations
    divisor = norm + 1e-7 if eps is None else max(norm, as_float(eps))
    if divisor > 0:
        x /= divisor
    gram, polynomial = (np.empty((len(x), len(x)), x.dtype) for _ in range(2))
    product = np.empty_like(x)
    for _ in range(steps):
        np.matmul(x, x.T, out=gram)
        np.matmul(gram, gram.T, out=polynomial)
        polynomial *= c
        gram *= b
        polynomial += gram
        np.matmul(polynomial, x, out=product)
        x *= a
        x += product
    return x.T if tall else x
