#!/usr/bin/env bash
# Compiles every C source for Windows and macOS, on x86-64 and ARM64, and links what only Python is missing
# in. With Wine it also runs the allocator of mapped files.
#
#     tools/check_other_systems.sh
#
# Needs ziglang (a C compiler with the headers of these systems), cython and numpy in the Python that is first
# on PATH, pip, and for the last check Debian's wine64. It takes five minutes.
#
# Windows is that of MinGW's headers: what is written for Microsoft's compiler alone (_MSC_VER) is not
# compiled, nor are OpenMP's parts.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
say() { printf '\n== %s\n' "$*"; }
zig() { python -m ziglang cc "$@"; }

say "Cython"
directives=(-3 -X cdivision=True -X wraparound=False -X initializedcheck=False -X freethreading_compatible=True -I src -I python)
transpile() { # MODULE DIRECTIVE ...
  cython "${directives[@]}" "${@:2}" --module-name "cyoptim.$1" "src/$1.pyx" -o "$scratch/$1.c"
}
transpile _engine -X boundscheck=True -X nonecheck=True
transpile kernel -X boundscheck=False
transpile _kernels -X boundscheck=False
cp src/_cpu.c "$scratch"

say "headers"
python_headers=$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')
cp -r "$python_headers" "$scratch/macos"
cp -r "$python_headers" "$scratch/windows"
# What Python's headers ask of 64-bit Windows; those of this machine are for its own system.
cat > "$scratch/windows/pyconfig.h" <<'HEADER'
#ifndef Py_CONFIG_H
#define Py_CONFIG_H
#include <float.h>
#include <io.h>
#define MS_WIN32
#define MS_WIN64
#define MS_WINDOWS
#define NT_THREADS
#define HAVE_DECLSPEC_DLL
#define PLATFORM "win32"
#define SIZEOF_SHORT 2
#define SIZEOF_INT 4
#define SIZEOF_LONG 4
#define SIZEOF_LONG_LONG 8
#define SIZEOF_VOID_P 8
#define SIZEOF_SIZE_T 8
#define SIZEOF_TIME_T 8
#define SIZEOF_WCHAR_T 2
#define SIZEOF_PID_T 4
#define HAVE_ERRNO_H 1
#define HAVE_STDDEF_H 1
#define HAVE_SYS_STAT_H 1
#define HAVE_SYS_TYPES_H 1
#define HAVE_WCHAR_H 1
#define DOUBLE_IS_LITTLE_ENDIAN_IEEE754 1
#endif
HEADER
numpy_for() { # PLATFORM: NumPy's headers, of its wheel, in $scratch/numpy/PLATFORM
  pip download --quiet --no-deps --only-binary :all: --platform "$1" --dest "$scratch/wheels/$1" numpy
  python -m zipfile -e "$scratch/wheels/$1"/*.whl "$scratch/numpy/$1"
}
defines=(-DNPY_NO_DEPRECATED_API=NPY_2_0_API_VERSION -DNPY_TARGET_VERSION=NPY_1_22_API_VERSION)
warnings=(-Werror=implicit-function-declaration -Werror=int-conversion -Werror=incompatible-pointer-types -Wno-error=incompatible-pointer-types-discards-qualifiers -Werror=shift-count-overflow)
compiled() { # TARGET PYTHON NUMPY SOURCE [FLAG ...]: $scratch/TARGET/SOURCE.o
  mkdir -p "$scratch/$1"
  zig -target "$1" -std=gnu11 -c -fno-sanitize=undefined "${warnings[@]}" "${defines[@]}" -I src -I python/cyoptim/include -I "$scratch/$2" \
    -I "$scratch/numpy/$3/numpy/_core/include" "${@:5}" "$4" -o "$scratch/$1/$(basename "$4" .c).o" \
    2> "$scratch/log" || { cat "$scratch/log" >&2; return 1; }
}
linked() { # TARGET MODULE: nothing but Python's symbols is missing
  ! zig -target "$1" -shared -o "$scratch/$1/$2.so" "$scratch/$1/$2.o" 2> "$scratch/log" # Python is missing
  grep -Eq 'undefined symbol: .*Py' "$scratch/log"
  if grep 'undefined symbol' "$scratch/log" | grep -Ev 'symbol: (__declspec\(dllimport\) )?_*Py'; then return 1; fi
}
avx2=(-mavx2 -mfma -mf16c)
avx512=(-mavx512f -mavx512dq -mavx512bw -mavx512vl -mprefer-vector-width=512 "${avx2[@]}")
while read -r target headers platform; do
  say "$target"
  numpy_for "$platform"
  for module in _cpu _engine kernel _kernels; do
    compiled "$target" "$headers" "$platform" "$scratch/$module.c" -O0
    linked "$target" "$module"
  done
  if [ "$target" = x86_64-windows-gnu ]; then
    compiled "$target" "$headers" "$platform" "$scratch/_kernels.c" -O1 "${avx2[@]}"
    compiled "$target" "$headers" "$platform" "$scratch/_kernels.c" -O1 "${avx512[@]}"
    compiled "$target" "$headers" "$platform" "$scratch/_kernels.c" -O1 -mavx512bf16 -mavx512vbmi "${avx512[@]}"
  fi
  echo "compiled and linked"
done <<'TARGETS'
x86_64-windows-gnu windows win_amd64
aarch64-windows-gnu windows win_arm64
x86_64-macos macos macosx_14_0_x86_64
aarch64-macos macos macosx_14_0_arm64
TARGETS

say "mapped files on Windows"
program="$scratch/file_memory.exe"
zig -target x86_64-windows-gnu -Wno-inconsistent-dllimport "${defines[@]}" -DNO_IMPORT_ARRAY -I src -I "$scratch/windows" \
  -I "$scratch/numpy/win_amd64/numpy/_core/include" tools/file_memory_on_windows.c -o "$program"
wine=$(command -v wine64 || command -v /usr/lib/wine/wine64 || true)
if [ -n "$wine" ]; then
  (cd "$scratch" && WINEPREFIX="$scratch/wine" WINEDEBUG=-all "$wine" "$program")
  echo "as on other systems"
else
  echo "compiled; there is no Wine to run it"
fi
