"""Queries to the encoder: counted by text, cached by text, never sent twice.

Contents: `Asker`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from unembed.data.tokenization import Tokenizer
from unembed.errors import EncoderError

if TYPE_CHECKING:
    from unembed.encoders.protocol import Encoder


class Asker:
    """Asks an encoder for the vectors of drafts.

    Args:
        encoder: makes the vectors; one text sent to it is one query.
        tokenizer: turns ids into the text that is sent.
        cache: texts whose vectors are kept, at most; the oldest go first.

    Attributes:
        sent: texts sent to the encoder so far.
    """

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer, cache: int = 200_000) -> None:
        self._encoder, self._tokenizer, self._most = encoder, tokenizer, cache
        self._known: dict[str, np.ndarray] = {}
        self.sent = 0

    def settle(self, ids: Sequence[Sequence[int]]) -> list[tuple[str, tuple[int, ...]]]:
        """Return for each draft the text that would be sent, and the ids that the encoder would see.

        Word pieces that do not belong together are tokenised anew by the encoder, so a draft may settle on other ids.
        """
        texts = [self._tokenizer.decode(list(row)) for row in ids]
        return [(text, tuple(row)) for text, row in zip(texts, self._tokenizer.encode(texts), strict=True)]

    def knows(self, text: str) -> bool:
        """Whether the vector of a text is known already."""
        return text in self._known

    def ask(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 (n, d); only those that are not known are sent.

        Raises:
            EncoderError: the encoder failed, or answered with something that is not a vector; what it answered before
                is kept.
        """
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            vectors = np.asarray(self._encoder.encode(new), dtype=np.float32)
            self.sent += len(new)
            if vectors.shape != (len(new), self._encoder.dimension) or not np.isfinite(vectors).all():
                raise EncoderError(
                    f"The encoder answered {len(new)} texts with an array of shape {vectors.shape}, or with numbers "
                    "that are not finite.",
                    "Check the encoder; `unembed doctor` compares it with the checkpoint's.",
                )
            self._known.update(zip(new, vectors, strict=True))
        out = np.stack([self._known[text] for text in texts]) if texts else np.zeros((0, self._encoder.dimension))
        while len(self._known) > self._most:
            self._known.pop(next(iter(self._known)))
        return out.astype(np.float32, copy=False)
