"""Bytes to the disk: a file is replaced whole or not at all. And from it: regular files alone.

The bytes go to a temporary file beside the target, which takes the target's place in one step when
they are on the disk. The writer holds a lock on its temporary, and the operating system lets go of
it however the writer ends: a temporary that nobody holds is a dead writer's, and the next save
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
    """Open a file to read it. A device has no end, and to open a pipe may wait for ever."""
    _check_regular(os.stat(path), path)  # before it is opened, which alone is felt by a device
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
    """Give the file new contents at once: a reader, or a crash, finds the old or the new ones."""
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
            error.filename = path  # the temporary's name would tell the caller nothing
            raise
        if hold(descriptor):
            return os.fdopen(descriptor, "wb"), temporary
        os.close(descriptor)


def hold(descriptor: int) -> bool:
    """Lock a new temporary; False if another save took it for abandoned before the lock."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks: nothing is ever taken for abandoned on it
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
            return  # no temporary of ours, and to open a device may do something to it
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
        # The new file is in place; a file system that cannot sync a directory is no failure.
        with contextlib.suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
