"""What steps by the trial rules do. Each function is run in a process of its own, by
``python trial_cases.py KERNELS FUNCTION``, with the kernels in that file."""

from __future__ import annotations

import importlib.util
import io
import os
import sys
from typing import Any

import numpy as np
import pytest

CHUNK = 16384
SHAPES = [(3, 5), (4,), (), (0,), (2, 3, 4), (7, 3000), (3, 40_000), (CHUNK + 3,), (5000,)]
DTYPES = [np.float32, np.float64]
CLOSE = {np.float32: 2e-5, np.float64: 1e-12}  # few steps, sums in double


def optimizer_of(rule: str, **options: Any) -> Any:
    import cyoptim

    class Trial(cyoptim.Optimizer):
        _rule = rule
        _rules = (rule,)

        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "maximize": False, **options})

    return Trial


def start_of(shapes: Any, dtype: Any, seed: int = 0, order: str = "C") -> list[Any]:
    rng = np.random.default_rng(seed)
    return [np.array(rng.standard_normal(shape), dtype=dtype, order=order) for shape in shapes]  # type: ignore[call-overload]


def assert_close(found: list[Any], expected: list[Any], dtype: Any) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=CLOSE[dtype], atol=CLOSE[dtype])


def by_unit(rule: str, axes_of: Any, shape_of: Any, order: str) -> None:
    for dtype in DTYPES:
        params = start_of(SHAPES, dtype, order=order)
        expected = [p.astype(np.float64) for p in params]
        numbers: list[Any] = [0.0] * len(params)
        optimizer = optimizer_of(rule, beta=0.5, eps=1e-3)(params)
        for step in range(4):
            grads = start_of(SHAPES, dtype, seed=step + 1, order=order)
            grads[step] = None
            optimizer.step(grads=grads)
            for k, grad in enumerate(grads):
                if grad is None or grad.size == 0:
                    continue
                grad = grad.astype(np.float64)
                mean = np.mean(grad**2, axis=axes_of(grad), keepdims=True)
                numbers[k] = 0.5 * numbers[k] + 0.5 * mean
                expected[k] -= 0.1 / (np.sqrt(numbers[k]) + 1e-3) * grad
        assert_close(params, expected, dtype)
        for param, number in zip(params, numbers, strict=True):
            if param.size:
                found = optimizer.state[param]["v"]
                assert found.dtype == np.float64
                assert found.shape == shape_of(param)
                np.testing.assert_allclose(found.ravel(), np.ravel(number), rtol=1e-6)


def every_axis(array: Any) -> Any:
    return tuple(range(array.ndim))


def all_but_the_first(array: Any) -> Any:
    return tuple(range(1, array.ndim)) if array.ndim > 1 else every_axis(array)


def one_for_each_row(param: Any) -> Any:
    rows = param.shape[:1] if param.ndim > 1 else param.shape and (1,)
    return rows + (1,) * (param.ndim - 1)


def a_number_per_tensor() -> None:
    by_unit("by_tensor", every_axis, lambda param: (), "C")


def a_number_per_row() -> None:
    by_unit("by_row", all_but_the_first, one_for_each_row, "C")


def rows_of_arrays_in_another_order() -> None:
    by_unit("by_row", all_but_the_first, one_for_each_row, "F")


def distance_step(groups: list[Any], start: list[Any], grads: Any, total: bool) -> None:
    """In place, over groups of (numbers, parameters, places)."""

    def sums(places: Any, params: Any) -> tuple[float, float]:
        with_grad = [(p, k) for p, k in zip(params, places, strict=True) if grads[k] is not None]
        moved = sum(float(np.sum((p - start[k]) ** 2)) for p, k in with_grad)
        return moved, sum(float(np.sum(grads[k].astype(np.float64) ** 2)) for _, k in with_grad)

    found = [sums(places, params) for _, params, places in groups]
    everything = tuple(np.sum(found, axis=0))
    if total:  # the numbers of the first are those of all
        for numbers, _, _ in groups[1:]:
            numbers[:] = groups[0][0]
    for (numbers, params, places), own in zip(groups, found, strict=True):
        moved, squares = everything if total else own
        numbers[0] = max(numbers[0], np.sqrt(moved))
        numbers[1] += squares
        size = 0.1 * numbers[0] / np.sqrt(numbers[1] + 1e-8)
        for p, k in zip(params, places, strict=True):
            if grads[k] is not None:
                p -= size * grads[k].astype(np.float64)


def by_groups(rule: str, total: bool) -> None:
    for dtype in DTYPES:
        params = start_of(SHAPES, dtype)
        start = [p.astype(np.float64) for p in params]
        expected = [p.copy() for p in start]
        groups = [
            ([0.5, 0.0], expected[:4], range(4)),
            ([0.25, 0.0], expected[4:], range(4, 9)),
        ]
        optimizer = optimizer_of(rule, first=0.5)(
            [{"params": params[:4]}, {"params": params[4:], "first": 0.25}]
        )
        for step in range(4):
            grads = start_of(SHAPES, dtype, seed=step + 1)
            grads[step + 2] = None
            optimizer.step(grads=grads)
            distance_step(groups, start, grads, total)
        assert_close(params, expected, dtype)
        for group, (numbers, _, _) in zip(optimizer.param_groups, groups, strict=True):
            np.testing.assert_allclose([group["most"], group["total"]], numbers, rtol=1e-5)
            assert type(group["most"]) is np.ndarray
        saved = optimizer.state_dict()["param_groups"][0]
        assert type(saved["most"]) is float
        np.testing.assert_array_equal(optimizer.state[params[0]]["start"], start[0].astype(dtype))


def numbers_of_groups() -> None:
    by_groups("by_group", False)


def numbers_over_all_groups() -> None:
    by_groups("by_all", True)


def a_group_that_counts_without_measuring() -> None:
    w = np.zeros(3)
    optimizer = optimizer_of("by_count")([w])
    total, expected = 0.0, np.zeros(3)
    for lr in (0.1, 0.2, 0.3):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(grads=[np.ones(3)])
        total += lr
        expected -= lr / total
    np.testing.assert_allclose(w, expected, rtol=1e-15)
    optimizer.param_groups[0]["weight_sum"] = 10.0  # a user's number is taken over
    optimizer.step(grads=[np.ones(3)])
    np.testing.assert_allclose(w, expected - 0.3 / 10.3, rtol=1e-15)


def a_skipped_or_failed_step_leaves_numbers() -> None:
    for rule in ("by_tensor", "by_row", "by_group", "by_all"):
        w = np.ones((3, 4))
        optimizer = optimizer_of(rule, beta=0.5, eps=0.1, first=0.5)([w])
        optimizer.step(grads=[np.ones((3, 4))])
        before = repr((w, dict(optimizer.state[w]), optimizer.param_groups))
        bad = np.full((3, 4), np.nan)
        optimizer.step(grads=[bad], nonfinite="skip")
        for arguments in ({"grads": [np.ones(3)]}, {"grads": [bad], "nonfinite": "raise"}):
            try:
                optimizer.step(**arguments)
            except (ValueError, FloatingPointError):
                pass
            else:
                raise AssertionError("no error")
        assert repr((w, dict(optimizer.state[w]), optimizer.param_groups)) == before


RULES = {
    "by_tensor": {"beta": 0.5, "eps": 1e-3},
    "by_row": {"beta": 0.5, "eps": 1e-3},
    "by_group": {"first": 0.5},
    "by_all": {"first": 0.5},
    "by_count": {},
}


def run(rule: str, steps: Any, make: Any = None, threads: int = 1, **arguments: Any) -> Any:
    import cyoptim
    from cyoptim import _engine

    _engine.take_all_threads(True)
    cyoptim.set_num_threads(threads)
    params = start_of(SHAPES, np.float32)
    optimizer = optimizer_of(rule, **RULES[rule])(params if make is None else make(params))
    for step in steps:
        optimizer.step(grads=start_of(SHAPES, np.float32, seed=step), **arguments)
    return params, optimizer


def same_bits_on_any_number_of_threads() -> None:
    for rule in RULES:
        for arguments in ({}, {"max_norm": 1.0}):
            expected, _ = run(rule, range(4), **arguments)
            for threads in (2, 3):
                found, _ = run(rule, range(4), threads=threads, **arguments)
                for a, b in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(a, b)


def same_bits_after_save_and_load() -> None:
    import cyoptim

    for rule in RULES:
        expected, _ = run(rule, range(6), max_norm=1.0)
        params, optimizer = run(rule, range(3), max_norm=1.0)
        for form in ("dict", "npz", "safetensors"):
            again = [p.copy() for p in params]
            other = optimizer_of(rule, **RULES[rule])(again)
            if form == "dict":
                other.load_state_dict(optimizer.state_dict())
            else:
                path = f"{sys.argv[1]}.{rule}.{form}"
                cyoptim.save(path, params=params, optimizer=optimizer)
                cyoptim.load(path, params=again, optimizer=other)
                os.unlink(path)
            for step in range(3, 6):
                grads = start_of(SHAPES, np.float32, seed=step)
                other.step(grads=grads, max_norm=1.0)
            for a, b in zip(again, expected, strict=True):
                np.testing.assert_array_equal(a, b)


def same_bits_of_averages_and_without() -> None:
    for rule in RULES:
        expected, _ = run(rule, range(4))

        params = start_of(SHAPES, np.float32)
        optimizer = optimizer_of(rule, **RULES[rule])(params)
        average = optimizer.ema(0.5)
        means = None
        for step in range(4):
            optimizer.step(grads=start_of(SHAPES, np.float32, seed=step))
            means = [p.copy() if step == 0 else m + np.float32(0.5) * (p - m)
                     for p, m in zip(params, means or params, strict=True)]  # fmt: skip
        for a, b, m in zip(params, expected, means or (), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(average[a], m)


def state_stored_in_another_type() -> None:
    import cyoptim

    for rule, cls, dtype, options in (
        ("narrow_adam", cyoptim.Adam, np.float64, {}),
        ("wide_lamb", cyoptim.Lamb, np.float32, {}),
    ):

        class Stored(cls):  # type: ignore[misc, valid-type]
            _rule, _rules = rule, (rule,)

            def _rule_of(self, group: Any, rule: str = rule) -> str:
                return rule

        stored = np.float32 if dtype is np.float64 else np.float64
        params, others = start_of(SHAPES, dtype), start_of(SHAPES, dtype)
        optimizer, other = Stored(params, **options), cls(others, **options)
        for step in range(3):
            for one in (optimizer, other):
                one.step(grads=start_of(SHAPES, dtype, seed=step), max_norm=1.0)
                # What the narrow state cannot hold is not in the other's, either.
                for values in other.state.values():
                    for name in ("exp_avg", "exp_avg_sq"):
                        values[name][...] = values[name].astype(stored)
        for a, b in zip(params, others, strict=True):
            found, expected = optimizer.state[a], other.state[b]
            assert found["exp_avg"].dtype == stored
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(found["exp_avg"], expected["exp_avg"].astype(stored))
        text = io.BytesIO()
        np.savez(text, *params)
        again = [p.copy() for p in params]
        third = Stored(again, **options)
        third.load_state_dict(optimizer.state_dict())
        assert third.state[again[0]]["exp_avg"].dtype == stored
        for one in (optimizer, third):
            one.step(grads=start_of(SHAPES, dtype, seed=9))
        for a, b in zip(params, again, strict=True):
            np.testing.assert_array_equal(a, b)


def a_rule_may_change() -> None:
    # Numbers of the old rule are neither read nor written by the new one.
    import cyoptim

    class Changing(cyoptim.Optimizer):
        _rules = ("by_row", "by_tensor", "by_group", "by_count")

        def __init__(self, params: Any) -> None:
            options = {"lr": 0.1, "maximize": False, "beta": 0.5, "eps": 0.1, "first": 0.5}
            super().__init__(params, {**options, "rule": "by_row"})

        def _rule_of(self, group: Any) -> Any:
            return group["rule"]

        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= group["lr"] * grad

    w, b = np.ones((3, 4)), np.ones((2, 2))
    optimizer = Changing([{"params": [w]}, {"params": [b], "rule": "by_tensor"}])
    sequence = ["by_row", "by_count", None, "by_group", None, "by_count", "by_group", "by_row"]
    for rule in sequence:
        optimizer.param_groups[0]["rule"] = rule
        before = {name: value.copy() for name, value in optimizer.state[w].items()}
        numbers = {n: float(optimizer.param_groups[0].get(n, 0)) for n in ("most", "weight_sum")}
        if rule != "by_row":
            optimizer.state[w].pop("v", None)  # its memory may go to others
        held = w.copy()
        optimizer.step(grads=[np.ones((3, 4)), np.ones((2, 2))])
        assert not np.array_equal(w, held)
        assert np.isfinite(w).all() and np.isfinite(b).all()  # noqa: PT018
        for name, value in optimizer.state[w].items():
            if name in before and name == "start":
                np.testing.assert_array_equal(value, before[name])
        for name, owner in (("most", "by_group"), ("weight_sum", "by_count")):
            if rule != owner and name in optimizer.param_groups[0]:
                assert float(optimizer.param_groups[0][name]) == numbers[name]


def a_number_that_is_replaced_in_the_middle() -> None:
    import cyoptim

    class Hybrid(cyoptim.Optimizer):
        _rules = ("by_count",)
        change: Any = None

        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1, "maximize": False, "plain": False})

        def _rule_of(self, group: Any) -> Any:
            return None if group["plain"] else "by_count"

        def update(self, param: Any, grad: Any, state: Any, group: Any) -> None:
            param -= grad
            if self.change is not None:
                self.change()

    a, b = np.zeros(3), np.zeros(3)
    optimizer = Hybrid([{"params": [a]}, {"params": [b], "plain": True}])
    grads = [np.ones(3), np.ones(3)]
    optimizer.step(grads=grads)
    group = optimizer.param_groups[0]

    def resize() -> None:
        group["weight_sum"].resize(1 << 20, refcheck=False)

    optimizer.change = resize
    held = a.copy(), b.copy()
    with pytest.raises(RuntimeError, match="changed in size or place"):
        optimizer.step(grads=grads)
    np.testing.assert_array_equal((a, b), held)
    group["weight_sum"] = 0.1
    optimizer.change = None
    optimizer.step(grads=grads)
    optimizer.change = lambda: group.update(weight_sum=5.0)  # of the next step
    optimizer.step(grads=grads)
    optimizer.change = None
    before = a.copy()
    optimizer.step(grads=grads)
    np.testing.assert_allclose(a, before - 0.1 / 5.1, rtol=1e-12)


def refused() -> None:
    from cyoptim.kernel import Kernel

    for rule, options in RULES.items():
        w = np.zeros((4, 3))

        class Sparse(optimizer_of(rule, **options)):  # type: ignore[misc]
            def _takes_spans(self, group: Any, label: str) -> bool:
                return True

        errors: list[str] = []
        for call in (
            lambda w=w, cls=Sparse: cls([w]).step(grads=[(np.array([1]), np.ones((1, 3)))]),
            lambda cls=Sparse: Kernel(cls),
        ):
            try:
                call()
            except (TypeError, NotImplementedError, RuntimeError) as error:
                errors.append(str(error))
        assert "has no kernel: it is not element-wise" in errors[-1]
        if rule != "by_count":
            assert "does not support sparse gradients" in errors[0]
            assert not w.any()


def large_state_begins_as_a_copy_of_the_parameter() -> None:
    from cyoptim import _engine

    _engine.take_all_threads(True)
    for dtype in (np.float32, np.float64):
        params = start_of([(7,), (300_007,), (300, 1000)], dtype)
        params[2] = np.asfortranarray(params[2])
        before = [p.copy() for p in params]
        optimizer = optimizer_of("by_group", first=0.5)(params)
        optimizer.step(grads=[np.ones_like(p) for p in params])
        for w, start in zip(params, before, strict=True):
            assert not np.array_equal(w, start)
            np.testing.assert_array_equal(optimizer.state[w]["start"], start)


def main(kernels: str, function: str) -> None:
    spec = importlib.util.spec_from_file_location("cyoptim._kernels_baseline", kernels)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    globals()[function]()


if __name__ == "__main__":
    main(*sys.argv[1:])
