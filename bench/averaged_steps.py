"""A step and a moving average of the parameters: the contenders of ``bench averages``.

The reference checks the parameters; a test checks that the averages have the same bits both ways.
"""

from __future__ import annotations

from bench.subject import Subject, reference, stepper_of, tensors_of, views_of
from bench.workloads import Arrays

DECAY = 0.999


def build_ema(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """In the step itself."""
    import cyoptim

    cyoptim.set_num_threads(threads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)
    stepper.ema(DECAY)
    return Subject(stepper.step, params, grads, reference(optimizer))


def build_averaged(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """In a call after each step."""
    import cyoptim
    from cyoptim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    cyoptim.set_num_threads(threads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)
    average = AveragedModel(wrapped, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def step() -> None:
        stepper.step()
        average.update_parameters(wrapped)

    return Subject(step, params, grads, reference(optimizer))


def build_averaged_torch(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """The same two calls of torch, with its fused optimizer."""
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    tensors = tensors_of(params, grads, threads)
    stepper = stepper_of(torch.optim, optimizer, tensors, fused=True)
    model = torch.nn.ParameterList(tensors)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))

    def step() -> None:
        stepper.step()
        average.update_parameters(model)

    return Subject(step, *views_of(tensors), reference(optimizer))
