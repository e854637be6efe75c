"""One thread that computes for all users: requests are joined into batches, and decodes take turns pass by pass.

Contents: `Engine`.

Torch runs in one thread, so that requests never fight for the cores. Work with the same options is joined: rows are
taken from the waiting clients in turn, and from the requests of each in turn, up to `batch` rows (fewer where each has
many drafts), and become one decode. What arrives while such a decode runs forms the next batch. A stream is a decode of
its own. After each pass the decode of the client that has had the least time continues; among a client's
own, the one that has had the least for each of its requests. A stream waits while its reader is some passes behind. A
row's result does not depend on the rows beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unembed.serve.jobs import REFINE, Job, Returner, RunningTask, Shares, Work
from unembed.serve.limits import client

if TYPE_CHECKING:
    from unembed.decoding.config import DecodeConfig
    from unembed.decoding.recovery import Recovery
    from unembed.inverter import Inverter
    from unembed.refinement.refine import Refine
    from unembed.refinement.session import Session

TOP = 5
"""Alternatives of each position in a stream."""

REFINEMENTS, OWN_REFINEMENTS = 3, 2
"""Refinements that run at a time, of all clients and of one; each has tables of its own."""

DRAFTS = 64
"""Drafts that one pass may hold, so that no pass keeps the others waiting for long."""


def drafts_of(config: DecodeConfig) -> int:
    """Drafts that a decode of one vector holds at a time."""
    if config.strategy == "prior":
        return 1
    return max(config.beam, config.samples) if config.causal else config.lengths * config.samples


class Engine:
    """Computes for all requests of a server.

    Args:
        inverter: the model.
        batch: most rows of one decode; 1 joins nothing.
        window: seconds that an idle engine waits for more requests to join the first.
    """

    def __init__(self, inverter: Inverter, *, batch: int = 16, window: float = 0.003) -> None:
        self.inverter, self.batch, self.window = inverter, batch, window
        self._give_back = Returner()
        self.joined: dict[int, int] = {}
        self._shares = Shares()
        self._wake = threading.Condition()
        self._waiting: dict[Hashable, list[Job]] = {}
        self._tasks: list[RunningTask] = []
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="unembed-engine", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._waiting or self._tasks)

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
            return [_lean(recovery) for recovery in (yield from self._decode(rows, config, trace))]

        most = max(1, min(self.batch if self.batch > 1 else 16, DRAFTS // drafts_of(config)))
        return await self._wait(self._job(list(vectors), (config, trace), start, most))

    def _decode(self, rows: list[np.ndarray], config: DecodeConfig, trace: bool, live: bool = False) -> Work:
        """Decode vectors together: yields lists of steps, and returns a recovery for each."""
        request = self.inverter.model.request(np.stack(rows), asdict(config))
        drafts = yield from request.passes(trace, TOP, live)
        return self.inverter.model.recoveries(drafts, request)

    async def refine(self, vectors: np.ndarray, config: DecodeConfig, refine: Refine) -> list[Recovery]:
        """Recover the texts behind checked vectors (n, d) with queries; joined with nothing, few at a time."""

        def start(rows: list[np.ndarray]) -> Work:
            return _refined(self.inverter.session(np.stack(rows), refine, batch_size=len(rows), **asdict(config)))

        return await self._wait(self._job(list(vectors), REFINE, start, len(vectors)))

    async def stream(self, vector: np.ndarray, config: DecodeConfig) -> AsyncGenerator[Any, None]:
        """Decode a checked vector (d,): yields lists of steps, and at last the recovery."""

        def start(rows: list[np.ndarray]) -> Work:
            return self._decode(rows, config, trace=True, live=True)

        async with contextlib.aclosing(self._stream(vector, None, start)) as found:
            async for part in found:
                yield part

    async def stream_refinement(
        self, vector: np.ndarray, config: DecodeConfig, refine: Refine
    ) -> AsyncGenerator[Any, None]:
        """Refine a checked vector (d,): yields lists of events, and at last the recovery."""

        def start(rows: list[np.ndarray]) -> Work:
            return _refined(self.inverter.session(np.stack(rows), refine, **asdict(config)))

        async with contextlib.aclosing(self._stream(vector, REFINE, start)) as found:
            async for part in found:
                yield part

    async def _stream(
        self, vector: np.ndarray, key: Hashable, start: Callable[[list[np.ndarray]], Work]
    ) -> AsyncGenerator[Any, None]:
        steps: asyncio.Queue[Any] = asyncio.Queue()
        job = self._job([vector], key, start, 1, steps.put_nowait)
        job.future.add_done_callback(lambda _: steps.put_nowait(None))
        self._put(job)
        try:
            while (found := await steps.get()) is not None:
                with self._wake:
                    job.unread -= 1
                    self._wake.notify()
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
        joined = self.batch > 1 or key is REFINE
        return Job(rows, key if joined else None, start, loop, loop.create_future(), on_step, most, client.get())

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
            self._shares.enter(job.client)
            self._waiting.setdefault(job.key if job.key is not None else id(job), []).append(job)
            self._wake.notify()

    def _leave(self, job: Job) -> None:
        """Nobody waits for the job any more."""
        with self._wake:
            job.gone = True
            self._shares.leave(job.client)
            self._wake.notify()

    # What follows runs in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (new := self._new()) and not self._ready():
                    if self._closing and not self._tasks and not self._waiting:
                        return
                    self._wake.wait()
                joining = not self._tasks and any(self._waiting[key][0].key not in (None, REFINE) for key in new)
            if joining and self.window:
                time.sleep(self.window)
            with self._wake:
                for key in self._new():
                    self._begin(key)
                ready = self._ready()
                task = min(ready, key=lambda task: (self._shares.least(task.clients), task.spent), default=None)
            if task is not None:
                self._advance(task)

    def _ready(self) -> list[RunningTask]:
        """Tasks whose readers keep up."""
        return [task for task in self._tasks if self._closing or task.read]

    def _new(self) -> list[Hashable]:
        """Keys of what waits and may begin: work of one key runs in one task at a time, so that batches grow."""
        running, found = {task.key for task in self._tasks if task.key is not REFINE}, []
        for key in list(self._waiting):
            self._waiting[key] = jobs = [job for job in self._waiting[key] if not job.gone]
            if not jobs:
                del self._waiting[key]
            elif key not in running and (key is not REFINE or self._next_refinement(jobs) is not None):
                found.append(key)
        return found

    def _begin(self, key: Hashable) -> None:
        """Make a task of what waits."""
        jobs = self._waiting[key]
        if key is REFINE:
            job = self._next_refinement(jobs)
            rows = [] if job is None else [(job, job.waiting.popleft()) for _ in range(len(job.waiting))]
        else:
            rows = self._take(jobs)
        first = min((task.spent for task in self._tasks), default=0.0)
        work = _begun(rows[0][0].start, [job.rows[index] for job, index in rows])
        self._tasks.append(RunningTask(work, key, rows, first))
        self.joined[len(rows)] = self.joined.get(len(rows), 0) + 1
        self._waiting[key] = [job for job in jobs if job.waiting]
        if not self._waiting[key]:
            del self._waiting[key]

    def _take(self, jobs: list[Job]) -> list[tuple[Job, int]]:
        """Take rows from clients in turn, and from the jobs of each in turn, up to a batch."""
        turns: dict[str, deque[Job]] = {}
        for job in jobs:
            turns.setdefault(job.client, deque()).append(job)
        rows: list[tuple[Job, int]] = []
        order = deque(sorted(turns, key=self._shares.spent))
        while order and len(rows) < jobs[0].most:
            name = order.popleft()
            job = turns[name].popleft()
            rows.append((job, job.waiting.popleft()))
            if job.waiting:
                turns[name].append(job)
            if turns[name]:
                order.append(name)
        return rows

    def _next_refinement(self, jobs: list[Job]) -> Job | None:
        """The job of the client that has had the least, if there is room for it."""
        held = Counter(client for task in self._tasks if task.key is REFINE for client in task.clients)
        free = [job for job in jobs if held[job.client] < OWN_REFINEMENTS]
        if held.total() >= REFINEMENTS:
            return None
        return min(free, key=lambda job: self._shares.spent(job.client), default=None)

    def _advance(self, task: RunningTask) -> None:
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
        seconds = time.perf_counter() - begin
        task.spent += seconds / len(jobs)
        with self._wake:
            self._shares.charge([job.client for job, _ in task.rows], seconds)
        if steps:
            for job in jobs:
                if job.on_step is not None:
                    with self._wake:
                        job.unread += 1
                    job.tell(job.on_step, steps)


def _begun(start: Callable[[list[Any]], Work], rows: list[Any]) -> Work:
    """Work that is set up at its first pass, where its errors belong to it."""
    return (yield from start(rows))


def _refined(session: Session) -> Work:
    """Take a refinement forward; tells of each draft that is nearer to the first vector than all before."""
    with contextlib.closing(session):
        nearest = None
        for step in session:
            told = []
            if step is not None and step.nearest[0] is not None and step.nearest[0] is not nearest:
                nearest = step.nearest[0]
                told = [{"queries": nearest.queries, "cosine": nearest.cosine, "text": nearest.text}]
            yield told
        return session.recoveries()


def _lean(recovery: Recovery) -> Recovery:
    """A recovery without the traces of the drafts that were not chosen, which nobody is shown."""
    others = tuple(replace(other, trace=None) for other in recovery.alternatives)
    return replace(recovery, alternatives=others)
