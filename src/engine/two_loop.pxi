# The passes of L-BFGS over its history.

cdef class TwoLoop(Work):
    """The two-loop recursion of L-BFGS (Nocedal 1980) over one vector, which is changed in place.

    Each pass adds a vector of the history and takes the product that the next pass begins with:
    the vector itself is read once a pass instead of twice.
    """

    cdef cnp.ndarray vector

    def __init__(self, list vectors not None):
        self.vector = vectors[0]
        check_dense(self.vector)
        if not cnp.PyArray_ISWRITEABLE(self.vector):
            raise ValueError("the vector is read-only")
        self.table.tensors[0].streams[0] = cnp.PyArray_DATA(self.vector)
        self.table.tensors[0].size = cnp.PyArray_SIZE(self.vector)
        self.table.tensors[0].dtype = computed_code(self.vector)
        self.cut([range(1)])

    cdef int _bind(self, int stream, cnp.ndarray other) except -1:
        if other is None:
            raise TypeError("a vector of the history is None, expected an array")
        if not same_layout(self.vector, other):
            raise ValueError(
                f"a vector of the history has dtype {other.dtype} and shape "
                f"{(<object>other).shape}, expected {self.vector.dtype} and "
                f"{(<object>self.vector).shape}"
            )
        self.table.tensors[0].streams[stream] = cnp.PyArray_DATA(other)
        return 0

    cdef double _add(self, double scale, double factor, cnp.ndarray other,
                     cnp.ndarray next) except? -1:
        """vector = scale * vector + factor * other; its product with `next`."""
        self._bind(1, other)
        self._bind(2, next)
        self.table.factors[0] = scale
        self.table.factors[1] = factor
        return self.reduce(AXPBY_DOT, 0)

    def run(self, cnp.ndarray grad not None, list dirs not None, list stps not None,
            list ro not None, double scale) -> tuple:
        """Turn the vector, a copy of the gradient, into the direction; the weights of the first
        loop, and the product of gradient and direction."""
        cdef Py_ssize_t m = len(dirs), i
        cdef double sign = -1, product, beta
        cdef list weights = [0.0] * m
        if m == 0 or len(stps) != m or len(ro) != m:
            raise ValueError(f"a history of {m} changes, {len(stps)} steps and {len(ro)} products")
        self._bind(1, stps[m - 1])
        product = -self.reduce(DOT, 0)
        for i in range(m - 1, -1, -1):
            weights[i] = ro[i] * product
            product = self._add(sign, -<double>weights[i], dirs[i], stps[i - 1] if i else dirs[0])
            sign = 1
        product *= scale
        for i in range(m):
            beta = ro[i] * product
            product = self._add(scale, weights[i] - beta, stps[i], dirs[i + 1] if i + 1 < m else grad)
            scale = 1
        return weights, product
