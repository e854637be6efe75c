"""The first components of another encoder's vectors, as Matryoshka encoders and many stores keep them.

Contents: `TruncatedEncoder`.

"minilm?dimensions=256" is all-MiniLM-L6-v2 cut to 256 of its 384 components (arXiv 2205.13147 trains encoders for
this; MiniLM was not, and loses a little search quality). A cut row of length 1 is scaled to length 1 again unless
"normalise=no" is asked for; the identity notes which, because it is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from unembed.encoders.identity import EncoderIdentity, make_identity
from unembed.encoders.protocol import Encoder
from unembed.errors import EncoderError

if TYPE_CHECKING:
    import numpy as np


class TruncatedEncoder:
    """An encoder whose vectors are cut.

    Args:
        inner: makes the whole vectors.
        dimensions: components that are kept, at most those of `inner`.
        normalise: scale cut rows to length 1; None: where the whole ones have length 1.

    Raises:
        EncoderError: more dimensions than there are, or fewer than 2.
    """

    def __init__(self, inner: Encoder, dimensions: int, normalise: bool | None = None) -> None:
        """Check the dimensions."""
        if not 2 <= dimensions <= inner.dimension:
            raise EncoderError(
                f"The encoder {inner.name} has {inner.dimension} dimensions, so {dimensions} cannot be kept.",
                f"Choose from 2 to {inner.dimension}.",
            )
        self.inner = inner
        self.dimension = dimensions
        self.normalise = inner.identity.normalised if normalise is None else normalise
        forced = "" if normalise is None else f"&normalise={'yes' if normalise else 'no'}"
        self.name = f"{inner.name}?dimensions={dimensions}{forced}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}, {self.dimension} dimensions>"

    @cached_property
    def identity(self) -> EncoderIdentity:
        """The identity, with the revision and the prompt of the whole encoder."""
        known = self.inner.identity
        return make_identity(self, name=self.name, revision=known.revision, prompt=known.prompt)

    def tokenizer_json(self) -> str | None:
        """The tokenizer of the whole encoder."""
        return self.inner.tokenizer_json()

    def token_embeddings(self) -> np.ndarray | None:
        """The input embeddings of the whole encoder, where it has some."""
        found = getattr(self.inner, "token_embeddings", None)
        return None if found is None else found()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension)."""
        return self.cut(self.inner.encode(texts))

    def cut(self, vectors: np.ndarray) -> np.ndarray:
        """Cut whole vectors (n, d) to float32 (n, dimension)."""
        import numpy as np

        kept = np.array(vectors[:, : self.dimension], dtype=np.float32)
        if self.normalise:
            kept /= np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-12)
        return kept
