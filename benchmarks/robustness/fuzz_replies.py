"""Damaged and hostile answers of an embedding server, read by `HttpEncoder` over a connection; one JSON line.

    python -m benchmarks.robustness.fuzz_replies --count 100000 --seed 0 --out docs/results/fuzz-replies.json

Good answers (numbers, base64, refusals) are mutated byte by byte or by a hostile value in the place of one of theirs,
and served on this machine; the encoder knows the dimension or not. `fuzzing.py` says how they are tried and what the
line holds.
"""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socketserver
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness import fuzzing
from benchmarks.robustness.fuzzing import Case, Fuzzer, mutate
from unembed.encoders.http import HttpEncoder, load_http

TEXTS = ("a", "two words", "three words here")
DIMENSION = 4
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2.5, 10**30, 10**400, float("nan"), float("inf"), "", "x", "\ud800", [], {}, [[]], [{}]),
    *(["1"], [1, None], "A" * 5000, [0.5] * 5000, [{}] * 5000, {"data": {}}, [[0.1] * 4] * 3),
)


def good() -> dict[str, bytes]:
    """Answers to `TEXTS` by kind, each with its head."""
    vectors = np.linspace(-1, 1, len(TEXTS) * DIMENSION, dtype=np.float32).reshape(len(TEXTS), -1)
    numbers = [{"object": "embedding", "index": i, "embedding": v.tolist()} for i, v in enumerate(vectors)]
    packed = [{**item, "embedding": base64.b64encode(v).decode()} for item, v in zip(numbers, vectors, strict=True)]
    more = {"object": "list", "model": "m", "usage": {"prompt_tokens": 6, "total_tokens": 6}}
    error = {"error": {"message": "no such model", "type": "invalid_request_error", "code": "not_found"}}
    found = {"numbers": {**more, "data": numbers}, "base64": {**more, "data": packed}, "refusal": error}
    return {kind: json.dumps(value).encode() for kind, value in found.items()}


def swap(value: Any, generator: np.random.Generator) -> Any:
    """A JSON value with one member, somewhere in it, replaced by a hostile value, doubled or removed."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not keys or generator.random() < 0.1:
        return VALUES[int(generator.integers(len(VALUES)))]
    key = keys[int(generator.integers(len(keys)))]
    kind = int(generator.integers(8))
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.insert(0, value[key])
    else:
        value[key] = swap(value[key], generator)
    return value


class _Handler(socketserver.StreamRequestHandler):
    """Answers every request with the bytes that are due, and closes."""

    def handle(self) -> None:
        """Read the request's head and body, and send the answer."""
        length = 0
        while (line := self.rfile.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)
        self.wfile.write(self.server.due)  # type: ignore[attr-defined]


class Replies(Fuzzer):
    """Answers of an embedding server."""

    benchmark = "fuzz_replies"

    def __init__(self) -> None:
        self._server: Any = None

    def case(self, index: int, seed: int) -> Case:
        """Return answer number `index`: head and body."""
        generator = np.random.default_rng([seed, index])
        answers = good()
        kind = list(answers)[index % len(answers)]
        body = answers[kind]
        how = int(generator.integers(4))
        if how == 0:
            body = mutate(body, generator)
        elif how < 3:
            body = json.dumps(swap(json.loads(body), generator)).encode()
        status = "200 OK" if kind != "refusal" else f"{int(generator.choice([400, 401, 404, 413, 429, 500, 301]))} No"
        extra = ""
        if how == 3 and generator.random() < 0.3:
            body, extra = gzip.compress(body * int(generator.choice([1, 10_000]))), "Content-Encoding: gzip\r\n"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}Connection: close\r\n\r\n".encode()
        if how == 3 and generator.random() < 0.3:
            head = mutate(head, generator)
        return Case(kind, f"{kind}.http", head + body)

    def rehearse(self, folder: Path, seed: int) -> None:
        """Read the good answers."""
        logging.disable(logging.CRITICAL)
        if self._server is None:
            self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Handler)
            self._server.daemon_threads = True
            threading.Thread(target=self._server.serve_forever, daemon=True).start()
        for kind, body in good().items():
            if kind != "refusal":
                self._ask(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body, 0)

    def attempt(self, case: Case, index: int, folder: Path) -> str:
        """Let the encoder ask and be answered so."""
        return self._ask(case.data, index)

    def _ask(self, answer: bytes, index: int) -> str:
        self._server.due = answer
        address = f"http://127.0.0.1:{self._server.server_address[1]}/v1?model=m&tokenizer=hashing&retries=0&timeout=2"
        encoder: HttpEncoder = load_http(address + ("&dimensions=4" if index % 2 else ""))
        vectors = encoder.encode(list(TEXTS))
        if vectors.ndim != 2 or len(vectors) != len(TEXTS) or not np.isfinite(vectors).all():
            raise AssertionError("the vectors are not those of the texts, or not finite")
        return "read"


FUZZER = Replies()

if __name__ == "__main__":
    fuzzing.main(FUZZER, __doc__)
