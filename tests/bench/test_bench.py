"""The benchmark's own parts: it may not time what is wrong, or miss what has changed."""

from __future__ import annotations

import importlib.metadata
from itertools import pairwise

import numpy as np
import pytest

from bench import __main__ as command_line
from bench import report, roof, runner, worker
from bench.contenders import CONTENDERS, FUSED, INSTRUCTION_SETS, PEERS, SLOW
from bench.optimizers import IN_CACHE, OPERATIONS, OPTIMIZERS
from bench.runner import Effort, Result, Worker
from bench.subject import Subject, stepper_of
from bench.tables import COMMANDS, adam, optimizers, roofs, scaling, sizes
from bench.workloads import (
    ADAM,
    DTYPES,
    OVERVIEW,
    PERIOD,
    Stream,
    Workload,
    name_of,
    named,
    nearly_square,
    size_named,
)
from tests.optimizers import cards
from tests.support.cards import CLOSURE, DENSE, MATRICES
from tests.support.parametrize import lets_packages_age

UNEVEN = Workload("uneven", ((7,), (40, 50), (1,), (30000,)))


def peer(name):
    """Skip the test where a peer is not installed."""
    for package in CONTENDERS[name].packages:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError as error:
            pytest.skip(str(error))


OWN_PROCESS = (*SLOW, "optax", "deepspeed")
"""Their threads and their warnings must not stay with the other tests."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "optimizer"),
    [
        (name, operation)
        for name, row in CONTENDERS.items()
        for operation in OPERATIONS
        if row.knows(operation) and name not in (*OWN_PROCESS, *INSTRUCTION_SETS)
    ],
)
@lets_packages_age
@pytest.mark.usefixtures("many_threads")  # and so what cyoptim-all sets does not stay
def test_every_contender_agrees_with_the_reference(name, optimizer, dtype):
    peer(name)
    small = Workload("small", ((7,), (2000,)), optimizer, dtype)
    try:
        worker.prepare(worker.build(name, small, 1), small)
    except roof.Unavailable as error:
        pytest.skip(str(error))


def prepared(found, workload):
    """What becomes of a workload in a process."""
    found.prepare(workload)
    found.wait()
    if found.result.status == "built":
        found.validate()
        found.wait()
    return found.result


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN_PROCESS)
def test_contenders_in_processes_of_their_own(name):
    peer(name)
    found = Worker(name, 1)
    result = prepared(found, named("1x100"))
    wide = prepared(found, named("1x100:float64")) if name == "optax" else None
    found.close()
    if result.status == "unavailable":  # it is installed, and cannot be built here
        pytest.skip(result.message)
    assert result.status == "ready", result.message
    assert wide is None or wide.status == "ready", wide.message  # jax has float64 if asked only


@pytest.mark.slow
@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_instruction_sets(name):
    import cyoptim

    found = Worker(name, 1)
    results = [prepared(found, named(name_of("2x1000", optimizer))) for optimizer in OPTIMIZERS]
    found.close()
    if name.removeprefix("cyoptim-") in cyoptim._dispatch.available():
        assert {result.status for result in results} == {"ready"}
    else:
        assert {result.status for result in results} == {"unavailable"}
        assert "not possible on this machine" in results[0].message


@pytest.mark.slow
def test_kernels_that_are_not_there_are_named(monkeypatch):
    import cyoptim

    row = CONTENDERS["cyoptim-baseline"]
    monkeypatch.setitem(row.variables, "CYOPTIM_ISA", "avx1024")
    found = Worker("cyoptim-baseline", 1)
    result = prepared(found, named("1x100"))
    found.close()
    assert result.status == "unavailable"
    assert "'avx1024' is not an instruction set" in result.message
    other = "baseline" if cyoptim._dispatch.chosen != "baseline" else "avx2"
    with pytest.raises(roof.Unavailable, match=f"CYOPTIM_ISA={other}"):
        worker.build(f"cyoptim-{other}", named("1x100"), 1)


def test_every_optimizer_has_a_row():
    import cyoptim

    # What is timed: all that take dense gradients of any shape.
    timed = {card for card in cards(DENSE, ~CLOSURE, ~MATRICES) if card.public}
    assert {row.card for row in OPTIMIZERS.values()} == timed
    for row in OPTIMIZERS.values():
        params, grads = (
            [a.reshape(nearly_square(a.size)) if row.matrices else a for a in UNEVEN.random(seed)]
            for seed in range(2)
        )
        stepper = stepper_of(cyoptim, row.name, params)
        stepper.step(grads=grads)
        state = [x for x in stepper.state[params[1]].values() if np.size(x) == params[1].size]
        assert 1 + len(state) == row.written + row.read, row.name


def test_what_torch_has():
    torch = pytest.importorskip("torch")
    from torch.optim.optimizer import _default_to_fused_or_foreach

    params = [torch.nn.Parameter(torch.ones(3))]
    # On a processor the default is one tensor after the other: torch-single need not be timed.
    assert _default_to_fused_or_foreach(params, differentiable=False) == (False, False)
    for row in OPTIMIZERS.values():
        if not row.in_torch:
            assert not row.fused
            continue
        try:
            row.card.torch_class(torch)(params, **row.options, fused=True)
        except TypeError:
            assert not row.fused, row.name
        else:
            assert row.fused, row.name


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    "walks",
    [("gP",), ("gPA",), ("gPAB",), ("gsPABC",), ("gpAB", "abP"), ("g", "g", "gAP")],
    ids="+".join,
)
def test_roof_touches_everything(threads, walks):
    params, grads = (UNEVEN.random(seed) for seed in range(2))
    try:
        step, owner = roof.roof(walks, params, grads, 0.05, threads)
    except roof.Unavailable as error:
        pytest.skip(str(error))
    worker.validate(Subject(step, params, grads, Stream(0.05, walks), owner), UNEVEN)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("read", [1, 2, 3])
def test_roof_adds_up_what_it_only_reads(threads, read):
    arrays = [UNEVEN.random(seed) for seed in range(read)]
    try:
        step, _ = roof._walk((), arrays, 1.0, threads)
    except roof.Unavailable as error:
        pytest.skip(str(error))
    expected = sum(float(np.vdot(x, x)) for each in arrays for x in map(np.float64, each))
    assert step() == pytest.approx(expected, rel=1e-6)


def test_what_passes_move():
    row = OPTIMIZERS["Lamb"]
    assert [row.traffic(each) for each in (IN_CACHE, IN_CACHE + 1)] == [7, 11]
    assert [len(row.walks(each)) for each in (IN_CACHE, IN_CACHE + 1)] == [1, 3]
    assert sorted(row.walks(1)[0]) == sorted("gPMV")
    assert OPTIMIZERS["Adam"].walks(1) == OPTIMIZERS["Adam"].walks(1 << 24) == ("gPAB",)
    assert OPERATIONS["norm"].walks(1 << 24) == ("g",)
    for row in OPTIMIZERS.values():
        assert row.all_at_once.count("g") == row.all_at_once.count("P") == 1, row.name
        assert sum(map(str.isupper, row.all_at_once)) == row.written, row.name


def test_cut_is_even_and_complete():
    streams = tuple(UNEVEN.random(seed) for seed in range(4))
    spans, starts = roof._cut(streams, 3)
    lengths = [spans[a:b, 4].sum() for a, b in pairwise(starts)]
    assert sum(lengths) == UNEVEN.elements
    assert max(lengths) - min(lengths) <= 1
    covered = sorted((address, address + 4 * size) for address, *_, size in spans.tolist())
    whole = {a.ctypes.data: a.ctypes.data + a.nbytes for a in streams[0]}
    for low, high in covered:
        inside = [a for a in whole if a <= low < whole[a]]
        assert len(inside) == 1
        assert high <= whole[inside[0]]


def test_a_wrong_step_is_invalid():
    subject = CONTENDERS["numpy"].build("Adam", UNEVEN.random(0), UNEVEN.random(1), 1)

    def step():
        subject.step()
        subject.params[-1][12345] += 1e-5

    wrong = Subject(step, subject.params, subject.grads, subject.reference)
    with pytest.raises(worker.Invalid, match="times the tolerance"):
        worker.validate(wrong, UNEVEN)


def test_float32_is_invalid_where_float64_is_asked_for():
    wide = Workload("wide", UNEVEN.shapes, dtype="float64")
    subject = worker.build("numpy", wide, 1)

    def step():
        subject.step()
        for p in subject.params:
            p[...] = p.astype(np.float32)

    wrong = Subject(step, subject.params, subject.grads, subject.reference)
    with pytest.raises(worker.Invalid, match="times the tolerance"):
        worker.validate(wrong, wide)


def test_not_a_number_is_invalid():
    subject = CONTENDERS["numpy"].build("Adam", UNEVEN.random(0), UNEVEN.random(1), 1)
    subject.params[1][0, 0] = np.nan
    with pytest.raises(worker.Invalid):
        worker.validate(subject, UNEVEN)


@pytest.mark.slow
def test_nothing_is_left_out_where_data_repeats():
    long = Workload("long", ((2 * PERIOD + 5,),))
    subject = worker.build("cyoptim", long, 1)
    worker.validate(subject, long)
    assert subject.grads[0][PERIOD] == subject.grads[0][0]

    fresh = worker.build("cyoptim", long, 1)

    def step():
        fresh.step()
        fresh.params[0][-1] += 1e-5

    wrong = Subject(step, fresh.params, fresh.grads, fresh.reference)
    with pytest.raises(worker.Invalid, match="times the tolerance"):
        worker.validate(wrong, long)


def test_data_is_far_from_zero():
    for array in UNEVEN.random(3):
        assert array.dtype == np.float32
        assert np.abs(array).min() >= np.float32(1e-3)


@pytest.mark.parametrize("cost", [3e-7, 1e-4, 0.03, 1.0])
def test_calibration(monkeypatch, cost):
    monkeypatch.setattr(worker, "duration", lambda step, count: count * cost)
    assert worker.steps_within(lambda: None, 0.2) == max(1, round(0.2 / cost))


def test_a_stall_does_not_enter(monkeypatch):
    times = iter([9.0, 9.0, 1.0, 1.1, 50.0, 1.2, 60.0])  # the first two: counting, and warming up
    monkeypatch.setattr(worker, "duration", lambda step, count: count * next(times))
    monkeypatch.setattr(worker, "steps_within", lambda step, seconds: next(times) and 3)
    assert worker.time_round(lambda: None, 0) == {"step": pytest.approx(1.2), "repeats": 15}


@pytest.mark.slow
def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "numba.py").write_text("raise ModuleNotFoundError(\"No module named 'numba'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = Worker("numba", 1)
    result = prepared(found, named("1x100"))
    found.close()
    assert result.status == "missing"
    assert result.message == "No module named 'numba' (pip install numba)"


@pytest.mark.slow
def test_who_fails_does_not_stop_the_others():
    class Dying(Worker):
        """Its process ends in the second round."""

        def round(self, seconds):
            if self.result.rounds:
                self.process.kill()
                self.process.wait()
            super().round(seconds)

    def measure(*contenders):
        return runner.measure(
            [named("1x100"), named("100x100")],
            contenders,
            [1],
            Effort(rounds=2, seconds=0.01),
            progress=lambda message: None,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            runner, "Worker", lambda name, n: (Dying if name == "numpy" else Worker)(name, n)
        )
        results = measure("cyoptim", "numpy")
    assert [r.contender for r in results] == ["cyoptim", "numpy"] * 2
    assert [r.status for r in results] == ["ready", "failed"] * 2  # it was started again
    assert [len(r.rounds) for r in results] == [2, 0] * 2
    assert "exit status -9" in results[1].message


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(2.5e-7, "250 ns"), (3.456e-6, "3.46 us"), (0.01234, "12.3 ms"), (1.5, "1.50 s")],
)
def test_durations(seconds, shown):
    assert report.duration(seconds) == shown


def run_of(**times) -> report.Run:
    facts = {"command": "python -m bench", "threads": 2}
    rounds = {name.replace("_", "-"): values for name, values in times.items()}
    return report.Run(
        facts, [Result("1x100", name, "ready", "", 9, v) for name, v in rounds.items()]
    )


def test_tables_and_json(tmp_path):
    run = run_of(cyoptim=[2e-6, 3e-6, 4e-6], roof=[1e-6, 1e-6])
    run.results.append(Result("1x100", "numba", "missing", "No module named 'numba'"))
    run.save(tmp_path / "run.json")
    assert report.Run.load(tmp_path / "run.json") == run
    assert "| cyoptim | 2.00 us | 1.00 | 2.00 | 1.50 |" in adam.text(run, markdown=True)
    for shown in (adam.text(run, markdown=False), adam.text(run, markdown=True)):
        assert "the roof moves 3 GB/s" in shown
        assert "numba: missing: No module named 'numba'" in shown


def test_neither_luck_nor_most_disturbances_decide():
    assert Result("1x100", "roof", "ready", "", 9, [5, 1, 2, 3, 9, 9, 9, 9, 9, 9]).quartile == 3
    assert Result("1x100", "roof", "ready", "", 9, [5]).quartile == 5


def overview_of(optimizer, shapes, **times) -> list[Result]:
    workload = name_of(shapes, optimizer)
    return [
        Result(workload, name.replace("_", "-"), "ready", "", 9, [1e-3 * t for t in rounds])
        for name, rounds in times.items()
    ]


def test_table_of_all_optimizers():
    run = run_of()
    run.results += overview_of(
        "SGD",
        "1x16M",
        cyoptim=[9, 9, 2, 1, 9],
        torch_fused=[4, 4, 9, 4, 4],
        torch_default=[3] * 5,
        roof=[2] * 5,
    )
    run.results += overview_of("NAdam", "1x16M", cyoptim=[5], torch_default=[10], roof=[4])
    run.results.append(Result("NAdam:1x1M", "cyoptim", "invalid", "off by 3"))
    shown = optimizers.text(run, markdown=True)
    assert "| SGD | 2.00 ms | 1.00 | 1.50 (default) |  |" in shown
    assert "| NAdam | 5.00 ms | 1.25 | 2.00 (default) |  |" in shown
    assert "| at most 1.05 | 1.25 (NAdam) | NAdam |" in shown
    assert "| at least 3 | 2.00 (NAdam) | NAdam |" in shown
    assert "| 1,000 tensors of 1,000, source / cyoptim | at least 20 |  |  |" in shown
    assert "NAdam:1x1M cyoptim: invalid: off by 3" in shown
    assert "1.25 (NAdam)" in optimizers.text(run, markdown=False)


def asked(*words):
    """The names of the workloads that a command line asks for."""
    return [w.name for w in command_line.workloads(command_line.parser().parse_args(words), 2)]


def test_options_go_before_and_after_the_command():
    for words in (["--threads", "3", "optimizers"], ["optimizers", "--threads", "3"]):
        options = command_line.parser().parse_args(words)
        assert options.threads == 3
        assert options.rounds is None
        assert len(asked(*words)) == len(OPTIMIZERS) * len(OVERVIEW)
    again = "optimizers --threads 2 --quick --optimizer RAdam --dtype float64"
    assert asked(*again.split()) == [f"RAdam:{shapes}:float64" for shapes in OVERVIEW]
    options = command_line.parser().parse_args(again.split())
    assert command_line.words(options) == f"python -m bench {again}"
    assert asked() == list(ADAM)
    assert asked("denormals") == ["1x1M", "1x1M:zeros"]
    assert asked("roofs", "--optimizer", "SGD", "--workload", "1x16K", "--dtype", "float64") == [
        "SGD:1x16K:float64"
    ]
    for command in COMMANDS.values():
        assert set(command.contenders + command.where_unfused) <= set(CONTENDERS)


def test_names_of_workloads():
    for name in ("1x16M", "SGD:1x1M:float64", "1x1M:zeros", "300x1000"):
        assert named(name).name == name
        assert named(f"{name}@4") == named(name)
    assert named("Adam:1x16M").name == "1x16M"
    assert named("30x16K").elements == 30 * 16384
    assert size_named("1M") == 1_000_000
    assert size_named("64M") == 64 * 2**20
    for wrong in ("16M", "0x100", "1x", "1x0", "1x1.5M", "x100"):
        with pytest.raises(SystemExit):
            command_line.parser().parse_args(["--workload", wrong])


def test_memory_is_what_contenders_hold():
    sgd, wide = named("SGD:1x1M"), named("1x1M:float64")
    assert (sgd.memory, wide.memory) == (8_000_000, 32_000_000)
    few = command_line.workloads(command_line.parser().parse_args(["sizes"]), 6)
    many = command_line.workloads(command_line.parser().parse_args(["sizes"]), 60)
    assert named("1x64M") in few
    assert named("1x64M") not in many
    chosen = command_line.parser().parse_args(["sizes", "--workload", "1x64M"])
    assert named("1x64M") in command_line.workloads(chosen, 60)


def test_who_takes_long_is_left_out_of_a_quick_run(capsys):
    options = command_line.parser().parse_args(["--quick"])
    assert set(PEERS) - set(command_line.contenders(options)) == {"torch-compiled"}
    assert "leaves out torch-compiled" in capsys.readouterr().err
    assert set(command_line.contenders(command_line.parser().parse_args([]))) == set(PEERS)
    options = command_line.parser().parse_args(["--quick", "--only", "torch-compiled"])
    assert command_line.contenders(options) == ["torch-compiled"]


def test_sizes_of_an_optimizer_without_a_fused_kernel():
    assert "torch-default" not in sizes.COMMAND.names(["SGD", "Adam"])
    assert "torch-default" in sizes.COMMAND.names(["RMSprop"])


def test_far_from_the_roof():
    facts = {"command": "python -m bench roofs", "threads": 2}
    rounds = {
        "1x1M@1": ([2.0] * 5, [1.0] * 5),
        "1x1M@2": ([1.0, 2.0, 1.1, 0.9, 1.0], [1.0] * 5),
        "SGD:1x16K:float64@1": ([1.2] * 5, [1.0] * 5),
    }
    results = [
        Result(name, who, "ready", "", 9, values)
        for name, pair in rounds.items()
        for who, values in zip(("cyoptim", "roof"), pair, strict=True)
    ]
    shown = roofs.text(report.Run(facts, results), markdown=True)
    assert "| Adam | float32 | 1 | 2.00 s | 2.00 | 2.00 to 2.00 |" in shown
    assert "| Adam | float32 | 2 | 1.00 s | 1.00 | 1.00 to 1.10 |" in shown
    assert "| SGD | float64 | 1 | 1.20 s | 1.20 | 1.20 to 1.20 |" in shown
    late = "Adam float32 1,000,000"
    assert f"1 thread | at most 1.05 | 2.00 ({late}) | {late} | {late} |" in shown
    assert f"2 threads | at most 1.05 | 1.00 ({late}) | nobody | nobody |" in shown
    assert "1 thread | at most 1.3 | 1.20 (SGD float64 16,384) | nobody | nobody |" in shown


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_clipping_is_compared_with_the_norm_of_everything(name):
    peer(name)
    long = Workload("long", ((PERIOD + 1000,), (40, 50)))  # the reference steps a part of it
    subject = CONTENDERS[name].build("Adam", long.random(0), long.random(1), 2)
    worker.validate(subject, long)
    subject.step()
    zeroed = not any(g.any() for g in subject.owner)
    assert zeroed == (name in ("step-clip-zero", "calls", "calls-torch"))
    assert all(g.all() for g in subject.grads)  # and the next step gets these
    assert worker.duration(subject.step, 2) > 0


def test_gradients_become_zero():
    peer("numpy")
    idle = Workload("idle", ((7,), (20,)), zeros=1000)
    subject = worker.build("numpy", idle, 1)
    worker.prepare(subject, idle)
    assert not any(g.any() for g in subject.grads)
    before = [p.copy() for p in subject.params]
    subject.step()
    for p, old in zip(subject.params, before, strict=True):
        np.testing.assert_array_equal(p, old)  # the first moment is denormal, or zero


def test_thread_counts():
    assert scaling.thread_counts(1) == [1]
    assert scaling.thread_counts(2) == [1, 2]
    assert scaling.thread_counts(10) == [1, 2, 4, 8, 10]
    assert scaling.thread_counts(16) == [1, 2, 4, 8, 16]


def test_compare_reports_what_is_beyond_the_noise():
    before = run_of(cyoptim=[1.0, 1.0], numpy=[1.0, 1.2, 1.3], roof=[1.0, 1.0], numba=[1.0])
    after = run_of(cyoptim=[0.9, 0.9], numpy=[1.15, 1.2], roof=[1.01, 1.01], torch_fused=[1.0])
    assert report.compare(before, after).splitlines() == [
        "1x100 cyoptim: 1.00 s -> 900 ms, x 0.90 (noise 2%)",
        "1 of 3 results changed beyond the noise",
        "only in the first: 1x100 numba",
        "only in the second: 1x100 torch-fused",
    ]
    after.environment["threads"] = 4
    assert report.compare(before, after).startswith("threads: 2 -> 4\n")


def test_parts_of_a_command_are_joined():
    parts = [run_of(cyoptim=[1.0]), run_of(numpy=[2.0])]
    for part, name, load in zip(parts, ("Adam", "SGD"), (0.5, 2.0), strict=True):
        words = f"python -m bench optimizers --threads 2 --optimizer {name}"
        part.environment |= {"command": words, "load before": load}
    whole = report.Run.joined(parts)
    assert whole.environment["command"] == "python -m bench optimizers --threads 2, in 2 parts"
    assert whole.environment["load before"] == 2.0
    assert [result.contender for result in whole.results] == ["cyoptim", "numpy"]
    assert report.Run.joined(parts[:1]) == parts[0]
    parts[1].environment["threads"] = 4
    with pytest.raises(ValueError, match=r"differ in threads \(2, 4\)"):
        report.Run.joined(parts)
    parts[1].environment |= {"threads": 2, "command": "python -m bench sizes --threads 2"}
    with pytest.raises(ValueError, match="not of optimizers and sizes"):
        report.Run.joined(parts)
    with pytest.raises(ValueError, match=r"leave out all but one: \['1x100 cyoptim'\]"):
        report.Run.joined([parts[0], parts[0]])
