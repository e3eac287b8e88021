#!/usr/bin/env bash
# Builds with AddressSanitizer and UndefinedBehaviorSanitizer into a separate environment, and runs
# the tests on it, with the short runs of the fuzzers; then FUZZ_COUNT more cases of each fuzzer.
# Arguments go to pytest, such as `-m quick`, or files. Needs GCC and its sanitizers' libraries.
#
# Excluded: tests that start other programs, that measure or limit memory, and tests that fork while
# threads run, which AddressSanitizer does not support. Leaks are not checked, as Python's own would be
# reported. NumPy caches freed blocks of less than a kilobyte: use of these after free is not
# detected.
set -euo pipefail
cd "$(dirname "$0")/.."

environment=$(mktemp -d)
# A process ends at its first report, which pytest has captured and does not show.
trap 'cat "$environment"/report.* 2>/dev/null; rm -rf "$environment"' EXIT
python3 -m venv "$environment"
python="$environment/bin/python"
flags="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize-recover=all -fno-omit-frame-pointer -g"

"$python" -m pip install --quiet --upgrade pip
CFLAGS="$flags" LDFLAGS="-fsanitize=address,undefined" "$python" -m pip install --quiet \
  -Cinstall.strip=false -Cbuild-dir="$environment/build" ".[test]"
engine=$(find "$environment" -path '*site-packages/cyoptim/_engine*.so')
nm -D "$engine" | grep __asan_report >/dev/null || { echo "$engine is not built with AddressSanitizer" >&2; exit 1; }
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:log_path="$environment/report"
export UBSAN_OPTIONS=print_stacktrace=1:log_path="$environment/report"
export PYTHONMALLOC=malloc  # Python's own allocator would hide what has been given back
export LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)"
hostile=tests/checkpoints/test_checkpoint_hostile.py
"$python" -m pytest -q -p no:cacheprovider \
  --deselect tests/guest/test_guest_forks.py --ignore tests/bench --ignore tests/docs/test_demo.py \
  --deselect "$hostile::test_the_process_does_not_grow_by_more_than_the_files" \
  --deselect "$hostile::test_what_is_no_regular_file_is_not_read" "$@"
"$python" -m tests.fuzz --count "${FUZZ_COUNT:-1000}"
