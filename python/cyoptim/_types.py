"""Types that annotations share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class SupportsArray(Protocol):
    """Arrays that NumPy can view: ndarrays, and those of JAX and other libraries."""

    def __array__(self) -> Any: ...


class SupportsCoo(Protocol):
    """SciPy's sparse arrays."""

    def tocoo(self) -> Any: ...


# Parameters, pairs, or group dicts; or nested dicts, lists and tuples of parameters.
ParamsT: TypeAlias = Iterable[Any] | Mapping[Any, Any]
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Gradient: TypeAlias = SupportsArray | SupportsCoo | None
# One for each parameter, by name, or nested as the parameters are.
Gradients: TypeAlias = Sequence["Gradient | Gradients"] | Mapping[Any, "Gradient | Gradients"]
Group: TypeAlias = dict[str, Any]
StateDict: TypeAlias = dict[str, Any]
NonfinitePolicy: TypeAlias = Literal["propagate", "raise", "skip"]
