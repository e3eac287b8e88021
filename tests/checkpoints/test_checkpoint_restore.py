"""Restoring objects from a checkpoint: all in place, or none is changed."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict

import numpy as np
import pytest

import cyoptim
from tests.support.saved_objects import Average, Prepared, Scheduler, Unsaveable, contents, same

# All or nothing: restoring ---------------------------------------------------


def restorable():
    """One of each kind, with the values (9, 99) that SAVED does not have."""
    return {
        "array": np.full((2, 3), 9.0),
        "parameter": cyoptim.Parameter(np.full(3, 9, np.float32)),
        "nested": {"a": [np.full(2, 9), 99], "b": (np.full((), 9.0),), 0: "99"},
        "scheduler": Scheduler(99),
        "optimizer": Prepared(99),
    }


SAVED = {
    "array": np.arange(6.0).reshape(2, 3),
    "parameter": np.arange(3, dtype=np.float32),
    "nested": {"a": [np.arange(2), 3], "b": (np.array(1.5),), 0: "text"},
    "scheduler": {"epoch": 3, "seen": [1, 2, 3]},
    "optimizer": {"epoch": 4, "seen": [4]},
}


def test_everything_is_restored_in_place(path):
    cyoptim.save(path, **SAVED, extra=[1])
    targets = restorable()
    memory = [targets["array"], targets["parameter"].data, targets["nested"]["a"][0]]
    saved = cyoptim.load(path, **targets)
    assert same(saved, {**SAVED, "extra": [1]})
    assert contents(targets) == contents(SAVED)
    assert targets["array"] is memory[0]
    assert targets["parameter"].data is memory[1]
    assert targets["nested"]["a"][0] is memory[2]
    assert not any(np.shares_memory(saved["array"], array) for array in memory)
    saved["scheduler"]["seen"].append(7)
    assert targets["scheduler"].seen == [1, 2, 3]


def test_the_loaded_dict_shares_nothing_with_what_was_restored(path):
    values = [np.ones((2, 3), order="F"), 3, (0.9, 0.999), Counter({3: 1}), OrderedDict(a=None)]
    cyoptim.save(path, average=Average(*values))
    average = Average()
    saved = cyoptim.load(path, average=average)
    assert same(average.values, values)
    assert not np.shares_memory(average.values[0], saved["average"]["values"][0])
    assert average.values is not saved["average"]["values"]


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_an_array_of_another_layout_is_restored(path, layout):
    W = {
        "C": np.zeros((2, 3)),
        "F": np.zeros((2, 3), order="F"),
        "strided": np.zeros((4, 6))[::2, ::-2],
    }[layout]
    cyoptim.save(path, W=np.asfortranarray(SAVED["array"]))
    cyoptim.load(path, W=W)
    assert np.array_equal(W, SAVED["array"])


def test_a_list_restores_a_tuple(path):
    W, b = np.zeros((2, 3)), np.zeros(1)
    cyoptim.save(path, params=[np.ones((2, 3)), np.ones(1)])
    cyoptim.load(path, params=(W, b))
    assert W.all()
    assert b.all()


def read_only(array):
    array.flags.writeable = False
    return array


MISFITS = {
    "shape": (
        {"array": np.zeros((3, 2))},
        r"array: found an array of dtype float64 and shape \(2, 3\), "
        r"expected an array of dtype float64 and shape \(3, 2\)",
    ),
    "dtype": ({"array": np.zeros((2, 3), "f4")}, "found .* float64 .*expected .* float32"),
    "byte order": ({"array": np.zeros((2, 3), ">f8")}, "expected an array of dtype >f8"),
    "parameter": (
        {"parameter": cyoptim.Parameter(np.zeros(4, np.float32))},
        r"parameter: found .* shape \(3,\), expected .* shape \(4,\)",
    ),
    "array for a dict": ({"nested": np.zeros(2)}, "nested: found a dict with the keys 'a', 'b', 0"),
    "dict for an array": (
        {"array": {}},
        "found an array .*, expected a dict with the keys nothing",
    ),
    "list for a dict": ({"nested": [1, 2, 3]}, "found a dict .* expected a list of length 3"),
    "value for an array": (
        {"nested": {"a": [np.zeros(2, int), np.zeros(2)], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]\[1\]: found a value of type int, expected an array",
    ),
    "array for a value": (
        {"nested": {"a": [0, 0], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]\[0\]: found an array .*, expected a value of type int",
    ),
    "keys": (
        {"nested": {"a": [np.zeros(2, int), 0]}},
        r"differs in 2 places.*unexpected +nested\['b'\] +tuple of 1 +-\n +unexpected +nested\[0\]",
    ),
    "one key": (
        {"nested": {"a": [np.zeros(2, int), 0], "b": (np.zeros(()),), 0: "", "c": np.zeros(3)}},
        r"nested\['c'\] is missing from the file, expected float64 \(3,\)$",
    ),
    "length": (
        {"nested": {"a": [np.zeros(2)], "b": (np.zeros(()),), 0: ""}},
        r"nested\['a'\]: found a list of length 2, expected a list of length 1",
    ),
    "read-only": ({"array": read_only(np.zeros((2, 3)))}, "array is read-only"),
    "overlapping": (
        {"array": np.lib.stride_tricks.as_strided(np.zeros(3), (2, 3), (0, 8))},
        "array is a view whose elements overlap",
    ),
    "unknown": ({"model": np.zeros(2)}, "has no 'model'; it holds 'array', 'parameter', 'nested'"),
    "prepare": (
        {"optimizer": Prepared(99, fails=KeyError("betas"))},
        "optimizer refuses the saved state: 'betas'",
    ),
    "load_state_dict": (
        {"optimizer": Scheduler(99, fails=RuntimeError("no such layer"))},
        "optimizer refuses the saved state: no such layer",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_a_misfit_changes_nothing(path, case):
    change, message = MISFITS[case]
    cyoptim.save(path, **SAVED)
    targets = {**restorable(), **change}
    before = contents(targets)
    with pytest.raises(ValueError, match=re.compile(message, re.S)) as caught:
        cyoptim.load(path, **targets)
    assert not isinstance(caught.value, cyoptim.CheckpointError)
    assert contents(targets) == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (0, "^number: int cannot be restored in place; take it from the dict that load returns"),
        (np.float64(1), "^number: numpy.float64 cannot be restored"),
        ((0,), r"^number\[0\]: int cannot be restored"),
        (Unsaveable(), "^number: .*Unsaveable cannot be restored"),
        (Scheduler, "^number: type cannot be restored"),
    ],
)
def test_what_cannot_be_restored_in_place(path, target, message):
    cyoptim.save(path, number=[3] if isinstance(target, tuple) else 3, W=np.ones(2))
    W = np.zeros(2)
    with pytest.raises(TypeError, match=message):
        cyoptim.load(path, W=W, number=target)
    assert not W.any()


def test_an_interrupt_while_restoring_is_undone(path):
    cyoptim.save(path, **SAVED)
    targets = {**restorable(), "optimizer": Scheduler(99, fails=KeyboardInterrupt())}
    before = contents(targets)
    with pytest.raises(KeyboardInterrupt):
        cyoptim.load(path, **targets)
    assert contents(targets) == before


# torch -----------------------------------------------------------------------


def test_tensors_are_saved_as_arrays_and_restored_in_place(path):
    torch = pytest.importorskip("torch")
    tensors = {
        "leaf": torch.arange(6.0).reshape(2, 3).requires_grad_(),
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "integers": torch.arange(3),
        "step": torch.tensor(3.0),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "empty": torch.zeros(0, 2, dtype=torch.float16),
    }
    cyoptim.save(path, tensors=tensors)
    targets = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    targets["leaf"].requires_grad_()
    version = targets["leaf"]._version
    saved = cyoptim.load(path, tensors=targets)["tensors"]
    for name, tensor in tensors.items():
        assert type(saved[name]) is np.ndarray
        assert saved[name].dtype == tensor.detach().resolve_conj().numpy().dtype
        assert torch.equal(targets[name], tensor)
    assert targets["leaf"]._version > version
    assert targets["leaf"].is_leaf


def test_a_state_gets_its_tensors_back_as_tensors(path):
    torch = pytest.importorskip("torch")
    cyoptim.save(path, average=Average(torch.ones(3), np.ones(2), (torch.tensor(1),)))
    average = Average()
    saved = cyoptim.load(path, average=average)["average"]["values"]
    tensor, array, (step,) = average.values
    assert torch.equal(tensor, torch.ones(3))
    assert torch.equal(step, torch.tensor(1))
    assert same(array, np.ones(2))
    assert [type(value) for value in saved] == [np.ndarray, np.ndarray, tuple]
    tensor.zero_()
    assert saved[0].all()


def test_torch_goes_on_from_the_state_of_an_optimizer_of_arrays(path):
    torch = pytest.importorskip("torch")
    x, state = torch.ones(2), {0: {"step": 1, "square_avg": np.ones(2, np.float32)}}
    theirs = torch.optim.RMSprop([x])
    groups = theirs.state_dict()["param_groups"]
    cyoptim.save(path, optimizer={"state": state, "param_groups": groups})
    cyoptim.load(path, optimizer=theirs)
    assert torch.equal(theirs.state[x]["square_avg"], torch.ones(2))


def test_tensors_without_an_array_are_refused(path):
    torch = pytest.importorskip("torch")
    for tensor, message in [
        (
            torch.zeros(2).to(torch.float8_e5m2),
            r"^W\[0\]: a tensor of torch.float8_e5m2 has no arra",
        ),
        (torch.zeros(2, device="meta"), r"^W\[0\]: .*found torch.strided on meta"),
        (torch.eye(2).to_sparse(), r"^W\[0\]: .*found torch.sparse_coo on cpu"),
    ]:
        with pytest.raises(TypeError, match=message):
            cyoptim.save(path, W=[tensor])
    assert not path.exists()


def test_tensors_that_cannot_be_changed_are_refused(path):
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        frozen = torch.zeros(2)
    cyoptim.save(path, W=np.ones(2, np.float32), V=np.ones(2, np.float32))
    for target in (frozen, torch.zeros(1).expand(2), torch.zeros(3), torch.zeros(2).double()):
        V = np.zeros(2, np.float32)
        with pytest.raises(ValueError, match=r"\bW\b"):
            cyoptim.load(path, V=V, W=target)
        assert not V.any()


@pytest.mark.slow
def test_torch_modules_optimizers_and_schedulers_continue(path):
    torch = pytest.importorskip("torch")
    x = torch.linspace(-1, 1, 12).reshape(4, 3)

    def build(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1, amsgrad=True)
        return {
            "model": model,
            "optimizer": optimizer,
            "scheduler": torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 2, 5]),
        }

    def train(model, optimizer, scheduler):
        for _ in range(4):
            optimizer.zero_grad()
            model(x).pow(2).sum().backward()
            optimizer.step()
            scheduler.step()
        return [value.clone() for value in model.state_dict().values()]

    straight, resumed = build(1), build(2)
    train(**straight)
    cyoptim.save(path, **straight)
    cyoptim.load(path, **resumed)
    for a, b in zip(train(**straight), train(**resumed), strict=True):
        assert torch.equal(a, b)
    assert resumed["scheduler"].state_dict() == straight["scheduler"].state_dict()

    misfit = build(3) | {"model": torch.nn.Linear(3, 4)}
    before = contents(misfit)
    with pytest.raises(ValueError, match=r"missing +model\['weight'\] +- +float32 \(4, 3\)"):
        cyoptim.load(path, **misfit)
    assert contents(misfit) == before


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_array_in_a_file_is_saved_and_restored(tmp_path, suffix):
    W = np.memmap(tmp_path / "W", "f4", "w+", shape=(3,))
    W[:] = [1, 2, 3]
    cyoptim.save(tmp_path / f"run{suffix}", W=W)
    W[:] = 0
    assert type(cyoptim.load(tmp_path / f"run{suffix}", W=W)["W"]) is np.ndarray
    assert W.tolist() == [1, 2, 3]


def test_a_plain_value_takes_the_place_of_one_of_another_type(path):
    cyoptim.save(path, options={"best": 0.5, "note": None, "seed": 7})
    options = {"best": None, "note": "x", "seed": 1.5}
    cyoptim.load(path, options=options)
    assert options == {"best": 0.5, "note": None, "seed": 7}


def test_a_tuple_may_have_an_empty_place(path):
    cyoptim.save(path, params=(np.ones(2), None))
    W = np.zeros(2)
    cyoptim.load(path, params=(W, None))
    assert W.tolist() == [1, 1]
    cyoptim.save(path, params=(W, 3))
    with pytest.raises(TypeError, match=r"params\[1\]: NoneType cannot be restored in place"):
        cyoptim.load(path, params=(W, None))
