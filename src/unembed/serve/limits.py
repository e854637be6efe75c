"""What a request may cost: size and time of its body, its rate, its running time, how long its answer may lie unread.

Contents: `Limits`, `Refused`, `Rates`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
        body_bytes: greatest body. A longer one is read up to 16 times that, and forgotten, so that the client reads
            why it was refused.
        body_seconds: until a body (and the head of a request) must have arrived.
        request_seconds: until a request must be answered; a whole answer must be read in as long again.
        unread_seconds: after which a client that reads nothing of its answer is dropped.
        closing_seconds: that running requests have to end once the server is told to stop.
        rate: requests a client may make in a second on average; 0 for no limit.
        burst: requests that a client may make at once.
        places: requests that may wait or run at a time.
        vectors: vectors or texts of a request.
        drafts: drafts that the decode of a vector may hold: lengths times samples, or the beam.
        cells: positions that the traces of a request may hold: vectors times drafts times passes times length.
        connections: open at a time; fewer where the system gives the process fewer files.
    """

    body_bytes: int = 4 * 2**20
    body_seconds: float = 10.0
    request_seconds: float = 120.0
    unread_seconds: float = 10.0
    closing_seconds: float = 5.0
    rate: float = 20.0
    burst: int = 60
    places: int = 64
    vectors: int = 64
    drafts: int = 64
    cells: int = 2**21
    connections: int = 512


class Refused(Exception):
    """A request that is answered with an error.

    Args:
        status: of the answer.
        message: what is wrong.
        hint: what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, message: str, hint: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint, self.headers = status, message, hint, headers or {}


class Rates:
    """A bucket of `burst` requests for each client, refilled at `rate` a second; the oldest of many are forgotten."""

    def __init__(self, rate: float, burst: int, most: int = 4096) -> None:
        self.rate, self.burst, self.most = rate, burst, most
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take one request of a client: 0, or the seconds after which there is one."""
        if self.rate <= 0:
            return 0.0
        now = time.monotonic()
        left, then = self._buckets.pop(client, (float(self.burst), now))
        left = min(self.burst, left + (now - then) * self.rate)
        taken = left >= 1
        self._buckets[client] = (left - 1 if taken else left, now)
        while len(self._buckets) > self.most:
            self._buckets.popitem(last=False)
        return 0.0 if taken else (1 - left) / self.rate
