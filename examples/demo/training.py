"""Data, a training that can be saved and continued, and the time of its steps."""

from __future__ import annotations

import importlib
import math
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from timeit import timeit
from typing import Any

import numpy as np

import cyoptim
from cyoptim.lr_scheduler import StepLR
from examples.demo.choices import Choice, NumPyTwin
from examples.demo.network import MLP, Array

EPOCHS = 30
BATCH = 32
HIDDEN = (128, 64)
MAX_NORM = 5.0
STRETCHES, GAMMA = 3, 0.3  # the learning rate falls twice, by this factor
TEST_SHARE = 0.2
AGREEMENT_STEPS = 10
ROUNDS, CALLS = 50, 20  # a timing is the best of so many rounds, of so many steps each


def imported(module: str) -> Any:
    """A module of another package; ends the demo if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SystemExit(
            "the demo needs scikit-learn, matplotlib and tqdm: "
            f'pip install "cyoptim[demo]" ({error})'
        ) from None


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
        images, labels = imported("sklearn.datasets").load_digits(return_X_y=True)
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
    progress = imported("tqdm").tqdm
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
