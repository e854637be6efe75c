"""The weighted average of two checkpoints of one shape: what a stretch of a long run adds to the weights before it.

    python -m scripts.average default NEW --validation shards/validation        # nats of averages, to choose a share
    python -m scripts.average default NEW --share 0.4 --out MODEL --dtype int6 --history "then ..."

OLD and NEW are names (`unembed models list`) or checkpoint folders; NEW is of a run that began from OLD (--init-from),
or of a cool-down of such a run. Tokenizer, calibration, default decode and closed-form codes are those of OLD; every
floating-point tensor is averaged. What NEW has seen is added to the notes, and figures of OLD go.
Student and corrector are trained beside the result (recipes/student.toml and corrector.toml, with --init-from OLD), and
scripts/ship.py calibrates it.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from unembed.checkpoint.shipped import find_checkpoint
from unembed.data.shards import ShardDataset
from unembed.errors import CheckpointError, DataError, UnembedError
from unembed.training.recipes.recipe_parts import ValidationPart
from unembed.training.validation import Validation


def average(old: dict[str, Tensor], new: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return (1 - share) old + share new, tensor by tensor; what is no floating-point tensor is the old one."""
    if old.keys() != new.keys() or any(old[name].shape != new[name].shape for name in old):
        raise CheckpointError(
            "The two checkpoints have networks of different shapes.", "Average a run with the model that it began from."
        )
    out = {}
    for name, value in old.items():
        mean = torch.lerp(value.float(), new[name].float(), share).to(value.dtype)
        out[name] = mean if value.is_floating_point() else value
    return out


def notes_of(old: dict[str, Any], new: dict[str, Any], history: str) -> dict[str, Any]:
    """The old notes without its figures, and what the new weights have seen beside them."""
    notes = {key: value for key, value in old.items() if key != "metrics"}
    if "data" in old or "data" in new:
        notes["data"] = list(dict.fromkeys([*old.get("data", []), *new.get("data", [])]))
    for key in ("steps", "texts_seen", "seconds"):
        notes[key] = round(old.get(key, 0) + new.get(key, 0), 1)
    if history:
        notes["history"] = f"{notes['history']}; {history}" if notes.get("history") else history
    return notes


def write(old: Checkpoint, new: Checkpoint, share: float, out: Path, dtype: str, history: str) -> None:
    """Write the average as a checkpoint; never over something."""
    if out.exists():
        raise DataError(f"{out} exists already.", "Give --out a folder that does not.")
    weights = average(old.denoiser.state_dict(), new.denoiser.state_dict(), share)
    old.denoiser.load_state_dict(weights)
    save_checkpoint(
        out,
        old.denoiser,
        old.tokenizer_json,
        old.identity,
        old.recipe,
        old.calibration,
        notes_of(old.notes, new.notes, history),
        dtype=dtype,
    )


def main() -> None:
    """Measure averages, or write one; a mistake is two sentences and exit code 2."""
    try:
        run()
    except UnembedError as error:
        sys.stderr.write(f"error: {error.what}\n{error.do}\n")
        raise SystemExit(2) from None


def run() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", help="name or folder of the model that the run began from")
    parser.add_argument("new", help="name or folder of the run's checkpoint")
    parser.add_argument("--share", type=float, help="of the new weights, 0 to 1")
    parser.add_argument("--out", type=Path, help="folder of the average; must not exist")
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "fp16", "int8", "int6"))
    parser.add_argument("--history", default="", help="what the new weights were trained on, for the card")
    parser.add_argument("--validation", help="validation shards (unembed embed --shards): print nats, write nothing")
    parser.add_argument(
        "--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 1.0], help="with --validation: shares of the new"
    )
    parser.add_argument("--texts", type=int, default=1000, help="with --validation: how many texts")
    args = parser.parse_args()
    paths = [find_checkpoint(model) for model in (args.old, args.new)]
    old, new = map(load_checkpoint, paths)
    if args.validation:
        part = ValidationPart(texts=args.texts, decoded=0)
        validation, network = Validation(ShardDataset(args.validation), part), load_checkpoint(paths[0]).denoiser
        for share in args.shares:
            network.load_state_dict(average(old.denoiser.state_dict(), new.denoiser.state_dict(), share))
            print(json.dumps({"share": share, "texts": args.texts, "seed": part.seed, **validation.loss(network)}))
        return
    if args.share is None or not 0 <= args.share <= 1 or args.out is None:
        parser.error("give --share, 0 to 1, and --out; or --validation")
    write(old, new, args.share, args.out, args.dtype, args.history)
    print(f"The average is {args.out}.")


if __name__ == "__main__":
    main()
