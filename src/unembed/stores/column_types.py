"""Types of a parquet file's columns, decided by all values before one is written. Contents: `Column`, `as_array`.

A column takes the type that holds every value as it is: whole numbers of 64 bits with or without a sign, floats,
booleans, text, lists and objects of these. All else is text: whole numbers beyond 64 bits in digits, values
of mixed types as JSON writes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_EXACT = 1 << 53  # up to here a float holds every whole number


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
        """Look at some values, of the types that JSON has."""
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


def as_array(values: Sequence[Any], kind: Any) -> Any:
    """Make an arrow array of a type; a column of text holds other values as JSON."""
    import pyarrow as pa

    if pa.types.is_string(kind):
        values = [value if value is None else as_text(value) for value in values]
    return pa.array(values, kind)


def as_text(value: Any) -> str:
    """A value as text that UTF-8 can hold: a lone surrogate becomes its escape."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
