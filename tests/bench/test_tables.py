"""The tables and charts of sizes and of scaling, and the pages that stored results make."""

from __future__ import annotations

import os
import re

import pytest

from bench import __main__ as command_line
from bench import readme, report
from bench.runner import Result
from bench.tables import scaling, sizes, verdict
from bench.workloads import MOST_JOINED, named

FACTS = {"command": "python -m bench sizes --threads 2", "threads": 2, "cpu": "C", "cyoptim": "1"}


def run_of(*results) -> report.Run:
    return report.Run(FACTS, list(results))


def timed(workload, contender, rounds, means=()) -> Result:
    return Result(workload, contender, "ready", "", 9, list(rounds), list(means))


def sizes_run() -> report.Run:
    found = []
    for name in ("1x1000", "1x64K", "10x100", "100x100", "Lamb-unclipped:1x1000"):
        found += [timed(name, "cyoptim", [2.0] * 5), timed(name, "roof", [1.0] * 5)]
        found.append(timed(name, "numba", [1.0] * 5))
        found += [timed(f"{name}:openblas", "cyoptim", [1.0] * 5, [3.0] * 5)]
        found += [timed(f"{name}:openblas", "cyoptim-1", [1.0] * 5, [4.0] * 5)]
        found.append(Result(name, "cyoptim-openmp", "unavailable", "no such layer"))
    return run_of(*found)


def test_verdict_names_the_best_rival_and_what_is_missed():
    noisy = [1.0, 1.1, 0.9, 1.0, 1.0]
    run = run_of(
        timed("1x64K", "cyoptim", [1.1] * 5),
        timed("1x64K", "cyoptim-1", [1.0] * 5),
        timed("1x64K", "cyoptim-all", [1.5] * 5),
        timed("1x1M", "cyoptim", [1.04, 1.0, 1.03, 1.0, 1.04]),
        timed("1x1M", "numba", noisy),
        timed("1x4M", "cyoptim", [1.0] * 5),
        timed("1x4M", "numpy", [0.5] * 5),  # no rival
    )
    found = verdict.cells(run, "loop", "median")
    assert {w.name: (c.rival, c.surely) for w, c in found.items()} == {
        "1x64K": ("cyoptim-1", True),
        "1x1M": ("numba", False),
    }
    text = "\n".join(verdict.text(run, markdown=True))
    assert "| one tensor of 65,536 | 1.10 (cyoptim-1) ! |" in text
    assert "| one tensor of 1,000,000 | 1.00 (numba) |" in text
    assert "| in a loop, median | at most 1.02 | 1.10 (1x64K) | 1x64K | 1 of 2: 1x64K |" in text
    assert verdict.text(run_of(timed("1x64K", "cyoptim", [1.0])), markdown=True) == []


def test_verdict_of_products_has_the_mean_too():
    text = "\n".join(verdict.summary(sizes_run(), markdown=True))
    many = "1x1000, 1x64K, 10x100, 100x100, Lamb-unclipped:1x1000"
    assert f"| in a loop, median | at most 1.02 | 2.00 (1x1000) | {many} | 5 of 5: {many} |" in text
    assert "| between products of NumPy, median | at most 1.02 | 1.00 (1x1000) | nobody |" in text
    assert "| between products of NumPy, mean | at most 1.02 | 0.75 (1x1000) | nobody |" in text
    assert "in a loop, mean" not in text


def test_sizes_by_context():
    text = sizes.text(sizes_run(), markdown=True)
    assert "**Adam, float32, one tensor**\n\n| elements | cyoptim | numba | roof |" in text
    mean = "**Adam, float32, between products of NumPy, one tensor, mean**"
    assert f"{mean}\n\n| elements | cyoptim | cyoptim-1 |" in text
    assert "| 65,536 | 3.00 s | 4.00 s |" in text
    assert "1x1000 and 4 others, cyoptim-openmp: unavailable: no such layer" in text


def scaling_run() -> report.Run:
    found = []
    for name in ("1x1M", "norm:1x1M"):
        for count, time in ((1, 1.0), (2, 0.5)):
            found.append(timed(f"{name}@{count}", "cyoptim-pool", [2e-3 * time**0.5]))
            found.append(timed(f"{name}@{count}", "roof", [1e-3 * time]))
    return run_of(*found)


def test_scaling_has_the_share_of_the_roof():
    text = scaling.text(scaling_run(), markdown=True)
    columns = "GB/s | x 1 thread | of the roof"
    assert f"| threads | cyoptim-pool | {columns} | roof | {columns} |" in text
    adam, norm = text.split("**norm, one tensor of 1,000,000 float32**")
    assert "| 1 | 2.00 ms | 14 | 1.00 | 50% | 1.00 ms | 28 | 1.00 | 100% |" in adam
    assert "| 2 | 1.41 ms | 20 | 1.41 | 35% | 500 us | 56 | 2.00 | 100% |" in adam
    assert "| 1 | 2.00 ms | 2 | 1.00 | 50% | 1.00 ms | 4 | 1.00 | 100% |" in norm


def test_charts(tmp_path):
    pytest.importorskip("matplotlib")
    from bench import curves

    curves.draw_sizes(sizes_run(), tmp_path / "sizes.png")
    curves.draw_scaling(scaling_run(), tmp_path / "scaling.png")
    one = [r for r in scaling_run().results if r.workload.startswith("norm")]
    curves.draw_scaling(run_of(*one), tmp_path / "one.png")
    names = {"sizes-loop", "sizes-openblas", "scaling-Adam", "scaling-norm", "one"}
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in names}
    assert all(os.path.getsize(path) > 5_000 for path in tmp_path.iterdir())
    with pytest.raises(SystemExit, match="two sizes"):
        curves.draw_sizes(run_of(timed("1x1000", "roof", [1.0])), tmp_path / "x.png")


def test_whole_tensors_are_referenced_up_to_a_size(capsys):
    options = command_line.parser().parse_args(["scaling", "--threads", "2"])
    found = command_line.workloads(options, 5)
    assert named("1x64M") in found
    assert named("norm:1x64M") in found
    assert max(w.elements for w in found if w.optimizer == "Lamb-unclipped") == MOST_JOINED
    assert "Lamb-unclipped:1x64M" in capsys.readouterr().err
    words = ["scaling", "--optimizer", "Lamb-unclipped", "--workload", "1x64M"]
    found = command_line.workloads(command_line.parser().parse_args(words), 5)
    assert [w.name for w in found] == ["Lamb-unclipped:1x64M"]


def test_contexts_are_chosen_on_the_command_line():
    words = "sizes --threads 2 --workload 1x100 --optimizer Adam --context torch"
    options = command_line.parser().parse_args(words.split())
    assert [w.name for w in command_line.workloads(options, 5)] == ["1x100:torch"]
    assert command_line.words(options) == f"python -m bench {words}"
    with pytest.raises(SystemExit):  # it would print one table of both
        command_line.parser().parse_args(["roofs", "--context", "torch"])


@pytest.mark.parametrize("page", readme.PAGES, ids=lambda page: page.parent.name + page.name)
def test_pages_show_the_stored_results(page):
    text = page.read_text()
    assert "<!-- begin" in text
    assert readme.renewed(text) == text, "run: python -m bench readme"


def test_pages_follow_the_results(tmp_path, monkeypatch):
    page = tmp_path / "README.md"
    page.write_text((readme.ROOT / "README.md").read_text())
    for name in ("adam", "optimizers"):
        text = (readme.RESULTS / f"{name}.json").read_text()
        (tmp_path / f"{name}.json").write_text(re.sub(r'"cpu": "[^"]*"', '"cpu": "Z80"', text))
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    readme.write((page,))
    changed = page.read_text()
    assert "threads, Z80 with" in changed
    assert readme.renewed(changed) == changed
    unknown = "<!-- begin scaling: python -m bench readme -->\nby hand\n<!-- end scaling -->"
    assert readme.renewed(unknown) == unknown  # there are no results of it
