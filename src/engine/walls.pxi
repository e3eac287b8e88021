# Whether a gradient shares memory with a parameter or with state.


cdef struct Range:      # of addresses
    uintptr_t low, high


cdef class Walls:
    """The memory of all parameters and their state: between two walls there is none."""

    cdef Range *walls           # in order, none next to another
    cdef Py_ssize_t count

    def __cinit__(self, list views):
        self.walls = <Range *>PyMem_Malloc(max(len(views), 1) * sizeof(Range))
        if not self.walls:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.walls)

    def __init__(self, list views):
        cdef uintptr_t low, high
        cdef Py_ssize_t n = 0
        for low, high in sorted([memory_bounds(view) for view in views]):
            if low == high:
                continue
            if n and low < self.walls[n - 1].high:
                self.walls[n - 1].high = max(self.walls[n - 1].high, high)
            else:
                self.walls[n].low = low
                self.walls[n].high = high
                n += 1
        self.count = n

    cdef Py_ssize_t _first_above(self, uintptr_t low) noexcept:
        """The first wall that ends above an address."""
        cdef Py_ssize_t below = 0, above = self.count, middle
        while below < above:
            middle = (below + above) // 2
            if self.walls[middle].high <= low:
                below = middle + 1
            else:
                above = middle
        return below

    cdef bint meets(self, uintptr_t low, uintptr_t high) noexcept:
        """Whether any of the memory is within these addresses."""
        cdef Py_ssize_t first = self._first_above(low)
        return low < high and first < self.count and self.walls[first].low < high

    cdef bint find_gap(self, uintptr_t low, uintptr_t high, Range *gap) noexcept:
        """Whether the addresses meet no wall; then the gap around them."""
        cdef Py_ssize_t below = self._first_above(low)
        if below < self.count and self.walls[below].low < high:
            return False
        gap.low = self.walls[below - 1].high if below > 0 else 0
        gap.high = self.walls[below].low if below < self.count else <uintptr_t>-1
        return True


cdef int compare_starts(const void *a, const void *b) noexcept nogil:
    cdef uintptr_t x = (<const Range *>a).low, y = (<const Range *>b).low
    return (x > y) - (x < y)


cdef bint any_overlap(Range *ranges, Py_ssize_t count) noexcept:
    """Whether two of the address ranges, which are sorted here, meet."""
    cdef Py_ssize_t i
    qsort(ranges, count, sizeof(Range), compare_starts)
    for i in range(count - 1):
        if ranges[i].high > ranges[i + 1].low:
            return True
    return False
