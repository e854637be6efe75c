"""Pairs of a text and a draft of it, with the draft's vector: what a corrector learns from.

Contents: `PairMaker`, `Pairs`, `write_own_drafts`.

Some are the denoiser's work: it writes drafts left to right, greedily or sampled, some behind a true beginning, so
that drafts of all depths are there. The rest are true texts with mistakes (`corruption.py`). Every draft is embedded
once by the real encoder. A folder of pairs holds parts that appear whole, so that a cut run loses one part at most.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError
from unembed.files import atomic_path, make_folder
from unembed.model.conditioning import Condition
from unembed.model.corrector import Corrector
from unembed.model.denoiser import GIVEN, MASK, Denoiser
from unembed.model.precision import autocast
from unembed.training.corruption import Corruption

KINDS = ("greedy", "sampled", "begun", "mistakes", "corrected", "filled")
_TOP = 24
_COLUMNS = ("rows", "drafts", "lengths", "vectors", "kinds")


@dataclass
class Pairs:
    """P texts, each with one draft.

    Attributes:
        rows: (P,) int64, the text's row in the shards.
        drafts: (P, limit) uint16 or int32 ids, filled up with zeros.
        lengths: (P,) uint8 or int64, tokens of each draft.
        vectors: (P, d) float16, of the drafts.
        kinds: (P,) uint8, index into `KINDS`.
    """

    rows: np.ndarray
    drafts: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.rows)

    def take(self, index: np.ndarray) -> Pairs:
        """Return the pairs named by `index`."""
        return Pairs(*(getattr(self, name)[index] for name in _COLUMNS))

    def join(self, other: Pairs) -> Pairs:
        """Return these pairs and others behind them."""
        return Pairs(*(np.concatenate((getattr(self, name), getattr(other, name))) for name in _COLUMNS))

    def save(self, path: Path) -> None:
        """Write one part, whole or not at all."""
        with atomic_path(path) as part, open(part, "wb") as stream:
            np.savez(stream, **vars(self))

    @classmethod
    def load(cls, folder: str | Path) -> Pairs:
        """Read all parts of a folder and of those inside it.

        Args:
            folder: where `PairMaker` wrote.

        Raises:
            DataError: no part there, or one that is damaged.
        """
        parts = sorted(path for path in Path(folder).rglob("*.npz"))
        if not parts:
            raise DataError(f"{folder} holds no pairs.", "Make some with benchmarks/train_corrector.py pairs.")
        loaded = [cls.load_part(path) for path in parts]
        return cls(*(np.concatenate([getattr(part, name) for part in loaded]) for name in _COLUMNS))

    @classmethod
    def load_part(cls, path: Path) -> Pairs:
        """Read one part.

        Raises:
            DataError: it is damaged.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(*(stored[name] for name in _COLUMNS))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged ({error}).", "Remove it, or make the pairs again.") from error


def write_own_drafts(
    denoiser: Denoiser,
    condition: Condition,
    temperature: Tensor,
    begun: Tensor,
    true: Tensor,
    generator: torch.Generator,
) -> list[list[int]]:
    """Write one draft of each text, left to right.

    Args:
        denoiser: with causal rows.
        condition: of B vectors.
        temperature: (B,) 0 for the likeliest token.
        begun: (B,) how many tokens of the true text the draft begins with.
        true: (B, n) the true texts.
        generator: of the samples.

    Returns:
        Token ids of each draft, at least one and at most the limit.
    """
    c = denoiser.config
    out: list[list[int]] = [[] for _ in range(len(condition))]
    alive = torch.arange(len(condition))
    state = denoiser.start_causal(condition)
    last = torch.full_like(alive, c.bos_id)
    for position in range(c.limit):
        logits, state = denoiser.next_logits(last, state)
        if position == 0:
            logits[:, c.eos_id] = -torch.inf
        values, tokens = logits.topk(min(_TOP, logits.shape[1]), dim=1)
        heat = temperature[alive].unsqueeze(1)
        noise = -torch.empty_like(values).exponential_(generator=generator).log()
        pick = torch.where(heat > 0, values / heat.clamp_min(1e-6) + noise, values).argmax(1, keepdim=True)
        chosen = tokens.gather(1, pick)[:, 0]
        if position < true.shape[1]:
            chosen = torch.where(position < begun[alive], true[alive, position], chosen)
        going = chosen != c.eos_id
        for row, token in zip(alive[going].tolist(), chosen[going].tolist(), strict=True):
            out[row].append(token)
        if not bool(going.all()):
            kept = going.nonzero().flatten()
            if not len(kept):
                break
            alive, state, chosen = alive[kept], state.select(kept), chosen[kept]
        last = chosen
    return out


class PairMaker:
    """Makes pairs from shards, part by part.

    Args:
        denoiser: whose drafts are wanted; its matrices may be in bf16.
        tokenizer: between drafts and what the encoder sees.
        encoder: makes the drafts' vectors.
        dataset: texts and their vectors.
        corruption: makes mistakes.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        tokenizer: Tokenizer,
        encoder: Encoder,
        dataset: ShardDataset,
        corruption: Corruption,
    ) -> None:
        self.denoiser, self.tokenizer, self.encoder = denoiser, tokenizer, encoder
        self.dataset, self.corruption = dataset, corruption

    def own(self, rows: np.ndarray, seed: int, batch: int = 192) -> tuple[list[list[int]], np.ndarray]:
        """The denoiser's own drafts: a third greedy, a third sampled, a third behind a true beginning.

        Args:
            rows: (P,) rows of the shards.
            seed: of kinds, temperatures and samples.
            batch: texts a pass.

        Returns:
            The drafts, and their kinds (P,).
        """
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        kinds = rng.integers(0, 3, size=len(rows)).astype(np.uint8)
        drafts: list[list[int]] = [[] for _ in rows]
        order = np.argsort(np.asarray(self.dataset.lengths)[rows], kind="stable")
        for start in range(0, len(rows), batch):
            chosen = order[start : start + batch]
            ids, lengths, vectors = self.dataset.gather(rows[chosen])
            kind = kinds[chosen]
            heat = np.where(kind == 0, 0.0, rng.uniform(0.3, 1.0, size=len(chosen)) * (rng.random(len(chosen)) < 0.8))
            begun = np.where(kind == 2, (rng.random(len(chosen)) * (lengths + 1)).astype(np.int64), 0)
            true = torch.from_numpy(ids)
            with torch.inference_mode(), autocast(self.denoiser):
                condition = self.condition(torch.from_numpy(vectors), true, torch.from_numpy(lengths))
                written = write_own_drafts(
                    self.denoiser,
                    condition,
                    torch.from_numpy(heat).float(),
                    torch.from_numpy(begun),
                    true,
                    generator,
                )
            for i, draft in zip(chosen, written, strict=True):
                drafts[i] = draft
        return drafts, kinds

    def condition(self, vectors: Tensor, ids: Tensor, lengths: Tensor) -> Condition:
        """The condition of training texts, each taken out of the class means of its own tokens (leave-one-out)."""
        condition = self.denoiser.condition(vectors)
        prior = self.denoiser.token_prior
        if condition.evidence is not None and prior is not None:
            inside = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
            present = torch.zeros(len(ids), prior.vocab_size, dtype=torch.bool)
            owner, column = inside.nonzero(as_tuple=True)
            present[owner, ids[owner, column]] = True
            condition.evidence = prior.scores(condition.whitened, frequency=False, present=present)
        return condition

    def corrected(
        self, corrector: Corrector, pairs: Pairs, seed: int, batch: int = 128
    ) -> tuple[np.ndarray, list[list[int]], np.ndarray]:
        """What a corrector makes of drafts, greedily for half of them: what later rounds of correction begin with.

        Args:
            corrector: of the same denoiser.
            pairs: the drafts that it is shown.
            seed: of temperatures and samples.
            batch: texts a pass.

        Returns:
            The rows of the texts (P,), the drafts, and their kinds (P,).
        """
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        drafts: list[list[int]] = [[] for _ in range(len(pairs))]
        order = np.argsort(np.asarray(self.dataset.lengths)[pairs.rows], kind="stable")
        for start in range(0, len(pairs), batch):
            chosen = order[start : start + batch]
            part = pairs.take(chosen)
            ids, lengths, vectors = self.dataset.gather(part.rows)
            true = torch.from_numpy(ids)
            heat = rng.uniform(0.3, 1.0, size=len(chosen)) * (rng.random(len(chosen)) < 0.5)
            with torch.inference_mode(), autocast(self.denoiser):
                condition = self.condition(torch.from_numpy(vectors), true, torch.from_numpy(lengths))
                shown = torch.from_numpy(part.drafts.astype(np.int64)), torch.from_numpy(part.lengths)
                condition = corrector(condition, *shown, torch.from_numpy(part.vectors.astype(np.float32)), true)
                nothing = torch.zeros(len(chosen), dtype=torch.long)
                heats = torch.from_numpy(heat).float()
                written = write_own_drafts(self.denoiser, condition, heats, nothing, true, generator)
            for i, draft in zip(chosen, written, strict=True):
                drafts[i] = draft
        return pairs.rows, drafts, np.full(len(pairs), KINDS.index("corrected"), dtype=np.uint8)

    def filled(self, rows: np.ndarray, seed: int, batch: int = 192) -> tuple[list[list[int]], np.ndarray]:
        """True texts of which the denoiser filled some positions anew, mostly with another token than the true one.

        Args:
            rows: (P,) rows of the shards.
            seed: of positions and samples.
            batch: texts a pass.

        Returns:
            The drafts, and their kinds (P,).
        """
        rng = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        drafts: list[list[int]] = [[] for _ in rows]
        order = np.argsort(np.asarray(self.dataset.lengths)[rows], kind="stable")
        for start in range(0, len(rows), batch):
            chosen = order[start : start + batch]
            ids, lengths, vectors = self.dataset.gather(rows[chosen])
            few = rng.random(len(chosen)) < 0.6
            share = np.where(few, rng.integers(1, 5, len(chosen)) / lengths, rng.uniform(0.1, 0.8, len(chosen)))
            draw = np.where(np.arange(ids.shape[1]) < lengths[:, None], rng.random(ids.shape), 2.0)
            rank = draw.argsort(1, kind="stable").argsort(1, kind="stable")
            hidden = torch.from_numpy((rank < np.maximum(1, np.round(share * lengths))[:, None]) & (draw < 1))
            true, n = torch.from_numpy(ids), torch.from_numpy(lengths)
            with torch.inference_mode(), autocast(self.denoiser):
                condition = self.condition(torch.from_numpy(vectors), true, n)
                states = torch.where(hidden, MASK, GIVEN)
                logits = self.denoiser.logits(true, states, condition, n, hidden)
                other = torch.rand(len(logits), generator=generator) < 0.7
                logits[other, true[hidden][other]] = -torch.inf
                values, tokens = logits.topk(min(_TOP, logits.shape[1]), dim=1)
                noise = -torch.empty_like(values).exponential_(generator=generator).log()
                new = tokens.gather(1, (values + noise).argmax(1, keepdim=True))[:, 0]
            written = true.clone()
            written[hidden] = new
            for i, row, length in zip(chosen, written.tolist(), lengths.tolist(), strict=True):
                drafts[i] = row[:length]
        return drafts, np.full(len(rows), KINDS.index("filled"), dtype=np.uint8)

    def mistakes(self, rows: np.ndarray, seed: int) -> tuple[list[list[int]], np.ndarray]:
        """True texts with mistakes, and their kinds."""
        rng = np.random.default_rng(seed)
        ids, lengths, _ = self.dataset.gather(rows)
        drafts = [self.corruption(row[:n], rng) for row, n in zip(ids, lengths, strict=True)]
        return drafts, np.full(len(rows), KINDS.index("mistakes"), dtype=np.uint8)

    def embed(self, rows: np.ndarray, drafts: Sequence[Sequence[int]], kinds: np.ndarray) -> Pairs:
        """Settle drafts on what the encoder sees, and embed them; drafts that become empty or too long are left out."""
        limit = self.denoiser.config.limit
        texts = [self.tokenizer.decode(list(draft)) for draft in drafts]
        seen = self.tokenizer.encode(texts)
        kept = [i for i, ids in enumerate(seen) if 0 < len(ids) <= limit]
        padded = np.zeros((len(kept), limit), dtype=np.uint16 if self.tokenizer.size <= 1 << 16 else np.int32)
        for k, i in enumerate(kept):
            padded[k, : len(seen[i])] = seen[i]
        vectors = self.encoder.encode([texts[i] for i in kept])
        lengths = np.array([len(seen[i]) for i in kept], dtype=np.int64)
        return Pairs(rows[kept], padded, lengths, np.asarray(vectors, dtype=np.float16), kinds[kept])

    def write(
        self,
        out: str | Path,
        plan: Sequence[tuple[str, np.ndarray]],
        seed: int,
        report: Callable[[str, int], None] | None = None,
    ) -> None:
        """Write parts; those that are there are kept, so that a cut run goes on.

        Args:
            out: folder.
            plan: for each part "own", "filled" or "mistakes", and its rows.
            seed: of everything random; each part has its own.
            report: called with the name of each part and its pairs.
        """
        out = make_folder(out)
        for number, (kind, rows) in enumerate(plan):
            path = out / f"{number:04d}-{kind}.npz"
            if path.exists():
                continue
            drafts, kinds = getattr(self, kind)(rows, seed + number)
            pairs = self.embed(rows, drafts, kinds)
            pairs.save(path)
            if report is not None:
                report(path.name, len(pairs))
