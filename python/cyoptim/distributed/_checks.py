"""What can be sharded, and how."""

from __future__ import annotations

from typing import Any

from cyoptim._arrays.doors import is_distributed, type_name
from cyoptim._step.definition import Definition
from cyoptim._types import Group
from cyoptim.distributed._shard import Settings
from cyoptim.optimizer import Optimizer

ORDERS = ("tree", "library")
REDUCTIONS = ("mean", "sum")
COMM_DTYPES = (None, "bfloat16")


def checked_class(kind: Any) -> type[Optimizer]:
    """Refuse what is no class of an optimizer that can be sharded."""
    if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
        is_class = isinstance(kind, type)
        shown = f"{kind.__module__}.{kind.__qualname__}" if is_class else f"a {type_name(kind)}"
        raise TypeError(
            f"the optimizer is {shown}, expected a class of cyoptim's optimizers: write "
            "Sharded(params, cyoptim.AdamW, comm=comm, lr=0.1)"
        )
    if kind._stepped_by is not Definition._stepped_by:
        plain = getattr(kind, "_plain_class", kind).__name__
        raise TypeError(f"{kind.__name__} is sharded already: write {plain}")
    if kind._steps_itself or kind.step is not Optimizer.step:
        raise TypeError(
            f"{kind.__name__} has a step() of its own, which knows of no ranks: use an optimizer "
            "whose steps are rules, such as AdamW, or override update() instead of step()"
        )
    if kind._only_sparse:
        raise TypeError(
            f"{kind.__name__} steps along sparse gradients, which cannot be shared among ranks: "
            "use Adam"
        )
    return kind


def check_settings(settings: Settings) -> None:
    order, reduce, comm_dtype, bucket_size = settings
    for name, value, known in (
        ("order", order, ORDERS),
        ("reduce", reduce, REDUCTIONS),
        ("comm_dtype", comm_dtype, COMM_DTYPES),
    ):
        if not (value is None or isinstance(value, str)) or value not in known:
            raise ValueError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    if comm_dtype is not None and order == "library":
        raise ValueError(
            f"comm_dtype={comm_dtype!r} is for order='tree': libraries add gradients up in the "
            "type in which they travel"
        )
    if isinstance(bucket_size, bool) or not isinstance(bucket_size, int):
        raise TypeError(f"bucket_size must be a whole number, got {bucket_size!r}")
    if bucket_size < 1:
        raise ValueError(f"bucket_size is {bucket_size}, expected at least 1 byte")


def check_group(group: Group, number: int, sharded: Any) -> None:
    """Refuse groups that cannot be sharded."""
    members = group["params"]
    if len({id(param) for param in members}) != len(members):
        raise ValueError(
            f"param group {number} has a parameter twice, which is then updated twice: list each "
            "once to share them among ranks"
        )
    if any(map(is_distributed, members)):
        raise TypeError(
            f"param group {number} has a DTensor, of which torch has given each process a part: "
            "write cyoptim.AdamW for these, or give whole tensors to Sharded"
        )
    if group.get("differentiable"):
        raise ValueError(
            f"param group {number} has differentiable=True, and steps of ranks are no operations "
            "of torch: leave it out"
        )
