"""What a refinement has spent and found so far, kept outside of the search, so that an interruption loses nothing.

Contents: `Spent`, `Passes`, `Ledger`, `counting_passes`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.data.tokenization import Tokenizer
from unembed.model.denoiser import Denoiser
from unembed.refinement.asking import Asker

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder


@dataclass(frozen=True)
class Spent:
    """A moment of a refinement of T texts.

    Attributes:
        seconds: since its beginning, of all texts.
        passes: denoiser passes of all texts so far, those of the drafts included.
    """

    seconds: float
    passes: int


class Passes:
    """A count of denoiser passes: rows that went through the first block.

    Attributes:
        count: so far.
    """

    def __init__(self) -> None:
        self.count = 0


@contextlib.contextmanager
def counting_passes(denoiser: Denoiser) -> Iterator[Passes]:
    """Count the rows that go through a denoiser within the block."""
    passes = Passes()

    def add(module: Any, inputs: tuple[Any, ...]) -> None:
        passes.count += len(inputs[0])

    hook = denoiser.blocks[0].register_forward_pre_hook(add)
    try:
        yield passes
    finally:
        hook.remove()


class Ledger(Asker):
    """Asks like an `Asker`, and notes when each text was sent and how near to each target it lies.

    Args:
        encoder: makes the vectors.
        tokenizer: turns ids into the text that is sent.
        targets: (T, d) vectors of unit length.
        passes: counts the denoiser's passes.
        began: when the refinement began, by the monotonic clock; now where None.

    Attributes:
        queries: (T,) texts sent, each counted for the target that it lay nearest to; only where an interruption hides
            for which text they were sent.
        when: the moment at which each text was answered.
    """

    def __init__(
        self,
        encoder: Encoder,
        tokenizer: Tokenizer,
        targets: np.ndarray,
        passes: Passes | None = None,
        began: float | None = None,
    ) -> None:
        super().__init__(encoder, tokenizer)
        self._targets, self._passes = targets, passes or Passes()
        self._began = time.monotonic() if began is None else began
        self._answers: list[tuple[str, np.ndarray]] = []
        self.queries = np.zeros(len(targets), dtype=np.int64)
        self.when: dict[str, Spent] = {}

    @property
    def now(self) -> Spent:
        """What was spent until now."""
        return Spent(time.monotonic() - self._began, self._passes.count)

    def ask(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 (n, d); see `Asker.ask`."""
        vectors = super().ask(texts)
        new = [i for i, text in enumerate(texts) if text not in self.when]
        if new:
            rows = vectors[new]
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
            cosines = rows @ self._targets.T
            moment = self.now
            for i, row in zip(new, cosines, strict=True):
                if texts[i] not in self.when:
                    self.when[texts[i]] = moment
                    self._answers.append((texts[i], row))
                    self.queries[int(row.argmax())] += 1
        return vectors

    def nearest(self, target: int, count: int) -> list[tuple[str, float]]:
        """The texts nearest to a target among all that were answered, with their cosines, nearest first."""
        found = sorted(((float(row[target]), text) for text, row in self._answers), key=lambda pair: -pair[0])
        return [(text, cosine) for cosine, text in found[:count]]
