"""Run PyTorch's own suites of torch.optim against this package.

PATH is the folder ``test`` of a PyTorch checkout; torch and expecttest must be installed. The
suites are copied to a temporary folder with ``torch.optim`` replaced by ``cyoptim``, in them and in
torch's database of optimizers and options (``torch.testing._internal.common_optimizers``), and run
by pytest on the CPU::

    python tools/run_torch_suites.py ~/pytorch/test
    python tools/run_torch_suites.py ~/pytorch/test -- -k hook -n 2  # more options for pytest
    python tools/run_torch_suites.py ~/pytorch/test --baseline       # torch against its own suites

It prints one line per suite, and the failures. Tests that fail for a reason given in
``NOT_APPLICABLE`` are counted separately. The exit status is 0 if no other test failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from fnmatch import fnmatchcase
from pathlib import Path

SUITES = (
    "test_optim.py",
    "optim/test_optim.py",
    "optim/test_lrscheduler.py",
    "optim/test_swa_utils.py",
    "optim/test_muon.py",
)

# Tests, as Class::name with wildcards, that are expected to fail here, and why.
DIFFERENTIABLE = "differentiable=True: steps run outside of any graph"
WARNING = "the text of a warning"
NOT_APPLICABLE = (
    ("TestDifferentiableOptimizer::*", DIFFERENTIABLE),
    ("*::test_step_is_noop_for_zero_grads_*", f"{DIFFERENTIABLE}, for parameters that are results"),
    ("*::test_fused_error_on_params_on_meta_*", "parameters on the meta device, without memory"),
    ("*::test_old_pattern_warning", WARNING),
    ("*::test_old_pattern_warning_resuming*", WARNING),
    ("*::test_old_pattern_warning_with_arg", WARNING),
    (
        "*::test_lr_scheduler_verbose_deprecation_warning_*",
        "the argument `verbose`, which torch has no longer",
    ),
)

DATABASE = "torch.testing._internal.common_optimizers"
COPY = "common_optimizers_copy"

CONFTEST = """
def pytest_collection_modifyitems(items):
    # test_optim.py imports the other suites' classes, which would run twice.
    items[:] = [i for i in items if i.cls is None or i.cls.__module__ == i.module.__name__]
"""

# Missing names are taken from torch, so that imports succeed, and removed from the database.
FALLBACK = """
import torch
import cyoptim

for name in torch.optim.__all__:
    if not hasattr(cyoptim, name):
        setattr(cyoptim, name, getattr(torch.optim, name))
"""

FILTER = """

import cyoptim
optim_db = [info for info in optim_db if issubclass(info.optim_cls, cyoptim.Optimizer)]
"""


def adapt(text: str) -> str:
    """The source of a suite with its imports changed."""
    text = text.replace(DATABASE, COPY)
    text = re.sub(r"\btorch\.optim\b", "cyoptim", text)
    return re.sub(r"^import torch$", "import torch\nimport cyoptim", text, count=1, flags=re.M)


def copy_suites(source: Path, target: Path, baseline: bool) -> list[str]:
    """Copy the suites that exist; return their names."""
    (target / "optim").mkdir()
    (target / "optim" / "__init__.py").touch()
    for file in [*source.glob("*.py"), *source.glob("optim/*.py")]:
        relative = file.relative_to(source)
        if relative.parent.name == "optim" or str(relative) in SUITES:
            text = file.read_text()
            (target / relative).write_text(text if baseline else adapt(text))
    if not baseline:
        spec = importlib.util.find_spec(DATABASE)
        assert spec is not None
        assert spec.origin is not None
        (target / f"{COPY}.py").write_text(adapt(Path(spec.origin).read_text()) + FILTER)
    (target / "conftest.py").write_text(CONFTEST if baseline else CONFTEST + FALLBACK)
    return [suite for suite in SUITES if (target / suite).exists()]


def reason(test: str) -> str | None:
    """Why a test need not pass."""
    return next((why for pattern, why in NOT_APPLICABLE if fnmatchcase(test, pattern)), None)


def report(results: Path) -> int:
    """Print totals and failures; return the number of failures."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    reasons: Counter[str] = Counter()
    failures = []
    needless = []
    for case in ET.parse(results).getroot().iter("testcase"):
        module, _, group = case.attrib.get("classname", "").rpartition(".")
        test = f"{group}::{case.attrib['name']}"
        problem = next((child for child in case if child.tag in ("failure", "error")), None)
        why = reason(test)
        if problem is not None and why:
            totals[module]["not applicable"] += 1
            reasons[why] += 1
        elif problem is not None:
            totals[module]["failed"] += 1
            failures.append(f"{module}.{test}: {problem.attrib.get('message', '')[:300]}")
        elif case.find("skipped") is not None:
            totals[module]["skipped"] += 1
        else:
            totals[module]["passed"] += 1
            if why:
                needless.append(test)
    for failure in failures:
        print(f"FAILED {failure}\n")
    for test in needless:
        print(f"passes, although it is listed as not applicable: {test}")
    for why, count in reasons.most_common():
        print(f"not applicable, {count}: {why}")
    columns = ("passed", "failed", "not applicable", "skipped")
    for module, counts in sorted(totals.items()):
        print(f"{module}: " + ", ".join(f"{counts[column]} {column}" for column in columns))
    return len(failures)


def main() -> int:
    """Copy, run, report."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path, help="the folder `test` of a PyTorch checkout")
    parser.add_argument("--baseline", action="store_true", help="run them against torch itself")
    parser.add_argument("--keep", action="store_true", help="keep the temporary folder")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest, after --")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torch_suites_"))
    try:
        suites = copy_suites(options.path, folder, options.baseline)
        if not suites:
            parser.error(f"there is none of {', '.join(SUITES)} in {options.path}")
        results = folder / "results.xml"
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--no-header", *suites]
        command += [f"--junitxml={results}", "-p", "no:cacheprovider", *options.pytest]
        environment = {**os.environ, "PYTORCH_TESTING_DEVICE_ONLY_FOR": "cpu"}
        with (folder / "log.txt").open("w") as log:
            subprocess.run(
                command, cwd=folder, env=environment, stdout=log, stderr=log, check=False
            )
        if not results.exists():
            print((folder / "log.txt").read_text())
            return 2
        return 1 if report(results) else 0
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
