"""The corrector as a task: pairs of a text and a draft, beside a denoiser that stays as it is.

Contents: `CorrectorTask`, `make_corrector_task`; `CorrectorLoss`: what one batch of pairs teaches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unembed.checkpoint.corrector_file import (
    CORRECTOR_FILE,
    MOST_BYTES,
    corrector_notes,
    read_corrector,
    write_corrector,
)
from unembed.errors import CheckpointError, RecipeError
from unembed.network.base import MASK
from unembed.network.corrector import Corrector, CorrectorConfig
from unembed.training.losses.cross_entropy import Shortlist
from unembed.training.losses.rows import Rows, ScoredColumns, full_columns, prepare_causal, prepare_masked, rows_loss
from unembed.training.pairs.beside import Beside
from unembed.training.pairs.pair_feed import PairBatch, PairFeed, batch_of
from unembed.training.pairs.pair_files import KINDS, Pairs
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.task import Part, Task

_VALIDATED = 64
"""Pairs that are validated together."""


class CorrectorTask(Task):
    """See `Task`.

    Args:
        beside: the base.
        model: the corrector.
        feed: pairs.
        begun: what the run began from, kept in the notes.
    """

    def __init__(self, beside: Beside, model: Corrector, feed: PairFeed, begun: dict[str, Any]) -> None:
        data, both = (beside.checkpoint.weights,), (model, beside.base)
        super().__init__(beside.recipe, beside.device, beside.precision, model, feed, data, beside.identity, both)
        self.beside, self.begun = beside, begun
        prior = beside.base.token_prior
        assert prior is not None  # or there would be no corrector
        self.shortlist = Shortlist.of(self.recipe.objective, prior.counts.cpu(), beside.base.banned)
        self.loss = CorrectorLoss(model, self.precision)
        self._without: float | None = None

    def trials(self) -> Iterator[Tensor]:
        """See `Task`."""
        for causal in (True, False):
            yield self.loss(self.feed.peek(), causal, self.shortlist, torch.Generator().manual_seed(0))[0]

    def draw(self) -> list[Part]:
        """See `Task`."""
        batch = self.feed.next()
        return [Part(1.0, len(batch.ids), batch)]

    def score(self, part: Part, generator: torch.Generator) -> Tensor:
        """See `Task`: nats a scored token, of a batch that is learnt left to right or with masks as a whole."""
        causal = bool(torch.rand(1, generator=generator) < self.recipe.objective.causal_share)
        return self.loss(part.values, causal, self.shortlist, generator)[0]

    def figures(self, decode_until: float | None) -> dict[str, Any]:
        """See `Task`: nats a token of held-out pairs over the whole vocabulary.

        `causal_nll` left to right, also by kind of draft; `masked_nll` with masks; `causal_nll/base` is what the base
        makes of the texts without a draft. Nothing where no pair is held out.
        """
        held = self.feed.held.take(np.arange(min(len(self.feed.held), self.recipe.validation.texts)))
        if not len(held):
            return {}
        if self._without is None:
            self._without = float(np.mean(self._nats(held, with_draft=False)["causal_nll"]))
        sums = self._nats(held)
        figures = {name: float(np.mean(values)) for name, values in sorted(sums.items())}
        return {**figures, "causal_nll/base": self._without}

    def _nats(self, pairs: Pairs, with_draft: bool = True) -> dict[str, list[float]]:
        """Nats of each token, by the name of the figure."""
        sums: dict[str, list[float]] = {}
        generator = torch.Generator().manual_seed(self.recipe.validation.seed)
        loss = CorrectorLoss(self.model, self.precision)
        for n in np.unique(pairs.lengths):
            same = np.flatnonzero(pairs.lengths == n)
            for part in np.array_split(same, -(-len(same) // _VALIDATED)):
                batch = batch_of(pairs.take(part))
                _, left = loss(batch, True, None, generator, with_draft)
                each = left.view(len(part), -1).tolist()
                sums.setdefault("causal_nll", []).extend(value for row in each for value in row)
                if not with_draft:
                    continue
                for kind, row in zip(batch.kinds.tolist(), each, strict=True):
                    sums.setdefault(f"causal_nll/{KINDS[kind]}", []).extend(row)
                _, masked = loss(batch, False, None, generator)
                sums.setdefault("masked_nll", []).extend(masked.tolist())
        return sums

    def save(self, folder: Path, notes: dict[str, Any], state: dict[str, Tensor]) -> Path:
        """See `Task`: `corrector.safetensors`."""
        path = folder / CORRECTOR_FILE
        facts = {**notes, "recipe": self.recipe.told(), "licence": "CC BY-SA 4.0"}
        write_corrector(path, self.model, facts, state, self.recipe.run.store_dtype)
        return path

    def notes(self) -> dict[str, Any]:
        """See `Task`."""
        total = sum(p.numel() for p in self.model.parameters())
        known = {"base": self.beside.checkpoint.weights, "parameters": {"total": total}, "pairs": len(self.feed.learnt)}
        return {**known, **({"begun": self.begun} if self.begun else {})}

    def arithmetic(self) -> dict[str, float]:
        """See `Task`: the base goes forward and passes gradients back, 4 operations a parameter, and learns nothing."""
        loss, base = self.loss, self.beside.base
        blocks = base.parameter_counts()["blocks"]
        own = sum(p.numel() for p in self.model.blocks.parameters())
        head = 4.0 * loss.cells * (base.config.embedding_dim or base.config.width)
        counted = {
            "positions": float(loss.shown),
            "operations": 4.0 * blocks * loss.shown + 6.0 * own * loss.drafted + head,
        }
        loss.shown = loss.drafted = loss.cells = 0
        return counted


def make_corrector_task(
    recipe: Recipe,
    device: torch.device,
    known: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
    box: float = 0.0,
) -> CorrectorTask:
    """Open base and pairs, make the pairs that are absent, and build the corrector.

    Args:
        recipe: of a corrector.
        device: where everything goes.
        known: facts of the state that the run continues from, empty for a new run; None for an estimate, which writes
            no pair.
        init_from: file of a corrector of the same shape, or a folder that holds one; its base may be an older one.
        box: time box of the session in seconds, half of which may go into pairs; 0 for none.

    Raises:
        RecipeError, DataError, CheckpointError: see `Beside`; a shape that does not fit the base or the file.
        InputError: a base that can have no corrector.
    """
    beside = Beside(recipe, device)
    torch.manual_seed(recipe.run.seed)
    corrector = Corrector(beside.base, CorrectorConfig(**dataclasses.asdict(recipe.corrector)))
    bytes_of = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int6": 0.75}[recipe.run.store_dtype]
    size = bytes_of * sum(p.numel() for p in corrector.parameters())
    if size > MOST_BYTES:
        raise RecipeError(
            f"The corrector would take {size / 2**20:.1f} MiB in {recipe.run.store_dtype}, more than "
            f"{MOST_BYTES / 2**20:.0f}.",
            'Set run.store_dtype = "int6", or make it smaller.',
        )
    begun = dict((known or {}).get("notes", {}).get("begun", {}))
    first = None
    if init_from is not None:
        path = Path(init_from)
        path = path / CORRECTOR_FILE if path.is_dir() else path
        if not path.is_file():
            raise CheckpointError(f"{init_from} holds no corrector.", f"Name a {CORRECTOR_FILE}, or its folder.")
        first = read_corrector(path, beside.base)
        told = corrector_notes(path)
        begun = {key: told[key] for key in ("sha256", "base", "steps", "texts_seen", "seconds") if key in told}
    try:
        if first is not None:
            corrector.load_state_dict(first.state_dict())
    except RuntimeError as error:
        raise CheckpointError(
            f"The corrector in {init_from} has another shape than the recipe's.", "Copy its shape to [corrector]."
        ) from error
    if first is None and recipe.pairs.corrected:
        first = beside.checkpoint.corrector
    feed = beside.pairs(recipe.data.batch_size, first, box, known is None)
    return CorrectorTask(beside, corrector, feed, begun)


class CorrectorLoss:
    """Turn a batch of pairs into a loss, in nats a scored token.

    Args:
        corrector: its base is not trained.
        precision: "bf16" (autocast) or "fp32".

    Attributes:
        shown, drafted, cells: positions of the base, rows of drafts and logits since they were last set to zero.
    """

    def __init__(self, corrector: Corrector, precision: str) -> None:
        self.corrector, self.precision = corrector, precision
        self.shown = self.drafted = self.cells = 0

    def __call__(
        self,
        batch: PairBatch,
        causal: bool,
        shortlist: Shortlist | None,
        generator: torch.Generator,
        with_draft: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Score a batch.

        Args:
            batch: texts and drafts, on the CPU.
            causal: left to right, or masks.
            shortlist: of the softmax; None for the whole vocabulary.
            generator: of masks and shortlist.
            with_draft: without, the base alone.

        Returns:
            The differentiable loss (), and the cross-entropies (R,) of the scored rows.
        """
        base, device = self.corrector.base, self.corrector.base.banned.device
        c = base.config
        rows = prepare_causal(batch.ids, c.bos_id, c.eos_id) if causal else prepare_masked(batch.ids, generator, "flat")
        columns = self._columns(rows, batch, shortlist, generator)
        rows.weights = rows.normalised(1.0)
        self.shown += rows.ids.numel()
        self.drafted += batch.drafts.numel()
        self.cells += len(rows.owner) * len(columns.correction)
        batch, rows, columns = batch.to(device), rows.to(device), columns.to(device)
        table = None if columns.tokens is None else F.embedding(columns.tokens, base.embedding.weight)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"):
            with torch.no_grad():
                condition = base.condition(batch.vectors)
            more: list[tuple[Tensor, Tensor]] = []
            if with_draft:
                taken = batch.outside(c.pad_id)
                seen = self.corrector.see(condition, batch.drafts, batch.lengths, batch.own, taken)
                condition = seen.condition
                # The factors learn; the scores of both directions are closed forms.
                scores = [self._scores(direction, condition.whitened, columns, batch) for direction in seen.directions]
                more = list(zip(seen.factors.unbind(1), scores, strict=True))
            fitted = (batch.ids, batch.fitted) if bool(batch.fitted.any()) else None
            return rows_loss(base, condition, rows, columns, fitted, table, more)

    def _columns(
        self, rows: Rows, batch: PairBatch, shortlist: Shortlist | None, generator: torch.Generator
    ) -> ScoredColumns:
        """Columns of the softmax, on the CPU: the shortlist, and all tokens of texts and drafts."""
        c = self.corrector.base.config
        if shortlist is None:
            full = full_columns(self.corrector.base, rows.causal)
            return full.to(torch.device("cpu"))
        shown = torch.where(rows.states == MASK, c.eos_id, rows.ids)
        wanted = (rows.targets, shown.reshape(-1), batch.ids.reshape(-1), batch.drafts.reshape(-1))
        tokens, correction, place = shortlist.draw(torch.cat(wanted), generator)
        if c.canvas == "length" and not rows.causal:
            correction = correction.masked_fill(tokens == c.eos_id, -torch.inf)
        return ScoredColumns(tokens, correction, place)

    @torch.no_grad()
    def _scores(self, direction: Tensor, white: Tensor, columns: ScoredColumns, batch: PairBatch) -> Tensor:
        """Products (B, K) of a direction with the columns' class means, less the share of texts of the fit in them."""
        directions = self.corrector.directions
        with torch.autocast(white.device.type, enabled=False):
            tokens = columns.tokens
            if tokens is None:
                tokens = torch.arange(len(columns.place), device=white.device)
            present = torch.zeros(len(batch.ids), len(tokens), dtype=torch.bool, device=white.device)
            owner = torch.arange(len(batch.ids), device=white.device).unsqueeze(1)
            present[owner, columns.place[batch.ids]] = True
            present &= batch.fitted.unsqueeze(1)
            scores = directions.scores(direction, columns.tokens)
            return directions.taken_out(scores, tokens, present, direction, white)
