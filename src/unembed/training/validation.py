"""Seeded validation: the same texts and the same masks every time (PAPER.md, mistake 8).

Contents: `Validation`.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from unembed.data.feed import Dataset, Feed
from unembed.decoding.config import DecodeConfig
from unembed.decoding.loop import decode
from unembed.model.denoiser import Denoiser
from unembed.training.objective import extend_with_end, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.recipe import ValidationPart


class Validation:
    """Loss, accuracy and decoded metrics on held-out texts.

    Args:
        dataset: held-out texts.
        part: how many texts, and the seed.
        rows: (N,) rows of the dataset to draw from, or None for all.
    """

    def __init__(self, dataset: Dataset, part: ValidationPart, rows: np.ndarray | None = None) -> None:
        self.part = part
        rows = np.arange(len(dataset.lengths)) if rows is None else rows
        rng = np.random.default_rng(part.seed)
        chosen = rng.permutation(rows)[: part.texts]
        feed = Feed(dataset, 64, part.seed, chosen)
        self._batches = [feed.batch(i) for i in range(feed.batches_per_epoch)]
        ids, lengths, vectors = dataset.gather(np.sort(chosen[: part.decoded]))
        self._texts = [row[:n].tolist() for row, n in zip(np.asarray(ids), lengths, strict=True)]
        self._vectors = torch.from_numpy(np.asarray(vectors, dtype=np.float32))

    @torch.no_grad()
    def loss(self, denoiser: Denoiser) -> dict[str, float]:
        """Teacher-forced figures.

        Returns:
            `bound` (nats a token) and `masked_token_accuracy@1.0` where masks can be filled, `length_accuracy`, and
            with causal rows `causal_nll` (nats a token, the end token counted as one).
        """
        config = denoiser.config
        generator = torch.Generator().manual_seed(self.part.seed)
        device = denoiser.embedding.weight.device
        totals: dict[str, float] = defaultdict(float)
        for ids_array, vectors_array in self._batches:
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

    def decoded(self, denoiser: Denoiser) -> dict[str, Any]:
        """Decode from all masks and score: token_f1, token_accuracy, exact_match, with 95% intervals."""
        from unembed.metrics.bootstrap import summary
        from unembed.metrics.text import id_statistics

        out: dict[str, Any] = {}
        if not self._texts:
            return out
        strategies = []
        if denoiser.config.fills_masks:
            strategies.append(DecodeConfig(strategy="adaptive", passes=8, lengths=3))
        if denoiser.config.causal:
            strategies.append(DecodeConfig(strategy="left-to-right", beam=4))
        device = denoiser.embedding.weight.device
        for config in strategies:
            drafts: list[list[int]] = []
            for i in range(0, len(self._texts), 50):
                drafts += [list(d.ids) for d in decode(denoiser, self._vectors[i : i + 50].to(device), config)]
            statistics = id_statistics(drafts, self._texts)
            for name in ("token_f1", "token_accuracy", "exact_match"):
                figures = summary(statistics[name], n=500, seed=self.part.seed)
                out[f"{config.strategy}/{name}"] = figures["value"]
                out[f"{config.strategy}/{name}/interval"] = [figures["low"], figures["high"]]
        return out
