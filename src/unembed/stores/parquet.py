"""Vectors in parquet files: a list or fixed-size-list column of numbers, read one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.columns import Columns, choose_columns
from unembed.stores.inputs import Input
from unembed.stores.protocol import VectorBatch
from unembed.stores.reading import NO_ROWS, READ_BYTES, RESTORE, Reading, guarded, translated

_BUFFER = 1 << 20  # bytes that are read at a time, so that a large row group is not fetched whole


@dataclass(frozen=True)
class ParquetStore:
    """A store over one parquet file.

    Attributes:
        name: the path, for messages.
        count: number of rows.
        source: the file.
        columns: which columns hold what.
    """

    name: str
    count: int
    source: Input
    columns: Columns

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.columns.dimension

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        start = 0
        size = max(1, min(batch, READ_BYTES // (4 * self.dimension)))
        with translated(self.name, "parquet"):
            file = _open(self.source)
        with file:
            for rows in guarded(
                _checked(file.iter_batches(batch_size=size, columns=self.columns.used)), self.name, "parquet"
            ):
                part = self.columns.batch(rows, start)
                start += rows.num_rows
                if len(part):
                    yield part
        if start != self.count:
            raise InputError(f"{self.name} announces {self.count} rows and holds {start}.", RESTORE)


def open_parquet(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> ParquetStore:
    """Open a parquet file.

    Args:
        source: the file.
        column: the vector column; None takes the only list column of numbers.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not parquet, no rows, no vector column or several.
    """
    if source.once:
        raise InputError(f"{source.name} is a pipe, and parquet is read from its end.", "Save it to a file first.")
    reading = reading or Reading()
    with translated(source.name, "parquet"):
        file = _open(source)
    with file:
        with translated(source.name, "parquet"):
            schema, count = file.schema_arrow, int(file.metadata.num_rows)
        if count < 1:
            raise InputError(f"{source.name} has no rows.", NO_ROWS)

        def peek(names: list[str]) -> Iterator[Any]:
            return guarded(_checked(file.iter_batches(batch_size=reading.peek, columns=names)), source.name, "parquet")

        columns = choose_columns(schema, peek, source.name, column, id_column, reading)
    return ParquetStore(source.name, count, source, columns)


def _open(source: Input) -> Any:
    """Open the file with a small buffer."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(source.path, buffer_size=_BUFFER, pre_buffer=False)  # buffered row groups are kept to the end


def _checked(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield record batches whose insides have been checked: a damaged file must not lead out of its memory."""
    for rows in batches:
        rows.validate(full=True)
        yield rows
