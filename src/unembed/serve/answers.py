"""Answers: JSON, server-sent events, and what happens when the client leaves.

Contents: `Answer`, `EventStream`, `unless_gone`, `Gone`, `drop`, `to_json`, `json_of`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator, Coroutine, Iterator
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from unembed.serve.limits import Busy, Place

T = TypeVar("T")

KEEP_ALIVE = 10.0
"""Seconds of silence after which a comment line is sent."""

PIECE = 2**16
"""Bytes that are sent at a time."""

ABORT = "unembed.abort"
"""Extension of a scope: a function that ends the connection without waiting for what was not read."""


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


async def drop(scope: Scope, receive: Receive) -> None:
    """Cut off a client that does not read; what it was sent is forgotten."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is not None:
        abort()
        await _left(receive)


class Answer(Response):
    """An answer of JSON, whose place is kept until the client has read it.

    Args:
        content: the value, or its JSON.
        place: of the request.
        held: closed at the end.
        media_type: of a content that is not JSON.
    """

    media_type = "application/json"

    def __init__(self, content: Any, place: Place, held: contextlib.ExitStack, media_type: str | None = None) -> None:
        super().__init__(content, media_type=media_type)
        self.place, self.held = place, held

    def render(self, content: Any) -> bytes:
        """The body."""
        return content if isinstance(content, bytes) else to_json(content).encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it piece by piece, as it is read."""
        with self.held:
            self.place.answered()
            try:
                await self.place.within(unless_gone(receive, self._send(send)))
            except Gone:
                return
            except (TimeoutError, Busy):
                await drop(scope, receive)

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for begin in range(0, len(self.body), PIECE):
            await send({"type": "http.response.body", "body": self.body[begin : begin + PIECE], "more_body": True})
        await send({"type": "http.response.body", "body": b""})


class EventStream(Response):
    """An answer of server-sent events, with a comment line where none comes for a while.

    Args:
        events: pairs of name and value; closed at the end, or when the client leaves.
        place: of the request; the whole answer must have been read in its time.
        held: closed at the end.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[tuple[str, Any], None], place: Place, held: contextlib.ExitStack) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.events, self.place, self.held = events, place, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        with self.held:
            try:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await self.place.within(unless_gone(receive, self._send(send)))
            except Gone:
                return
            except Busy as cut:
                await self._end(scope, receive, send, {"message": cut.what, "hint": cut.do})
            except TimeoutError:
                late = {"message": "The request took too long.", "hint": "Ask for fewer passes, lengths or queries."}
                await self._end(scope, receive, send, late)
            finally:
                await self.events.aclose()

    async def _end(self, scope: Scope, receive: Receive, send: Send, error: dict[str, str]) -> None:
        try:
            async with asyncio.timeout(1):  # the client may not be reading
                await _put(send, _event("error", error), more=False)
        except TimeoutError:
            await drop(scope, receive)

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
    """A value as JSON, null for what is not a number or is infinite."""
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


async def json_of(parts: dict[str, Any]) -> bytes:
    """An object as JSON; what comes from an iterator is a list, and other work has its turn after each item."""
    texts = []
    for name, value in parts.items():
        if isinstance(value, Iterator):
            items = []
            for item in value:
                items.append(to_json(item))
                await asyncio.sleep(0)
            texts.append(f"{to_json(name)}:[{','.join(items)}]")
        else:
            texts.append(f"{to_json(name)}:{to_json(value)}")
    return f"{{{','.join(texts)}}}".encode()


async def _next(events: AsyncGenerator[T, None]) -> T:
    return await anext(events)
