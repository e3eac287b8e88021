# Entries of a rule's state that are not arrays: the step count and single numbers.

cdef int64_t MOST_STEPS = 2**63 - 2     # where counting ends: bias corrections are long over


cdef object FLOAT64_NUMBER = np.dtype(np.float64)   # of numbers that a finish advances


cdef inline bint is_double(object value):
    """Whether this is a double without axes, which C can read and write."""
    return (cnp.PyArray_CheckExact(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_DOUBLE
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0 and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


cdef bint is_counter(object value):
    return (cnp.PyArray_Check(value) and cnp.PyArray_TYPE(<cnp.ndarray>value) == cnp.NPY_INT64
            and cnp.PyArray_NDIM(<cnp.ndarray>value) == 0
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def next_count(count) -> int:
    """The count of one step more."""
    return min(count + 1, MOST_STEPS)


def whole_count(value, what) -> int:
    """A step count in whichever form it comes, to its last bit."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{what} is {value!r}, expected a whole number >= 0")
    try:
        try:
            number = index(value)
        except TypeError:           # a float, or an array or tensor of floats
            number = float(value)
            if number != number or number in (INFINITY, -INFINITY) or number != int(number):
                raise ValueError
            number = int(number)
    except TypeError:
        raise TypeError(f"{what} is {value!r}, expected a whole number >= 0") from None
    except (ValueError, RuntimeError):
        number = -1
    if not 0 <= number <= MOST_STEPS:
        raise ValueError(f"{what} is {value}, expected a whole number from 0 to 2**63 - 2")
    return number


def make_counter(value, label, Room room=None):
    """A step count as it is kept in the state: an int64 array without axes."""
    number = 0 if value is None else whole_count(value, f"state 'step' of {label}")
    if room is None:
        return np.array(number, dtype=np.int64)
    return room.number("step", number, np.int64)


cdef bint is_number(object value, object dtype, tuple shape):
    """Whether these are numbers that a kernel can read and write where they are."""
    if not cnp.PyArray_Check(value):
        return False
    found = value.dtype
    return ((found is dtype or found == dtype) and (<object>value).shape == shape
            and cnp.PyArray_ISCARRAY(<cnp.ndarray>value))


def is_usable(value, tuple shape not None, dtype not None) -> bool:
    """Whether an update can use an entry of the state as it is: an array of this shape and dtype, without gaps."""
    return is_number(value, dtype, shape) or (
        cnp.PyArray_Check(value) and value.dtype == dtype and (<object>value).shape == shape
        and cnp.PyArray_ISBEHAVED(<cnp.ndarray>value) and layout_of(value) == DENSE)


def make_number(value, what, str name=None, Room room=None, dtype=None, tuple shape=()):
    """A number of a rule as it is kept in the state, or one for each unit: float32 where the rule's clock
    advances it, as in torch."""
    dtype = np.dtype(np.float32 if dtype is None else dtype)
    try:
        if shape == ():
            number = np.array(float(value), dtype=dtype)
        else:
            number = np.array(np.broadcast_to(np.asarray(value, dtype=dtype), shape), order="C")
    except (TypeError, ValueError, RuntimeError, OverflowError):
        wanted = "a number" if shape == () else f"numbers of shape {shape}"
        raise TypeError(f"{what} is {value!r}, expected {wanted}") from None
    if shape != () or room is None:
        return number
    return room.number(name, number, dtype)
