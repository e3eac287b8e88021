#!/usr/bin/env bash
# Runs the steps of a release on this machine: an sdist, and from it a wheel for each Python, repaired,
# checked, installed with NumPy alone into its own environment, and tested there.
#
#     tools/check_wheel.sh [PYTHON ...]       python3.11 python3.12 ...; python3 if none is named
#
# The first Python is also tested with the oldest supported NumPy. Needs auditwheel's patchelf. Wheels
# remain in dist/.
set -euo pipefail
cd "$(dirname "$0")/.."
pythons=("${@:-python3}")
oldest_numpy=1.26.0
most_wheel=3400000  # bytes
most_sdist=1600000  # half of it are the tests, with the stored results that they compare with

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
say() { printf '\n== %s\n' "$*"; }
check_size() { # FILE MOST
  local size
  size=$(stat -c %s "$1")
  say "$(basename "$1"): $size bytes"
  if [ "$size" -gt "$2" ]; then
    echo "more than $2" >&2
    return 1
  fi
}
test_wheel() { # ENVIRONMENT [REQUIREMENT ...]
  local environment=$1
  shift
  "$environment/bin/python" -m pip install --quiet pytest hypothesis cython "setuptools>=77" "$@"
  "$environment/bin/python" -c "import cyoptim; cyoptim.show_config()"
  # From the sdist's own tests, outside of any checkout.
  (cd "$scratch/source" && "$environment/bin/python" -m pytest -q -p no:cacheprovider)
}

python3 -m venv "$scratch/tools"
"$scratch/tools/bin/pip" install --quiet --upgrade pip
"$scratch/tools/bin/pip" install --quiet build auditwheel patchelf check-wheel-contents
export PATH="$scratch/tools/bin:$PATH"

say "sdist"
"$scratch/tools/bin/python" -m build --sdist --outdir "$scratch/dist" . > "$scratch/log" 2>&1 ||
  { tail -50 "$scratch/log" >&2; exit 1; }
sdist=$(echo "$scratch"/dist/*.tar.gz)
check_size "$sdist" $most_sdist
mkdir "$scratch/source"
tar -xf "$sdist" -C "$scratch/source" --strip-components=1

number=0
for python in "${pythons[@]}"; do
  number=$((number + 1))
  say "$python: $("$python" --version)"
  "$python" -m venv "$scratch/$number"
  "$scratch/$number/bin/python" -m pip install --quiet --upgrade pip
  "$scratch/$number/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$scratch/raw$number" "$sdist"
  auditwheel repair --wheel-dir "$scratch/dist" "$scratch/raw$number"/*.whl
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  wheel=$(echo "$scratch"/dist/*-"$tag"-*.whl)
  check_size "$wheel" $most_wheel
  check-wheel-contents "$wheel"
  "$scratch/$number/bin/python" -m pip install --quiet "$wheel"
  "$scratch/$number/bin/python" -m pip list
  test_wheel "$scratch/$number"
  if [ "$number" = 1 ]; then
    say "$python with NumPy $oldest_numpy"
    test_wheel "$scratch/$number" "numpy==$oldest_numpy"
  fi
done
mkdir -p dist
cp "$scratch"/dist/* dist/
