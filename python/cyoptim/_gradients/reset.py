"""Resets gradients: to None, or to zeros."""

from __future__ import annotations

import numpy as np

from cyoptim._arrays.sparse import values_to_zero
from cyoptim._engine import Commit
from cyoptim._gradients.aligned import check_droppable
from cyoptim._gradients.sums import Sums
from cyoptim._groups.groups import labels_of, parameters_of
from cyoptim._types import Group


def reset_gradients(groups: list[Group], sums: Sums, set_to_none: bool) -> None:
    """Set the gradients of all parameters to None, or fill them with zeros; and drop their sums."""
    holders = [
        (param, label)
        for param, label in zip(parameters_of(groups), labels_of(groups), strict=True)
        if not isinstance(param, np.ndarray) and param.grad is not None
    ]
    if set_to_none:
        check_droppable([param for param, _ in holders])
        sums.drop([param for param, _ in holders])
        return
    commit = Commit()
    commit.update(vars(sums), sums.forgotten())
    for param, label in holders:
        commit.zero(values_to_zero(param.grad, f"gradient of {label}"))
    commit.run()
