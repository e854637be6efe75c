"""Runs that never end: a constant rate, cool-downs beside them, further packs, and ends that lose nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.bert import small_bert
from tests.helpers.tasks import boxed
from unembed import Inverter
from unembed.cli import main
from unembed.data.pack import write_pack
from unembed.data.tokenization import Tokenizer
from unembed.errors import CheckpointError, RecipeError
from unembed.training import loop
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe
from unembed.training.report import Reporter, read_log
from unembed.training.state import read_facts
from unembed.training.tasks.prepare import prepare

WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()
LR = 4e-3


@pytest.fixture(scope="module")
def packs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders a (240 texts), b (90 others) and held (60 others), packed with a small BERT."""
    folder = tmp_path_factory.mktemp("packs")
    encoder = small_bert(folder / "encoder")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    rng = np.random.default_rng(0)
    for name, count in (("a", 240), ("b", 90), ("held", 60)):
        texts = [(" ".join(rng.choice(WORDS, rng.integers(2, 8))), name) for _ in range(count)]
        write_pack(folder / name, texts, encoder, tokenizer, max_length=8)
    return folder


def recipe(packs: Path, *names: str, **run: object) -> Recipe:
    """A run without an end, of a tiny network, from some of the packs."""
    return Recipe.from_dict(
        {
            "model": {"width": 24, "layers": 1, "heads": 2, "prefix_tokens": 2, "token_prior": True},
            "data": {
                "shards": [str(packs / name) for name in names or "a"],
                "max_length": 8,
                "batch_size": 24,
                "crop": 0.0,
            },
            "objective": {"shortlist_frequent": 0, "causal_share": 0.8},
            "optimizer": {"lr": LR, "warmup": 5, "ema": 0.9, "matrices": "muon", "muon_lr": 2 * LR},
            "run": {"horizon": "none", "precision": "fp32", "compile": "no", "threads": 1, "validate_every": 1e9} | run,
            "validation": {"shards": str(packs / "held"), "texts": 60, "decoded": 6},
        }
    )


def stop_at(number: int) -> Callable[[int, float], None]:
    def stop(step: int, loss: float) -> None:
        if step == number:
            os.kill(os.getpid(), signal.SIGTERM)

    return stop


def rates(run: Path) -> list[float]:
    """Learning rates of a run's log, in order."""
    return [line["learning_rate"] for line in read_log(run / "log.jsonl") if line["kind"] == "train"]


def whole(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the log and what is made of it."""
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in ("log.jsonl", "curve.png"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_a_run_without_an_end_keeps_its_rate_and_a_cooldown_leaves_its_state_alone(
    packs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Stop, cool down, go on: the state is the same byte for byte, and only the cooled weights are better."""
    run = tmp_path / "run"
    first = train(recipe(packs), run, on_step=stop_at(60))
    assert (first.finished, first.signal, first.steps) == (False, signal.SIGTERM, 60)
    assert read_facts(run)["horizon"] == 0
    assert rates(run)[-1] == LR
    before = whole(run)
    for seconds in (2, 4, 8, 16, 32):  # a cool-down has a length in time; on a slow machine few steps fit into it
        cooled = train(recipe(packs), run, cooldown=seconds)
        if cooled.steps >= 120:
            break
    after = whole(run)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"cooldown"}
    assert cooled.finished and cooled.checkpoint == str(run / "cooldown" / "checkpoint")
    assert cooled.steps >= 120
    assert rates(run / "cooldown")[-1] < 0.2 * LR
    for figure in ("bound", "causal_nll"):
        assert cooled.metrics[figure] < first.metrics[figure]
    inverter = Inverter.from_pretrained(cooled.checkpoint, device="cpu")
    assert inverter.invert(np.ones((1, 24), dtype=np.float32))[0].length >= 1
    with caplog.at_level(logging.INFO, "unembed"):
        on = train(recipe(packs), run, resume=True, on_step=stop_at(63))
    assert (on.steps, on.finished) == (63, False)
    assert f"continuing after step 60, {first.texts:,} texts" in caplog.messages
    assert rates(run)[-1] == LR


def test_a_time_box_ends_a_session_and_not_the_run(packs: Path, tmp_path: Path) -> None:
    """The rate is at its peak when the box ends, and the next session may have another box, another pace of saving."""
    first = boxed(lambda seconds: train(recipe(packs), tmp_path / "run", max_time=seconds))
    assert first.steps > 5 and not first.finished and first.signal == 0
    assert rates(tmp_path / "run")[-1] == LR
    second = boxed(lambda s: train(recipe(packs, save_every=0.2, max_time=f"{s}s"), tmp_path / "run", resume=True))
    assert second.steps > first.steps and not second.finished
    with pytest.raises(CheckpointError, match=r"optimizer\.lr was 0\.004 and is 0\.01"):
        other = recipe(packs)
        train(replace(other, optimizer=replace(other.optimizer, lr=0.01)), tmp_path / "run", resume=True)


def test_a_stopped_run_goes_on_bit_for_bit(packs: Path, tmp_path: Path) -> None:
    """Where the rate follows nothing, neither clock nor stops show in the weights; Muon's momenta come back too."""
    train(recipe(packs, steps=14), tmp_path / "whole")
    train(recipe(packs, steps=14), tmp_path / "parts", on_step=stop_at(5))
    assert train(recipe(packs, steps=14), tmp_path / "parts", resume=True).finished
    a, b = (load_file(tmp_path / name / "state.safetensors") for name in ("whole", "parts"))
    assert a.keys() == b.keys() and any("momentum" in name for name in a)
    assert all(torch.equal(value, b[name]) for name, value in a.items())


def test_further_packs_are_taken_in_and_the_closed_form_stays(packs: Path, tmp_path: Path) -> None:
    """A new epoch holds the texts of both; the priors are those of the first, and only its texts are taken out."""
    run = tmp_path / "run"
    train(recipe(packs, "a"), run, on_step=stop_at(4))
    before, texts = load_file(run / "state.safetensors"), read_facts(run)["texts"]
    more = train(recipe(packs, "a", "b"), run, resume=True, on_step=stop_at(30))
    assert more.steps == 30 and more.texts > texts
    after = load_file(run / "state.safetensors")
    closed = [name for name in after if "whitening" in name or "token_prior" in name]
    assert closed and all(torch.equal(before[name], after[name]) for name in closed)
    facts = read_facts(run)
    assert len(facts["data"]) == 2
    feed = prepare(recipe(packs, "a", "b"), known=facts).feed
    groups = [feed.next()[0] for _ in range(feed.batches_per_epoch)]
    assert sum(len(group) for group in groups) == 240 + 90
    assert sum(int(group.fitted.sum()) for group in groups if group.fitted is not None) == 240
    for names in (("b", "a"), ("b",), ("a",)):
        with pytest.raises(CheckpointError, match="other texts"):
            train(recipe(packs, *names), run, resume=True)
    assert read_facts(run) == facts


def command(packs: Path, folder: Path, *more: str) -> list[str]:
    """`unembed train` of the recipe, by its TOML."""
    path = folder / "recipe.toml"
    values = recipe(packs).to_dict()
    lines = [f"task = {json.dumps(values.pop('task'))}"]
    for table, keys in values.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    path.write_text("\n".join(lines))
    return ["train", str(path), "--out", str(folder / "run"), "--device", "cpu", "--quiet", *more]


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed on stderr, in one line."""
    return " ".join(capsys.readouterr().err.split())


def test_a_loss_that_is_not_finite_ends_the_run_and_spares_the_state(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rate beyond all reason leaves no state and no checkpoint; a state that is poisoned itself stays as it is."""
    (tmp_path / "bad").mkdir()
    keys = {"lr": 10, "muon_lr": 10, "weight_decay": 100, "warmup": 0, "clip": 1e9}
    wild = [word for key, value in keys.items() for word in ("--set", f"optimizer.{key}={value}")]
    wild += ["--set", "run.steps=20"]
    assert main(command(packs, tmp_path / "bad", *wild)) == 2
    assert "The loss is not finite any more" in (words := said(capsys)) and "Lower optimizer.lr" in words
    assert set(whole(tmp_path / "bad" / "run")) == {"recipe.json"}
    run = tmp_path / "run"
    train(recipe(packs), run, on_step=stop_at(6))
    tensors = load_file(run / "state.safetensors")
    with safe_open(str(run / "state.safetensors"), framework="pt") as stored:
        facts = stored.metadata()
    tensors["model/blocks.0.attention.qkv.weight"][0, 3] = torch.nan
    save_file(tensors, str(run / "state.safetensors"), metadata=facts)
    poisoned = whole(run)
    for seconds in (1.5, 6, 24):  # a busy machine may take longer to prepare it
        assert main(command(packs, tmp_path, "--resume", "--max-time", f"{seconds}s")) == 2
        if "is over before the first step" not in (words := said(capsys)):
            break
    assert "The loss is not finite any more" in words
    assert whole(run)["state.safetensors"] == poisoned["state.safetensors"]


def test_a_box_that_is_over_before_the_first_step_leaves_nothing(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two sentences, exit 2, no folder; in a folder with a state nothing changes."""
    assert main(command(packs, tmp_path, "--max-time", "0.001s")) == 2
    words = said(capsys)
    assert "is over before the first step" in words and "Give a longer --max-time" in words
    assert not (tmp_path / "run").exists()
    train(recipe(packs), tmp_path / "run", on_step=stop_at(3))
    before = whole(tmp_path / "run")
    for more in (["--resume", "--max-time", "0.001s"], ["--cooldown", "0.001s"]):
        assert main(command(packs, tmp_path, *more)) == 2
        assert "is over before the first step" in said(capsys)
        assert whole(tmp_path / "run") == before


def test_cooldowns_that_make_no_sense(
    packs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a state, without a length, from a state of another rate, of too few steps; an own average is fine."""
    with pytest.raises(CheckpointError, match="no training state"):
        train(recipe(packs), tmp_path / "none", cooldown=3)
    train(recipe(packs), tmp_path / "run", on_step=stop_at(8))
    with pytest.raises(RecipeError, match="has no length"):
        train(recipe(packs), tmp_path / "run", cooldown="")
    base = recipe(packs)
    with pytest.raises(CheckpointError, match=r"optimizer\.lr"):
        train(replace(base, optimizer=replace(base.optimizer, lr=1.0)), tmp_path / "run", cooldown=3)
    own = replace(base, optimizer=replace(base.optimizer, ema=0.5, decay="none"))
    monkeypatch.setattr(loop, "_COOLING_STEPS", 100_000)
    assert boxed(lambda seconds: train(own, tmp_path / "run", cooldown=f"{seconds}s")).finished
    assert "steps: give it more time" in caplog.text


def test_another_encoder_of_the_same_texts_is_no_further_way(packs: Path, tmp_path: Path) -> None:
    """Its pack has the same texts and fingerprint; a run is not resumed with it, and warm weights keep no prior."""
    other = small_bert(tmp_path / "other", initializer_range=0.6)
    rng = np.random.default_rng(0)
    texts = [(" ".join(rng.choice(WORDS, rng.integers(2, 8))), "a") for _ in range(240)]
    for name, part in (("a", texts), ("held", texts[:60])):
        write_pack(tmp_path / name, part, other, Tokenizer.from_json(other.tokenizer_json() or ""), max_length=8)
    run = tmp_path / "run"
    train(recipe(packs), run, on_step=stop_at(3))
    before = whole(run)
    elsewhere = replace(recipe(packs), data=replace(recipe(packs).data, shards=[str(tmp_path / "a")]))
    elsewhere = replace(elsewhere, validation=replace(elsewhere.validation, shards=str(tmp_path / "held")))
    for more in ({"resume": True}, {"cooldown": 3}):
        with pytest.raises(CheckpointError, match="another encoder's vectors"):
            train(elsewhere, run, **more)
    assert whole(run) == before
    begun = prepare(elsewhere, init_from=run / "checkpoint").denoiser
    fresh = prepare(elsewhere).denoiser
    assert torch.equal(begun.whitening.mean, fresh.whitening.mean)


def test_a_run_from_packs_is_validated_on_a_pack(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(packs, tmp_path, "--set", f"validation.shards={tmp_path / 'nowhere'}")) == 2
    assert "is not a pack" in (words := said(capsys)) and "unembed pack" in words


def test_a_state_is_never_overwritten_by_a_new_run(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Forgetting --resume costs two sentences, not the run."""
    train(recipe(packs), tmp_path / "run", on_step=stop_at(4))
    before = whole(tmp_path / "run")
    for more in ([], ["--init-from", str(tmp_path / "run" / "checkpoint")]):
        assert main(command(packs, tmp_path, *more)) == 2
        assert "holds the state of a run" in (words := said(capsys)) and "--resume" in words
    assert whole(tmp_path / "run") == before


def test_a_prior_of_some_of_the_texts_and_no_way_to_tell_which_is_refused(packs: Path, tmp_path: Path) -> None:
    """Where leave-one-out would go wrong in silence: other texts are held out, left out, or come in another order."""
    own = replace(recipe(packs), validation=replace(recipe(packs).validation, shards="", texts=40))
    run = tmp_path / "run"
    train(own, run, on_step=stop_at(3))
    before = whole(run)
    more = replace(own, data=replace(own.data, shards=(*own.data.shards, str(packs / "b"))))
    with pytest.raises(CheckpointError, match="not known which of these texts") as caught:
        train(more, run, resume=True)
    assert "validation.shards" in caught.value.do and whole(run) == before
    train(recipe(packs), tmp_path / "a", on_step=stop_at(3))
    model = tmp_path / "a" / "checkpoint"
    for shards, most in ((("b", "a"), 0), (("a",), 100)):
        other = recipe(packs, *shards)
        with pytest.raises(CheckpointError, match="not known which of these texts"):
            prepare(replace(other, data=replace(other.data, max_texts=most)), init_from=model)
    assert prepare(recipe(packs, "b"), init_from=model).fitted is not None  # none of its texts is among them


def test_a_step_that_is_left_out_ends_no_run(tmp_path: Path) -> None:
    """One loss that is not finite waits for others; of eight or more, more than half are too many."""
    facts = {"step": 5, "texts": 8, "seconds": 1.0}
    with Reporter(tmp_path, False, None) as reporter:
        for at in range(1, 8):
            reporter.step({**facts, "step": at + 1}, torch.tensor(torch.nan), 8, 0.1, 0.0, 0.1, torch.tensor(float(at)))
            reporter.flush({**facts, "step": at + 1}, torch.tensor(float(at)))
        assert read_log(tmp_path / "log.jsonl") == []
        reporter.step({**facts, "step": 9}, torch.tensor(1.0), 8, 0.1, 0.0, 0.1, torch.tensor(7.0))
        with pytest.raises(RecipeError, match="of 8 steps before step 9, 7 were left out"):
            reporter.flush({**facts, "step": 9}, torch.tensor(7.0))
    with Reporter(tmp_path, False, None) as reporter:
        reporter.step({**facts, "step": 2}, torch.tensor(torch.nan), 8, 0.1, 0.0, 0.1, torch.tensor(1.0))
        reporter.step({**facts, "step": 3}, torch.tensor(2.0), 8, 0.1, 0.0, 0.1, torch.tensor(1.0))
        reporter.flush({**facts, "step": 3}, torch.tensor(1.0))
    assert [(line["loss"], line["left_out"]) for line in read_log(tmp_path / "log.jsonl")] == [(2.0, 1)]


@pytest.mark.parametrize(
    ("sets", "what"),
    [
        (["data.shards=nowhere"], "There is no folder nowhere"),
        (["data.tokenizer=openai-community/gpt2"], "A pack already has its tokens and prompt"),
        (["data.prompt_name=query"], "A pack already has its tokens and prompt"),
    ],
)
def test_what_a_pack_cannot_obey(
    packs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], sets: list[str], what: str
) -> None:
    assert main(command(packs, tmp_path, *(word for key in sets for word in ("--set", key)))) == 2
    assert what in said(capsys)
