"""Vectors in Arrow IPC, file or stream format (.arrow, .feather, .ipc, or standard input), batch by batch.

A file is mapped into memory and its index checked first, so one that was cut is found out before any row is read. From
a pipe both formats are read as a stream: the file format is a stream preceded by eight bytes. One record batch at a
time is held where it is compressed or comes from a pipe; what it unfolds to is looked at before (`messages.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.messages import CheckedStream, check_file, check_next
from unembed.stores.arrow.schema import TableStore, choose_columns
from unembed.stores.arrow.slices import checked
from unembed.stores.inputs import Input
from unembed.stores.reading import ReadOptions, guarded, translated

_FILE = b"ARROW1"
_KIND = "Arrow IPC"


def open_arrow(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> TableStore:
    """Open an Arrow IPC file or stream; without a name, vectors are as in `choose_columns`.

    Raises:
        InputError: not Arrow IPC, no rows, no vector column or several.
    """
    schema = _schema(source)

    def fields(names: list[str]) -> list[int]:
        return [place for place, part in enumerate(schema) if part.name in set(names)]

    def peek(names: list[str]) -> Iterator[Any]:
        return _tables(source, fields(names), False)

    columns = choose_columns(schema, peek, source.name, column, id_column, reading)
    used = fields(columns.used)
    return TableStore(source.name, columns, lambda _: _tables(source, used, True))


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
