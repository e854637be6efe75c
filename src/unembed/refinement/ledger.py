"""When a refinement has spent what: the moment of each answer, and the passes until then.

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
from unembed.network.base import Network
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
def counting_passes(denoiser: Network) -> Iterator[Passes]:
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
    """Asks like an `Asker`, and notes when each text was answered.

    Args:
        encoder: makes the vectors.
        tokenizer: turns ids into the text that is sent.
        passes: counts the denoiser's passes.
        began: when the refinement began, by the monotonic clock; now where None.

    Attributes:
        when: the moment at which each text was answered.
    """

    def __init__(
        self, encoder: Encoder, tokenizer: Tokenizer, passes: Passes | None = None, began: float | None = None
    ) -> None:
        super().__init__(encoder, tokenizer)
        self._passes = passes or Passes()
        self._began = time.monotonic() if began is None else began
        self.when: dict[str, Spent] = {}

    def ask(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 (n, d); see `Asker.ask`."""
        vectors = super().ask(texts)
        moment = Spent(time.monotonic() - self._began, self._passes.count)
        for text in texts:
            self.when.setdefault(text, moment)
        return vectors
