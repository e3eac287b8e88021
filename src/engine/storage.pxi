# How a state is stored: the options of a group decide.
#
# A rule computes in float32 or float64. The arrays of its state, and the parameter itself, may be kept in fewer bits;
# what a codec keeps beside the elements is an entry of the state, too:
#     param_remainder     of a bfloat16 parameter: the lower 16 bits of its float32 value
#     param_master        the float32 value itself
#     NAME_scale          of a state array of 8 bits: a scale for each 256 elements
#     rounding_key        what random bits of the coming step are drawn from, where numbers are rounded by such

cdef str REMAINDER = "param_remainder"
cdef str MASTER = "param_master"
cdef str ROUNDING_KEY = "rounding_key"
cdef str SCALE_SUFFIX = "_scale"

cdef Py_ssize_t LEAST_SCALED = 4096     # elements of a tensor whose state is worth 8 bits

# The options, and what a group without them has.
STORAGE_OPTIONS = {"state_dtype": None, "master": "auto", "rounding": "stochastic", "seed": 0}

# By the name of a type: its codec and the one that rounds by random bits, of numbers of any sign, and of those that are
# not negative. bfloat16 has the range of float32: what is flushed to 0 there is 0 in a step, too.
STORAGE_TYPES = {
    "float32": ((FLOAT32, FLOAT32), (FLOAT32, FLOAT32)),
    "float64": ((FLOAT64, FLOAT64), (FLOAT64, FLOAT64)),
    "bfloat16": ((BFLOAT16, BFLOAT16_STOCHASTIC), (BFLOAT16, BFLOAT16_STOCHASTIC)),
    "float16": ((FLOAT16, FLOAT16_STOCHASTIC), (FLOAT16_POSITIVE, FLOAT16_POSITIVE_STOCHASTIC)),
    "float8_e4m3fn": ((FLOAT8, FLOAT8), (FLOAT8_POSITIVE, FLOAT8_POSITIVE)),
    "dynamic8": ((DYNAMIC8, DYNAMIC8), (DYNAMIC8_POSITIVE, DYNAMIC8_POSITIVE)),
}

cdef dict CODEC_NAMES = {code: name for name, code in CODECS.items()}

# State arrays that are never negative: what is divided by, or by the root of.
NONNEGATIVE = frozenset([
    "exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum", "acc_delta", "exp_inf", "exp_avg_var", "max_exp_avg_var",
    "hessian", "v", "step_size",
])

cdef object dtype_of_codec(int code):
    """The dtype of an array that is stored by a codec."""
    if code in (FLOAT32, FLOAT64):
        return FLOAT32_DTYPE if code == FLOAT32 else FLOAT64_NUMBER
    if code in (BFLOAT16, BFLOAT16_STOCHASTIC, BFLOAT16_SPLIT, BFLOAT16_MASTER):
        return DTYPES["bfloat16"].numpy
    if code in (DYNAMIC8, DYNAMIC8_POSITIVE):
        return np.dtype(np.uint8)
    if code in (FLOAT8, FLOAT8_POSITIVE):
        return dtype_beyond_numpy("float8_e4m3fn")
    return DTYPES["float16"].numpy


cdef tuple OPTION_NAMES = tuple(STORAGE_OPTIONS)


cdef bint has_storage(dict group) except -1:
    """Whether a group says how its state is stored."""
    for name in OPTION_NAMES:
        if name in group:
            return True
    return False


cdef inline object storage_option(dict group, str name):
    return group.get(name, STORAGE_OPTIONS[name])


cdef bint is_stochastic(dict group) except -1:
    return storage_option(group, "rounding") == "stochastic"


cpdef int param_codec(view, dict group) except -1:
    """How a parameter of a group is stored."""
    cdef int code = dtype_code(view)
    if code <= FLOAT64:
        return code
    master = storage_option(group, "master")
    if master == "auto":
        master = "split" if code == BFLOAT16 else "float32"
    if master == "split":
        return BFLOAT16_SPLIT
    if master == "float32":
        return BFLOAT16_MASTER if code == BFLOAT16 else FLOAT16_MASTER
    if not is_stochastic(group):
        return code
    return BFLOAT16_STOCHASTIC if code == BFLOAT16 else FLOAT16_STOCHASTIC


cpdef int state_codec(Rule rule, str name, view, dict group) except -1:
    """How an array of the state of a parameter is stored, by a rule."""
    cdef object plain = arithmetic_dtype(view)
    cdef int own = FLOAT32 if plain.char in "fF" else FLOAT64, code
    cdef object asked = None if group is None else storage_option(group, "state_dtype")
    if isinstance(asked, dict):
        asked = asked.get(name)
    elif rule.copies_param(name):       # in the precision of the parameter, unless its name asks for another
        asked = None
    if name in rule.types:
        return DTYPES[rule.types[name]].code
    if asked is None or name in rule.slices or cnp.PyArray_ISCOMPLEX(<cnp.ndarray>view):
        return own
    code = STORAGE_TYPES[asked][name in NONNEGATIVE][is_stochastic(group)]
    return own if codec_has_scales(code) and not can_be_scaled(rule, view, group) else code


cdef inline Py_ssize_t blocks_of(Py_ssize_t size) noexcept nogil:
    """How many scales so many elements have."""
    return (size + SCALED_TOGETHER - 1) // SCALED_TOGETHER


cdef bint can_be_scaled(Rule rule, view, dict group) except -1:
    """Whether blocks that share a scale are whole in every pass, and the tensor large enough to be worth it."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(<cnp.ndarray>view), count
    if size < LEAST_SCALED:
        return False
    if rule.scope != PER_ROW:
        return True
    count = rule.unit_count((<object>view).shape, group)
    return count > 0 and (size // count) % SCALED_TOGETHER == 0


def stored_dtype_of(Rule rule not None, str name not None, view not None, dict group) -> np.dtype:
    """The dtype of a state array of a parameter, as a group's options ask for it."""
    dtype = dtype_of_codec(state_codec(rule, name, view, group))
    return np.dtype(f"c{2 * dtype.itemsize}") if cnp.PyArray_ISCOMPLEX(<cnp.ndarray>view) else dtype


def companions(Rule rule not None, view not None, dict group) -> dict:
    """The entries of a parameter's state that codecs keep beside elements: the shape and dtype of each."""
    cdef int code
    cdef dict found = {}
    cdef Py_ssize_t size = cnp.PyArray_SIZE(<cnp.ndarray>view)
    cdef bint random
    if group is None or not (is_sixteen(view) or has_storage(group)):
        return found
    code = param_codec(view, group)
    random = codec_is_stochastic(code)
    if code == BFLOAT16_SPLIT:
        found[REMAINDER] = (<object>view).shape, np.dtype(np.int16)
    elif code in (BFLOAT16_MASTER, FLOAT16_MASTER):
        found[MASTER] = (<object>view).shape, FLOAT32_DTYPE
    for name in rule.states:
        code = state_codec(rule, name, view, group)
        random = random or codec_is_stochastic(code)
        if codec_has_scales(code):
            found[name + SCALE_SUFFIX] = (blocks_of(size),), FLOAT32_DTYPE
    if random:
        found[ROUNDING_KEY] = (), np.dtype(np.int64)
    return found


cdef inline uint64_t next_key(uint64_t key) noexcept nogil:
    return mixed(key + <uint64_t>0x9E3779B97F4A7C15)


cdef int64_t first_key(dict group, Py_ssize_t number) except? -1:
    """What random bits of a parameter's first step are drawn from."""
    cdef object seed = storage_option(group, "seed")
    return <int64_t>next_key(next_key(<uint64_t>(int(seed) & 0xFFFFFFFFFFFFFFFF)) ^ <uint64_t>number)


cdef tuple storage_options(dict group):
    """What a group says of how its state is stored, to be compared."""
    return tuple([repr(storage_option(group, name)) for name in OPTION_NAMES]) if has_storage(group) else SAID_NOTHING


cdef tuple SAID_NOTHING = tuple(map(repr, STORAGE_OPTIONS.values()))


cdef int check_storage_kept(dict group, tuple before) except -1:
    """Refuse another way to store than that of the state that is there."""
    cdef tuple now = storage_options(group)
    if now is before:       # as of almost all groups
        return 0
    for name, old, new in zip(OPTION_NAMES, before, now):
        if new != old:
            raise ValueError(
                f"{name} is {new}, expected {old} as when the state began: write {name} = {old}, or make a new "
                f"optimizer with {name}={new} and load the state_dict() of this one")
    return 0


def in_arithmetic(cnp.ndarray view not None, bint by_rows=False) -> np.ndarray:
    """An empty array like a parameter in the type in which rules compute; in C order if that is another, or rules
    need rows."""
    dtype = arithmetic_dtype(view)
    return np.empty_like(view, dtype, order="K" if dtype is view.dtype and not by_rows else "C", subok=False)


cdef object recoded(object value, object scale, str name, object dtype, int code, object view, object what):
    """A state array in another type: its elements, as a codec stores them, and its scales or None."""
    cdef object wide = widened(value, scale, name, what)
    if wide.shape != view.shape:
        raise ValueError(f"{what} has shape {wide.shape}, expected {view.shape}")
    stored = np.empty(view.shape, dtype)
    scales = np.zeros(blocks_of(view.size), np.float32) if codec_has_scales(code) else None
    if code <= FLOAT64:
        stored[...] = wide
    else:
        encode_array(np.asarray(wide, np.float32, order="C"), stored, scales, CODEC_NAMES[code])
    return stored, scales


def widened(value, scale=None, str name="", what="the array") -> np.ndarray:
    """The elements of a state array that may be stored in fewer bits, as float32 or float64."""
    cdef const Stored *stored
    cdef int code
    value = np.asarray(value)
    kind = name_of_dtype(value.dtype)
    if kind in ("uint8", "float8_e4m3fn"):
        code = DYNAMIC8 if kind == "uint8" else FLOAT8
        if name in NONNEGATIVE:
            code = DYNAMIC8_POSITIVE if code == DYNAMIC8 else FLOAT8_POSITIVE
        scale = None if scale is None else np.asarray(scale, np.float32, order="C")
        if scale is None or scale.size != blocks_of(value.size):
            raise ValueError(f"{what} has 8 bits, and {name + SCALE_SUFFIX!r} no scale for each 256 elements of it")
        return decode_array(np.asarray(value, order="C"), scale, CODEC_NAMES[code])
    if not is_dtype(value.dtype):
        raise TypeError(f"{what} has dtype {value.dtype}, expected numbers that can be converted")
    code = dtype_code(<cnp.ndarray>value)
    return value if code <= FLOAT64 else decode_array(np.asarray(value, order="C"), None, CODEC_NAMES[code])


cdef int decode_into(cnp.ndarray stored, cnp.ndarray out) except -1:
    """The elements of a dense array of 16 bits, in a float32 array of its layout."""
    cdef int code = dtype_code(stored)
    cdef Py_ssize_t start = 0, size = cnp.PyArray_SIZE(stored), n
    cdef float *values = <float *>cnp.PyArray_DATA(out)
    while start < size:
        n = min(<Py_ssize_t>MOST_DECODED, size - start)
        KERNELS.decode(code, cnp.PyArray_DATA(stored), NULL, values + start, start, n)
        start += n
    return 0


cdef int encode_from(cnp.ndarray values, cnp.ndarray stored) except -1:
    """Round a float32 array to nearest into a dense one of 16 bits, of its layout."""
    cdef int code = dtype_code(stored)
    cdef Py_ssize_t start = 0, size = cnp.PyArray_SIZE(stored), n
    cdef const float *given = <const float *>cnp.PyArray_DATA(values)
    while start < size:
        n = min(<Py_ssize_t>MOST_DECODED, size - start)
        KERNELS.encode(code, given + start, cnp.PyArray_DATA(stored), NULL, 0, start, n)
        start += n
    return 0
