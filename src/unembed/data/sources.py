"""Texts from files, streamed: .txt .tsv .jsonl .parquet, each also as .zst, from files and folders.

Contents: `read_texts(paths, ...)`, an iterator of (text, source); `read_records`, which has ids and columns beside.

One line or record is in memory at a time (a block of 1,024 rows for parquet), however large a file is. Where a text
came from travels with it, so that sources can be left out of training or reported apart.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.data.hub_datasets import DatasetStream, is_dataset
from unembed.data.parquet_texts import read_parquet
from unembed.data.records import Record, Wanted, no_column
from unembed.data.unzstd import open_file
from unembed.errors import DataError

FORMATS = (".txt", ".tsv", ".jsonl", ".parquet")
MAX_LINE = 16 << 20
"""Longest line in bytes; a longer one means that the file is not a text."""

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
            dataset (hf:NAME?..., see `data/hub_datasets.py`), or several.
        column: where the text is, by name or by index from 0 (negative: from the end). A name makes the first
            line of a TSV its header. Default: the line (.txt), the last column (.tsv), "text" (.jsonl), "text" or
            the only column of strings (.parquet).
        source_column: where the source is. Default: the column before the text (.tsv with two or more), "source"
            where there is one (.jsonl, .parquet); otherwise the file's name without its endings.
        exclude_sources: texts of these sources are skipped.

    Yields:
        (text, source), without the line's end; inner white space is kept.

    Raises:
        DataError: a path that is missing or of no known format, or a bad line; the message names file and line.
    """
    for record in _records(paths, Wanted(column, source_column), exclude_sources):
        yield record.text, record.source


def read_records(
    paths: Paths,
    column: str | int | None = None,
    source_column: str | int | None = None,
    exclude_sources: Collection[str] = (),
    id_column: str | None = None,
    keep: Sequence[str] = (),
) -> Iterator[Record]:
    """Read texts as `read_texts` does, with their ids and other columns as they stand in the file.

    Args:
        paths, column, source_column, exclude_sources: see `read_texts`.
        id_column: where the id is; None takes a column with a usual name (`stores.protocol.ID_NAMES`) of records
            and parquet files.
        keep: further columns. A name makes the first line of a TSV its header.

    Raises:
        DataError: see `read_texts`; also a column that is not there, or is asked for where there are none.
    """
    return _records(paths, Wanted(column, source_column, id_column, tuple(keep), True), exclude_sources)


def _records(paths: Paths, wanted: Wanted, exclude_sources: Collection[str]) -> Iterator[Record]:
    excluded = {exclude_sources} if isinstance(exclude_sources, str) else set(exclude_sources)
    several = [paths] if isinstance(paths, (str, Path)) else list(paths)
    files = [path for path in several if not is_dataset(path)]
    if files or not several:
        list_files(files)  # a path that is missing is found before anything is read
    for path in several:
        if is_dataset(path):
            if wanted.more:
                raise DataError(
                    f"{path} is a dataset, which is read for its texts alone.", "Leave out columns and ids."
                )
            yield from itertools.starmap(Record, DatasetStream([str(path)], excluded))
            continue
        for file in list_files(path):
            for record in _read_file(file, wanted):
                if record.text and not record.text.isspace() and record.source not in excluded:
                    yield record


def list_files(paths: Paths) -> list[Path]:
    """The files behind `paths`, in reading order.

    Raises:
        DataError: a missing path, a folder without texts, or an unknown format.
    """
    files: list[Path] = []
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        path = Path(path).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and format_of(p) and not p.name.startswith("."))
            if not inside:
                raise DataError(f"The folder {path} holds no texts.", f"Put {', '.join(FORMATS)} files into it.")
            files += inside
        elif not path.is_file():
            raise DataError(f"{path} does not exist.", "Check the path.")
        elif not format_of(path):
            raise DataError(f"{path} has no known format.", f"Use one of {', '.join(FORMATS)}, or .zst of these.")
        else:
            files.append(path)
    if not files:
        raise DataError("No file of texts is given.", "Name at least one file or folder.")
    return files


def format_of(path: Path) -> str:
    """The format by the file's ending, ".zst" aside; "" for an unknown one."""
    name = path.name.lower().removesuffix(".zst")
    return next((ending for ending in FORMATS if name.endswith(ending)), "")


def _stem(path: Path) -> str:
    """The file's name without its endings: the source of texts that name none."""
    name = path.name[:-4] if path.name.lower().endswith(".zst") else path.name
    return name[: -len(format_of(path))] or name


def _read_file(path: Path, wanted: Wanted) -> Iterator[Record]:
    """The records of one file."""
    kind = format_of(path)
    if kind == ".parquet":
        yield from read_parquet(path, _stem(path), wanted)
    elif kind == ".jsonl":
        yield from _read_jsonl(path, wanted)
    elif kind == ".tsv":
        yield from _read_tsv(path, wanted)
    else:
        if wanted.more:
            raise no_column(path, wanted.more[0], [])
        stem = _stem(path)
        for _, line in _lines(path):
            yield Record(line, stem)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines (from 1) without their ends; a byte-order mark is dropped."""
    number = 0
    try:
        with open_file(path) as stream:
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


def _read_tsv(path: Path, wanted: Wanted) -> Iterator[Record]:
    """Tab-separated columns without quoting; a header only where a column is asked for by name."""
    stem, column, source_column = _stem(path), wanted.column, wanted.source_column
    named = [name for name in (column, source_column, *wanted.more) if isinstance(name, str)]
    names: dict[str, int] | None = None
    for number, line in _lines(path):
        cells = line.split("\t")
        if names is None:
            names = {}
            if named:
                names = {cell: k for k, cell in enumerate(cells)}
                for name in named:
                    if name not in names:
                        raise no_column(path, name, list(names))
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
        more = [names[name] for name in wanted.more]
        if more and max(more) >= len(cells):
            raise DataError(f"{path}, line {number} has {len(cells)} columns only.", "Repair the line.")
        rest = cells[more.pop()] if wanted.id_column is not None else None, tuple(cells[k] for k in more)
        if source_column is None:
            yield Record(cells[at], cells[at - 1] if at > 0 and column is None else stem, *rest)
            continue
        source_at = names[source_column] if isinstance(source_column, str) else source_column
        if not -len(cells) <= source_at < len(cells):
            raise DataError(
                f"{path}, line {number} has no column {source_column} for the source.",
                "Choose another source column, or repair the line.",
            )
        yield Record(cells[at], cells[source_at], *rest)


def _read_jsonl(path: Path, wanted: Wanted) -> Iterator[Record]:
    """One JSON object per line."""
    stem, column, source_column = _stem(path), wanted.column, wanted.source_column
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
        known = record if isinstance(record, dict) else {}
        absent = next((name for name in wanted.more if name not in known), None)
        if absent is not None:
            raise DataError(f"{path}, line {number} has no {absent!r}.", "Name columns that every line has.")
        id_name = wanted.id_of(known)
        yield Record(text, str(source), known.get(id_name), tuple(known[name] for name in wanted.keep))


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
        raise DataError(
            f"{path}, line {number}: {key!r} is not valid Unicode.", "Repair or remove the line."
        ) from error
    return value
