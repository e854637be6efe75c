"""Recipe against recipe at equal texts, equal order and equal seed: one change a run, a row each, paired with the base.

    python -m benchmarks.experiments.experiments --shards SHARDS --validation SHARDS --patches FOLDER

Every variant sees all texts of the shards once (no draw of them, which would follow the seed), the learning rate
falling to zero with the last, in a process of its own; rows that the file has already are skipped, so a broken-off
series goes on where it stopped. What all variants share stands in `SHARED`: 16,384 texts of it take two to three
minutes of an AVX2 core, scoring included. A variant is a change of the recipe, or a patch of the source: NAME.patch in
the folder of patches, its first line saying what it changes, is applied to a copy that only this variant runs with.

A row holds nats a token left to right and with masks (the bound, the same masks for all) over the whole vocabulary,
token_f1, BLEU and exact match of drafts, all with 95% intervals over texts, and the interval of each text's difference
to the base. Two seeds of the base ("seed-1") say how large a difference has to be to mean anything. docs/log.md quotes
the file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unembed.checkpoint.checkpoint import load_checkpoint
from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.machine import describe
from unembed.metrics.bootstrap import Statistic, summary
from unembed.metrics.text import text_statistics
from unembed.network.denoiser import Denoiser
from unembed.training.loop import train
from unembed.training.losses.rows import full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import ValidationPart
from unembed.training.validation import Validation

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = [
    "model.width=192",
    "model.heads=3",
    "model.layers=3",
    "model.embedding_dim=384",  # that of the encoder's own table
    "data.batch_size=96",
    "objective.shortlist_frequent=1000",
    "objective.shortlist_sampled=500",
    "optimizer.warmup=30",
    "optimizer.ema=0.98",
    "run.precision='fp32'",
    "run.compile='no'",
    "run.horizon='steps'",  # without steps and without a box: one epoch
    "run.steps=0",
    "run.max_time=''",
    "run.validate_every=1e6",
    "run.save_every=1e6",
    "run.store_dtype='fp32'",
    "validation.texts=64",
    "validation.decoded=0",
]
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "base": ("the recipe as it is", []),
    "seed-1": ("the base with another seed", ["run.seed=1"]),
    "causal-70": ("causal share 0.7", ["objective.causal_share=0.7"]),
    "causal-90": ("causal share 0.9", ["objective.causal_share=0.9"]),
    "causal-50": ("causal share 0.5", ["objective.causal_share=0.5"]),
    "muon-48e-4": ("Muon at 4.8e-3", ["optimizer.muon_lr=4.8e-3"]),
    "muon-12e-4": ("Muon at 1.2e-3", ["optimizer.muon_lr=1.2e-3"]),
    "lr-24e-4": ("AdamW's part at 2.4e-3 too", ["optimizer.lr=2.4e-3"]),
    "prefix-1": ("1 prefix token", ["model.prefix_tokens=1"]),
    "prefix-16": ("16 prefix tokens", ["model.prefix_tokens=16"]),
    "adamw": ("AdamW alone", ["optimizer.matrices='adamw'"]),
    "blocks-6": ("6 blocks", ["model.layers=6"]),
    "blocks-8": ("8 blocks", ["model.layers=8"]),
}
WAYS = {
    "left-to-right": DecodeConfig(strategy="left-to-right"),
    "draft-correct": DecodeConfig(strategy="draft-correct", passes=4, remask_rate=0.3),
}
SHOWN = ("token_f1", "bleu", "exact_match")


@torch.no_grad()
def nats(denoiser: Denoiser, batches: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Nats of each text and the tokens that they are over, (n, 2) each: left to right (the end is one more), masks."""
    generator = torch.Generator().manual_seed(17)
    config = denoiser.config
    found: dict[str, list[np.ndarray]] = {"left-to-right": [], "masks": []}
    for ids_array, vectors in batches:
        ids = torch.from_numpy(ids_array)
        condition = denoiser.condition(torch.from_numpy(vectors))
        causal = prepare_causal(ids, config.bos_id, config.eos_id)
        masked = prepare_masked(ids, generator, "bound")
        for name, rows, tokens in (
            ("left-to-right", causal, ids.shape[1] + 1),
            ("masks", masked, ids.shape[1]),
        ):
            entropies = rows_loss(denoiser, condition, rows, full_columns(denoiser, rows.causal))[1]
            summed = torch.zeros(len(ids)).index_add_(0, rows.owner, entropies * rows.weights)
            found[name].append(np.stack([summed.numpy(), np.full(len(ids), float(tokens))], axis=1))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def rounded(rows: np.ndarray) -> dict[str, float]:
    """The ratio of the two columns' sums, with its interval over texts."""
    return {k: round(v, 4) for k, v in summary(Statistic(rows)).items()}


def measure(checkpoint: str, arguments: argparse.Namespace, own: Path, base: Path) -> dict[str, Any]:
    """Score a checkpoint; each text's figures go to `own`, and those of the base are read from `base`."""
    loaded = load_checkpoint(checkpoint)
    denoiser = loaded.denoiser.train(False)
    display = Tokenizer.from_json(loaded.tokenizer_json).detokenize
    held_out = ShardDataset(arguments.validation)
    part = ValidationPart(texts=arguments.nats, decoded=0)
    by_text = {f"nats/{k}": v for k, v in nats(denoiser, Validation(held_out, part).batches).items()}
    chosen = np.sort(np.random.default_rng(part.seed).permutation(len(held_out.lengths))[: arguments.n])
    ids, lengths, vectors = held_out.gather(chosen)
    truth = [row[:n].tolist() for row, n in zip(ids, lengths, strict=True)]
    figures: dict[str, Any] = {}
    for way in arguments.ways:
        config = WAYS[way]
        drafts: list[list[int]] = []
        for i in range(0, len(vectors), 50):
            drafts += [list(d.ids) for d in decode(denoiser, torch.from_numpy(vectors[i : i + 50]), config)]
        statistics = text_statistics(drafts, truth, display)
        figures |= {f"{way}/{k}": {n: round(v, 4) for n, v in summary(statistics[k]).items()} for k in SHOWN}
        f1 = statistics["token_f1"].per_text
        by_text[f"{way}/token_f1"] = np.stack([f1, np.ones_like(f1)], axis=1)
    figures |= {name: rounded(rows) for name, rows in by_text.items() if name.startswith("nats/")}
    np.savez(own, **by_text)  # type: ignore[arg-type]
    if own != base and base.exists():
        with np.load(base) as others:
            for name, rows in by_text.items():
                if name not in others:
                    continue
                less = np.stack([rows[:, 0] - others[name][:, 0], rows[:, 1]], axis=1)
                figures[f"{name} less base"] = rounded(less)
    return figures


def variants(arguments: argparse.Namespace) -> dict[str, tuple[str, list[str]]]:
    """Changes of the recipe, and the patches of the folder: name, what it changes, overrides."""
    found = dict(VARIANTS)
    for path in sorted(Path(arguments.patches).glob("*.patch")) if arguments.patches else []:
        found[path.stem] = (path.read_text().splitlines()[0], [])
    return found


def source_of(name: str, arguments: argparse.Namespace) -> Path:
    """The source that a variant runs with: the tree's, or a patched copy of it."""
    source = Path(arguments.source)
    if name in VARIANTS:
        return source
    copy = Path(arguments.runs) / f"{name}-source" / "src"
    shutil.rmtree(copy.parent, ignore_errors=True)
    shutil.copytree(source, copy)
    patch = Path(arguments.patches).resolve() / f"{name}.patch"
    subprocess.run(["patch", "--quiet", "--strip=1", "--input", str(patch)], cwd=copy.parent, check=True)
    return copy


def run_one(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and measure one variant; its row."""
    folder = Path(arguments.runs)
    setting, overrides = variants(arguments)[name]
    fixed = [
        f"data.shards={arguments.shards!r}",
        f"validation.shards={arguments.validation!r}",
        f"run.seed={arguments.seed}",
        f"run.threads={arguments.threads}",
    ]
    recipe = Recipe.load(arguments.recipe, [*SHARED, *fixed, *arguments.set, *overrides])
    shutil.rmtree(folder / name, ignore_errors=True)  # what a broken-off run left
    result = train(recipe, folder / name, device="cpu")
    trained = time.process_time()
    metrics = measure(result.checkpoint, arguments, folder / f"{name}.npz", folder / "base.npz")
    return {
        "name": name,
        "setting": setting,
        "overrides": overrides,
        "recipe": arguments.recipe,
        "set": [*SHARED, *arguments.set],
        "machine": describe()["summary"],
        "threads": arguments.threads,
        "seed": recipe.run.seed,
        "n": {"nats": arguments.nats, "decoded": arguments.n},
        "data": arguments.validation,
        "texts": result.texts,
        "steps": result.steps,
        "cpu_seconds": {"training": round(trained, 1), "scoring": round(time.process_time() - trained, 1)},
        "metrics": metrics,
    }


def main() -> None:
    """Run the variants that the file lacks, one after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="recipes/default.toml")
    parser.add_argument("--shards", required=True, help="the training texts, each seen once")
    parser.add_argument("--validation", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nats", type=int, default=1000, help="held-out texts for the nats")
    parser.add_argument("--n", type=int, default=500, help="held-out texts decoded")
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS), help="how drafts are made")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="a change of the recipe that all variants share")
    parser.add_argument("--patches", default="", help="folder of NAME.patch, each a variant of the source")
    parser.add_argument("--source", default=str(REPOSITORY / "src"), help="the source that is run and patched")
    parser.add_argument("--runs", default="runs/experiments")
    parser.add_argument("--out", default="docs/results/experiments.json")
    parser.add_argument("--variants", nargs="*", help="only these; all without it")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    out = Path(arguments.out)
    if arguments.one:
        row = run_one(arguments.one, arguments)
        rows = json.loads(out.read_text()) if out.exists() else []
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([*rows, row], indent=1) + "\n")
        return
    known = variants(arguments)
    if unknown := set(arguments.variants or ()) - set(known):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in arguments.variants or known:
        if out.exists() and any(row["name"] == name for row in json.loads(out.read_text())):
            continue
        command = [sys.executable, "-m", "benchmarks.experiments.experiments", *sys.argv[1:], "--one", name]
        path = str(source_of(name, arguments))
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": path}
        code = subprocess.run(command, env=environment, check=False).returncode
        sys.stderr.write(f"{name}: {'failed' if code else 'done'}\n")


if __name__ == "__main__":
    main()
