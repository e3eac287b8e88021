# The rule table, and what is done with one bundle of work. This file is compiled once per instruction
# set, so it holds C data only: no arrays, no classes, no threads, no Python in any path that runs
# more than once.
#
# (a) Every rule is run by the same function over the same tables. One tensor of a billion elements
#     and a million tensors of ten are bundles of about CHUNK elements alike.
# (b) A rule is called once per chunk through a pointer, which costs nothing over 16K elements; its
#     loop is the only thing that sees elements.
# (c) Denormals are flushed around every bundle and the mode is put back, in whichever thread runs it.
# (d) To add a rule: cimport it and add its line to the table.
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating

from libc.string cimport memcpy, memset

from _reduce cimport (AXPBY_DOT, DOT, GRADIENT_SQUARES, SUM_SQUARES, axpby_dot_span, dot_span,
                      reduce_span)
from _table cimport (FLOAT32, MAX_MEMORY, MAX_SCALARS, MAX_STREAMS, PIECE, SQUARES, STATISTICS,
                     Chunk, Clock, Kernels, Matrices, Row, Table, Tensor)
from rules.adadelta cimport adadelta, adadelta_clock
from rules.adafactor cimport (add_squares, mean_square, scaled_square, scaled_update,
                              sum_squares)
from rules.adagrad cimport adagrad, adagrad_clock
from rules.adam cimport adam, adam_amsgrad, adam_clock
from rules.adamax cimport adamax, adamax_clock
from rules.asgd cimport asgd, asgd_clock
from rules.average cimport average
from rules.axpby cimport axpby
from rules.clip cimport clamp, scale
from rules.nadam cimport nadam, nadam_clock
from rules.radam cimport radam, radam_clock
from rules.rmsprop cimport (rmsprop, rmsprop_centered, rmsprop_centered_momentum,
                            rmsprop_clock, rmsprop_momentum)
from rules.rprop cimport rprop
from rules.sgd cimport momentum_clock, sgd, sgd_momentum, sgd_nesterov
from rules.sparse_adam cimport sparse_adam, sparse_adam_clock

cdef extern from "fp_mode.h" nogil:
    unsigned long long fp_flush()
    void fp_restore(unsigned long long mode)

ctypedef void (*Rule32)(float **, const double *, Py_ssize_t) noexcept nogil
ctypedef void (*Rule64)(double **, const double *, Py_ssize_t) noexcept nogil

cdef enum:
    MAX_RULES = 64

cdef Rule32 RULES32[MAX_RULES]
cdef Rule64 RULES64[MAX_RULES]
cdef Clock CLOCKS[MAX_RULES]

# name: (state arrays in the order of the streams, number of scalars that the optimizer gives, names
# of the numbers in the rule's memory)
RULES = {}


cdef int rule(str name, tuple states, int scalars, Rule32 rule32, Rule64 rule64,
              Clock clock, tuple memory=()) except -1:
    cdef Py_ssize_t number = len(RULES)
    if (number == MAX_RULES or 2 + len(states) > MAX_STREAMS or scalars > MAX_SCALARS
            or len(memory) > MAX_MEMORY):
        raise ValueError(f"the tables are too small for rule {name}")
    RULES32[number] = rule32
    RULES64[number] = rule64
    CLOCKS[number] = clock
    RULES[name] = (states, scalars, memory)
    return 0


rule("sgd", (), 3, sgd[float], sgd[double], NULL)
rule("sgd_momentum", ("momentum_buffer",), 5,
     sgd_momentum[float], sgd_momentum[double], momentum_clock)
rule("sgd_nesterov", ("momentum_buffer",), 5,
     sgd_nesterov[float], sgd_nesterov[double], momentum_clock)
rule("adam", ("exp_avg", "exp_avg_sq"), 7, adam[float], adam[double], adam_clock)
rule("adam_amsgrad", ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), 7,
     adam_amsgrad[float], adam_amsgrad[double], adam_clock)
rule("rmsprop", ("square_avg",), 7, rmsprop[float], rmsprop[double], rmsprop_clock)
rule("rmsprop_momentum", ("square_avg", "momentum_buffer"), 7,
     rmsprop_momentum[float], rmsprop_momentum[double], rmsprop_clock)
rule("rmsprop_centered", ("square_avg", "grad_avg"), 7,
     rmsprop_centered[float], rmsprop_centered[double], rmsprop_clock)
rule("rmsprop_centered_momentum", ("square_avg", "momentum_buffer", "grad_avg"), 7,
     rmsprop_centered_momentum[float], rmsprop_centered_momentum[double],
     rmsprop_clock)
rule("adagrad", ("sum",), 5, adagrad[float], adagrad[double], adagrad_clock)
rule("adadelta", ("square_avg", "acc_delta"), 6, adadelta[float], adadelta[double], adadelta_clock)
rule("adamax", ("exp_avg", "exp_inf"), 6, adamax[float], adamax[double], adamax_clock)
rule("nadam", ("exp_avg", "exp_avg_sq"), 8, nadam[float], nadam[double], nadam_clock,
     ("mu_product",))
rule("radam", ("exp_avg", "exp_avg_sq"), 7, radam[float], radam[double], radam_clock)
rule("asgd", ("ax",), 6, asgd[float], asgd[double], asgd_clock, ("eta", "mu"))
rule("rprop", ("prev", "step_size"), 5, rprop[float], rprop[double], NULL)
rule("sparse_adam", ("exp_avg", "exp_avg_sq"), 5,
     sparse_adam[float], sparse_adam[double], sparse_adam_clock)
rule("scale", (), 1, scale[float], scale[double], NULL)
rule("clamp", (), 2, clamp[float], clamp[double], NULL)
rule("average", (), 1, average[float], average[double], NULL)
rule("mean_square", (), 1, mean_square[float], mean_square[double], NULL)
rule("axpby", (), 2, axpby[float], axpby[double], NULL)


cdef inline void update_span(const Table *table, const Tensor *tensor,
                             Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef const Row *row
    cdef float *s32[MAX_STREAMS]
    cdef double *s64[MAX_STREAMS]
    cdef int k
    if tensor.row < 0:
        return
    row = &table.rows[tensor.row]
    if tensor.dtype == FLOAT32:
        for k in range(MAX_STREAMS):
            s32[k] = (<float *>tensor.streams[k]) + start
        RULES32[row.rule](s32, row.scalars, stop - start)
        if table.zero:
            memset(s32[1], 0, (stop - start) * sizeof(float))
    else:
        for k in range(MAX_STREAMS):
            s64[k] = (<double *>tensor.streams[k]) + start
        RULES64[row.rule](s64, row.scalars, stop - start)
        if table.zero:
            memset(s64[1], 0, (stop - start) * sizeof(double))


cdef inline void average_span(const Table *table, const Tensor *tensor, void *mean,
                              Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    cdef Py_ssize_t size = sizeof(float) if tensor.dtype == FLOAT32 else sizeof(double)
    cdef void *streams[2]
    streams[0] = <char *>mean + size * start
    streams[1] = <char *>tensor.streams[0] + size * start
    if table.weight == 1:       # adding the difference would round
        memcpy(streams[0], streams[1], size * (stop - start))
    elif tensor.dtype == FLOAT32:
        average(<float **>streams, &table.weight, stop - start)
    else:
        average(<double **>streams, &table.weight, stop - start)


cdef inline void update_chunk(const Table *table, const Chunk *chunk) noexcept nogil:
    cdef const Tensor *tensor = &table.tensors[chunk.tensor]
    cdef void *mean = NULL if table.averages == NULL else table.averages[chunk.tensor]
    cdef Py_ssize_t start, stop
    if mean == NULL:
        update_span(table, tensor, chunk.start, chunk.stop)
        return
    start = chunk.start
    while start < chunk.stop:
        stop = min(start + PIECE, chunk.stop)
        update_span(table, tensor, start, stop)
        average_span(table, tensor, mean, start, stop)
        start = stop


cdef void update_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    cdef const Table *table = <const Table *>context
    cdef Py_ssize_t c
    cdef unsigned long long mode = fp_flush()
    for c in range(table.bundles[bundle], table.bundles[bundle + 1]):
        update_chunk(table, &table.chunks[c])
    fp_restore(mode)


cdef inline double reduce_streams(const Table *table, floating **s, Py_ssize_t n) noexcept nogil:
    if table.reduction == DOT:
        return dot_span(s[0], s[1], n)
    if table.reduction == GRADIENT_SQUARES:
        return reduce_span(s[1], n, SUM_SQUARES, 0)
    if table.reduction == AXPBY_DOT:
        return axpby_dot_span(s, table.factors, n)
    return reduce_span(s[0], n, table.reduction, table.order)


cdef inline double reduce_chunk(const Table *table, const Chunk *chunk) noexcept nogil:
    cdef const Tensor *tensor = &table.tensors[chunk.tensor]
    cdef float *s32[3]
    cdef double *s64[3]
    cdef int k
    if tensor.row < 0:
        return 0
    if tensor.dtype == FLOAT32:
        for k in range(3):
            s32[k] = (<float *>tensor.streams[k]) + chunk.start
        return reduce_streams(table, s32, chunk.stop - chunk.start)
    for k in range(3):
        s64[k] = (<double *>tensor.streams[k]) + chunk.start
    return reduce_streams(table, s64, chunk.stop - chunk.start)


cdef void reduce_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    # One result a chunk; the caller combines them in the order of the chunks.
    cdef const Table *table = <const Table *>context
    cdef Py_ssize_t c
    cdef unsigned long long mode = fp_flush()
    for c in range(table.bundles[bundle], table.bundles[bundle + 1]):
        table.partials[c] = reduce_chunk(table, &table.chunks[c])
    fp_restore(mode)


cdef inline void factored_row(const Matrices *m, floating *param, Py_ssize_t block,
                              Py_ssize_t i, Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    # `param` chooses the type. Row i of the block's matrix, n elements from `start` on.
    cdef Py_ssize_t matrix = block // (m.across * m.down), row = matrix * m.rows + i
    cdef floating *g = (<floating *>m.grad) + row * m.columns + start
    cdef floating *column = (<floating *>m.column) + matrix * m.columns + start
    cdef floating *factor = (<floating *>m.row) + row
    if m.phase == STATISTICS:
        m.row_sums[(matrix * m.across + block % m.across) * m.rows + i] = sum_squares(g, n)
        add_squares(g, m.column_sums + (block // m.across) * m.columns + start, n)
    elif m.phase == SQUARES:
        m.squares[block] += scaled_square(g, factor[0], column, <floating>m.floor, n)
    else:
        scaled_update(param + row * m.columns + start, g, factor[0], column,
                      <floating>m.floor, <floating>m.shrink, <floating>m.size, n)


cdef inline void factored_block(const Matrices *m, Py_ssize_t block) noexcept nogil:
    cdef Py_ssize_t down = (block // m.across) % m.down, i
    cdef Py_ssize_t start = (block % m.across) * m.width, n = min(m.width, m.columns - start)
    for i in range(down * m.height, min((down + 1) * m.height, m.rows)):
        if m.dtype == FLOAT32:
            factored_row(m, <float *>m.param, block, i, start, n)
        else:
            factored_row(m, <double *>m.param, block, i, start, n)


cdef void factored_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    # Sums are zero when a phase begins; each block adds to places of its own.
    cdef const Matrices *m = <const Matrices *>context
    cdef Py_ssize_t block
    cdef unsigned long long mode = fp_flush()
    for block in range(bundle * m.bundle, min((bundle + 1) * m.bundle, m.blocks)):
        factored_block(m, block)
    fp_restore(mode)


cdef Kernels KERNELS
KERNELS.update = update_bundle
KERNELS.reduce = reduce_bundle
KERNELS.factored = factored_bundle
KERNELS.clocks = CLOCKS


def kernels():
    """The module's entry points, for the engine alone."""
    return PyCapsule_New(&KERNELS, "cyoptim.kernels", NULL)
