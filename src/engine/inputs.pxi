# The first half of a step: which parameters have a gradient, and where it lies.

cdef enum Door:
    ARRAY = 0       # a plain ndarray: gradients come through step(grads=...)
    PARAMETER = 1   # ours
    TENSOR = 2      # a tensor of another library, read by Exchange, or as an array
    OBJECT = 3      # anything with .data and .grad arrays

# The record of one parameter in the plan: the fields that every step reads, within one cache line.
cdef struct Slot:
    ArrayTrace trace        # of its array
    int64_t *step           # the step count in its state; NULL: none yet
    Range gap               # without any parameter or state: a gradient in here overlaps none
    int32_t group
    int32_t section         # of its group: see Rows.set_apart
    int32_t first           # the slot in which the same parameter occurs first
    int16_t rule            # its state arrays are bound for this rule; -1: not bound
    int16_t layout          # flags of its array
    uint8_t door
    uint8_t direct          # updated in its own memory; otherwise through a dense copy
    uint8_t sparse          # the last gradient was sparse
    uint8_t age             # 0 or 1 takes the place of the step count where the rule keeps none


cdef class Inputs(Work):
    """The parameters of an optimizer, and the gradients of the running step.

    Parameters
    ----------
    doors : list of (int, ndarray)
        For each parameter its door and the array that views its memory.
    labels : list of str
        How errors name each parameter.
    groups : list of dict
        The optimizer's ``param_groups``.
    only_sparse : bool
        Whether dense gradients are refused.
    turn : Turn
        Whose turn it is: every method but :meth:`step` is called within one.
    by_rows : bool
        Whether a rule may take sums over rows, or keep slices, or a state is stored in fewer bits: they need C order.
    """

    cdef Slot *slots
    cdef list groups            # the optimizer's own dicts
    cdef list members           # each group's own list of parameters
    cdef list objects           # parameters as the user gave them
    cdef list views             # their memory as arrays
    cdef list labels
    cdef Walls walls
    cdef Exchange exchange
    cdef PyObject **held        # gradients and copies in use by the running step
    cdef Py_ssize_t n_held
    cdef list sparse            # SparseUpdate: the sparse gradients of the running step
    cdef list originals         # gradients that the running step reads in a copy
    cdef Turn turn              # of the optimizer
    cdef bint only_sparse       # other gradients are refused
    cdef readonly bint by_rows  # rows are units, or slices kept: parameters are in C order
    cdef bint whole             # the caller makes sparse gradients dense
    cdef Py_ssize_t *n_options  # of each group's dict when it was last looked at; -1: not yet
    cdef bint zeroing           # gradients are filled with zeros by the running step
    cdef bint repeats           # a parameter occurs more than once in its group
    cdef bint in_place          # no parameter needs a copy, or is another library's tensor
    cdef bint stirred           # the running step has called code that is not ours

    def __cinit__(self, list items, list labels, list groups, *args):
        self.slots = <Slot *>PyMem_Calloc(max(len(items), 1), sizeof(Slot))
        self.held = <PyObject **>PyMem_Malloc(max(len(items), 1) * sizeof(PyObject *))
        self.n_options = <Py_ssize_t *>PyMem_Malloc(max(len(groups), 1) * sizeof(Py_ssize_t))
        if not self.slots or not self.held or not self.n_options:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.slots)
        PyMem_Free(self.held)
        PyMem_Free(self.n_options)

    def __init__(self, list doors not None, list labels not None, list groups not None,
                 bint only_sparse, Turn turn not None, bint by_rows=False):
        cdef Py_ssize_t i = 0, g
        cdef Slot *slot
        cdef cnp.ndarray view
        cdef dict seen = {}
        self.groups = list(groups)
        self.members = [members_of(group, g) for g, group in enumerate(groups)]
        if not len(doors) == len(labels) == sum([len(params) for params in self.members]) == self.n_tensors:
            raise ValueError(f"{len(doors)} parameters, {len(labels)} labels, {self.n_tensors} places")
        self.labels = list(labels)
        self.turn = turn
        self.views = [array for _, array in doors]
        self.objects, self.sparse, self.originals = [], [], []
        self.walls = Walls(self.views)
        self.exchange = Exchange()
        self.only_sparse, self.by_rows = only_sparse, by_rows
        self.in_place = True
        for g in range(len(groups)):
            self.n_options[g] = -1
            for param in self.members[g]:
                slot = &self.slots[i]
                view = self.views[i]
                self.objects.append(param)
                slot.door = doors[i][0]
                slot.group = slot.section = g
                slot.first = seen.setdefault(id(param), i)
                slot.rule = -2          # UNSEEN
                slot.direct = (layout_of(view) == DENSE
                               and (cnp.PyArray_IS_C_CONTIGUOUS(view) or not self.by_rows))
                slot.layout = array_layout(<PyObject *>view)
                array_trace(<PyObject *>view, &slot.trace)
                self.repeats = self.repeats or slot.first != i
                self.in_place = self.in_place and slot.direct and slot.door != TENSOR
                self.table.tensors[i].streams[0] = cnp.PyArray_DATA(view)
                self.table.tensors[i].size = count_reals(view)
                self.take_type(i, view)
                i += 1

    # --- whether the plan still fits -------------------------------------------------------------

    def note_options(self):
        """Take the options of all groups as they are: names written later are checked by a step."""
        cdef Py_ssize_t g
        for g in range(len(self.groups)):
            self.n_options[g] = len(<dict>self.groups[g])

    cdef inline int _check_written(self, object optimizer) except -1:
        """Refuse misspelt options that were written into a group after its construction."""
        cdef Py_ssize_t g, n
        for g in range(PyList_GET_SIZE(self.groups)):
            n = PyDict_Size(<dict>PyList_GET_ITEM(self.groups, g))
            if n != self.n_options[g]:
                if self.n_options[g] >= 0:
                    optimizer._check_written(<dict>PyList_GET_ITEM(self.groups, g), g, self.n_options[g])
                self.n_options[g] = n
        return 0

    @cython.final
    cdef bint _same_groups(self, list groups):
        """Whether these are the plan's groups and lists, of as many parameters."""
        cdef Py_ssize_t g, count = 0
        cdef list params
        if groups is None or PyList_GET_SIZE(groups) != PyList_GET_SIZE(self.groups):
            return False
        for g in range(PyList_GET_SIZE(groups)):
            if item_address(groups, g) != <void *>PyList_GET_ITEM(self.groups, g):
                return False
            if (value_address(<dict>PyList_GET_ITEM(self.groups, g), "params")
                    != <void *>PyList_GET_ITEM(self.members, g)):
                return False
            params = <list>PyList_GET_ITEM(self.members, g)
            count += PyList_GET_SIZE(params)
        return count == self.n_tensors

    cdef bint _fits(self, object optimizer) except -1:
        """Whether these are the plan's parameters, and where they were."""
        cdef Py_ssize_t i = 0
        if not self._same_groups(optimizer.param_groups):
            return False
        for params in self.members:
            for param in params:
                if param is not self.objects[i] or self._moved(i, <PyObject *>param):
                    return False
                i += 1
        return True

    @cython.final
    cdef inline bint _moved(self, Py_ssize_t i, PyObject *param) except -1:
        cdef PyObject *view = PyList_GET_ITEM(self.views, i)
        cdef int door = self.slots[i].door
        if door == PARAMETER:
            if data_address(<ParameterBase>param) != <void *>view:
                return True
        elif door != ARRAY:
            return self._moved_elsewhere(i)
        # A new plan raises the error that names a read-only parameter.
        return not self._is_as_it_was(i, view)

    @cython.final
    cdef inline bint _is_as_it_was(self, Py_ssize_t i, PyObject *view) noexcept:
        cdef const Slot *slot = &self.slots[i]
        return array_layout(view) == slot.layout and array_is_as_it_was(view, &slot.trace)

    cdef bint _moved_elsewhere(self, Py_ssize_t i) except -1:
        cdef Slot *slot = &self.slots[i]
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef BorrowedTensor tensor
        cdef PyObject *param = PyList_GET_ITEM(self.objects, i)
        if slot.door == TENSOR:
            if not self.exchange.borrow(<object>param, OF_PARAMETER, &tensor):
                return self._array_moved(i, view)
            if not fits(view, &tensor) or is_lazy(view, <object>param, slot.direct):
                return True
            # Without elements the address means nothing: torch's is NULL, NumPy's is not.
            return (slot.trace.size != 0
                    and <char *>tensor.data + tensor.byte_offset != <char *>slot.trace.address)
        self.stirred = True
        return (self.objects[i].data is not view
                or not self._is_as_it_was(i, <PyObject *>view))

    cdef bint _array_moved(self, Py_ssize_t i, cnp.ndarray view) except -1:
        # A tensor that only torch itself can read.
        from cyoptim._arrays.doors import part_array
        cdef cnp.ndarray array = part_array(self.objects[i], self.objects[i], self.labels[i])
        self.stirred = True
        if (<object>array).dtype != view.dtype or (<object>array).shape != (<object>view).shape:
            return True
        return cnp.PyArray_SIZE(view) != 0 and (
            cnp.PyArray_DATA(array) != cnp.PyArray_DATA(view)
            or (<object>array).strides != (<object>view).strides)

    # --- gradients -------------------------------------------------------------------------------

    cdef int _take_gradient(self, Py_ssize_t i, object grad, object optimizer) except -1:
        """Check a gradient and note its address. Copies it where it cannot be read in place."""
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef object original = grad
        cdef Slot *slot = &self.slots[i]
        cdef Tensor *tensor = &self.table.tensors[i]
        cdef BorrowedTensor borrowed
        cdef uintptr_t low
        if (cnp.PyArray_CheckExact(grad) and slot.direct
                and same_layout(view, <cnp.ndarray>grad)):
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
            self._note_gradient(i, self._type_of(i))
        elif (cnp.PyArray_CheckExact(grad) and slot.direct and same_places(view, <cnp.ndarray>grad)
                and self._takes_known_type(i, <cnp.ndarray>grad)):
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
            self._note_gradient(i, stored_as(<cnp.ndarray>grad).code)
        elif (slot.door == TENSOR and slot.direct and not cnp.PyArray_Check(grad)
                # To find out by the table that a tensor is sparse takes torch 0.8 ms.
                and not (slot.sparse and is_sparse(grad))
                and self.exchange.borrow(grad, OF_GRADIENT, &borrowed) and fits(view, &borrowed)
                and not is_lazy(view, grad, slot.direct)):
            tensor.streams[1] = <char *>borrowed.data + borrowed.byte_offset
            self._note_gradient(i, self._type_of(i))
        else:
            if not cnp.PyArray_Check(grad):
                self.stirred = True
                grad = original = array_of(grad)
            if not cnp.PyArray_Check(grad) and is_sparse(grad):
                slot.sparse = True
                if self._take_sparse(i, grad, optimizer):
                    return 0
                grad = self._densify(i, grad)
            else:
                grad = self._gradient_array(i, grad)
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
            self._note_gradient(i, dtype_code(<cnp.ndarray>grad))
        if self.only_sparse:
            optimizer._refuse_dense(self.labels[i])
        low = <uintptr_t>tensor.streams[1]
        if (not self._clear_of_parameters(slot, low, low + self.bytes_of(i, 1))
                and (tensor.streams[1] != slot.trace.address or self.repeats)):
            # The gradient is (part of) a parameter or state that this same run changes: read it
            # first.
            grad = self._dense_copy(view, self._as_array(i, grad))
            tensor.streams[1] = cnp.PyArray_DATA(<cnp.ndarray>grad)
        if self.zeroing:
            if cnp.PyArray_Check(original) and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>original):
                raise ValueError(
                    f"gradient of {self.labels[i]} is read-only: it cannot be filled with zeros"
                )
            if grad is not original:
                self.originals.append((original, self.labels[i]))
        self._hold(<PyObject *>grad)
        tensor.row = 0
        return 0

    cdef inline int _type_of(self, Py_ssize_t i) noexcept:
        """The type of a parameter's elements."""
        return self.table.tensors[i].dtype if self.table.storage == NULL else self.table.storage[i].type

    cdef int _note_gradient(self, Py_ssize_t i, int code) except -1:
        """Note the type of a gradient's elements."""
        if self.table.storage != NULL or code != self.table.tensors[i].dtype:
            self.store_as(i, 1, code)
        return 0

    cdef inline bint _takes_known_type(self, Py_ssize_t i, cnp.ndarray grad) noexcept:
        """Whether a gradient is of a type that has been seen and that NumPy or its package names, and as exact as its
        parameter's in the arithmetic."""
        cdef const Stored *stored = stored_as(grad)
        return (stored != NULL and stored.arithmetic == FLOAT32 == self.table.tensors[i].dtype
                and stored.number != cnp.NPY_UINT16 and not cnp.PyArray_ISCOMPLEX(grad)
                and not cnp.PyArray_ISCOMPLEX(<cnp.ndarray>PyList_GET_ITEM(self.views, i)))

    cdef bint _takes_type(self, Py_ssize_t i, cnp.ndarray grad) except -1:
        """Whether a gradient is of its parameter's type, or of another that is as exact in the arithmetic."""
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        if cnp.PyArray_TYPE(grad) == cnp.PyArray_TYPE(view):
            return True
        if cnp.PyArray_ISCOMPLEX(view) or not is_dtype(grad.dtype) or cnp.PyArray_ISCOMPLEX(grad):
            return False
        return self.table.tensors[i].dtype == FLOAT32 == arithmetic_code(dtype_code(grad))

    cdef bint _take_sparse(self, Py_ssize_t i, object grad, object optimizer) except -1:
        """Take a sparse gradient as it is; False if it is needed as an array."""
        from cyoptim._arrays.sparse import spans
        cdef cnp.ndarray view = self.views[i], values
        cdef uintptr_t low
        cdef dict group = self.groups[self.slots[i].group]
        cdef Rule rule = rule_of(optimizer, group)
        if rule is not None and rule.is_cautious:
            optimizer._refuse_with_caution(f"sparse gradients (that of {self.labels[i]} is sparse)")
        if self._type_of(i) > FLOAT64 or has_storage(group):
            optimizer._refuse_sparse_bits(self.labels[i])
        if (not optimizer._takes_spans(group, self.labels[i])
                or self.whole):
            return False
        laid_out = view if self.slots[i].direct else self.empty_like(view, None)
        starts, lengths, values = spans(grad, laid_out, f"gradient of {self.labels[i]}")
        low = <uintptr_t>cnp.PyArray_DATA(values)
        if not self._clear_of_parameters(&self.slots[i], low, low + cnp.PyArray_NBYTES(values)):
            values = values.copy()
        self.sparse.append(SparseUpdate(len(starts), starts, lengths, values, i, laid_out))
        if self.zeroing:
            self.originals.append((grad, self.labels[i]))
        self.table.tensors[i].row = 0
        return True

    cdef object _densify(self, Py_ssize_t i, object grad):
        from cyoptim._arrays.sparse import densify
        dense = densify(grad, self.views[i], f"gradient of {self.labels[i]}")
        return self._dense_copy(self.views[i], dense)

    cdef object _gradient_array(self, Py_ssize_t i, object grad):
        cdef cnp.ndarray view = <cnp.ndarray>PyList_GET_ITEM(self.views, i)
        cdef cnp.ndarray array = self._as_array(i, grad)
        if self.slots[i].direct and same_layout(view, array):
            return array
        if not self._takes_type(i, array) or not cnp.PyArray_SAMESHAPE(array, view):
            from cyoptim._arrays.doors import misfit_of_gradient
            raise misfit_of_gradient(f"gradient of {self.labels[i]}", array, view)
        if self.slots[i].direct and same_places(view, array):
            return array
        return self._dense_copy(view, array)

    cdef object _as_array(self, Py_ssize_t i, object grad):
        if cnp.PyArray_CheckExact(grad):
            return grad
        if cnp.PyArray_Check(grad):
            from cyoptim._arrays.doors import check_unmasked
            check_unmasked(grad, f"gradient of {self.labels[i]}")
            return as_base(grad)
        if isinstance(grad, np.generic) and self.views[i].ndim == 0:
            return np.asarray(grad)
        if self.slots[i].door == TENSOR:
            from cyoptim._arrays.doors import part_array
            return part_array(grad, self.objects[i], f"gradient of {self.labels[i]}")
        from cyoptim._arrays.doors import as_written
        raise TypeError(
            f"gradient of {self.labels[i]} is a {type(grad).__name__}, expected a NumPy array: "
            f"{as_written(grad)}"
        )

    cdef object empty_like(self, cnp.ndarray view, object dtype):
        """An array without gaps in the layout of the parameter's state."""
        order = "C" if self.by_rows else "K"
        return np.empty_like(view, dtype=dtype, order=order, subok=False)

    cdef object _dense_copy(self, cnp.ndarray view, object source):
        # In the layout that the parameter's state has.
        dtype = None
        if cnp.PyArray_Check(source) and cnp.PyArray_TYPE(<cnp.ndarray>source) != cnp.PyArray_TYPE(view):
            dtype = source.dtype.newbyteorder("=")
        copy = self.empty_like(view, dtype)
        copy[...] = source
        return copy

    @cython.final
    cdef bint _collect(self, list grads, object optimizer) except -1:
        """Take every gradient, from `grads` (one per parameter, or None) or from the parameters;
        False if the plan no longer fits the parameters."""
        cdef Py_ssize_t g, k, i = 0
        cdef list params
        cdef PyObject *param
        cdef PyObject *grad
        cdef const void *item
        self.stirred = False
        if (not self._same_groups(optimizer.param_groups)
                or (grads is not None and PyList_GET_SIZE(grads) != self.n_tensors)):
            return False
        self._check_written(optimizer)
        # One pass, for with many small parameters each pass costs as much as the update.
        for g in range(PyList_GET_SIZE(self.members)):
            params = <list>PyList_GET_ITEM(self.members, g)
            k = 0
            while True:     # to the end that the list has by then: a gradient may be the result of other code
                item = item_address(params, k)
                if item == NULL:
                    break
                if i == self.n_tensors:
                    return False
                param = PyList_GET_ITEM(self.objects, i)
                if item != <void *>param or self._moved(i, param):
                    return False
                self.table.tensors[i].row = -1
                if grads is not None:
                    # Code of a gradient's library may have got hold of the list.
                    if i >= PyList_GET_SIZE(grads):
                        return False
                    grad = PyList_GET_ITEM(grads, i)
                elif self.slots[i].door == PARAMETER and not FREE_THREADED:
                    # The Parameter holds it: to count the reference would take time.
                    grad = <PyObject *>(<ParameterBase>param)._grad
                else:
                    own = self._own_gradient(i)
                    grad = <PyObject *>own
                self._take(i, grad, optimizer)
                i += 1
                k += 1
        return i == self.n_tensors

    cdef object _own_gradient(self, Py_ssize_t i):
        if self.slots[i].door == PARAMETER:
            return held_gradient(<ParameterBase>PyList_GET_ITEM(self.objects, i))
        if self.slots[i].door == ARRAY:
            raise ValueError(
                f"{self.labels[i]} is a plain array and has no gradient of its own: "
                "call step(grads=...), let the closure return (loss, grads), or wrap it in "
                "cyoptim.Parameter"
            )
        if self.slots[i].door == OBJECT:
            self.stirred = True
        return self.objects[i].grad

    @cython.final
    cdef inline int _take(self, Py_ssize_t i, PyObject *grad, object optimizer) except -1:
        if grad != <PyObject *>None and not self._take_at_once(i, grad):
            self._take_gradient(i, <object>grad, optimizer)
        return 0

    @cython.final
    cdef inline bint _take_at_once(self, Py_ssize_t i, PyObject *grad) noexcept:
        """Take a gradient that needs no closer look: an array like its parameter's, where the last
        one was clear of all parameters. False if it is not of this kind."""
        cdef Slot *slot = &self.slots[i]
        cdef Tensor *tensor = &self.table.tensors[i]
        cdef uintptr_t low
        if (not slot.direct or self.only_sparse
                or not array_is_just_like(PyList_GET_ITEM(self.views, i), grad)
                or (self.zeroing and not array_is_writable(grad))):
            return False
        low = <uintptr_t>array_data(grad)
        if self.table.storage != NULL:
            self.table.storage[i].codes[1] = self.table.storage[i].type
        if low < slot.gap.low or low + self.bytes_of(i, 1) > slot.gap.high:
            return False
        tensor.streams[1] = <void *>low
        tensor.row = 0
        self._hold(grad)
        return True

    @cython.final
    cdef inline void _hold(self, PyObject *grad) noexcept:
        Py_INCREF(<object>grad)
        self.held[self.n_held] = grad
        self.n_held += 1

    cdef bint _clear_of_parameters(self, Slot *slot, uintptr_t low, uintptr_t high) noexcept:
        # Whether the gradient shares no memory with any parameter. The gap found is remembered:
        # the allocator tends to put the next gradient in the same place.
        if slot.gap.low <= low and high <= slot.gap.high:
            return True
        return self.walls.find_gap(low, high, &slot.gap)

    cdef int _part_from_state(self) except -1:
        """Copy the gradients that share memory with state, as that has just become known."""
        cdef Py_ssize_t i, k = 0
        cdef uintptr_t low
        cdef Tensor *tensor
        cdef set spanned = self._spanned()
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            self.slots[i].gap.low = self.slots[i].gap.high = 0
            if tensor.row < 0 or (spanned is not None and i in spanned):
                continue
            low = <uintptr_t>tensor.streams[1]
            if (tensor.streams[1] != self.slots[i].trace.address and not self._clear_of_parameters(
                    &self.slots[i], low, low + self.bytes_of(i, 1))):
                self._copy_held(i, k)
            k += 1
        return 0

    cdef set _spanned(self):
        """The slots whose gradient is sparse in the running step, or None."""
        cdef SparseUpdate part
        return {part.slot for part in self.sparse} if self.sparse else None

    cdef int _copy_held(self, Py_ssize_t i, Py_ssize_t k) except -1:
        """Let the running step read a gradient in a copy; it is the k-th that is held."""
        grad = <object>self.held[k]
        copy = self._dense_copy(self.views[i], self._as_array(i, grad))
        if self.zeroing:
            self.originals.append((grad, self.labels[i]))
        Py_INCREF(copy)
        self.held[k] = <PyObject *>copy
        self.table.tensors[i].streams[1] = cnp.PyArray_DATA(<cnp.ndarray>copy)
        Py_DECREF(grad)
        return 0

    cdef int _check_still(self) except -1:
        """After code that is not ours was called: whether parameters and gradients are where they
        were."""
        cdef Py_ssize_t i, k = 0
        cdef const Tensor *tensor
        cdef bint still
        cdef set spanned = self._spanned()
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            still = (self.slots[i].door == TENSOR
                     or self._is_as_it_was(i, PyList_GET_ITEM(self.views, i)))
            if tensor.row >= 0 and not (spanned is not None and i in spanned):
                if still and cnp.PyArray_Check(<object>self.held[k]):
                    still = self._holds(<cnp.ndarray>self.held[k], i)
                k += 1
            if not still:
                raise RuntimeError(
                    f"{self.labels[i]} or its gradient was changed in size or place while the step "
                    "was being prepared"
                )
        return 0

    cdef inline bint _holds(self, cnp.ndarray grad, Py_ssize_t i) noexcept:
        return (cnp.PyArray_DATA(grad) == self.table.tensors[i].streams[1]
                and cnp.PyArray_NBYTES(grad) == self.bytes_of(i, 1))

    cdef list _held_arrays(self):
        """The gradients taken, each with its parameter's number."""
        cdef Py_ssize_t i, k = 0
        cdef list found = []
        for i in range(self.n_tensors):
            if self.table.tensors[i].row >= 0:
                found.append((i, self._as_array(i, <object>self.held[k])))
                k += 1
        return found

    @cython.final
    cdef void _release(self) noexcept:
        while self.n_held > 0:
            self.n_held -= 1
            Py_DECREF(<object>self.held[self.n_held])


cdef list members_of(object group, Py_ssize_t number):
    """The parameters of a group, whose type is trusted from here on."""
    if not isinstance(group, dict):
        raise TypeError(f"param group {number} is a {type(group).__name__}, expected a dict")
    params = group.get("params")
    if not isinstance(params, list):
        raise TypeError(
            f"'params' of param group {number} is a {type(params).__name__}, expected a list"
        )
    return <list>params     # or a subclass

