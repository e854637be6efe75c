"""What a request may cost, and the places of those that wait, run, or whose answer is being read.

Contents: `Limits`, `Refused`, `Rates`; `Places`, `Place`, `Busy`, `client`. Places are shared fairly among clients.

A client alone may hold all places. Where all are taken and another client comes that holds fewer, the one that holds
the most loses its latest place: that request is answered with 503.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from unembed.errors import UnembedError


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


T = TypeVar("T")

client: ContextVar[str] = ContextVar("client", default="")
"""Who sent the request that the running task answers."""


class Busy(UnembedError):
    """No place is free, or the server is closing.

    Args:
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(what, f"Try again in {retry_after} seconds.")
        self.retry_after = retry_after


class Place:
    """A request's place; left at the end of the block.

    Args:
        places: where it is.
        client: who has it.
        seconds: that the request has for its answer.
    """

    def __init__(self, places: Places, client: str, seconds: float) -> None:
        self.places, self.client, self.seconds = places, client, seconds
        self._begin = time.monotonic()
        self._ends = asyncio.get_running_loop().time() + seconds
        self._timeout: asyncio.Timeout | None = None
        self._reason: Busy | None = None

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.places.leave(self, time.monotonic() - self._begin)

    async def within(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work until the place's time is over.

        Raises:
            TimeoutError: it is.
            Busy: it was cut short, for another client or because the server is closing.
        """
        try:
            async with asyncio.timeout_at(self._ends) as self._timeout:
                return await work
        except TimeoutError:
            if self._reason is not None:
                raise self._reason from None
            raise
        finally:
            self._timeout = None

    def answered(self) -> None:
        """The answer is there; as long again is left for reading it."""
        if self._reason is None:
            self._ends = asyncio.get_running_loop().time() + self.seconds

    def cut(self, seconds: float, reason: Busy) -> None:
        """Let the request end in at most `seconds` seconds."""
        ends = asyncio.get_running_loop().time() + seconds
        if ends < self._ends:
            self._ends, self._reason = ends, reason
            if self._timeout is not None and not self._timeout.expired():
                self._timeout.reschedule(ends)


class Places:
    """The places of a server; used in its event loop alone.

    Args:
        most: how many there are.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, list[Place]] = {}
        self._typical = 1.0
        self._closing = False

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return sum(map(len, self._held.values()))

    def take(self, client: str, seconds: float) -> Place:
        """Take a place.

        Args:
            client: who asks.
            seconds: that the request has for its answer.

        Raises:
            Busy: none is free, and no client holds two more than this one.
        """
        if self._closing:
            raise self._busy("The server is closing.")
        if self.taken >= self.most:
            most = max(self._held.values(), key=len)
            if len(most) < len(self._held.get(client, ())) + 2:
                raise self._busy(f"All {self.most} places of the server are taken.")
            most[-1].cut(0, self._busy("Another client needs this place, and yours held the most."))
            self._remove(most[-1])
        place = Place(self, client, seconds)
        self._held.setdefault(client, []).append(place)
        return place

    def leave(self, place: Place, seconds: float) -> None:
        """Give a place back that was held so long; one that was taken away is none any more."""
        if self._remove(place):
            self._typical += 0.1 * (seconds - self._typical)

    def close(self, seconds: float) -> None:
        """Give out no more places, and let those who have one end in `seconds` seconds."""
        self._closing = True
        for held in self._held.values():
            for place in held:
                place.cut(seconds, self._busy("The server is closing."))

    def _remove(self, place: Place) -> bool:
        held = self._held.get(place.client, [])
        if place not in held:
            return False
        held.remove(place)
        if not held:
            del self._held[place.client]
        return True

    def _busy(self, what: str) -> Busy:
        return Busy(what, min(30, max(1, math.ceil(self._typical / 2))))
