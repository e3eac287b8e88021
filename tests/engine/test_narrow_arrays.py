"""Arrays of bfloat16 and float16 through every door of NumPy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.paths import ROOT

ml_dtypes = pytest.importorskip("ml_dtypes")

SIXTEEN_BITS = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]
each_dtype = pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)


def start(dtype: Any, shape: tuple[int, ...] = (4, 6)) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32).astype(dtype)


def stepped(p: Any, grads: Any = None) -> Any:
    """Where a parameter is after three steps."""
    optimizer = cyoptim.AdamW([p], lr=0.1)
    for k in range(3):
        grad = np.random.default_rng(k + 1).standard_normal(p.shape).astype(np.float32)
        optimizer.step(grads=[grad if grads is None else grads(grad)])
    return np.asarray(p)


def expected(dtype: Any) -> Any:
    return stepped(start(dtype).astype(np.float32)).astype(dtype)


# --- layouts and memory ---------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(
    "make",
    [
        lambda a: a.copy(),
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.repeat(a, 3, axis=0)[::3],
        lambda a: a[::-1].copy()[::-1],
        lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].copy().view(a.dtype).reshape(4, 6),
        lambda a: unaligned(a),
        lambda a: cyoptim.Parameter(a.copy()),
    ],
    ids=["C", "F", "columns", "rows", "reversed", "copied bytes", "unaligned", "Parameter"],
)  # fmt: skip
def test_any_layout(make: Any, dtype: Any) -> None:
    p = make(start(dtype))
    np.testing.assert_array_equal(stepped(p), expected(dtype))


def unaligned(array: Any) -> Any:
    memory = np.empty(array.nbytes + 1, np.uint8)
    view = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


@each_dtype
def test_an_axis_less_and_an_empty_one(dtype: Any) -> None:
    for shape in ((), (0,), (3, 0)):
        p = np.ones(shape, dtype)
        optimizer = cyoptim.SGD([p], lr=0.5)
        optimizer.step(grads=[np.ones(shape, dtype)])
        assert (p == 0.5).all()


@each_dtype
def test_memory_mapped(dtype: Any, tmp_path: Path) -> None:
    file = tmp_path / "w"
    start(dtype).tofile(file)
    mapped = np.memmap(file, dtype, "r+", shape=(4, 6))
    stepped(mapped)
    mapped.flush()
    np.testing.assert_array_equal(np.fromfile(file, dtype).reshape(4, 6), expected(dtype))


def test_a_buffer_of_float16() -> None:
    array = start(np.float16)
    stepped(memoryview(array))
    np.testing.assert_array_equal(array, expected(np.float16))


@each_dtype
def test_gradients_that_are_read_only(dtype: Any) -> None:
    def frozen(grad: Any) -> Any:
        grad = grad.astype(dtype)
        grad.flags.writeable = False
        return grad

    narrow = stepped(start(dtype), frozen)
    wide = stepped(start(dtype).astype(np.float32), frozen)
    np.testing.assert_array_equal(narrow, wide.astype(dtype))


@each_dtype
def test_trees(dtype: Any) -> None:
    tree = {"a": {"w": np.ones(3, dtype), "b": np.ones((), np.float32)}, "c": [np.ones(2, dtype)]}
    optimizer = cyoptim.SGD(tree, lr=0.5)
    grads = {"c": [np.ones(2, np.float32)], "a": {"b": np.ones((), dtype), "w": np.ones(3, dtype)}}
    optimizer.step(grads=grads)
    for leaf in (tree["a"]["w"], tree["a"]["b"], tree["c"][0]):  # type: ignore[call-overload,index]
        assert (leaf == 0.5).all()


def test_a_gradient_that_is_its_parameter() -> None:
    # Read before it is changed, in another type than the master's.
    p = np.ones(3000, SIXTEEN_BITS[0])
    cyoptim.SGD([p], lr=0.5).step(grads=[p])
    assert (p == 0.5).all()
    halves = np.ones(3000, SIXTEEN_BITS[0])
    cyoptim.SGD([halves[:1500], halves[1500:]], lr=0.5).step(grads=[halves[1500:], halves[:1500]])
    assert (halves == 0.5).all()


# --- types ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3b11fnuz"])
def test_parameters_of_8_bits(name: str) -> None:
    message = r'8 bits are for state alone, by state_dtype="float8_e4m3fn"; write \.astype'
    with pytest.raises(TypeError, match=message):
        cyoptim.SGD([np.ones(3, getattr(ml_dtypes, name))])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_integers_are_no_bfloat16(dtype: Any) -> None:
    with pytest.raises(TypeError, match="has dtype u?int16, expected float32, float64, bfloat16"):
        cyoptim.SGD([np.ones(3, dtype)])
    p = np.ones(3, np.float32)
    with pytest.raises(TypeError, match="has dtype u?int16, expected float32, bfloat16 or float16"):
        cyoptim.SGD([p]).step(grads=[np.ones(3, dtype)])


@pytest.mark.parametrize(
    ("param", "grad", "message"),
    [
        (SIXTEEN_BITS[0], np.float64, "has dtype float64, expected float32, bfloat16 or float16: write np.asarray(grad, np.float32)"),
        (np.float64, SIXTEEN_BITS[0], "has dtype bfloat16, expected float64: convert it to float64, or make the parameter bfloat16"),
        (np.float64, np.float16, "has dtype float16, expected float64: write np.asarray(grad, np.float64), or make the parameter float16"),
        (np.complex64, np.float16, "has dtype float16, expected complex64"),
    ],
)  # fmt: skip
def test_gradients_of_types_that_do_not_fit(param: Any, grad: Any, message: str) -> None:
    p = np.ones(3, param)
    for give in (
        lambda: cyoptim.SGD([p]).step(grads=[np.ones(3, grad)]),
        lambda: cyoptim.SGD([p]).accumulate([np.ones(3, grad)]),
        lambda: cyoptim.SGD([cyoptim.Parameter(p, grad=np.ones(3, grad))]).step(),
    ):
        with pytest.raises(TypeError) as caught:
            give()
        assert message in str(caught.value)
    assert (p == 1).all()


@each_dtype
def test_a_kernel_takes_none(dtype: Any) -> None:
    arrays = [np.ones(3, dtype) for _ in range(2)]
    with pytest.raises(TypeError, match="param .*float32.*float64"):
        cyoptim.kernel.Kernel(cyoptim.SGD, lr=0.5).update(*arrays)


def test_a_gradient_of_16_bits_and_another_shape() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(3, 2\): write grad.T"):
        cyoptim.SGD([np.ones((3, 2), np.float32)]).step(grads=[np.ones((2, 3), np.float16)])


def test_arrays_of_jax() -> None:
    jnp = pytest.importorskip("jax.numpy")
    narrow = stepped(start(SIXTEEN_BITS[0]), lambda grad: jnp.asarray(grad, jnp.bfloat16))
    wide = stepped(
        start(SIXTEEN_BITS[0]).astype(np.float32), lambda grad: grad.astype(SIXTEEN_BITS[0])
    )
    np.testing.assert_array_equal(narrow, wide.astype(SIXTEEN_BITS[0]))
    with pytest.raises(TypeError, match="JAX's arrays cannot be changed in place: write np.array"):
        cyoptim.AdamW([jnp.ones(3, jnp.bfloat16)])
    cyoptim.AdamW([np.array(jnp.ones(3, jnp.bfloat16))]).step(grads=[jnp.ones(3, jnp.bfloat16)])


# --- functions over arrays ------------------------------------------------------------------------


@each_dtype
def test_clipping(dtype: Any) -> None:
    grads = [start(dtype), start(dtype, (3,)), np.repeat(start(dtype, (5,)), 2)[::2]]
    wide = [grad.astype(np.float32) for grad in grads]
    params = [np.zeros(grad.shape, dtype) for grad in grads]
    norm = cyoptim.clip_grad_norm_(params, 1.5, grads=grads)
    assert norm.dtype == np.float32
    # Chunks add up in another order.
    assert norm == pytest.approx(cyoptim.clip_grad_norm_(params, 1.5, grads=wide), rel=1e-6)
    for narrow, other in zip(grads, wide, strict=True):
        np.testing.assert_array_equal(narrow, other.astype(dtype))
    cyoptim.clip_grad_value_(params, 0.25, grads=grads)
    for narrow, other in zip(grads, wide, strict=True):
        np.testing.assert_array_equal(narrow, np.clip(other.astype(dtype), dtype.type(-0.25), 0.25))


@each_dtype
def test_norms_are_of_float32(dtype: Any) -> None:
    # In 16 bits the sum would stop growing at 256 or 2,048.
    ones = np.ones(300_000, dtype)
    for order, expected in ((2, 300_000**0.5), (1, 300_000), (np.inf, 1), (3, 300_000 ** (1 / 3))):
        assert cyoptim.clip.get_total_norm([ones], order) == pytest.approx(expected, rel=1e-6)


@each_dtype
def test_averages(dtype: Any) -> None:
    model = {"w": start(dtype), "b": np.repeat(start(dtype, (5,)), 2)[::2]}
    wide = {name: array.astype(np.float32) for name, array in model.items()}
    for move in (None, cyoptim.swa_utils.get_ema_multi_avg_fn(0.75)):
        averages = [cyoptim.swa_utils.AveragedModel(wide, multi_avg_fn=move) for _ in range(2)]
        own = cyoptim.swa_utils.AveragedModel(model, multi_avg_fn=move)
        for factor in (1, 2, 4, 8):
            scaled = {name: array * dtype.type(factor) for name, array in model.items()}
            averages[0].update_parameters(scaled)
            averages[1].update_parameters(
                {name: array.astype(np.float32) for name, array in scaled.items()}
            )
            own.update_parameters(scaled)
        for name in model:
            np.testing.assert_array_equal(averages[0].module[name], averages[1].module[name])
            assert own.module[name].dtype == dtype
            # Rounded at each of three updates, to half a unit of values that grow.
            np.testing.assert_allclose(
                own.module[name].astype(np.float32),
                averages[1].module[name],
                rtol=2 * float(ml_dtypes.finfo(dtype).eps),
            )


@each_dtype
def test_averages_of_functions_of_the_user(dtype: Any) -> None:
    average = cyoptim.swa_utils.AveragedModel(
        [np.zeros(3, dtype)], avg_fn=lambda a, c, n: np.float32(0.5) * (a + c)
    )
    for value in (1, 3):
        average.update_parameters([np.full(3, value, dtype)])
    assert average.module[0].dtype == dtype
    assert (average.module[0] == 2).all()


@each_dtype
def test_vectors(dtype: Any) -> None:
    a, b = start(dtype), np.ones(3, np.float32)
    assert cyoptim.vectors.parameters_to_vector([a, a.T]).dtype == dtype
    vector = cyoptim.vectors.parameters_to_vector([a, b])
    assert vector.dtype == np.float32
    cyoptim.vectors.vector_to_parameters(vector * np.float32(1.01), [a, b])
    np.testing.assert_array_equal(
        a, (start(dtype).astype(np.float32) * np.float32(1.01)).astype(dtype)
    )


# Large enough for its copies to be given back to the system, where a read would end the process.
WITHOUT_A_GRADIENT = """
import numpy as np, cyoptim
w = np.zeros(2 * 17_000_000, np.float16)[::2]
optimizer = cyoptim.SGD([{"params": [w], "master": None}], lr=1.0)
optimizer.step(grads=[np.ones(w.shape, np.float16)])
optimizer.step(grads=[None])
assert (w == -1).all()
"""


@pytest.mark.slow
def test_a_parameter_with_gaps_and_no_gradient_is_not_read() -> None:
    # Steps change such a parameter in a copy, which is gone after each.
    subprocess.run([sys.executable, "-c", WITHOUT_A_GRADIENT], check=True, cwd=ROOT)


# --- other environments ---------------------------------------------------------------------------

WITHOUT = """
import sys
sys.modules["ml_dtypes"] = None
import numpy as np, torch, cyoptim

def run(dtype, **storage):
    torch.manual_seed(0)
    p = torch.randn(64, 128).to(dtype).requires_grad_()
    optimizer = cyoptim.AdamW([{"params": [p], **storage}], lr=0.1)
    optimizer.ema(0.5)
    for _ in range(3):
        p.grad = torch.randn(64, 128).to(dtype)
        cyoptim.clip_grad_norm_([p], 50.0)
        optimizer.step(max_norm=40.0)
    with optimizer.averaged():
        pass
    return p, optimizer.state[p]

p, state = run(torch.bfloat16)
twin, _ = run(torch.float32)
torch.testing.assert_close(p.float(), twin, rtol=2**-6, atol=2**-6)   # its gradients are rounded
assert state["exp_avg"].dtype == torch.float32
for name in ("bfloat16", "float16", "float8_e4m3fn"):
    p, state = run(torch.float32, state_dtype=name)
    torch.testing.assert_close(p, twin, rtol=0.05, atol=0.05)
    assert state["exp_avg"].dtype == getattr(torch, name)
a = torch.tensor([1.0, 2.0]).bfloat16()
vector = cyoptim.vectors.parameters_to_vector([a, torch.ones(1)])
assert vector.tolist() == [1.0, 2.0, 1.0] and vector.dtype == torch.float32
assert cyoptim.vectors.parameters_to_vector([a, a]).dtype == torch.bfloat16
cyoptim.vectors.vector_to_parameters(torch.tensor([3.0, 1.0 + 2**-8 + 2**-16]), [a])
assert a.tolist() == [3.0, 1.0 + 2**-7]
average = cyoptim.swa_utils.AveragedModel(torch.nn.Linear(2, 1).bfloat16())
for _ in range(3):
    average.update_parameters(torch.nn.Linear(2, 1).bfloat16())
assert average.module.weight.dtype == torch.bfloat16 and average.module.weight.abs().max() < 1
"""

LATER = """
import numpy as np, cyoptim
w = np.ones(3, np.float16)
cyoptim.SGD([w], lr=0.5).step(grads=[w.copy()])
import ml_dtypes
w = np.ones(3, ml_dtypes.bfloat16)
assert cyoptim.clip.get_total_norm([w]) == np.float32(3**0.5)
cyoptim.SGD([w], lr=0.5).step(grads=[np.ones(3, np.float32)])
assert (w == 0.5).all()
"""


@pytest.mark.slow
def test_without_ml_dtypes(torch: Any) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore::UserWarning", "-c", WITHOUT], check=True, cwd=ROOT
    )


@pytest.mark.slow
def test_ml_dtypes_imported_later() -> None:
    subprocess.run([sys.executable, "-c", LATER], check=True, cwd=ROOT)
