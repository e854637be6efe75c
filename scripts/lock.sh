#!/usr/bin/env bash
# Write requirements.lock (what the program needs) and requirements-dev.lock (every extra too): each package at the version
# in constraints.txt, with the sha256 of its files.
#
#   scripts/lock.sh                from the root of the source tree, after a change of pyproject.toml or constraints.txt
#
# The hash of torch is that of the build for CPUs which pip finds here; README.md says what to do elsewhere.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d "${TMPDIR:-/tmp}/unembed-lock.XXXXXX")
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
options=(--index-strategy unsafe-best-match)
for place in $(python3 -m pip config get global.extra-index-url 2>/dev/null || true); do
  options+=(--extra-index-url "$place")
done
for place in $(python3 -m pip config get global.find-links 2>/dev/null || true); do options+=(--find-links "$place"); done
printf 'hatchling\neditables\n' >"$work/build.in" # what builds the package, since a build in isolation would fetch it unchecked
lock() { # FILE, then options
  "$work/venv/bin/uv" pip compile pyproject.toml "$work/build.in" --quiet -c constraints.txt --generate-hashes \
    --python-version 3.11.7 --no-header --no-annotate "${options[@]}" "${@:2}" -o "$work/lock"
  {
    echo "# Written by scripts/lock.sh from pyproject.toml and constraints.txt; the Makefile installs it with --require-hashes."
    sed -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' "$work/lock"
  } >"$1"
}
lock requirements.lock
lock requirements-dev.lock --all-extras
