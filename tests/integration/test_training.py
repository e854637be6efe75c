"""Training end to end on tiny data: resuming, stopping, time boxes, starting from weights."""

from __future__ import annotations

import json
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

from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.errors import CheckpointError, DataError, RecipeError
from unembed.model.checkpoint import load_checkpoint
from unembed.training.loop import train
from unembed.training.recipe import Recipe
from unembed.training.report import read_log

WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 texts of 3 to 8 words, embedded by the hashing encoder."""
    out = tmp_path_factory.mktemp("data") / "shards"
    rng = np.random.default_rng(0)
    texts = [(" ".join(rng.choice(WORDS, rng.integers(3, 9))), "a" if i % 4 else "b") for i in range(400)]
    encoder = load_encoder("hashing:32")
    write_shards(out, texts, encoder, Tokenizer.from_json(encoder.tokenizer_json() or ""), limit=8, shard_size=150)
    return out


def recipe(shards: Path, **run: object) -> Recipe:
    """A run of 30 steps of a tiny network, dropout on so that torch's own generator matters."""
    return Recipe.from_dict(
        {
            "model": {"width": 16, "layers": 1, "heads": 2, "prefix_tokens": 2, "dropout": 0.1, "token_prior": True},
            "data": {"shards": str(shards), "encoder": "hashing:32", "limit": 8, "batch_size": 16},
            "objective": {"shortlist_frequent": 20, "shortlist_sampled": 10, "guess_share": 0.2},
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


def test_two_processes_take_two_batches_a_step_and_resume(shards: Path, tmp_path: Path) -> None:
    """The weights after a step follow from both gradients; stopping and resuming changes no bit; no process is left."""
    import multiprocessing

    two = recipe(shards, processes=2, steps=8)
    whole = train(two, tmp_path / "whole")
    one = train(recipe(shards, steps=8), tmp_path / "one")
    assert whole.steps == one.steps == 8
    assert whole.texts > 1.7 * one.texts

    def stop(step: int, loss: float) -> None:
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(two, tmp_path / "parts", on_step=stop).steps == 3
    train(two, tmp_path / "parts", resume=True)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, value in a.items():
        assert torch.equal(value, b[name]), name
    assert not multiprocessing.active_children()


def test_the_workers_gradient_is_that_of_its_batch(shards: Path) -> None:
    """What a worker adds equals the gradient that this process computes for the same batch and random numbers."""
    from unembed.data.feed import Feed
    from unembed.training.distributed import GradientWorkers, batch_generator
    from unembed.training.prepare import prepare
    from unembed.training.step import StepLoss

    part = recipe(shards)
    part = replace(part, model=replace(part.model, dropout=0.0))
    prepared = prepare(part)
    assert isinstance(prepared.feed, Feed)
    step = StepLoss(prepared.denoiser.train(), part.objective, None, prepared.counts, "fp32")
    workers = GradientWorkers(step, prepared.feed, 1, seed=5)
    try:
        workers.begin(3, 0.5)
        ((loss, texts),) = workers.collect()
        found = [p.grad.clone() for p in prepared.denoiser.parameters() if p.grad is not None]
        prepared.denoiser.zero_grad()
        (group,) = prepared.feed.at(3)
        inputs = torch.from_numpy(group.ids), torch.from_numpy(group.vectors)
        assert step.backward(*inputs, batch_generator(5, 3), 0.5) == pytest.approx(loss, rel=1e-5)
        assert texts == len(group)
        for grad, parameter in zip(found, prepared.denoiser.parameters(), strict=True):
            expected = torch.zeros_like(grad) if parameter.grad is None else parameter.grad
            assert torch.allclose(grad, expected, atol=1e-6)
        workers._processes[0].kill()
        workers._processes[0].join()
        with pytest.raises(DataError, match="ended without a word"):
            workers.begin(4, 0.5)
            workers.collect()
    finally:
        workers.close()


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
    """PAPER.md, mistake 8: the same weights give the same figures every time."""
    a = train(recipe(shards), tmp_path / "a").metrics
    b = train(recipe(shards), tmp_path / "b").metrics
    assert a == b
    other = train(replace(recipe(shards), run=replace(recipe(shards).run, seed=1)), tmp_path / "c").metrics
    assert a != other


def test_the_time_box_fixes_the_horizon_from_a_timing(shards: Path, tmp_path: Path) -> None:
    """Under --max-time the horizon is a number of steps, the box is kept, and the rate ends near zero."""
    before = time.monotonic()
    result = train(recipe(shards, steps=0), tmp_path / "r", max_time=4)
    assert time.monotonic() - before < 12
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
    result = train(recipe(shards, steps=0, horizon="time"), tmp_path / "r", max_time=3)
    assert result.finished
    assert result.steps > 5


def test_sigterm_saves_a_state_that_can_be_resumed(shards: Path, tmp_path: Path) -> None:
    """A real process, a real signal: exit without a trace, then --resume goes on."""
    code = (
        "import sys, torch\n"
        "from unembed.training.loop import train\n"
        "from unembed.training.recipe import Recipe\n"
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
