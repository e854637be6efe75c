"""What a checkpoint says of its encoder is data: no address, key, hub name or folder in it is ever used."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.endpoint import EmbeddingServer, serving
from unembed.cli.app import main
from unembed.data.manifest import Manifest
from unembed.encoders.endpoint import parse_endpoint, without_address
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.registry import load_encoder, load_matching
from unembed.errors import EncoderError

SECRET = "sk-house-4417-0123456789"
GOOD = HashingEncoder(16).identity.to_dict()
NAMES = {
    "an address": "{url}?model=tiny&key_env=AWS_SECRET_ACCESS_KEY",
    "an address behind spaces": " {url}?model=tiny",
    "an address in capitals": "{capitals}?model=tiny&key_env=AWS_SECRET_ACCESS_KEY",
    "openai": "openai:tiny?key_env=AWS_SECRET_ACCESS_KEY",
    "a model behind an endpoint": "endpoint:tiny",
    "a hub name": "someone/some-model",
    "a hub name, cut": "someone/some-model?dimensions=8",
    "a folder": "/tmp",
    "a folder above": "../../encoder",
    "a home folder": "~/.cache",
    "lsa": "lsa:/tmp",
    "a built-in name as a folder": "./minilm",
    "nothing": "",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    """A server that notes what it is sent; a secret lies in the environment."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with serving() as running:
        monkeypatch.setenv("OPENAI_BASE_URL", running.url)
        yield running


def identity(name: str, **more: Any) -> EncoderIdentity:
    """An identity as a file has it."""
    return EncoderIdentity.from_dict(json.loads(json.dumps({**GOOD, "name": name, **more})))


@pytest.mark.parametrize("kind", NAMES)
def test_a_name_in_a_file_reaches_nothing(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """No connection is opened and no folder is looked into; the error says who may name an encoder."""
    known = identity(NAMES[kind].format(url=server.url, capitals=server.url.upper()))

    def refuse(*args: Any) -> None:
        raise AssertionError("a connection is opened")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        with pytest.raises(EncoderError, match="neither built in") as caught:
            load_matching(known)
    assert "--encoder NAME" in caught.value.do and "UNEMBED_ENCODER" in caught.value.do
    assert not server.requests and SECRET not in str(caught.value) and "key_env" not in str(caught.value)


def test_the_user_names_the_endpoint_and_the_variable_of_its_key(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = f"{server.url}?model=tiny&tokenizer=hashing&key_env=HOUSE_KEY"
    monkeypatch.setenv("HOUSE_KEY", "a-key-of-the-house")
    known = EncoderIdentity.from_dict(load_encoder(spec).identity.to_dict())
    assert known.name == "endpoint:tiny"
    server.requests.clear()
    load_matching(known, spec)
    monkeypatch.setenv("UNEMBED_ENCODER", spec)
    load_matching(known)
    sent = {request["headers"].get("Authorization") for request in server.requests}
    assert len(server.requests) == 2 and sent == {"Bearer a-key-of-the-house"}


def test_the_environment_does_not_replace_an_encoder_that_is_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNEMBED_ENCODER", "http://127.0.0.1:9/v1?model=tiny")
    assert load_matching(identity("hashing:16")).name == "hashing:16"
    assert load_matching(identity("hashing:16"), device="cuda:9", precision="bf16").name == "hashing:16"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("http://10.0.0.7:8000/v1?model=m&key_env=AWS_SECRET", "endpoint:m"),
        ("https://user:word@host/v1?model=a/b&dimensions=64&api_key=sk-1", "endpoint:a/b?dimensions=64"),
        ("openai:text-embedding-3-small?dimensions=256&key_env=X", "endpoint:text-embedding-3-small?dimensions=256"),
        ("http://host/v1", "endpoint:unknown"),
        ("minilm?dimensions=8", "minilm?dimensions=8"),
    ],
)
def test_names_of_earlier_versions_lose_their_address(name: str, kept: str) -> None:
    """Also those in manifests of shards, which are read by the same function and written again."""
    assert without_address(name) == kept and identity(name).name == kept


def test_an_endpoint_is_named_without_its_address(tmp_path: Path) -> None:
    for spec in ("http://10.0.0.7/v1?model=m&key_env=HOUSE&tokenizer=/home/me", "openai:m?key_env=HOUSE"):
        assert parse_endpoint(spec).name == "endpoint:m"
    with pytest.raises(EncoderError, match="and not its address"):
        load_encoder("endpoint:m")
    manifest = Manifest({**GOOD, "name": "https://user:word@host/v1?model=m&key=sk-1"}, "", 8, 100, 0, "float32", 8)
    manifest.save(tmp_path)
    Manifest.load(tmp_path).save(tmp_path)
    kept = (tmp_path / "manifest.json").read_text()
    assert '"endpoint:m"' in kept and "host" not in kept and "sk-1" not in kept


@pytest.mark.parametrize("echo", [SECRET, f"model {SECRET[:12]}", SECRET[-9:], "\x1b[31mred", "x" * 190 + SECRET])
def test_a_server_cannot_write_the_key_into_an_identity(
    server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch, echo: str
) -> None:
    """It has the key and may echo it as the name of its model; shards and checkpoints are passed on."""
    monkeypatch.setenv("UNEMBED_API_KEY", SECRET)
    server.reported = echo
    known = load_encoder(server.spec()).identity
    assert known.revision == "" and SECRET[:8] not in json.dumps(known.to_dict())


def test_a_name_that_is_recorded_stays_in_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    for change in (
        {"name": 7},
        {"name": "a" * 501},
        {"name": "\x1b[2J"},
        {"name": "\ud800"},
        {"revision": None},
        {"prompt": "a" * 10_001},
        {"normalised": 1},
        {"dimension": 1e400},
        {"dimension": True},
        {"dimension": 17},
        {"dimension": -1},
        {"probes": ["a"] * 4},
        {"probes": "abc"},
        {"probe_vectors": [[1.0] * 16] * 2},
        {"probe_vectors": [[float("nan")] * 16] * 3},
        {"probe_vectors": [["1"] * 16] * 3},
        {"extra": 1},
    ):
        with pytest.raises(EncoderError) as caught:
            EncoderIdentity.from_dict({**GOOD, **change})
        assert caught.value.what.endswith(".") and str(caught.value).isprintable()
    for value in (None, [], "x", {}):
        with pytest.raises(EncoderError, match="identity"):
            EncoderIdentity.from_dict(value)
    assert main(["embed", "x", "--encoder", "hashing:1000000000", "--out", "x.npy"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
