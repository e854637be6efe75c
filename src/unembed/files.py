"""Files that are whole or absent: atomic writes, checksums, JSON.

A writer puts its bytes under a temporary name in the same folder, flushes them to the disk and renames. A reader
therefore never meets half a file, also after a power cut (habit 4 of the design).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unembed.errors import DataError


def _failed(path: Path, reason: str) -> DataError:
    return DataError(f"Writing {path} failed: {reason}.", "Free disk space or choose another folder.")


@contextlib.contextmanager
def atomic_path(path: str | Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without an exception.

    Args:
        path: the final name.
        mode: permission bits of the result; 0o600 for files that hold recovered text.

    Raises:
        DataError: the folder cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}.", "Choose a folder that exists and is writable."
        ) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(part, mode)
        os.replace(part, path)
    except OSError as error:
        raise _failed(path, error.strerror or str(error)) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # safetensors wraps the system's error
            raise
        raise _failed(path, str(error).rstrip(".")) from error
    finally:
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_parts(folder: str | Path, name: str = "*") -> None:
    """Remove what writers of `folder/name` left behind that were killed; no other writer may be at work there.

    With the name "*" the folder must be one of ours: temporary files of safetensors (.tmp and six characters) go too.
    """
    patterns = [f".{name}.*.part", *([".tmp??????"] if name == "*" else [])]
    for part in [path for pattern in patterns for path in Path(folder).glob(pattern)]:
        part.unlink(missing_ok=True)


def make_folder(path: str | Path) -> Path:
    """Make a folder, or check that a file can be written into the one that is there, before work is spent for it.

    Raises:
        DataError: it cannot be made or written.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(
            f"Cannot write into {path}: {error.strerror}.", "Choose a folder that exists and is writable."
        ) from error
    return path


@contextlib.contextmanager
def unless_refused(path: str | Path | None) -> Iterator[None]:
    """On an error, remove `path` and the folders above it, where they were made inside and are still empty."""
    folders = [] if path is None else [Path(path), *Path(path).parents]
    absent = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except BaseException:
        for folder in absent:
            with contextlib.suppress(OSError):  # not made, or not empty
                folder.rmdir()
        raise


def atomic_write_bytes(path: str | Path, data: bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` as a whole or not at all."""
    with atomic_path(path, mode) as part:
        part.write_bytes(data)


def write_json(path: str | Path, value: Any, mode: int = 0o644) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; keys keep their order."""
    atomic_write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(), mode)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: the file is absent, not UTF-8 or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.", "Check the path.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not valid JSON ({error}).", "Restore the file from where it was made.") from error


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
