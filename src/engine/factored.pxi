# The steps of Adafactor's family.

cdef Py_ssize_t STEPPED_BY_ONE = 65536      # elements of parameters that one thread steps, and many threads side by side
cdef Py_ssize_t LEAST_HEIGHT = 64           # rows of a block: with fewer, there are many sums of columns

def set_stepped_by_one(Py_ssize_t elements) -> int:
    """For tests: the largest parameter that one thread steps; returns what it was."""
    global STEPPED_BY_ONE
    before = STEPPED_BY_ONE
    STEPPED_BY_ONE = elements
    return before


cdef enum:
    FACTORED_ARRAYS = 7     # at most: parameter, average, those along rows and columns, of the residual, too, and the count

cdef struct Place:
    const void *data
    Py_ssize_t size

FACTORED_NUMBERS = ("weight", "eps", "residual_weight", "residual_eps", "most", "least_mean", "least_scale", "threshold",
                    "sign", "rate", "keep", "rest", "decay")


cdef class FactoredStep:
    """A step of a parameter by a rule of Adafactor's family, which a :class:`Commit` makes.

    Parameters
    ----------
    param, moment : ndarray
        In C order and of one shape and real dtype; the last two axes make a matrix. `moment`, the average of the
        scaled gradient, may be None.
    squares : tuple of ndarray
        The averages of squares along rows and along columns, with an element for each row, or column, of all
        matrices; or one array like the parameter, which is then not factored.
    residuals : tuple of ndarray
        Those of the squares of the residual, or ().
    counter : ndarray
        The step count in the state.
    """

    cdef Factored f
    cdef list arrays            # all of the above: their places are checked again before the step
    cdef Place places[FACTORED_ARRAYS]
    cdef tuple names            # of those after the parameter in the state, if it is kept
    cdef char *memory
    cdef Py_ssize_t bytes

    def __cinit__(self):
        self.arrays = []

    def __dealloc__(self):
        PyMem_Free(self.memory)

    def __init__(self, cnp.ndarray param not None, cnp.ndarray moment, tuple squares not None, tuple residuals not None,
                 cnp.ndarray counter not None):
        cdef Factored *f = &self.f
        cdef int k
        if self.memory != NULL:     # others may know its places
            raise TypeError("a step is made once")
        if len(squares) not in (1, 2) or len(residuals) not in (0, 2) or (residuals and moment is None):
            raise ValueError(
                "expected one or two arrays of averages of squares, and none or two of the residual's, which has an average, "
                f"got {len(squares)} and {len(residuals)}"
            )
        self._check(param, cnp.PyArray_SIZE(param), param)
        f.vector = len(squares) == 1
        shape = (1, 1, *(<object>param).shape)
        f.columns = cnp.PyArray_SIZE(param) if f.vector else shape[len(shape) - 1]
        f.rows = 1 if f.vector else shape[len(shape) - 2]
        f.count = cnp.PyArray_SIZE(param) // (f.rows * f.columns)
        f.dtype, f.param = computed_code(param), cnp.PyArray_DATA(param)
        if moment is not None:
            self._check(moment, cnp.PyArray_SIZE(param), param)
            f.moment = cnp.PyArray_DATA(moment)
        for lines, places in ((squares, <uintptr_t>f.squares), (residuals, <uintptr_t>f.residuals)):
            for k, array in enumerate(lines):
                k += 2 - len(lines)
                self._check(array, f.count * (f.columns if k else f.rows), param)
                (<void **><uintptr_t>places)[k] = cnp.PyArray_DATA(<cnp.ndarray>array)
        if not (is_counter(counter) and cnp.PyArray_ISWRITEABLE(counter)):
            raise ValueError("expected a step count")
        f.counter = <int64_t *>cnp.PyArray_DATA(counter)
        self.arrays = [array for array in (param, moment, *squares, *residuals, counter) if array is not None]
        for k, array in enumerate(self.arrays):
            self.places[k].data = cnp.PyArray_DATA(<cnp.ndarray>array)
            self.places[k].size = cnp.PyArray_SIZE(<cnp.ndarray>array)
        self._cut()

    cdef int _check(self, cnp.ndarray array, Py_ssize_t size, cnp.ndarray param) except -1:
        check_dense(array)
        if not (cnp.PyArray_SIZE(array) == size > 0 and array.dtype == param.dtype
                and not cnp.PyArray_ISCOMPLEX(array) and cnp.PyArray_IS_C_CONTIGUOUS(array)
                and cnp.PyArray_ISWRITEABLE(array)):
            raise ValueError(
                f"expected {size} elements of {param.dtype} in C order that can be written, got "
                f"{cnp.PyArray_SIZE(array)} of {array.dtype}"
            )
        return 0

    cdef int _cut(self) except -1:
        """Cut the matrices into blocks, and find memory for what the passes hand on."""
        cdef Factored *f = &self.f
        cdef Py_ssize_t lines[2]
        cdef Py_ssize_t size = itemsize(f.dtype)
        cdef char *place
        f.width = min(f.columns, CHUNK)
        f.height = min(f.rows, max(LEAST_HEIGHT, CHUNK // f.width))
        f.down = (f.rows + f.height - 1) // f.height
        f.across = (f.columns + f.width - 1) // f.width
        f.blocks = f.count * f.down * f.across
        f.bundle = max(1, CHUNK // (f.width * f.height))
        lines[0], lines[1] = f.count * f.rows, f.count * f.columns
        sums = f.count * f.across * f.rows + f.count * f.down * f.columns + 2 * f.blocks
        factors = lines[0] + lines[1]
        self.bytes = 8 * sums + 2 * factors * size
        self.memory = place = <char *>PyMem_Malloc(self.bytes)
        if not place:
            raise MemoryError
        f.row_sums = <double *>place
        f.column_sums = f.row_sums + f.count * f.across * f.rows
        f.sums = f.column_sums + f.count * f.down * f.columns
        f.param_squares = f.sums + f.blocks
        place = <char *>(f.param_squares + f.blocks)
        f.factors[0], f.factors[1] = place, place + lines[0] * size
        place += factors * size
        if f.residuals[0] != NULL:
            f.confidence[0], f.confidence[1] = place, place + lines[0] * size
        return 0

    def begin(self, int64_t step, dict numbers not None) -> None:
        """Set the count of the step, and its numbers: those of FACTORED_NUMBERS, and the switches ``product``,
        ``scaled``, ``cautious`` and ``decays_by_scale``."""
        cdef Factored *f = &self.f
        f.step = step
        (f.weight, f.eps, f.residual_weight, f.residual_eps, f.most, f.least_mean, f.least_scale, f.threshold, f.sign,
         f.rate, f.keep, f.rest, f.decay) = [numbers[name] for name in FACTORED_NUMBERS]
        f.product, f.scaled, f.cautious = numbers["product"], numbers["scaled"], numbers["cautious"]
        f.decays_by_scale = numbers["decays_by_scale"]
        if f.cautious and f.moment == NULL:
            raise ValueError("only an average can be cautious")

    cdef bint are_still(self) noexcept:
        """Whether the arrays are where they were."""
        cdef Py_ssize_t k
        for k in range(PyList_GET_SIZE(self.arrays)):
            if not is_at(<cnp.ndarray>PyList_GET_ITEM(self.arrays, k), self.places[k].data, self.places[k].size):
                return False
        return True

    cdef void begin_as(self, FactoredStep other) noexcept:
        """As begin(), with the count and the numbers of another step."""
        cdef Factored *f = &self.f
        cdef Factored *o = &other.f
        f.step = o.step
        f.weight, f.eps, f.residual_weight, f.residual_eps = o.weight, o.eps, o.residual_weight, o.residual_eps
        f.product, f.most, f.least_mean, f.scaled, f.least_scale = o.product, o.most, o.least_mean, o.scaled, o.least_scale
        f.threshold, f.sign, f.rate, f.keep, f.cautious = o.threshold, o.sign, o.rate, o.keep, o.cautious
        f.rest, f.decay, f.decays_by_scale = o.rest, o.decay, o.decays_by_scale

    cdef bint is_of(self, object state) except -1:
        """Whether the arrays that are not the parameter are these entries of its state."""
        cdef Py_ssize_t k
        for k in range(1, PyList_GET_SIZE(self.arrays)):
            if not is_same(<cnp.ndarray>self.arrays[k], state.get(self.names[k - 1])):
                return False
        return True


cdef inline bint is_same(cnp.ndarray known, object array):
    return array is known or (
        cnp.PyArray_Check(array) and cnp.PyArray_DATA(<cnp.ndarray>array) == cnp.PyArray_DATA(known)
        and same_layout(known, <cnp.ndarray>array) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>array))


cdef class KeptSteps:
    """Steps of small parameters, which the next step finds again where nothing has changed."""

    cdef dict steps             # by the parameter's number: its group's form, and the step
    cdef Watch watch            # of the state of which they are
    cdef int64_t seen           # the changes that it had told when all steps were kept, or NEVER

    def __cinit__(self):
        self.steps, self.seen = {}, NEVER

    def keep(self, Py_ssize_t number, form, FactoredStep step not None, tuple names not None) -> None:
        """Keep a step, whose arrays after the parameter have these names in the state."""
        if cnp.PyArray_SIZE(<cnp.ndarray>step.arrays[0]) <= STEPPED_BY_ONE:
            step.names = names
            self.steps[number] = form, step
            self.seen = NEVER       # its arrays are those of the state only if the commit is made

    def prepare(self, found, list params not None, list groups not None, optimizer, Commit commit not None) -> list:
        """Let `commit` make the steps that are kept; return what is left of `found`."""
        cdef FactoredStep step, last = None
        cdef object group = None, seen = None, form = None
        cdef int64_t t
        cdef list left = []
        cdef tuple pair
        cdef Watch watch = optimizer.state.watch
        cdef int64_t looked = shared_read(&watch.changes)
        cdef bint changed = looked != self.seen or watch is not self.watch
        cdef Py_ssize_t found_again = 0
        self.watch, self.seen = watch, NEVER
        if PyDict_Size(self.steps) > PyList_GET_SIZE(params):       # some have gone
            self.steps.clear()
        for number, array, grad in found:
            if groups[number] is not seen:
                seen = groups[number]
                form = optimizer._state_form(seen)
            pair = self.steps.get(number)
            if pair is None or (pair[0] is not form and pair[0] != form):
                left.append((number, array, grad))
                continue
            step = pair[1]
            if not (step.are_still() and is_same(<cnp.ndarray>step.arrays[0], array)
                    and (not changed or step.is_of(optimizer.state.arrays(params[number])))):
                del self.steps[number]
                left.append((number, array, grad))
                continue
            grad = in_order(grad)
            t = min(step.f.counter[0], MOST_STEPS - 1) + 1
            if t <= 0:
                left.append((number, array, grad))
                continue
            if last is not None and group is groups[number] and last.f.step == t and last.f.dtype == step.f.dtype:
                step.begin_as(last)
            else:
                group = groups[number]
                step.begin(t, optimizer._all_numbers(group, t, array.dtype))
                last = step
            commit.factor(step, grad)
            found_again += 1
        if not changed or found_again == PyDict_Size(self.steps):
            self.seen = looked
        return left


cdef inline bint is_at(cnp.ndarray array, const void *place, Py_ssize_t size) noexcept:
    return cnp.PyArray_DATA(array) == place and cnp.PyArray_SIZE(array) == size


cdef class FactoredSteps:
    """Steps that are made together."""

    cdef list steps, grads
    cdef Factored **parameters      # those that one thread steps, and then the others
    cdef Py_ssize_t *bundles        # of the former
    cdef Py_ssize_t capacity

    def __cinit__(self):
        self.steps, self.grads = [], []

    def __dealloc__(self):
        PyMem_Free(self.parameters)
        PyMem_Free(self.bundles)

    cdef int add(self, FactoredStep step, cnp.ndarray grad) except -1:
        cdef Py_ssize_t capacity
        cdef void *memory
        check_dense(grad)
        if PyList_GET_SIZE(step.arrays) == 0 or not same_layout(<cnp.ndarray>step.arrays[0], grad):
            raise ValueError("expected a gradient like the parameter")
        if step.f.step == 0:
            raise ValueError("begin the step first")
        if PyList_GET_SIZE(self.steps) == self.capacity:
            capacity = 2 * self.capacity + 8
            memory = PyMem_Realloc(self.parameters, capacity * sizeof(void *))
            if not memory:
                raise MemoryError
            self.parameters = <Factored **>memory
            memory = PyMem_Realloc(self.bundles, (capacity + 1) * sizeof(Py_ssize_t))
            if not memory:
                raise MemoryError
            self.bundles, self.capacity = <Py_ssize_t *>memory, capacity
        step.f.grad = cnp.PyArray_DATA(grad)
        self.grads.append(grad)
        self.steps.append(step)
        return 0

    cdef bint still(self) noexcept:
        cdef Py_ssize_t i
        cdef FactoredStep step
        for i in range(PyList_GET_SIZE(self.steps)):
            step = <FactoredStep>PyList_GET_ITEM(self.steps, i)
            if not (step.are_still() and is_at(<cnp.ndarray>PyList_GET_ITEM(self.grads, i), step.f.grad, step.places[0].size)):
                return False
        return True

    cdef int run(self) noexcept:
        """Make them; this cannot fail."""
        cdef Py_ssize_t small = 0, bundles = 0, total = 0, held = 0, size, i
        cdef Py_ssize_t n = PyList_GET_SIZE(self.steps), large = n
        cdef Factored *f
        for i in range(n):
            f = &(<FactoredStep>PyList_GET_ITEM(self.steps, i)).f
            f.counter[0] = f.step
            size = f.count * f.rows * f.columns
            if size > STEPPED_BY_ONE:
                large -= 1
                self.parameters[large] = f
                continue
            if held == 0:
                self.bundles[bundles] = small
                bundles += 1
            self.parameters[small] = f
            small += 1
            total += size * itemsize(f.dtype) // 4
            held = 0 if held + size >= CHUNK else held + size
        self.bundles[bundles] = small
        with nogil:
            if bundles:
                run_factored(self.parameters, self.bundles, FACTORED_PASSES, bundles, <double>total * 8)
            for i in range(large, n):
                run_by_blocks(&self.parameters[i])
        return 0


cdef void run_factored(Factored **parameters, Py_ssize_t *bundles, int phase, Py_ssize_t count,
                       double elements) noexcept nogil:
    cdef FactoredRun run
    cdef double nanoseconds = 4 * NANOSECONDS * elements
    cdef const Kernels *kernels = KERNELS if phase == FACTORED_PASSES else kernels_for(<Py_ssize_t>elements, 1)
    run.phase, run.settles, run.parameters, run.bundles = phase, False, parameters, bundles
    run_chosen(run_shared_choice(FACTORED_WHOLE if phase == FACTORED_PASSES else FACTORED_BLOCKS, nanoseconds),
               kernels.factor, &run, 0, count, available_threads(), nanoseconds)


cdef void run_by_blocks(Factored **parameter) noexcept nogil:
    """All passes over a large parameter, each by all threads."""
    cdef Factored *f = parameter[0]
    cdef FactoredRun run
    cdef int phase
    run.settles, run.parameters, run.bundles = True, parameter, NULL
    for phase in range(FACTORED_PASSES):
        if not takes_pass(f, phase):
            continue
        run_factored(parameter, NULL, phase, (f.blocks + f.bundle - 1) // f.bundle,
                     <double>(f.count * f.rows * f.columns * itemsize(f.dtype) // 4))
        run.phase = phase
        KERNELS.factor(&run, 0)
