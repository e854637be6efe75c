"""Output that survives an interruption: finished chunks of rows stand in a folder until the file is whole.

Contents: `Chunks`, `partial_folder`, `refuse_partial`.

`texts.csv` grows in `texts.csv.partial/`, one JSON-lines file a chunk, each whole or absent and readable by the owner
only. When the last chunk is there, they become the file, in order, and the folder goes. A run that goes on with the
same settings finds what is finished and reads on behind it, so its file equals that of an unbroken run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unembed.cli.console import plain
from unembed.cli.output import MODE, Row, check_output, open_writer
from unembed.errors import DataError, InputError
from unembed.files import atomic_write_bytes, read_json, write_json

_SETTINGS = "settings.json"


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

    Args:
        out: the file; its ending chooses the format.
        settings: JSON values that decide what the rows are; a run goes on with the same ones only.

    Attributes:
        done: input rows that the finished chunks cover.

    Raises:
        InputError: the interrupted run had other settings.
        DataError: the folder cannot be read or written.
    """

    def __init__(self, out: str | Path, settings: dict[str, Any]) -> None:
        self.out = check_output(out)
        self.folder = partial_folder(self.out)
        self._count = 0
        self.done = 0
        settings = json.loads(json.dumps(plain(settings)))
        if (self.folder / _SETTINGS).exists():
            self._check(settings)
            while (self._chunk(self._count)).exists():
                self.done += int(self._read(self._count)["rows"])
                self._count += 1
        else:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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

    def _read(self, number: int) -> dict[str, Any]:
        """The first line of a chunk: how many input rows it covers."""
        try:
            with open(self._chunk(number), encoding="utf-8") as stream:
                head: dict[str, Any] = json.loads(stream.readline())
            return head
        except (OSError, ValueError) as error:
            raise DataError(
                f"{self._chunk(number)} cannot be read.", f"Remove {self.folder} and begin anew."
            ) from error

    def write(self, rows: Sequence[Row], covered: int | None = None) -> None:
        """Add a chunk.

        Args:
            rows: what goes into the file.
            covered: input rows that these come from, skipped ones included; default: as many as `rows`.
        """
        covered = len(rows) if covered is None else covered
        lines = [json.dumps({"rows": covered}), *(json.dumps(plain(row), ensure_ascii=False) for row in rows)]
        atomic_write_bytes(self._chunk(self._count), ("\n".join(lines) + "\n").encode(), MODE)
        self._count += 1
        self.done += covered

    def _finished(self) -> Iterator[list[Row]]:
        for number in range(self._count):
            with open(self._chunk(number), encoding="utf-8") as stream:
                next(stream)
                yield [json.loads(line) for line in stream]

    def finish(self) -> None:
        """Make the file of the chunks and remove the folder."""
        with open_writer(self.out) as write:
            for rows in self._finished():
                write(rows)
        shutil.rmtree(self.folder, ignore_errors=True)
