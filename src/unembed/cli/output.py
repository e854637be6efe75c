"""Files that hold recovered text: .jsonl, .csv and .parquet, streamed, whole or absent, readable by the owner only.

    with open_writer("texts.csv") as write:
        write([{"id": 1, "text": "..."}])

Recovered text may be personal, so every file has mode 600; CSV cells that a spreadsheet would run as a formula (those
that begin with = + - @, a tab or a carriage return) are preceded by an apostrophe.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unembed.cli.console import plain
from unembed.errors import InputError
from unembed.files import atomic_path, atomic_write_bytes

if TYPE_CHECKING:
    from unembed.inverter import Inverter

Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]

MODE = 0o600
KINDS = (".jsonl", ".csv", ".parquet")
_OURS = ("token_confidence", "tokens", "alternatives")  # plain already: lists of numbers or of texts
ROW_GROUP = 4096
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def check_output(path: str | Path, kinds: Sequence[str] = KINDS) -> Path:
    """Check the ending of an output path before any work is done.

    Raises:
        InputError: another ending, or a folder of that name.
    """
    path = Path(path)
    if path.suffix.lower() not in kinds:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}.", f"Use a name that ends in {' or '.join(kinds)}."
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder.", "Name a file.")
    return path


@contextlib.contextmanager
def open_writer(path: str | Path) -> Iterator[Write]:
    """Yield a function that appends rows to a file; the file appears when the block ends without an exception.

    Args:
        path: its ending chooses the format. Every row must have the keys of the first.

    Raises:
        InputError: an unknown ending.
        DataError: the file cannot be written.
    """
    path = check_output(path)
    opener = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}[path.suffix.lower()]
    with atomic_path(path, MODE) as part, opener(part) as write:
        yield write


@contextlib.contextmanager
def _jsonl(path: Path) -> Iterator[Write]:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8") as stream:

        def write(rows: Sequence[Row]) -> None:
            for row in rows:
                try:
                    line = encode(row)
                except ValueError:  # NaN, which JSON lacks
                    line = encode(plain(row))
                stream.write(line + "\n")

        encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain).encode
        yield write


@contextlib.contextmanager
def _csv(path: Path) -> Iterator[Write]:
    """Write a header and one line a row; lists become JSON."""
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        names: list[str] = []

        def write(rows: Sequence[Row]) -> None:
            for row in rows:
                if not names:
                    names.extend(row)
                    writer.writerow([escape_cell(name) for name in names])
                writer.writerow([_cell(row.get(name)) for name in names])

        yield write


def draw_row(path: str | Path, inverter: Inverter, vector: Any, original: Any, options: dict[str, Any]) -> None:
    """Decode one vector again and write an animation of it."""
    from unembed.evaluation.animation import animate

    decoding = {name: value for name, value in options.items() if name != "trace"}
    svg, _ = animate(inverter, vector, None if original is None else str(original), **decoding)
    atomic_write_bytes(path, svg.encode(), MODE)


def _cell(value: Any) -> Any:
    """Turn a value into what a CSV cell holds."""
    value = plain(value)
    if isinstance(value, list | dict):
        return escape_cell(json.dumps(value, ensure_ascii=False))
    return escape_cell(value) if isinstance(value, str) else value


def escape_cell(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would take for a formula; numbers are left alone."""
    return f"'{text}" if text.startswith(_FORMULA) else text


@contextlib.contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Write row groups of one size, however the rows come; the columns' types come from the first group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    waiting: list[Row] = []
    writer: Any = None

    def write_group(rows: Sequence[Row]) -> None:
        nonlocal writer
        values = {name: [row.get(name) if name in _OURS else plain(row.get(name)) for row in rows] for name in rows[0]}
        if writer is None:
            table = pa.table({name: _column(name, column) for name, column in values.items()})
            writer = pq.ParquetWriter(path, table.schema, compression="zstd")
        else:
            try:
                table = pa.table(values, schema=writer.schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise InputError(
                    f"A column changes its type between rows ({error}).", "Write .jsonl, which has no types."
                ) from error
        writer.write_table(table)

    def write(rows: Sequence[Row]) -> None:
        waiting.extend(rows)
        while len(waiting) >= ROW_GROUP:
            write_group(waiting[:ROW_GROUP])
            del waiting[:ROW_GROUP]

    try:
        yield write
        if waiting:
            write_group(waiting)
        elif writer is None:
            pq.write_table(pa.table({}), path)
    finally:
        if writer is not None:
            writer.close()


def _column(name: str, values: list[Any]) -> Any:
    """Make an arrow column; one whose first rows hold nothing is text, and numbers are floats unless all are whole."""
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "original": pa.string(),
        "confidence": pa.float32(),
        "p_exact": pa.float32(),
        "cosine": pa.float32(),
        "token_confidence": pa.list_(pa.float32()),
        "alternatives": pa.list_(pa.string()),
    }
    if name in types:
        return pa.array(values, types[name])
    column = pa.array(values)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column
