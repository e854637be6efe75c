"""What waits for the engine, what it has under way, and the memory that it gives back between jobs.

Contents: `Work`, `REFINE`, `Job`, `RunningTask`, `Shares`; `Returner`: decodes and refinements of every size leave
glibc's heaps in pieces, and what is free between them stays with the process until it is returned.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Work = Generator[Any, None, Sequence[Any]]


REFINE = "refine"
"""Key of jobs that are never joined and of which few run at a time."""

UNREAD = 4
"""Lists of steps that a stream's reader may be behind."""


@dataclass(eq=False)
class Job:
    """Rows that one request waits for.

    Jobs of one `key` are joined, or wait for each other where it is `REFINE`; None for neither. `most` rows at a time.
    """

    rows: Sequence[Any]
    key: Hashable
    start: Callable[[list[Any]], Work]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    on_step: Callable[[Any], None] | None = None
    most: int = 1
    client: str = ""
    unread: int = 0
    results: list[Any] = field(default_factory=list)
    waiting: deque[int] = field(default_factory=deque)
    missing: int = 0
    gone: bool = False

    def __post_init__(self) -> None:
        self.results = [None] * len(self.rows)
        self.waiting = deque(range(len(self.rows)))
        self.missing = len(self.rows)

    def tell(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function in the event loop."""
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(function, *arguments)

    def finish(self, error: BaseException | None = None) -> None:
        """Hand out the results, or the error."""

        def settle() -> None:
            if self.future.done():
                return
            if error is not None:
                self.future.set_exception(error)
            else:
                self.future.set_result(self.results)

        self.tell(settle)


@dataclass(eq=False)
class RunningTask:
    """A decode under way: its generator, and which row of which job each of its rows is."""

    work: Work
    key: Hashable
    rows: list[tuple[Job, int]]
    spent: float

    @property
    def jobs(self) -> list[Job]:
        """Jobs that somebody still waits for."""
        return list(dict.fromkeys(job for job, _ in self.rows if not job.gone))

    @property
    def clients(self) -> set[str]:
        """Whose jobs these are."""
        return {job.client for job in self.jobs}

    @property
    def read(self) -> bool:
        """Whether a reader keeps up, or nobody is left."""
        jobs = self.jobs
        return not jobs or any(job.unread < UNREAD for job in jobs)


class Shares:
    """Seconds that each client with work under way has had; whoever comes begins with the least of the others."""

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._jobs: Counter[str] = Counter()

    def enter(self, client: str) -> None:
        """Count a job of a client."""
        if not self._jobs[client]:
            self._spent[client] = min(self._spent.values(), default=0.0)
        self._jobs[client] += 1

    def leave(self, client: str) -> None:
        """A job of a client is over."""
        self._jobs[client] -= 1
        if not self._jobs[client]:
            del self._jobs[client], self._spent[client]

    def charge(self, clients: Sequence[str], seconds: float) -> None:
        """Share seconds out among clients, one entry for each row."""
        for client in clients:
            if client in self._spent:
                self._spent[client] += seconds / len(clients)

    def spent(self, client: str) -> float:
        """Seconds that a client has had."""
        return self._spent.get(client, 0.0)

    def least(self, clients: Iterable[str]) -> float:
        """Seconds of the one that has had the least; less than any where there is none, so that its work is ended."""
        return min(map(self.spent, clients), default=-1.0)


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
