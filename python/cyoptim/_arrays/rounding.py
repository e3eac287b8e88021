"""Arrays in other types, also in those that NumPy lacks, whose elements it could not convert."""

from __future__ import annotations

from typing import Any

import numpy as np

from cyoptim._engine import DTYPES, encode_array, name_of_dtype, widened
from cyoptim._types import Array

_SIXTEEN_BITS = [name for name, row in DTYPES.items() if row.arithmetic != name]


def rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    """The elements of an array in another type, to nearest; the array itself if it is of that."""
    if array.dtype == dtype:
        return array
    array = widened(array) if name_of_dtype(array.dtype) in _SIXTEEN_BITS else array
    name = name_of_dtype(dtype)
    if name not in _SIXTEEN_BITS:
        return array.astype(dtype, copy=False)
    result = np.empty(array.shape, dtype)
    encode_array(np.asarray(array, np.float32, order="C"), result, None, name)
    return result
