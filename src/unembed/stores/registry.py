"""Stores by address: a path is a file; `scheme:rest` asks a store that registered `scheme`.

Others add a store with an entry point of the group "unembed.stores", or `unembed.register("store", SCHEME, open)`: a
function `open(address, column, id_column) -> Store`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from unembed.errors import InputError
from unembed.plugins import REPAIR, guarded, plugin, plugin_names, told
from unembed.stores.files import open_file
from unembed.stores.protocol import Store, VectorBatch
from unembed.stores.reading import Reading

_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")


def open_store(
    address: str | Path,
    column: str | None = None,
    id_column: str | None = None,
    *,
    reading: Reading | None = None,
    kind: str | None = None,
) -> Store:
    """Open a store by path, "-" (standard input) or `scheme://...`.

    Args:
        address: where the vectors are.
        column: the column or array that holds the vectors; None guesses the only one.
        id_column: the column or array that holds the ids; None guesses by name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows; a store of another package checks its own rows.
        kind: the format of standard input or of a pipe (see `open_file`).

    Raises:
        InputError: no store has that scheme, or what the store itself finds wrong.
    """
    match = _SCHEME.match(str(address))
    if match is None:
        return open_file(address, column, id_column, reading=reading, kind=kind)
    scheme = match.group(1)
    if scheme == "file":
        return open_file(str(address)[len("file://") :], column, id_column, reading=reading, kind=kind)
    if kind is not None or (reading is not None and reading.quantisation.given):
        raise InputError(
            f"A format, a scale, an offset or packed bits are given for {scheme}://, which is not a file.",
            "Leave out --format, --scale, --offset and --packed.",
        )
    opener = plugin("store", scheme)
    if opener is None:
        known = ", ".join(["file", *plugin_names("store")])
        raise InputError(
            f"No store is registered for {scheme}://.", f"Use a file, or install a store for it (known: {known})."
        )
    with guarded(_refuse(scheme, "cannot open it")):
        return PluginStore(opener(str(address), column, id_column), scheme)


def _refuse(scheme: str, what: str) -> Callable[[BaseException], InputError]:
    return lambda error: InputError(f"The plug-in for {scheme}:// {what} ({told(error)}).", REPAIR)


class PluginStore:
    """A store of another package, whose failures are reported in two sentences.

    Args:
        inner: what the plugin's function returned.
        scheme: the name that it is registered under, for messages.
    """

    def __init__(self, inner: Any, scheme: str) -> None:
        self._inner, self._scheme = inner, scheme
        self.name: str = str(inner.name)
        self.dimension: int = int(inner.dimension)
        self.count: int | None = inner.count

    def batches(self, batch: int = 8192) -> Iterator[VectorBatch]:
        """Yield the rows in order; see `Store`."""
        with guarded(_refuse(self._scheme, "fails while it is read")):
            yield from self._inner.batches(batch)
