# The sum of pieces of the same length, such as gradients of several processes: see kernels/sums.pxi.

cdef enum:
    PIECES = 8      # in the place of a pass, of the runs of such sums
    MOST_PIECES = 33554432      # for which the kernels have levels


def sum_pieces(cnp.ndarray out not None, list pieces not None, str codec=None) -> None:
    """Add up pieces in a binary tree, whose order does not depend on who had them.

    The left half of n pieces is the largest power of two below n, and so on.

    Parameters
    ----------
    out : ndarray
        One axis, without gaps: float32, float64 or the complex types of these. It may be one of the first
        two pieces.
    pieces : list of ndarray
        Each of the size of `out` and, without a codec, of its dtype.
    codec : str, optional
        How the pieces of a float32 sum are stored: "bfloat16" or "float16".
    """
    cdef list held = list(pieces)       # which no other thread can change
    cdef Py_ssize_t k, count = len(held), chunks
    cdef Sum sum
    cdef cnp.ndarray piece
    cdef double nanoseconds
    if count == 0:
        raise ValueError("there are no pieces to be added up")
    if count > MOST_PIECES:
        raise ValueError(f"{count} pieces, expected at most {MOST_PIECES}")
    check_dense(out)
    sum.dtype = dtype_code(out)
    sum.code = sum.dtype if codec is None else CODECS.get(codec, sum.dtype)
    sum.size = count_reals(out)
    if sum.dtype > FLOAT64 or (codec is not None and (out.dtype != FLOAT32_DTYPE or codec not in ("bfloat16", "float16"))):
        raise TypeError(f"cannot add up pieces stored as {codec} in dtype {out.dtype}")
    if not cnp.PyArray_ISWRITEABLE(out):
        raise ValueError("the array for the sum is read-only")
    sum.out, sum.count = cnp.PyArray_DATA(out), count
    sum.pieces = <const void **>PyMem_Malloc(count * sizeof(void *))
    if not sum.pieces:
        raise MemoryError
    try:
        for k in range(count):
            piece = held[k]
            check_dense(piece)
            if cnp.PyArray_SIZE(piece) != cnp.PyArray_SIZE(out) or (
                    piece.dtype != out.dtype if codec is None else cnp.PyArray_ITEMSIZE(piece) != 2):
                raise ValueError(f"piece {k} has {described(piece)}, expected {described(out)}")
            sum.pieces[k] = cnp.PyArray_DATA(piece)
        chunks = (sum.size + CHUNK - 1) // CHUNK
        nanoseconds = NANOSECONDS * (count + 1) * sum.size
        with nogil:
            run_chosen(run_shared_choice(PIECES, nanoseconds), KERNELS.add, &sum, 0, chunks,
                       available_threads() if chunks > 1 else 1, nanoseconds)
    finally:
        PyMem_Free(sum.pieces)


def chunk_length(Py_ssize_t size) -> int:
    """The elements of a chunk of a tensor of so many real numbers."""
    return chunk_elements(size)


# The largest tensor that a rule may update in one go, whose sums are then never parted.
LARGEST_CHUNK = CHUNK
