"""Memory that is free inside the process goes back to the system.

Contents: `Returner`.

Decodes and refinements of every size leave glibc's heaps in pieces, and what is free between them stays with the
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import time


class Returner:
    """Gives free memory back now and then; does nothing where the C library is not glibc.

    Args:
        seconds: least time between two times.
    """

    def __init__(self, seconds: float = 10.0) -> None:
        self.seconds, self._last = seconds, time.monotonic()
        self._trim = None
        if sys.platform == "linux":
            with contextlib.suppress(OSError, AttributeError):
                self._trim = ctypes.CDLL(None).malloc_trim

    def __call__(self) -> None:
        """Give back, if it is time."""
        now = time.monotonic()
        if self._trim is not None and now - self._last >= self.seconds:
            self._trim(0)
            self._last = time.monotonic()
