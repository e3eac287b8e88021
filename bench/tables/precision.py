"""Adam over numbers of 16 and 8 bits: bytes and times of each format, and what was demanded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.formats import FORMATS, LEAST_SCALED, Format
from bench.report import Run, about, duration_text, ratio, ratio_text, titled, with_reasons
from bench.rivals import RIVALS
from bench.runner import Effort, quartile
from bench.tables.command import Command, one_and_more
from bench.workloads import Workload, named

BASE = "float32"
ALL: Mapping[str, Format] = {
    **FORMATS,
    "torch-fused": FORMATS[BASE],
    **{name: rival.format for name, rival in RIVALS.items()},
}
"""The format of each contender."""

LARGE = 1 << 22
"""Elements from which on memory decides, and not the cache."""

SPEEDS = 1.2
"""A shared memory can change its speed: then the times of float32 have a gap of so much."""


@dataclass(frozen=True)
class Place:
    """A workload on a number of threads, in those rounds in which the memory had one speed."""

    workload: Workload
    threads: int
    times: Mapping[str, float]  # seconds per step of each contender

    @property
    def rate(self) -> float | None:
        """Bytes per second of float32, out of the cache."""
        base = self.times.get(BASE)
        return self.workload.bytes / base if base and self.workload.elements >= LARGE else None

    def ratio(self, contender: str, against: str = BASE) -> float | None:
        """How many times as long the other one takes."""
        return ratio(self.times.get(against), self.times.get(contender))

    @property
    def title(self) -> str:
        """The threads, and what float32 moves."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        return threads + ("" if self.rate is None else f", {self.rate / 1e9:.0f} GB/s")


def places(run: Run) -> Iterator[Place]:
    """All workloads and numbers of threads; one is in two places if the memory had two speeds."""
    for name in dict.fromkeys(r.workload for r in run.results):
        timed = {r.contender: r.rounds for r in run.results if r.workload == name and r.rounds}
        workload, (_, _, count) = named(name), name.partition("@")
        threads = int(count or run.environment["threads"])
        for rounds in _parts(workload, timed):
            yield Place(workload, threads, {who: quartile(t) for who, t in rounds.items()})


def _parts(
    workload: Workload, timed: Mapping[str, list[float]]
) -> Iterator[dict[str, list[float]]]:
    """The rounds of all contenders, or those with each speed of the memory."""
    if workload.elements < LARGE or BASE not in timed:
        yield dict(timed)
        return
    for part in speeds(timed[BASE]):
        yield {who: [times[i] for i in part] for who, times in timed.items()}


def speeds(seconds: Sequence[float]) -> list[list[int]]:
    """The numbers of the rounds with a fast memory, and those with a slow one if there are both.

    Each has at least three rounds: fewer are noise.
    """
    order = sorted(range(len(seconds)), key=seconds.__getitem__)
    gaps = [(seconds[order[i]] / seconds[order[i - 1]], i) for i in range(3, len(order) - 2)]
    gap, cut = max(gaps, default=(0.0, 0))
    return [sorted(order[:cut]), sorted(order[cut:])] if gap > SPEEDS else [sorted(order)]


# --- what was demanded ----------------------------------------------------------------------------

FAST = 80e9
"""Bytes per second between the two speeds of the machine on which the bounds were set."""


@dataclass(frozen=True)
class Demand:
    """A bound on a contender: on its time, or on how many times as long another one takes."""

    contender: str
    shapes: str
    threads: int
    against: str = ""  # the other one; or the time itself is bounded, in ns an element
    bound: float | None = None
    slow: float | None = None  # the bound where the memory is slow, if it is another one
    of_instructions: Mapping[str, float] | None = None  # the bound with each instruction set

    def rows(self, found: Sequence[Place], instructions: str) -> Iterator[tuple[str, ...]]:
        """A row for each speed of the memory."""
        here = [p for p in found if (p.workload, p.threads) == (named(self.shapes), self.threads)]
        for place in here:
            bound = self._bound(place, instructions)
            value = self._value(place)
            if bound is not None and value is not None:
                yield self._row(place, value, bound)

    def _row(self, place: Place, value: float, bound: float) -> tuple[str, ...]:
        what = f"{self.against} / {self.contender}" if self.against else self.contender
        where = f"{place.workload.size}, {place.title}"
        if self.against:
            met, cells = value >= bound, (f"at least {bound:g}", ratio_text(value))
        else:
            met, cells = value <= bound, (f"at most {bound:g} ns", f"{value:.3g} ns")
        return f"{what}: {where}", *cells, "yes" if met else "**no**"

    def _bound(self, place: Place, instructions: str) -> float | None:
        if self.of_instructions is not None:
            return self.of_instructions.get(instructions)
        slow = place.rate is not None and place.rate < FAST
        return self.slow if slow and self.slow is not None else self.bound

    def _value(self, place: Place) -> float | None:
        if self.against:
            return place.ratio(self.contender, self.against)
        time = place.times.get(self.contender)
        return None if time is None else time / place.workload.elements * 1e9


def _large(contender: str, bound: float, slow: float | None = None) -> Demand:
    return Demand(contender, "1x16M", 2, BASE, bound, slow)


def _in_cache(contender: str, **of_instructions: float) -> Demand:
    return Demand(contender, "1x16K", 1, of_instructions=of_instructions)


DEMANDS = (
    _large("bf16-nearest", 1.05, 1.6),
    _large("bf16", 0.75, 1.2),
    _large("bf16-params-nearest", 1.12),
    _large("bf16-params", 1.12),
    _large("bf16-state", 0.87, 1.25),
    _large("split", 0.95),
    _in_cache("dynamic8", avx512bf16=1.3, avx512=2.4, avx2=4.3),
    _in_cache("float8", avx512bf16=1.05, avx512=1.05),
    Demand("dynamic8", "1x1024K", 1, "torchao-8bit", 8),
    Demand("dynamic8", "1x1024K", 1, "bitsandbytes-8bit", 8),
    Demand("float8", "1x1024K", 1, "torchao-fp8", 4),
    Demand(BASE, "1x100", 1, bound=5.5),  # 0.53 us before there were formats, and some noise
)


# --- the tables -----------------------------------------------------------------------------------


def text(run: Run, markdown: bool) -> str:
    """The bytes of each format, a table for each size of tensors, and the demands."""
    found = list(places(run))
    names = [name for name in ALL if any(r.contender == name for r in run.results)]
    lines = about(run, markdown)
    lines += titled("Bytes of a parameter, computed", *_bytes_table(names), markdown)
    for workload, group in groupby(found, key=lambda place: place.workload):
        title = f"{workload.size}, measured"
        lines += titled(title, *_size_table(list(group), names), markdown)
    header, rows = _rivals_table(found)
    if rows:
        lines += titled("Other libraries, over cyoptim's same format", header, rows, markdown)
    instructions = run.environment["instruction set"]
    rows = [row for demand in DEMANDS for row in demand.rows(found, instructions)]
    if rows:
        title = f"What was demanded, with the kernels of {instructions}"
        lines += titled(title, ("", "demanded", "measured", "met"), rows, markdown)
    return with_reasons(lines, run)


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _rivals_table(found: Sequence[Place]) -> Table:
    """A row per contender of another library, with its time over that of the same format."""
    header = ["", "the same", *(f"{p.workload.size}, {p.title}" for p in found)]
    rows = [
        (name, own, *(ratio_text(place.ratio(own, name)) for place in found))
        for name in ALL
        if name not in FORMATS and any(name in place.times for place in found)
        for own in _same(name)
    ]
    return header, rows


def _same(rival: str) -> list[str]:
    """The contender of ours that stores its numbers in the same way."""
    return [name for name, form in FORMATS.items() if form == ALL[rival]]


def _bytes_table(names: Sequence[str]) -> Table:
    rows = [(name, *_bytes_cells(ALL[name])) for name in names]
    header = ("", "parameter", "gradient", "state", "rounding", "kept", "moved")
    return (*header, "float32 / it, by the bytes moved"), rows


def _bytes_cells(form: Format) -> tuple[str, ...]:
    beside = {None: "", "split": " + int16 remainder", "float32": " + float32 master"}[form.master]
    bytes_ = f"{form.kept:.3g}", f"{form.moved:.3g}", ratio_text(ALL[BASE].moved / form.moved)
    return form.param + beside, form.grad, form.state, form.rounding or "", *bytes_


def _size_table(here: Sequence[Place], names: Sequence[str]) -> Table:
    """A row per contender, and for each place its time and its ratio."""
    header = ["", *(cell for p in here for cell in (f"{p.title}: {_unit(p)}", "float32 / it"))]
    rows = [
        (name, *(cell for place in here for cell in _cells(place, name)))
        for name in names
        if any(name in place.times for place in here)
    ]
    return header, rows


def _unit(place: Place) -> str:
    return "per step" if place.workload.elements < LEAST_SCALED else "per element"


def _cells(place: Place, name: str) -> tuple[str, str]:
    time, against = place.times.get(name), ratio_text(place.ratio(name))
    if time is not None and _unit(place) == "per element":
        return f"{time / place.workload.elements * 1e9:.3f} ns", against
    return duration_text(time), against


COMMAND = Command(
    "Adam over numbers of 16 and 8 bits, format by format, and its rivals",
    contenders=tuple(ALL),
    workloads=("1x100", "1x16K", "1x1024K", "1x16M"),
    text=text,
    drawn_by=("bars", "draw_precision"),
    any_optimizer=False,
    any_dtype=False,
    threads=one_and_more,
    effort=Effort(rounds=10, seconds=0.1),
)
