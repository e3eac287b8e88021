# The flat tables that a run works on: plain C, shared by the engine (which fills them) and the
# kernels (which read them). A Table owns nothing; whoever fills it keeps the memory alive.

from libc.stdint cimport int64_t

cdef enum:
    MAX_STREAMS = 6     # parameter, gradient, and up to four state arrays
    MAX_SCALARS = 16
    MAX_MEMORY = 2
    CHUNK = 16384       # elements: chunk boundaries are fixed, so results cannot depend on threads

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

# Does one bundle of a Table.
ctypedef void (*BundleFunction)(const void *table, Py_ssize_t bundle) noexcept nogil

# Replaces the scalars that change from step to step by their values at this step count. A few
# rules carry numbers from step to step beside the count: their memory, which the clock advances.
ctypedef void (*Clock)(double *, int64_t step, float *memory) noexcept nogil

# What one kernel module offers; passed to the engine in a capsule.
cdef struct Kernels:
    BundleFunction update
    BundleFunction reduce
    Clock *clocks               # per rule; NULL where no scalar depends on the step
