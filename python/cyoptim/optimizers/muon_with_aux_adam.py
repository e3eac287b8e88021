"""Muon and Adam in one optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeAlias, Unpack

from cyoptim._engine import STORAGE_OPTIONS, Plan
from cyoptim._groups.groups import labels_of
from cyoptim._groups.options import (
    check_at_least,
    check_interval,
    check_lr,
    check_moments,
    check_switch,
)
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT
from cyoptim.optimizers._muon import MuonOptimizer, check_coefficients, check_iteration

Triple: TypeAlias = tuple[float, float, float]
Coefficients: TypeAlias = str | Triple | Sequence[Triple]

ADAM: dict[str, Any] = {"lr": 3e-4, "betas": (0.9, 0.95), "eps": 1e-10, "weight_decay": 0.0}
ADAM_STATE = frozenset({"step", "exp_avg", "exp_avg_sq"})
MUON: dict[str, Any] = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.0}
OF_ADAM = frozenset(ADAM)
OF_MUON = frozenset(MUON).union(
    ("nesterov", "ns_steps", "ns_coefficients", "adjust_lr_fn", "layout", "beta2")
)


class MuonWithAuxAdam(MuonOptimizer):
    r"""Muon for matrices, and Adam with decoupled decay for everything else, in one optimizer.

    Each group says with ``use_muon`` which of the two steps it. With :math:`G_t` for the gradient,
    a matrix of a group with ``use_muon=True`` is stepped by

    .. math::

        B_t &= \mu B_{t-1} + (1 - \mu) G_t \\
        M_t &= \mu B_t + (1 - \mu) G_t \quad\text{(with Nesterov's form, else } B_t\text{)} \\
        O_t &= \text{NS}_k(M_t) \approx U V^\top, \qquad M_t = U S V^\top \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \gamma r O_t

    where the Newton-Schulz iteration starts from :math:`M / (\lVert M \rVert_F + 10^{-7})`, and is
    that of :class:`cyoptim.Muon`. Parameters of a group with ``use_muon=False`` are stepped by

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) G_t, \qquad
        v_t = \beta_2 v_{t-1} + (1 - \beta_2) G_t^2 \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1}
            - \gamma \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    Parameters
    ----------
    params : iterable of dict
        The groups, each with ``use_muon``; see :class:`cyoptim.Optimizer`.
        :func:`cyoptim.param_groups` makes them by the names of the parameters.

        With ``use_muon=True``, a group's options are ``lr`` (:math:`\gamma`, 0.02), ``momentum``
        (:math:`\mu`, 0.95), ``weight_decay`` (:math:`\lambda`, 0), and those below but `maximize`.
        Its parameters are real and have two dimensions or more.

        With ``use_muon=False``, they are ``lr`` (3e-4), ``betas`` (:math:`\beta_1, \beta_2`,
        (0.9, 0.95)), ``eps`` (:math:`\epsilon`, 1e-10) and ``weight_decay`` (0).
    nesterov : bool
        Use Nesterov's form.
    ns_steps : int
        The number of iterations :math:`k`, < 100.
    ns_coefficients : str, tuple of float or list of tuples
        :math:`a`, :math:`b` and :math:`c` of every iteration, or of each, of which the last are
        repeated. By name: "quintic", those of Muon's authors; "polar_express" [3]_, eight that
        bring singular values nearer to 1, for which a matrix is first divided by 1.01 times its
        length.
    adjust_lr_fn : {None, "original", "match_rms_adamw"}
        The ratio :math:`r` for a matrix of :math:`n` rows and :math:`m` columns:
        :math:`\sqrt{\max(1, n / m)}`, or :math:`0.2 \sqrt{\max(n, m)}` with "match_rms_adamw". None
        is the authors': it differs from "original" for convolutions only, where it takes the
        height and the width of the filter for :math:`n` and :math:`m`.
    layout : {None, "conv", "stack"}
        What a parameter of more than two dimensions is: "conv", the filters of a convolution, which
        make one matrix with a row for each index of the first axis; "stack", matrices that its last
        two axes hold, each stepped by itself. None takes four dimensions for filters, as the
        authors do, and others for stacks.
    variance : bool
        Divide each row of :math:`O` by the root of an average of its mean squares, and keep the
        length of the matrix: NorMuon [4]_. With :math:`o_i` for row :math:`i`, of :math:`m`
        elements,

        .. math::

            s_{t,i} &= \beta s_{t-1,i} + (1 - \beta) \lVert o_i \rVert^2 / m, \qquad
                o'_i = o_i / (\sqrt{s_{t,i}} + 10^{-10}) \\
            O_t &\leftarrow O' \lVert O_t \rVert_F / (\lVert O' \rVert_F + 10^{-10})

        Rows are those of the parameter's last axis; the length that is kept is that of its last
        two.
    beta2 : float
        :math:`\beta` of these averages, in [0, 1].
    cautious_wd : bool
        Decay only elements that :math:`-O` brings nearer to zero: those with
        :math:`O \theta > 0`.
    maximize : bool
        Follow the gradients upwards, in all groups.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    ValueError
        If a group has no ``use_muon`` or lacks options of its kind, a parameter of a group with
        ``use_muon=True`` has fewer than two dimensions, or an option is out of range.
    TypeError
        If a group has an option of the other kind of group, or a parameter that Muon steps is
        complex.

    Notes
    -----
    State: ``momentum_buffer`` (:math:`B`) of what Muon steps, ``second_momentum_buffer``
    (:math:`s`) with `variance`; ``step``, ``exp_avg`` (:math:`m`) and
    ``exp_avg_sq`` (:math:`v`) of what Adam steps.

    ``use_muon`` of a group may be changed between steps, if the group is given the options of its
    new kind. Its parameters then get the state of that kind, which begins with zeros; that of the
    former kind stays as it is, and goes on from there if ``use_muon`` is changed back.

    Names, defaults and results are those of ``SingleDeviceMuonWithAuxAdam`` in the authors' file,
    and with `variance` those of ``SingleDeviceNorMuonWithAuxAdam``; their state dicts load here.
    There a missing gradient counts as zeros, so that momentum and decay still move the parameter;
    here it leaves the parameter as it is. There the iteration is rounded to bfloat16, and gradients
    are changed in place; here neither.

    The optimizer keeps memory for one matrix, of about three times its size and four times the
    square of its shorter side.

    References
    ----------
    .. [1] K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024.
    .. [2] J. Liu et al., "Muon is Scalable for LLM Training", 2025.
    .. [3] N. Amsel et al., "The Polar Express: Optimal Matrix Sign Methods and Their Application to
       the Muon Algorithm", 2025.
    .. [4] Z. Li et al., "NorMuon: Making Muon more efficient and scalable", 2025.

    Examples
    --------
    >>> import numpy as np
    >>> W, bias = np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([3.0, -4.0])
    >>> optimizer = MuonWithAuxAdam(
    ...     [
    ...         {"params": [W], "use_muon": True, "lr": 0.1},
    ...         {"params": [bias], "use_muon": False, "lr": 0.01},
    ...     ]
    ... )
    >>> optimizer.step(grads=[W.copy(), 2 * bias])
    >>> bias.round(6)
    array([ 2.99, -3.99])
    >>> [sorted(optimizer.state[p]) for p in (W, bias)]
    [['momentum_buffer'], ['exp_avg', 'exp_avg_sq', 'step']]
    """

    _rules: ClassVar[tuple[str, ...]] = ("adam",)
    _essential_options: ClassVar[tuple[str, ...]] = ("lr", "weight_decay", "use_muon")
    _essential_state: ClassVar[tuple[str, ...] | None] = ()

    @with_storage
    def __init__(
        self,
        params: ParamsT,
        *,
        nesterov: bool = True,
        ns_steps: int = 5,
        ns_coefficients: Coefficients = "quintic",
        adjust_lr_fn: str | None = None,
        layout: str | None = None,
        variance: bool = False,
        beta2: float = 0.95,
        cautious_wd: bool = False,
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        defaults = {
            "nesterov": nesterov,
            "ns_steps": ns_steps,
            "ns_coefficients": ns_coefficients,
            "adjust_lr_fn": adjust_lr_fn,
            "layout": layout,
            "variance": variance,
            "beta2": beta2,
            "cautious_wd": cautious_wd,
            "maximize": maximize,
            **storage,
        }
        self._check_options({"use_muon": True, **MUON, **defaults})
        super().__init__(params, defaults)

    def _defaults_for(self, group: Group, defaults: dict[str, Any]) -> dict[str, Any]:
        if "use_muon" not in group:
            return {}
        maximize = defaults.get("maximize", False)
        stored = {name: defaults[name] for name in STORAGE_OPTIONS if name in defaults}
        if not group["use_muon"]:
            return {"use_muon": False, **ADAM, "maximize": maximize, **stored}
        muon = {name: value for name, value in defaults.items() if name not in stored}
        return {"use_muon": True, **MUON, **muon}

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        if isinstance(param_group, dict) and "params" in param_group:
            self._check_kind(param_group, len(others))
        return super()._complete_group(param_group, others)

    def _check_kind(self, group: Group, number: int) -> None:
        if "use_muon" not in group:
            raise ValueError(
                f"param group {number} has no 'use_muon': write use_muon=True for matrices that "
                "Muon is to step, use_muon=False for parameters that Adam is to step"
            )
        kind = group["use_muon"]
        check_switch("use_muon", kind)
        other = self._defaults_for({"use_muon": not kind}, self.defaults)
        wrong = other.keys() - self._defaults_for(group, self.defaults).keys() & group.keys()
        members = group["params"]
        wrong &= getattr(members, "given", group.keys())
        if wrong:
            raise TypeError(
                f"param group {number} has an option {min(wrong)!r} that {type(self).__name__} "
                f"does not know where use_muon is {bool(kind)}"
            )

    def _check_options(self, group: Group) -> None:
        check_complete(group)
        if not group["use_muon"]:
            check_moments(group)
            return
        check_lr(group["lr"])
        check_at_least("momentum", group["momentum"], 0)
        check_at_least("weight_decay", group["weight_decay"], 0)
        check_iteration(group)
        check_coefficients(group["ns_coefficients"])
        check_interval("beta2", group["beta2"], 0, 1)
        layout = group["layout"]
        if not (layout is None or (isinstance(layout, str) and layout in ("conv", "stack"))):
            raise ValueError(f"layout {layout!r} is not supported: write None, 'conv' or 'stack'")

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        labels = iter(labels_of(groups))
        for group in groups:
            for param, label in zip(group["params"], labels, strict=False):
                shape = getattr(param, "shape", (0, 0))
                if group.get("use_muon") and len(shape) < 2:
                    self._refuse_shape(label, tuple(shape))
        return super()._make_plan(groups, state)

    def _divisor(self, group: Group) -> tuple[float, float]:
        return 0.0, 1e-7  # a group that was Adam's has Adam's eps

    def _refuse_shape(self, label: str, shape: tuple[int, ...]) -> None:
        raise ValueError(
            f"{label} has shape {shape}, expected two dimensions or more where use_muon is True: "
            "put it into a group with use_muon=False"
        )

    def _rule_of(self, group: Group) -> str | None:
        check_complete(group)
        return None if group["use_muon"] else "adam"

    def _state_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        if name == "second_momentum_buffer" and shape:
            return (*shape[:-1], 1)
        return shape if name == "momentum_buffer" else None

    def _lacks(self, shape: tuple[int, ...], entries: Mapping[str, Any], group: Group) -> list[str]:
        needed = [] if entries.get("second_momentum_buffer") is None else ["momentum_buffer"]
        if ADAM_STATE & entries.keys():
            needed += sorted(ADAM_STATE)
        return [name for name in needed if entries.get(name) is None]


def check_complete(group: Group) -> None:
    """Refuse a group without the options of its kind, which may have been changed."""
    kind = group.get("use_muon")
    check_switch("use_muon", kind)
    needed = OF_MUON if kind else OF_ADAM
    if not needed <= group.keys():
        missing = sorted(needed - group.keys())
        raise ValueError(
            f"{missing[0]!r} is missing, with use_muon={bool(kind)}: a group that changes its kind "
            f"needs the options of the other, here {', '.join(map(repr, missing))}"
        )
