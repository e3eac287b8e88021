# Parts of tensors whose other parts other processes have.
#
# (a) Every process has the same parameters in the same order, each with a part of it, which may be empty. Parts
#     begin at boundaries of the whole tensor's chunks, and those of a process follow on those of the process before.
# (b) So the sums of chunks, which all processes gather, are those of one that has it all, in the same order; each
#     process adds them up for itself.
# (c) A process that fails, fails before ready(), in which the others learn of it.


# Whose sums over a tensor are.
cdef enum:
    NO_SUMS     # nobody's here: it has no gradient or no rule, or another process has all of its rows
    OWN         # this process's, which has all of its rows
    SHARED      # all processes'


cdef class Parted(Followed):
    """A plan whose parameters may be such parts.

    Attributes
    ----------
    ranks : object or None
        What joins the processes: ``gather(partials)`` returns the sums of all of them, in their order; ``unite(numbers)``
        the numbers that any of them has found; ``ready()`` raises if another one has failed.
    """

    cdef object ranks
    cdef Table wide             # the chunks of all tensors as they are whole
    cdef Py_ssize_t n_wide      # how many

    def __dealloc__(self):
        PyMem_Free(self.wide.tensors)
        PyMem_Free(self.wide.chunks)
        PyMem_Free(self.wide.bundles)
        PyMem_Free(self.wide.partials)

    def note_parts(self, list places not None, object ranks) -> None:
        """Let each parameter be a part of one: (number of its first element, elements of the whole) in real numbers."""
        cdef Py_ssize_t i
        if len(places) != self.n_tensors or self.repeats:
            raise ValueError(f"{len(places)} places for {self.n_tensors} parameters, each of which is to occur once")
        self.parts = <Part *>PyMem_Calloc(max(self.n_tensors, 1), sizeof(Part))
        if not self.parts:
            raise MemoryError
        for i in range(self.n_tensors):
            self.parts[i].first, self.parts[i].whole = places[i]
            if not 0 <= self.parts[i].first <= self.parts[i].whole - self.table.tensors[i].size:
                raise ValueError(f"{self.labels[i]} is no part: it begins at {places[i]} and has "
                                 f"{self.table.tensors[i].size} elements")
        self.ranks = ranks
        self.cut_waves()

    cdef int be_ready(self) except -1:
        """Nothing can fail any more here: learn whether another process has failed."""
        if self.ranks is not None:
            self.ranks.ready()
            self._check_still()     # other threads have run meanwhile
            if not self._owners_are_still():
                self.refuse_moved_state()
        return 0

    cdef double combine_ranks(self, Pass phase, int reduction) except? -1:
        """Combine the results of a pass, one number per chunk, over all processes."""
        cdef double *partials = self.make_partials(self.n_chunks)
        cdef unsigned long long mode = fp_plain()
        cdef Py_ssize_t count
        if self.n_chunks:
            self.run_pass(phase, 0, self.n_bundles)
        fp_unplain(mode)
        gathered = self._gathered(partials, self.n_chunks)
        count = cnp.PyArray_SIZE(<cnp.ndarray>gathered)
        return combined(<double *>cnp.PyArray_DATA(<cnp.ndarray>gathered), count, reduction) if count else 0.0

    cdef object _gathered(self, const double *partials, Py_ssize_t count):
        own = np.empty(count)
        memcpy(cnp.PyArray_DATA(<cnp.ndarray>own), partials, count * sizeof(double))
        gathered = np.ascontiguousarray(self.ranks.gather(own), np.float64)
        return gathered

    cdef int update_ranks(self) except -1:
        """Run the rules, all their passes, whose sums are those of all processes."""
        cdef bint again = False
        cdef Py_ssize_t r
        if self.table.units == NULL:
            self.run_bundles(UPDATE)
            return 0
        for r in range(self.n_rows):
            again = again or (self.table.rows[r].rule >= 0 and (<Rule>RULE_LIST[self.table.rows[r].rule]).again)
        self._widen()
        self.run_bundles(UPDATE)
        self._finish(UPDATE)
        if again:
            self.run_bundles(UPDATE_AGAIN)
            self._finish(UPDATE_AGAIN)
        self.run_bundles(APPLY)
        return 0

    cdef int run_bundles(self, Pass phase) except -1:
        if self.n_bundles:
            self.run_pass(phase, 0, self.n_bundles)
        return 0

    cdef int _finish(self, Pass phase) except -1:
        """Turn sums into scalars: those of all processes, or of rows this process's own."""
        cdef Py_ssize_t c, k = 0, own = 0
        cdef const double *source
        cdef object gathered = self._shared_sums()
        for c in range(self.n_wide):
            if self._kind_of_sums(self.wide.chunks[c].tensor) == SHARED:
                if k + MAX_SUMS > cnp.PyArray_SIZE(<cnp.ndarray>gathered):
                    k = -1
                    break
                source = <const double *>cnp.PyArray_DATA(<cnp.ndarray>gathered) + k
                k += MAX_SUMS
            else:
                while self._kind_of_sums(self.table.chunks[own].tensor) != OWN:
                    own += 1
                source = self.table.partials + own * MAX_SUMS
                own += 1
            memcpy(self.wide.partials + c * MAX_SUMS, source, MAX_SUMS * sizeof(double))
        if k != (0 if gathered is None else cnp.PyArray_SIZE(<cnp.ndarray>gathered)):
            raise RuntimeError("other processes have other sums")
        self.wide.phase = phase
        KERNELS.finish(&self.wide, 0, self.n_wide)
        return 0

    cdef object _shared_sums(self):
        """The sums of all processes over the tensors of which each may have a part; None if there are none."""
        cdef Py_ssize_t t, c, count = 0
        cdef bint any_shared = False
        cdef cnp.ndarray own
        for t in range(self.n_tensors):
            any_shared = any_shared or self._kind_of_sums(t) == SHARED
        if not any_shared:
            return None
        own = np.empty(self.n_chunks * MAX_SUMS)
        for c in range(self.n_chunks):
            if self._kind_of_sums(self.table.chunks[c].tensor) == SHARED:
                memcpy(<double *>cnp.PyArray_DATA(own) + count, self.table.partials + c * MAX_SUMS,
                       MAX_SUMS * sizeof(double))
                count += MAX_SUMS
        return np.ascontiguousarray(self.ranks.gather(own[:count]), np.float64)

    cdef int _widen(self) except -1:
        """The table of whole tensors, whose chunks are those of all processes."""
        cdef Py_ssize_t t, start, c = 0, count = 0
        cdef Tensor *tensor
        for t in range(self.n_tensors):
            start = 0 if self._kind_of_sums(t) != NO_SUMS else self.parts[t].whole
            while start < self.parts[t].whole:
                start = self._end_of_chunk_of(t, start, self.parts[t].whole)
                count += 1
        self._make_room(count)
        for t in range(self.n_tensors):
            tensor = &self.wide.tensors[t]
            tensor[0] = self.table.tensors[t]
            tensor.size = self.parts[t].whole
            if self._kind_of_sums(t) == NO_SUMS:
                tensor.row = -1
                continue
            start = 0
            while start < tensor.size:
                self.wide.chunks[c].tensor, self.wide.chunks[c].start = t, start
                start = self._end_of_chunk_of(t, start, tensor.size)
                self.wide.chunks[c].stop = start
                self.wide.bundles[c] = c
                c += 1
        self.wide.bundles[c] = c
        self.wide.rows, self.wide.units, self.wide.n_rows = self.table.rows, self.table.units, self.table.n_rows
        self.wide.groups, self.wide.n_groups = self.table.groups, self.table.n_groups
        return 0

    cdef int _kind_of_sums(self, Py_ssize_t t) except -1:
        """Whose sums over a tensor are."""
        cdef int row = self.table.tensors[t].row
        if row < 0 or self.table.rows[row].rule < 0:
            return NO_SUMS
        if (<Rule>RULE_LIST[self.table.rows[row].rule]).scope != PER_ROW:
            return SHARED
        return OWN if self.table.tensors[t].size == self.parts[t].whole else NO_SUMS

    cdef int _make_room(self, Py_ssize_t count) except -1:
        cdef void *tensors
        cdef void *chunks
        cdef void *bundles
        cdef void *partials
        if self.wide.tensors != NULL and count == self.n_wide:
            return 0
        tensors = PyMem_Realloc(self.wide.tensors, max(self.n_tensors, 1) * sizeof(Tensor))
        if tensors:
            self.wide.tensors = <Tensor *>tensors
        chunks = PyMem_Realloc(self.wide.chunks, max(count, 1) * sizeof(Chunk))
        if chunks:
            self.wide.chunks = <Chunk *>chunks
        bundles = PyMem_Realloc(self.wide.bundles, (count + 1) * sizeof(Py_ssize_t))
        if bundles:
            self.wide.bundles = <Py_ssize_t *>bundles
        partials = PyMem_Realloc(self.wide.partials, max(count, 1) * MAX_SUMS * sizeof(double))
        if partials:
            self.wide.partials = <double *>partials
        if not (tensors and chunks and bundles and partials):
            self.n_wide = -1
            raise MemoryError
        self.n_wide = count
        return 0
