# The rule table, and what is done with one bundle of work. This file is compiled once per instruction
# set, so it holds C data only: no arrays, no classes, no threads, no Python in any path that runs
# more than once.
#
# (a) Every rule is run by the same function over the same tables. One tensor of a billion elements
#     and a million tensors of ten are bundles of about CHUNK elements alike.
# (b) A rule is called once per chunk through a pointer, which costs nothing over 16K elements; its
#     loop is the only thing that sees elements.
# (c) Denormals are flushed around every bundle and the mode is put back, in whichever thread runs it.
# (d) To add a rule: cimport it and its scalars, and add its line to the table.
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating

from libc.string cimport memcpy, memset

from _reduce cimport (AXPBY_DOT, DOT, GRADIENT_SQUARES, SUM_SQUARES, axpby_dot_span, dot_span,
                      reduce_span)
from _table cimport (FLOAT32, MAX_MEMORY, MAX_SCALARS, MAX_STREAMS, PIECE, SQUARES, STATISTICS,
                     Chunk, Clock, Kernels, Matrices, Row, Table, Tensor)
from rules.adadelta cimport Adadelta, adadelta, adadelta_clock
from rules.adafactor cimport (MeanSquare, add_squares, mean_square, scaled_square, scaled_update,
                              sum_squares)
from rules.adagrad cimport Adagrad, adagrad, adagrad_clock
from rules.adam cimport Adam, adam, adam_amsgrad, adam_clock
from rules.adamax cimport Adamax, adamax, adamax_clock
from rules.asgd cimport Asgd, asgd, asgd_clock
from rules.average cimport Average, average
from rules.axpby cimport Axpby, axpby
from rules.clip cimport Clamp, Scale, clamp, scale
from rules.nadam cimport Nadam, nadam, nadam_clock
from rules.radam cimport Radam, radam, radam_clock
from rules.rmsprop cimport (Rmsprop, rmsprop, rmsprop_centered, rmsprop_centered_momentum,
                            rmsprop_clock, rmsprop_momentum)
from rules.rprop cimport Rprop, rprop
from rules.sgd cimport Momentum, Sgd, momentum_clock, sgd, sgd_momentum, sgd_nesterov
from rules.sparse_adam cimport SparseAdam, sparse_adam, sparse_adam_clock

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

# name: (names of the scalars, those of them that the clock computes, state arrays in the order of the
# streams, numbers of the rule's memory). Arrays and numbers are names, or pairs of a name and what
# they begin with: a number, or the option that holds it; without it they begin with 0.
RULES = {}


cdef int rule(str name, dict scalars, Rule32 rule32, Rule64 rule64, Clock clock=NULL,
              tuple states=(), tuple memory=()) except -1:
    """Add a rule. `scalars` is its struct, whose fields are named as the group's options; what the
    clock writes is no option."""
    cdef Py_ssize_t number = len(RULES)
    if (number == MAX_RULES or 2 + len(states) > MAX_STREAMS or len(scalars) > MAX_SCALARS
            or len(memory) > MAX_MEMORY):
        raise ValueError(f"the tables are too small for rule {name}")
    if "sign" in list(scalars)[1:]:
        raise ValueError(f"the scalars of rule {name} must begin with its sign: see Head")
    RULES32[number] = rule32
    RULES64[number] = rule64
    CLOCKS[number] = clock
    RULES[name] = (tuple(scalars), written_by(clock, list(scalars)), states, memory)
    return 0


cdef frozenset written_by(Clock clock, list names):
    """The scalars that a clock writes: found by running it."""
    cdef double scalars[MAX_SCALARS]
    cdef float memory[MAX_MEMORY]
    cdef int k
    if clock == NULL:
        return frozenset()
    for k in range(MAX_MEMORY):
        memory[k] = 0.5
    for k in range(MAX_SCALARS):
        scalars[k] = 0.1 + 0.01 * k
    clock(scalars, 2, memory)
    return frozenset([name for k, name in enumerate(names) if scalars[k] != 0.1 + 0.01 * k])


# Of each struct one, for its fields' names.
cdef Adadelta ADADELTA
cdef Adagrad ADAGRAD
cdef Adam ADAM
cdef Adamax ADAMAX
cdef Asgd ASGD
cdef Average AVERAGE
cdef Axpby AXPBY
cdef Clamp CLAMP
cdef MeanSquare MEAN_SQUARE
cdef Momentum MOMENTUM
cdef Nadam NADAM
cdef Radam RADAM
cdef Rmsprop RMSPROP
cdef Rprop RPROP
cdef Scale SCALE
cdef Sgd SGD
cdef SparseAdam SPARSE_ADAM

rule("sgd", SGD, sgd[float], sgd[double])
rule("sgd_momentum", MOMENTUM, sgd_momentum[float], sgd_momentum[double], momentum_clock,
     ("momentum_buffer",))
rule("sgd_nesterov", MOMENTUM, sgd_nesterov[float], sgd_nesterov[double], momentum_clock,
     ("momentum_buffer",))
rule("adam", ADAM, adam[float], adam[double], adam_clock, ("exp_avg", "exp_avg_sq"))
rule("adam_amsgrad", ADAM, adam_amsgrad[float], adam_amsgrad[double], adam_clock,
     ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
rule("rmsprop", RMSPROP, rmsprop[float], rmsprop[double], rmsprop_clock, ("square_avg",))
rule("rmsprop_momentum", RMSPROP, rmsprop_momentum[float], rmsprop_momentum[double], rmsprop_clock,
     ("square_avg", "momentum_buffer"))
rule("rmsprop_centered", RMSPROP, rmsprop_centered[float], rmsprop_centered[double], rmsprop_clock,
     ("square_avg", "grad_avg"))
rule("rmsprop_centered_momentum", RMSPROP, rmsprop_centered_momentum[float],
     rmsprop_centered_momentum[double], rmsprop_clock, ("square_avg", "momentum_buffer", "grad_avg"))
rule("adagrad", ADAGRAD, adagrad[float], adagrad[double], adagrad_clock,
     (("sum", "initial_accumulator_value"),))
rule("adadelta", ADADELTA, adadelta[float], adadelta[double], adadelta_clock,
     ("square_avg", "acc_delta"))
rule("adamax", ADAMAX, adamax[float], adamax[double], adamax_clock, ("exp_avg", "exp_inf"))
rule("nadam", NADAM, nadam[float], nadam[double], nadam_clock, ("exp_avg", "exp_avg_sq"),
     memory=(("mu_product", 1.0),))
rule("radam", RADAM, radam[float], radam[double], radam_clock, ("exp_avg", "exp_avg_sq"))
rule("asgd", ASGD, asgd[float], asgd[double], asgd_clock, ("ax",),
     memory=(("eta", "lr"), ("mu", 1.0)))
rule("rprop", RPROP, rprop[float], rprop[double], NULL, ("prev", ("step_size", "lr")))
rule("sparse_adam", SPARSE_ADAM, sparse_adam[float], sparse_adam[double], sparse_adam_clock,
     ("exp_avg", "exp_avg_sq"))
rule("scale", SCALE, scale[float], scale[double])
rule("clamp", CLAMP, clamp[float], clamp[double])
rule("average", AVERAGE, average[float], average[double])
rule("mean_square", MEAN_SQUARE, mean_square[float], mean_square[double])
rule("axpby", AXPBY, axpby[float], axpby[double])


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
