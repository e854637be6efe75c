"""Vectors in text that is read line by line: what .jsonl (jsonl.py) and .csv (tables.py) share.

A record is one row: its number from 0, its line from 1, its numbers, its other columns, and the characters of these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from unembed.stores.protocol import VectorBatch, make_batch
from unembed.stores.reading import READ_BYTES, ReadOptions

Record = tuple[int, int, Sequence[float], dict[str, Any], int]

SAME = "Give every row a vector of the same dimension."
REPAIR = "Repair or remove that line, or add --skip-bad to leave such rows out."
_CHARACTER = 4  # bytes of a character of text in memory, at most
_HIGH, _LOW = "\udc80", "\udcff"  # surrogates that stand for bytes that are not UTF-8


@dataclass(frozen=True)
class LineStore:
    """A store over text that is read from its beginning at every pass.

    Attributes:
        name: the path, for messages.
        width: numbers stored per row, from the first row.
        records: opens the text and yields its good records.
        id_name: the column that holds the ids, or None.
        count: None, not known before reading.
        reading: what the numbers mean and what happens to bad rows.
        names: columns that every batch has; None: those that its rows have.
    """

    name: str
    width: int
    records: Callable[[], Generator[Record]]
    id_name: str | None = None
    count: int | None = None
    reading: ReadOptions = field(default_factory=ReadOptions)
    names: tuple[str, ...] | None = None

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.width)

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        import numpy as np

        rows: list[tuple[int, Any, dict[str, Any]]] = []
        held = 0
        with contextlib.closing(self.records()) as records:
            for row, line, vector, others, size in records:
                if len(vector) != self.width:
                    what = f"has a vector of dimension {len(vector)}; the first has {self.width}"
                    self.reading.reject(row, f"Line {line} of {self.name} {what}.", SAME)
                    continue
                rows.append((row, np.array(vector, dtype=np.float64), others))
                held += 8 * self.width + _CHARACTER * size
                if len(rows) >= batch or held >= READ_BYTES:
                    yield from self._batch(rows)
                    rows, held = [], 0
        yield from self._batch(rows)

    def _batch(self, records: list[tuple[int, Any, dict[str, Any]]]) -> Iterator[VectorBatch]:
        """Check some records and make a batch of them; none where no row is left."""
        import numpy as np

        if not records:
            return
        names = dict.fromkeys(self.names or ())
        if self.names is None:
            names = dict.fromkeys(name for *_, others in records for name in others)
        columns = {name: [others.get(name) for *_, others in records] for name in names}
        ids = columns.pop(self.id_name, [None] * len(records)) if self.id_name is not None else None
        numbers = [row for row, *_ in records]
        vectors = np.stack([vector for _, vector, _ in records])
        part = make_batch(vectors, ids, columns, self.name, numbers[0], self.width, rows=numbers, reading=self.reading)
        if len(part):
            yield part


def readable(text: str) -> str:
    """Return text with bytes that are not UTF-8 written as \\xNN."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def legible(others: dict[str, Any], row: int, line: int, source: str, reading: ReadOptions) -> bool:
    """Return whether the columns of a row are text without bytes that are not UTF-8; reject the row otherwise."""
    for name, value in others.items():
        if isinstance(value, str) and not value.isascii() and any(_HIGH <= letter <= _LOW for letter in value):
            reading.reject(
                row,
                f"Line {line} of {source} holds bytes that are not UTF-8 in column {name!r}.",
                "Convert the file to UTF-8, for example with iconv -f windows-1252 -t utf-8.",
            )
            return False
    return True
