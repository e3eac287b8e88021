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
