"""All parameters as one vector, and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from cyoptim._arrays.doors import (
    check_array,
    foreign_array,
    is_distributed,
    is_tensor,
    type_name,
    view_parameter,
)
from cyoptim._arrays.rounding import rounded
from cyoptim._engine import Commit, together, widened
from cyoptim._groups.names import split_names
from cyoptim._types import Array

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Any) -> Any:
    """Copy parameters, one after the other and each in C order, into one vector.

    Parameters
    ----------
    parameters : parameter, iterable of parameters, or tree
        What :class:`cyoptim.Optimizer` takes, without groups, at least one.

    Returns
    -------
    ndarray or torch.Tensor
        A tensor if the parameters are. Of parameters of several dtypes in the widest; of float16
        beside bfloat16 in float32.

    Raises
    ------
    TypeError, ValueError
        If there is no parameter, or an entry that is not a parameter.

    Examples
    --------
    >>> import numpy as np
    >>> parameters_to_vector([np.ones((2, 1)), np.zeros(1)])
    array([1., 1., 0.])
    """
    params = split_names(parameters)[0]
    views = _views(params)
    vector = together("read", "parameters_to_vector()", [], views, _joined, views)
    if not is_tensor(params[0]):
        return vector
    from cyoptim._libraries.torch import as_tensor

    return as_tensor(vector)


def vector_to_parameters(vec: Any, parameters: Any) -> None:
    """Copy the elements of a vector into parameters, in place.

    Parameters
    ----------
    vec : ndarray or torch.Tensor
        As :func:`parameters_to_vector` makes it.
    parameters : parameter, iterable of parameters, or tree
        The parameters that get its elements, in order.

    Raises
    ------
    TypeError, ValueError
        If `vec` is not a vector with the total number of elements of the parameters. Then nothing
        changes.

    Examples
    --------
    >>> import numpy as np
    >>> W, b = np.zeros((2, 1)), np.zeros(1)
    >>> vector_to_parameters(np.array([1.0, 2.0, 3.0]), [W, b])
    >>> b
    array([3.])
    """
    if not isinstance(vec, np.ndarray) and not is_tensor(vec):
        raise TypeError(f"expected torch.Tensor or numpy.ndarray, but got: {type_name(vec)}")
    values = foreign_array(vec, "vec")
    check_array(values, "vec")
    views = _views(split_names(parameters)[0])
    size = sum(view.size for view in views)
    if values.shape != (size,):
        raise ValueError(f"vec has shape {values.shape}, expected ({size},)")
    together("touch", "vector_to_parameters()", [], views, _put, values, views)


def _joined(views: list[Array]) -> Array:
    dtype = views[0].dtype
    if any(view.dtype != dtype for view in views):
        views = [widened(view) for view in views]
        dtype = np.result_type(*views)
    # An array that NumPy makes by itself may lack what marks a type that it does not know.
    vector = np.empty(sum(view.size for view in views), dtype)
    return np.concatenate([view.ravel() for view in views], out=vector)


def _put(values: Array, views: list[Array]) -> None:
    if any(np.may_share_memory(values, view) for view in views):
        values = values.copy()
    commit, start = Commit(), 0
    for view in views:
        part = values[start : start + view.size].reshape(view.shape)
        commit.copy(view, rounded(part, view.dtype))
        start += view.size
    commit.run()


def _views(params: list[Any]) -> list[Array]:
    if not params:
        raise ValueError("expected at least one parameter")
    for i, param in enumerate(params):
        if is_distributed(param):
            foreign_array(param, f"parameter {i}")  # which raises
    views = [view_parameter(param, f"parameter {i}")[1] for i, param in enumerate(params)]
    return [np.asarray(view) for view in views]  # without the behaviour of a subclass
