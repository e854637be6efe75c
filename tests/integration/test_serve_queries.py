"""Refinement with queries through the API, and `unembed serve` as a process of its own."""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cli import fails, start
from tests.helpers.serving import LONG, Running, read_until, running, some_vectors, tiny_checkpoint, until
from unembed import Inverter

TEXT = "the old dog saw a small red house"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny", token_prior=True)


@pytest.fixture(scope="module")
def server(checkpoint: Path) -> Iterator[Running]:
    with running(Inverter.from_pretrained(checkpoint, device="cpu")) as found:
        yield found


def test_queries_bring_a_text_nearer(server: Running) -> None:
    (model,) = server.send("GET", "/v1/models").json()["models"]
    assert model["queries"] and "combined" in model["refinements"] and "correct" not in model["refinements"]
    body = {"texts": [TEXT], "options": {"passes": 4}}
    (plain,) = server.post("/v1/invert", body).json()["results"]
    (found,) = server.post("/v1/invert", {**body, "queries": 40}).json()["results"]
    assert 0 < found["queries"] <= 40 and plain["queries"] == 0
    assert found["cosine"] > plain["cosine"]


def test_a_stream_with_queries_tells_each_nearer_draft(server: Running) -> None:
    body = {"texts": [TEXT], "options": {"passes": 4}, "queries": 40, "refinement": "search"}
    events = server.post("/v1/invert/stream", body).events()
    names = [name for name, _ in events]
    first = names.index("refine")
    assert set(names[1:first]) == {"step"} and set(names[first:-1]) == {"refine"} and names[-1] == "done"
    told = [value for name, value in events if name == "refine"]
    assert [event["cosine"] for event in told] == sorted(event["cosine"] for event in told)
    assert [event["queries"] for event in told] == sorted(event["queries"] for event in told)
    assert all(event["text"] and event["tokens"] for event in told)
    done = events[-1][1]
    assert done["cosine"] == pytest.approx(told[-1]["cosine"], abs=1e-4)
    assert told[-1]["queries"] <= done["result"]["queries"] <= 40


def test_a_client_that_leaves_ends_its_refinement(server: Running) -> None:
    body = {"vectors": some_vectors(1), "options": {"passes": 2}, "queries": 2000}
    connection = server.begin("/v1/invert/stream", body)
    assert b"event: refine" in read_until(connection, b"event: refine")
    connection.close()
    until(lambda: server.idle)


def test_others_have_their_turn_during_a_refinement(server: Running) -> None:
    connection = server.begin("/v1/invert", {"vectors": some_vectors(4), "queries": 2000, "options": {"passes": 2}})
    until(lambda: server.engine.busy)
    assert server.post("/v1/invert", {"vectors": some_vectors(1)}).status == 200
    until(lambda: server.taken == 1)  # the place of the short one is free when its answer has been read
    connection.close()
    until(lambda: server.idle)


def test_wrong_refinements_are_refused(server: Running) -> None:
    body = {"vectors": some_vectors(1), "queries": 5}
    assert "serch" in server.post("/v1/invert", {**body, "refinement": "serch"}).failed(400)
    assert "corrector" in server.post("/v1/invert", {**body, "refinement": "correct"}).failed(400)
    assert "trace" in server.post("/v1/invert", {**body, "trace": True}).failed(400)


def test_the_command_serves_until_a_signal_and_finishes_what_runs(checkpoint: Path) -> None:
    with start("serve", "--port", "0", "--no-open", "--model", checkpoint) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", line)
        assert found, line + process.stderr.read()
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=120)
        body = json.dumps({"vectors": some_vectors(1), "options": {**LONG, "samples": 1, "passes": 64}})
        connection.request("POST", "/v1/invert/stream", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        early = answer.read(2_000)
        process.send_signal(signal.SIGTERM)
        assert b"event: step" in early and b"event: done" in answer.read()
        connection.close()
        assert process.wait(60) == 143
        assert "Traceback" not in process.stderr.read()


def test_the_command_refuses_what_is_not_safe_or_not_there(
    checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNEMBED_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        fails(capsys, ["serve", "--host", host, "--model", checkpoint], host, "--token")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        fails(capsys, ["serve", "--port", port, "--model", checkpoint], port, "--port")
    fails(capsys, ["serve", "--port", "0", "--quiet", "--model", "nothing-here"], "nothing-here")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fails(capsys, ["serve"], "FastAPI", "unembed[serve]")
