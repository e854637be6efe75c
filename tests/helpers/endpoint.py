"""A real server on this machine that speaks OpenAI's embeddings protocol and misbehaves when it is told to."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from unembed.encoders.hashing import HashingEncoder

KEY = "sk-test-9f31c0de-do-not-show"
Fault = Callable[["Handler", dict[str, Any]], bool]  # True: the reply is sent, or will never be


class Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/embeddings."""

    protocol_version = "HTTP/1.1"
    server: EmbeddingServer

    def do_POST(self) -> None:
        home = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with home.lock:
            home.requests.append({"path": self.path, "headers": dict(self.headers), "body": body, "at": time.time()})
            fault = home.faults.popleft() if home.faults else None
        if fault is not None and fault(self, body):
            return
        if home.key and self.headers.get("Authorization") != f"Bearer {home.key}":
            given = self.headers.get("Authorization", "none")
            self.send(401, {"error": {"message": f"Incorrect API key provided: {given}.", "code": "invalid_api_key"}})
        elif body["model"] not in home.models or self.path != "/v1/embeddings":
            self.send(404, {"error": {"message": f"The model {body['model']} does not exist", "code": "not_found"}})
        else:
            self.send(200, self.answer(body))

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The right reply."""
        home, inputs = self.server, body["input"]
        vectors = home.models[body["model"]].encode(inputs)
        if body.get("dimensions"):
            vectors = vectors[:, : body["dimensions"]]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        plain = body.get("encoding_format") != "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": v.tolist() if plain else packed(v, home.packed_as)}
            for i, v in enumerate(vectors)
        ]
        tokens = sum(len(text.split()) for text in inputs)
        usage = {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}} if home.counts else {}
        return {"object": "list", "model": home.reported or body["model"], "data": data[::-1], **usage}

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None, short: int = 0) -> None:
        """Send JSON, or bytes as they are; `short` bytes fewer than announced."""
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content[: len(content) - short])
        if short:
            self.drop()

    def drop(self) -> None:
        """Close the connection."""
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Print nothing."""


class EmbeddingServer(ThreadingHTTPServer):
    """The models "tiny" (16 dimensions) and "other" (24); faults are used up request by request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models = {"tiny": HashingEncoder(16), "other": HashingEncoder(24)}
        self.faults: deque[Fault] = deque()
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        self.key = ""
        self.reported = ""
        self.counts = True
        self.packed_as = "<f4"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that went away."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def spec(self, model: str = "tiny", **query: object) -> str:
        """A spec of an encoder behind this server, with a short back-off."""
        options = {"model": model, "tokenizer": "hashing", "backoff": 0.01, **query}
        return f"{self.url}?" + "&".join(f"{k}={v}" for k, v in options.items())


@contextmanager
def serving() -> Iterator[EmbeddingServer]:
    """A server that runs in a thread until the block ends."""
    server = EmbeddingServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def packed(vector: np.ndarray, kind: str) -> str:
    return base64.b64encode(vector.astype(kind).tobytes()).decode()


def status(number: int, message: str = "try again", code: str = "", **headers: str) -> Fault:
    """Answer with a status."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send(number, {"error": {"message": message, "code": code}}, names)
        return True

    return fault


def raw(content: bytes, code: int = 200, short: int = 0) -> Fault:
    """Answer with these bytes; `short` of them never come."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.send(code, content, short=short)
        return True

    return fault


def changed(change: Callable[[dict[str, Any]], object]) -> Fault:
    """Answer rightly, but for what `change` does to the reply."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        value = handler.answer(body)
        change(value)
        handler.send(200, value)
        return True

    return fault


def dropped(handler: Handler, body: dict[str, Any]) -> bool:
    """Close the connection without a word."""
    handler.drop()
    return True


def slow(seconds: float) -> Fault:
    """Answer rightly, but late."""

    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        time.sleep(seconds)
        return False

    return fault


def dripping(handler: Handler, body: dict[str, Any]) -> bool:
    """Send a byte now and then: no single read is slow, the whole is."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.05)
    handler.drop()
    return True
