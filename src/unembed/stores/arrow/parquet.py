"""Vectors in parquet files, read a few rows of the columns that are used at a time.

A row group is inspected before it is read (`pages.py`): as many rows are taken at once as fit. Text
with few different values is kept as a dictionary, so that each is held once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.pages import footer, leaves, rows_that_fit
from unembed.stores.arrow.schema import Columns, choose_columns
from unembed.stores.arrow.slices import checked, sliced
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.protocol import VectorBatch
from unembed.stores.reading import NO_ROWS, PEEK, READ_BYTES, RESTORE, Reading, guarded, translated

_KIND = "parquet"
_BUFFERS = 1 << 25  # bytes that are read at a time, over all columns, so that a large row group is not fetched whole
_TOGETHER = 1000  # row groups


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
        with contextlib.closing(_tables(self.source, self.columns.used, size)) as tables:
            for rows in sliced(tables, size, self.name):
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
        column: the vector column; None takes the only list column of numbers, else counted columns or text.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not parquet, no rows, no vector column or several.
    """
    if not source.seekable:
        raise InputError(f"{source.name} is {source.manner}, and parquet is read from its end.", AS_FILE)
    reading = reading or Reading()
    with translated(source.name, _KIND), _open(source) as file:
        schema, count = file.schema_arrow, int(file.metadata.num_rows)
    if count < 1:
        raise InputError(f"{source.name} has no rows.", NO_ROWS)
    columns = choose_columns(
        schema, lambda names: _tables(source, names, PEEK), source.name, column, id_column, reading
    )
    return ParquetStore(source.name, count, source, columns)


def _open(source: Input, columns: int = 32, dictionaries: list[str] | None = None) -> Any:
    """Open the file with small buffers, and some leaves of text as dictionaries."""
    import pyarrow.parquet as pq

    buffer = max(1 << 12, min(1 << 20, _BUFFERS // max(1, columns)))
    # pre-buffered row groups would be kept to the end
    return pq.ParquetFile(source.path, buffer_size=buffer, pre_buffer=False, read_dictionary=dictionaries)


def _tables(source: Input, names: list[str], size: int) -> Generator[Any]:
    """Yield record batches of some columns, each checked inside, of as many rows as fit."""
    with translated(source.name, _KIND), _open(source) as file, source.open() as stream:
        groups = footer(stream)
        used = leaves(file.schema, groups, names)
    shared = [leaf.path for leaf in used if leaf.shared]
    with contextlib.ExitStack() as stack:
        with translated(source.name, _KIND):
            file = stack.enter_context(_open(source, len(used), shared))
            stream = stack.enter_context(source.open())
        at = 0
        while at < len(groups):
            rows = held = 0
            begin = at
            with translated(source.name, _KIND):
                while at < len(groups) and held < size and at - begin < _TOGETHER:
                    fits = rows_that_fit(stream, groups[at], used, source.name)
                    rows = min(rows or fits, fits)
                    held, at = held + groups[at].num_rows, at + 1
            part = file.iter_batches(min(size, rows), list(range(begin, at)), names)
            for batch in guarded(part, source.name, _KIND):
                with translated(source.name, _KIND):
                    batch = checked(batch)
                yield batch
