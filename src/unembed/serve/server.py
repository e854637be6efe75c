"""The server that listens: uvicorn, with a time limit on the heads of requests.

Contents: `listen`, `make_server`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from unembed.errors import InputError
from unembed.serve.limits import Limits


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request does not begin, or whose head does not end, in time.

    A request that was answered before its body had ended is closed too, or the rest would be read for a while.
    """

    head_seconds = 10.0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a head."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)

    def data_received(self, data: bytes) -> None:
        """Stop waiting once a head is whole; wait again for the next one."""
        super().data_received(data)
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        elif not busy and self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self._too_late)

    def on_response_complete(self) -> None:
        """Close what is not wanted to the end."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _too_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes a free port.

    Raises:
        InputError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        raise InputError(
            f"{host} port {port} cannot be listened on ({error.strerror or error}).",
            "Choose another --port, or 0 for a free one; or another --host.",
        ) from error


def make_server(app: Any, limits: Limits, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """Make a server; `run(sockets=[...])` answers until a signal comes, or until `should_exit` is set.

    Running requests are finished first.

    Args:
        app: as `create_app` makes it.
        limits: for the times.
        ready: called once requests are answered.
    """
    protocol = type("Protocol", (PatientProtocol,), {"head_seconds": limits.body_seconds})
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(limits.request_seconds) + 1,
        limit_concurrency=None,
    )
    return _Server(config, ready)


class _Server(uvicorn.Server):
    """A uvicorn server that tells when it has started."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: Any = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()
