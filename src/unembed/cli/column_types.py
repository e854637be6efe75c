"""Types of a parquet file's columns, decided by all rows before one is written. Contents: `write_parquet`.

Columns of our own have fixed types. The ids and the columns that were kept take the type that holds every value as it
is: whole numbers of 64 bits with or without a sign, floats, booleans, text, lists and objects of these. Whatever has no
such type is text: whole numbers beyond 64 bits in digits, values of mixed types as JSON writes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.cli.console import plain

Row = dict[str, Any]

ROW_GROUP = 4096
_LISTS = ("token_confidence", "tokens", "alternatives", "given", "forced")
_EXACT = 1 << 53  # up to here a float holds every whole number


def _fixed() -> dict[str, Any]:
    """The types of our own columns."""
    import pyarrow as pa

    return {
        "text": pa.string(),
        "original": pa.string(),
        **dict.fromkeys(("confidence", "p_exact", "cosine", "fit", "likelihood"), pa.float32()),
        **dict.fromkeys(("length", "passes", "queries"), pa.int64()),
        **dict.fromkeys(("tokens", "alternatives"), pa.list_(pa.string())),
        **dict.fromkeys(("given", "forced"), pa.list_(pa.bool_())),
        "token_confidence": pa.list_(pa.float32()),
    }


class Column:
    """What the values of a column have in common, as they pass by.

    Attributes:
        lowest, highest: of the whole numbers.
    """

    def __init__(self) -> None:
        self._kinds: set[type] = set()
        self.lowest = self.highest = 0
        self._nested: Any = None

    def add(self, values: Sequence[Any]) -> None:
        """Look at some values, as `plain` makes them."""
        kinds = {type(value) for value in values} - {type(None)}
        self._kinds |= kinds
        if int in kinds:
            whole = [value for value in values if type(value) is int]
            self.lowest, self.highest = min(self.lowest, *whole), max(self.highest, *whole)
        if self._kinds & {list, dict} and not self._kinds - {list, dict} and self._nested is not False:
            self._nested = self._joined(values)

    def _joined(self, values: Sequence[Any]) -> Any:
        """The type of the lists or objects so far and these; False where there is none."""
        import pyarrow as pa

        try:
            found = pa.schema([("c", pa.infer_type(values))])
            known = found if self._nested is None else pa.schema([("c", self._nested)])
            return pa.unify_schemas([known, found], promote_options="permissive").field("c").type
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            return False

    def type(self) -> Any:
        """The arrow type that holds every value as it is."""
        import pyarrow as pa

        kinds = self._kinds
        if kinds == {bool}:
            return pa.bool_()
        if kinds == {int}:
            if -(1 << 63) <= self.lowest and self.highest < 1 << 63:
                return pa.int64()
            return pa.uint64() if self.lowest >= 0 and self.highest < 1 << 64 else pa.string()
        if kinds == {float} or (kinds == {int, float} and -_EXACT <= self.lowest and self.highest <= _EXACT):
            return pa.float64()
        if kinds and not kinds - {list, dict} and self._nested not in (None, False):
            return self._nested
        return pa.string()


def write_parquet(path: Path, rows: Callable[[], Iterator[Sequence[Row]]]) -> None:
    """Write row groups of one size, however the rows come.

    Args:
        path: the file.
        rows: yields them from the first on; called twice, or three times where lists or objects have no common type.
    """
    import pyarrow as pa

    types = _fixed()
    columns: dict[str, Column] = {}
    for some in rows():
        for name in some[0] if some else ():
            if name not in types:
                columns.setdefault(name, Column()).add([plain(row.get(name)) for row in some])
    types |= {name: column.type() for name, column in columns.items()}
    try:
        _write(path, rows(), types)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        nested = [name for name in columns if pa.types.is_nested(types[name])]
        if not nested:
            raise
        _write(path, rows(), {**types, **dict.fromkeys(nested, pa.string())})


def _write(path: Path, rows: Iterator[Sequence[Row]], types: dict[str, Any]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer: Any = None
    waiting: list[Row] = []

    def write(group: Sequence[Row]) -> None:
        nonlocal writer
        names = list(group[0])
        schema = pa.schema([(_text(name), types[name]) for name in names])
        arrays = [_array([row.get(name) for row in group], types[name], name in _LISTS) for name in names]
        if writer is None:
            writer = pq.ParquetWriter(stream, schema, compression="zstd")
        writer.write_table(pa.table(arrays, schema=schema))

    with open(path, "wb") as stream:
        try:
            for some in rows:
                waiting.extend(some)
                while len(waiting) >= ROW_GROUP:
                    write(waiting[:ROW_GROUP])
                    del waiting[:ROW_GROUP]
            if waiting:
                write(waiting)
            elif writer is None:
                pq.write_table(pa.table({}), stream)
        finally:
            if writer is not None:
                writer.close()


def _array(values: list[Any], kind: Any, flat: bool) -> Any:
    """Make an arrow array; texts hold whatever is no text as JSON."""
    import pyarrow as pa

    if not flat:
        values = [plain(value) for value in values]
    if pa.types.is_string(kind):
        values = [value if value is None else _text(value) for value in values]
    return pa.array(values, kind)


def _text(value: Any) -> str:
    """A value as text that UTF-8 can hold: half a character becomes its escape."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
