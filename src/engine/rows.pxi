# From the options of a group to the rows of scalars of a step.

# The numbers of a state that the rule's clock carries on, each of one of two types; NULL: none.
cdef struct Carried:
    float *numbers[MAX_CARRIED]
    double *wide[MAX_CARRIED]

cdef enum:
    UNSEEN = -2         # in the place of a rule: the slot's state has not been looked at
    UNBOUND = -1        # it has, and no rule's arrays are bound; for good if the group has no rule


cdef enum:
    NEVER = -1          # in the place of a number of changes: the state has to be looked up again


cdef class Rows(Inputs):
    """Gives each tensor of a step its row: the scalars of its group at its step count.

    A group without a rule has rows, too, whose rule is -1: :meth:`Optimizer.update` steps its parameters.

    A group has one section, whose number is the group's, or two: parameters that are set apart are in the other
    one, numbered after all groups, and have a rule of their own.
    """

    cdef Carried *carried
    cdef list states            # per slot: the state arrays whose addresses are bound
    cdef list stored_by         # per group: the options that say how its state is stored
    cdef list known_options     # per group: the option values its template was made of, or None
    cdef Row *templates         # per section: the scalars before the clock
    cdef dict counters          # per slot: a step count whose form in the state is another
    cdef Watch watch
    cdef dict shards            # per group, if other processes have parts of its parameters: one of them, in words
    cdef int64_t looked         # changes that the watch had told when the running step looked
    cdef int64_t seen           # when the state was found as it is known here, or NEVER
    cdef Py_ssize_t natives
    cdef readonly Py_ssize_t updates    # tensors of the last step whose group has no rule; the others are natives
    cdef double total_norm      # of all gradients of the running step, where a rule asks for it
    cdef bint counts_steps
    cdef bint carries           # some clock carries numbers on
    cdef bint aged              # every slot has the age that it keeps
    cdef bint asks_norm         # a rule of the running step asks for the norm of all gradients
    cdef bint looks_ahead       # some rule wants to be known before gradients are measured
    cdef bint parted            # some parameters are set apart
    cdef bint counts_idle       # some rule advances the numbers of groups without a gradient, too
    cdef bint joins             # some rule adds up over all groups, which then have the same numbers
    cdef bint changed           # an option has, since the groups were compared
    cdef bint recut             # tensors are to be cut at the boundaries of units

    def __cinit__(self, list items, *args):
        self.carried = <Carried *>PyMem_Calloc(max(len(items), 1), sizeof(Carried))
        if not self.carried:
            raise MemoryError

    def __dealloc__(self):
        PyMem_Free(self.carried)
        PyMem_Free(self.templates)
        PyMem_Free(self.table.groups)

    cdef int begin_rows(self, bint counts_steps, Watch watch, list rules) except -1:
        cdef Rule rule
        cdef Py_ssize_t g
        self.counts_steps, self.watch, self.counters = counts_steps, watch, {}
        self.seen = NEVER
        self.states = [None] * self.n_tensors
        self.known_options = [None] * len(self.groups)
        self.stored_by = [storage_options(group) for group in self.groups]
        self.templates = <Row *>PyMem_Calloc(max(2 * len(self.groups), 1), sizeof(Row))
        if not self.templates:
            raise MemoryError
        for g in range(2 * len(self.groups)):
            self.templates[g].rule = -1     # until its options have been read
        for rule in rules:
            self.joins = self.joins or rule.scope == OVER_ALL
            self.looks_ahead = self.looks_ahead or rule.norm >= 0 or rule.scope == PER_ROW
            self.counts_idle = self.counts_idle or (rule.scope >= PER_GROUP and not rule.measures)
        return 0

    def set_apart(self, list slots not None) -> None:
        """Let these slots have the rule of the optimizer's ``_rule_apart``."""
        for i in slots:
            self.slots[<Py_ssize_t>i].section = self.slots[<Py_ssize_t>i].group + <int32_t>len(self.groups)
            self.parted = True

    def note_shards(self, dict shards not None) -> None:
        """Be told of which groups other processes have parts of parameters: see `shards`."""
        self.shards = shards

    # --- options -----------------------------------------------------------------------------------

    @cython.final
    cdef int read_options(self, object optimizer, Py_ssize_t group) except -1:
        """Bring the templates of the group up to date with its options."""
        cdef dict options = self.groups[group], read
        cdef list known = self.known_options[group]
        cdef Rule rule, apart = None
        if known is not None and same_options(options, known):
            return 0
        if self.shards is not None and group in self.shards:
            optimizer._check_element_wise(options, self.shards[group])
        read = PyDict_Copy(options)     # what another thread changes from here on, is found next time
        self.known_options[group] = None
        self.stirred = self.changed = True
        try:
            # They are true, whatever they say.
            if has_text_or_nan(options) and (optimizer._is_native() or optimizer._prepares_update):
                check_switches(options, optimizer)
            check_storage_kept(options, self.stored_by[group])
            rule = rule_of(optimizer, options)
            if rule is not None and rule.slices:
                self._note_form(rule, group, options, rule.slice)
            if rule is not None and rule.segment is not None:
                self._note_form(rule, group, options, rule.segment)
            fill_template(&self.templates[group], rule, options)
            if self.parted:
                apart = rule_apart(optimizer, options)
                fill_template(&self.templates[group + len(self.groups)], apart, options)
        except (TypeError, ValueError, LookupError) as error:
            text = explain_options(options, optimizer._defaults_for(options, optimizer.defaults), error)
            kind = TypeError if isinstance(error, IndexError) else type(error)
            raise kind(f"options of param group {group}: {text}") from error
        if rule is not None:
            self._take_scope(rule, group)
        if apart is not None:
            self._take_scope(apart, group)
        self.known_options[group] = constant_options(read, rule)
        return 0

    cdef int _note_form(self, Rule rule, Py_ssize_t group, dict options, str name) except -1:
        """Have the state of a group looked at again if the option has changed that decides its form."""
        cdef Py_ssize_t i, k = rule.scalars.index(name)
        cdef Row *template = &self.templates[group]
        if template.rule == rule.number and template.scalars[k] == rule.value(k, options):
            return 0
        for i in range(self.n_tensors):
            if self.slots[i].group == group and self.slots[i].rule >= 0:
                self.slots[i].rule = UNBOUND
        return 0

    cdef int _take_scope(self, Rule rule, Py_ssize_t group) except -1:
        """Allocate the sums of a rule."""
        if rule.scope >= PER_GROUP and self.table.groups == NULL:
            self.table.groups = <Group *>PyMem_Calloc(max(len(self.groups), 1), sizeof(Group))
            if not self.table.groups:
                raise MemoryError
            self.table.n_groups = len(self.groups)
        if rule.measures and rule.scope >= PER_GROUP and self.repeats:
            raise ValueError(
                f"rule {rule.name} of param group {group} adds up over parameters: list each of them "
                "once, as one occurs twice in a group"
            )
        if rule.measures and self.table.units == NULL:
            self._make_units()
        return 0

    cdef int _make_units(self) except -1:
        cdef Py_ssize_t i
        self.table.units = <Units *>PyMem_Calloc(max(self.n_tensors, 1), sizeof(Units))
        if not self.table.units:
            raise MemoryError
        for i in range(self.n_tensors):
            self.table.units[i].size = 1    # of a rule that measures nothing: see set_unit
        self.recut = True
        return 0

    cdef int look_ahead(self, object optimizer) except -1:
        """Read the options before gradients are measured: the rules decide how tensors are cut, and
        what is measured."""
        cdef Py_ssize_t i
        cdef int32_t section = -1
        cdef Rule rule = None
        self.asks_norm = False
        for i in range(self.n_tensors):
            if self.table.tensors[i].row < 0:
                continue
            if self.slots[i].section != section:
                section = self.slots[i].section
                self.read_options(optimizer, self.slots[i].group)
                rule = self.rule_of_slot(i)
                if rule is not None and rule.norm >= 0:
                    self.asks_norm |= self.templates[section].scalars[rule.bound] != INFINITY
            if self.table.units != NULL and self.slots[i].rule != (UNBOUND if rule is None else rule.number):
                self.set_unit(i, rule)
        if self.recut:
            self.cut_waves()
        return 0

    cdef Py_ssize_t first_joined(self) noexcept:
        """The first group whose rule adds up over all groups: its numbers are those of all; -1: none."""
        cdef Py_ssize_t g
        for g in range(PyList_GET_SIZE(self.groups)):
            if self.templates[g].rule >= 0 and (<Rule>RULE_LIST[self.templates[g].rule]).scope == OVER_ALL:
                return g
        return -1

    cdef Rule rule_of_slot(self, Py_ssize_t i):
        """The rule of a slot's section, whose options have been read; None: it has none."""
        cdef int rule = self.templates[self.slots[i].section].rule
        return None if rule < 0 else RULE_LIST[rule]

    cdef int set_unit(self, Py_ssize_t i, Rule rule) except -1:
        """Let the rule's units be the tensor's; one that measures nothing can be cut anywhere."""
        cdef Py_ssize_t size = self.table.tensors[i].size
        cdef bint measures = rule is not None and rule.measures
        cdef Py_ssize_t unit = self.whole_size(i) if measures else 1
        if measures and rule.scope == PER_ROW:
            unit = size // max(self._unit_count(i, rule), 1)
            if rule.combines and cnp.PyArray_NDIM(<cnp.ndarray>self.views[i]) < 2:
                unit = 1        # it has no rows, and can be cut anywhere
        if self.table.units[i].size != unit:
            self.table.units[i].size = unit
            self.recut = True
            if self.slots[i].rule >= 0:     # the numbers that are bound are those of other units
                self.slots[i].rule = UNBOUND
        return 0

    cdef Py_ssize_t size_in_units(self, Py_ssize_t i, Rule rule) noexcept:
        """The elements of a tensor's units here. Rows are never parted; of a tensor that is, each process has the unit."""
        return self.table.tensors[i].size if rule.scope == PER_ROW else self.whole_size(i)

    cdef Py_ssize_t _unit_count(self, Py_ssize_t i, Rule rule) except -1:
        try:
            return rule.unit_count((<object>self.views[i]).shape, self.groups[self.slots[i].group])
        except ValueError as error:
            raise ValueError(f"{self.labels[i]}: {error}") from None

    cdef int cut_waves(self) except -1:
        raise NotImplementedError

    # --- rows --------------------------------------------------------------------------------------

    @cython.final
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

    cdef void _load_carried(self, Py_ssize_t i, double *carried) noexcept:
        """The carried numbers of this slot: from its state, or from the slot's earlier
        occurrence in the same step."""
        cdef Slot *slot = &self.slots[i]
        cdef const Carried *own = &self.carried[i]
        cdef Py_ssize_t j, earlier = -1
        cdef int k
        for j in range(slot.first, i):
            if self.slots[j].first == slot.first and self.table.tensors[j].row >= 0:
                earlier = j
        for k in range(MAX_CARRIED):
            if earlier >= 0:
                carried[k] = self.table.rows[self.table.tensors[earlier].row].carried[k]
            else:
                carried[k] = own.numbers[k][0] if own.numbers[k] else own.wide[k][0] if own.wide[k] else 0

    @cython.final
    cdef int _find_row(self, Py_ssize_t group, Py_ssize_t section, int64_t step,
                       const double *carried) except -1:
        """The row of this section at this step count and with these carried numbers."""
        cdef Py_ssize_t r
        cdef int rule = self.templates[section].rule
        cdef Row *row
        cdef Clock clock
        cdef int k
        for r in range(self.n_rows - 1, -1, -1):
            row = &self.table.rows[r]
            if row.group == group and row.rule == rule and row.step == step and same_carried(row, carried):
                return <int>r
        row = self.new_row()
        row[0] = self.templates[section]
        row.group = group
        row.step = step
        for k in range(MAX_CARRIED):
            row.before[k] = row.carried[k] = carried[k]
        if row.rule < 0:
            return <int>self.n_rows - 1
        if self.looks_ahead or self.table.groups != NULL:
            self._fill_measured(row)
        clock = KERNELS.clocks[row.rule]
        if clock != NULL:
            clock(row.scalars, step, row.carried)
        return <int>self.n_rows - 1

    cdef int _fill_measured(self, Row *row) except -1:
        """Set the scalars that are not in the group's template: the norm, and numbers of the group."""
        cdef Rule rule = RULE_LIST[row.rule]
        cdef Py_ssize_t group = self.first_joined() if rule.scope == OVER_ALL else row.group
        cdef int k
        if rule.norm >= 0:
            row.scalars[rule.norm] = self.total_norm
        if rule.scope >= PER_GROUP:
            for k in range(PyTuple_GET_SIZE(rule.scalars)):
                if rule.sources[k] == NUMBER:
                    row.scalars[k] = rule.value(k, self.groups[group])
        return 0

    @cython.final
    cdef list assign_rows(self, object optimizer):
        """Give every tensor with a gradient its row; return the slots whose state is not bound, or
        None."""
        cdef Py_ssize_t i
        cdef int32_t group = -1, section = -1
        cdef int64_t step, last = -1
        cdef int row = -1, rule = -1
        cdef double carried[MAX_CARRIED]
        cdef bint carries = self.carries, settled = self.aged and not self.repeats
        cdef Tensor *tensor = self.table.tensors
        cdef const Slot *slot = self.slots
        cdef list unbound = None
        memset(carried, 0, sizeof(carried))
        self.n_rows = self.natives = self.updates = 0
        if self.joins:
            for i in range(PyList_GET_SIZE(self.groups)):
                self.read_options(optimizer, i)
            if self.changed:
                optimizer._check_agreement(self.groups)
                self.changed = False
        for i in range(self.n_tensors):
            if tensor[i].row < 0:
                continue
            if slot[i].section != section:
                section, last = slot[i].section, -1
                if slot[i].group != group:
                    group = slot[i].group
                    if not self.joins:      # which has read those of all
                        self.read_options(optimizer, group)
            if slot[i].rule == UNSEEN:
                self._look_at_slot(optimizer, slot[i].first)
                self._look_at_slot(optimizer, i)
            step = 2 if settled else self._next_step(i)
            if carries:
                self._load_carried(i, carried)
            if step != last or (carries and not same_carried(&self.table.rows[row], carried)):
                last = step
                if step <= 0:
                    self._refuse_count(i, step)
                row = self._find_row(group, section, step, carried)
                rule = self.table.rows[row].rule
            tensor[i].row = row
            if rule < 0:
                self._check_updatable(i)
                self.updates += 1
            else:
                self.natives += 1
            if slot[i].rule != rule:
                if unbound is None:
                    unbound = []
                unbound.append(i)
        if self.counts_idle:
            self._add_idle_groups(optimizer)
        self.table.n_rows = self.n_rows
        return unbound

    cdef int _check_updatable(self, Py_ssize_t i) except -1:
        """Refuse to hand parameters of few bits to a step that computes in their type."""
        if self._type_of(i) > FLOAT64:
            raise TypeError(
                f"{self.labels[i]} has dtype {name_of_dtype(self.views[i].dtype)}, which steps by native rules take, such as AdamW's, "
                "and this group has none: train in float32, or give it another optimizer")
        return 0

    cdef int _add_idle_groups(self, object optimizer) except -1:
        """Give a row to groups without a gradient whose rule counts this step all the same."""
        cdef Py_ssize_t g, r = 0, known = self.n_rows
        cdef Rule rule
        cdef double carried[MAX_CARRIED]
        cdef bint idle
        memset(carried, 0, sizeof(carried))
        for g in range(len(self.groups)):
            idle = True
            while r < known and self.table.rows[r].group == g:      # rows are in the order of their groups
                idle = False
                r += 1
            if idle:
                self.read_options(optimizer, g)
                rule = None if self.templates[g].rule < 0 else RULE_LIST[self.templates[g].rule]
                if rule is not None and rule.scope >= PER_GROUP and not rule.measures:
                    self._find_row(g, g, 2, carried)
        return 0

    cdef int _look_at_slot(self, object optimizer, Py_ssize_t i) except -1:
        """Find a slot's step count, or, where no rule steps it, all arrays of its state."""
        if self.slots[i].rule != UNSEEN:
            return 0
        entries = optimizer.state.arrays(self.objects[i])
        if self.templates[self.slots[i].section].rule < 0:
            self.states[i] = [value for value in entries.values() if cnp.PyArray_Check(value)]
            for value in self.states[i]:
                self.check_unmasked(i, value)
        elif self.counts_steps and self.slots[i].first == i and entries.get("step") is not None:
            self._adopt_counter(i, entries["step"])
        self.slots[i].rule = UNBOUND
        return 0

    cdef int _adopt_counter(self, Py_ssize_t i, object counter) except -1:
        if not is_counter(counter):
            counter = self.counters[i] = make_counter(counter, self.labels[i])
        self.states[i] = [counter]
        self.slots[i].step = <int64_t *>cnp.PyArray_DATA(<cnp.ndarray>counter)
        return 0

    cdef int check_unmasked(self, Py_ssize_t i, object value) except -1:
        """Refuse masked arrays in the state."""
        if cnp.PyArray_Check(value) and not cnp.PyArray_CheckExact(value):
            from cyoptim._arrays.doors import check_unmasked
            check_unmasked(value, f"state of {self.labels[i]}")
        return 0

    cdef int _refuse_count(self, Py_ssize_t i, int64_t step) except -1:
        raise ValueError(
            f"state 'step' of {self.labels[i]} is {step - 1}, expected a whole number from 0 to "
            "2**63 - 2"
        )

    @cython.final
    cdef void count(self) noexcept:
        """Record the step: counts, ages, and carried numbers."""
        cdef Py_ssize_t i
        if self.aged:
            return
        self.aged = not (self.counts_steps or self.table.storage != NULL)
        for i in range(self.n_tensors):
            if self.table.tensors[i].row < 0:
                self.aged = False
            elif self.slots[i].rule >= 0:
                self._count_one(i)

    cdef inline void _count_one(self, Py_ssize_t i) noexcept:
        if self.counts_steps:
            self.slots[i].step[0] = min(self.slots[i].step[0], MOST_STEPS - 1) + 1
            if self.carries:
                self._store_carried(i)
        else:
            self.slots[self.slots[i].first].age = 1
        if self.table.storage != NULL and self.table.storage[i].key != NULL:
            self.table.storage[i].key[0] = next_key(self.table.storage[i].key[0])

    cdef void _store_carried(self, Py_ssize_t i) noexcept:
        cdef const Row *row = &self.table.rows[self.table.tensors[i].row]
        cdef const Carried *own = &self.carried[i]
        cdef int k
        for k in range(MAX_CARRIED):
            if own.numbers[k]:
                own.numbers[k][0] = <float>row.carried[k]
            elif own.wide[k]:
                own.wide[k][0] = row.carried[k]
