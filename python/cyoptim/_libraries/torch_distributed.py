"""torch's distributed tensors (DTensor): the part of each that this process has.

``fully_shard`` and tensor parallelism make parameters of them. A step updates the local part, which
is an ordinary tensor; what the user sees, such as the state, is distributed as the parameter is, so
that ``torch.distributed.checkpoint`` saves it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.tensor import DTensor

from cyoptim._arrays.doors import is_distributed


def local_part(tensor: Any, label: str) -> torch.Tensor:
    """The elements that this process has, in their own memory."""
    if any(placement.is_partial() for placement in tensor.placements):
        raise ValueError(
            f"{label} is a DTensor with the placements {tuple(tensor.placements)}, of which each "
            "process has a summand: write .redistribute(placements=[Replicate()])"
        )
    local: Any = tensor._local_tensor  # to_local() would be a part of the graph
    return local.wait() if hasattr(local, "wait") else local


def part_for(value: Any, param: Any, label: str) -> torch.Tensor:
    """The part of a gradient or a loaded value that belongs to this process's part of a parameter.

    A gradient with other placements, such as one that is still to be summed up, is redistributed
    as the parameter is, as by torch's own operations: every process does it.
    """
    if not is_distributed(param):
        raise TypeError(
            f"{label} is a DTensor, and its parameter is none: write .full_tensor() for the whole, "
            "or .to_local() for this process's part"
        )
    if value.device_mesh != param.device_mesh:
        raise ValueError(
            f"{label} is a DTensor on {value.device_mesh}, expected that of its parameter, "
            f"{param.device_mesh}: write distribute_tensor(x.full_tensor(), param.device_mesh, "
            "param.placements)"
        )
    if value.placements != param.placements:
        with torch.no_grad():
            value = value.redistribute(param.device_mesh, param.placements)
    part = local_part(value, label)
    if part.shape == param._local_tensor.shape and value.shape != param.shape:
        # The other processes have parts that do not fit: none may step.
        raise ValueError(
            f"{label} is a DTensor of shape {tuple(value.shape)}, expected {tuple(param.shape)}, "
            "that of its parameter"
        )
    return part


def distributed_as(param: Any, value: Any) -> Any:
    """A tensor of the local part's shape, distributed as the parameter; another value as it is."""
    part = param._local_tensor
    if not isinstance(value, torch.Tensor) or is_distributed(value) or value.shape != part.shape:
        return value
    return DTensor.from_local(
        value,
        param.device_mesh,
        param.placements,
        run_check=False,
        shape=param.shape,
        stride=param.stride(),
    )


def placed(param: Any) -> str | None:
    """How a parameter is spread, for a message; None if this process has all of it."""
    mesh = param.device_mesh
    over = [
        (mesh.size(dim), placement)
        for dim, placement in enumerate(param.placements)
        if mesh.size(dim) > 1 and not placement.is_replicate()
    ]
    return ", ".join(f"{place!r} over {size} processes" for size, place in over) or None
