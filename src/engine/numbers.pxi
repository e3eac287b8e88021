# What a rule's state holds beside arrays: the step count and single numbers.


cdef bint is_counter(object value):
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_INT64
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def make_counter(value, label):
    """A step count as it is kept in the state: an int64 array without axes."""
    number = 0 if value is None else float(value)
    if not (isfinite(number) and number >= 0 and number == int(number)):
        raise ValueError(f"state 'step' of {label} is {value}, expected a whole number >= 0")
    return np.array(int(number), dtype=np.int64)


cdef bint is_number(object value):
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_FLOAT
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def make_number(value, label):
    """A number of a rule's memory as it is kept in the state: float32, as in torch."""
    try:
        return np.array(float(value), dtype=np.float32)
    except (TypeError, ValueError):
        raise TypeError(f"{label} is {value!r}, expected a number") from None


def memory_names() -> frozenset:
    """Names of the numbers that rules remember in the state."""
    return frozenset([name for names in RULE_MEMORY for name in names])
