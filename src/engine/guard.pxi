# What takes the place of the GIL where Python has none: see guard.h.

cdef extern from "guard.h" nogil:
    const bint FREE_THREADED
    ctypedef struct Guard:
        pass
    void guard_lock(Guard *guard)
    void guard_unlock(Guard *guard)
    ctypedef struct ObjectGuard:
        pass
    ctypedef struct SharedNumber:
        pass
    long long shared_read(SharedNumber *number)
    void shared_write(SharedNumber *number, long long value)
    long long shared_next(SharedNumber *number)

cdef extern from "guard.h":
    void object_lock(ObjectGuard *guard, object owner)
    void object_unlock(ObjectGuard *guard)
    const void *item_address(object items, Py_ssize_t i)
    const void *value_address(object mapping, object key)

cdef SharedNumber NUMBERS


def next_number() -> int:
    """A number larger than all before; no other call gets it, in whatever thread or signal handler."""
    return shared_next(&NUMBERS)
