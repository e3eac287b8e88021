"""The C-speed API: a package that cimports cyoptim is built against what is installed, and run."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.kernel import Kernel
from tests.support.cards import KERNEL, Card, Options
from tests.support.dtypes import REALS
from tests.support.fp_modes import MODES, Mode, needs_modes
from tests.support.parametrize import every_card, every_real, every_variant
from tests.support.paths import ROOT, TESTS

SOURCE = TESTS / "downstream"
PAGE = ROOT / "docs" / "cython.md"
CHUNK = 16384


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The modules of the package, and of the documentation's example, by name."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")  # modules in pyproject.toml
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if compiler and not shutil.which(compiler[0]):
        pytest.skip(f"no compiler: {compiler[0]}")
    folder = tmp_path_factory.mktemp("downstream")
    source = folder / "source"
    shutil.copytree(SOURCE, source)
    add_example(source)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    result = subprocess.run(
        [*command, "--no-index", "--target", str(folder / "installed"), str(source)],
        # Where the package is installed to be edited, its .pxd files are in its source tree.
        env={**os.environ, "PYTHONPATH": str(Path(cyoptim.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return {name: load(folder / "installed", name) for name in ("downstream", "train")}


def add_example(source: Path) -> None:
    (example,) = re.findall(r"^```cython\n# train.pyx\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (source / "train.pyx").write_text(example)
    project = source / "pyproject.toml"
    line = 'ext-modules = [{ name = "downstream", sources = ["downstream.pyx"] }'
    assert line in project.read_text()
    also = ', { name = "train", sources = ["train.pyx"] }'
    project.write_text(project.read_text().replace(line, line + also))


def load(folder: Path, name: str) -> Any:
    path = folder / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def downstream(modules: dict[str, Any]) -> Any:
    return modules["downstream"]


def inputs(size: int, dtype: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """A parameter, and a row of gradients for each step."""
    rng = np.random.default_rng(size)
    start = rng.standard_normal(size).astype(dtype)
    return start, rng.standard_normal((steps, size)).astype(dtype)


def fresh_states(kernel: Kernel, size: int, dtype: Any, start: Any = None) -> list[np.ndarray]:
    """The state before the first step; what begins as a copy of the parameter needs its start."""
    return [
        start.copy() if np.isnan(value) else np.full(size, value, dtype)
        for value in kernel.initial_values
    ]


@pytest.mark.slow
@every_real
@every_variant(KERNEL)
def test_bits_are_those_of_a_step(
    downstream: Any, card: Card, options: Options, dtype: Any
) -> None:
    for size in (0, 1, 17, CHUNK + 1):
        start, grads = inputs(size, dtype, steps=4)
        kernel = Kernel(card.cls, **options)
        w, states = start.copy(), fresh_states(kernel, size, dtype, start)
        downstream.run(kernel, w, grads, states)
        expected = start.copy()
        optimizer = card.cls([expected], **options)
        for grad in grads:
            optimizer.step(grads=[card.form(grad)])
        assert w.tobytes() == expected.tobytes()
        own = optimizer.state.arrays(expected) if size else {}
        for name, array in zip(kernel.state_names, states, strict=True):
            assert not size or array.tobytes() == own[name].tobytes()


@pytest.mark.slow
def test_the_documentations_example(modules: dict[str, Any]) -> None:
    w, grads = inputs(17, np.float64, steps=3)
    expected = w.copy()
    modules["train"].train(w, grads, Kernel(cyoptim.Adam, lr=0.01))
    optimizer = cyoptim.Adam([expected], lr=0.01)
    for grad in grads:
        optimizer.step(grads=[grad])
    assert w.tobytes() == expected.tobytes()


@pytest.mark.slow
@every_real
def test_clipping_has_the_bits_of_a_fused_step(downstream: Any, dtype: Any) -> None:
    start, (grad,) = inputs(CHUNK + 5, dtype, steps=1)
    expected = start.copy()
    optimizer = cyoptim.AdamW([expected], lr=0.1)
    optimizer.step(grads=[grad], max_norm=0.5)
    norm = downstream.norm([grad])
    assert norm == optimizer.last_step.total_norm
    kernel = Kernel(cyoptim.AdamW, lr=0.1)
    w = start.copy()
    scale = min(1.0, 0.5 / (norm + 1e-6))
    downstream.run(kernel, w, grad[None], fresh_states(kernel, w.size, dtype), scale)
    assert w.tobytes() == expected.tobytes()


@pytest.mark.slow
def test_norm_of_several_arrays_is_clip_grad_norms(downstream: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        rng.standard_normal(size).astype(dtype)
        for size in (0, 1, 33, CHUNK, 2 * CHUNK + 7)
        for dtype in REALS
    ]
    assert downstream.norm(arrays) == cyoptim.get_total_norm(arrays)


@pytest.mark.slow
def test_training_without_the_gil(downstream: Any) -> None:
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 4))
    true = np.array([1.0, -2.0, 0.0, 3.0])
    y = (rng.random(500) < 1 / (1 + np.exp(-X @ true))).astype(float)
    kernel = Kernel(cyoptim.Adam, lr=0.05)
    w, loss = downstream.logistic_regression(X, y, kernel, 400, max_norm=1.0)
    assert kernel.state["step"] == 400
    assert np.abs(w - true).max() < 0.6  # what 500 samples tell
    assert loss < 0.15


@pytest.mark.slow
def test_a_scheduler_sets_the_options(downstream: Any) -> None:
    start, grad = np.ones(5), np.full((1, 5), 0.5)
    kernel = Kernel(cyoptim.SGD, lr=0.1)
    scheduler = cyoptim.lr_scheduler.StepLR(kernel.optimizer, step_size=1, gamma=0.5)
    downstream.run(kernel, start, grad, [])
    np.testing.assert_allclose(start, 0.95, rtol=1e-15)
    kernel.optimizer._opt_called = True  # the scheduler warns of optimizers that have not stepped
    scheduler.step()
    downstream.run(kernel, start, grad, [])  # not read yet
    np.testing.assert_allclose(start, 0.9, rtol=1e-15)
    kernel.read_options()
    downstream.run(kernel, start, grad, [])
    np.testing.assert_allclose(start, 0.875, rtol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", [cyoptim.Adam, cyoptim.NAdam, cyoptim.ASGD, cyoptim.RAdam])
def test_a_run_can_be_resumed(downstream: Any, optimizer: Any) -> None:
    start, rows = inputs(9, np.float64, steps=7)
    whole = Kernel(optimizer)
    expected, states = start.copy(), fresh_states(whole, 9, np.float64)
    downstream.run(whole, expected, rows, states)

    first, second = Kernel(optimizer), Kernel(optimizer)
    w, states = start.copy(), fresh_states(first, 9, np.float64)
    downstream.run(first, w, rows[:3], states)
    second.state = first.state
    downstream.run(second, w, rows[3:], states)
    assert w.tobytes() == expected.tobytes()
    assert second.state == whole.state


def test_names_and_initial_values() -> None:
    kernel = Kernel(cyoptim.Rprop, lr=0.02)
    assert kernel.state_names == ("prev", "step_size")
    assert kernel.initial_values == (0.0, 0.02)
    assert Kernel(cyoptim.SGD).state_names == ()
    assert Kernel(cyoptim.NAdam).state == {"step": 0, "mu_product": 1.0}


@pytest.mark.parametrize(
    ("optimizer", "options", "error", "message"),
    [
        (3, {}, TypeError, "optimizer must be a subclass of cyoptim.Optimizer, got 3"),
        (cyoptim.Muon, {}, TypeError, "Muon has no kernel: it is not element-wise"),
        (cyoptim.LBFGS, {}, TypeError, "LBFGS has no kernel: it is not element-wise"),
        (cyoptim.Adam, {"lr": -1}, ValueError, "Invalid learning rate: -1"),
        (cyoptim.Adam, {"rate": 1}, TypeError, "unexpected keyword argument 'rate'"),
    ],
)
def test_what_is_refused(optimizer: Any, options: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        Kernel(optimizer, **options)


@pytest.mark.slow
def test_bad_options_leave_those_in_use(downstream: Any) -> None:
    kernel = Kernel(cyoptim.SGD, lr=0.1)
    group = kernel.optimizer.param_groups[0]
    group["lr"] = float("nan")
    with pytest.raises(ValueError, match="Invalid learning rate: nan"):
        kernel.read_options()
    group.update(lr=0.1, momentum=0.9)
    message = r"ask for the state \['momentum_buffer'\], but this kernel was made with \[\]"
    with pytest.raises(ValueError, match=message):
        kernel.read_options()
    w = np.ones(2)
    downstream.run(kernel, w, np.ones((1, 2)), [])
    np.testing.assert_allclose(w, 0.9, rtol=1e-15)


@pytest.mark.parametrize(
    "step",
    [-1, 0.5, "1", None, 2**63 - 1, 2**64, -(2**64), 2.0**63, float("nan"), float("inf"), 1j,
     np.complex64(1), np.float64("nan"), np.uint64(2**63), [1]],
)  # fmt: skip
def test_a_bad_step_count_is_refused(step: Any) -> None:
    kernel = Kernel(cyoptim.NAdam)
    message = f"step must be a whole number from 0 to {2**63 - 2}, got {step!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        kernel.state = {"step": step, "mu_product": 0.5}
    assert kernel.state == {"step": 0, "mu_product": 1.0}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"step": 1}, "state must be a dict of step, mu_product, got {'step': 1}"),
        ({"step": 1, "mu_product": 1.0, "x": 1}, "state must be a dict of step, mu_product"),
        ({"step": 1, "mu_product": "x"}, "mu_product must be a number, got 'x'"),
        ({"step": 1, "mu_product": None}, "mu_product must be a number, got None"),
        ({"step": 1, "mu_product": 10**400}, "mu_product must be a number, got 1000"),
        ([1, 1.0], "state must be a dict of step, mu_product, got [1, 1.0]"),
    ],
)
def test_a_bad_state_is_refused(state: Any, message: str) -> None:
    kernel = Kernel(cyoptim.NAdam)
    with pytest.raises(ValueError, match=re.escape(message)):
        kernel.state = state
    assert kernel.state == {"step": 0, "mu_product": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 7.0, 2**53 + 1, 2**63 - 2, np.int64(2**62 + 1), np.float32(3)])
def test_a_step_count_keeps_all_bits(downstream: Any, step: Any) -> None:
    kernel = Kernel(cyoptim.Adam)
    kernel.state = {"step": step}
    assert kernel.state == {"step": int(step)}
    assert type(kernel.state["step"]) is int
    for last in (int(step) + 1, min(int(step) + 2, 2**63 - 1)):  # the count ends there
        w = np.ones(3)
        downstream.run(kernel, w, np.ones((1, 3)), fresh_states(kernel, 3, np.float64))
        assert np.isfinite(w).all()
        assert kernel.state == {"step": last}


# --- subclasses whose methods return something else ----------------------------------------------


@every_card(~KERNEL)
def test_what_is_not_element_wise_has_no_kernel(card: Card) -> None:
    with pytest.raises(TypeError, match=f"{card} has no kernel"):
        Kernel(card.cls)


class Odd(cyoptim.Adam):
    """An Adam whose rule is what the test sets."""

    rule: Any = None

    def _rule_of(self, group: Any) -> Any:
        usual = super()._rule_of(group)
        return self.rule(usual) if self.rule else usual


BAD_RULES: list[tuple[Any, type[Exception], str]] = [
    (None, TypeError, "Odd has no kernel: it is not element-wise"),
    (3, ValueError, "there is no rule 3"),
    ("adamw", ValueError, "there is no rule 'adamw'"),
    ([], TypeError, "unhashable"),
    ("adamax", ValueError, "ask for the state ['exp_avg', 'exp_inf']"),
    ("scale", KeyError, "coefficient"),
    ("sgd_momentum", KeyError, "momentum"),
    ("nadam", KeyError, "momentum_decay"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "error", "message"), BAD_RULES)
def test_bad_rules_are_refused(
    downstream: Any, rule: Any, error: type[Exception], message: str
) -> None:
    kernel: Any = Kernel(Odd, lr=0.1)
    expected = Kernel(cyoptim.Adam, lr=0.1)
    group = kernel.optimizer.param_groups[0]
    kernel.optimizer.rule = lambda usual: rule
    group["lr"] = 5.0
    for _ in range(2):
        with pytest.raises(error, match=re.escape(message)):
            kernel.read_options()
        assert (kernel.state_names, kernel.initial_values) == (("exp_avg", "exp_avg_sq"), (0, 0))
    found = []
    for k in (kernel, expected):
        found.append(np.ones(5))
        downstream.run(k, found[-1], np.ones((3, 5)), fresh_states(k, 5, np.float64))
    assert found[0].tobytes() == found[1].tobytes()


def test_other_numbers_are_refused() -> None:
    kernel: Any = Kernel(Odd, lr=0.1)
    kernel.optimizer.param_groups[0]["momentum_decay"] = 0.1
    kernel.optimizer.rule = lambda usual: "nadam"
    with pytest.raises(ValueError, match=re.escape("ask for the numbers ['mu_product']")):
        kernel.read_options()


@pytest.mark.parametrize("first", ["x", None, [1.0], 10**400])
def test_bad_initial_values_are_refused(first: Any) -> None:
    kernel: Any = Kernel(cyoptim.Adagrad, lr=0.1)
    kernel.optimizer._check_options = lambda group: None
    kernel.optimizer.param_groups[0]["initial_accumulator_value"] = first
    with pytest.raises((TypeError, ValueError), match="must be a number, got"):
        kernel.read_options()
    assert kernel.initial_values == (0,)


@pytest.mark.slow
def test_methods_that_use_the_kernel_meanwhile(downstream: Any) -> None:
    kernel: Any = Kernel(Odd, lr=0.1)
    calls: list[int] = []

    def again(usual: Any) -> Any:
        if len(calls) < 3:
            calls.append(1)
            kernel.read_options()
            kernel.state = {"step": len(calls)}
        return usual

    kernel.optimizer.rule = again
    kernel.read_options()
    assert kernel.state == {"step": 3}
    w = np.ones(5)
    downstream.run(kernel, w, np.ones((3, 5)), fresh_states(kernel, 5, np.float64))
    assert kernel.state == {"step": 6}


@pytest.mark.slow
def test_a_kernel_that_was_never_initialized(downstream: Any) -> None:
    class Lazy(Kernel):
        def __init__(self) -> None:
            pass

    cls: Any = Kernel
    kernels: list[Any] = [cls.__new__(cls), cls.__new__(cls, cyoptim.Adam), Lazy()]
    for kernel in kernels:
        w = np.ones(20_000)
        downstream.run(kernel, w, np.ones((3, 20_000)), [])
        np.testing.assert_array_equal(w, 1)
        assert kernel.state == {"step": 3}
        with pytest.raises(AttributeError):
            kernel.read_options()
        assert (kernel.optimizer, kernel.state_names, kernel.initial_values) == (None, None, None)


def test_initializing_again_is_all_or_nothing() -> None:
    kernel: Any = Kernel(cyoptim.Adam, lr=0.1)
    optimizer = kernel.optimizer
    with pytest.raises(ValueError, match="ask for the state"):
        kernel.__init__(cyoptim.SGD)
    assert kernel.optimizer is optimizer
    kernel.read_options()


# --- the caller's floating-point mode -------------------------------------------------------------


def of_a_run(downstream: Any, card: Card, options: Options, dtype: Any, mode: Mode) -> bytes:
    """All that steps in this mode change."""
    start, grads = inputs(CHUNK + 17, dtype, steps=5)
    with mode:
        kernel = Kernel(card.cls, **options)
    states = fresh_states(kernel, start.size, dtype, start)  # rounded by NumPy
    with mode:
        downstream.run(kernel, start, grads[:2], states, 0.1)
        kernel.state = kernel.state
        kernel.read_options()
        downstream.run(kernel, start, grads[2:], states, 0.1)
        assert mode.holds()
    memory = np.array([*kernel.initial_values, *kernel.state.values()])
    return b"".join(array.tobytes() for array in (start, *states, memory))


@pytest.mark.slow
@needs_modes
@every_real
@every_variant(KERNEL)
def test_the_mode_of_the_caller_changes_no_bits(
    downstream: Any, card: Card, options: Options, dtype: Any
) -> None:
    expected = of_a_run(downstream, card, options, dtype, MODES["nearest"])
    for name, mode in MODES.items():
        assert of_a_run(downstream, card, options, dtype, mode) == expected, name


@pytest.mark.slow
@needs_modes
@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_sums_of_squares_in_the_mode_of_the_caller(downstream: Any, mode: Mode) -> None:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(3 * CHUNK + 5).astype(t) for t in REALS]
    expected = [downstream.squares(a, 0.1) for a in arrays]
    with mode:
        found = [downstream.squares(a, 0.1) for a in arrays]
        assert mode.holds()
    assert found == expected


@pytest.mark.slow
@needs_modes
def test_numbers_that_are_carried_along_keep_their_last_bits(downstream: Any) -> None:
    # They become so small that a caller who flushes would find zero.
    found = []
    for mode in MODES.values():
        kernel = Kernel(cyoptim.NAdam, lr=1e-3)
        kernel.state = {"step": 1, "mu_product": 2e-38}
        with mode:
            downstream.run(kernel, np.ones(1), np.ones((5, 1)), fresh_states(kernel, 1, np.float64))
        found.append(np.float32(kernel.state["mu_product"]).tobytes())
    assert found[0] != np.float32(0).tobytes()
    assert len(set(found)) == 1


@needs_modes
def test_the_mode_comes_back_after_an_error() -> None:
    kernel: Any = Kernel(Odd, lr=0.1)
    kernel.optimizer.rule = lambda usual: None
    with MODES["up"]:
        with pytest.raises(TypeError, match="Odd has no kernel"):
            kernel.read_options()
        assert MODES["up"].holds()
