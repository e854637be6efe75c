"""Vectors in text that is read line by line: what .jsonl (jsonl.py) and .csv (tables.py) share.

A record is one row: its number from 0, its line from 1, its numbers, its other columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from unembed.stores.protocol import VectorBatch, make_batch
from unembed.stores.reading import READ_BYTES, Reading

Record = tuple[int, int, Sequence[float], dict[str, Any]]

SAME = "Give every row a vector of the same dimension."
REPAIR = "Repair or remove that line."


@dataclass(frozen=True)
class LineStore:
    """A store over text that is read from its beginning at every pass.

    Attributes:
        name: the path, for messages.
        width: numbers stored a row, from the first row.
        records: opens the text and yields its good records.
        id_name: the column that holds the ids, or None.
        count: None, not known before reading.
        reading: what the numbers mean and what happens to bad rows.
    """

    name: str
    width: int
    records: Callable[[], Generator[Record]]
    id_name: str | None = None
    count: int | None = None
    reading: Reading = field(default_factory=Reading)

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.width)

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        size = max(1, min(batch, READ_BYTES // (32 * self.width)))  # a Python float takes 32 bytes in a list
        with contextlib.closing(self._fitting()) as records:
            while rows := list(islice(records, size)):
                part = self._batch(rows)
                if len(part):
                    yield part

    def _fitting(self) -> Generator[Record]:
        """Yield the records of the store's dimension."""
        with contextlib.closing(self.records()) as records:
            for row, line, vector, others in records:
                if len(vector) == self.width:
                    yield row, line, vector, others
                else:
                    self.reading.reject(
                        row,
                        f"Line {line} of {self.name} has a vector of dimension {len(vector)}; "
                        f"the first has {self.width}.",
                        SAME,
                    )

    def _batch(self, records: list[Record]) -> VectorBatch:
        """Check some records and make a batch of them."""
        import numpy as np

        names = dict.fromkeys(name for *_, others in records for name in others)
        columns = {name: [others.get(name) for *_, others in records] for name in names}
        ids = columns.pop(self.id_name, [None] * len(records)) if self.id_name is not None else None
        numbers = [row for row, *_ in records]
        vectors = np.array([vector for _, _, vector, _ in records], dtype=np.float64)
        return make_batch(vectors, ids, columns, self.name, numbers[0], self.width, rows=numbers, reading=self.reading)
