# Adam over bfloat16, with the rule compiled into the loop that decodes and encodes.
#
# It saves the calls of each piece, and one piece is decoded beside the roots of the last: 3 to 10 % in the cache. The rule
# is the same function, and so are the bits. Tiles of 64 elements are slower: a vector that is read before its two halves
# have left the store buffer has to wait.

cdef enum:
    TILE = 256                  # the blocks that share random bits

cdef extern from "codecs.h" nogil:
    ctypedef struct Draws:
        uint32_t bits
    uint32_t GOLDEN_STEP
    Draws draws_from(uint64_t key, Py_ssize_t element, Py_ssize_t most)
    void decode_bfloat16(const uint16_t *stored, float *out, Py_ssize_t n)
    void encode_bfloat16(const float *values, uint16_t *stored, Py_ssize_t n)
    void add_bfloat16(const float *values, uint16_t *stored, uint32_t bits, Py_ssize_t n)
    void decode_split(const uint16_t *stored, const int16_t *rest, float *out, Py_ssize_t n)
    void encode_split(const float *values, uint16_t *stored, int16_t *rest, Py_ssize_t n)

cdef int ADAM_RULE = RULES["adam"]["number"]


cdef inline bint is_tiled(const Table *table, Py_ssize_t t, int rule, const double *lanes) noexcept nogil:
    """Whether a pass can go by tiles."""
    cdef const uint8_t *codes
    cdef int k
    if (rule != ADAM_RULE or lanes != NULL or table.storage == NULL or table.before or table.after or table.zero
            or table.tensors[t].dtype != FLOAT32):
        return False
    codes = table.storage[t].codes
    for k in range(4):
        if not (codes[k] == FLOAT32 or codes[k] == BFLOAT16 or (codes[k] == BFLOAT16_STOCHASTIC and k != 1)
                or (codes[k] == BFLOAT16_SPLIT and k == 0)):
            return False
    return True


cdef inline float *get_tile(int code, void *stored, const void *partner, float *room, Py_ssize_t i) noexcept nogil:
    """Where the elements of a tile are; those of the next one are asked for."""
    if code == FLOAT32:
        prefetch_bytes((<float *>stored) + i + TILE, TILE * sizeof(float))
        return (<float *>stored) + i
    prefetch_bytes((<const uint16_t *>stored) + i + TILE, TILE * sizeof(uint16_t))
    if code == BFLOAT16_SPLIT:
        prefetch_bytes((<const int16_t *>partner) + i + TILE, TILE * sizeof(int16_t))
        decode_split((<const uint16_t *>stored) + i, (<const int16_t *>partner) + i, room, TILE)
    else:
        decode_bfloat16((<const uint16_t *>stored) + i, room, TILE)
    return room


cdef inline void put_tile(int code, const float *values, void *stored, void *partner, uint32_t bits,
                          Py_ssize_t i) noexcept nogil:
    if code == BFLOAT16:
        encode_bfloat16(values, (<uint16_t *>stored) + i, TILE)
    elif code == BFLOAT16_STOCHASTIC:
        add_bfloat16(values, (<uint16_t *>stored) + i, bits, TILE)
    elif code == BFLOAT16_SPLIT:
        encode_split(values, (<uint16_t *>stored) + i, (<int16_t *>partner) + i, TILE)


cdef Py_ssize_t adam_tiles(const Table *table, Py_ssize_t t, const double *scalars, Py_ssize_t start,
                           Py_ssize_t stop) noexcept nogil:
    """The step from the start of a block on, in whole tiles; where the rest begins."""
    cdef const Storage *storage = &table.storage[t]
    cdef void **streams = <void **>table.tensors[t].streams
    cdef float room[5 * TILE]
    cdef float *s[START + 1]
    cdef float *rooms[4]
    cdef uint32_t bits[4]
    cdef Py_ssize_t i = start
    cdef int k
    for k in range(4):
        rooms[k] = (<float *>((<uintptr_t>room + LINE - 1) // LINE * LINE)) + TILE * k
        bits[k] = 0
    s[4] = NULL
    while i + TILE <= stop:
        if storage.key != NULL and (i - start) % SCALED_TOGETHER == 0:
            for k in range(4):
                bits[k] = draws_from(key_of(storage, k), storage.first + i, TILE).bits
        for k in range(4):
            s[k] = get_tile(storage.codes[k], streams[k], storage.partners[k], rooms[k], i)
        adam(s, scalars, TILE)
        put_tile(storage.codes[0], s[0], streams[0], storage.partners[0], bits[0], i)
        put_tile(storage.codes[2], s[2], streams[2], NULL, bits[2], i)
        put_tile(storage.codes[3], s[3], streams[3], NULL, bits[3], i)
        for k in range(4):
            bits[k] += <uint32_t>(TILE * GOLDEN_STEP)
        i += TILE
    return i
