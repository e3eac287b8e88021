"""Doors: the kinds of parameters, and for each the array that views its memory.

A parameter is a :class:`cyoptim.Parameter`, a plain ndarray, a CPU tensor of torch, or any object
with ``.data`` and ``.grad`` arrays. All are updated in place, through a view.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from cyoptim._engine import (
    DTYPES,
    ParameterBase,
    is_dtype,
    is_self_overlapping,
    memory_bounds,
    name_of_dtype,
    ordinary_arrays,
    supported_dtypes,
    widened,
)
from cyoptim._spelling import close_name
from cyoptim._types import Array

ARRAY, PARAMETER, TENSOR, OBJECT = range(4)

# The types with which rules compute in float32.
_OF_FLOAT32 = {name: row for name, row in DTYPES.items() if row.arithmetic == "float32"}


class UnsupportedError(TypeError, RuntimeError):
    """An optimizer does not support this parameter or gradient: complex, sparse, or dense.

    A TypeError, as for other wrong types, and a RuntimeError, as in torch.
    """


def is_tensor(value: object) -> bool:
    """Whether the value is a torch tensor; never imports torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def is_distributed(value: object) -> bool:
    """Whether the value is a tensor of which each process may have a part: torch's DTensor."""
    return isinstance(value, class_of("torch.distributed.tensor", "DTensor"))


def class_of(library: str, name: str) -> Any:
    """A class of a library, without importing it. If it is not there yet, as nobody has imported
    the library or another thread is about to: an empty tuple, of which nothing is an instance."""
    found = sys.modules.get(library)
    for part in name.split("."):
        found = getattr(found, part, None)
    return () if found is None else found


def array_of(grad: Any) -> Any:
    """An array that views a gradient of another library; other values are returned unchanged."""
    if grad is None or isinstance(grad, (np.ndarray, np.generic)) or is_tensor(grad):
        return grad
    if hasattr(grad, "__array__"):
        return np.asarray(grad)
    if hasattr(grad, "__dlpack__"):
        return np.from_dlpack(grad)
    return buffer_array(grad, "a gradient")


def buffer_array(value: Any, label: str) -> Any:
    """An array that views the memory of an object with a buffer of floats: an ``array.array``, a
    memoryview, a ctypes array. All other values are returned unchanged.

    Raises
    ------
    TypeError
        If the buffer has other elements.
    """
    if hasattr(value, "__array__") or (is_parameter(value) and not is_buffer(value)):
        return value
    try:
        buffer = memoryview(value)
    except TypeError:
        return value
    if buffer.format in ("B", "b", "c"):
        raise TypeError(
            f"{label} is a {type_name(value)} of bytes, which could be numbers of any type: write "
            "memoryview(x).cast('f') for float32, memoryview(x).cast('d') for float64"
        )
    return np.asarray(buffer)


def as_written(value: object) -> str:
    """For messages: the expression that makes an array of the value."""
    if is_tensor(value):
        return "give a tensor to the optimizer itself, or write tensor.detach().numpy()"
    if isinstance(value, (list, tuple, int, float, np.generic)):
        return "write np.array(...) around it"
    if isinstance(value, class_of("jax", "Array")):
        return (
            "JAX's arrays cannot be changed in place: write np.array(x), or "
            "jax.tree.map(np.array, tree) for a whole tree"
        )
    if hasattr(value, "__array__") or hasattr(value, "__dlpack__"):
        return "np.array(x) copies it into one that can be changed in place"
    return "NumPy's arrays can be changed in place"


def attribute_hint(name: str) -> str:
    """The end of a message about an attribute that a Parameter does not have."""
    close = close_name(name, ("data", "grad"))
    if close:
        return f"; did you mean {close!r}?"
    if name in ("backward", "requires_grad", "requires_grad_"):
        return ": NumPy computes no gradients; take those of autograd, JAX or MyGrad, and set .grad"
    if name in ("zero_grad", "step"):
        return f": write optimizer.{name}()"
    if name in ("lr", "weight_decay", "momentum"):
        return f": options are those of a group, optimizer.param_groups[0][{name!r}]"
    return ": it holds data and grad; a subclass may have attributes of its own"


def refuse_arguments(others: tuple[Any, ...], unknown: dict[str, Any]) -> None:
    """Raise for arguments of a Parameter beside its array and its gradient."""
    if others:
        raise TypeError(
            f"Parameter takes one array, got {len(others) + 1} arguments: write "
            "Parameter(np.zeros(shape)), and the gradient by name, Parameter(data, grad=...)"
        )
    name = next(iter(unknown))
    raise TypeError(
        f"Parameter has no argument {name!r}: leave it out; a parameter that an optimizer is not "
        "given stays as it is"
    )


def check_unmasked(value: object, label: str) -> None:
    """Refuse a masked array: the values under the mask would be used."""
    if isinstance(value, class_of("numpy.ma", "MaskedArray")):
        raise TypeError(
            f"{label} is a masked array, and the values under its mask would be used: write "
            ".filled(0), for a gradient that leaves these elements alone, or .data for all values"
        )


def arrays_of(params: Sequence[Any]) -> list[Array]:
    """The memory of the parameters whose address is available, without checking its contents."""
    known = (np.ndarray, class_of("torch", "Tensor"))
    values = [p if isinstance(p, known) else getattr(p, "data", None) for p in params]
    found = zip(values, ordinary_arrays(values), strict=True)
    arrays = [_memory_of(value) if array is None else array for value, array in found]
    return [array for array in arrays if array is not None]


def _memory_of(value: Any) -> Array | None:
    if is_tensor(value):
        from cyoptim._libraries.torch import as_array

        value = as_array(value)
    return value if isinstance(value, np.ndarray) else None  # on another device, or sparse


def is_buffer(value: object) -> bool:
    """Whether the value is plain memory: numbers in a row, with an address and a type."""
    kinds = (class_of("array", "array"), class_of("ctypes", "Array"))
    return isinstance(value, (memoryview, *kinds))


def is_parameter(value: object) -> bool:
    """Whether the value can be a parameter."""
    return (
        isinstance(value, (ParameterBase, np.ndarray))
        or is_tensor(value)
        or is_buffer(value)
        or (hasattr(value, "grad") and isinstance(getattr(value, "data", None), np.ndarray))
    )


def are_known(values: list[Any]) -> bool:
    """Whether all are parameters of a class that is known; False of parameters of others, too."""
    known = (ParameterBase, np.ndarray, class_of("torch", "Tensor"))
    return all(isinstance(value, known) for value in values)


def view_parameter(param: Any, label: str) -> tuple[int, Array]:
    """The parameter's door, and an array that shares its memory and may be written to."""
    door, view = _enter(param, label)
    check_array(view, label)
    if not view.flags.writeable:
        raise ValueError(f"{label} is read-only: write np.array(x), a copy that can be changed")
    if is_self_overlapping(view):
        raise ValueError(
            f"{label} is a view whose elements overlap each other in memory: write np.array(x)"
        )
    return door, view


def _enter(param: Any, label: str) -> tuple[int, Array]:
    if isinstance(param, np.ndarray):
        return ARRAY, param
    if isinstance(param, ParameterBase):
        return PARAMETER, param.data
    if is_tensor(param):
        from cyoptim._libraries.torch import view_leaf

        return TENSOR, view_leaf(param, label)
    if is_parameter(param):
        return OBJECT, param.data
    raise TypeError(
        f"optimizer can only optimize Tensors, but one of the params is {type_name(param)}: "
        f"{label}, expected an array (cyoptim.Parameter, numpy.ndarray, CPU torch tensor, or an "
        f"object with .data and .grad arrays): {_parameter_hint(param)}"
    )


def _parameter_hint(param: Any) -> str:
    """What to write instead of an object that is not a parameter."""
    if callable(getattr(param, "parameters", None)):
        return "write model.parameters()"
    if param is None:
        return "leave it out"
    if isinstance(param, (list, tuple, float, int)) or hasattr(param, "__array__"):
        return as_written(param)
    return (
        "leave it out; in a tree write None in its place, or mark the field of a dataclass by "
        'metadata={"static": True}'
    )


def check_array(array: Array, label: str) -> None:
    """Refuse a masked array, and every dtype but those of the kernels, in this machine's order."""
    check_unmasked(array, label)
    if not is_dtype(array.dtype):
        raise TypeError(
            f"{label} has dtype {array.dtype}, expected {supported_dtypes()}: "
            + advice_about(array.dtype, "write .astype(np.float32)")
        )
    if not array.dtype.isnative:
        raise TypeError(
            f"{label} has dtype {array.dtype.str}, whose byte order is not this machine's: write "
            f'.astype("{array.dtype.newbyteorder("=").str}")'
        )


def advice_about(dtype: object, advice: str) -> str:
    """For messages: what to write instead of numbers of a type that cannot be optimized."""
    if "float8" not in str(dtype):
        return advice
    return f'8 bits are for state alone, by state_dtype="float8_e4m3fn"; {advice}'


def misfit_of_gradient(
    label: str, grad: Array, view: Array, what: str = "grad"
) -> TypeError | ValueError:
    """The error for a gradient whose dtype or shape does not fit its parameter."""
    if not is_taken(grad.dtype, view.dtype):
        return TypeError(
            f"{label} has dtype {name_of_dtype(grad.dtype)}, expected {_taken(view.dtype)}: "
            f"{_as_converted(what, grad.dtype, view.dtype)}"
        )
    if grad.ndim > 1 and grad.shape[::-1] == view.shape:
        hint = "write grad.T"
    elif grad.size == view.size:
        hint = f"write grad.reshape({view.shape})"
    else:
        hint = "grads are in the order of the parameters"
    return ValueError(f"{label} has shape {grad.shape}, expected {view.shape}: {hint}")


def is_taken(grad: np.dtype[Any], param: np.dtype[Any]) -> bool:
    """Whether a step takes gradients of a type: that of the parameter, or where rules compute in
    float32, also what is exact in it."""
    return grad == param or {name_of_dtype(grad), name_of_dtype(param)} <= _OF_FLOAT32.keys()


def _taken(param: np.dtype[Any]) -> str:
    """For messages: the types of gradients that a step takes."""
    if name_of_dtype(param) not in _OF_FLOAT32:
        return str(param)
    *names, last = _OF_FLOAT32
    return f"{', '.join(names)} or {last}"


def _as_converted(what: str, found: np.dtype[Any], expected: np.dtype[Any]) -> str:
    """For messages: the expression that converts it. A step does not: a copy, and a precision that
    the gradient does not have, are the caller's to ask for."""
    if found.kind == "c" and expected.kind != "c":
        return f"write {what}.real, or make the parameter complex"
    dtype = "float32" if name_of_dtype(expected) in _OF_FLOAT32 else expected
    row = DTYPES.get(name_of_dtype(found))
    if row is not None and not row.is_numpys:
        return f"convert it to {dtype}, or make the parameter {row.name}"
    text = f"write np.asarray({what}, np.{dtype})"
    return f"{text}, or make the parameter {found}" if is_dtype(found) else text


def foreign_array(value: Any, label: str) -> Array:
    """The memory of a torch tensor, or of any kind of array, as a plain array."""
    if isinstance(value, np.ndarray):
        check_unmasked(value, label)
        return np.asarray(value)
    if not is_tensor(value):
        raise TypeError(f"{label} is a {type_name(value)}, expected an array")
    from cyoptim._libraries.torch import view_tensor

    return view_tensor(value, label)


def part_array(value: Any, param: Any, label: str) -> Array:
    """The memory of a parameter, or of a value that belongs to it: its gradient, or an entry of its
    state. Of distributed tensors, the part that this process has."""
    return foreign_array(own_part(value, param, label), label)


def own_part(value: Any, param: Any, label: str) -> Any:
    """This process's part of a distributed tensor that belongs to a parameter; other values
    unchanged."""
    if not is_distributed(value):
        return value
    from cyoptim._libraries.torch_distributed import part_for

    return part_for(value, param, label)


def loaded_array(value: Any, label: str) -> Array:
    """A loaded value as an array of a type that NumPy has; a torch tensor may have any dtype,
    layout and device."""
    array = stored_array(value, label)
    is_beyond_numpy = array.dtype.kind == "V" or array.dtype.metadata is not None
    return widened(array) if is_beyond_numpy and is_dtype(array.dtype) else array


def stored_array(value: Any, label: str) -> Array:
    """A loaded value as an array in the type in which it is stored."""
    if isinstance(value, np.ndarray):
        check_unmasked(value, label)
        return np.asarray(value)
    if not is_tensor(value):
        raise TypeError(f"{label} is a {type_name(value)}, expected an array")
    from cyoptim._libraries.torch import stored_array

    return stored_array(value, label)


def announce_update(tensors: Sequence[Any]) -> None:
    """Tell autograd that these tensors were changed in place."""
    from cyoptim._libraries.torch import increment_version

    increment_version(tensors)


def type_name(value: object) -> str:
    """The type as an error message shows it, with its module unless built in."""
    kind = type(value)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else (f"{kind.__module__}.{kind.__qualname__}")
    )


def check_disjoint(views: Sequence[Array], params: Sequence[Any], labels: Sequence[str]) -> None:
    """Refuse different parameters that share memory: each would corrupt the other's update."""
    bounds = sorted((*memory_bounds(view), i) for i, view in enumerate(views))
    active: list[tuple[int, int]] = []
    for low, high, i in bounds:
        active = [(end, j) for end, j in active if end > low]
        for _, j in active:
            if params[i] is not params[j] and _share_memory(views[i], views[j]):
                first, second = sorted((i, j))
                raise ValueError(
                    f"{labels[first]} and {labels[second]} share memory: "
                    "overlapping parameters cannot be optimized together; write np.array(x) for "
                    "one of them, or optimize the array that both are views of"
                )
        if high > low:
            active.append((high, i))


def _share_memory(a: Array, b: Array) -> bool:
    try:
        return np.shares_memory(a, b, max_work=1_000_000)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True
