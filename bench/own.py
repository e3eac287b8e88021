"""cyoptim: over arrays or tensors, on one thread or all, by threading layer and instruction set."""

from __future__ import annotations

from bench import norms
from bench.optimizers import NORM
from bench.roof import Unavailable
from bench.subject import Subject, reference, step_tensors, stepper_of
from bench.workloads import Arrays

INSTRUCTION_SET = "CYOPTIM_ISA"
"""The variable that names the kernels of a process."""


def build_cyoptim(operation: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """On as many threads as the package finds worth it."""
    import cyoptim

    cyoptim.set_num_threads(threads)
    if operation == NORM:
        return norms.of_cyoptim(grads)
    wrapped = [cyoptim.Parameter(p, grad=g) for p, g in zip(params, grads, strict=True)]
    stepper = stepper_of(cyoptim, operation, wrapped)
    return Subject(stepper.step, params, grads, reference(operation))


def build_one_thread(operation: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """On one thread. What comes before its steps has all of them, as for the others."""
    return build_cyoptim(operation, params, grads, 1)


def build_all_threads(operation: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """On all threads that have anything to do, whether it is worth it or not."""
    from cyoptim import _engine

    _engine.take_all_threads(True)
    return build_cyoptim(operation, params, grads, threads)


def build_layer(operation: str, params: Arrays, grads: Arrays, threads: int, layer: str) -> Subject:
    """With this threading layer. A package that has no choice has the pool."""
    import cyoptim

    choose = getattr(cyoptim, "set_threading_layer", None)
    if choose is None and layer != "pool":
        raise Unavailable(f"a cyoptim with the threading layer {layer}")
    if choose is not None:
        try:
            choose(layer)
        except (ValueError, RuntimeError, ImportError) as error:
            raise Unavailable(str(error)) from error
    return build_cyoptim(operation, params, grads, threads)


def build_instruction_set(
    operation: str, params: Arrays, grads: Arrays, threads: int, level: str
) -> Subject:
    """With these kernels, which the process has selected before the import."""
    try:
        import cyoptim
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # the processor or the build lacks these kernels
        raise Unavailable(str(error)) from error
    if cyoptim._dispatch.chosen != level:
        raise Unavailable(f"a process that starts with {INSTRUCTION_SET}={level}")
    return build_cyoptim(operation, params, grads, threads)


def build_cyoptim_torch(optimizer: str, params: Arrays, grads: Arrays, threads: int) -> Subject:
    """Over torch tensors."""
    import cyoptim

    cyoptim.set_num_threads(threads)
    return step_tensors(cyoptim, optimizer, params, grads, threads)
