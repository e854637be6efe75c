"""What every store gives: batches of vectors with their ids and metadata.

In it: `VectorBatch` (the unit of streaming), `Store` (the protocol), `make_batch` (the checks that every reader
shares), and the rules that choose the vector column and the id column when the caller names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from unembed.errors import InputError

if TYPE_CHECKING:
    import numpy as np

ID_NAMES = ("id", "ids", "_id", "uuid", "key", "doc_id", "chunk_id", "point_id")
VECTOR_NAMES = ("embedding", "embeddings", "vector", "vectors", "values", "emb")


@dataclass(frozen=True)
class VectorBatch:
    """Some rows of a store.

    Attributes:
        ids: one identifier a row; the row number (counted from 0) where the store has none.
        vectors: float32, shape (n, d), finite.
        metadata: the other columns by name, each with n values.
        start: the row number of the first row.
    """

    ids: list[Any]
    vectors: np.ndarray
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    start: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, count: int) -> VectorBatch:
        """Return the first `count` rows as a batch."""
        metadata = {name: values[:count] for name, values in self.metadata.items()}
        return VectorBatch(self.ids[:count], self.vectors[:count], metadata, self.start)


class Store(Protocol):
    """A source of vectors that is read once, in batches, without holding them all in memory."""

    @property
    def name(self) -> str:
        """What messages call it, for example the path."""
        ...

    @property
    def dimension(self) -> int:
        """Length d of every vector."""
        ...

    @property
    def count(self) -> int | None:
        """Number of rows, or None where it is not known before reading."""
        ...

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order, at most `batch` at a time.

        Raises:
            InputError: a row that is missing, ragged, not numeric or not finite; it names the row.
        """
        ...


def make_batch(
    vectors: Any, ids: Sequence[Any] | None, metadata: dict[str, list[Any]], source: str, start: int, dimension: int
) -> VectorBatch:
    """Check some rows and make a batch of them.

    Args:
        vectors: anything that numpy turns into a numeric array of shape (n, d).
        ids: one a row, or None for row numbers.
        metadata: the other columns.
        source: what messages call the store.
        start: row number of the first row.
        dimension: the d that every row must have.

    Raises:
        InputError: wrong type, wrong dimension, NaN or infinite values, with the row's number.
    """
    import numpy as np

    array = np.asarray(vectors)
    check_dtype(array.dtype, source)
    if array.ndim != 2 or array.shape[1] != dimension:
        raise InputError(
            f"The vectors of {source} from row {start} on have shape {array.shape}, not (rows, {dimension}).",
            "Give every row a vector of the same dimension.",
        )
    with np.errstate(over="ignore"):
        array = np.require(array, dtype=np.float32, requirements=("C", "W"))  # torch wants memory that may be written
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise InputError(
            f"Row {start + int(np.argmin(finite))} of {source} holds a value that is NaN or infinite.",
            "Remove that row or embed its text again.",
        )
    numbers = list(range(start, start + len(array))) if ids is None else list(ids)
    return VectorBatch(numbers, array, metadata, start)


def check_dtype(dtype: Any, source: str) -> None:
    """Raise InputError unless `dtype` is a real number type (pickled objects, text and booleans are refused)."""
    if dtype.kind not in "fiu":
        raise InputError(
            f"{source} holds values of type {dtype}, not numbers.", "Store the vectors as float16, float32 or float64."
        )


def choose_vectors(candidates: dict[str, str], asked: str | None, source: str) -> str:
    """Choose the column (or array) that holds the vectors.

    Args:
        candidates: columns that can hold vectors: name -> a short description for messages.
        asked: the name that the caller gave, or None to guess: the only candidate, or the only one with a usual name.
        source: what messages call the store.

    Raises:
        InputError: there is none, there are several, or the one asked for cannot hold vectors.
    """
    listed = ", ".join(f"{name} ({kind})" for name, kind in candidates.items()) or "none"
    if asked is not None:
        if asked in candidates:
            return asked
        raise InputError(
            f"{source} has no vector column named {asked!r}; columns that hold vectors: {listed}.",
            "Name one of those with --column.",
        )
    if not candidates:
        raise InputError(
            f"{source} has no column that holds vectors.",
            "Give a file with a list or fixed-size-list column of numbers, or an array of shape (rows, dimension).",
        )
    if len(candidates) == 1:
        return next(iter(candidates))
    usual = [name for name in candidates if name.lower() in VECTOR_NAMES]
    if len(usual) == 1:
        return usual[0]
    raise InputError(f"{source} has several columns that hold vectors: {listed}.", "Name one of them with --column.")


def choose_ids(columns: Sequence[str], asked: str | None, source: str) -> str | None:
    """Choose the column that holds the ids: the one asked for, else one with a usual name, else None (row numbers)."""
    if asked is not None:
        if asked not in columns:
            listed = ", ".join(columns) or "none"
            raise InputError(
                f"{source} has no column named {asked!r}; it has: {listed}.", "Name one of those with --id-column."
            )
        return asked
    return next((name for name in columns if name.lower() in ID_NAMES), None)
