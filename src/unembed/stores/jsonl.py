"""Vectors in JSON lines: one object a line with a list of numbers under some key, or one bare list a line."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.inputs import Input, text_lines
from unembed.stores.lines import REPAIR, LineStore, Record
from unembed.stores.protocol import choose_ids, choose_vectors
from unembed.stores.reading import NO_ROWS, Reading, check_width

_LARGEST = 1 << 1023  # whole numbers from here on are beyond float64


def open_jsonl(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> LineStore:
    """Open JSON lines.

    Args:
        source: the bytes.
        column: the key of the vector; None takes the only list of numbers in the first good line.
        id_column: the key of the id; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: a line that is not JSON, no rows, no vector key or several.
    """
    reading = reading or Reading()
    keys = _first_keys(source, column, reading)
    tables = {name: f"list of {len(value)}" for name, value in keys.items() if _is_vector(value)}
    name = choose_vectors(tables, column, source.name)
    id_name = choose_ids([key for key in keys if key != name], id_column, source.name)
    width = len(keys[name])
    check_width(width, source.name)
    reading.quantisation.check(width, "", source.name)

    def records() -> Generator[Record]:
        for row, line, value in _values(source, reading):
            others = {} if isinstance(value, list) else dict(value)
            vector = value if isinstance(value, list) else others.pop(name, None)
            if _is_vector(vector):
                yield row, line, vector, others, 0
            else:
                reading.reject(row, f"Line {line} of {source.name} has no list of numbers under {name!r}.", REPAIR)

    return LineStore(source.name, width, records, id_name, reading=reading)


def _first_keys(source: Input, column: str | None, reading: Reading) -> dict[str, Any]:
    """Return the first line as an object; where bad rows are skipped, the first of the early ones with a vector."""
    quiet = Reading(reading.quantisation, (lambda row: None) if reading.skips else None)  # told when they are read
    first: dict[str, Any] | None = None
    for row, _, value in _values(source, quiet):
        keys = {"vector": value} if isinstance(value, list) else value
        first = first if first is not None else keys
        if _is_vector(keys.get(column)) if column is not None else any(map(_is_vector, keys.values())):
            return keys
        if row + 1 >= reading.peek:
            break
    if first is None:
        raise InputError(f"{source.name} has no rows.", NO_ROWS)
    return first


def _is_vector(value: Any) -> bool:
    """Say whether a JSON value is a non-empty list of numbers that float64 can hold."""
    if not isinstance(value, list) or not value:
        return False
    types = set(map(type, value))
    if not types <= {int, float}:
        return False
    return int not in types or all(-_LARGEST < part < _LARGEST for part in value if type(part) is int)


def _values(source: Input, reading: Reading) -> Iterator[tuple[int, int, Any]]:
    """Yield (row from 0, line from 1, value) for each line that holds an object or a list; blank lines do not count."""
    row = -1
    try:
        for line, text in enumerate(text_lines(source), 1):
            if not text.strip():
                continue
            row += 1
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                what = getattr(error, "msg", "a number or a nesting is too large")
                reading.reject(row, f"Line {line} of {source.name} is not JSON ({what}).", REPAIR)
                continue
            if isinstance(value, list | dict):
                yield row, line, value
            else:
                reading.reject(
                    row, f"Line {line} of {source.name} is neither an object nor a list.", "Write one object a line."
                )
    except (UnicodeDecodeError, OSError) as error:
        raise InputError(f"{source.name} cannot be read as UTF-8 text.", "Convert it to UTF-8 JSON lines.") from error
