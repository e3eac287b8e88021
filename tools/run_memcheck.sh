#!/usr/bin/env bash
# Runs some tests under valgrind's memcheck, on an installed cyoptim: fails if the stack of a report
# contains a module of cyoptim. Other reports, of Python and NumPy alone, are ignored.
#
#     tools/run_memcheck.sh [PYTEST ARGUMENTS]
#
# Needs valgrind, which does not support AVX-512: the AVX2 kernels run.
set -euo pipefail
cd "$(dirname "$0")/.."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ $# = 0 ]; then
  set -- tests/algorithms/test_trajectories.py tests/engine/test_accumulate.py tests/engine/test_room.py
fi

isa=baseline
if grep -q avx2 /proc/cpuinfo; then isa=avx2; fi
CYOPTIM_ISA=$isa OMP_NUM_THREADS=2 OPENBLAS_NUM_THREADS=1 PYTHONMALLOC=malloc valgrind --tool=memcheck \
  --num-callers=30 --log-file="$log" python -m pytest -q -p no:cacheprovider "$@"

# A report is a block of lines that begin with "==PID==", up to a line with nothing else.
ours=$(sed -E 's/^==[0-9]+== ?//' "$log" | awk -v RS= '/(at|by) 0x/ && /(cyoptim|_kernels_|_engine\.|kernel\.c)/')
if [ -n "$ours" ]; then
  echo "$ours" >&2
  exit 1
fi
tail -n 3 "$log"
echo "memcheck: nothing in cyoptim's modules"
