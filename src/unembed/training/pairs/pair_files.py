"""Texts with their vectors, and drafts of them with theirs: what a corrector and a student learn from.

Contents: `Texts`, `Pairs`, `Origin`, `KINDS`. `pair_feed.py` brings them into training.

A folder of pairs holds parts (`*.npz`) that appear whole. A part holds the texts too, so that pairs can be carried
without the shards or packs that they were made from.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np

from unembed.data.feed import Dataset
from unembed.errors import DataError
from unembed.files import PRIVATE, atomic_path

KINDS = ("greedy", "sampled", "begun", "mistakes", "corrected", "filled")
"""Left to right by the denoiser, likeliest token by token, sampled, or after a true beginning; true texts with
mistakes; what a corrector made of a draft; true texts, some positions of which the denoiser filled anew."""


@dataclass(frozen=True)
class Origin:
    """Where pairs come from.

    Attributes:
        encoder: its name.
        tokenizer: sha256 of the tokenizer.
        limit: longest text in tokens, and columns of the ids.
        base: digest of the weights that wrote the drafts.
    """

    encoder: str
    tokenizer: str
    limit: int
    base: str


@dataclass
class Texts:
    """N texts.

    Attributes:
        ids: (N, n) integers, filled up after each text.
        lengths: (N,) integers, tokens of each.
        vectors: (N, d) float, as the encoder makes them.
        fitted: (N,) bool, texts that the base's closed-form parts were fitted on, or may have been.
    """

    ids: np.ndarray
    lengths: np.ndarray
    vectors: np.ndarray
    fitted: np.ndarray

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.lengths)

    def take(self, index: np.ndarray) -> Self:
        """Return the rows named by `index`."""
        return type(self)(*(getattr(self, column.name)[index] for column in fields(self)))

    @classmethod
    def read(cls, dataset: Dataset, rows: np.ndarray, fitted: np.ndarray | None = None) -> Texts:
        """Gather the rows (N,) of a dataset.

        Args:
            dataset: texts and vectors.
            rows: (N,) which of them.
            fitted: (dataset,) bool; None for all of them.
        """
        ids, lengths, vectors = dataset.gather(rows)
        known = np.ones(len(rows), dtype=bool) if fitted is None else fitted[rows]
        return Texts(ids, np.asarray(lengths, dtype=np.int64), vectors, known)


@dataclass
class Pairs(Texts):
    """P texts, each with one draft.

    Attributes:
        drafts: (P, limit) integers, filled up after each draft.
        draft_lengths: (P,) integers, tokens of each draft.
        draft_vectors: (P, d) float, of the drafts.
        kinds: (P,) uint8, index into `KINDS`.
    """

    drafts: np.ndarray
    draft_lengths: np.ndarray
    draft_vectors: np.ndarray
    kinds: np.ndarray

    def join(self, *others: Pairs) -> Pairs:
        """Return these pairs and others after them."""
        parts = (self, *others)
        return Pairs(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(self)))

    def save(self, path: Path, origin: Origin) -> None:
        """Write one part, whole or not at all; ids in 16 bits where they fit, vectors in float16.

        Raises:
            DataError: the folder cannot be written.
        """
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        for name in ("ids", "drafts"):
            wide = columns[name].max(initial=0) >= 1 << 16
            columns[name] = columns[name].astype(np.int32 if wide else np.uint16)
        for name in ("vectors", "draft_vectors"):
            columns[name] = columns[name].astype(np.float16)
        for name in ("lengths", "draft_lengths"):
            columns[name] = columns[name].astype(np.int16)
        with atomic_path(path, PRIVATE) as part, open(part, "wb") as stream:
            np.savez(stream, origin=np.array(json.dumps(asdict(origin))), **columns)

    def digest(self) -> str:
        """The beginning of a sha256 of all columns."""
        found = hashlib.sha256()
        for column in fields(self):
            found.update(np.ascontiguousarray(getattr(self, column.name)).tobytes())
        return found.hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> tuple[Pairs, Origin]:
        """Read one part.

        Raises:
            DataError: it is damaged, or no part of pairs.
        """
        try:
            with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as stored:
                found = cls(*(stored[column.name] for column in fields(cls)))
                origin = Origin(**json.loads(str(stored["origin"])))
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} is damaged ({error}).", "Remove it; it will be made again.") from error
        if any(len(getattr(found, column.name)) != len(found) for column in fields(cls)):
            raise DataError(f"{path} is damaged: its columns differ in length.", "Remove it; it will be made again.")
        return found, origin
