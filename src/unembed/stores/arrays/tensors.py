"""Vectors in .safetensors files, read slice by slice.

Other tensors with the same number of rows and one dimension become ids or metadata.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrays.choosing import choose_array, choose_beside, squeezed
from unembed.stores.arrays.npy import ArrayStore, Read
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.quantised import SCALE_NAMES, choose_scales, takes_scales
from unembed.stores.reading import NO_ROWS, Reading, check_width, translated

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
_NAMES = {**_DTYPES, "BF16": "float, bfloat16"}


def open_safetensors(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> ArrayStore:
    """Open a .safetensors file; its only tensor of shape (n, d), or the one named, holds the vectors.

    Args:
        source: the file.
        column: the tensor with the vectors; None takes the only one.
        id_column: the tensor with the ids; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not a safetensors file, no such tensor, or several.
    """
    from safetensors import safe_open

    reading = reading or Reading()
    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and safetensors are read by their index.", AS_FILE)
    with translated(path, _KIND), safe_open(path, framework="numpy") as file:
        kinds: dict[str, tuple[list[int], str]] = {}
        for name in file.keys():
            part = file.get_slice(name)
            kinds[name] = (list(part.get_shape()), str(part.get_dtype()))
    readable = {name: (tuple(shape), _NAMES.get(dtype, f"not read: {dtype}")) for name, (shape, dtype) in kinds.items()}
    vector_name = choose_array(readable, column, path)
    (count, width), kind = squeezed(readable[vector_name][0]) or (0, 0), kinds[vector_name][1]
    check_width(width, path)
    if not count:
        raise InputError(f"{path} has no rows in {vector_name!r}.", NO_ROWS)
    sides = [
        name for name, (shape, dtype) in kinds.items() if shape == [count] and (dtype in _DTYPES or dtype == "BOOL")
    ]
    beside = {
        name: f"it is of shape {shape} and type {dtype}, not one number for each of {count} rows"
        for name, (shape, dtype) in kinds.items()
        if name not in (vector_name, *sides)
    }
    id_name, others = choose_beside(sides, beside, id_column, reading, path)
    dtype = _DTYPES.get(kind, kind)
    scale_name = choose_scales([name for name in sides if kinds[name][1] != "BOOL"], dtype, reading.quantisation)
    unread = [name for name in kinds if name.lower() in SCALE_NAMES and name not in sides]
    if unread and scale_name is None and takes_scales(dtype) and not reading.quantisation.given:
        raise InputError(
            f"{path} holds {unread[0]!r} of shape {kinds[unread[0]][0]}, not one number for each of {count} rows.",
            "Give the scale with --scale.",
        )
    reading.quantisation.check(width, dtype, path)
    sides = [name for name in sides if name in {id_name, scale_name, *others}]
    half = kind == "BF16"  # numpy has no bfloat16: torch reads those slices

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                first = stack.enter_context(safe_open(path, framework="pt" if half else "numpy"))
                second = stack.enter_context(safe_open(path, framework="numpy"))
                vectors = first.get_slice(vector_name)
                columns = {name: second.get_slice(name) for name in sides}

            def read(start: int, stop: int) -> dict[str, Any]:
                table = vectors[start:stop]
                rows = {name: part[start:stop] for name, part in columns.items()}
                return {vector_name: table.float().numpy() if half else table, **rows}

            yield read

    return ArrayStore(path, width, count, reader, vector_name, id_name, scale_name, reading=reading)
