"""Sharded optimizers and plain ones after the same steps, and what they save."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import sources
from cyoptim.distributed import Local, Sharded
from tests.support.cards import Card

SHAPES = [(130, 300), (7,), (), (3, 5), (33_000,), (8192, 3)]
"""Of which four ranks cut some."""
SIZES = (1, 2, 3, 4)
SUFFIXES = (".npz", ".safetensors")

Make = Callable[[Sequence[Any]], Any]


def arrays(shapes: Any = SHAPES, dtype: Any = np.float32, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    drawn = [rng.standard_normal(shape) for shape in shapes]
    if np.dtype(dtype).kind == "c":
        drawn = [real + 1j * rng.standard_normal(real.shape) for real in drawn]
    return [np.asarray(array, dtype) for array in drawn]


class Run:
    """A plain optimizer, and sharded ones of the same parameters.

    Parameters
    ----------
    cls : type
        The class of the optimizer.
    shapes, dtype
        Of the parameters.
    form : callable
        Makes a parameter of an array.
    groups : callable, optional
        Makes what the optimizer gets of the list of parameters.
    averages : bool
        Whether they keep averages.
    **options
        Of the optimizer.
    """

    def __init__(
        self,
        cls: Any,
        shapes: Any = SHAPES,
        dtype: Any = np.float32,
        *,
        form: Callable[[Any], Any] = np.copy,
        groups: Callable[[list[Any]], Any] = list,
        averages: bool = False,
        **options: Any,
    ) -> None:
        self.cls, self.shapes, self.dtype, self.options = cls, shapes, dtype, options
        self._form, self._groups, self._averages = form, groups, averages

    def params(self) -> list[Any]:
        return [self._form(array) for array in arrays(self.shapes, self.dtype)]

    def grads(self, step: int) -> list[Any]:
        wide = {"c": self.dtype, "f": self.dtype}.get(np.dtype(self.dtype).kind, np.float32)
        return arrays(self.shapes, wide, seed=step + 1)

    def plain(self, steps: int = 0) -> tuple[Any, Any]:
        """Parameters and their optimizer, after some steps."""
        params = self.params()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            optimizer = self.cls(self._groups(params), **self.options)
        if self._averages:
            optimizer.ema(0.75)
        self.step(optimizer, range(steps))
        return params, optimizer

    def sharded(self, comm: Any, steps: int = 0) -> tuple[Any, Any]:
        """The same on a rank."""
        params = self.params()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            optimizer: Any = Sharded(
                self._groups(params), self.cls, comm=comm, reduce="sum", **self.options
            )
        if self._averages:
            optimizer.ema(0.75)
        self.step(optimizer, range(steps), comm.rank)
        return params, optimizer

    def step(self, optimizer: Any, steps: Any, rank: int = 0) -> None:
        """Steps along gradients that only rank 0 has: their sum is exact on any number of ranks."""
        for step in steps:
            grads = self.grads(step)
            optimizer.step(grads=grads if rank == 0 else [np.zeros_like(grad) for grad in grads])


def card_run(card: Card) -> Run:
    return Run(card.cls, card.shapes(SHAPES), **card.variants[0])


def run(size: int, program: Callable[[Any], Any]) -> list[Any]:
    """Call a program on ranks that are threads."""
    return Local(size).run(program)


def saved_by_one(path: Path, run_of: Run, steps: int, **more: Any) -> bytes:
    """The file that one process writes after so many steps."""
    params, optimizer = run_of.plain(steps)
    cyoptim.save(path, params=params, optimizer=optimizer, **more)
    return path.read_bytes()


def same_state(a: Any, b: Any, place: str = "") -> None:
    """Whether two state dicts are equal in order, types and bits."""
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            same_state(a[key], b[key], f"{place}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), place
        for i, (one, other) in enumerate(zip(a, b, strict=True)):
            same_state(one, other, f"{place}[{i}]")
    elif isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), place
        assert a.tobytes() == b.tobytes(), place
    elif hasattr(a, "untyped_storage"):
        import torch

        assert (a.dtype, a.shape) == (b.dtype, b.shape), place
        assert torch.equal(a, b), place
    else:
        assert repr(a) == repr(b), place


@contextmanager
def everything_in_place(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let files of any size be read as large ones are."""
    with monkeypatch.context() as patch:
        patch.setattr(sources, "LEAST_FILE", 1)
        patch.setattr(sources, "LEAST_ARRAY", 1)
        yield


def shared_by_ranks(card: Card) -> bool:
    """Whether ranks can step it: rules that add up over rows cannot be shared."""
    return card.name not in ("AdamMini", "AdamP", "SGDP")
