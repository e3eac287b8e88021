# Exclusive use of an optimizer.
#
# (a) One turn at a time. A step during a step of another thread is an error; all other calls wait,
#     in their order, and so does a step during another call.
# (b) A turn begins and ends in C, where no interrupt can come between: it ends however its function
#     ends.
# (c) The function of a turn, and what it calls, cannot take another turn of the same optimizer, except
#     where it says so: the closure of L-BFGS may look at parameters and reset gradients, what a file is
#     loaded into may be loaded piece by piece.
# (d) Turns change hands under the GIL alone, so that plain fields are enough.

cdef extern from "Python.h" nogil:
    unsigned long PyThread_get_thread_ident()

cdef extern from "fp_mode.h" nogil:
    unsigned long long fp_plain()
    void fp_restore(unsigned long long mode)
    void fp_unplain(unsigned long long mode)

# The kinds of turns. A turn allows its own thread one of these kinds, and all kinds before it.
cdef enum:
    NOTHING = 0
    READING = 1     # parameters and state
    TOUCHING = 2    # gradients or parameters
    WRITING = 3     # state, groups, sums
    STEPPING = 4


cdef class Ticket:
    """A thread that waits for its turn."""

    cdef unsigned long thread
    cdef int kind
    cdef str doing
    cdef bint granted
    cdef object lock

    def __cinit__(self, unsigned long thread, int kind, str doing):
        self.thread, self.kind, self.doing = thread, kind, doing
        self.lock = allocate_lock()
        self.lock.acquire()


cdef class Turn:
    """Whose turn it is to use an optimizer."""

    cdef unsigned long owner    # the thread whose turn it is; 0: nobody's
    cdef int kind               # what for
    cdef int allowed            # what its own thread may do meanwhile
    cdef str doing              # for errors
    cdef int forks              # when it began
    cdef public bint has_stepped
    cdef list queue             # of Tickets
    cdef list stepping          # threads that are in a subclass's own step()
    cdef unsigned long long mode        # the caller's floating-point mode
    cdef Walls walls            # the memory that the optimizer uses
    cdef void *before           # all turns are in a ring
    cdef void *after

    def __cinit__(self):
        join_ring(self)     # first: whatever fails then, it leaves the ring again
        self.queue, self.stepping = [], []

    def __dealloc__(self):
        leave_ring(self)

    @cython.final
    cdef inline bint take(self, int kind, str doing) except -1:
        """Begin a turn; whether it is within another of the same thread."""
        if self.owner == 0 and PyList_GET_SIZE(self.queue) == 0:
            self._own(PyThread_get_thread_ident(), kind, doing)
            return False
        return self._contend(kind, doing)

    cdef bint take_at_once(self, int kind, str doing) noexcept:
        """Begin a turn if nobody has one or waits for one."""
        if self.owner == 0 and PyList_GET_SIZE(self.queue) == 0:
            self._own(PyThread_get_thread_ident(), kind, doing)
            return True
        return False

    cdef inline void _own(self, unsigned long thread, int kind, str doing) noexcept:
        self.owner, self.kind, self.allowed, self.forks = thread, kind, NOTHING, FORKS
        self.doing = doing

    cdef bint _contend(self, int kind, str doing) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self.forks != FORKS and self.owner != thread:
            self._forget_threads()
        if self.owner == thread:
            if kind > self.allowed:
                refuse_within(doing, self.doing)
            self.kind, self.allowed, self.doing = kind, NOTHING, doing
            return True
        if self.owner == 0 and PyList_GET_SIZE(self.queue) == 0:
            self._own(thread, kind, doing)
        elif kind == STEPPING and self.kind == STEPPING:
            refuse(self.forks)
        else:
            self._wait(Ticket(thread, kind, doing))
        return False

    cdef int _forget_threads(self) except -1:
        """In a forked child, where the threads do not exist that had a turn or waited for one."""
        self.queue = []
        if self.owner != 0 and self.kind != READING:
            refuse(self.forks)
        self.owner = 0

    cdef int _wait(self, Ticket ticket) except -1:
        self.queue.append(ticket)
        try:
            ticket.lock.acquire()
        except BaseException:       # an interrupt
            if ticket.granted:
                self.give()
            else:
                self.queue.remove(ticket)
            raise
        return 0

    @cython.final
    cdef inline void give(self) noexcept:
        """End the turn; the thread that has waited longest begins its own."""
        if PyList_GET_SIZE(self.queue) == 0:
            self.owner = 0
        else:
            self._hand_over()

    cdef void _hand_over(self) noexcept:
        cdef Ticket ticket = self.queue.pop(0)
        self._own(ticket.thread, ticket.kind, ticket.doing)
        ticket.granted = True
        ticket.lock.release()

    cdef object _call(self, int kind, int allowed, str doing, object function, tuple args):
        cdef int outer_kind = self.kind, outer_allowed = self.allowed
        cdef str outer = self.doing
        cdef unsigned long long outer_mode = self.mode
        cdef bint within = self.take(kind, doing)
        self.allowed = allowed
        self.mode = fp_plain()
        try:
            return function(*args)
        finally:
            fp_restore(self.mode)
            self.mode = outer_mode
            if within:
                self.kind, self.allowed, self.doing = outer_kind, outer_allowed, outer
            else:
                self.give()

    def read(self, str doing, function, *args):
        """Call the function in a turn that reads parameters and state."""
        return self._call(READING, NOTHING, doing, function, args)

    def touch(self, str doing, function, *args):
        """Call the function in a turn that changes gradients or parameters."""
        return self._call(TOUCHING, NOTHING, doing, function, args)

    def write(self, str doing, function, *args):
        """Call the function in a turn that changes state, groups or sums."""
        return self._call(WRITING, NOTHING, doing, function, args)

    def step(self, function, *args):
        """Call the function in the turn of a step."""
        return self._call(STEPPING, NOTHING, "step()", function, args)

    def outside(self, function, *args):
        """Call a user's function from within a turn, in the caller's floating-point mode; it may
        look at parameters and change gradients."""
        cdef int allowed = self.allowed
        self.allowed = TOUCHING
        fp_restore(self.mode)
        try:
            return function(*args)
        finally:
            self.mode = fp_plain()
            self.allowed = allowed

    def around(self, function, *args):
        """Call a subclass's own step()."""
        cdef object thread = PyThread_get_thread_ident()
        self.stepping.append(thread)
        try:
            return function(*args)
        finally:
            self.stepping.remove(thread)

    @property
    def within_step(self) -> bool:
        """Whether this thread is in a subclass's own step()."""
        return self.stepping and PyThread_get_thread_ident() in self.stepping

    cdef object take_surely(self, int kind, str doing):
        """Begin a turn however often the wait for it is interrupted; the first interrupt, or None."""
        interrupt = None
        while True:
            try:
                self.take(kind, doing)
                return interrupt
            except Exception:
                raise
            except BaseException as error:
                interrupt = interrupt or error


# --- all turns --------------------------------------------------------------------------------------

# The ring is under the GIL, too. A turn is in it until its memory is given back.
cdef void *RING = NULL


cdef void join_ring(Turn turn) noexcept:
    global RING
    if RING == NULL:
        turn.before = turn.after = <void *>turn
    else:
        turn.after = RING
        turn.before = (<Turn>RING).before
        (<Turn>turn.before).after = <void *>turn
        (<Turn>turn.after).before = <void *>turn
    RING = <void *>turn


cdef void leave_ring(Turn turn) noexcept:
    global RING
    (<Turn>turn.before).after = turn.after
    (<Turn>turn.after).before = turn.before
    if RING == <void *>turn:
        RING = turn.after if turn.after != <void *>turn else NULL


cdef list turns_over(object arrays):
    """The turns of the optimizers that use the memory of any of these arrays."""
    cdef list found = []
    cdef void *turn = RING
    cdef uintptr_t low, high
    bounds = [memory_bounds(array) for array in arrays] if RING != NULL else []
    while bounds and turn != NULL:
        if (<Turn>turn).walls is not None:
            for low, high in bounds:
                if (<Turn>turn).walls.meets(low, high):
                    found.append(<Turn>turn)
                    break
        turn = (<Turn>turn).after
        if turn == RING:
            break
    return found


cdef dict KINDS = {"read": READING, "touch": TOUCHING, "write": WRITING}


def together(str how, str doing, list turns, arrays, function, *args):
    """Call the function in turns of several optimizers: of these, and of all that use the memory of
    any of the arrays.

    Parameters
    ----------
    how : {"read", "touch", "write"}
        What the turns are for.
    doing : str
        What errors call it.
    """
    cdef list wanted = [], taken = []
    cdef Turn turn
    cdef int kind = KINDS[how]
    for turn in turns + turns_over(arrays):
        if turn.owner == PyThread_get_thread_ident():
            if kind > turn.allowed:
                refuse_within(doing, turn.doing)
        elif turn not in wanted:
            wanted.append(turn)
    try:
        take_all(wanted, taken, kind, doing)
        return plainly(function, *args)
    finally:
        for turn in taken:
            turn.give()


def step_whole(optimizer, attributes, tensors, step, *args) -> None:
    """Step a schedule of an optimizer in a turn: if it fails, the attributes of its parts and the
    options of the groups become what they were. `tensors` are arrays of options that are tensors."""
    cdef Undo undo = Undo()
    cdef Turn turn = optimizer._turn if hasattr(optimizer, "_turn") else None
    undo.keep(attributes)
    undo.keep(tensors)
    undo.keep_options(optimizer.param_groups)
    if turn is None or turn.owner == PyThread_get_thread_ident():
        if turn is not None and turn.allowed < WRITING:
            refuse_within("scheduler.step()", turn.doing)
        undo.run(step, *args)
    else:
        turn._call(WRITING, WRITING, "scheduler.step()", undo.run, (step, *args))


def plainly(function, *args):
    """Call the function in the floating-point mode in which a program begins."""
    cdef unsigned long long mode = fp_plain()
    try:
        return function(*args)
    finally:
        fp_unplain(mode)


cdef int take_all(list wanted, list taken, int kind, str doing) except -1:
    # Nobody waits for a turn while having another: two might wait for each other's.
    cdef Turn turn, awaited = None
    cdef int allowed = NOTHING if kind == TOUCHING else WRITING
    while True:
        for turn in wanted:
            if turn is not awaited and not turn.take_at_once(kind, doing):
                break
            if turn is not awaited:
                taken.append(turn)
        else:
            break
        for awaited in taken:
            awaited.give()
        taken.clear()
        awaited = turn
        awaited.take(kind, doing)
        taken.append(awaited)
    for turn in taken:
        turn.allowed = allowed
    return 0
