"""What goes to the terminal: notes and progress on stderr, logging, JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

PATIENCE = 2.0  # seconds before a progress bar appears
PIPE_WIDTH = 120


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
        click.echo(text, err=True)


def show_json(value: Any, indent: int | None = 2) -> None:
    """Print a value as JSON on stdout; NaN, which JSON lacks, becomes null."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=indent, allow_nan=False))


def plain(value: Any) -> Any:
    """Turn numpy and torch scalars and arrays, tuples, paths and NaN into what JSON knows."""
    kind = type(value)
    if kind is str or kind is int or value is None:  # most of what is written
        return value
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
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
        """Print one message; where stderr has gone away or is full, the work that it tells of goes on."""
        with contextlib.suppress(OSError):
            click.echo(self.format(record), err=True)


def start_logging(quiet: bool) -> None:
    """Send the library's log messages to stderr: from INFO on, or from WARNING on when quiet."""
    logger = logging.getLogger("unembed")
    if not any(isinstance(handler, _EchoHandler) for handler in logger.handlers):
        logger.addHandler(_EchoHandler())
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
