"""Muon and Adam in one optimizer, and the matrices that Muon steps."""

from __future__ import annotations

import copy
import pickle
import platform
import re
import threading
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import MuonWithAuxAdam, _dispatch, _engine
from cyoptim._config import _set_limit
from tests.engine.test_layouts import unaligned
from tests.optimizers.muon_with_aux_adam import OfMatrices
from tests.support.parametrize import every_real

SHAPES = {"W": (4, 3), "filters": (5, 2, 3, 3), "heads": (2, 3, 4), "bias": (6,), "scale": ()}
MATRICES = ("W", "filters", "heads")
MUON = {"use_muon": True, "lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
ADAM = {"use_muon": False, "lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.05}


def net(seed: int = 0, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: np.asarray(rng.standard_normal(shape), dtype=dtype) for name, shape in SHAPES.items()
    }


def groups(params: dict[str, Any]) -> list[dict[str, Any]]:
    matrices = {name: params[name] for name in MATRICES}
    others = {name: params[name] for name in params if name not in MATRICES}
    return [{"params": matrices.items(), **MUON}, {"params": others.items(), **ADAM}]


def hybrid(params: dict[str, Any], **options: Any) -> MuonWithAuxAdam:
    return MuonWithAuxAdam(groups(params), **options)


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- the two kinds of groups ----------------------------------------------------------------------


@every_real
def test_each_group_goes_as_it_would_alone(dtype: Any) -> None:
    together, apart = net(dtype=dtype), net(dtype=dtype)
    both = hybrid(together)
    options = {name: value for name, value in ADAM.items() if name != "use_muon"}
    adam = cyoptim.AdamW([apart["bias"], apart["scale"]], eps=1e-10, **options)
    muon = MuonWithAuxAdam([{"params": [apart[name] for name in MATRICES], **MUON}])
    for step in range(5):
        grads = net(step + 1, dtype)
        if step == 2:
            del grads["bias"], grads["heads"]
        both.step(grads=grads)
        muon.step(grads=[grads.get(name) for name in MATRICES])
        adam.step(grads=[grads.get("bias"), grads["scale"]])
    assert_same(together, apart)


# --- what every optimizer can do ------------------------------------------------------------------


def test_a_step_has_all_arguments() -> None:
    params, other = net(), net()
    optimizer, plain = hybrid(params), hybrid(other)
    grads = net(1)
    norm = np.sqrt(sum(np.sum(g * g) for g in grads.values()))
    optimizer.step(grads=grads, max_norm=norm / 2, grad_scale=4.0, nonfinite="raise")
    assert optimizer.last_step is not None
    assert np.isclose(optimizer.last_step.total_norm, norm / 4)
    plain.step(grads={name: g / 4 for name, g in grads.items()})
    for name in params:
        np.testing.assert_allclose(params[name], other[name], rtol=1e-12)
    before = copy.deepcopy(params)
    grads["bias"] = np.full(6, np.inf)
    optimizer.step(grads=grads, nonfinite="skip")
    assert_same(params, before)
    with pytest.raises(FloatingPointError, match="'bias'"):
        optimizer.step(grads=grads, nonfinite="raise")
    assert_same(params, before)


def test_averages_and_sums() -> None:
    params, other = net(), net()
    optimizer, plain = hybrid(params), hybrid(other)
    optimizer.ema(0.5)
    expected = None
    for step in range(3):
        for part in range(2):
            optimizer.accumulate(net(10 * step + part))
        optimizer.step()
        a, b = net(10 * step), net(10 * step + 1)
        plain.step(grads={name: (a[name] + b[name]) / 2 for name in a})
        now = copy.deepcopy(other)
        expected = now if expected is None else {n: (expected[n] + now[n]) / 2 for n in now}
    assert expected is not None
    for name in params:
        np.testing.assert_allclose(params[name], other[name], rtol=1e-12)
    with optimizer.averaged():
        for name in params:
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-12)


def continued_by_state_dict(optimizer: Any, params: Any) -> Any:
    new = hybrid(params)
    new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return new


def test_a_run_goes_on(tmp_path: Any) -> None:
    def advance(optimizer: Any, steps: range) -> None:
        for step in steps:
            optimizer.step(grads=net(step))

    expected = net()
    advance(hybrid(expected), range(6))
    for way in ("state_dict", "file", "pickle", "deepcopy"):
        params = net()
        optimizer = hybrid(params)
        advance(optimizer, range(3))
        if way == "state_dict":
            optimizer = continued_by_state_dict(optimizer, params)
        elif way == "file":
            cyoptim.save(tmp_path / "run.npz", params=params, optimizer=optimizer)
            params = net(9)
            optimizer = hybrid(params)
            cyoptim.load(tmp_path / "run.npz", params=params, optimizer=optimizer)
        else:
            copied = pickle.loads(pickle.dumps(optimizer)) if way == "pickle" else copy.deepcopy(optimizer)  # fmt: skip
            optimizer = copied
            names = [name for group in optimizer.param_groups for name in group["param_names"]]
            members = [p for group in optimizer.param_groups for p in group["params"]]
            params = dict(zip(names, members, strict=True))
        advance(optimizer, range(3, 6))
        assert_same({name: params[name] for name in expected}, expected)


def test_states_of_the_authors_class_load() -> None:
    # As torch.save keeps them: its groups lack the options that are ours alone.
    params = net()
    optimizer = hybrid(params)
    optimizer.step(grads=net(1))
    theirs = copy.deepcopy(optimizer.state_dict())
    for group in theirs["param_groups"]:
        keys = {"lr", "weight_decay", "use_muon", "params"}
        keys |= {"momentum"} if group["use_muon"] else {"betas", "eps"}
        for name in group.keys() - keys:
            del group[name]
    for number in (3, 4):
        theirs["state"][number]["step"] = 1  # a plain int
    other = copy.deepcopy(params)
    new = hybrid(other, nesterov=False)
    new.load_state_dict(theirs)
    assert [g.get("nesterov") for g in new.param_groups] == [False, None]
    new.param_groups[0]["nesterov"] = True
    for run in (optimizer, new):
        run.step(grads=net(2))
    assert_same(params, other)
    values = list(other.values())
    adam = cyoptim.AdamW([{"params": values[:3]}, {"params": values[3:]}])
    with pytest.raises(ValueError, match="not that of MuonWithAuxAdam: param group 0 has no"):
        new.load_state_dict(adam.state_dict())


def test_gradients_stay_as_they_are(torch: Any) -> None:
    for wrap in (np.array, cyoptim.Parameter, torch.tensor):
        params = {name: wrap(value) for name, value in net().items()}
        grads = net(1)
        optimizer = hybrid(params, maximize=True)
        if wrap is np.array:
            optimizer.step(grads=grads, max_norm=0.1)
        else:
            for name, param in params.items():
                param.grad = torch.tensor(grads[name]) if wrap is torch.tensor else grads[name]
            optimizer.step(max_norm=0.1)
            grads = {name: np.asarray(param.grad) for name, param in params.items()}
        assert_same(grads, net(1))


# --- what is stepped as a matrix ------------------------------------------------------------------


def test_a_missing_gradient_leaves_a_matrix() -> None:
    params = net()
    optimizer = hybrid(params)
    optimizer.step(grads=net(1))
    before = copy.deepcopy(params)
    optimizer.step(grads={"bias": np.ones(6)})
    for name in MATRICES:
        np.testing.assert_array_equal(params[name], before[name])


def one_step(start: Any, grad: Any, **options: Any) -> np.ndarray:
    w = np.array(start)
    MuonWithAuxAdam([{"params": [w], "use_muon": True, "lr": 0.1, **options}]).step(grads=[grad])
    return w


def test_filters_and_stacks() -> None:
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, 6, 2, 3, 4))
    flat = one_step(start.reshape(6, 24), grad.reshape(6, 24), adjust_lr_fn="original")
    for options in ({}, {"layout": "conv"}, {"layout": "conv", "adjust_lr_fn": "original"}):
        np.testing.assert_array_equal(one_step(start, grad, **options).reshape(6, 24), flat)
    each = [[one_step(s, g) for s, g in zip(*pair, strict=True)] for pair in zip(start, grad, strict=True)]  # fmt: skip
    np.testing.assert_array_equal(one_step(start, grad, layout="stack"), each)
    # Of three dimensions, the authors take each matrix by itself.
    np.testing.assert_array_equal(one_step(start[0], grad[0]), each[0])
    tall = one_step(np.zeros((4, 1, 9, 1)), grad.ravel()[:36].reshape(4, 1, 9, 1))
    usual = one_step(np.zeros((4, 1, 9, 1)), grad.ravel()[:36].reshape(4, 1, 9, 1), adjust_lr_fn="original")  # fmt: skip
    np.testing.assert_allclose(tall, 3 * usual, rtol=1e-14)  # the height and width of its filters


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (1, 1), (0, 3), (3, 0), (5, 8), (0, 2, 2)])
def test_zero_gradients(shape: tuple[int, ...]) -> None:
    w = np.ones(shape)
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True, "weight_decay": 0.5}])
    for _ in range(4):
        optimizer.step(grads=[np.zeros(shape)])
    np.testing.assert_allclose(w, 0.99**4)
    if len(shape) == 2:
        for eps in (0.0, 1e-7):
            w = np.ones(shape)
            cyoptim.Muon([w], lr=0.1, weight_decay=0.0, eps=eps).step(grads=[np.zeros(shape)])
            np.testing.assert_array_equal(w, 1)


def test_nan_stays_in_its_matrix() -> None:
    params = net()
    grads = net(1)
    grads["W"][0, 0] = np.nan
    grads["heads"][1, 0, 0] = np.inf
    hybrid(params).step(grads=grads)
    assert np.isnan(params["W"]).all()
    assert np.isnan(params["heads"][1]).all()
    assert np.isfinite(params["heads"][0]).all()
    assert all(np.isfinite(params[name]).all() for name in ("filters", "bias", "scale"))


def test_matrices_of_any_rank() -> None:
    rng = np.random.default_rng(0)
    for rank in (1, 2):
        grad = rng.standard_normal((6, rank)) @ rng.standard_normal((rank, 9))
        step = one_step(np.zeros((6, 9)), grad, lr=1.0)
        values = np.linalg.svd(step, compute_uv=False)
        assert (values[:rank] > 0.5).all()
        assert (values[rank:] < 1e-6).all()


@every_real
def test_singular_values_come_near_one(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        w = np.zeros((40, 80), dtype)
        grad = rng.standard_normal((40, 80)).astype(dtype)
        cyoptim.Muon([w], lr=1.0, weight_decay=0.0).step(grads=[grad])
        values = np.linalg.svd(w.astype(np.float64), compute_uv=False)
        assert 0.66 < values.min() <= values.max() < 1.21


def test_a_transposed_gradient_makes_the_transposed_step() -> None:
    grad = np.random.default_rng(0).standard_normal((5, 9))
    for adjust in ("match_rms_adamw", None):
        a = one_step(np.zeros((9, 5)), grad.T, adjust_lr_fn=adjust)
        b = one_step(np.zeros((5, 9)), grad, adjust_lr_fn=adjust)
        np.testing.assert_allclose(
            a, b.T * (1 if adjust else np.sqrt(9 / 5)), rtol=1e-12, atol=1e-14
        )


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    grad = np.random.default_rng(0).standard_normal((5, 9))

    def step(scale: float, eps: float) -> np.ndarray:
        w = np.zeros((5, 9))
        cyoptim.Muon([w], lr=0.1, weight_decay=0.0, eps=eps).step(grads=[grad * scale])
        return w

    usual = step(1.0, 1e-7)
    np.testing.assert_allclose(step(1e12, 1e-7), usual, rtol=1e-11)
    np.testing.assert_allclose(step(1e-12, 0.0), usual, rtol=1e-11)
    # With torch's eps, what is far below it hardly moves.
    assert np.abs(step(1e-12, 1e-7)).max() < 1e-2 * np.abs(usual).max()


# --- what callers may do ---------------------------------------------------------------------------


def test_an_average_of_another_shape_is_refused() -> None:
    rng = np.random.default_rng(0)
    for shape, wrong in (
        ((2, 3, 3), (9,)),
        ((2, 3, 3), (2, 3)),
        ((4, 6), (6, 1)),
        ((4, 6), (8, 1)),
    ):
        w = rng.standard_normal(shape)
        optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True}], variance=True)
        optimizer.step(grads=[w])
        memory = np.zeros(100)  # which is written no further
        optimizer.state[w]["second_momentum_buffer"] = memory[: np.prod(wrong)].reshape(wrong)
        before = w.copy()
        expected = re.escape(f"shape {wrong} and dtype float64, expected {(*shape[:-1], 1)} and")
        with pytest.raises(ValueError, match=expected):
            optimizer.step(grads=[before])
        np.testing.assert_array_equal(w, before)
        assert not memory.any()


def test_a_matrix_that_changes_its_shape() -> None:
    # Between two calls, as another thread may change it.
    param, grad, buffer = np.ones((3, 2, 3, 3))
    step = _engine.MuonStep(
        _engine.Workspace(), (param, grad, buffer), (2, 3, 3), [], (1.0, 0.0, 0.0),
        momentum=0.9, nesterov=True, sign=1.0, shrink=1.0, size=1.0, cautious=False,
    )  # fmt: skip
    for average in (
        np.zeros(9),
        np.zeros((2, 3)),
        np.zeros((2, 4, 1)),
        unaligned(np.ones((2, 3, 1))),
    ):
        with pytest.raises(ValueError, match="expected"):
            step.normalize(average, 0.9)
    for shape in ((1, 9, 2), (6, 3), (1, 6, 3), (18,)):
        param.shape = shape
        with pytest.raises(ValueError, match="expected"):
            step.normalize(np.zeros((*shape[:-1], 1)), 0.9)


@pytest.mark.parametrize("kind", ["Muon", "MuonWithAuxAdam"])
def test_updates_in_threads(kind: str) -> None:
    def run(many: bool) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        params = [rng.standard_normal((200 + 40 * k, 300)) for k in range(2)]
        groups = [{"params": params, **({} if kind == "Muon" else {"use_muon": True})}]
        optimizer = getattr(cyoptim, kind)(groups)
        states: list[dict[str, Any]] = [{}, {}]

        def work(k: int) -> None:
            for _ in range(10):
                optimizer.update(params[k], params[k] + 1, states[k], optimizer.param_groups[0])

        threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
        for thread in threads:
            thread.start()
            if not many:
                thread.join()
        for thread in threads:
            thread.join()
        return params

    for a, b in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["Muon", "MuonWithAuxAdam"])
def test_an_update_is_of_real_matrices(kind: str) -> None:
    w = np.ones((2, 2))
    groups = [{"params": [w], **({} if kind == "Muon" else {"use_muon": True})}]
    optimizer = getattr(cyoptim, kind)(groups)
    z = np.ones((2, 2), complex)
    with pytest.raises(TypeError, match=f"{kind} does not support complex parameters"):
        optimizer.update(z, z, {}, optimizer.param_groups[0])


# --- the products ---------------------------------------------------------------------------------


@every_real
@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (65, 200), (200, 65), (130, 129)], ids=str)
@pytest.mark.parametrize(
    "options",
    [{}, {"ns_steps": 1}, {"ns_coefficients": "polar_express", "ns_steps": 8}, {"variance": True}],
    ids=str,
)
def test_products_of_any_shape(dtype: Any, shape: tuple[int, int], options: Any) -> None:
    rng = np.random.default_rng(0)
    start, *grads = rng.standard_normal((4, *shape))
    w, expected = start.astype(dtype), [start.astype(dtype).astype(np.float64)]
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True, "lr": 0.1, **options}])
    reference = OfMatrices(lr=0.1, **options)
    for grad in grads:
        optimizer.step(grads=[grad.astype(dtype)])
        reference.step(expected, [grad.astype(dtype).astype(np.float64)])
    limit = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(w, expected[0], rtol=limit, atol=limit)


@every_real
def test_small_singular_values_are_not_lost(dtype: Any) -> None:
    # Several iterations at once square the matrix, and with it what is small.
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.standard_normal((32, 32)))
    right, _ = np.linalg.qr(rng.standard_normal((256, 256)))
    grad = ((left * np.logspace(0, -5, 32)) @ right[:32]).astype(dtype)
    w, expected = np.zeros((32, 256), dtype), [np.zeros((32, 256))]
    MuonWithAuxAdam([{"params": [w], "use_muon": True, "lr": 1.0}]).step(grads=[grad])
    OfMatrices(lr=1.0).step(expected, [grad.astype(np.float64)])
    limit = 1e-12 if dtype == np.float64 else 3e-5
    assert np.abs(w - expected[0]).max() < limit


@every_real
def test_the_size_of_float32_is_no_limit(dtype: Any) -> None:
    grad = np.random.default_rng(0).standard_normal((6, 9)).astype(dtype)
    usual = one_step(np.zeros((6, 9), dtype), grad)
    scaled = one_step(np.zeros((6, 9), dtype), grad * dtype(1e30))
    np.testing.assert_allclose(scaled, usual, rtol=0, atol=1e-5)
    w = np.zeros((6, 9), dtype)
    cyoptim.Muon([w], lr=0.1, weight_decay=0.0, eps=0.0).step(grads=[grad * dtype(1e-25)])
    np.testing.assert_allclose(w, one_step_of_muon(grad), rtol=0, atol=1e-5 * np.abs(w).max())


def one_step_of_muon(grad: Any) -> np.ndarray:
    w = np.zeros_like(grad)
    cyoptim.Muon([w], lr=0.1, weight_decay=0.0, eps=0.0).step(grads=[grad])
    return w


@every_real
@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (5, 7), (2, 40, 30)], ids=str)
def test_the_same_bits_on_any_threads(dtype: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    start, grad = rng.standard_normal((2, *shape)).astype(dtype)
    found: dict[str, list[np.ndarray]] = {}
    for isa in _dispatch.available():
        for threads in (1, 2):
            _dispatch.use(isa)
            _set_limit(threads)
            fused = "fused" if isa != "baseline" or platform.machine() == "aarch64" else isa
            found.setdefault(fused, []).append(one_step(start, grad, variance=True))
    for results in found.values():
        for result in results:
            np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_memory_of_any_layout(order: str) -> None:
    def laid_out(values: Any) -> Any:
        if order == "strided":
            return np.repeat(values, 2, axis=1)[:, ::2]
        return np.array(values, order=order)

    rng = np.random.default_rng(0)
    start, *grads = rng.standard_normal((4, 6, 9))
    a, b = start.copy(), laid_out(start)
    groups = [[{"params": [w], "use_muon": True, "variance": True}] for w in (a, b)]
    optimizers = [MuonWithAuxAdam(group) for group in groups]
    for grad in grads:
        optimizers[0].step(grads=[grad])
        optimizers[1].step(grads=[laid_out(grad)])
    np.testing.assert_array_equal(a, b)


# --- variants of the step -------------------------------------------------------------------------


def test_rows_are_evened_out() -> None:
    rng = np.random.default_rng(0)
    grad = rng.standard_normal((6, 9)) * np.logspace(0, 3, 6)[:, None]
    plain = one_step(np.zeros((6, 9)), grad, adjust_lr_fn="original")
    even = one_step(np.zeros((6, 9)), grad, adjust_lr_fn="original", variance=True, beta2=0.0)
    lengths = np.linalg.norm(even, axis=1)
    np.testing.assert_allclose(lengths, lengths[0])
    np.testing.assert_allclose(np.linalg.norm(even), np.linalg.norm(plain))


def test_variance_may_be_turned_on_and_saved() -> None:
    w = np.ones((4, 3))
    optimizer = MuonWithAuxAdam([{"params": [w], "use_muon": True}])
    optimizer.step(grads=[np.eye(4, 3)])
    assert {*optimizer.state[w]} == {"momentum_buffer"}
    optimizer.param_groups[0]["variance"] = True
    optimizer.step(grads=[np.eye(4, 3)])
    assert optimizer.state[w]["second_momentum_buffer"].shape == (4, 1)
    other = MuonWithAuxAdam([{"params": [w.copy()], "use_muon": True}])
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["second_momentum_buffer"] = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"has shape \(4, 3\), expected \(4, 1\)"):
        other.load_state_dict(saved)


def test_cautious_decay() -> None:
    start = np.array([[1.0, -1.0], [2.0, 3.0]])
    step = one_step(np.zeros((2, 2)), np.eye(2))  # towards -1 on the diagonal
    decayed = one_step(start, np.eye(2), weight_decay=0.5, cautious_wd=True)
    factors = np.where(-step * start > 0, 1 - 0.1 * 0.5, 1)
    np.testing.assert_allclose(decayed, factors * start + step)
    assert (factors == 1).any()
    assert (factors != 1).any()


def test_polar_express_comes_nearer_to_one() -> None:
    grad = np.random.default_rng(0).standard_normal((20, 30))
    for steps, limit in ((5, 0.14), (8, 1e-6), (12, 1e-6)):
        step = one_step(
            np.zeros((20, 30)), grad, lr=1.0, ns_coefficients="polar_express", ns_steps=steps
        )
        values = np.linalg.svd(step, compute_uv=False)
        assert np.abs(values - 1).max() < limit
