"""A NumPy array with a gradient beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from cyoptim._engine import ParameterBase


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, Parameter) else value


class Parameter(ParameterBase, NDArrayOperatorsMixin):
    """An array to be optimized, with a slot for its gradient.

    The array is not copied: optimizers change it in place. In NumPy expressions a Parameter acts
    as its array, and results are plain arrays; attributes that it has not (``shape``, ``T``,
    ``sum``, ...) are those of the array. It is hashable by identity.

    Parameters
    ----------
    data : ndarray
        The values, float32 or float64 to be optimized. A Parameter gives its own array.
    grad : ndarray, optional
        The gradient, of the same shape and dtype.

    Attributes
    ----------
    data : ndarray
        The array that optimizers change.
    grad : ndarray or None
        The gradient that the next step uses; None: the step leaves this parameter alone.

    Raises
    ------
    TypeError
        If `data` is not an ndarray, or `grad` neither an ndarray nor None.

    Examples
    --------
    >>> import numpy as np
    >>> W = Parameter(np.ones((2, 2), dtype=np.float32))
    >>> W @ np.array([1.0, 2.0], dtype=np.float32)
    array([3., 3.], dtype=float32)
    >>> W.grad = np.zeros((2, 2), dtype=np.float32)
    >>> W.shape
    (2, 2)
    """

    data: npt.NDArray[Any]
    grad: npt.NDArray[Any] | None

    def __array__(
        self, dtype: npt.DTypeLike | None = None, copy: bool | None = None
    ) -> npt.NDArray[Any]:
        if dtype is None or np.dtype(dtype) == self.data.dtype:
            return self.data.copy() if copy else self.data
        if copy is False:
            raise ValueError(f"a {self.data.dtype} Parameter becomes {dtype} only by a copy")
        return self.data.astype(dtype)

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any
    ) -> Any:
        if out is not None:
            kwargs["out"] = tuple(_plain(o) for o in out)
        result = getattr(ufunc, method)(*(_plain(x) for x in inputs), **kwargs)
        # `W += x` must leave W the Parameter that it was.
        if out is not None and len(out) == 1:
            return out[0]
        return result

    # The mixin's element-wise == takes hashing away; parameters are keys by identity.
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.data, name)

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[index] = _plain(value)

    def __len__(self) -> int:
        return len(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __repr__(self) -> str:
        return f"Parameter({np.array2string(self.data, separator=', ', prefix='Parameter(')})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.data, self.grad)


def _rebuild(cls: type[Parameter], data: Any, grad: Any) -> Parameter:
    return cls(data, grad=grad)
