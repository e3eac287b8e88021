"""**Fuzzers**: each makes a case from its number alone and checks what the library promises of it.

From the repository's root, `python -m tests.fuzz` runs all of them for long, and `python -m tests.fuzz
states --start 17 --count 1` repeats one case. `tests/fuzz/test_fuzz.py` runs a short slice of each.

A fuzzer is a module of this package with

    NAME = "states"                # as it is called on the command line
    LONG = 20_000                  # how many cases the long run has
    SEEDS: tuple[int, ...] = ()    # cases that once failed, also in the slice
    def check(case: int) -> str    # runs one case, returns the kind of outcome; raises if a promise is broken

and, where it needs them, `SLICE`, the number of cases of the slice; `LIMIT`, the seconds after which a
case counts as hung; and `cases()`, the numbers of all cases where they are not 0, 1, 2, ...
"""
