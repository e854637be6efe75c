"""A refinement, step by step: from vectors and an encoder that may be asked to the nearest drafts.

Contents: `available`, `check_refine`, `Session`, `Round`, `Refinement`.

    session = inverter.session(vectors, refine=Refine(64))
    for step in session:  # None after a read of the network, a `Round` after an answer of the encoder
        ...
    session.recoveries()

Whoever iterates decides when it continues: the command line shows its rounds, a server lets other requests have their
turn between two steps. It may be left at any step, by Ctrl-C too; what it found until then is still there.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from unembed.checkpoint.student_file import StudentFile
from unembed.data.tokenization import Tokenizer
from unembed.decoding.choosing import token_probabilities
from unembed.decoding.recovery import Recovery, asked, recoveries
from unembed.decoding.request import Request, batch_starts
from unembed.decoding.trace import Draft
from unembed.errors import InputError
from unembed.network.base import Network
from unembed.network.corrector import Corrector
from unembed.priors.fit_score import Judged
from unembed.refinement.best_of import gather
from unembed.refinement.correction import Correction
from unembed.refinement.queries import Asked, CachedEncoder, History, Method, Spent, rounds
from unembed.refinement.refine import Refine
from unembed.refinement.search import Search, SearchConfig
from unembed.refinement.vector_precision import precision_of

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder

DRAFTS = 16  # that combined starts from
OTHERS = 8  # next nearest drafts that are kept beside the best
_BEAM = 4  # hypotheses of a correction
_JUDGED = 64  # drafts whose tokens get their probabilities together
_NOTHING = Draft((), (), 0.0, 0.0, 0, 0, 0, 0.0)


def available(method: str, denoiser: Network, corrector: Corrector | None) -> InputError | None:
    """Say why a checkpoint cannot be refined by a method; None where it can."""
    if method in ("search", "combined") and denoiser.token_prior is None:
        return InputError(
            f"This checkpoint has no closed-form token prior, which the refinement {method} needs.",
            "Use the refinement best-of, or train with model.token_prior = true.",
        )
    if method == "correct" and corrector is None:
        return InputError(
            "This checkpoint has no corrector, which the refinement correct needs.",
            "Use search or combined, or a checkpoint that was trained to correct drafts.",
        )
    return None


@dataclass(frozen=True)
class Round:
    """Where a batch is after an answer of the encoder.

    Attributes:
        done: rows of the batches before.
        queries: the most that a text of this batch has spent.
        matched: texts of this batch whose vector is matched.
        nearest: the nearest draft of each text of this batch, None where nothing was asked.
    """

    done: int
    queries: int
    matched: int
    nearest: tuple[Asked | None, ...]

    @property
    def cosine(self) -> float:
        """Mean over the texts that were asked."""
        return float(np.mean([one.cosine for one in self.nearest if one is not None] or [0.0]))


@dataclass(frozen=True)
class Refinement:
    """What became of one text.

    Attributes:
        drafts: the nearest first, then the next nearest; their scores are cosines. Those of the decode as they were
            where nothing was asked.
        cosine: of the first to the target, None where nothing was asked.
        queries: texts sent for it.
        passes: denoiser passes, those of the drafts included.
        matched: whether the target's vector was met, up to the tolerance.
        curve: each draft that was nearer than all before.
        spent: queries -> what all texts of the batch had spent when this text had so many; for curves of the cost.
    """

    drafts: tuple[Draft, ...]
    cosine: float | None = None
    queries: int = 0
    passes: int = 0
    matched: bool = False
    curve: tuple[Asked, ...] = ()
    spent: dict[int, Spent] = field(default_factory=dict)

    def best(self, queries: int) -> Asked | None:
        """The nearest draft among those of the first `queries` queries; None where nothing was asked."""
        known = [one for one in self.curve if one.queries <= queries]
        return known[-1] if known else None


@dataclass
class _Batch:
    """Vectors under way: their first drafts with what these cost, what was asked, and probabilities of new drafts."""

    drafts: list[list[Draft]]
    spent: list[int]
    histories: list[History]
    encoder: CachedEncoder
    sure: dict[tuple[int, tuple[int, ...]], tuple[float, ...]] = field(default_factory=dict)

    def new(self) -> list[tuple[int, tuple[int, ...]]]:
        """Row and ids of the nearest drafts that no decode has written, short ones first."""
        known = [{draft.ids for draft in part} for part in self.drafts]
        rows = enumerate(self.histories)
        new = [(i, one.ids) for i, history in rows for one in _nearest(history.asked) if one.ids not in known[i]]
        return sorted(new, key=lambda pair: len(pair[1]))

    def results(self) -> Iterator[Refinement]:
        """The best so far of each text."""
        for i, (part, history) in enumerate(zip(self.drafts, self.histories, strict=True)):
            known = {draft.ids: draft for draft in part}
            near, kept = _nearest(history.asked), []
            for one in near:
                length = len(one.ids)
                sure = self.sure.get((i, one.ids), (0.0,) * length)
                draft = known.get(one.ids, Draft(one.ids, sure, 0.0, 0.0, length, 0, 0, 0.0))
                kept.append(replace(draft, score=one.cosine))
            yield Refinement(
                drafts=tuple(kept) or tuple(part) or (_NOTHING,),
                cosine=near[0].cosine if near else None,
                queries=history.queries,
                passes=self.spent[i] + history.passes,
                matched=history.matched,
                curve=_curve(history.asked),
                spent={one.queries: self.encoder.when[one.text] for one in history.asked},
            )


def check_refine(refine: Refine, request: Request, corrector: Corrector | None) -> None:
    """Refuse a refinement before anything is loaded for it.

    Raises:
        InputError: the checkpoint cannot be refined so, or constraints that the method does not keep.
    """
    error = available(refine.method, request.denoiser, corrector)
    if error is not None:
        raise error
    if request.rules is not None and refine.method != "best-of":
        raise InputError(
            f"The refinement {refine.method} changes drafts without regard to what is known of the text.",
            "Use the refinement best-of, which keeps constraints, or leave the constraints out.",
        )


class Session:
    """The refinement of some vectors; iterate it once, to its end or as far as wanted.

    Args:
        request: the n vectors, and how their first drafts are decoded; only best-of keeps constraints.
        tokenizer: between ids and texts.
        encoder: answers the queries; it must be the one that made the vectors.
        refine: the method and its limits.
        batch_size: vectors refined together; the decode's own, at most 64, where None.
        student, corrector: networks beside the denoiser; without a student the search goes by the difference prior.
        judged: what is known of the n vectors; for `recoveries`.
        progress: show a bar on stderr.

    Raises:
        InputError: the checkpoint cannot be refined so, or constraints that the method does not keep.
    """

    def __init__(
        self,
        request: Request,
        tokenizer: Tokenizer,
        encoder: Encoder,
        refine: Refine,
        *,
        batch_size: int | None = None,
        student: StudentFile | None = None,
        corrector: Corrector | None = None,
        judged: Judged | None = None,
        progress: bool = False,
    ) -> None:
        check_refine(refine, request, corrector)
        self.refine = refine
        self.precision = refine.vector_precision or precision_of(request.rows)
        self.tolerance = self.precision.tolerance if refine.tolerance is None else refine.tolerance
        self.search = refine.search or SearchConfig()
        if request.config.choose == "student":  # the encoder itself is asked
            request = replace(request, config=replace(request.config, choose="likelihood"), judge=None)
        self._request, self._denoiser = request, request.denoiser
        self._tokenizer, self._encoder = tokenizer, encoder
        self._student, self._corrector, self._judged = student, corrector, judged
        self._passes = 0
        self._done: list[Refinement] = []
        self._batch: _Batch | None = None
        size = min(request.config.batch_size, 64) if batch_size is None else batch_size
        self._steps = self._drive(self._run(batch_starts(len(request.rows), size, progress)))

    def __iter__(self) -> Iterator[Round | None]:
        """Advance: None after a read of the network, a `Round` after an answer of the encoder.

        Raises:
            EncoderError: the encoder fails.
        """
        return self._steps

    def __repr__(self) -> str:
        """The method and its budget, and how many vectors there are."""
        return f"Session({self.refine.method}, {self.refine.queries} queries each, {len(self._request.rows)} vectors)"

    def close(self) -> None:
        """End it now."""
        self._steps.close()

    def results(self) -> list[Refinement]:
        """What became of each vector, or the best so far; a batch whose first drafts are not there yet is left out.

        Tokens of new drafts have their probabilities at the end of a batch, and 0 until then.
        """
        return [*self._done, *(self._batch.results() if self._batch is not None else ())]

    def recoveries(self) -> list[Recovery]:
        """The same as texts."""
        found = self.results()
        drafts = [replace(one.drafts[0], spent=one.passes, alternatives=one.drafts[1:]) for one in found]
        judged = None if self._judged is None else self._judged.head(len(drafts))
        plain = recoveries(drafts, self._tokenizer, None, judged)
        return [asked(text, one.cosine, one.queries, one.matched) for text, one in zip(plain, found, strict=True)]

    def _drive(self, steps: Generator[Any, None, None]) -> Generator[Round | None, None, None]:
        """Count passes and leave gradients out while a step runs, and only then: others compute between two steps."""

        def count(module: Any, inputs: tuple[Any, ...]) -> None:
            self._passes += len(inputs[0])

        while True:
            hook = self._denoiser.blocks[0].register_forward_pre_hook(count)
            try:
                with torch.inference_mode():
                    step = next(steps)
            except StopIteration:
                return
            finally:
                hook.remove()
            yield step if isinstance(step, Round) else None

    def _run(self, parts: Iterator[slice]) -> Generator[Any, None, None]:
        for part in parts:
            yield from self._refine(self._request.part(part))
            if self._batch is not None:
                self._done, self._batch = self.results(), None

    def _refine(self, request: Request) -> Generator[Any, None, None]:
        """Refine a batch: draft, spend the budget, and see how sure the network is of what was found."""
        refine, began, before = self.refine, time.monotonic(), self._passes
        vectors = torch.from_numpy(request.rows)

        def clock() -> Spent:
            return Spent(time.monotonic() - began, self._passes - before)

        encoder = CachedEncoder(self._encoder, self._tokenizer, self.precision, clock)
        drafts, spent = yield from self._drafts(request)
        method = self._method(vectors, [[draft.ids for draft in part] for part in drafts], encoder)
        batch = self._batch = _Batch(drafts, spent, method.histories, encoder)
        # Drafts are always made; what they took is gone from the budget.
        left = None if refine.passes is None else max(refine.passes - max(spent, default=0), 0)
        steps = rounds(method, refine.queries, None if refine.method == "best-of" else left, self.tolerance)
        while refine.seconds is None or clock().seconds < refine.seconds:
            answered = next(steps, None)
            if answered is None:
                break
            yield self._round(batch) if answered else None
        new = batch.new()
        for start in range(0, len(new), _JUDGED):
            part = new[start : start + _JUDGED]
            batch.sure.update(zip(part, token_probabilities(self._denoiser, vectors, part), strict=True))
            yield

    def _drafts(self, request: Request) -> Generator[Any, None, tuple[list[list[Draft]], list[int]]]:
        """The drafts of each text, best first, and the passes that they took."""
        if self.refine.method in ("best-of", "combined"):
            count = max(self.refine.queries, 1) if self.refine.method == "best-of" else DRAFTS
            found = yield from gather(request, count)
            return found
        first = yield from request.passes()
        drafts = [[replace(draft, alternatives=()), *draft.alternatives] for draft in first]
        return [[one for one in part if one.ids] for part in drafts], [draft.spent for draft in first]

    def _method(self, vectors: Tensor, drafts: list[list[tuple[int, ...]]], encoder: CachedEncoder) -> Method:
        name, config = self.refine.method, self.search
        if name == "correct" and self._corrector is not None:
            first = [part[:1] for part in drafts]
            return Correction(self._corrector, self._denoiser, vectors, first, encoder, _BEAM)
        if name == "best-of":
            count = max(self.refine.queries, 1)
            config = replace(config, first=count, ask=count, moves=())
        corrector = self._corrector if name == "combined" else None
        student = self._student
        return Search(self._denoiser, vectors, drafts, encoder, config, student=student, corrector=corrector)

    def _round(self, batch: _Batch) -> Round:
        queries = max(history.queries for history in batch.histories)
        matched = sum(history.matched for history in batch.histories)
        return Round(len(self._done), queries, matched, tuple(history.best() for history in batch.histories))


def _nearest(asked: Sequence[Asked]) -> list[Asked]:
    """The nearest drafts that were asked, each once."""
    best: dict[tuple[int, ...], Asked] = {}
    for one in sorted(asked, key=lambda a: -a.cosine):
        best.setdefault(one.ids, one)
    return list(best.values())[: OTHERS + 1]


def _curve(asked: Sequence[Asked]) -> tuple[Asked, ...]:
    """The drafts that were nearer than all before."""
    points: list[Asked] = []
    for one in asked:
        if not points or one.cosine > points[-1].cosine:
            points.append(one)
    return tuple(points)
