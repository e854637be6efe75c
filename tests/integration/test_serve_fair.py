"""One client cannot take everything: places, turns and refinements are shared among those who ask."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.serving import SLOW, Running, read_until, running, some_vectors, tiny_checkpoint, until
from unembed import Inverter
from unembed.serve.guard import client_at
from unembed.serve.jobs import Shares
from unembed.serve.limits import Busy, Limits, Place, Places

OTHER = "127.0.0.2"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("serve") / "tiny", token_prior=True)


@pytest.fixture(scope="module")
def inverter(checkpoint: Path) -> Inverter:
    return Inverter.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="module")
def server(inverter: Inverter) -> Iterator[Running]:
    with running(inverter, Limits(rate=0)) as found:
        yield found


def test_the_client_with_most_places_gives_its_latest_to_another(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, places=4)) as server:
        body = {"vectors": some_vectors(64), "options": SLOW}
        greedy = []
        for count in range(1, 5):
            greedy.append(server.begin("/v1/invert", body))
            until(lambda count=count: server.taken == count)  # type: ignore[misc]
        server.post("/v1/invert", {"vectors": some_vectors(1)}).failed(503)
        other = server.begin("/v1/invert", {"vectors": some_vectors(1)}, source=OTHER)
        refused = read_until(greedy[3], b"hint")
        assert b" 503 " in refused and b"Another client" in refused and b"retry-after" in refused
        assert b" 200 " in read_until(other, b"\r\n")
        assert server.taken >= 3, "the others of the greedy client go on"
        for connection in (*greedy, other):
            connection.close()
        until(lambda: server.idle)


def test_a_stream_that_loses_its_place_says_so(inverter: Inverter) -> None:
    with running(inverter, Limits(rate=0, places=2)) as server:
        streams = []
        for _ in range(2):
            streams.append(server.begin("/v1/invert/stream", {"vectors": some_vectors(1), "options": SLOW}))
            read_until(streams[-1], b"event: step")
        other = server.begin("/v1/invert", {"vectors": some_vectors(1)}, source=OTHER)
        assert b" 200 " in read_until(other, b"\r\n")
        assert b"Another client" in read_until(streams[1], b"hint")
        for connection in (*streams, other):
            connection.close()
        until(lambda: server.idle)


def test_a_single_row_overtakes_the_many_of_a_greedy_client(server: Running) -> None:
    """The same options, so that all wait for the same batches; a batch takes from each client in turn."""
    options = {"strategy": "remdm", "passes": 16, "lengths": 1, "samples": 4, "temperature": 1.0}
    greedy = [server.begin("/v1/invert", {"vectors": some_vectors(64), "options": options}) for _ in range(8)]
    until(lambda: server.taken == 8 and server.engine.busy)
    other = server.begin("/v1/invert", {"vectors": some_vectors(1), "options": options}, source=OTHER)
    assert b" 200 " in read_until(other, b"\r\n")
    assert server.taken >= 8, "none of the 8 is answered yet"
    for connection in (*greedy, other):
        connection.close()
    until(lambda: server.idle)


def test_refinements_of_one_client_leave_one_for_another(server: Running) -> None:
    body = {"vectors": some_vectors(1), "options": {"passes": 2}, "queries": 2000}
    greedy = [server.begin("/v1/invert", body) for _ in range(6)]
    until(lambda: server.taken == 6 and server.engine.busy)
    other = server.begin("/v1/invert", {**body, "queries": 4}, source=OTHER)
    assert b" 200 " in read_until(other, b"\r\n")
    assert server.taken >= 4
    for connection in (*greedy, other):
        connection.close()
    until(lambda: server.idle)


def test_places_are_shared_evenly_in_the_end() -> None:
    async def run() -> None:
        places, chance = Places(12), random.Random(0)
        held: dict[str, list[Place]] = {name: [] for name in "abc"}
        for _ in range(12):
            places.take("a", 60)
        with pytest.raises(Busy):
            places.take("a", 60)
        for _ in range(200):
            name = chance.choice("abc")
            try:
                held[name].append(places.take(name, 60))
            except Busy:
                pass
            assert places.taken == 12
        assert {name: len(places._held[name]) for name in "abc"} == {"a": 4, "b": 4, "c": 4}
        for place in [place for found in held.values() for place in found]:
            places.leave(place, 1.0)
            places.leave(place, 1.0)  # one that was taken away leaves too
        assert places.taken <= 4

    asyncio.run(run())


def test_a_client_that_comes_begins_with_the_least_of_the_others() -> None:
    shares = Shares()
    shares.enter("a")
    shares.charge(["a"], 5.0)
    shares.enter("b")
    assert shares.spent("b") == 5.0, "it gets no credit for the time before"
    shares.charge(["a", "a", "b"], 3.0)
    assert (shares.spent("a"), shares.spent("b")) == (7.0, 6.0)
    assert shares.least("ab") == 6.0 and shares.least("") < 0
    shares.leave("b")
    shares.charge(["b"], 1.0)
    assert shares.spent("b") == 0.0


def test_clients_are_told_apart_by_what_they_cannot_change_at_will() -> None:
    assert client_at("127.0.0.1") == client_at("::ffff:127.0.0.1") == "127.0.0.1"
    assert client_at("2001:db8::1") == client_at("2001:db8::ffff:1") != client_at("2001:db8:0:1::1")
    assert client_at("fe80::1%eth0") == client_at("fe80::2%eth1")
    assert client_at("::1") == "::1" and client_at("") == ""
