"""Tables of a given number of rows and bytes out of Arrow record batches of any length: `checked` and `sliced`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrow.values import is_bytes, is_list, is_text
from unembed.stores.reading import READ_BYTES


def checked(batch: Any) -> Any:
    """Check the inside of a record batch, which must not lead out of its memory; return it.

    Columns of text with bytes that are not UTF-8, which writers let pass, become columns of bytes.

    Raises:
        pyarrow.ArrowInvalid: it is damaged.
    """
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "UTF8" not in str(error):
            raise
        columns = [_as_bytes(column) for column in batch.columns]
        batch = pa.RecordBatch.from_arrays(columns, names=list(batch.schema.names))
        batch.validate(full=True)
    return batch


def _as_bytes(column: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return pa.DictionaryArray.from_arrays(column.indices, _as_bytes(column.dictionary), safe=False)
    if is_text(column.type):
        return column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    return column


def sliced(batches: Iterable[Any], size: int, source: str) -> Iterator[Any]:
    """Yield tables of `size` rows, or of as many as hold a quarter of `READ_BYTES`; the last may be shorter.

    Raises:
        InputError: one row alone exceeds `READ_BYTES`.
    """
    import pyarrow as pa

    parts: list[Any] = []
    rows = weight = seen = 0
    most = READ_BYTES // 4  # as Python values they are held a few times over
    for batch in batches:
        at = 0
        while at < batch.num_rows:
            part = batch.slice(at, size - rows)
            heavy = _weight(part)
            while weight + heavy > most and part.num_rows > 1:
                part = part.slice(0, part.num_rows // 2)
                heavy = _weight(part)
            if heavy > READ_BYTES:
                raise InputError(
                    f"Row {seen} of {source} holds {heavy} bytes; {READ_BYTES} are read at most.",
                    "Shorten or remove that row.",
                )
            if weight + heavy <= most or not parts:
                parts.append(part)
                at, rows, weight = at + part.num_rows, rows + part.num_rows, weight + heavy
                if rows < size:
                    continue
            yield pa.Table.from_batches(parts)
            seen, parts, rows, weight = seen + rows, [], 0, 0
    if parts:
        yield pa.Table.from_batches(parts)


def _weight(batch: Any) -> int:
    """Bytes that the cells of a record batch unfold to; equal cells of a dictionary are one."""
    return sum(map(_bytes, batch.columns))


def _bytes(column: Any) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _bytes(column.storage)
    if pa.types.is_run_end_encoded(kind):
        return 8 * len(column)
    if pa.types.is_dictionary(kind):
        return 8 * len(column) + _used(column)
    if pa.types.is_struct(kind):
        return sum(map(_bytes, column.flatten()))
    if is_list(kind) and len(column):
        inner = column.values
        numbers = 0
        if pa.types.is_fixed_size_list(kind):
            numbers = kind.list_size * len(column)
        else:
            numbers = pc.sum(pc.list_value_length(column)).as_py() or 0
        return int(_bytes(inner) / max(1, len(inner)) * numbers) + 8 * len(column)
    if "view" in str(kind):
        return (pc.sum(pc.binary_length(column)).as_py() or 0) + 16 * len(column)
    return int(column.nbytes)


def _used(column: Any) -> int:
    """Bytes of the entries of a dictionary that a column uses, where they are many."""
    import pyarrow.compute as pc

    values = column.dictionary
    if values.nbytes <= READ_BYTES // 4 or not (is_text(values.type) or is_bytes(values.type)):
        return 0
    lengths = pc.binary_length(values).take(pc.unique(column.indices.drop_null()))
    return int(pc.sum(lengths).as_py() or 0)
