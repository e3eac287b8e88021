"""CPU torch tensors as parameters: their memory as NumPy arrays, without a copy."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from cyoptim._arrays.doors import advice_about, is_distributed, type_name
from cyoptim._engine import DTYPES, dtype_beyond_numpy, name_of_dtype, supported_dtypes
from cyoptim._libraries import torch_optim
from cyoptim._types import Array

torch_optim.join()


def view_leaf(tensor: torch.Tensor, label: str) -> Array:
    """The memory of a tensor that can be a parameter; of a distributed one, its local part."""
    if not (tensor.is_leaf or tensor.retains_grad):
        raise ValueError(f"can't optimize a non-leaf Tensor: {label} is the result of an operation")
    if tensor.is_conj() or tensor.is_neg():
        raise ValueError(
            f"{label} is a conjugate or negative view, whose memory holds other values"
        )
    if is_distributed(tensor):
        from cyoptim._libraries.torch_distributed import local_part

        tensor = local_part(tensor, label)
    return view_tensor(tensor, label)


def view_tensor(tensor: torch.Tensor, label: str) -> Array:
    """The memory of a dense CPU tensor; a copy for a conjugate or negative view."""
    if is_distributed(tensor):
        raise TypeError(
            f"{label} is a DTensor, of which each process may have a part: write .full_tensor() "
            "for the whole, or .to_local() for the part; torch.nn.utils clips DTensors"
        )
    if tensor.device.type != "cpu":
        raise ValueError(f"{label} is on device {tensor.device}, expected cpu: write .cpu()")
    if tensor.layout is not torch.strided:
        raise TypeError(
            f"{label} has layout {tensor.layout}, expected a dense tensor: write .to_dense()"
        )
    if tensor.dtype not in _DTYPES:
        raise TypeError(
            f"{label} has dtype {tensor.dtype}, expected {supported_dtypes()}: "
            + advice_about(tensor.dtype, "write .float()")
        )
    try:
        array: Array = _numpy_of(tensor.detach().resolve_conj().resolve_neg())
    except RuntimeError as error:
        raise TypeError(
            f"{label} is a {type_name(tensor)}, whose memory torch does not show ({error}): "
            "expected a plain tensor, or a DTensor"
        ) from error
    return array


def stored_array(tensor: torch.Tensor, label: str) -> Array:
    """The elements of a loaded tensor, dense or sparse, on any device; floats of other types than
    ours become float32."""
    if tensor.device.type == "meta" or tensor.is_quantized:
        raise TypeError(f"{label} is a tensor of layout {tensor.layout} without plain values")
    if tensor.layout is not torch.strided:
        tensor = tensor.detach().to_dense()
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if tensor.is_floating_point() and tensor.dtype not in (*_NUMPYS, *_BITS):
        tensor = tensor.to(torch.float32)
    return _numpy_of(tensor)


def copied_state(param: torch.Tensor, value: Any, name: str, is_stored_apart: bool = False) -> Any:
    """A copy of a loaded state entry, in the dtype and on the device of its parameter if torch's
    load_state_dict converts it."""
    if isinstance(value, np.ndarray) and _is_torchs(value.dtype):  # from a file
        value = _tensor_of(np.array(value))
    if isinstance(value, torch.Tensor):
        if name == "step" or is_stored_apart:
            return value.detach().clone()
        dtype = param.dtype if param.is_floating_point() else value.dtype
        return value.detach().to(device=param.device, dtype=dtype, copy=True)
    if isinstance(value, dict):
        return {key: copied_state(param, item, key, is_stored_apart) for key, item in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(copied_state(param, item, "", is_stored_apart) for item in value)
    return copy.deepcopy(value)


_DTYPES = tuple(
    getattr(torch, name)
    for row in DTYPES.values()
    for name in (row.name, row.complex and row.complex.name)
    if name
)

# What NumPy lacks, and the integers as which its memory is passed on.
_BITS = {torch.bfloat16: torch.int16, torch.float8_e4m3fn: torch.uint8}
_NUMPYS = (torch.float16, torch.float32, torch.float64)
_BEYOND_NUMPY = {str(dtype).removeprefix("torch."): dtype for dtype in _BITS}


def elements_of(tensor: torch.Tensor) -> Array:
    """The elements of a dense CPU tensor, shared where they are in its memory as they are."""
    return _numpy_of(tensor.detach().resolve_conj().resolve_neg())


def unflagged(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory without flags of a conjugate and of a sign: elements as they are stored."""
    tensor = tensor.detach()
    if tensor.is_conj():
        tensor = tensor.conj()
    return torch._neg_view(tensor) if tensor.is_neg() else tensor


def memory_of(tensor: torch.Tensor) -> Array:
    """An array that shares a CPU tensor's memory."""
    return _numpy_of(tensor.detach())


def _numpy_of(tensor: torch.Tensor) -> Array:
    """An array that shares a CPU tensor's memory."""
    bits = _BITS.get(tensor.dtype)
    if bits is None:
        array: Array = tensor.numpy()
        return array
    array = tensor.view(bits).numpy().view(dtype_beyond_numpy(str(tensor.dtype)[len("torch.") :]))
    return array


def _is_torchs(dtype: np.dtype[Any]) -> bool:
    """Whether torch may have tensors of this dtype."""
    return dtype.kind in "fiubc" or name_of_dtype(dtype) in _BEYOND_NUMPY


def _tensor_of(array: Array) -> torch.Tensor:
    """A tensor that shares an array's memory."""
    dtype = _BEYOND_NUMPY.get(name_of_dtype(array.dtype))
    if dtype is None:
        return torch.from_numpy(array)
    integers = np.dtype(f"i{array.itemsize}" if array.itemsize > 1 else "u1")
    return torch.from_numpy(array.view(integers)).view(dtype)


def is_sparse_tensor(tensor: torch.Tensor) -> bool:
    """Whether most of the tensor's elements are not stored."""
    return tensor.layout is not torch.strided


def read_sparse_tensor(tensor: torch.Tensor) -> tuple[tuple[int, ...], Array, Array]:
    """The shape, the indices of the leading axes, and the values at them."""
    coo = tensor.detach()
    coo = coo if coo.is_sparse else coo.to_sparse_coo()
    values = coo._values().resolve_conj().resolve_neg()
    return tuple(coo.shape), coo._indices().numpy(), _numpy_of(values)


def increment_version(tensors: Sequence[torch.Tensor]) -> None:
    """Notify autograd that the tensors were changed."""
    if _COUNTS_SEVERAL:
        torch.autograd.graph.increment_version(tensors)
        return
    for tensor in tensors:
        torch.autograd.graph.increment_version(tensor)


def _counts_several() -> bool:
    """Whether torch takes several tensors at once, as 2.6 does and 2.3 does not."""
    try:
        torch.autograd.graph.increment_version(())
    except RuntimeError:
        return False
    return True


_COUNTS_SEVERAL = _counts_several()


class _Float8:
    """Stands for a tensor of float8_e4m3fn in a pickle, which torch cannot pickle itself."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._codes = tensor.detach().view(torch.uint8)

    def __reduce__(self) -> tuple[Any, ...]:
        return _float8_of, (self._codes,)


def _float8_of(codes: torch.Tensor) -> torch.Tensor:
    return codes.view(torch.float8_e4m3fn)


def picklable(value: Any) -> Any:
    """A value that pickle and copy.deepcopy make an equal one of."""
    is_float8 = isinstance(value, torch.Tensor) and value.dtype is torch.float8_e4m3fn
    return _Float8(value) if is_float8 and not is_distributed(value) else value


def as_tensor(value: Any) -> Any:
    """A tensor that shares the array's memory; other values unchanged."""
    return _tensor_of(value) if isinstance(value, np.ndarray) else value


def as_array(value: Any) -> Any:
    """An array that shares the tensor's memory; other values unchanged."""
    if not isinstance(value, torch.Tensor):
        return value
    if is_distributed(value):
        value = value._local_tensor
    try:
        return _numpy_of(value.detach())
    except (TypeError, RuntimeError):  # of a dtype that NumPy lacks
        return value


def export_state(value: Any) -> Any:
    """A state entry in torch's form."""
    if isinstance(value, np.ndarray):
        return as_tensor(value)
    if type(value) in (list, tuple):
        return type(value)(export_state(item) for item in value)
    return value


def export_count(value: Any) -> Any:
    """A step count in torch's form; in a wider dtype if torch's would lose bits."""
    if isinstance(value, (int, float)):  # a custom optimizer's own count
        return value
    count = int(value)
    for dtype in (torch.get_default_dtype(), torch.float64):
        tensor = torch.tensor(float(count), dtype=dtype)
        if int(tensor) == count:
            return tensor
    return torch.tensor(count, dtype=torch.int64)


def check_unrecorded(params: Iterable[torch.Tensor]) -> None:
    """Refuse a differentiable step if there is anything to differentiate."""
    for param in params:
        grad = param.grad
        if grad is not None and (param.requires_grad or grad.requires_grad):
            raise RuntimeError(
                "differentiable=True is not supported for parameters or gradients that require "
                "gradients: steps run outside of any graph"
            )


def check_zeroable(grad: torch.Tensor, label: str) -> None:
    """Refuse a gradient that cannot be detached from its graph and filled with zeros."""
    if grad.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{label} is an inference tensor: it cannot be filled with zeros here")
    if grad.grad_fn is not None and grad._is_view():
        raise ValueError(
            f"{label} is a view of another tensor in a graph: it cannot be filled with zeros"
        )
