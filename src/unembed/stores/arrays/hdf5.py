"""Vectors in HDF5 files (the extra "hdf5"): a dataset of shape (n, d); datasets of length n become ids and metadata.

Only the file itself is read: no links to other files, no external or virtual datasets. The library is old
and written in C: a malicious file may crash the process, so open only files that you trust.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from unembed.errors import InputError
from unembed.stores.arrays.choosing import ArrayPart, choose_parts
from unembed.stores.arrays.npy import ArrayStore, Read
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.reading import READ_BYTES, ReadOptions, translated

_KIND = "HDF5"
_MOST = 10_000  # datasets


def open_hdf5(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> ArrayStore:
    """Open an HDF5 file; its only dataset of shape (n, d), or the one named ("group/name"), holds the vectors.

    Raises:
        InputError: h5py is not installed, not an HDF5 file, no such dataset, or several.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            f"{source.name} is an HDF5 file, and h5py is not installed.", 'Run: pip install "unembed[hdf5]".'
        ) from error
    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and HDF5 is read by its index.", AS_FILE)
    with translated(path, _KIND), h5py.File(path, "r") as file:
        parts, chunks, sizes = {}, {}, {}
        for name, part in _datasets(file).items():
            kind = part.dtype
            parts[name] = ArrayPart(tuple(part.shape), kind.name, str(kind), kind.kind in "fiubSUO")
            chunks[name], sizes[name] = _chunk(part), kind.itemsize
    chosen = choose_parts(parts, column, id_column, reading, path, many=True)
    for name in chosen.used:
        if chunks[name] > READ_BYTES:
            raise InputError(
                f"{path} holds {name!r} in chunks of {chunks[name]} bytes; {READ_BYTES} are read at most.",
                "Write it in smaller chunks.",
            )

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                file = stack.enter_context(h5py.File(path, "r"))

            def read(start: int, stop: int) -> dict[str, Any]:
                return {name: file[name][start:stop] for name in chosen.used}

            yield read

    row_bytes = sum(sizes[name] * (chosen.width if name == chosen.vectors else 1) for name in chosen.used)
    return ArrayStore(path, chosen, reader, row_bytes, reading)


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
