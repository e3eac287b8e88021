# Whole arrays through the codecs of the kernels: for exchange, loading and tests. A step does the same, piece by piece.

cdef extern from "fp_mode.h" nogil:
    unsigned long long fp_flush()

# The numbers of the codecs, by name.
CODECS = {
    "float32": FLOAT32,
    "float64": FLOAT64,
    "bfloat16": BFLOAT16,
    "bfloat16_stochastic": BFLOAT16_STOCHASTIC,
    "bfloat16_split": BFLOAT16_SPLIT,
    "bfloat16_master": BFLOAT16_MASTER,
    "float16": FLOAT16,
    "float16_stochastic": FLOAT16_STOCHASTIC,
    "float16_master": FLOAT16_MASTER,
    "float8": FLOAT8,
    "float8_positive": FLOAT8_POSITIVE,
    "dynamic8": DYNAMIC8,
    "dynamic8_positive": DYNAMIC8_POSITIVE,
    "float16_positive": FLOAT16_POSITIVE,
    "float16_positive_stochastic": FLOAT16_POSITIVE_STOCHASTIC,
}


def decode_array(cnp.ndarray stored not None, cnp.ndarray partner, str codec not None) -> np.ndarray:
    """The numbers of a stored array as float32, in its shape and order of elements.

    The partner has the shape and order of the stored array, or is one scale a block; None: the codec has none.
    """
    cdef int code = check_coded(stored, partner, codec)
    cdef cnp.ndarray values = np.empty_like(stored, dtype=np.float32, subok=False)
    cdef const char *source = <const char *>cnp.PyArray_DATA(stored)
    cdef char *other = NULL if partner is None else <char *>cnp.PyArray_DATA(partner)
    cdef float *out = <float *>cnp.PyArray_DATA(values)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(stored), first = 0
    cdef unsigned long long mode
    with nogil:
        mode = fp_flush()
        while first < size:
            KERNELS.decode(code, source, other, out + first, first, min(MOST_DECODED, size - first))
            first += MOST_DECODED
        fp_restore(mode)
    return values


def encode_array(cnp.ndarray values not None, cnp.ndarray stored not None, cnp.ndarray partner, str codec not None,
                 uint64_t key=0, Py_ssize_t piece=MOST_DECODED):
    """Write float32 numbers into a stored array of their shape and order of elements, and into its partner.

    Stochastic rounding takes its random bits from the key. The result does not depend on the length of the pieces.
    """
    cdef int code = check_coded(stored, partner, codec)
    cdef const float *source = <const float *>cnp.PyArray_DATA(values)
    cdef char *target = <char *>cnp.PyArray_DATA(stored)
    cdef char *other = NULL if partner is None else <char *>cnp.PyArray_DATA(partner)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(stored), first = 0
    cdef unsigned long long mode
    if values.dtype != np.float32 or not same_order(values, stored):
        raise ValueError(f"values have {described(values)}, expected float32 elements in the order of {described(stored)}")
    if not 0 < piece <= MOST_DECODED or (codec_has_scales(code) and piece % SCALED_TOGETHER):
        raise ValueError(f"pieces of {piece} elements, expected at most {MOST_DECODED}, of a codec with scales whole blocks")
    for array in (stored, partner):
        if array is not None and not array.flags.writeable:
            raise ValueError("the array to write into is read-only")
    with nogil:
        mode = fp_flush()
        while first < size:
            KERNELS.encode(code, source + first, target, other, key, first, min(piece, size - first))
            first += piece
        fp_restore(mode)


cdef int check_coded(cnp.ndarray stored, cnp.ndarray partner, str codec) except -1:
    """The number of a codec, for which these arrays can be."""
    cdef int code
    cdef Py_ssize_t width, blocks
    if codec not in CODECS:
        raise ValueError(f"codec {codec!r}, expected one of {', '.join(CODECS)}")
    code = CODECS[codec]
    if cnp.PyArray_ITEMSIZE(stored) != codec_size(code) or not same_order(stored, stored):
        raise ValueError(f"of {codec} the stored array has {described(stored)}, "
                         f"expected elements of {codec_size(code)} bytes, aligned and without gaps")
    width, blocks = codec_partner_size(code), (cnp.PyArray_SIZE(stored) + SCALED_TOGETHER - 1) // SCALED_TOGETHER
    if width == 0:
        if partner is not None:
            raise ValueError(f"{codec} has no partner, got one")
    elif partner is None:
        raise ValueError(f"{codec} has a partner, got None")
    elif codec_has_scales(code):
        if partner.dtype != np.float32 or cnp.PyArray_SIZE(partner) != blocks or not same_order(partner, partner):
            raise ValueError(f"scales have {described(partner)}, expected {blocks} float32 numbers, "
                             f"one for {SCALED_TOGETHER} elements, aligned and without gaps")
    elif partner.dtype != (np.int16 if width == 2 else np.float32) or not same_order(partner, stored):
        raise ValueError(f"the partner has {described(partner)}, expected {'int16' if width == 2 else 'float32'} "
                         f"elements in the order of {described(stored)}")
    return code


cdef str described(cnp.ndarray a):
    return f"dtype {a.dtype}, shape {(<object>a).shape} and strides {(<object>a).strides}"


cdef bint same_order(cnp.ndarray a, cnp.ndarray b) noexcept:
    """Whether both are dense and aligned, and element k of one is element k of the other."""
    cdef int k
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b) or layout_of(a) != DENSE or layout_of(b) != DENSE:
        return False
    for k in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, k) != cnp.PyArray_DIM(b, k):
            return False
        if (cnp.PyArray_DIM(a, k) > 1 and cnp.PyArray_SIZE(a) and cnp.PyArray_STRIDE(a, k) * cnp.PyArray_ITEMSIZE(b)
                != cnp.PyArray_STRIDE(b, k) * cnp.PyArray_ITEMSIZE(a)):
            return False
    return True
