"""Training end to end on tiny data: resuming, stopping, time boxes, starting from weights."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.tasks import boxed
from unembed.checkpoint.checkpoint import load_checkpoint
from unembed.data.shard_writer import write_shards
from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.errors import CheckpointError, DataError, RecipeError
from unembed.training import validation as validation_module
from unembed.training.loop import TrainingResult, train
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import ValidationPart
from unembed.training.report import read_log
from unembed.training.validation import Validation

WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts of 3 to 8 words, embedded by the hashing encoder."""
    out = tmp_path_factory.mktemp("data") / "shards"
    rng = np.random.default_rng(0)
    texts = [(" ".join(rng.choice(WORDS, rng.integers(3, 9))), "a" if i % 4 else "b") for i in range(400)]
    encoder = load_encoder("hashing:32")
    write_shards(out, texts, encoder, Tokenizer.from_json(encoder.tokenizer_json() or ""), max_length=8, shard_size=150)
    return out


def recipe(shards: Path, **run: object) -> Recipe:
    """A run of 30 steps of a tiny network, dropout on so that torch's own generator matters."""
    return Recipe.from_dict(
        {
            "model": {"width": 16, "layers": 1, "heads": 2, "prefix_tokens": 2, "dropout": 0.1, "token_prior": True},
            "data": {"shards": str(shards), "encoder": "hashing:32", "max_length": 8, "batch_size": 16},
            "objective": {"shortlist_frequent": 20, "shortlist_sampled": 10},
            "optimizer": {"lr": 3e-3, "warmup": 5, "ema": 0.9},
            "run": {"steps": 30, "precision": "fp32", "compile": "no", "threads": 1, "validate_every": 1e9, **run},
            "validation": {"texts": 32, "decoded": 8},
        }
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors of the state of a run."""
    return load_file(run / "state.safetensors")


def test_resume_equals_an_unbroken_run_bit_for_bit(shards: Path, tmp_path: Path) -> None:
    """Weights, average, optimizer and generators are equal after 30 steps in one go and in three."""
    whole = train(recipe(shards), tmp_path / "whole")
    assert whole.finished and whole.steps == 30

    def stop_at(number: int):
        def stop(step: int, loss: float) -> None:
            if step == number:
                os.kill(os.getpid(), signal.SIGTERM)

        return stop

    first = train(recipe(shards), tmp_path / "parts", on_step=stop_at(7))
    assert not first.finished and first.steps == 7
    second = train(recipe(shards), tmp_path / "parts", resume=True, on_step=stop_at(19))
    assert not second.finished and second.steps == 19
    third = train(recipe(shards), tmp_path / "parts", resume=True)
    assert third.finished and third.texts == whole.texts
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    assert whole.metrics == third.metrics


def test_batches_that_stay_small_are_said(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """368 texts of six lengths fill batches of 16; of 200, none."""
    for size, said in ((16, False), (200, True)):
        one = recipe(shards, steps=1)
        with caplog.at_level(logging.INFO, "unembed"):
            train(replace(one, data=replace(one.data, batch_size=size)), tmp_path / str(size))
        assert ("few texts of each length: batches hold 53 on average, not 200" in caplog.messages) == said


def test_a_run_leaves_log_curve_recipe_and_checkpoint(shards: Path, tmp_path: Path) -> None:
    """What the folder holds is readable and says what was done."""
    result = train(recipe(shards), tmp_path / "r")
    lines = read_log(tmp_path / "r" / "log.jsonl")
    assert {line["kind"] for line in lines} == {"train", "validation"}
    assert lines[-1]["bound"] > 0 and "adaptive/token_f1" in lines[-1]
    assert (tmp_path / "r" / "curve.png").read_bytes()[:4] == b"\x89PNG"
    assert Recipe.from_dict(json.loads((tmp_path / "r" / "recipe.json").read_text())) == recipe(shards)
    checkpoint = load_checkpoint(result.checkpoint)
    assert checkpoint.notes["steps"] == 30
    assert checkpoint.identity["name"] == "hashing:32"
    assert checkpoint.denoiser.token_gate.weight.abs().max() > 0


def test_validation_is_seeded(shards: Path, tmp_path: Path) -> None:
    """The same weights give the same figures every time."""
    a = train(recipe(shards), tmp_path / "a").metrics
    b = train(recipe(shards), tmp_path / "b").metrics
    assert a == b
    other = train(replace(recipe(shards), run=replace(recipe(shards).run, seed=1)), tmp_path / "c").metrics
    assert a != other


def test_the_time_box_fixes_the_horizon_from_a_timing(shards: Path, tmp_path: Path) -> None:
    """Under --max-time the horizon is a number of steps, the box is kept, and the rate ends near zero."""

    def timed(seconds: float) -> TrainingResult:
        before = time.monotonic()
        result = train(recipe(shards, steps=0), tmp_path / "r", max_time=seconds)
        assert time.monotonic() - before < seconds + 8
        return result

    result = boxed(timed, 2)
    assert result.steps > 15
    rates = [line["learning_rate"] for line in read_log(tmp_path / "r" / "log.jsonl") if line["kind"] == "train"]
    assert rates
    state = json.loads(_facts(tmp_path / "r"))
    assert state["horizon"] >= result.steps > 0.3 * state["horizon"]


def _facts(run: Path) -> str:
    from safetensors import safe_open

    with safe_open(str(run / "state.safetensors"), framework="pt") as stored:
        return str(stored.metadata()["facts"])


def test_a_horizon_by_the_clock_ends_at_zero(shards: Path, tmp_path: Path) -> None:
    """horizon = "time": the run ends when the box does, and counts as finished."""
    result = boxed(lambda seconds: train(recipe(shards, steps=0, horizon="time"), tmp_path / "r", max_time=seconds))
    assert result.finished
    assert result.steps > 5


def test_sigterm_saves_a_state_that_can_be_resumed(shards: Path, tmp_path: Path) -> None:
    """A real process, a real signal: exit without a trace, then --resume goes on."""
    code = (
        "import sys, torch\n"
        "from unembed.training.loop import train\n"
        "from unembed.training.recipes.recipe import Recipe\n"
        "r = Recipe.from_dict(__import__('json').loads(sys.argv[1]))\n"
        "train(r, sys.argv[2], on_step=lambda s, l: print(s, flush=True))\n"
    )
    long = recipe(shards, steps=100_000)
    process = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(long.to_dict()), str(tmp_path / "r")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 5:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    done = json.loads(_facts(tmp_path / "r"))["step"]
    assert done >= 5

    def soon(step: int, loss: float) -> None:
        if step >= done + 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(long, tmp_path / "r", resume=True, on_step=soon).steps == done + 3


def test_init_from_takes_weights_that_fit(shards: Path, tmp_path: Path) -> None:
    """A new run from a checkpoint starts better than one from nothing, and needs blocks of the same shape."""
    first = train(recipe(shards, steps=150), tmp_path / "a")
    cold = train(recipe(shards, steps=1), tmp_path / "b")
    warm = train(recipe(shards, steps=1), tmp_path / "c", init_from=first.checkpoint)
    assert warm.metrics["bound"] < cold.metrics["bound"] - 0.1
    wide = replace(recipe(shards, steps=1), model=replace(recipe(shards).model, width=24))
    with pytest.raises(CheckpointError, match="No block"):
        train(wide, tmp_path / "d", init_from=first.checkpoint)


def test_excluded_sources_are_not_trained_on(shards: Path, tmp_path: Path) -> None:
    """An epoch without source b has three quarters of the texts."""
    base = recipe(shards, steps=0)
    some = replace(base, data=replace(base.data, exclude_sources=("b",)))
    texts = train(some, tmp_path / "r").texts
    assert texts == 300 - 32


def test_mistakes_are_named(shards: Path, tmp_path: Path) -> None:
    """No data, shards of another encoder, a state that is not there, another recipe."""
    base = recipe(shards)
    with pytest.raises(RecipeError, match=r"names no data\.shards"):
        train(replace(base, data=replace(base.data, shards="")), tmp_path / "a")
    with pytest.raises(DataError, match="hashing:32"):
        train(replace(base, data=replace(base.data, encoder="hashing:16")), tmp_path / "b")
    with pytest.raises(CheckpointError, match="no training state"):
        train(base, tmp_path / "c", resume=True)
    train(recipe(shards, steps=1), tmp_path / "d")
    with pytest.raises(CheckpointError, match="another recipe"):
        train(recipe(shards, steps=2), tmp_path / "d", resume=True)


def test_online_embedding_trains_and_resumes(shards: Path, tmp_path: Path) -> None:
    """Texts from a file, changed and embedded inside the loop; a resumed run equals an unbroken one."""
    rng = np.random.default_rng(1)
    lines = [f"{'ab'[i % 2]}\t{' '.join(rng.choice(WORDS, rng.integers(3, 9)))}" for i in range(200)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n")
    base = recipe(shards, steps=12)
    data = replace(base.data, shards="", texts=(str(tmp_path / "texts.tsv"),), exclude_sources=("b",))
    online = replace(base, data=data, validation=replace(base.validation, shards=str(shards)))
    whole = train(online, tmp_path / "whole")
    assert whole.finished and 0 < whole.texts <= 12 * 16

    def stop(step: int, loss: float) -> None:
        if step == 9:  # behind the end of the first epoch: 100 texts are 7 batches
            os.kill(os.getpid(), signal.SIGTERM)

    train(online, tmp_path / "parts", on_step=stop)
    parts = train(online, tmp_path / "parts", resume=True)
    assert parts.texts == whole.texts
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(value, b[name]) for name, value in a.items())
    with pytest.raises(RecipeError, match="no end"):
        train(replace(online, run=replace(online.run, steps=0)), tmp_path / "x")
    with pytest.raises(RecipeError, match=r"validation\.shards"):
        train(replace(online, validation=base.validation), tmp_path / "x")


def test_what_is_decoded_at_the_end_fits_into_what_is_left(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first 50 in any case, all where there is no end; their figures are those of the first texts alone."""
    run = train(recipe(shards), tmp_path / "r")
    denoiser = load_checkpoint(run.checkpoint).denoiser
    dataset = ShardDataset(shards)
    validation = Validation(dataset, ValidationPart(texts=80, decoded=70))
    whole, few = validation.decoded(denoiser), validation.decoded(denoiser, until=time.monotonic())
    assert (whole["decoded"], few["decoded"]) == (70, 50)
    first = Validation(dataset, ValidationPart(texts=80, decoded=50)).decoded(denoiser)
    assert few == first != whole
    slow = validation_module.decode
    monkeypatch.setattr(validation_module, "decode", lambda *values: time.sleep(0.2) or slow(*values))
    assert validation.decoded(denoiser, until=time.monotonic() + 0.7)["decoded"] == 50  # another 0.4 s would not fit
