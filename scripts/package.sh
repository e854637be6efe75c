#!/usr/bin/env bash
# Build the sdist and the wheel, install each into an environment of its own outside the source tree, and use it there.
#
#   scripts/package.sh [PYTHON]     PYTHON has the extra `dev` installed; default .venv/bin/python
#
# The environments share PYTHON's packages through a .pth file. The .pth files in such a folder are not read, so the
# editable install is not seen: what is imported is what was installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "${1:-.venv/bin/python}")
root=$PWD
work=$(mktemp -d "${TMPDIR:-/tmp}/unembed-package.XXXXXX")
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH

files() { "$python" -m zipfile --list "$1" | awk 'NR > 1 { print $1 }' | sort; }

# `build` makes the sdist from the tree, and a wheel from that sdist; then once more a wheel from the tree itself.
"$python" -m build --no-isolation --outdir "$work/dist" . >"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; exit 1; }
"$python" -m build --no-isolation --wheel --outdir "$work/tree" . >>"$work/build.log" 2>&1 ||
  { cat "$work/build.log" >&2; exit 1; }
diff <(files "$work"/dist/*.whl) <(files "$work"/tree/*.whl) ||
  { echo "the wheel of the sdist and the wheel of the tree hold different files" >&2; exit 1; }

mkdir "$work/sdist"
tar -xzf "$work"/dist/*.tar.gz -C "$work/sdist" --strip-components=1
# Everything that git follows is in the sdist, so that it can be tested, built and changed like a checkout.
if git rev-parse --git-dir >/dev/null 2>&1; then
  git ls-files | while IFS= read -r path; do
    [ -e "$work/sdist/$path" ] || { echo "the sdist lacks $path" >&2; exit 1; }
  done
fi

use() { # name, wheel
  local venv=$work/$1 site
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps "$2"
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  "$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/shared.pth"
  (
    cd "$work"
    export PATH="$venv/bin:$PATH"
    python -c 'import sys, unembed; sys.exit(0 if unembed.__file__.startswith(sys.prefix) else unembed.__file__)'
    unembed --version
    unembed doctor --json | python -c 'import json, sys; assert json.load(sys.stdin)["ok"]'
    unembed models verify --json >/dev/null
    unembed invert "$root/examples/vectors.parquet" --limit-rows 2 --json |
      python -c 'import json, sys; rows = [json.loads(line) for line in sys.stdin]; assert len(rows) == 2, rows'
  )
  echo "the wheel of the $1: installed and used outside the source tree"
}
use tree "$(echo "$work"/tree/*.whl)"
use sdist "$(echo "$work"/dist/*.whl)"
ls -l "$work"/dist | awk 'NR > 1 { printf "%s %.1f MiB\n", $NF, $5 / 1048576 }'
