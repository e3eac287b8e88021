#!/usr/bin/env bash
# Tries every way to build, each in its own environment, and runs the tests on builds that differ.
#
#     tools/check_builds.sh [NAME ...]        all of them if none is named
#
#     ways       python -m build; pip wheel from the sdist; editable and plain installs, with and
#                without isolation: each imports and steps
#     clang      built by Clang with its own OpenMP (Debian: clang libomp-dev): all tests
#     serial     built without OpenMP: all tests
#     limited    built as Limited API, checked by abi3audit: all tests
#     native     built with -march=native: all tests
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
build_tools=("scikit-build-core>=1.0,<2" "cython>=3.3.1,<3.4" "cython-cmake>=0.3,<0.4" numpy cmake ninja)
step='import numpy as np, cyoptim; w = np.ones(3); cyoptim.Adam([w]).step(grads=[w]); cyoptim.show_config()'
say() { printf '\n== %s\n' "$*"; }
quietly() { "$@" > "$scratch/log" 2>&1 || { tail -n 60 "$scratch/log" >&2; return 1; }; }
environment() { # NAME [REQUIREMENT ...]: makes $scratch/NAME
  local name=$1
  shift
  python3 -m venv "$scratch/$name"
  quietly "$scratch/$name/bin/pip" install --upgrade pip "$@"
}
copy() { # NAME: a copy of what is committed or about to be, without anything built
  mkdir -p "$scratch/$1-source"
  git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$scratch/$1-source"
}
tested() { # NAME: all tests, on what the environment holds
  "$scratch/$1/bin/python" -c "$step"
  (cd "$scratch/$1-source" && "$scratch/$1/bin/python" -m pytest -q -p no:cacheprovider)
}
says() { # NAME PATTERN: whether show_config() does
  grep -q "$2" <<< "$("$scratch/$1/bin/python" -c "$step")" || { echo "$1: nothing like '$2'" >&2; return 1; }
}
built() { # NAME [PIP ARGUMENTS ...]: installed from a copy, then tested
  local name=$1
  shift
  environment "$name"
  copy "$name"
  (cd "$scratch/$name-source" && quietly "$scratch/$name/bin/pip" install "$@" ".[test]")
  tested "$name"
}

check_ways() {
  environment tools build "${build_tools[@]}"
  local number=0 python="$scratch/tools/bin/python"
  copy ways
  cd "$scratch/ways-source"
  say "python -m build"
  quietly "$python" -m build
  ls dist
  say "pip wheel from the sdist"
  quietly "$python" -m pip wheel --no-deps -w "$scratch/wheels" dist/*.tar.gz
  for arguments in "$scratch"/wheels/*.whl "." "-e ." "--no-build-isolation --no-index ." \
      "--no-build-isolation --no-index -Ceditable.rebuild=true -Cbuild-dir=build/dev -e ."; do
    number=$((number + 1))
    say "pip install $arguments"
    environment "way$number" "${build_tools[@]}"
    # shellcheck disable=SC2086
    quietly "$scratch/way$number/bin/pip" install $arguments
    PATH="$scratch/way$number/bin:$PATH" "$scratch/way$number/bin/python" -c "$step" | grep -v -E '^(ninja|--|Running|\[)'
  done
  cd - > /dev/null
}
check_clang() {
  CC=clang built clang
  says clang 'compiler  *Clang'
  says clang 'OpenMP  *20'
}
check_serial() {
  built serial -Ccmake.define.CYOPTIM_OPENMP=OFF
  says serial 'OpenMP  *no'
}
check_limited() {
  environment limited abi3audit
  copy limited
  cd "$scratch/limited-source"
  quietly "$scratch/limited/bin/pip" wheel --no-deps -Cwheel.py-api=cp311 -w "$scratch/abi3" .
  "$scratch/limited/bin/abi3audit" --strict --report "$scratch"/abi3/*-abi3-*.whl > "$scratch/report" 2>&1 ||
    { cat "$scratch/report" >&2; return 1; }
  echo "abi3audit: no violations in $(basename "$scratch"/abi3/*.whl)"
  quietly "$scratch/limited/bin/pip" install "$(echo "$scratch"/abi3/*.whl)[test]"
  cd - > /dev/null
  tested limited
}
check_native() {
  built native -Ccmake.define.CYOPTIM_KERNEL_FLAGS=-march=native
}

for name in "${@:-ways clang serial limited native}"; do
  for check in $name; do
    say "$check"
    "check_$check"
  done
done
