"""Seeded validation: the same texts and the same masks every time, so that two figures differ by the weights alone.

Contents: `Validation`.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from unembed.data.feed import Dataset, Feed
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.network.base import Network
from unembed.priors.fit_score import FitScore
from unembed.training.losses.rows import extend_with_end, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.recipes.recipe_parts import ValidationPart

_TOGETHER = 50
"""Texts that are decoded together."""

_FEWEST = 20
"""Fewer texts cannot show what usual vectors look like."""


class Validation:
    """Loss, accuracy and decoded metrics on held-out texts.

    Args:
        dataset: held-out texts.
        part: how many texts, and the seed.
        rows: (N,) rows of the dataset to draw from, or None for all.

    Attributes:
        batches: ids (B, n) int64 and vectors (B, d) float32 of the texts for the loss, those of one length together.
    """

    def __init__(self, dataset: Dataset, part: ValidationPart, rows: np.ndarray | None = None) -> None:
        self.part = part
        rows = np.arange(len(dataset.lengths)) if rows is None else rows
        rng = np.random.default_rng(part.seed)
        chosen = rng.permutation(rows)[: part.texts]
        feed = Feed(dataset, 64, part.seed, chosen)
        groups = [feed.at(i) for i in range(feed.batches_per_epoch)]
        self.batches = [(group.ids, group.vectors) for group in groups]
        self._drawn = len(chosen)
        chosen = chosen[: part.decoded]
        rows = np.sort(chosen)
        mixed = np.searchsorted(rows, chosen)  # so that the first of them are a fair sample
        ids, lengths, vectors = dataset.gather(rows)
        texts = [row[:n].tolist() for row, n in zip(np.asarray(ids), lengths, strict=True)]
        self._texts = [texts[i] for i in mixed]
        self._vectors = torch.from_numpy(np.asarray(vectors, dtype=np.float32)[mixed])

    @torch.no_grad()
    def fit_score(self, denoiser: Network) -> FitScore | None:
        """How the held-out vectors look to a network that whitens them; None where it does not, or with few texts."""
        if not denoiser.config.whiten or self._drawn < _FEWEST:
            return None
        device = denoiser.embedding.weight.device
        z = [denoiser.whitening(torch.from_numpy(vectors).to(device)).cpu().numpy() for _, vectors in self.batches]
        return FitScore.of(np.concatenate(z))

    @torch.no_grad()
    def loss(self, denoiser: Network) -> dict[str, float]:
        """Teacher-forced figures.

        Returns:
            `bound` (nats per token) and `masked_token_accuracy@1.0` where masks can be filled, `length_accuracy`, and
            with causal rows `causal_nll` (nats per token, the end token counted as one).
        """
        config = denoiser.config
        generator = torch.Generator().manual_seed(self.part.seed)
        device = denoiser.embedding.weight.device
        totals: dict[str, float] = defaultdict(float)
        for ids_array, vectors_array in self.batches:
            ids = torch.from_numpy(ids_array)
            vectors = torch.from_numpy(vectors_array).to(device)
            length = ids.shape[1]
            log_n = denoiser.length_log_probs(vectors)
            totals["texts"] += len(ids)
            totals["tokens"] += ids.numel()
            totals["length"] += int((log_n.argmax(1) == length - 1).sum())
            condition = denoiser.condition(vectors)
            if config.fills_masks:
                canvas = extend_with_end(ids, config.canvas_length, config.eos_id) if config.canvas == "eos" else ids
                totals["canvas"] += canvas.numel()
                rows = prepare_masked(canvas, generator, "bound").to(device)
                totals["bound"] += float(rows_loss(denoiser, condition, rows, full_columns(denoiser, False))[0])
                start = torch.zeros_like(canvas, device=device)
                guess = denoiser.logits(start, start, condition).argmax(-1).cpu()
                totals["right"] += int((guess == canvas).sum())
            if config.causal:
                rows = prepare_causal(ids, config.bos_id, config.eos_id).to(device)
                totals["causal"] += float(rows_loss(denoiser, condition, rows, full_columns(denoiser, True))[0])
        out = {}
        if config.fills_masks:
            out["bound"] = totals["bound"] / totals["canvas"]
            out["masked_token_accuracy@1.0"] = totals["right"] / totals["canvas"]
        out["length_accuracy"] = totals["length"] / totals["texts"]
        if config.causal:
            out["causal_nll"] = totals["causal"] / (totals["tokens"] + totals["texts"])
        return out

    def decoded(self, denoiser: Network, until: float = math.inf) -> dict[str, Any]:
        """Decode from all masks and score.

        Args:
            denoiser: as it stands.
            until: `time.monotonic()` at which it has to be done; the first 50 are decoded in any case.

        Returns:
            `decoded`, how many texts; and of each strategy token_f1, token_accuracy, exact_match, with 95% intervals.
        """
        from unembed.metrics.bootstrap import summary
        from unembed.metrics.text import id_statistics

        strategies = []
        if denoiser.config.fills_masks:
            strategies.append(DecodeConfig(strategy="adaptive", passes=8, lengths=3))
        if denoiser.config.causal:
            strategies.append(DecodeConfig(strategy="left-to-right", beam=4))
        device = denoiser.embedding.weight.device
        drafts: list[list[list[int]]] = [[] for _ in strategies]
        done, longest = 0, 0.0
        while done < len(self._texts) and (not done or time.monotonic() + longest < until):
            began = time.monotonic()
            vectors = self._vectors[done : done + _TOGETHER].to(device)
            for found, config in zip(drafts, strategies, strict=True):
                found += [list(draft.ids) for draft in decode(denoiser, vectors, config)]
            done, longest = done + len(vectors), max(longest, time.monotonic() - began)
        if not done:
            return {}
        out: dict[str, Any] = {"decoded": done}
        for found, config in zip(drafts, strategies, strict=True):
            statistics = id_statistics(found, self._texts[:done])
            for name in ("token_f1", "token_accuracy", "exact_match"):
                figures = summary(statistics[name], n=500, seed=self.part.seed)
                out[f"{config.strategy}/{name}"] = figures["value"]
                out[f"{config.strategy}/{name}/interval"] = [figures["low"], figures["high"]]
        return out
