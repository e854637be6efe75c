#!/usr/bin/env bash
# First of two runs on a GPU machine that reaches no network: what is there, and the first minutes of training.
#
#   scripts/gpu_first.sh        from the root of the source tree; nothing has to be installed but the requirements
#
# PACK_A    packs to begin with; one of them holds the encoder                                  packs/a
# HELD      pack of held-out texts                                                              packs/validation
# TIME_A    length of the run                                                                   200s
# KEEP      what the second run finds again: packs, state, compiled code                        /tmp/keep
# OUT       what is brought back: the log                                                       /tmp/out
# TRAIN     further options of `unembed train`, such as "--device cpu --set model.width=64"
#
# Look at the log before the second run: under 20,000 texts a second, or a loss that rises, means another size or rate.
set -euo pipefail
: "${PACK_A:=packs/a}" "${HELD:=packs/validation}" "${TIME_A:=200s}" "${TRAIN:=}" "${PYTHON:=python3}"
: "${KEEP:=/tmp/keep}" "${OUT:=/tmp/out}"
export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$KEEP/inductor"
mkdir -p "$KEEP/packs" "$KEEP/held" "$OUT"
nvidia-smi --query-gpu=name,memory.total --format=csv 2>/dev/null || true
$PYTHON -c 'import torch; print("torch", torch.__version__, "CUDA", torch.cuda.is_available())'
names=()
for pack in $PACK_A; do
  cp -r "$pack" "$KEEP/packs/"
  names+=("\"$KEEP/packs/$(basename "$pack")\"")
done
cp -r "$HELD/." "$KEEP/held/"
(IFS=,; echo "[${names[*]}]") >"$KEEP/first"
# The rate stays at its peak: the fall is the second run's.
# shellcheck disable=SC2086
$PYTHON -m unembed train recipes/gpu.toml --out "$KEEP/run" --max-time "$TIME_A" --set run.horizon=none \
  --set "data.shards=$(cat "$KEEP/first")" --set "validation.shards=$KEEP/held" $TRAIN 2>&1 | tee "$OUT/first.txt"
cp "$KEEP/run/log.jsonl" "$OUT/first.jsonl"
tail -n 4 "$OUT/first.jsonl"
