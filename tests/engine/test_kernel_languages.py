"""The kernels from C, C++ and numba: the programs of docs/cython.md are compiled and run."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cyoptim
from cyoptim.kernel import Kernel, c_functions
from tests.support.cards import KERNEL, Card
from tests.support.parametrize import every_card
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "cython.md").read_text()
# The installed header, as a user finds it.
INCLUDES = [f"-I{sysconfig.get_paths()['include']}", f"-I{cyoptim.get_include()}"]
WARNINGS = [
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",
    "-Wno-missing-field-initializers",
    "-Werror",
]

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are those of POSIX compilers")


def compiler(variable: str, default: str) -> list[str]:
    command = shlex.split(os.environ.get(variable) or sysconfig.get_config_var(variable) or default)
    if not shutil.which(command[0]):
        pytest.skip(f"no compiler: {command[0]}")
    return command[:1]


def example(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)
    return str(text)


def run(command: list[str], **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def descend(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The extension module in C."""
    return built(tmp_path_factory.mktemp("c"), example("c"))


def built(folder: Path, source: str, *flags: str) -> Any:
    (folder / "descend.c").write_text(source)
    path = folder / f"descend{sysconfig.get_config_var('EXT_SUFFIX')}"
    shared = (
        ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    )
    command = [*compiler("CC", "cc"), "-O2", *shared, "-fPIC", *WARNINGS, *INCLUDES, *flags]
    run([*command, str(folder / "descend.c"), "-o", str(path)])
    spec = importlib.util.spec_from_file_location("descend", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_c(descend: Any) -> None:
    w, kernel = np.linspace(-1, 1, 1000), Kernel(cyoptim.Adam, lr=0.01)
    expected = w.copy()
    optimizer = cyoptim.Adam([expected], lr=0.01)
    for _ in range(5):
        optimizer.step(grads=[expected.copy()])
    descend.descend(kernel, w, *kernel.new_state(w), 5)
    assert w.tobytes() == expected.tobytes()
    assert kernel.state == {"step": 5}


@pytest.mark.slow
def test_c_refuses_what_does_not_fit(descend: Any) -> None:
    w, m, v = np.ones((3, 4))
    with pytest.raises(TypeError, match=r"expected a cyoptim\.kernel\.Kernel"):
        descend.descend(cyoptim.Adam, w, m, v, 1)
    with pytest.raises(ValueError, match="two state arrays"):
        descend.descend(Kernel(cyoptim.SGD), w, m, v, 1)
    assert (w == 1).all()


@pytest.mark.slow
def test_a_module_for_a_newer_header_is_refused(tmp_path: Path) -> None:
    header = (Path(cyoptim.get_include()) / "cyoptim.h").read_text()
    newer = re.sub(r"(#define CYOPTIM_API_VERSION) \d+", r"\1 1000", header)
    (tmp_path / "newer.h").write_text(newer)
    source = example("c").replace("#include <cyoptim.h>", '#include "newer.h"')
    with pytest.raises(
        ImportError, match=r"version 1000 of cyoptim\.h.* version 1: install a newer"
    ):
        built(tmp_path, source)


@pytest.mark.slow
def test_cpp(tmp_path: Path) -> None:
    folder, name = (sysconfig.get_config_var(key) or "" for key in ("LIBDIR", "LDLIBRARY"))
    if not (Path(folder) / name).exists():
        pytest.skip("no library of Python to embed")
    (tmp_path / "train.cpp").write_text(example("cpp"))
    libraries = [str(Path(folder) / name), *shlex.split(sysconfig.get_config_var("LIBS") or "")]
    command = [*compiler("CXX", "c++"), "-O2", *WARNINGS, *INCLUDES, "train.cpp", "-o", "train"]
    run([*command, *libraries, "-lm", f"-Wl,-rpath,{folder}"], cwd=tmp_path)
    # Embedded, Python does not know of the environment that runs this.
    env = {**os.environ, "PYTHONHOME": sys.base_prefix, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert re.fullmatch(r"200 steps, w = -?0\.\d{4}\n", run([str(tmp_path / "train")], env=env))


@every_card(KERNEL)
def test_ctypes(card: Card) -> None:
    functions, kernel = c_functions(), Kernel(card.cls)
    w, grad = np.linspace(-1, 1, 9), np.cos(np.arange(9.0))
    expected = w.copy()
    card.cls([expected]).step(grads=[card.form(grad)])
    arrays = [w, grad, *kernel.new_state(w)]
    assert functions.array_count(kernel.address) == len(arrays)
    pointers = np.array([array.ctypes.data for array in arrays])
    functions.begin_step(kernel.address)
    functions.update_float64(kernel.address, pointers.ctypes.data, 9)
    assert w.tobytes() == expected.tobytes()
    assert functions.steps(kernel.address) == 1


def test_ctypes_norm_and_scale() -> None:
    functions, kernel = c_functions(), Kernel(cyoptim.SGD, lr=1.0)
    w, g = np.zeros(1000, "f4"), np.full(1000, 2, "f4")
    total = functions.sum_squares_float32(g.ctypes.data, 1000, 1.0)
    assert total == 4001
    assert functions.sum_squares_float64(g.astype("f8").ctypes.data, 1000, 1.0) == 4001
    functions.set_grad_scale(kernel.address, 0.25)
    functions.begin_step(kernel.address)
    pointers = np.array([w.ctypes.data, g.ctypes.data])
    functions.update_float32(kernel.address, pointers.ctypes.data, 1000)
    assert (w == -0.5).all()


def test_the_version_of_the_header_is_that_of_the_table() -> None:
    import ctypes

    header = (Path(cyoptim.get_include()) / "cyoptim.h").read_text()
    (version,) = re.findall(r"^#define CYOPTIM_API_VERSION (\d+)", header, re.M)
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    from cyoptim import kernel

    table = pointer(kernel._C_API, b"cyoptim.kernel._C_API")  # type: ignore[attr-defined]
    assert ctypes.c_int32.from_address(table).value == int(version)
