"""Vectors in .npz archives, streamed out of the archive, compressed or not.

Other arrays of the archive with the same number of rows and one dimension become ids or metadata. Nothing is unpickled.
An archive whose directory promises far more than its bytes can hold is refused before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator

from unembed.errors import InputError
from unembed.stores.arrays.choosing import choose_array, choose_beside, squeezed
from unembed.stores.arrays.npy import ArrayStore, Header, Read, read_header, rows_of
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.quantised import SCALE_NAMES, choose_scales, takes_scales
from unembed.stores.reading import NO_ROWS, RATIO, RESTORE, Reading, check_width, translated

_KIND = "an .npz archive"
_SMALL = 1 << 26  # bytes below which the ratio does not matter
_MEMBERS = 10_000


def open_npz(
    source: Input, column: str | None = None, id_column: str | None = None, reading: Reading | None = None
) -> ArrayStore:
    """Open a .npz archive.

    Args:
        source: the file.
        column: the array of shape (n, d); None takes the only one.
        id_column: the array of ids; None takes one with a usual name, else rows are numbered.
        reading: what the numbers mean and what happens to bad rows.

    Raises:
        InputError: not an archive, no array of shape (n, d), pickled members, an ambiguous choice, or one that
            announces more than it can hold.
    """
    reading = reading or Reading()
    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and an archive is read from its end.", AS_FILE)
    headers = _headers(source)
    pickled = [name for name, part in headers.items() if part.dtype.hasobject]
    shapes = {name: (part.shape, str(part.dtype)) for name, part in headers.items()}
    if pickled and (column in pickled or not any(_is_table(part) for part in headers.values())):
        raise InputError(
            f"{path} holds the pickled Python objects of {pickled[0]!r}, which are never loaded.",
            "Save the vectors as an array of float32.",
        )
    vector_name = choose_array(shapes, column, path)
    (count, width), dtype = squeezed(headers[vector_name].shape) or (0, 0), headers[vector_name].dtype.name
    check_width(width, path)
    if not count:
        raise InputError(f"{path} has no rows in {vector_name!r}.", NO_ROWS)
    sides = [name for name, part in headers.items() if part.shape == (count,) and part.dtype.kind in "fiubSUM" and name]
    beside = {name: _why(part, count) for name, part in headers.items() if name not in (vector_name, *sides)}
    id_name, others = choose_beside(sides, beside, id_column, reading, path)
    scale_name = choose_scales(
        [name for name in sides if headers[name].dtype.kind in "fiu"], dtype, reading.quantisation
    )
    unread = [name for name in headers if name.lower() in SCALE_NAMES and name not in sides]
    if unread and scale_name is None and takes_scales(dtype) and not reading.quantisation.given:
        raise InputError(
            f"{path} holds {unread[0]!r} of shape {headers[unread[0]].shape}, not one number for each of {count} rows.",
            "Give the scale with --scale.",
        )
    reading.quantisation.check(width, dtype, path)
    sides = [name for name in sides if name in {id_name, scale_name, *others}]

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                archive = stack.enter_context(zipfile.ZipFile(path))
                streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in (vector_name, *sides)}
                for stream in streams.values():
                    read_header(stream)
            yield rows_of({name: (stream, headers[name]) for name, stream in streams.items()}, path)

    row_bytes = sum(headers[name].row_bytes for name in (vector_name, *sides))
    return ArrayStore(path, width, count, reader, vector_name, id_name, scale_name, row_bytes, reading)


def _is_table(part: Header) -> bool:
    return squeezed(part.shape) is not None and part.dtype.kind in "fiu"


def _why(part: Header, count: int) -> str:
    """Say in a clause why an array beside the vectors is not read."""
    if part.dtype.hasobject:
        return "it holds Python objects, which are never unpickled"
    if part.shape != (count,):
        return f"it has the shape {part.shape}, not one value for each of {count} rows"
    return f"its values are of type {part.dtype}"


def _headers(source: Input) -> dict[str, Header]:
    """Read the header of every array of an archive, and check that the archive can hold what they announce."""
    headers = {}
    with translated(source.name, _KIND), zipfile.ZipFile(source.name) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) > _MEMBERS:
            raise InputError(f"{source.name} holds {len(members)} arrays.", "Keep the vectors in one array.")
        for info in members:
            if info.file_size > _SMALL and info.file_size > RATIO * info.compress_size:
                raise InputError(
                    f"{source.name} announces {info.file_size} bytes for {info.filename!r} in "
                    f"{info.compress_size} bytes, as a zip bomb does.",
                    f"Save real vectors with numpy.savez; an array that packs {RATIO}-fold holds none.",
                )
            with archive.open(info) as stream:
                header = read_header(stream)
            name = info.filename.removesuffix(".npy")
            if not header.dtype.hasobject and header.total_bytes != info.file_size:
                raise InputError(
                    f"{source.name} is damaged: the header of {name!r} announces the shape {header.shape}, "
                    f"{header.total_bytes} bytes, and the archive holds {info.file_size}.",
                    RESTORE,
                )
            headers[name] = header
    return headers
