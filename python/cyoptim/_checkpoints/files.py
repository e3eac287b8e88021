"""Writes files atomically, and reads only regular files.

The bytes go to a temporary file beside the target, which replaces the target in one step when
they are on disk. The writer holds a lock on its temporary file, which the operating system releases
whenever the writer ends: an unlocked temporary file is that of a dead writer, and the next save
removes it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable
from typing import IO, Any

if sys.platform != "win32":
    import fcntl

from cyoptim._checkpoints.places import CheckpointError

TEMPORARY = re.compile(r"\.cyoptim-[0-9a-f]{16}\.tmp")


def open_regular(path: str | bytes | os.PathLike[Any]) -> IO[bytes]:
    """Open a regular file. A device has no end, and opening a pipe may block for ever."""
    _check_regular(os.stat(path), path)  # before opening, which may already affect a device
    flags = ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NONBLOCK")
    descriptor = os.open(path, sum({getattr(os, flag, 0) for flag in flags}, os.O_RDONLY))
    try:
        _check_regular(os.fstat(descriptor), path)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(found: os.stat_result, path: str | bytes | os.PathLike[Any]) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError("not a checkpoint: it is no regular file")


def replace_file(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Replace the contents atomically: a reader, or a crash, finds the old or the new contents."""
    target = os.path.realpath(path)
    directory = os.path.dirname(target)
    mode = _mode_to_keep(target)
    remove_abandoned(directory)
    file, temporary = _open_temporary(directory, path, 0o666 if mode is None else 0o600)
    try:
        with file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.chmod(temporary, mode)
            if sys.platform == "win32":
                file.close()  # Windows renames no open file; elsewhere the lock lasts until then
            os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_directory(directory)


def _mode_to_keep(target: str) -> int | None:
    try:
        found = os.stat(target)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{target} is no regular file, and a checkpoint must not replace it")
    return stat.S_IMODE(found.st_mode)


def _open_temporary(directory: str, path: str, mode: int) -> tuple[IO[bytes], str]:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    while True:
        temporary = os.path.join(directory, f".cyoptim-{os.urandom(8).hex()}.tmp")
        try:
            descriptor = os.open(temporary, flags, mode)
        except OSError as error:
            error.filename = path  # the name of the temporary file means nothing to the caller
            raise
        if hold(descriptor):
            return _file_of(descriptor, temporary), temporary
        os.close(descriptor)


def _file_of(descriptor: int, name: str) -> IO[bytes]:
    """A file that knows its name, by which other processes can open it, too."""
    return open(name, "wb", opener=lambda *_: descriptor)


def hold(descriptor: int) -> bool:
    """Lock a new temporary file; False if another save removed it before the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: no file on it ever counts as abandoned
        return os.fstat(descriptor).st_nlink > 0
    return True


def remove_abandoned(directory: str) -> None:
    with contextlib.suppress(OSError):
        for name in filter(TEMPORARY.fullmatch, os.listdir(directory)):
            with contextlib.suppress(OSError):
                _remove_unless_held(os.path.join(directory, name))


def _remove_unless_held(temporary: str) -> None:
    if sys.platform != "win32":
        if not stat.S_ISREG(os.lstat(temporary).st_mode):
            return  # not a temporary file of ours, and opening a device may affect it
        descriptor = os.open(temporary, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(temporary)
        finally:
            os.close(descriptor)
    else:
        os.unlink(temporary)  # refused while a writer has it open


def sync_directory(directory: str) -> None:
    if sys.platform != "win32":
        # The new file is in place; ignore a file system that cannot sync a directory.
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
