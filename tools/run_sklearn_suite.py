"""Run scikit-learn's own tests of its perceptrons against those of ``cyoptim.sklearn``.

It runs the suite of the installed scikit-learn, ``sklearn.neural_network.tests.test_mlp``, with
this package's classes in the place of scikit-learn's, as if its import were changed::

    python tools/run_sklearn_suite.py
    python tools/run_sklearn_suite.py -- -k warm_start -x  # more options for pytest
    python tools/run_sklearn_suite.py --baseline           # scikit-learn against its own suite

It prints counts and failures. Tests that pass without a step of an optimizer are counted apart,
such as those of ``solver="lbfgs"``, which SciPy trains, and those of errors. The exit status is 0
if no test failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from typing import Any

import pytest
import sklearn
from sklearn import neural_network

import cyoptim.sklearn
from cyoptim.sklearn._training import Training

SUITE = "sklearn.neural_network.tests.test_mlp"


class Plugin:
    """Counts tests, and the steps that they take."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.steps = 0

    def count_steps(self) -> None:
        """Count steps from now on."""
        step = Training.step

        def counted(training: Training, grads: Any) -> None:
            self.steps += 1
            step(training, grads)

        Training.step = counted  # type: ignore[method-assign]

    def pytest_runtest_setup(self) -> None:
        self.steps = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        test = report.nodeid.rpartition("::")[2]
        if report.outcome == "skipped":
            self.counts["skipped"] += 1
        elif report.outcome == "passed":
            self.counts["passed" if self.steps else "passed without a step"] += 1
        else:
            self.counts["failed"] += 1
            self.failures.append(f"{test}\n{report.longreprtext}")

    def print(self) -> None:
        """Print the counts and failures."""
        for failure in self.failures:
            print(f"FAILED {failure}\n")
        columns = ("passed", "passed without a step", "failed", "skipped")
        found = ", ".join(f"{self.counts[column]} {column}" for column in columns)
        print(f"scikit-learn {sklearn.__version__}, {SUITE}: {found}")


def main() -> int:
    """Replace, run, report."""
    summary, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--baseline", action="store_true", help="run it against scikit-learn")
    parser.add_argument("pytest", nargs="*", help="further arguments for pytest, after --")
    options = parser.parse_args()
    plugin = Plugin()
    if not options.baseline:
        plugin.count_steps()
        for name in ("MLPClassifier", "MLPRegressor"):
            setattr(neural_network, name, getattr(cyoptim.sklearn, name))
    # Neither this project's settings nor its conftest.
    command = ["--pyargs", SUITE, "-c", os.devnull]
    command += ["-p", "no:cacheprovider", "-p", "no:terminal", *options.pytest]
    status = pytest.main(command, plugins=[plugin])
    plugin.print()
    return 1 if plugin.failures or status not in (0, 1) else 0


if __name__ == "__main__":
    sys.exit(main())
