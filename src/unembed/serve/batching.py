"""One thread that computes for all users: requests are joined into batches, and decodes take turns pass by pass.

Contents: `Engine`, `Busy`.

Torch runs in one thread, so that requests never fight for the cores. Work with the same options is joined: rows are
taken from the waiting requests in turn, up to `batch` rows (fewer where each has many drafts), and become one decode.
What arrives while such a decode runs forms the next batch. A stream is a decode of its own. After each pass the decode
goes on that has had the least time for each of its users. A row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.errors import UnembedError
from unembed.serve.jobs import Job, Slot, Task, Work
from unembed.serve.memory import Returner
from unembed.serve.turns import watched_refinement

if TYPE_CHECKING:
    from unembed.decoding.config import DecodeConfig
    from unembed.decoding.recovery import Recovery
    from unembed.inverter import Inverter

TOP = 5
"""Alternatives of each position in a stream."""

REFINEMENTS = 2
"""Refinements that run at a time; each has a thread and tables of its own."""

DRAFTS = 64
"""Drafts that one pass may hold, so that no pass keeps the others waiting for long."""


def drafts_of(config: DecodeConfig) -> int:
    """Drafts that a decode of one vector holds at a time."""
    if config.strategy == "prior":
        return 1
    return max(config.beam, config.samples) if config.causal else config.lengths * config.samples


class Busy(UnembedError):
    """No place is free, or the server is closing.

    Args:
        retry_after: seconds after which another try makes sense.
    """

    def __init__(self, what: str, retry_after: int) -> None:
        super().__init__(what, f"Try again in {retry_after} seconds.")
        self.retry_after = retry_after


class Engine:
    """Computes for all requests of a server.

    Args:
        inverter: the model.
        batch: most rows of one decode; 1 joins nothing.
        places: requests that may be waiting or running at a time.
        window: seconds that an idle engine waits for more requests to join the first.
    """

    def __init__(self, inverter: Inverter, *, batch: int = 16, places: int = 64, window: float = 0.003) -> None:
        self.inverter, self.batch, self.places, self.window = inverter, batch, places, window
        self.taken = 0
        self._refined = 0
        self._give_back = Returner()
        self.joined: dict[int, int] = {}
        self._typical = 1.0
        self._wake = threading.Condition()
        self._waiting: dict[Hashable, list[Job]] = {}
        self._tasks: list[Task] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="unembed-engine", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._tasks)

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a request.

        Raises:
            Busy: none is free.
        """
        if self._closing or self.taken >= self.places:
            wait = min(30, max(1, math.ceil(self._typical / 2)))
            what = "The server is closing." if self._closing else f"All {self.places} places of the server are taken."
            raise Busy(what, wait)
        self.taken += 1
        begin = time.monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            self._typical += 0.1 * (time.monotonic() - begin - self._typical)

    async def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts with the checkpoint's encoder: float32 (n, d)."""

        def start(rows: list[str]) -> Work:
            yield None
            return list(self.inverter.encoder.encode(rows))

        found = await self._wait(self._job(texts, "embed", start, max(self.batch, 16)))
        return np.stack(found) if found else np.zeros((0, self.inverter.dimension), np.float32)

    async def invert(self, vectors: np.ndarray, config: DecodeConfig, trace: bool = False) -> list[Recovery]:
        """Recover the texts behind checked vectors (n, d), joined with what other requests wait for."""

        def start(rows: list[np.ndarray]) -> Work:
            return self.inverter.passes(np.stack(rows), trace=trace, top=TOP, **asdict(config))

        most = max(1, min(self.batch if self.batch > 1 else 16, DRAFTS // drafts_of(config)))
        return await self._wait(self._job(list(vectors), (config, trace), start, most))

    async def refine(
        self, vectors: np.ndarray, config: DecodeConfig, method: str, queries: int, seconds: float
    ) -> list[Recovery]:
        """Recover the texts behind checked vectors (n, d) with queries; joined with nothing, few at a time."""

        def start(rows: list[np.ndarray]) -> Work:
            return watched_refinement(self.inverter, np.stack(rows), config, method, queries, seconds, False)

        return await self._wait(self._job(list(vectors), self._slot(), start, len(vectors)))

    async def stream(self, vector: np.ndarray, config: DecodeConfig) -> AsyncGenerator[Any, None]:
        """Decode a checked vector (d,): yields lists of steps, and at last the recovery."""

        def start(rows: list[np.ndarray]) -> Work:
            return self.inverter.passes(np.stack(rows), trace=True, top=TOP, live=True, **asdict(config))

        async with contextlib.aclosing(self._stream(vector, None, start)) as found:
            async for part in found:
                yield part

    async def stream_refinement(
        self, vector: np.ndarray, config: DecodeConfig, method: str, queries: int, seconds: float
    ) -> AsyncGenerator[Any, None]:
        """Refine a checked vector (d,): yields lists of events, and at last the recovery."""

        def start(rows: list[np.ndarray]) -> Work:
            return watched_refinement(self.inverter, np.stack(rows), config, method, queries, seconds, True)

        async with contextlib.aclosing(self._stream(vector, self._slot(), start)) as found:
            async for part in found:
                yield part

    def _slot(self) -> Slot:
        """The next of the few slots that refinements have."""
        self._refined += 1
        return Slot(self._refined % REFINEMENTS)

    async def _stream(
        self, vector: np.ndarray, key: Hashable, start: Callable[[list[np.ndarray]], Work]
    ) -> AsyncGenerator[Any, None]:
        steps: asyncio.Queue[Any] = asyncio.Queue()
        job = self._job([vector], key, start, 1, steps.put_nowait)
        job.future.add_done_callback(lambda _: steps.put_nowait(None))
        self._put(job)
        try:
            while (found := await steps.get()) is not None:
                yield found
            yield job.future.result()[0]
        finally:
            self._leave(job)

    def close(self) -> None:
        """Finish what waits and runs, then end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _job(
        self,
        rows: Sequence[Any],
        key: Hashable,
        start: Callable[[list[Any]], Work],
        most: int,
        on_step: Callable[[Any], None] | None = None,
    ) -> Job:
        loop = asyncio.get_running_loop()
        joined = self.batch > 1 or isinstance(key, Slot)
        return Job(rows, key if joined else None, start, loop, loop.create_future(), on_step, most)

    async def _wait(self, job: Job) -> list[Any]:
        if not len(job.rows):
            return []
        self._put(job)
        try:
            return await job.future
        finally:
            self._leave(job)

    def _put(self, job: Job) -> None:
        with self._wake:
            self._waiting.setdefault(job.key if job.key is not None else id(job), []).append(job)
            self._wake.notify()

    def _leave(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        with self._wake:
            job.gone = True
            self._wake.notify()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._tasks:
                    if self._closing:
                        return
                    self._wake.wait()
                idle = not self._tasks
                alone = all(jobs[0].key is None or isinstance(key, Slot) for key, jobs in self._waiting.items())
            if idle and not alone and self.window:
                time.sleep(self.window)
            self._begin()
            if self._tasks:
                self._advance(min(self._tasks, key=lambda task: task.spent))

    def _begin(self) -> None:
        """Make tasks of what waits; work of one key runs in one task at a time, so that batches grow."""
        running = {task.key for task in self._tasks}
        with self._wake:
            for key in list(self._waiting):
                jobs = [job for job in self._waiting[key] if not job.gone]
                if jobs and key not in running:
                    rows = self._take(jobs)
                    jobs = [job for job in jobs if job.waiting]
                    first = min((task.spent for task in self._tasks), default=0.0)
                    work = _begun(rows[0][0].start, [job.rows[index] for job, index in rows])
                    self._tasks.append(Task(work, key, rows, first))
                    self.joined[len(rows)] = self.joined.get(len(rows), 0) + 1
                if jobs:
                    self._waiting[key] = jobs
                else:
                    del self._waiting[key]

    def _take(self, jobs: list[Job]) -> list[tuple[Job, int]]:
        """Take rows from the jobs in turn, up to a batch."""
        rows: list[tuple[Job, int]] = []
        turn = deque(jobs[:1] if isinstance(jobs[0].key, Slot) else jobs)
        while turn and len(rows) < jobs[0].most:
            job = turn.popleft()
            rows.append((job, job.waiting.popleft()))
            if job.waiting:
                turn.append(job)
        return rows

    def _advance(self, task: Task) -> None:
        """Run one pass of a task."""
        jobs = task.jobs
        if not jobs:
            task.work.close()
            self._tasks.remove(task)
            return
        begin = time.perf_counter()
        try:
            steps = next(task.work)
        except StopIteration as end:
            self._tasks.remove(task)
            for (job, index), result in zip(task.rows, end.value, strict=True):
                job.results[index] = result
                job.missing -= 1
                if not job.missing:
                    job.finish()
            self._give_back()
            return
        except Exception as error:
            self._tasks.remove(task)
            for job in jobs:
                job.finish(error)
            return
        task.spent += (time.perf_counter() - begin) / len(jobs)
        if steps:
            for job in jobs:
                if job.on_step is not None:
                    job.tell(job.on_step, steps)


def _begun(start: Callable[[list[Any]], Work], rows: list[Any]) -> Work:
    """Work that is set up at its first pass, where its errors belong to it."""
    return (yield from start(rows))
