#!/usr/bin/env bash
# Run the tests on every Python from 3.11 to 3.13 that this machine has.
#
#   scripts/matrix.sh                  the whole default suite on each; installs everything (torch too) for each
#   scripts/matrix.sh --smoke          what needs no torch: readers, writers, metrics, recipes, texts, --help
#   scripts/matrix.sh [--smoke] 3.12   only these versions
#
# A version is looked for as python3.X on PATH and in ~/.pyenv/versions. Environments are kept in .matrix/.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
smoke=0
if [ "${1:-}" = "--smoke" ]; then smoke=1; shift; fi
versions=("$@")
[ ${#versions[@]} -gt 0 ] || versions=(3.11 3.12 3.13)
light=(click hypothesis numpy pyarrow pytest rich sacrebleu safetensors tokenizers zstandard)
quick=(stores stores_more stores_stdin stores_damage metrics_text metrics_cosine bootstrap recipe sources detokenizer
  hashing_encoder cli_parts chunks)
quick=("${quick[@]/#/tests/unit/test_}")
quick=("${quick[@]/%/.py}")

find_python() {
  local path
  for path in "$(command -v "python$1")" "$HOME/.pyenv/versions/$1".*/bin/python; do
    if [ -x "$path" ] && "$path" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null; then
      echo "$path"
      return
    fi
  done
}

failed=0
for version in "${versions[@]}"; do
  base=$(find_python "$version")
  if [ -z "$base" ]; then echo "Python $version: not on this machine"; continue; fi
  began=$SECONDS
  if [ $smoke -eq 1 ]; then kind=smoke; else kind=full; fi
  venv=.matrix/$version-$kind
  pip=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt)
  { [ -x "$venv/bin/python" ] || "$base" -m venv "$venv"; } &&
    if [ $smoke -eq 1 ]; then
        "${pip[@]}" "${light[@]}" && "${pip[@]}" --no-deps -e . &&
          "$venv/bin/python" -W error -m compileall -q -f src &&
          "$venv/bin/unembed" --help >/dev/null &&
          "$venv/bin/unembed" models list >/dev/null &&
          "$venv/bin/python" -m pytest -q -k "not bfloat16" -p no:cacheprovider "${quick[@]}"
      else
        "${pip[@]}" -e ".[dev]" && "$venv/bin/python" -m pip check && "$venv/bin/python" -m pytest -q -p no:cacheprovider
    fi
  code=$?
  echo "Python $version ($kind): exit code $code after $((SECONDS - began)) s"
  [ $code -eq 0 ] || failed=1
done
exit $failed
