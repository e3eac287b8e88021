from collections.abc import Callable
from typing import Concatenate, ParamSpec

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
    def read_options(self) -> None: ...
