"""Checkpoints that earlier versions wrote are read, and go on as they would have."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest

import cyoptim
from tests.support.paths import GOLDEN, ROOT

FILES = sorted(
    path for path in GOLDEN.glob("checkpoint-*") if path.suffix in (".npz", ".safetensors")
)
spec = importlib.util.spec_from_file_location("maker", ROOT / "tools" / "make_checkpoint_golden.py")
maker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(maker)


def expected(path):
    return json.loads(path.with_suffix(".json").read_text())


def test_there_is_one_of_each_format():
    assert {"checkpoint-0.1.0.npz", "checkpoint-0.1.0.safetensors"} <= {p.name for p in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_value_is_read(path):
    # json, too, keeps every bit of a float.
    assert maker.plainly(cyoptim.load(path)) == expected(path)["saved"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_run_goes_on(path):
    run = maker.make(start=9.0)
    saved = cyoptim.load(path, **run)
    assert maker.plainly(run["params"]) == expected(path)["saved"]["params"]
    maker.train(run, 3)
    found, later = maker.arrays_of(run), expected(path)["later"]
    assert found.keys() == later.keys()
    for name, array in later.items():
        # The gradients' noise is NumPy's, which may round otherwise in another version.
        np.testing.assert_allclose(found[name], array["values"], rtol=1e-6, atol=1e-7)
    assert saved["betas"] == (0.9, None)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_arrays_are_there_for_others(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        prefix = "params/"
    else:
        arrays = pytest.importorskip("safetensors.numpy").load_file(path)
        prefix = ""
    for name, array in expected(path)["saved"]["params"].items():
        assert arrays[prefix + name].tolist() == array["values"]
