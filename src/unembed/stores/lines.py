"""Vectors in text files: .jsonl (one object or one list a line) and .csv / .tsv.

A CSV holds a vector either in one column, written "[0.1, 0.2, ...]" (what pgvector and pandas export), or in one column
a number, named with a common prefix and a count ("e0", "e1", ...), or it has no header and holds numbers only.
"""

from __future__ import annotations

import contextlib
import csv
import json
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.stores.protocol import VectorBatch, choose_ids, choose_vectors, make_batch

_COUNTED = re.compile(r"^(.*?)(\d+)$")
_SAME = "Give every row a vector of the same dimension."


@dataclass(frozen=True)
class LineStore:
    """A store over a text file that is read from its beginning at every pass.

    Attributes:
        name: the path, for messages.
        dimension: length of every vector, from the first row.
        records: opens the file; yields (line number, vector, other columns) a row.
        id_name: the column that holds the ids, or None.
        count: None, not known before reading.
    """

    name: str
    dimension: int
    records: Callable[[], Generator[tuple[int, Any, dict[str, Any]]]]
    id_name: str | None = None
    count: int | None = None

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        start = 0
        with contextlib.closing(self.records()) as records:
            while rows := list(islice(records, batch)):
                yield self._batch(rows, start)
                start += len(rows)

    def _batch(self, rows: list[tuple[int, Any, dict[str, Any]]], start: int) -> VectorBatch:
        """Check some rows and make a batch of them."""
        for line, vector, _ in rows:
            if len(vector) != self.dimension:
                raise InputError(
                    f"Line {line} of {self.name} has a vector of dimension {len(vector)}; "
                    f"the first has {self.dimension}.",
                    _SAME,
                )
        names = dict.fromkeys(name for _, _, others in rows for name in others)
        columns = {name: [others.get(name) for _, _, others in rows] for name in names}
        ids = columns.pop(self.id_name, [None] * len(rows)) if self.id_name is not None else None
        return make_batch([vector for _, vector, _ in rows], ids, columns, self.name, start, self.dimension)


def open_jsonl(path: Path, column: str | None = None, id_column: str | None = None) -> LineStore:
    """Open a .jsonl file: one JSON object a line, or one list of numbers a line.

    Raises:
        InputError: a line that is not JSON, an empty file, no vector key or several.
    """
    first = next(_json_lines(path), None)
    if first is None:
        raise InputError(f"{path} has no rows.", "Give a file with at least one vector.")
    bare = isinstance(first[1], list)
    keys: dict[str, Any] = {"vector": first[1]} if bare else first[1]
    tables = {name: f"list of {len(value)}" for name, value in keys.items() if _is_vector(value)}
    name = choose_vectors(tables, column, str(path))
    id_name = choose_ids([key for key in keys if key != name], id_column, str(path))

    def records() -> Generator[tuple[int, Any, dict[str, Any]]]:
        for line, value in _json_lines(path):
            others = {} if isinstance(value, list) else dict(value)
            vector = value if isinstance(value, list) else others.pop(name, None)
            if not _is_vector(vector):
                raise InputError(
                    f"Line {line} of {path} has no list of numbers under {name!r}.", "Remove or repair that line."
                )
            yield line, vector, others

    return LineStore(str(path), len(keys[name]), records, id_name)


def _is_vector(value: Any) -> bool:
    """Say whether a JSON value is a non-empty list of numbers."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(part, int | float) and not isinstance(part, bool) for part in value)
    )


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (line number from 1, value) for each line that is not blank."""
    line = 0
    try:
        with open(path, encoding="utf-8") as stream:
            for line, text in enumerate(stream, 1):
                if text.strip():
                    value = json.loads(text)
                    if not isinstance(value, list | dict):
                        raise InputError(
                            f"Line {line} of {path} is neither an object nor a list.", "Write one JSON object a line."
                        )
                    yield line, value
    except json.JSONDecodeError as error:
        raise InputError(f"Line {line} of {path} is not JSON ({error.msg}).", "Repair or remove that line.") from error
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as UTF-8 text.", "Convert it to UTF-8 JSON lines.") from error


def open_csv(path: Path, column: str | None = None, id_column: str | None = None) -> LineStore:
    """Open a .csv or .tsv file.

    Args:
        path: the file; tabs separate the fields of a .tsv.
        column: the vector column, or the prefix of counted columns ("e" for e0, e1, ...); None guesses.
        id_column: the id column; None takes one with a usual name.

    Raises:
        InputError: no vector column or several, or a cell that is not a number.
    """
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = _csv_rows(path, delimiter)
    header, second = next(rows, None), next(rows, None)
    if header is None:
        raise InputError(f"{path} has no rows.", "Give a file with at least one vector.")
    headless = all(_is_number(cell) for cell in header[1])
    names = [str(index) for index in range(len(header[1]))] if headless else header[1]
    first = header[1] if headless else (second[1] if second is not None else None)
    if first is None:
        raise InputError(f"{path} has a header and no rows.", "Give a file with at least one vector.")
    groups: dict[str, list[int]] = {}
    if headless:
        groups[""] = list(range(len(names)))
    else:
        for index, (name, cell) in enumerate(zip(names, first, strict=False)):
            match = _COUNTED.match(name)
            if cell.lstrip().startswith("["):
                groups[name] = [index]
            elif match is not None and _is_number(cell):
                groups.setdefault(match.group(1), []).append(index)
        groups = {name: places for name, places in groups.items() if len(places) > 1 or name in names}
    tables = {name: "numbers in brackets" if name in names else f"{len(p)} columns" for name, p in groups.items()}
    chosen = choose_vectors(tables, column, str(path))
    places = groups[chosen]
    bracketed = chosen in names
    others = [(index, name) for index, name in enumerate(names) if index not in set(places)]
    id_name = choose_ids([name for _, name in others], id_column, str(path))

    def parse(line: int, row: list[str]) -> list[float]:
        cells = row[places[0]].strip().strip("[]").replace(",", " ").split() if bracketed else [row[p] for p in places]
        try:
            return [float(cell) for cell in cells]
        except ValueError as error:
            raise InputError(
                f"Line {line} of {path} holds a value that is not a number ({error}).", "Repair or remove that line."
            ) from error

    def records() -> Generator[tuple[int, Any, dict[str, Any]]]:
        for index, (line, row) in enumerate(_csv_rows(path, delimiter)):
            if index == 0 and not headless:
                continue
            if len(row) != len(names):
                raise InputError(
                    f"Line {line} of {path} has {len(row)} fields; the first line has {len(names)}.",
                    "Repair or remove that line.",
                )
            yield line, parse(line, row), {name: row[place] for place, name in others}

    return LineStore(str(path), len(parse(1 if headless else 2, first)), records, id_name)


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) for each row that is not empty."""
    limit = csv.field_size_limit(1 << 24)  # a vector in one cell is longer than the module's 128 KiB
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}).", "Write it as UTF-8 CSV with commas.") from error
    finally:
        csv.field_size_limit(limit)


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True
