"""Parameters that are made in another type than that of the array: `Parameter(data, dtype=...)`."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import cyoptim


def nearest_bfloat16(x: float) -> float:
    """By trying: of all bfloat16 numbers the nearest to x, of two equally near the even one."""
    bits = np.arange(2**16, dtype=np.uint32)
    with np.errstate(invalid="ignore"):
        found = (bits << 16).view(np.float32).astype(np.float64)
        distance = np.where(np.isfinite(found), np.abs(found - x), np.inf)
    (near,) = np.nonzero(distance == distance.min())
    return float(found[near[near % 2 == 0][0] if len(near) > 1 else near[0]])


def test_a_parameter_is_rounded_to_nearest() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(0)
    ties = 1 + 2.0**-8 + 2.0**-7 * np.arange(4)
    # In float32 each of these would be a tie.
    beside = [ties * (1 + 2.0**-40), ties * (1 - 2.0**-40)]
    data = np.concatenate([ties, *beside, rng.standard_normal(30), [0.0, -1e-3, 3e38]])
    w = cyoptim.Parameter(data, dtype="bfloat16")
    assert w.dtype == ml_dtypes.bfloat16
    assert [float(x) for x in w.data] == [nearest_bfloat16(x) for x in data]
    wide = np.array([np.nan, np.inf, -np.inf, -0.0, 3.4e38], np.float32)
    found = cyoptim.Parameter(wide, dtype=ml_dtypes.bfloat16).data.astype(np.float32)
    expected = wide.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.signbit(found[1:]), np.signbit(expected[1:]))


@pytest.mark.parametrize("dtype", ["float16", np.float32, np.dtype("f8"), "complex64", "<f4"])
def test_a_parameter_of_a_type_that_numpy_has(dtype: Any) -> None:
    data = np.array([1.0, 1 / 3])
    w = cyoptim.Parameter(data, dtype=dtype)
    assert w.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(w.data, data.astype(dtype))
    assert not np.shares_memory(w.data, data)
    assert np.shares_memory(cyoptim.Parameter(data).data, data)


def test_gradients_of_a_parameter_of_16_bits() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    expected = None
    for gradient in (np.ones(3, ml_dtypes.bfloat16), np.ones(3, np.float32)):
        w = cyoptim.Parameter(np.ones(3, np.float32), dtype="bfloat16", grad=gradient)
        cyoptim.AdamW([w]).step()
        expected = w.data.copy() if expected is None else expected
        np.testing.assert_array_equal(w.data, expected)


@pytest.mark.parametrize(
    ("data", "dtype", "message"),
    [
        (np.ones(2), "bfloat", "dtype='bfloat': NumPy has no such type; did you mean 'bfloat16'?"),
        (np.ones(2), "int32", "dtype='int32', expected one that optimizers take: float32, float64, bfloat16 or float16"),
        (np.ones(2), object, "dtype=<class 'object'>, expected one that optimizers take"),
        (np.ones(2, complex), "float32", "dtype='float32' for an array of complex128: write its .real"),
        ([1.0], "float32", "Parameter holds a NumPy array, got list: write np.array(...) around it"),
        (np.ma.masked_array([1.0], [True]), "float32", "Parameter is a masked array"),
    ],
)  # fmt: skip
def test_types_that_no_parameter_has(data: Any, dtype: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        cyoptim.Parameter(data, dtype=dtype)


WITHOUT_ML_DTYPES = """
import sys


class Missing:
    def find_spec(self, name, *args):
        if name.partition(".")[0] == "ml_dtypes":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Missing())
import numpy as np
import cyoptim

try:
    cyoptim.Parameter(np.ones(3), dtype="bfloat16")
except ImportError as error:
    print(error)
w = np.ones(3, np.float32)
optimizer = cyoptim.AdamW([w], state_dtype="bfloat16", master="auto")
optimizer.step(grads=[w])
print(optimizer.state[w]["exp_avg"].dtype, *optimizer.state[w]["exp_avg"])
"""


@pytest.mark.slow
def test_without_ml_dtypes() -> None:
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_ML_DTYPES], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    refused, state = result.stdout.splitlines()
    assert refused == 'dtype="bfloat16" needs the package ml_dtypes: pip install ml_dtypes'
    dtype, *bits = state.split()
    assert dtype == "uint16"
    # 0.1, rounded down or up at random.
    assert {*map(int, bits)} <= {0x3DCC, 0x3DCD}
