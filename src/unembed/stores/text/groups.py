"""Columns of a table of text that may hold vectors, and which of them are meant.

A vector is one column of text, or one column per number: columns whose names are counted (e0, e1, ...), in the
order of the counts, or neighbours in a table without names. Contents: `TableColumn`, `ColumnGroup`, `counted`,
`neighbours`, `choose`, `clear`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from unembed.errors import InputError
from unembed.stores.protocol import VECTOR_NAMES, choose_vectors, families, lacking

SEPARATORS = " _-.[]()'\","
GENERIC = ("", "v", "x", "c", "f", "col", "column", "field")  # names that programs give to columns without one
_RANGE = re.compile(r"(\d+)-(\d+)")
_WIDE, _NARROW = 16, 8  # numbers: a wide column is meant where all others are narrow


@dataclass(frozen=True)
class TableColumn:
    """What the first rows show of a column.

    Attributes:
        place: its place, from 0.
        first: its first cell that is not missing, or "".
        number: whether most of its cells are numbers.
        whole: whether all its numbers, or those of its vectors, are whole.
        vector: numbers of the first vector that a cell of it holds, or 0.
        distinct: whether no cell is missing and no two are equal.
        zero: whether all its numbers are 0.
        short: whether all cells are words of up to 64 characters.
        rows: how many rows were looked at.
    """

    place: int
    first: str
    number: bool
    whole: bool
    vector: int
    distinct: bool
    zero: bool
    short: bool
    rows: int


@dataclass(frozen=True)
class ColumnGroup:
    """Columns that hold a vector.

    Attributes:
        name: what `--column` calls them.
        places: their places, in the order of the numbers.
        cell: whether the one column holds the vector as text.
        width: numbers of the vector, 0 where no row shows it.
        whole: whether all numbers that were seen are whole.
        trouble: two sentences on why they cannot be used, or None.
    """

    name: str
    places: tuple[int, ...]
    cell: bool = False
    width: int = 0
    whole: bool = False
    trouble: tuple[str, str] | None = None


def neighbours(columns: list[TableColumn], source: str) -> list[ColumnGroup]:
    """Return runs of numbers in a table without names; whole numbers at their ends are ids or labels."""
    groups = []
    place = 0
    while place < len(columns):
        end = place
        while end < len(columns) and columns[end].number:
            end += 1
        run = columns[place:end]
        place = end + 1
        if any(not part.whole for part in run):
            run, trouble = _trimmed(run, source)
        else:
            trouble = None
        if len(run) > 1:
            groups.append(_group(f"{run[0].place}-{run[-1].place}", run, trouble))
    return groups


def _trimmed(run: list[TableColumn], source: str) -> tuple[list[TableColumn], tuple[str, str] | None]:
    """Leave out whole numbers before and after fractions; trouble where they may belong to them."""
    begin = next(i for i, part in enumerate(run) if not part.whole)
    end = len(run) - next(i for i, part in enumerate(reversed(run)) if not part.whole)
    first, last, doubt = begin, end, None
    for outside, step in ((range(begin - 1, -1, -1), 0), (range(end, len(run)), 1)):
        for i in outside:
            part = run[i]
            if not part.zero or part.rows == 1:
                break
            first, last = (first, i + 1) if step else (i, last)
        else:
            continue
        if part.rows == 1 and part.first.strip(" +-").rstrip("0").rstrip(".") in ("", "1"):
            doubt = (
                f"Column {part.place} of {source} holds {part.first.strip()!r}: an id, or part of the vector",
                f"Add --id-column {part.place}, or say with --column which columns hold the vector, such as "
                f"{run[0].place}-{run[-1].place}.",
            )
    return run[first:last], doubt


def _group(name: str, run: Sequence[TableColumn], trouble: tuple[str, str] | None) -> ColumnGroup:
    places = tuple(part.place for part in run)
    return ColumnGroup(name, places, False, len(places), all(part.whole for part in run), trouble)


def counted(names: list[str], columns: list[TableColumn], source: str) -> list[ColumnGroup]:
    """Return columns that are named by counts, in the order of these."""
    plain = [name[:-2] if re.fullmatch(r"\d+\.0", name) else name for name in names]
    groups = []
    for (before, after), places in families(plain).items():
        members = [(count, columns[place]) for count, place in places if not columns[place].vector]
        low = 1
        if before.strip(SEPARATORS).lower() in GENERIC and len(members) > 2 and not _of_vector(members):
            members, low = members[1:], 2
        if len(members) < 2 or 2 * sum(part.number for _, part in members) <= len(members):
            continue
        name = before + (f"*{after}" if after.strip(SEPARATORS) else "")
        groups.append(_group(name, [part for _, part in members], _gaps(name, [n for n, _ in members], low, source)))
    return groups


def _of_vector(members: list[tuple[int, TableColumn]]) -> bool:
    """Return whether the first of counted columns belongs to the vector; else it holds ids or texts."""
    first, others = members[0][1], [part for _, part in members[1:]]
    if not first.number:
        return False
    ids = (
        first.whole and first.distinct and not first.zero and (first.rows > 1 or first.first.strip() not in ("1", "-1"))
    )
    return not ids or any(part.whole for part in others)


def _gaps(name: str, counts: list[int], low: int, source: str) -> tuple[str, str] | None:
    """Say what is wrong with the counts of columns."""
    double = next((a for a, b in pairwise(counts) if a == b), None)
    if double is not None:
        return (
            f"{source} has two columns counted {name}{double}",
            "Give each its own number, or name their places with --column, such as 1-384.",
        )
    missing = lacking(counts, low)
    if missing is None:
        return None
    return (
        f"The columns {name}{counts[0]} to {name}{counts[-1]} of {source} lack {name}{missing}",
        "Export all dimensions, or name the places of the columns with --column, such as 1-384.",
    )


def choose(
    groups: list[ColumnGroup],
    names: list[str],
    columns: list[TableColumn],
    asked: str | None,
    id_column: str | None,
    source: str,
) -> ColumnGroup:
    """Choose the group that holds the vectors; the column that was named for the ids is not of it."""
    by_name = {group.name: group for group in groups}
    span = _RANGE.fullmatch(asked) if asked is not None and asked not in names else None
    if asked is not None and span is not None and int(span[1]) <= int(span[2]) < len(names):
        return _group(asked, columns[int(span[1]) : int(span[2]) + 1], None)
    if asked is not None and asked not in by_name:
        alike = [group for group in groups if group.name.strip(SEPARATORS) == asked.strip(SEPARATORS) != ""]
        if len(alike) == 1:
            asked = alike[0].name
    if asked is None:
        asked = clear({group.name: (group.width, group.whole) for group in groups})
    kinds = {g.name: f"text of {g.width} numbers" if g.cell else f"{g.width} columns" for g in groups}
    cells = {name: part.first for name, part in zip(names, columns, strict=True)}
    group = by_name[choose_vectors(kinds, asked, source, cells)]
    if not group.cell and (ids := next((p for p in group.places if names[p] == id_column), None)) is not None:
        return _group(group.name, [columns[place] for place in group.places if place != ids], None)
    if group.trouble is not None and (id_column not in names or _RANGE.fullmatch(group.name) is None):
        raise InputError(f"{group.trouble[0]}.", group.trouble[1])
    return group


def clear(options: Mapping[str, tuple[int, bool]], keys: Callable[[str], str | list[str]] = str) -> str | None:
    """Return the name of the vectors that are meant, if that is clear though there are several.

    Args:
        options: numbers of each, and whether all of them are whole, by name.
        keys: gives the words of a name that may be usual for vectors.
    """
    usual = []
    for name in options:
        words = keys(name)
        if any(w.strip(SEPARATORS).lower() in VECTOR_NAMES for w in ([words] if isinstance(words, str) else words)):
            usual.append(name)
    if len(usual) == 1:
        return usual[0]
    left = list(options)
    if any(options[name][0] >= _WIDE for name in left):
        left = [name for name in left if options[name][0] >= _NARROW]
    if any(not options[name][1] for name in left):
        left = [name for name in left if not options[name][1]]
    return left[0] if len(left) == 1 else None
