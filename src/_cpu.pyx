# cython: subinterpreters_compatible=own_gil
"""What this process allows: asked before anything else of the package is loaded, in any interpreter."""

cdef extern from "cpu_features.h" nogil:
    int cpu_level()

cdef extern from "Python.h":
    ctypedef struct PyInterpreterState:
        pass
    PyInterpreterState *PyInterpreterState_Get()
    long long PyInterpreterState_GetID(PyInterpreterState *interpreter)


def level() -> int:
    """The instruction sets that the machine and its operating system allow: 0 baseline, 1 avx2, 2 avx512."""
    return cpu_level()


def in_main_interpreter() -> bool:
    """Whether this is the interpreter that the process began with."""
    return PyInterpreterState_GetID(PyInterpreterState_Get()) == 0
