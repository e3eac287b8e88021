# The options of a group, and the rows of scalars made of them.

cdef inline double as_double(object value) except? -1:
    """A number, or an array of one element."""
    if cnp.PyArray_Check(value) and cnp.PyArray_NDIM(<cnp.ndarray>value) != 0:
        value = value.item()
    return value


cdef int fill_row(Row *row, tuple hyper) except -1:
    """Set a row from (rule, scalar, ...)."""
    cdef Py_ssize_t k, rule
    if hyper is None or len(hyper) == 0:
        raise TypeError("_hyper() must return a tuple of a rule and its scalars")
    rule = hyper[0]
    if not 0 <= rule < len(RULE_NAMES):
        raise ValueError(f"there is no rule {rule}")
    if len(hyper) - 1 != RULE_SCALARS[rule]:
        raise TypeError(
            f"rule {RULE_NAMES[rule]} takes {RULE_SCALARS[rule]} scalars, got {len(hyper) - 1}"
        )
    row.rule = <int>rule
    for k in range(1, len(hyper)):
        row.scalars[k - 1] = as_double(hyper[k])
    return 0


cdef inline bint same_memory(const Row *row, const float *memory) noexcept:
    return memcmp(row.before, memory, MAX_MEMORY * sizeof(float)) == 0


cdef bint _is_constant(object value):
    # Values of these types cannot change in place; an array or a tensor can.
    if isinstance(value, tuple):
        return all([_is_constant(item) for item in value])
    if isinstance(value, np.generic):
        return not value.dtype.hasobject and value.dtype.kind != "V"
    return value is None or type(value) in (float, int, bool, str)


cdef object ANY_VALUE = object()    # in the place of one that is no option


cdef list constant_options(dict options):
    """The group's keys and option values in turn, to be compared by identity; None if any value may
    change in place."""
    cdef list known = []
    for key, value in options.items():
        if key == "params" or key == "param_names":
            value = ANY_VALUE
        elif not _is_constant(value):
            return None
        known.append(key)
        known.append(value)
    return known


cdef bint same_options(dict options, list known):
    """Whether no option has changed. Keys, too, are compared by identity: to compare strings would
    take a quarter of a small step, and other keys are looked at in detail."""
    cdef Py_ssize_t position = 0, k = 0, n = PyList_GET_SIZE(known)
    cdef PyObject *key
    cdef PyObject *value
    while PyDict_Next(options, &position, &key, &value):
        if k == n or key != <PyObject *>PyList_GET_ITEM(known, k):
            return False
        if (value != <PyObject *>PyList_GET_ITEM(known, k + 1)
                and <PyObject *>PyList_GET_ITEM(known, k + 1) != <PyObject *>ANY_VALUE):
            return False
        k += 2
    return k == n
