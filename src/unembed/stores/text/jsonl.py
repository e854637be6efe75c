"""Vectors in JSON: one object or list per line, one array, or the answer or export of a program.

The first values show where the vectors lie (shapes.py); then the text is read value by value (documents.py).
"""

from __future__ import annotations

import re
from collections.abc import Generator
from itertools import islice
from typing import Any

from unembed.errors import InputError
from unembed.stores.inputs import Input
from unembed.stores.protocol import ID_NAMES, choose_ids, choose_others, choose_vectors
from unembed.stores.reading import NO_ROWS, PEEK, ReadOptions, check_width
from unembed.stores.text.documents import Bad, json_values
from unembed.stores.text.groups import clear
from unembed.stores.text.lines import LineStore, Record, legible
from unembed.stores.text.shapes import VALUES, Found, Path, below, find, miscounted, numbers, rows, written
from unembed.stores.written import is_missing, oddity

_VALUES = 16  # looked at first; up to PEEK while something is not seen
_CHARACTERS = 1 << 24  # looked at
_SKIP = "Repair or remove that row, or add --skip-bad to leave such rows out."
_COUNTS = "Give as many ids as vectors, or name another column with --id-column."
_KEYS = re.compile(r"[.\[\]{}]+")


def open_jsonl(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> LineStore:
    """Open JSON lines, or one JSON document.

    Args:
        source: the bytes.
        column: the vector: its path, the end of it or its key; None takes the only one, or one with a usual name.
        id_column: the key of the id; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: a line that is not JSON, no rows, no vector or several, lists of vectors on several lines.
    """
    sample, found, path = _look(source, column, reading)
    names, id_name = _columns(sample, path, id_column, source.name)
    used = choose_others([name for name in names if name != id_name], reading, source.name)
    wanted = None if reading.wanted is None else frozenset((*used, *([id_name] if id_name is not None else [])))
    width = found[path].width
    check_width(width, source.name)
    reading.quantisation.check(width, "", source.name)

    def records() -> Generator[Record]:
        row = -1
        for line, value, size in json_values(source):
            if isinstance(value, Bad):
                row += 1
                reading.reject(row, f"Line {line} of {source.name} {value.what}.", value.do)
                continue
            odd = miscounted(value, path, id_name)
            for node, columns in rows(value, path, id_name, wanted):
                row += 1
                if odd is not None:
                    what = f"Line {line} of {source.name} has {odd[1]} {odd[0]!r} and {odd[2]} vectors."
                    reading.reject(row, what, _COUNTS)
                    continue
                vector = numbers(node)
                if vector is None:
                    reading.reject(row, _missing(node, row, line, written(path), source.name), _SKIP)
                elif legible(columns, row, line, source.name, reading):
                    yield row, line, vector, columns, size
                    size = 0  # the other rows of this value hold nothing of their own

    fixed = None if wanted is None else tuple(sorted(wanted))
    return LineStore(source.name, width, records, id_name, reading=reading, names=fixed)


def _missing(node: Any, row: int, line: int, path: str, source: str) -> str:
    """Say that a row has no vector."""
    where = f"Row {row} of {source} (line {line})"
    if is_missing(node) or node in ([], {}):
        return f"{where} has no vector under {path!r}."
    why = f": {oddity(node)}" if isinstance(node, str) else ""
    return f"{where} has no list of numbers under {path!r}{why}."


def _look(source: Input, column: str | None, reading: ReadOptions) -> tuple[list[Any], dict[Path, Found], Path]:
    """Look at the first values; return them, the vectors in them, and the path to those that are meant."""
    sample: list[Any] = []
    bad = InputError(f"{source.name} has no rows.", NO_ROWS)
    found: dict[Path, Found] = {}
    size = 0
    values = json_values(source)
    try:
        for count, (line, value, characters) in enumerate(values, 1):
            size += characters
            if not isinstance(value, Bad):
                sample.append(value)
                found |= {path: one for path, one in find(value).items() if path not in found}
            else:
                bad = InputError(f"Line {line} of {source.name} {value.what}.", value.do)
                if not reading.skips:
                    break  # it is reported where it is read
            enough = any(_is(path, column) for path in found) if column is not None else bool(found)
            seen = count >= (_VALUES if enough and not reading.wanted else PEEK)
            if seen or size >= _CHARACTERS:
                break
    finally:
        values.close()
    if not sample:
        raise bad
    path = _choose(sample, found, column, source.name)
    return sample, found, path


def _is(path: Path, asked: str) -> bool:
    """Return whether a path is the one that was asked for: the whole of it, or its end."""
    name = written(path)
    return name == asked or name.endswith(f".{asked}") or _KEYS.sub(".", name).strip(".") == asked


def _choose(sample: list[Any], found: dict[Path, Found], asked: str | None, source: str) -> Path:
    """Choose the path to the vectors."""
    names = {written(path): path for path in found}
    if asked is not None and asked not in names:
        alike = [name for name, path in names.items() if _is(path, asked)]
        asked = alike[0] if len(alike) == 1 else asked
    if asked is None:
        options = {name: (found[path].width, found[path].whole) for name, path in names.items()}
        asked = clear(options, lambda name: _KEYS.split(name)[-1]) or clear(options, _KEYS.split)
    first = next((value for value in sample if isinstance(value, dict)), {})
    kinds = {name: f"{found[path].kind} of {found[path].width}" for name, path in names.items()}
    return names[choose_vectors(kinds, asked, source, first if first else {"vector": sample[0]})]


def _columns(sample: list[Any], path: Path, id_column: str | None, source: str) -> tuple[list[str], str | None]:
    """Return the names of the columns, and that of the ids."""
    shown: list[dict[str, Any]] = []
    for value in sample:
        shown += [columns for _, columns in islice(rows(value, path, None, None), _VALUES)]
    names = list(dict.fromkeys(name for columns in shown for name in columns))
    deep = dict.fromkeys(name for columns in shown for name in below(columns) if name not in names)
    if id_column in deep:
        names.append(str(id_column))
    id_name = choose_ids(names, id_column, source)
    if id_column is None and id_name == "key" and VALUES in path:  # ids of the rows' own say more than their keys
        own = choose_ids([name for name in names if name != "key"], None, source)
        values = [columns.get(own) for columns in shown] if own is not None else [None]
        if all(isinstance(part, int | str) for part in values) and len(set(values)) == len(values):
            id_name = own
    if id_name is None:
        dotted = [name for name in names if name.rpartition(".")[2].lower() in ID_NAMES]
        id_name = dotted[0] if len(dotted) == 1 else None
    if id_name is None and any(isinstance(step, int) for step in path) and "0" in names:
        ids = [columns.get("0") for columns in shown]
        if all(isinstance(part, int | str) for part in ids) and len(set(ids)) == len(ids):
            id_name = "0"
    return [*names, *(name for name in deep if name != id_name)], id_name
