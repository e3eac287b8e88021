"""Train a small network on handwritten digits with five optimizers: ``python -m examples.demo``.

(a) The network and its gradients are plain NumPy. cyoptim clips, steps, schedules, saves, resumes.
(b) Each optimizer's step is timed against the same update in NumPy, written with in-place
    operations and preallocated buffers, after a check that both give the same parameters.
(c) scikit-learn, matplotlib and tqdm are imported only when the demo runs.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import cyoptim
from examples.demo.choices import CHOICES, Choice
from examples.demo.report import compare, introduce, plot, tabulate
from examples.demo.training import EPOCHS, Digits, imported, resume, time_step, train


def _integer(text: str, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"expected an integer of at least {least}, got {text!r}")
    return number


def _epochs(text: str) -> int:
    return _integer(text, 2)  # one before the checkpoint and one after it


def _seed(text: str) -> int:
    return _integer(text, 0)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected a file name that ends in .png, got {text!r}")
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"expected a file in a writable folder, got {text!r}")
    return path


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Train a small NumPy network on handwritten digits with every optimizer, "
        "time their steps, resume from a checkpoint, and save a picture of it all.",
    )
    parser.add_argument(
        "--epochs",
        type=_epochs,
        default=EPOCHS,
        metavar="N",
        help="how often each optimizer sees all examples, at least 2 (default: %(default)s)",
    )
    parser.add_argument(
        "--optimizer",
        type=str.lower,
        action="append",
        choices=[*CHOICES, "all"],
        help="may be given several times; the first is the one to be resumed (default: all)",
    )
    parser.add_argument(
        "--output",
        type=_picture,
        default="digits.png",
        metavar="PATH",
        help="the picture, a PNG file (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="of all random numbers, at least 0 (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def _chosen(names: Sequence[str] | None) -> list[Choice]:
    if not names or "all" in names:
        return list(CHOICES.values())
    return [CHOICES[name] for name in dict.fromkeys(names)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the demo.

    Parameters
    ----------
    arguments : sequence of str, optional
        Of the command line; those of the process by default.

    Raises
    ------
    SystemExit
        If an argument is wrong, if a package is missing, or if the resumed training differs from
        the uninterrupted one.
    """
    options = _parse(arguments)
    choices = _chosen(options.optimizer)
    for module in ("sklearn.datasets", "matplotlib.figure", "tqdm"):
        imported(module)
    digits = Digits.load(options.seed)
    cyoptim.show_config()
    print(introduce(choices, digits, options.epochs), flush=True)

    results = [train(choice, digits, options.epochs, options.seed) for choice in choices]
    for result in results:
        result.step_us, result.numpy_us = time_step(result.choice, digits, options.seed)
    print(tabulate(results), flush=True)
    plot(results, options.output)
    print(f"\nCurves saved to {options.output}")
    again = resume(choices[0], digits, options.epochs, options.seed)
    print(compare(results[0], again))


if __name__ == "__main__":
    main()
