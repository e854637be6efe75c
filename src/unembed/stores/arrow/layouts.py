"""How Arrow tables hold vectors: lists, fields of structs, one column per number, text, bytes.

A list column may be of any list type, a dictionary or runs, and its numbers whole, halves, decimals or text; lists
that hold one list each count as that list. What a cell is follows from its type, or from reading it. Contents:
`ArrowLayout` (one way to hold vectors, and the numbers read that way) and `layouts` (what a schema offers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unembed.stores.arrow.values import Lists, cells, is_bytes, is_list, is_text, plain_type, stored, stored_type
from unembed.stores.inputs import MAX_LINE
from unembed.stores.protocol import counted_columns
from unembed.stores.reading import ENOUGH
from unembed.stores.written import from_bytes, oddity, parse_vector, to_numbers

if TYPE_CHECKING:
    import numpy as np

LISTS, WIDE, TEXT = "lists", "wide", "text"
NO_VECTOR = "has no vector"
Fault = tuple[int, str, str]  # place in the table, what is wrong with the row, what to do

_REMOVE = "Remove rows without a vector, or leave them out with --skip-bad."
_DIMENSION = "Keep vectors of one encoder in a file, or name the right column with --column."
_REPAIR = "Repair or remove that row, or leave it out with --skip-bad."


@dataclass(frozen=True)
class ArrowLayout:
    """One way in which a table may hold vectors.

    Attributes:
        name: what the user calls it: a column, column.field of a struct, or the prefix of counted columns.
        form: LISTS, WIDE (one column per number) or TEXT (a column of text or bytes).
        columns: the columns of the table that are read.
        fields: the fields below a column of structs.
        kind: the type of the numbers, where it is known; else "".
        shown: a short description for messages.
    """

    name: str
    form: str
    columns: tuple[str, ...]
    fields: tuple[str, ...]
    kind: str
    shown: str

    def width(self, table: Any) -> int:
        """Return the length of the first vector of a table; 0 where there is none."""
        if self.form == WIDE:
            return len(self.columns) if table.num_rows else 0
        for chunk in self._chunks(table):
            if self.form == TEXT:
                vectors = (_read(cell)[0] for cell in _plain(chunk))
                length = next((len(vector) for vector in vectors if vector), 0)
            else:
                lengths = Lists(chunk).lengths
                length = int(next(iter(lengths[lengths > 0]), 0))
            if length:
                return length
        return 0

    def numbers(self, table: Any, width: int) -> tuple[np.ndarray, list[int], list[Fault]]:
        """Return the numbers of the rows that hold `width` of them, their places, and the faults of other rows.

        Returns:
            An array of shape (n, width) of any real type, n places, and the faults by place.
        """
        import numpy as np

        parts: list[Any] = []
        places: list[int] = []
        faults: list[Fault] = []
        begin = 0
        chunks = [table] if self.form == WIDE else self._chunks(table)
        for chunk in chunks:
            read = {LISTS: _from_lists, TEXT: _from_text, WIDE: _from_columns}[self.form]
            part, good, bad = read(chunk if self.form != WIDE else table.select(list(self.columns)), width)
            parts.append(part)
            places += [begin + place for place in good]
            faults += [(begin + place, what, do) for place, what, do in bad]
            begin += len(chunk)
        array = np.concatenate(parts) if len(parts) != 1 else parts[0]
        return array, places, faults

    def _chunks(self, table: Any) -> Iterator[Any]:
        """Yield the arrays of the column, inside structs where the vectors lie there."""
        import pyarrow as pa

        column = table.column(self.columns[0])
        for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
            for field in self.fields:
                chunk = stored(chunk)
                chunk = chunk.flatten()[chunk.type.get_field_index(field)]
            yield stored(chunk)


def layouts(schema: Any) -> list[ArrowLayout]:
    """Return the ways in which tables of a pyarrow schema may hold vectors; text only if a cell shows it."""
    found: list[ArrowLayout] = []
    numeric: list[str] = []
    kinds = {}
    for part in schema:
        found += _below(part.name, part.name, (), part.type)
        if _is_number(stored_type(part.type)):
            numeric.append(part.name)
            kinds[part.name] = str(part.type)
    for prefix, names, missing in counted_columns(numeric):
        if missing is not None:
            continue
        kind = {kinds[name] for name in names}
        same = next(iter(kind)) if len(kind) == 1 else ""
        found.append(ArrowLayout(prefix, WIDE, tuple(names), (), same, f"{len(names)} columns"))
    return found


def _below(name: str, column: str, fields: tuple[str, ...], kind: Any) -> Iterator[ArrowLayout]:
    """Yield what a column or a field of a struct offers."""
    import pyarrow as pa

    kind = stored_type(kind)
    if pa.types.is_struct(kind) and len(fields) < 8:
        names = [part.name for part in kind]
        for part in kind:
            if names.count(part.name) == 1:
                yield from _below(f"{name}.{part.name}", column, (*fields, part.name), part.type)
        return
    inner = plain_type(kind)
    if is_list(inner):
        while is_list(inner):
            inner = plain_type(stored_type(inner.value_type))
        if _is_number(inner):
            yield ArrowLayout(name, LISTS, (column,), fields, str(inner), str(kind))
        elif is_text(inner) or pa.types.is_decimal(inner):
            yield ArrowLayout(name, LISTS, (column,), fields, "", str(kind))
    elif is_text(inner) or is_bytes(inner):
        yield ArrowLayout(
            name, TEXT, (column,), fields, "", "numbers as text" if is_text(inner) else "numbers as bytes"
        )


def _from_lists(column: Any, width: int) -> tuple[Any, list[int], list[Fault]]:
    """Take the lists of `width` numbers out of an array of lists."""
    import numpy as np
    import pyarrow as pa

    found = Lists(column)
    good = found.lengths == width
    faults: list[Fault] = []
    for place in np.flatnonzero(~good).tolist():
        length = int(found.lengths[place])
        if found.places[place] == -1:
            faults.append((place, NO_VECTOR, _REMOVE))
        elif length == -2:
            what = "holds several vectors, as encoders without pooling give one for each token"
            faults.append((place, what, "Give one vector per row, for example the mean of them."))
        else:
            faults.append((place, f"has a vector of dimension {length}; the first has {width}", _DIMENSION))
    rows = np.flatnonzero(good)
    whole = len(rows) == len(found.lists) and bool((found.places == np.arange(len(found.lists))).all())
    lists = found.lists if whole else found.lists.take(pa.array(found.places[rows]))
    numbers = stored(lists.flatten())
    if pa.types.is_run_end_encoded(numbers.type):
        import pyarrow.compute as pc

        numbers = pc.run_end_decode(numbers)
    if pa.types.is_dictionary(numbers.type):
        numbers = numbers.dictionary_decode()
    if is_text(numbers.type):
        return _from_parts(numbers, rows, width, faults)
    if pa.types.is_decimal(numbers.type):
        numbers = numbers.cast(pa.float64())
    if numbers.null_count:
        holes = np.asarray(numbers.is_null()).reshape(len(rows), width).any(axis=1)
        faults += [(place, "has a vector with a missing value", _REPAIR) for place in rows[holes].tolist()]
        numbers = numbers.filter(pa.array(np.repeat(~holes, width)))
        rows = rows[~holes]
    array = numbers.to_numpy(zero_copy_only=False).reshape(len(rows), width)
    return array, rows.tolist(), faults


def _from_parts(numbers: Any, rows: Any, width: int, faults: list[Fault]) -> tuple[Any, list[int], list[Fault]]:
    """Read lists whose numbers are text."""
    vectors, places = [], []
    for index, place in enumerate(rows.tolist()):
        try:
            vectors.append(_array(to_numbers(cells(numbers.slice(index * width, width)))))
            places.append(place)
        except (TypeError, ValueError):
            faults.append((place, "has a vector with text that is not a number, or with a missing value", _REPAIR))
    return _stacked(vectors, width), places, faults


def _from_text(column: Any, width: int) -> tuple[Any, list[int], list[Fault]]:
    """Read cells of text or bytes."""
    vectors, places = [], []
    faults: list[Fault] = []
    for place, cell in enumerate(_plain(column)):
        vector, what = _read(cell)
        if len(vector) == width:
            vectors.append(_array(vector))
            places.append(place)
        elif vector:
            faults.append((place, f"has a vector of dimension {len(vector)}; the first has {width}", _DIMENSION))
        else:
            faults.append((place, f"has no vector ({what})", _REPAIR))
    return _stacked(vectors, width), places, faults


def _from_columns(table: Any, width: int) -> tuple[Any, list[int], list[Fault]]:
    """Put columns of numbers side by side."""
    import numpy as np
    import pyarrow as pa

    good = np.ones(table.num_rows, dtype=bool)
    faults: list[Fault] = []
    columns = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        parts = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        numbers = pa.chunked_array([_decoded(part) for part in parts])
        if numbers.null_count:
            empty = np.asarray(numbers.is_null())
            for place in np.flatnonzero(empty & good).tolist():
                faults.append((place, f"has no number in column {name!r}", _REPAIR))
            good &= ~empty
            numbers = numbers.fill_null(0)
        columns.append(numbers.to_numpy())
    array = np.column_stack(columns)
    return array[good], np.flatnonzero(good).tolist(), sorted(faults)


def _decoded(column: Any) -> Any:
    """Return a column of numbers as a plain array."""
    import pyarrow as pa

    column = stored(column)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column


def _plain(column: Any) -> list[Any]:
    """Return cells of text as text, cells of bytes as bytes."""
    import pyarrow as pa

    column = stored(column)
    if pa.types.is_dictionary(column.type):
        inner = _plain(column.dictionary)
        return [None if place is None else inner[place] for place in column.indices.to_pylist()]
    return list(column.to_pylist()) if is_bytes(column.type) else cells(column)


def _read(cell: Any) -> tuple[list[float], str]:
    """Read a cell of text or bytes; return its vector, or an empty one and why."""
    if not cell:
        return [], oddity(None)
    if len(cell) > MAX_LINE:
        return [], f"it is longer than {MAX_LINE} characters"
    try:
        if isinstance(cell, str):
            return parse_vector(cell), ""
        if cell[:1] in (b"[", b"{", b"("):
            return parse_vector(cell.decode()), ""
        if cell[:1] == b"\x80":
            return [], "it is a pickled object, which is never loaded"
        if len(cell) < 4 * ENOUGH:
            return [], "it has too few bytes"
        return from_bytes(cell), ""
    except ValueError as error:
        return [], str(error)


def _array(vector: list[float]) -> Any:
    import numpy as np

    return np.array(vector, dtype=np.float64)


def _stacked(vectors: list[Any], width: int) -> Any:
    import numpy as np

    return np.stack(vectors) if vectors else np.zeros((0, width))


def _is_number(kind: Any) -> bool:
    """Return whether an Arrow type is one of real numbers."""
    import pyarrow as pa

    return bool(pa.types.is_floating(kind) or pa.types.is_integer(kind))
