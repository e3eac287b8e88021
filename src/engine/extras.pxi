# The arguments of a step besides gradients, and its results.


cdef enum:
    PROPAGATE = 0
    RAISE = 1
    SKIP = 2


cdef class Extras:
    """The arguments of a step besides gradients, and afterwards its results.

    Parameters
    ----------
    max_norm : float
        The largest norm of all gradients; infinity if they are not clipped.
    scale : float
        The divisor of the gradients, applied first.
    zero : bool
        Whether gradients are left filled with zeros.
    policy : int
        The effect of gradients that are not finite: 0 step nevertheless, 1 raise, 2 skip the
        step.
    measure : bool
        Whether the norm is wanted.

    Attributes
    ----------
    total_norm : float or None
        Of the gradients after they were divided; None if it was not needed.
    coefficient : float
        The factor of clipping.
    skipped : bool
        Whether nothing was updated.
    nonfinite : list of int
        Numbers of the parameters whose gradients are not finite.
    done : bool
        Whether the step has come to its end, be it skipped.
    """

    cdef double max_norm, scale
    cdef bint zero, measure
    cdef int policy
    cdef readonly object total_norm
    cdef readonly double coefficient
    cdef readonly bint skipped, done
    cdef readonly list nonfinite

    def __init__(self, double max_norm, double scale, bint zero, int policy):
        self.max_norm, self.scale, self.zero, self.policy = max_norm, scale, zero, policy
        self.measure = max_norm != INFINITY or policy != PROPAGATE
        self.coefficient = 1
        self.nonfinite = []

    @property
    def factor(self) -> float:
        """The factor of each gradient."""
        return self.coefficient / self.scale

    cdef int clip(self, double norm) except -1:
        # As clip_grad_norm_ does: a norm that is NaN scales, too.
        cdef double coefficient = self.max_norm / (norm + 1e-6)
        self.total_norm = norm
        if self.max_norm != INFINITY and not coefficient >= 1:
            self.coefficient = coefficient
        return 0


cdef bint all_finite(const void *data, Py_ssize_t n, int code) noexcept nogil:
    cdef Py_ssize_t i
    cdef uint16_t most              # the exponent of what is not finite
    if code > FLOAT64:
        most = 0x7F80 if code == BFLOAT16 else 0x7C00
        for i in range(n):
            if (<const uint16_t *>data)[i] & most == most:
                return False
    elif code == FLOAT32:
        for i in range(n):
            if not isfinite((<const float *>data)[i]):
                return False
    else:
        for i in range(n):
            if not isfinite((<const double *>data)[i]):
                return False
    return True
