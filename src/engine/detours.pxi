# Conditions under which every step of every optimizer takes the slow path, with more checks.

cdef extern from "Python.h":
    PyObject *Py_True           # `True` would be C's

# Nothing is ever taken out of these lists.
cdef list HOOKS = []           # dicts of hooks, while there is one in any of them
cdef list FLAGS = []            # pairs of a dict and a key, which count while the value is True


def detour_by_hooks(table) -> None:
    """Let steps take the slow path while the table, a dict, contains hooks."""
    PyDict_Size(table)      # raises for other types
    HOOKS.append(table)


def detour_by_flag(dict namespace not None, str name not None) -> None:
    """Let steps take the slow path while the entry of the namespace is True."""
    FLAGS.append((namespace, name))


def detours() -> bool:
    """Whether steps take the slow path now."""
    return is_detour()


cdef inline bint is_detour() noexcept:
    cdef Py_ssize_t i
    cdef tuple pair
    for i in range(PyList_GET_SIZE(HOOKS)):
        if PyDict_Size(<object><PyObject *>item_address(HOOKS, i)):
            return True
    for i in range(PyList_GET_SIZE(FLAGS)):
        pair = <tuple><PyObject *>item_address(FLAGS, i)
        if value_address(<dict>pair[0], pair[1]) == <void *>Py_True:
            return True
    return False
