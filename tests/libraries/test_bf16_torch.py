"""Torch tensors of bfloat16 and float16 as parameters, and gradients of other types than the parameter's.

A parameter of 16 bits has a master by default, so it is where a float32 parameter would be that got the same
gradients, rounded to nearest: its twin.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cyoptim
from tests.support.cards import CLOSURE, DENSE, MATRICES, NATIVE, TORCH, Card, Options
from tests.support.parametrize import every_variant

torch = pytest.importorskip("torch")
from cyoptim._libraries.torch import as_array  # noqa: E402

SIXTEEN_BITS = [torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", SIXTEEN_BITS, ids=str)


def parameter(*shape: int, dtype: Any = torch.bfloat16, grad: float | None = 0.5) -> Any:
    p = torch.nn.Parameter(torch.ones(shape or (3,), dtype=dtype))
    p.grad = None if grad is None else torch.full_like(p, grad)
    return p


class Twins:
    """A parameter of 16 bits and one of float32, which get the same gradients."""

    def __init__(self, dtype: Any, cls: Any = cyoptim.AdamW, **options: Any) -> None:
        torch.manual_seed(0)
        self.narrow = torch.nn.Parameter(torch.randn(7, 3).to(dtype))
        self.wide = torch.nn.Parameter(self.narrow.detach().float())
        self.optimizers = [cls([p], **{"lr": 0.1, **options}) for p in (self.narrow, self.wide)]

    def give(self) -> None:
        """The next gradients."""
        grad = torch.randn(7, 3).to(self.narrow.dtype)
        self.narrow.grad, self.wide.grad = grad, grad.float()

    def are_equal(self) -> bool:
        return torch.equal(self.narrow.detach(), self.wide.detach().to(self.narrow.dtype))


def bits(*tensors: Any) -> list[bytes]:
    return [t.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for t in tensors]


# --- steps ----------------------------------------------------------------------------------------


def accumulated(twins: Twins, optimizer: Any) -> None:
    optimizer.accumulate()


def with_closure(twins: Twins, optimizer: Any) -> None:
    (p,) = optimizer.param_groups[0]["params"]
    grad = p.grad

    def closure() -> Any:
        optimizer.zero_grad()
        (p * grad).sum().backward()
        return 0.0

    optimizer.step(closure)


WAYS: dict[str, Callable[[Twins, Any], Any]] = {
    "step": lambda twins, optimizer: optimizer.step(),
    "max_norm": lambda twins, optimizer: optimizer.step(max_norm=0.5),
    "grad_scale": lambda twins, optimizer: optimizer.step(grad_scale=8.0),
    "zero_grad": lambda twins, optimizer: optimizer.step(zero_grad=True),
    "raise": lambda twins, optimizer: optimizer.step(nonfinite="raise"),
    "float32 gradients": lambda twins, optimizer: optimizer.step(grads=[twins.wide.grad]),
    "closure": with_closure,
    "accumulate": accumulated,
}


@each_dtype
@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_steps_are_those_of_float32(dtype: Any, way: Any) -> None:
    twins = Twins(dtype)
    for _ in range(5):
        for _ in range(2):
            twins.give()
            for optimizer in twins.optimizers:
                way(twins, optimizer)
        if way is accumulated:
            for optimizer in twins.optimizers:
                optimizer.step()
        assert twins.are_equal()
    receipts = [optimizer.last_step for optimizer in twins.optimizers]
    assert receipts[0] == receipts[1]


# Half a unit of the last place is our rounding; the rest is for the two float32 results, which differ by rounding, too,
# so that they may lie on different sides of where it turns.
@each_dtype
@every_variant(TORCH, NATIVE, DENSE, ~CLOSURE, ~MATRICES)
def test_as_torchs_float32(card: Card, options: Options, dtype: Any) -> None:
    torch.manual_seed(1)
    ours = torch.nn.Parameter(torch.randn(5, 4).to(dtype))
    theirs = torch.nn.Parameter(ours.detach().float())
    a = card.cls([ours], **options)
    b = card.torch_class(torch)([theirs], **options)
    for _ in range(7):
        ours.grad = torch.randn(5, 4).to(dtype)
        theirs.grad = ours.grad.float()
        a.step()
        b.step()
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(ours.float(), theirs, rtol=unit, atol=1e-5)


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(4, 5),
        lambda: torch.ones(5, 4).t(),
        lambda: torch.ones(4, 10)[:, ::2],
        lambda: torch.ones(2, 3, 4, 5).to(memory_format=torch.channels_last),
        lambda: torch.ones(()),
        lambda: torch.ones(0),
        lambda: torch.ones(2, 0, 3),
        lambda: torch.ones(3, 1, 2).transpose(0, 1),
    ],
)
@each_dtype
def test_any_strides(make: Any, dtype: Any) -> None:
    wide = make()
    narrow = torch.empty_strided(wide.shape, wide.stride(), dtype=dtype)
    narrow.copy_(wide)
    optimizers = [cyoptim.Adam([p], lr=0.1) for p in (narrow, wide)]
    for k in range(3):
        torch.manual_seed(k)
        narrow.grad = torch.randn(narrow.shape).to(dtype)
        wide.grad = narrow.grad.float()
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(narrow, wide.to(dtype))


def test_gaps_of_a_view_stay() -> None:
    whole = torch.ones(6, 4, dtype=torch.bfloat16)
    p = whole[::2, 1:3].requires_grad_()
    cyoptim.AdamW([p], lr=0.1).step(grads=[torch.ones(3, 2)])
    assert (whole[1::2] == 1).all()
    assert (whole[::2, 1:3] < 1).all()


@pytest.mark.usefixtures("tensor_reader")
@each_dtype
def test_gradients_are_read_without_an_array(dtype: Any, monkeypatch: Any) -> None:
    p = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
    optimizer = cyoptim.SGD([p], lr=1.0)
    monkeypatch.delattr("cyoptim._libraries.torch.view_tensor")
    for _ in range(2):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert (p == -2).all()
    with pytest.raises(ImportError, match="view_tensor"):
        optimizer.step(grads=[torch.ones(3, 2)])


@each_dtype
def test_data_replaced(dtype: Any) -> None:
    p = parameter(dtype=dtype, grad=1.0)
    optimizer = cyoptim.SGD([p], lr=1.0, momentum=0.5)
    optimizer.step()
    p.data = torch.full((3,), 10.0, dtype=dtype)
    optimizer.step()
    assert p.tolist() == [8.5] * 3


def test_each_step_counts_as_a_change() -> None:
    p = parameter()
    optimizer = cyoptim.AdamW([p])
    loss = (p * p).sum()
    before = p._version
    optimizer.step()
    assert p._version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool) -> None:
    p = parameter()
    cyoptim.AdamW([p]).zero_grad(set_to_none=set_to_none)
    assert p.grad is None if set_to_none else p.grad.tolist() == [0.0] * 3


@each_dtype
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_gradients_that_are_not_finite(dtype: Any, value: float) -> None:
    p = parameter(dtype=dtype, grad=value)
    optimizer = cyoptim.AdamW([p])
    with pytest.raises(FloatingPointError, match="not finite: of parameter 0"):
        optimizer.step(nonfinite="raise")
    optimizer.step(nonfinite="skip")
    assert optimizer.last_step.skipped
    assert optimizer.last_step.nonfinite == (0,)
    assert p.tolist() == [1.0] * 3


def test_what_overflows_float16_is_infinite() -> None:
    p = parameter(dtype=torch.float16, grad=1.0)
    cyoptim.SGD([p], lr=1e6).step()
    assert p.tolist() == [-torch.inf] * 3


def test_differentiable_is_refused() -> None:
    p = parameter()
    with pytest.raises(RuntimeError, match="differentiable=True is not supported"):
        cyoptim.SGD([p], differentiable=True).step()


def test_a_scaler_of_float16() -> None:
    # By itself torch's scaler refuses to unscale gradients of float16: a fused step does.
    p = parameter(dtype=torch.float16, grad=torch.inf)
    optimizer = cyoptim.SGD([p], lr=0.5, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=16.0)
    for expected in (1.0, 0.5):
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        assert p.tolist() == [expected] * 3
        scaler.update()
        p.grad = torch.full_like(p, scaler.get_scale())
    assert scaler.get_scale() == 8.0


def test_sparse_gradients() -> None:
    table = torch.nn.Embedding(5, 3, sparse=True).to(torch.bfloat16)
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(TypeError, match="is sparse, and its state is stored in fewer bits"):
        cyoptim.SGD(table.parameters(), lr=0.1).step()


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_sparse_gradients_of_16_bits_over_float32() -> None:
    p = torch.zeros(4, 2, requires_grad=True)
    rows, values = torch.tensor([[1, 3]]), torch.ones(2, 2, dtype=torch.bfloat16)
    grads = [torch.sparse_coo_tensor(rows, values, (4, 2)), (np.array([1, 3]), values)]
    optimizer = cyoptim.SGD([p], lr=1.0)
    for grad in grads:
        optimizer.step(grads=[grad])
    assert p.tolist() == [[0, 0], [-2, -2], [0, 0], [-2, -2]]


# --- types ----------------------------------------------------------------------------------------


OF_FLOAT32 = [torch.float32, *SIXTEEN_BITS]


@pytest.mark.usefixtures("tensor_reader")
@pytest.mark.parametrize("of_grad", OF_FLOAT32, ids=str)
@pytest.mark.parametrize("dtype", OF_FLOAT32, ids=str)
def test_gradients_of_another_precision(dtype: Any, of_grad: Any) -> None:
    grad = torch.tensor([1.5, -0.25, 3.0]).to(of_grad)
    params = [parameter(dtype=dtype, grad=None) for _ in range(3)]
    given, own, same = (cyoptim.Adam([p], lr=0.1) for p in params)
    for _ in range(3):
        given.step(grads=[grad])
        if hasattr(params[1], "grad_dtype"):
            params[1].grad_dtype = of_grad
        params[1].grad = grad if hasattr(params[1], "grad_dtype") else grad.to(dtype)
        own.step()
        same.step(grads=[grad.to(dtype)])
    assert bits(*params[:2]) == bits(params[2], params[2])


@pytest.mark.parametrize(
    ("dtype", "of_grad", "message"),
    [
        (torch.bfloat16, torch.float64, "dtype float64, expected float32, bfloat16 or float16: write np.asarray(grad, np.float32), or make the parameter float64"),
        (torch.float32, torch.float64, "dtype float64, expected float32, bfloat16 or float16: write np.asarray(grad, np.float32), or make the parameter float64"),
        (torch.float64, torch.float32, "dtype float32, expected float64: write np.asarray(grad, np.float64), or make the parameter float32"),
        (torch.float64, torch.bfloat16, "dtype bfloat16, expected float64: convert it to float64, or make the parameter bfloat16"),
        (torch.complex64, torch.bfloat16, "dtype bfloat16, expected complex64: convert it to complex64, or make the parameter bfloat16"),
        (torch.bfloat16, torch.complex64, "dtype complex64, expected float32, bfloat16 or float16: write grad.real, or make the parameter complex"),
        (torch.float16, torch.float8_e4m3fn, "dtype torch.float8_e4m3fn, expected float32, float64, bfloat16 or float16, or complex of the first two: 8 bits are for state alone"),
    ],
)  # fmt: skip
def test_gradients_that_do_not_fit(dtype: Any, of_grad: Any, message: str) -> None:
    p = parameter(dtype=dtype, grad=None)
    with pytest.raises(TypeError) as caught:
        cyoptim.SGD([p]).step(grads=[torch.ones(3).to(of_grad)])
    assert message in str(caught.value)
    assert (p == 1).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_parameters_of_8_bits(dtype: Any) -> None:
    message = r'8 bits are for state alone, by state_dtype="float8_e4m3fn"; write \.float\(\)'
    with pytest.raises(TypeError, match=message):
        cyoptim.SGD([torch.ones(3).to(dtype)])


class InPython(cyoptim.Optimizer):
    """Steps by arrays of NumPy."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
        assert grad.dtype == param.dtype
        param -= grad


without_native_rule = pytest.mark.parametrize(
    "cls", [InPython, cyoptim.Muon, cyoptim.LBFGS, cyoptim.Adafactor]
)


@without_native_rule
def test_where_no_native_rule_steps(cls: Any) -> None:
    p = parameter(3, 2, grad=None)

    def closure() -> Any:
        p.grad = torch.full_like(p, 0.5)
        return 1.0

    with pytest.raises(TypeError, match="dtype bfloat16, which steps by native rules take"):
        cls([p]).step(closure)
    assert (p == 1).all()


@without_native_rule
def test_gradients_of_16_bits_where_no_native_rule_steps(cls: Any) -> None:
    params = [torch.ones(2, 3).t() for _ in range(2)]
    grads = [torch.randn(2, 3).bfloat16().t()]
    grads.append(grads[0].float())
    for p, grad in zip(params, grads, strict=True):
        boxed = cyoptim.Parameter(p.numpy())

        def closure(boxed: Any = boxed, grad: Any = grad) -> Any:
            boxed.grad = grad.float().numpy() if grad.dtype == torch.float32 else as_array(grad)
            return 1.0

        optimizer = cls([boxed])
        optimizer.step(closure)
        if cls is not cyoptim.LBFGS:
            optimizer.accumulate()
            optimizer.step()
            closure()
            optimizer.step(max_norm=0.1)
    assert torch.equal(*params)


# --- averages, trials and clipping ----------------------------------------------------------------


@each_dtype
def test_averages(dtype: Any) -> None:
    twins = Twins(dtype)
    for optimizer in twins.optimizers:
        optimizer.ema(0.9)
    for _ in range(4):
        twins.give()
        for optimizer in twins.optimizers:
            optimizer.step()
    narrow, wide = twins.optimizers
    state = narrow.state[twins.narrow]
    before = bits(twins.narrow, *state.values())
    for _ in range(2):
        with narrow.averaged(), wide.averaged():
            assert twins.are_equal()
            assert bits(twins.narrow) != before[:1]
        assert bits(twins.narrow, *state.values()) == before
    twins.give()
    for optimizer in twins.optimizers:
        optimizer.step()
    assert twins.are_equal()


def test_averages_move_by_less_than_16_bits_can() -> None:
    p = parameter(grad=None)
    optimizer = cyoptim.SGD([p], lr=0.5)
    optimizer.ema(0.999)
    optimizer.step(grads=[torch.zeros(3)])  # the average begins
    optimizer.step(grads=[torch.ones(3)])
    for _ in range(999):
        optimizer.step(grads=[torch.zeros(3)])
    with optimizer.averaged():
        expected = 0.5 + 0.5 * 0.999**1000
        torch.testing.assert_close(p.float(), torch.full((3,), expected), rtol=2**-8, atol=0)


def small_module(dtype: Any = torch.bfloat16) -> Any:
    torch.manual_seed(0)
    return torch.nn.Linear(4, 3).to(dtype)


@each_dtype
@pytest.mark.parametrize("decay", [None, 0.9])
def test_averages_of_modules_are_torchs(dtype: Any, decay: float | None) -> None:
    model = small_module(dtype)
    averages = []
    for functions in (cyoptim.swa_utils, torch.optim.swa_utils):
        move = None if decay is None else functions.get_ema_multi_avg_fn(decay)
        averages.append(functions.AveragedModel(model, multi_avg_fn=move))
    for _ in range(5):
        with torch.no_grad():
            model.weight.mul_(1.5)
        for average in averages:
            average.update_parameters(model)
    # The weight has one rounding more in torch, which takes it in another precision.
    unit = torch.finfo(dtype).eps
    for a, b in zip(*(average.module.parameters() for average in averages), strict=True):
        torch.testing.assert_close(a, b, rtol=2 * unit, atol=0)


def test_float32_averages_of_a_module_of_16_bits() -> None:
    model = small_module()
    start = model.weight.detach().float()
    move = cyoptim.swa_utils.get_ema_multi_avg_fn(0.999)
    average = cyoptim.swa_utils.AveragedModel(model, multi_avg_fn=move)
    average.module.float()
    average.update_parameters(model)
    with torch.no_grad():
        model.weight.add_(1.0)
    end = model.weight.detach().float()
    for _ in range(1000):
        average.update_parameters(model)
    torch.testing.assert_close(average.module.weight, end + (start - end) * 0.999**1000)


def test_find_lr_leaves_no_trace() -> None:
    model = small_module()
    optimizer = cyoptim.AdamW(model.parameters(), lr=0.01)
    x = torch.randn(16, 4).to(torch.bfloat16)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = ((model(x) - x[:, :3]) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    tensors = list(model.parameters())
    state = [v for p in tensors for v in optimizer.state[p].values()]
    before = bits(*tensors, *state)
    assert (
        cyoptim.lr_finder.find_lr(optimizer, closure, start=1e-4, steps=20).suggestion is not None
    )
    again = [v for p in tensors for v in optimizer.state[p].values()]
    assert bits(*tensors, *again) == before


@each_dtype
def test_clipping(dtype: Any) -> None:
    twins = Twins(dtype)
    twins.give()
    narrow, wide = twins.narrow, twins.wide
    for clip in (
        lambda p: cyoptim.clip_grad_norm_([p], 2.5),
        lambda p: cyoptim.clip_grad_norm_([p], 2.0, norm_type=1.0),
        lambda p: cyoptim.clip_grad_value_([p], 0.1),
        lambda p: cyoptim.clip.clip_grads_with_norm_([p], 1.0, 2.0),
        lambda p: cyoptim.clip.get_total_norm([p.grad]),
    ):
        found, expected = clip(narrow), clip(wide)
        assert torch.equal(narrow.grad, wide.grad.to(dtype))
        wide.grad = narrow.grad.float()
        if expected is not None:
            assert found.dtype == expected.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_a_norm_that_float16_does_not_hold() -> None:
    p = parameter(dtype=torch.float16, grad=60000.0)
    norm = cyoptim.clip_grad_norm_([p], 1.0)
    assert norm == pytest.approx(60000 * 3**0.5, rel=1e-6)
    torch.testing.assert_close(p.grad, torch.full((3,), 3**-0.5).half())


def test_norms_over_several_types() -> None:
    grads = [torch.ones(2, dtype=d) for d in (torch.bfloat16, torch.float16, torch.float64)]
    assert cyoptim.clip.get_total_norm(grads[:2]).dtype == torch.float32
    assert cyoptim.clip.get_total_norm(grads).dtype == torch.float64
    assert cyoptim.clip.get_total_norm(grads) == pytest.approx(6**0.5)


def test_the_gradient_that_is_not_finite_is_named() -> None:
    params = [parameter(), parameter(grad=float("inf"))]
    with pytest.raises(RuntimeError, match="by the number of the gradient: 1 has 3 of 3"):
        cyoptim.clip_grad_norm_(params, 1.0, error_if_nonfinite=True)


def test_vectors() -> None:
    a, b = parameter(2), parameter(2, dtype=torch.float16)
    vector = cyoptim.vectors.parameters_to_vector([a, a])
    assert vector.dtype == torch.bfloat16
    assert cyoptim.vectors.parameters_to_vector([a, b]).dtype == torch.float32
    new = torch.tensor([1.0 + 2**-8 + 2**-16, 3.0, 1.0 + 2**-12, 70000.0])
    cyoptim.vectors.vector_to_parameters(new, [a, b])
    assert bits(a, b) == bits(new[:2].bfloat16(), new[2:].half())
    cyoptim.vectors.vector_to_parameters(new.double(), [a, b])
    assert bits(a, b) == bits(new[:2].bfloat16(), new[2:].half())


# --- other programs -------------------------------------------------------------------------------


def test_copies_go_on_alike() -> None:
    torch.manual_seed(0)
    p = parameter(5)
    optimizer = cyoptim.AdamW([p], lr=0.1)
    optimizer.step()
    twin = copy.deepcopy((p, optimizer))
    for q, each in ((p, optimizer), twin):
        q.grad = torch.full_like(q, 0.25)
        each.step()
    assert bits(p) == bits(twin[0])
