# How elements are stored: a codec turns pieces of a stream into the type of the arithmetic, and back.
#
# The arithmetic is in float32 or float64; a stream of that type is read and written where it is. Another stream
# passes through a piece in the cache, so that no rule knows of it.
#
# To add a codec: its number, its size and its two loops in codecs.h; if arrays can have its type, its line in
# engine/dtypes.pxi.
from cython cimport floating
from libc.stdint cimport uint64_t

# The types of the arithmetic, and all ways in which a stream may be stored.
cdef extern from "codecs.h" nogil:
    cdef enum:
        FLOAT32 "CODEC_FLOAT32"
        FLOAT64 "CODEC_FLOAT64"
        BFLOAT16 "CODEC_BFLOAT16"
        BFLOAT16_STOCHASTIC "CODEC_BFLOAT16_STOCHASTIC"
        BFLOAT16_SPLIT "CODEC_BFLOAT16_SPLIT"
        BFLOAT16_MASTER "CODEC_BFLOAT16_MASTER"
        FLOAT16 "CODEC_FLOAT16"
        FLOAT16_STOCHASTIC "CODEC_FLOAT16_STOCHASTIC"
        FLOAT16_MASTER "CODEC_FLOAT16_MASTER"
        FLOAT8 "CODEC_FLOAT8"
        FLOAT8_POSITIVE "CODEC_FLOAT8_POSITIVE"
        DYNAMIC8 "CODEC_DYNAMIC8"
        DYNAMIC8_POSITIVE "CODEC_DYNAMIC8_POSITIVE"
        FLOAT16_POSITIVE "CODEC_FLOAT16_POSITIVE"
        FLOAT16_POSITIVE_STOCHASTIC "CODEC_FLOAT16_POSITIVE_STOCHASTIC"
        SCALED_TOGETHER "CODEC_BLOCK"       # elements that share a scale
        MOST_DECODED "CODEC_MOST"           # elements at once
    Py_ssize_t codec_size(int code)
    Py_ssize_t codec_partner_size(int code)
    bint codec_is_stochastic(int code)
    bint codec_has_scales(int code)
    void codec_decode(int code, const void *stored, const void *partner, float *out, Py_ssize_t first, Py_ssize_t n)
    void codec_encode(int code, const float *values, void *stored, void *partner, uint64_t key, Py_ssize_t first,
                      Py_ssize_t n)


cdef inline Py_ssize_t arithmetic_size(int code) noexcept nogil:
    """Bytes of an element in a type of the arithmetic."""
    return sizeof(float) if code == FLOAT32 else sizeof(double)


cdef inline Py_ssize_t stored_size(int code) noexcept nogil:
    """Bytes of an element."""
    return arithmetic_size(code) if code <= FLOAT64 else codec_size(code)


cdef inline bint is_lossy(int code) noexcept nogil:
    """Whether a number may change that is stored and read again."""
    return code > FLOAT64 and code != BFLOAT16_SPLIT and code != BFLOAT16_MASTER and code != FLOAT16_MASTER


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """A permutation of 64 bits without pattern: the finalizer of splitmix64 (Steele et al. 2014)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline void decode(const void *stored, int code, const void *partner, floating *out, Py_ssize_t first,
                        Py_ssize_t n) noexcept nogil:
    """The elements [first, first + n), up to MOST_DECODED of them."""
    cdef float narrow[MOST_DECODED]
    cdef Py_ssize_t i
    if code == FLOAT32:
        for i in range(n):
            out[i] = <floating>(<const float *>stored)[first + i]
    elif code == FLOAT64:
        for i in range(n):
            out[i] = <floating>(<const double *>stored)[first + i]
    elif floating is float:
        codec_decode(code, stored, partner, out, first, n)
    else:
        codec_decode(code, stored, partner, narrow, first, n)
        for i in range(n):
            out[i] = narrow[i]


cdef inline void encode(const floating *values, void *stored, int code, void *partner, uint64_t key, Py_ssize_t first,
                        Py_ssize_t n) noexcept nogil:
    cdef float narrow[MOST_DECODED]
    cdef Py_ssize_t i
    if code == FLOAT32:
        for i in range(n):
            (<float *>stored)[first + i] = <float>values[i]
    elif code == FLOAT64:
        for i in range(n):
            (<double *>stored)[first + i] = <double>values[i]
    elif floating is float:
        codec_encode(code, values, stored, partner, key, first, n)
    else:
        for i in range(n):
            narrow[i] = <float>values[i]
        codec_encode(code, narrow, stored, partner, key, first, n)
