"""What every encoder offers: `Encoder`, a structural type. Plugins need not import anything from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from unembed.encoders.identity import EncoderIdentity

if TYPE_CHECKING:
    import numpy as np


@runtime_checkable
class Encoder(Protocol):
    """A model that makes vectors from texts."""

    @property
    def name(self) -> str:
        """The name under which `load_encoder` finds it."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def identity(self) -> EncoderIdentity:
        """Name, revision, prompt and probe vectors; computed at first use."""
        ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, each as one query.

        Args:
            texts: any number of strings, also none.

        Returns:
            float32 (n, dimension), rows in the order of `texts`. A row does not depend on the other texts, up to
            rounding. Nothing is printed.
        """
        ...

    def tokenizer_json(self) -> str | None:
        """The encoder's own tokenizer as `tokenizers` JSON, or None where it has none that can be had."""
        ...
