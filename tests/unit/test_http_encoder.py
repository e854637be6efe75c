"""Encoders behind an endpoint, against a real server that misbehaves: a right answer, or two sentences; never a key."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.endpoint import KEY, EmbeddingServer, changed, dripping, dropped, raw, serving, slow, status
from unembed.encoders.endpoint import parse_endpoint
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.pacing import Usage
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder, load_matching
from unembed.encoders.replies import read_reply, refusal, wait_asked_for
from unembed.errors import EncoderError, EncoderMismatchError, InputError

ROOT = Path(__file__).resolve().parents[2]
WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()
TEXTS = [" ".join(np.random.default_rng(i).choice(WORDS, 2 + i % 7)) for i in range(50)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddingServer]:
    """A server; no key in the environment and no proxy between."""
    for name in ("UNEMBED_API_KEY", "OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as found:
        yield found


def right(texts: list[str], dimension: int = 16) -> np.ndarray:
    return HashingEncoder(dimension).encode(texts)


# What is asked for, and what comes back.


@pytest.mark.parametrize("form", ["float", "base64"])
def test_vectors_come_back_in_the_order_of_the_texts(server: EmbeddingServer, form: str) -> None:
    """Batches are answered out of order here: the first one last, and rows within a reply backwards."""
    server.faults.extend([lambda *_: False, slow(0.3), slow(0.1)])
    encoder = load_encoder(server.spec(encoding_format=form, batch_size=7, concurrency=4))
    vectors = encoder.encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, right(TEXTS), atol=1e-6)
    assert [len(r["body"]["input"]) for r in server.requests].count(7) == 7 and len(server.requests) == 8
    assert {r["body"]["encoding_format"] for r in server.requests} == {form}
    assert all("Authorization" not in r["headers"] for r in server.requests)
    assert encoder.encode([]).shape == (0, 16) and len(server.requests) == 8
    assert isinstance(encoder, Encoder)


def test_float64_in_base64_is_read_where_the_dimension_is_known(server: EmbeddingServer) -> None:
    server.packed_as = "<f8"
    encoder = load_encoder(server.spec(encoding_format="base64", dimensions=16))
    np.testing.assert_allclose(encoder.encode(TEXTS[:3]), right(TEXTS[:3]), atol=1e-6)


def test_batches_are_bounded_by_tokens_and_a_long_text_goes_alone(server: EmbeddingServer) -> None:
    texts = ["a " * 30] * 4 + ["b " * 500] + ["a " * 30]  # 16 tokens each, then 251
    encoder = load_encoder(server.spec(batch_tokens=40))
    np.testing.assert_allclose(encoder.encode(texts), right(texts), atol=1e-6)
    assert sorted(len(r["body"]["input"]) for r in server.requests) == [1, 1, 2, 2]


def test_dimensions_prompt_and_empty_texts(server: EmbeddingServer) -> None:
    encoder = load_encoder(server.spec(dimensions=8, prompt="the"), prompt="query: ")
    assert encoder.dimension == 8 and not server.requests  # the spec says it, nothing is asked
    assert encoder.encode(["tree", ""]).shape == (2, 8)
    assert server.requests[0]["body"]["input"] == ["query: tree", "query: "]
    assert server.requests[0]["body"]["dimensions"] == 8
    assert encoder.identity.prompt == "query: " and encoder.identity.normalised
    assert encoder.name == "endpoint:tiny?dimensions=8"
    load_encoder(server.spec()).encode([""])
    assert server.requests[-1]["body"]["input"] == [" "]


def test_usage_counts_tokens_and_cost(server: EmbeddingServer) -> None:
    encoder = load_encoder(server.spec(batch_size=10, price=50))
    encoder.encode(TEXTS)
    tokens = sum(len(text.split()) for text in TEXTS)
    assert (encoder.usage.requests, encoder.usage.texts, encoder.usage.tokens) == (5, 50, tokens)
    assert encoder.usage.cost == pytest.approx(tokens * 50 / 1e6) and not encoder.usage.estimated
    server.counts = False
    encoder.encode(["one two three four"])
    assert encoder.usage.estimated == 5 and encoder.usage.tokens == tokens + 5
    assert "(5 of them estimated), cost" in str(encoder.usage)
    assert "cost" not in str(Usage(tokens=3))


# The identity.


def test_identity_loads_again_and_another_model_is_refused(server: EmbeddingServer) -> None:
    server.reported = "tiny-2026-11"
    encoder = load_encoder(server.spec(batch_size=2))
    identity = EncoderIdentity.from_dict(json.loads(json.dumps(encoder.identity.to_dict())))
    assert (identity.dimension, identity.normalised, identity.revision) == (16, True, "tiny-2026-11")
    assert load_matching(identity, server.spec()).identity == identity
    with pytest.raises(EncoderMismatchError, match="24 dimensions"):
        identity.check(load_encoder(server.spec("other")))
    server.models["tiny"] = server.models["other"]
    with pytest.raises(EncoderMismatchError):
        load_matching(identity, server.spec())


def test_openai_names_use_openais_address_and_key(server: EmbeddingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_endpoint("openai:text-embedding-3-small").url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.key = KEY
    encoder = load_encoder("openai:tiny?tokenizer=hashing:8&dimensions=4&price=0.02")
    assert encoder.name == "endpoint:tiny?dimensions=4"
    assert encoder.encode(["a"]).shape == (1, 4)
    assert server.requests[0]["headers"]["Authorization"] == f"Bearer {KEY}"


def test_the_tokenizer_is_minilms_unless_another_is_named(server: EmbeddingServer, tmp_path: Path) -> None:
    minilm = load_encoder(f"{server.url}?model=tiny").tokenizer_json()
    assert minilm is not None and json.loads(minilm)["model"]["vocab"]["##ing"] > 0
    (tmp_path / "tokenizer.json").write_text(HashingEncoder().tokenizer_json())
    named = load_encoder(f"{server.url}?model=tiny&tokenizer={tmp_path}")
    assert named.tokenizer_json() == HashingEncoder().tokenizer_json()
    with pytest.raises(EncoderError, match="no tokenizer"):
        load_encoder(f"{server.url}?model=tiny&tokenizer=nowhere.json").tokenizer_json()


# What may pass is repeated.

PASSING = {
    "busy": status(429, "Rate limit reached", Retry_After="0.05"),
    "busy-ms": status(429, "Rate limit reached", retry_after_ms="30"),
    "failed": status(500, "boom"),
    "gateway": raw(b"<html>502 Bad Gateway</html>", 502),
    "slow": slow(2.0),
    "dripping": dripping,
    "truncated": raw(b'{"data": [' + b" " * 400, short=200),
    "cut JSON": raw(b'{"data": [{"ind'),
    "not JSON": raw(b"<html>hello</html>"),
    "dropped": dropped,
}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_repeated_and_nothing_is_lost(server: EmbeddingServer, name: str) -> None:
    server.faults.extend([lambda *_: False, PASSING[name], PASSING[name], lambda *_: False])
    # An answer that is only waited for on a busy machine is no retry: little time where a fault needs it to be one.
    encoder = load_encoder(server.spec(batch_size=10, timeout=1.2 if name in ("slow", "dripping") else 10))
    np.testing.assert_allclose(encoder.encode(TEXTS), right(TEXTS), atol=1e-6)
    assert encoder.usage.retries == 2 and encoder.usage.requests == 5 and encoder.usage.texts == 50


@pytest.mark.parametrize("name", PASSING)
def test_what_does_not_pass_ends_in_two_sentences(server: EmbeddingServer, name: str) -> None:
    server.faults.extend([PASSING[name]] * 2)
    with pytest.raises(EncoderError) as caught:
        load_encoder(server.spec(retries=1, timeout=0.3)).encode(["a"])
    assert caught.value.what.startswith(f"The endpoint {server.url} (tiny) ")
    assert caught.value.what.endswith(", 2 times.") and caught.value.do.endswith(".")
    assert len(server.requests) == 2


def test_retry_after_is_obeyed_by_all_threads(server: EmbeddingServer) -> None:
    # What is under way beside the refused request is answered late, so that by then the refusal has been read.
    server.faults.extend([lambda *_: False, status(429, Retry_After="1"), lambda *_: time.sleep(0.5) or False])
    load_encoder(server.spec(batch_size=5, concurrency=2)).encode(TEXTS)
    times = [r["at"] for r in server.requests]
    assert len(times) == 11 and min(times[3:]) - times[1] > 0.9


def test_a_pause_that_is_too_long_is_an_error(server: EmbeddingServer) -> None:
    server.faults.append(status(429, "come back tomorrow", Retry_After="86400"))
    began = time.monotonic()
    with pytest.raises(EncoderError, match="asks to wait 86400 s"):
        load_encoder(server.spec()).encode(["a"])
    assert time.monotonic() - began < 5


def test_times_to_wait_are_read_as_seconds_or_dates() -> None:
    assert wait_asked_for({"retry-after": "2"}) == 2
    assert wait_asked_for({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert 5 < (wait_asked_for({"retry-after": formatdate(time.time() + 8, usegmt=True)}) or 0) <= 8
    assert wait_asked_for({"retry-after": formatdate(time.time() - 100, usegmt=True)}) == 0
    assert wait_asked_for({"retry-after": "soon"}) is None and wait_asked_for({}) is None
    assert wait_asked_for({"retry-after": "nan"}) is None


def test_a_server_that_is_not_there(server: EmbeddingServer) -> None:
    with pytest.raises(EncoderError, match=r"cannot be reached .* 2 times\."):
        load_encoder("http://127.0.0.1:9/v1?model=tiny&tokenizer=hashing&retries=1&backoff=0").encode(["a"])


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["data", "embedding", "index", "usage", "total_tokens", "error", "message", "code"]),
                inner,
            )
        ),
        max_leaves=12,
    )
)
def test_any_json_is_vectors_or_an_error_of_ours(value: object) -> None:
    """Whatever a server sends: two sentences, never a stack trace, and no key."""
    wrapped = {"data": [{"embedding": value, "index": 0}], "usage": value}
    for body in (value, wrapped):
        try:
            reply = read_reply(body, 1, "here")
            assert reply.vectors.shape[0] == 1 and np.isfinite(reply.vectors).all()
        except EncoderError:
            pass
    said, _ = refusal(500, json.dumps({"error": value, "message": KEY}).encode(), KEY)
    assert KEY not in said and said.startswith("500") and len(said) < 250


def test_hostile_replies_are_bounded(server: EmbeddingServer) -> None:
    server.faults.append(raw(b"[" * 100_000))
    with pytest.raises(EncoderError, match="more than the vectors"):
        load_encoder(server.spec()).encode(["a"])
    server.faults.append(raw(b"\x00\x1b[31m" * 999, 400))
    with pytest.raises(EncoderError, match=r"refuses .400") as caught:
        load_encoder(server.spec()).encode(["a"])
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 600
    server.faults.append(changed(lambda v: v["data"][0]["embedding"].__setitem__(0, 1e39)))
    with pytest.raises(EncoderError, match="not finite"):
        load_encoder(server.spec()).encode(["a"])
    with pytest.raises(EncoderError, match=r"cannot be used|cannot be reached"):
        load_encoder("http://exa mple/v1?model=a&retries=0").encode(["a"])


# What does not pass is an error at once.

WRONG = {
    "count": (changed(lambda v: v["data"].pop()), "answered with 2 vectors for 3 texts"),
    "index": (changed(lambda v: v["data"][0].update(index=0)), "answered with 3 vectors for 3 texts"),
    "dimension": (changed(lambda v: v["data"][1]["embedding"].pop()), "15 dimensions where 16 were expected"),
    "empty": (changed(lambda v: [d.update(embedding=[]) for d in v["data"]]), "0 dimensions"),
    "words": (changed(lambda v: v["data"][0].update(embedding=["a"] * 16)), "neither numbers nor base64"),
    "broken base64": (changed(lambda v: v["data"][0].update(embedding="A!")), "neither numbers nor base64"),
    "NaN": (changed(lambda v: v["data"][0]["embedding"].__setitem__(3, float("nan"))), "not finite"),
    "other JSON": (raw(b"[1, 2]"), "without a list of vectors"),
    "bad request": (status(400, "input too long"), r"refuses \(400: input too long\)"),
    "too large": (status(413, "payload"), "refuses .413"),
    "moved": (status(307, "elsewhere", Location="http://127.0.0.1:9/"), "refuses .307"),
    "quota": (status(429, "no money", code="insufficient_quota"), "no money"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_answers_are_errors_at_once(server: EmbeddingServer, name: str) -> None:
    fault, message = WRONG[name]
    server.faults.append(fault)
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder(server.spec()).encode(TEXTS[:3])
    assert len(server.requests) == 1 and caught.value.do.endswith(".")


def test_another_dimension_in_a_later_batch_stops_the_rest(server: EmbeddingServer) -> None:
    """The dimension that the first reply had, or the spec asks for, holds for all."""
    server.faults.extend([lambda *_: False] * 2)
    server.faults.append(changed(lambda v: [d["embedding"].pop() for d in v["data"]]))
    with pytest.raises(EncoderError, match="15 dimensions where 16"):
        load_encoder(server.spec(batch_size=1, concurrency=1)).encode(TEXTS)
    assert len(server.requests) < 10
    with pytest.raises(EncoderError, match="16 dimensions where 99"):
        load_encoder(server.spec(dimensions=99)).encode(["a"])


def test_an_unknown_model_and_texts_that_are_none(server: EmbeddingServer) -> None:
    with pytest.raises(EncoderError, match="The model nothing does not exist") as caught:
        load_encoder(server.spec("nothing")).encode(["a"])
    assert caught.value.do == "Check the address and whether the server has the model 'nothing'."
    for bad in (["a", 3], ["\ud800"]):
        with pytest.raises(InputError):
            load_encoder(server.spec()).encode(bad)  # type: ignore[arg-type]


# The key.


# Pace.


# All of it together.
