"""Contract 2: the same bits whatever the instruction set, threads, grouping, chunks, or a resume."""

from __future__ import annotations

import importlib.util
import itertools
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cyoptim
from cyoptim import _dispatch, _engine
from tests.optimizers import cards, label, variants
from tests.support import cautious
from tests.support.bits import asking_ahead, digest, digests_on_threads, use_isa
from tests.support.cards import ELEMENT_WISE, SAME_BITS, Card, Options
from tests.support.doors import trajectory_inputs
from tests.support.dtypes import REALS
from tests.support.parametrize import every_real, every_variant
from tests.support.runs import advance, run

CHUNK = 16384
X86 = platform.machine().lower() in ("x86_64", "amd64")
# Around a vector's and a chunk's length, and enough bundles for four threads.
SIZES = [(1,), (15,), (16,), (17,), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (6 * CHUNK + 5,), (0,)]
# Of what is shared by rows, columns or all elements.
BLOCKS = [(3, 5000), (2000, 7), (200, 129), (6, 5, 3, 3)]


def all_digests() -> dict[str, str]:
    """Of every variant, in both dtypes, under the present kernels and threads."""
    found = {}
    for card, options in [*variants(SAME_BITS), *cautious.FORMS]:
        shapes = card.shapes(SIZES if ELEMENT_WISE(card) else [*SIZES, *BLOCKS])
        for dtype in REALS:
            start, grads = trajectory_inputs(shapes, dtype, 3, seed=7)
            name = f"{card}-{label(options)}-{np.dtype(dtype)}"
            found[name] = digest(run(card, options, start, grads))
    return found


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    with cyoptim.threads(1):
        return all_digests()


@pytest.mark.skipif(not X86 or sys.platform == "darwin", reason="one instruction set elsewhere")
def test_every_instruction_set_was_built() -> None:
    # What this machine cannot run must have been built all the same.
    for name in _dispatch.LEVELS[: 3 if sys.platform == "win32" else 4]:
        assert importlib.util.find_spec(f"cyoptim._kernels_{name}"), name
    if _engine.compiler().startswith("GCC"):
        for name in _dispatch.LEVELS[2:]:
            assert importlib.util.find_spec(f"cyoptim._kernels_{name}_far"), name


@pytest.mark.slow
@pytest.mark.parametrize("isa", _dispatch.LEVELS)
def test_same_bits_on_each_instruction_set(isa: str, expected: dict[str, str]) -> None:
    use_isa(isa)
    assert all_digests() == expected


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512", "avx512bf16"])
def test_same_bits_where_memory_is_asked_for_ahead(isa: str, expected: dict[str, str]) -> None:
    with asking_ahead(isa):
        assert all_digests() == expected


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_same_bits_on_any_number_of_threads(threads: int, expected: dict[str, str]) -> None:
    assert digests_on_threads("tests.engine.test_bits", threads) == expected


def test_large_steps_ask_for_memory_ahead() -> None:
    with asking_ahead(_dispatch.chosen):
        pass
    assert _engine.asks_ahead(262_144, 1)
    assert not _engine.asks_ahead(262_143, 1)
    assert _engine.asks_ahead(1_000_000, 100)
    assert not _engine.asks_ahead(1_000_000, 1000)  # arrays that are short in the mean


@every_real
@every_variant(ELEMENT_WISE)
def test_grouping_does_not_matter(card: Card, options: Options, dtype: Any) -> None:
    # One array, against its pieces as separate parameters in separate groups.
    start, grads = trajectory_inputs([(2 * CHUNK + 100,)], dtype, 4, seed=8, missing=0)
    cuts = [0, 1, 16, 33, CHUNK - 1, CHUNK + 3, 2 * CHUNK + 100]
    whole = run(card, options, start, grads)[0]

    def pieces(array: np.ndarray) -> list[np.ndarray]:
        return [array[a:b].copy() for a, b in itertools.pairwise(cuts)]

    def grouped(params: list[Any], **kwargs: Any) -> Any:
        return card.cls([{"params": params[:2]}, {"params": params[2:]}], **kwargs)

    cut = [pieces(g[0]) for g in grads]
    parts = run(card, options, pieces(start[0]), cut, make=grouped)
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@every_real
@every_variant()
def test_save_and_resume_does_not_matter(
    card: Card, options: Options, dtype: Any, tmp_path: Path
) -> None:
    shapes = card.shapes([(33,), (4, 5), ()])
    start, grads = trajectory_inputs(shapes, dtype, 20, seed=9)
    expected = run(card, options, start, grads)

    params = [cyoptim.Parameter(a.copy()) for a in start]
    optimizer = card.cls(params, **options)
    for g in grads[:9]:
        advance(card, optimizer, params, g)
    cyoptim.save(tmp_path / "half.npz", params=params, optimizer=optimizer)

    params = [cyoptim.Parameter(np.zeros_like(a)) for a in start]
    optimizer = card.cls(params, lr=0.5)
    cyoptim.load(tmp_path / "half.npz", params=params, optimizer=optimizer)
    for g in grads[9:]:
        advance(card, optimizer, params, g)
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_array_equal(a.data, b)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(
        st.one_of(st.integers(0, 70), st.sampled_from([CHUNK - 1, CHUNK, CHUNK + 1])),
        min_size=1,
        max_size=8,
    ),
    card=st.sampled_from(cards(ELEMENT_WISE)),
    dtype=st.sampled_from(REALS),
    offset=st.integers(0, 3),
)
def test_sizes_and_alignment_do_not_matter(
    sizes: list[int], card: Card, dtype: Any, offset: int
) -> None:
    # Many tensors, each starting at any element of a vector, against one elementwise run.
    total = sum(sizes)
    start, grads = trajectory_inputs([(total + offset,)], dtype, 2, seed=10, missing=0)
    flat = run(card, {}, [start[0][offset:].copy()], [[g[0][offset:].copy()] for g in grads])
    ends = np.cumsum([offset, *sizes])
    base = start[0].copy()
    params = [cyoptim.Parameter(base[a:b]) for a, b in itertools.pairwise(ends)]
    optimizer = card.cls(params)
    for g in grads:
        pieces = [g[0][a:b] for a, b in itertools.pairwise(ends)]
        optimizer.step(grads=[card.form(piece) for piece in pieces])
    np.testing.assert_array_equal(base[offset:], flat[0])
    np.testing.assert_array_equal(base[:offset], start[0][:offset])
