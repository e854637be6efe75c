#!/usr/bin/env bash
# Write requirements.lock: every package of every extra at the version in constraints.txt, with the sha256 of its files.
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
"$work/venv/bin/uv" pip compile pyproject.toml --all-extras --quiet -c constraints.txt --generate-hashes \
  --python-version 3.11.7 --no-header --no-annotate "${options[@]}" -o "$work/lock"
{
  echo "# Written by scripts/lock.sh from pyproject.toml and constraints.txt. Install with:"
  echo "#   pip install --require-hashes -r requirements.lock && pip install --no-deps --no-build-isolation -e ."
  sed -E 's/^(torch==[0-9.]+)\+[a-z0-9]+/\1/' "$work/lock"
} >requirements.lock
