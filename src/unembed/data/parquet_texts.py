"""Texts from parquet files, 1,024 rows at a time. Contents: `read_parquet`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unembed.data.records import Record, Wanted, no_column
from unembed.data.unzstd import open_file
from unembed.errors import DataError
from unembed.stores.arrow.values import is_text
from unembed.stores.reading import first_line


def read_parquet(path: Path, stem: str, asked: Wanted) -> Iterator[Record]:
    """Rows of a parquet file, 1,024 at a time; a compressed one is unpacked into a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, source_column = asked.column, asked.source_column
    with _unpacked(path) as plain:
        try:
            with pq.ParquetFile(plain, memory_map=True, pre_buffer=False) as file:
                strings = [f.name for f in file.schema_arrow if _is_string(f.type)]
                if column is None:
                    if "text" not in strings and len(strings) != 1:
                        raise DataError(
                            f"{path} has {len(strings)} columns of strings and none is named 'text'.",
                            f"Name the column: {', '.join(strings) or 'none'}.",
                        )
                    column = "text" if "text" in strings else strings[0]
                text_name = _parquet_name(file.schema_arrow, column, path)
                if text_name not in strings:
                    raise DataError(f"{path}: column {text_name!r} holds no strings.", "Name a column of strings.")
                if source_column is not None:
                    source_name: str | None = _parquet_name(file.schema_arrow, source_column, path)
                else:
                    source_name = "source" if "source" in strings and text_name != "source" else None
                names = list(file.schema_arrow.names)
                id_name = asked.id_of(names)
                others = [_parquet_name(file.schema_arrow, name, path) for name in asked.more]
                wanted = list(dict.fromkeys(filter(None, [text_name, source_name, id_name, *others])))
                row = 0
                for batch in file.iter_batches(batch_size=1024, columns=wanted):
                    texts = batch.column(text_name).to_pylist()
                    nothing = [None] * len(texts)
                    sources = batch.column(source_name).to_pylist() if source_name else nothing
                    ids = batch.column(id_name).to_pylist() if id_name else nothing
                    kept = zip(*(batch.column(name).to_pylist() for name in asked.keep), strict=True)
                    for text, source, name in zip(texts, sources, ids, strict=True):
                        if text is None:
                            raise DataError(f"{path}, row {row} has no text.", "Remove rows without text.")
                        yield Record(text, stem if source is None else str(source), name, next(kept, ()))
                        row += 1
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(
                f"{path} is not a readable parquet file ({first_line(error)}).", "Write it again."
            ) from error


def _is_string(kind: Any) -> bool:
    """Whether an Arrow type holds strings."""
    import pyarrow as pa

    return is_text(kind.value_type if pa.types.is_dictionary(kind) else kind)


def _parquet_name(schema: Any, column: str | int, path: Path) -> str:
    """The name of a column given by name or index."""
    names: list[str] = list(schema.names)
    if isinstance(column, int):
        if -len(names) <= column < len(names):
            return names[column]
    elif column in names:
        return column
    raise no_column(path, column, names)


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary decompressed copy: parquet needs a file that can be searched."""
    if not path.name.lower().endswith(".zst"):
        yield path
        return
    handle, name = tempfile.mkstemp(suffix=".parquet")
    try:
        with os.fdopen(handle, "wb") as copy, open_file(path) as stream:
            shutil.copyfileobj(stream, copy, 1 << 20)
        yield Path(name)
    finally:
        os.unlink(name)
