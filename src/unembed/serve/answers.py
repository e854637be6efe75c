"""Answers: JSON, server-sent events, and what happens when the client leaves.

Contents: `Answer`, `EventStream`, `unless_gone`, `Gone`, `to_json`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")

KEEP_ALIVE = 10.0
"""Seconds of silence after which a comment line is sent."""


class Gone(Exception):
    """The client has left; nobody reads the answer."""


async def _left(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await `work`, and cancel it when the client leaves.

    Args:
        receive: of the request, whose body has been read.
        work: what the client waits for.

    Raises:
        Gone: the client left.
    """
    task, left = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, left), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Gone
    finally:
        await _cancel(task, left)


async def _cancel(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task


class EventStream(Response):
    """An answer of server-sent events, with a comment line where none comes for a while.

    Args:
        events: pairs of name and value; closed at the end, or when the client leaves.
        seconds: until which the whole answer must have been read.
        held: closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[tuple[str, Any], None], seconds: float, held: contextlib.ExitStack
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.seconds, self.held = events, seconds, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self.held:
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async with asyncio.timeout(self.seconds):
                    await unless_gone(receive, self._send(send))
            except Gone:
                return
            except TimeoutError:
                late = {"message": "The request took too long.", "hint": "Ask for fewer passes, lengths or queries."}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(5):  # the client may not be reading
                        await _put(send, _event("error", late), more=False)
            finally:
                await self.events.aclose()

    async def _send(self, send: Send) -> None:
        upcoming: asyncio.Future[tuple[str, Any]] | None = None
        try:
            while True:
                if upcoming is None:
                    upcoming = asyncio.ensure_future(_next(self.events))
                done, _ = await asyncio.wait((upcoming,), timeout=KEEP_ALIVE)
                if not done:
                    await _put(send, ": still here\n\n")
                    continue
                try:
                    name, value = upcoming.result()
                except StopAsyncIteration:
                    break
                upcoming = None
                await _put(send, _event(name, value))
            await _put(send, "", more=False)
        finally:
            if upcoming is not None:
                await _cancel(upcoming)


async def _put(send: Send, text: str, more: bool = True) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": more})


def _event(name: str, value: Any) -> str:
    return f"event: {name}\ndata: {to_json(value)}\n\n"


def to_json(value: Any) -> str:
    """A value as JSON, null for what is no number or infinite."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Answer(Response):
    """An answer of JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The body."""
        return to_json(content).encode()


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)
