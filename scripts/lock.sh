#!/usr/bin/env bash
# Resolves requirements.in and requirements-dev.in into pinned files. Needs uv; review the diff before committing.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
uv pip compile -q --python-version 3.11 --no-annotate --no-header requirements.in -o "$work/run"
cat requirements.in requirements-dev.in >"$work/all.in"
uv pip compile -q --python-version 3.11 --no-annotate --no-header -c "$work/run" "$work/all.in" -o "$work/all"
sed -i 's/+cpu$//' "$work/run" "$work/all"
{ grep '^#' requirements.txt; cat "$work/run"; } >"$work/requirements.txt"
{ grep '^#' requirements-dev.txt; grep -vxFf "$work/run" "$work/all"; } >"$work/requirements-dev.txt"
mv "$work/requirements.txt" requirements.txt
mv "$work/requirements-dev.txt" requirements-dev.txt
