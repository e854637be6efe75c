"""Queries to the encoder: which were sent for a text, what came back, and the rounds in which they are spent.

Contents: `Spent`, `CachedEncoder`, `Asked`, `History`, `Query`, `Method`, `rounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from unembed.data.tokenization import Tokenizer
from unembed.errors import EncoderError
from unembed.refinement.surrogate import NOTHING, Features, Proposal
from unembed.refinement.vector_precision import VectorPrecision

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder


@dataclass(frozen=True)
class Spent:
    """A moment of the refinement of a batch.

    Attributes:
        seconds: since its beginning.
        passes: denoiser passes of all its texts so far, those of the drafts included.
    """

    seconds: float = 0.0
    passes: int = 0


class CachedEncoder:
    """The encoder that is asked: each text is sent once, and the answer is rounded as the targets were.

    Args:
        encoder: makes the vectors; one text sent to it is one query.
        tokenizer: turns ids into the text that is sent.
        precision: of the targets.
        clock: the moment of an answer.
        most: texts whose vectors are kept; the oldest go first.

    Attributes:
        when: the moment at which each text was first answered.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        precision: VectorPrecision | None = None,
        clock: Callable[[], Spent] = Spent,
        most: int = 200_000,
    ) -> None:
        self._encoder, self._tokenizer, self._clock, self._most = encoder, tokenizer, clock, most
        self._precision = precision or VectorPrecision()
        self._known: dict[str, np.ndarray] = {}
        self.when: dict[str, Spent] = {}

    def settle(self, ids: Sequence[Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
        """Return for each draft the text that would be sent, and the ids that the encoder would see.

        Word pieces that do not belong together are tokenised anew by the encoder, so a draft may settle on other ids.
        """
        texts = [self._tokenizer.decode(list(row)) for row in ids]
        return [(text, tuple(row)) for text, row in zip(texts, self._tokenizer.encode(texts), strict=True)]

    def knows(self, text: str) -> bool:
        """Whether the vector of a text is known already."""
        return text in self._known

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 (n, d); only those that are not known are sent.

        Raises:
            EncoderError: the encoder failed, or its answer is unusable; what it answered before is kept.
        """
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            vectors = np.asarray(self._encoder.encode(new), dtype=np.float32)
            if vectors.shape != (len(new), self._encoder.dimension) or not np.isfinite(vectors).all():
                raise EncoderError(
                    f"The encoder answered {len(new)} texts with an array of shape {vectors.shape}, or with numbers "
                    "that are not finite.",
                    "Check the encoder; `unembed doctor` compares it with the checkpoint's.",
                )
            self._known.update(zip(new, self._precision.round(vectors), strict=True))
        out = np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, self._encoder.dimension))
        while len(self._known) > self._most:
            self._known.pop(next(iter(self._known)))
        moment = self._clock()
        for text in texts:
            self.when.setdefault(text, moment)
        return out.astype(np.float32, copy=False)


@dataclass(frozen=True)
class Asked:
    """A draft whose vector is known.

    Attributes:
        ids: its tokens, as the encoder sees them.
        text: what was sent.
        cosine: to the target.
        queries: queries spent on the text when it was found.
        move: how it was made: "draft", or the last move.
        features, parent: of the proposal and the cosine of the draft it came from; for fitting the surrogate.
        log: change of the log-likelihood since the draft of the decode, nats; the sum of those of its moves.
    """

    ids: tuple[int, ...]
    text: str
    cosine: float
    queries: int
    move: str
    features: Features = NOTHING
    parent: float = 0.0
    log: float = 0.0


@dataclass
class History:
    """What is known of one text.

    Attributes:
        asked: every draft that was asked, in order.
        vectors: ids -> (d,) what the encoder answered, of unit length.
        passes: denoiser passes, those of the drafts left out.
        queries: texts sent for it.
        matched: whether the target's vector was met, up to the tolerance.
    """

    asked: list[Asked] = field(default_factory=list)
    vectors: dict[tuple[int, ...], np.ndarray] = field(default_factory=dict)
    passes: int = 0
    queries: int = 0
    matched: bool = False

    def best(self, queries: int | None = None) -> Asked | None:
        """The nearest draft among those of the first `queries` queries; None where nothing was asked."""
        known = [a for a in self.asked if queries is None or a.queries <= queries]
        return max(known, key=lambda a: a.cosine) if known else None


@dataclass(frozen=True)
class Query:
    """A text that is to be sent for one row: `proposal`, made of `parent`, as it settles."""

    row: int
    text: str
    ids: tuple[int, ...]
    proposal: Proposal
    parent: Asked | None = None


class Method(Protocol):
    """A way to spend queries on T texts at once.

    Attributes:
        encoder: answers.
        targets: (T, d) of unit length.
        histories: of the T texts, kept up to date by `rounds`.
    """

    encoder: CachedEncoder
    targets: Tensor
    histories: list[History]

    def take(self, row: int, room: int) -> list[Query]:
        """What is to be asked next for a text, at most `room` drafts that are new to it."""

    def grow(self, rows: Sequence[int]) -> Generator[None, None, int]:
        """Make new proposals for texts, yielding after each read of the network; return how many came."""


def rounds(
    method: Method, queries: int, passes: int | None = None, tolerance: float = 1e-5
) -> Generator[bool, None, None]:
    """Ask and make proposals in turns, until every text has spent its budget or is matched.

    Args:
        method: what is asked.
        queries: texts that may be sent for each text.
        passes: denoiser passes of each text, None for no limit.
        tolerance: a cosine of at least 1 - tolerance is the text itself.

    Yields:
        True after an answer of the encoder, False after a read of the network.

    Raises:
        EncoderError: see `CachedEncoder.encode`.
    """
    histories = method.histories

    def open_rows(rows: Sequence[int]) -> list[int]:
        return [i for i in rows if not histories[i].matched and histories[i].queries < queries]

    while True:
        rows = open_rows(range(len(histories)))
        rows = [i for i in rows if passes is None or histories[i].passes < passes]
        batch = [query for i in rows for query in method.take(i, queries - histories[i].queries)]
        if batch:
            _ask(method, batch, tolerance)
            yield True
        grown = yield from _reads(method.grow(open_rows(rows)))
        if not batch and not grown:
            return


def _reads(steps: Iterator[None]) -> Generator[bool, None, int]:
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return int(stop.value)
        yield False


def _ask(method: Method, batch: Sequence[Query], tolerance: float) -> None:
    """Send a round of queries, and add the answers to the histories."""
    fresh = [not method.encoder.knows(query.text) for query in batch]
    vectors = method.encoder.encode([query.text for query in batch])
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    counted: set[str] = set()
    for query, new, vector in zip(batch, fresh, vectors, strict=True):
        history, parent, proposal = method.histories[query.row], query.parent, query.proposal
        if new and query.text not in counted:
            history.queries += 1
            counted.add(query.text)
        cosine = float(vector @ method.targets[query.row].cpu().numpy())
        before, log = (0.0, 0.0) if parent is None else (parent.cosine, parent.log)
        log += proposal.features[0]
        spent, move = history.queries, proposal.move
        history.asked.append(Asked(query.ids, query.text, cosine, spent, move, proposal.features, before, log))
        history.vectors[query.ids] = vector
        history.matched = history.matched or cosine >= 1.0 - tolerance


def known_vectors(histories: Sequence[History], asked: Sequence[tuple[int, Asked]]) -> Tensor:
    """(n, d) what the encoder answered to drafts of rows."""
    return torch.from_numpy(np.stack([histories[i].vectors[one.ids] for i, one in asked]))
