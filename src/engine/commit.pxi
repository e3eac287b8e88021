# Changes made all at once, and the undo of other changes.

cdef enum Change:
    UPDATES = 0     # a dict gets these entries, too
    BECOMES = 1     # a dict has these entries and no others
    EXTENDS = 2     # a list gets these items, too
    PUTS = 3        # a place in a dict or list gets a value
    SETS = 4        # an attribute gets a value
    COPIES = 5      # an array gets the elements of another
    RUNS = 6        # a rule runs over arrays
    FACTORS = 7     # rules of Adafactor's family step their parameters
    STEPS = 8       # Muon steps a parameter
    AVERAGES = 9    # the averages of a plan move
    ADOPTS = 10     # a plan takes the place of another
    ZEROES = 11     # an array or tensor is filled with zeros
    REPORTS = 12    # a watch is told
    READS = 13      # an array gets elements from a file


cdef class Commit:
    """Changes that have been prepared, and are made in one call, which no interrupt can split.

    Each is checked when it is added, so that none can fail; only lack of memory for a few more
    entries of a dict or list could. Values that are replaced live until all changes are made, as
    their end may run other code.

    Reads are the exception, as a disk may fail: they are made first, so that nothing but arrays can
    then hold something new, and `torn` tells that some do.

    Parameters
    ----------
    sources : Sources, optional
        Arrays that are still in a file, for read().
    """

    cdef list changes
    cdef FactoredSteps factored     # one of the changes, or None
    cdef readonly object sources
    cdef readonly bint torn

    def __cinit__(self, sources=None):
        self.changes, self.sources = [], sources

    def update(self, target not None, values not None) -> None:
        """Give a dict these entries."""
        check_dicts(target, values)
        self.changes.append((UPDATES, target, values, None))

    def become(self, target not None, values not None) -> None:
        """Give a dict these entries, and take its others out."""
        check_dicts(target, values)
        self.changes.append((BECOMES, target, values, None))

    def extend(self, list target not None, list items not None) -> None:
        """Append items to a list."""
        self.changes.append((EXTENDS, target, items, None))

    def put(self, container, key, value) -> None:
        """Replace an entry of a dict, or an item of a list."""
        if isinstance(container, list):
            if not 0 <= key < len(container):
                raise IndexError(f"a list of {len(container)} has no item {key}")
        elif not isinstance(container, dict):
            raise TypeError(f"expected a dict or list, got {type(container).__name__}")
        self.changes.append((PUTS, container, key, value))

    def set(self, target, str name not None, value) -> None:
        """Set an attribute, past any ``__setattr__``: of an instance, or by a setter in C that has
        been found not to fail."""
        self.changes.append((SETS, target, name, value))

    def copy(self, cnp.ndarray target not None, cnp.ndarray source not None) -> None:
        """Copy the elements of an array into another of the same shape and dtype."""
        if not cnp.PyArray_ISWRITEABLE(target):
            raise ValueError(f"cannot copy into a read-only array of shape {(<object>target).shape}")
        if (not cnp.PyArray_SAMESHAPE(target, source) or target.dtype != source.dtype
                or target.dtype.hasobject):
            raise ValueError(
                f"cannot copy an array of dtype {source.dtype} and shape {(<object>source).shape} "
                f"into one of dtype {target.dtype} and shape {(<object>target).shape}"
            )
        self.changes.append((COPIES, target, source, None))

    def read(self, cnp.ndarray target not None, cnp.ndarray source not None) -> bool:
        """Read the elements of an array that is still in a file into another, at once when the changes
        are made; False if that cannot be done."""
        place = None if self.sources is None else self.sources.place(target, source)
        if place is None:
            return False
        self.changes.append((READS, *place))
        return True

    def apply(self, Arrays spans not None, str rule not None, tuple scalars not None) -> None:
        """Run an element-wise rule over arrays, whose values until then must stay."""
        spans.prepare(rule, scalars)
        self.changes.append((RUNS, spans, None, None))

    def factor(self, FactoredStep step not None, cnp.ndarray grad not None) -> None:
        """Let a rule of Adafactor's family step a parameter along a gradient like it, together with others."""
        if self.factored is None:
            self.factored = FactoredSteps()
            self.changes.append((FACTORS, self.factored, None, None))
        self.factored.add(step, grad)

    def step(self, MuonStep step not None) -> None:
        """Let Muon step a parameter."""
        self.changes.append((STEPS, step, None, None))

    def average(self, Plan plan not None) -> None:
        """Let the averages of a plan follow; add this after all changes of parameters."""
        plan.prepare_average()
        self.changes.append((AVERAGES, plan, None, None))

    def zero(self, values not None) -> None:
        """Fill with zeros what values_to_zero() has found."""
        self.changes.append((ZEROES, values, None, None))

    def adopt(self, Plan plan not None, Plan old) -> None:
        """Let a plan step from now on, and the one whose place it takes no more."""
        self.changes.append((ADOPTS, plan, old, None))

    def report(self, Watch watch not None) -> None:
        """Tell a watch that entries of the state have been changed."""
        self.changes.append((REPORTS, watch, None, None))

    def add(self, Commit other not None) -> None:
        """Make the other's changes, too."""
        self.changes.extend(other.changes)

    def run(self) -> None:
        """Make all changes."""
        self.make()

    def run_after(self, function, list undo not None) -> None:
        """Call a function that changes objects of others, and then make all changes. If it fails,
        make none, and call what it has put into `undo`, the last first."""
        try:
            function()
            self.make()
        except BaseException:
            while undo:
                call_surely(undo.pop())
            raise

    cdef int make(self) except -1:
        self.make_and_hold()
        return 0

    cdef list make_and_hold(self):
        """Make all changes; return what they have replaced, whose end may run other code."""
        cdef list kept = [self.changes]
        interrupt = None
        for change, target, value, more in self.changes:
            if ((change == RUNS and not (<Arrays>target).still())
                    or (change == FACTORS and not (<FactoredSteps>target).still())
                    or (change == STEPS and not (<MuonStep>target).still())):
                raise RuntimeError("an array was changed in size or place while it was being used")
            if change <= BECOMES:
                kept.append(PyDict_Copy(target))
            elif change == PUTS:
                kept.append(dict.get(target, value) if isinstance(target, dict) else target[value])
        for change, target, value, more in self.changes:
            if change == READS:
                self.torn = True
                interrupt = read_surely(target, value, more) or interrupt
        self.torn = False
        for change, target, value, more in self.changes:
            if change != READS:
                self._make(change, target, value, more)
        self.changes, self.factored = [], None
        if interrupt is not None:
            raise interrupt
        return kept

    cdef int _make(self, int change, target, value, more) except -1:
        if change == UPDATES:
            PyDict_Update(target, value)
        elif change == BECOMES:
            become(target, value)
        elif change == EXTENDS:
            PyList_SetSlice(target, PyList_GET_SIZE(target), PyList_GET_SIZE(target), value)
        elif change == PUTS:
            _put(target, value, more)
        elif change == SETS:
            PyObject_GenericSetAttr(target, value, more)
        elif change == COPIES:
            cnp.PyArray_CopyInto(<cnp.ndarray>target, <cnp.ndarray>value)
        elif change == RUNS:
            (<Arrays>target).go()
        elif change == FACTORS:
            (<FactoredSteps>target).run()
        elif change == STEPS:
            (<MuonStep>target).run()
        elif change == AVERAGES:
            (<Plan>target).average()
        elif change == ZEROES:
            fill_with_zeros(target)
        elif change == REPORTS:
            (<Watch>target).report()
        else:
            (<Plan>target).begin_life(<Plan>value)
        return 0


cdef object read_surely(cnp.ndarray target, object file, object begin):
    """Fill bytes from a file, however often that is interrupted; the last interrupt, or None. These
    methods of files are in C, where no interrupt comes between."""
    cdef Py_ssize_t done = 0, size = cnp.PyArray_SIZE(target), count
    interrupt = None
    while done < size:
        try:
            file.seek(begin + done)
            count = file.readinto(target[done:])
        except Exception:
            raise
        except BaseException as error:
            interrupt = error
            continue
        if count == 0:
            raise OSError("the file ends before its elements do")
        done += count
    return interrupt


cdef int fill_with_zeros(values) except -1:
    """Fill a plain array or a tensor, by methods in C, which no interrupt can split. A tensor is cut
    off from the graph that made it."""
    if cnp.PyArray_Check(values):
        values[...] = 0
        return 0
    if values.grad_fn is not None:
        values.detach_()
    else:
        values.requires_grad_(False)
    values.zero_()
    return 0


cdef int check_dicts(target, values) except -1:
    # Not as types of arguments, which admit no subclass.
    if not (isinstance(target, dict) and isinstance(values, dict)):
        raise TypeError(
            f"expected two dicts, got {type(target).__name__} and {type(values).__name__}"
        )
    return 0


cdef object call_surely(object function):
    """Call a function, again if it is interrupted; the last interrupt, or None."""
    interrupt = None
    while True:
        try:
            function()
            return interrupt
        except Exception:
            raise
        except BaseException as error:
            interrupt = error


def call_and_end(function, end):
    """Call a function, and then another, however the first ends and however often the second is
    interrupted."""
    try:
        result = function()
    except BaseException:
        call_surely(end)
        raise
    interrupt = call_surely(end)
    if interrupt is not None:
        raise interrupt
    return result


cdef int become(target, values) except -1:
    """Give a dict these entries and no others, in this order. If that is the order already, whoever
    reads it meanwhile in another thread misses none of those that stay."""
    for key in list(target):
        if not dict.__contains__(values, key):
            PyDict_DelItem(target, key)
    if list(target) != list(values)[:len(target)]:
        PyDict_Clear(target)
    PyDict_Update(target, values)
    return 0


cdef int _put(container, key, value) except -1:
    if isinstance(container, dict):
        PyDict_SetItem(container, key, value)
    else:
        (<list>container)[<Py_ssize_t>key] = value
    return 0


cdef class Undo:
    """Records arrays, dicts and lists, to restore them if the code that changes them fails."""

    cdef list arrays        # pairs of an array and its copy
    cdef list containers    # pairs of a dict or list and its copy
    cdef dict spare         # pairs of last time, by the array's id: to find new memory takes long

    def __cinit__(self):
        self.arrays, self.containers, self.spare = [], [], {}

    def keep(self, value) -> None:
        """Record an array's elements, or the contents of a dict, list or tuple."""
        if cnp.PyArray_Check(value):
            self._keep_array(value)
        elif isinstance(value, dict):
            self.containers.append((value, PyDict_Copy(value)))
            for item in dict.values(value):
                self.keep(item)
        elif isinstance(value, (list, tuple)):
            if isinstance(value, list):
                self.containers.append((value, list(value)))
            for item in value:
                self.keep(item)

    cdef int _keep_array(self, cnp.ndarray array) except -1:
        pair = self.spare.get(<uintptr_t><void *>array) if self.spare else None
        if pair is not None and pair[0] is array and is_like(array, <cnp.ndarray>pair[1]):
            cnp.PyArray_CopyInto(<cnp.ndarray>pair[1], array)
            self.arrays.append(pair)
        elif not array.dtype.hasobject:
            self.arrays.append((array, array.copy(order="K")))
        return 0

    def keep_entries(self, entries not None) -> None:
        """Record the values of a dict, but not their contents."""
        check_dicts(entries, entries)
        self.containers.append((entries, PyDict_Copy(entries)))

    def keep_options(self, list groups not None) -> None:
        """Remember the options of groups, those too that are arrays and filled in place."""
        for group in groups:
            self.keep_entries(group)
            for value in dict.values(group):
                if cnp.PyArray_Check(value):
                    self._keep_array(value)

    cdef int forget(self) except -1:
        """Drop the records; the memory of the copies is kept for the same arrays."""
        self.spare = {<uintptr_t><void *>pair[0]: pair for pair in self.arrays}
        self.arrays, self.containers = [], []
        return 0

    cdef int restore(self) except -1:
        cdef list kept = []         # removed values live until everything is restored
        for container, items in self.containers:
            if isinstance(container, dict):
                kept.append(PyDict_Copy(container))
                become(container, items)
            else:
                kept.append(list(container))
                PyList_SetSlice(container, 0, PyList_GET_SIZE(container), items)
        for array, copy in self.arrays:
            if is_like(array, copy) and cnp.PyArray_ISWRITEABLE(array):
                cnp.PyArray_CopyInto(<cnp.ndarray>array, <cnp.ndarray>copy)
        return 0

    def run(self, function, *args):
        """Call the function, whose result may be a Commit to be made; undo all if that fails."""
        try:
            result = function(*args)
            if isinstance(result, Commit):
                (<Commit>result).make()
            return result
        except BaseException:
            self.restore()
            raise


cdef inline bint is_like(cnp.ndarray a, cnp.ndarray b):
    return cnp.PyArray_SAMESHAPE(a, b) and a.dtype == b.dtype
