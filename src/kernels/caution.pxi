# Caution (Liang et al. 2024) and cautious weight decay (Chen et al. 2025), around any rule of the form
#
#   p = shrink * p - u(d, state),    d = sign * g + l2 * p
#
# The rule runs as it is, on pieces whose parameter is zero, which it leaves at -u.
#
# (a) Elements of u whose sign is not that of d become zero; the others are divided by their share of the tensor. So
#     the rule runs twice: to count them, on copies of the state, and to move them. For a unit that is kept it runs
#     once: the state moves while they are counted, and -u goes from pass to pass.
# (b) Of a step along an average of the gradient, keep * m + gain * d, that average has the sign. Then it alone is
#     computed to count, and elements that it says follow the gradient, also where their u is flushed to zero.
# (c) Counts are whole numbers: their sum is the same in any order.

cdef struct Caution:                # the first scalars of a cautious rule
    double sign
    double rule                     # the number of the rule within
    double l2_at, shrink_at, keep_at, gain_at   # where its scalars of these names are; 0: nowhere
    double cautious_wd              # a switch
    double scale                    # by the finish

cdef enum:
    WITHIN = 8                      # the first scalar of the rule within: its sign, which is 1
    MAX_STATES = MAX_STREAMS - 2


cdef int cautious(str name, str l2="l2", str shrink="shrink", str keep="", str gain="") except -1:
    """Give a rule of the form above its forms for the options `caution` and `cautious_wd`; what it calls the scalars.

    `keep` and `gain` are of the average in its first state, if it steps along that.
    """
    about = RULES[name]
    cdef tuple within = about["scalars"]
    cdef int number
    if about["scope"] != PER_ELEMENT or WITHIN + len(within) > MAX_SCALARS:
        raise ValueError(f"rule {name} can have no cautious form")
    places = {"l2_at": l2, "shrink_at": shrink, "keep_at": keep, "gain_at": gain}
    names = ("sign", "caution_rule", *places, "cautious_decay", "caution_scale", "caution_sign")
    constants = {at: WITHIN + within.index(scalar) if scalar in within else 0 for at, scalar in places.items()}
    constants.update(caution_rule=about["number"], caution_sign=1)
    form = {**about, "scalars": names + within[1:]}
    add_form(name + "_cautious_wd", {**form, "constants": {**constants, "caution_scale": 1}},
             cautious_decay[float], cautious_decay[double])
    form.update(constants=constants, scope=PER_TENSOR, measures=True, computed=about["computed"] | {"caution_scale"})
    number = add_form(name + "_caution", form, caution[float], caution[double])
    MEASURES32[number] = caution_measure[float]
    MEASURES64[number] = caution_measure[double]
    FINISHES[number] = caution_finish
    REPEATS[number] = True
    SUMS[number] = 1
    return 0


cdef int add_form(str name, dict about, Rule32 rule32, Rule64 rule64) except -1:
    cdef int number = <int>len(RULES)
    if number == MAX_RULES:
        raise ValueError(f"the tables are too small for rule {name}")
    RULES32[number] = rule32
    RULES64[number] = rule64
    CLOCKS[number] = caution_clock
    STREAMS[number] = <int>(2 + len(about["states"]))
    SCOPES[number] = about["scope"]
    RULES[name] = {**about, "number": number}
    return number


cdef void caution_clock(double *scalars, int64_t step, double *carried) noexcept nogil:
    cdef Clock clock = CLOCKS[<int>(<Caution *>scalars).rule]
    if clock != NULL:
        clock(scalars + WITHIN, step, carried)


cdef void caution_finish(double *scalars, const double *sums, double *numbers, Py_ssize_t size) noexcept nogil:
    (<Caution *>scalars).scale = scale_of_share(sums[0], size)


cdef inline floating *gradient(floating **s, const double *scalars, floating *room, Py_ssize_t start,
                               Py_ssize_t n) noexcept nogil:
    """d of a piece: the gradient itself, or in the room."""
    cdef const Caution *h = <const Caution *>scalars
    cdef floating *p = s[0] + start
    cdef floating *g = s[1] + start
    cdef floating sign = <floating>h.sign
    cdef floating l2 = <floating>(scalars[<int>h.l2_at] if h.l2_at else 0)
    cdef bint decay = l2 != 0
    cdef Py_ssize_t i
    if sign == 1 and not decay:
        return g
    for i in range(n):
        room[i] = descent(g[i], p[i], sign, l2, decay)
    return room


cdef inline void run_within(floating **s, const double *scalars, floating *d, floating *u, floating *states,
                            Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Compute -u of a piece. The state moves; or copies of it, if there is room for them."""
    cdef floating *within[MAX_STREAMS + 1]
    cdef int k, rule = <int>(<const Caution *>scalars).rule
    for k in range(MAX_STREAMS + 1):
        within[k] = NULL
    within[0], within[1] = u, d
    memset(u, 0, n * sizeof(floating))
    for k in range(2, STREAMS[rule]):
        within[k] = s[k] + start
        if states != NULL:
            within[k] = states + PIECE * (k - 2)
            memcpy(within[k], s[k] + start, n * sizeof(floating))
    call(within, rule, scalars + WITHIN, NULL, n)


# Whether the step goes away from zero: -u and p have the same sign.
cdef inline bint away(floating u, floating p) noexcept nogil:
    cdef floating low = u if u < p else p
    cdef floating high = p if u < p else u
    low = low if low > 0 else 0
    return (high if high < 0 else low) != 0


cdef inline int64_t count_along(const floating *d, const floating *u, Py_ssize_t n) noexcept nogil:
    # In a number as wide as the elements, which needs no conversion.
    cdef int32_t narrow = 0
    cdef int64_t wide = 0
    cdef Py_ssize_t i
    if floating is float:
        for i in range(n):
            narrow += along(d[i], u[i]) < 0
        return narrow
    else:
        for i in range(n):
            wide += along(d[i], u[i]) < 0
        return wide


# As above, of the average that the state is once it has moved.
cdef inline int64_t count_average(const floating *d, const floating *m, floating keep, floating gain, bint moved,
                                  Py_ssize_t n) noexcept nogil:
    cdef int32_t narrow = 0
    cdef int64_t wide = 0
    cdef Py_ssize_t i
    if floating is float:
        for i in range(n):
            narrow += along(d[i], -(m[i] if moved else keep * m[i] + gain * d[i])) < 0
        return narrow
    else:
        for i in range(n):
            wide += along(d[i], -(m[i] if moved else keep * m[i] + gain * d[i])) < 0
        return wide


cdef inline void move(floating *p, const floating *d, const floating *u, floating shrink, floating scale, bint masks,
                      bint cautious_wd, Py_ssize_t n) noexcept nogil:
    cdef floating keep = shrink, x
    cdef Py_ssize_t i
    for i in range(n):
        x = u[i]
        if masks:
            x = scale * (x if along(d[i], x) < 0 else 0 * x)    # NaN stays
        if cautious_wd:
            keep = 1 if away(x, p[i]) else shrink
        p[i] = keep * p[i] + x


cdef inline void cautious_update(floating **s, const double *scalars, floating *kept, bint masks,
                                 Py_ssize_t n) noexcept nogil:
    cdef const Caution *h = <const Caution *>scalars
    cdef floating room[PIECE]
    cdef floating more_room[PIECE]
    cdef floating *d
    cdef floating *u = more_room
    cdef floating scale = <floating>h.scale
    cdef floating shrink = <floating>(scalars[<int>h.shrink_at] if h.shrink_at else 1)
    cdef bint cautious_wd = h.cautious_wd != 0
    cdef Py_ssize_t start = 0, count
    while start < n:
        count = unbounded(min(<Py_ssize_t>PIECE, n - start))
        d = gradient(s, scalars, room, start, count)
        if kept != NULL:
            u = kept + start
        else:
            run_within(s, scalars, d, u, <floating *>NULL, start, count)
        move(s[0] + start, d, u, shrink, scale, masks, cautious_wd, count)
        start += count


cdef inline void cautious_decay(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cautious_update(s, scalars, <floating *>NULL, False, n)


cdef inline void caution(floating **s, const double *scalars, Py_ssize_t n) noexcept nogil:
    cautious_update(s, scalars, s[WORK], True, n)


cdef inline void caution_measure(floating **s, const double *scalars, double *lanes, Py_ssize_t n) noexcept nogil:
    cdef floating room[PIECE]
    cdef floating more_room[PIECE]
    cdef floating copies[MAX_STATES * PIECE]
    cdef const Caution *h = <const Caution *>scalars
    cdef bint averages = h.keep_at != 0
    cdef floating keep = <floating>scalars[<int>h.keep_at], gain = <floating>scalars[<int>h.gain_at]
    cdef floating *kept = s[WORK]
    cdef floating *d
    cdef floating *u = more_room
    cdef floating *states = copies
    cdef Py_ssize_t start = 0, count
    if kept != NULL:
        states = NULL
    while start < n:
        count = unbounded(min(<Py_ssize_t>PIECE, n - start))
        if kept != NULL:
            u = kept + start
        d = gradient(s, scalars, room, start, count)
        if kept != NULL or not averages:
            run_within(s, scalars, d, u, states, start, count)
        if averages:
            lanes[0] += count_average(d, s[2] + start, keep, gain, kept != NULL, count)
        else:
            lanes[0] += count_along(d, u, count)
        start += count
