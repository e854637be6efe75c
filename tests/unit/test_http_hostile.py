"""A hostile embedding server: bombs, endless and useless replies end soon, in little memory, in two sentences."""

from __future__ import annotations

import gzip
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.robustness import fuzz_recipes, fuzz_replies
from tests.helpers.endpoint import EmbeddingServer, Fault, Handler, changed, raw, serving
from unembed.encoders.registry import load_encoder
from unembed.errors import EncoderError

MEMORY = 48 << 20  # bytes that a hostile reply may take


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with serving() as found:
        yield found


def compressed(content: bytes, kind: str) -> Fault:
    def fault(handler: Handler, body: dict[str, Any]) -> bool:
        handler.send(200, content, {"Content-Encoding": kind})
        return True

    return fault


def endless(handler: Handler, body: dict[str, Any]) -> bool:
    """A reply that never ends, as fast as it is read."""
    handler.send_response(200)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"[" * (1 << 16))
    except OSError:  # the client went away
        handler.close_connection = True
    return True


OBJECTS = b'{"data":[' + b"{}," * 30_000 + b"{}]}"
HOSTILE: dict[str, tuple[Fault, str]] = {
    "a gzip bomb": (compressed(gzip.compress(b"{}," * 5_000_000), "gzip"), "compresses"),
    "another compression": (compressed(b"\x28\xb5\x2f\xfd", "zstd"), "compresses"),
    "an endless stream": (endless, "more than the vectors"),
    "many objects": (raw(OBJECTS), "more than the vectors"),
    "many numbers": (raw(b'{"data":[{"embedding":[' + b"1," * 30_000 + b"1]}]}"), "more than the vectors"),
    "deep nesting": (raw(b"[" * 60_000), "more than the vectors"),
    "a long refusal": (raw(b"{}," * 5_000_000, 400), "refuses"),
    "a huge number": (raw(b'{"data":[{"index":' + b"9" * 5000 + b',"embedding":[1]}]}'), "not JSON"),
    "infinity": (changed(lambda v: v["data"][0]["embedding"].__setitem__(3, 10**400)), "neither numbers"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_refused_in_little_memory(server: EmbeddingServer, name: str) -> None:
    fault, what = HOSTILE[name]
    encoder = load_encoder(server.spec(retries=0))
    encoder.encode(["warm"])  # the dimension is known now, and the libraries are loaded
    server.faults.append(fault)
    tracemalloc.start()
    try:
        with pytest.raises(EncoderError, match=what) as caught:
            encoder.encode(["a", "b"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    assert caught.value.what.endswith(".") and caught.value.do.endswith(".") and len(str(caught.value)) < 900


def test_before_the_dimension_is_known_a_reply_is_bounded_too(server: EmbeddingServer) -> None:
    for fault in (raw(OBJECTS), endless):
        server.faults.append(fault)
        with pytest.raises(EncoderError, match="more than the vectors"):
            load_encoder(server.spec(retries=0)).encode(["a"])


def test_no_compression_is_asked_for(server: EmbeddingServer) -> None:
    load_encoder(server.spec()).encode(["a"])
    assert server.requests[-1]["headers"]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("script", [fuzz_replies, fuzz_recipes], ids=["replies", "recipes"])
def test_mutated_inputs_are_read_or_refused(script: ModuleType, tmp_path: Path) -> None:
    """300 in this process; 100,000 recipes in docs/results/fuzz-recipes.json."""
    outcomes = {"read": 0, "refused": 0}
    script.FUZZER.rehearse(tmp_path, 3)
    for record in script.fuzzing.try_cases(script.FUZZER, 0, 300, 3, tmp_path):
        if "outcome" in record:
            assert record["outcome"] in outcomes, record
            outcomes[record["outcome"]] += 1
    assert sum(outcomes.values()) == 300 and min(outcomes.values()) > 15, outcomes
