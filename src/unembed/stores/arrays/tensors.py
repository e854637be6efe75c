"""Vectors in .safetensors files, read slice by slice.

Other tensors with the same number of rows and one dimension become ids or metadata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrays.choosing import ArrayPart, choose_parts
from unembed.stores.arrays.npy import ArrayStore, Read
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.reading import ReadOptions, translated

_KIND = "safetensors"
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I8": "int8",
    "U8": "uint8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
}  # what numpy has; BF16 is read through torch


def open_safetensors(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> ArrayStore:
    """Open a .safetensors file; its only tensor of shape (n, d), or the one named, holds the vectors.

    Raises:
        InputError: not a safetensors file, no such tensor, or several.
    """
    from safetensors import safe_open

    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and safetensors are read by their index.", AS_FILE)
    with translated(path, _KIND), safe_open(path, framework="numpy") as file:
        parts = {}
        for name in file.keys():
            part = file.get_slice(name)
            kind = str(part.get_dtype())
            shown = _DTYPES.get(kind, "bfloat16" if kind == "BF16" else f"not read: {kind}")
            plain = kind in _DTYPES or kind == "BOOL"
            parts[name] = ArrayPart(tuple(part.get_shape()), _DTYPES.get(kind, kind), shown, plain)
    chosen = choose_parts(parts, column, id_column, reading, path)
    half = parts[chosen.vectors].dtype == "BF16"  # numpy has no bfloat16: torch reads those slices

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                first = stack.enter_context(safe_open(path, framework="pt" if half else "numpy"))
                second = stack.enter_context(safe_open(path, framework="numpy"))
                vectors = first.get_slice(chosen.vectors)
                columns = {name: second.get_slice(name) for name in chosen.used[1:]}

            def read(start: int, stop: int) -> dict[str, Any]:
                table = vectors[start:stop]
                rows = {name: part[start:stop] for name, part in columns.items()}
                return {chosen.vectors: table.float().numpy() if half else table, **rows}

            yield read

    return ArrayStore(path, chosen, reader, reading=reading)
