"""What a server is told and what it costs: specs, keys, limits of requests and tokens, and the commands."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_http_encoder import ROOT, TEXTS, WORDS, server  # noqa: F401

from tests.helpers.endpoint import KEY, EmbeddingServer, dropped, status
from unembed.cli import main
from unembed.data.shards import ShardDataset
from unembed.encoders.pacing import RequestPace
from unembed.encoders.registry import load_encoder
from unembed.errors import EncoderError
from unembed.inverter import Inverter
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("http://127.0.0.1:1/v1", "names no model"),
        ("openai:", "names no model"),
        ("http://?model=a", "cannot be read"),
        ("http://host:port/?model=a", "cannot be read"),
        ("http://me:secret@host/v1?model=a", "holds a user or a password"),
        ("http://host/v1?model=a&batchsize=3", "no option 'batchsize'"),
        ("http://host/v1?model=a&api_key=secret", "no option 'api_key'"),
        ("http://host/v1?model=a&batch_size=secret", "batch_size is not a whole number"),
        ("http://host/v1?model=a&batch_size=0", "batch_size is 0"),
        ("http://host/v1?model=a&retries=-1", "retries is -1"),
        ("http://host/v1?model=a&timeout=inf", "timeout is not a number"),
        ("http://host/v1?model=a&encoding_format=xml", "encoding_format is 'xml'"),
    ],
)
def test_specs_that_make_no_sense(spec: str, message: str) -> None:
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder(spec)
    assert "secret" not in str(caught.value)
    with pytest.raises(EncoderError, match="no option 'device'"):
        load_encoder("openai:a", device="cpu")


@pytest.mark.parametrize("spec", ["openai:text-embedding-3-small", "http://127.0.0.1:9/v1?model=m&key_env=HOUSE_KEY"])
def test_a_key_that_is_missing_is_said_before_anything_is_read_or_made(
    server: EmbeddingServer, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variable = "OPENAI_API_KEY" if spec.startswith("openai:") else "HOUSE_KEY"
    out = ["--shards", str(tmp_path / "new" / "shards")]
    for arguments in (
        ["embed", str(tmp_path / "absent.txt"), "--encoder", spec, *out],
        ["evaluate", str(tmp_path / "absent.txt"), "--encoder", spec, "--out", str(tmp_path / "new")],
        ["invert", str(ROOT / "examples" / "vectors.parquet"), "--queries", "2", "--encoder", spec],
    ):
        assert main(arguments) == 2
        what, do = capsys.readouterr().err.strip().splitlines()
        assert "wants an API key" in what and do == f"Set it: export {variable}=..."
    assert not (tmp_path / "new").exists()


def test_no_key_appears_anywhere(
    server: EmbeddingServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Not in shards, logs (every library's, at DEBUG), output or messages, though the server repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("HOUSE_KEY", KEY)
    server.key = KEY
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    spec = server.spec(key_env="HOUSE_KEY", price=2)
    arguments = ["embed", str(tmp_path / "texts.txt"), "--encoder", spec, "--shards", str(tmp_path / "s"), "--json"]
    server.faults.extend([status(500, f"crash with Bearer {KEY}"), dropped])
    assert main(arguments) == 0
    assert server.requests[-1]["headers"]["Authorization"] == f"Bearer {KEY}"
    encoder = load_encoder(spec)
    server.key = "another"
    with pytest.raises(EncoderError) as caught:
        encoder.encode(["a"])
    assert "Bearer ***" in caught.value.what and caught.value.do == "Check the key in HOUSE_KEY."
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain += [str(error), repr(error)]
        error = error.__cause__ or error.__context__
    monkeypatch.delenv("HOUSE_KEY")
    with pytest.raises(EncoderError, match="401") as without:
        encoder.encode(["a"])
    assert without.value.do == "Put a key into the environment variable HOUSE_KEY."
    monkeypatch.setenv("HOUSE_KEY", KEY + "\nX-Other: 1")
    with pytest.raises(EncoderError, match="HOUSE_KEY holds no API key") as broken:
        load_encoder(spec).encode(["a"])
    captured = capsys.readouterr()
    files = [path.read_bytes() for path in (tmp_path / "s").iterdir()]
    assert len(files) == 5 and KEY.encode() not in b"".join(files)
    shown = [captured.out, captured.err, caplog.text, str(broken.value), repr(vars(encoder)), *chain]
    assert KEY not in "".join(shown) and caplog.text


def test_requests_and_tokens_a_window_are_bounded() -> None:
    """Six threads, 20 requests: no window of 0.3 s holds more than 4 requests or 50 tokens."""
    for pace, most in ((RequestPace(requests=4, window=0.3), 4), (RequestPace(tokens=50, window=0.3), 5)):
        times: list[float] = []
        stop = threading.Event()

        def work(pace: RequestPace = pace, times: list[float] = times, stop: threading.Event = stop) -> None:
            for _ in range(2):
                times.append(pace.enter(10, stop)[0])

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        times.sort()
        assert len(times) == 12
        assert all(b - a >= 0.3 for a, b in zip(times, times[most:], strict=False))


def test_a_request_above_the_limit_goes_alone_and_counts_are_corrected() -> None:
    pace, stop = RequestPace(tokens=50, window=0.3), threading.Event()
    big = pace.enter(500, stop)
    after = pace.enter(1, stop)
    assert after[0] - big[0] >= 0.3
    pace.correct(after, 50)
    assert pace.enter(1, stop)[0] - after[0] >= 0.3
    stop.set()
    assert time.monotonic() - pace.enter(50, stop)[0] < 0.1  # a stopped wait is none


def test_the_rate_limit_of_a_spec_is_kept(server: EmbeddingServer) -> None:
    encoder = load_encoder(server.spec(batch_size=1, requests_per_minute=3))
    encoder._pace._window = 0.5  # a minute is too long for a test
    encoder.encode(TEXTS[:7])
    times = sorted(r["at"] for r in server.requests)
    assert all(b - a > 0.4 for a, b in zip(times, times[3:], strict=False))


def test_embed_train_doctor_and_invert_through_a_server(
    server: EmbeddingServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small model learns 24 sentences from a server's vectors and gives them back."""
    texts = sorted({" ".join(np.random.default_rng(i).choice(WORDS, 3 + i % 2)) for i in range(24)})
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    spec = server.spec(price=0.5, batch_size=8)
    server.faults.extend([status(429, Retry_After="0.01"), dropped])
    arguments = ["embed", str(tmp_path / "texts.txt"), "--encoder", spec, "--shards", str(tmp_path / "shards")]
    assert main(arguments) == 0
    tokens = sum(len(t.split()) for t in texts)
    note = capsys.readouterr().err
    assert "2 repeated" in note and "at 0.5 a million tokens" in note and "endpoint:tiny: " in note
    dataset = ShardDataset(tmp_path / "shards")
    assert len(dataset) == len(texts) and dataset.identity.name == load_encoder(spec).name
    again = [*arguments[:-2], "--out", str(tmp_path / "v.npy"), "--json"]
    assert main(again) == 0
    usage = json.loads(capsys.readouterr().out)["usage"]
    assert usage["tokens"] >= tokens and usage["cost"] == pytest.approx(usage["tokens"] * 0.5 / 1e6)
    overrides = [
        f"data.shards={str(tmp_path / 'shards')!r}", f"data.encoder={spec!r}", "data.limit=32", "data.batch_size=24",
        "model.width=64", "model.layers=2", "model.heads=4", "objective.shortlist_frequent=0", "optimizer.warmup=10",
        "objective.causal_share=0", "optimizer.lr=4e-3", "optimizer.ema=0.9", "run.steps=150", "run.precision='fp32'",
        "run.compile='no'", "run.threads=1", "run.validate_every=1e9", "validation.texts=2", "validation.decoded=0",
        f"validation.shards={str(tmp_path / 'shards')!r}",
    ]  # fmt: skip
    (tmp_path / "recipe.toml").write_text("")
    result = train(Recipe.load(tmp_path / "recipe.toml", overrides), tmp_path / "run", device="cpu")
    inverter = Inverter.from_pretrained(result.checkpoint)
    assert inverter.identity.name == inverter.recipe["data"]["encoder"] == "endpoint:tiny"
    kept = [path.read_bytes() for path in (*Path(result.checkpoint).iterdir(), *(tmp_path / "shards").glob("*.json"))]
    assert not [data for data in kept if b"127.0.0.1" in data], "an address is kept"
    with pytest.raises(EncoderError, match=r"'endpoint:tiny' .16 dimensions. is neither built in.*--encoder NAME"):
        inverter.invert_strings(texts)
    monkeypatch.setenv("UNEMBED_ENCODER", spec)
    found = inverter.invert_strings(texts, passes=8)
    assert np.mean([r.text == r.original for r in found]) > 0.7
    assert main(["doctor", "--model", result.checkpoint, "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["least_probe_cosine"] > 0.999
    assert main(["doctor", "--model", result.checkpoint, "--encoder", server.spec("other")]) == 2
    server.models["tiny"] = server.models["other"]
    assert main(["doctor", "--model", result.checkpoint]) == 2
    assert "24 dimensions" in capsys.readouterr().err
