"""Adam-mini."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, ClassVar, Unpack

from cyoptim._arrays.doors import is_tensor
from cyoptim._engine import Plan
from cyoptim._groups.groups import as_groups, labels_of, parameters_of
from cyoptim._groups.names import split_names
from cyoptim._groups.options import check_finite, check_moments, check_switch
from cyoptim._groups.storage import StorageOptions, with_storage
from cyoptim._state.mapping import State
from cyoptim._types import Group, ParamsT, StateDict
from cyoptim._warnings import warn
from cyoptim.optimizer import Optimizer

UNITS = ("element", "head", "row", "tensor")

Names = Iterable[str]


class AdamMini(Optimizer):
    r"""Adam-mini: Adam with one average of squares for each row, head or tensor.

    .. math::

        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) d_t, \qquad d_t = \pm g_t \\
        v_t &= \beta_2 v_{t-1} + (1 - \beta_2) \operatorname{mean}(d_t^2) \\
        \theta_t &= (1 - \gamma \lambda) \theta_{t-1} - \frac{\gamma}{1 - \beta_1^t}
            \frac{m_t}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}

    The mean is over a unit, which has one number :math:`v`. The name of a parameter, in lower case,
    says which its units are; the first line that fits applies:

    - a piece of `adam_block_names`: each element, so the step is Adam's;
    - of `wqk_names`: heads, `dim` :math:`\cdot` `dim` / `n_heads` elements each in C order;
    - of `embd_names`, `output_names`, `wv_names`, `mlp_names` or `attn_proj_names`: rows, those of
      one index of the first axis (a vector is one row);
    - none: the whole parameter.

    Each named parameter becomes a group, with its kind of unit as the option ``unit``: "element",
    "head", "row" or "tensor". Parameters with "norm", "ln" or "bias" in their names are not
    decayed.

    Parameters
    ----------
    named_parameters : iterable
        ``(name, parameter)`` pairs, such as ``model.named_parameters()``, a tree, or group dicts
        of them; see :class:`cyoptim.Optimizer`. A group that has ``unit`` needs no names.
    lr : float
        Learning rate :math:`\gamma`, >= 0.
    betas : tuple of float
        :math:`\beta_1, \beta_2`, in [0, 1).
    eps : float
        :math:`\epsilon`, >= 0.
    weight_decay : float
        Decoupled decay :math:`\lambda`, >= 0. A group's own applies whatever its names.
    model_sharding : bool, optional
        Has no effect, and warns, as in the authors' code.
    dim : int
        The width of the transformer.
    n_heads : int
        The number of its heads.
    n_kv_heads : int, optional
        The number of heads of keys and values, which must divide `n_heads`. It changes nothing
        else: their heads have as many elements.
    verbose : bool
        Print the name, shape and unit of each parameter.
    embd_names, output_names, wqk_names, wv_names : iterable of str
        Pieces of names, in lower case.
    attn_proj_names, mlp_names, adam_block_names : iterable of str
        Likewise.
    maximize : bool
        Follow the gradient upwards.
    state_dtype, master, rounding, seed
        How parameters and state are stored in fewer bits: see :class:`cyoptim.StorageOptions`.

    Raises
    ------
    TypeError
        If a parameter has no name, and its group no ``unit``.
    ValueError
        If a parameter with heads is not made of whole heads, if the parameters of a group that is
        added differ in their units or in their decay, or if an option is out of range.

    Notes
    -----
    State: ``step``, ``m``, and ``vmean``, float64 numbers whatever the parameter's type: of shape
    (heads, 1), (rows, 1), or () for a tensor; ``v``, an array, where each element is a unit.

    Names, defaults and states are those of the authors' ``Adam_mini``, but for `verbose`, which is
    True there; state dicts go both ways where parameters are torch tensors. There the lists of
    names are attributes, read in each step: here they are arguments, and `unit` may be changed by
    hand. There `n_heads` need not divide the square of `dim` until a step finds heads, rows are
    those of matrices only, and parameters that need no gradient have no group.

    References
    ----------
    .. [1] Y. Zhang et al., "Adam-mini: Use Fewer Learning Rates To Gain More", ICLR 2025,
       arXiv:2406.16793.

    Examples
    --------
    >>> import numpy as np
    >>> W, scale = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([1.0])
    >>> optimizer = AdamMini([("mlp.weight", W), ("norm.weight", scale)], lr=0.1)
    >>> optimizer.step(grads=[W.copy(), scale.copy()])
    >>> W.round(3)
    array([[2.915, 3.887],
           [0.859, 0.   ]])
    >>> [group["unit"] for group in optimizer.param_groups]
    ['row', 'tensor']
    >>> optimizer.state[W]["vmean"].round(4)
    array([[0.0125],
           [0.0005]])
    """

    _rules: ClassVar[tuple[str, ...]] = tuple(f"adam_mini_{unit}" for unit in UNITS)
    _essential_options: ClassVar[tuple[str, ...] | None] = ("lr", "betas", "eps", "weight_decay")
    _essential_state: ClassVar[tuple[str, ...] | None] = ("step", "m")
    _step_type: ClassVar[type | None] = int
    _foreign_state: ClassVar[tuple[str, ...]] = (
        "head_per_gpu",
        "neuron_per_gpu",
        "reduced",
        "block_numel",
    )
    _takes_complex: ClassVar[bool] = False

    @with_storage
    def __init__(
        self,
        named_parameters: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        model_sharding: bool | None = None,
        dim: int = 2048,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        verbose: bool = False,
        embd_names: Names = ("embed", "embd", "wte"),
        output_names: Names = ("lm_head", "output", "final_layer"),
        wqk_names: Names = ("k_proj", "q_proj", "wq", "wk", "query", "key"),
        wv_names: Names = ("v_proj", "wv", "value"),
        attn_proj_names: Names = ("o_proj", "wo", "attn.proj"),
        mlp_names: Names = ("feed_forward", "linear", "mlp"),
        adam_block_names: Names = ("bias",),
        maximize: bool = False,
        **storage: Unpack[StorageOptions],
    ) -> None:
        if model_sharding is not None:
            check_switch("model_sharding", model_sharding)
            warn("model_sharding has no effect in AdamMini: leave it out")
        check_switch("verbose", verbose)
        rows = {
            "embd_names": embd_names,
            "output_names": output_names,
            "wv_names": wv_names,
            "mlp_names": mlp_names,
            "attn_proj_names": attn_proj_names,
        }
        pieces = [_pieces(name, value) for name, value in rows.items()]
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "head_numel": _head_size(dim, n_heads, n_kv_heads),
            "maximize": maximize,
            # By the kind of unit, in the order in which they are tried.
            "unit_names": {
                "element": _pieces("adam_block_names", adam_block_names),
                "head": _pieces("wqk_names", wqk_names),
                "row": tuple(piece for found in pieces for piece in found),
            },
            **storage,
        }
        self._check_options({**defaults, "unit": "element"})
        super().__init__(_one_each(named_parameters, type(self).__name__), defaults)
        if verbose:
            self._print_units()

    def _print_units(self) -> None:
        labels = iter(labels_of(self.param_groups))
        for group in self.param_groups:
            for param in group["params"]:
                shape = tuple(getattr(param, "shape", ()))
                print(f"AdamMini: {next(labels)}, of shape {shape}, by {group['unit']}")

    def _defaults_for(self, group: Group, defaults: dict[str, Any]) -> dict[str, Any]:
        own = {name: value for name, value in defaults.items() if name != "unit_names"}
        if "unit" in group:
            return {**own, "unit": group["unit"]}
        names = _names_of(group)
        if not names:
            raise TypeError(
                f"{type(self).__name__} needs the names of its parameters, which say how many "
                "numbers each has: write AdamMini(model.named_parameters()) or "
                "AdamMini([('mlp.weight', parameter), ...]), or give the group a 'unit': "
                f"{_listed(UNITS)}"
            )
        own["unit"] = _common(names, "unit", lambda name: _unit(name, defaults["unit_names"]))
        if "weight_decay" not in group and _common(names, "weight_decay", _is_undecayed):
            own["weight_decay"] = 0.0
        return own

    def _complete_group(self, param_group: Group, others: list[Group]) -> Group:
        members = param_group.get("params") if isinstance(param_group, dict) else None
        if isinstance(members, Iterator):  # which is to be read twice
            param_group = {**param_group, "params": list(members)}
        return super()._complete_group(param_group, others)

    def _check_options(self, group: Group) -> None:
        check_moments(group)
        _check_unit(group["unit"])
        _check_whole("head_numel", group["head_numel"])

    def _make_plan(self, groups: list[Group], state: State) -> Plan:
        labels = iter(labels_of(groups))
        for group in groups:
            for param, label in zip(group["params"], labels, strict=False):
                shape = tuple(getattr(param, "shape", ()))
                if group.get("unit") == "head" and prod(shape) % group["head_numel"]:
                    raise ValueError(
                        f"{label} has shape {shape}, expected whole heads of "
                        f"{group['head_numel']} elements (dim * dim / n_heads): give dim and "
                        "n_heads, or put it into a group of its own with another 'unit'"
                    )
        return super()._make_plan(groups, state)

    def _rule_of(self, group: Group) -> str:
        _check_unit(group["unit"])
        return f"adam_mini_{group['unit']}"

    def _lacks(
        self, shape: tuple[int, ...], entries: Mapping[str, Any], group: Group
    ) -> tuple[str, ...]:
        # A unit that was written after the last step begins its own average; the other is there.
        kept = any(entries.get(name) is not None for name in ("v", "vmean"))
        if kept or entries.get("m") is None:
            return ()
        return ("v",) if group["unit"] == "element" else ("vmean",)

    # --- state dicts of the authors' class --------------------------------------------------------

    def _own_form(self, state_dict: StateDict) -> StateDict:
        saved = list(state_dict["param_groups"])
        state = dict(state_dict["state"])
        for number, group in enumerate(saved):
            if isinstance(group, dict) and {"params", "beta1", "beta2"} <= group.keys():
                mine = self._same_group(group, number)
                saved[number] = _own_options(group, mine)
                _take_shapes(state, group["params"], mine)
        return {**state_dict, "state": state, "param_groups": saved}

    def _same_group(self, group: Group, number: int) -> Group:
        """The group that a saved one will be loaded into: by its names, or its number."""
        names = group.get("param_names")
        for mine in self.param_groups:
            if isinstance(names, (list, tuple)) and [*names] == mine.get("param_names"):
                return mine
        return self.param_groups[number] if number < len(self.param_groups) else {}

    def _export(self) -> StateDict:
        state_dict = super()._export()
        params = list(parameters_of(self.param_groups))
        if all(map(is_tensor, params)):
            for group in state_dict["param_groups"]:
                _add_what_theirs_reads(group, state_dict["state"])
        return state_dict


# What a parameter without a name is called there, so that it has the same units.
_THEIR_NAMES = {"element": "bias", "head": "query", "row": "linear", "tensor": "scale"}


def _own_options(group: Group, mine: Group) -> Group:
    """A group of theirs with the names of ours; its units are those of our group."""
    foreign = {"beta1", "beta2"} if "name" in mine else {"beta1", "beta2", "name"}
    kept: Group = {name: mine[name] for name in ("unit", "head_numel", "maximize") if name in mine}
    betas = (group["beta1"], group["beta2"])
    return {**kept, "betas": betas, **_without(group, foreign)}


def _take_shapes(state: dict[Any, Any], keys: Any, mine: Group) -> None:
    """Give averages that theirs keeps with a row for each head the shapes of their parameters."""
    if not isinstance(keys, (list, tuple)):
        return  # refused later
    for key, param in zip(keys, mine.get("params", ()), strict=False):
        entries = state.get(key) if isinstance(key, Hashable) else None
        if isinstance(entries, dict) and hasattr(entries.get("m"), "reshape"):
            shape = tuple(getattr(param, "shape", ()))
            if prod(entries["m"].shape) == prod(shape):
                state[key] = {**entries, "m": entries["m"].reshape(shape)}


def _without(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _add_what_theirs_reads(group: Group, state: dict[Any, Any]) -> None:
    group["beta1"], group["beta2"] = group["betas"]
    names = group.get("param_names") or [_THEIR_NAMES[group["unit"]]]
    group.setdefault("name", str(names[0]).lower())
    for key in group["params"]:
        entries = state.get(key)
        if not entries or group["unit"] == "element":
            continue
        if group["unit"] == "tensor":
            entries.update(reduced=False, block_numel=float(entries["m"].numel()))
        elif group["unit"] == "row":
            entries["neuron_per_gpu"] = entries["vmean"].shape[0]
        else:
            entries["m"] = entries["m"].reshape(-1, group["head_numel"])
            entries["head_per_gpu"] = entries["vmean"].shape[0]


# --- names ----------------------------------------------------------------------------------------


def _one_each(params: ParamsT, optimizer: str) -> Any:
    """Groups of one named parameter each; groups that say their unit are left as they are."""
    groups: list[Any] = []
    found = as_groups(params, optimizer)
    for group in found:
        if not isinstance(group, dict) or "params" not in group or "unit" in group:
            groups.append(group)
            continue
        if isinstance(group["params"], Iterator):
            group = {**group, "params": list(group["params"])}
        members, _ = split_names(group["params"])
        names = _names_of(group)
        if len(members) != len(names) or ("param_names" in group and len(names) < 2):
            groups.append(group)  # refused later if it has no names
            continue
        options = _without(group, ("params", "param_names"))
        groups += [{**options, "params": [pair]} for pair in zip(names, members, strict=True)]
    return params if groups == found and isinstance(params, list) else groups


def _names_of(group: Group) -> list[str]:
    _, names = split_names(group.get("params", ()))
    return [str(name) for name in names or group.get("param_names", ())]


def _unit(name: str, names: Mapping[str, tuple[str, ...]]) -> str:
    for unit, pieces in names.items():
        if any(piece in name.lower() for piece in pieces):
            return unit
    return "tensor"


def _is_undecayed(name: str) -> bool:
    return any(piece in name.lower() for piece in ("norm", "ln", "bias"))


def _common(names: list[str], what: str, value_of: Any) -> Any:
    """What all parameters of a group have by their names."""
    values = {name: value_of(name) for name in names}
    first, *others = values
    for name in others:
        if values[name] != values[first]:
            raise ValueError(
                f"parameters {first!r} and {name!r} of a group have not the same {what!r} by their "
                f"names: give each a group of its own, or the group a {what!r}"
            )
    return values[first]


def _check_unit(value: Any) -> None:
    if not (isinstance(value, str) and value in UNITS):
        raise ValueError(f"unit {value!r} is not supported: write {_listed(UNITS)}")


def _pieces(name: str, value: Any) -> tuple[str, ...]:
    pieces = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (None,)
    if not all(isinstance(piece, str) for piece in pieces):
        raise TypeError(
            f"{name} must be pieces of names, got {value!r}: write a tuple of them, or () for none"
        )
    return tuple(sorted(pieces))


def _listed(words: Iterable[str]) -> str:
    *first, last = map(repr, words)
    return f"{', '.join(first)} or {last}"


def _check_whole(name: str, value: Any) -> None:
    check_finite(name, value)
    if not (value >= 1 and value == int(value)):
        raise ValueError(f"Invalid {name} value: {value} (expected a whole number >= 1)")


def _head_size(dim: Any, n_heads: Any, n_kv_heads: Any) -> int:
    """The elements of a head."""
    _check_whole("dim", dim)
    _check_whole("n_heads", n_heads)
    if n_kv_heads is not None:
        _check_whole("n_kv_heads", n_kv_heads)
        if n_heads % n_kv_heads:
            raise ValueError(
                f"Invalid n_kv_heads value: {n_kv_heads} (expected a divisor of n_heads, {n_heads})"
            )
    if dim * dim % n_heads:
        raise ValueError(
            f"Invalid n_heads value: {n_heads} (expected a divisor of dim * dim, {dim * dim})"
        )
    return int(dim * dim // n_heads)
