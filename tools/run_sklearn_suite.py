"""Run scikit-learn's own tests of its perceptrons against those of ``cyoptim.sklearn``.

It runs the suite of the installed scikit-learn, ``sklearn.neural_network.tests.test_mlp``, on
classes that take scikit-learn's parameters and train with this package's optimizers::

    python tools/run_sklearn_suite.py
    python tools/run_sklearn_suite.py -- -k warm_start -x  # more options for pytest
    python tools/run_sklearn_suite.py --baseline           # scikit-learn against its own suite

It prints counts and failures. Tests that fail for a reason given in ``NOT_APPLICABLE`` are
counted separately, as are tests that pass without a step of an optimizer, such as those of L-BFGS,
which scikit-learn itself runs. The exit status is 0 if no other test failed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from fnmatch import fnmatchcase
from typing import Any

import pytest
import sklearn
from sklearn import neural_network

import cyoptim.sklearn
from cyoptim.sklearn._training import Training

SUITE = "sklearn.neural_network.tests.test_mlp"

# Tests, with wildcards, that are expected to fail here, and why.
NOT_APPLICABLE = (
    ("test_learning_rate_warmstart", "learning_rate='invscaling', for which there is lr_scheduler"),
    ("test_adaptive_learning_rate", "learning_rate='adaptive', for which there is lr_scheduler"),
)


class Translated:
    """scikit-learn's parameters, as properties in terms of this package's."""

    lr_scheduler = lr_scheduler_params = clip_norm = weight_averaging = None
    schedule_per = "epoch"

    @property
    def optimizer(self) -> str:
        """The optimizer that corresponds to `solver`."""
        return "adam" if vars(self)["solver"] == "adam" else "sgd"

    @property
    def optimizer_params(self) -> dict[str, Any]:
        """Its options."""
        own: Any = self
        if own.solver == "adam":
            return {"betas": (own.beta_1, own.beta_2), "eps": own.epsilon}
        if own.solver == "sgd" and own.learning_rate != "constant":
            raise NotImplementedError(f"learning_rate={own.learning_rate!r}")
        return {"momentum": own.momentum, "nesterov": own.nesterovs_momentum and own.momentum > 0}


def translated(name: str) -> type:
    """This package's class of that name with scikit-learn's signature."""
    theirs = getattr(neural_network, name)
    return type(
        name,
        (Translated, getattr(cyoptim.sklearn, name)),
        {
            "__init__": theirs.__init__,
            "__module__": neural_network.__name__,  # where pickle finds it
            "_parameter_constraints": theirs._parameter_constraints,
        },
    )


class Plugin:
    """Counts tests, and the steps that they take."""

    def __init__(self, exceptions: tuple[tuple[str, str], ...]) -> None:
        self.exceptions = exceptions
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.failures: list[str] = []
        self.needless: list[str] = []
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
        why = next((why for name, why in self.exceptions if fnmatchcase(test, name)), None)
        if report.outcome == "skipped":
            self.counts["skipped"] += 1
        elif report.outcome == "passed":
            self.counts["passed" if self.steps else "passed without a step"] += 1
            if why:
                self.needless.append(test)
        elif why:
            self.counts["not applicable"] += 1
            self.reasons[why] += 1
        else:
            self.counts["failed"] += 1
            self.failures.append(f"{test}\n{report.longreprtext}")

    def print(self) -> None:
        """Print the counts and failures."""
        for failure in self.failures:
            print(f"FAILED {failure}\n")
        for test in self.needless:
            print(f"passes, although it is listed as not applicable: {test}")
        for why, count in self.reasons.most_common():
            print(f"not applicable, {count}: {why}")
        columns = ("passed", "passed without a step", "failed", "not applicable", "skipped")
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
    plugin = Plugin(() if options.baseline else NOT_APPLICABLE)
    if not options.baseline:
        plugin.count_steps()
        for name in ("MLPClassifier", "MLPRegressor"):
            setattr(neural_network, name, translated(name))
    # Neither this project's settings nor its conftest.
    command = ["--pyargs", SUITE, "-c", os.devnull]
    command += ["-p", "no:cacheprovider", "-p", "no:terminal", *options.pytest]
    status = pytest.main(command, plugins=[plugin])
    plugin.print()
    return 1 if plugin.failures or status not in (0, 1) else 0


if __name__ == "__main__":
    sys.exit(main())
