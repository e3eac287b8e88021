# The plan of an optimizer's steps, and the step.


cdef class Plan(Passes):
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
    rules : list of Rule
        Those that its groups may have.
    """

    cdef Undo undo              # what a step in Python has changed so far
    cdef list zeros             # arrays and tensors to be filled with zeros by the running step
    cdef list preceding         # (rule, scalars) of the stages that change gradients
    cdef readonly bint coded    # whether a parameter or its state may be stored in fewer bits

    def __init__(self, list doors not None, list labels not None, list groups not None,
                 bint counts_steps, Watch watch not None, bint only_sparse, Turn turn not None,
                 list rules not None):
        # Blocks that share a scale or random bits are those of C order, whatever the memory's.
        self.coded = any([has_storage(group) for group in groups]) or any([is_sixteen(view) for _, view in doors])
        by_rows = self.coded or any([(<Rule?>rule).scope == PER_ROW or (<Rule>rule).slices for rule in rules])
        Inputs.__init__(self, doors, labels, groups, only_sparse, turn, by_rows)
        self.begin_rows(counts_steps, watch, rules)
        self.streams = 2 + max([len((<Rule>rule).states) for rule in rules], default=0)
        self.begin_states()
        self.begin_averages()
        self.zeros, self.preceding, self.undo = [], [], Undo()
        self.cut_waves()

    # --- the step --------------------------------------------------------------------------------

    def step(self, optimizer, list grads) -> bool:
        """Step every parameter that has a gradient, in its own turn; False if the plan no longer
        fits, or steps take the slow path."""
        cdef unsigned long long mode
        if is_detour():
            return False
        self.turn.take(STEPPING, "step()")
        mode = fp_plain()
        try:
            if self.turn.files is not None:
                return self.turn._in_files(STEPPING, self.step_in_turn_alone, (optimizer, grads))
            return self._step(optimizer, grads, None, None, False)
        finally:
            fp_unplain(mode)
            self.turn.give()

    def step_in_turn_alone(self, optimizer, list grads) -> bool:
        """As :meth:`step`, within a turn."""
        return self._step(optimizer, grads, None, None, False)

    def step_in_turn(self, optimizer, list grads, Extras extras, update) -> bool:
        """As :meth:`step`, within a turn. The step stores `extras`, with its results, in the
        optimizer.

        Where a group has no rule, ``update(optimizer, found, undo, extras)`` is called with a list of (number, array,
        gradient), an entry for each of its parameters that has a gradient, after everything has been
        checked. It returns a Commit to make then, or None. `undo`, an Undo, must record everything that it
        changes before.
        """
        return self._step(optimizer, grads, extras, update, True)

    @cython.final
    cdef bint _step(self, object optimizer, list grads, Extras extras, object update,
                    bint tells) except -1:
        cdef bint steps
        self._check_unswapped()
        if not self.alive:
            return False
        try:
            self.zeroing = extras is not None and extras.zero
            if not self._collect(grads, optimizer):
                return False
            # The norm of gradients, too, is a sum over chunks, which the rules decide.
            if self.looks_ahead or (extras is not None and extras.measure):
                self.look_ahead(optimizer)
            if extras is None and not self.looks_ahead:
                steps = self._change(optimizer, None, update, False)
            else:
                steps = self._step_with(optimizer, extras, update)
            if not steps:
                return False
            shared_write(&self.turn.stepped, True)
            if tells:
                PyObject_GenericSetAttr(optimizer, "_extras", extras)
        finally:
            # Within the turn: letting go of a gradient may run other code, which must not step.
            self._clear()
        return True

    @cython.final
    cdef bint _change(self, object optimizer, Extras extras, object update, bint zero) except -1:
        """The second half of a step, in which gradients are filled with zeros if that is to be done in the
        same pass. False, and nothing is done, if a group has no rule and there is no function to step it."""
        cdef Py_ssize_t r
        cdef double factor
        self.prepare(optimizer)
        if self.updates and update is None:
            self.seen = NEVER       # as no prepared state is added
            return False
        if PyList_GET_SIZE(self.sparse):
            self.check_sparse(optimizer)
        if extras is not None:
            factor = extras.coefficient / extras.scale
            for r in range(self.n_rows):
                (<Head *>self.table.rows[r].scalars).sign *= factor
        if self.repeats or not self.in_place:
            self.open_copies()
        if PyList_GET_SIZE(self.updated):
            self._announce()
        if self.updates:
            self._update(optimizer, update, extras)
        else:
            self.be_ready()
            if PyList_GET_SIZE(self.births):
                self.settle()
            self.seen = self.looked
            self.table.zero = zero
            self.run()
            self.table.zero = False
        self.count()
        return True

    cdef int _update(self, object optimizer, object update, Extras extras) except -1:
        """Step the groups that have no rule by the function, and then the others."""
        cdef Commit commit
        cdef Undo undo = self.undo
        found = [(i, as_base(self.views[i]), self._preceded(self._in_type_of(i, grad)))
                 for i, grad in self._held_arrays() if self.table.rows[self.table.tensors[i].row].rule < 0]
        self.seen = self.looked     # changes by the function come later
        try:
            commit = update(optimizer, found, undo, extras)
            if commit is None:
                commit = Commit()
            self._check_still()
            if not (self._owners_are_still() and self._group_numbers_are_still()):
                self.refuse_moved_state()
            self.be_ready()
            # Nothing that ends may run code before the run that trusts what was just checked.
            self.replaced.append(commit.make_and_hold())
            self.settle()
            if self.natives or self.pace is not None:
                self.hide_updates(True)
                self.run()
                self.hide_updates(False)
        except BaseException:
            self.seen = NEVER
            undo.restore()
            raise
        finally:
            undo.forget()
        return 0

    cdef object _in_type_of(self, Py_ssize_t i, cnp.ndarray grad):
        """A gradient in the type of its parameter, for code that does not know of others."""
        if cnp.PyArray_TYPE(grad) == cnp.PyArray_TYPE(<cnp.ndarray>self.views[i]):
            return grad
        return decode_array(grad, None, CODEC_NAMES[dtype_code(grad)])

    def check_updatable(self) -> None:
        """Refuse parameters in whose type a step in Python could not compute."""
        cdef Py_ssize_t i
        for i in range(self.n_tensors):
            self._check_updatable(i)

    def precede(self, str rule not None, tuple scalars not None) -> None:
        """Let a rule without state change every gradient from now on, in a copy of a piece in the cache,
        before the rule of its group. The norm of a step is that of the gradients as they were."""
        cdef Row row
        cdef Stage *stage
        if rule not in ONE_STREAM or rule not in RULE_BY_NAME:
            raise ValueError(f"{rule!r} is not a rule of one stream")
        if self.table.before == MAX_STAGES - 1:     # one is for averages
            raise ValueError(f"{MAX_STAGES - 1} rules precede that of the group, expected no more")
        fill_row(&row, rule_named(rule), scalars)
        stage = &self.table.stages[self.table.before]
        stage.rule, stage.scalars, stage.streams = row.rule, row.scalars, NULL
        self.preceding.append((rule, scalars))
        self.table.before += 1

    cdef object _preceded(self, object grad):
        """A gradient as an update in Python gets it."""
        if PyList_GET_SIZE(self.preceding):
            grad = self._dense_copy(grad, grad)
            for rule, scalars in self.preceding:
                Arrays([grad]).apply(rule, scalars)
        return grad

    @cython.final
    cdef inline int _clear(self) except -1:
        """Release the references of the step."""
        self._release()
        if PyList_GET_SIZE(self.copies):
            self.copies.clear()
        if PyList_GET_SIZE(self.sparse):
            self.sparse.clear()
        if PyList_GET_SIZE(self.updated):
            self.updated.clear()
        if PyList_GET_SIZE(self.replaced):
            self.replaced = []
        if self.zeroing:
            self.originals.clear()
            self.zeros.clear()
        return 0

    @cython.final
    cdef int _check_unswapped(self) except -1:
        if self.pace is not None and self.pace.swapped:
            raise RuntimeError(
                "the parameters hold their averages inside averaged(): step after the block"
            )
        return 0

    @cython.final
    cdef int _announce(self) except -1:
        # Before anything changes: this is Python code, where an interrupt may be raised.
        if PyList_GET_SIZE(self.updated) == 0:
            return 0
        from cyoptim._arrays.doors import announce_update
        announce_update(self.updated)
        return 0

    # --- norm, clipping, checks and zeros ----------------------------------------------------------

    cdef bint _step_with(self, object optimizer, Extras extras, object update) except -1:
        """A step that measures its gradients first, or fills them with zeros."""
        cdef bint steps, together = False
        if self.stirred:
            self._check_still()
        steps = self._measure(optimizer, extras)
        if self.zeroing:
            self._prepare_zeros()
        if steps:
            together = self.zeroing and not self.gradients_overlap()
            if not self._change(optimizer, extras, update, together):
                return False
            together = together and not self.updates
        else:
            self._skip()
        if extras is not None:
            extras.done = True
        if self.zeroing:
            self._zero_gradients(together)
        return True

    cdef int _skip(self) except -1:
        """Make no step; gradients may be filled with zeros."""
        self._announce()
        if self.stirred:
            self._check_still()
        self.be_ready()
        if self.pace is not None:
            self.pace.skipped = True
        return 0

    cdef bint _measure(self, object optimizer, Extras extras) except -1:
        """Compute the norm, if requested; False if the step must be skipped."""
        cdef double total, norm
        cdef bint wanted = extras is not None and extras.measure
        if not wanted and not (self.looks_ahead and self.asks_norm):
            return True
        if self.shards is not None:
            optimizer._refuse_to_measure(next(iter(self.shards.values())))
        total = self.sum_squares()
        norm = sqrt(total)
        if extras is not None:
            norm = norm / fabs(extras.scale)
        if wanted:
            extras.clip(norm)
            norm = norm * extras.coefficient
        self.total_norm = norm
        if not wanted or isfinite(total):
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
        cdef dict values = {(<SparseUpdate>part).slot: (<SparseUpdate>part).values for part in self.sparse}
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if tensor.row < 0:
                continue
            if i in values:
                finite = np.isfinite(values[i]).all()
            else:
                finite = all_finite(tensor.streams[1], tensor.size, self.code_of(i, 1))
            if not finite:
                extras.nonfinite.append(i)
        if self.ranks is not None:
            extras.nonfinite[:] = self.ranks.unite(extras.nonfinite)
        return 0

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
        """Fill the remaining gradients with zeros: originals of copies, or all if the pass filled none."""
        cdef Py_ssize_t i
        cdef const Tensor *tensor
        cdef set spanned = self._spanned()
        for i in range(self.n_tensors):
            tensor = &self.table.tensors[i]
            if not done and tensor.row >= 0 and not (spanned is not None and i in spanned):
                memset(tensor.streams[1], 0, self.bytes_of(i, 1))
        for values in self.zeros:
            fill_with_zeros(values)
        return 0

    # --- other uses ----------------------------------------------------------------------------------

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
        self.turn.know_walls(self.walls)

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
        self.forget_state()
        unbound = self.assign_rows(optimizer)
        self.seen = NEVER
        if unbound:
            self.bind_states(optimizer, unbound)
            self.fill_new_state()
        return 0

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


cdef class Averaged:
    """The ``with`` block in which parameters hold their averages. It begins and ends in C, where no
    interrupt can come between."""

    cdef object optimizer
    cdef Turn turn
    cdef Plan plan              # while inside
    cdef list spare
    cdef Commit end             # what is to be done at its end, or None

    def __init__(self, optimizer, Turn turn not None):
        self.optimizer, self.turn = optimizer, turn

    def __enter__(self):
        self.turn.take(WRITING, "averaged()")
        try:
            plan, begin, end = self.optimizer._prepare_averaged()
            self._begin(plan, begin, end)
        finally:
            self.turn.give()

    cdef int _begin(self, Plan plan, Commit begin, Commit end) except -1:
        spare = plan.spare_arrays()
        announce(plan.tensors())
        if not plan._owners_are_still():
            raise RuntimeError("an average was resized in place")
        kept = None if begin is None else begin.make_and_hold()
        plan.swap(spare)
        self.plan, self.spare, self.end = plan, spare, end
        return 0

    def __exit__(self, *error):
        cdef Plan plan
        interrupt = self.turn.take_surely(WRITING, "the end of averaged()")
        try:
            plan = self.plan
            if plan is None:
                raise RuntimeError("the block of averaged() was left without being entered")
            plan.swap(self.spare)
            kept = None if self.end is None else self.end.make_and_hold()
            self.plan = self.spare = self.end = None
        finally:
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
