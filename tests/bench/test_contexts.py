"""What comes before a step: it is the real thing, and it is not timed."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest

from bench import contexts, own, worker
from bench import report as reports
from bench.contenders import CONTENDERS
from bench.contexts import CONTEXTS
from bench.roof import Unavailable
from bench.subject import Preceded, Subject
from bench.workloads import named


def test_names_of_contexts():
    for name in ("1x64K:openblas", "SGD:1x1M:float64:torch"):
        assert named(name).name == name
        assert named(name).context == name.rpartition(":")[2]
    assert named("1x64K").context == "loop"
    assert named("1x64K:loop").name == "1x64K"


@pytest.mark.parametrize("name", ["openblas", "torch"])
def test_a_product_is_computed(name):
    if name == "torch":
        pytest.importorskip("torch")
    try:
        product = CONTEXTS[name].product(1)
    except Unavailable as error:
        pytest.skip(str(error))
    x, w = contexts._factors()
    np.testing.assert_allclose(np.asarray(product()), x @ w, rtol=1e-3, atol=1e-3)


def test_a_numpy_without_openblas_is_named(monkeypatch):
    found = {"Build Dependencies": {"blas": {"name": "accelerate"}}}
    monkeypatch.setattr(np, "show_config", lambda mode: found)
    _, reply = worker.attempt(lambda: worker.build("numpy", named("1x10:openblas"), 1), "built")
    assert reply["status"] == "unavailable"
    assert "accelerate" in reply["message"]


def test_only_the_step_is_timed():
    calls = []

    def product():
        calls.append("product")
        time.sleep(0.02)

    def subject(step):
        return Subject(step, [], [], None).after(product).step

    def step():
        calls.append("step")

    alone = subject(step)
    assert worker.duration(alone, 1) < 0.01
    loaded = subject(Preceded(step, lambda: calls.append("load")))
    assert worker.duration(loaded, 1) < 0.01
    loaded()
    assert calls == ["product", "step", *["load", "product", "step"] * 2]


def test_stalls_show_in_the_mean(monkeypatch):
    times = iter([0.0, 1.0, 1.0, 1.0, 1.0, 6.0])  # the first one: warming up
    monkeypatch.setattr(worker, "duration", lambda step, count: next(times))
    found = worker.time_round(Preceded(lambda: None, lambda: None), 0)
    assert found == {"step": 1.0, "mean": 2.0, "repeats": 5}


def test_a_step_between_products_is_validated():
    step = CONTENDERS["numpy"].build("SGD", *(named("1x10").random(i) for i in (0, 1)), 1)
    called = []
    after = step.after(lambda: called.append(1))
    worker.validate(after, named("SGD:1x10"))
    assert len(called) == worker.STEPS


def test_whole_references_take_fewer_steps():
    def steps(name):
        called = []
        workload = named(name)
        subject = worker.build("cyoptim", workload, 1)
        worker.validate(subject.after(lambda: called.append(1)), workload)
        return len(called)

    assert steps("Lamb:1x1K") == worker.STEPS
    assert steps("Lamb:2x1M") == worker.WHOLE_STEPS  # 2,000,000, and a period is less


def test_means_are_stored(tmp_path):
    result = reports.Result("1x10:openblas", "roof", "ready", "", 9, [1.23456789], [2.0])
    run = reports.Run({"command": "python -m bench sizes --threads 2", "threads": 2}, [result])
    run.save(tmp_path / "run.json")
    loaded = reports.Run.load(tmp_path / "run.json")
    assert (loaded.results[0].rounds, loaded.results[0].means) == ([1.2346], [2.0])
    assert loaded.command == "sizes"
    assert len((tmp_path / "run.json").read_text().splitlines()) == 7


class Package:
    """cyoptim with threading layers, of which the machine has one."""

    def __init__(self, real):
        self.chosen = []
        self.Parameter, self.Adam = real.Parameter, real.Adam
        self.set_num_threads = real.set_num_threads

    def set_threading_layer(self, name):
        if name != "pool":
            raise ValueError(f"no layer {name}")
        self.chosen.append(name)


def built(name):
    arrays = named("1x10").random(0), named("1x10").random(1)
    return worker.attempt(lambda: CONTENDERS[name].build("Adam", *arrays, 1), "built")[1]


def test_threading_layers(monkeypatch):
    import cyoptim

    package = Package(cyoptim)
    monkeypatch.setitem(sys.modules, "cyoptim", package)
    assert built("cyoptim-pool")["status"] == "built"
    assert package.chosen == ["pool"]
    assert built("cyoptim-openmp") == {"status": "unavailable", "message": "no layer openmp"}
    monkeypatch.delattr(Package, "set_threading_layer")
    assert built("cyoptim-pool")["status"] == "built"
    assert "threading layer openmp" in built("cyoptim-openmp")["message"]


def test_all_threads_are_forced(monkeypatch):
    from cyoptim import _engine

    asked = []
    monkeypatch.setattr(_engine, "take_all_threads", asked.append)
    assert built("cyoptim-all")["status"] == "built"
    assert asked == [True]


def test_one_thread():
    import cyoptim

    arrays = named("1x10").random(0), named("1x10").random(1)
    own.build_one_thread("Adam", *arrays, 4)
    assert cyoptim.get_num_threads() == 1
