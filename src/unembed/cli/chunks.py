"""Output that survives an interruption: finished chunks of rows are kept in a folder until the file is whole.

Contents: `Chunks`, `partial_folder`, `refuse_partial`.

`texts.csv` grows in `texts.csv.partial/`, one file of JSON lines a chunk, each whole or absent and readable by the
owner only. When the last chunk is there, they become the file, in order, and the folder goes. A run that continues with
the same settings finds what is finished, compares the input rows that it was made of, and continues after them, so its
file equals that of an unbroken run. One run at a time holds the folder, and nothing but files of runs is ever removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unembed.cli.console import note, plain
from unembed.cli.output import Row, check_output, write_rows
from unembed.errors import DataError, EncoderError, InputError, UnembedError
from unembed.files import (
    LOCK,
    PRIVATE,
    Lock,
    atomic_write_bytes,
    json_text,
    make_folder,
    read_json,
    remove_parts,
    short_name,
    write_json,
)

Finished = Callable[[], Iterator[list[Row]]]

_SETTINGS = "settings.json"
_FORMAT = "unembed partial output 1"
_OPTIONS = {"method": "--refinement"}  # settings that an option gives under another name
_OURS = re.compile(r"settings\.json|\.lock|chunk-\d{7}\.rows|\..*\.part")
_SECONDS = 0.5  # between two chunks: what a SIGKILL can cost
_ROWS = 8192


def partial_folder(out: str | Path) -> Path:
    """The folder in which a file grows."""
    return Path(out).with_name(f"{short_name(Path(out).name)}.partial")


def refuse_partial(out: str | Path, resumable: bool = True) -> None:
    """Refuse to begin a file anew where finished rows of it are waiting, or where something else has the folder's name.

    Args:
        out: the file.
        resumable: whether --resume goes with the options of this run.

    Raises:
        InputError: an interrupted run, or what is not ours, is there.
    """
    folder = partial_folder(out)
    stored = _ours(folder)
    if stored is not None and not stored.get("finished"):
        Lock(folder / LOCK, out).release()  # refused where a run is at work
        how = "Add --resume to continue with it, or remove" if resumable else "Move or remove"
        raise InputError(
            f"{folder} holds the finished rows of an interrupted run.", f"{how} that folder to start over."
        )


def _ours(folder: Path) -> dict[str, Any] | None:
    """What the settings file of a folder says; None where the folder is absent or empty.

    Raises:
        InputError: it is not a folder of ours.
    """
    if not folder.is_symlink():
        if not folder.exists():
            return None
        if folder.is_dir():
            names = {path.name for path in folder.iterdir()}
            if all(name == LOCK or name.startswith(f".{_SETTINGS}.") for name in names):  # killed at its first step
                return None
            stored = read_json(folder / _SETTINGS) if _SETTINGS in names else None
            if (
                isinstance(stored, dict)
                and stored.get("format") == _FORMAT
                and isinstance(stored.get("settings"), dict)
            ):
                return stored
    raise InputError(
        f"{folder} is where finished rows would be kept, and no run of this version made it.",
        "Move it away, or give the output another name.",
    )


class Chunks:
    """Rows of one output file, written chunk by chunk; continues with those of an interrupted run, if there are any.

    As a context manager it keeps, however the block ends, every row that was handed over; a folder without any goes.

    Args:
        out: the file.
        settings: JSON values that decide what the rows are; a run continues with the same ones only.
        assemble: makes the file of the finished rows, read as often as it likes; None writes .jsonl, .csv or .parquet.
        resumable: whether --resume goes with the options of this run; only said.
        same: settings that need not be equal: what says whether those of then and now are the same for the rows.

    Attributes:
        done: input rows that the chunks cover.

    Raises:
        InputError: the interrupted run had other settings, another run is writing, or the folder is not ours.
        DataError: the folder cannot be read or written.
    """

    def __init__(
        self,
        out: str | Path,
        settings: dict[str, Any],
        assemble: Callable[[Finished], object] | None = None,
        resumable: bool = True,
        same: Mapping[str, Callable[[Any, Any], bool]] | None = None,
    ) -> None:
        self._resumable, self._same = resumable, same or {}
        self.out = check_output(out) if assemble is None else Path(out)
        self.folder = partial_folder(self.out)
        self._assemble = assemble
        self._count = 0
        self._rows: list[Row] = []
        self._covered = 0
        self._flushed = float("-inf")
        self._failed = False
        self._seen = hashlib.sha256()  # of the input rows that are covered
        self._marks: list[tuple[int, str]] = []  # input rows covered after each kept chunk, and their digest
        self.done = 0
        settings = json.loads(json.dumps(plain(settings)))
        _ours(self.folder)
        make_folder(self.folder, private=True)
        self._lock = Lock(self.folder / LOCK, self.out)
        try:
            self._open(settings)
        except BaseException:
            self._lock.release()
            with contextlib.suppress(OSError):  # not empty
                self.folder.rmdir()
            raise

    def _open(self, settings: dict[str, Any]) -> None:
        """Continue with what the folder holds, or begin; the lock is held."""
        self.folder.chmod(0o700)
        stored = _ours(self.folder)
        remove_parts(self.folder)
        remove_parts(self.out.parent, self.out.name)
        if stored is None or stored.get("finished"):  # of a run that was killed while it cleaned up
            self._clear()
            self._mark(settings)
            return
        self._check(settings, stored["settings"])
        self._settings = settings
        while (self._chunk(self._count)).exists():
            head = next(self._lines(self._count))
            self.done += int(head["rows"])
            self._marks.append((self.done, str(head["seen"])))
            self._count += 1

    def __enter__(self) -> Chunks:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Write what was handed over; remove a folder that holds no row; after an interruption, say what is kept.

        An encoder that fails in the middle is reported like a signal: what was finished waits for --resume.
        """
        try:
            if (self.folder / _SETTINGS).exists():
                if not self._failed:
                    self.flush()
                if not self._count:
                    self._remove()
                elif kind is not None and (not issubclass(kind, Exception) or issubclass(kind, EncoderError)):
                    on = "; the same command with --resume continues after them" if self._resumable else ""
                    note(f"\n{self.done} rows are finished and kept in {self.folder}{on}.")
        finally:
            self._lock.release()

    def _mark(self, settings: dict[str, Any], finished: bool = False) -> None:
        """Write whose the folder is."""
        self._settings = settings
        value = {"format": _FORMAT, "finished": finished, "settings": settings}
        write_json(self.folder / _SETTINGS, value, PRIVATE)

    def _check(self, settings: dict[str, Any], stored: dict[str, Any]) -> None:
        for key, same in self._same.items():
            if key not in stored or not same(stored[key], settings[key]):
                raise InputError(
                    f"The interrupted run in {self.folder} had another {key}.",
                    "Give the same one, or remove that folder to start over.",
                )
        for key in sorted({*settings, *stored} - set(self._same)):
            if settings.get(key) != stored.get(key):
                raise InputError(
                    f"The interrupted run in {self.folder} had {_OPTIONS.get(key, key)} {stored.get(key)!r}, "
                    f"not {settings.get(key)!r}.",
                    "Give the same options, or remove that folder to start over.",
                )

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:07d}.rows"

    def _lines(self, number: int) -> Iterator[Any]:
        """What a chunk holds, in lines: what is said of its rows, then they.

        Raises:
            DataError: it cannot be read, or is not what was written.
        """
        path = self._chunk(number)
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            told = json.loads(head)
            if hashlib.sha256(body).hexdigest() != told["sha256"] or not isinstance(told["rows"], int):
                raise ValueError("altered")
            yield told
            for line in body.splitlines():
                yield json.loads(line)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path} is damaged.", f"Remove {self.folder} and start over.") from error

    def reread(self, number: int, row: bytes) -> None:
        """Take an input row that a kept chunk covers, to see whether it is the one that the chunk was made of.

        Args:
            number: of the row, from 0, in order.
            row: everything of it that the output depends on.

        Raises:
            InputError: it is another.
        """
        self._compare(number)
        self._seen.update(row)

    def compare(self) -> None:
        """Check that the rows that were reread are those that the kept chunks were made of.

        Raises:
            InputError: they are others, or fewer.
        """
        self._compare(self.done)

    def _compare(self, reached: int) -> None:
        while self._marks and self._marks[0][0] <= reached:
            covered, digest = self._marks.pop(0)
            if self._seen.hexdigest() != digest:
                raise InputError(
                    f"The first {covered} rows of the input are not those that {self.folder} was made of.",
                    "Give the same input as before (rows may be added at its end), or remove the folder to start over.",
                )

    def write(self, rows: Sequence[Row], covered: int | None = None, seen: Sequence[bytes] = ()) -> None:
        """Add rows; they become a chunk at once, or together with those of the next half second.

        Args:
            rows: what goes into the file.
            covered: input rows that these come from, skipped ones included; default: as many as `rows`.
            seen: the input rows, as for `reread`.
        """
        self.compare()
        for row in seen:
            self._seen.update(row)
        covered = len(rows) if covered is None else covered
        self._rows += rows
        self._covered += covered
        self.done += covered
        if len(self._rows) >= _ROWS or time.monotonic() - self._flushed >= _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Make a chunk of the rows that are not in one yet."""
        if not self._covered:
            return
        body = "".join(f"{json_text(plain(row))}\n" for row in self._rows).encode()
        head = {"rows": self._covered, "seen": self._seen.hexdigest(), "sha256": hashlib.sha256(body).hexdigest()}
        try:
            atomic_write_bytes(self._chunk(self._count), f"{json.dumps(head)}\n".encode() + body, PRIVATE)
        except UnembedError:
            self._failed = True  # a full disk is not tried again
            raise
        self._rows, self._covered = [], 0
        self._count += 1
        self._flushed = time.monotonic()

    def _finished(self) -> Iterator[list[Row]]:
        for number in range(self._count):
            lines = self._lines(number)
            next(lines)
            yield list(lines)

    def finish(self) -> None:
        """Make the file of the chunks and remove the folder.

        Raises:
            DataError: the file cannot be made; the rows stay where they are, and the error says where.
        """
        self.compare()
        self.flush()
        kept = f"the {self.done} finished rows are kept in {self.folder}, as JSON lines"
        try:
            if self._assemble is None:
                write_rows(self.out, self._finished)
            else:
                self._assemble(self._finished)
        except UnembedError as error:
            if self._count:
                raise type(error)(error.what, f"{error.do.rstrip('.')}; {kept}.") from error
            raise
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(
                f"{self.out} cannot be made ({error}).", f"Use another ending such as .jsonl; {kept}."
            ) from error
        self._remove()

    def _remove(self) -> None:
        """Remove what a run wrote: first say that it is finished, last the folder, unless it holds something else."""
        if self._count:
            with contextlib.suppress(UnembedError):  # a full disk
                self._mark(self._settings, finished=True)
        self._clear()
        self._lock.release()
        with contextlib.suppress(OSError):  # another run has just begun there, or somebody put something into it
            self.folder.rmdir()

    def _clear(self) -> None:
        for path in sorted(self.folder.iterdir()):  # settings.json comes after the chunks
            if _OURS.fullmatch(path.name) and path.name != LOCK:
                path.unlink(missing_ok=True)
