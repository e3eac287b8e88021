# The description of a rule: its scalars, its state, and their initial values.

RULES = {}                      # by name, to be read from Python
cdef dict RULE_BY_NAME = {}     # the same, which Python cannot change
cdef list RULE_LIST = []        # by number

# Scalars that are a part of an option; the others have an option's name, or are computed.
cdef dict PARTS = {
    "beta1": ("betas", 0), "beta2": ("betas", 1), "beta3": ("betas", 2),
    "beta1_1d": ("betas_1d", 0), "beta2_1d": ("betas_1d", 1),
    "eta_minus": ("etas", 0), "eta_plus": ("etas", 1),
    "least_step": ("step_sizes", 0), "most_step": ("step_sizes", 1),
}

# What None stands for as an option, beside no bound: see `option`.
cdef dict NONE_VALUES = {"alpha_warmup": 0.0, "beta1_warmup": 0.0, "beta3_warmup": 0.0, "clip_lambda": INFINITY}

# The scalar that is the norm of all gradients, which are then measured before the step, and the one that bounds it:
# where the bound is infinite or zero, nothing is measured.
cdef str NORM_NAME = "total_norm"
cdef str BOUND_NAME = "max_grad_norm"


# What follows the name of an option that may be None.
cdef str GIVEN = "_if_given"


# Where a scalar comes from.
cdef enum:
    OPTION
    PART
    IF_GIVEN        # an option, or NaN where it is None
    SIGN
    L2
    SHRINK
    SWITCH          # whether the decay is cautious: an option that may be absent
    CONSTANT        # of the rule itself
    COMPUTED        # by the clock, by the finish, or by the engine itself
    NUMBER          # a number of the group


cdef int source_of(str scalar, frozenset computed, tuple numbers) except -1:
    if scalar in computed:
        return COMPUTED
    if scalar in numbers:
        return NUMBER
    if scalar in PARTS:
        return PART
    if scalar.endswith(GIVEN):
        return IF_GIVEN
    return {"sign": SIGN, "l2": L2, "shrink": SHRINK, "cautious_decay": SWITCH}.get(scalar, OPTION)


cdef class Rule:
    """An update of parameters, as the table of rules has it.

    Attributes
    ----------
    name : str
    number : int
        Its place in the table.
    scalars : tuple of str
        Names, in the order of its struct.
    computed : frozenset of str
        Those of them that are not options: its clock or its finish computes them.
    states : tuple of str
        The state arrays, in the order of the streams.
    carried : tuple of str
        The numbers of the state that its clock carries on, float32 as in torch, or float64.
    numbers : tuple of str
        The float64 numbers that its finish advances: one for each row of a parameter, or for each
        parameter, in the state; or for each group, among its options.
    constants : dict
        Scalars that are always the same.
    starts : dict
        What arrays and numbers begin with, other than 0: a number, the name of an option, or "param" for a
        copy of the parameter.
    types : dict
        The types in which arrays are stored, other than the parameter's, and carried numbers, other than
        float32.
    slices : tuple of str
        The state arrays that are flat, with every n-th element of the parameter in C order.
    slice : str or None
        The option that says which.
    segment : str or None
        The option that says how many elements a row has, in C order; None: a row is an index of the first axis.
    scope : int
        What it takes sums over: 0 nothing, 1 rows, 2 tensors, 3 groups, 4 all groups that have a rule of this
        scope, which then have the same numbers.
    measures : bool
        Whether it has a pass that takes sums.
    again : bool
        Whether it has a second one.
    """

    cdef readonly str name
    cdef readonly int number, scope
    cdef readonly tuple scalars, states, carried, numbers
    cdef readonly frozenset computed
    cdef readonly dict constants, starts, types
    cdef readonly bint measures
    cdef readonly tuple slices
    cdef readonly str slice, segment
    cdef readonly bint again    # it takes sums twice
    cdef bint combines          # it looks at all rows of a tensor first
    cdef bint decouples         # weight decay may be apart from the gradient
    cdef int norm, bound        # which scalars are the norm of all gradients, and its bound; -1: none
    cdef bint couples           # it may be in the gradient
    cdef int sources[MAX_SCALARS]

    def __cinit__(self, str name not None, dict about not None):
        scalars = about["scalars"]
        if len(scalars) > MAX_SCALARS:
            raise ValueError(f"rule {name} has {len(scalars)} scalars, expected {MAX_SCALARS} or fewer")
        entries = (*about["states"], *about["carried"], *about["numbers"])
        self.name, self.number, self.scalars = name, about["number"], scalars
        self.scope, self.measures, self.combines = about["scope"], about["measures"], about["combines"]
        self.again = about.get("again", False)
        self.constants = about["constants"]
        self.slices, self.slice = about.get("slices", ()), about.get("slice")
        self.segment = about.get("segment")
        self.computed = about["computed"] | ({NORM_NAME} & set(scalars))
        self.starts = {entry[0]: entry[1] for entry in entries if isinstance(entry, tuple)}
        self.types = {entry[0]: entry[2] for entry in entries if isinstance(entry, tuple) and len(entry) > 2}
        self.states = tuple([name_of(entry) for entry in about["states"]])
        self.carried = tuple([name_of(entry) for entry in about["carried"]])
        self.numbers = tuple([name_of(entry) for entry in about["numbers"]])
        self.decouples = "shrink" in scalars and "shrink" not in self.computed
        self.couples = "l2" in scalars
        self.norm = scalars.index(NORM_NAME) if NORM_NAME in scalars else -1
        self.bound = scalars.index(BOUND_NAME) if BOUND_NAME in scalars else -1
        if self.norm >= 0 and self.bound < 0:
            raise ValueError(f"rule {name} has a scalar {NORM_NAME}, but no {BOUND_NAME}")
        for k, scalar in enumerate(scalars):
            self.sources[k] = (CONSTANT if scalar in self.constants
                               else source_of(scalar, self.computed, self.group_numbers))

    @property
    def group_numbers(self) -> tuple:
        """The numbers that a group has among its options."""
        return self.numbers if self.scope >= PER_GROUP else ()

    @property
    def unit_numbers(self) -> tuple:
        """The numbers that the state of a parameter has."""
        return self.numbers if self.scope < PER_GROUP else ()

    @property
    def entries(self) -> tuple:
        """All that the state of a parameter has."""
        return self.states + self.carried + self.unit_numbers

    @property
    def options(self) -> tuple:
        """The options that it reads, but for ``maximize``."""
        cdef list names = []
        for k, scalar in enumerate(self.scalars):
            if self.sources[k] == OPTION:
                names.append(scalar)
            elif self.sources[k] == PART:
                names.append(PARTS[scalar][0])
            elif self.sources[k] == IF_GIVEN:
                names.append(scalar[:-len(GIVEN)])
            elif self.sources[k] in (L2, SHRINK):
                names.append("weight_decay")
        return tuple(dict.fromkeys(names))

    def kind_of(self, str name) -> str | None:
        """What a state entry is: "array" of the parameter's shape, "carried", "number", or None if the rule has
        none of this name."""
        if name in self.states:
            return "array"
        if name in self.carried:
            return "carried"
        return "number" if name in self.unit_numbers else None

    def shape_of(self, str name not None, tuple shape not None, dict group=None) -> tuple:
        """The shape of a state entry of a parameter of this shape, in a group of these options."""
        kind = self.kind_of(name)
        if name in self.slices:
            return (-(-prod(shape) // self.slice_of(group)),)
        if kind == "array":
            return shape
        if kind == "number" and self.segment is not None:
            return (self.unit_count(shape, group), 1)
        if kind == "number" and self.scope == PER_ROW and shape:
            return (self.unit_count(shape, group),) + (1,) * (len(shape) - 1)
        return ()

    cdef Py_ssize_t unit_count(self, tuple shape, dict group) except -1:
        """How many units a parameter of this shape has, if it has any."""
        if self.segment is None:
            return shape[0] if self.scope == PER_ROW and len(shape) > 1 else 1
        cdef Py_ssize_t size = prod(shape), n = whole_option(group, self.segment)
        if size % n:
            raise ValueError(f"{self.segment} is {n}, expected a divisor of {size}, the elements of shape {shape}")
        return size // n

    cdef object slice_of(self, dict group):
        """Which elements a slice has: every so many."""
        if group is None or self.slice not in group:
            return 1
        return whole_option(group, self.slice)

    def dtype_of(self, str name not None, dtype) -> np.dtype:
        """The dtype of a state entry of a parameter of this dtype."""
        kind = self.kind_of(name)
        if kind == "array":
            return stored_dtype(self.types.get(name), dtype)
        return np.dtype(self.types.get(name, "float32") if kind == "carried" else np.float64)

    def start_of(self, str name, dict group) -> float:
        """The initial value of a state entry, or of a number of a group; NaN for a copy of the parameter."""
        start = self.starts.get(name, 0.0)
        if self.copies_param(name):
            return NAN
        return option(group, start) if isinstance(start, str) else start

    cdef bint copies_param(self, str name) except -1:
        """Whether a state array begins as a copy of the parameter."""
        return self.starts.get(name) == "param"

    def values(self, dict group) -> list:
        """The scalars that the options of a group give; NaN in the place of those that are computed."""
        cdef Py_ssize_t k
        return [self.value(k, group) for k in range(len(self.scalars))]

    cdef double value(self, Py_ssize_t k, dict group) except? -1:
        """The k-th scalar."""
        cdef int source = self.sources[k]
        cdef double number
        if source == COMPUTED:
            return NAN
        if source == CONSTANT:
            return self.constants[self.scalars[k]]
        if source == SWITCH:
            return bool(group.get("cautious_wd")) and self._is_decoupled(group)
        if source == NUMBER and self.scalars[k] not in group:     # before the first step
            return self.start_of(self.scalars[k], group)
        if source == OPTION or source == NUMBER:
            number = option(group, self.scalars[k])
            return INFINITY if k == self.bound and number == 0 else number
        if source == PART:
            return part(group, <tuple>PARTS[self.scalars[k]])
        if source == IF_GIVEN:
            name = self.scalars[k][:-len(GIVEN)]
            return NAN if group[name] is None else option(group, name)
        if source == SIGN:
            return -1.0 if group.get("maximize") else 1.0
        if source == L2:
            return 0.0 if self._is_decoupled(group) else option(group, "weight_decay")
        if not self._is_decoupled(group):
            return 1.0
        return 1.0 - option(group, "lr") * option(group, "weight_decay")

    cdef bint _is_decoupled(self, dict group) except -1:
        # Groups that have no such option decouple it.
        return self.decouples and (not self.couples or group.get("decoupled_weight_decay", True))

    def is_element_wise(self, dict group not None) -> bool:
        """Whether an element's update depends on no other element, with the options of a group."""
        if self.measures or self.scope not in (0, PER_GROUP):
            return False
        return self.norm < 0 or self.value(self.bound, group) == INFINITY

    @property
    def is_cautious(self) -> bool:
        """Whether it is the cautious form of another rule."""
        return self.name.endswith(("_caution", "_cautious_wd"))

    def form_for(self, dict group not None, tuple known not None):
        """The form of the rule that the known ones of the group's options ask for: a cautious one, or the rule itself."""
        cdef bint caution = "caution" in known and bool(group.get("caution"))
        cdef bint cautious_wd = "cautious_wd" in known and bool(group.get("cautious_wd"))
        if cautious_wd and not self._is_decoupled(group):
            raise ValueError("cautious_wd=True requires decoupled weight decay")
        suffix = "_caution" if caution else "_cautious_wd" if cautious_wd else ""
        if self.name + suffix not in RULE_BY_NAME:
            raise ValueError(f"{suffix[1:]}=True requires a momentum")
        return rule_named(self.name + suffix)

    def __repr__(self):
        return f"<rule {self.name}>"


cdef str name_of(entry):
    return entry[0] if isinstance(entry, tuple) else entry


cdef inline double option(dict group, str name) except? -1:
    """An option as a number. None is no bound where the option is one, by its name."""
    value = group[name]
    if type(value) is float or (type(value) is int and 0 <= value < 1_000_000):
        return <double>value
    if value is None and name.startswith("max_"):
        return INFINITY
    if value is None and name in NONE_VALUES:
        return NONE_VALUES[name]
    return as_double(name, value)


cdef Py_ssize_t whole_option(dict group, str name) except -1:
    cdef double n = option(group, name)
    if not (1 <= n <= 2.0**53 and n == <Py_ssize_t>n):
        raise ValueError(f"{name} is {group[name]}, expected a whole number from 1 to 2**53")
    return <Py_ssize_t>n


cdef inline double part(dict group, tuple place) except? -1:
    value = group[place[0]][<int>place[1]]
    return <double>value if type(value) is float else as_double(f"{place[0]}[{place[1]}]", value)


cdef double as_double(str name, value) except? -1:
    if is_double(value):
        return (<double *>cnp.PyArray_DATA(<cnp.ndarray>value))[0]
    try:
        if cnp.PyArray_Check(value) and cnp.PyArray_NDIM(<cnp.ndarray>value) != 0:
            value = value.item()    # of an array of one element
        return value
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}: {value!r}") from None


cpdef Rule rule_of(optimizer, dict group):
    """The rule that steps a group, in the form that its options ask for; None: it has none."""
    return form_of(optimizer, optimizer._rule_of(group), group)


cpdef Rule rule_apart(optimizer, dict group):
    """The rule of the parameters of a group that are set apart; None: they have none."""
    return form_of(optimizer, optimizer._rule_apart(group), group)


cdef Rule form_of(optimizer, name, dict group):
    if name is None:
        return None
    known = optimizer._cautious_options
    return rule_named(name).form_for(group, known) if known else rule_named(name)


cpdef Rule rule_named(name):
    """The rule of this name in the table."""
    rule = RULE_BY_NAME.get(name)
    if rule is None:
        raise ValueError(f"there is no rule {name!r}")
    return rule


cdef object stored_dtype(str stored, object dtype):
    """The dtype of an array that is stored as this type beside a parameter of a dtype."""
    if stored is None:
        return dtype
    return DTYPES[stored].complex if dtype.kind == "c" else DTYPES[stored].numpy
