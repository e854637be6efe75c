"""Training a student encoder on texts and their vectors, and on drafts with theirs.

Contents: `StudentRun`, `train_student`.

A text alone teaches where its vector lies; a pair of a text and a draft of it teaches what a few changed words do to
the vector, which is what forecasts are made of. Batches of texts have one length, batches of pairs are padded. The
learning rate follows the clock and is zero when the time is over.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.data.shards import ShardDataset
from unembed.errors import InputError
from unembed.files import make_folder
from unembed.model.denoiser import Denoiser
from unembed.model.student import StudentEncoder
from unembed.training.draft_pairs import Pairs
from unembed.training.ema import Ema
from unembed.training.memory import keep_memory, resolve_precision
from unembed.training.optimizer import make_optimizer
from unembed.training.recipe import OptimizerPart

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StudentRun:
    """How a student is trained.

    Attributes:
        seconds: length of the run.
        steps: end after so many steps, the rate going with them; 0: by the clock.
        tokens: of a batch, about.
        texts: share of the batches of texts that an epoch takes, beside all pairs.
        lr, warmup, weight_decay, clip, ema: of AdamW and the average.
        hold: share of the time at full rate, before it falls to zero.
        whitened: weight of the whitened cosine, in which word order counts for more.
        difference: weight of the squared error of draft less text.
        validate_every: seconds.
        precision: "auto", "bf16" or "fp32".
        seed: of everything random.
    """

    seconds: float = 1440.0
    steps: int = 0
    tokens: int = 6144
    texts: float = 0.5
    lr: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.998
    hold: float = 0.3
    whitened: float = 0.2
    difference: float = 1.0
    validate_every: float = 60.0
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse runs that never end, and shares that are none."""
        if self.seconds <= 0 or self.tokens < 1 or not 0 <= self.texts <= 1 or not 0 <= self.hold < 1:
            raise InputError(
                "A student's run needs seconds above 0, tokens of at least 1, and shares from 0 to 1.",
                "Correct seconds, tokens, texts or hold.",
            )


@dataclass(frozen=True)
class _Batch:
    """ids (B, n), lengths (B,) or None where all have n, vectors (B, d); in pairs the drafts are the second half."""

    ids: Tensor
    lengths: Tensor | None
    vectors: Tensor

    @classmethod
    def of_texts(cls, dataset: ShardDataset, rows: np.ndarray) -> _Batch:
        ids, _, vectors = dataset.gather(rows)
        return cls(torch.from_numpy(ids), None, torch.from_numpy(vectors))

    @classmethod
    def of_pairs(cls, dataset: ShardDataset, pairs: Pairs) -> _Batch:
        ids, lengths, vectors = dataset.gather(pairs.rows)
        n = max(int(lengths.max()), int(pairs.lengths.max()))
        drafts = pairs.drafts[:, :n].astype(np.int64)
        both = np.concatenate([np.pad(ids, ((0, 0), (0, n - ids.shape[1]))), drafts])
        return cls(
            torch.from_numpy(both),
            torch.from_numpy(np.concatenate([lengths, pairs.lengths.astype(np.int64)])),
            torch.from_numpy(np.concatenate([vectors, pairs.vectors.astype(np.float32)])),
        )


def _epoch(dataset: ShardDataset, pairs: Pairs, run: StudentRun, rng: np.random.Generator) -> Iterator[_Batch]:
    """All pairs, and a share of the texts, in random batches of about `run.tokens`."""
    plan: list[tuple[bool, np.ndarray]] = []
    lengths = np.asarray(dataset.lengths)
    for n in np.unique(lengths):
        rows = rng.permutation(np.flatnonzero(lengths == n))
        size = max(1, run.tokens // int(n))
        plan += [(False, rows[at : at + size]) for at in range(0, len(rows), size)]
    plan = [plan[k] for k in rng.permutation(len(plan))[: round(len(plan) * run.texts)]]
    longest = np.maximum(pairs.lengths.astype(int), lengths[pairs.rows].astype(int))
    order = np.argsort(longest + rng.random(len(pairs)))
    at = 0
    while at < len(order):
        size = max(1, run.tokens // (2 * int(longest[order[at]])))
        plan.append((True, order[at : at + size]))
        at += size
    for k in rng.permutation(len(plan)):
        paired, rows = plan[k]
        yield _Batch.of_pairs(dataset, pairs.take(rows)) if paired else _Batch.of_texts(dataset, rows)


def _loss(out: Tensor, batch: _Batch, denoiser: Denoiser, run: StudentRun) -> Tensor:
    target = F.normalize(batch.vectors, dim=1)
    loss = (1 - (out * target).sum(1)).mean()
    if run.whitened:
        seen = F.cosine_similarity(denoiser.whitening(out), denoiser.whitening(target))
        loss = loss + run.whitened * (1 - seen).mean()
    if batch.lengths is not None:
        half = len(out) // 2
        error = (out[half:] - out[:half]) - (target[half:] - target[:half])
        loss = loss + run.difference * error.square().sum(1).mean()
    return loss


@torch.inference_mode()
def student_cosine(student: StudentEncoder, denoiser: Denoiser, dataset: ShardDataset, most: int = 1000) -> float:
    """Mean cosine between the student's and the encoder's vectors of the first texts of a set."""
    rows = np.arange(min(most, len(dataset)))
    ids, lengths, vectors = dataset.gather(rows)
    table = denoiser.embedding.weight.float()
    out = student(F.embedding(torch.from_numpy(ids), table), torch.from_numpy(lengths))
    return float(F.cosine_similarity(out, torch.from_numpy(vectors)).mean())


def train_student(
    student: StudentEncoder,
    denoiser: Denoiser,
    dataset: ShardDataset,
    pairs: Pairs,
    run: StudentRun,
    out: str | Path,
    validation: ShardDataset | None = None,
    refresh: Callable[[], Pairs | None] | None = None,
) -> dict[str, Any]:
    """Train a student; its weights are the average when this returns.

    Args:
        student: changed in place.
        denoiser: its token table and whitening are used, in float32; it is not changed.
        dataset: texts and vectors.
        pairs: drafts of some of them, with their vectors.
        run: options.
        out: folder of the log.
        validation: texts whose cosine is logged.
        refresh: called at each epoch for pairs that have come in.

    Returns:
        Steps, texts seen, and the last log entry.

    Raises:
        InputError: no pair and no text.
    """
    if not len(dataset):
        raise InputError("There are no texts to learn from.", "Make shards with `unembed embed --shards`.")
    keep_memory()
    folder = make_folder(out)
    rng = np.random.default_rng(run.seed)
    bf16 = resolve_precision(run.precision, torch.device("cpu")) == "bf16"
    table = denoiser.embedding.weight.detach().float()
    optimizer = make_optimizer(student, OptimizerPart(lr=run.lr, weight_decay=run.weight_decay))
    average = Ema(student, run.ema)
    began = last = time.monotonic()
    step = seen = 0
    losses: list[float] = []
    entry: dict[str, Any] = {}

    def note(now: float) -> dict[str, Any]:
        average.swap(student)
        entry = {"step": step, "texts": seen, "seconds": now - began, "loss": float(np.mean(losses[-100:]))}
        if validation is not None:
            entry["cosine"] = student_cosine(student, denoiser, validation)
        average.swap(student)
        with open(folder / "log.jsonl", "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        _log.info("%s", entry)
        return entry

    done = False
    while not done:
        for batch in _epoch(dataset, pairs, run, rng):
            now = time.monotonic()
            share = step / run.steps if run.steps else (now - began) / run.seconds
            if share >= 1:
                done = True
                break
            for group in optimizer.param_groups:
                group["lr"] = run.lr * min(1.0, (step + 1) / run.warmup) * min(1.0, (1 - share) / (1 - run.hold))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                guess = student(F.embedding(batch.ids, table), batch.lengths)
            loss = _loss(guess, batch, denoiser, run)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), run.clip)
            optimizer.step()
            step, seen = step + 1, seen + len(batch.ids)
            losses.append(float(loss.detach()))
            average.update(student, step - 1)
            if now - last > run.validate_every:
                last = now
                entry = note(now)
        fresh = refresh() if refresh is not None and not done else None
        if fresh is not None:
            pairs = pairs.join(fresh)
    entry = note(time.monotonic())
    average.swap(student)
    return {"steps": step, "texts": seen, **entry}
