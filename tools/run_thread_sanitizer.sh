#!/usr/bin/env bash
# Builds with ThreadSanitizer and searches for data races: in the pool alone, without Python; then in
# the engine, by the pool's tests and by the fuzzer of two threads. Arguments go to the fuzzer. Needs GCC
# and its sanitizer's library.
#
# FREE_THREADED=python3.14t runs instead the tests of Python threads without the GIL. That interpreter must
# itself be built with ThreadSanitizer (configure --disable-gil --with-thread-sanitizer) and have NumPy,
# pytest, hypothesis and what a build needs; SUPPRESSIONS names CPython's own list of races in the
# interpreter (Tools/tsan/suppressions_free_threading.txt).
#
# The interpreter is not instrumented. The sanitizer sees its locks, including the GIL, as calls of the
# system's library, so code ordered by the GIL does not count as a race; it sees accesses of compiled
# Python or NumPy only in copies. The build is without OpenMP, whose runtime would have to be
# instrumented. Excluded are tests that fork, which the sanitizer does not support.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
flags="-fsanitize=thread -g -O1"
export TSAN_OPTIONS="halt_on_error=1 history_size=4 exitcode=66"

finds_a_race() { # whether this command ends as the sanitizer ends it
  local status=0
  "$@" >"$environment/said" 2>&1 || status=$?
  [ "$status" -eq 66 ] && grep -q "WARNING: ThreadSanitizer: data race" "$environment/said"
}

# --- without the GIL --------------------------------------------------------------------------------

if [ -n "${FREE_THREADED:-}" ]; then
  CFLAGS="$flags" LDFLAGS="-fsanitize=thread" TSAN_OPTIONS="report_bugs=0" "$FREE_THREADED" -m pip install --quiet \
    --no-build-isolation --no-deps --target "$environment/site" -Cinstall.strip=false \
    -Cbuild-dir="$environment/build" -Ccmake.define.CYOPTIM_OPENMP=OFF .
  # In lists the interpreter reads the counts of objects that may have ended, and allocates such memory
  # anew: it compares afterwards.
  { cat "${SUPPRESSIONS:-/dev/null}"; echo "race_top:_Py_TryIncrefFast"; echo "race:_PyType_AllocNoTrack"; } >"$environment/suppressions"
  TSAN_OPTIONS="$TSAN_OPTIONS suppressions=$environment/suppressions" PYTHONPATH="$environment/site${PYTHONPATH:+:$PYTHONPATH}" \
    "$FREE_THREADED" -m pytest -q -p no:cacheprovider tests/guest/test_free_threading.py \
    --deselect tests/guest/test_free_threading.py::test_the_gil_stays_off \
    --deselect tests/guest/test_free_threading.py::test_small_steps_of_two_optimizers_run_side_by_side
  exit
fi

# --- the pool ---------------------------------------------------------------------------------------

build_pool() { # with the headers of this folder
  gcc -std=gnu11 $flags -I"$1" tests/threads/pool_program.c -o "$environment/pool" -lpthread
}

build_pool src
"$environment/pool" 300     # runs: each takes some fifty times as long

# A pool that does not wait for its workers: the sanitizer must find this planted race.
mkdir -p "$environment/racy/threads"
cp src/threads/*.h "$environment/racy/threads"
sed 's/shares_done(run, pool.shares) != tasks; look++/0; look++/' src/threads/pool.h >"$environment/racy/threads/pool.h"
if cmp -s src/threads/pool.h "$environment/racy/threads/pool.h"; then
  echo "src/threads/pool.h has changed: the race must be planted anew" >&2
  exit 1
fi
build_pool "$environment/racy"
finds_a_race "$environment/pool" 300 || { echo "the race that was planted in the pool was not found" >&2; exit 1; }

# --- the engine -------------------------------------------------------------------------------------

python3 -m venv "$environment/python"
python="$environment/python/bin/python"
"$python" -m pip install --quiet --upgrade pip
CFLAGS="$flags" LDFLAGS="-fsanitize=thread" "$python" -m pip install --quiet -Cinstall.strip=false \
  -Cbuild-dir="$environment/build" -Ccmake.define.CYOPTIM_OPENMP=OFF . pytest hypothesis
engine=$(find "$environment" -path '*site-packages/cyoptim/_engine*.so')
nm -D "$engine" | grep __tsan_write >/dev/null || { echo "$engine is not built with ThreadSanitizer" >&2; exit 1; }

sanitized() {
  LD_PRELOAD="$(gcc -print-file-name=libtsan.so)" "$python" "$@"
}

# Two optimizers over the same memory: a race in the program itself.
cat >"$environment/racy.py" <<'END'
import threading

import numpy as np

import cyoptim

w, g = np.zeros(100_000, "f4"), np.ones(100_000, "f4")
barrier = threading.Barrier(2)


def work(part):
    optimizer = cyoptim.SGD([part], lr=1.0)
    barrier.wait()
    for _ in range(20):
        optimizer.step(grads=[g])


threads = [threading.Thread(target=work, args=(part,)) for part in (w, w[:])]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
END
finds_a_race sanitized "$environment/racy.py" || { echo "the race of two optimizers was not found" >&2; exit 1; }

sanitized -m pytest -q -p no:cacheprovider tests/guest/test_pool.py \
  --deselect tests/guest/test_pool.py::test_forks_of_forks_while_other_threads_step
sanitized -m tests.fuzz threads --count 500 "$@"
