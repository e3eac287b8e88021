"""Numbered checkpoints in a folder."""

from __future__ import annotations

import contextlib
import errno
import operator
import os
import re
import stat
from pathlib import Path
from typing import Any, Literal, overload

from cyoptim._arrays.doors import type_name
from cyoptim._checkpoints import single
from cyoptim._checkpoints.files import sync_directory
from cyoptim._checkpoints.matching import Loaded, Rename
from cyoptim._checkpoints.places import text
from cyoptim._checkpoints.ranks import joint_of
from cyoptim._shown import table

SUFFIXES = (".npz", ".safetensors")
MOST_DIGITS = 18
# A number as save writes it: at least eight digits; more than eight do not begin with 0.
FILE = re.compile(
    rf"checkpoint-([0-9]{{8}}|[1-9][0-9]{{8,{MOST_DIGITS - 1}}})(\.npz|\.safetensors)"
)


class Checkpoints:
    """Numbered checkpoints of one run in a folder; the newest are kept.

    Parameters
    ----------
    folder : str or path-like
        The folder of the files: ``checkpoint-00000012.npz`` is that of step 12. The first save
        makes the folder. Other files in it are ignored.
    keep : int, optional
        The number of files to keep, 3 by default; None keeps all. An older file is deleted after
        the new one is on disk.
    suffix : {".npz", ".safetensors"}
        The format of new files. Files of both formats are found.

    See Also
    --------
    cyoptim.save, cyoptim.load : save and load one file.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> checkpoints = cyoptim.Checkpoints("runs", keep=2)
    >>> W, start = np.zeros(2), 0
    >>> if checkpoints.latest():
    ...     start = checkpoints.load(params={"W": W})["epoch"]
    >>> for epoch in range(start + 1, 5):
    ...     W += 1
    ...     path = checkpoints.save(epoch, params={"W": W}, epoch=epoch)
    >>> [path.name for path in checkpoints.paths()]
    ['checkpoint-00000003.npz', 'checkpoint-00000004.npz']
    >>> checkpoints.load(step=3)["params"]["W"]
    array([3., 3.])
    """

    __module__ = "cyoptim.checkpoint"

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int | None = 3,
        *,
        suffix: Literal[".npz", ".safetensors"] = ".npz",
    ) -> None:
        self.folder: Path = Path(folder)
        self.keep: int | None = None if keep is None else _whole_number(keep, "keep", least=1)
        if suffix not in SUFFIXES:
            raise ValueError(f"suffix must be '.npz' or '.safetensors', found {suffix!r}")
        self.suffix = suffix

    def __repr__(self) -> str:
        return f"Checkpoints({str(self.folder)!r}, keep={self.keep}, suffix={self.suffix!r})"

    def _repr_html_(self) -> str:
        rows = {"folder": str(self.folder), "keep": self.keep, "suffix": self.suffix}
        return table("Checkpoints", {**rows, "steps": ", ".join(map(str, self.steps()))})

    def save(self, step: int, /, **objects: object) -> Path:
        """Save named objects as the checkpoint of a step, and delete old checkpoints.

        Parameters
        ----------
        step : int
            The number of the file, from 0 up to 10**18 - 1. The number of the newest file replaces
            that file; a smaller one raises, as the newest file would not be the last one saved.
        **objects
            As for :func:`cyoptim.save`.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ValueError
            If there is a checkpoint of a later step, for instance of another run.
        TypeError, OSError
            As for :func:`cyoptim.save`. Then no older checkpoint is deleted.
        """
        joint = joint_of(objects)
        if joint is None:
            path = self._new_path(step)
        else:
            path = joint.decided("Checkpoints.save()", self._new_path, step=step)
        single.save(path, **objects)
        if joint is None or joint.rank == 0:
            self._delete_old(path)
        return path

    def _new_path(self, step: int) -> Path:
        """The file of a step, in a folder that exists."""
        step = _whole_number(step, "step", least=0)
        if step >= 10**MOST_DIGITS:
            raise ValueError(f"step must have at most {MOST_DIGITS} digits")
        newest = self.latest()
        if newest is not None and step < _step(newest):
            raise ValueError(
                f"step {step} is before {newest}: to go on from an earlier checkpoint, delete the "
                "later ones first, and keep another run in another folder"
            )
        self._make_folder()
        return self.folder / f"checkpoint-{step:08d}{self.suffix}"

    @overload
    def load(
        self,
        *,
        step: int | None = None,
        strict: Literal[False],
        rename: Rename | None = None,
        convert: bool = False,
        **objects: object,
    ) -> Loaded: ...

    @overload
    def load(
        self,
        *,
        step: int | None = None,
        strict: bool = True,
        rename: Rename | None = None,
        convert: bool = False,
        **objects: object,
    ) -> dict[str, Any]: ...

    def load(
        self,
        *,
        step: int | None = None,
        strict: bool = True,
        rename: Rename | None = None,
        convert: bool = False,
        **objects: object,
    ) -> dict[str, Any]:
        """Load the newest checkpoint, or that of a step, and restore the given objects in place.

        Parameters
        ----------
        step : int, optional
            The step of the checkpoint; by default the newest.
        strict, rename, convert, **objects
            As for :func:`cyoptim.load`.

        Returns
        -------
        dict
            As from :func:`cyoptim.load`.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint, or none of that step.
        CheckpointError, ValueError, TypeError
            As from :func:`cyoptim.load`.
        """
        joint = joint_of(objects)
        if joint is None:
            path = self._path_of(step)
        else:
            path = joint.decided("Checkpoints.load()", self._path_of, step=step)
        return single.load(path, strict=strict, rename=rename, convert=convert, **objects)

    def latest(self) -> Path | None:
        """The file of the last step; None if there is no file."""
        return next(reversed(self.paths()), None)

    def paths(self) -> list[Path]:
        """All files, sorted by step. Folders and pipes with such names do not count."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return []
        paths = (self.folder / name for name in names if FILE.fullmatch(name))
        return sorted(
            filter(_is_file, paths), key=lambda path: (_step(path), path.suffix == self.suffix)
        )

    def steps(self) -> list[int]:
        """All steps that can be loaded, in order."""
        return sorted({_step(path) for path in self.paths()})

    def _path_of(self, step: int | None) -> Path:
        path = self.latest()
        if step is not None:
            step = _whole_number(step, "step", least=0)
            path = next((p for p in reversed(self.paths()) if _step(p) == step), None)
        if path is None:
            which = "no checkpoint" if step is None else f"no checkpoint of step {text(step)}"
            found = f"it holds steps {self.steps()}" if self.steps() else "it holds none"
            raise FileNotFoundError(f"{self.folder} has {which}; {found}")
        return path

    def _make_folder(self) -> None:
        new = [path for path in (self.folder, *self.folder.parents) if not path.is_dir()]
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in reversed(new):
            sync_directory(os.fspath(path.parent))

    def _delete_old(self, new: Path) -> None:
        """Delete old files, once `new` is on disk. The next save retries if this fails."""
        older = [path for path in self.paths() if _step(path) <= _step(new) and path != new]
        kept = [step for step in self.steps() if step <= _step(new)]
        kept = kept if self.keep is None else kept[-self.keep :]
        for path in older:
            if _step(path) not in kept or _step(path) == _step(new):
                with contextlib.suppress(OSError):
                    path.unlink()


def _is_file(path: Path) -> bool:
    """Whether this is a file; False if it has disappeared, or is a broken link."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return False
        raise


def _step(path: Path) -> int:
    match = FILE.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def _whole_number(value: object, name: str, least: int) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be a whole number, found {type_name(value)}") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, found {text(number)}")
    return number
