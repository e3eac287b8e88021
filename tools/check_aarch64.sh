#!/usr/bin/env bash
# Cross-compiles for aarch64, runs the tests of the kernels on it under qemu, and compares its results
# with this machine's, bit for bit, for every element-wise optimizer in float32 and float64.
#
#     tools/check_aarch64.sh [PYTEST ARGUMENTS]
#
# Needs Debian's gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user-static, and a cyoptim built for this machine, with
# cython, cython-cmake, cmake, ninja, numpy, pytest and hypothesis, in the Python that is first on PATH.
# Programs for aarch64 are Debian's own, unpacked into a temporary folder. It takes some minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
source_dir=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
root="$scratch/root"
say() { printf '\n== %s\n' "$*"; }

say "Python for aarch64"
mkdir -p "$scratch"/apt/{lists,cache}/partial "$scratch/debs" "$root"
touch "$scratch/apt/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root
  -o Dir::State::lists="$scratch/apt/lists" -o Dir::State::status="$scratch/apt/status"
  -o Dir::Cache="$scratch/apt/cache")
"${apt[@]}" update
(cd "$scratch/debs" && "${apt[@]}" download libc6 libgcc-s1 libstdc++6 libgomp1 zlib1g libexpat1 libffi8 \
  libbz2-1.0 liblzma5 libssl3 libsqlite3-0 libuuid1 libncursesw6 libtinfo6 libreadline8 libpython3.11-minimal \
  libpython3.11-stdlib python3.11-minimal libpython3.11-dev)
for package in "$scratch"/debs/*.deb; do dpkg -x "$package" "$root"; done
pip install --quiet --target "$scratch/site" --only-binary :all: --python-version 3.11 \
  --implementation cp --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
  --platform any numpy pytest hypothesis
arm() {
  OMP_NUM_THREADS=2 PYTHONHOME="$root/usr" PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$scratch/installed:$scratch/site:$source_dir/tests" \
    qemu-aarch64-static -L "$root" "$root/usr/bin/python3.11" "$@"
}
arm -c 'import platform, numpy; print(platform.machine(), platform.python_version(), numpy.__version__)'

say "cross-compilation"
cat > "$scratch/toolchain.cmake" <<CMAKE
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
CMAKE
cmake -S . -B "$scratch/build" -G Ninja -DCMAKE_TOOLCHAIN_FILE="$scratch/toolchain.cmake" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_INSTALL_PREFIX="$scratch/installed/cyoptim" \
  -DCMAKE_MODULE_PATH="$(python -c 'import cython_cmake, pathlib; print(pathlib.Path(cython_cmake.__file__).parent / "cmake")')" \
  -DPython_EXECUTABLE="$(command -v python)" -DPython_INCLUDE_DIR="$root/usr/include/python3.11" \
  -DPython_NumPy_INCLUDE_DIR="$(python -c 'import numpy; print(numpy.get_include())')" \
  -DCMAKE_C_FLAGS="-isystem $root/usr/include"
cmake --build "$scratch/build"
mkdir -p "$scratch/installed"
cp -r python/cyoptim "$scratch/installed/"
cmake --install "$scratch/build" > /dev/null
for module in "$scratch"/installed/cyoptim/*.so; do mv "$module" "${module%%.cpython*}.so"; done  # named for this machine
arm -c 'import cyoptim; cyoptim.show_config()'

say "the same bits"
digests='import json, sys; sys.path.insert(0, "."); from tests.engine.test_bits import all_digests; print(json.dumps(all_digests()))'
python -c "$digests" | tail -n 1 > "$scratch/here.json"
arm -c "$digests" > "$scratch/there.json"
python - "$scratch/here.json" "$scratch/there.json" <<'PYTHON'
import json, sys
here, there = (json.load(open(path)) for path in sys.argv[1:])
different = [name for name in here if here[name] != there.get(name)]
print(f"{len(here) - len(different)} of {len(here)} runs have the same bits")
sys.exit(f"different: {', '.join(different)}" if different or not here or len(here) != len(there) else 0)
PYTHON

say "tests"
arm -m pytest -q -p no:cacheprovider "${@:-tests/algorithms/test_trajectories.py}"
