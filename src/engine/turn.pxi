# Exclusive use of an optimizer.
#
# (a) One turn at a time. A step during a step of another thread is an error; all other calls wait,
#     in their order, and so does a step during another call.
# (b) A turn begins and ends in C, where no interrupt can come between: it ends however its function
#     ends.
# (c) The function of a turn, and what it calls, cannot take another turn of the same optimizer, except
#     where it says so: the closure of L-BFGS may look at parameters and reset gradients, what a file is
#     loaded into may be loaded piece by piece.
# (d) While a function has its turn, new arrays come from the optimizer's own allocator, if it has one.
# (e) Turns change hands under their guard. The fields of a turn are those of the thread that has it;
#     others look at them under the guard alone.

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


# A call that chooses where new arrays are, by Turn.move().
cdef str MOVING = "map_state()"


# What comes of asking for a turn.
cdef enum Answer:
    BEGUN       # it has begun
    WITHIN      # it is within another of the same thread
    QUEUED      # it will be granted
    BUSY        # not during that of another thread
    FORBIDDEN   # not during that of the same thread


cdef class Ticket:
    """A thread that waits for its turn."""

    cdef unsigned long thread
    cdef int kind
    cdef str doing
    cdef bint granted
    cdef object lock
    cdef Ticket after           # the next in the queue

    def __cinit__(self, unsigned long thread, int kind, str doing):
        self.thread, self.kind, self.doing = thread, kind, doing
        self.lock = allocate_lock()
        self.lock.acquire()


cdef class Turn:
    """Whose turn it is to use an optimizer."""

    cdef Guard guard
    cdef unsigned long owner    # the thread whose turn it is; 0: nobody's
    cdef int kind               # what for
    cdef int allowed            # what its own thread may do meanwhile
    cdef str doing              # for errors
    cdef int forks              # when it began
    cdef SharedNumber stepped   # whether a step has been made
    cdef Ticket first, last     # of the queue
    cdef list stepping          # threads that are in a subclass's own step()
    cdef unsigned long long mode        # the caller's floating-point mode
    cdef Walls walls            # the memory that the optimizer uses
    cdef readonly Files files   # where new arrays are; None: in ordinary memory
    cdef int files_forks        # when they were given
    cdef object __weakref__

    def __cinit__(self):
        self.stepping = []
        TURNS.add(PyWeakref_NewRef(self, TURNS.discard))

    @property
    def has_stepped(self) -> bool:
        """Whether a step has been made."""
        return shared_read(&self.stepped) != 0

    @has_stepped.setter
    def has_stepped(self, bint value):
        shared_write(&self.stepped, value)

    @cython.final
    cdef inline bint take(self, int kind, str doing) except -1:
        """Begin a turn; whether it is within another of the same thread."""
        return not self.take_at_once(kind, doing) and self._contend(kind, doing)

    @cython.final
    cdef inline bint take_at_once(self, int kind, str doing) noexcept:
        """Begin a turn if nobody has one or waits for one."""
        cdef bint free
        guard_lock(&self.guard)
        free = self.owner == 0 and self.first is None
        if free:
            self._own(PyThread_get_thread_ident(), kind, doing)
        guard_unlock(&self.guard)
        return free

    @cython.final
    cdef inline void _own(self, unsigned long thread, int kind, str doing) noexcept:
        self.owner, self.kind, self.allowed, self.forks = thread, kind, NOTHING, FORKS
        self.doing = doing

    @cython.final
    cdef bint is_mine(self) noexcept:
        """Whether it is this thread's turn, which no other thread can change."""
        cdef bint mine
        guard_lock(&self.guard)
        mine = self.owner == PyThread_get_thread_ident()
        guard_unlock(&self.guard)
        return mine

    cdef bint _contend(self, int kind, str doing) except -1:
        cdef unsigned long thread = PyThread_get_thread_ident()
        cdef Ticket ticket = None if self.is_mine() else Ticket(thread, kind, doing)
        cdef Answer answer
        cdef int forks
        guard_lock(&self.guard)
        answer, forks = self._ask(thread, kind, doing, ticket), self.forks
        guard_unlock(&self.guard)
        if answer == BUSY:
            refuse(forks)
        if answer == FORBIDDEN:
            refuse_within(doing, self.doing)
        if answer == QUEUED:
            self._wait(ticket)
        return answer == WITHIN

    cdef Answer _ask(self, unsigned long thread, int kind, str doing, Ticket ticket) noexcept:
        if self.owner == thread:
            if kind > self.allowed:
                return FORBIDDEN
            self.kind, self.allowed, self.doing = kind, NOTHING, doing
            return WITHIN
        if self.forks != FORKS:
            # In a forked child, where the threads do not exist that had a turn or waited for one.
            self.first = self.last = None
            if self.owner != 0 and self.kind != READING:
                return BUSY
            self.owner = 0
        if self.owner == 0 and self.first is None:
            self._own(thread, kind, doing)
            return BEGUN
        if kind == STEPPING and self.kind == STEPPING:
            return BUSY
        if self.first is None:
            self.first = ticket
        else:
            self.last.after = ticket
        self.last = ticket
        return QUEUED

    cdef int _wait(self, Ticket ticket) except -1:
        try:
            ticket.lock.acquire()
        except BaseException:       # an interrupt
            if self._leave_queue(ticket):
                self.give()
            raise
        return 0

    cdef bint _leave_queue(self, Ticket ticket) noexcept:
        """Wait no more; whether the turn has been granted meanwhile."""
        cdef Ticket before = None, other
        cdef bint granted
        guard_lock(&self.guard)
        granted = ticket.granted
        other = None if granted else self.first
        while other is not None and other is not ticket:
            before, other = other, other.after
        if other is not None:
            if before is None:
                self.first = ticket.after
            else:
                before.after = ticket.after
            if self.last is ticket:
                self.last = before
        guard_unlock(&self.guard)
        return granted

    @cython.final
    cdef inline void give(self) noexcept:
        """End the turn; the thread that has waited longest begins its own."""
        guard_lock(&self.guard)
        if self.first is None:
            self.owner = 0
            guard_unlock(&self.guard)
        else:
            self._hand_over()

    cdef void _hand_over(self) noexcept:
        """Under the guard, which is taken off."""
        cdef Ticket ticket = self.first
        self.first = ticket.after
        if self.first is None:
            self.last = None
        self._own(ticket.thread, ticket.kind, ticket.doing)
        ticket.granted = True
        guard_unlock(&self.guard)
        ticket.lock.release()

    cdef void _become(self, int kind, int allowed, str doing) noexcept:
        guard_lock(&self.guard)
        self.kind, self.allowed, self.doing = kind, allowed, doing
        guard_unlock(&self.guard)

    cdef object _call(self, int kind, int allowed, str doing, object function, tuple args):
        cdef int outer_kind = NOTHING, outer_allowed = NOTHING
        cdef str outer = None
        cdef unsigned long long outer_mode = 0
        cdef bint within = self.is_mine()
        if within:
            outer_kind, outer_allowed, outer, outer_mode = self.kind, self.allowed, self.doing, self.mode
        self.take(kind, doing)
        self.allowed = allowed
        self.mode = fp_plain()
        try:
            if self.files is None or doing == MOVING:
                return function(*args)
            return self._in_files(kind, function, args)
        finally:
            fp_restore(self.mode)
            if within:
                self.mode = outer_mode
                self._become(outer_kind, outer_allowed, outer)
            else:
                self.give()

    # --- memory in files -----------------------------------------------------------------------------

    cdef object _in_files(self, int kind, object function, tuple args):
        """Call a function within a turn, whose new arrays are where the optimizer's are to be."""
        cdef Files files = self.files
        cdef object before
        if files is None:
            return function(*args)
        if kind > READING and self.files_forks != FORKS:
            raise RuntimeError(
                f"the state is in files of {files.folder}, which this process shares with the one that "
                "it was forked from: call map_state(folder) here first"
            )
        before = use_allocator(files.allocator)
        try:
            return function(*args)
        except MemoryError:
            files.refuse_to_fill_the_disk()
            raise
        finally:
            use_allocator(before)

    def allocate(self, function, *args):
        """Call a function within a turn of several optimizers, whose new arrays are this one's."""
        return self._in_files(WRITING, function, args)

    def move(self, Files files, function, *args) -> None:
        """Call a function within a turn whose Commit gives the optimizer new arrays, in files from now
        on, or if they are None in ordinary memory. If it fails, all stays where it is."""
        cdef Files old = self.files
        cdef int forks = self.files_forks
        cdef object before, commit
        self.files, self.files_forks = files, FORKS
        try:
            before = use_allocator(None)
            try:
                commit = self._in_files(WRITING, function, args)
            finally:
                use_allocator(before)
            (<Commit?>commit).make()    # here, where no interrupt comes after it
        except BaseException:
            self.files, self.files_forks = old, forks
            raise

    def follow(self, Turn other not None):
        """Let new arrays be where the other's are."""
        self.files, self.files_forks = other.files, FORKS

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
        cdef object before = None if self.files is None else use_allocator(None)
        self.allowed = TOUCHING
        fp_restore(self.mode)
        try:
            return function(*args)
        finally:
            self.mode = fp_plain()
            self.allowed = allowed
            if before is not None:
                use_allocator(before)

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

    cdef Walls known_walls(self):
        """The memory that the optimizer uses, for any thread."""
        cdef Walls walls
        guard_lock(&self.guard)
        walls = self.walls
        guard_unlock(&self.guard)
        return walls

    cdef void know_walls(self, Walls walls) noexcept:
        cdef Walls before = self.walls      # lives until the guard is off
        guard_lock(&self.guard)
        self.walls = walls
        guard_unlock(&self.guard)

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

cdef set TURNS = set()      # weak references


cdef list turns_over(object arrays):
    """The turns of the optimizers that use the memory of any of these arrays."""
    cdef list found = []
    cdef uintptr_t low, high
    cdef Walls walls
    bounds = [memory_bounds(array) for array in arrays] if TURNS else []
    for reference in TURNS.copy() if bounds else ():
        turn = reference()
        walls = None if turn is None else (<Turn>turn).known_walls()
        if walls is not None:
            for low, high in bounds:
                if walls.meets(low, high):
                    found.append(turn)
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
        if turn.is_mine():
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
    if turn is None or turn.is_mine():
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
