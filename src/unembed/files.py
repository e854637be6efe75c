"""Files that are whole or absent: atomic writes, one writer at a time, checksums, JSON.

A writer puts its bytes under a temporary name in the same folder, flushes them to the disk and renames. A reader
therefore never meets half a file, also after a power cut. What holds texts or vectors of people
is written with mode `PRIVATE`, in folders that nobody else may enter; everything else follows the umask.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unembed.errors import DataError, InputError

PRIVATE = 0o600
LOCK = ".lock"
_log = logging.getLogger(__name__)
_LONGEST = 220  # bytes of a name; most file systems take 255, and next to a file are others with longer names
_FOREIGN_TEMPORARY = re.compile(r"\.tmp\w{6}")  # of safetensors


def short_name(name: str) -> str:
    """A name that leaves room for endings: a longer one is cut, and its sha256 keeps it apart from others."""
    raw = os.fsencode(name)
    if len(raw) <= _LONGEST:
        return name
    return f"{raw[: _LONGEST - 40].decode('utf-8', 'ignore')}~{hashlib.sha256(raw).hexdigest()[:16]}"


def _failed(path: Path, reason: str) -> DataError:
    return DataError(f"Writing {path} failed: {reason}.", "Free disk space or choose another folder.")


@contextlib.contextmanager
def atomic_path(path: str | Path, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it onto `path` when the block ends without an exception.

    Args:
        path: the final name.
        mode: permission bits of the result whatever the umask is, `PRIVATE` for files that hold texts or vectors; None
            for those that the umask gives.

    Raises:
        DataError: the folder cannot be written.
    """
    path = Path(path)
    try:
        _make_folders(path.parent, mode == PRIVATE)
        part = path.parent / f".{short_name(path.name)}.{secrets.token_hex(4)}.part"
        handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
    except OSError as error:
        raise DataError(
            f"Cannot write {path}: {error.strerror}.", "Choose a folder that exists and is writable."
        ) from error
    if mode is None:
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
    os.close(handle)
    try:
        os.chmod(part, mode)  # a umask may have taken away what the writer itself needs
        yield part
        with open(part, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(part, mode)  # a library may have put another file in its place
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


def remove_parts(folder: str | Path, *names: str) -> None:
    """Remove what writers of `folder/name` left behind that were killed; no other writer may be at work there.

    Without names the folder must be one of ours: all temporary files go, those of safetensors (.tmp and six characters)
    too. Names are taken literally, so that a file whose name begins in the same way keeps its own.
    """
    heads = {f".{short_name(name)}." for name in names}
    for part in Path(folder).glob(".*"):
        head, unique, ending = part.name[:-13], part.name[-13:-5], part.name[-5:]
        if heads:
            ours = head in heads and ending == ".part" and re.fullmatch(r"[0-9a-z_]{8}", unique) is not None
        else:
            ours = ending == ".part" or _FOREIGN_TEMPORARY.fullmatch(part.name) is not None
        if ours:
            part.unlink(missing_ok=True)


def remove_foreign_parts(folder: str | Path) -> None:
    """Remove what safetensors left in a folder of ours when it was killed: .tmp and six characters."""
    for part in Path(folder).glob(".tmp*"):
        if _FOREIGN_TEMPORARY.fullmatch(part.name):
            part.unlink(missing_ok=True)


def _make_folders(path: Path, private: bool) -> None:
    """Make a folder and those above it; others may not enter what is made for private files. Raises OSError."""
    for folder in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        try:
            folder.mkdir(mode=0o700 if private else 0o777)
        except FileExistsError:  # another process was faster
            if not folder.is_dir():
                raise
        else:
            if private:
                folder.chmod(0o700)


def make_folder(path: str | Path, private: bool = False) -> Path:
    """Make a folder, or check that a file can be written into the one that is there, before work is spent for it.

    Args:
        path: the folder.
        private: whether others may not enter what is made.

    Raises:
        DataError: it cannot be made or written.
    """
    path = Path(path)
    try:
        _make_folders(path, private)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise DataError(
            f"Cannot write into {path}: {error.strerror}.", "Choose a folder that exists and is writable."
        ) from error
    return path


class Lock:
    """One writer at a time: a file that one process holds until it releases it or ends, however it ends.

    Args:
        path: the file; it is made, and goes with the lock.
        what: what is written, for messages.

    Raises:
        InputError: another process holds it.
        DataError: the file cannot be made.
    """

    def __init__(self, path: str | Path, what: str | Path) -> None:
        self.path = Path(path)
        self._handle: int | None = None
        while self._handle is None:
            try:
                handle = os.open(self.path, os.O_RDWR | os.O_CREAT, PRIVATE)
            except OSError as error:
                raise DataError(
                    f"Cannot write {self.path}: {error.strerror}.", "Choose a folder that exists and is writable."
                ) from error
            if not _take(handle, what):
                os.close(handle)
                raise InputError(
                    f"Another run is writing {what}.", "Wait until it has ended, or give this one another place."
                )
            try:
                same = os.path.samestat(os.stat(self.path), os.fstat(handle))
            except FileNotFoundError:
                same = False
            if same:
                self._handle = handle
            else:  # its holder ended and removed it between the two calls above
                os.close(handle)

    def release(self) -> None:
        """Let others write; nothing happens where that was done before."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
            os.close(self._handle)
            self._handle = None

    def __enter__(self) -> Lock:
        """Return self."""
        return self

    def __exit__(self, *details: object) -> None:
        """Release the lock."""
        self.release()

    def __del__(self) -> None:
        """Release the lock of an object that nobody holds any more."""
        if getattr(self, "_handle", None) is not None:
            self.release()


def _take(handle: int, what: str | Path) -> bool:
    """Lock an open file; False where another process holds it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        _log.warning(
            "%s is on a file system without locks (%s): make sure that no second run writes to it", what, error.strerror
        )
    return True


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


def atomic_write_bytes(path: str | Path, data: bytes, mode: int | None = None) -> None:
    """Write `data` to `path` as a whole or not at all."""
    with atomic_path(path, mode) as part:
        part.write_bytes(data)


def write_json(path: str | Path, value: Any, mode: int | None = None) -> None:
    """Write `value` as indented UTF-8 JSON, atomically; keys keep their order."""
    atomic_write_bytes(path, f"{json_text(value, indent=2)}\n".encode(), mode)


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON that UTF-8 can hold: with a lone surrogate (of a file's name, of JSON) all other non-ASCII is escaped
    too."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(value, indent=indent)
    return text


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """Open a regular file; a pipe or a device, which could keep a reader for ever, is never waited for.

    Args:
        path: of the file; a link is followed.
        most: the most bytes it may have.

    Raises:
        DataError: no regular file, or a larger one.
        OSError: it cannot be opened.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    found = os.fstat(handle)
    problem = "" if stat.S_ISREG(found.st_mode) else "is not a regular file"
    if not problem and most is not None and found.st_size > most:
        problem = f"holds {found.st_size} bytes, more than {most}"
    if problem:
        os.close(handle)
        raise DataError(f"{path} {problem}.", "Restore the file from where it was made.")
    return os.fdopen(handle, "rb")


def read_json(path: str | Path, most: int | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        most: the most bytes it may have.

    Raises:
        DataError: the file is absent, no regular file, too large, not UTF-8 or not JSON.
    """
    try:
        with open_regular(path, most) as stream:
            return json.loads(stream.read().decode("utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.", "Check the path.") from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply.", "Restore the file from where it was made.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not valid JSON ({error}).", "Restore the file from where it was made.") from error


def sha256_file(path: str | Path) -> str:
    """Hexadecimal sha256 of a regular file, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
