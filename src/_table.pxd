# The flat tables that a run works on: plain C, shared by the engine (which fills them) and the
# kernels (which read them). A Table owns nothing; its filler keeps the memory alive.

from libc.math cimport INFINITY
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    MAX_STREAMS = 6     # parameter, gradient, and up to four state arrays
    MAX_SCALARS = 32
    MAX_CARRIED = 2
    MAX_NUMBERS = 6
    MAX_SUMS = 6
    MAX_STAGES = 4
    CHUNK = 16384       # elements: chunk boundaries are fixed, so results cannot depend on threads
    SHORT_CHUNK = 4096  # elements of a chunk of a tensor of few, which threads could not share well otherwise:
    FEW_ELEMENTS = 262144       # up to so many
    LINE = 64           # bytes of a line of the cache
    PIECE = 512         # elements that pass through all stages while they are in the cache: the best of 128 to 16384
    KEPT = 4096         # elements of a unit whose passes hand on what they have computed, on the stack
    KEPT_TOGETHER = 1048576     # elements of all larger ones that hand it on, in memory of the plan's: the bytes
                                # that it moves are as many as it saves, so it is worth it in the cache only
    WORK = MAX_STREAMS  # after the streams: what a pass hands on to the next, or NULL where it is to be computed again
    BLOCK = 128         # elements whose values a rule computes before it adds them up; a multiple of LANES
    START = WORK + 1    # and the number of the first element, as a pointer, for streams that are slices
    LANES = 16          # sums that a pass adds up side by side, whatever the vector width

# The length of the chunks of a tensor, which its size alone decides: sums must not depend on what else is stepped.
cdef inline Py_ssize_t chunk_elements(Py_ssize_t size) noexcept nogil:
    return SHORT_CHUNK if size <= FEW_ELEMENTS else CHUNK

cdef struct Tensor:
    void *streams[MAX_STREAMS]  # parameter, gradient, state in the rule's order
    Py_ssize_t size             # elements
    int dtype                   # of the arithmetic: see _codecs.pxd
    int row                     # the scalars of this step; -1: no gradient, skip

# How the streams of a tensor are stored.
cdef struct Storage:
    uint8_t codes[MAX_STREAMS]      # a codec each: see _codecs.pxd
    uint8_t type                    # of the parameter's elements; the gradient's unless it has its own
    void *partners[MAX_STREAMS]     # what a codec keeps beside the elements
    uint64_t *key                   # of what is rounded by random bits; NULL: nothing is
    Py_ssize_t first                # the number of its first element in the tensor that it is a part of

# A tensor that is a part of one whose other parts other processes have.
cdef struct Part:
    Py_ssize_t first, whole         # the number of its first element, and how many there are

# Pieces of the same length to be added in a tree: see canonical_sum.
cdef struct Sum:
    int code, dtype                 # how the pieces are stored, and the type of the arithmetic and of the sum
    Py_ssize_t count, size          # pieces, and elements of each
    const void **pieces
    void *out

# The units of a tensor: the elements that a rule takes sums over.
cdef struct Units:
    Py_ssize_t size                 # elements of a unit; all of a tensor's are as large
    double *numbers[MAX_NUMBERS]    # of the state, one a unit each
    void *work                      # what a pass hands on to the next, an element each; NULL: not kept, or on the stack
    double *scalars                 # MAX_SCALARS of each unit that is larger than a chunk; or, of a rule that
                                    # combines, of the tensor
    double *sums                    # MAX_SUMS of each unit, of a rule that combines them; else NULL
    bint differ                     # whether its units have scalars of their own

cdef struct Group:              # the sums of a rule whose unit is a group, or all groups
    double *numbers[MAX_NUMBERS]    # of the group
    double sums[MAX_SUMS]
    Py_ssize_t size                 # elements

cdef struct Row:                # the scalars of one group at one step count
    int rule
    Py_ssize_t group
    int64_t step
    double before[MAX_CARRIED]   # the carried numbers in the state, and
    double carried[MAX_CARRIED]  # those after the step
    double scalars[MAX_SCALARS]

cdef struct Head:               # the first scalars of every rule that updates parameters
    double sign                 # of the gradient: -1 to go upwards; clipping and scaling multiply it

cdef struct Chunk:              # elements [start, stop) of one tensor
    Py_ssize_t tensor, start, stop

# A rule without state that runs over the elements of a step before or after the rule of the step.
cdef struct Stage:
    int rule
    double scalars[MAX_SCALARS]
    void **streams              # per tensor its first stream, of which the parameter is the second; NULL: none

# What a rule of Adafactor's family does with a parameter, in this order.
cdef enum FactoredPass:
    MEAN_SQUARES        # sums of squares of the gradient along rows and columns; of a vector, its averages
    SCALED_SQUARES      # the sum of squares of the scaled gradient
    RESIDUALS           # as MEAN_SQUARES, of the scaled gradient without its average
    AGREEMENTS          # how many elements of the average are along the gradient
    FACTORED_UPDATE
    FACTORED_PASSES     # how many there are

# A parameter that such a rule steps: matrices, cut into blocks at fixed rows and columns. Blocks are numbered matrix by
# matrix, row by row. A vector is a matrix of one row, whose elements have averages and factors of their own.
cdef struct Factored:
    int dtype
    bint vector
    Py_ssize_t count                # of matrices
    Py_ssize_t rows, columns        # of a matrix
    Py_ssize_t height, width        # of a block
    Py_ssize_t down, across         # blocks in a matrix
    Py_ssize_t blocks, bundle       # in all, and in a bundle
    void *param
    void *grad
    void *moment                    # an average of the scaled gradient, or NULL
    void *squares[2]                # averages along the rows of all matrices, and along their columns; of a vector, the second
    void *residuals[2]              # likewise, of squares of the residual; or NULL
    int64_t *counter
    int64_t step
    # Work.
    void *factors[2]                # of the rows and columns of the gradient,
    void *confidence[2]             # and of the average; or NULL
    double *row_sums                # [matrix][block across][row]
    double *column_sums             # [matrix][block down][column]
    double *sums                    # [block]: of a pass, and
    double *param_squares           # [block]
    # The numbers of a step.
    double weight, eps              # of the new squares in their average, and what is added to them
    double residual_weight, residual_eps
    bint product                    # whether factors multiply the gradient one by one; else their product does, which is
    double most, least_mean         # at most this; and the least mean of the row factors
    bint scaled                     # whether the rate is relative to the size of the parameter,
    double least_scale              # at least this
    double threshold                # of the root mean square of the scaled gradient
    double sign, rate               # of the scaled gradient, before it is averaged
    double keep                     # of the average
    bint cautious                   # whether elements are left out that are not along the gradient
    double rest                     # the rate of what is averaged
    double decay
    bint decays_by_scale
    # What the passes have found.
    double scale, clip, along, gain, size, shrink

# Whether its numbers and state ask for a pass.
cdef inline bint takes_pass(const Factored *f, int phase) noexcept nogil:
    if phase == SCALED_SQUARES:
        return f.threshold < INFINITY
    if phase == RESIDUALS:
        return f.residuals[0] != NULL
    return phase != AGREEMENTS or f.cautious

# A run over such parameters: one pass or what follows it, of the first; or all, of the parameters of a bundle.
cdef struct FactoredRun:
    int phase                       # a FactoredPass
    bint settles
    Factored **parameters
    Py_ssize_t *bundles

# A product of two matrices that lie in panels, and how many of its parts are computed side by side.
cdef extern from "products.h" nogil:
    cdef enum:
        PANEL_BYTES
    ctypedef struct Product:
        bint is_double, symmetric
        Py_ssize_t rows, columns, depth
        const void *a
        const void *b
        const void *z
        void *out
        void *mirror
        Py_ssize_t a_rows, b_rows, out_rows, mirror_rows
        double alpha, beta, diagonal
    Py_ssize_t product_task_count(const Product *product)
    void product_task(const Product *product, Py_ssize_t task)

# What a pass does with a matrix that Muon steps.
cdef enum MatrixPass:
    DIRECTED            # moves the momentum; the direction in panels, and the sums of its squares
    RESCALED            # the panels, by a factor
    STEPPED             # the step along the matrix in panels
    FLATTENED           # copies the matrix from its panels into rows without gaps
    MEASURED            # the sums of squares of the segments of these rows
    STEPPED_BY_SEGMENTS # the step along these rows, each segment by its factor

# A matrix that Muon steps. The direction lies in panels twice: as it is, and transposed. A block is as many rows as a
# panel has columns, or some segments.
cdef struct Directed:
    int dtype, phase
    bint nesterov, cautious
    Py_ssize_t rows, columns
    void *param
    void *grad
    void *buffer
    void *panels
    void *turned
    Py_ssize_t panel_rows, turned_rows
    void *flat
    Py_ssize_t segment, segments, bundle    # elements of one, how many, and how many are a block
    double *squares                         # of each block, or of each segment
    double *factors                         # of each segment
    double sign, momentum, factor, shrink, size

# The units of a rule: none, each row of a tensor (an index of its first axis), each tensor, all
# tensors of a group, those of all groups that have the rule.
cdef enum Scope:
    PER_ELEMENT
    PER_ROW
    PER_TENSOR
    PER_GROUP
    OVER_ALL

# The work of a pass on each bundle.
cdef enum Pass:
    UPDATE              # the rules; of those that measure, the units within a chunk
    APPLY               # the last pass of the rules that measure, over larger units
    REDUCE              # a reduction of stream 0
    NORM                # the sum of squares of the gradients, over the tensors that have a row
    DIRECTIONS          # of a Directed, of a FactoredRun by blocks and by parameters: for the choice of threads
    FACTORED_BLOCKS
    FACTORED_WHOLE
    UPDATE_AGAIN        # between UPDATE and APPLY: the second pass of rules that measure twice, over larger units

# Consecutive chunks are bundled so that a bundle is about CHUNK elements of work however small
# the tensors are: bundle b holds chunks [bundles[b], bundles[b + 1]).
cdef struct Table:
    int phase                   # a Pass
    Tensor *tensors
    Row *rows
    Chunk *chunks
    Py_ssize_t *bundles
    Units *units                # per tensor, where a rule measures; else NULL
    Storage *storage            # per tensor; NULL: all streams are stored in the type of their tensor's arithmetic
    double *partials            # the sums of a pass, MAX_SUMS per chunk
    int reduction               # which, and of which order, for a run that reduces
    double order
    double factors[2]           # of the streams that a run adds before it reduces
    int zero                    # whether an update leaves gradients filled with zeros
    int before, after           # how many stages change the gradient before the rule, or follow the parameter
    Stage stages[MAX_STAGES]    # those before, and then those after
    Group *groups               # where the unit of a rule is a group, or all; else NULL
    Py_ssize_t n_groups, n_rows

# Does one bundle of a Table.
ctypedef void (*BundleFunction)(const void *table, Py_ssize_t bundle) noexcept nogil

# Replaces the scalars that change from step to step by their values at this step count. A few
# rules carry numbers from step to step beside the count: the carried numbers, which the clock advances.
ctypedef void (*Clock)(double *scalars, int64_t step, double *carried) noexcept nogil

# Turns the sums over a unit of so many elements into scalars of the unit, and into the numbers that
# its state keeps.
ctypedef void (*Finish)(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil

# Turns the sums of all units of a tensor, MAX_SUMS each, into scalars of the tensor, from which the finish of a unit
# begins; whether any unit's scalars will differ from these.
ctypedef bint (*Combine)(double *scalars, const double *sums, Py_ssize_t units, Py_ssize_t size) noexcept nogil

# How elements are stored: codec_decode and codec_encode of codecs.h.
ctypedef void (*Decode)(int code, const void *stored, const void *partner, float *out, ptrdiff_t first,
                        ptrdiff_t n) noexcept nogil
ctypedef void (*Encode)(int code, const float *values, void *stored, void *partner, uint64_t key, ptrdiff_t first,
                        ptrdiff_t n) noexcept nogil

# The interface of a kernel module, which the engine gets in a capsule.
cdef struct Kernels:
    BundleFunction run      # does a bundle's part of the table's pass
    void (*begin)(Table *table) noexcept nogil      # advances the numbers of groups whose rule does not measure
    # Finishes the units that are larger than a chunk, of the bundles [first, last) that a run has measured; the pass
    # that is to follow, or UPDATE: none.
    int (*finish)(Table *table, Py_ssize_t first, Py_ssize_t last) noexcept nogil
    Clock *clocks           # per rule; NULL where no scalar depends on the step
    BundleFunction multiply     # a task of a Product
    BundleFunction direct       # a block of a Directed
    BundleFunction factor       # a bundle of a FactoredRun
    BundleFunction add          # a chunk of a Sum
    Decode decode
    Encode encode
