# The passes of rules over the elements of tensors, with codecs and stages.
#
# A rule that measures has three parts: it measures, which adds up sums over a unit and may change the state; it
# finishes, which turns the sums into scalars; it applies. A unit within a chunk goes through all three while it
# is in the cache. Larger ones are measured by one run and updated by the next. Where the rule combines the units of a
# tensor, all of them are measured before any is finished. A rule may measure and finish twice: the second time under
# its number + AGAIN, by the scalars of the first.

cdef inline void *at(const Table *table, Py_ssize_t t, int k, Py_ssize_t start) noexcept nogil:
    """The address of an element of a stream."""
    return <char *>table.tensors[t].streams[k] + start * stored_size(code_of(table, t, k))


cdef inline floating *stream(const Table *table, Py_ssize_t t, int rule, int k, Py_ssize_t start,
                             floating *type) noexcept nogil:
    """Where a stream begins for a span: a slice, always at its first element. `type` chooses the type."""
    if rule >= 0 and SLICES[rule] >> k & 1:
        start = 0
    return (<floating *>table.tensors[t].streams[k]) + start


cdef inline int code_of(const Table *table, Py_ssize_t t, int k) noexcept nogil:
    if table.storage == NULL:
        return table.tensors[t].dtype
    return table.storage[t].codes[k]


cdef inline bint is_coded(const Table *table, Py_ssize_t t) noexcept nogil:
    cdef int k
    if table.storage == NULL:
        return False
    for k in range(MAX_STREAMS):
        if table.storage[t].codes[k] != table.tensors[t].dtype:
            return True
    return False


cdef inline void read(const Table *table, Py_ssize_t t, int k, floating *out, Py_ssize_t start,
                      Py_ssize_t n) noexcept nogil:
    """Decode elements of a stream."""
    decode(table.tensors[t].streams[k], code_of(table, t, k), table.storage[t].partners[k], out, start, n)


cdef inline void write(const Table *table, Py_ssize_t t, int k, const floating *values, Py_ssize_t start,
                       Py_ssize_t n) noexcept nogil:
    """Encode elements of a stream. Each has random bits of its own."""
    cdef const Storage *storage = &table.storage[t]
    cdef int code = storage.codes[k]
    cdef char *stored = <char *>table.tensors[t].streams[k]
    cdef char *partner = <char *>storage.partners[k]
    # Elements are numbered as in the whole tensor, whose first element may be another process's.
    if partner != NULL:
        partner -= storage.first * codec_partner_size(code) // (SCALED_TOGETHER if codec_has_scales(code) else 1)
    encode(values, stored - storage.first * stored_size(code), code, partner, key_of(storage, k), storage.first + start, n)


cdef inline uint64_t key_of(const Storage *storage, int k) noexcept nogil:
    """What the random bits of a stream are drawn from."""
    return 0 if storage.key == NULL else mixed(storage.key[0] ^ <uint64_t>k)


cdef inline void call(floating **s, int rule, const double *scalars, double *lanes,
                      Py_ssize_t n) noexcept nogil:
    """One pass of a rule over a span: the one that measures where there are lanes, else the last one."""
    if floating is float:
        if lanes == NULL:
            RULES32[rule](s, scalars, n)
        else:
            MEASURES32[rule](s, scalars, lanes, n)
    else:
        if lanes == NULL:
            RULES64[rule](s, scalars, n)
        else:
            MEASURES64[rule](s, scalars, lanes, n)


cdef int AVERAGES = RULES["average"]["number"]


cdef inline void run_after(const Table *table, Py_ssize_t t, floating **s, Py_ssize_t start,
                           Py_ssize_t n) noexcept nogil:
    """The stages that follow the parameter."""
    cdef floating *pair[MAX_STREAMS]
    cdef const Stage *stage
    cdef int k
    for k in range(table.before, table.before + table.after):
        stage = &table.stages[k]
        if stage.streams[t] != NULL:
            pair[0] = (<floating *>stage.streams[t]) + start
            pair[1] = s[0]
            if stage.rule == AVERAGES:      # the most frequent one, without a call
                average(pair, stage.scalars, n)
            else:
                call(pair, stage.rule, stage.scalars, NULL, n)


cdef inline void run_straight(const Table *table, Py_ssize_t t, int rule, const double *scalars,
                              double *lanes, floating *work, Py_ssize_t start,
                              Py_ssize_t stop) noexcept nogil:
    cdef floating *s[START + 1]
    cdef int k
    for k in range(MAX_STREAMS):
        s[k] = stream(table, t, rule, k, start, work)
    s[WORK] = work
    s[START] = <floating *>start
    call(s, rule, scalars, lanes, stop - start)
    if table.zero and lanes == NULL:
        memset(s[1], 0, (stop - start) * sizeof(floating))
    if table.after and lanes == NULL:
        run_after(table, t, s, start, stop - start)


cdef inline void load(const Table *table, Py_ssize_t t, int rule, int count, floating **s, floating *scratch,
                      Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Where the elements of each stream are, decoded if they must be."""
    cdef int k
    s[START] = <floating *>start
    for k in range(count):
        if code_of(table, t, k) == table.tensors[t].dtype:
            s[k] = stream(table, t, rule, k, start, scratch)
        else:
            prefetch_bytes(at(table, t, k, start + PIECE), PIECE * stored_size(code_of(table, t, k)))
            s[k] = scratch + PIECE * k
            read(table, t, k, s[k], start, n)


cdef inline void store(const Table *table, Py_ssize_t t, int rule, int count, floating **s,
                       Py_ssize_t start, Py_ssize_t n) noexcept nogil:
    """Encode what was decoded; gradients are never written.

    Of a rule with several passes, each may leave some streams as they are. They keep their bytes: the scale of a
    block that is encoded again may be another.
    """
    cdef int k, code
    for k in range(count):
        code = code_of(table, t, k)
        if k == 1 or code == table.tensors[t].dtype:
            continue
        if MEASURES32[rule] == NULL or not is_lossy(code) or not is_as_stored(table, t, k, s[k], start, n):
            write(table, t, k, s[k], start, n)


cdef inline bint is_as_stored(const Table *table, Py_ssize_t t, int k, const floating *values, Py_ssize_t start,
                              Py_ssize_t n) noexcept nogil:
    """Whether the elements are those that a stream has."""
    cdef floating stored[PIECE]
    read(table, t, k, stored, start, n)
    return memcmp(stored, values, n * sizeof(floating)) == 0


cdef inline void run_before(const Table *table, floating **s, floating *scratch,
                            Py_ssize_t n) noexcept nogil:
    """The stages that change the gradient, in a copy."""
    cdef int k
    if table.before == 0:
        return
    if s[1] != scratch + PIECE:     # where a gradient that is decoded already is
        memcpy(scratch + PIECE, s[1], n * sizeof(floating))
        s[1] = scratch + PIECE
    for k in range(table.before):
        call(&s[1], table.stages[k].rule, table.stages[k].scalars, NULL, n)


cdef inline void run_pieces(const Table *table, Py_ssize_t t, int rule, const double *scalars,
                            double *lanes, floating *work, bint kept, Py_ssize_t start,
                            Py_ssize_t stop) noexcept nogil:
    """As run_straight, with codecs and stages; without a rule, the stages that follow the parameter."""
    cdef floating room[(MAX_STREAMS + 1) * PIECE]
    # No vector of a piece lies in two lines of the cache.
    cdef floating *scratch = <floating *>((<uintptr_t>room + LINE - 1) // LINE * LINE)
    cdef floating *s[START + 1]
    cdef int count = 1 if rule < 0 else STREAMS[rule]
    cdef Py_ssize_t n
    s[WORK] = work
    while start < stop:
        n = unbounded(min(<Py_ssize_t>PIECE, stop - start))
        load(table, t, rule, count, s, scratch, start, n)
        if rule >= 0:
            run_before(table, s, scratch, n)
            call(s, rule, scalars, lanes, n)
            store(table, t, rule, count, s, start, n)
        if lanes == NULL:
            if rule >= 0 and table.zero:
                memset(at(table, t, 1, start), 0, n * stored_size(code_of(table, t, 1)))
            run_after(table, t, s, start, n)
        if kept:
            s[WORK] += n
        start += n


cdef inline void run_in_turn(const Table *table, Py_ssize_t t, int rule, const double *scalars,
                             double *lanes, floating *work, bint kept, Py_ssize_t start,
                             Py_ssize_t stop) noexcept nogil:
    """As run_pieces, without codecs and without stages before the rule."""
    cdef floating *s[START + 1]
    cdef Py_ssize_t n
    cdef int k
    s[WORK] = work
    while start < stop:
        n = unbounded(min(<Py_ssize_t>PIECE, stop - start))
        # Not moved on from the last piece: a vector loaded from what was stored in parts has to wait.
        for k in range(MAX_STREAMS):
            s[k] = stream(table, t, rule, k, start, work)
        s[START] = <floating *>start
        if rule >= 0:
            call(s, rule, scalars, lanes, n)
        if lanes == NULL:
            if rule >= 0 and table.zero:
                memset(s[1], 0, n * sizeof(floating))
            run_after(table, t, s, start, n)
        if kept:
            s[WORK] += n
        start += n


cdef void run_decoded(const Table *table, Py_ssize_t t, int rule, const double *scalars, double *lanes,
                      void *work, bint kept, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    if is_tiled(table, t, rule, lanes):
        start = adam_tiles(table, t, scalars, start, stop)
    if table.tensors[t].dtype == FLOAT32:
        run_pieces(table, t, rule, scalars, lanes, <float *>work, kept, start, stop)
    else:
        run_pieces(table, t, rule, scalars, lanes, <double *>work, kept, start, stop)


cdef void run_by_pieces(const Table *table, Py_ssize_t t, int rule, const double *scalars, double *lanes,
                        void *work, bint kept, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    if (table.before and rule >= 0) or is_coded(table, t):
        DECODED(table, t, rule, scalars, lanes, work, kept, start, stop)
    elif table.tensors[t].dtype == FLOAT32:
        run_in_turn(table, t, rule, scalars, lanes, <float *>work, kept, start, stop)
    else:
        run_in_turn(table, t, rule, scalars, lanes, <double *>work, kept, start, stop)


# Called through pointers that the compiler does not know, so that their arrays, of several pages, are not
# in the frame of the function that runs a bundle.
ctypedef void (*SpanFunction)(const Table *, Py_ssize_t, int, const double *, double *, void *, bint,
                              Py_ssize_t, Py_ssize_t) noexcept nogil
ctypedef void (*UnitsFunction)(const Table *, Py_ssize_t, const Row *) noexcept nogil
cdef SpanFunction DECODED = run_decoded
cdef SpanFunction BY_PIECES = run_by_pieces
cdef UnitsFunction BY_UNITS = update_units


cdef inline void run_span(const Table *table, Py_ssize_t t, int rule, const double *scalars,
                          double *lanes, void *work, bint kept, Py_ssize_t start,
                          Py_ssize_t stop) noexcept nogil:
    """One pass of a rule over elements of a tensor, with all stages; rule -1: only those that follow.

    `work` has room for all elements where it is kept, else for a piece.
    """
    if (table.before or table.storage != NULL or (work != NULL and not kept)
            or (table.after and (rule < 0 or stop - start > PIECE))):
        BY_PIECES(table, t, rule, scalars, lanes, work, kept, start, stop)
    elif rule >= 0:
        if table.tensors[t].dtype == FLOAT32:
            run_straight(table, t, rule, scalars, lanes, <float *>work, start, stop)
        else:
            run_straight(table, t, rule, scalars, lanes, <double *>work, start, stop)


cdef inline bint measures_again(int rule) noexcept nogil:
    return MEASURES32[rule + AGAIN] != NULL


cdef inline void measure_span(const Table *table, Py_ssize_t t, int rule, const double *scalars, double *sums,
                              void *work, bint kept, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """The sums of a rule over a span."""
    cdef double lanes[MAX_SUMS * LANES]
    cdef int k, count = SUMS[rule]
    memset(lanes, 0, count * LANES * sizeof(double))
    run_span(table, t, rule, scalars, lanes, work, kept, start, stop)
    for k in range(count):
        sums[k] = fold_sums(lanes + LANES * k)


cdef void finish_unit(const Units *units, const Row *row, Py_ssize_t unit, const double *sums,
                      double *scalars) noexcept nogil:
    """The scalars of a unit, and its numbers in the state."""
    cdef double numbers[MAX_NUMBERS]
    cdef int k
    memcpy(scalars, row.scalars, sizeof(row.scalars))
    for k in range(MAX_NUMBERS):
        numbers[k] = 0 if units.numbers[k] == NULL else units.numbers[k][unit]
    FINISHES[row.rule](scalars, sums, numbers, units.size)
    for k in range(MAX_NUMBERS):
        if units.numbers[k] != NULL:
            units.numbers[k][unit] = numbers[k]


cdef inline void *work_of(const Table *table, const Chunk *chunk) noexcept nogil:
    """Where the passes over a large unit hand on what they have computed, or NULL."""
    cdef void *work = table.units[chunk.tensor].work
    if work == NULL:
        return NULL
    return <char *>work + chunk.start * arithmetic_size(table.tensors[chunk.tensor].dtype)


cdef void update_units(const Table *table, Py_ssize_t c, const Row *row) noexcept nogil:
    """All passes over the units of a chunk; of a unit that is larger, the one that measures."""
    cdef const Chunk *chunk = &table.chunks[c]
    cdef const Units *units = &table.units[chunk.tensor]
    cdef double here[KEPT]              # floats have room in it, too
    cdef void *work = work_of(table, chunk)
    cdef double scalars[MAX_SCALARS]
    cdef double sums[MAX_SUMS]
    cdef Py_ssize_t start = chunk.start, stop
    cdef bint kept = work != NULL
    cdef void *room = work if kept or REPEATS[row.rule] else <void *>here
    if SCOPES[row.rule] > PER_TENSOR or units.size > CHUNK:
        measure_span(table, chunk.tensor, row.rule, row.scalars, table.partials + MAX_SUMS * c, room, kept, start,
                     chunk.stop)
        return
    if COMBINES[row.rule] != NULL:
        update_combined(table, chunk, row, here)
        return
    if units.size <= KEPT:              # one after the other in the same place
        kept, work, room = True, here, here
    while start < chunk.stop:
        stop = start + units.size
        measure_span(table, chunk.tensor, row.rule, row.scalars, sums, room, kept, start, stop)
        finish_unit(units, row, start // units.size, sums, scalars)
        if measures_again(row.rule):
            measure_span(table, chunk.tensor, row.rule + AGAIN, scalars, sums, room, kept, start, stop)
            FINISHES[row.rule + AGAIN](scalars, sums, NULL, units.size)
        run_span(table, chunk.tensor, row.rule, scalars, NULL, work, kept, start, stop)
        start = stop


cdef void update_combined(const Table *table, const Chunk *chunk, const Row *row, double *here) noexcept nogil:
    """All passes over a tensor whose units are combined, if it is a single chunk; else the one that measures."""
    cdef Units *units = &table.units[chunk.tensor]
    cdef Py_ssize_t size = table.tensors[chunk.tensor].size, start = chunk.start
    cdef Py_ssize_t width = arithmetic_size(table.tensors[chunk.tensor].dtype)
    cdef bint whole = chunk.stop - chunk.start == size
    cdef char *work = <char *>work_of(table, chunk)
    if whole and size <= KEPT:
        work = <char *>here
    while start < chunk.stop:
        measure_span(table, chunk.tensor, row.rule, row.scalars, units.sums + MAX_SUMS * (start // units.size),
                     work + (start - chunk.start) * width if work != NULL else <char *>here, work != NULL,
                     start, start + units.size)
        start += units.size
    if whole:
        combine_units(units, row, size)
        if measures_again(row.rule):
            measure_combined(table, chunk, row, work, here)
            combine_again(units, row, size)
        apply_combined(table, chunk, row, work)


cdef inline void combine_units(Units *units, const Row *row, Py_ssize_t size) noexcept nogil:
    memcpy(units.scalars, row.scalars, sizeof(row.scalars))
    units.differ = COMBINES[row.rule](units.scalars, units.sums, size // units.size, units.size)


cdef inline void combine_again(Units *units, const Row *row, Py_ssize_t size) noexcept nogil:
    units.differ = COMBINES[row.rule + AGAIN](units.scalars, units.sums, size // units.size, units.size)


cdef inline void take_scalars(const Units *units, const Row *row, Py_ssize_t unit, double *scalars) noexcept nogil:
    """The scalars of a unit of those that have been combined."""
    cdef double numbers[MAX_NUMBERS]
    memcpy(scalars, units.scalars, sizeof(row.scalars))
    if units.differ:
        FINISHES[row.rule](scalars, units.sums + MAX_SUMS * unit, numbers, units.size)


cdef void measure_combined(const Table *table, const Chunk *chunk, const Row *row, char *work,
                           double *here) noexcept nogil:
    """The second pass that measures, over the units of a chunk."""
    cdef const Units *units = &table.units[chunk.tensor]
    cdef Py_ssize_t width = stored_size(table.tensors[chunk.tensor].dtype)
    cdef double scalars[MAX_SCALARS]
    cdef Py_ssize_t start = chunk.start, unit
    while start < chunk.stop:
        unit = start // units.size
        take_scalars(units, row, unit, scalars)
        measure_span(table, chunk.tensor, row.rule + AGAIN, scalars, units.sums + MAX_SUMS * unit + SUMS[row.rule],
                     work + (start - chunk.start) * width if work != NULL else <char *>here, work != NULL,
                     start, start + units.size)
        start += units.size


cdef void apply_combined(const Table *table, const Chunk *chunk, const Row *row, char *work) noexcept nogil:
    """The last pass over a chunk of a tensor whose units have been combined."""
    cdef const Units *units = &table.units[chunk.tensor]
    cdef Py_ssize_t width = arithmetic_size(table.tensors[chunk.tensor].dtype)
    cdef double scalars[MAX_SCALARS]
    cdef Py_ssize_t start = chunk.start, stop = chunk.stop, unit
    while start < chunk.stop:
        unit = start // units.size
        take_scalars(units, row, unit, scalars)
        if units.differ:
            stop = min((unit + 1) * units.size, chunk.stop)
        run_span(table, chunk.tensor, row.rule, scalars, NULL,
                 work + (start - chunk.start) * width if work != NULL else NULL, work != NULL, start, stop)
        start = stop


cdef inline bint measures(const Table *table, const Chunk *chunk, const Row *row) noexcept nogil:
    """Whether a tensor has anything that its rule takes sums over."""
    return MEASURES32[row.rule] != NULL and (COMBINES[row.rule] == NULL or table.units[chunk.tensor].sums != NULL)


cdef inline void update_chunk(const Table *table, Py_ssize_t c) noexcept nogil:
    cdef const Chunk *chunk = &table.chunks[c]
    cdef int number = table.tensors[chunk.tensor].row
    cdef const Row *row
    if number < 0:      # without a stage that follows it, its parameter may be nowhere: see open_copies
        if table.after:
            run_span(table, chunk.tensor, -1, NULL, NULL, NULL, False, chunk.start, chunk.stop)
        return
    row = &table.rows[number]
    if measures(table, chunk, row):
        BY_UNITS(table, c, row)
    else:
        run_span(table, chunk.tensor, row.rule, row.scalars, NULL, NULL, False, chunk.start, chunk.stop)


cdef inline bint awaits_more(const Table *table, const Chunk *chunk) noexcept nogil:
    """Whether a chunk has been measured and not updated: its unit is larger."""
    cdef int row = table.tensors[chunk.tensor].row
    if row < 0 or not measures(table, chunk, &table.rows[row]):
        return False
    if COMBINES[table.rows[row].rule] != NULL:
        return chunk.stop - chunk.start < table.tensors[chunk.tensor].size
    return SCOPES[table.rows[row].rule] > PER_TENSOR or table.units[chunk.tensor].size > CHUNK


cdef inline void measure_chunk_again(const Table *table, Py_ssize_t c) noexcept nogil:
    cdef const Chunk *chunk = &table.chunks[c]
    cdef const Units *units
    cdef const Row *row
    cdef double here[PIECE]
    cdef double scalars[MAX_SCALARS]
    cdef void *work
    if not awaits_more(table, chunk):
        return
    row = &table.rows[table.tensors[chunk.tensor].row]
    if not measures_again(row.rule):
        return
    units = &table.units[chunk.tensor]
    work = work_of(table, chunk)
    if COMBINES[row.rule] == NULL:
        memcpy(scalars, units.scalars, sizeof(scalars))
    elif units.size > CHUNK:
        take_scalars(units, row, chunk.start // units.size, scalars)
    else:
        measure_combined(table, chunk, row, <char *>work, here)
        return
    measure_span(table, chunk.tensor, row.rule + AGAIN, scalars, table.partials + MAX_SUMS * c,
                 work if work != NULL else <void *>here, work != NULL, chunk.start, chunk.stop)


cdef inline void apply_chunk(const Table *table, Py_ssize_t c) noexcept nogil:
    cdef const Chunk *chunk = &table.chunks[c]
    cdef const Units *units
    cdef const Row *row
    cdef const double *scalars
    if not awaits_more(table, chunk):
        return
    row = &table.rows[table.tensors[chunk.tensor].row]
    if COMBINES[row.rule] != NULL:
        apply_combined(table, chunk, row, <char *>work_of(table, chunk))
        return
    scalars = <double *>row.scalars
    if SCOPES[row.rule] <= PER_TENSOR:
        units = &table.units[chunk.tensor]
        scalars = units.scalars + MAX_SCALARS * (chunk.start // units.size)
    run_span(table, chunk.tensor, row.rule, scalars, NULL, work_of(table, chunk), table.units[chunk.tensor].work != NULL,
             chunk.start, chunk.stop)


cdef int finish(Table *table, Py_ssize_t first, Py_ssize_t last) noexcept nogil:
    cdef unsigned long long mode
    cdef bint again = table.phase == UPDATE_AGAIN
    cdef int following = UPDATE
    cdef double sums[MAX_SUMS]
    cdef const Chunk *chunk
    cdef Units *units
    cdef Row *row
    cdef Py_ssize_t c, size
    cdef int k
    if table.phase == APPLY:
        return UPDATE
    mode = fp_flush()
    for c in range(table.n_groups):
        memset(table.groups[c].sums, 0, sizeof(sums))
        table.groups[c].size = 0
    for c in range(table.bundles[first], table.bundles[last]):
        chunk = &table.chunks[c]
        if not awaits_more(table, chunk):
            continue
        row = &table.rows[table.tensors[chunk.tensor].row]
        if measures_again(row.rule) and not again:
            following = UPDATE_AGAIN
        elif following == UPDATE:
            following = APPLY
        if again and not measures_again(row.rule):
            continue
        if SCOPES[row.rule] > PER_TENSOR:
            table.groups[row.group].size += chunk.stop - chunk.start
            for k in range(MAX_SUMS):
                table.groups[row.group].sums[k] += table.partials[MAX_SUMS * c + k]
            continue
        units = &table.units[chunk.tensor]
        size = units.size
        if COMBINES[row.rule] != NULL:
            if size > CHUNK:
                gather_unit(units, chunk, table.partials + MAX_SUMS * c, SUMS[row.rule] if again else 0,
                            SUMS[row.rule + AGAIN] if again else SUMS[row.rule])
            if chunk.stop == table.tensors[chunk.tensor].size and again:
                combine_again(units, row, chunk.stop)
            elif chunk.stop == table.tensors[chunk.tensor].size:
                combine_units(units, row, chunk.stop)
            continue
        for k in range(MAX_SUMS):
            sums[k] = (0 if chunk.start % size == 0 else sums[k]) + table.partials[MAX_SUMS * c + k]
        if chunk.stop % size == 0 and again:
            FINISHES[row.rule + AGAIN](units.scalars, sums, NULL, size)
        elif chunk.stop % size == 0:
            finish_unit(units, row, chunk.start // size, sums,
                        units.scalars + MAX_SCALARS * (chunk.start // size))
    if following != UPDATE and not again:
        finish_groups(table, True)
    fp_restore(mode)
    return following


cdef inline void gather_unit(Units *units, const Chunk *chunk, const double *partials, int first,
                             int count) noexcept nogil:
    """Add the sums of a chunk to those of the unit that it is a part of, from the first of the pass on."""
    cdef double *sums = units.sums + MAX_SUMS * (chunk.start // units.size) + first
    cdef int k
    for k in range(count):
        sums[k] = (0 if chunk.start % units.size == 0 else sums[k]) + partials[k]


cdef void begin(Table *table) noexcept nogil:
    cdef unsigned long long mode = fp_flush()
    finish_groups(table, False)
    fp_restore(mode)


cdef void finish_groups(Table *table, bint measured) noexcept nogil:
    """The scalars of the rows of groups that are units, and their numbers: of the rules that measure, or
    of the others."""
    cdef double total[MAX_SUMS]
    cdef double before[MAX_NUMBERS]
    cdef double shared[MAX_NUMBERS]
    cdef Py_ssize_t g, r, size = 0
    cdef int k
    memset(total, 0, sizeof(total))
    memset(shared, 0, sizeof(shared))
    for r in range(table.n_rows):       # all groups of a rule over all have the same numbers
        if table.rows[r].rule >= 0 and SCOPES[table.rows[r].rule] == OVER_ALL:
            for k in range(MAX_NUMBERS):
                if table.groups[table.rows[r].group].numbers[k] != NULL:
                    shared[k] = table.groups[table.rows[r].group].numbers[k][0]
            break
    for g in range(table.n_groups):     # a group without a gradient has added nothing
        size += table.groups[g].size
        for k in range(MAX_SUMS):
            total[k] += table.groups[g].sums[k]
    for g in range(table.n_groups):
        for k in range(MAX_NUMBERS):
            before[k] = 0 if table.groups[g].numbers[k] == NULL else table.groups[g].numbers[k][0]
        finish_group(table, g, before, shared, total, size, measured)


cdef void finish_group(Table *table, Py_ssize_t g, const double *before, const double *shared,
                       const double *total, Py_ssize_t size, bint measured) noexcept nogil:
    cdef double numbers[MAX_NUMBERS]
    cdef Group *group = &table.groups[g]
    cdef Row *row
    cdef Py_ssize_t r
    cdef int k
    for r in range(table.n_rows):
        row = &table.rows[r]
        if (row.group != g or row.rule < 0 or SCOPES[row.rule] <= PER_TENSOR or FINISHES[row.rule] == NULL
                or (MEASURES32[row.rule] != NULL) != measured):
            continue
        if SCOPES[row.rule] == OVER_ALL:
            memcpy(numbers, shared, sizeof(numbers))
            FINISHES[row.rule](row.scalars, total, numbers, size)
        else:
            memcpy(numbers, before, sizeof(numbers))
            FINISHES[row.rule](row.scalars, group.sums, numbers, group.size)
        for k in range(MAX_NUMBERS):    # every row of a group advances them alike
            if group.numbers[k] != NULL:
                group.numbers[k][0] = numbers[k]
