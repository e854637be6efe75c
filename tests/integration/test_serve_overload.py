"""Clients that send too much, read nothing, or hold connections: they are bounded and nobody waits for them."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import random
import resource
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from tests.helpers.serving import SLOW, Running, read_until, running, some_vectors, tiny_checkpoint, until
from unembed import Inverter
from unembed.serve.body import FAULTS, shape_of
from unembed.serve.drawing import PostedTrace
from unembed.serve.guard import HEADERS
from unembed.serve.limits import Limits
from unembed.serve.schemas import EmbedRequest, InvertRequest

LARGE = {"vectors": some_vectors(16), "options": {"strategy": "remdm", "passes": 64}, "trace": True}
"""Its answer is longer than what lies in buffers."""


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    return Inverter.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny"), device="cpu")


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unembed.serve.server.SEND_BUFFER", 4096)


@pytest.fixture(scope="module")
def server(inverter: Inverter) -> Iterator[Running]:
    with running(inverter, Limits(rate=0)) as found:
        yield found


WRONG_CELL = {"id": "x", "text": 1, "masked": 3, "confidence": "a", "chosen": "q", "remasked": "z"}
MANY: dict[str, tuple[Any, bytes]] = {
    "strings for numbers": (InvertRequest, json.dumps({"vectors": [["a"] * 2000] * 48}).encode()),
    "as many as can be": (InvertRequest, json.dumps({"vectors": [["a"] * 8000] * 64}).encode()),
    "objects for numbers": (InvertRequest, json.dumps({"vectors": [[{}] * 8000] * 48}).encode()),
    "a million vectors": (InvertRequest, b'{"vectors": [' + b"[1]," * 900_000 + b"[1]]}"),
    "a million objects": (InvertRequest, b'{"vectors": [' + b"{}," * 900_000 + b"{}]}"),
    "lists in lists": (InvertRequest, b'{"vectors": [[' + b"[]," * 900_000 + b"[]]]}"),
    "numbers for texts": (EmbedRequest, json.dumps({"texts": [1] * 100_000}).encode()),
    "fields": (EmbedRequest, json.dumps({"texts": ["a"], **{str(i): 1 for i in range(100_000)}}).encode()),
    "fields again and again": (EmbedRequest, b"{" + b'"texts":[1],' * 200_000 + b'"texts":["a"]}'),
    "fields of options": (InvertRequest, json.dumps({"options": {str(i): 1 for i in range(100_000)}}).encode()),
    "cells": (PostedTrace, json.dumps({"steps": [{"index": -1, "canvas": [WRONG_CELL] * 512}] * 30}).encode()),
    "empty cells": (PostedTrace, json.dumps({"steps": [{"canvas": [{}] * 512}] * 60}).encode()),
    "fields of a cell": (
        PostedTrace,
        json.dumps({"steps": [{"canvas": [{str(i): i for i in range(100_000)}]}]}).encode(),
    ),
}
PATHS = {InvertRequest: "/v1/invert", EmbedRequest: "/v1/embed", PostedTrace: "/v1/trace.svg"}


@pytest.mark.parametrize("name", MANY)
def test_a_body_full_of_faults_is_refused_before_its_errors_are_built(server: Running, name: str) -> None:
    """pydantic describes all errors or none, and holds the interpreter meanwhile: 15 seconds for 0.4 MB."""
    model, body = MANY[name]
    server.post(PATHS[model], body).failed(422)
    if shape_of(body).exceeds(model.shape) is None:
        with pytest.raises(ValidationError) as caught:
            model.model_validate_json(body)
        assert caught.value.error_count() <= FAULTS
    assert server.send("GET", "/healthz").status == 200


def test_what_lies_outside_of_strings_is_counted() -> None:
    chance = random.Random(0)

    def value(depth: int) -> Any:
        kind = chance.randrange(7) if depth else chance.randrange(3)
        if kind < 3:
            return [chance.random(), chance.choice(['"', "\\", '\\"', '[{,:"}]\\', "é", "\n", ""]), None][kind]
        if kind < 5:
            return [value(depth - 1) for _ in range(chance.randrange(4))]
        return {f'{i}\\"{{:,': value(depth - 1) for i in range(chance.randrange(4))}

    def count(part: Any) -> list[int]:
        inner = list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []
        keys = len(part) if isinstance(part, dict) else 0
        own = [int(isinstance(part, list)), int(isinstance(part, dict)), keys, 1]
        return [sum(column) for column in zip(own, *map(count, inner), strict=True)]

    for _ in range(300):
        part = value(4)
        lists, objects, keys, values = count(part)
        found = shape_of(json.dumps(part, ensure_ascii=False).encode())
        assert (found.lists, found.objects, found.keys) == (lists, objects, keys)
        assert values <= found.values <= values + lists + objects
    assert shape_of(b"") == (0, 0, 0, 1)
    long = b'"' + b"[" * 3_000_000 + b'",['
    assert shape_of(long).lists == 1, "a string goes on from block to block"


def test_traces_beyond_what_is_kept_are_refused(server: Running) -> None:
    body = {"vectors": some_vectors(64), "options": {**SLOW, "lengths": 4}, "trace": True}
    assert "traced" in server.post("/v1/invert", body).failed(400)
    assert "traced" in server.post("/v1/invert", {**body, "trace": False, "tokens": True}).failed(400)


def deaf(server: Running, path: str, body: Any, source: str = "127.0.0.1") -> socket.socket:
    """Send a request over a connection with a small window and read nothing."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    found.bind((source, 0))
    found.connect(("127.0.0.1", server.port))
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    found.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return found


def unread(server: Running) -> list[int]:
    """Bytes that wait in this process for each connection's client."""
    return [one.transport.get_write_buffer_size() for one in list(server.server.server_state.connections)]


def test_an_answer_that_nobody_reads_keeps_its_place_and_is_dropped(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, places=3, unread_seconds=2.0)) as server, contextlib.ExitStack() as stack:
        whole = server.post("/v1/invert", LARGE)
        assert whole.status == 200 and len(whole.body) > 2**18 and len(whole.json()["results"]) == 16
        for _ in range(3):
            stack.enter_context(deaf(server, "/v1/invert", LARGE))
        until(lambda: sum(size > 0 for size in unread(server)) > 0)
        assert server.taken > 0
        assert max(unread(server)) < 2**17 + 1000, "the rest is written when the client reads"
        until(lambda: server.idle and not server.server.server_state.connections)


def test_a_client_that_reads_slowly_gets_its_whole_answer(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, unread_seconds=30)) as server:
        connection = deaf(server, "/v1/invert", LARGE)
        until(lambda: sum(unread(server)) > 0)
        head, _, body = read_until(connection, b"\r\n\r\n").partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += connection.recv(100_000)
        assert len(json.loads(body)["results"]) == 16
        connection.close()
        until(lambda: server.idle)


def test_a_stream_that_nobody_reads_stands_still_and_is_dropped(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, unread_seconds=2.0)) as server:
        connection = deaf(server, "/v1/invert/stream", {"vectors": some_vectors(1), "options": SLOW})
        until(lambda: bool(server.engine._tasks) and not server.engine._ready())
        assert server.post("/v1/invert", {"vectors": some_vectors(1)}).status == 200, "others go on"
        until(lambda: server.idle)
        connection.close()


def test_the_end_does_not_wait_for_clients_that_do_not_read(inverter: Inverter) -> None:
    server = Running(inverter, Limits(rate=0, unread_seconds=600, closing_seconds=1))
    stream = {"vectors": some_vectors(1), "options": SLOW}
    connections = [deaf(server, "/v1/invert", LARGE), deaf(server, "/v1/invert/stream", stream)]
    until(lambda: sum(unread(server)) > 0)
    server.stop()  # in less than the 60 seconds that it may take
    for connection in connections:
        connection.close()


def test_the_end_cuts_off_what_would_take_minutes_and_says_so(inverter: Inverter) -> None:
    server = Running(inverter, Limits(rate=0, closing_seconds=0.5))
    whole = server.begin("/v1/invert", {"vectors": some_vectors(64), "options": SLOW})
    stream = server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": SLOW, "queries": 2000})
    until(lambda: server.taken == 2)
    ending = threading.Thread(target=server.stop)
    ending.start()
    answer = read_until(whole, b"hint")
    assert b" 503 " in answer and b"The server is closing." in answer
    assert b"The server is closing." in read_until(stream, b"hint")
    ending.join(60)
    assert not ending.is_alive() and not server.engine.busy
    whole.close()
    stream.close()


def test_connections_are_bounded_and_shared(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, connections=6)) as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(server.raw()) for _ in range(6)]
        until(lambda: len(server.server.server_state.connections) == 6)
        refused = stack.enter_context(server.raw())
        answer = read_until(refused, b"hint")
        assert b" 503 " in answer and b"All 6 connections" in answer
        assert all(f"{name}: {value}".encode() in answer for name, value in HEADERS.items())
        for _ in range(3):  # another client gets its half
            other = stack.enter_context(server.raw(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", source="127.0.0.2"))
            assert b"421" in read_until(other, b"\r\n")
        assert [connection.recv(10) for connection in held[:3]] == [b"", b"", b""]
        assert b"503" in read_until(stack.enter_context(server.raw(source="127.0.0.2")), b"\r\n")
        held[5].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200" in read_until(held[5], b"\r\n")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_a_full_table_of_files_is_said_once(inverter: Inverter, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with running(inverter) as server, contextlib.ExitStack() as stack:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
            for _ in range(40):  # client and server share the table
                try:
                    stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                except OSError as error:
                    assert error.errno == errno.EMFILE
                    break
            until(lambda: "No connection can be taken" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        said = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(said) == 1 and len(caplog.text) < 1000
        assert server.send("GET", "/healthz").status == 200


def test_fewer_files_leave_room_for_fewer_connections(inverter: Inverter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (200, 200))
    with running(inverter) as server:
        assert 4 <= server.server.config.http_protocol_class.shared.most < 150  # type: ignore[union-attr]
