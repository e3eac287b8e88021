"""The modes of Schedule-Free optimizers over parameters and states of 16 and 8 bits."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.formats import FORMATS, numbers, optimizer_with

ml_dtypes = pytest.importorskip("ml_dtypes")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
SCHEDULE_FREE = [
    cyoptim.SGDScheduleFree,
    cyoptim.AdamWScheduleFree,
    cyoptim.RAdamScheduleFree,
]
MASTERS = [(BFLOAT16, "split"), (BFLOAT16, "float32"), (np.dtype("f2"), "float32")]
SHAPES = [(30, 20), (7,), ()]


def values_of(seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape), np.float32) for shape in SHAPES]


@pytest.mark.parametrize(("dtype", "master"), MASTERS)
@pytest.mark.parametrize("cls", SCHEDULE_FREE)
@pytest.mark.parametrize("order", ["C", "F"])
def test_modes_have_the_bits_of_float32(cls: Any, dtype: Any, master: str, order: Any) -> None:
    wide = values_of(1)
    narrow = [np.zeros(array.shape, dtype, order) for array in wide]
    plain, ours = cls(wide, lr=0.1), optimizer_with(cls, narrow, {"lr": 0.1}, master=master)
    cyoptim.set_master_weights(ours, wide)

    def are_same() -> bool:
        found = cyoptim.master_weights(ours)
        return all(a.tobytes() == b.tobytes() for a, b in zip(found, wide, strict=True))

    for round in range(3):
        for one in (plain, ours):
            one.train()
            one.step(grads=values_of(2 + round))
        before = [array.copy() for array in narrow]
        with plain.averaged(), ours.averaged():
            for array, mean in zip(narrow, wide, strict=True):
                np.testing.assert_array_equal(array, mean.astype(dtype))
        assert [a.tobytes() for a in narrow] == [a.tobytes() for a in before]
        assert are_same()
        for one in (plain, ours):
            one.eval()
        assert are_same()
        twin = copy.deepcopy(ours)
        twin.load_state_dict(ours.state_dict())
    for one in (plain, ours):
        one.train()
    assert are_same()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
@pytest.mark.parametrize("cls", SCHEDULE_FREE)
def test_z_may_be_stored_in_any_type(cls: Any, dtype: Any, kind: str) -> None:
    param = np.linspace(0.5, 1.5, 5000, dtype="f4").astype(dtype)
    optimizer = cls([param], lr=0.1, state_dtype={"z": kind})
    optimizer.train()
    for _ in range(3):
        optimizer.step(grads=[np.ones(5000, "f4")])
    y, state = cyoptim.master_weights(optimizer)[0], optimizer.state[param]
    z = numbers("z", state["z"], state.get("z_scale"))
    optimizer.eval()
    x = cyoptim.master_weights(optimizer)[0]
    np.testing.assert_allclose(0.9 * x + 0.1 * z, y, rtol=1e-5)
    optimizer.train()
    np.testing.assert_allclose(cyoptim.master_weights(optimizer)[0], y, rtol=1e-5)
