"""From a finished canvas to drafts: their scores, and which one is given back.

Contents: `Judge`, `choose`, `agreement`; `token_probabilities` of texts that no decode wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.decoding.canvas import Canvas, empty_canvas
from unembed.decoding.config import DecodeConfig
from unembed.decoding.proposals import Noise, Proposer
from unembed.decoding.trace import Draft, Trace
from unembed.metrics.text import token_f1
from unembed.network.base import Network
from unembed.network.denoiser import autocast
from unembed.network.student import StudentEncoder, student_vectors


class Judge:
    """A student encoder that compares finished drafts with the vectors that they were made for; it is no query.

    The network's own likelihood sees a draft from the inside, token by token. A student (`network/student.py`) sees it
    from the outside, as the encoder did. Together they choose better than either (docs/log.md).

    Args:
        student: trained beside the denoiser.
        table: (V, embedding_dim) token table of the denoiser.
    """

    def __init__(self, student: StudentEncoder, table: Tensor) -> None:
        self.student, self.table = student, table

    def cosines(self, drafts: Sequence[tuple[int, ...]], owner: Sequence[int], vectors: Tensor) -> list[float]:
        """Cosine between the student's vector of each draft and the vector that the draft is for.

        Args:
            drafts: D token id sequences; an empty one gets -1.
            owner: (D,) row of `vectors` of each.
            vectors: (B, d) raw encoder vectors.
        """
        if not drafts:
            return []
        guess = student_vectors(self.student, self.table, drafts, self.table.dtype)
        target = F.normalize(vectors.float(), dim=1)[torch.as_tensor(owner, device=vectors.device)]
        cosine = (guess * target.to(guess.device)).sum(1)
        return [value if draft else -1.0 for draft, value in zip(drafts, cosine.tolist(), strict=True)]


def choose(
    canvas: Canvas,
    config: DecodeConfig,
    vectors: Tensor | None = None,
    judge: Judge | None = None,
) -> list[Draft]:
    """Score the drafts of each text and put the best first.

    The likelihood score is length_weight log p(n | v) + log-likelihood / n^length_power; with choose "student",
    student_weight times the cosine that the student sees is added to it.

    Args:
        canvas: without masks.
        config: choose, length_weight, length_power, student_weight.
        vectors: (B, d) raw encoder vectors, for choose "student".
        judge: the student, likewise; None goes by the likelihood alone.

    Returns:
        One draft for each text, the others as its alternatives.
    """
    written = canvas.written()
    counted = canvas.log_prob * (written & canvas.unknown)
    likelihood = counted.double().sum(1) + canvas.end_log_prob.double()
    weight = config.length_weight
    if weight is None:
        weight = 0.0 if config.strategy == "left-to-right" else 1.0
    kept = (written & (canvas.ids != canvas.end_id)).cpu()
    kept[:, canvas_limit(canvas) :] = False
    ids, probability = canvas.ids.cpu(), canvas.log_prob.exp().cpu()
    given, forced = canvas.given.cpu(), canvas.forced.cpu()
    passes, prior, spent = canvas.passes.tolist(), canvas.prior.double().tolist(), canvas.spent.tolist()
    groups: list[list[Draft]] = [[] for _ in spent]
    owners = canvas.text.tolist()
    texts = [tuple(ids[i, kept[i]].tolist()) for i in range(len(owners))]
    near = [0.0] * len(owners)
    if config.choose == "student" and judge is not None and vectors is not None:
        near = [config.student_weight * cosine for cosine in judge.cosines(texts, owners, vectors)]
    for i, text in enumerate(owners):
        tokens = texts[i]
        total = float(likelihood[i])
        groups[text].append(
            Draft(
                ids=tokens,
                token_confidence=tuple(probability[i, kept[i]].tolist()),
                log_likelihood=total,
                log_prior_length=prior[i],
                length=len(tokens),
                passes=passes[i],
                spent=spent[text],
                score=weight * prior[i] + total / max(len(tokens), 1) ** config.length_power + near[i],
                trace=Trace(tuple(canvas.history[i])) if canvas.history[i] else None,
                given=tuple(given[i, kept[i]].tolist()),
                forced=tuple(forced[i, kept[i]].tolist()),
            )
        )
    return [_best(group) for group in groups]


def token_probabilities(
    denoiser: Network, vectors: Tensor, drafts: Sequence[tuple[int, tuple[int, ...]]]
) -> list[tuple[float, ...]]:
    """Probability of each token of finished texts given tokens at positions of the other parity; two passes per text.

    Args:
        denoiser: the network; one that fills no masks, or learns the end on the canvas, is sure of nothing.
        vectors: (T, d) targets.
        drafts: the row of its target and its ids for each draft.
    """
    config, device = denoiser.config, denoiser.banned.device
    if not drafts or not config.fills_masks or config.canvas != "length":
        return [(0.0,) * len(ids) for _, ids in drafts]
    lengths = torch.tensor([len(ids) for _, ids in drafts], device=device)
    text = torch.tensor([row for row, _ in drafts], device=device)
    zeros = torch.zeros_like(text)
    with torch.inference_mode(), autocast(denoiser):
        condition = denoiser.condition(vectors.to(device, torch.float32))
        canvas = empty_canvas(denoiser, lengths, text, zeros, zeros.float(), len(vectors), None)
        canvas.ids[canvas.inside] = torch.tensor([token for _, ids in drafts for token in ids], device=device)
        canvas.masked = torch.zeros_like(canvas.masked)
        proposer = Proposer(denoiser, condition, DecodeConfig(), Noise([], device))
        found = proposer.pseudo_likelihood(canvas, torch.arange(len(drafts), device=device)).exp()
    return [tuple(row[: len(ids)]) for row, (_, ids) in zip(found.tolist(), drafts, strict=True)]


def canvas_limit(canvas: Canvas) -> int:
    """Longest text in tokens: the canvas without the place of its last end token."""
    return canvas.ids.shape[1] - (canvas.end_id >= 0)


def agreement(draft: tuple[int, ...], others: Sequence[tuple[int, ...]]) -> float:
    """Mean token F1 of a draft to the others; 1 for a draft alone."""
    return token_f1([draft] * len(others), others) if others else 1.0


def _best(drafts: list[Draft]) -> Draft:
    ranked = sorted(drafts, key=lambda draft: -draft.score)
    return replace(ranked[0], alternatives=tuple(ranked[1:]))
