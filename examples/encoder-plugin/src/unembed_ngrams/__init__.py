"""An encoder that counts character n-grams, hashed into a fixed number of dimensions with signs.

The vectors are the same on every machine. Its tokenizer has one token a character, because training needs one; nothing
else in the encoder depends on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from unembed.encoders.identity import EncoderIdentity, make_identity

SIZES = (1, 2, 3)
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class NgramEncoder:
    """Vectors of length 1 from the n-grams of a lower-cased text.

    Args:
        dimension: length of a vector.
    """

    name = "ngrams"

    def __init__(self, dimension: int = 128) -> None:
        self.dimension = dimension

    @cached_property
    def identity(self) -> EncoderIdentity:
        """Who made the vectors; `revision` changes whenever they do."""
        return make_identity(self, name=self.name, revision=f"1/{self.dimension}")

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: float32 (n, dimension), rows in the order of the texts."""
        rows = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            padded = f" {' '.join(text.lower().split())} "
            for size in SIZES:
                for start in range(len(padded) - size + 1):
                    place, sign = _slot(padded[start : start + size])
                    row[place % self.dimension] += sign
        rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        return rows

    def tokenizer_json(self) -> str:
        """A tokenizer of single characters, as JSON of the `tokenizers` library."""
        return _tokenizer()


def load(dimension: int = 128) -> NgramEncoder:
    """Make the encoder; what a command passes on arrives as keyword arguments."""
    return NgramEncoder(dimension)


@lru_cache(maxsize=1 << 16)
def _slot(gram: str) -> tuple[int, int]:
    """A pseudo-random whole number and a sign."""
    number = int.from_bytes(hashlib.blake2b(gram.encode(), digest_size=8).digest(), "big")
    return number >> 1, 1 if number & 1 else -1


@lru_cache(maxsize=1)
def _tokenizer() -> str:
    """A WordPiece whose words are single characters: "cat" is c ##a ##t."""
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    entries = [*SPECIALS, *characters, *("##" + c for c in characters if c.isalnum())]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": token, **flags} for i, token in enumerate(SPECIALS)],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": True,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
            "model": {
                "type": "WordPiece",
                "unk_token": "[UNK]",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100,
                "vocab": {token: i for i, token in enumerate(entries)},
            },
        }
    )
