"""Lines of a table of text as fields: delimiters, quotes, and quotes that were never closed.

A field may be quoted, and then hold delimiters and line breaks. A quote that is still open where the next row begins
or where the file ends is an ordinary character: it swallows no row.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Generator, Iterable

from unembed.errors import InputError
from unembed.stores.inputs import MAX_LINE
from unembed.stores.reading import MAX_DIMENSION
from unembed.stores.written import as_vector, is_number

BLANKS = " "  # as a delimiter: any run of spaces and tabs
MAX_FIELDS = MAX_DIMENSION + (1 << 12)
_MANY = 8  # numbers that show a row
_QUOTES = re.compile('"+')
_VECTORS = ("[", "{", "(", "array", "tensor")

csv.field_size_limit(MAX_LINE)  # the module's own limit is 128 KiB, shorter than a long vector in one field


class _Open(Exception):
    """A quote that is not closed."""


def split_rows(
    lines: Iterable[str], delimiter: str, width: int | None, source: str, ended: bool = True
) -> Generator[tuple[int, list[str]]]:
    """Yield (number of its first line from 1, fields) for each row that is not blank.

    Args:
        lines: lines with their ends.
        delimiter: one character; `BLANKS` takes runs of them, and no quotes.
        width: fields of a row, which show where a row begins that an open quote would swallow; None where not known.
        source: what messages call the file.
        ended: whether the lines reach the end of the file; if not, a row that they cut off is left out.

    Raises:
        InputError: more than `MAX_FIELDS` fields, or a row of more than `MAX_LINE` characters.
    """
    waiting: deque[str] = deque()
    rest = iter(lines)
    number = 0
    while (line := waiting.popleft() if waiting else next(rest, None)) is not None:
        number += 1
        first = number
        if delimiter != BLANKS and line.count(delimiter) > MAX_FIELDS:
            raise InputError(
                f"Line {first} of {source} has more than {MAX_FIELDS} fields.", "Write one vector per line."
            )
        fields = _unquoted(line, delimiter, width)
        if fields is None:
            held = [line]

            def more(held: list[str] = held, first: int = first) -> Generator[str]:
                yield held[0]
                alone = _stands(held[0], delimiter, width)
                size = len(held[0])
                while (line := waiting.popleft() if waiting else next(rest, None)) is not None:
                    if width is not None and (
                        _stands(line, delimiter, width)
                        if alone
                        else _opens(line, delimiter) and _shows(_split(line, delimiter), width)
                    ):
                        waiting.appendleft(line)
                        raise _Open
                    held.append(line)
                    size += len(line)
                    if size > MAX_LINE:
                        raise InputError(
                            f"Line {first} of {source} opens a quote; its row exceeds {MAX_LINE} characters.",
                            "Close the quote.",
                        )
                    yield line
                raise _Open

            try:
                fields = next(csv.reader(more(), delimiter=delimiter))
                number += len(held) - 1
            except _Open:
                if not ended and not waiting:
                    return
                waiting.extendleft(reversed(held[1:]))
                fields = _plain(line, delimiter)
        if len(fields) > 1 or fields[0].strip():
            yield first, _joined(fields, delimiter, width)


def _plain(line: str, delimiter: str) -> list[str]:
    """Split a line where quotes are letters."""
    return (line.split() or [""]) if delimiter == BLANKS else line.rstrip("\r\n").split(delimiter)


def _split(line: str, delimiter: str) -> list[str]:
    """Split a line that stands alone; an open quote ends with it."""
    return (
        _plain(line, delimiter) if delimiter == BLANKS else next(csv.reader([line], delimiter=delimiter), [""]) or [""]
    )


def _unquoted(line: str, delimiter: str, width: int | None) -> list[str] | None:
    """Split a line whose quotes open and close within fields; None where they may not."""
    if '"' not in line or delimiter == BLANKS:
        return _plain(line, delimiter)
    if delimiter != "\t":
        return None
    fields = _plain(line, delimiter)  # many writers of tab-separated files do not quote
    if (width is not None and len(fields) != width) or any(f[:1] == '"' and f.count('"') % 2 for f in fields):
        return None
    return [_bare(field) for field in fields]


def _bare(field: str) -> str:
    """Take the quotes off a field that is quoted as a whole."""
    if len(field) > 1 and field[0] == field[-1] == '"' and '"' not in (inner := field[1:-1]).replace('""', ""):
        return inner.replace('""', '"')
    return field


def _stands(line: str, delimiter: str, width: int | None) -> bool:
    """Return whether a line is a row of its own, its quotes taken for quotes or for letters."""
    return any(_shows(split(line, delimiter), width) for split in (_plain, _split))


def _shows(fields: list[str], width: int | None) -> bool:
    """Return whether fields are a row of their own: as many as they should be, with a vector or many numbers."""
    if len(fields) != width:
        return False
    if any(field.lstrip().startswith(_VECTORS) and as_vector(field) for field in fields):
        return True
    numbers = sum(map(is_number, fields))
    return numbers >= _MANY and 2 * numbers > width


def _opens(line: str, delimiter: str) -> bool:
    """Return whether the first quote of a line that begins or ends a field begins one, or there is none."""
    end = len(line.rstrip("\r\n"))
    for match in _QUOTES.finditer(line):
        begins = match.start() == 0 or line[match.start() - 1] == delimiter
        ends = match.end() == end or line[match.end()] == delimiter
        if begins != ends:
            return begins
        if begins and match.start() == 0:
            return len(match[0]) % 2 == 0
    return True


def _joined(fields: list[str], delimiter: str, width: int | None) -> list[str]:
    """Put together a vector in brackets that was not quoted, and so was cut at its own commas."""
    if len(fields) < 3 or (width is not None and len(fields) <= width):
        return fields
    begin = None
    for place, field in enumerate(fields):
        if field.rstrip()[-1:] in ("]", "}"):
            if begin is not None and as_vector(whole := delimiter.join(fields[begin : place + 1])) is not None:
                return [*fields[:begin], whole, *fields[place + 1 :]]
            begin = None
        elif field.lstrip()[:1] in ("[", "{"):
            begin = place
    return fields
