"""Train a small network on handwritten digits: ``python -m cyoptim.demo``.

(a) The network and its gradients are plain NumPy. cyoptim clips, steps, schedules, saves, resumes.
(b) Each optimizer's step is timed against the same update in NumPy, written with in-place
    operations and preallocated buffers, after a check that both give the same parameters.
(c) scikit-learn, matplotlib and tqdm are imported only when the demo runs.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from timeit import timeit
from typing import Any, TypeAlias

import numpy as np

import cyoptim
from cyoptim import _dispatch
from cyoptim._types import Array
from cyoptim.lr_scheduler import StepLR

__all__ = ["main"]

Options: TypeAlias = dict[str, Any]

EPOCHS = 30
BATCH = 32
HIDDEN = (128, 64)
MAX_NORM = 5.0
STRETCHES, GAMMA = 3, 0.3  # the learning rate falls twice, by this factor
TEST_SHARE = 0.2
AGREEMENT_STEPS = 10
ROUNDS, CALLS = 50, 20  # a timing is the best of so many rounds, of so many steps each


# The network -----------------------------------------------------------------


class MLP:
    """A multilayer perceptron: ReLU layers, softmax, and gradients written by hand.

    Parameters
    ----------
    sizes : sequence of int
        The number of inputs, of units in each hidden layer, and of classes.
    rng : numpy.random.Generator
        Draws the initial weights, as He et al. (2015) advise.
    dtype : dtype
        float32 or float64.
    """

    def __init__(
        self, sizes: Sequence[int], rng: np.random.Generator, dtype: Any = np.float32
    ) -> None:
        self.weights = [
            cyoptim.Parameter((rng.standard_normal((m, n)) * math.sqrt(2 / m)).astype(dtype))
            for m, n in pairwise(sizes)
        ]
        self.biases = [cyoptim.Parameter(np.zeros(n, dtype)) for n in sizes[1:]]
        self.layers = list(zip(self.weights, self.biases, strict=True))
        self.parameters = [*self.weights, *self.biases]

    def forward(self, x: Array) -> list[Array]:
        """Return what each layer gets as its input, and the logits last."""
        flow = [x]
        for W, b in self.layers[:-1]:
            flow.append(np.maximum(flow[-1] @ W + b, 0))
        W, b = self.layers[-1]
        return [*flow, flow[-1] @ W + b]

    def backward(self, x: Array, labels: Array) -> float:
        """Set the gradients of a batch's mean cross-entropy, and return its value."""
        *inputs, logits = self.forward(x)
        shifted = logits - logits.max(axis=1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        correct = np.arange(len(x)), labels

        delta = np.exp(log_p)  # d loss / d logits = (softmax - one-hot) / batch size
        delta[correct] -= 1
        delta /= len(x)
        for (W, b), z in zip(reversed(self.layers), reversed(inputs), strict=True):
            W.grad = z.T @ delta
            b.grad = delta.sum(axis=0)
            delta = (delta @ W.T) * (z > 0)
        return -float(log_p[correct].mean())

    def accuracy(self, x: Array, labels: Array) -> float:
        """Return the share of examples whose largest logit is that of their label."""
        return float(np.mean(self.forward(x)[-1].argmax(axis=1) == labels))


# The same updates in NumPy ---------------------------------------------------
#
# p: parameter, d: gradient, m and v: state, u: a buffer, t: step count, o: options of the group.


def _numpy_sgd(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    m *= o["momentum"]
    m += d
    p -= np.multiply(m, o["lr"], out=u)


def _numpy_adam(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    beta1, beta2 = o["betas"]
    m *= beta1
    m += np.multiply(d, 1 - beta1, out=u)
    _numpy_average_square(d, v, u, beta2)
    np.sqrt(v, out=u)
    u *= 1 / math.sqrt(1 - beta2**t)
    u += o["eps"]
    np.divide(m, u, out=u)
    u *= o["lr"] / (1 - beta1**t)
    p -= u


def _numpy_adamw(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    p *= 1 - o["lr"] * o["weight_decay"]
    _numpy_adam(p, d, m, v, u, t, o)


def _numpy_rmsprop(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    _numpy_average_square(d, v, u, o["alpha"])
    _numpy_scaled_step(p, d, v, u, o)


def _numpy_adagrad(p: Array, d: Array, m: Array, v: Array, u: Array, t: int, o: Options) -> None:
    v += np.multiply(d, d, out=u)
    _numpy_scaled_step(p, d, v, u, o)


def _numpy_average_square(d: Array, v: Array, u: Array, beta: float) -> None:
    v *= beta
    np.multiply(d, d, out=u)
    u *= 1 - beta
    v += u


def _numpy_scaled_step(p: Array, d: Array, v: Array, u: Array, o: Options) -> None:
    np.sqrt(v, out=u)
    u += o["eps"]
    np.divide(d, u, out=u)
    u *= o["lr"]
    p -= u


class NumPyTwin:
    """Steps copies of an optimizer's parameters by a NumPy update, from before the first step.

    Parameters
    ----------
    choice : Choice
        Which update.
    optimizer : Optimizer
        Whose parameters are copied, and whose options and gradients each step uses.
    """

    def __init__(self, choice: Choice, optimizer: cyoptim.Optimizer) -> None:
        self._choice = choice
        self._rows = [
            (param, param.data.copy(), *np.zeros((4, *param.shape), param.dtype), group)
            for group in optimizer.param_groups
            for param in group["params"]
        ]
        self.params = [row[1] for row in self._rows]
        self._t = 0

    def step(self) -> None:
        """Update the copies by the gradients of the originals."""
        self._t += 1
        for original, p, m, v, u, d, options in self._rows:
            if options["weight_decay"] and not self._choice.decoupled:
                np.multiply(p, options["weight_decay"], out=d)
                d += original.grad
            else:
                d = original.grad
            self._choice.numpy_update(p, d, m, v, u, self._t, options)


# The choice of optimizers ----------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """An optimizer with the options that suit the task, and its look in the picture."""

    create: type[Any]
    lr: float
    weight_decay: float
    numpy_update: Callable[..., None]
    colour: str
    marker: str
    options: Options = field(default_factory=dict)
    decoupled: bool = False

    @property
    def label(self) -> str:
        """Name for tables and legends."""
        name: str = self.create.__name__
        return f"{name}+momentum" if "momentum" in self.options else name

    @property
    def look(self) -> Options:
        """How its curves are drawn."""
        return {"color": self.colour, "marker": self.marker, "label": self.label}


# The colours are those of Okabe and Ito, which colour-blind readers can tell apart.
CHOICES = {
    "adam": Choice(cyoptim.Adam, 2e-3, 1e-4, _numpy_adam, "#0072B2", "o"),
    "adamw": Choice(cyoptim.AdamW, 3e-3, 1e-2, _numpy_adamw, "#D55E00", "s", decoupled=True),
    "sgd": Choice(cyoptim.SGD, 5e-2, 1e-4, _numpy_sgd, "#009E73", "^", {"momentum": 0.9}),
    "rmsprop": Choice(cyoptim.RMSprop, 1e-3, 1e-4, _numpy_rmsprop, "#CC79A7", "D"),
    "adagrad": Choice(cyoptim.Adagrad, 2e-2, 1e-4, _numpy_adagrad, "#E69F00", "v"),
}


# Training --------------------------------------------------------------------


@dataclass(frozen=True)
class Digits:
    """Images as rows of 64 pixels in [0, 1], and labels; split once for all trainings."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array

    @classmethod
    def load(cls, seed: int) -> Digits:
        """Return scikit-learn's digits, of which 20% chosen by `seed` are for testing."""
        images, labels = _import("sklearn.datasets").load_digits(return_X_y=True)
        x = (images / 16).astype(np.float32)
        order = np.random.default_rng((seed, 0)).permutation(len(x))
        test, train = np.split(order, [round(TEST_SHARE * len(x))])
        return cls(x[train], labels[train], x[test], labels[test])

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Sizes of the network that learns them."""
        return (self.train_x.shape[1], *HIDDEN, 10)


class Training:
    """A network with its optimizer, schedule and order of examples: all that a checkpoint holds.

    Parameters
    ----------
    choice : Choice
        The optimizer.
    digits : Digits
        What to learn.
    epochs : int
        Length of the schedule.
    seed : int
        Fixes the initial weights and the order of the examples.
    """

    def __init__(self, choice: Choice, digits: Digits, epochs: int, seed: int) -> None:
        self.digits = digits
        self.model = MLP(digits.layer_sizes, np.random.default_rng((seed, 1)))
        self.shuffler = np.random.default_rng((seed, 2))
        self.optimizer = choice.create(
            [
                {"params": self.model.weights, "weight_decay": choice.weight_decay},
                {"params": self.model.biases, "weight_decay": 0.0},
            ],
            lr=choice.lr,
            **choice.options,
        )
        self.scheduler = StepLR(self.optimizer, math.ceil(epochs / STRETCHES), GAMMA)

    def run_epoch(self) -> list[float]:
        """Train on every example once, and return the losses of the minibatches."""
        losses = [self.run_batch(batch) for batch in self.batches()]
        self.scheduler.step()
        return losses

    def batches(self) -> list[Array]:
        """Return the indices of the next epoch's minibatches."""
        order = self.shuffler.permutation(len(self.digits.train_x))
        return [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def run_batch(self, batch: Array) -> float:
        """Take one step, and return the loss before it."""
        loss = self.model.backward(self.digits.train_x[batch], self.digits.train_y[batch])
        cyoptim.clip_grad_norm_(self.model.parameters, MAX_NORM)
        self.optimizer.step()
        return loss

    def test(self) -> float:
        """Return the accuracy on the examples kept back."""
        return self.model.accuracy(self.digits.test_x, self.digits.test_y)

    def save(self, path: Path) -> None:
        """Write a checkpoint."""
        cyoptim.save(
            path,
            params=self.model.parameters,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            shuffler=self.shuffler.bit_generator.state,
        )

    def load(self, path: Path) -> None:
        """Continue from a checkpoint."""
        saved = cyoptim.load(
            path,
            params=self.model.parameters,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
        )
        self.shuffler.bit_generator.state = saved["shuffler"]


@dataclass
class Result:
    """What one training gives."""

    choice: Choice
    losses: list[list[float]] = field(default_factory=list)  # of each epoch, of each minibatch
    accuracies: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    seconds: float = 0.0
    step_us: float = 0.0
    numpy_us: float = 0.0


def train(choice: Choice, digits: Digits, epochs: int, seed: int) -> Result:
    """Train with one optimizer, showing the progress on a terminal."""
    training = Training(choice, digits, epochs, seed)
    result = Result(choice)
    start = perf_counter()
    progress = _import("tqdm").tqdm
    with progress(total=epochs, desc=f"{choice.label:12}", unit=" epochs", disable=None) as bar:
        for _ in range(epochs):
            result.rates.append(training.scheduler.get_last_lr()[0])
            result.losses.append(training.run_epoch())
            result.accuracies.append(training.test())
            bar.set_postfix_str(f"test accuracy {result.accuracies[-1]:.1%}", refresh=False)
            bar.update()
    result.seconds = perf_counter() - start
    return result


def resume(choice: Choice, digits: Digits, epochs: int, seed: int) -> list[list[float]]:
    """Train half way, save, build everything anew, load, train to the end; return the losses."""
    half = epochs // 2
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "digits.npz")
        before = Training(choice, digits, epochs, seed)
        losses = [before.run_epoch() for _ in range(half)]
        before.save(path)
        after = Training(choice, digits, epochs, seed)
        after.load(path)
    return losses + [after.run_epoch() for _ in range(half, epochs)]


def time_step(choice: Choice, digits: Digits, seed: int) -> tuple[float, float]:
    """Return the microseconds of a step, and of the same update in NumPy.

    Raises
    ------
    AssertionError
        If the two do not give the same parameters.
    """
    training = Training(choice, digits, 1, seed)
    twin = NumPyTwin(choice, training.optimizer)
    for batch in training.batches()[:AGREEMENT_STEPS]:
        training.run_batch(batch)
        twin.step()
    for param, copy in zip(training.model.parameters, twin.params, strict=True):
        np.testing.assert_allclose(param.data, copy, rtol=1e-5, atol=1e-6)
    rounds = [
        (timeit(training.optimizer.step, number=CALLS), timeit(twin.step, number=CALLS))
        for _ in range(ROUNDS)
    ]
    step, numpy_step = np.min(rounds, axis=0) / CALLS * 1e6
    return float(step), float(numpy_step)


# What is shown ---------------------------------------------------------------


def introduce(choices: Sequence[Choice], digits: Digits, epochs: int) -> str:
    """Return the lines that say what is going to happen."""
    sizes = digits.layer_sizes
    parameters = sum((m + 1) * n for m, n in pairwise(sizes))
    return (
        f"cyoptim {cyoptim.__version__}, instruction set {_dispatch.chosen}, threads at most "
        f"{cyoptim.get_num_threads()}; NumPy {np.__version__}\n"
        f"Trains a {'-'.join(map(str, sizes))} network ({parameters:,} parameters) "
        f"on {len(digits.train_x):,} handwritten digits\n"
        f"and tests it on {len(digits.test_x)} others; {epochs} epochs with each of "
        f"{', '.join(choice.label for choice in choices)}.\n"
    )


def tabulate(results: Sequence[Result]) -> str:
    """Return the table of all trainings."""
    lines = ["optimizer      test accuracy   training    one step    in NumPy   speed-up"]
    for r in results:
        lines.append(
            f"{r.choice.label:14} {r.accuracies[-1]:13.1%} {r.seconds:8.2f} s {r.step_us:8.1f} us "
            f"{r.numpy_us:8.1f} us {r.numpy_us / r.step_us:9.1f}x"
        )
    lines.append(
        f"One step: best of {ROUNDS} rounds. NumPy makes the same update, in place; results agree."
    )
    return "\n".join(lines)


def compare(straight: Result, resumed: Sequence[Sequence[float]]) -> str:
    """Return the line that says that a resumed training is the uninterrupted one.

    Raises
    ------
    SystemExit
        If it is not.
    """
    here, there = np.array(straight.losses), np.array(resumed)
    what = f"{straight.choice.label}, saved after epoch {len(here) // 2} of {len(here)} and resumed"
    if not np.array_equal(here, there):
        count = np.count_nonzero(here != there)
        raise SystemExit(f"{what}: {count} of {here.size:,} losses DIFFER")
    return f"{what}: all {here.size:,} losses are bit-identical to those above"


def plot(results: Sequence[Result], path: Path) -> None:
    """Save the picture of all trainings: loss, accuracy and learning rate over the epochs."""
    figure = _import("matplotlib.figure").Figure(figsize=(13, 4.6), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)
    loss, accuracy, rate = figure.subplots(1, 3)
    for i, r in enumerate(results):
        epochs = np.arange(1, len(r.losses) + 1)
        # Each optimizer's markers have epochs of their own: curves may lie on one another.
        look = r.choice.look | {"markevery": (i, len(CHOICES))}
        loss.plot(epochs, np.mean(r.losses, axis=1), **look)
        accuracy.plot(epochs, 100 * np.array(r.accuracies), **look)
        rate.plot(epochs, r.rates, drawstyle="steps-mid", **look)
    _describe(loss, "Training loss: mean cross-entropy", "log")
    _describe(accuracy, "Test accuracy, %", "linear")
    _describe(rate, "Learning rate: StepLR", "log")
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=len(labels),
        fontsize=12,
        frameon=False,
    )
    figure.savefig(path, format="png", dpi=150)


def _describe(axes: Any, title: str, scale: str) -> None:
    axes.set_title(title, fontsize=14, loc="left")
    axes.set_xlabel("epoch", fontsize=12)
    axes.set_yscale(scale)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=11)
    axes.grid(color="0.88")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


# The command -----------------------------------------------------------------


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            "the demo needs scikit-learn, matplotlib and tqdm: "
            f'pip install "cyoptim[demo]" ({error})'
        ) from None


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
        prog="python -m cyoptim.demo",
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
        _import(module)
    digits = Digits.load(options.seed)
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
