"""Numbered checkpoints: which are kept, which is loaded, and what a killed save leaves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import series
from tests.checkpoints.test_checkpoint import train, training
from tests.support.saved_objects import same, temporaries


def numbers(checkpoints):
    return [path.name.removeprefix("checkpoint-") for path in checkpoints.paths()]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_run_goes_on_from_the_newest(tmp_path, suffix):
    checkpoints = cyoptim.Checkpoints(tmp_path / "run", suffix=suffix)
    straight, resumed = training(1), training(2)
    for epoch in range(5):
        train(**straight, steps=2)
        path = checkpoints.save(epoch, **straight, epoch=epoch)
        assert path == checkpoints.latest()
    other = cyoptim.Checkpoints(str(tmp_path / "run"))
    assert other.load(**resumed)["epoch"] == 4
    assert train(**resumed) == train(**straight)
    assert other.steps() == [2, 3, 4]
    assert numbers(other) == [f"0000000{i}{suffix}" for i in (2, 3, 4)]
    assert other.load(step=3)["epoch"] == 3


def test_nothing_is_there_at_first(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path / "a" / "b")
    assert checkpoints.latest() is None
    assert (checkpoints.paths(), checkpoints.steps()) == ([], [])
    with pytest.raises(FileNotFoundError, match="b has no checkpoint; it holds none"):
        checkpoints.load()
    assert os.listdir(tmp_path) == []
    checkpoints.save(0, a=1)
    assert checkpoints.latest() == tmp_path / "a" / "b" / "checkpoint-00000000.npz"
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of step 7; it holds steps \[0\]"):
        checkpoints.load(step=7)


@pytest.mark.parametrize(
    ("keep", "left"), [(1, [9]), (3, [7, 8, 9]), (None, list(range(10))), (99, list(range(10)))]
)
def test_the_newest_are_kept(tmp_path, keep, left):
    checkpoints = cyoptim.Checkpoints(tmp_path, keep)
    for step in range(10):
        checkpoints.save(np.int64(step), step=step)
    assert checkpoints.steps() == left
    assert all(checkpoints.load(step=step)["step"] == step for step in left)


def test_fewer_are_kept_from_now_on(tmp_path):
    for step in range(5):
        cyoptim.Checkpoints(tmp_path, None).save(step, a=1)
    cyoptim.Checkpoints(tmp_path, 2).save(5, a=1)
    assert cyoptim.Checkpoints(tmp_path).steps() == [4, 5]


def test_steps_are_ordered_as_numbers(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path, 3)
    for step in (5, 99_999_999, 100_000_000, 12_345_678_901):
        checkpoints.save(step, a=step)
    assert checkpoints.steps() == [99_999_999, 100_000_000, 12_345_678_901]
    assert checkpoints.load() == {"a": 12_345_678_901}


def test_other_files_are_left_alone(tmp_path):
    others = ["checkpoint-1.npz", "checkpoint-000000001.npz", "best.npz", "checkpoint-00000001.txt"]
    for name in others:
        (tmp_path / name).touch()
    (tmp_path / "checkpoint-00000000.npz").write_bytes(b"damaged, and too old to matter")
    checkpoints = cyoptim.Checkpoints(tmp_path, 1)
    checkpoints.save(2, a=1)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, "checkpoint-00000002.npz"])


def test_an_older_one_goes_only_when_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    checkpoints, calls = cyoptim.Checkpoints(tmp_path, 1), []
    checkpoints.save(1, a=1)
    for module, name in ((os, "fsync"), (os, "replace"), (Path, "unlink")):
        original = getattr(module, name)

        def spy(*args, _name=name, _original=original, **kwargs):
            calls.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    checkpoints.save(2, a=2)
    folder = [] if os.name == "nt" else ["fsync"]
    assert calls == ["fsync", "replace", *folder, "unlink"]


def test_a_failed_save_deletes_nothing(tmp_path, monkeypatch):
    checkpoints = cyoptim.Checkpoints(tmp_path, 1)
    checkpoints.save(1, a=1)
    with pytest.raises(TypeError, match="cannot save an object"):
        checkpoints.save(2, a=object())

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(2, a=1)
    assert os.listdir(tmp_path) == ["checkpoint-00000001.npz"]


def test_a_file_that_cannot_be_deleted_is_no_failure(tmp_path, monkeypatch):
    checkpoints = cyoptim.Checkpoints(tmp_path, 1)
    checkpoints.save(1, a=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda path: (_ for _ in ()).throw(PermissionError(13, "no")))
        checkpoints.save(2, a=1)
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(3, a=1)
    assert checkpoints.steps() == [3]


def test_the_temporary_of_a_killed_save_goes_with_the_next(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    checkpoints.save(1, a=1)
    (tmp_path / ".cyoptim-0123456789abcdef.tmp").write_bytes(b"left by a killed save")
    assert checkpoints.steps() == [1]
    checkpoints.save(2, a=1)
    assert temporaries(tmp_path) == []


def test_the_newest_can_be_saved_again_and_no_earlier_one(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path, 2)
    for step in (1, 2, 2):
        checkpoints.save(step, a=step)
    with pytest.raises(ValueError, match=r"step 1 is before .*checkpoint-00000002\.npz: to go on "):
        checkpoints.save(1, a=1)
    assert checkpoints.steps() == [1, 2]


def test_the_format_may_change_within_a_run(tmp_path):
    cyoptim.Checkpoints(tmp_path).save(1, a=1)
    other = cyoptim.Checkpoints(tmp_path, 2, suffix=".safetensors")
    assert other.load() == {"a": 1}
    other.save(1, a=2)
    assert numbers(other) == ["00000001.safetensors"]
    other.save(2, a=3)
    assert cyoptim.Checkpoints(tmp_path).load() == {"a": 3}
    assert cyoptim.Checkpoints(tmp_path).load(step=1) == {"a": 2}


def test_load_takes_what_cyoptim_load_takes(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    checkpoints.save(1, params={"V": np.ones(2), "b": np.ones(3)})
    params = {"W": np.zeros(2, "f4"), "c": np.zeros(1)}
    result = checkpoints.load(params=params, strict=False, rename={"V": "W"}, convert=True)
    assert result.loaded == ["params['W']"]
    assert same(params["W"], np.ones(2, "f4"))


def test_damage_of_the_newest_is_told(tmp_path):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    checkpoints.save(1, a=1)
    checkpoints.save(2, a=2).write_bytes(b"")
    with pytest.raises(cyoptim.CheckpointError, match="00000002.npz: not a checkpoint: it is empt"):
        checkpoints.load()
    assert checkpoints.load(step=1) == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"keep": 0}, ValueError, "keep must be at least 1, found 0"),
        ({"keep": 2.5}, TypeError, "keep must be a whole number, found float"),
        ({"keep": True}, TypeError, "keep must be a whole number, found bool"),
        ({"suffix": "npz"}, ValueError, r"suffix must be '\.npz' or '\.safetensors', found 'npz'"),
    ],
)
def test_bad_arguments(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        cyoptim.Checkpoints(tmp_path, **arguments)


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, ValueError, "step must be at least 0, found -1"),
        ("1", TypeError, "step must be a whole number, found str"),
        (True, TypeError, "step must be a whole number, found bool"),
    ],
)
def test_bad_steps(tmp_path, step, error, message):
    checkpoints = cyoptim.Checkpoints(tmp_path)
    with pytest.raises(error, match=message):
        checkpoints.save(step, a=1)
    with pytest.raises(error, match=message):
        checkpoints.load(step=step)
    assert os.listdir(tmp_path) == []


def test_it_shows_what_it_is():
    text = repr(cyoptim.Checkpoints("runs", keep=None))
    assert text == "Checkpoints('runs', keep=None, suffix='.npz')"
    assert cyoptim.Checkpoints is series.Checkpoints is cyoptim.checkpoint.Checkpoints


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_of_two_formats_at_one_step_the_own_is_loaded(tmp_path, suffix):
    # As a save that was killed before it deleted the older format leaves them.
    cyoptim.save(tmp_path / "checkpoint-00000001.npz", a=".npz")
    cyoptim.save(tmp_path / "checkpoint-00000001.safetensors", a=".safetensors")
    checkpoints = cyoptim.Checkpoints(tmp_path, suffix=suffix)
    assert checkpoints.load()["a"] == checkpoints.load(step=1)["a"] == suffix


@pytest.mark.skipif(os.name == "nt", reason="folders are not synced on Windows")
def test_every_new_folder_is_on_the_disk_before_the_file(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def spy(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    cyoptim.Checkpoints(tmp_path / "a" / "b").save(1, a=1)
    folders = [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    assert [synced[0], synced[1], synced[-1]] == [folder.stat().st_ino for folder in folders]
