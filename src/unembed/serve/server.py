"""The server that listens: uvicorn, whose connections are patient but not endless, and which ends within seconds.

Contents: `listen`, `make_server`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn

from unembed.errors import InputError
from unembed.serve.connections import Connections, PatientProtocol
from unembed.serve.limits import Limits

log = logging.getLogger(__name__)

BACKLOG = 512

SEND_BUFFER = 2**18
"""Bytes of an answer that the system may keep for a client that does not read."""

EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 takes a free port.

    Raises:
        InputError: it cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        found = socket.create_server((host, port), family=family, backlog=BACKLOG)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # connections inherit it
        return found
    except OSError as error:
        raise InputError(
            f"{host} port {port} cannot be listened on ({error.strerror or error}).",
            "Choose another --port, or 0 for a free one; or another --host.",
        ) from error


def make_server(app: Any, limits: Limits, ready: Callable[[], None] | None = None) -> uvicorn.Server:
    """Make a server; `run(sockets=[...])` answers until a signal comes, or until `should_exit` is set.

    Running requests are finished first, if they end within `closing_seconds`.

    Args:
        app: as `create_app` makes it.
        limits: for the times and the connections.
        ready: called once requests are answered.
    """
    options = {
        "shared": Connections(min(limits.connections, _room())),
        "head_seconds": limits.body_seconds,
        "unread_seconds": limits.unread_seconds,
    }
    protocol = type("Protocol", (PatientProtocol,), options)
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        log_level="error",  # what clients do wrong is not logged, or they could fill the disk
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=math.ceil(limits.closing_seconds) + 4,
        backlog=BACKLOG,
    )
    return _Server(config, ready)


def _room() -> int:
    """Connections that the files which this process may open leave room for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 2**16
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed == resource.RLIM_INFINITY:
        return 2**16
    used = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 64
    return max(4, (allowed - used) * 3 // 4)


class _Server(uvicorn.Server):
    """A uvicorn server that reports when it has started, and gives running requests seconds when it ends."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self.ready = ready
        self._said = -60.0

    async def startup(self, sockets: Any = None) -> None:
        """Begin to answer."""
        asyncio.get_running_loop().set_exception_handler(self._on_error)
        await super().startup(sockets)
        if self.started and self.ready is not None:
            self.ready()

    async def shutdown(self, sockets: Any = None) -> None:
        """Take no more requests, and let those that run end soon."""
        state: Any = self.config.app.state  # type: ignore[union-attr]
        state.places.close(state.limits.closing_seconds)
        await super().shutdown(sockets)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say at most once a minute that no file is left for a connection."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in EXHAUSTED:
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= 60:
            self._said = time.monotonic()
            log.error("No connection can be taken for now: %s. Raise the limit of open files (ulimit -n).", error)
