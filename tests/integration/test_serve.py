"""The contract of the API and what it promises under load, on a real server with a tiny model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.helpers.serving import LONG, SLOW, TEXTS, Running, read_until, running, some_vectors, tiny_checkpoint, until
from unembed import Inverter, plugins
from unembed.decoding.strategies.selection import surest
from unembed.decoding.strategies.table import Strategy
from unembed.metrics.cosine import row_cosine
from unembed.serve.limits import Limits
from unembed.serve.results import change_vectors


@pytest.fixture(scope="module")
def inverter(tmp_path_factory: pytest.TempPathFactory) -> Inverter:
    return Inverter.from_pretrained(tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def server(inverter: Inverter) -> Iterator[Running]:
    with running(inverter) as found:
        yield found


def test_health_and_models(server: Running, inverter: Inverter) -> None:
    assert server.send("GET", "/healthz").json() == {"status": "ok"}
    found = server.send("GET", "/v1/models").json()
    (model,) = found["models"]
    assert model["name"] == "tiny" and model["sha256"] == inverter.sha256
    assert model["dimension"] == 24 and model["limit"] == 8 and model["encoder"]["name"] == "hashing:24"
    assert {"name", "description", "random"} == set(model["strategies"][0])
    assert model["defaults"]["strategy"] == "adaptive"
    assert found["limits"]["vectors"] == 64


def test_a_registered_strategy_is_listed_and_answers(inverter: Inverter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_registered", {("strategy", "mine"): Strategy(surest)})
    body = {"vectors": some_vectors(2), "options": {"strategy": "mine", "passes": 4}}
    with running(inverter) as server:
        (model,) = server.send("GET", "/v1/models").json()["models"]
        assert {"name": "mine", "description": "of a plug-in", "random": False} in model["strategies"]
        texts = [row["text"] for row in server.post("/v1/invert", body).json()["results"]]
        body["options"]["strategy"] = "confidence"
        assert texts == [row["text"] for row in server.post("/v1/invert", body).json()["results"]]


def test_embed_cuts_texts_to_what_is_embedded(server: Running, inverter: Inverter) -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    found = server.post("/v1/embed", {"texts": [TEXTS[0], long]}).json()
    first, second = found["results"]
    assert first["text"] == TEXTS[0] and not first["truncated"] and first["tokens"] == TEXTS[0].split()
    assert second["truncated"] and len(second["tokens"]) == 8
    own = inverter.encoder.encode([first["text"], second["text"]])
    assert np.allclose([first["vector"], second["vector"]], own, atol=1e-6)
    assert -1 <= found["floor"] <= 1 and "mean" in found["floor_source"]


@pytest.mark.parametrize("strategy", ["adaptive", "remdm", "left-to-right", "draft-correct"])
def test_invert_answers_as_the_library_does(server: Running, inverter: Inverter, strategy: str) -> None:
    vectors = some_vectors(3)
    options = {"strategy": strategy, "passes": 4, "seed": 5}
    body = {"vectors": vectors, "options": options, "tokens": True, "alternatives": True, "trace": True}
    found = server.post("/v1/invert", body).json()
    own = inverter.invert(np.array(vectors, dtype=np.float32), trace=True, **options)
    assert found["seconds"] > 0 and len(found["results"]) == 3
    for result, recovery in zip(found["results"], own, strict=True):
        assert result["text"] == recovery.text and result["length"] == recovery.length
        assert result["confidence"] == pytest.approx(recovery.confidence, abs=1e-6)
        assert result["passes"] == recovery.passes and result["queries"] == 0
        assert [token["id"] for token in result["tokens"]] == list(recovery.token_ids)
        assert [other["text"] for other in result["alternatives"]] == [o.text for o in recovery.alternatives]
        assert recovery.trace is not None and len(result["trace"]) == len(recovery.trace.steps)
        assert any(token["alternatives"] for token in result["tokens"])
    vectors_of = inverter.encoder.encode([inverter.tokenizer.decode(r.token_ids) for r in own])
    expected = row_cosine(vectors_of, np.array(vectors, dtype=np.float32))
    assert [result["cosine"] for result in found["results"]] == pytest.approx(expected.tolist(), abs=1e-5)


def test_what_is_not_asked_for_is_left_out(server: Running) -> None:
    (result,) = server.post("/v1/invert", {"texts": [TEXTS[0]]}).json()["results"]
    assert result["tokens"] == result["alternatives"] == result["trace"] == []


def test_the_transform_is_applied_before_inversion(server: Running, inverter: Inverter) -> None:
    vectors = np.array(some_vectors(1), dtype=np.float32)
    change = {"noise": 0.1, "bits": 3, "dimensions": 12, "seed": 4}
    body = {"vectors": vectors.tolist(), "transform": change}
    start = server.post("/v1/invert/stream", body).events()[0][1]
    changed = change_vectors(vectors, **change)
    assert np.allclose(start["vector"], changed[0] / np.linalg.norm(changed[0]), atol=1e-6)
    (result,) = server.post("/v1/invert", body).json()["results"]
    assert result["text"] == inverter.invert(changed)[0].text


def test_transforms_do_what_they_say() -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    assert (change_vectors(vectors) == vectors).all()
    assert not change_vectors(vectors, dimensions=5)[:, 5:].any()
    assert len(np.unique(change_vectors(vectors, bits=1)[0])) == 2
    assert all(len(np.unique(row)) <= 7 for row in change_vectors(vectors, bits=3))
    noise = change_vectors(vectors, noise=0.5) - vectors
    assert noise.std() == pytest.approx(0.5 * np.linalg.norm(vectors, axis=1).mean(), rel=0.05)
    assert np.allclose(change_vectors(vectors[3:4], noise=0.5), change_vectors(vectors, noise=0.5)[3:4])
    errors = [np.abs(change_vectors(vectors, bits=b) - vectors).max() for b in (2, 4, 8, 16, 31)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-6


@pytest.mark.parametrize("strategy", ["adaptive", "remdm", "left-to-right", "draft-correct"])
def test_a_stream_comes_in_order_and_ends_in_the_answer_of_invert(server: Running, strategy: str) -> None:
    body = {"texts": [TEXTS[0]], "options": {"strategy": strategy, "passes": 4}}
    answer = server.post("/v1/invert/stream", body)
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/event-stream")
    events = answer.events()
    names = [name for name, _ in events]
    assert names[0] == "start" and names[-1] == "done" and set(names[1:-1]) == {"step"}
    start, done, steps = events[0][1], events[-1][1], [value for name, value in events if name == "step"]
    assert start["original"] == TEXTS[0] and start["tokens"] == TEXTS[0].split() and 1 <= start["length_guess"] <= 8
    masked: dict[int, list[bool]] = {}
    for step in steps:
        canvas = step["canvas"]
        assert {"id", "text", "masked", "confidence", "chosen", "remasked", "alternatives"} == set(canvas[0])
        assert all(len(place["alternatives"]) <= 5 for place in canvas)
        before = masked.get(step["draft"])
        if before is not None and len(before) == len(canvas):
            for was, place in zip(before, canvas, strict=True):
                assert place["masked"] == ((was or place["remasked"]) and not place["chosen"])
        masked[step["draft"]] = [place["masked"] for place in canvas]
    assert any(place["alternatives"] for step in steps for place in step["canvas"])
    assert not any(masked[0]), "no mask is left"
    (result,) = server.post("/v1/invert", {**body, "tokens": True, "alternatives": True}).json()["results"]
    assert done["result"]["text"] == result["text"]
    assert done["cosine"] == pytest.approx(result["cosine"], abs=1e-6)
    tokens = [token["text"] for token in done["result"]["tokens"]]
    assert all(start["tokens"][i] == tokens[j] for i, j in done["aligned"])


def test_a_stream_says_what_of_a_text_was_cut(server: Running) -> None:
    text = "one two three four five six seven eight nine ten"
    start = server.post("/v1/invert/stream", {"texts": [text]}).events()[0][1]
    assert start["truncated"] and len(start["tokens"]) == 8 and start["rest"]
    pieces = [token.removeprefix("##") for token in [*start["tokens"], *start["rest"]]]
    assert "".join(pieces) == text.replace(" ", "")
    assert start["unlike"] is None  # the tiny model has no counts of its training texts
    start = server.post("/v1/invert/stream", {"texts": [TEXTS[0]]}).events()[0][1]
    assert not start["truncated"] and start["rest"] == []
    start = server.post("/v1/invert/stream", {"vectors": some_vectors(1)}).events()[0][1]
    assert start["original"] is start["unlike"] is None and start["rest"] == []


def test_a_beam_is_shown_while_it_grows(server: Running) -> None:
    body = {"vectors": some_vectors(1), "options": {"strategy": "draft-correct", "beam": 4, "passes": 2}}
    names = [name for name, _ in server.post("/v1/invert/stream", body).events()]
    previews = names.count("preview")
    assert previews and names[: previews + 1] == ["start", *["preview"] * previews]
    assert set(names[previews + 1 : -1]) == {"step"} and names[-1] == "done"


def test_a_stream_shows_steps_before_it_is_done(server: Running) -> None:
    connection = server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": LONG})
    early = read_until(connection, b"event: step")
    assert b"event: done" not in early
    assert b"event: done" in read_until(connection, b"event: done")
    connection.close()


def test_requests_are_joined_and_nothing_is_mixed_up(inverter: Inverter) -> None:
    """Each of many clients gets the answer that it gets alone."""
    vectors = some_vectors(24, seed=1)
    options = {"strategy": "remdm", "passes": 16, "samples": 1, "lengths": 2}
    alone = [r.text for r in inverter.invert(np.array(vectors, dtype=np.float32), **options)]
    assert len(set(alone)) > 12
    with running(inverter, batch=8) as server, ThreadPoolExecutor(24) as pool:
        bodies = [{"vectors": [vector], "options": options} for vector in vectors]
        found = list(pool.map(lambda body: server.post("/v1/invert", body).json(), bodies))
        assert [answer["results"][0]["text"] for answer in found] == alone
        assert max(server.engine.joined) > 1, server.engine.joined
        assert max(server.engine.joined) <= 16, "texts; of vectors at most 8"
        server.engine.joined.clear()
        big = {"vectors": vectors, "options": options}
        small = {"vectors": vectors[:1], "options": {**options, "strategy": "euler"}}
        both = list(pool.map(lambda body: server.post("/v1/invert", body).json(), [big, small]))
        assert [result["text"] for result in both[0]["results"]] == alone
        assert both[1]["results"][0]["text"] == inverter.invert(vectors[0], **small["options"])[0].text


def test_without_batching_nothing_is_joined(inverter: Inverter) -> None:
    with running(inverter, batch=1) as server, ThreadPoolExecutor(6) as pool:
        bodies = [{"vectors": [vector]} for vector in some_vectors(6)]
        found = list(pool.map(lambda body: server.post("/v1/invert", body).status, bodies))
        assert set(found) == {200} and set(server.engine.joined) == {1}


def test_a_short_request_does_not_wait_for_a_long_one(server: Running) -> None:
    long = server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": SLOW})
    early = read_until(long, b"event: step")
    assert server.post("/v1/invert", {"vectors": some_vectors(1), "options": {"passes": 2}}).status == 200
    until(lambda: server.taken == 1)  # the place of the short one is free when its answer has been read
    assert b"event: done" not in early, "the long one still runs"
    long.close()
    until(lambda: server.idle)


def test_a_full_queue_answers_503_and_a_client_that_leaves_frees_its_place(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, places=2)) as server:
        body: dict[str, Any] = {"vectors": some_vectors(1), "options": SLOW}
        stream = server.begin("/v1/invert/stream", body)
        read_until(stream, b"event: step")
        whole = server.begin("/v1/invert", {"vectors": some_vectors(64), "options": SLOW})
        until(lambda: server.taken == 2)
        refused = server.post("/v1/invert", body)
        assert "places" in refused.failed(503) and int(refused.headers["retry-after"]) >= 1
        assert server.send("GET", "/healthz").status == 200
        stream.close()
        until(lambda: server.taken == 1)
        whole.close()  # 64 vectors would take minutes
        until(lambda: server.idle)
        assert server.post("/v1/invert", {"vectors": some_vectors(1)}).status == 200


def test_a_request_that_takes_too_long_ends(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, request_seconds=0.5)) as server:
        body = {"vectors": some_vectors(64), "options": SLOW}
        assert "too long" in server.post("/v1/invert", body).failed(503)
        (*_, last) = server.post("/v1/invert/stream", {**body, "vectors": some_vectors(1)}).events()
        assert last[0] in ("error", "done")
        until(lambda: server.idle)


def test_shutdown_finishes_what_runs(inverter: Inverter) -> None:
    server = Running(inverter, Limits(rate=0, closing_seconds=60))
    connection = server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": LONG})
    early = read_until(connection, b"event: step")
    ending = threading.Thread(target=server.stop)
    ending.start()
    rest = early + read_until(connection, b"event: done")
    assert b"event: done" in rest
    connection.close()
    ending.join(60)
    assert not ending.is_alive() and not server.engine.busy
    with pytest.raises(OSError):
        server.raw().close()


def test_requests_of_other_options_take_turns(server: Running) -> None:
    """Two streams at once: steps of both come in between, none waits for the other's end."""
    bodies = [{"vectors": some_vectors(1, seed), "options": {**SLOW, "seed": seed}} for seed in (1, 2)]
    both = [server.begin("/v1/invert/stream", body) for body in bodies]
    early = [read_until(connection, b"event: step") for connection in both]
    assert not any(b"event: done" in part for part in early)
    for connection in both:
        connection.close()
    until(lambda: server.idle)
