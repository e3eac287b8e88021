# The state of parameters: found, made, bound to the streams of their tensors, and watched.


cdef class States(Rows):
    """Binds the state of each parameter to the streams that its rule reads."""

    cdef list births            # (dict, entries): new state, put in when nothing can fail any more
    cdef list fills             # (slot, stream, value) of new state that is still to be written
    cdef list replaced          # by the running step: its end may run other code
    cdef list owners            # of the memory of state and averages; they are not to be resized
    cdef ArrayTrace *traces     # of the owners
    cdef list group_numbers     # per group: the arrays of the numbers that its rule carries on
    cdef bint alive             # its optimizer's plan; not before, and not when another is

    def __dealloc__(self):
        cdef Py_ssize_t i
        PyMem_Free(self.traces)
        if self.table.units != NULL:
            for i in range(self.n_tensors):
                PyMem_Free(self.table.units[i].scalars)
                PyMem_Free(self.table.units[i].sums)

    cdef int begin_states(self) except -1:
        self.births, self.owners, self.replaced, self.fills = [], [], [], []
        self.group_numbers = [None] * len(self.groups)
        return 0

    @cython.final
    cdef int prepare(self, object optimizer) except -1:
        """Everything that the run of a step needs beside parameters and gradients."""
        cdef bint changed
        self.looked = shared_read(&self.watch.changes)
        changed = self.seen != self.looked or not self._owners_are_still()
        if PyList_GET_SIZE(self.births) or PyList_GET_SIZE(self.fills):     # of a step that failed
            self.births = []
            self.fills.clear()
        if changed:
            self.forget_state()
            self.seen = NEVER
        unbound = self.assign_rows(optimizer)
        if unbound:
            self.seen = NEVER       # unless all of what follows succeeds: see settle
            self.bind_states(optimizer, unbound)
            if not self._owners_are_still():    # of what was bound before
                self.refuse_moved_state()
        if self.table.groups != NULL:
            self._bind_group_numbers()
        if unbound or (changed and self.updates):
            self.build_walls()
            # A momentum buffer may turn out to be new or not, which is another row, but of the same rule.
            if self.assign_rows(optimizer):
                self.refuse_moved_state()
            self._part_from_state()
        if self.recut:
            self.cut_waves()
        if self.table.units != NULL:
            self.make_partials(self.n_chunks * MAX_SUMS)
        if self.stirred:
            self._check_still()
            if not (self._owners_are_still() and self._forms_are_still()
                    and (self.table.groups == NULL or self._group_numbers_are_still())):
                self.refuse_moved_state()
        if PyList_GET_SIZE(self.fills):
            self.fill_new_state()
        return 0

    cdef int refuse_moved_state(self) except -1:
        raise RuntimeError("state was changed in size or place while the step was being prepared")

    @cython.final
    cdef inline int settle(self) except -1:
        """Put new state in. From here on nothing fails, and no interrupt comes."""
        if PyList_GET_SIZE(self.births):
            for target, values in self.births:
                self.replaced.append(PyDict_Copy(target))
                PyDict_Update(target, values)
            self.births = []
        return 0

    # --- binding -----------------------------------------------------------------------------------

    cdef int bind_states(self, object optimizer, list slots) except -1:
        """Bind, and where missing make, the state of these slots. New entries are put into the
        optimizer's state when nothing can fail any more: see settle."""
        cdef Py_ssize_t i
        for i in slots:
            if self.table.rows[self.table.tensors[i].row].rule < 0:     # its group had a rule before
                self.slots[i].rule = UNSEEN
                self._look_at_slot(optimizer, i)
        slots = [i for i in slots if self.table.rows[self.table.tensors[i].row].rule >= 0]
        cdef dict firsts = {}, entries = {}     # of each parameter, the first of its slots here: an earlier one may be absent
        for i in slots:
            firsts.setdefault(self.slots[i].first, i)
        cdef Room room = Room([self.views[i] for i in firsts.values()])
        cdef object state = optimizer.state
        self.stirred = True
        self.fills.clear()          # of a step that failed
        state.staged = self.births = []
        for first, i in firsts.items():
            new = self._prepare_state(optimizer, i, room)
            entries[first] = {**state.arrays(self.objects[i]), **new}
            if new:
                state._fill(self.objects[i], new)
        for i in slots:
            self._take_state(entries[self.slots[i].first], i)
        return 0

    cdef dict _prepare_state(self, object optimizer, Py_ssize_t i, Room room):
        """The entries that the state of this slot lacks, or has in a form the kernel cannot use."""
        cdef dict new = {}
        cdef Rule rule = RULE_LIST[self.table.rows[self.table.tensors[i].row].rule]
        if cnp.PyArray_ISCOMPLEX(<cnp.ndarray>self.views[i]):
            if not optimizer._takes_complex:
                optimizer._refuse_complex()
            if rule.is_cautious:
                optimizer._refuse_with_caution("complex parameters")
        state = optimizer.state.arrays(self.objects[i])
        if self.counts_steps and not is_counter(state.get("step")):
            new["step"] = self.counters.get(self.slots[i].first)
            if new["step"] is None:
                new["step"] = make_counter(state.get("step"), self.labels[i], room)
        for name in rule.carried + rule.unit_numbers:
            self._prepare_number(i, rule, name, state, new, room)
        if self._is_stored_apart(i):
            self._prepare_companions(i, rule, state, new)
        fresh = [name for name in rule.states if self._prepare_array(i, rule, name, state, new, room)]
        if rule.states and not self.counts_steps:
            self.slots[self.slots[i].first].age = 0 if fresh else 1
            self.aged = False
        return new

    cdef int _prepare_number(self, Py_ssize_t i, Rule rule, str name, object state, dict new,
                             Room room) except -1:
        value = state.get(name)
        if value is None:
            value = rule.start_of(name, self.groups[self.slots[i].group])
        shape = rule.shape_of(name, (<object>self.views[i]).shape, self.groups[self.slots[i].group])
        if not is_number(value, rule.dtype_of(name, None), shape):
            new[name] = make_number(
                value, f"state {name!r} of {self.labels[i]}", name, room, rule.dtype_of(name, None), shape)
        return 0

    cdef bint _is_stored_apart(self, Py_ssize_t i) except -1:
        """Whether codecs may have to do with a parameter's state."""
        return self._type_of(i) > FLOAT64 or has_storage(self.groups[self.slots[i].group])

    cdef object _dtype_of(self, Py_ssize_t i, Rule rule, str name):
        """The dtype of an array of a parameter's state."""
        if self._is_stored_apart(i):
            return stored_dtype_of(rule, name, self.views[i], self.groups[self.slots[i].group])
        return rule.dtype_of(name, self.views[i].dtype)

    cdef int _prepare_companions(self, Py_ssize_t i, Rule rule, object state, dict new) except -1:
        """Prepare what codecs keep beside elements. A remainder and a master begin with zeros, as those of a
        parameter that someone else has written; scales come with their codes."""
        view, group = self.views[i], self.groups[self.slots[i].group]
        for name, (shape, dtype) in companions(rule, view, group).items():
            value = state.get(name)
            if is_number(value, dtype, shape):
                continue
            if name.endswith(SCALE_SUFFIX):
                if state.get(name[:-len(SCALE_SUFFIX)]) is None:
                    new[name] = np.zeros(shape, dtype)
                continue
            if value is not None:
                self.check_unmasked(i, value)
                if not cnp.PyArray_Check(value) or value.shape != shape or value.dtype.kind != dtype.kind:
                    raise ValueError(
                        f"state {name!r} of {self.labels[i]} is no array of shape {shape} and dtype {dtype}")
                new[name] = np.array(value, dtype, order="C")
            elif name == ROUNDING_KEY:
                new[name] = np.array(first_key(group, self.slots[i].first), dtype)
            else:
                new[name] = np.zeros(shape, dtype)
        return 0

    cdef object _full_values(self, Py_ssize_t i, object state):
        """The numbers of a parameter, in C order, with the bits that its state keeps beside it."""
        view = self.views[i]
        cdef int code = param_codec(view, self.groups[self.slots[i].group])
        beside = state.get(REMAINDER if code == BFLOAT16_SPLIT else MASTER)
        dtype = np.dtype(np.int16) if code == BFLOAT16_SPLIT else FLOAT32_DTYPE
        if code in (BFLOAT16_SPLIT, BFLOAT16_MASTER, FLOAT16_MASTER) and is_number(beside, dtype, view.shape):
            return decode_array(np.asarray(view, order="C"), beside, CODEC_NAMES[code])
        return np.asarray(widened(view, None, "", self.labels[i]), order="C")

    cdef int _begin_coded(self, Py_ssize_t i, Rule rule, str name, object state, dict new, object value) except -1:
        """Write what a new array begins with that is stored in another type than the parameter: a number, or None
        for a copy of the parameter."""
        view, group = self.views[i], self.groups[self.slots[i].group]
        cdef int code = state_codec(rule, name, view, group)
        if value == 0:
            return 0
        if value is None:
            values = self._full_values(i, state)
        else:
            values = np.full(view.shape, value, np.float32)
        if code <= FLOAT64:
            new[name][...] = values
        else:
            encode_array(values.astype(np.float32, copy=False), new[name], new.get(name + SCALE_SUFFIX),
                         CODEC_NAMES[code])
        return 0

    cdef bint _prepare_array(self, Py_ssize_t i, Rule rule, str name, object state, dict new,
                             Room room) except -1:
        """Prepare a state array; whether it is new."""
        dtype = self._dtype_of(i, rule, name)
        value = state.get(name)
        if name in rule.slices:
            return self._prepare_slice(i, rule, name, value, state, new, room)
        if value is not None:
            if not self.is_state(i, value, dtype) or not self._has_scale(i, rule, name, state):
                new[name] = self._state_array(i, rule, name, value, dtype, state, new)
            return False
        if self.by_rows and not self.slots[i].direct:
            new[name] = np.zeros((<object>self.views[i]).shape, dtype)
        else:
            new[name] = room.zeros(name, self.views[i], dtype)
        value = None if rule.copies_param(name) else float(rule.start_of(name, self.groups[self.slots[i].group]))
        if (cnp.PyArray_NBYTES(<cnp.ndarray>new[name]) >= FIRST_TOUCH_LEAST and new[name].dtype == self.views[i].dtype
                and same_layout(new[name], self.views[i])):
            if value != 0:
                self.fills.append((i, 2 + rule.states.index(name), value))
        elif self._is_stored_apart(i):
            self._begin_coded(i, rule, name, state, new, value)
        elif value is None:
            new[name][...] = self.views[i]
        else:
            fill(new[name], value)
        return True

    cdef bint _has_scale(self, Py_ssize_t i, Rule rule, str name, object state) except -1:
        """Whether a state array has its scales beside it, if its codec has such."""
        if not self._is_stored_apart(i):
            return True
        about = companions(rule, self.views[i], self.groups[self.slots[i].group]).get(name + SCALE_SUFFIX)
        return about is None or is_number(state.get(name + SCALE_SUFFIX), about[1], about[0])

    cdef bint _prepare_slice(self, Py_ssize_t i, Rule rule, str name, object value, object state, dict new,
                             Room room) except -1:
        """As _prepare_array, of an array that is flat, with every n-th element."""
        view, group = self.views[i], self.groups[self.slots[i].group]
        dtype = arithmetic_dtype(view)
        n = rule.slice_of(group)
        if n != 1 and cnp.PyArray_ISCOMPLEX(<cnp.ndarray>view):
            raise ValueError(f"{rule.slice} is {n}, expected 1 as {self.labels[i]} is complex")
        shape = rule.shape_of(name, view.shape, group)
        if value is not None:
            self.check_unmasked(i, value)
            if not is_number(value, dtype, shape):
                new[name] = self._flat_array(i, name, value, shape, dtype)
            return False
        if n == 1 and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>view) and dtype is view.dtype:
            new[name] = room.zeros(name, view).reshape(-1)
        else:
            new[name] = np.zeros(shape, dtype)
        if not rule.copies_param(name):
            fill(new[name], float(rule.start_of(name, group)))
        elif dtype is not view.dtype:
            new[name][...] = np.ravel(self._full_values(i, state))[::n]
        elif n == 1 and cnp.PyArray_NBYTES(<cnp.ndarray>new[name]) >= FIRST_TOUCH_LEAST and self.slots[i].direct:
            self.fills.append((i, 2 + rule.states.index(name), None))
        else:
            new[name][...] = np.ravel(view)[::n]
        return True

    cdef object _flat_array(self, Py_ssize_t i, str name, object value, tuple shape, object dtype):
        """A slice in a form that the kernel can use; one zero may stand for all."""
        if not cnp.PyArray_Check(value):
            from cyoptim._arrays.doors import foreign_array
            value = foreign_array(value, f"state {name!r} of {self.labels[i]}")
        if value.dtype.kind != dtype.kind or (value.shape != shape and not (value.shape == () and value == 0)):
            raise ValueError(
                f"state {name!r} of {self.labels[i]} has shape {value.shape} and dtype "
                f"{value.dtype}, expected {shape} and {dtype}"
            )
        copy = np.empty(shape, dtype)
        copy[...] = value
        return copy

    cdef int fill_new_state(self) except -1:
        """Write what new state begins with."""
        fill_together(&self.table, self.n_tensors, self.n_bundles, self.views, self.fills)
        self.fills.clear()
        return 0

    cdef bint is_state(self, Py_ssize_t i, object value, object dtype):
        # An array that the kernel can use as it is: laid out as empty_like(view) would be.
        cdef cnp.ndarray view = self.views[i]
        self.check_unmasked(i, value)
        if not cnp.PyArray_Check(value) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>value):
            return False
        if not self.slots[i].direct or dtype is not view.dtype:
            view = self.empty_like(view, dtype)
        return same_layout(view, <cnp.ndarray>value)

    cdef object _state_array(self, Py_ssize_t i, Rule rule, str name, object value, object dtype, object state,
                             dict new):
        view = self.views[i]
        if not cnp.PyArray_Check(value):
            from cyoptim._arrays.doors import foreign_array
            value = foreign_array(value, f"state {name!r} of {self.labels[i]}")
        if self._is_stored_apart(i):
            code = state_codec(rule, name, view, self.groups[self.slots[i].group])
            copy, scales = recoded(value, state.get(name + SCALE_SUFFIX), name, dtype, code, view,
                                   f"state {name!r} of {self.labels[i]}")
            if scales is not None:
                new[name + SCALE_SUFFIX] = scales
            return copy
        if value.shape != view.shape or value.dtype.kind != view.dtype.kind:
            raise ValueError(
                f"state {name!r} of {self.labels[i]} has shape {value.shape} and dtype "
                f"{value.dtype}, expected {view.shape} and {dtype}"
            )
        copy = self.empty_like(view, dtype)
        copy[...] = value
        return copy

    cdef int _take_state(self, object state, Py_ssize_t i) except -1:
        cdef Rule rule = RULE_LIST[self.table.rows[self.table.tensors[i].row].rule]
        cdef Py_ssize_t k = 2, m = 0
        cdef list kept = []
        cdef bint coded = self._is_stored_apart(i)
        memset(&self.carried[i], 0, sizeof(Carried))    # of another rule
        if self.counts_steps:
            counter = state["step"]
            kept.append(counter)
            self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
            if self.slots[self.slots[i].first].step == NULL:    # which may have had no gradient yet
                self.slots[self.slots[i].first].step = self.slots[i].step
        self.carries = self.carries or len(rule.carried) > 0
        for name in rule.carried:
            array = state[name]
            kept.append(array)
            if rule.dtype_of(name, None) == np.float32:
                self.carried[i].numbers[m] = <float *>cnp.PyArray_DATA(<cnp.ndarray>array)
            else:
                self.carried[i].wide[m] = <double *>cnp.PyArray_DATA(<cnp.ndarray>array)
            m += 1
        for name in rule.states:
            array = state[name]
            if not self._is_stream(i, rule, name, array):
                self.refuse_moved_state()   # by other code that was called
            kept.append(array)
            self.table.tensors[i].streams[k] = cnp.PyArray_DATA(<cnp.ndarray>array)
            self.store_as(i, k, dtype_code(array) if not coded else FLOAT32)
            k += 1
        if coded:
            self._take_codecs(i, rule, state, kept)
        if rule.measures:
            self._take_units(i, rule, state, kept)
        elif self.table.units != NULL:
            self.set_unit(i, rule)
        self.states[i] = kept
        self.slots[i].rule = rule.number
        return 0

    cdef bint _is_stream(self, Py_ssize_t i, Rule rule, str name, object array) except -1:
        """Whether the kernel can use an array of the state as it is."""
        view = self.views[i]
        if name in rule.slices:
            return is_number(array, arithmetic_dtype(view), rule.shape_of(name, view.shape, self.groups[self.slots[i].group]))
        return self.is_state(i, array, self._dtype_of(i, rule, name))

    cdef int _take_codecs(self, Py_ssize_t i, Rule rule, object state, list kept) except -1:
        """Bind how the parameter and the arrays of its state are stored, and what is kept beside them."""
        cdef Py_ssize_t k = 2
        cdef int code
        view, group = self.views[i], self.groups[self.slots[i].group]
        cdef dict beside = {}
        for name, (shape, dtype) in companions(rule, view, group).items():
            array = state.get(name)
            if not is_number(array, dtype, shape):
                self.refuse_moved_state()   # by other code that was called
            kept.append(array)
            beside[name] = array
        self.make_storage()
        code = param_codec(view, group)
        self.store_as(i, 0, code, partner_of(beside.get(REMAINDER, beside.get(MASTER))))
        for name in rule.states:
            self.store_as(i, k, state_codec(rule, name, view, group), partner_of(beside.get(name + SCALE_SUFFIX)))
            k += 1
        self.table.storage[i].key = <uint64_t *>partner_of(beside.get(ROUNDING_KEY))
        self.table.storage[i].first = self.first_element(i)
        if self.table.units != NULL:
            self.recut = True       # what is handed on may be another: see _hands_on
        return 0

    cdef int _take_units(self, Py_ssize_t i, Rule rule, object state, list kept) except -1:
        """Bind the numbers of each unit of a rule that measures."""
        cdef Units *units = &self.table.units[i]
        cdef Py_ssize_t count, size = self.size_in_units(i, rule)
        cdef int m
        self.set_unit(i, rule)
        for m in range(MAX_NUMBERS):    # of another rule
            units.numbers[m] = NULL
        m = 0
        for name in rule.unit_numbers:
            array = state[name]
            shape = rule.shape_of(name, (<object>self.views[i]).shape, self.groups[self.slots[i].group])
            if not is_number(array, FLOAT64_NUMBER, shape) or (
                    units.size and cnp.PyArray_SIZE(<cnp.ndarray>array) != size // units.size):
                self.refuse_moved_state()   # by other code that was called
            kept.append(array)
            units.numbers[m] = <double *>cnp.PyArray_DATA(<cnp.ndarray>array)
            m += 1
        PyMem_Free(units.scalars)
        PyMem_Free(units.sums)
        units.scalars = units.sums = NULL
        count = 0 if rule.scope >= PER_GROUP else size // max(units.size, 1)
        if rule.combines and cnp.PyArray_NDIM(<cnp.ndarray>self.views[i]) > 1:
            units.scalars = doubles(MAX_SCALARS)
            units.sums = doubles(count * MAX_SUMS)
        elif units.size > CHUNK and count:
            units.scalars = doubles(count * MAX_SCALARS)
        return 0

    cdef int _bind_group_numbers(self) except -1:
        """Bind, and where missing make, the numbers that rules carry on for their groups."""
        cdef Py_ssize_t g, k
        cdef Rule rule
        cdef list arrays, first = None      # those of all groups, where a rule adds up over all
        for g in range(len(self.groups)):
            rule = None if self.templates[g].rule < 0 else RULE_LIST[self.templates[g].rule]
            if rule is None or not rule.group_numbers:
                self.group_numbers[g] = None
                continue
            if not self._has_numbers(g, rule.numbers, first):
                if first is not None and rule.scope == OVER_ALL:
                    self.births.append((self.groups[g], dict(zip(rule.numbers, first))))
                    self.group_numbers[g] = first
                else:
                    self.group_numbers[g] = [self._group_number(rule, g, name) for name in rule.numbers]
            arrays = self.group_numbers[g]
            if rule.scope == OVER_ALL:
                first = arrays
            for k in range(MAX_NUMBERS):    # of another rule
                self.table.groups[g].numbers[k] = NULL
            for k in range(len(arrays)):
                self.table.groups[g].numbers[k] = <double *>cnp.PyArray_DATA(<cnp.ndarray>arrays[k])
        return 0

    cdef bint _has_numbers(self, Py_ssize_t g, tuple names, list shared) except -1:
        """Whether the numbers of a group are those that were bound in the last step, and no other group's than
        these, if there are any."""
        cdef dict group = self.groups[g]
        cdef list arrays = self.group_numbers[g]
        cdef Py_ssize_t k
        if arrays is None or PyList_GET_SIZE(arrays) != PyTuple_GET_SIZE(names):
            return False
        for k in range(PyTuple_GET_SIZE(names)):
            array = arrays[k]
            if group.get(names[k]) is not array or not is_double(array):
                return False
            if shared is not None and shared[k] is not array:
                return False
        return True

    cdef bint _forms_are_still(self) except -1:
        """Whether each row has the rule whose arrays are bound, and slices of their size: options that are objects
        may have had another value each time."""
        cdef Py_ssize_t i
        cdef int row
        for i in range(self.n_tensors):
            row = self.table.tensors[i].row
            if row < 0 or self.table.rows[row].rule < 0:
                continue
            if self.slots[i].rule != self.table.rows[row].rule or not self._slices_fit(i, &self.table.rows[row]):
                return False
        return True

    cdef bint _slices_fit(self, Py_ssize_t i, Row *row) except -1:
        cdef Rule rule = RULE_LIST[row.rule]
        cdef Py_ssize_t every, size, k
        if not rule.slices:
            return True
        every = <Py_ssize_t>row.scalars[rule.scalars.index(rule.slice)]
        size = cnp.PyArray_SIZE(<cnp.ndarray>self.views[i])
        for name in rule.slices:
            k = self.counts_steps + len(rule.carried) + rule.states.index(name)     # see _take_state
            if cnp.PyArray_SIZE(<cnp.ndarray>self.states[i][k]) != (size + every - 1) // every:
                return False
        return True

    cdef bint _group_numbers_are_still(self) noexcept:
        """Whether no number of a group was changed in size or place."""
        cdef Py_ssize_t g, k
        cdef cnp.ndarray array
        for g in range(len(self.group_numbers)):
            arrays = self.group_numbers[g]
            for k in range(0 if arrays is None else len(arrays)):
                array = arrays[k]
                if (<double *>cnp.PyArray_DATA(array) != self.table.groups[g].numbers[k]
                        or cnp.PyArray_NBYTES(array) != sizeof(double)):
                    return False
        return True

    cdef object _group_number(self, Rule rule, Py_ssize_t g, str name):
        cdef dict group = self.groups[g]
        value = group.get(name)
        if is_number(value, FLOAT64_NUMBER, ()):
            return value
        if value is None:
            value = rule.start_of(name, group)
        self.stirred = True     # it may be an object with code of its own
        new = make_number(value, f"{name!r} of param group {g}", None, None, FLOAT64_NUMBER, ())
        self.births.append((group, {name: new}))
        return new

    # --- the memory of state ------------------------------------------------------------------------

    cdef list trusted_arrays(self):
        """The arrays of the state whose addresses are known here."""
        return [array for kept in self.states if kept is not None for array in kept]

    cdef int build_walls(self) except -1:
        """Take the memory of state and averages into account, too."""
        cdef list arrays = self.trusted_arrays()
        cdef dict owners = {}
        self.walls = Walls(self.views + arrays)
        if self.alive:
            self.turn.know_walls(self.walls)
        for array in arrays:
            owner = owner_of(array)
            if owner is not None:
                owners[id(owner)] = owner
        self._watch_owners(list(owners.values()))
        return 0

    cdef int _watch_owners(self, list owners) except -1:
        cdef Py_ssize_t k
        cdef ArrayTrace *traces = <ArrayTrace *>PyMem_Realloc(
            self.traces, max(len(owners), 1) * sizeof(ArrayTrace))
        if not traces:
            raise MemoryError
        self.traces, self.owners = traces, owners
        for k in range(len(owners)):
            array_trace(<PyObject *>owners[k], &traces[k])
        return 0

    @cython.final
    cdef inline bint _owners_are_still(self) noexcept:
        """Whether no array that owns memory of state was resized in place."""
        cdef Py_ssize_t k
        for k in range(PyList_GET_SIZE(self.owners)):
            if not array_is_as_it_was(PyList_GET_ITEM(self.owners, k), &self.traces[k]):
                return False
        return True

    cdef int forget_state(self) except -1:
        """Look the state up again: entries were put in, replaced or removed."""
        cdef Py_ssize_t i
        cdef int k
        self.aged = False
        self.owners, self.counters = [], {}
        for i in range(self.n_tensors):
            self.slots[i].rule = UNSEEN
            self.slots[i].step = NULL
            self.slots[i].age = 0
            memset(&self.carried[i], 0, sizeof(Carried))
        return 0


cdef void *partner_of(object array) noexcept:
    """The memory of what a codec keeps beside elements; NULL: nothing."""
    return NULL if array is None else cnp.PyArray_DATA(<cnp.ndarray>array)


cdef double *doubles(Py_ssize_t count) except NULL:
    cdef double *room = <double *>PyMem_Calloc(max(count, 1), sizeof(double))
    if not room:
        raise MemoryError
    return room


cdef object owner_of(object array):
    """The array that owns an array's memory, itself or one that it is a view of; None if it is no
    array's."""
    while True:
        base = array.base
        if not cnp.PyArray_Check(base):
            break
        array = base
    return array if cnp.PyArray_CHKFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_OWNDATA) else None
