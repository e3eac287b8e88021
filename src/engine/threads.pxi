# Which kernels run, and on how many threads.

cdef extern from "build.h" nogil:
    int openmp_version()
    int most_threads()
    int most_processors()
    const char *compiler_name()

cdef extern from "threads/run.h" nogil:
    cdef enum:
        LAYER_POOL
        LAYER_OPENMP
        TEAM_EXISTS
    ctypedef struct Choice:
        pass
    double CHOICE_LEAST
    int run_layer, run_takes_all
    void team_begin()
    int run_chosen(Choice *choice, void (*task)(const void *, Py_ssize_t) noexcept nogil, const void *context,
                   Py_ssize_t first, Py_ssize_t last, int most, double nanoseconds)
    int64_t run_tasks(void (*task)(const void *, Py_ssize_t) noexcept nogil, const void *context,
                      Py_ssize_t first, Py_ssize_t last, int threads)
    Choice *run_shared_choice(int phase, double nanoseconds)
    void run_forget()
    void run_ask_again()

cdef const Kernels *KERNELS = NULL
cdef const Kernels *FAR_KERNELS = NULL      # the same, whose loops ask for memory ahead
cdef Py_ssize_t FAR_ELEMENTS = 262144       # of steps that these make,
cdef Py_ssize_t FAR_MEAN = 8192             # in arrays of so many in the mean: beyond its end, what is asked for is not used
cdef int AVERAGE_RULE = -1, COPY_RULE = -1      # of the averages that follow a step


def bind(module, far):
    """Use the kernels of this module from now on, and for large steps those of the other, if there is one."""
    global KERNELS, FAR_KERNELS, AVERAGE_RULE, COPY_RULE
    if not RULE_LIST:
        for name, about in module.RULES.items():
            RULES[name] = RULE_BY_NAME[name] = rule = Rule(name, about)
            RULE_LIST.append(rule)
        AVERAGE_RULE, COPY_RULE = rule_named("average").number, rule_named("copy").number
    KERNELS = FAR_KERNELS = <const Kernels *>PyCapsule_GetPointer(module.kernels(), "cyoptim.kernels")
    if far is not None:
        FAR_KERNELS = <const Kernels *>PyCapsule_GetPointer(far.kernels(), "cyoptim.kernels")


def set_far_elements(Py_ssize_t elements) -> int:
    """For tests: from how many elements on a step asks for memory ahead, in arrays of any size if it is 0; returns what it was."""
    global FAR_ELEMENTS, FAR_MEAN
    before = FAR_ELEMENTS
    FAR_ELEMENTS, FAR_MEAN = elements, min(elements, 8192)
    return before


def asks_ahead(Py_ssize_t elements, Py_ssize_t arrays) -> bool:
    """Whether a step of so many elements in so many arrays asks for memory ahead."""
    return kernels_for(elements, arrays) != KERNELS


cdef inline const Kernels *kernels_for(Py_ssize_t elements, Py_ssize_t arrays) noexcept nogil:
    """Those that are faster for a step of so many elements in so many arrays."""
    return FAR_KERNELS if elements >= FAR_ELEMENTS and elements >= FAR_MEAN * arrays else KERNELS


def compiler() -> str:
    """The compiler that built this module."""
    return compiler_name().decode()


cdef SharedNumber THREAD_LIMIT  # 0: as many as there may be
cdef int QUOTA = 0              # processors this process may keep busy; 0: no quota
cdef bint FOLLOWS_AFFINITY = False


def take_all_threads(bint always):
    """Let every run take all threads that there may be, whether that is faster or not, or only as many as are best."""
    global run_takes_all
    run_takes_all = always


def takes_all_threads() -> bool:
    return run_takes_all != 0


team_begin()        # before anything forks: other libraries use the team, too
LAYERS = ("pool", "openmp") if TEAM_EXISTS else ("pool",)


def set_layer(str name not None):
    """Run steps on the threads of this layer from now on."""
    global run_layer
    run_layer = LAYER_OPENMP if name == "openmp" else LAYER_POOL


def layer() -> str:
    return "openmp" if run_layer == LAYER_OPENMP else "pool"


def set_limits(int quota, bint follows_affinity):
    global QUOTA, FOLLOWS_AFFINITY
    QUOTA = quota
    FOLLOWS_AFFINITY = follows_affinity


# The blocks that have begun and not ended, in order of their beginning; the last one counts. Blocks
# of several Python threads may end in any order. The first is the limit of the process.
cdef list LIMITS = []
cdef object LIMITS_KEEPER = []      # under whose guard they change


cdef enum LimitChange:
    LIMIT_BEGINS
    LIMIT_ENDS
    LIMIT_BECOMES


cdef int change_limits(LimitChange change, ThreadLimit limit, int n) except -1:
    cdef ObjectGuard guard
    cdef ThreadLimit last
    object_lock(&guard, LIMITS_KEEPER)
    try:
        if change == LIMIT_BEGINS:
            LIMITS.append(limit)
        elif change == LIMIT_ENDS:
            LIMITS.remove(limit)
        last = LIMITS[len(LIMITS) - 1]
        if change == LIMIT_BECOMES:
            last.n = n
        shared_write(&THREAD_LIMIT, last.n)
    finally:
        object_unlock(&guard)
    return 0


cdef class ThreadLimit:
    """A ``with`` block in which a step uses at most so many threads; 0: as many as there may be. It
    begins and ends in C, where no interrupt can come between."""

    cdef int n

    def __init__(self, n):
        self.n = min(n, 2**31 - 1)

    def __repr__(self):
        return f"cyoptim.threads({self.n})"

    def __enter__(self):
        change_limits(LIMIT_BEGINS, self, 0)

    def __exit__(self, *error):
        change_limits(LIMIT_ENDS, self, 0)


change_limits(LIMIT_BEGINS, ThreadLimit(0), 0)


def set_limit(n):
    """Set the limit of the running block, or of the process."""
    change_limits(LIMIT_BECOMES, None, min(n, 2**31 - 1))


def thread_limit() -> int:
    return shared_read(&THREAD_LIMIT)


cdef int FORKS = 0              # from the first process on to this one


def _forked():
    global FORKS
    FORKS += 1
    run_forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


cdef int refuse(int since) except -1:
    """Raise because of a turn of another thread, which began when there had been so many forks."""
    if since != FORKS:
        raise RuntimeError(
            "a step of this optimizer was running in another thread when this process was forked, "
            "so that it may be half done here: load parameters and state into a new optimizer"
        )
    raise RuntimeError("step() of this optimizer is already running in another thread")


cdef int refuse_within(str doing, str outer) except -1:
    """Raise because of a turn of the same thread."""
    if doing == outer == "step()":
        raise RuntimeError("step() of this optimizer is already running")
    raise RuntimeError(f"{doing} was called from within {outer} of the same optimizer: call it after")


cdef int available_threads() noexcept nogil:
    cdef int n = most_threads(), processors, limit = <int>shared_read(&THREAD_LIMIT)
    if 0 < QUOTA < n:
        n = QUOTA
    if FOLLOWS_AFFINITY and n > 1:      # which may have changed since the start
        processors = most_processors()
        if 0 < processors < n:
            n = processors
    if 0 < limit < n:
        n = limit
    return n


def num_threads() -> int:
    """The most threads a step may use now."""
    run_ask_again()
    return available_threads()


def openmp() -> int:
    """The version of OpenMP this was built with, as yyyymm; 0 without OpenMP."""
    return openmp_version()
