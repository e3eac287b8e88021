# The passes of a step over its tensors: measurements, and the update.


cdef class Passes(Parted):
    """Runs the passes of a step over all tensors that have a row."""

    cdef Range *ranges          # of the gradients, where a step needs them
    cdef Choice choices[4]      # of the threads of each pass
    cdef void *work             # of all units

    def __dealloc__(self):
        PyMem_Free(self.ranges)
        PyMem_Free(self.work)

    cdef Choice *choice(self, Pass phase, double nanoseconds) noexcept nogil:
        return &self.choices[<int>phase]

    cdef int cut_waves(self) except -1:
        """Cut the tensors, in as many waves as a parameter occurs in its group: it is updated so often, one
        time after the other."""
        cdef Py_ssize_t i, k
        cdef dict seen = {}
        cdef list waves = [[]]
        for i in range(self.n_tensors):
            k = seen.get(self.slots[i].first, 0)
            seen[self.slots[i].first] = k + 1
            if k == len(waves):
                waves.append([])
            waves[k].append(i)
        self.cut(waves)
        self.waves, self.recut = waves, False
        if self.table.units != NULL:
            self._make_work()
        return 0

    cdef int _make_work(self) except -1:
        """Memory for what the passes over units that are not small hand on, if that is worth it."""
        cdef Py_ssize_t i, count = 0, lines = 1
        cdef uintptr_t place
        PyMem_Free(self.work)
        self.work = NULL
        for i in range(self.n_tensors):
            self.table.units[i].work = NULL
            if self._hands_on(i):
                count += self.table.tensors[i].size
                lines += self._lines_of_work(i)
        if not 0 < count <= KEPT_TOGETHER:
            return 0
        self.work = PyMem_Malloc(lines * LINE)
        if self.work == NULL:
            raise MemoryError
        place = (<uintptr_t>self.work + LINE - 1) // LINE * LINE
        for i in range(self.n_tensors):
            if self._hands_on(i):
                self.table.units[i].work = <void *>place
                place += self._lines_of_work(i) * LINE
        return 0

    cdef bint _hands_on(self, Py_ssize_t i) except -1:
        """Whether the passes over a tensor hand on more than there is room for on the stack.

        Not where numbers are rounded as they are stored: what is handed on has not been, and whether there is room
        for it, other tensors decide.
        """
        cdef Rule rule = self.rule_of_slot(i)
        if self._is_rounded(i):
            return False
        if rule is not None and rule.combines and cnp.PyArray_NDIM(<cnp.ndarray>self.views[i]) > 1:
            return self.table.tensors[i].size > KEPT
        return self.table.units[i].size > KEPT

    cdef bint _is_rounded(self, Py_ssize_t i) noexcept:
        cdef int k
        if self.table.storage != NULL:
            for k in range(MAX_STREAMS):
                if k != 1 and is_lossy(self.table.storage[i].codes[k]):
                    return True
        return False

    cdef Py_ssize_t _lines_of_work(self, Py_ssize_t i) noexcept:
        cdef const Tensor *tensor = &self.table.tensors[i]
        return tensor.size * arithmetic_size(tensor.dtype) // LINE + 1

    cdef double sum_squares(self) except? -1:
        """The sum of squares of all gradients."""
        cdef double total
        cdef SparseUpdate part
        for part in self.sparse:        # hidden from the run over whole tensors
            self.table.tensors[part.slot].row = -1
        if self.ranks is None:
            total = self.combine_partials(NORM, SUM_SQUARES)
        else:
            total = self.combine_ranks(NORM, SUM_SQUARES)
        for part in self.sparse:
            self.table.tensors[part.slot].row = 0
            total += Arrays([part.values]).reduce(SUM_SQUARES, 0)
        return total

    cdef int check_sparse(self, object optimizer) except -1:
        """Refuse sparse gradients where a rule adds up over whole tensors."""
        cdef SparseUpdate part
        cdef Rule rule
        for part in self.sparse:
            rule = self.rule_of_slot(part.slot)
            if rule is not None and rule.measures:
                optimizer._refuse_sparse(self.labels[part.slot])
        return 0

    @cython.final
    cdef int run(self) except -1:
        """Update every tensor that has a row, and move the averages."""
        cdef Py_ssize_t first, last
        if PyList_GET_SIZE(self.copies):
            self.fill_copies()
        if PyList_GET_SIZE(self.sparse):
            self._run_sparse()
        if self.pace is not None:
            self.lead()
        if self.table.groups != NULL:
            KERNELS.begin(&self.table)
        if self.ranks is not None:
            self.update_ranks()
        elif not self.repeats:
            self.update(0, self.n_bundles)
        else:
            for first, last in self.waves:
                self.update(first, last)
        self.table.after = 0
        if PyList_GET_SIZE(self.sparse):
            for part in self.sparse:
                self.table.tensors[(<SparseUpdate>part).slot].row = (<SparseUpdate>part).row
        if PyList_GET_SIZE(self.copies):
            for i, copy in self.copies:
                cnp.PyArray_CopyInto(<cnp.ndarray>self.views[i], <cnp.ndarray>copy)
        return 0

    cdef void _run_sparse(self) noexcept:
        # Their tensors are hidden from the run over whole tensors.
        cdef SparseUpdate part
        cdef Tensor *tensor
        for part in self.sparse:
            tensor = &self.table.tensors[part.slot]
            part.row = tensor.row
            part.run(&self.table, tensor)
            tensor.row = -1

    cdef void hide_updates(self, bint hidden) noexcept:
        """Hide the tensors that have no rule from the run, or give them their rows back."""
        cdef Py_ssize_t i
        cdef Tensor *tensor
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if hidden and tensor.row >= 0 and self.table.rows[tensor.row].rule < 0:
                tensor.row = -2 - tensor.row
            elif not hidden and tensor.row <= -2:
                tensor.row = -2 - tensor.row

    cdef bint gradients_overlap(self) except -1:
        """Whether two gradients share memory, so that none may be zeroed before all were read."""
        cdef Py_ssize_t i, n = 0
        cdef const Tensor *tensor
        if self.ranges == NULL:
            self.ranges = <Range *>PyMem_Malloc(max(self.n_tensors, 1) * sizeof(Range))
            if not self.ranges:
                raise MemoryError
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row >= 0 and tensor.size:
                self.ranges[n].low = <uintptr_t>tensor.streams[1]
                self.ranges[n].high = self.ranges[n].low + self.bytes_of(i, 1)
                n += 1
        return any_overlap(self.ranges, n)
