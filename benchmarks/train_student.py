"""Trains the student encoder that refinement forecasts with, beside a checkpoint.

    python benchmarks/train_corrector.py pairs --shards shards/train --out shards/drafts
    python benchmarks/train_student.py --shards shards/train --pairs shards/drafts --out runs/student --write

Nothing but pairs of text and vector is used, and the checkpoint's token table: no weight of the encoder.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path

import torch

from unembed.data.shards import ShardDataset
from unembed.inverter import Inverter
from unembed.model.shipped import find_checkpoint
from unembed.model.student import StudentConfig, StudentEncoder
from unembed.model.student_file import StudentFile, write_student
from unembed.training.draft_pairs import Pairs
from unembed.training.pair_feed import PairFolder
from unembed.training.recipe_parts import parse_duration
from unembed.training.student import StudentRun, student_cosine, train_student


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="default", help="checkpoint, which is not changed")
    parser.add_argument("--shards", required=True, help="training shards")
    parser.add_argument("--pairs", required=True, help="folder of pairs; parts that come in later are taken in")
    parser.add_argument("--validation", help="validation shards, for the log")
    parser.add_argument("--out", required=True, help="folder of the log and, without --write, of the student")
    parser.add_argument("--write", action="store_true", help="store the student in the checkpoint's own folder")
    parser.add_argument("--max-time", default="24m")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--mlp", type=int, default=768)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    inverter = Inverter.from_pretrained(args.model, device="cpu")
    c = inverter.denoiser.config
    shape = StudentConfig(
        c.vector_dim, c.limit, inverter.denoiser.embedding.weight.shape[1],
        args.width, args.layers, args.width // 64, args.mlp,
    )  # fmt: skip
    student = StudentEncoder(shape)
    for block in student.blocks:
        block.compile(dynamic=True)
    dataset = ShardDataset(args.shards)
    folder = PairFolder(args.pairs, len(dataset))
    pairs = folder.fresh() or Pairs.load(args.pairs)
    run = StudentRun(seconds=parse_duration(args.max_time), lr=args.lr, seed=args.seed)
    validation = ShardDataset(args.validation) if args.validation else None
    result = train_student(student, inverter.denoiser, dataset, pairs, run, args.out, validation, folder.fresh)
    cosine = student_cosine(student, inverter.denoiser, validation) if validation is not None else None
    notes = {
        "cosine_on_1000_validation_texts": cosine,
        "seconds": run.seconds,
        "texts": len(dataset),
        "pairs": len(pairs),
        "texts_seen": result["texts"],
        "run": asdict(run),
        "result": result,
        "licence": "CC BY-SA 4.0",
    }
    home = find_checkpoint(args.model) if args.write else Path(args.out)
    write_student(home, StudentFile(student.eval(), {}, notes), inverter.sha256)
    print(result)


if __name__ == "__main__":
    main()
