"""Types that annotations share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

ParamsT: TypeAlias = Iterable[Any]
Args: TypeAlias = tuple[Any, ...]
Kwargs: TypeAlias = dict[str, Any]
Gradients: TypeAlias = Sequence[Any] | Mapping[str, Any]
Group: TypeAlias = dict[str, Any]
Hyper: TypeAlias = tuple[float, ...]
StateDict: TypeAlias = dict[str, Any]
NonfinitePolicy: TypeAlias = Literal["propagate", "raise", "skip"]
