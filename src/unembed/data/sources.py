"""Texts from files, streamed: .txt .tsv .jsonl .parquet, each also as .zst, from files and folders.

Contents: `read_texts(paths, ...)`, an iterator of (text, source).

One line or record is in memory at a time (a block of 1,024 rows for parquet), however large a file is. Where a text
came from travels with it, so that sources can be left out of training or reported apart.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from unembed.data.hub_datasets import DatasetStream, is_dataset
from unembed.errors import DataError

FORMATS = (".txt", ".tsv", ".jsonl", ".parquet")
MAX_LINE = 16 << 20
"""Longest line in bytes; a longer one means that the file is no text."""

Paths = str | Path | Sequence[str | Path]


def read_texts(
    paths: Paths,
    column: str | int | None = None,
    source_column: str | int | None = None,
    exclude_sources: Collection[str] = (),
) -> Iterator[tuple[str, str]]:
    """Read texts in the order of the files and datasets; empty ones are skipped.

    Args:
        paths: a file, a folder (its files of known formats, sorted by name, subfolders included), a Hugging Face
            dataset (hf:NAME?..., see `data/hub_datasets.py`), or several of them.
        column: where the text stands, by name or by index from 0 (negative: from the end). A name makes the first
            line of a TSV its header. Default: the line (.txt), the last column (.tsv), "text" (.jsonl), "text" or
            the only column of strings (.parquet).
        source_column: where the source stands. Default: the column before the text (.tsv with two or more), "source"
            where there is one (.jsonl, .parquet); otherwise the file's name without its endings.
        exclude_sources: texts of these sources are skipped.

    Yields:
        (text, source), without the line's end; inner white space is kept.

    Raises:
        DataError: a path that is missing or of no known format, or a bad line; the message names file and line.
    """
    excluded = {exclude_sources} if isinstance(exclude_sources, str) else set(exclude_sources)
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [path for path in several if not is_dataset(path)]
    if files or not several:
        list_files(files)  # a path that is missing is found before anything is read
    for path in several:
        if is_dataset(path):
            yield from DatasetStream([str(path)], excluded)
            continue
        for file in list_files(path):
            for text, source in _read_file(file, column, source_column):
                if text and not text.isspace() and source not in excluded:
                    yield text, source


def list_files(paths: Paths) -> list[Path]:
    """The files behind `paths`, in reading order.

    Raises:
        DataError: a missing path, a folder without texts, or an unknown format.
    """
    files: list[Path] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(path).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _format(p) and not p.name.startswith("."))
            if not inside:
                raise DataError(f"The folder {path} holds no texts.", f"Put {', '.join(FORMATS)} files into it.")
            files += inside
        elif not path.is_file():
            raise DataError(f"{path} does not exist.", "Check the path.")
        elif not _format(path):
            raise DataError(f"{path} has no known format.", f"Use one of {', '.join(FORMATS)}, or .zst of these.")
        else:
            files.append(path)
    if not files:
        raise DataError("No file of texts is given.", "Name at least one file or folder.")
    return files


def _format(path: Path) -> str:
    """The format by the file's ending, ".zst" aside; "" for an unknown one."""
    name = path.name.lower().removesuffix(".zst")
    return next((ending for ending in FORMATS if name.endswith(ending)), "")


def _stem(path: Path) -> str:
    """The file's name without its endings: the source of texts that name none."""
    name = path.name[:-4] if path.name.lower().endswith(".zst") else path.name
    return name[: -len(_format(path))] or name


def _read_file(path: Path, column: str | int | None, source_column: str | int | None) -> Iterator[tuple[str, str]]:
    """Texts and sources of one file."""
    kind = _format(path)
    if kind == ".parquet":
        yield from _read_parquet(path, column, source_column)
    elif kind == ".jsonl":
        yield from _read_jsonl(path, column, source_column)
    elif kind == ".tsv":
        yield from _read_tsv(path, column, source_column)
    else:
        stem = _stem(path)
        for _, line in _lines(path):
            yield line, stem


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines (from 1) without their ends; a byte-order mark is dropped."""
    number = 0
    try:
        with _open(path) as stream:
            while raw := stream.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    raise DataError(
                        f"{path}, line {number} is longer than {MAX_LINE >> 20} MiB.",
                        "Put one text on a line.",
                    )
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}, line {number} is not UTF-8.", "Convert the file to UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}).", "Check the file.") from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    """A binary stream of the file's contents, decompressed."""
    with open(path, "rb") as stream:
        if path.name.lower().endswith(".zst"):
            yield io.BufferedReader(_Unzstd(stream, path), 1 << 18)
        else:
            yield stream


class _Unzstd(io.RawIOBase):
    """The contents of a .zst stream of any number of frames; unlike zstandard's own reader it notices a missing end."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        import zstandard

        super().__init__()
        self._frame = zstandard.ZstdDecompressor().decompressobj
        self._error = zstandard.ZstdError
        self._stream, self._path = stream, path
        self._open: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as the next block goes; 0 at the end."""
        while not self._ready:
            packed = self._stream.read(1 << 12)  # small: a block may grow a thousandfold
            if not packed:
                if self._open is not None:
                    raise self._damaged("its end is missing")
                return 0
            self._ready = memoryview(self._unpack(packed))
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n

    def _unpack(self, packed: bytes) -> bytes:
        """Feed packed bytes to the open frame, and what is left to the next one."""
        parts = []
        while packed:
            self._open = self._open or self._frame()
            try:
                parts.append(self._open.decompress(packed))
            except self._error as error:
                raise self._damaged(str(error)) from error
            packed = self._open.unused_data if self._open.eof else b""
            if self._open.eof:
                self._open = None
        return b"".join(parts)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"{self._path} is not a whole .zst file ({reason}).", "Compress or copy it again.")


def _read_tsv(path: Path, column: str | int | None, source_column: str | int | None) -> Iterator[tuple[str, str]]:
    """Tab-separated columns without quoting; a header only where a column is asked for by name."""
    stem = _stem(path)
    names: dict[str, int] | None = None
    for number, line in _lines(path):
        cells = line.split("\t")
        if names is None:
            names = {}
            if isinstance(column, str) or isinstance(source_column, str):
                names = {cell: k for k, cell in enumerate(cells)}
                for wanted in (column, source_column):
                    if isinstance(wanted, str) and wanted not in names:
                        raise _no_column(path, wanted, list(names))
                continue
        if not line:
            continue
        at = -1 if column is None else names[column] if isinstance(column, str) else column
        at = at + len(cells) if at < 0 else at
        if not 0 <= at < len(cells):
            raise DataError(
                f"{path}, line {number} has no column {column}: it has {len(cells)}.",
                "Choose another column, or repair the line.",
            )
        if source_column is None:
            yield cells[at], cells[at - 1] if at > 0 and column is None else stem
            continue
        source_at = names[source_column] if isinstance(source_column, str) else source_column
        if not -len(cells) <= source_at < len(cells):
            raise DataError(
                f"{path}, line {number} has no column {source_column} for the source.",
                "Choose another source column, or repair the line.",
            )
        yield cells[at], cells[source_at]


def _read_jsonl(path: Path, column: str | int | None, source_column: str | int | None) -> Iterator[tuple[str, str]]:
    """One JSON object a line."""
    stem = _stem(path)
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON ({error}).", "Repair or remove the line.") from error
        text = _pick(record, "text" if column is None else column, path, number)
        if source_column is None:
            source = record.get("source", stem) if isinstance(record, dict) else stem
        else:
            source = _pick(record, source_column, path, number)
        yield text, str(source)


def _pick(record: Any, key: str | int, path: Path, number: int) -> str:
    """The string under `key` of a JSON object, or at an index of a JSON array or object."""
    if isinstance(key, int) and isinstance(record, dict):
        record = list(record.values())
    try:
        value = record[key]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path}, line {number} has no {key!r}.", "Name the column of the text.") from error
    if not isinstance(value, str):
        raise DataError(
            f"{path}, line {number}: {key!r} is {type(value).__name__}, not a string.",
            "Name a column of strings, or repair the line.",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{path}, line {number}: {key!r} is no valid Unicode.", "Repair or remove the line.") from error
    return value


def _read_parquet(path: Path, column: str | int | None, source_column: str | int | None) -> Iterator[tuple[str, str]]:
    """Rows of a parquet file, 1,024 at a time; a compressed one is unpacked into a temporary file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
                wanted = [text_name] + ([source_name] if source_name and source_name != text_name else [])
                stem, row = _stem(path), 0
                for batch in file.iter_batches(batch_size=1024, columns=wanted):
                    texts = batch.column(text_name).to_pylist()
                    sources = batch.column(source_name).to_pylist() if source_name else [stem] * len(texts)
                    for text, source in zip(texts, sources, strict=True):
                        if text is None:
                            raise DataError(f"{path}, row {row} has no text.", "Remove rows without text.")
                        yield text, stem if source is None else str(source)
                        row += 1
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path} is not a readable parquet file ({reason}).", "Write it again.") from error


def _is_string(kind: Any) -> bool:
    """Whether an Arrow type holds strings."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _parquet_name(schema: Any, column: str | int, path: Path) -> str:
    """The name of a column given by name or index."""
    names: list[str] = list(schema.names)
    if isinstance(column, int):
        if -len(names) <= column < len(names):
            return names[column]
    elif column in names:
        return column
    raise _no_column(path, column, names)


def _no_column(path: Path, column: str | int, names: list[str]) -> DataError:
    """The error for a column that the file does not have."""
    return DataError(f"{path} has no column {column!r}.", f"Its columns are {', '.join(names)}.")


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary decompressed copy: parquet needs a file that can be searched."""
    if not path.name.lower().endswith(".zst"):
        yield path
        return
    handle, name = tempfile.mkstemp(suffix=".parquet")
    try:
        with os.fdopen(handle, "wb") as copy, _open(path) as stream:
            shutil.copyfileobj(stream, copy, 1 << 20)
        yield Path(name)
    finally:
        os.unlink(name)
