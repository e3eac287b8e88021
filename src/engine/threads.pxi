# Which kernels run, and on how many threads.

cdef extern from "build.h" nogil:
    int openmp_version()
    int most_threads()
    int most_processors()
    const char *compiler_name()

cdef extern from "pool.h" nogil:
    void pool_run(void (*task)(const void *, Py_ssize_t) noexcept nogil, const void *context,
                  Py_ssize_t first, Py_ssize_t last, int threads)

cdef const Kernels *KERNELS = NULL
cdef int AVERAGE_RULE = -1, COPY_RULE = -1      # of the averages that follow a step


def bind(module):
    """Use the kernels of this module from now on."""
    global KERNELS, AVERAGE_RULE, COPY_RULE
    if not RULE_LIST:
        for name, about in module.RULES.items():
            RULES[name] = RULE_BY_NAME[name] = rule = Rule(name, about)
            RULE_LIST.append(rule)
        AVERAGE_RULE, COPY_RULE = rule_named("average").number, rule_named("copy").number
    KERNELS = <const Kernels *>PyCapsule_GetPointer(module.kernels(), "cyoptim.kernels")


def compiler() -> str:
    """The compiler that built this module."""
    return compiler_name().decode()


cdef int THREAD_LIMIT = 0       # 0: as many as there may be
cdef int QUOTA = 0              # processors this process may keep busy; 0: no quota
cdef bint FOLLOWS_AFFINITY = False


# Bundles of float32 that a thread must have to itself to be worth waking. In a loop of steps alone two would do;
# between matrix products, whose threads linger on the processors, eight are needed to gain anything.
cdef int LEAST_SHARE = 8


def set_least_share(int bundles):
    global LEAST_SHARE
    LEAST_SHARE = bundles


def set_limits(int quota, bint follows_affinity):
    global QUOTA, FOLLOWS_AFFINITY
    QUOTA = quota
    FOLLOWS_AFFINITY = follows_affinity


# The blocks that have begun and not ended, in order of their beginning; the last one counts. Blocks
# of several Python threads may end in any order. The first is the limit of the process.
cdef list LIMITS = []


cdef class ThreadLimit:
    """A ``with`` block in which a step uses at most so many threads; 0: as many as there may be. It
    begins and ends in C, where no interrupt can come between."""

    cdef int n

    def __init__(self, n):
        self.n = min(n, 2**31 - 1)

    def __enter__(self):
        global THREAD_LIMIT
        LIMITS.append(self)
        THREAD_LIMIT = self.n

    def __exit__(self, *error):
        global THREAD_LIMIT
        LIMITS.remove(self)
        THREAD_LIMIT = (<ThreadLimit>LIMITS[len(LIMITS) - 1]).n


LIMITS.append(ThreadLimit(0))


def set_limit(n):
    """Set the limit of the running block, or of the process."""
    global THREAD_LIMIT
    cdef ThreadLimit last = LIMITS[len(LIMITS) - 1]
    last.n = THREAD_LIMIT = min(n, 2**31 - 1)


def thread_limit() -> int:
    return THREAD_LIMIT


cdef int FORKS = 0              # from the first process on to this one


def _forked():
    global FORKS
    FORKS += 1


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
    cdef int n = most_threads(), processors
    if 0 < QUOTA < n:
        n = QUOTA
    if FOLLOWS_AFFINITY and n > 1:      # which may have changed since the start
        processors = most_processors()
        if 0 < processors < n:
            n = processors
    if 0 < THREAD_LIMIT < n:
        n = THREAD_LIMIT
    return n


def num_threads() -> int:
    """The most threads a step may use now."""
    return available_threads()


def openmp() -> int:
    """The version of OpenMP this was built with, as yyyymm; 0 without OpenMP."""
    return openmp_version()
