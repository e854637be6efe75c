#!/usr/bin/env bash
# Second run on the same machine: more texts, the rate falls to zero within the time, the checkpoint is brought back.
#
#   scripts/gpu_second.sh       after scripts/gpu_first.sh, with the same KEEP, OUT and TRAIN
#
# PACK_B    further packs, without the encoder; they go behind those of the first run           packs/b
# TIME_B    length of the run: what is left of the machine's time less a minute                 540s
#
# The first run's state stays as it was, so that a longer second run can begin from it again. The checkpoint lies in
# OUT/checkpoint, its weights in files of less than 16 MiB.
set -euo pipefail
: "${PACK_B:=packs/b}" "${TIME_B:=540s}" "${KEEP:=/tmp/keep}" "${OUT:=/tmp/out}" "${TRAIN:=}" "${PYTHON:=python3}"
export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR="$KEEP/inductor"
mkdir -p "$OUT"
names=()
for pack in $PACK_B; do
  cp -r "$pack" "$KEEP/packs/"
  names+=("\"$KEEP/packs/$(basename "$pack")\"")
done
first=$(cat "$KEEP/first")
shards=$(IFS=,; echo "${first%]},${names[*]}]")
# shellcheck disable=SC2086
$PYTHON -m unembed train recipes/gpu.toml --out "$KEEP/run" --cooldown "$TIME_B" --set run.horizon=none \
  --set "data.shards=$shards" --set "validation.shards=$KEEP/held" $TRAIN 2>&1 | tee "$OUT/second.txt"
cp "$KEEP/run/cooldown/log.jsonl" "$OUT/second.jsonl"
cp -r "$KEEP/run/cooldown/checkpoint" "$OUT/"
tail -n 4 "$OUT/second.jsonl"
ls -la "$OUT/checkpoint"
