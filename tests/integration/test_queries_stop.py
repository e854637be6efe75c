"""Refinement that is interrupted: Ctrl-C in a real process, a server that dies, the wrong encoder; and resuming."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from test_encoders import save_model

from tests.helpers.cli import Place, Run, fails, run, start
from tests.helpers.endpoint import EmbeddingServer, Handler, dropped, serving
from unembed import Inverter, Refine
from unembed.cli import main
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.registry import load_encoder, load_matching
from unembed.errors import EncoderMismatchError, InputError

DECODING = ("--strategy", "adaptive", "--passes", "2", "--lengths", "2", "--queries", "6", "--refinement", "search")


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    with serving() as found:
        found.models["tiny"] = HashingEncoder(32)
        yield found


def well(handler: Handler, body: dict) -> bool:
    """Answer as usual."""
    return False


class Held:
    """Answers as usual, but only when it is told to."""

    def __init__(self) -> None:
        self.arrived, self.go = threading.Event(), threading.Event()

    def __call__(self, handler: Handler, body: dict) -> bool:
        self.arrived.set()
        self.go.wait(120)
        return False


@pytest.fixture(scope="module")
def model(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of `place`, with the token prior that the search needs."""
    folder = tmp_path_factory.mktemp("prior") / "run"
    shards = f'data.shards="{place.shards}"'
    args = ["train", place.recipe, "--out", folder, "--set", shards, "--set", "model.token_prior=true", "--quiet"]
    assert main([str(arg) for arg in args]) == 0
    return folder / "checkpoint"


@pytest.fixture
def invert(model: Path, tmp_path: Path, server: EmbeddingServer, capsys: pytest.CaptureFixture[str]) -> object:
    """Invert 20 vectors in batches of 4 with the server's answers."""
    vectors = tmp_path / "v.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(20, 32)).astype(np.float32))
    base = ["invert", vectors, "-m", model, *DECODING, "--batch-size", "4", "--encoder", server.spec(retries=0)]

    def call(*more: object, process: bool = False) -> object:
        return start(*base, *more) if process else run(capsys, *base, *more)

    return call


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_server_that_dies_loses_nothing(invert: object, tmp_path: Path, server: EmbeddingServer) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "o.jsonl"
    assert invert("--out", whole).code == 0
    needed = len(server.requests)
    assert needed > 8
    server.faults = deque([*[well] * (needed // 2), *[dropped] * 1000])
    died: Run = invert("--out", out)
    server.faults.clear()
    assert died.code == 2 and "cannot be reached" in died.err and "rows are finished and kept" in died.err, died
    assert "Traceback" not in died.err and not out.exists()
    done = sum(len(rows_of(p)) - 1 for p in (tmp_path / "o.jsonl.partial").glob("chunk-*"))
    assert 4 <= done < 20 and done % 4 == 0
    assert invert("--out", out, "--resume").code == 0
    assert out.read_bytes() == whole.read_bytes()
    assert all(0 < row["queries"] <= 6 and row["cosine"] is not None for row in rows_of(out))


def test_what_was_found_until_then_is_shown(invert: object, server: EmbeddingServer) -> None:
    whole: Run = invert("--json")
    rows = [json.loads(line) for line in whole.out.splitlines()]
    needed = len(server.requests)
    server.faults = deque([*[well] * (needed - 1), *[dropped] * 1000])
    died: Run = invert("--json")
    assert died.code == 2 and "last 4 rows" in died.err
    shown = [json.loads(line) for line in died.out.splitlines()]
    assert len(shown) == 20 and shown[:16] == rows[:16]
    assert all(row["text"] and -1 <= row["cosine"] <= 1.001 for row in shown[16:])
    assert 0 < sum(row["queries"] for row in shown[16:]) < sum(row["queries"] for row in rows[16:])
    assert all(one["queries"] <= row["queries"] for one, row in zip(shown[16:], rows[16:], strict=True))


def test_ctrl_c_shows_the_best_so_far(invert: object, server: EmbeddingServer) -> None:
    """The third request is the second of the first batch: its first answers are there already."""
    held = Held()
    server.faults = deque([well, well, held])
    process = invert("--json", process=True)
    assert held.arrived.wait(120), process.communicate()
    process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    held.go.set()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert err.strip().splitlines()[-1] == "Interrupted."
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 4 and all(row["text"] and row["cosine"] is not None for row in rows), (out, err)


def test_another_encoder_is_refused(
    place: Place, tmp_path: Path, server: EmbeddingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.models["tiny"] = HashingEncoder(24)
    args = ["invert", place.vectors, "-m", place.model, "--queries", "4", "--encoder", server.spec()]
    fails(capsys, args, "24 dimensions")


def test_another_pooling_is_refused(tmp_path: Path) -> None:
    """The same weights, with the vector of the first token instead of the mean."""
    mean = save_model(tmp_path / "mean", "mean", normalise=True)
    cls = save_model(tmp_path / "cls", "cls", normalise=True)

    identity = load_encoder(str(mean)).identity
    assert load_matching(identity, str(mean)).dimension == 24
    with pytest.raises(EncoderMismatchError, match="cosine"):
        load_matching(identity, str(cls))


def test_use_encoder_checks(place: Place) -> None:
    inverter = Inverter.from_pretrained(place.model, device="cpu")
    with pytest.raises(InputError, match="best-of"):
        inverter.invert(np.ones((1, 32), np.float32), refine=Refine(1))
    with pytest.raises(EncoderMismatchError):
        inverter.use_encoder(HashingEncoder(16))
    inverter.use_encoder("hashing:32")
    assert inverter.invert(np.ones((1, 32), np.float32), refine=Refine(1, "best-of"))[0].queries == 1
