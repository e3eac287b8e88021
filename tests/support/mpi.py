"""The MPI libraries of this machine, and programs that run in many processes under them.

A library is found by its launcher: those in CYOPTIM_TEST_MPIEXEC, separated as in PATH, or else the
`mpiexec` beside Python or on PATH. mpi4py chooses its library when it is imported, so each launcher
comes with an environment in which it chooses the launcher's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tests.support.paths import ROOT

NAMED = "CYOPTIM_TEST_MPIEXEC"
TIMEOUT = 60  # seconds
WORLD = "from mpi4py.MPI import COMM_WORLD; COMM_WORLD.rank or print(COMM_WORLD.size)"
SHARED_OBJECTS = ("libmpi.so.12", "libmpi.so.40", "libmpi.12.dylib", "libmpi.40.dylib")

# For more processes than processors: those that wait let others work.
MPICH = {"MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}
OPEN_MPI = {
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",  # before 5.0
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",  # as containers do
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


@dataclass(frozen=True)
class Library:
    """An MPI library: the command that launches processes, and the variables that these need."""

    name: str
    launcher: str
    variables: tuple[tuple[str, str], ...]

    def command(self, size: int, *args: str) -> list[str]:
        """The command that runs Python with these arguments in so many processes."""
        return [self.launcher, "-n", str(size), sys.executable, *args]

    @property
    def env(self) -> dict[str, str]:
        """The environment of a launcher whose processes can import the package and the tests."""
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        return {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **dict(self.variables),
        }

    def __str__(self) -> str:
        return self.name


def launchers() -> list[str]:
    """The launchers to try; none without mpi4py."""
    if find_spec("mpi4py") is None:
        return []
    named = os.environ.get(NAMED)
    if named is not None:
        return [str(Path(launcher).absolute()) for launcher in named.split(os.pathsep)]
    beside = str(Path(sys.executable).parent)
    found = shutil.which("mpiexec", path=beside) or shutil.which("mpiexec")
    return [found] if found else []


@cache
def library_of(launcher: str) -> Library | None:
    """A launcher's library, or None if mpi4py has another one here. A named one must have it."""
    try:
        library = _described(launcher)
        result = run_ranks(library, 2, "-c", WORLD)
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    else:
        if result.stdout.split() == ["2"]:  # and not "1" of each
            return library
        problem = result.stdout + result.stderr
    assert NAMED not in os.environ, f"{launcher}, of {NAMED}, does not run mpi4py: {problem}"
    return None


def libraries() -> list[Library]:
    """The libraries under which programs can run here."""
    return [found for launcher in launchers() if (found := library_of(launcher)) is not None]


def _described(launcher: str) -> Library:
    version = subprocess.run(
        [launcher, "--version"], capture_output=True, text=True, timeout=TIMEOUT, check=False
    ).stdout
    is_open = "Open MPI" in version or "OpenRTE" in version
    name = "Open MPI" if is_open else "MPICH" if "HYDRA" in version else "MPI"
    variables = dict(OPEN_MPI if is_open else MPICH)
    folder = Path(launcher).absolute().parent.parent / "lib"
    for shared_object in SHARED_OBJECTS:
        if (folder / shared_object).exists():
            variables["MPI4PY_LIBMPI"] = str(folder / shared_object)
    return Library(name, launcher, tuple(variables.items()))


def run_ranks(
    library: Library,
    size: int,
    *args: str,
    timeout: float = TIMEOUT,
    check: bool = False,
    cwd: Path = ROOT,
    **env: str,
) -> subprocess.CompletedProcess[str]:
    """Run Python in so many processes, and end all of them if they take too long.

    Parameters
    ----------
    library : Library
        One of `libraries`.
    size : int
        The number of processes.
    *args : str
        Arguments of Python, such as "-m", "mpi4py", "program.py".
    timeout : float
        The seconds after which subprocess.TimeoutExpired is raised.
    check : bool
        Whether to fail with what has been printed, if the launcher's exit code is not 0.
    cwd : Path
        The folder in which they run.
    **env : str
        Variables of the environment.
    """
    command = library.command(size, *args)
    # Files, not pipes: a process that outlives its launcher would keep a pipe open.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(
            command,
            env={**library.env, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout)
        except BaseException as error:
            end(process)
            if isinstance(error, subprocess.TimeoutExpired):
                error.output, error.stderr = _text(out), _text(err)
                error.add_note(f"{error.output}\n{error.stderr}")
            raise
        result = subprocess.CompletedProcess(command, code, _text(out), _text(err))
    assert not check or code == 0, f"exit code {code}\n{result.stdout}\n{result.stderr}"
    return result


def _text(file: tempfile._TemporaryFileWrapper[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and all processes that have come from it."""
    family = [process.pid, *descendants(process.pid)]
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid in family[1:]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def descendants(pid: int) -> list[int]:
    """The processes that have come from one and are there yet, where the system shows them."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # has just ended
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = [pid]
    for parent in found:
        found += [child for child, its_parent in parents.items() if its_parent == parent]
    return found[1:]
