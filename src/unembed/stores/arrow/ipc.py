"""Vectors in Arrow IPC, file or stream format (.arrow, .feather, .ipc, or standard input), batch by batch.

A file is mapped into memory and its index checked first, so one that was cut is found out before any row is read. From
a pipe both formats are read as a stream: the file format is a stream preceded by eight bytes. One record batch at a
time is held where it is compressed or comes from a pipe; what it unfolds to is looked at before (`messages.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.messages import CheckedStream, check_file, check_next
from unembed.stores.arrow.schema import Columns, choose_columns
from unembed.stores.arrow.slices import checked, sliced
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
        fields: the places of those in the schema.
        count: None, not known before reading.
    """

    name: str
    source: Input
    columns: Columns
    fields: list[int]
    count: int | None = None

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.columns.dimension

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        start = 0
        size = max(1, min(batch, READ_BYTES // (4 * self.dimension)))
        with contextlib.closing(_tables(self.source, self.fields, True)) as tables:
            for table in sliced(tables, size, self.name):
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
        column: the vector column; None takes the only list column of numbers, else counted columns or text.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not Arrow IPC, no rows, no vector column or several.
    """
    schema = _schema(source)

    def fields(names: list[str]) -> list[int]:
        return [place for place, part in enumerate(schema) if part.name in set(names)]

    def peek(names: list[str]) -> Iterator[Any]:
        return _tables(source, fields(names), False)

    columns = choose_columns(schema, peek, source.name, column, id_column, reading or Reading())
    return ArrowStore(source.name, source, columns, fields(columns.used))


def _schema(source: Input) -> Any:
    """Read the schema; of a file, with its index."""
    with contextlib.ExitStack() as stack, translated(source.name, _KIND):
        return _reader(source, stack, None, False)[0].schema


def _tables(source: Input, fields: list[int], last: bool) -> Generator[Any]:
    """Yield the record batches with some fields of the schema, each checked before it is unpacked, and inside."""
    import pyarrow as pa

    with contextlib.ExitStack() as stack:
        with translated(source.name, _KIND):
            _, batches = _reader(source, stack, pa.ipc.IpcReadOptions(included_fields=fields), last)
        for rows in guarded(batches, source.name, _KIND):
            with translated(source.name, _KIND):
                rows = checked(rows)
            yield rows


def _reader(source: Input, stack: contextlib.ExitStack, options: Any, last: bool) -> tuple[Any, Iterator[Any]]:
    """Open a reader; return it and its record batches."""
    import pyarrow as pa

    if not source.plain:
        stream = stack.enter_context(source.open(last=last))
        if stream.peek(8)[:8].startswith(_FILE):
            stream.read(8)
        passing = stack.enter_context(pa.PythonFile(CheckedStream(stream, source.name), mode="r"))
        reader = stack.enter_context(pa.ipc.open_stream(passing, options=options))
        return reader, iter(reader)
    mapped = stack.enter_context(pa.memory_map(str(source.path)))
    head = mapped.read_at(8, 0)
    if head.startswith(b"FEA1"):
        raise InputError(f"{source.name} is Feather version 1.", "Write it again as version 2.")
    if head.startswith(_FILE):
        check = check_file(mapped, mapped.size(), source.name)
        reader = stack.enter_context(pa.ipc.open_file(mapped, options=options))
        return reader, _batches(reader, check)
    beside = stack.enter_context(source.open())
    reader = stack.enter_context(pa.ipc.open_stream(mapped, options=options))
    return reader, _next_batches(reader, beside, source.name)


def _batches(reader: Any, check: Callable[[int], None]) -> Iterator[Any]:
    for number in range(reader.num_record_batches):
        check(number)
        yield reader.get_batch(number)


def _next_batches(reader: Any, beside: Any, source: str) -> Iterator[Any]:
    while True:
        check_next(beside, source)
        try:
            yield reader.read_next_batch()
        except StopIteration:
            return
