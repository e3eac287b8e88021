# The options of a group, and the rows of scalars made of them.

cdef int fill_row(Row *row, Rule rule, values) except -1:
    """Set a row from a rule and its scalars."""
    cdef Py_ssize_t k = 0
    if len(values) != len(rule.scalars):
        raise TypeError(
            f"rule {rule.name} takes {len(rule.scalars)} scalars, got {len(values)}"
        )
    row.rule = rule.number
    for value in values:
        row.scalars[k] = value
        k += 1
    return 0


cdef int fill_template(Row *row, Rule rule, dict group) except -1:
    """Set a row from a rule and the options of a group; None: the group has no rule."""
    cdef Py_ssize_t k
    row.rule = -1
    if rule is None:
        return 0
    row.rule = rule.number
    for k in range(PyTuple_GET_SIZE(rule.scalars)):
        row.scalars[k] = rule.value(k, group)
    return 0


cdef inline bint same_carried(const Row *row, const double *carried) noexcept:
    return memcmp(row.before, carried, MAX_CARRIED * sizeof(double)) == 0


cdef bint _is_constant(object value):
    # Values of these types cannot change in place; an array or a tensor can.
    if isinstance(value, tuple):
        return all([_is_constant(item) for item in value])
    if isinstance(value, np.generic):
        return not value.dtype.hasobject and value.dtype.kind != "V"
    return value is None or type(value) in (float, int, bool, str)


cdef bint has_text_or_nan(dict options) noexcept:
    cdef Py_ssize_t position = 0
    cdef PyObject *key
    cdef PyObject *value
    cdef ObjectGuard guard
    cdef bint found = False
    object_lock(&guard, options)
    while not found and PyDict_Next(options, &position, &key, &value):
        found = isinstance(<object>value, str)
        if type(<object>value) is float:
            found = <double><object>value != <double><object>value
    object_unlock(&guard)
    return found


cdef object check_switches(object options, object optimizer):
    from cyoptim._groups import options as checks
    checks.check_switches(options, optimizer)


cdef str explain_options(object options, object defaults, object error):
    from cyoptim._groups import options as checks
    return checks.explain_options(options, defaults, error)


cdef object ANY_VALUE = object()    # in the place of one that is no option


cdef list constant_options(dict options, Rule rule):
    """The group's keys and option values in turn, to be compared by identity; None if any value may
    change in place. The rule's numbers do so by its steps alone."""
    cdef list known = []
    cdef tuple numbers = () if rule is None else rule.group_numbers
    for key, value in options.items():
        if key == "params" or key == "param_names":
            value = ANY_VALUE
        elif not (_is_constant(value) or key in numbers):
            return None
        known.append(key)
        known.append(value)
    return known


cdef bint same_options(dict options, list known) noexcept:
    """Whether no option has changed. Keys, too, are compared by identity: to compare strings would
    take a quarter of a small step, and other keys are looked at in detail."""
    cdef Py_ssize_t position = 0, k = 0, n = PyList_GET_SIZE(known)
    cdef PyObject *key
    cdef PyObject *value
    cdef ObjectGuard guard
    cdef bint same = True
    object_lock(&guard, options)
    while PyDict_Next(options, &position, &key, &value):
        if (k == n or key != <PyObject *>PyList_GET_ITEM(known, k)
                or (value != <PyObject *>PyList_GET_ITEM(known, k + 1)
                    and <PyObject *>PyList_GET_ITEM(known, k + 1) != <PyObject *>ANY_VALUE)):
            same = False
            break
        k += 2
    object_unlock(&guard)
    return same and k == n
