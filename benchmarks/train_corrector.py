"""Make the pairs that a corrector learns from, and train it beside a frozen checkpoint.

    python benchmarks/train_corrector.py pairs --shards shards/train --out shards/drafts
    python benchmarks/train_corrector.py train --shards shards/train --pairs shards/drafts --out runs/corrector

Both can be cut and go on: `pairs` keeps the parts that are there, `train` writes `corrector.safetensors` every few
minutes. The sources that the checkpoint's recipe leaves out of training are left out here.
"""

from __future__ import annotations

import argparse
import json
import logging
import time

import numpy as np
import torch

from unembed.data.shards import ShardDataset
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder
from unembed.files import make_folder
from unembed.inverter import Inverter
from unembed.model.checkpoint import load_checkpoint
from unembed.model.corrector import Corrector
from unembed.model.corrector_file import read_corrector
from unembed.model.precision import lower_precision
from unembed.model.shipped import find_checkpoint
from unembed.training.corrector import CorrectorRun, train_corrector
from unembed.training.corruption import Corruption, similar_tokens
from unembed.training.draft_pairs import KINDS, PairMaker, Pairs
from unembed.training.memory import resolve_precision
from unembed.training.pair_feed import PairFolder
from unembed.training.recipe_parts import parse_duration

_log = logging.getLogger("train_corrector")
_PART = 4096


def training_rows(inverter: Inverter, dataset: ShardDataset, excluded: list[str], seed: int) -> np.ndarray:
    """Rows of the sources that are trained on, in a seeded order."""
    names = dataset.source_names
    kept = [i for i, name in enumerate(names) if name not in excluded]
    rows = np.flatnonzero(np.isin(np.asarray(dataset.sources), kept))
    return np.random.default_rng(seed).permutation(rows)


def encoder_of(inverter: Inverter, precision: str) -> Encoder:
    """The checkpoint's encoder; "" for its own precision."""
    return load_encoder(inverter.identity.name, precision=precision) if precision else inverter.encoder


def make_pairs(args: argparse.Namespace) -> None:
    """Write pairs, own drafts and mistakes in turn."""
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="auto")
    dataset = ShardDataset(args.shards)
    rows = training_rows(inverter, dataset, args.exclude, args.seed)
    rows = rows[(rows >= args.rows[0]) & (rows < args.rows[1])]
    prior = inverter.denoiser.token_prior
    assert prior is not None
    rng = np.random.default_rng(args.seed)
    counts = prior.counts.double().numpy()
    allowed = ~inverter.denoiser.banned.numpy()
    allowed[inverter.denoiser.config.eos_id] = False
    weights = counts**0.7 * allowed
    pool = rng.choice(len(counts), size=200_000, p=weights / weights.sum())
    similar = similar_tokens(prior.means(), prior.counts * torch.from_numpy(allowed))
    encoder = encoder_of(inverter, args.precision)
    maker = PairMaker(
        inverter.denoiser, inverter.tokenizer, encoder, dataset, Corruption(similar, pool, inverter.limit)
    )
    sides, first = [], 0
    for kind in ("own", "filled", "mistakes"):
        count = getattr(args, kind)
        mine = rows[first : first + count]
        sides.append([(kind, part) for part in np.array_split(mine, max(1, count // _PART)) if len(part)])
        first += count
    longest = max(len(side) for side in sides)
    plan = [  # in turn, so that a cut run has all
        side[k]
        for turn in range(longest)
        for side in sides
        for k in range(turn * len(side) // longest, (turn + 1) * len(side) // longest)
    ]
    began = time.monotonic()
    done = 0

    def report(name: str, count: int) -> None:
        nonlocal done
        done += count
        _log.info("%s: %d pairs, %.0f a second", name, count, done / (time.monotonic() - began))

    maker.write(args.out, [(kind, np.sort(part)) for kind, part in plan], args.seed, report)


def make_corrected(args: argparse.Namespace) -> None:
    """Write what a corrector makes of own drafts that are there."""
    inverter = Inverter.from_pretrained(args.model, device="cpu", precision="auto")
    dataset = ShardDataset(args.shards)
    encoder = encoder_of(inverter, args.precision)
    corrector = read_corrector(args.corrector, inverter.denoiser)
    nothing = np.zeros((0, 0), dtype=np.int64)
    maker = PairMaker(inverter.denoiser, inverter.tokenizer, encoder, dataset, Corruption(nothing, nothing, 0))
    pairs = Pairs.load(args.pairs)
    own = np.flatnonzero(pairs.kinds < KINDS.index("begun"))
    chosen = np.random.default_rng(args.seed).permutation(own)[: args.corrected]
    out = make_folder(args.out)
    for number, part in enumerate(np.array_split(np.sort(chosen), max(1, len(chosen) // 2048))):
        path = out / f"{number:04d}-corrected.npz"
        if not path.exists():
            found = maker.embed(*maker.corrected(corrector, pairs.take(part), args.seed + number))
            found.save(path)
            _log.info("%s: %d pairs", path.name, len(found))


def train(args: argparse.Namespace) -> None:
    """Train; parts that appear in the folder of pairs meanwhile are taken in."""
    checkpoint = load_checkpoint(find_checkpoint(args.model))
    dataset = ShardDataset(args.shards)
    torch.manual_seed(args.seed)
    base = checkpoint.denoiser
    corrector = Corrector(base)
    if args.init_from:
        corrector.load_state_dict(read_corrector(args.init_from, base).state_dict())
    run = CorrectorRun(
        seconds=parse_duration(args.max_time), steps=args.steps, batch_size=args.batch, lr=args.lr, seed=args.seed,
        held=args.held, validate_every=args.validate_every,
        shares={name: float(value) for name, _, value in (item.partition("=") for item in args.shares)},
    )  # fmt: skip
    lower_precision(base, resolve_precision(run.precision, torch.device("cpu")))
    folder = PairFolder(args.pairs, len(dataset))
    pairs = folder.fresh() or Pairs.load(args.pairs)
    _log.info("%d pairs, %d parameters", len(pairs), sum(p.numel() for p in corrector.parameters()))
    notes = {"base": checkpoint.weights, "licence": "CC BY-SA 4.0"}
    result = train_corrector(corrector, dataset, pairs, run, args.out, notes, folder.fresh)
    print(json.dumps(result))


def main() -> None:
    """Parse the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    pairs = commands.add_parser("pairs", help="write drafts and embed them")
    pairs.add_argument("--own", type=int, default=60_000, help="the denoiser's own drafts")
    pairs.add_argument("--filled", type=int, default=60_000, help="true texts, some positions filled by the denoiser")
    pairs.add_argument("--mistakes", type=int, default=60_000, help="true texts with mistakes")
    pairs.add_argument("--precision", default="bf16", help="of the encoder; empty for its own")
    pairs.add_argument("--rows", type=int, nargs=2, default=(0, 1 << 40), help="rows of the shards, from and to")
    pairs.set_defaults(run=make_pairs)
    corrected = commands.add_parser("corrected", help="write what a corrector makes of own drafts, and embed that")
    corrected.add_argument("--pairs", required=True, help="folder that `pairs` wrote")
    corrected.add_argument("--corrector", required=True, help="its file")
    corrected.add_argument("--corrected", type=int, default=20_000, help="drafts")
    corrected.add_argument("--precision", default="bf16", help="of the encoder; empty for its own")
    corrected.set_defaults(run=make_corrected)
    training = commands.add_parser("train", help="train beside the frozen checkpoint")
    training.add_argument("--pairs", required=True, help="folder of pairs")
    training.add_argument("--max-time", default="40m")
    training.add_argument("--steps", type=int, default=0, help="end after so many steps instead")
    training.add_argument("--batch", type=int, default=48, help="texts of mean length in a batch")
    training.add_argument("--lr", type=float, default=1e-3)
    training.add_argument("--held", type=int, default=256, help="pairs held out for the log")
    training.add_argument("--validate-every", type=float, default=600.0, help="seconds")
    training.add_argument("--shares", nargs="*", default=[], help="of kinds among the pairs: greedy=0.2 filled=0.3")
    training.add_argument("--init-from", help="a corrector's file to start from")
    training.set_defaults(run=train)
    for command in (pairs, corrected, training):
        command.add_argument("--model", default="default", help="checkpoint, which is not changed")
        command.add_argument("--shards", required=True, help="training shards")
        command.add_argument("--out", required=True)
        command.add_argument("--exclude", nargs="*", default=["scitldr", "cfpb-regulations"], help="sources left out")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(args.threads)
    args.run(args)


if __name__ == "__main__":
    main()
