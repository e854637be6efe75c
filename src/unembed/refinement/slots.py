"""What the denoiser would write at masked places of drafts, the difference prior taken into account.

Contents: `Slot`, `Expansion`, `read_slots`.

Three kinds of canvas are made of a draft: one position masked (replace, delete), one mask more than the draft has
(insert), two neighbours masked (pair, swap). A canvas of a long draft holds two or three such places far apart. All
canvases go through the denoiser in a few batched passes.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unembed.network.base import GIVEN, MASK, Network
from unembed.network.conditioning import Condition
from unembed.network.denoiser import autocast
from unembed.network.difference import Difference
from unembed.refinement.surrogate import Surrogate

_ROWS = 256  # rows whose logits are held at once
_CANVASES = 512
_APART = 8  # tokens of a draft for each place of a canvas


@dataclass(frozen=True)
class Expansion:
    """Drafts that are to be changed, with what is known of them.

    Attributes:
        drafts: D drafts, as token ids.
        texts: for each the row of `condition`.
        difference: of the D drafts.
        condition: of the T texts.
        length_log_probs: (T, max_length) log p(n | vector).
    """

    drafts: Sequence[tuple[int, ...]]
    texts: Sequence[int]
    difference: Difference
    condition: Condition
    length_log_probs: Tensor

    def length_change(self, draft: int, by: int) -> float:
        """Change of log p(n) when a draft grows by so many tokens."""
        row, n = self.length_log_probs[self.texts[draft]], len(self.drafts[draft])
        return float(row[n + by - 1] - row[n - 1])


@dataclass(frozen=True)
class Slot:
    """One masked position of one canvas.

    Attributes:
        draft: which draft the canvas was made of.
        kind: "replace", "insert" or "pair".
        start: first masked position of the canvas.
        column: this masked position; start or start + 1.
        tokens: the most promising tokens.
        logs: their log-probabilities.
        own: log-probability of each token of the draft that was masked, by token.
    """

    draft: int
    kind: str
    start: int
    column: int
    tokens: list[int]
    logs: list[float]
    own: dict[int, float]


@dataclass(frozen=True)
class _Canvas:
    """A draft with masks; `marks` says which (start, column) of the draft each masked position is."""

    draft: int
    kind: str
    ids: list[int]
    marks: dict[int, tuple[int, int]]


def read_slots(
    denoiser: Network, expansion: Expansion, surrogate: Surrogate, top: int, apart: int = _APART
) -> Generator[None, None, tuple[list[Slot], list[int]]]:
    """Mask, read, and keep the best tokens of every masked position.

    Args:
        denoiser: the network.
        expansion: the drafts.
        surrogate: orders the tokens.
        top: tokens kept for each masked position.
        apart: tokens of a draft for each place of a canvas; with more than a draft has, every canvas has one place.

    Yields:
        After each read of the network.

    Returns:
        The slots, in no particular order, and the passes that each draft took.
    """
    canvases = _canvases(expansion.drafts, denoiser.config.mask_id, denoiser.config.max_length, apart)
    passes = [0] * len(expansion.drafts)
    for canvas in canvases:
        passes[canvas.draft] += 1
    canvases.sort(key=lambda canvas: len(canvas.ids))
    slots: list[Slot] = []
    for start in range(0, len(canvases), _CANVASES):
        with torch.inference_mode(), autocast(denoiser):
            slots += _read(denoiser, canvases[start : start + _CANVASES], expansion, surrogate, top)
        yield
    return slots, passes


def _canvases(drafts: Sequence[tuple[int, ...]], mask: int, max_length: int, apart: int) -> list[_Canvas]:
    found = []
    for owner, draft in enumerate(drafts):
        n = len(draft)
        for kind, places in (("replace", n), ("insert", n + 1 if n < max_length else 0), ("pair", n - 1)):
            together = max(1, min(places // apart, max_length - n if kind == "insert" else places))
            step = -(-places // together)
            found += [_canvas(owner, draft, kind, list(range(first, places, step)), mask) for first in range(step)]
    return found


def _canvas(owner: int, draft: tuple[int, ...], kind: str, starts: list[int], mask: int) -> _Canvas:
    """Mask the places that begin at `starts`, in ascending order and not overlapping."""
    ids: list[int] = []
    marks: dict[int, tuple[int, int]] = {}
    done = 0
    for start in starts:
        ids += draft[done:start]
        width = 2 if kind == "pair" else 1
        marks |= {len(ids) + k: (start, start + k) for k in range(width)}
        ids += [mask] * width
        done = start if kind == "insert" else start + width
    return _Canvas(owner, kind, [*ids, *draft[done:]], marks)


def _read(
    denoiser: Network, canvases: list[_Canvas], expansion: Expansion, surrogate: Surrogate, top: int
) -> list[Slot]:
    device = denoiser.banned.device
    n, pad = len(canvases[-1].ids), denoiser.config.pad_id
    ids = torch.tensor([c.ids + [pad] * (n - len(c.ids)) for c in canvases], device=device)
    lengths = torch.tensor([len(c.ids) for c in canvases], device=device)
    masked = torch.zeros_like(ids, dtype=torch.bool)
    for row, canvas in enumerate(canvases):
        masked[row, list(canvas.marks)] = True
    text = torch.tensor([expansion.texts[c.draft] for c in canvases], device=device)
    uneven = None if bool((lengths == n).all()) else lengths
    # C canvases padded to (C, n); `reading` has a row for each of their masks.
    reading = denoiser.read(ids, torch.where(masked, MASK, GIVEN), expansion.condition.select(text), uneven, masked)
    slots: list[Slot] = []
    for row in range(0, len(reading), _ROWS):
        part = slice(row, row + _ROWS)
        scores = torch.log_softmax(denoiser.scores(reading, part), dim=-1)
        slots += _slots(
            scores,
            [canvases[k] for k in reading.owner[part].tolist()],
            reading.column[part].tolist(),
            expansion,
            surrogate,
            top,
        )
    return slots


def _slots(
    scores: Tensor, canvases: list[_Canvas], columns: list[int], expansion: Expansion, surrogate: Surrogate, top: int
) -> list[Slot]:
    """Slots of log-probabilities (R, V), one row each."""
    device = scores.device
    owner = torch.tensor([c.draft for c in canvases], device=device)
    own: list[dict[int, float]] = []
    base = []
    for i, (canvas, column) in enumerate(zip(canvases, columns, strict=True)):
        draft = expansion.drafts[canvas.draft]
        start, mine = canvas.marks[column]
        if canvas.kind == "insert":
            own.append({})
            base.append(-expansion.length_change(canvas.draft, 1))
            continue
        masked = draft[start : start + (2 if canvas.kind == "pair" else 1)]
        known = {token: max(float(scores[i, token]), -30.0) for token in masked}
        own.append(known)
        base.append(known[draft[mine]])
    changes = scores - torch.tensor(base, device=device).unsqueeze(1)  # (R, V) change of the log-likelihood
    gains = torch.empty_like(scores)
    moves = ["replace" if c.kind == "pair" else c.kind for c in canvases]
    for move in set(moves):
        at = torch.tensor([i for i, name in enumerate(moves) if name == move], device=device)
        white, plain = expansion.difference.whitened[owner[at]], expansion.difference.plain[owner[at]]
        gains[at] = surrogate.token_gain(move, changes[at], white, plain)
    best = gains.masked_fill_(~scores.isfinite(), -torch.inf).topk(top, dim=1).indices  # (R, V) -> (R, top)
    tokens, logs = best.tolist(), scores.gather(1, best).tolist()
    return [
        Slot(c.draft, c.kind, *c.marks[column], tokens[i], logs[i], own[i])
        for i, (c, column) in enumerate(zip(canvases, columns, strict=True))
    ]
