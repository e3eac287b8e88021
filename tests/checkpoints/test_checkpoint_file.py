"""The file of a checkpoint: its name and permissions, never half written, and what damage does."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import random
import re
import stat
import struct
import sys
import threading
import time
import zipfile
from pathlib import Path
from subprocess import PIPE, Popen

import numpy as np
import pytest

import cyoptim
from cyoptim._checkpoints import files, npz
from tests.support.saved_objects import STRUCTURE, same, temporaries

# The file --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["run", "run.ckpt", "run.npz", "x" * (100 if os.name == "nt" else 255)]
)
def test_the_name_is_taken_as_given(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    cyoptim.save(name, a=1)
    cyoptim.save(Path(name), a=2)
    assert os.listdir(tmp_path) == [name]
    assert cyoptim.load(Path(name)) == cyoptim.load(name) == {"a": 2}


def test_an_object_may_be_called_path(path):
    cyoptim.save(path, path=3)
    assert cyoptim.load(path) == {"path": 3}


posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions, links and locks")


@posix
def test_permissions_are_those_of_any_new_file(path):
    before = os.umask(0o026)
    try:
        cyoptim.save(path, a=1)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@posix
@pytest.mark.parametrize("mode", [0o604, 0o777, 0o600])
def test_permissions_of_an_older_file_stay(path, mode):
    path.touch()
    path.chmod(mode)
    cyoptim.save(path, a=1)
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
def test_while_it_is_written_nobody_reads_what_the_old_file_hid(path, monkeypatch):
    path.touch()
    path.chmod(0o600)
    modes = []

    def spy(form, structure, arrays, file):
        modes.append(stat.S_IMODE(os.fstat(file.fileno()).st_mode))

    monkeypatch.setattr(npz.Npz, "write", spy)
    cyoptim.save(path, a=1)
    assert modes == [0o600]


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path, exists):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "real.npz", tmp_path / "link.npz"
    link.symlink_to(Path("disk") / "real.npz")
    if exists:
        cyoptim.save(target, a=1)
    cyoptim.save(link, a=2)
    assert link.is_symlink()
    assert not target.is_symlink()
    assert cyoptim.load(target) == {"a": 2}


@posix
def test_a_pipe_or_device_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        cyoptim.save(tmp_path / "pipe", a=1)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_folder_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        cyoptim.save(tmp_path / "folder", a=1)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        cyoptim.save(tmp_path / "none" / "run.npz", a=1)
    assert caught.value.filename == str(tmp_path / "none" / "run.npz")


# All or nothing: writing -----------------------------------------------------


def fail_on_call(number, error, function):
    calls = iter(range(1, 1000))

    def failing(*args, **kwargs):
        if next(calls) == number:
            raise error
        return function(*args, **kwargs)

    return failing


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt(), MemoryError()], ids=repr)
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (npz.npy, "write_array", 2),
        (zipfile.ZipFile, "close", 1),
        (os, "fsync", 1),
        (os, "replace", 1),
    ],
)
def test_a_failure_leaves_the_old_file_whole(path, monkeypatch, module, name, call, error):
    cyoptim.save(path, a=np.zeros(9), b=np.zeros(9))
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail_on_call(call, error, getattr(module, name)))
        with pytest.raises(type(error)):
            cyoptim.save(path, a=np.ones(9), b=np.ones(9))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    cyoptim.save(path, a=np.ones(9), b=np.ones(9))
    assert cyoptim.load(path)["b"].all()


def test_the_bytes_are_on_the_disk_before_the_name_changes(path, monkeypatch):
    cyoptim.save(path, a=1)
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        found = os.fstat(descriptor)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    def spy_replace(*names):
        calls.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    cyoptim.save(path, a=2)
    folder = [] if os.name == "nt" else ["folder"]
    assert calls == [path.stat().st_size, "replace", *folder]


def test_an_abandoned_temporary_goes_with_the_next_save(path):
    (path.parent / ".cyoptim-0123456789abcdef.tmp").write_bytes(b"left by a killed save")
    (path.parent / ".cyoptim-notes.tmp").write_bytes(b"no temporary of ours")
    cyoptim.save(path, a=1)
    assert temporaries(path.parent) == [".cyoptim-notes.tmp"]


@posix
def test_a_link_that_is_named_like_a_temporary_is_left_alone(path):
    (path.parent / "notes").write_bytes(b"someone's")
    link = path.parent / ".cyoptim-0123456789abcdef.tmp"
    link.symlink_to("notes")
    cyoptim.save(path, a=1)
    assert link.read_bytes() == b"someone's"


def test_a_temporary_in_use_is_left_alone(path, monkeypatch):
    original = npz.Npz.write

    def save_another_meanwhile(form, structure, arrays, file):
        monkeypatch.setattr(npz.Npz, "write", original)
        cyoptim.save(path.with_name("other.npz"), a=1)
        assert len(temporaries(path.parent)) == 1
        original(form, structure, arrays, file)

    monkeypatch.setattr(npz.Npz, "write", save_another_meanwhile)
    cyoptim.save(path, a=2)
    assert cyoptim.load(path) == {"a": 2}
    assert temporaries(path.parent) == []


@posix
def test_a_temporary_lost_before_its_lock_is_made_anew(path, monkeypatch):
    original, lost = files.hold, []

    def lose_the_first(descriptor):
        if not lost:
            lost.extend(temporaries(path.parent))
            files.remove_abandoned(path.parent)
        return original(descriptor)

    monkeypatch.setattr(files, "hold", lose_the_first)
    cyoptim.save(path, a=2)
    assert len(lost) == 1
    assert cyoptim.load(path) == {"a": 2}


@posix
def test_a_file_system_without_locks(path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    left = path.parent / ".cyoptim-0123456789abcdef.tmp"
    left.write_bytes(b"perhaps in use")
    monkeypatch.setattr(files.fcntl, "flock", refuse)
    cyoptim.save(path, a=1)
    assert cyoptim.load(path) == {"a": 1}
    assert temporaries(path.parent) == [left.name]


@pytest.mark.slow
@posix
def test_threads_that_save_to_one_file(path):
    failures = []
    cyoptim.save(path, number=-1, W=np.full(20_000, -1.0))

    def save(thread):
        try:
            for k in range(25):
                number = 100 * thread + k
                cyoptim.save(path, number=number, W=np.full(20_000, float(number)))
                saved = cyoptim.load(path)
                assert (saved["W"] == saved["number"]).all()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(path.parent) == [path.name]


SAVE_UNTIL_KILLED = """
import os, sys
import numpy as np
import cyoptim

target = sys.argv[1]
series = cyoptim.Checkpoints(target, keep=2) if target.endswith("series") else None
print("ready", flush=True)
for line in sys.stdin:
    writer = os.fork()
    if not writer:
        for number in range(int(line) + 1, int(line) + 10_000):
            W = np.full(100_000, number, np.float64)
            objects = {"first": W, "number": number, "params": {"last": W}}
            if series:
                series.save(number, **objects)
            else:
                cyoptim.save(target, **objects)
    print(writer, flush=True)
    os.waitpid(writer, 0)
    print("dead", flush=True)
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize("name", ["run.npz", "run.safetensors", "series"])
def test_kill_9_at_any_moment_leaves_a_whole_file(tmp_path, name):
    target = tmp_path / name
    folder = target if name == "series" else tmp_path
    series = cyoptim.Checkpoints(folder, keep=2)
    save, load = (
        (functools.partial(series.save, 0), series.load)
        if name == "series"
        else (functools.partial(cyoptim.save, target), functools.partial(cyoptim.load, target))
    )
    start = time.perf_counter()
    save(first=np.zeros(100_000), number=0, params={"last": np.zeros(100_000)})
    longest = 0.02 + 3 * (time.perf_counter() - start)
    moments, cut_off, numbers = random.Random(0), 0, [0]
    command = [sys.executable, "-W", "ignore", "-c", SAVE_UNTIL_KILLED, str(target)]
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as server:
        assert "ready\n" in server.stdout
        # On a busy machine it takes longer until moments of either kind have come.
        while len(numbers) < 24 or (not (cut_off and numbers[-1]) and len(numbers) < 200):
            server.stdin.write(f"{numbers[-1]}\n")
            writer = int(server.stdout.readline())
            time.sleep(moments.uniform(0.0, longest * max(1, len(numbers) / 24)))
            os.kill(writer, 9)
            assert server.stdout.readline() == "dead\n"
            saved = load()
            assert (saved["first"] == saved["number"]).all()
            assert (saved["params"]["last"] == saved["number"]).all()
            numbers.append(saved["number"])
            cut_off += len(temporaries(folder))
            assert len(temporaries(folder)) <= 1
            assert all(series.load(step=step)["number"] == step for step in series.steps())
        server.stdin.close()
    assert numbers == sorted(numbers)
    assert numbers[-1] > 0, "no save came to its end: the moments prove nothing"
    assert cut_off > 0, "no save was cut off: the moments prove nothing"
    if name == "series":
        series.save(numbers[-1] + 1, number=0)
        assert len(os.listdir(folder)) == 2
    else:
        save(number=0)
        assert os.listdir(folder) == [name]


# Damage ----------------------------------------------------------------------

SAMPLE = {
    "W": np.arange(6.0).reshape(2, 3),
    "optimizer": {"state": {0: {"step": np.int64(3), "exp_avg": np.ones(2, np.float32)}}},
    "plain": [1, (2.5, None), "text", b"bytes", 1j],
}


@pytest.fixture
def sample(path):
    cyoptim.save(path, **SAMPLE)
    return path.read_bytes()


@pytest.mark.slow
def test_every_cut_is_found(path, sample):
    for length in range(len(sample)):
        path.write_bytes(sample[:length])
        with pytest.raises(cyoptim.CheckpointError, match=re.escape(str(path))):
            cyoptim.load(path)


def test_a_cut_behind_a_whole_checkpoint_inside_is_found(path, sample):
    cyoptim.save(path, inner=np.frombuffer(sample, np.uint8), more=np.ones(9))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(sample) + len(sample)])
    with pytest.raises(cyoptim.CheckpointError, match="does not begin with its zip"):
        cyoptim.load(path)


@pytest.mark.slow
def test_every_changed_byte_is_found_or_harmless(path, sample):
    noise = np.random.default_rng(0).integers(1, 256, len(sample))
    found = 0
    for offset, change in enumerate(noise.tolist()):
        damaged = bytearray(sample)
        damaged[offset] ^= change
        path.write_bytes(damaged)
        try:
            loaded = cyoptim.load(path)
        except cyoptim.CheckpointError:
            found += 1
        else:
            assert same(loaded, SAMPLE), offset
    assert found > len(sample) / 2


def with_members(**changes):
    """The sample with members replaced, removed (None) or added."""

    def build(sample):
        with zipfile.ZipFile(io.BytesIO(sample)) as file:
            members = {name: file.read(name) for name in file.namelist()}
        for name, change in changes.items():
            members[name] = change(members[name]) if callable(change) else change
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in members.items():
                if content is not None:
                    file.writestr(name, content)
        return buffer.getvalue()

    return build


def with_structure(**changes):
    def change(text):
        return json.dumps({**json.loads(text), **changes}).encode()

    return with_members(**{STRUCTURE: change})


def npy_bytes(array, allow_pickle=False):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


def corrupted_member(sample):
    at = sample.index(np.float64(4.0).tobytes())
    return sample[:at] + b"\xff" + sample[at + 1 :]


def far_member(sample):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sample)) as old, zipfile.ZipFile(buffer, "w") as file:
        for name in old.namelist():
            file.writestr(name, old.read(name))
        file.getinfo("W.npy").header_offset = 1 << 62
    return buffer.getvalue()


DAMAGE = {
    "empty": (lambda _: b"", "not a checkpoint: it is empty"),
    "text": (lambda _: b"once upon a time", "begins with b'once up', which is not a zip"),
    "pickle": (lambda _: b"\x80\x04N.", r"begins with b'\\x80\\x04N\.', which is not a zip"),
    "npy": (lambda _: npy_bytes(np.ones(3)), r"begins with b'\\x93NUMPY"),
    "cut": (lambda sample: sample[:-5], "begins as a zip archive but is cut short"),
    "foreign npz": (
        with_members(**{STRUCTURE: None}),
        r"without cyoptim\.json, found 'W\.npy', 'optimizer/",
    ),
    "empty zip": (lambda _: b"PK\5\6" + bytes(18), r"without cyoptim\.json, found nothing"),
    "far member": (far_member, "damaged: (OSError|the member)"),
    "checksum": (corrupted_member, r"the member 'W\.npy' cannot be read: Bad CRC-32"),
    "missing member": (with_members(**{"W.npy": None}), r"the member 'W\.npy' is missing"),
    "short member": (
        with_members(**{"W.npy": lambda b: b[:-8]}),
        r"'W\.npy' has 40 bytes of elements, its dtype float64 and shape \(2, 3\) need 48",
    ),
    "long member": (with_members(**{"W.npy": lambda b: b + b"0"}), r"'W\.npy' has 49 bytes of"),
    "huge shape": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3)", b"(9**9,").replace(b"**", b"99")}),
        r"'W\.npy'",
    ),
    "negative shape": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3), ", b"(-2,-3),")}),
        r"the member 'W\.npy' cannot be read: its header is not as NumPy writes it",
    ),
    "objects": (
        with_members(**{"W.npy": npy_bytes(np.array([None]), True)}),
        r"'W\.npy' holds Python objects",
    ),
    "pickled pointers": (
        with_members(**{"W.npy": lambda b: b.replace(b"<f8", b"|O ")}),
        r"'W\.npy'",
    ),
    "npy version": (
        with_members(**{"W.npy": lambda b: b.replace(b"NUMPY\1", b"NUMPY\7")}),
        r"\.npy version \(7, 0\)",
    ),
    "no npy": (with_members(**{"W.npy": b"hello"}), r"the member 'W\.npy' cannot be read"),
    "code in a header": (
        with_members(**{"W.npy": lambda b: b.replace(b"(2, 3)", b"exit()")}),
        r"the member 'W\.npy' cannot be read",
    ),
    "newer": (with_structure(version=2), "found format version 2, .* reads up to 1"),
    "version": (with_structure(version="1"), "found format version '1'"),
    "format": (with_structure(format="other"), "its format is 'other', expected 'cyoptim checkp"),
    "not json": (with_members(**{STRUCTURE: b"{"}), r"damaged: cyoptim\.json is no JSON: json"),
    "json list": (with_members(**{STRUCTURE: b"[]"}), r"cyoptim\.json says neither format nor"),
    "no objects": (with_structure(objects=3), r"cyoptim\.json must hold objects by name"),
    "unknown tag": (with_structure(objects={"W": {"pickle": "x"}}), "unknown tag 'pickle'"),
    "two tags": (
        with_structure(objects={"W": {"int": "1", "float": "1"}}),
        "2 tags in one place: 'int', 'fl",
    ),
    "bad bytes": (with_structure(objects={"W": {"bytes": "?"}}), "damaged: "),
    "list as key": (with_structure(objects={"W": {"dict": [[[], 1]]}}), "has a list as a dict key"),
    "depths": (
        with_members(**{STRUCTURE: b'{"objects":' + b"[" * 100_000}),
        r"damaged: cyoptim\.json is nested too deeply",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_with_the_file(path, sample, case):
    damage, message = DAMAGE[case]
    path.write_bytes(damage(sample))
    W = np.full((2, 3), 7.0)
    with pytest.raises(cyoptim.CheckpointError, match=message) as caught:
        cyoptim.load(path, W=W)
    assert str(caught.value).startswith(f"{path}: ")
    assert (W == 7).all()


def test_a_checkpoint_packed_again_and_compressed_is_read(path, sample):
    path.write_bytes(with_members()(sample))
    assert same(cyoptim.load(path), SAMPLE)


def test_the_checksum_of_a_compressed_member_is_compared(path):
    # No more is read than the elements.
    W = np.random.default_rng(0).standard_normal(1 << 17).round(1)
    cyoptim.save(path, W=W)
    packed = with_members()(path.read_bytes())
    path.write_bytes(packed)
    assert same(cyoptim.load(path), {"W": W})
    with zipfile.ZipFile(io.BytesIO(packed)) as file:
        checksum = struct.pack("<I", file.getinfo("W.npy").CRC)
    assert packed.count(checksum) == 2
    path.write_bytes(packed.replace(checksum, b"\0\0\0\0"))
    with pytest.raises(cyoptim.CheckpointError, match=r"'W\.npy' cannot be read: Bad CRC-32"):
        cyoptim.load(path)


def test_no_pickle_is_ever_loaded(path, sample):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    trap = npy_bytes(np.array([Trap()], object), allow_pickle=True)
    path.write_bytes(with_members(**{"W.npy": trap})(sample))
    with pytest.raises(cyoptim.CheckpointError, match="holds Python objects"):
        cyoptim.load(path)


def test_a_checkpoint_error_is_a_value_error():
    assert issubclass(cyoptim.CheckpointError, ValueError)


def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError):
        cyoptim.load(path)


def test_too_little_memory_is_no_damage(path, sample, monkeypatch):
    def refuse(*args):
        raise MemoryError

    monkeypatch.setattr(np, "empty", refuse)
    with pytest.raises(MemoryError):
        cyoptim.load(path)


def test_an_unreadable_disk_is_no_damage(path, sample, monkeypatch):
    def broken(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(zipfile.ZipExtFile, "read", broken)
    with pytest.raises(OSError, match="Input/output error"):
        cyoptim.load(path)


# What others leave, and hold -------------------------------------------------


@posix
def test_a_temporary_that_another_save_holds_first_is_left_to_it(path, monkeypatch):
    original, others = files.hold, []

    def another_first(descriptor):
        if others:
            return original(descriptor)
        (name,) = [name for name in os.listdir(path.parent) if name.startswith(".cyoptim-")]
        others.append(os.open(path.parent / name, os.O_RDWR))
        files.fcntl.flock(others[0], files.fcntl.LOCK_EX)
        held = original(descriptor)
        os.unlink(path.parent / name)
        return held

    monkeypatch.setattr(files, "hold", another_first)
    cyoptim.save(path, a=2)
    os.close(others[0])
    assert cyoptim.load(path) == {"a": 2}


def test_a_file_whose_name_only_begins_like_a_temporary_is_left_alone(path):
    other = path.parent / ".cyoptim-0123456789abcdef.tmp.kept"
    other.touch()
    cyoptim.save(path, a=1)
    assert other.exists()


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="files in use are not listed here")
def test_no_file_stays_open(path, monkeypatch):
    original, lost = files.hold, []

    def lose_the_first(descriptor):
        if not lost:
            lost.append(descriptor)
            files.remove_abandoned(path.parent)
        return original(descriptor)

    monkeypatch.setattr(files, "hold", lose_the_first)
    before = len(os.listdir("/proc/self/fd"))
    cyoptim.save(path, a=1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_arrays_beyond_the_limit_of_old_zip_archives(path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    array = np.arange(1000.0)
    cyoptim.save(path, array=array)
    assert same(cyoptim.load(path)["array"], array)


@pytest.mark.parametrize("version", [0, -1, True, 1.0])
def test_a_version_that_never_was(path, sample, version):
    path.write_bytes(with_structure(version=version)(sample))
    with pytest.raises(cyoptim.CheckpointError, match="found format version"):
        cyoptim.load(path)


def test_the_suffix_chooses_the_format_in_any_case(tmp_path):
    cyoptim.save(tmp_path / "RUN.SafeTensors", a=1)
    assert (tmp_path / "RUN.SafeTensors").read_bytes()[8:9] == b"{"
