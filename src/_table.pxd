# The flat tables that a run works on: plain C, shared by the engine (which fills them) and the
# kernels (which read them). A Table owns nothing; whoever fills it keeps the memory alive.

from libc.stdint cimport int64_t

cdef enum:
    MAX_STREAMS = 6     # parameter, gradient, and up to four state arrays
    MAX_SCALARS = 16
    MAX_MEMORY = 2
    CHUNK = 16384       # elements: chunk boundaries are fixed, so results cannot depend on threads
    PIECE = 512         # elements of a chunk that are updated and then averaged: the best of 128 to 16384

cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1

cdef struct Tensor:
    void *streams[MAX_STREAMS]  # parameter, gradient, state in the rule's order
    Py_ssize_t size             # elements
    int dtype                   # FLOAT32 or FLOAT64, the same for every stream
    int row                     # hyper-parameters of this step; -1: no gradient, leave alone

cdef struct Row:                # the scalars of one group at one step count
    int rule
    Py_ssize_t group
    int64_t step
    float before[MAX_MEMORY]    # what the state remembered, and
    float memory[MAX_MEMORY]    # what it is to remember after the step
    double scalars[MAX_SCALARS]

cdef struct Head:               # what the scalars of every update of parameters begin with
    double sign                 # of the gradient: -1 to go upwards; clipping and scaling multiply it

cdef struct Chunk:              # elements [start, stop) of one tensor
    Py_ssize_t tensor, start, stop

# Consecutive chunks are bundled so that a bundle is about CHUNK elements of work however small
# the tensors are: bundle b holds chunks [bundles[b], bundles[b + 1]).
cdef struct Table:
    Tensor *tensors
    Row *rows
    Chunk *chunks
    Py_ssize_t *bundles
    int reduction               # which, and of which order, for a run that reduces
    double order
    double factors[2]           # of the streams that a run adds before it reduces
    double *partials            # one result a chunk
    int zero                    # whether an update leaves gradients filled with zeros
    void **averages             # per tensor the average that follows it, or NULL; NULL: none does
    double weight               # of the parameter in its average

# Does one bundle of a Table.
ctypedef void (*BundleFunction)(const void *table, Py_ssize_t bundle) noexcept nogil

cdef enum:
    STATISTICS = 0      # sums of squares of the gradient along rows and along columns
    SQUARES = 1         # sum of squares of the scaled gradient
    UPDATE = 2

# A batch of matrices whose gradient is scaled by a product of row and column factors, cut into
# blocks at fixed rows and columns. Blocks are numbered matrix by matrix, row by row.
cdef struct Matrices:
    int phase
    int dtype
    Py_ssize_t rows, columns        # of a matrix
    Py_ssize_t height, width        # of a block
    Py_ssize_t down, across         # blocks in a matrix
    Py_ssize_t blocks, bundle       # in all, and in a bundle
    void *param
    void *grad
    void *row                 # factors: of the rows of all matrices, one after the other,
    void *column              # and of the columns
    double *row_sums                # [matrix][block across][row]
    double *column_sums             # [matrix][block down][column]
    double *squares                 # [block]
    double floor, shrink, size

# Replaces the scalars that change from step to step by their values at this step count. A few
# rules carry numbers from step to step beside the count: their memory, which the clock advances.
ctypedef void (*Clock)(double *, int64_t step, float *memory) noexcept nogil

# What one kernel module offers; passed to the engine in a capsule.
cdef struct Kernels:
    BundleFunction update
    BundleFunction reduce
    BundleFunction factored     # does one bundle of Matrices
    Clock *clocks               # per rule; NULL where no scalar depends on the step
