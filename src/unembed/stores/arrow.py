"""Vectors in Arrow IPC, file or stream format (.arrow, .feather, .ipc, or standard input), batch by batch.

A file is mapped into memory and its index checked first, so one that was cut is found out before any row is read. From
a pipe both formats are read as a stream: the file format is a stream behind eight bytes. One record batch at a time is
held where it is compressed or comes from a pipe.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.columns import Columns, choose_columns
from unembed.stores.inputs import Input
from unembed.stores.protocol import VectorBatch
from unembed.stores.reading import READ_BYTES, Reading, guarded, translated

_FILE = b"ARROW1"
_KIND = "Arrow IPC"


@dataclass(frozen=True)
class ArrowStore:
    """A store over one Arrow IPC file or stream.

    Attributes:
        name: the path, for messages.
        source: the bytes.
        columns: which columns hold what.
        count: None, not known before reading.
    """

    name: str
    source: Input
    columns: Columns
    count: int | None = None

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.columns.dimension

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        start = 0
        size = max(1, min(batch, READ_BYTES // (4 * self.dimension)))
        with contextlib.closing(_tables(self.source, self.columns.used)) as tables:
            next(tables)
            for table in guarded(_regrouped(tables, size), self.name, _KIND):
                part = self.columns.batch(table, start)
                start += table.num_rows
                if len(part):
                    yield part


def open_arrow(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> ArrowStore:
    """Open an Arrow IPC file or stream.

    Args:
        source: the bytes.
        column: the vector column; None takes the only list column of numbers.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not Arrow IPC, no rows, no vector column or several.
    """
    with contextlib.closing(_tables(source)) as tables:
        schema = next(tables)
        columns = choose_columns(schema, lambda names: tables, source.name, column, id_column, reading or Reading())
    return ArrowStore(source.name, source, columns)


def _tables(source: Input, names: list[str] | None = None) -> Generator[Any]:
    """Yield the schema, then the record batches, each checked inside."""
    import pyarrow as pa

    with contextlib.ExitStack() as stack:
        with translated(source.name, _KIND):
            if source.once:
                stream = stack.enter_context(source.open())
                head = stream.peek(8)[:8]
                if head.startswith(_FILE):
                    stream.read(8)
                reader = stack.enter_context(pa.ipc.open_stream(stream))
                batches: Iterator[Any] = iter(reader)
            else:
                mapped = stack.enter_context(pa.memory_map(str(source.path)))
                head = mapped.read(8)
                mapped.seek(0)
                if head.startswith(b"FEA1"):
                    raise InputError(f"{source.name} is Feather version 1.", "Write it again as version 2.")
                if head.startswith(_FILE):
                    reader = stack.enter_context(pa.ipc.open_file(mapped))
                    batches = map(reader.get_batch, range(reader.num_record_batches))
                else:
                    reader = stack.enter_context(pa.ipc.open_stream(mapped))
                    batches = iter(reader)
            schema = reader.schema
        yield schema
        for rows in guarded(batches, source.name, _KIND):
            with translated(source.name, _KIND):
                rows.validate(full=True)
            yield rows


def _regrouped(batches: Iterator[Any], size: int) -> Iterator[Any]:
    """Yield tables of `size` rows (the last may be shorter) out of record batches of any length."""
    import pyarrow as pa

    parts: list[Any] = []
    held = 0
    for rows in batches:
        at = 0
        while rows.num_rows - at >= size - held:
            parts.append(rows.slice(at, size - held))
            at += size - held
            yield pa.Table.from_batches(parts)
            parts, held = [], 0
        if at < rows.num_rows:
            parts.append(rows.slice(at))
            held += rows.num_rows - at
    if parts:
        yield pa.Table.from_batches(parts)
