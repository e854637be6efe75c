"""A real server on loopback in a thread of this process, and plain clients for it."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.tiny import save_tiny
from unembed import Inverter
from unembed.serve.app import create_app
from unembed.serve.limits import Limits
from unembed.serve.server import listen, make_server

SLOW = {"strategy": "remdm", "passes": 128, "lengths": 4, "samples": 16, "temperature": 1.0}
LONG = {**SLOW, "lengths": 1, "samples": 4}
TEXTS = ["the old man and the sea", "where is the station ?", "a small red house", "she saw the dog behind the tree"]


def tiny_checkpoint(folder: Path, **more: Any) -> Path:
    """Random weights that belong to the hashing encoder of 24 dimensions."""
    return save_tiny(folder, scale=0.3, **more)


class Running:
    """A server that answers at 127.0.0.1:`port`."""

    def __init__(self, inverter: Inverter, limits: Limits | None = None, **more: Any) -> None:
        limits = limits or Limits(rate=0)
        self.app = create_app(inverter, limits=limits, version="0", **more)
        self.engine = self.app.state.engine
        started = threading.Event()
        self.server = make_server(self.app, limits, started.set)
        self.socket = listen("127.0.0.1", 0)
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()
        assert started.wait(30)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(60)
        self.socket.close()
        assert not self.thread.is_alive()

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request and read the whole answer; `body` is bytes, or a value to be sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            kind = {"Content-Type": "application/json"} if data is not None else {}
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, data, {**kind, **named})
            found = connection.getresponse()
            return Answer(found.status, {k.lower(): v for k, v in found.getheaders()}, found.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.send("POST", path, body, **headers)

    def raw(self, data: bytes = b"", source: str = "127.0.0.1") -> socket.socket:
        """A connection from an address of loopback over which `data` was sent."""
        found = socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))
        found.sendall(data)
        return found

    def begin(self, path: str, body: Any, source: str = "127.0.0.1") -> socket.socket:
        """Send a request and do not read the answer."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        return self.raw(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data, source)

    @property
    def taken(self) -> int:
        """Places that are held."""
        return int(self.app.state.places.taken)

    @property
    def idle(self) -> bool:
        """Whether no request holds a place and nothing is computed."""
        return self.taken == 0 and not self.engine.busy


class Answer:
    """A whole answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[tuple[str, Any]]:
        return [event for event in map(parse_event, self.body.decode().split("\n\n")) if event is not None]

    def failed(self, status: int) -> str:
        """Check that this is a failure in the form of the contract; returns what it says."""
        assert self.status == status, (self.status, self.body[:300])
        error = self.json()["error"]
        assert set(self.json()) == {"error"} and set(error) == {"message", "hint"}
        assert error["message"].endswith(".") and error["hint"].endswith((".", "?"))
        assert b"Traceback" not in self.body
        return str(error["message"])


def parse_event(part: str) -> tuple[str, Any] | None:
    lines = [line for line in part.splitlines() if line and not line.startswith(":")]
    if not lines:
        return None
    assert len(lines) == 2 and lines[0].startswith("event: ") and lines[1].startswith("data: "), part
    return lines[0][7:], json.loads(lines[1][6:])


@contextlib.contextmanager
def running(inverter: Inverter, limits: Limits | None = None, **more: Any) -> Iterator[Running]:
    server = Running(inverter, limits, **more)
    try:
        yield server
    finally:
        server.stop()
        with warnings.catch_warnings():  # a connection that is accepted while the loop closes has no owner in asyncio
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.01)


def read_until(connection: socket.socket, mark: bytes) -> bytes:
    """Read until `mark` has come, or the end."""
    found = b""
    while mark not in found:
        more = connection.recv(65536)
        if not more:
            break
        found += more
    return found


def some_vectors(count: int, seed: int = 0) -> list[list[float]]:
    rows = np.random.default_rng(seed).normal(size=(count, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).tolist()
