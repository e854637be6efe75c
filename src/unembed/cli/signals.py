"""Signals that end a command: Ctrl-C (SIGINT) and SIGTERM, both as exceptions, so that what is open is closed.

Contents: `Stopped`, `catch_sigterm`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """A signal asks the command to end; the exit code is 128 + its number.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: cleaning up must not be interrupted
    raise Stopped(number)


@contextlib.contextmanager
def catch_sigterm() -> Iterator[None]:
    """Raise `Stopped` at a SIGTERM within the block; outside the main thread nothing changes."""
    try:
        before = signal.signal(signal.SIGTERM, _stop)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
