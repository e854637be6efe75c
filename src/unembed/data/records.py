"""A text with what its file holds beside it. Contents: `Record`, `Wanted`, `no_column`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from unembed.errors import DataError
from unembed.stores.protocol import ID_NAMES


class Record(NamedTuple):
    """A text, where it comes from, its id in the file (None where it has none) and the columns that were asked for."""

    text: str
    source: str
    id: Any = None
    columns: tuple[Any, ...] = ()


class Wanted(NamedTuple):
    """The columns that are read; without an `id_column`, `ids` says whether one with a usual name gives the ids."""

    column: str | int | None
    source_column: str | int | None
    id_column: str | None = None
    keep: tuple[str, ...] = ()
    ids: bool = False

    @property
    def more(self) -> tuple[str, ...]:
        """Those beside text and source that were named."""
        return (*self.keep, *([self.id_column] if self.id_column is not None else []))

    def id_of(self, names: Collection[str]) -> str | None:
        """The column of the ids, among those that there are."""
        if self.id_column is not None or not self.ids:
            return self.id_column
        return next((name for name in ID_NAMES if name in names), None)


def no_column(path: Path, column: str | int, names: list[str]) -> DataError:
    """The error for a column that the file does not have."""
    return DataError(f"{path} has no column {column!r}.", f"Its columns are {', '.join(names)}.")
