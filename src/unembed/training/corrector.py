"""Training a corrector on pairs of a text and a draft, beside a denoiser that stays as it is.

Contents: `CorrectorRun`, `batch_loss`, `train_corrector`.

Four batches of five are left to right and one is masks. The texts of a batch have one length, their drafts are padded.
The learning rate follows the clock and is zero when the time is over.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.data.shards import ShardDataset
from unembed.errors import InputError
from unembed.files import make_folder
from unembed.model.corrector import Corrector
from unembed.model.corrector_file import write_corrector
from unembed.model.denoiser import MASK
from unembed.training.draft_pairs import KINDS, Pairs
from unembed.training.ema import Ema
from unembed.training.memory import keep_memory, resolve_precision
from unembed.training.objective import Columns, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.optimizer import learning_rate, make_optimizer
from unembed.training.pair_feed import PairBatch, PairFeed
from unembed.training.recipe import OptimizerPart
from unembed.training.shortlist import Shortlist

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CorrectorRun:
    """How a corrector is trained.

    Attributes:
        seconds: length of the run; the learning rate is zero at its end.
        steps: end after so many steps, the rate going with them; 0: by the clock.
        batch_size: texts of mean length in a batch.
        lr, warmup, weight_decay, clip, ema: of AdamW and the average, see `training.recipe`.
        causal_share: share of batches that are left to right.
        frequent, sampled: of the shortlist; 0 frequent for the whole vocabulary.
        held: pairs that are held out for the log's figures.
        validate_every, save_every: seconds.
        precision: "auto", "bf16" or "fp32".
        shares: of each kind of draft among the pairs, only those named; empty: as they come.
        seed: of everything random.
    """

    seconds: float = 2400.0
    steps: int = 0
    batch_size: int = 48
    lr: float = 1e-3
    warmup: int = 60
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.995
    causal_share: float = 0.8
    frequent: int = 1000
    sampled: int = 500
    held: int = 256
    validate_every: float = 600.0
    save_every: float = 240.0
    precision: str = "auto"
    shares: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse runs that never end, and shares that are none."""
        if self.seconds <= 0 or self.batch_size < 1 or not 0 <= self.causal_share <= 1:
            raise InputError(
                "A corrector's run needs seconds above 0, a batch size of at least 1 and a share from 0 to 1.",
                "Correct seconds, batch_size or causal_share.",
            )
        for name, share in self.shares.items():
            if name not in KINDS or not share >= 0:
                raise InputError(f"The share {share!r} of {name!r} makes no sense.", f"Kinds: {', '.join(KINDS)}.")

    @property
    def optimizer(self) -> OptimizerPart:
        """The same as a recipe's part."""
        return OptimizerPart(lr=self.lr, warmup=self.warmup, weight_decay=self.weight_decay, clip=self.clip)


def batch_loss(
    corrector: Corrector,
    batch: PairBatch,
    causal: bool,
    shortlist: Shortlist | None,
    generator: torch.Generator,
    precision: str,
    with_draft: bool = True,
) -> tuple[Tensor, Tensor]:
    """Loss of a batch, in nats a scored token.

    Args:
        corrector: its base is not trained.
        batch: texts and drafts.
        causal: left to right, or masks.
        shortlist: of the softmax; None for the whole vocabulary.
        generator: of masks and shortlist.
        precision: "bf16" or "fp32".
        with_draft: without, the base alone.

    Returns:
        The differentiable loss, and the cross-entropies (R,) of the scored rows.
    """
    base, c = corrector.base, corrector.base.config
    if causal:
        rows = prepare_causal(batch.ids, c.bos_id, c.eos_id)
    else:
        rows = prepare_masked(batch.ids, generator, "flat")
    if shortlist is None:
        columns, table = full_columns(base, causal), None
    else:
        shown = torch.where(rows.states == MASK, c.eos_id, rows.ids)
        wanted = (rows.targets, shown.reshape(-1), batch.ids.reshape(-1), batch.drafts.reshape(-1))
        tokens, correction, place = shortlist.draw(torch.cat(wanted), generator)
        if c.canvas == "length" and not causal:
            correction = correction.masked_fill(tokens == c.eos_id, -torch.inf)
        columns = Columns(tokens, correction, place)
        table = F.embedding(tokens, base.embedding.weight)
    rows.weights = rows.normalised(1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            condition = base.condition(batch.vectors)
        more: list[tuple[Tensor, Tensor]] = []
        if with_draft:
            seen = corrector.see(condition, batch.drafts, batch.lengths, batch.own, batch.ids)
            condition = seen.condition
            more = _evidence(corrector, seen.directions, seen.factors, condition.whitened, columns, batch.ids)
        return rows_loss(base, condition, rows, columns, batch.ids, table, more)


@torch.no_grad()
def _scores(corrector: Corrector, direction: Tensor, white: Tensor, columns: Columns, ids: Tensor) -> Tensor:
    """Products of one direction with the columns' class means, without the texts' own share."""
    with torch.autocast("cpu", enabled=False):
        tokens = columns.tokens if columns.tokens is not None else torch.arange(len(columns.place))
        present = torch.zeros(len(ids), len(tokens), dtype=torch.bool)
        present[torch.arange(len(ids)).unsqueeze(1), columns.place[ids]] = True
        scores = corrector.directions.scores(direction, columns.tokens)
        return corrector.directions.taken_out(scores, tokens, present, direction, white)


def _evidence(
    corrector: Corrector, directions: Tensor, factors: Tensor, white: Tensor, columns: Columns, ids: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Factor and scores of the two differences, as `rows_loss` takes them."""
    return [(factors[:, i], _scores(corrector, directions[i], white, columns, ids)) for i in range(2)]


@dataclass
class _State:
    step: int = 0
    texts: int = 0
    losses: list[float] = field(default_factory=list)


def train_corrector(
    corrector: Corrector,
    dataset: ShardDataset,
    pairs: Pairs,
    run: CorrectorRun,
    out: str | Path,
    notes: dict[str, Any] | None = None,
    refresh: Callable[[], Pairs | None] | None = None,
) -> dict[str, Any]:
    """Train, writing `log.jsonl` and `corrector.safetensors` into a folder.

    Args:
        corrector: in fp32; its base is frozen here and left so.
        dataset: the shards that the pairs' rows point into.
        pairs: texts and drafts.
        run: options.
        out: folder; an older log there goes on.
        notes: kept in the file.
        refresh: asked at every report for further pairs, which are trained on from then on.

    Returns:
        Steps, texts, seconds and the last figures of the held-out pairs.

    Raises:
        DataError: the folder cannot be written.
    """
    out = make_folder(out)
    keep_memory()
    precision = resolve_precision(run.precision, torch.device("cpu"))
    base = corrector.base.requires_grad_(False).eval()
    base.training = True  # its own flag alone: no evidence of all tokens is made, and no dropout
    prior = base.token_prior
    assert prior is not None
    shortlist = None
    if run.frequent:
        shortlist = Shortlist(prior.counts, ~base.banned.cpu(), run.frequent, run.sampled)
    generator = torch.Generator().manual_seed(run.seed)
    order = np.random.default_rng(run.seed).permutation(len(pairs))
    held = PairFeed(dataset, pairs.take(np.sort(order[: run.held])), 64, run.seed) if run.held else None
    learnt = pairs.take(np.sort(order[run.held :]))
    feed = iter(PairFeed(dataset, learnt, run.batch_size, run.seed, run.shares))
    optimizer = make_optimizer(corrector, run.optimizer)
    ema = Ema(corrector, run.ema)
    state = _State()
    figures: dict[str, Any] = {}
    began = last_check = last_save = last_report = time.monotonic()

    def keep() -> None:
        spent = {"steps": state.step, "texts": state.texts, "seconds": round(time.monotonic() - began, 1)}
        facts = {**(notes or {}), **spent, "run": asdict(run), "figures": figures}
        write_corrector(out / "corrector.safetensors", corrector, facts, state=ema.state(corrector))

    with open(out / "log.jsonl", "a", encoding="utf-8") as log:

        def write(record: dict[str, Any]) -> None:
            log.write(json.dumps(record) + "\n")
            log.flush()
            _log.info("%s", json.dumps(record))

        if held is not None:
            write({"step": 0, **_held_out(corrector, held, precision, without=True)})
        while True:
            now = time.monotonic()
            share = state.step / run.steps if run.steps else (now - began) / run.seconds
            if share >= 1:
                break
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run.optimizer, state.step, share) * group.get("scale", 1.0)
            optimizer.zero_grad(set_to_none=True)
            batch = next(feed)
            causal = bool(torch.rand(1, generator=generator) < run.causal_share)
            loss, _ = batch_loss(corrector, batch, causal, shortlist, generator, precision)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(corrector.parameters(), run.clip)
            optimizer.step()
            ema.update(corrector, state.step)
            state.step += 1
            state.texts += len(batch.ids)
            if causal:
                state.losses.append(float(loss.detach()))
            now = time.monotonic()
            if now - last_report >= 20 and state.losses:
                last_report = now
                mean = float(np.mean(state.losses))
                state.losses.clear()
                facts = {
                    "step": state.step,
                    "texts": state.texts,
                    "seconds": round(now - began, 1),
                    "causal": round(mean, 4),
                }
                write(facts)
                fresh = refresh() if refresh is not None else None
                if fresh is not None:
                    learnt = learnt.join(fresh)
                    feed = iter(PairFeed(dataset, learnt, run.batch_size, run.seed + state.step, run.shares))
            if held is not None and now - last_check >= run.validate_every:
                ema.swap(corrector)
                figures = _held_out(corrector, held, precision)
                ema.swap(corrector)
                write({"step": state.step, **figures})
                last_check = time.monotonic()
            if now - last_save >= run.save_every:
                keep()
                last_save = time.monotonic()
        ema.swap(corrector)
        if held is not None:
            figures = _held_out(corrector, held, precision)
            write({"step": state.step, **figures})
        ema.swap(corrector)
    keep()
    base.eval()
    ema.swap(corrector)
    return {"steps": state.step, "texts": state.texts, "seconds": round(time.monotonic() - began, 1), **figures}


@torch.no_grad()
def _held_out(corrector: Corrector, feed: PairFeed, precision: str, without: bool = False) -> dict[str, Any]:
    """Nats a token of held-out pairs, left to right over the whole vocabulary, by kind of draft; and over masks."""
    sums: dict[str, list[float]] = {}
    generator = torch.Generator().manual_seed(1)
    for index in feed.batches(0):
        batch = feed.take(index)
        for name, causal in (("", True), ("masks", False)):
            _, losses = batch_loss(corrector, batch, causal, None, generator, precision, with_draft=not without)
            if not causal:
                sums.setdefault(name, []).extend(losses.tolist())
                continue
            each = losses.view(len(index), -1)
            for kind, row in zip(batch.kinds.tolist(), each.tolist(), strict=True):
                sums.setdefault(KINDS[kind], []).extend(row)
                sums.setdefault("all", []).extend(row)
    prefix = "base/" if without else "held/"
    return {prefix + name: round(float(np.mean(values)), 4) for name, values in sorted(sums.items())}
