"""A NumPy array with a gradient beside it."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from cyoptim._arrays.doors import attribute_hint
from cyoptim._engine import ParameterBase
from cyoptim._shown import table

# Looked up on the object, not on its type; all other names with underscores are Python's own.
_PROTOCOLS = frozenset(
    {"__array_interface__", "__array_struct__", "__dlpack__", "__dlpack_device__"}
)


def _plain(value: Any) -> Any:
    return value.data if isinstance(value, ParameterBase) else value


class _ArrayOperators(NDArrayOperatorsMixin):
    """The operators of the array, which let an operand with operators of higher priority go first.

    The mixin, used here for its types, checks only ``__array_ufunc__``; SciPy's sparse
    arrays have ``__array_priority__``.
    """

    __slots__ = ()


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, *others: function(self.data, *map(_plain, others))


def _reflected(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: function(_plain(other), self.data)


def _in_place(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def change(self: Any, other: Any) -> Any:
        result = function(self.data, _plain(other))
        if result is not self.data:  # the operand's own; W must stay the Parameter that it was
            self.data[...] = result.toarray() if hasattr(result, "toarray") else result
        return self

    return change


for _name in ("lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert"):
    setattr(_ArrayOperators, f"__{_name}__", _forward(getattr(operator, _name)))
for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift",
              "rshift", "and_", "xor", "or_"):  # fmt: skip
    _bare = _name.rstrip("_")
    setattr(_ArrayOperators, f"__{_bare}__", _forward(getattr(operator, _name)))
    setattr(_ArrayOperators, f"__r{_bare}__", _reflected(getattr(operator, _name)))
    setattr(_ArrayOperators, f"__i{_bare}__", _in_place(getattr(operator, f"i{_bare}")))
setattr(_ArrayOperators, "__divmod__", _forward(divmod))  # noqa: B010
setattr(_ArrayOperators, "__rdivmod__", _reflected(divmod))  # noqa: B010


class Parameter(ParameterBase, _ArrayOperators):
    """An array to be optimized, with an attribute for its gradient.

    The array is not copied: optimizers change it in place. In NumPy expressions a Parameter acts
    as its array, and results are plain arrays; other attributes (``shape``, ``T``,
    ``sum``, ...) are those of the array. It is hashable by identity.

    Parameters
    ----------
    data : ndarray
        The values; optimizers take float32, float64, the complex types of these, float16, and
        bfloat16 of ml_dtypes. A Parameter stands for its array.
    grad : ndarray or sparse gradient, optional
        The gradient, of the same shape and dtype; of 16-bit parameters it may be float32, too.
    dtype : str or dtype, optional
        Copy `data` into an array of this type, rounded to nearest, such as "bfloat16".

    Attributes
    ----------
    data : ndarray
        The array that optimizers change.
    grad : ndarray or None
        The gradient that the next step uses; None: the step skips this parameter.

    Raises
    ------
    TypeError
        If `data` is not an ndarray, or `grad` neither an ndarray, a sparse gradient nor None; or
        for a masked array, as the values under its mask would be used; or if optimizers do not
        take `dtype`.
    ImportError
        If `dtype` is bfloat16, and ml_dtypes is not installed, without which NumPy does not compute
        with it.
    AttributeError
        If an unknown attribute is set, such as ``gard``. A subclass may have its own.

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

    __slots__ = ()

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
        kwargs = {name: _plain(value) for name, value in kwargs.items()}
        result = getattr(ufunc, method)(*(_plain(x) for x in inputs), **kwargs)
        # `W += x` must leave W the Parameter that it was.
        if out is not None and len(out) == 1:
            return out[0]
        return result

    # The element-wise == disables hashing; parameters are keys by identity.
    __hash__ = object.__hash__

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in _PROTOCOLS:
            raise AttributeError(name)
        # Of a type that NumPy lacks they would tell its size alone.
        if name in ("__array_interface__", "__array_struct__") and self.data.dtype.kind == "V":
            raise AttributeError(name)
        try:
            return getattr(self.data, name)
        except AttributeError:
            raise AttributeError(
                f"a Parameter has no attribute {name!r}{attribute_hint(name)}"
            ) from None

    def __getitem__(self, index: Any) -> Any:
        return self.data[_plain(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.data[_plain(index)] = _plain(value)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)

    def __contains__(self, value: object) -> bool:
        return _plain(value) in self.data

    def __int__(self) -> int:
        return int(self.data)

    def __index__(self) -> int:
        return operator.index(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __complex__(self) -> complex:
        return complex(self.data)

    def __bool__(self) -> bool:
        return bool(self.data)

    def __format__(self, spec: str) -> str:
        return format(self.data, spec) if spec else str(self)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self.data) if name[:2] != "__")})

    def __repr__(self) -> str:
        values = np.array2string(self.data, separator=", ", prefix="Parameter(")
        usual = self.data.dtype in (np.float64, np.complex128)  # as NumPy leaves them out
        dtype = "" if usual else f", dtype={self.data.dtype}"
        return f"Parameter({values}{dtype})"

    def _repr_html_(self) -> str:
        data, grad = self.data, self.grad
        values = np.array2string(data, separator=", ", threshold=20, edgeitems=2)
        rows = {"shape": data.shape, "dtype": str(data.dtype), "data": values, "grad": grad}
        return table(type(self).__name__, rows)

    def __copy__(self) -> Parameter:
        state = copy.copy(getattr(self, "__dict__", None))
        return _rebuild(type(self), self.data.copy(order="K"), copy.deepcopy(self.grad), state)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.data, self.grad, getattr(self, "__dict__", None))


def _rebuild(
    cls: type[Parameter], data: Any, grad: Any, state: dict[str, Any] | None = None
) -> Parameter:
    param = cls.__new__(cls)  # the constructor of a subclass may take other arguments
    param.data, param.grad = data, grad
    if state:
        vars(param).update(state)
    return param
