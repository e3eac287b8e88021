# What sends every step of every optimizer the long way, by which it is looked at more closely.

cdef list TABLES = []           # dicts of hooks, while there is one in any of them
cdef list FLAGS = []            # pairs of a dict and a key, while what stands there is True


def detour_by_hooks(table) -> None:
    """Let steps go the long way while there are hooks in the table, a dict."""
    PyDict_Size(table)      # raises for what is none
    TABLES.append(table)


def detour_by_flag(dict namespace not None, str name not None) -> None:
    """Let steps go the long way while the entry of the namespace is True."""
    FLAGS.append((namespace, name))


def detours() -> bool:
    """Whether steps go the long way now."""
    return is_detour()


cdef inline bint is_detour() noexcept:
    cdef Py_ssize_t i
    cdef tuple pair
    cdef PyObject *flag
    for i in range(PyList_GET_SIZE(TABLES)):
        if PyDict_Size(<object>PyList_GET_ITEM(TABLES, i)):
            return True
    for i in range(PyList_GET_SIZE(FLAGS)):
        pair = <tuple>PyList_GET_ITEM(FLAGS, i)
        flag = PyDict_GetItem(<dict>pair[0], pair[1])
        if flag != NULL and <object>flag is True:
            return True
    return False
