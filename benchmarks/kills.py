"""SIGKILL at random moments: after resuming, is the result that of an unbroken run? One JSON line.

    python benchmarks/kills.py --kills 100

`invert`, `embed --shards` and `train` run on tiny data made here. Each is started, killed after a random time, resumed,
killed again, until so many kills have hit a process that was alive; then it is left to finish. Files are compared
byte by byte (for `train` every tensor of the state). What comes out is how many kills hit and whether all is equal.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import emit, machine

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
steps = 150
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
COMMANDS = ("invert", "embed", "train")


def call(*args: str | Path, limit: float | None = None) -> bool:
    """Run `unembed`; kill it after `limit` seconds. Returns whether it ended by itself.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "unembed", *map(str, args)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return False
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {errors}")
    return True


def make_place(folder: Path) -> dict[str, Path]:
    """Texts, a recipe, vectors and a trained model."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, size=rng.integers(2, 9))) for _ in range(2000)]
    place = {name: folder / name for name in ("texts.tsv", "recipe.toml", "v.parquet", "shards", "model")}
    place["texts.tsv"].write_text("".join(f"s{i % 3}\t{text}\n" for i, text in enumerate(texts)))
    place["recipe.toml"].write_text(RECIPE)
    encoder = ("--encoder", "hashing:32", "--limit", "12")
    call("embed", place["texts.tsv"], "--shards", place["shards"], *encoder)
    call("embed", place["texts.tsv"], "--out", place["v.parquet"], *encoder, "--limit-rows", "640")
    train(place, folder / "model", False, None)
    return place


def train(place: dict[str, Path], out: Path, resume: bool, limit: float | None) -> bool:
    """Train, or go on where there is a state."""
    more = ["--resume"] if resume and (out / "state.safetensors").exists() else []
    setting = ["--set", f'data.shards="{place["shards"]}"']
    return call("train", place["recipe.toml"], "--out", out, *setting, *more, limit=limit)


def invert(place: dict[str, Path], out: Path, resume: bool, limit: float | None) -> bool:
    """Invert into a file, or go on."""
    out.mkdir(exist_ok=True)
    model = place["model"] / "checkpoint"
    more = ["--resume"] if resume else []
    return call(
        "invert", place["v.parquet"], "--model", model, "--out", out / "o.csv", "--passes", "2", *more, limit=limit
    )


def embed(place: dict[str, Path], out: Path, resume: bool, limit: float | None) -> bool:
    """Embed into shards; goes on by itself."""
    return call(
        "embed", place["texts.tsv"], "--shards", out, "--encoder", "hashing:32", "--limit", "12", "--shard-size", "100",
        limit=limit,
    )  # fmt: skip


RUNS: dict[str, Callable[[dict[str, Path], Path, bool, float | None], bool]] = {
    "invert": invert,
    "embed": embed,
    "train": train,
}


def content(out: Path) -> dict[str, object]:
    """What is compared: bytes of files, tensors of a training state."""
    from safetensors.numpy import load_file

    found: dict[str, object] = {}
    for path in sorted(p for p in out.rglob("*") if p.is_file()):
        name = str(path.relative_to(out))
        if path.name == "state.safetensors":
            found |= {f"{name}/{k}": v.tobytes() for k, v in load_file(path).items()}
        elif path.suffix in (".npy", ".csv") or path.name == "manifest.json":
            found[name] = path.read_bytes()
    return found


def torture(name: str, place: dict[str, Path], folder: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill one command `kills` times, let it finish, and compare it to an unbroken run.

    Returns:
        {"command", "kills", "starts", "equal"}.
    """
    run, rng = RUNS[name], random.Random(seed)
    start = time.perf_counter()
    run(place, folder / "whole", False, None)
    length = time.perf_counter() - start
    expected = content(folder / "whole")
    hits, starts, number, equal = 0, 0, 0, True
    while hits < kills:  # when it finishes before a kill, another run begins
        out = folder / f"killed-{number}"
        ended = False
        while not ended:
            limit = rng.uniform(0.3, 1.1) * length if hits < kills else None
            ended = run(place, out, starts > 0, limit)
            starts += 1
            hits += not ended
        equal = equal and content(out) == expected
        number += 1
    return {"command": name, "kills": hits, "starts": starts, "runs": number, "equal": equal}


def main() -> None:
    """Parse the options, kill, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = make_place(Path(name))
        runs = []
        for command in args.commands:
            folder = Path(name) / f"runs-{command}"
            folder.mkdir()
            runs.append(torture(command, place, folder, args.kills, args.seed))
    emit({"benchmark": "kills", "seed": args.seed, "runs": runs, "machine": machine()})


if __name__ == "__main__":
    main()
