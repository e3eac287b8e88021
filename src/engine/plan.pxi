# The second half of a step: scalars, state, and the native call.

# The rule's memory in its state; NULL: none.
cdef struct Memory:
    float *numbers[MAX_MEMORY]


cdef class Plan(Inputs):
    """The parameters of an optimizer, ready to be stepped.

    Parameters
    ----------
    doors : list of (int, ndarray)
        For each parameter its door and the array that views its memory.
    labels : list of str
        How errors name each parameter.
    groups : list of dict
        The optimizer's ``param_groups``.
    counts_steps : bool
        Whether the state holds the step count under ``"step"``.
    watch : Watch
        Tells when the optimizer's state has to be looked up again.
    only_sparse : bool
        Whether dense gradients are refused.
    turn : Turn
        Whose turn it is: every method but :meth:`step` is called within one.
    """

    cdef Memory *memories
    cdef list waves             # ranges of bundles that run one after the other
    cdef list updated           # tensors of other libraries that this step changes
    cdef list copies            # (slot, array) of the parameters that are updated through a copy
    cdef list states            # per slot: the state arrays whose addresses are bound
    cdef list known_options     # per group: the option values its template was made of, or None
    cdef Row *templates         # per group: the scalars before the clock
    cdef Range *ranges          # of the gradients, where a step needs them
    cdef list births            # (dict, entries): new state, put in when nothing can fail any more
    cdef dict counters          # per slot: a step count whose form in the state is another
    cdef list owners            # of the memory of state and averages; they are not to be resized
    cdef ArrayTrace *traces     # of the owners
    cdef Undo undo              # what a step in Python has changed so far
    cdef list zeros             # arrays and tensors to be filled with zeros by the running step
    cdef Watch watch
    cdef bint counts_steps
    cdef bint alive             # its optimizer's plan; not before, and not when another is
    cdef bint remembers         # some rule has a memory
    cdef bint aged              # every slot has the age that it keeps
    cdef Pace pace              # of the averages that follow the parameters, or None
    cdef list means             # per slot: the average
    cdef void **followers       # per slot: its address; NULL where the parameter occurs again

    def __cinit__(self, list items, *args):
        self.memories = <Memory *>PyMem_Calloc(max(len(items), 1), sizeof(Memory))
        if not self.memories:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.memories)
        PyMem_Free(self.ranges)
        PyMem_Free(self.templates)
        PyMem_Free(self.followers)
        PyMem_Free(self.traces)

    def __init__(self, list doors not None, list labels not None, list groups not None,
                 bint counts_steps, Watch watch not None, bint only_sparse, Turn turn not None):
        Inputs.__init__(self, doors, labels, groups, only_sparse, turn)
        self.births, self.owners, self.zeros = [], [], []
        self.undo = Undo()
        self.counters = {}
        self.counts_steps = counts_steps
        self.watch = watch
        self.states = [None] * self.n_tensors
        self.updated, self.copies = [], []
        self.known_options = [None] * len(groups)
        self.templates = <Row *>PyMem_Calloc(max(len(groups), 1), sizeof(Row))
        if not self.templates:
            raise MemoryError
        self._cut_waves()

    cdef int _cut_waves(self) except -1:
        # A parameter that occurs twice in a group is updated twice, one after the other.
        cdef Py_ssize_t i, k
        cdef dict seen = {}
        self.waves = [[]]
        for i in range(self.n_tensors):
            k = seen.get(self.slots[i].first, 0)
            seen[self.slots[i].first] = k + 1
            if k == len(self.waves):
                self.waves.append([])
            self.waves[k].append(i)
        return self.cut(self.waves)

    # --- hyper-parameters and state --------------------------------------------------------------

    cdef inline int64_t _next_step(self, Py_ssize_t i) noexcept:
        cdef Slot *slot = &self.slots[self.slots[i].first]
        cdef int64_t step = slot.step[0] if slot.step else slot.age
        if self.repeats:
            step += self._earlier_occurrences(i)
        if self.counts_steps:
            return min(step, MOST_STEPS - 1) + 1
        return 1 if step == 0 else 2

    cdef int64_t _earlier_occurrences(self, Py_ssize_t i) noexcept:
        cdef Py_ssize_t j
        cdef int64_t count = 0
        for j in range(self.slots[i].first, i):
            if self.slots[j].first == self.slots[i].first and self.table.tensors[j].row >= 0:
                count += 1
        return count

    cdef int _read_options(self, object optimizer, Py_ssize_t group) except -1:
        """Bring the group's template row up to date with its options."""
        cdef dict options = self.groups[group]
        cdef list known = self.known_options[group]
        cdef Rule rule
        if known is not None and same_options(options, known):
            return 0
        self.known_options[group] = None
        self.stirred = True
        try:
            if has_text(options):       # which is true, whatever it says
                check_switches(options, optimizer.defaults)
            rule = rule_of(optimizer, options)
            fill_template(&self.templates[group], rule, options)
        except (TypeError, ValueError, KeyError) as error:
            text = explain_options(options, optimizer.defaults, error)
            raise type(error)(f"options of param group {group}: {text}") from error
        self.known_options[group] = constant_options(options)
        return 0

    cdef void _recall(self, Py_ssize_t i, float *memory) noexcept:
        """What the rule remembers of this slot: from its state, or from the slot's earlier
        occurrence in the same step."""
        cdef Slot *slot = &self.slots[i]
        cdef float **number = self.memories[i].numbers
        cdef Py_ssize_t j, earlier = -1
        cdef int k
        for j in range(slot.first, i):
            if self.slots[j].first == slot.first and self.table.tensors[j].row >= 0:
                earlier = j
        for k in range(MAX_MEMORY):
            if earlier >= 0:
                memory[k] = self.table.rows[self.table.tensors[earlier].row].memory[k]
            else:
                memory[k] = number[k][0] if number[k] else 0

    cdef int _find_row(self, Py_ssize_t group, int64_t step, const float *memory) except -1:
        """The row of this group at this step count and with this memory."""
        cdef Py_ssize_t r
        cdef Row *row
        cdef Clock clock
        cdef int k
        for r in range(self.n_rows - 1, -1, -1):
            row = &self.table.rows[r]
            if row.group == group and row.step == step and same_memory(row, memory):
                return <int>r
        row = self.new_row()
        row[0] = self.templates[group]
        row.group = group
        row.step = step
        for k in range(MAX_MEMORY):
            row.before[k] = row.memory[k] = memory[k]
        clock = KERNELS.clocks[row.rule]
        if clock != NULL:
            clock(row.scalars, step, row.memory)
        return <int>self.n_rows - 1

    cdef list _assign_rows(self, object optimizer):
        """Give every tensor with a gradient its row; return the slots whose state is not bound, or
        None."""
        cdef Py_ssize_t i
        cdef int32_t group = -1
        cdef int64_t step, last = -1
        cdef int row = -1, rule = -1
        cdef float memory[MAX_MEMORY]
        cdef bint remembers = self.remembers, settled = self.aged and not self.repeats
        cdef Tensor *tensor = self.table.tensors
        cdef const Slot *slot = self.slots
        cdef list unbound = None
        memset(memory, 0, sizeof(memory))
        self.n_rows = 0
        for i in range(self.n_tensors):
            if tensor[i].row < 0:
                continue
            step = 2 if settled else self._next_step(i)
            if slot[i].group != group:
                group, last = slot[i].group, -1
                self._read_options(optimizer, group)
            if remembers:
                self._recall(i, memory)
            if step != last or (remembers and not same_memory(&self.table.rows[row], memory)):
                last = step
                if step <= 0:
                    self._refuse_count(i, step)
                row = self._find_row(group, step, memory)
                rule = self.table.rows[row].rule
            tensor[i].row = row
            if slot[i].rule != rule:
                if unbound is None:
                    unbound = []
                unbound.append(i)
        return unbound

    cdef int _refuse_count(self, Py_ssize_t i, int64_t step) except -1:
        raise ValueError(
            f"state 'step' of {self.labels[i]} is {step - 1}, expected a whole number from 0 to "
            "2**63 - 2"
        )

    cdef int _prepare(self, object optimizer) except -1:
        if self.watch.changed or not self._owners_are_still():
            self._forget_state(optimizer)
        unbound = self._assign_rows(optimizer)
        if unbound:
            self.watch.changed = True       # unless all of what follows succeeds
            self._bind_states(optimizer, unbound)
            if not self._owners_are_still():    # of what was bound before
                self._refuse_moved_state()
            self._build_walls()
            # A momentum buffer may turn out to be new or not, which is another row.
            self._assign_rows(optimizer)
            self._part_from_state()
            self.watch.changed = False
        if self.stirred:
            self._check_still()
            if not self._owners_are_still():
                self._refuse_moved_state()
        return 0

    cdef int _refuse_moved_state(self) except -1:
        raise RuntimeError("state was changed in size or place while the step was being prepared")

    cdef int _bind_states(self, object optimizer, list slots) except -1:
        """Bind, and where missing make, the state of these slots. New entries are put into the
        optimizer's state when nothing can fail any more: see _settle."""
        cdef Py_ssize_t i
        cdef Room room = Room([self.views[i] for i in slots if self.slots[i].first == i])
        cdef object state = optimizer.state
        cdef dict entries = {}
        self.stirred = True
        state.staged = self.births = []
        for i in slots:
            if self.slots[i].first == i:
                new = self._prepare_state(optimizer, i, room)
                entries[i] = {**state.arrays(self.objects[i]), **new}
                if new:
                    state._fill(self.objects[i], new)
        for i in slots:
            known = entries.get(self.slots[i].first)
            self._take_state(state.arrays(self.objects[i]) if known is None else known, i)
        return 0

    cdef inline int _settle(self) except -1:
        """Put new state in. From here on nothing fails, and no interrupt comes."""
        if PyList_GET_SIZE(self.births):
            for target, values in self.births:
                PyDict_Update(target, values)
            self.births = []
        return 0

    cdef dict _prepare_state(self, object optimizer, Py_ssize_t i, Room room):
        """The entries that the state of this slot lacks, or has in a form the kernel cannot use."""
        cdef Slot *slot = &self.slots[i]
        cdef dict new = {}
        cdef Rule rule = RULE_LIST[self.table.rows[self.table.tensors[i].row].rule]
        names = rule.states
        state = optimizer.state.arrays(self.objects[i])
        group = self.groups[slot.group]
        fresh = False
        if self.counts_steps and not is_counter(state.get("step")):
            new["step"] = self.counters.get(i)
            if new["step"] is None:
                new["step"] = make_counter(state.get("step"), self.labels[i], room)
        for name in rule.memory:
            value = state.get(name)
            if value is None:
                value = rule.start_of(name, group)
            if not is_number(value):
                new[name] = make_number(
                    value, f"state {name!r} of {self.labels[i]}", name, room)
        for name in names:
            value = state.get(name)
            if value is None:
                fresh = True
                new[name] = room.zeros(name, self.views[i])
                fill(new[name], rule.start_of(name, group))
            elif not self._is_state(i, value):
                new[name] = self._state_array(i, name, value)
        if names and not self.counts_steps:
            slot.age = 0 if fresh else 1
            self.aged = False
        return new

    cdef bint _is_state(self, Py_ssize_t i, object value):
        # An array that the kernel can use as it is: laid out as np.empty_like(view) would be.
        cdef cnp.ndarray view = self.views[i]
        if not self.slots[i].direct:
            view = np.empty_like(view, subok=False)
        self._check_unmasked(i, value)
        return (cnp.PyArray_Check(value) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>value)
                and same_layout(view, <cnp.ndarray>value))

    cdef int _check_unmasked(self, Py_ssize_t i, object value) except -1:
        """Refuse masked arrays in the state."""
        if cnp.PyArray_Check(value) and not cnp.PyArray_CheckExact(value):
            from cyoptim._arrays.doors import check_unmasked
            check_unmasked(value, f"state of {self.labels[i]}")
        return 0

    cdef object _state_array(self, Py_ssize_t i, str name, object value):
        view = self.views[i]
        if not cnp.PyArray_Check(value):
            from cyoptim._arrays.doors import foreign_array
            value = foreign_array(value, f"state {name!r} of {self.labels[i]}")
        if value.shape != view.shape or value.dtype.kind != view.dtype.kind:
            raise ValueError(
                f"state {name!r} of {self.labels[i]} has shape {value.shape} and dtype "
                f"{value.dtype}, expected {view.shape} and {view.dtype}"
            )
        return self._dense_copy(view, value)

    cdef int _take_state(self, object state, Py_ssize_t i) except -1:
        cdef Rule rule = RULE_LIST[self.table.rows[self.table.tensors[i].row].rule]
        cdef Py_ssize_t k = 2, m = 0
        cdef list kept = []
        if self.counts_steps:
            counter = state["step"]
            kept.append(counter)
            self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
        self.remembers = self.remembers or len(rule.memory) > 0
        for name in rule.memory:
            array = state[name]
            kept.append(array)
            self.memories[i].numbers[m] = <float *>cnp.PyArray_DATA(<cnp.ndarray>array)
            m += 1
        for name in rule.states:
            array = state[name]
            if not self._is_state(i, array):    # any more, after other code was called
                self._refuse_moved_state()
            kept.append(array)
            self.table.tensors[i].streams[k] = cnp.PyArray_DATA(<cnp.ndarray>array)
            k += 1
        self.states[i] = kept
        self.slots[i].rule = rule.number
        return 0

    # --- the memory of state ------------------------------------------------------------------------

    cdef list _trusted_arrays(self):
        """The arrays of state and averages whose addresses are known here."""
        cdef list arrays = [array for kept in self.states if kept is not None for array in kept]
        return arrays + self.means if self.means is not None else arrays

    cdef int _build_walls(self) except -1:
        """Take the memory of state and averages into account, too."""
        cdef list arrays = self._trusted_arrays()
        cdef dict owners = {}
        self.walls = Walls(self.views + arrays)
        if self.alive:
            self.turn.walls = self.walls
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

    cdef inline bint _owners_are_still(self) noexcept:
        """Whether no array that owns memory of state was resized in place."""
        cdef Py_ssize_t k
        for k in range(PyList_GET_SIZE(self.owners)):
            if not array_is_as_it_was(PyList_GET_ITEM(self.owners, k), &self.traces[k]):
                return False
        return True

    cdef int _forget_state(self, object optimizer) except -1:
        """Look the state up again: entries were put in, replaced or removed."""
        cdef Py_ssize_t i
        cdef int k
        self.watch.changed = True
        self.aged = False
        self.owners, self.counters = [], {}
        for i in range(self.n_tensors):
            self.slots[i].rule = -1
            self.slots[i].step = NULL
            self.slots[i].age = 0
            for k in range(MAX_MEMORY):
                self.memories[i].numbers[k] = NULL
            if self.counts_steps and self.slots[i].first == i:
                counter = optimizer.state.arrays(self.objects[i]).get("step")
                if counter is not None:
                    self._adopt_counter(i, counter)
        self.watch.changed = False
        return 0

    cdef int _adopt_counter(self, Py_ssize_t i, object counter) except -1:
        if not is_counter(counter):
            counter = self.counters[i] = make_counter(counter, self.labels[i])
        self.states[i] = [counter]
        self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
        return 0

    # --- the step --------------------------------------------------------------------------------

    def step(self, optimizer, list grads) -> bool:
        """Step every parameter that has a gradient, in a turn of its own; False if the plan no longer
        fits, or steps go the long way."""
        cdef unsigned long long mode
        if is_detour():
            return False
        self.turn.take(STEPPING, "step()")
        mode = fp_plain()
        try:
            return self._step(optimizer, grads, None, False)
        finally:
            fp_unplain(mode)
            self.turn.give()

    def step_in_turn(self, optimizer, list grads, Extras extras) -> bool:
        """As :meth:`step`, within a turn. The step leaves `extras` with the optimizer, and in them
        what it has found."""
        return self._step(optimizer, grads, extras, True)

    cdef int _check_unswapped(self) except -1:
        if self.pace is not None and self.pace.swapped:
            raise RuntimeError(
                "the parameters hold their averages inside averaged(): step after the block"
            )
        return 0

    cdef bint _step(self, object optimizer, list grads, Extras extras, bint tells) except -1:
        self._check_unswapped()
        if not self.alive:
            return False
        try:
            self.zeroing = extras is not None and extras.zero
            if not self._collect(grads, optimizer):
                return False
            if extras is None:
                self._open_copies()
                self._announce()
                self._prepare(optimizer)
                self._settle()
                self._run()
                self._count()
            else:
                self._step_with(optimizer, extras)
            self.turn.has_stepped = True
            if tells:
                PyObject_GenericSetAttr(optimizer, "_extras", extras)
        finally:
            # Within the turn: letting go of a gradient may run other code, which must not step.
            self._clear()
        return True

    cdef inline int _clear(self) except -1:
        """Let go of what the step has held."""
        self._release()
        if PyList_GET_SIZE(self.copies):
            self.copies.clear()
        if PyList_GET_SIZE(self.sparse):
            self.sparse.clear()
        if PyList_GET_SIZE(self.updated):
            self.updated.clear()
        if self.zeroing:
            self.originals.clear()
            self.zeros.clear()
        return 0

    # --- what a step does beside its update --------------------------------------------------------

    cdef int _step_with(self, object optimizer, Extras extras) except -1:
        cdef Py_ssize_t r
        cdef bint steps, together = False
        if self.stirred:
            self._check_still()
        steps = self._measure(extras)
        if self.zeroing:
            self._prepare_zeros()
        if steps:
            self._open_copies()
            self._announce()
            self._prepare(optimizer)
            for r in range(self.n_rows):
                (<Head *>self.table.rows[r].scalars).sign *= extras.coefficient / extras.scale
            together = self.zeroing and not self._gradients_overlap()
            self._settle()
            self.table.zero = together
            self._run()
            self.table.zero = False
            self._count()
        else:
            self._skip()
        extras.done = True
        if self.zeroing:
            self._zero_gradients(together)
        return 0

    cdef int _skip(self) except -1:
        """Make no step; gradients may be filled with zeros."""
        self._announce()
        if self.stirred:
            self._check_still()
        if self.pace is not None:
            self.pace.skipped = True
        return 0

    cdef bint _measure(self, Extras extras) except -1:
        """Find the norm, if it is asked for; False if the step is to be skipped."""
        cdef double total
        cdef Runs runs
        if not extras.measure:
            return True
        for runs in self.sparse:        # hidden from the run over whole tensors
            self.table.tensors[runs.slot].row = -1
        total = self.reduce(GRADIENT_SQUARES, 0)
        for runs in self.sparse:
            self.table.tensors[runs.slot].row = 0
            total += Spans([runs.values]).reduce(SUM_SQUARES, 0)
        extras.clip(sqrt(total) / fabs(extras.scale))
        if isfinite(total):
            return True
        self._find_nonfinite(extras)
        if extras.policy == RAISE and extras.nonfinite:
            names = ", ".join([self.labels[i] for i in extras.nonfinite[:5]])
            more = ", ..." if len(extras.nonfinite) > 5 else ""
            raise FloatingPointError(f"gradients are not finite: of {names}{more}")
        extras.skipped = extras.policy == SKIP and len(extras.nonfinite) > 0
        return not extras.skipped

    cdef int _find_nonfinite(self, Extras extras) except -1:
        cdef Py_ssize_t i
        cdef const Tensor *tensor
        cdef dict values = {(<Runs>runs).slot: (<Runs>runs).values for runs in self.sparse}
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row < 0:
                continue
            if i in values:
                finite = np.isfinite(values[i]).all()
            else:
                finite = all_finite(tensor.streams[1], tensor.size, tensor.dtype)
            if not finite:
                extras.nonfinite.append(i)
        return 0

    cdef bint _gradients_overlap(self) except -1:
        """Whether two gradients share memory, so that none may be zeroed before all were read."""
        cdef Py_ssize_t i, n = 0
        cdef const Tensor *tensor
        if self.ranges == NULL:
            self.ranges = <Range *>PyMem_Malloc(max(self.n_tensors, 1) * sizeof(Range))
            if not self.ranges:
                raise MemoryError
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row >= 0 and tensor.size:
                self.ranges[n].low = <uintptr_t>tensor.streams[1]
                self.ranges[n].high = self.ranges[n].low + tensor.size * itemsize(tensor.dtype)
                n += 1
        return any_overlap(self.ranges, n)

    cdef int _prepare_zeros(self) except -1:
        """Find the memory of gradients that the run itself does not fill with zeros, and tell
        autograd of all that will be. Raises for what cannot be filled."""
        cdef Py_ssize_t k
        from cyoptim._arrays.sparse import values_to_zero
        for original, label in self.originals:
            self.zeros.append(values_to_zero(original, f"gradient of {label}"))
        self.updated.extend([<object>self.held[k] for k in range(self.n_held)
                             if not cnp.PyArray_Check(<object>self.held[k])])
        self.stirred = True
        return 0

    cdef int _zero_gradients(self, bint done) except -1:
        """Fill with zeros what the run has not: copies' originals, and all if it has done none."""
        cdef Py_ssize_t i
        cdef const Tensor *tensor
        cdef set spanned = self._spanned()
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if not done and tensor.row >= 0 and not (spanned is not None and i in spanned):
                memset(tensor.streams[1], 0, tensor.size * itemsize(tensor.dtype))
        for values in self.zeros:
            fill_with_zeros(values)
        return 0

    def visit(self, optimizer, list grads, update, Extras extras) -> bool:
        """Call ``update(found, undo)`` with a list of (number, array, gradient), an entry for each
        parameter that has a gradient, after all gradients have been checked; False if the plan no
        longer fits.

        The result is a Commit, to be made then, or None. What is changed before is to be told to
        `undo`, an Undo.
        """
        self._check_unswapped()
        if not self.alive:
            return False
        try:
            self.zeroing = extras is not None and extras.zero
            if not self._collect(grads, optimizer):
                return False
            self._look_for_state(optimizer)
            if self.stirred:
                self._check_still()
            steps = extras is None or self._measure(extras)
            if self.zeroing:
                self._prepare_zeros()
            if steps:
                self._update(update)
            else:
                self._skip()
            if extras is not None:
                extras.done = True
            if self.zeroing:
                self._zero_gradients(False)
            PyObject_GenericSetAttr(optimizer, "_extras", extras)
        finally:
            self._clear()
        return True

    cdef int _update(self, object update) except -1:
        cdef Commit commit
        cdef Undo undo = self.undo
        cdef Py_ssize_t i
        found = [(i, as_base(self.views[i]), grad) for i, grad in self._held_arrays()]
        self.updated.extend([self.objects[i] for i, _, _ in found if self.slots[i].door == TENSOR])
        try:
            commit = update(found, undo)
            commit = Commit() if commit is None else commit
            if self.pace is not None:
                commit.average(self)
            self._announce()
            self._check_still()
            commit.make()
        except BaseException:
            undo.restore()
            raise
        finally:
            undo.forget()
        return 0

    cdef int _look_for_state(self, object optimizer) except -1:
        """Take the memory of a state that is not bound into account: arrays by any name."""
        cdef Py_ssize_t i
        if not self.watch.changed:
            return 0
        for i in range(self.n_tensors):
            entries = optimizer.state.arrays(self.objects[i])
            self.states[i] = [value for value in entries.values() if cnp.PyArray_Check(value)]
            for value in self.states[i]:
                self._check_unmasked(i, value)
        self._build_walls()
        self._part_from_state()
        self.watch.changed = False
        return 0

    def gather(self, optimizer, list grads) -> list | None:
        """Every parameter's checked gradient as an array, None where there is none; None in place
        of the list if the plan no longer fits. The arrays may be the caller's own."""
        self._check_unswapped()
        if not self.alive:
            return None
        try:
            self.zeroing, self.whole = False, True
            if not self._collect(grads, optimizer):
                return None
            found = [None] * self.n_tensors
            for i, grad in self._held_arrays():
                found[i] = grad
        finally:
            self._clear()
            self.whole = False
        return found

    def arrays(self) -> list:
        """The memory of every parameter, as plain arrays."""
        return [as_base(view) for view in self.views]

    cdef void begin_life(self, Plan old) noexcept:
        """Become the plan of the optimizer, in the place of another or None."""
        if old is not None:
            old.alive = False
        self.alive = True
        self.turn.walls = self.walls

    def adopt_group(self, Py_ssize_t number, group not None) -> None:
        """Take another dict for a group, which is to have the same entries."""
        check_dicts(group, group)
        self.groups[number] = group

    def initialize(self, optimizer, Commit commit not None) -> None:
        """Let `commit` make the state of every parameter, instead of its first gradient."""
        cdef Py_ssize_t i
        try:
            for i in range(self.n_tensors):
                self.table.tensors[i].row = 0
            self._prepare_alone(optimizer)
            for target, values in self.births:
                commit.update(target, values)
        finally:
            for i in range(self.n_tensors):
                self.table.tensors[i].row = -1

    cdef int _prepare_alone(self, object optimizer) except -1:
        # Without gradients.
        self._forget_state(optimizer)
        unbound = self._assign_rows(optimizer)
        self.watch.changed = True
        if unbound:
            self._bind_states(optimizer, unbound)
        return 0

    cdef int _open_copies(self) except -1:
        """Parameters with gaps between their elements are updated in a dense copy: make room."""
        cdef Py_ssize_t i
        cdef Slot *slot
        cdef bint every = self.pace is not None
        if self.in_place and not self.repeats:
            return 0
        for i in range(self.n_tensors):
            slot = &self.slots[i]
            if self.table.tensors[i].row < 0 and not every:
                continue
            if slot.door == TENSOR and self.table.tensors[i].row >= 0:
                self.updated.append(self.objects[i])
            if slot.first != i:
                self.table.tensors[i].streams[0] = self.table.tensors[slot.first].streams[0]
            elif not slot.direct:
                copy = np.empty_like(self.views[i], subok=False)
                self.copies.append((i, copy))
                self.table.tensors[i].streams[0] = cnp.PyArray_DATA(<cnp.ndarray>copy)
        return 0

    cdef int _fill_copies(self) except -1:
        for i, copy in self.copies:
            cnp.PyArray_CopyInto(<cnp.ndarray>copy, <cnp.ndarray>self.views[i])
        return 0

    cdef int _run(self) except -1:
        cdef Py_ssize_t first, last
        if PyList_GET_SIZE(self.copies):
            self._fill_copies()
        if PyList_GET_SIZE(self.sparse):
            self._run_sparse()
        if self.pace is not None:
            self._lead()
        if not self.repeats:
            self.update(0, self.n_bundles)
        else:
            for first, last in self.waves:
                self.update(first, last)
        self.table.averages = NULL
        if PyList_GET_SIZE(self.sparse):
            for runs in self.sparse:
                self.table.tensors[(<Runs>runs).slot].row = (<Runs>runs).row
        if PyList_GET_SIZE(self.copies):
            for i, copy in self.copies:
                cnp.PyArray_CopyInto(<cnp.ndarray>self.views[i], <cnp.ndarray>copy)
        return 0

    cdef void _run_sparse(self) noexcept:
        # Their tensors are hidden from the run over whole tensors.
        cdef Runs runs
        cdef Tensor *tensor
        for runs in self.sparse:
            tensor = &self.table.tensors[runs.slot]
            runs.row = tensor.row
            runs.run(tensor, &self.table.rows[tensor.row])
            tensor.row = -1

    cdef void _count(self) noexcept:
        cdef Py_ssize_t i
        if self.aged:
            return
        self.aged = not self.counts_steps
        for i in range(self.n_tensors):
            if self.table.tensors[i].row < 0:
                self.aged = False
            elif self.counts_steps:
                self.slots[i].step[0] = min(self.slots[i].step[0], MOST_STEPS - 1) + 1
                if self.remembers:
                    self._remember(i)
            else:
                self.slots[self.slots[i].first].age = 1

    cdef void _remember(self, Py_ssize_t i) noexcept:
        cdef const Row *row = &self.table.rows[self.table.tensors[i].row]
        cdef float **number = self.memories[i].numbers
        cdef int k
        for k in range(MAX_MEMORY):
            if number[k]:
                number[k][0] = row.memory[k]

    # --- averages that follow the parameters ------------------------------------------------------

    def follow(self, Pace pace not None, list means not None) -> None:
        """Let these averages, one for each parameter in the layout of its state, follow each step."""
        cdef Py_ssize_t i
        cdef dict last = {self.slots[i].first: i for i in range(self.n_tensors)}
        for i in range(self.n_tensors):
            if not self._is_state(i, means[i]):
                raise ValueError(f"the average of {self.labels[i]} is not laid out as its state")
        self.followers = <void **>PyMem_Calloc(max(self.n_tensors, 1), sizeof(void *))
        if not self.followers:
            raise MemoryError
        for i in last.values():     # a parameter that occurs twice is averaged after both updates
            self.followers[i] = cnp.PyArray_DATA(<cnp.ndarray>means[i])
        self.pace, self.means = pace, list(means)
        self._build_walls()

    cdef void _lead(self) noexcept:
        """Have the coming run move the averages, too, unless they follow the step as a whole."""
        self.pace.stepped = True
        if not self.pace.apart:
            self.table.weight = self.pace.weight()
            self.table.averages = self.followers
            self.pace.steps += self.pace.steps < MOST_STEPS

    cdef int prepare_average(self) except -1:
        """Make ready to move the averages in a run of their own, after a step that the kernels have
        not made."""
        if not self._owners_are_still():
            raise RuntimeError("an average was resized in place")
        self._open_copies()
        return 0

    cdef int average(self) except -1:
        """Move the averages, which :meth:`prepare_average` has made ready."""
        self._fill_copies()
        self._hide_rows()
        self._lead()
        if self.table.averages != NULL:
            self.update(0, self.n_bundles)
            self.table.averages = NULL
        self._hide_rows()
        return 0

    cdef void _hide_rows(self) noexcept:
        """Leave no tensor its row; or, the second time, give back those that had one."""
        cdef Py_ssize_t i
        for i in range(self.n_tensors):
            self.table.tensors[i].row = -2 - self.table.tensors[i].row

    def catch_up(self, optimizer) -> bool:
        """Move the averages after a step that was made elsewhere; False if the plan no longer fits
        the parameters."""
        cdef Py_ssize_t i
        self._check_unswapped()
        try:
            if not (self.alive and self._fits(optimizer)):
                return False
            for i in range(self.n_tensors):
                self.table.tensors[i].row = -1
            self.prepare_average()
            self.average()
        finally:
            self._clear()
        return True

    def fits(self, optimizer) -> bool:
        """Whether these are the optimizer's parameters, and where they were."""
        return self.alive and self._fits(optimizer)

    cdef int swap(self, list spare) except -1:
        """Have parameters and averages change places; `spare` is as :meth:`spare_arrays` gives it."""
        cdef Py_ssize_t i
        cdef cnp.ndarray view, mean
        for i, copy in spare:
            if copy is not None:
                cnp.PyArray_CopyInto(<cnp.ndarray>copy, <cnp.ndarray>self.views[i])
        for i, copy in spare:
            view, mean = self.views[i], self.means[i]
            if self.pace.steps == 0:    # no average has been taken yet
                cnp.PyArray_CopyInto(mean, view)
            elif self.slots[i].direct:
                swap_memory(<char *>cnp.PyArray_DATA(view), <char *>cnp.PyArray_DATA(mean),
                            cnp.PyArray_NBYTES(view))
            else:
                cnp.PyArray_CopyInto(view, mean)
                cnp.PyArray_CopyInto(mean, <cnp.ndarray>copy)
        self.pace.swapped = not self.pace.swapped
        return 0

    cdef list spare_arrays(self):
        """The slots of all parameters, and for each that is not dense an array to swap it by."""
        cdef Py_ssize_t i
        return [(i, None if self.slots[i].direct else np.empty_like(self.views[i], subok=False))
                for i in range(self.n_tensors) if self.slots[i].first == i]

    cdef list tensors(self):
        """The parameters that are another library's tensors."""
        cdef Py_ssize_t i
        return [self.objects[i] for i in range(self.n_tensors)
                if self.slots[i].door == TENSOR and self.slots[i].first == i]

    cdef int _announce(self) except -1:
        # Before anything changes: this is Python code, where an interrupt may be raised.
        if PyList_GET_SIZE(self.updated) == 0:
            return 0
        from cyoptim._arrays.doors import announce_update
        announce_update(self.updated)
        return 0


cdef object owner_of(object array):
    """The array that owns an array's memory, itself or one that it is a view of; None if it is no
    array's."""
    while True:
        base = array.base
        if not cnp.PyArray_Check(base):
            break
        array = base
    return array if cnp.PyArray_CHKFLAGS(<cnp.ndarray>array, cnp.NPY_ARRAY_OWNDATA) else None


cdef class Averaged:
    """The ``with`` block in which parameters hold their averages. It begins and ends in C, where no
    interrupt can come between."""

    cdef object optimizer
    cdef Turn turn
    cdef Plan plan              # while inside
    cdef list spare

    def __init__(self, optimizer, Turn turn not None):
        self.optimizer, self.turn = optimizer, turn

    def __enter__(self):
        self.turn.take(WRITING, "averaged()")
        try:
            self._begin(self.optimizer._plan_with_averages())
        finally:
            self.turn.give()

    cdef int _begin(self, Plan plan) except -1:
        spare = plan.spare_arrays()
        announce(plan.tensors())
        if not plan._owners_are_still():
            raise RuntimeError("an average was resized in place")
        plan.swap(spare)
        self.plan, self.spare = plan, spare
        return 0

    def __exit__(self, *error):
        cdef Plan plan = self.plan
        if plan is None:
            raise RuntimeError("the block of averaged() was left without being entered")
        interrupt = self.turn.take_surely(WRITING, "the end of averaged()")
        plan.swap(self.spare)
        self.plan = self.spare = None
        self.turn.give()
        announce(plan.tensors())
        if interrupt is not None:
            raise interrupt


cdef int announce(list tensors) except -1:
    """Tell autograd that tensors are changed in place."""
    if tensors:
        from cyoptim._arrays.doors import announce_update
        announce_update(tensors)
    return 0
