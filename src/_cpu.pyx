"""Which instruction sets this machine and its operating system allow."""

cdef extern from "cpu_features.h" nogil:
    int cpu_level()


def level() -> int:
    """0: baseline, 1: avx2, 2: avx512."""
    return cpu_level()
