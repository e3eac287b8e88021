"""cyoptim: over arrays, over torch tensors, and with the kernels of an instruction set."""

from __future__ import annotations

from bench.roof import Unavailable
from bench.subject import Subject, reference, step_tensors, stepper_of
from bench.workloads import Arrays

INSTRUCTION_SET = "CYOPTIM_ISA"
"""The variable that names the kernels of a process."""


def build_cyoptim(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = stepper_of(cyoptim, optimizer, wrapped)
    return Subject(stepper.step, params, grads, reference(optimizer))


def build_instruction_set(
    optimizer: str, params: Arrays, grads: Arrays, threads: int, level: str
) -> Subject:
    """cyoptim with these kernels, which the process has selected before the import."""
    try:
        import cyoptim
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # the processor or the build lacks these kernels
        raise Unavailable(str(error)) from error
    if cyoptim._dispatch.chosen != level:
        raise Unavailable(f"a process that starts with {INSTRUCTION_SET}={level}")
    return build_cyoptim(optimizer, params, grads, threads)


def build_cyoptim_torch(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    import cyoptim

    cyoptim.set_num_threads(threads)
    return step_tensors(cyoptim, optimizer, params, grads, threads)
