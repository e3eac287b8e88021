"""Types that annotations share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


class SupportsArray(Protocol):
    """Arrays that NumPy can view: ndarrays, and those of JAX and other libraries."""

    def __array__(self) -> Any: ...


class SupportsCoo(Protocol):
    """SciPy's sparse arrays."""

    def tocoo(self) -> Any: ...


class Dataclass(Protocol):
    """A dataclass, whose fields are entries of a tree."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


# Parameters, pairs, or group dicts; or parameters nested in containers.
ParamsT: TypeAlias = Iterable[Any] | Mapping[Any, Any] | Dataclass
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Gradient: TypeAlias = SupportsArray | SupportsCoo | None
# One for each parameter, by name, or nested as the parameters are.
Gradients: TypeAlias = (
    Sequence["Gradient | Gradients"] | Mapping[Any, "Gradient | Gradients"] | Dataclass
)
Group: TypeAlias = dict[str, Any]
StateDict: TypeAlias = dict[str, Any]
NonfinitePolicy: TypeAlias = Literal["propagate", "raise", "skip"]
