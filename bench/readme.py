"""Writes the parts of pages that stored results make: ``python -m bench readme``.

A part lies between two comments, which name it. Its results are in ``results/``: a file for each
command, whose tables are the part of the same name. Parts without results stay as they are.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import accuracy
from bench.optimizers import OPTIMIZERS
from bench.ranks import tables
from bench.ranks.study import Study
from bench.report import Run, duration_text, ratio_text, table
from bench.runner import ROOT
from bench.tables import COMMANDS, verdict
from bench.tables.optimizers import Cell, cell
from bench.workloads import Workload

RESULTS = ROOT / "bench/results"
PAGES = (
    ROOT / "README.md",
    ROOT / "bench/README.md",
    ROOT / "docs/distributed.md",
    *sorted(RESULTS.glob("*.md")),
)

COLUMNS = {
    "cyoptim": "cyoptim",
    "torch, fused": "torch-fused",
    "torch, default": "torch-default",
    "numba": "numba",
    "NumPy": "numpy",
    "roof of memory": "roof",
}
"""The columns of the table of Adam: the contender of each."""

INSTRUCTION_SETS = {"avx512bf16": "AVX-512", "avx512": "AVX-512", "avx2": "AVX2"}

LARGE = "1x16M"

OF_RANKS = {
    "distributed": partial(tables.text, markdown=True),
    "distributed_model": tables.model,
    "distributed_memory": tables.memory,
}
"""Parts about many processes."""

_PART = re.compile(r"(<!-- begin (\w+): python -m bench readme -->\n).*?(<!-- end \2 -->)", re.S)


def write(pages: tuple[Path, ...] = PAGES) -> None:
    """Write all parts of these pages again."""
    for page in pages:
        page.write_text(renewed(page.read_text()))


def renewed(text: str) -> str:
    """A page with its parts made again."""
    return _PART.sub(_renewed_part, text)


def _renewed_part(found: re.Match[str]) -> str:
    begin, name, end = found.groups()
    try:
        return f"{begin}\n{part(name)}\n\n{end}"
    except FileNotFoundError:
        return found[0]


def part(name: str) -> str:
    """The text of a part."""
    if name == "speed":
        return speed(stored("adam"), stored("optimizers"))
    if name == "verdict":
        return "\n".join(verdict.summary(stored("sizes"), markdown=True)).strip()
    if name == "accuracy":
        return accuracy.Study.load(RESULTS / "accuracy.json").text(True)
    if name in OF_RANKS:
        return OF_RANKS[name](Study.load(RESULTS / "distributed.json"))
    command = name.partition("_")[0]
    return COMMANDS[command].text(stored(name), True)


def stored(name: str) -> Run:
    """The published results of a command, or of ``COMMAND_CASE``."""
    return Run.load(RESULTS / f"{name}.json")


def speed(adam: Run, optimizers: Run) -> str:
    """How fast it is: Adam, and the ratios of all optimizers."""
    facts = adam.environment
    kernels = INSTRUCTION_SETS.get(facts["instruction set"], "baseline")
    machine = f"{facts['threads']} threads, {facts['cpu']} with {kernels} kernels"
    times = adam.best()
    workloads = adam.workloads()
    rows = [
        (_arrays(w), *(duration_text(times.get((w.name, who))) for who in COLUMNS.values()))
        for w in workloads
    ]
    tensors = [duration_text(times.get((w.name, "cyoptim-torch"))) for w in workloads[:3]]
    return "\n".join(
        [
            f"One step of Adam, float32, {machine}:",
            "",
            *table(("", *COLUMNS), rows, markdown=True),
            "",
            _paragraph(
                "The roof of memory is the time of a loop that moves the same bytes with next to "
                "no arithmetic. Over torch tensors the first three rows take "
                f"{tensors[0]}, {tensors[1]} and {tensors[2]}. The machine's bandwidth varies by a "
                "tenth and more between contenders."
            ),
            "",
            _paragraph(_ratios(optimizers)),
        ]
    )


def _arrays(workload: Workload) -> str:
    return workload.size.replace("tensor", "array")


def _ratios(run: Run) -> str:
    """All optimizers on one large array, against the roof, and against torch's loops."""
    cells = {name: cell(run, name, LARGE) for name in OPTIMIZERS}
    roofs = {name: c.roof for name, c in cells.items() if c.roof is not None}
    loops = {
        name: c for name, c in cells.items()
        if c.source and OPTIMIZERS[name].in_torch and not OPTIMIZERS[name].fused
    }  # fmt: skip
    one, more = (
        [roof for name, roof in roofs.items() if OPTIMIZERS[name].goes_again is several]
        for several in (False, True)
    )
    passes = f", and those of several passes {_range(more)} times as long as theirs" if more else ""
    least, most = (choose(loops, key=lambda name: _source(loops[name])) for choose in (min, max))
    return (
        f"On one large array the optimizers of one pass take {_range(one)} times as long as the "
        f"roof{passes}. Where torch has no fused kernel, it "
        f"takes {ratio_text(loops[least].source)} ({least}) to {ratio_text(loops[most].source)} "
        f"times ({most}) as long as cyoptim."
    )


def _range(ratios: Sequence[float]) -> str:
    return f"{ratio_text(min(ratios))} to {ratio_text(max(ratios))}"


def _source(cell: Cell) -> float:
    return cell.source or 0.0


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)
