"""What goes to the terminal: notes and progress on stderr, logging, JSON on stdout.

Ids, columns, names of files and recovered texts come from elsewhere. Whatever a terminal would obey instead of
show (escape sequences, characters that turn the direction of reading) is written as an escape that can be seen.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 2.0  # seconds before a progress bar appears
PIPE_WIDTH = 120
_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str, lines: bool = False) -> str:
    """Write what a terminal would obey, and halves of characters, as escapes; with `lines`, lines may end."""
    if text.isascii() and text.isprintable():
        return text
    return _OBEYED.sub(lambda m: m[0] if lines and m[0] == "\n" else m[0].encode("unicode_escape").decode(), text)


def open_streams() -> None:
    """Let stdout and stderr take any text, whatever the terminal's encoding, and be there where they were closed."""
    if sys.stdout is None:  # a write fails, as it must
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Progress:
    """A progress bar on stderr that appears after two seconds, and only on a terminal.

    Args:
        label: what is being done.
        total: number of steps, or None where it is not known.
        quiet: never show anything.
    """

    def __init__(self, label: str, total: int | None, quiet: bool = False) -> None:
        self._label, self._total, self._done = label, total, 0
        self._shown = not quiet and sys.stderr.isatty()
        self._began = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def advance(self, count: int = 1, label: str | None = None) -> None:
        """Count `count` steps as done; `label` replaces the text before the bar."""
        self._done += count
        self._label = label or self._label
        if not self._shown:
            return
        if self._bar is None and time.monotonic() - self._began > PATIENCE:
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TimeRemainingColumn(),
                console=stderr_console(),
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(self._label, total=self._total)
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, description=self._label)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextlib.contextmanager
def progress(label: str, total: int | None, quiet: bool = False) -> Iterator[Progress]:
    """Open a `Progress` that is removed at the end of the block."""
    bar = Progress(label, total, quiet)
    try:
        yield bar
    finally:
        bar.close()


def stdout_console() -> Console:
    """Return a rich console on stdout; plain and 120 wide where stdout is not a terminal."""
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=PIPE_WIDTH)


def stderr_console() -> Console:
    """Return a rich console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def note(text: str, quiet: bool = False) -> None:
    """Print a note for people on stderr."""
    if not quiet:
        click.echo(visible(text, lines=True), err=True)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout; NaN, which JSON lacks, becomes null."""
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False)
    text = _OBEYED.sub(lambda m: m[0] if m[0] == "\n" else f"\\u{ord(m[0]):04x}", text)  # the same value
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, AttributeError):
        text = json.dumps(plain(value), indent=indent, allow_nan=False)
    click.echo(text)


def plain(value: Any) -> Any:
    """Turn numpy and torch scalars and arrays, tuples, paths and NaN into what JSON knows."""
    kind = type(value)
    if kind is str or kind is int or value is None:  # most of what is written
        return value
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw.hex()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, str | int | bool):
        return value
    return str(value)


class _EchoHandler(logging.Handler):
    """Writes log messages to whatever stderr is at that moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message; where stderr has gone away or is full, the work that it reports on continues."""
        with contextlib.suppress(OSError):
            click.echo(visible(self.format(record), lines=True), err=True)


def start_logging(quiet: bool) -> None:
    """Send the library's log messages to stderr: from INFO on, or from WARNING on when quiet."""
    logger = logging.getLogger("unembed")
    if not any(isinstance(handler, _EchoHandler) for handler in logger.handlers):
        logger.addHandler(_EchoHandler())
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
