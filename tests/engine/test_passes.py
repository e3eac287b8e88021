"""Rules that measure, numbers of rows, tensors and groups, and state stored in other types, shown by rules of their
own: trial_rules.pyx, compiled for these tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = Path(__file__).parents[2] / "src"
CASES = [
    "a_number_per_tensor",
    "a_number_per_row",
    "rows_of_arrays_in_another_order",
    "numbers_of_groups",
    "numbers_over_all_groups",
    "a_group_that_counts_without_measuring",
    "a_skipped_or_failed_step_leaves_numbers",
    "same_bits_on_any_number_of_threads",
    "same_bits_after_save_and_load",
    "same_bits_of_averages_and_without",
    "state_stored_in_another_type",
    "large_state_begins_as_a_copy_of_the_parameter",
    "a_rule_may_change",
    "a_number_that_is_replaced_in_the_middle",
    "refused",
]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernels with the trial rules, as a module."""
    pytest.importorskip("Cython")
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "").split()
    if os.name == "nt" or not compiler or not shutil.which(compiler[0]):
        pytest.skip("no C compiler")
    if not SOURCES.is_dir():
        pytest.skip("the sources are not here")
    folder = tmp_path_factory.mktemp("trial")
    directives = [
        "cdivision=True",
        "wraparound=False",
        "initializedcheck=False",
        "boundscheck=False",
    ]
    cython = [sys.executable, "-m", "cython", "-3", "-I", str(SOURCES), "-o", str(folder / "k.c")]
    for directive in directives:
        cython += ["-X", directive]
    name = "cyoptim._kernels_baseline"
    shell([*cython, "--module-name", name, str(HERE / "trial_rules.pyx")])
    module = folder / f"kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    include = f"-I{sysconfig.get_path('include')}"
    flags = ["-O1", "-shared", "-fPIC", "-ffp-contract=off", "-fno-math-errno", f"-I{SOURCES}"]
    link = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    shell([*compiler, *flags, *link, include, str(folder / "k.c"), "-o", str(module)])
    return module


def shell(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trial_rules(kernels: Path, case: str) -> None:
    result = subprocess.run(
        [sys.executable, str(HERE / "trial_cases.py"), str(kernels), case],
        env={**os.environ, "CYOPTIM_ISA": "baseline"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
