"""Heads of requests that lie: hosts, lengths, tokens; each is refused in the form of the contract."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.helpers.cli import fails
from tests.helpers.serving import Answer, Running, read_until, running, tiny_checkpoint, until
from unembed import Inverter
from unembed.errors import InputError
from unembed.serve.guard import HEADERS, WrongTokens, check_token, strength
from unembed.serve.limits import Limits

TOKEN = "7d1f0c9ab24e6583"
BODY = b'{"texts": ["a"]}'


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    return Inverter.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def server(inverter: Inverter) -> Iterator[Running]:
    with running(inverter, Limits(rate=0)) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(inverter: Inverter) -> Iterator[Running]:
    with running(inverter, Limits(rate=0), token=TOKEN, local=False) as found:
        yield found


def answers(connection: socket.socket) -> list[Answer]:
    """All answers that come until the server closes."""
    with connection:
        data, found = b"", []
        while more := connection.recv(65536):
            data += more
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        length = int(headers["content-length"])
        found.append(Answer(int(status.split()[1]), headers, rest[:length]))
        data = rest[length:]
    return found


def post(*headers: bytes, host: bytes = b"Host: localhost", version: bytes = b"1.1", body: bytes = BODY) -> bytes:
    lines = [b"POST /v1/embed HTTP/" + version, host, b"Content-Type: application/json", *headers]
    return b"\r\n".join(line for line in lines if line) + b"\r\n\r\n" + body


LENGTH = b"Content-Length: %d" % len(BODY)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
CHUNKED = b"Transfer-Encoding: chunked"
LATER = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
AMBIGUOUS = {
    "length and chunks": post(LENGTH, CHUNKED, body=CHUNKS),
    "chunks and length": post(CHUNKED, b"Content-Length: 3", body=CHUNKS),
    "two lengths": post(LENGTH, b"Content-Length: 3"),
    "a list of lengths": post(b"Content-Length: 3, %d" % len(BODY)),
    "a signed length": post(b"Content-Length: +%d" % len(BODY)),
    "a length in hexadecimal": post(b"Content-Length: 0x10"),
    "a length below nothing": post(b"Content-Length: -1"),
    "no length": post(b"Content-Length:"),
    "a space before the colon": post(b"Content-Length : %d" % len(BODY)),
    "two encodings": post(CHUNKED, CHUNKED, body=CHUNKS),
    "an unknown encoding": post(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "a list of encodings": post(b"Transfer-Encoding: identity, chunked", body=CHUNKS),
    "chunks in HTTP/1.0": post(CHUNKED, version=b"1.0", body=CHUNKS),
    "HTTP/1.7": post(LENGTH, version=b"1.7"),
    "HTTP/2.0": post(LENGTH, version=b"2.0"),
    "a chunk without a size": post(CHUNKED, body=b"z\r\n" + CHUNKS),
    "a chunk longer than it says": post(CHUNKED, body=b"1\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "a negative chunk": post(CHUNKED, body=b"-1\r\n\r\n" + CHUNKS),
    "two hosts": post(LENGTH, b"Host: evil.example"),
    "the same host twice": post(LENGTH, b"Host: localhost"),
    "no host": post(LENGTH, host=b""),
    "two tokens": post(LENGTH, b"Authorization: Bearer a", b"Authorization: Bearer b"),
    "two types": post(LENGTH, b"Content-Type: text/plain"),
    "two origins": post(LENGTH, b"Origin: http://localhost", b"Origin: http://evil.example"),
    "a whole address": LATER.replace(b"/healthz", b"http://evil.example/healthz"),
    "a star": LATER.replace(b"/healthz", b"*"),
    "a tunnel": b"CONNECT evil.example:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a NUL": LATER.replace(b"localhost", b"local\0host"),
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "a head without an end": b"GET /" + b"a" * 70_000,
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection(server: Running, name: str) -> None:
    (answer,) = answers(server.raw(AMBIGUOUS[name] + LATER))
    answer.failed(400)
    assert HEADERS.items() <= answer.headers.items() and answer.headers["connection"] == "close"


HOSTS = [
    "",
    "localhost:",
    "localhost:x",
    "localhost:99999",
    "localhost:80:80",
    "localhost:-1",
    "local host",
    "[::1",
    "[::1]x",
    "[::1]:",
    "[]",
    "[",
    "[zz]",
    "[1::2::3]",
    "::1",
    "127.0.0.1@x",
    "localhost/",
    "localhost?",
    "localhost#",
    "http://localhost",
    "localhost\xe9",
    "\xff\xfe",
    "localhost,evil.example",
    "*",
    "a" * 300,
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_malformed_host_is_refused(server: Running, host: str) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: " + host.encode("latin-1") + b"\r\n\r\n"
    (answer,) = answers(server.raw(head + LATER))
    assert "host" in answer.failed(400)
    assert HEADERS.items() <= answer.headers.items()


def test_heads_of_the_usual_form_are_answered(server: Running) -> None:
    closed = b"Connection: close"
    for request in (
        post(LENGTH, closed),
        post(CHUNKED, closed, body=CHUNKS),
        post(LENGTH, version=b"1.0"),
        post(LENGTH, LENGTH, closed),  # RFC 9112: the same length twice counts once
        post(LENGTH, closed, host=b"hOST: LOCALHOST:80"),
        post(LENGTH, closed, host=b"Host: [0:0:0:0:0:0:0:1]:80"),
        post(LENGTH, closed, host=b"Host: localhost."),
    ):
        (answer,) = answers(server.raw(request))
        assert answer.status == 200, (request, answer.body)


def test_two_requests_at_once_are_answered_in_order(server: Running) -> None:
    first, second = answers(server.raw(post(LENGTH) + LATER.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    assert "results" in first.json() and second.json() == {"status": "ok"}


@pytest.mark.parametrize("path", ["/%00", "/..%2f..%2fetc/passwd", "/" + "a" * 5000, "/%ff%fe", "//v1/embed"])
def test_odd_paths_are_not_found_and_no_defect(server: Running, path: str) -> None:
    answer = server.send("GET", path)
    assert answer.status in (404, 405), (answer.status, answer.body)
    assert HEADERS.items() <= answer.headers.items()


def test_garbage_behind_a_running_request_ends_it(server: Running) -> None:
    connection = server.raw(post(CHUNKED, body=b'5\r\n{"tex'))
    until(lambda: server.taken == 1)
    connection.sendall(b"no chunk\r\n" * 5)
    (answer,) = answers(connection)
    answer.failed(400)
    until(lambda: server.taken == 0)


def test_a_defect_is_answered_with_the_security_headers(inverter: Inverter, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(inverter) as server:
        monkeypatch.setattr("unembed.serve.guard.fault", lambda scope: None)
        monkeypatch.setattr(server.app.state.places, "take", None)
        answer = server.post("/v1/embed", {"texts": ["a"]})
        assert "defect" in answer.failed(500)
        assert HEADERS.items() <= answer.headers.items()


@pytest.mark.parametrize(
    "sent", [b"\xff\xfe", "tök".encode(), "tök".encode("latin-1"), b"a b", TOKEN.encode() + b"\xff"]
)
def test_tokens_of_any_bytes_are_wrong_and_no_defect(guarded: Running, sent: bytes) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\nAuthorization: Bearer "
    (answer,) = answers(guarded.raw(head + sent + b"\r\n\r\n"))
    answer.failed(401)
    assert HEADERS.items() <= answer.headers.items()
    (answer,) = answers(guarded.raw(head.replace(b"Bearer", b"bearer ") + TOKEN.encode() + b"\r\n\r\n"))
    assert answer.status == 200


def test_wrong_tokens_are_slowed_for_their_address_alone(inverter: Inverter) -> None:
    with running(inverter, token=TOKEN, local=False) as server:
        for _ in range(20):
            server.send("GET", "/v1/models").failed(401)  # no token is no guess
        found = [server.send("GET", "/v1/models", authorization="Bearer wrong").status for _ in range(8)]
        assert found == [401] * 5 + [429] * 3
        held = server.send("GET", "/v1/models", authorization="Bearer wrong")
        held.failed(429)
        assert 1 <= int(held.headers["retry-after"]) <= 2
        right = server.send("GET", "/v1/models", authorization=f"Bearer {TOKEN}")
        assert right.status == 200, "who guesses locks others of the same address out"
        other = server.raw(source="127.0.0.9")
        other.sendall(f"GET /v1/models HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
        assert b"200 OK" in read_until(other, b"\r\n")
        other.close()


def test_each_further_wrong_token_doubles_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("unembed.serve.guard.time.monotonic", lambda: now[0])
    found, waits = WrongTokens(free=3, longest=10, most=2), []
    for _ in range(7):
        found.wrong("a")
        waits.append(found.wait("a"))
        now[0] += waits[-1]
    assert waits == [0, 0, 1, 2, 4, 8, 10]
    for client in "bcd":
        found.wrong(client)
    assert len(found._found) == 2


WEAK = [
    "",
    "a",
    "s3cret",
    "hunter2hunter2hunter2",
    "aaaaaaaaaaaaaaaaaaaaaaaa",
    "1234567890123456",
    "abcdefghijklmnopqrstuvwxyz",
    "passwordpassword",
    "Password12345678!",
    "unembed-token-2026",
    "abcabcabcabcabcabcabc",
    "zyxwvutsrqponmlk",
]
UNUSABLE = [
    "tökens-have-no-accents-7d1f",
    "two words 7d1f0c9ab24e6583",
    " 7d1f0c9ab24e6583",
    "7d1f0c9ab24e6583\n",
    "7d1f0c9ab24e6583\udcff",
    "\u200b7d1f0c9ab24e6583",
    "7d1f\x007d1f0c9ab24e6583",
    "7d1f0c9ab24e6583" * 40,
]
GOOD = [
    TOKEN,
    "f1d2d2f924e986ac86fdf7b36c94bcdf",
    "Zm9vYmFyYmF6cXV4MTIz+/==",
    "correcthorsebatterystaple",
    "k#9~Lq!vX2@pW$7e",
]


@pytest.mark.parametrize("token", WEAK)
def test_weak_tokens_are_refused_where_others_can_try_them(token: str) -> None:
    with pytest.raises(InputError) as caught:
        check_token(token, local=False)
    assert "openssl rand" in caught.value.do
    if token:
        assert strength(token) < 64
        check_token(token, local=True)


@pytest.mark.parametrize("token", UNUSABLE)
def test_tokens_that_clients_cannot_send_are_refused(token: str) -> None:
    for local in (True, False):
        with pytest.raises(InputError):
            check_token(token, local)


@pytest.mark.parametrize("token", GOOD)
def test_good_tokens_are_taken(inverter: Inverter, token: str) -> None:
    check_token(token, local=False)


def test_the_command_refuses_tokens_before_it_loads_a_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fails(capsys, ["serve", "--host", "0.0.0.0", "--token", "s3cret", "--model", "nothing-here"], "short", "openssl")
    fails(capsys, ["serve", "--token", "", "--model", "nothing-here"], "empty")
    monkeypatch.setenv("UNEMBED_TOKEN", "caf\udce9")
    fails(capsys, ["serve", "--model", "nothing-here"], "Character 4")
    assert json.dumps("caf") not in capsys.readouterr().err
