"""What public objects show of themselves: in a line, in a notebook, to a tab, and in a report."""

from __future__ import annotations

import inspect
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim import Parameter, lr_scheduler, swa_utils
from cyoptim.kernel import Kernel
from tests.support.scheduler_cases import CASES, SchedulerCase
from tests.support.scheduler_runs import sgd


def optimizer() -> cyoptim.Adam:
    made = cyoptim.Adam({"W": np.ones((2, 2)), "b": np.zeros(2)}, lr=0.5)
    made.step(grads=[np.ones((2, 2)), np.ones(2)], max_norm=1.0)
    return made


def average() -> swa_utils.AveragedModel:
    made = swa_utils.AveragedModel({"W": np.ones((2, 2)), "<b>": np.ones(3)})
    made.update_parameters(made.module)
    return made


def handle(removed: bool) -> Any:
    made = optimizer().register_step_pre_hook(print)
    if removed:
        made.remove()
    return made


# What makes the object, its repr, and a cell of its table ("": it has none).
SHOWN: dict[str, tuple[Callable[[], Any], str, str]] = {
    "StepLR": (
        lambda: lr_scheduler.StepLR(sgd(), 3),
        "StepLR(step_size=3, gamma=0.1, last_epoch=0, lr=1.0)",
        "<td>step_size</td><td>3</td>",
    ),
    "groups": (
        lambda: lr_scheduler.MultiStepLR(sgd(0.5, 0.25), [2, 2, 4]),
        "MultiStepLR(milestones=[2, 2, 4], gamma=0.1, last_epoch=0, lr=[0.5, 0.25])",
        "<td>lr</td><td>[0.5, 0.25]</td>",
    ),
    "function": (
        lambda: lr_scheduler.LambdaLR(sgd(), abs),
        "LambdaLR(last_epoch=0, lr=0.0)",
        "<td>last_epoch</td>",
    ),
    "plateau": (
        lambda: lr_scheduler.ReduceLROnPlateau(sgd(), patience=3),
        "ReduceLROnPlateau(",
        "<td>patience</td><td>3</td>",
    ),
    "sequence": (
        lambda: lr_scheduler.SequentialLR(
            o := sgd(), [lr_scheduler.ConstantLR(o), lr_scheduler.StepLR(o, 2)], [4]
        ),
        "SequentialLR(schedulers=[ConstantLR(factor=0.3333333333333333, ",
        "<td>schedulers</td>",
    ),
    "AveragedModel": (
        average,
        "AveragedModel(n_averaged=1, parameters=2)",
        "<td>&lt;b&gt;</td><td>(3,) float64</td>",
    ),
    "MovingAverage": (
        lambda: optimizer().ema(0.5),
        "MovingAverage(decay=0.5, warmup=False, steps=0, parameters=2)",
        "<td>decay</td><td>0.5</td>",
    ),
    "Kernel": (
        lambda: Kernel(cyoptim.SGD, lr=0.5, momentum=0.9),
        "Kernel(SGD, lr=0.5, momentum=0.9, ",
        "<td>state arrays</td><td>momentum_buffer</td>",
    ),
    "handle": (lambda: handle(False), "RemovableHandle(id=", ""),
    "removed handle": (lambda: handle(True), ", removed)", ""),
    "threads": (lambda: cyoptim.threads(1), "cyoptim.threads(1)", ""),
    "Parameter": (
        lambda: Parameter(np.ones((2, 2), np.float32)),
        "Parameter([[1., 1.],\n           [1., 1.]], dtype=float32)",
        "<td>dtype</td><td>float32</td>",
    ),
    "gradient": (
        lambda: Parameter(np.ones(2), grad=np.ones(2)),
        "Parameter([1., 1.])",
        "<td>grad</td><td>array of (2,) float64</td>",
    ),
    "optimizer": (optimizer, "Adam (\nParameter Group 0\n", "<td>lr</td><td>0.5</td>"),
    "state": (
        lambda: optimizer().state,
        "State of 2 parameters\n  0: (2, 2) float64: step=1, exp_avg=(2, 2) float64, ",
        "<td>(2,) float64</td><td>1</td>",
    ),
    "checkpoints": (
        lambda: cyoptim.Checkpoints("nowhere", keep=2),
        "Checkpoints('nowhere', keep=2, suffix='.npz')",
        "<td>keep</td><td>2</td>",
    ),
    "receipt": (
        lambda: optimizer().last_step,
        "StepReceipt(total_norm=2.449",
        "<td>skipped</td><td>False</td>",
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_shown(name: str) -> None:
    make, line, cell = SHOWN[name]
    thing = make()
    assert line in repr(thing)
    assert " object at 0x" not in repr(thing)
    if cell:
        html = thing._repr_html_()
        assert cell in html
        assert len(re.findall("<t[dr]>", html)) == len(re.findall("</t[dr]>", html))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_schedule_is_shown(case: SchedulerCase) -> None:
    scheduler = getattr(lr_scheduler, case.name)(sgd(), **case.variants[0])
    assert repr(scheduler).startswith(f"{type(scheduler).__name__}(")
    assert " object at 0x" not in repr(scheduler)
    assert scheduler._repr_html_().startswith("<table>")


def test_a_look_changes_nothing() -> None:
    made = optimizer()
    before = repr(made.state_dict())
    for thing in (made, made.state, made.last_step):
        repr(thing)
        thing._repr_html_()
    assert repr(made.state_dict()) == before


def test_a_module_is_shown_as_torch_shows_it(torch: Any) -> None:
    average = swa_utils.AveragedModel(torch.nn.Linear(2, 1))
    assert "(module): Linear(in_features=2, out_features=1, bias=True)" in repr(average)


def test_a_method_is_shown() -> None:
    pytest.importorskip("scipy")
    html = cyoptim.scipy.method("adam", lr=0.5)._repr_html_()
    assert "method of Adam" in html
    assert "<td>lr</td><td>0.5</td>" in html
    assert "method of &lt;lambda&gt;" in cyoptim.scipy.method(lambda p: None)._repr_html_()


def test_a_state_of_lists_is_shown() -> None:
    w = np.ones(2)
    made = cyoptim.LBFGS([w], max_iter=3)
    made.step(lambda: (float(w @ w), [2 * w]))
    count = len(made.state[w]["old_dirs"])
    assert count > 0
    assert f"old_dirs=list of {count}, " in repr(made.state)
    made.state[w]["none"] = None
    assert "none=None" in repr(made.state)


def test_large_tables_are_cut() -> None:
    average = swa_utils.AveragedModel([np.ones(1) for _ in range(100)])
    assert "... and 72 more" in average._repr_html_()


def test_signature_and_tab_of_a_parameter() -> None:
    assert str(inspect.signature(Parameter)) == "(data, *, grad=None, dtype=None)"
    parameter = Parameter(np.zeros(3))
    assert {"data", "grad", "shape", "dtype", "T", "sum", "reshape"} <= {*dir(parameter)}
    missing = [name for name in dir(parameter) if name != "mT" and not hasattr(parameter, name)]
    assert not missing  # mT, of matrices alone, raises as the array's does


def test_dir_of_the_package() -> None:
    names = {"scipy", "sklearn", "torch", "kernel", "checkpoint", "distributed", "Adam", "save"}
    assert names <= {*dir(cyoptim)}
    assert not [name for name in cyoptim.__all__ if name not in dir(cyoptim)]


def test_help_begins_with_what_to_call() -> None:
    text = pydoc.render_doc(cyoptim, renderer=pydoc.plaintext)
    top = text[: text.index("PACKAGE CONTENTS")]
    for name in ("Adam", "lr_scheduler", "step(grads=...)", "save(", "param_groups", "threads"):
        assert name in top
    assert "_engine" not in top


@pytest.mark.slow
def test_the_configuration_as_a_program(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "cyoptim"]
    shown = subprocess.run(run, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    for line in (
        f"cyoptim {cyoptim.__version__}",
        "  instruction set  ",
        "  platform  ",
        "  OMP_NUM_THREADS  ",
        "  numpy  ",
    ):
        assert f"\n{line}" in f"\n{shown}"
    assert np.__version__ in shown
    wrong = subprocess.run([*run, "demo"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "python -m cyoptim.demo" in wrong.stderr
