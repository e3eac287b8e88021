from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Concatenate, ParamSpec

import numpy.typing as npt

from cyoptim._types import ParamsT
from cyoptim.optimizer import Optimizer

_Options = ParamSpec("_Options")

class Kernel:
    optimizer: Optimizer
    state_names: tuple[str, ...]
    initial_values: tuple[float, ...]
    state: dict[str, float]
    def __init__(
        self,
        optimizer: Callable[Concatenate[ParamsT, _Options], Optimizer],
        /,
        *args: _Options.args,
        **options: _Options.kwargs,
    ) -> None: ...
    @property
    def address(self) -> int: ...
    def begin(self) -> None: ...
    def update(self, param: Any, grad: Any, /, *state: Any) -> None: ...
    def new_state(self, param: Any) -> list[npt.NDArray[Any]]: ...
    def read_options(self) -> None: ...

def c_functions() -> SimpleNamespace: ...
