"""What waits for the engine, and what it has under way. Contents: `Work`, `Slot`, `Job`, `Task`."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

Work = Generator[Any, None, Sequence[Any]]


@dataclass(frozen=True)
class Slot:
    """A key of jobs that run one after the other and are never joined."""

    number: int


@dataclass(eq=False)
class Job:
    """Rows that one request waits for.

    Jobs of one `key` are joined, or wait for each other where it is a `Slot`; None for neither. `most` rows at a time.
    """

    rows: Sequence[Any]
    key: Hashable
    start: Callable[[list[Any]], Work]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    on_step: Callable[[Any], None] | None = None
    most: int = 1
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
class Task:
    """A decode under way: its generator, and which row of which job each of its rows is."""

    work: Work
    key: Hashable
    rows: list[tuple[Job, int]]
    spent: float

    @property
    def jobs(self) -> list[Job]:
        """Jobs that somebody still waits for."""
        return list(dict.fromkeys(job for job, _ in self.rows if not job.gone))
