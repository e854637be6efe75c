"""Output that survives an interruption: finished chunks of rows stand in a folder until the file is whole.

Contents: `Chunks`, `partial_folder`, `refuse_partial`.

`texts.csv` grows in `texts.csv.partial/`, one JSON-lines file a chunk, each whole or absent and readable by the owner
only. When the last chunk is there, they become the file, in order, and the folder goes. A run that goes on with the
same settings finds what is finished and reads on behind it, so its file equals that of an unbroken run.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.cli.console import note, plain
from unembed.cli.output import MODE, Row, check_output, open_writer
from unembed.errors import DataError, EncoderError, InputError, UnembedError
from unembed.files import atomic_write_bytes, read_json, remove_parts, write_json

_SETTINGS = "settings.json"
_SECONDS = 0.5  # between two chunks: what a SIGKILL can cost
_ROWS = 8192


def partial_folder(out: str | Path) -> Path:
    """The folder in which a file grows."""
    return Path(f"{out}.partial")


def refuse_partial(out: str | Path) -> None:
    """Refuse to begin a file anew where finished rows of it are waiting.

    Raises:
        InputError: an interrupted run is there.
    """
    folder = partial_folder(out)
    if (folder / _SETTINGS).exists():
        raise InputError(
            f"{folder} holds the finished rows of an interrupted run.",
            "Add --resume to go on with it, or remove that folder to begin anew.",
        )


class Chunks:
    """Rows of one output file, written chunk by chunk; goes on with those of an interrupted run, if there are any.

    As a context manager it keeps, however the block ends, every row that was handed over; a folder without any goes.

    Args:
        out: the file.
        settings: JSON values that decide what the rows are; a run goes on with the same ones only.
        assemble: makes the file of the finished rows, batch by batch; None writes .jsonl, .csv or .parquet.

    Attributes:
        done: input rows that the chunks cover.

    Raises:
        InputError: the interrupted run had other settings.
        DataError: the folder cannot be read or written.
    """

    def __init__(
        self, out: str | Path, settings: dict[str, Any], assemble: Callable[[Iterator[list[Row]]], object] | None = None
    ) -> None:
        self.out = check_output(out) if assemble is None else Path(out)
        self.folder = partial_folder(self.out)
        self._assemble = assemble or self._write_rows
        self._count = 0
        self._rows: list[Row] = []
        self._covered = 0
        self._flushed = float("-inf")
        self._failed = False
        self.done = 0
        settings = json.loads(json.dumps(plain(settings)))
        if (self.folder / _SETTINGS).exists():
            self._check(settings)
            remove_parts(self.folder)
            remove_parts(self.out.parent, self.out.name)
            while (self._chunk(self._count)).exists():
                self.done += int(self._head(self._count)["rows"])
                self._count += 1
        else:
            self._begin(settings)

    def __enter__(self) -> Chunks:
        """Return self."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        """Write what was handed over; remove a folder that holds no row; after an interruption, say what is kept.

        An encoder that fails in the middle is told of like a signal: what was finished waits for --resume.
        """
        if (self.folder / _SETTINGS).exists():
            if not self._failed:
                self.flush()
            if not self._count:
                self._remove()
            elif kind is not None and (not issubclass(kind, Exception) or issubclass(kind, EncoderError)):
                note(f"\n{self.done} rows are finished and kept; the same command with --resume goes on behind them.")

    def _begin(self, settings: dict[str, Any]) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in self.folder.iterdir():  # of a finished run that was killed while it cleaned up
                old.unlink()
        except OSError as error:
            raise DataError(
                f"Cannot write {self.folder}: {error.strerror}.", "Choose a folder that exists and is writable."
            ) from error
        write_json(self.folder / _SETTINGS, settings, MODE)

    def _check(self, settings: dict[str, Any]) -> None:
        stored = read_json(self.folder / _SETTINGS)
        for key in sorted({*settings, *stored}):
            if settings.get(key) != stored.get(key):
                raise InputError(
                    f"The interrupted run in {self.folder} had {key} {stored.get(key)!r}, not {settings.get(key)!r}.",
                    "Give the same options as then, or remove that folder to begin anew.",
                )

    def _chunk(self, number: int) -> Path:
        return self.folder / f"chunk-{number:07d}.jsonl"

    def _lines(self, number: int) -> Iterator[Any]:
        """What a chunk holds: how many input rows it covers, then its rows."""
        try:
            with open(self._chunk(number), encoding="utf-8") as stream:
                for line in stream:
                    yield json.loads(line)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._chunk(number)} cannot be read.", f"Remove {self.folder} and begin anew."
            ) from error

    def _head(self, number: int) -> dict[str, Any]:
        head = next(self._lines(number), None)
        if not isinstance(head, dict) or not isinstance(head.get("rows"), int):
            raise DataError(f"{self._chunk(number)} is damaged.", f"Remove {self.folder} and begin anew.")
        return head

    def write(self, rows: Sequence[Row], covered: int | None = None) -> None:
        """Add rows; they become a chunk at once, or together with those of the next half second.

        Args:
            rows: what goes into the file.
            covered: input rows that these come from, skipped ones included; default: as many as `rows`.
        """
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
        rows = (json.dumps(plain(row), ensure_ascii=False) for row in self._rows)
        text = "\n".join([json.dumps({"rows": self._covered}), *rows]) + "\n"
        try:
            atomic_write_bytes(self._chunk(self._count), text.encode(), MODE)
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

    def _write_rows(self, chunks: Iterator[list[Row]]) -> None:
        with open_writer(self.out) as write:
            for rows in chunks:
                write(rows)

    def finish(self) -> None:
        """Make the file of the chunks and remove the folder."""
        self.flush()
        self._assemble(self._finished())
        self._remove()

    def _remove(self) -> None:
        (self.folder / _SETTINGS).unlink(missing_ok=True)  # first: without it the rest means nothing
        shutil.rmtree(self.folder, ignore_errors=True)
