"""Where vectors are in a table of text, from its first rows: header or none, and which columns.

A vector is one column of text (written.py), or one column per number: columns whose names are counted (e0,
e1, ...), in the order of the counts, or neighbours where there are no names. What is not clear is an error that names
the option which says it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from unembed.errors import InputError
from unembed.stores.text.groups import GENERIC, SEPARATORS, ColumnGroup, TableColumn, choose, counted, neighbours
from unembed.stores.text.lines import readable
from unembed.stores.written import as_vector, is_missing, is_number

_WHOLE = re.compile(r"[+-]?\d+(?:\.0*)?")
_DECIMAL = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_MANY = 8  # numbers; more in a row that count from 0 or 1 are names


@dataclass(frozen=True)
class TextLayout:
    """Where things are in a table.

    Attributes:
        names: the names of all columns; their places where there is no header.
        begin: number from 1 of the line where rows begin.
        group: the columns of the vector.
        id_place: a column that may hold ids, though its name does not say so, or None.
    """

    names: list[str]
    begin: int
    group: ColumnGroup
    id_place: int | None


@dataclass(frozen=True)
class TextSample:
    """The first rows of a table.

    Attributes:
        rows: (line, fields) of each.
        titles: fields of a line before them that begins with a mark of comments, where it has as many fields; or None.
        decimal: the decimal mark, "." or ",".
    """

    rows: list[tuple[int, list[str]]]
    titles: list[str] | None
    decimal: str

    def number(self, cell: str) -> bool:
        """Return whether a cell is a number."""
        return is_number(cell.replace(",", ".") if self.decimal == "," else cell)

    def value(self, cell: str) -> float:
        """Return the number that a cell holds."""
        return float(cell.replace(",", ".") if self.decimal == "," else cell)

    def whole(self, cell: str) -> bool:
        """Return whether a cell is a number without a fraction."""
        return _WHOLE.fullmatch(cell.strip()) is not None

    def vector(self, cell: str) -> bool:
        """Return whether a cell holds a whole vector."""
        return len(cell) > 2 and not self.number(cell) and as_vector(cell) is not None


def decimal_mark(rows: Sequence[Sequence[str]]) -> str:
    """Return the decimal mark that numbers in some rows are written with."""
    commas = sum(_DECIMAL.fullmatch(cell.strip()) is not None for row in rows for cell in row)
    points = sum("." in cell and is_number(cell) for row in rows for cell in row) if commas else 0
    return "," if commas > 2 * points else "."


def has_header(sample: TextSample) -> bool | None:
    """Return whether the first row names the columns; None where that is not clear."""
    (_, first), *others = sample.rows
    rest = [fields for _, fields in others if len(fields) in (len(first), len(first) + 1)]
    if any(map(sample.vector, first)):
        return False
    numbers = [cell for cell in first if sample.number(cell)]
    if _consecutive(numbers) and (len(numbers) > _MANY or any(_fractions(sample, row) for row in rest)):
        return True
    if len(numbers) == len(first):
        return False
    columns = [[row[place] for row in rest or [first]] for place in range(len(first))]
    held = [
        (cell, column)
        for cell, column in zip(first, columns, strict=True)
        if 2 * sum(sample.number(part) or sample.vector(part) for part in column) > len(column)
    ]
    filled = [(cell, column) for cell, column in held if sample.number(cell)]
    named = sum(not sample.number(cell) and not is_missing(cell) for cell, _ in held)
    if not filled:
        return named > 0 or not held
    if any(not sample.whole(cell) for cell, _ in filled):
        return False if len(filled) > named else None
    odd = sum(_fractions(sample, column) for _, column in filled)  # a whole number above fractions may be a name
    if not named and 2 * odd <= len(filled):
        return False
    return True if named > len(filled) else None


def _consecutive(cells: Sequence[str]) -> bool:
    """Return whether cells are 0, 1, 2, ... or 1, 2, 3, ..., in any order."""
    if len(cells) < 2 or not all(_WHOLE.fullmatch(cell.strip()) for cell in cells):
        return False
    values = sorted(int(float(cell)) for cell in cells)
    return values[0] in (0, 1) and values == list(range(values[0], values[0] + len(values)))


def _fractions(sample: TextSample, row: Sequence[str]) -> bool:
    """Return whether a row holds a number with a fraction, or a vector."""
    return any((sample.number(cell) and not sample.whole(cell)) or sample.vector(cell) for cell in row)


@dataclass(frozen=True)
class TextColumns:
    """The columns of a table and the groups of them that may hold vectors.

    Attributes:
        names: their names; their places where there is no header.
        begin: number from 1 of the line where rows begin.
        headless: whether there is no header; None where that is not clear.
        groups: what may hold vectors.
        columns: what the first rows show of each.
    """

    names: list[str]
    begin: int
    headless: bool | None
    groups: list[ColumnGroup]
    columns: list[TableColumn]

    def choose(self, asked: str | None, id_column: str | None, source: str) -> TextLayout:
        """Choose the vectors.

        Args:
            asked: a name, the common part of counted names, or places such as "1-384"; None: what is clear.
            id_column: the column that was named for the ids.
            source: what messages call the store.

        Raises:
            InputError: no vector, several columns of vectors, or what is not clear.
        """
        if self.headless is None:
            raise InputError(
                f"It is not clear whether the first line of {source} names the columns; "
                f"it begins with {_cut(','.join(self.names))!r}.",
                "Pass --header if it names them, or --no-header if it is a row.",
            )
        group = choose(self.groups, self.names, self.columns, asked, id_column, source)
        return TextLayout(self.names, self.begin, group, _id_place(self.names, self.columns, group, self.headless))


def find_columns(sample: TextSample, source: str, header: bool | None) -> TextColumns:
    """Look at the columns of a table.

    Args:
        sample: the first rows, at least one.
        source: what messages call the store.
        header: whether the first row names the columns; None: judge by the rows.
    """
    rows, begin, names = sample.rows, sample.rows[0][0], sample.titles
    titled: bool | None = True
    if names is None:
        titled = header if header is not None else has_header(sample)
        if titled is not False:
            names, rows, begin = rows[0][1], rows[1:], begin + 1
    count = max(Counter(len(fields) for _, fields in rows).items(), key=lambda item: item[1], default=(0, 0))[0]
    if names is None:
        names = [str(place) for place in range(count)]
    elif count == len(names) + 1:  # a delimiter at the end of each row, or names of rows, which R gives no title
        ends = all(not fields[-1].strip() for _, fields in rows if len(fields) == count)
        names = [*names, ""] if ends else ["", *names]
    names = [readable(name.strip()) for name in names]
    columns = _columns(sample, [fields for _, fields in rows if len(fields) == len(names)], len(names))
    groups = [ColumnGroup(names[c.place], (c.place,), True, c.vector, c.whole) for c in columns if c.vector]
    broken = sum(_broken(fields) for _, fields in rows)
    if 2 * broken <= len(rows):  # else lists are cut in pieces: this is not the right delimiter
        groups += neighbours(columns, source) if titled is False else counted(names, columns, source)
    return TextColumns(names, begin, None if titled is None else not titled, groups, columns)


def _broken(fields: list[str]) -> bool:
    """Return whether a list is cut into several fields."""
    begin = next((i for i, cell in enumerate(fields) if "[" in cell and "]" not in cell), len(fields))
    return any("]" in cell and "[" not in cell for cell in fields[begin + 1 :])


def _cut(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _columns(sample: TextSample, rows: list[list[str]], count: int) -> list[TableColumn]:
    """Look at each column."""
    found = []
    for place in range(count):
        cells = [row[place] for row in rows]
        filled = [cell for cell in cells if not is_missing(cell)]
        numbers = [cell for cell in filled if sample.number(cell)]
        number = 2 * len(numbers) >= len(filled) > 0
        vectors = [] if number else [v for cell in filled if (v := as_vector(cell)) is not None]
        found.append(
            TableColumn(
                place,
                readable(filled[0]) if filled else "",
                number,
                all(map(sample.whole, numbers)) if number else all(v % 1 == 0 for part in vectors[:4] for v in part),
                len(vectors[0]) if vectors else 0,
                len(filled) == len(cells) == len(set(filled)) > 0,
                all(sample.value(cell) == 0 for cell in numbers),
                all(len(cell) <= 64 and len(cell.split()) == 1 for cell in filled),
                len(rows),
            )
        )
    return found


def _id_place(names: list[str], columns: list[TableColumn], group: ColumnGroup, headless: bool) -> int | None:
    """Return a column whose values look like ids, though its name does not say so."""
    taken = set(group.places)
    for part in columns:
        if part.place in taken:
            continue
        unnamed = part.place == 0 and names[0].lower() in ("", "unnamed: 0", "index")
        counted = not headless and names[part.place].strip("0123456789" + SEPARATORS).lower() in GENERIC
        if (headless or unnamed or counted) and part.distinct and part.short and (part.whole or not part.number):
            return part.place
        if headless and part.place < group.places[0]:
            continue
        break
    return None
