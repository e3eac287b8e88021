# Everything that holds Python objects: parameters, the buffers behind them, and the plan of a step.
#
# (a) A Plan is made once for an optimizer and kept. It remembers the address of every parameter and
#     state array; a step checks cheaply that nothing moved, takes the addresses of the gradients,
#     and makes one native call for all tensors of all groups.
# (b) A step has two halves. The first may raise and changes nothing: gradients are checked, the
#     hyper-parameters are computed, new state is allocated. The second cannot raise.
# (c) An optimizer is asked for a group's scalars only when an option of the group has changed; the
#     rule's clock turns them into those of a step, once per distinct step count of the group.
# (d) Gradients are kept alive while the native call runs without the GIL, and released right after.
# (e) One module, in parts that are included below, so that calls between them can be inlined.
cimport cython
cimport numpy as cnp
from cpython.buffer cimport PyObject_GetBuffer
from cpython.dict cimport (PyDict_Clear, PyDict_Copy, PyDict_DelItem, PyDict_Next, PyDict_SetItem,
                           PyDict_Size, PyDict_Update)
from cpython.exc cimport PyErr_Clear
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE, PyList_SetSlice
from cpython.mem cimport PyMem_Calloc, PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject, PyObject_GenericSetAttr
from cpython.tuple cimport PyTuple_GET_SIZE
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.weakref cimport PyWeakref_NewRef
from libc.math cimport INFINITY, NAN, fabs, isfinite, pow, sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy, memset

import os
from _thread import allocate_lock
from math import prod
from operator import index

import numpy as np

from _codecs cimport (BFLOAT16, BFLOAT16_MASTER, BFLOAT16_SPLIT, BFLOAT16_STOCHASTIC, DYNAMIC8, DYNAMIC8_POSITIVE,
                      FLOAT16, FLOAT16_MASTER, FLOAT16_POSITIVE, FLOAT16_POSITIVE_STOCHASTIC, FLOAT16_STOCHASTIC,
                      FLOAT32, FLOAT64, FLOAT8, FLOAT8_POSITIVE, MOST_DECODED, SCALED_TOGETHER, arithmetic_size,
                      codec_has_scales, codec_is_stochastic, codec_partner_size, codec_size, is_lossy, mixed, stored_size)
from _reduce cimport (AXPBY_DOT, COUNT_NONZERO, DOT, MAX_ABS, MIN_ABS, SUM_ABS, SUM_POWER, SUM_SQUARES,
                      combine)
from _table cimport (APPLY, CHUNK, DIRECTED, DIRECTIONS, FACTORED_BLOCKS, FACTORED_PASSES, FACTORED_WHOLE, FLATTENED,
                     KEPT, KEPT_TOGETHER, LINE, MAX_CARRIED, MAX_NUMBERS, MAX_SCALARS, MAX_STAGES, MAX_STREAMS, MAX_SUMS,
                     MEASURED, NORM, OVER_ALL, PANEL_BYTES, PER_GROUP, PER_ROW, REDUCE, RESCALED, SHORT_CHUNK,
                     STEPPED, STEPPED_BY_SEGMENTS, UPDATE, UPDATE_AGAIN, Chunk, Clock, Directed, Factored, FactoredRun,
                     Group, Head, Kernels, Part, Pass, Product, Row, Stage, Storage, Sum, Table, Tensor, Units, chunk_elements,
                     product_task_count, takes_pass)

cnp.import_array()

include "engine/guard.pxi"      # what takes the place of the GIL where there is none
include "engine/dtypes.pxi"     # types of elements
include "engine/rules.pxi"      # the description of each rule
include "engine/threads.pxi"    # which kernels run, and on how many threads
include "engine/arrays.pxi"     # parameters, and properties of arrays
include "engine/walls.pxi"      # whether memory is shared
include "engine/files.pxi"      # memory in mapped files
include "engine/turn.pxi"       # exclusive use of an optimizer
include "engine/detours.pxi"    # conditions for the slow path
include "engine/exchange.pxi"   # tensors of other libraries
include "engine/options.pxi"    # the options of a group, and rows of scalars
include "engine/numbers.pxi"    # step counts and single numbers of a state
include "engine/room.pxi"       # placement of new state
include "engine/codecs.pxi"     # arrays to and from fewer bits
include "engine/storage.pxi"    # how a state is stored
include "engine/work.pxi"       # tables, and passes over lists of arrays
include "engine/sums.pxi"       # the sum of pieces in one order
include "engine/first_touch.pxi"    # what new state begins with
include "engine/factored.pxi"   # the steps of Adafactor's family
include "engine/muon.pxi"       # Muon's step
include "engine/two_loop.pxi"   # the passes of L-BFGS over its history
include "engine/sparse.pxi"     # the update of a parameter whose gradient is sparse
include "engine/extras.pxi"     # the arguments of a step besides gradients, and its results
include "engine/commit.pxi"     # changes made all at once

# The plan of a step, each layer on the one before.
include "engine/inputs.pxi"     # parameters and gradients
include "engine/rows.pxi"       # options, and the scalars of each tensor
include "engine/states.pxi"     # state: found, made, bound
include "engine/averages.pxi"   # averages that follow the parameters
include "engine/parts.pxi"      # parts of tensors whose other parts other processes have
include "engine/passes.pxi"     # the runs over all tensors
include "engine/plan.pxi"       # the step
