"""Vectors in HDF5 files (the extra "hdf5"): a dataset of shape (n, d); datasets of length n become ids and metadata.

Only the file itself is read: no links to other files, no external or virtual datasets. The library is
old and written in C: a malicious file may crash the process, so open only files that you trust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrays.choosing import choose_array, choose_beside, squeezed
from unembed.stores.arrays.npy import ArrayStore, Read
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.protocol import ID_NAMES
from unembed.stores.quantised import choose_scales
from unembed.stores.reading import NO_ROWS, READ_BYTES, Reading, check_width, translated

_KIND = "HDF5"
_MOST = 10_000  # datasets


def open_hdf5(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> ArrayStore:
    """Open an HDF5 file; its only dataset of shape (n, d), or the one named ("group/name"), holds the vectors.

    Args:
        source: the file.
        column: the dataset with the vectors; None takes the only one.
        id_column: the dataset with the ids; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: h5py is not installed, not an HDF5 file, no such dataset, or several.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{source.name} is an HDF5 file, and h5py is not installed.", 'Run: pip install "unembed[hdf5]".'
        ) from error
    reading = reading or Reading()
    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and HDF5 is read by its index.", AS_FILE)
    with translated(path, _KIND), h5py.File(path, "r") as file:
        found = _datasets(file)
        shapes = {name: (tuple(part.shape), part.dtype) for name, part in found.items()}
        large = {name: _chunk(part) for name, part in found.items() if _chunk(part) > READ_BYTES}
    vector_name = choose_array({name: (shape, str(kind)) for name, (shape, kind) in shapes.items()}, column, path)
    (count, width), dtype = squeezed(shapes[vector_name][0]) or (0, 0), shapes[vector_name][1]
    check_width(width, path)
    if not count:
        raise InputError(f"{path} has no rows in {vector_name!r}.", NO_ROWS)
    sides = [name for name, (shape, kind) in shapes.items() if shape == (count,) and kind.kind in "fiubSUO"]
    scales = [name for name in sides if shapes[name][1].kind in "fiu"]
    scale_name = choose_scales(scales, dtype.name, reading.quantisation)
    reading.quantisation.check(width, dtype.name, path)
    unread = {
        name: f"it has the shape {shape}, not one value for each of {count} rows"
        for name, (shape, _) in shapes.items()
        if name not in (vector_name, *sides) and (name.lower() in ID_NAMES or name == id_column)
    }
    id_name, others = choose_beside(sides, unread, id_column, reading, path)
    used = list(dict.fromkeys(name for name in (vector_name, id_name, scale_name, *others) if name is not None))
    for name in used:
        if name in large:
            raise InputError(
                f"{path} holds {name!r} in chunks of {large[name]} bytes; {READ_BYTES} are read at most.",
                "Write it in smaller chunks.",
            )

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                file = stack.enter_context(h5py.File(path, "r"))

            def read(start: int, stop: int) -> dict[str, Any]:
                return {name: file[name][start:stop] for name in used}

            yield read

    row_bytes = sum(shapes[name][1].itemsize * (width if name == vector_name else 1) for name in used)
    return ArrayStore(path, width, count, reader, vector_name, id_name, scale_name, row_bytes, reading)


def _datasets(file: Any) -> dict[str, Any]:
    """Return the datasets of a file by path; what lies outside of the file is passed over."""
    import h5py

    found: dict[str, Any] = {}
    seen = {h5py.h5o.get_info(file.id).addr}
    groups = [("", file)]
    while groups:
        prefix, group = groups.pop()
        for key in group:
            if len(seen) > _MOST:
                raise ValueError(f"it holds more than {_MOST} datasets")
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                continue
            part = group[key]
            place = h5py.h5o.get_info(part.id).addr
            if place in seen:
                continue
            seen.add(place)
            if isinstance(part, h5py.Group):
                groups.append((f"{prefix}{key}/", part))
            elif isinstance(part, h5py.Dataset) and part.shape is not None and not part.is_virtual:
                text = h5py.check_string_dtype(part.dtype) is not None
                if not part.external and (part.dtype.kind in "fiubSU" or text):
                    found[f"{prefix}{key}"] = part
    return dict(sorted(found.items()))


def _chunk(part: Any) -> int:
    """Bytes that are unpacked at a time."""
    size = int(part.dtype.itemsize)
    for side in part.chunks or ():
        size *= int(side)
    return size
