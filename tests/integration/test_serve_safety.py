"""What the server refuses: foreign hosts and pages, missing tokens, bodies of every wrong kind, slow clients."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from tests.helpers.serving import TEXTS, Running, read_until, running, some_vectors, tiny_checkpoint, until
from unembed import Inverter
from unembed.serve.guard import HEADERS
from unembed.serve.limits import Limits

TOKEN = "7d1f0c9ab24e6583"
LIMITS = Limits(rate=0, body_bytes=2**20, body_seconds=1.0)


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    return Inverter.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def server(inverter: Inverter) -> Iterator[Running]:
    with running(inverter, LIMITS) as found:
        yield found


@pytest.mark.parametrize("path", ["/healthz", "/v1/models", "/openapi.json", "/nothing", "/v1/nothing", "/v1/embed"])
def test_every_answer_has_the_security_headers(server: Running, path: str) -> None:
    answer = server.send("GET", path)
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "server" not in answer.headers
    if path.startswith("/v1"):
        assert answer.headers["cache-control"] == "no-store"


def test_a_name_that_leads_to_loopback_is_refused(server: Running) -> None:
    """DNS rebinding: the page of attacker.example asks attacker.example, which now points to 127.0.0.1."""
    for host in ("attacker.example", "attacker.example:8000", "localhost.attacker.example", "0.0.0.0", "127.1"):
        assert "localhost" in server.send("GET", "/v1/models", host=host).failed(421)
    for host in ("localhost", "localhost:1", "127.0.0.1:99", "[::1]", "[::1]:8000", "127.0.0.2"):
        assert server.send("GET", "/v1/models", host=host).status == 200


def test_a_page_of_another_site_is_refused(server: Running) -> None:
    for origin in ("https://attacker.example", "null", "http://127.0.0.1:1", "http://[", ""):
        server.post("/v1/embed", {"texts": TEXTS}, origin=origin).failed(403)
    assert server.post("/v1/embed", {"texts": TEXTS}, origin=server.url).status == 200
    server.send("OPTIONS", "/v1/embed", origin="https://attacker.example").failed(403)


def test_a_form_of_another_page_cannot_send_a_body(server: Running) -> None:
    """text/plain needs no preflight, so it is refused."""
    body = json.dumps({"texts": TEXTS}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        server.post("/v1/embed", body, Content_Type=kind).failed(415)
    assert server.post("/v1/embed", body, Content_Type="application/json; charset=utf-8").status == 200


def test_with_a_token_nothing_is_answered_without_it(inverter: Inverter) -> None:
    with running(inverter, LIMITS, token=TOKEN, local=False) as server:
        for sent in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer "}):
            answer = server.send("GET", "/v1/models", **sent)
            answer.failed(401)
            assert answer.headers["www-authenticate"] == "Bearer"
        server.post("/v1/invert/stream", {"texts": TEXTS[:1]}).failed(401)
        assert server.send("GET", "/v1/models", authorization="Bearer " + TOKEN).status == 200
        assert server.send("GET", "/healthz", host="unembed.example").status == 200


def test_a_client_that_asks_too_often_is_told_to_wait(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0.5, burst=3)) as server:
        found = [server.send("GET", "/v1/models") for _ in range(5)]
        assert [answer.status for answer in found[:3]] == [200, 200, 200]
        found[-1].failed(429)
        assert 1 <= int(found[-1].headers["retry-after"]) <= 2
        assert server.send("GET", "/healthz").status == 200


ZERO = [0.0] * 24
ONE = [1.0] * 24
WRONG = {
    "nothing": (b"", 400),
    "no JSON": (b"vectors", 400),
    "half": (b'{"vectors": [[1, 2', 400),
    "not UTF-8": (b'{"texts": ["\xff\xfe"]}', 400),
    "lone surrogate": (b'{"texts": ["\\ud800"]}', 400),
    "deep lists": (b'{"vectors": ' + b"[" * 100_000, 422),
    "deep and closed": (b'{"vectors": ' + b"[" * 5000 + b"]" * 5000 + b"}", 422),
    "deep objects": (b'{"options": ' + b'{"a":' * 100_000, 422),
    "deep lists, few": (b'{"vectors": ' + b"[" * 100, 400),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "a number": (b"1", 422),
    "neither": (b"{}", 400),
    "both": (json.dumps({"vectors": [ONE], "texts": ["a"]}).encode(), 400),
    "no rows": (b'{"vectors": []}', 422),
    "an empty row": (b'{"vectors": [[]]}', 422),
    "another dimension": (b'{"vectors": [[1, 2, 3]]}', 400),
    "ragged": (json.dumps({"vectors": [ONE, ONE[:-1]]}).encode(), 400),
    "zeros": (json.dumps({"vectors": [ZERO]}).encode(), 400),
    "NaN": (json.dumps({"vectors": [[float("nan")] * 24]}).encode(), 422),
    "Infinity": (json.dumps({"vectors": [[float("inf")] * 24]}).encode(), 422),
    "1e999": (b'{"vectors": [[' + b",".join([b"1e999"] * 24) + b"]]}", 422),
    "a long number": (b'{"vectors": [[' + b"9" * 100_000 + b"]]}", 400),
    "strings": (json.dumps({"vectors": [["1"] * 24]}).encode(), 422),
    "booleans": (json.dumps({"vectors": [[True] * 24]}).encode(), 422),
    "nested": (json.dumps({"vectors": [[ONE]]}).encode(), 422),
    "one vector": (json.dumps({"vectors": ONE}).encode(), 422),
    "many vectors": (json.dumps({"vectors": [ONE] * 65}).encode(), 422),
    "a huge vector": (json.dumps({"vectors": [[1] * 9000]}).encode(), 422),
    "numbers as texts": (b'{"texts": [1]}', 422),
    "a string as texts": (b'{"texts": "a"}', 422),
    "an empty text": (b'{"texts": [""]}', 400),
    "a long text": (json.dumps({"texts": ["a " * 20_000]}).encode(), 422),
    "another field": (json.dumps({"vectors": [ONE], "vector": 1}).encode(), 422),
    "another option": (json.dumps({"vectors": [ONE], "options": {"pases": 3}}).encode(), 422),
    "another strategy": (json.dumps({"vectors": [ONE], "options": {"strategy": "x"}}).encode(), 400),
    "options that clash": (json.dumps({"vectors": [ONE], "options": {"beam": 2}}).encode(), 400),
    "too many drafts": (
        json.dumps({"vectors": [ONE], "options": {"samples": 16, "lengths": 5, "temperature": 1}}).encode(),
        400,
    ),
    "no passes": (json.dumps({"vectors": [ONE], "options": {"passes": 0}}).encode(), 422),
    "passes as text": (json.dumps({"vectors": [ONE], "options": {"passes": "4"}}).encode(), 422),
    "a billion passes": (json.dumps({"vectors": [ONE], "options": {"passes": 10**9}}).encode(), 422),
    "negative seed": (json.dumps({"vectors": [ONE], "options": {"seed": -1}}).encode(), 422),
    "bits": (json.dumps({"vectors": [ONE], "transform": {"bits": 0}}).encode(), 422),
    "noise": (json.dumps({"vectors": [ONE], "transform": {"noise": -1}}).encode(), 422),
    "nothing kept": (json.dumps({"vectors": [[0.0] * 12 + [1.0] * 12], "transform": {"dimensions": 3}}).encode(), 400),
    "negative queries": (json.dumps({"vectors": [ONE], "queries": -1}).encode(), 422),
}


@pytest.mark.parametrize("path", ["/v1/invert", "/v1/invert/stream"])
@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_answered_with_what_is_wrong(server: Running, name: str, path: str) -> None:
    body, status = WRONG[name]
    server.post(path, body).failed(status)


def test_numbers_at_the_edge_of_floats_are_answered(server: Running) -> None:
    for value in (1e308, 3e38, 1e-45, -1e-300, 1e-320):
        answer = server.post("/v1/invert", {"vectors": [[value] * 24]})
        assert answer.status in (200, 400), answer.body


def rss() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_bodies_of_10_mb_are_refused_and_take_no_memory(inverter: Inverter) -> None:
    vectors = b'{"vectors": [[' + b"0.123456789," * 850_000 + b"1]]}"
    nested = b'{"vectors": ' + b"[" * 10_000_000
    text = b'{"texts": ["' + b"a " * 5_000_000 + b'"]}'
    with running(inverter, Limits(rate=0, body_bytes=2**20, body_seconds=60)) as server:
        for body in (vectors, nested, text):
            assert len(body) >= 10**7
            server.post("/v1/invert", body).failed(413)
        before = rss()
        for _ in range(4):
            for body in (vectors, nested, text):
                server.post("/v1/invert", body).failed(413)
        assert rss() - before < 16 * 2**20


def test_a_body_that_never_ends_is_cut_off(server: Running) -> None:
    connection = server.raw(
        b"POST /v1/invert HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    with connection, pytest.raises(OSError):
        for _ in range(1000):
            connection.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        raise AssertionError("62 MB were taken")


def test_slow_clients_are_let_go(server: Running) -> None:
    """Slowloris: heads and bodies that come byte by byte hold no connection for long."""
    head = b"POST /v1/invert HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    silent, slow_head = server.raw(), server.raw(head)
    slow_body = server.raw(head + b"Content-Length: 1000\r\n\r\n{")
    again = server.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"ok" in read_until(again, b"ok")
    again.sendall(b"GET /heal")
    begin = time.monotonic()
    for connection in (slow_head, slow_body):
        for _ in range(3):
            connection.sendall(b" ")
            time.sleep(0.02)
    assert b"408" in read_until(slow_body, b"hint")
    assert read_until(silent, b"\n") == b"" and read_until(slow_head, b"\n") == b"" and read_until(again, b"\n") == b""
    assert time.monotonic() - begin < 30
    assert server.taken == 0
    for connection in (silent, slow_head, slow_body, again):
        connection.close()


def test_a_client_that_does_not_read_its_stream_is_let_go(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, request_seconds=2)) as server:
        options = {"strategy": "remdm", "passes": 128, "lengths": 4, "samples": 16, "temperature": 1.0}
        connection = server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": options})
        until(lambda: server.taken == 1)
        until(lambda: server.idle)
        connection.close()


def test_neither_texts_nor_vectors_are_logged(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    secret = "zebra trombone"
    with caplog.at_level(logging.DEBUG):
        server.post("/v1/invert", {"texts": [secret], "tokens": True})
        server.post("/v1/invert/stream", {"texts": [secret]})
        server.post("/v1/invert", {"vectors": [[0.123456] * 24]})
        server.post("/v1/invert", {"texts": [secret, ""]}).failed(400)
        server.post("/v1/invert", {"vectors": [[0.123456] * 23]}).failed(400)
    said = caplog.text
    assert "zebra" not in said and "trombone" not in said and "0.123456" not in said


def test_an_error_does_not_repeat_what_was_sent(server: Running) -> None:
    answer = server.post("/v1/invert", {"texts": ["a"], "options": {"passes": "hunter2"}})
    answer.failed(422)
    assert b"hunter2" not in answer.body


CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.checks.status_code_conformance,
    schemathesis.checks.content_type_conformance,
    schemathesis.checks.response_schema_conformance,
]


def fuzz(server: Running, examples: int) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    seen = set()
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def sends(case: schemathesis.Case) -> None:
            response = case.call()
            seen.add((case.method, case.path, response.status_code))
            assert response.status_code < 500, (response.status_code, response.text[:300])
            case.validate_response(response, checks=CHECKS)

        sends()
    assert {path for _, path, _ in seen} == {
        "/healthz",
        "/v1/models",
        "/v1/embed",
        "/v1/invert",
        "/v1/invert/stream",
        "/v1/trace.svg",
    }


def test_schemathesis_finds_no_500(server: Running) -> None:
    fuzz(server, 10)


@pytest.mark.soak
def test_schemathesis_finds_no_500_in_many_tries(server: Running) -> None:
    fuzz(server, 500)
