"""Parameter groups made by rules over names."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from cyoptim._arrays.containers import is_record
from cyoptim._arrays.doors import is_parameter, type_name, view_parameter
from cyoptim._arrays.trees import named_leaves
from cyoptim._groups.names import is_tree
from cyoptim._groups.numbers import plain
from cyoptim._types import Group

# A substring of a name, a largest number of dimensions, or a function of name and parameter.
Rule: TypeAlias = str | int | Callable[[str, Any], bool]


def param_groups(
    named_params: Any,
    *,
    lr: float | None = None,
    no_decay: Rule | Iterable[Rule] = (),
    layer_decay: float | None = None,
    lr_scale: Mapping[str, float] | Callable[[str, Any], float] | None = None,
    muon: Mapping[str, Any] | None = None,
    not_muon: Rule | Iterable[Rule] = (),
) -> list[Group]:
    r"""Groups for an optimizer, by rules over the names of the parameters.

    A parameter of layer :math:`k` of :math:`0, \dots, n` gets the learning rate
    :math:`\gamma \, d^{\,n - k} \, s`, where :math:`d` is `layer_decay` and :math:`s` the product
    of its factors in `lr_scale`. Parameters with equal options come into the same group.

    Parameters
    ----------
    named_params : mapping, iterable or module
        A tree of parameters, with names as :func:`cyoptim.named_leaves` gives them;
        ``(name, parameter)`` pairs; or anything with a method ``named_parameters()``, such as a
        torch module.
    lr : float, optional
        Learning rate :math:`\gamma` of the last layer. Required with `layer_decay` or `lr_scale`;
        without it, the groups have the optimizer's own rate.
    no_decay : str, int, callable, or several of them
        The parameters without weight decay: a str selects names that contain it, in any case; an
        int, parameters of at most that many dimensions; a function, those for which
        ``no_decay(name, parameter)`` is true.
    layer_decay : float, optional
        Factor :math:`d > 0` from a layer to the one below. The number of the layer is the first
        number between dots in a name, as in ``blocks.3.weight``; parameters without one form two
        further layers: the lowest if they come before the first parameter with a number, and the
        highest if after.
    lr_scale : mapping or callable, optional
        Factors >= 0 by substrings of names, or ``lr_scale(name, parameter)``.
    muon : mapping, optional
        For :class:`cyoptim.MuonWithAuxAdam`: the options of the groups of all parameters of two
        dimensions or more, which get ``use_muon=True``; all others get ``use_muon=False``. Its
        ``lr`` takes the place of `lr` there, and is scaled as that is.
    not_muon : str, int, callable, or several of them
        The parameters that get ``use_muon=False`` whatever their dimensions, such as embeddings and
        the last layer; selected as by `no_decay`.

    Returns
    -------
    list of dict
        For an optimizer's `params`: with names, and ``weight_decay`` 0 for groups without it.

    Raises
    ------
    TypeError
        If an entry of `named_params` is not a parameter or has no name, or a rule has a wrong type.
    ValueError
        If there are no parameters, a factor is out of range, `lr` is missing, no name contains a
        substring of `no_decay`, `lr_scale` or `not_muon`, or there are no layers.

    References
    ----------
    .. [1] K. Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than
       Generators", ICLR 2020, for learning rates that decay from layer to layer.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> net = {"0": {"W": np.ones((2, 2)), "b": np.ones(2)}, "1": {"W": np.ones((2, 1))}}
    >>> groups = param_groups(net, lr=0.1, no_decay=1, layer_decay=0.5)
    >>> for group in cyoptim.AdamW(groups, weight_decay=0.01).param_groups:
    ...     print(group["param_names"], group["lr"], group["weight_decay"])
    ['0.W'] 0.05 0.01
    ['0.b'] 0.05 0.0
    ['1.W'] 0.1 0.01
    >>> for group in param_groups(net, lr=1e-3, muon={"lr": 0.02}, not_muon="1."):
    ...     print([name for name, _ in group["params"]], group["use_muon"], group["lr"])
    ['0.W'] True 0.02
    ['0.b', '1.W'] False 0.001
    """
    named = _named(named_params)
    lr, layer_decay = _checked_scales(lr, layer_decay, lr_scale)
    exempt = _selected(named, no_decay, "no_decay")
    muon, matrices = _checked_muon(named, muon, not_muon)
    scales = [1.0] * len(named)
    if layer_decay is not None:
        layers = _layers([name for name, _ in named])
        scales = [layer_decay ** (max(layers) - layer) for layer in layers]
    if lr_scale is not None:
        scales = [a * b for a, b in zip(scales, _scales(named, lr_scale), strict=True)]
    groups: dict[tuple[bool, float, bool], Group] = {}
    for pair, undecayed, scale, matrix in zip(named, exempt, scales, matrices, strict=True):
        options: Group = {"params": []}
        if muon is not None:
            options.update(muon if matrix else {}, use_muon=matrix)
        rate = options.get("lr", lr)
        if rate is not None:
            options["lr"] = rate * scale
        if undecayed:
            options["weight_decay"] = 0.0
        groups.setdefault((undecayed, scale, matrix), options)["params"].append(pair)
    return list(groups.values())


def _checked_muon(
    named: list[tuple[str, Any]], options: Any, rules: Rule | Iterable[Rule]
) -> tuple[dict[str, Any] | None, list[bool]]:
    """The options of Muon's groups, and which parameters are to be in them."""
    if options is None:
        if not isinstance(rules, tuple) or rules:
            raise ValueError("not_muon needs muon, the options of the other parameters")
        return None, [False] * len(named)
    if not isinstance(options, Mapping):
        raise TypeError(f"muon must be a dict of options, got {type_name(options)}")
    options = dict(options)
    for name in {"params", "param_names", "use_muon"} & options.keys():
        raise ValueError(f"muon holds {name!r}, which the groups get from their parameters")
    if "lr" in options:
        options["lr"] = _factor("muon['lr']", options["lr"])
    others = _selected(named, rules, "not_muon")
    return options, [
        not other and view_parameter(param, repr(name))[1].ndim >= 2
        for (name, param), other in zip(named, others, strict=True)
    ]


def _named(params: Any) -> list[tuple[str, Any]]:
    if hasattr(params, "named_parameters"):
        params = params.named_parameters()
    if isinstance(params, Mapping) or is_record(params):
        named = list(named_leaves(params))
    else:
        try:
            named = list(params)
        except TypeError:
            raise TypeError(
                f"named_params must be a dict, pairs or a module, got {type_name(params)}"
            ) from None
        if is_tree(named):
            named = list(named_leaves(named))
    if not named:
        raise ValueError("named_params holds no parameters")
    for entry in named:
        if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)):
            raise TypeError(
                f"named_params must hold (name, parameter) pairs, got {type_name(entry)}"
            )
        if not is_parameter(entry[1]):
            raise TypeError(f"{entry[0]!r} in named_params is no parameter: {type_name(entry[1])}")
    return named


def _checked_scales(lr: Any, layer_decay: Any, lr_scale: Any) -> tuple[Any, Any]:
    if lr is None and (layer_decay is not None or lr_scale is not None):
        given = "layer_decay" if layer_decay is not None else "lr_scale"
        raise ValueError(f"{given} needs lr, the learning rate that it scales")
    if lr is not None:
        lr = _factor("lr", lr)
    if layer_decay is not None:
        layer_decay = _factor("layer_decay", layer_decay)
        if layer_decay == 0:
            raise ValueError("layer_decay must be greater than 0, got 0")
    return lr, layer_decay


def _factor(name: str, value: Any) -> Any:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type_name(value)}")
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be finite and at least 0, got {value}")
    return value


def _selected(
    named: list[tuple[str, Any]], rules: Rule | Iterable[Rule], argument: str
) -> list[bool]:
    """Which parameters a rule selects, or one of several."""
    if isinstance(rules, (str, int)) or callable(rules):
        rules = (rules,)
    found = [False] * len(named)
    for rule in rules:
        matches = [_matches(rule, name, param, argument) for name, param in named]
        if isinstance(rule, str) and not any(matches):
            raise _nowhere(argument, rule, named)
        found = [a or b for a, b in zip(found, matches, strict=True)]
    return found


def _matches(rule: Rule, name: str, param: Any, argument: str) -> bool:
    if isinstance(rule, str):
        return rule.lower() in name.lower()
    if isinstance(rule, int) and not isinstance(rule, bool):
        return view_parameter(param, repr(name))[1].ndim <= rule
    if callable(rule):
        return bool(rule(name, param))
    raise TypeError(f"{argument} takes names, numbers of dimensions and functions, got {rule!r}")


def _scales(named: list[tuple[str, Any]], rules: Any) -> list[float]:
    if not isinstance(rules, Mapping):
        if not callable(rules):
            raise TypeError(f"lr_scale must be a mapping or a function, got {type_name(rules)}")
        return [_factor(f"lr_scale of {name!r}", rules(name, param)) for name, param in named]
    scales = [1.0] * len(named)
    for substring, factor in rules.items():
        factor = _factor(f"lr_scale[{substring!r}]", factor)
        matches = [_matches(str(substring), name, param, "lr_scale") for name, param in named]
        if not any(matches):
            raise _nowhere("lr_scale", str(substring), named)
        scales = [s * factor if match else s for s, match in zip(scales, matches, strict=True)]
    return scales


def _nowhere(argument: str, substring: str, named: list[tuple[str, Any]]) -> ValueError:
    some = ", ".join(name for name, _ in named[:5]) + (", ..." if len(named) > 5 else "")
    return ValueError(f"{argument}: {substring!r} is in no name; there are {some}")


def _layers(names: list[str]) -> list[int]:
    """The layer of each name, numbered from 0 without gaps."""
    numbers = [next((int(p) for p in name.split(".") if p.isdecimal()), None) for name in names]
    known = [number for number in numbers if number is not None]
    if not known:
        raise ValueError(
            f"layer_decay: no name has the number of a layer between dots, such as {names[0]!r}"
        )
    first = numbers.index(known[0])
    below, above = min(known) - 1, max(known) + 1
    found = [
        number if number is not None else below if i < first else above
        for i, number in enumerate(numbers)
    ]
    rank = {layer: k for k, layer in enumerate(sorted(set(found)))}
    return [rank[layer] for layer in found]
