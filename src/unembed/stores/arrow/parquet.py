"""Vectors in parquet files, read a few rows of the columns that are used at a time.

A row group is inspected before it is read (`pages.py`): as many rows are taken at once as fit. Text
with few different values is kept as a dictionary, so that each is held once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.pages import footer, leaves, rows_that_fit
from unembed.stores.arrow.schema import TableStore, choose_columns
from unembed.stores.arrow.slices import checked
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.reading import NO_ROWS, PEEK, ReadOptions, guarded, translated

_KIND = "parquet"
_BUFFERS = 1 << 25  # bytes that are read at a time, over all columns, so that a large row group is not fetched whole
_TOGETHER = 1000  # row groups


def open_parquet(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> TableStore:
    """Open a parquet file; without a name, vectors are as in `choose_columns`.

    Raises:
        InputError: not parquet, no rows, no vector column or several.
    """
    if not source.seekable:
        raise InputError(f"{source.name} is {source.manner}, and parquet is read from its end.", AS_FILE)
    with translated(source.name, _KIND), _open(source) as file:
        schema, count = file.schema_arrow, int(file.metadata.num_rows)
    if count < 1:
        raise InputError(f"{source.name} has no rows.", NO_ROWS)
    columns = choose_columns(
        schema, lambda names: _tables(source, names, PEEK), source.name, column, id_column, reading
    )
    return TableStore(source.name, columns, lambda size: _tables(source, columns.used, size), count)


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
