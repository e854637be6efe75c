"""SIGKILL at random moments: after resuming, is the result that of an unbroken run? One JSON line.

    python -m benchmarks.robustness.kills --kills 100 --out docs/results/kills.json

`invert --out`, `embed --shards`, `embed --out` and `train` run on tiny data made here. Each is started, killed after a
random time, resumed, killed again, until so many kills have hit a process that was alive; then it is left to finish.
Files are compared byte by byte (for `train` every tensor of the state), and the ids of rows are counted: every one must
be there once. Half of the kills come at any time of a run, half after its first finished piece is on the disk. What
comes out is how many kills hit, how many of them left finished work behind, and what was lost, doubled or different.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import emit, machine

RECIPE = """
[model]
width = 16
layers = 1
heads = 2
prefix_tokens = 2
init_embeddings = false
[data]
encoder = "hashing:32"
limit = 12
batch_size = 8
[objective]
shortlist_frequent = 100
shortlist_sampled = 50
[run]
steps = 300
compile = "no"
precision = "fp32"
threads = 1
save_every = 0.05
validate_every = 1e9
[validation]
texts = 16
decoded = 4
"""
WORDS = "the a cat dog saw found old red house tree near behind and under small bird".split()
BAD = ("lost", "doubled", "different", "leftovers")
ROWS, TEXTS = 2560, 20_000
ENCODER = ("--encoder", "hashing:32", "--max-length", "12")


def make_place(folder: Path) -> dict[str, Path]:
    """Texts, a recipe, vectors and a trained model."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(TEXTS)]
    place = {name: folder / name for name in ("texts.tsv", "recipe.toml", "v.parquet", "shards", "model")}
    place["texts.tsv"].write_text("".join(f"s{i % 3}\t{text}\n" for i, text in enumerate(texts)))
    place["recipe.toml"].write_text(RECIPE)
    call("embed", place["texts.tsv"], "--shards", place["shards"], *ENCODER, "--limit-rows", "2000")
    call("embed", place["texts.tsv"], "--out", place["v.parquet"], *ENCODER, "--limit-rows", str(ROWS))
    train(place, folder / "model").finish()
    return place


class Process:
    """`unembed` in a process of its own, with its stderr in a file."""

    def __init__(self, *args: str | Path) -> None:
        self._command = [sys.executable, "-m", "unembed", *map(str, args)]
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=self._errors)

    def ended(self, seconds: float) -> bool:
        """Wait so long; say whether it has ended.

        Raises:
            RuntimeError: it failed.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        with self._errors as errors:
            if code:
                errors.seek(0)
                raise RuntimeError(f"{' '.join(self._command)} ended with {code}: {errors.read().decode()}")
        return True

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._errors.close()

    def finish(self) -> None:
        """Wait for its end."""
        assert self.ended(600)


def call(*args: str | Path) -> None:
    """Run `unembed` to its end."""
    Process(*args).finish()


def train(place: dict[str, Path], out: Path) -> Process:
    """Train, or go on where there is a state."""
    more = ["--resume"] if (out / "state.safetensors").exists() else []
    setting = ["--set", f'data.shards="{place["shards"]}"']
    return Process("train", place["recipe.toml"], "--out", out, *setting, *more)


def invert(place: dict[str, Path], out: Path) -> Process:
    """Invert into a file, or go on."""
    model = place["model"] / "checkpoint"
    decoding = ("--strategy", "sequential", "--passes", "2", "--lengths", "1", "--tokens")
    return Process("invert", place["v.parquet"], "--model", model, "--out", out / "o.csv", *decoding, "--resume")


def embed_shards(place: dict[str, Path], out: Path) -> Process:
    """Embed into shards; goes on by itself."""
    return Process("embed", place["texts.tsv"], "--shards", out, *ENCODER, "--shard-size", "500")


def embed_file(place: dict[str, Path], out: Path) -> Process:
    """Embed into a file, or go on."""
    return Process("embed", place["texts.tsv"], "--out", out / "o.parquet", *ENCODER, "--resume")


RUNS: dict[str, Callable[[dict[str, Path], Path], Process]] = {
    "invert": invert,
    "embed-shards": embed_shards,
    "embed-file": embed_file,
    "train": train,
}


def begun(out: Path) -> bool:
    """Whether a piece of work is finished and kept: a chunk, a shard in the manifest, a state."""
    return any(out.glob("*.partial/chunk-*")) or any(
        (out / name).exists() for name in ("manifest.json", "state.safetensors")
    )


def rows_of(out: Path) -> list[int]:
    """The ids in the file that was made, or the steps at which a training log was validated, in their order."""
    if (out / "log.jsonl").exists():
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        return [line["step"] for line in lines if line["kind"] == "validation"]
    if (out / "o.csv").exists():
        with open(out / "o.csv", newline="") as stream:
            return [int(row["id"]) for row in csv.DictReader(stream)]
    if (out / "o.parquet").exists():
        import pyarrow.parquet as pq

        found: list[int] = pq.read_table(out / "o.parquet")["id"].to_pylist()
        return found
    return []


def content(out: Path) -> dict[str, object]:
    """What is compared: bytes of files, tensors of a training state."""
    from safetensors.numpy import load_file

    found: dict[str, object] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.name == "state.safetensors":
            found |= {f"{name}/{k}": v.tobytes() for k, v in load_file(path).items()}
        elif path.suffix in (".npy", ".csv", ".parquet") or path.name == "manifest.json":
            found[name] = path.read_bytes()
    return found


def torture(name: str, place: dict[str, Path], folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """Kill one command `kills` times, let it finish, and compare it to an unbroken run.

    Returns:
        {"command", "seconds", "kills", "kept", "starts", "runs", "lost", "doubled", "different", "leftovers"}: seconds
        of an unbroken run, kills, those that left finished work behind, rows that were lost or doubled, runs that
        differ from the unbroken one, files that it has not.
    """
    run, rng = RUNS[name], random.Random(f"{seed} {name}")
    whole = folder / "whole"
    whole.mkdir(parents=True)
    start = time.perf_counter()
    run(place, whole).finish()
    length = time.perf_counter() - start
    expected, names = content(whole), {path.relative_to(whole) for path in whole.rglob("*")}
    ids = rows_of(whole)
    found: dict[str, Any] = dict.fromkeys(("kills", "kept", "starts", "runs", *BAD), 0)
    while found["kills"] < kills:  # when it finishes before a kill, another run begins
        out = folder / f"killed-{found['runs']}"
        out.mkdir()
        ended = False
        while not ended:
            process = run(place, out)
            found["starts"] += 1
            if found["kills"] >= kills:
                process.finish()
                break
            if rng.random() < 0.5:
                ended = process.ended(rng.uniform(0, 1.1) * length)
            else:
                while not ended and not begun(out):
                    ended = process.ended(0.01)
                ended = ended or process.ended(rng.uniform(0, 0.6) * length)
            if not ended:
                process.kill()
                found["kills"] += 1
                found["kept"] += begun(out)
        counted = Counter(rows_of(out))
        found["lost"] += len(set(ids) - set(counted))
        found["doubled"] += sum(counted.values()) - len(counted)
        found["different"] += content(out) != expected
        found["leftovers"] += len({path.relative_to(out) for path in out.rglob("*")} - names)
        found["runs"] += 1
        shutil.rmtree(out)
    return {"command": name, "seconds": round(length, 2), **found}


def main() -> None:
    """Parse the options, kill, print; exit 1 where a result differs from that of an unbroken run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in all, shared by invert, embed and train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--out", type=Path, help="also write the line to this file, indented")
    args = parser.parse_args()
    shares = [(args.kills - i - 1) // 3 + 1 for i in range(3)]
    share = {
        "invert": shares[0],
        "embed-shards": (shares[1] + 1) // 2,
        "embed-file": shares[1] // 2,
        "train": shares[2],
    }
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        place = make_place(Path(name))
        runs = [torture(c, place, Path(name) / f"runs-{c}", share[c], args.seed) for c in args.commands]
    totals = {key: sum(run[key] for run in runs) for key in ("kills", "kept", *BAD)}
    seconds = round(time.perf_counter() - began, 1)
    found = {"benchmark": "kills", "seed": args.seed, **totals, "runs": runs, "seconds": seconds, "machine": machine()}
    emit(found)
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if any(totals[key] for key in BAD) else 0)


if __name__ == "__main__":
    main()
