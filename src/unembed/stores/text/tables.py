"""Vectors in tables of text, .csv and .tsv, whatever separates their fields.

The first rows say how fields are separated and where vectors are (sampled.py); then the text is read line by line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from unembed.errors import InputError
from unembed.stores.inputs import Input, text_lines
from unembed.stores.protocol import choose_ids, choose_others
from unembed.stores.reading import NO_ROWS, PEEK, ReadOptions, check_width
from unembed.stores.text.delimited import BLANKS, split_rows
from unembed.stores.text.groups import ColumnGroup
from unembed.stores.text.lines import REPAIR, LineStore, Record, legible
from unembed.stores.text.sampled import TextColumns, TextLayout, TextSample, decimal_mark, find_columns
from unembed.stores.written import as_vector, is_missing, is_number, parse_vector, to_numbers

_DELIMITERS = (",", ";", "\t", "|", BLANKS)
_LINES, _CHARACTERS = 32, 1 << 20  # looked at first; four times as much while no vector is seen
_MOST = 1 << 26  # characters looked at
_SKIP = "Remove that row, or add --skip-bad to leave such rows out."


@dataclass(frozen=True)
class _Form:
    """How a table is written: its delimiter, its decimal mark, and its columns."""

    delimiter: str
    decimal: str
    columns: TextColumns

    def vector(self, group: ColumnGroup, fields: list[str]) -> list[float]:
        """Return the numbers of a row.

        Raises:
            ValueError: a field that is not a number; the message says which and what is there.
        """
        if group.cell:
            return parse_vector(fields[group.places[0]])
        cells = [fields[place] for place in group.places]
        plain = [cell.replace(",", ".") for cell in cells] if self.decimal == "," else cells
        try:
            return to_numbers(plain)
        except ValueError:
            wrong = [is_number(cell) for cell in plain].index(False)
            name, shown = self.columns.names[group.places[wrong]], cells[wrong].strip()[:40]
            raise ValueError(f"a value that is not a number in column {name!r} ({shown!r})") from None


def open_csv(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> LineStore:
    """Open a .csv or .tsv file.

    Args:
        source: the bytes; fields may be separated by commas, semicolons, tabs, bars or blanks.
        column: the vector column, the common part of counted columns ("e" for e0, e1, ...), or their places ("1-384");
            None guesses.
        id_column: the id column; None takes one with a usual name.
        reading: what the numbers mean, what happens to bad rows, whether there is a header.

    Raises:
        InputError: no vector column or several, a cell that is not a number, or what is not clear.
    """
    form, first = _look(source, column, reading)
    layout = form.columns.choose(column, id_column, source.name)
    names, group = layout.names, layout.group
    taken = set(group.places)
    others = {name: place for place, name in reversed(list(enumerate(names))) if place not in taken}
    others = dict(reversed(others.items()))
    id_name = choose_ids(list(others), id_column, source.name)
    if id_name is None and layout.id_place is not None:
        id_name = names[layout.id_place]
    used = [name for name in others if name == id_name]
    used += choose_others([name for name in others if name != id_name], reading, source.name)
    width = group.width or len(_first(form, layout, first, source.name))
    check_width(width, source.name)
    reading.quantisation.check(width, "", source.name)

    def records() -> Generator[Record]:
        row = -1
        for line, fields in _rows(source, form.delimiter, len(names)):
            if line < layout.begin:
                continue
            row += 1
            if len(fields) != len(names):
                what = f"has {len(fields)} fields; the first line has {len(names)}"
                reading.reject(row, f"Line {line} of {source.name} {what}.", REPAIR)
                continue
            if group.cell and is_missing(fields[group.places[0]]):
                what = f"Row {row} of {source.name} (line {line}) has no vector in column {group.name!r}."
                reading.reject(row, what, _SKIP)
                continue
            try:
                vector = form.vector(group, fields)
            except ValueError as error:
                what = _why(fields, layout, str(error))
                reading.reject(row, f"Line {line} of {source.name} {what}.", REPAIR)
                continue
            kept = {name: fields[others[name]] for name in used}
            if legible(kept, row, line, source.name, reading):
                yield row, line, vector, kept, sum(map(len, kept.values()))

    return LineStore(source.name, width, records, id_name, reading=reading, names=tuple(used))


def _why(fields: list[str], layout: TextLayout, error: str) -> str:
    """Say what is wrong with a row, as it follows "Line 7 of a.csv"."""
    if [field.strip() for field in fields] == layout.names:
        return "repeats the header"
    if layout.group.cell:
        return f"holds something that is not a number in column {layout.group.name!r}: {error}"
    return f"holds {error}"


def _first(form: _Form, layout: TextLayout, rows: list[tuple[int, list[str]]], source: str) -> list[float]:
    """Return the vector of the first row that holds one."""
    for line, fields in rows:
        if line >= layout.begin and len(fields) == len(layout.names):
            try:
                return form.vector(layout.group, fields)
            except ValueError:
                continue
    raise InputError(f"{source} has no vector in its first rows.", _SKIP)


def _look(source: Input, column: str | None, reading: ReadOptions) -> tuple[_Form, list[tuple[int, list[str]]]]:
    """Read as much of the beginning as shows a vector; return how the table is written, and its first rows."""
    head: list[str] = []
    lines = _text(source)
    many, most, size = _LINES, _CHARACTERS, 0
    try:
        while True:
            ended = True
            for line in lines:
                head.append(line)
                size += len(line)
                if len(head) >= many or size >= most:
                    ended = False
                    break
            form, rows = _form(head, ended, source, reading)
            if form.columns.groups or ended or len(rows) >= PEEK or most >= _MOST:
                break
            many, most = 4 * many, 4 * most
    finally:
        lines.close()
    if len(rows) < 2 and not form.columns.groups and form.columns.headless is False:
        raise InputError(f"{source.name} has a header and no rows.", NO_ROWS)
    return form, rows


def _form(
    head: list[str], ended: bool, source: Input, reading: ReadOptions
) -> tuple[_Form, list[tuple[int, list[str]]]]:
    """Try the delimiters on the first lines; the first one that shows vectors is meant, else the likeliest."""
    usual = "\t" if source.suffix == ".tsv" else ","
    order = [usual, *(delimiter for delimiter in _DELIMITERS if delimiter != usual)]
    marked = head[0].rstrip("\r\n") if head else ""
    if marked.lower().startswith("sep=") and len(marked) == 5:  # for spreadsheets
        order, head = [marked[4]], ["\n", *head[1:]]
    found = []
    for delimiter in order:
        rows, titles = _sample(head, delimiter, ended, source.name)
        if not rows:
            continue
        sample = TextSample(rows, titles, decimal_mark([fields for _, fields in rows]))
        form = _Form(delimiter, sample.decimal, find_columns(sample, source.name, reading.header))
        if form.columns.groups and (len(form.columns.names) > 1 or _bracketed(form.columns)):
            return form, rows
        found.append((form, rows))
    if not found:
        raise InputError(f"{source.name} has no rows.", NO_ROWS)
    return max(found, key=lambda item: (_regular(item[1]), bool(item[0].columns.groups)))


def _bracketed(columns: TextColumns) -> bool:
    """Return whether the only column holds more than numbers with something between them that may be a delimiter."""
    return not any(delimiter in columns.columns[0].first.strip() for delimiter in _DELIMITERS) or not is_number(
        columns.columns[0].first.strip()[:1].replace("-", "0")
    )


def _regular(rows: list[tuple[int, list[str]]]) -> bool:
    """Return whether rows have several fields, and most of them as many as the first."""
    count = Counter(len(fields) for _, fields in rows)[len(rows[0][1])]
    return len(rows[0][1]) > 1 and 2 * count > len(rows)


def _sample(
    head: list[str], delimiter: str, ended: bool, source: str
) -> tuple[list[tuple[int, list[str]]], list[str] | None]:
    """Split the first lines; also return the titles, where they are in a comment."""
    width = len(next(split_rows(head[:1], delimiter, None, source), (0, [""]))[1]) if head else None
    if width == 1 and len(head) > 1:
        width = None
    rows = list(split_rows(head, delimiter, width, source, ended))
    begin = next((i for i, (_, fields) in enumerate(rows) if not fields[0].startswith("#")), len(rows))
    titles = None
    if begin < len(rows):
        count = len(rows[begin][1])
        begin = next((i for i in range(begin) if _is_row(rows[i][1], count)), begin)  # the mark may begin an id
    if 0 < begin < len(rows):
        last = rows[begin - 1][1]
        if delimiter == BLANKS and last[0] == "#":
            last = last[1:]
        titles = [last[0].lstrip("# "), *last[1:]] if len(last) == count else None
        rows = rows[begin:]
    if delimiter == BLANKS and len(rows) > 1 and _counts(rows[0][1], rows[1][1]):
        rows = rows[1:]
    return rows, titles


def _is_row(fields: list[str], count: int) -> bool:
    """Return whether a line that begins with a mark of comments is a row: it holds a vector, or mostly numbers."""
    numbers = sum(map(is_number, fields))
    return len(fields) == count and (2 * numbers > count or any(as_vector(field) is not None for field in fields))


def _counts(first: list[str], second: list[str]) -> bool:
    """Return whether a line is what word2vec and node2vec begin with: the numbers of rows and of dimensions."""
    return len(first) == 2 and all(cell.isdecimal() for cell in first) and len(second) == int(first[1]) + 1


def _rows(source: Input, delimiter: str, width: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) for each row that is not blank."""
    return split_rows(_text(source), delimiter, width, source.name)


def _text(source: Input) -> Generator[str]:
    """Yield the lines as the csv module wants them."""
    try:
        yield from text_lines(source, newline="")
    except (UnicodeDecodeError, OSError) as error:
        shown = " ".join(str(error).split())[:80]
        raise InputError(f"{source.name} cannot be read as CSV ({shown}).", "Write it as UTF-8 CSV.") from error
