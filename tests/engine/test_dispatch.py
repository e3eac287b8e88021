"""Groups with a native rule and groups that update() steps, in one optimizer and one step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import Parameter


class Hybrid(cyoptim.Adam):
    """Adam, and for groups that are marked so a gradient step that counts itself."""

    fails = False

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        defaults = cyoptim.Adam([np.zeros(0)], lr=lr).defaults
        cyoptim.Optimizer.__init__(self, params, {**defaults, "by_hand": False})

    def _rule_of(self, group: Any) -> str | None:
        return None if group["by_hand"] else super()._rule_of(group)

    def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
        state["count"] = state.get("count", 0) + 1
        average = state.setdefault("average", np.zeros_like(param))
        average += grad
        param -= group["lr"] * average
        if self.fails:
            raise RuntimeError("in the middle")


def arrays(dtype: Any = np.float64) -> list[Any]:
    rng = np.random.default_rng(1)
    strided = np.array(rng.standard_normal((4, 6)), dtype)[:, ::2]
    return [
        np.array(rng.standard_normal(7), dtype),
        np.array(rng.standard_normal(20_000), dtype),
        np.array(rng.standard_normal((3, 2)), dtype),
        strided,
    ]


def gradients(like: list[Any], seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    grads = [np.array(rng.standard_normal(a.shape), a.dtype) for a in like]
    grads[seed % len(grads)] = None
    return grads


def groups(params: list[Any]) -> list[dict[str, Any]]:
    return [
        {"params": params[:1]},
        {"params": params[1:2], "by_hand": True},
        {"params": params[2:3], "by_hand": True, "lr": 0.5},
        {"params": params[3:], "lr": 0.2},
    ]


class Apart:
    """What the same steps are by optimizers of their own."""

    def __init__(self, params: list[Any]) -> None:
        self.params = params
        self.native = cyoptim.Adam(
            [{"params": params[:1]}, {"params": params[3:], "lr": 0.2}], lr=0.1
        )
        self.sums = [np.zeros_like(p) for p in params]

    def step(self, grads: list[Any], factor: float = 1.0) -> None:
        grads = [None if g is None else g * g.dtype.type(factor) for g in grads]
        self.native.step(grads=[grads[0], grads[3]])
        for k, lr in ((1, 0.1), (2, 0.5)):
            if grads[k] is not None:
                self.sums[k] += grads[k]
                self.params[k] -= lr * self.sums[k]


def as_they_are(optimizer: Any, params: list[Any]) -> Any:
    return copy.deepcopy((params, optimizer.state_dict()))


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_step_as_they_do_alone(dtype: Any) -> None:
    params, others = arrays(dtype), arrays(dtype)
    optimizer, expected = Hybrid(groups(params)), Apart(others)
    for seed in range(6):
        grads = gradients(params, seed)
        optimizer.step(grads=grads)
        expected.step(grads)
        assert_same(params, others)
    assert optimizer.state[params[1]]["count"] == 4
    assert optimizer.state[params[0]]["step"] == 4
    assert "step" not in optimizer.state[params[1]]


def test_a_rule_may_come_and_go() -> None:
    params = arrays()
    optimizer = Hybrid(groups(params))
    optimizer.step(grads=gradients(params, 1))
    first = params[0].copy()
    optimizer.param_groups[0]["by_hand"] = True
    grads = gradients(params, 2)
    optimizer.step(grads=grads)
    np.testing.assert_array_equal(params[0], first - 0.1 * grads[0])
    for group in optimizer.param_groups:
        group["by_hand"] = False
    for seed in range(3, 6):  # the way of a quick step, after one that was not
        optimizer.step(grads=gradients(params, seed))
    assert "exp_avg" in optimizer.state[params[1]]
    optimizer.param_groups[1]["by_hand"] = True
    before, grads = params[1].copy(), gradients(params, 7)
    average = optimizer.state[params[1]].get("average", np.zeros(20_000)).copy()
    optimizer.step(grads=grads)
    np.testing.assert_array_equal(params[1], before - 0.1 * (average + grads[1]))


def test_what_fails_changes_nothing_of_either() -> None:
    params = arrays()
    optimizer = Hybrid(groups(params))
    optimizer.fails = True
    for seed in (4, 8):
        before = as_they_are(optimizer, params)
        with pytest.raises(RuntimeError, match="in the middle"):
            optimizer.step(grads=gradients(params, seed))
        assert_same(as_they_are(optimizer, params), before)
        optimizer.fails = False
        optimizer.step(grads=gradients(params, 4))
        optimizer.fails = True
    optimizer.fails = False
    before = as_they_are(optimizer, params)
    grads = gradients(params, 0)
    grads[3] = np.zeros(3)
    with pytest.raises(ValueError, match="has shape"):
        optimizer.step(grads=grads)
    optimizer.param_groups[3]["lr"] = "fast"
    with pytest.raises(TypeError, match="options of param group 3: lr must be a number"):
        optimizer.step(grads=gradients(params, 0))
    optimizer.param_groups[3]["lr"] = 0.2
    assert_same(as_they_are(optimizer, params), before)


def test_one_norm_for_both() -> None:
    params, others = arrays(), arrays()
    optimizer, expected = Hybrid(groups(params)), Apart(others)
    for seed in range(4):
        grads = gradients(params, seed)
        norm = np.sqrt(sum(float(np.sum(g**2)) for g in grads if g is not None)) / 2
        optimizer.step(grads=grads, max_norm=1.0, grad_scale=2.0)
        assert optimizer.last_step is not None
        assert optimizer.last_step.total_norm == pytest.approx(norm, rel=1e-12)
        expected.step(grads, 1 / (norm + 1e-6) / 2)
    for a, b in zip(params, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_skipped_step_is_one_of_neither() -> None:
    params = arrays()
    optimizer = Hybrid(groups(params))
    optimizer.step(grads=gradients(params, 0))
    before = as_they_are(optimizer, params)
    grads = gradients(params, 1)
    grads[3][0, 0] = np.nan
    optimizer.step(grads=grads, nonfinite="skip")
    assert_same(as_they_are(optimizer, params), before)


def test_gradients_of_both_are_zeroed() -> None:
    params = [Parameter(a) for a in arrays()]
    optimizer = Hybrid(groups(params))
    for zeroed in (True, False):
        grads = [np.ones(p.data.shape) for p in params]
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.step(zero_grad=zeroed)
        assert [g.any() for g in grads] == [not zeroed] * 4


def test_averages_follow_both() -> None:
    params = arrays()
    optimizer = Hybrid(groups(params))
    average = optimizer.ema(0.5)
    means: list[Any] = []
    for seed in range(4):
        optimizer.step(grads=gradients(params, seed))
        old = means or params
        means = [m + 0.5 * (p - m) if means else p.copy() for p, m in zip(params, old, strict=True)]
    for p, m in zip(params, means, strict=True):
        np.testing.assert_array_equal(average[p], m)


def test_sums_and_saves(tmp_path: Any) -> None:
    params = arrays()
    optimizer = Hybrid(groups(params))
    for seed in range(2):
        optimizer.accumulate(gradients(params, seed))
    optimizer.step()
    for form in ("npz", "safetensors", "dict", "copy"):
        again = [p.copy() for p in params]
        if form == "copy":
            again, other = copy.deepcopy((params, optimizer))
        else:
            other = Hybrid(groups(again))
        if form == "dict":
            other.load_state_dict(optimizer.state_dict())
        elif form != "copy":
            cyoptim.save(tmp_path / f"run.{form}", params=params, optimizer=optimizer)
            cyoptim.load(tmp_path / f"run.{form}", params=again, optimizer=other)
        expected, before = [p.copy() for p in params], copy.deepcopy(optimizer.state_dict())
        grads = gradients(params, 3)
        optimizer.step(grads=grads)
        other.step(grads=grads)
        assert_same(again, params)
        assert_same(other.state_dict(), optimizer.state_dict())
        for p, old in zip(params, expected, strict=True):
            p[...] = old
        optimizer.load_state_dict(before)


def test_tensors(torch: Any) -> None:
    params, tensors = arrays(), [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays()]
    optimizer, other = Hybrid(groups(params)), Hybrid(groups(tensors))
    for seed in range(3):
        grads = gradients(params, seed)
        optimizer.step(grads=grads)
        for t, g in zip(tensors, grads, strict=True):
            t.grad = None if g is None else torch.from_numpy(g)
        versions = [t._version for t in tensors]
        other.step()
        assert [t._version > v for t, v in zip(tensors, versions, strict=True)] == [
            g is not None for g in grads
        ]
    for a, t in zip(params, tensors, strict=True):
        np.testing.assert_array_equal(a, t.numpy())
    assert torch.is_tensor(other.state[tensors[1]]["average"])


def test_a_kernel_is_of_its_rule() -> None:
    from cyoptim.kernel import Kernel

    class ByHand(Hybrid):
        def _rule_of(self, group: Any) -> str | None:
            return None

    assert Kernel(Hybrid).state_names == ("exp_avg", "exp_avg_sq")
    with pytest.raises(TypeError, match="ByHand has no kernel: it is not element-wise"):
        Kernel(ByHand)


def test_a_subclass_keeps_its_parents_groups() -> None:
    class Other(Hybrid):  # of a class with rules and an update
        def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
            param -= 2 * grad

    class Plain(cyoptim.Adam):  # of a class with rules alone: all groups
        def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
            param -= 2 * grad

    for cls, moved in ((Other, -0.1), (Plain, -2.0)):
        a, b = np.zeros(3), np.zeros(3)
        marked = {"params": [b], **({"by_hand": True} if cls is Other else {})}
        cls([{"params": [a]}, marked], lr=0.1).step(grads=[np.ones(3), np.ones(3)])
        np.testing.assert_allclose(a, moved, rtol=1e-6)
        np.testing.assert_array_equal(b, -2.0)


def test_nothing_ends_before_the_native_groups_have_stepped() -> None:
    # What ends may run any code, which may change what the step has checked.
    a, b = np.zeros(3), np.zeros(3)
    seen: list[Any] = []

    class Witness:
        def __del__(self) -> None:
            seen.append(a.copy())

    class Replacing(Hybrid):
        def update(self, param: Any, grad: Any, state: dict[str, Any], group: Any) -> None:
            state["witness"] = Witness()
            param -= grad

    optimizer = Replacing([{"params": [a]}, {"params": [b], "by_hand": True}])
    for _ in range(2):
        optimizer.step(grads=[np.ones(3), np.ones(3)])
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0], a)


class ByShape(Hybrid):
    """As Hybrid, where the shape of a parameter decides."""

    _rules = (*cyoptim.Adam._rules, "lion")

    def _rule_of(self, group: Any) -> str | None:
        return cyoptim.Adam._rule_of(self, group)

    def _is_apart(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == 1

    def _rule_apart(self, group: Any) -> str | None:
        return None if group["by_hand"] else "lion"


@pytest.mark.parametrize("by_hand", [False, True])
def test_shapes_that_are_set_apart_within_a_group(by_hand: bool) -> None:
    params, alone = arrays(), arrays()
    optimizer = ByShape([{"params": [params[i] for i in (0, 2, 1, 3)], "by_hand": by_hand}])
    vectors: Any = Hybrid([{"params": alone[:2], "by_hand": True}])
    if not by_hand:
        vectors = cyoptim.Lion(alone[:2], lr=0.1, betas=(0.9, 0.999))
    matrices = cyoptim.Adam(alone[2:], lr=0.1)
    for step in range(6):
        grads = gradients(params, step)
        optimizer.step(grads=[grads[i] for i in (0, 2, 1, 3)], max_norm=1e9)
        vectors.step(grads=grads[:2])
        matrices.step(grads=grads[2:])
        if step == 2:
            again = ByShape([{"params": [params[i] for i in (0, 2, 1, 3)], "by_hand": by_hand}])
            again.load_state_dict(optimizer.state_dict())
            optimizer = again
    for a, b in zip(params, alone, strict=True):
        np.testing.assert_array_equal(a, b)
    # Options reach both; a rule may change.
    optimizer.param_groups[0].update(lr=0.0, by_hand=not by_hand)
    before = [p.copy() for p in params]
    grads = gradients(params, 6)
    optimizer.step(grads=[grads[i] for i in (0, 2, 1, 3)])
    for a, b in zip(params, before, strict=True):
        np.testing.assert_array_equal(a, b)
