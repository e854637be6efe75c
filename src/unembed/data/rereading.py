"""Texts that are read a second time: are they those that an interrupted run was made from?

Contents: `add_texts`, `skip_texts`.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unembed.errors import DataError

if TYPE_CHECKING:
    from hashlib import _Hash

_CHUNK = 4096


def add_texts(digest: _Hash, texts: Sequence[tuple[str, str]]) -> None:
    """Add (text, source) pairs to a digest; it does not depend on how they are cut into calls."""
    for text, source in texts:
        digest.update(f"{source}\t{text}\n".encode("utf-8", "surrogatepass"))


def skip_texts(stream: Iterator[tuple[str, str]], count: int, digest: str, made: str) -> None:
    """Read past the texts of a finished piece.

    Args:
        stream: positioned before its first text.
        count: texts that were read for it, dropped ones included.
        digest: of `add_texts` over them, hexadecimal; "" compares nothing but the count.
        made: what was made of them, for the message.

    Raises:
        DataError: they are others, or fewer.
    """
    found = hashlib.sha256()
    while count:
        chunk = list(itertools.islice(stream, min(_CHUNK, count)))
        if not chunk:
            break
        count -= len(chunk)
        add_texts(found, chunk)
    if count or (digest and found.hexdigest() != digest):
        raise DataError(
            f"The texts are not those that {made} was made from.",
            "Give the same texts in the same order, or choose another folder.",
        )
