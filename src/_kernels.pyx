# The rule table, and what is done with one bundle of work. This file is compiled once per instruction
# set, so it holds C data only: no arrays, no classes, no threads, no Python in any path that runs
# more than once.
#
# (a) Every rule is run by the same function over the same tables. One tensor of a billion elements
#     and a million tensors of ten are bundles of about CHUNK elements alike.
# (b) A rule is called once per chunk through a pointer, which costs nothing over 16K elements; its
#     loop is the only thing that sees elements.
# (c) Denormals are flushed around every bundle and the mode is put back, in whichever thread runs it.
# (d) To add a rule: cimport it and its scalars, and add its line to the table.
from cpython.pycapsule cimport PyCapsule_New
from cython cimport floating

from libc.math cimport sqrt
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcmp, memcpy, memset

from _codecs cimport BFLOAT16, BFLOAT16_SPLIT, BFLOAT16_STOCHASTIC, FLOAT32, SCALED_TOGETHER, arithmetic_size, codec_has_scales, codec_partner_size, decode, encode, is_lossy, mixed, stored_size
from _prefetch cimport prefetch_bytes, unbounded
from _reduce cimport (AXPBY_DOT, DOT, SUM_SQUARES, add_squares, axpby_dot_span, combine, dot_span,
                      fold_sums, reduce_span)
from _table cimport (AGREEMENTS, APPLY, CHUNK, DIRECTED, FACTORED_PASSES, FLATTENED, KEPT, LANES, LINE,
                     MAX_CARRIED, MAX_NUMBERS, MAX_SCALARS, MAX_STREAMS, MAX_SUMS, MEAN_SQUARES, MEASURED, NORM, OVER_ALL,
                     PANEL_BYTES, PER_ELEMENT, PER_GROUP, PER_ROW, PER_TENSOR, PIECE, RESCALED, RESIDUALS,
                     SCALED_SQUARES, START, STEPPED, UPDATE, UPDATE_AGAIN, WORK, Chunk, Clock, Combine, Directed,
                     Factored, FactoredRun, Finish, Group, Kernels, Product, Row, Stage, Storage, Sum, Table, Tensor, Units,
                     product_task, takes_pass)
from rules._math cimport along, descent, greater, scale_of_share
from rules.adabelief cimport AdaBelief, adabelief, adabelief_amsgrad, adabelief_clock
from rules.adadelta cimport Adadelta, adadelta, adadelta_clock
from rules.adafactor cimport (TOGETHER, add_plain_squares, add_residuals, add_scaled_squares, add_squares_each, clip_of,
                              column_factors, confident_update, count_agreements, decide, followed_update, move_lines,
                              move_squares, row_factors, scale_of, scaled_update)
from rules.adagrad cimport Adagrad, adagrad, adagrad_clock
from rules.adam cimport Adam, adam, adam_amsgrad, adam_clock
from rules.adam_atan2 cimport (AdamAtan2, adam_atan2, adam_atan2_cautious, adam_atan2_cautious_pulled, adam_atan2_clock,
                               adam_atan2_finish, adam_atan2_measure, adam_atan2_pulled)
from rules.adam_mini cimport AdamMini, adam_mini, adam_mini_clock, adam_mini_finish, adam_mini_measure
from rules.adamax cimport Adamax, adamax, adamax_clock
from rules.adan cimport Adan, adan, adan_clock
from rules.ademamix cimport (Ademamix, SimAdemamix, ademamix, ademamix_clock, sim_ademamix,
                             sim_ademamix_clock)
from rules.adamp cimport (AdamP, Sgdp, adamp, adamp_caution, adamp_caution_combine, adamp_caution_finish, adamp_clock,
                          adamp_combine, adamp_combine_again, adamp_count, adamp_finish, adamp_measure, sgdp,
                          sgdp_caution, sgdp_caution_combine, sgdp_caution_finish, sgdp_clock, sgdp_combine,
                          sgdp_combine_again, sgdp_count, sgdp_finish, sgdp_measure)
from rules.adopt cimport Adopt, adopt, adopt_clock
from rules.asgd cimport Asgd, asgd, asgd_clock
from rules.average cimport Average, average, copy
from rules.axpby cimport Axpby, axpby
from rules.clip cimport Clamp, Scale, clamp, scale
from rules.dadapt_adam cimport DAdaptAdam, dadapt_adam, dadapt_adam_clock, dadapt_adam_finish, dadapt_adam_measure
from rules.dadapt_lion cimport DAdaptLion, dadapt_lion, dadapt_lion_clock, dadapt_lion_finish, dadapt_lion_measure
from rules.dadapt_sgd cimport DAdaptSGD, dadapt_sgd, dadapt_sgd_clock, dadapt_sgd_finish, dadapt_sgd_measure
from rules.grams cimport Grams, grams, grams_clock
from rules.lamb cimport (Lamb, lamb, lamb_caution, lamb_caution_finish, lamb_caution_measure, lamb_clock, lamb_finish,
                         lamb_measure)
from rules.laprop cimport LaProp, laprop, laprop_clock
from rules.lars cimport Lars, lars, lars_clock, lars_finish, lars_measure, lars_momentum, lars_nesterov
from rules.lion cimport Lion, lion
from rules.mars cimport (Mars, MarsVector, mars_adamw, mars_adamw_amsgrad, mars_adamw_amsgrad_caution,
                         mars_adamw_caution, mars_clock, mars_count, mars_count_finish, mars_finish, mars_lion,
                         mars_lion_caution, mars_measure, mars_vector_clock)
from rules.muon cimport muon_direction, muon_step
from rules.nadam cimport Nadam, nadam, nadam_clock
from rules.novograd cimport (NovoGrad, novograd, novograd_amsgrad_finish, novograd_finish,
                             novograd_measure)
from rules.prodigy cimport Prodigy, prodigy, prodigy_clock, prodigy_finish, prodigy_measure
from rules.radam cimport Radam, radam, radam_clock
from rules.rmsprop cimport (Rmsprop, rmsprop, rmsprop_centered, rmsprop_centered_momentum,
                            rmsprop_clock, rmsprop_momentum)
from rules.rprop cimport Rprop, rprop
from rules.schedule_free cimport (ScheduleFreeAdam, ScheduleFreeRadam, ScheduleFreeSgd, schedule_free_adam,
                                  schedule_free_adam_clock, schedule_free_adam_finish, schedule_free_radam,
                                  schedule_free_radam_clock, schedule_free_radam_finish, schedule_free_sgd,
                                  schedule_free_sgd_finish)
from rules.sgd cimport Momentum, Sgd, momentum_clock, sgd, sgd_momentum, sgd_nesterov
from rules.sign_sgd cimport SignSgd, Signum, sign_sgd, sign_sgd_clock, signum, signum_clock
from rules.sophia cimport Sophia, Squares, sophia, squares
from rules.sparse_adam cimport SparseAdam, sparse_adam, sparse_adam_clock
from rules.yogi cimport Yogi, yogi, yogi_clock
from rules.stable_adamw cimport (StableAdamW, stable_adamw, stable_adamw_clock, stable_adamw_finish,
                                 stable_adamw_measure)

cdef extern from "fp_mode.h" nogil:
    unsigned long long fp_flush()
    void fp_restore(unsigned long long mode)

cdef extern from "codecs.h" nogil:
    void codecs_begin()
    void codec_decode(int code, const void *stored, const void *partner, float *out, ptrdiff_t first, ptrdiff_t n)
    void codec_encode(int code, const float *values, void *stored, void *partner, uint64_t key, ptrdiff_t first,
                      ptrdiff_t n)

ctypedef void (*Rule32)(float **, const double *, Py_ssize_t) noexcept nogil
ctypedef void (*Rule64)(double **, const double *, Py_ssize_t) noexcept nogil
ctypedef void (*Measure32)(float **, const double *, double *, Py_ssize_t) noexcept nogil
ctypedef void (*Measure64)(double **, const double *, double *, Py_ssize_t) noexcept nogil

cdef enum:
    MAX_RULES = 256
    AGAIN = MAX_RULES               # added to the number of a rule: its second pass that measures

# By the number of the rule.
cdef Rule32 RULES32[MAX_RULES]
cdef Rule64 RULES64[MAX_RULES]
cdef Measure32 MEASURES32[2 * MAX_RULES]    # NULL: it does not measure
cdef Measure64 MEASURES64[2 * MAX_RULES]
cdef Finish FINISHES[2 * MAX_RULES]
cdef Combine COMBINES[2 * MAX_RULES]    # NULL: each unit by itself
cdef int SCOPES[MAX_RULES]
cdef int SUMS[2 * MAX_RULES]         # how many it takes
cdef bint REPEATS[MAX_RULES]         # where nothing is kept, it computes all again, also the state
cdef int STREAMS[2 * MAX_RULES]
cdef int SLICES[2 * MAX_RULES]       # a bit for each stream that is a slice
cdef Clock CLOCKS[MAX_RULES]

# The description of each rule, by name; see Rule in engine/rules.pxi.
RULES = {}


cdef int rule(str name, dict scalars, Rule32 rule32, Rule64 rule64, Clock clock=NULL,
              tuple states=(), tuple carried=()) except -1:
    """Add a rule.

    `scalars` is its struct, whose fields have the names of the group's options; what the clock writes is no
    option. `states` are its arrays in the order of the streams, `carried` the numbers that its clock
    remembers: each a name, or a name and what it begins with, which is a number, the name of the option that
    holds it, or "param" for a copy of the parameter; else it begins with 0. A third item is the type in
    which it is stored, if that is not always the parameter's, or float32 of a carried number.
    """
    cdef Py_ssize_t number = len(RULES)
    if (number == MAX_RULES or 2 + len(states) > MAX_STREAMS or len(scalars) > MAX_SCALARS
            or len(carried) > MAX_CARRIED):
        raise ValueError(f"the tables are too small for rule {name}")
    if "sign" in list(scalars)[1:]:
        raise ValueError(f"the scalars of rule {name} must begin with its sign: see Head")
    RULES32[number] = rule32
    RULES64[number] = rule64
    CLOCKS[number] = clock
    STREAMS[number] = <int>(2 + len(states))
    SCOPES[number] = PER_ELEMENT
    RULES[name] = {
        "number": number, "scalars": tuple(scalars), "computed": written_by(clock, list(scalars)),
        "states": states, "carried": carried, "scope": PER_ELEMENT, "measures": False, "combines": False,
        "numbers": (), "constants": {}, "slices": (), "slice": None, "segment": None,
    }
    return 0


cdef int passes(str name, int scope, int sums, Measure32 measure32, Measure64 measure64, Finish finish,
                tuple numbers=(), Combine combine=NULL, bint repeats=False) except -1:
    """Give the rule of this name a pass before it, which adds up so many sums over units of this scope, and
    what turns the sums into scalars of the unit.

    The pass that measures has room in the stream WORK for what the rule itself would compute again; there the
    stream is NULL where that was not kept. Of a rule that REPEATS it is NULL for both passes.

    `numbers` are what the finish carries on from step to step, as doubles in the state of a row or tensor or
    in the group, given as the carried numbers are. Without a measure, the finish advances the numbers of groups.

    `combine` looks at the sums of all rows of a tensor, before any row is finished. A parameter of less than two
    axes then has no rows: the rule itself is all of its step, by the clock's scalars.
    """
    about = RULES[name]
    cdef int number = about["number"]
    if len(numbers) > MAX_NUMBERS or sums > MAX_SUMS or (measure32 == NULL and scope < PER_GROUP):
        raise ValueError(f"rule {name} has too many numbers or sums, or measures nothing")
    if combine != NULL and (scope != PER_ROW or numbers):
        raise ValueError(f"rule {name} combines what are no rows, or rows with numbers")
    MEASURES32[number] = measure32
    MEASURES64[number] = measure64
    FINISHES[number] = finish
    COMBINES[number] = combine
    SCOPES[number] = scope
    SUMS[number] = sums
    REPEATS[number] = repeats
    about.update(scope=scope, again=False, measures=measure32 != NULL, combines=combine != NULL, numbers=numbers,
                 computed=about["computed"] | finished_by(finish, list(about["scalars"])))
    return 0


cdef int passes_again(str name, int sums, Measure32 measure32, Measure64 measure64, Finish finish,
                      Combine combine=NULL) except -1:
    """Let the rule of this name measure a second time, by the scalars of the first finish, which the second completes.

    Its unit is a tensor, and has no numbers. Or it combines: then the second combine does, from sums that follow the
    first ones, and rows are finished before the second pass and again before the last, by all sums.
    """
    about = RULES[name]
    cdef int number = about["number"]
    if (about["numbers"] or about["scope"] != (PER_TENSOR if combine == NULL else PER_ROW)
            or about["combines"] != (combine != NULL) or SUMS[number] + sums > MAX_SUMS):
        raise ValueError(f"rule {name} cannot measure twice")
    MEASURES32[number + AGAIN] = measure32
    MEASURES64[number + AGAIN] = measure64
    FINISHES[number + AGAIN] = finish
    COMBINES[number + AGAIN] = combine
    SUMS[number + AGAIN] = sums
    STREAMS[number + AGAIN] = STREAMS[number]
    about.update(again=True)
    if finish != NULL:
        about.update(computed=about["computed"] | finished_by(finish, list(about["scalars"])))
    return 0


cdef int slices(str name, tuple states, str option) except -1:
    """Let these states of the rule of this name be slices: flat arrays of every n-th element of the parameter in C
    order, where n is an option. Their streams begin with their first element in every span."""
    about = RULES[name]
    names = [state[0] if isinstance(state, tuple) else state for state in about["states"]]
    about.update(slices=states, slice=option)
    SLICES[<int>about["number"]] = sum([1 << (2 + names.index(state)) for state in states])
    return 0


cdef int segments(str name, str option) except -1:
    """Let the rows of the rule of this name be so many elements each, in C order: an option, and one of its scalars."""
    RULES[name].update(segment=option)
    return 0


cdef frozenset written_by(Clock clock, list names):
    """The scalars that a clock writes: found by running it."""
    cdef double scalars[MAX_SCALARS]
    cdef double carried[MAX_CARRIED]
    cdef int k
    if clock == NULL:
        return frozenset()
    for k in range(MAX_CARRIED):
        carried[k] = 0.5
    for k in range(MAX_SCALARS):
        scalars[k] = 0.1 + 0.01 * k
    clock(scalars, 2, carried)
    return frozenset([name for k, name in enumerate(names) if scalars[k] != 0.1 + 0.01 * k])


cdef frozenset finished_by(Finish finish, list names):
    """The scalars that a finish writes: found by running it."""
    cdef double scalars[MAX_SCALARS]
    cdef double sums[MAX_SUMS]
    cdef double numbers[MAX_NUMBERS]
    cdef int k
    for k in range(MAX_SUMS):
        sums[k] = 2 + k
    for k in range(MAX_NUMBERS):
        numbers[k] = 0.5
    for k in range(MAX_SCALARS):
        scalars[k] = 0.1 + 0.01 * k
    finish(scalars, sums, numbers, 10)
    return frozenset([name for k, name in enumerate(names) if scalars[k] != 0.1 + 0.01 * k])


# Of each struct one, for its fields' names.
cdef AdaBelief ADABELIEF
cdef Adadelta ADADELTA
cdef Adagrad ADAGRAD
cdef Adam ADAM
cdef AdamAtan2 ADAM_ATAN2
cdef AdamMini ADAM_MINI
cdef Adamax ADAMAX
cdef Adan ADAN
cdef Ademamix ADEMAMIX
cdef AdamP ADAMP
cdef Adopt ADOPT
cdef Asgd ASGD
cdef Average AVERAGE
cdef Axpby AXPBY
cdef Clamp CLAMP
cdef DAdaptAdam DADAPT_ADAM
cdef DAdaptLion DADAPT_LION
cdef DAdaptSGD DADAPT_SGD
cdef Grams GRAMS
cdef Lamb LAMB
cdef LaProp LAPROP
cdef Lars LARS
cdef Lion LION
cdef Mars MARS
cdef MarsVector MARS_VECTOR
cdef Momentum MOMENTUM
cdef Nadam NADAM
cdef NovoGrad NOVOGRAD
cdef Prodigy PRODIGY
cdef Radam RADAM
cdef Rmsprop RMSPROP
cdef Rprop RPROP
cdef Scale SCALE
cdef ScheduleFreeAdam SCHEDULE_FREE_ADAM
cdef ScheduleFreeRadam SCHEDULE_FREE_RADAM
cdef ScheduleFreeSgd SCHEDULE_FREE_SGD
cdef Sgd SGD
cdef SignSgd SIGN_SGD
cdef Signum SIGNUM
cdef Sgdp SGDP
cdef SimAdemamix SIM_ADEMAMIX
cdef Sophia SOPHIA
cdef SparseAdam SPARSE_ADAM
cdef Squares SQUARES_OF
cdef Yogi YOGI
cdef StableAdamW STABLE_ADAMW

# In the order in which its finish has them.
SCHEDULE_FREE_NUMBERS = ("k", "weight_sum", ("lr_max", -1.0), "scheduled_lr")

rule("sgd", SGD, sgd[float], sgd[double])
rule("sgd_momentum", MOMENTUM, sgd_momentum[float], sgd_momentum[double], momentum_clock,
     ("momentum_buffer",))
rule("sgd_nesterov", MOMENTUM, sgd_nesterov[float], sgd_nesterov[double], momentum_clock,
     ("momentum_buffer",))
rule("adam", ADAM, adam[float], adam[double], adam_clock, ("exp_avg", "exp_avg_sq"))
rule("adam_amsgrad", ADAM, adam_amsgrad[float], adam_amsgrad[double], adam_clock,
     ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"))
rule("rmsprop", RMSPROP, rmsprop[float], rmsprop[double], rmsprop_clock, ("square_avg",))
rule("rmsprop_momentum", RMSPROP, rmsprop_momentum[float], rmsprop_momentum[double], rmsprop_clock,
     ("square_avg", "momentum_buffer"))
rule("rmsprop_centered", RMSPROP, rmsprop_centered[float], rmsprop_centered[double], rmsprop_clock,
     ("square_avg", "grad_avg"))
rule("rmsprop_centered_momentum", RMSPROP, rmsprop_centered_momentum[float],
     rmsprop_centered_momentum[double], rmsprop_clock, ("square_avg", "momentum_buffer", "grad_avg"))
rule("adagrad", ADAGRAD, adagrad[float], adagrad[double], adagrad_clock,
     (("sum", "initial_accumulator_value"),))
rule("adadelta", ADADELTA, adadelta[float], adadelta[double], adadelta_clock,
     ("square_avg", "acc_delta"))
rule("adamax", ADAMAX, adamax[float], adamax[double], adamax_clock, ("exp_avg", "exp_inf"))
rule("nadam", NADAM, nadam[float], nadam[double], nadam_clock, ("exp_avg", "exp_avg_sq"),
     carried=(("mu_product", 1.0),))
rule("radam", RADAM, radam[float], radam[double], radam_clock, ("exp_avg", "exp_avg_sq"))
rule("asgd", ASGD, asgd[float], asgd[double], asgd_clock, ("ax",),
     carried=(("eta", "lr"), ("mu", 1.0)))
rule("rprop", RPROP, rprop[float], rprop[double], NULL, ("prev", ("step_size", "lr")))
rule("sparse_adam", SPARSE_ADAM, sparse_adam[float], sparse_adam[double], sparse_adam_clock,
     ("exp_avg", "exp_avg_sq"))
rule("lion", LION, lion[float], lion[double], NULL, ("exp_avg",))
rule("lamb", LAMB, lamb[float], lamb[double], lamb_clock, ("exp_avg", "exp_avg_sq"))
passes("lamb", PER_TENSOR, 2, lamb_measure[float], lamb_measure[double], lamb_finish)
rule("lamb_caution", LAMB, lamb_caution[float], lamb_caution[double], lamb_clock, ("exp_avg", "exp_avg_sq"))
passes("lamb_caution", PER_TENSOR, 4, lamb_caution_measure[float], lamb_caution_measure[double], lamb_caution_finish)
rule("ademamix", ADEMAMIX, ademamix[float], ademamix[double], ademamix_clock,
     ("exp_avg_fast", "exp_avg_slow", "exp_avg_sq"))
rule("lars", LARS, lars[float], lars[double], lars_clock)
rule("lars_momentum", LARS, lars_momentum[float], lars_momentum[double], lars_clock, ("momentum_buffer",))
rule("lars_nesterov", LARS, lars_nesterov[float], lars_nesterov[double], lars_clock, ("momentum_buffer",))
passes("lars", PER_TENSOR, 2, lars_measure[float], lars_measure[double], lars_finish)
passes("lars_momentum", PER_TENSOR, 2, lars_measure[float], lars_measure[double], lars_finish)
passes("lars_nesterov", PER_TENSOR, 2, lars_measure[float], lars_measure[double], lars_finish)
rule("novograd", NOVOGRAD, novograd[float], novograd[double], NULL, ("exp_avg",))
passes("novograd", PER_TENSOR, 1, novograd_measure[float], novograd_measure[double], novograd_finish,
       ("exp_avg_sq",))
rule("novograd_amsgrad", NOVOGRAD, novograd[float], novograd[double], NULL, ("exp_avg",))
passes("novograd_amsgrad", PER_TENSOR, 1, novograd_measure[float], novograd_measure[double],
       novograd_amsgrad_finish, ("exp_avg_sq", "max_exp_avg_sq"))
rule("adabelief", ADABELIEF, adabelief[float], adabelief[double], adabelief_clock,
     ("exp_avg", "exp_avg_var"))
rule("adabelief_amsgrad", ADABELIEF, adabelief_amsgrad[float], adabelief_amsgrad[double], adabelief_clock,
     ("exp_avg", "exp_avg_var", "max_exp_avg_var"))
rule("adam_atan2", ADAM_ATAN2, adam_atan2[float], adam_atan2[double], adam_atan2_clock, ("exp_avg", "exp_avg_sq"))
rule("adam_atan2_pulled", ADAM_ATAN2, adam_atan2_pulled[float], adam_atan2_pulled[double], adam_atan2_clock,
     ("exp_avg", "exp_avg_sq", ("param_init", "param")))
rule("adam_atan2_cautious", ADAM_ATAN2, adam_atan2_cautious[float], adam_atan2_cautious[double], adam_atan2_clock,
     ("exp_avg", "exp_avg_sq"))
passes("adam_atan2_cautious", PER_TENSOR, 1, adam_atan2_measure[float], adam_atan2_measure[double], adam_atan2_finish,
       (), NULL, True)
rule("adam_atan2_cautious_pulled", ADAM_ATAN2, adam_atan2_cautious_pulled[float], adam_atan2_cautious_pulled[double],
     adam_atan2_clock, ("exp_avg", "exp_avg_sq", ("param_init", "param")))
passes("adam_atan2_cautious_pulled", PER_TENSOR, 1, adam_atan2_measure[float], adam_atan2_measure[double],
       adam_atan2_finish, (), NULL, True)
rule("laprop", LAPROP, laprop[float], laprop[double], laprop_clock, ("exp_avg", "exp_avg_sq"),
     carried=(("exp_avg_lr_1", 0.0, "float64"), ("exp_avg_lr_2", 0.0, "float64")))
rule("adam_mini_element", ADAM, adam[float], adam[double], adam_clock, ("m", "v"))
rule("adam_mini_row", ADAM_MINI, adam_mini[float], adam_mini[double], adam_mini_clock, ("m",))
passes("adam_mini_row", PER_ROW, 1, adam_mini_measure[float], adam_mini_measure[double], adam_mini_finish, ("vmean",))
rule("adam_mini_head", ADAM_MINI, adam_mini[float], adam_mini[double], adam_mini_clock, ("m",))
passes("adam_mini_head", PER_ROW, 1, adam_mini_measure[float], adam_mini_measure[double], adam_mini_finish, ("vmean",))
segments("adam_mini_head", "head_numel")
rule("adam_mini_tensor", ADAM_MINI, adam_mini[float], adam_mini[double], adam_mini_clock, ("m",))
passes("adam_mini_tensor", PER_TENSOR, 1, adam_mini_measure[float], adam_mini_measure[double], adam_mini_finish,
       ("vmean",))
rule("yogi", YOGI, yogi[float], yogi[double], yogi_clock,
     (("exp_avg", "initial_accumulator"), ("exp_avg_sq", "initial_accumulator")))
rule("sign_sgd", SIGN_SGD, sign_sgd[float], sign_sgd[double], sign_sgd_clock)
rule("signum", SIGNUM, signum[float], signum[double], signum_clock, ("momentum_buffer",))
rule("grams", GRAMS, grams[float], grams[double], grams_clock, ("exp_avg", "exp_avg_sq"))
rule("adamp", ADAMP, adamp[float], adamp[double], adamp_clock, ("exp_avg", "exp_avg_sq"))
passes("adamp", PER_ROW, 4, adamp_measure[float], adamp_measure[double], adamp_finish, (), adamp_combine)
rule("sgdp", SGDP, sgdp[float], sgdp[double], sgdp_clock, ("momentum",))
passes("sgdp", PER_ROW, 4, sgdp_measure[float], sgdp_measure[double], sgdp_finish, (), sgdp_combine)
rule("adamp_vector", ADAMP, adamp[float], adamp[double], adamp_clock, ("exp_avg", "exp_avg_sq"))
rule("adamp_caution", ADAMP, adamp_caution[float], adamp_caution[double], adamp_clock, ("exp_avg", "exp_avg_sq"))
passes("adamp_caution", PER_ROW, 4, adamp_measure[float], adamp_measure[double], adamp_caution_finish, (),
       adamp_caution_combine)
passes_again("adamp_caution", 2, adamp_count[float], adamp_count[double], NULL, adamp_combine_again)
rule("sgdp_vector", SGDP, sgdp[float], sgdp[double], sgdp_clock, ("momentum",))
rule("sgdp_caution", SGDP, sgdp_caution[float], sgdp_caution[double], sgdp_clock, ("momentum",))
passes("sgdp_caution", PER_ROW, 4, sgdp_measure[float], sgdp_measure[double], sgdp_caution_finish, (),
       sgdp_caution_combine)
passes_again("sgdp_caution", 2, sgdp_count[float], sgdp_count[double], NULL, sgdp_combine_again)
rule("sim_ademamix", SIM_ADEMAMIX, sim_ademamix[float], sim_ademamix[double], sim_ademamix_clock,
     ("exp_avg", "exp_avg_sq"))
rule("adopt", ADOPT, adopt[float], adopt[double], adopt_clock, ("exp_avg", "exp_avg_sq"))
rule("adan", ADAN, adan[float], adan[double], adan_clock,
     ("exp_avg", "exp_avg_diff", "exp_avg_sq", "neg_pre_grad"))
rule("sophia", SOPHIA, sophia[float], sophia[double], NULL, ("exp_avg", "hessian"))
rule("stable_adamw", STABLE_ADAMW, stable_adamw[float], stable_adamw[double], stable_adamw_clock,
     ("exp_avg", "exp_avg_sq"))
passes("stable_adamw", PER_TENSOR, 1, stable_adamw_measure[float], stable_adamw_measure[double],
       stable_adamw_finish)
rule("mars_adamw", MARS, mars_adamw[float], mars_adamw[double], mars_clock,
     ("exp_avg", "exp_avg_sq", "last_grad"))
rule("mars_adamw_amsgrad", MARS, mars_adamw_amsgrad[float], mars_adamw_amsgrad[double], mars_clock,
     ("exp_avg", "exp_avg_sq", "last_grad", "max_exp_avg_sq"))
rule("mars_lion", MARS, mars_lion[float], mars_lion[double], mars_clock, ("exp_avg", "exp_avg_sq", "last_grad"))
rule("mars_adamw_caution", MARS, mars_adamw_caution[float], mars_adamw_caution[double], mars_clock,
     ("exp_avg", "exp_avg_sq", "last_grad"))
rule("mars_adamw_amsgrad_caution", MARS, mars_adamw_amsgrad_caution[float], mars_adamw_amsgrad_caution[double],
     mars_clock, ("exp_avg", "exp_avg_sq", "last_grad", "max_exp_avg_sq"))
rule("mars_lion_caution", MARS, mars_lion_caution[float], mars_lion_caution[double], mars_clock,
     ("exp_avg", "exp_avg_sq", "last_grad"))
for name in ("mars_adamw", "mars_adamw_amsgrad", "mars_lion"):
    for form in (name, name + "_caution"):
        passes(form, PER_TENSOR, 1, mars_measure[float], mars_measure[double], mars_finish)
    passes_again(name + "_caution", 1, mars_count[float], mars_count[double], mars_count_finish)
rule("mars_vector", MARS_VECTOR, adam[float], adam[double], mars_vector_clock,
     ("exp_avg", "exp_avg_sq", "last_grad"))
rule("mars_vector_amsgrad", MARS_VECTOR, adam_amsgrad[float], adam_amsgrad[double], mars_vector_clock,
     ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "last_grad"))
rule("schedule_free_sgd", SCHEDULE_FREE_SGD, schedule_free_sgd[float], schedule_free_sgd[double], NULL,
     (("z", "param"),))
passes("schedule_free_sgd", PER_GROUP, 0, NULL, NULL, schedule_free_sgd_finish, SCHEDULE_FREE_NUMBERS)
rule("schedule_free_adam", SCHEDULE_FREE_ADAM, schedule_free_adam[float], schedule_free_adam[double],
     schedule_free_adam_clock, (("z", "param"), "exp_avg_sq"))
passes("schedule_free_adam", PER_GROUP, 0, NULL, NULL, schedule_free_adam_finish, SCHEDULE_FREE_NUMBERS)
rule("schedule_free_radam", SCHEDULE_FREE_RADAM, schedule_free_radam[float], schedule_free_radam[double],
     schedule_free_radam_clock, (("z", "param"), "exp_avg_sq"))
passes("schedule_free_radam", PER_GROUP, 0, NULL, NULL, schedule_free_radam_finish, SCHEDULE_FREE_NUMBERS)
rule("prodigy", PRODIGY, prodigy[float], prodigy[double], prodigy_clock,
     ("exp_avg", "exp_avg_sq", "s", ("p0", "param")))
passes("prodigy", OVER_ALL, 2, prodigy_measure[float], prodigy_measure[double], prodigy_finish,
       (("d", "d0"), ("d_max", "d0"), "d_numerator", "d_denom", "d_hat", "k"))
slices("prodigy", ("s", "p0"), "slice_p")
rule("dadapt_adam", DADAPT_ADAM, dadapt_adam[float], dadapt_adam[double], dadapt_adam_clock,
     ("exp_avg", "exp_avg_sq", "s"))
passes("dadapt_adam", OVER_ALL, 2, dadapt_adam_measure[float], dadapt_adam_measure[double], dadapt_adam_finish,
       (("d", "d0"), "numerator_weighted", "k"))
rule("dadapt_lion", DADAPT_LION, dadapt_lion[float], dadapt_lion[double], dadapt_lion_clock, ("exp_avg", "s"))
passes("dadapt_lion", OVER_ALL, 2, dadapt_lion_measure[float], dadapt_lion_measure[double], dadapt_lion_finish,
       (("d", "d0"), "numerator_weighted", "k"))
rule("dadapt_sgd", DADAPT_SGD, dadapt_sgd[float], dadapt_sgd[double], dadapt_sgd_clock, ("s", ("x0", "param")))
passes("dadapt_sgd", OVER_ALL, 3, dadapt_sgd_measure[float], dadapt_sgd_measure[double], dadapt_sgd_finish,
       (("d", "d0"), "numerator_weighted", "g0_norm", "k"))
rule("scale", SCALE, scale[float], scale[double])
rule("clamp", CLAMP, clamp[float], clamp[double])
rule("average", AVERAGE, average[float], average[double])
rule("copy", AVERAGE, copy[float], copy[double])
rule("squares", SQUARES_OF, squares[float], squares[double])
rule("axpby", AXPBY, axpby[float], axpby[double])

for name in ("sgd_nesterov", "rmsprop_momentum", "rmsprop_centered_momentum", "nadam", "lion", "ademamix", "sophia"):
    cautious(name)
for name in ("adam", "adam_amsgrad", "adamax", "radam", "yogi", "mars_vector", "mars_vector_amsgrad"):
    cautious(name, "l2", "shrink", "beta1", "gain1")
for name in ("adabelief", "adabelief_amsgrad"):
    cautious(name, "penalty", "keep", "beta1", "gain1")
for name in ("adan", "adopt", "laprop", "signum", "adamp_vector", "sgdp_vector"):
    cautious(name, "penalty", "keep")
cautious("sgd_momentum", "l2", "shrink", "momentum", "gain")


include "kernels/passes.pxi"
include "kernels/tiles.pxi"
include "kernels/caution.pxi"
include "kernels/reductions.pxi"
include "kernels/sums.pxi"
include "kernels/factored.pxi"
include "kernels/muon.pxi"


cdef void run_other(const Table *table, Py_ssize_t bundle) noexcept nogil:
    cdef Py_ssize_t c, first = table.bundles[bundle], last = table.bundles[bundle + 1]
    if table.phase == APPLY:
        for c in range(first, last):
            apply_chunk(table, c)
    elif table.phase == UPDATE_AGAIN:
        for c in range(first, last):
            measure_chunk_again(table, c)
    elif table.phase == NORM:
        for c in range(first, last):
            table.partials[c] = norm_chunk(table, &table.chunks[c])
    else:
        for c in range(first, last):
            table.partials[c] = reduce_chunk(table, &table.chunks[c])


# As BY_PIECES: a small update is to have a small frame.
ctypedef void (*OtherFunction)(const Table *, Py_ssize_t) noexcept nogil
cdef OtherFunction OTHER = run_other


cdef void run_bundle(const void *context, Py_ssize_t bundle) noexcept nogil:
    """A bundle's part of the table's pass. Sums go to places of their own, one or MAX_SUMS a chunk, which
    the caller combines in the order of the chunks."""
    cdef const Table *table = <const Table *>context
    cdef Py_ssize_t c
    cdef unsigned long long mode = fp_flush()
    if table.phase == UPDATE:
        for c in range(table.bundles[bundle], table.bundles[bundle + 1]):
            update_chunk(table, c)
    else:
        OTHER(table, bundle)
    fp_restore(mode)


cdef Kernels KERNELS
KERNELS.run = run_bundle
KERNELS.begin = begin
KERNELS.finish = finish
KERNELS.clocks = CLOCKS
KERNELS.multiply = multiply
KERNELS.direct = direct
KERNELS.factor = factor
KERNELS.add = add_pieces
KERNELS.decode = codec_decode
KERNELS.encode = codec_encode

cdef unsigned long long mode = fp_flush()   # for its rounding
codecs_begin()
fp_restore(mode)


def kernels():
    """The module's entry points, for the engine alone."""
    return PyCapsule_New(&KERNELS, "cyoptim.kernels", NULL)
