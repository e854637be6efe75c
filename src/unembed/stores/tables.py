"""Vectors in tables of text, .csv and .tsv.

A vector stands in one column, written "[0.1, 0.2, ...]" (what pgvector and pandas export), or in one column a number,
named with a common prefix and a count ("e0", "e1", ...), or there is no header and nothing but numbers.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from unembed.errors import InputError
from unembed.stores.inputs import Input, text_lines
from unembed.stores.lines import REPAIR, LineStore, Record
from unembed.stores.protocol import choose_ids, choose_vectors
from unembed.stores.reading import NO_ROWS, Reading, check_width

_COUNTED = re.compile(r"^(.*?)(\d+)$")
_FIELD = 1 << 24  # characters of a field; a vector in one cell is longer than the module's 128 KiB


@dataclass(frozen=True)
class _Group:
    """Where a vector stands: the places of its fields; one bracketed field, or a number a field."""

    places: tuple[int, ...]
    bracketed: bool

    def parse(self, row: list[str]) -> list[float]:
        """Return the numbers of a row.

        Raises:
            ValueError: a field that is not a number.
        """
        if self.bracketed:
            return [float(cell) for cell in row[self.places[0]].strip().strip("[]").replace(",", " ").split()]
        return [float(row[place]) for place in self.places]


def open_csv(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> LineStore:
    """Open a .csv or .tsv file.

    Args:
        source: the bytes; tabs separate the fields of a .tsv.
        column: the vector column, or the prefix of counted columns ("e" for e0, e1, ...); None guesses.
        id_column: the id column; None takes one with a usual name.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: no vector column or several, or a cell that is not a number.
    """
    reading = reading or Reading()
    delimiter = "\t" if source.suffix == ".tsv" else ","
    names, headless, groups, first = _first_groups(source, delimiter, column, reading)
    chosen = choose_vectors(
        {
            name: "numbers in brackets" if group.bracketed else f"{len(group.places)} columns"
            for name, group in groups.items()
        },
        column,
        source.name,
    )
    group = groups[chosen]
    others = [(place, name) for place, name in enumerate(names) if place not in set(group.places)]
    id_name = choose_ids([name for _, name in others], id_column, source.name)

    def parse(row: int, line: int, fields: list[str], told: Reading) -> list[float] | None:
        if len(fields) != len(names):
            what = f"has {len(fields)} fields; the first line has {len(names)}"
            told.reject(row, f"Line {line} of {source.name} {what}.", REPAIR)
            return None
        try:
            return group.parse(fields)
        except ValueError as error:
            what = f"holds a value that is not a number in column {_where(group, fields, names)!r} ({_cut(error)})"
            told.reject(row, f"Line {line} of {source.name} {what}.", REPAIR)
            return None

    def records() -> Generator[Record]:
        for index, (line, fields) in enumerate(_rows(source, delimiter)):
            row = index if headless else index - 1
            if row < 0:
                continue
            vector = parse(row, line, fields, reading)
            if vector is not None:
                yield row, line, vector, {name: fields[place] for place, name in others}

    width = len(group.places) if not group.bracketed else len(parse(0, 1 if headless else 2, first, Reading()) or [])
    check_width(width, source.name)
    reading.quantisation.check(width, "", source.name)
    return LineStore(source.name, width, records, id_name, reading=reading)


def _first_groups(
    source: Input, delimiter: str, column: str | None, reading: Reading
) -> tuple[list[str], bool, dict[str, _Group], list[str]]:
    """Look at the first rows.

    Returns:
        The names of the columns, whether there is no header, where vectors may stand, and the row that shows it.
    """
    rows = _rows(source, delimiter)
    try:
        _, header = next(rows, (0, None))
        if header is None:
            raise InputError(f"{source.name} has no rows.", NO_ROWS)
        if all(map(_is_number, header)):
            group = _Group(tuple(range(len(header))), False)
            return [str(place) for place in group.places], True, {"": group}, header
        shown: dict[str, _Group] = {}
        first: list[str] | None = None
        for index, (_, fields) in enumerate(rows):
            found = _groups(header, fields, strict=reading.skips)
            if first is None or (column in found if column is not None else bool(found)):
                shown, first = found, fields
            if (column in shown if column is not None else bool(shown)) or index + 1 >= reading.peek:
                break
    finally:
        rows.close()
    if first is None:
        raise InputError(f"{source.name} has a header and no rows.", NO_ROWS)
    return header, False, shown, first


def _groups(names: list[str], fields: list[str], strict: bool) -> dict[str, _Group]:
    """Find where vectors may stand in a row: bracketed fields, and counted columns of which most hold numbers.

    Where `strict`, a row of another length shows nothing, nor does a bracketed field with anything but numbers.
    """
    if strict and len(fields) != len(names):
        return {}
    counted: dict[str, list[int]] = {}
    found: dict[str, _Group] = {}
    for place, (name, cell) in enumerate(zip(names, fields, strict=False)):
        match = _COUNTED.match(name)
        if cell.lstrip().startswith("["):
            try:
                usable = bool(_Group((place,), True).parse(fields))
            except ValueError:
                usable = not strict and any(map(_is_number, cell.strip().strip("[]").replace(",", " ").split()))
            if usable:
                found[name] = _Group((place,), True)
        elif match is not None:
            counted.setdefault(match.group(1), []).append(place)
    for name, places in counted.items():
        numbers = sum(_is_number(fields[place]) for place in places)
        if len(places) > 1 and 2 * numbers > len(places) and name not in found:
            found[name] = _Group(tuple(places), False)
    return found


def _where(group: _Group, fields: list[str], names: list[str]) -> str:
    """Return the name of the first column of a group that holds no number."""
    if group.bracketed:
        return names[group.places[0]]
    return next(names[place] for place in group.places if not _is_number(fields[place]))


def _rows(source: Input, delimiter: str) -> Generator[tuple[int, list[str]]]:
    """Yield (line number, fields) for each row that is not empty."""
    limit = csv.field_size_limit(_FIELD)
    try:
        reader = csv.reader(_text(source), delimiter=delimiter)
        for row in reader:
            if row:
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{source.name} cannot be read as CSV ({_cut(error)}).", "Write it as UTF-8 CSV with commas."
        ) from error
    finally:
        csv.field_size_limit(limit)


def _text(source: Input) -> Iterator[str]:
    """Yield the lines as the csv module wants them."""
    return text_lines(source, newline="")


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _cut(error: BaseException) -> str:
    """Return an error's message in at most 80 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 80 else f"{text[:77]}..."
