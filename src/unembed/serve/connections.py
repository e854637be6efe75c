"""Connections: how many there may be, how long each may take to ask and to read, and what is answered to no HTTP.

Contents: `Connections`, `PatientProtocol`.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from unembed.serve.answers import ABORT
from unembed.serve.guard import HEADERS, client_at, failure

CLOSING = 2.0
"""Seconds that a client may take to read the end of its answer once the server is closing."""


class Connections:
    """The open connections of a server, shared fairly among clients.

    Args:
        most: how many there may be. Where another comes, the client that holds the most loses one if the newcomer
            holds at least two fewer: its oldest idle one, else its oldest.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count = most, 0
        self._held: dict[str, OrderedDict[PatientProtocol, None]] = {}

    def admit(self, protocol: PatientProtocol, client: str) -> bool:
        """Let a connection in; False where there is no room for it."""
        if self.count >= self.most:
            name = max(self._held, key=lambda name: len(self._held[name]))
            held = self._held[name]
            if len(held) < len(self._held.get(client, ())) + 2:
                return False
            victim = next((one for one in held if not one.busy), next(iter(held)))
            self.leave(victim, name)
            victim.transport.abort()
        self._held.setdefault(client, OrderedDict())[protocol] = None
        self.count += 1
        return True

    def leave(self, protocol: PatientProtocol, client: str) -> None:
        """Count a connection no more."""
        held = self._held.get(client, OrderedDict())
        if protocol in held:
            del held[protocol]
            self.count -= 1
            if not held:
                del self._held[client]


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that does not wait for ever.

    A connection is closed whose request does not begin, or whose head does not end, in `head_seconds`; it is cut off
    when the client does not read for `unread_seconds` what was sent. A request that was answered before its body had
    ended is closed too, or the rest would be read for a while. What is not HTTP is answered like any other error.
    """

    shared: Connections
    head_seconds = 10.0
    unread_seconds = 10.0
    _head_timer: asyncio.TimerHandle | None = None
    _read_timer: asyncio.TimerHandle | None = None
    _who = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        app = self.app

        async def with_abort(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "extensions": {ABORT: self.transport.abort}}, receive, send)

        self.app = with_abort  # type: ignore[assignment]

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head, if there is room."""
        super().connection_made(transport)
        self._who = client_at(self.client[0]) if self.client else ""
        if self.shared.admit(self, self._who):
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)
        else:
            self._fail(503, f"All {self.shared.most} connections of the server are taken.", "Try again later.")

    def data_received(self, data: bytes) -> None:
        """Stop waiting once a head is whole; wait again for the next one."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.busy and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif not self.busy and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)

    def on_response_complete(self) -> None:
        """Close what is not wanted to the end, and wait for the rest to be read."""
        self._await_reader()
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, or end the answer that it came into."""
        if self.busy:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._fail(400, "This is not a request of HTTP/1.1 that can be read in one way.", "Send one.")
        else:
            self.transport.abort()

    def pause_writing(self) -> None:
        """Begin to wait for the client to read."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        self._stop(self._read_timer)

    def shutdown(self) -> None:
        """End after the running answer, and wait less long for its reader."""
        self.unread_seconds = min(self.unread_seconds, CLOSING)
        self._await_reader()
        if self.conn.our_state not in (h11.ERROR, h11.CLOSED, h11.MUST_CLOSE) or self.busy:
            super().shutdown()
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop(self._head_timer)
        self._stop(self._read_timer)
        self.shared.leave(self, self._who)
        super().connection_lost(exc)

    def _fail(self, status: int, message: str, hint: str) -> None:
        """Answer without the application, and close."""
        answer = failure(status, message, hint, {**HEADERS, "cache-control": "no-store", "connection": "close"})
        head = h11.Response(status_code=status, headers=[*self.server_state.default_headers, *answer.raw_headers])
        for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._await_reader()
        self.transport.close()

    def _await_reader(self) -> None:
        """Cut the connection off if what waits to be written is not read in time."""
        self._stop(self._read_timer)
        if self.transport.get_write_buffer_size():
            self._read_timer = self.loop.call_later(self.unread_seconds, self._not_read)

    def _not_read(self) -> None:
        if self.flow.write_paused or (not self.busy and self.transport.get_write_buffer_size()):
            self.transport.abort()

    @staticmethod
    def _stop(timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()

    def _too_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and not self.busy:
            self.transport.close()
