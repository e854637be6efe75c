"""Vectors in .npz archives, streamed out of the archive, compressed or not.

Other arrays of the archive with the same number of rows and one dimension become ids or metadata. Nothing is unpickled.
An archive whose directory promises far more than its bytes can hold is refused before anything is unpacked.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator

from unembed.errors import InputError
from unembed.stores.arrays.choosing import ArrayPart, choose_parts, squeezed
from unembed.stores.arrays.npy import ArrayStore, Header, Read, read_header, rows_of
from unembed.stores.inputs import AS_FILE, Input
from unembed.stores.reading import RATIO, RESTORE, ReadOptions, translated

_KIND = "an .npz archive"
_SMALL = 1 << 26  # bytes below which the ratio does not matter
_MEMBERS = 10_000


def open_npz(source: Input, column: str | None, id_column: str | None, reading: ReadOptions) -> ArrayStore:
    """Open a .npz archive; its only array of shape (n, d), or the one named, holds the vectors.

    Raises:
        InputError: not an archive, no array of shape (n, d), pickled members, an ambiguous choice, or one that
            announces more than it can hold.
    """
    path = source.name
    if not source.seekable:
        raise InputError(f"{path} is {source.manner}, and an archive is read from its end.", AS_FILE)
    headers = _headers(source)
    pickled = [name for name, part in headers.items() if part.dtype.hasobject]
    if pickled and (column in pickled or not any(_is_table(part) for part in headers.values())):
        raise InputError(
            f"{path} holds the pickled Python objects of {pickled[0]!r}, which are never loaded.",
            "Save the vectors as an array of float32.",
        )
    parts = {
        name: ArrayPart(part.shape, part.dtype.name, str(part.dtype), part.dtype.kind in "fiubSUM" and name != "")
        for name, part in headers.items()
    }
    chosen = choose_parts(parts, column, id_column, reading, path)

    @contextlib.contextmanager
    def reader() -> Iterator[Read]:
        with contextlib.ExitStack() as stack:
            with translated(path, _KIND):
                archive = stack.enter_context(zipfile.ZipFile(path))
                streams = {name: stack.enter_context(archive.open(f"{name}.npy")) for name in chosen.used}
                for stream in streams.values():
                    read_header(stream)
            yield rows_of({name: (stream, headers[name]) for name, stream in streams.items()}, path)

    return ArrayStore(path, chosen, reader, sum(headers[name].row_bytes for name in chosen.used), reading)


def _is_table(part: Header) -> bool:
    return squeezed(part.shape) is not None and part.dtype.kind in "fiu"


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
