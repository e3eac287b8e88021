# How averages follow the parameters; the averages themselves are the plan's.


cdef class Pace:
    """How fast averages follow their parameters, and how far they have come.

    Parameters
    ----------
    decay : float
        How much of an average is kept at each step.
    warmup : bool
        Whether less is kept at first: at most ``(1 + t) / (10 + t)`` at step t.
    steps : int
        How many steps they have followed so far.

    Attributes
    ----------
    apart : bool
        Set while a step runs that the averages are to follow as a whole, at its end.
    stepped, skipped : bool
        Whether a part of such a step was made, and whether one was skipped.
    swapped : bool
        Whether parameters and averages have changed places.
    """

    cdef public double decay
    cdef public bint warmup
    cdef public int64_t steps
    cdef public bint apart, stepped, skipped
    cdef readonly bint swapped

    def __init__(self, double decay, bint warmup, int64_t steps):
        self.decay, self.warmup, self.steps = decay, warmup, steps

    def follow(self, step, catch_up):
        """Call a ``step`` that the averages are to follow as a whole, and then `catch_up`, unless all
        that it did was to skip a step."""
        self.apart, self.stepped, self.skipped = True, False, False
        try:
            value = step()
        finally:
            self.apart = False
        if self.stepped or not self.skipped:
            catch_up()
        return value

    cdef double weight(self) noexcept:
        """The weight of the parameters in the next step; the first takes them as they are."""
        cdef double t = self.steps + 1
        if self.steps == 0:
            return 1
        return 1.0 - (min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay)


cdef void swap_memory(char *a, char *b, Py_ssize_t size) noexcept nogil:
    cdef char[4096] block
    cdef Py_ssize_t start = 0, n
    while start < size:
        n = min(<Py_ssize_t>sizeof(block), size - start)
        memcpy(block, a + start, n)
        memcpy(a + start, b + start, n)
        memcpy(b + start, block, n)
        start += n


cdef class Followed(States):
    """Parameters that averages may follow."""

    cdef list updated           # tensors of other libraries that this step changes
    cdef list copies            # (slot, array) of the parameters that are updated through a copy
    cdef list waves             # ranges of bundles that run one after the other
    cdef Pace pace              # of the averages that follow the parameters, or None
    cdef list means             # per slot: the average
    cdef void **followers       # per slot: its address; NULL where the parameter occurs again

    def __dealloc__(self):
        PyMem_Free(self.followers)

    cdef int begin_averages(self) except -1:
        self.updated, self.copies = [], []
        return 0

    def follow(self, Pace pace not None, list means not None) -> None:
        """Let these averages, one for each parameter in the layout of its state, follow each step."""
        cdef Py_ssize_t i
        cdef dict last = {self.slots[i].first: i for i in range(self.n_tensors)}
        for i in range(self.n_tensors):
            if not self.is_state(i, means[i], arithmetic_dtype(self.views[i])):
                raise ValueError(f"the average of {self.labels[i]} is not laid out as its state")
        self.followers = <void **>PyMem_Calloc(max(self.n_tensors, 1), sizeof(void *))
        if not self.followers:
            raise MemoryError
        for i in last.values():     # a parameter that occurs twice is averaged after both updates
            self.followers[i] = cnp.PyArray_DATA(<cnp.ndarray>means[i])
        self.pace, self.means = pace, list(means)
        self.build_walls()

    cdef list trusted_arrays(self):
        """The arrays of state and averages whose addresses are known here."""
        arrays = States.trusted_arrays(self)
        return arrays + self.means if self.means is not None else arrays

    @cython.final
    cdef void lead(self) noexcept:
        """Have the coming run move the averages, too, unless they follow the step as a whole."""
        cdef Stage *stage = &self.table.stages[self.table.before]
        self.pace.stepped = True
        if not self.pace.apart:
            stage.streams = self.followers
            stage.scalars[0] = self.pace.weight()
            stage.rule = COPY_RULE if stage.scalars[0] == 1 else AVERAGE_RULE
            self.table.after = 1
            self.pace.steps += self.pace.steps < MOST_STEPS

    cdef int prepare_average(self) except -1:
        """Make ready to move the averages in a run of their own, after a step that the kernels have
        not made."""
        if not self._owners_are_still():
            raise RuntimeError("an average was resized in place")
        self.open_copies()
        return 0

    cdef int swap(self, list spare) except -1:
        """Have parameters and averages change places; `spare` is as :meth:`spare_arrays` gives it."""
        cdef Py_ssize_t i
        cdef cnp.ndarray view, mean
        for i, copy in spare:
            if copy is not None and self._type_of(i) <= FLOAT64:
                cnp.PyArray_CopyInto(<cnp.ndarray>copy, <cnp.ndarray>self.views[i])
        for i, copy in spare:
            view, mean = self.views[i], self.means[i]
            if self._type_of(i) > FLOAT64:
                self._swap_narrow(view, mean, copy)
            elif self.pace.steps == 0:  # no average has been taken yet
                cnp.PyArray_CopyInto(mean, view)
            elif self.slots[i].direct:
                swap_memory(<char *>cnp.PyArray_DATA(view), <char *>cnp.PyArray_DATA(mean),
                            cnp.PyArray_NBYTES(view))
            else:
                cnp.PyArray_CopyInto(view, mean)
                cnp.PyArray_CopyInto(mean, <cnp.ndarray>copy)
        self.pace.swapped = not self.pace.swapped
        return 0

    cdef int _swap_narrow(self, cnp.ndarray view, cnp.ndarray mean, list spare) except -1:
        """As swap, of a parameter of fewer bits than its average: it has the rounded average, and the average its
        values, until both get back from `spare` what they were. All arrays have been made before."""
        kept, dense = spare
        if not self.pace.swapped:
            cnp.PyArray_CopyInto(<cnp.ndarray>kept, mean)
            cnp.PyArray_CopyInto(<cnp.ndarray>dense, view)
            decode_into(<cnp.ndarray>dense, mean)
            if self.pace.steps:
                encode_from(<cnp.ndarray>kept, <cnp.ndarray>dense)
                cnp.PyArray_CopyInto(view, <cnp.ndarray>dense)
        else:
            encode_from(mean, <cnp.ndarray>dense)
            cnp.PyArray_CopyInto(view, <cnp.ndarray>dense)
            cnp.PyArray_CopyInto(mean, <cnp.ndarray>kept)
        return 0

    cdef list spare_arrays(self):
        """The slots of all parameters, and for each what it is swapped by: an array if it is not dense; if it has
        fewer bits than its average, one like that and one in the layout of its state."""
        cdef Py_ssize_t i
        return [(i, self._spare_of(i)) for i in range(self.n_tensors) if self.slots[i].first == i]

    cdef object _spare_of(self, Py_ssize_t i):
        if self._type_of(i) > FLOAT64:
            return [self.means[i].copy("K"), self.empty_like(self.views[i], None)]
        return None if self.slots[i].direct else self.empty_like(self.views[i], None)

    cdef list tensors(self):
        """The parameters that are another library's tensors."""
        cdef Py_ssize_t i
        return [self.objects[i] for i in range(self.n_tensors)
                if self.slots[i].door == TENSOR and self.slots[i].first == i]

    @cython.final
    cdef int open_copies(self) except -1:
        """Parameters with gaps between their elements are updated in a dense copy: make room."""
        cdef Py_ssize_t i
        cdef Slot *slot
        cdef bint every = self.pace is not None
        cdef set opened
        if self.in_place and not self.repeats:
            return 0
        opened = set()
        for i in range(self.n_tensors):
            slot = &self.slots[i]
            if self.table.tensors[i].row < 0 and not every:
                continue
            if slot.door == TENSOR and self.table.tensors[i].row >= 0:
                self.updated.append(self.objects[i])
            # The first occurrence, whose copy it is, may have no gradient.
            if not slot.direct and slot.first not in opened:
                opened.add(slot.first)
                copy = self.empty_like(self.views[slot.first], None)
                self.copies.append((slot.first, copy))
                self.table.tensors[slot.first].streams[0] = cnp.PyArray_DATA(<cnp.ndarray>copy)
            self.table.tensors[i].streams[0] = self.table.tensors[slot.first].streams[0]
        return 0

    cdef int fill_copies(self) except -1:
        for i, copy in self.copies:
            cnp.PyArray_CopyInto(<cnp.ndarray>copy, <cnp.ndarray>self.views[i])
        return 0

    cdef int average(self) except -1:
        """Move the averages, which :meth:`prepare_average` has made ready."""
        self.fill_copies()
        self._hide_rows()
        self.lead()
        if self.table.after:
            self.run_pass(UPDATE, 0, self.n_bundles)
            self.table.after = 0
        self._hide_rows()
        return 0

    cdef void _hide_rows(self) noexcept:
        """Leave no tensor its row; or, the second time, give back those that had one."""
        cdef Py_ssize_t i
        for i in range(self.n_tensors):
            self.table.tensors[i].row = -2 - self.table.tensors[i].row
