from typing import Any

from cyoptim.optimizer import Optimizer

class Kernel:
    optimizer: Optimizer
    state_names: tuple[str, ...]
    initial_values: tuple[float, ...]
    state: dict[str, float]
    def __init__(self, optimizer: type[Optimizer], /, **options: Any) -> None: ...
    def read_options(self) -> None: ...
