"""What every store gives: batches of vectors with their ids and metadata.

Contents: `VectorBatch` (the unit of streaming), `Store` (the protocol), `make_batch` (the checks that every reader
shares), and the rules that choose the vector column and the id column when the caller names none.

`families`, `lacking` and, for tables with a schema, `counted_columns` find columns that hold one number each of a
vector: common words and a count ("e0", "e1", ... or "0", "1", ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

from unembed.errors import InputError
from unembed.stores.reading import ReadOptions, look
from unembed.stores.written import is_missing, oddity

if TYPE_CHECKING:
    import numpy as np

ID_NAMES = ("id", "ids", "_id", "uuid", "key", "doc_id", "chunk_id", "point_id")
_WRITE = "Store one list of numbers per row, such as [0.1, 0.2], or one column per number (e0, e1, ...)."
VECTOR_NAMES = ("embedding", "embeddings", "vector", "vectors", "values", "emb")
_LIKELY: tuple[Callable[[str], bool], ...] = (  # names of the column that was meant, the likeliest first
    lambda name: name.lower() in VECTOR_NAMES,
    lambda name: "emb" in name.lower() or "vec" in name.lower(),
)


@dataclass(frozen=True)
class VectorBatch:
    """Some rows of a store.

    Attributes:
        ids: one identifier per row; the row number (counted from 0) where the store has none.
        vectors: float32, shape (n, d), finite.
        metadata: the other columns by name, each with n values.
        start: the row number of the first row.
        rows: the row numbers where bad rows were left out; None where they are start, start + 1, ...
    """

    ids: list[Any]
    vectors: np.ndarray
    metadata: dict[str, list[Any]] = field(default_factory=dict)
    start: int = 0
    rows: list[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        """How many rows of which shape, from where on, and the other columns."""
        n, d = self.vectors.shape
        return f"<VectorBatch: {n} vectors of {d} dimensions from row {self.start}; metadata {list(self.metadata)}>"

    def row(self, index: int) -> int:
        """Return the number in the store, from 0, of the batch's row `index`."""
        return self.start + index if self.rows is None else self.rows[index]

    def head(self, count: int) -> VectorBatch:
        """Return the first `count` rows as a batch."""
        metadata = {name: values[:count] for name, values in self.metadata.items()}
        rows = None if self.rows is None else self.rows[:count]
        return VectorBatch(self.ids[:count], self.vectors[:count], metadata, self.start, rows)

    def take(self, places: Sequence[int]) -> VectorBatch:
        """Return the rows at some places of this batch, in that order, as a batch."""
        chosen = list(places)
        metadata = {name: [values[i] for i in chosen] for name, values in self.metadata.items()}
        rows = [self.row(i) for i in chosen]
        return VectorBatch([self.ids[i] for i in chosen], self.vectors[chosen], metadata, self.start, rows)


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
        """Yield the rows in order, at most `batch` at a time; no batch is empty.

        Raises:
            InputError: a row that is missing, ragged, not numeric or not finite; it names the row.
        """
        ...


def make_batch(
    vectors: Any,
    ids: Sequence[Any] | None,
    metadata: dict[str, list[Any]],
    source: str,
    start: int,
    width: int,
    *,
    rows: Sequence[int] | None = None,
    reading: ReadOptions | None = None,
    scales: str | None = None,
) -> VectorBatch:
    """Check some rows and make a batch of them.

    Args:
        vectors: anything that numpy turns into a numeric array of shape (n, width).
        ids: one per row, or None for row numbers.
        metadata: the other columns.
        source: what messages call the store.
        start: row number of the first row.
        width: the numbers that every row must have (the dimension, or an eighth of it where bits are packed).
        rows: row numbers where rows were left out already; None for start, start + 1, ...
        reading: what the numbers mean and what happens to bad rows; None for plain numbers and an error.
        scales: the metadata column with one scale per row, or None.

    Returns:
        The good rows; none may be left where bad rows are skipped.

    Raises:
        InputError: wrong type, wrong dimension, NaN or infinite values, with the row's number. Where bad rows are
            skipped, those with NaN or infinite values and those of zeros are left out and reported instead.
    """
    import numpy as np

    reading = reading or ReadOptions()
    array = np.asarray(vectors)
    if not len(array) and rows is not None:
        return VectorBatch([], np.zeros((0, reading.quantisation.dimension(width)), np.float32), {}, start, [])
    check_dtype(array.dtype, source)
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(
            f"The vectors of {source} from row {start} on have shape {array.shape}, not (rows, {width}).",
            "Give every row a vector of the same dimension.",
        )
    if scales is None:
        look(array, source, reading)
    numbers = list(range(start, start + len(array))) if rows is None else list(rows)
    bytes_fit = reading.quantisation.fits(array)
    for index in np.flatnonzero(~bytes_fit):
        reading.reject(
            numbers[index],
            f"Row {numbers[index]} of {source} holds a number that is not a byte from 0 to 255.",
            "Store packed vectors as uint8 (add 128 to numbers from -128 to 127), or leave out --packed.",
        )
    array = reading.quantisation.decode(array, metadata[scales] if scales is not None else None)
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged file may hold NaN that signal
        array = np.require(array, dtype=np.float32, requirements=("C", "W"))  # torch wants memory that may be written
    finite = np.isfinite(array)
    good = finite.all(axis=1)
    for index in np.flatnonzero(~good & bytes_fit):
        reading.reject(
            numbers[index],
            f"Row {numbers[index]} of {source} holds a value that is NaN or infinite, in dimension "
            f"{int(np.argmin(finite[index]))}.",
            "Remove that row or embed its text again.",
        )
    good &= bytes_fit
    if reading.skips:  # elsewhere the caller judges vectors without a direction
        with np.errstate(invalid="ignore"):
            filled = (array != 0).any(axis=1)
        for index in np.flatnonzero(good & ~filled):
            good[index] = False
            reading.reject(numbers[index], f"Row {numbers[index]} of {source} is a vector of zeros.", "Remove it.")
    names = numbers if ids is None else list(ids)
    if not good.all():
        kept = [int(index) for index in np.flatnonzero(good)]
        array, names, numbers = array[kept], [names[i] for i in kept], [numbers[i] for i in kept]
        metadata = {name: [values[i] for i in kept] for name, values in metadata.items()}
    first = numbers[0] if numbers else start
    plain = not numbers or numbers[-1] - first == len(numbers) - 1
    return VectorBatch(list(names), array, metadata, first, None if plain else numbers)


def check_dtype(dtype: Any, source: str) -> None:
    """Raise InputError unless `dtype` is a real number type (pickled objects, text and booleans are refused)."""
    if dtype.kind not in "fiu":
        raise InputError(
            f"{source} holds values of type {dtype}, not numbers.", "Store the vectors as float16, float32 or float64."
        )


def choose_vectors(
    candidates: Mapping[str, str], asked: str | None, source: str, cells: Mapping[str, Any] | None = None
) -> str:
    """Choose the column (or array) that holds the vectors.

    Args:
        candidates: columns that can hold vectors: name -> a short description for messages.
        asked: the name that the caller gave, or None to guess: the only candidate, or the only one with a usual name.
        source: what messages call the store.
        cells: all columns (or arrays): name -> a value of it, which messages quote.

    Raises:
        InputError: there is none, there are several, or the one asked for cannot hold vectors.
    """
    listed = _listed([f"{name} ({kind})" for name, kind in candidates.items()])
    columns = f"; its columns are: {_listed(list(cells))}" if cells is not None else ""
    cells = cells or {}
    if asked is not None:
        if asked in candidates:
            return asked
        raise InputError(
            f"{source} has no vector column named {asked!r}{_quoted(asked, cells)}; "
            f"columns that hold vectors: {listed}.",
            "Name one of those with --column." if candidates else _WRITE,
        )
    if not candidates:
        longest = max(cells, key=lambda name: len(str(cells[name])), default="")
        likely = next((name for part in _LIKELY for name in cells if part(name)), longest)
        raise InputError(
            f"{source} has no column that holds vectors{columns}"
            f"{f'. Column {likely!r}' if likely in cells else ''}{_quoted(likely, cells)}.",
            _WRITE,
        )
    if len(candidates) == 1:
        return next(iter(candidates))
    usual = [name for name in candidates if name.lower() in VECTOR_NAMES]
    if len(usual) == 1:
        return usual[0]
    raise InputError(f"{source} has several columns that hold vectors: {listed}.", "Name one of them with --column.")


def _listed(names: Sequence[str]) -> str:
    """Join names for a message, only the first ones where there are many."""
    shown = [name if len(name) <= 60 else f"{name[:57]}..." for name in names[:12]]
    return ", ".join(shown) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"


def _quoted(name: str, cells: Mapping[str, Any]) -> str:
    """Quote the beginning of a column's cell, and say why it is not a vector."""
    if name not in cells:
        return ""
    text = " ".join(str(cells[name])[:200].split())
    shown = "" if is_missing(cells[name]) else f" begins with {text if len(text) <= 40 else f'{text[:37]}...'!r}"
    return f"{shown}: {oddity(cells[name])}"


def choose_ids(columns: Sequence[str], asked: str | None, source: str) -> str | None:
    """Choose the column that holds the ids: the one asked for, else one with a usual name, else None (row numbers)."""
    if asked is not None:
        if asked not in columns:
            listed = _listed(columns)
            raise InputError(
                f"{source} has no column named {asked!r}; it has: {listed}.", "Name one of those with --id-column."
            )
        return asked
    if "custom_id" in columns:  # of OpenAI's batches, whose own ids mean nothing to the user
        return "custom_id"
    return next((name for name in columns if name.lower() in ID_NAMES), None)


def choose_others(columns: Sequence[str], reading: ReadOptions, source: str) -> list[str]:
    """Return which of the columns besides ids and vectors are read: those that are used, or all.

    Raises:
        InputError: one that is used is not there.
    """
    if reading.wanted is None:
        return list(columns)
    for name in sorted(reading.wanted.difference(columns)):
        listed = _listed(columns)
        raise InputError(
            f"{source} has no column named {name!r} besides ids and vectors (it has: {listed}).", "Check the name."
        )
    return [name for name in columns if name in reading.wanted]


_COUNTED = re.compile(r"(.*?)(\d+)(\D*)", re.S)


def families(names: Sequence[str]) -> dict[tuple[str, str], list[tuple[int, int]]]:
    """Group names by what is before and after their count; each has (count, place among the names), ascending."""
    found: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for place, name in enumerate(names):
        match = _COUNTED.fullmatch(name)
        if match is not None and len(match[2]) < 10:
            found.setdefault((match[1], match[3]), []).append((int(match[2]), place))
    return {words: sorted(members) for words, members in found.items()}


def lacking(counts: Sequence[int], least: int = 1) -> int | None:
    """Return a count that is missing between ascending ones, or before the first where that exceeds `least`."""
    gap = next((a + 1 for a, b in pairwise(counts) if b > a + 1), None)
    return counts[0] - 1 if gap is None and counts[0] > least else gap


def counted_columns(names: Sequence[str]) -> Iterator[tuple[str, list[str], int | None]]:
    """Yield (prefix, names in the order of their counts, a missing count or None) of names that end in a count."""
    for (prefix, after), members in families(names).items():
        counts = [count for count, _ in members]
        if not after and len(set(counts)) == len(counts) > 1:
            yield prefix, [names[place] for _, place in members], lacking(counts)
