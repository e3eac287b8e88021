"""One file: :func:`save` and :func:`load`."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import IO, Any, Literal, ParamSpec, TypeVar, overload

from cyoptim._arrays.doors import type_name
from cyoptim._checkpoints.dtypes import readable
from cyoptim._checkpoints.files import open_regular, replace_file
from cyoptim._checkpoints.matching import Loaded, Rename, Renaming
from cyoptim._checkpoints.npz import Npz
from cyoptim._checkpoints.packing import Format, Packing, Share, Unpacking
from cyoptim._checkpoints.parts import Gap
from cyoptim._checkpoints.places import CheckpointError, names
from cyoptim._checkpoints.ranks import Joint, joint_of
from cyoptim._checkpoints.restoring import Restore
from cyoptim._checkpoints.safetensors import Safetensors
from cyoptim._checkpoints.turns import in_turns

P = ParamSpec("P")
R = TypeVar("R")


def _by_name(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse objects without names, and say how to name them."""

    @wraps(function)
    def call(*args: P.args, **objects: P.kwargs) -> R:
        name = function.__name__
        if not args or not isinstance(args[0], (str, bytes, os.PathLike)):
            found = f", got a {type_name(args[0])}" if args else ""
            raise TypeError(
                f"{name}() takes the path of a file first{found}: write "
                f'{name}("run.npz", params=params)'
            )
        if len(args) > 1:
            raise TypeError(f"{name}() takes objects by name: write {name}(path, params=params)")
        return function(*args, **objects)

    return call


@_by_name
def save(path: str | os.PathLike[str], /, **objects: object) -> None:
    """Save named objects to one file, which replaces an older one atomically.

    Parameters
    ----------
    path : str or path-like
        The file, under exactly this name: no extension is added. A name that ends in
        ``.safetensors`` selects that format, any other ``.npz``. Symbolic links are followed. The
        permissions of an older file are kept.
    **objects
        The objects by name: arrays, NumPy scalars, parameters, CPU torch tensors, objects with a
        ``state_dict()`` (optimizers and schedulers), ``numpy.random.Generator``, plain values
        (None, bool, int, float, complex, str, bytes), and dicts, lists and tuples of these up to
        a depth of 100.

    Raises
    ------
    TypeError
        If an object cannot be saved; the message gives its place and type. Nothing is written.
    ValueError
        If there is nothing to save, the objects are nested too deeply, or everything except the
        elements of arrays takes over 100,000,000 bytes.
    OSError
        If the file cannot be written. An older file does not change.

    Notes
    -----
    In a ``.safetensors`` file the arrays of the objects ``model`` and ``params`` have their own
    names, all others their paths: ``optimizer/state/0/exp_avg``. It stores numbers, also complex
    ones, and booleans, always in C order; a ``.npz`` also stores dates, strings, records and the
    order. Both store bfloat16 and float8_e4m3fn, of ml_dtypes and of torch. Checksums detect
    changed bytes: all in a ``.npz``, those before the elements in a ``.safetensors``.

    With a ``cyoptim.distributed.Sharded`` among the objects, all ranks call it: each writes
    its part of the state, and the other objects are those of rank 0.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> cyoptim.save("run.npz", weights={"W": np.ones((2, 3)), "b": np.zeros(3)}, epoch=7)
    >>> with np.load("run.npz", allow_pickle=False) as file:
    ...     file["weights/W"].shape
    (2, 3)
    """
    if not objects:
        raise ValueError("nothing to save: give objects by name, such as optimizer=optimizer")
    joint = joint_of(objects)
    if joint is not None:
        joint.save(path, objects)
        return
    in_turns("read", "cyoptim.save()", objects, partial(write, path, objects))


def write(
    path: str | os.PathLike[str],
    objects: dict[str, object],
    states: Mapping[int, Any] | None = None,
    fill: Callable[[IO[bytes], Sequence[Gap]], list[int]] | None = None,
) -> None:
    """Write a file. `states` are known states of objects, by their ids; `fill` is called with the
    file and the gaps that arrays in these states have in it."""
    form = _format(path)
    packing = Packing(form, states)
    structure = packing.structure(objects)

    def write_all(file: IO[bytes]) -> None:
        form.write(structure, packing.arrays, file, *([partial(fill, file)] if fill else []))

    replace_file(os.fsdecode(path), write_all)


@overload
def load(
    path: str | os.PathLike[str],
    /,
    *,
    strict: Literal[False],
    rename: Rename | None = None,
    convert: bool = False,
    **objects: object,
) -> Loaded: ...


@overload
def load(
    path: str | os.PathLike[str],
    /,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    convert: bool = False,
    **objects: object,
) -> dict[str, Any]: ...


@_by_name
def load(
    path: str | os.PathLike[str],
    /,
    *,
    strict: bool = True,
    rename: Rename | None = None,
    convert: bool = False,
    **objects: object,
) -> dict[str, Any]:
    """Load a file that :func:`save` wrote, and restore the given objects in place.

    Parameters
    ----------
    path : str or path-like
        The file. It need not be trusted: it cannot run code. A ``.safetensors`` file
        may also come from another program: its arrays are then the object ``model`` or ``params``,
        depending on which is given.
    strict : bool
        Whether everything must fit. If False, entries that do not fit are skipped: single arrays,
        but an optimizer or another object with a state as a whole.
    rename : dict or function, optional
        Maps names of arrays in the file to names in the objects; names that a dict does not
        contain stay. It also renames the parameters in states of optimizers.
    convert : bool
        Whether an array may have another dtype in the file, if NumPy casts it as ``same_kind``:
        float16, float64 and bfloat16 to float32, float32 to bfloat16, but not complex numbers to
        real ones.
    **objects
        The objects to restore, under their saved names. Arrays, parameters and tensors must have
        the saved shape and dtype; dicts and torch modules are matched by name, lists
        and tuples item by item; other objects with a ``load_state_dict()`` get the saved state.
        Nothing changes unless everything fits. Arrays of a file of 64 MiB or more are read into
        the memory of the objects, without a copy.

    Returns
    -------
    dict
        Everything in the file, restored or not, under the names in the file:
        parameters and tensors as arrays, optimizers and schedulers as their state dicts. Types that
        NumPy lacks are those of ml_dtypes; if it is not installed, bfloat16 is float32 in what was
        not restored, and unsigned integers of the same bits stand for all others. The arrays are
        writable. In a file of 64 MiB or more those that have been restored are the objects' own
        arrays; all others are new. With ``strict=False`` it is a
        :class:`~cyoptim.checkpoint.Loaded`, which lists what was ``loaded`` and ``skipped``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    CheckpointError
        If the file is not a checkpoint or not a regular file, is damaged, unpacks to far more than
        its size, or needs a newer version. Or if a file of 64 MiB or more was whole when everything
        was checked, and cannot be read a second time: only then can arrays have changed in part.
    ValueError
        If the file does not contain an object of a given name, or an object does not fit: the
        message lists entries that are missing, unexpected, or of another shape or dtype.
    TypeError
        If an object cannot be restored in place, such as a number.

    Notes
    -----
    With a ``cyoptim.distributed.Sharded`` among the objects, all ranks call it. Nothing
    changes on any before everything fits on all. In the dict, its state is the part of this rank.

    Examples
    --------
    >>> import numpy as np
    >>> import cyoptim
    >>> cyoptim.save("run.npz", W=np.ones((2, 3)), epoch=7)
    >>> W = np.zeros((2, 3))
    >>> cyoptim.load("run.npz", W=W)["epoch"]
    7
    >>> float(W.sum())
    6.0

    Parameters of other names and another precision:

    >>> cyoptim.save("run.npz", params={"fc.weight": np.ones(3, "f8")})
    >>> params = {"W": np.zeros(3, "f4")}
    >>> _ = cyoptim.load("run.npz", params=params, rename={"fc.weight": "W"}, convert=True)
    >>> params["W"]
    array([1., 1., 1.], dtype=float32)
    """
    _check_switch(strict, "strict")
    _check_switch(convert, "convert")
    joint = joint_of(objects)
    read = partial(_read, path, objects, Renaming(rename), joint, strict=strict, convert=convert)
    if joint is not None:
        return joint.load(path, read, strict=strict, convert=convert)
    return read()


def _read(
    path: str | os.PathLike[str],
    objects: dict[str, Any],
    renaming: Renaming,
    joint: Joint | None,
    *,
    strict: bool,
    convert: bool,
) -> dict[str, Any]:
    shown = os.fsdecode(path)
    with _damage_reported(shown):
        opened = open_regular(path)
    with opened as file:
        with _damage_reported(shown):
            share = Share() if joint is None else Share(joint.rank, joint.size)
            archive = Unpacking(_format(path).open(file, tuple(objects), share))
            archive.sources.path = shown
        absent = [name for name in objects if name not in archive.nodes]
        if absent and strict:
            raise ValueError(f"{shown} has no {absent[0]!r}; it holds {names(archive.nodes)}")
        with _damage_reported(shown):
            saved = archive.objects()
        if joint is not None:
            joint.check_file(saved)
        restore = Restore(shown, archive, renaming, joint, strict=strict, convert=convert)
        restore.restore(objects, saved)
    for name in saved.keys() - objects.keys():
        saved[name] = readable(saved[name])
    if strict:
        return saved
    return Loaded(shown, saved, restore.loaded, restore.differences)


def _format(path: str | os.PathLike[str]) -> Format:
    return Safetensors() if os.fsdecode(path).lower().endswith(".safetensors") else Npz()


def _check_switch(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, found {type_name(value)}")


@contextlib.contextmanager
def _damage_reported(path: str) -> Iterator[None]:
    """Convert every error of the readers for a damaged or foreign file to a CheckpointError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        # A wrong offset or length in the file also gives an OSError, but only with this number.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"{path}: {error}") from error.__cause__
        raise CheckpointError(f"{path}: damaged: {type_name(error)}: {error}") from error
