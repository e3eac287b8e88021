# What a rule says of itself: its scalars, its state, and what they begin with.

RULES = {}                      # by name, to be read from Python
cdef dict RULE_BY_NAME = {}     # the same, which Python cannot change
cdef list RULE_LIST = []        # by number

# Scalars that are a part of an option; the others have an option's name, or are by the clock.
cdef dict PARTS = {
    "beta1": ("betas", 0), "beta2": ("betas", 1),
    "eta_minus": ("etas", 0), "eta_plus": ("etas", 1),
    "least_step": ("step_sizes", 0), "most_step": ("step_sizes", 1),
}


# Where a scalar comes from.
cdef enum:
    OPTION
    PART
    SIGN
    L2
    SHRINK
    CLOCK


cdef int source_of(str scalar, frozenset clocked) except -1:
    if scalar in clocked:
        return CLOCK
    if scalar in PARTS:
        return PART
    return {"sign": SIGN, "l2": L2, "shrink": SHRINK}.get(scalar, OPTION)


cdef class Rule:
    """An update of single elements, as the table of rules has it.

    Attributes
    ----------
    name : str
    number : int
        Its place in the table.
    scalars : tuple of str
        Names, in the order of its struct.
    clocked : frozenset of str
        Those of them that are not options: its clock computes them.
    states : tuple of str
        The state arrays, in the order of the streams.
    memory : tuple of str
        The numbers that it remembers in the state.
    starts : dict
        What arrays and numbers begin with, other than 0: a number, or the name of an option.
    """

    cdef readonly str name
    cdef readonly int number
    cdef readonly tuple scalars, states, memory
    cdef readonly frozenset clocked
    cdef readonly dict starts
    cdef bint decouples         # weight decay may be apart from the gradient
    cdef int sources[MAX_SCALARS]

    def __cinit__(self, str name not None, int number, tuple scalars not None,
                  frozenset clocked not None, tuple states not None, tuple memory not None):
        if len(scalars) > MAX_SCALARS:
            raise ValueError(f"rule {name} has {len(scalars)} scalars, expected {MAX_SCALARS} or fewer")
        self.name, self.number, self.scalars, self.clocked = name, number, scalars, clocked
        self.starts = dict([entry for entry in states + memory if isinstance(entry, tuple)])
        self.states = tuple([name_of(entry) for entry in states])
        self.memory = tuple([name_of(entry) for entry in memory])
        self.decouples = "shrink" in scalars and "shrink" not in clocked
        for k, scalar in enumerate(scalars):
            self.sources[k] = source_of(scalar, clocked)

    def start_of(self, str name, dict group) -> float:
        """What a state entry begins with in this group."""
        start = self.starts.get(name, 0.0)
        return option(group, start) if isinstance(start, str) else start

    def values(self, dict group) -> list:
        """The scalars that the options of a group give; NaN in the place of the clock's."""
        cdef Py_ssize_t k
        return [self.value(k, group) for k in range(len(self.scalars))]

    cdef double value(self, Py_ssize_t k, dict group) except? -1:
        """The k-th scalar."""
        cdef int source = self.sources[k]
        if source == CLOCK:
            return NAN
        if source == OPTION:
            return option(group, self.scalars[k])
        if source == PART:
            return part(group, <tuple>PARTS[self.scalars[k]])
        if source == SIGN:
            return -1.0 if group.get("maximize") else 1.0
        if source == L2:
            return 0.0 if self._is_decoupled(group) else option(group, "weight_decay")
        if not self._is_decoupled(group):
            return 1.0
        return 1.0 - option(group, "lr") * option(group, "weight_decay")

    cdef bint _is_decoupled(self, dict group) except -1:
        return self.decouples and group["decoupled_weight_decay"]

    def __repr__(self):
        return f"<rule {self.name}>"


cdef str name_of(entry):
    return entry[0] if isinstance(entry, tuple) else entry


cdef inline double option(dict group, str name) except? -1:
    value = group[name]
    if type(value) is float or (type(value) is int and 0 <= value < 1_000_000):
        return <double>value
    return as_double(name, value)


cdef inline double part(dict group, tuple place) except? -1:
    value = group[place[0]][<int>place[1]]
    return <double>value if type(value) is float else as_double(f"{place[0]}[{place[1]}]", value)


cdef double as_double(str name, value) except? -1:
    try:
        if cnp.PyArray_Check(value) and cnp.PyArray_NDIM(<cnp.ndarray>value) != 0:
            value = value.item()    # of an array of one element
        return value
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}") from None


cdef Rule rule_of(optimizer, dict group):
    """The rule that steps a group."""
    return rule_named(optimizer._rule_of(group))


cpdef Rule rule_named(name):
    """The rule of this name in the table."""
    rule = RULE_BY_NAME.get(name)
    if rule is None:
        raise ValueError(f"there is no rule {name!r}")
    return rule


def state_names() -> frozenset:
    """Names of the state arrays that have their parameter's shape."""
    return frozenset([name for rule in RULE_LIST for name in rule.states])


def memory_names() -> frozenset:
    """Names of the numbers that rules remember in the state."""
    return frozenset([name for rule in RULE_LIST for name in rule.memory])
