# The sum of pieces of the same length, in one order whoever has them: a binary tree.
#
# The tree of n pieces has on its left those of the largest power of two below n. So pieces that were added up by
# twos, by fours and so on before give the same bits.

cdef enum:
    SUMMED = 256        # elements at once: a block for each level of the tree stays in the cache
    MOST_LEVELS = 24    # of up to 2**25 pieces


cdef inline Py_ssize_t left_of(Py_ssize_t count) noexcept nogil:
    """How many of so many pieces are on the left."""
    cdef Py_ssize_t left = 1
    while 2 * left < count:
        left *= 2
    return left


cdef inline const floating *piece_at(const Sum *sum, Py_ssize_t k, floating *room, Py_ssize_t start,
                                     Py_ssize_t n) noexcept nogil:
    """Where elements of a piece are, decoded if they must be."""
    if sum.code == sum.dtype:
        return (<const floating *>sum.pieces[k]) + start
    decode(sum.pieces[k], sum.code, NULL, room, start, n)
    return room


cdef inline void add_two(floating *out, const floating *a, const floating *b, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = a[i] + b[i]


cdef inline void add_four(floating *out, const floating *a, const floating *b, const floating *c, const floating *d,
                          Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        out[i] = (a[i] + b[i]) + (c[i] + d[i])


cdef void add_tree(const Sum *sum, Py_ssize_t first, Py_ssize_t count, floating *out, floating *blocks, floating *room,
                   Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """The sum of some pieces over a block; `blocks` are four, and `room` has one for this level and each one below.

    Neither is in the frame of this function: threads may have stacks of 128 KiB.
    """
    cdef const floating *a
    cdef Py_ssize_t left
    if count == 1:
        a = piece_at(sum, first, out, start, n)
        if a != out:
            memcpy(out, a, n * sizeof(floating))
    elif count == 2:
        add_two(out, piece_at(sum, first, blocks, start, n),
                piece_at(sum, first + 1, blocks + SUMMED, start, n), n)
    elif count == 4:
        add_four(out, piece_at(sum, first, blocks, start, n),
                 piece_at(sum, first + 1, blocks + SUMMED, start, n),
                 piece_at(sum, first + 2, blocks + 2 * SUMMED, start, n),
                 piece_at(sum, first + 3, blocks + 3 * SUMMED, start, n), n)
    else:
        left = left_of(count)
        add_tree(sum, first, left, out, blocks, room + SUMMED, start, n)
        add_tree(sum, first + left, count - left, room, blocks, room + SUMMED, start, n)
        add_two(out, out, room, n)


cdef inline void add_blocks(const Sum *sum, floating *type, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef floating room[(4 + MOST_LEVELS) * SUMMED]
    cdef Py_ssize_t n
    while start < stop:
        n = min(<Py_ssize_t>SUMMED, stop - start)
        add_tree(sum, 0, sum.count, (<floating *>sum.out) + start, <floating *>room, room + 4 * SUMMED, start, n)
        start += n


cdef void add_pieces(const void *context, Py_ssize_t chunk) noexcept nogil:
    """The sum over a chunk."""
    cdef const Sum *sum = <const Sum *>context
    cdef Py_ssize_t start = chunk * CHUNK, stop = min(sum.size, start + CHUNK)
    cdef unsigned long long mode = fp_flush()
    if sum.dtype == FLOAT32:
        add_blocks(sum, <float *>NULL, start, stop)
    else:
        add_blocks(sum, <double *>NULL, start, stop)
    fp_restore(mode)
