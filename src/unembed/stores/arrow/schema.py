"""Columns of Arrow tables, as parquet and Arrow IPC files hold them: which hold vectors, and batches out of them.

Contents: `TableStore`, `ArrowColumns`, `choose_columns`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.layouts import LISTS, NO_VECTOR, WIDE, ArrowLayout, layouts
from unembed.stores.arrow.slices import sliced
from unembed.stores.arrow.values import cells
from unembed.stores.protocol import VectorBatch, choose_ids, choose_others, choose_vectors, counted_columns, make_batch
from unembed.stores.quantised import choose_scales
from unembed.stores.reading import NO_ROWS, PEEK, READ_BYTES, RESTORE, ReadOptions, check_width, translated
from unembed.stores.text.groups import GENERIC, SEPARATORS, clear

Peek = Callable[[list[str]], Iterable[Any]]
_QUOTED = 100  # columns of which messages may quote a cell


@dataclass(frozen=True)
class TableStore:
    """A store over one parquet or Arrow IPC file.

    Attributes:
        name: the path, for messages.
        columns: which columns hold what.
        tables: opens the file; gives record batches of `columns.used`, each checked, of about as many rows as asked.
        count: number of rows; None where it is not known before reading.
    """

    name: str
    columns: ArrowColumns
    tables: Callable[[int], Generator[Any]]
    count: int | None = None

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.columns.dimension

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order (see `Store.batches`)."""
        start = 0
        size = max(1, min(batch, READ_BYTES // (4 * self.dimension)))
        with contextlib.closing(self.tables(size)) as tables:
            for rows in sliced(tables, size, self.name):
                part = self.columns.batch(rows, start)
                start += rows.num_rows
                if len(part):
                    yield part
        if self.count is not None and start != self.count:
            raise InputError(f"{self.name} announces {self.count} rows and holds {start}.", RESTORE)


@dataclass(frozen=True)
class ArrowColumns:
    """The columns of a table of vectors.

    Attributes:
        source: what messages call the store.
        width: numbers stored per row.
        vectors: how the table holds the vectors.
        id_name: the column that holds the ids, or None.
        scale_name: the column that holds one scale per row, or None.
        others: the columns that become metadata.
        reading: what the numbers mean and what happens to bad rows.
    """

    source: str
    width: int
    vectors: ArrowLayout
    id_name: str | None
    scale_name: str | None
    others: tuple[str, ...]
    reading: ReadOptions

    @property
    def used(self) -> list[str]:
        """The columns that are read at all."""
        names = (*self.vectors.columns, self.id_name, self.scale_name, *self.others)
        return list(dict.fromkeys(name for name in names if name is not None))

    @property
    def dimension(self) -> int:
        """Length of every vector."""
        return self.reading.quantisation.dimension(self.width)

    def batch(self, table: Any, start: int) -> VectorBatch:
        """Make a batch of a pyarrow Table or RecordBatch whose first row has the number `start`.

        Raises:
            InputError: a row without a vector, of another dimension or with a missing value, unless they are skipped.
        """
        with translated(self.source, "a table"):
            beside = dict.fromkeys((self.id_name, self.scale_name, *self.others))
            others = {name: _cells(table.column(name)) for name in beside if name is not None}
            values, kept, faults = self.vectors.numbers(table, self.width)
        for place, what, do in sorted(faults):
            row = start + place
            self.reading.reject(row, f"Row {row} of {self.source} {what} in column {self.vectors.name!r}.", do)
        if len(kept) < table.num_rows:
            others = {name: [values_[i] for i in kept] for name, values_ in others.items()}
        scales = others[self.scale_name] if self.scale_name is not None else None
        if scales is not None and None in scales:
            others[str(self.scale_name)] = [float("nan") if scale is None else scale for scale in scales]
        ids = others.pop(self.id_name) if self.id_name is not None else None
        rows = None if len(kept) == table.num_rows else [start + index for index in kept]
        return make_batch(
            values,
            ids,
            others,
            self.source,
            start,
            self.width,
            rows=rows,
            reading=self.reading,
            scales=self.scale_name,
        )


def choose_columns(
    schema: Any, peek: Peek, source: str, column: str | None, id_column: str | None, reading: ReadOptions
) -> ArrowColumns:
    """Choose the columns of a table.

    Args:
        schema: its pyarrow schema.
        peek: reads some columns: tables or record batches, taken until the first vector shows the dimension.
        source: what messages call the store.
        column: the vector column; None takes the only list column of numbers, else counted columns or text.
        id_column: the id column; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: no vector column or several, no rows, no vector in the first rows.
    """
    with translated(source, "a table"):  # names in a damaged file may not be UTF-8
        names = list(schema.names)
        offered = layouts(schema)
    vectors = _choose(offered, names, peek, source, column)
    first = _first_is_id(vectors, schema, peek, id_column)
    if first is not None:
        vectors = replace(vectors, columns=vectors.columns[1:])
    others = [name for name in names if name not in set(vectors.columns) or vectors.fields]
    id_name = choose_ids(others, id_column, source) or first
    read = choose_others([name for name in others if name != id_name], reading, source)
    width = _width(vectors, peek, source)
    numeric = [name for name in others if name != id_name and _is_number(schema, name)]
    scale_name = choose_scales(numeric, vectors.kind, reading.quantisation)
    reading.quantisation.check(width, vectors.kind, source)
    chosen = ArrowColumns(source, width, vectors, id_name, scale_name, tuple(read), reading)
    double = next((name for name in chosen.used if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{source} has several columns named {double!r}.", "Give every column its own name.")
    return chosen


def _choose(offered: list[ArrowLayout], names: list[str], peek: Peek, source: str, column: str | None) -> ArrowLayout:
    """Choose where the vectors are: lists of numbers, else counted columns, else text that shows vectors."""
    sure = [[part for part in offered if part.kind and part.form == LISTS], [p for p in offered if p.form == WIDE]]
    doubtful = [part for part in offered if not any(part in tier for tier in sure)]
    tiers = [*sure]
    if column is not None:
        tiers = [[part for tier in sure for part in tier if part.name == column]]
        doubtful = [part for part in doubtful if part.name == column]
    if not any(tiers) and doubtful:
        tiers.append(_shown(doubtful, peek))
    found = next((tier for tier in tiers if tier), [])
    if column is None and found and found[0].form == WIDE and doubtful:
        found = _meant([*found, *_shown(doubtful, peek)], peek)
    shown: dict[str, Any] = {}
    if not found:
        lacking = {
            prefix: f"{prefix}{missing}"
            for prefix, counted, missing in counted_columns(names)
            if missing is not None and len(counted) >= 10 and 2 * len(counted) > int(counted[-1][len(prefix) :])
        }
        if lacking and column in (None, *lacking):
            lacks = lacking[column or next(iter(lacking))]
            raise InputError(f"{source} has counted columns without {lacks!r}.", "Add the missing column.")
        found, shown = [part for tier in sure for part in tier], dict.fromkeys(names)
        with contextlib.suppress(InputError):  # whatever else is wrong, this file has no vectors
            for table in peek([name for name in names if names.count(name) == 1][:_QUOTED]):
                shown |= {name: _cells(table.column(name).slice(0, 1))[0] for name in table.schema.names}
                break
    chosen = choose_vectors({part.name: part.shown for part in found}, column, source, shown)
    return next(part for part in found if part.name == chosen)


def _meant(found: list[ArrowLayout], peek: Peek) -> list[ArrowLayout]:
    """Return the one of counted columns and columns of text that is meant, if that is clear; else all."""
    options = {}
    for part in found:
        for table in _first(peek(list(part.columns))):
            if width := part.width(table):
                values = part.numbers(table, width)[0]
                options[part.name] = (width, bool((values % 1 == 0).all()))
                break
    name = clear(options)
    return [part for part in found if part.name == name] or found


def _first_is_id(vectors: ArrowLayout, schema: Any, peek: Peek, id_column: str | None) -> str | None:
    """Return the first of counted columns where it holds whole numbers that differ before fractions: ids."""
    import pyarrow as pa

    if vectors.form != WIDE or len(vectors.columns) < 3:
        return None
    first, *others = vectors.columns
    if first == id_column:
        return first
    kinds = [schema.field(name).type for name in others]
    if (
        vectors.name.strip(SEPARATORS).lower() not in GENERIC
        or not pa.types.is_integer(schema.field(first).type)
        or not all(map(pa.types.is_floating, kinds))
    ):
        return None
    ids: list[Any] = []
    for table in _first(peek([first])):
        ids += _cells(table.column(first))
    return first if len(set(ids)) == len(ids) > 1 and None not in ids else None


def _width(vectors: ArrowLayout, peek: Peek, source: str) -> int:
    """Return the length of the first vector."""
    width = seen = 0
    odd: tuple[int, str, str] | None = None
    for table in _first(peek(list(vectors.columns))):
        with translated(source, "a table"):
            width = vectors.width(table)
            faults = [] if width else vectors.numbers(table, 1)[2]
        for place, what, do in faults:
            odd = odd or ((seen + place, what, do) if what != NO_VECTOR else None)
        seen += table.num_rows
        if width:
            break
    if not seen:
        raise InputError(f"{source} has no rows.", NO_ROWS)
    if not width:
        if odd is not None:
            raise InputError(f"Row {odd[0]} of {source} {odd[1]} in column {vectors.name!r}.", odd[2])
        raise InputError(
            f"None of the first {seen} rows of {source} has a vector in column {vectors.name!r}.",
            "Name another column with --column, or remove rows without a vector.",
        )
    check_width(width, source)
    return width


def _shown(doubtful: list[ArrowLayout], peek: Peek) -> list[ArrowLayout]:
    """Return the layouts whose first cells hold vectors."""
    found: list[ArrowLayout] = []
    for table in _first(peek(list(dict.fromkeys(name for part in doubtful for name in part.columns)))):
        found += [
            part for part in doubtful if (width := part.width(table)) > 1 and len(part.numbers(table, width)[1]) > 0
        ]
        if found:
            break
    return found


def _first(tables: Iterable[Any]) -> Iterable[Any]:
    """Yield the first `PEEK` rows."""
    left = PEEK
    for table in tables:
        yield table.slice(0, left)
        left -= table.num_rows
        if left <= 0:
            return


def _cells(column: Any) -> list[Any]:
    """Return the values of a column that may have several chunks."""
    chunks = getattr(column, "chunks", None)
    return cells(column) if chunks is None else [value for chunk in chunks for value in cells(chunk)]


def _is_number(schema: Any, name: str) -> bool:
    import pyarrow as pa

    places = schema.get_all_field_indices(name)
    kinds = [schema.field(place).type for place in places]
    return all(bool(pa.types.is_floating(kind) or pa.types.is_integer(kind)) for kind in kinds)
