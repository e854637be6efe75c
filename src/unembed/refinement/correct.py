"""Draft, query, correct, repeat: the plain loop of correction, as Vec2Text does it (arXiv 2310.06816, section 3).

Contents: `correct`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unembed.network.base import Network
from unembed.network.corrector import Corrector
from unembed.network.precision import autocast
from unembed.refinement.asking import Asker
from unembed.refinement.budget import Budget
from unembed.refinement.correction import corrections
from unembed.refinement.refined import Asked, Refined


@dataclass
class _Text:
    """The state of one text: what is to be asked next, and which drafts were corrected."""

    queue: list[tuple[tuple[int, ...], str]]
    result: Refined = field(default_factory=Refined)
    vectors: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    corrected: set[tuple[int, ...]] = field(default_factory=set)

    def nearest(self) -> Asked | None:
        """The nearest draft that was not corrected yet."""
        left = [asked for asked in self.result.asked if asked.ids not in self.corrected]
        return max(left, key=lambda asked: asked.cosine) if left else None


def correct(
    corrector: Corrector,
    denoiser: Network,
    vectors: Tensor,
    drafts: Sequence[Sequence[tuple[int, ...]]],
    asker: Asker,
    budget: Budget,
    beam: int = 1,
    tolerance: float = 1e-5,
    report: Callable[[int, float, float], None] | None = None,
    results: list[Refined] | None = None,
) -> list[Refined]:
    """Correct the drafts of T vectors until their budget ends, always from the nearest draft that is left.

    Args:
        corrector: of this denoiser.
        denoiser: the network.
        vectors: (T, d) targets.
        drafts: of each text, best first, as token ids; all are asked before the first correction.
        asker: sends the queries.
        budget: of each text.
        beam: hypotheses of a correction; the likeliest that is new is asked, and the next ones until one is nearer.
        tolerance: a cosine of at least 1 - tolerance is the text itself.
        report: called after each round with the most queries of a text, the mean cosine and the number of texts met.
        results: filled at once and kept up to date, as in `search.refine`.

    Returns:
        One result per text, as `search.refine` returns it.

    Raises:
        EncoderError: see `Asker.ask`.
    """
    began = time.monotonic()
    target = torch.nn.functional.normalize(vectors.float(), dim=1)
    texts = [_Text([(tuple(draft), "draft") for draft in part]) for part in drafts]
    if results is not None:
        results[:] = [text.result for text in texts]
    with torch.inference_mode(), autocast(denoiser):
        condition = denoiser.condition(vectors.float().to(denoiser.banned.device))
    while budget.seconds is None or time.monotonic() - began < budget.seconds:
        going = [
            i
            for i, text in enumerate(texts)
            if not text.result.met
            and text.result.queries < budget.queries
            and (budget.passes is None or text.result.passes < budget.passes)
        ]
        chosen: list[tuple[int, Asked]] = []
        for i in going:
            nearest = None if texts[i].queue else texts[i].nearest()
            if nearest is not None:
                chosen.append((i, nearest))
        if chosen:
            own = torch.from_numpy(np.stack([texts[i].vectors[asked.ids] for i, asked in chosen]))
            with torch.inference_mode():
                rows = condition.select(torch.tensor([i for i, _ in chosen], device=condition.text.device))
            found, passes = corrections(corrector, denoiser, rows, [asked.ids for _, asked in chosen], own, beam)
            for (i, asked), options, spent in zip(chosen, found, passes, strict=True):
                texts[i].corrected.add(asked.ids)
                texts[i].result.passes += spent
                texts[i].queue += [(ids, "correct") for ids, _ in options]
        asked_now = _ask(texts, going, target, asker, tolerance)
        if report is not None and asked_now:
            best = [text.result.best() for text in texts]
            cosines = [asked.cosine for asked in best if asked is not None]
            met = sum(text.result.met for text in texts)
            report(max(text.result.queries for text in texts), float(np.mean(cosines or [0.0])), met)
        if not asked_now and not chosen:
            break
    return [text.result for text in texts]


def _ask(texts: list[_Text], going: list[int], target: Tensor, asker: Asker, tolerance: float) -> int:
    """Ask the next draft of each text that is new to it; return how many were."""
    batch: list[tuple[int, str, tuple[int, ...], str]] = []
    for i in going:
        text = texts[i]
        while text.queue:
            draft, move = text.queue.pop(0)
            sent, ids = asker.settle([draft])[0]
            if ids and sent and ids not in text.vectors:
                batch.append((i, sent, ids, move))
                break
    if not batch:
        return 0
    fresh = [not asker.knows(sent) for _, sent, _, _ in batch]
    vectors = asker.ask([sent for _, sent, _, _ in batch])
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    counted: set[str] = set()
    for (i, sent, ids, move), new, vector in zip(batch, fresh, vectors, strict=True):
        result = texts[i].result
        if new and sent not in counted:
            result.queries += 1
            counted.add(sent)
        cosine = float(vector @ target[i].cpu().numpy())
        before = result.best()
        if move == "correct" and before is not None and cosine > before.cosine:
            texts[i].queue.clear()  # on from here; otherwise the next likely option is asked
        result.asked.append(Asked(ids, sent, cosine, result.queries, move))
        texts[i].vectors[ids] = vector
        result.met = result.met or cosine >= 1.0 - tolerance
    return len(batch)
