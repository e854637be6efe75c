"""A corrector from its recipe to a model that uses it: pairs, training, pairs of its own, shipping, measurement."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_golden_overfit import SENTENCES

from tests.helpers.scripts import run_script
from tests.helpers.tasks import Home, make_home
from unembed.checkpoint.checkpoint import load_checkpoint
from unembed.checkpoint.corrector_file import CORRECTOR_FILE, corrector_notes, read_corrector
from unembed.data.shard_writer import write_shards
from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.decoding.loop import finish
from unembed.encoders.registry import load_encoder
from unembed.errors import CheckpointError, RecipeError
from unembed.inverter import Inverter, Refine
from unembed.network.corrector import Corrector
from unembed.refinement.correction import Correction, corrections
from unembed.refinement.queries import CachedEncoder, rounds
from unembed.training.loop import train
from unembed.training.pairs import pair_plan
from unembed.training.pairs.draft_pairs import PairMaker
from unembed.training.pairs.pair_feed import PairFeed, PairFolder, batch_of
from unembed.training.pairs.pair_files import KINDS, Pairs
from unembed.training.pairs.pair_plan import plan
from unembed.training.recipes.recipe import Recipe
from unembed.training.tasks.corrector_task import CorrectorLoss

ROOT = Path(__file__).resolve().parents[2]


def golden(folder: Path, task: str, steps: int, lr: float) -> Recipe:
    """A base on 32 sentences, and the recipe of what is to learn them beside it."""
    encoder = load_encoder("hashing:64")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    shards = folder / "shards"
    write_shards(shards, [(text, "golden") for text in SENTENCES], encoder, tokenizer, max_length=16, dtype="float32")
    run = {"precision": "fp32", "compile": "no", "threads": 1, "validate_every": 1e9, "save_every": 1e9}
    values = {
        "model": {"width": 64, "layers": 1, "heads": 2, "prefix_tokens": 2, "token_prior": True},
        "data": {"shards": str(shards), "encoder": "hashing:64", "max_length": 16, "batch_size": 16},
        "objective": {"shortlist_frequent": 0, "causal_share": 0.8},
        "optimizer": {"lr": 4e-3, "warmup": 10, "ema": 0.9, "weight_decay": 0.0},
        "run": {**run, "steps": 12},
        "validation": {"shards": str(shards), "texts": 32, "decoded": 0},
        "student": {"width": 64, "layers": 1, "heads": 2, "mlp": 128},
        "corrector": {"layers": 1, "heads": 2, "mlp": 64, "read_heads": 4, "read_width": 16, "rank": 8},
        "pairs": {"folder": str(folder / "pairs"), "own": 16, "filled": 16, "mistakes": 16, "held": 0.0},
    }
    base = train(Recipe.from_dict(values), folder / "base").checkpoint
    data, optimizer = {**values["data"], "base": base}, {**values["optimizer"], "lr": lr}
    learnt = {"task": task, "data": data, "optimizer": optimizer, "run": {**run, "steps": steps}}
    return Recipe.from_dict({**values, **learnt})


def nats(corrector: Corrector, pairs: Pairs) -> float:
    """Nats a token of pairs, left to right over the whole vocabulary."""
    loss, found = CorrectorLoss(corrector, "fp32"), []
    with torch.no_grad():
        for row in range(len(pairs)):
            batch = batch_of(pairs.take(np.array([row])))
            found += loss(batch, True, None, torch.Generator())[1].tolist()
    return float(np.mean(found))


@pytest.mark.slow
def test_32_pairs_are_learnt_beside_a_frozen_base(tmp_path: Path) -> None:
    """The golden overfit of a corrector: its nats go to nothing, it writes the texts, and corrections come nearer."""
    recipe = golden(tmp_path, "corrector", steps=600, lr=3e-3)
    before = (Path(recipe.data.base) / "config.json").read_bytes()
    result = train(recipe, tmp_path / "run")
    checkpoint = load_checkpoint(recipe.data.base)
    base = checkpoint.denoiser
    assert (Path(recipe.data.base) / "config.json").read_bytes() == before
    corrector = read_corrector(result.checkpoint, base, checkpoint.weights)
    encoder = load_encoder("hashing:64")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    pairs = PairFeed(PairFolder(recipe.pairs.folder, _origin(recipe)), 8, 0).learnt
    assert len(pairs) == 32 and len({tuple(row) for row in pairs.ids.tolist()}) == 32
    assert nats(corrector, pairs) < 0.1 < 2 < nats(Corrector(base, corrector.config), pairs)
    targets = [tuple(row[:n].tolist()) for row, n in zip(pairs.ids.astype(int), pairs.lengths, strict=True)]
    drafts = [tuple(row[:n].tolist()) for row, n in zip(pairs.drafts.astype(int), pairs.draft_lengths, strict=True)]
    assert np.mean([a == b for a, b in zip(drafts, targets, strict=True)]) < 0.5
    vectors = torch.from_numpy(pairs.vectors.astype(np.float32))
    with torch.no_grad():
        condition = base.condition(vectors)
    own = torch.from_numpy(pairs.draft_vectors.astype(np.float32))
    found, _ = finish(corrections(corrector, base, condition, drafts, own, beam=2))
    # A decode cannot take a text out of the class means of its words, which are of one or two texts each here.
    assert np.mean([part[0][0] == text for part, text in zip(found, targets, strict=True)]) > 0.6
    asked = CachedEncoder(encoder, tokenizer)
    correction = Correction(corrector, base, vectors, [[draft] for draft in drafts], asked)
    finish(rounds(correction, 4))
    results = correction.histories
    assert len(asked.when) == sum(r.queries for r in results) and all(r.queries <= 4 for r in results)
    first, last = (np.mean([r.best(k).cosine for r in results if r.best(k)]) for k in (1, 4))
    assert last > first


def _origin(recipe: Recipe) -> object:
    path = Path(recipe.pairs.folder) / "own-0000.npz"
    return Pairs.load(path)[1]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_home(tmp_path_factory.mktemp("corrector"))


def test_from_the_recipe_to_a_model_that_corrects(home: Home, tmp_path: Path) -> None:
    """Pairs of the sources that are trained on alone; held-out figures; put beside the base; pairs of its own."""
    model = tmp_path / "model"
    shutil.copytree(home.base, model)
    recipe = home.recipe("corrector", data={"base": str(model), "exclude_sources": ["b"]}, run={"steps": 4})
    recipe = replace(recipe, pairs=replace(recipe.pairs, folder=str(tmp_path / "pairs")))
    first = train(recipe, tmp_path / "run")
    assert {"causal_nll", "causal_nll/base", "causal_nll/filled", "masked_nll"} <= set(first.metrics)
    parts = {path.name: Pairs.load(path)[0] for path in (tmp_path / "pairs").glob("*.npz")}
    assert {KINDS[k] for pairs in parts.values() for k in pairs.kinds} == set(KINDS) - {"corrected"}
    dataset = ShardDataset(home.shards)
    ids, lengths, _ = dataset.gather(np.arange(len(dataset)))
    names = [dataset.source_names[i] for i in dataset.sources]
    wanted = {tuple(row[:n]) for row, n, name in zip(ids.tolist(), lengths, names, strict=True) if name == "a"}
    used = {tuple(row[:n]) for p in parts.values() for row, n in zip(p.ids.tolist(), p.lengths, strict=True)}
    assert used <= wanted and len(wanted) < len(dataset), "left-out sources are never trained on"

    run_script("scripts.ship", "--corrector", first.checkpoint, "--out", model)
    checkpoint = load_checkpoint(model)
    assert checkpoint.corrector is not None
    notes = corrector_notes(model / CORRECTOR_FILE)
    assert notes["base"] == checkpoint.weights and notes["steps"] == 4 and notes["texts_seen"] == first.texts

    more = replace(recipe, pairs=replace(recipe.pairs, corrected=30))
    second = train(more, tmp_path / "more", init_from=model)  # corrected by the one it starts from
    corrected = Pairs.load(tmp_path / "pairs" / "corrected-0000.npz")[0]
    assert 20 < len(corrected) <= 30 and {KINDS[k] for k in corrected.kinds} == {"corrected"}
    assert corrector_notes(second.checkpoint)["begun"]["sha256"] == notes["sha256"]

    result = tmp_path / "correct.json"
    run_script("benchmarks.experiments.correct", "--model", model, "--data", home.shards, "-n", 12, "--rounds", 0, 2,
           "--out", result)  # fmt: skip
    stored = json.loads(result.read_text())
    assert stored["data"]["n"] == 12 and stored["corrector"]["base"] == checkpoint.weights
    for arm in ("corrections", "best-of"):
        none, two = stored[arm]["0"], stored[arm]["2"]
        assert none["queries"] <= 1 and two["queries"] <= 3
        assert two["cosine"]["value"] >= none["cosine"]["value"] - 1e-6


def test_one_of_an_older_base_is_a_better_start_than_none(home: Home, tmp_path: Path) -> None:
    """The file, its folder and a run that goes on know where it began; another shape is refused."""
    old = train(home.recipe("corrector", run={"steps": 60}, optimizer={"lr": 1e-2}), tmp_path / "old")
    base = train(
        home.recipe("denoiser", run={"steps": 3}, validation={"decoded": 0}), tmp_path / "new", init_from=home.base
    )
    data = {"base": base.checkpoint}
    one = home.recipe("corrector", run={"steps": 1}, data=data)
    cold = train(one, tmp_path / "cold")
    warm = train(one, tmp_path / "warm", init_from=old.checkpoint)
    assert warm.metrics["causal_nll"] < cold.metrics["causal_nll"]
    assert train(one, tmp_path / "same", init_from=Path(old.checkpoint).parent).metrics == warm.metrics
    notes = corrector_notes(warm.checkpoint)
    assert notes["begun"]["steps"] == 60 and notes["begun"]["base"] != notes["base"]
    with pytest.raises(CheckpointError, match="another shape"):
        train(replace(one, corrector=replace(one.corrector, layers=2)), tmp_path / "x", init_from=old.checkpoint)
    with pytest.raises(CheckpointError, match="holds no corrector"):
        train(one, tmp_path / "x", init_from=home.base)
    big = home.recipe("corrector", corrector={"mlp": 60_000, "layers": 4}, run={"store_dtype": "fp32"})
    with pytest.raises(RecipeError, match=r"more than 12"):
        train(big, tmp_path / "x")


def test_a_run_that_was_cut_while_it_made_pairs_makes_the_rest(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    recipe = home.recipe("corrector", pairs={"folder": str(folder)}, run={"steps": 2})
    whole = train(recipe, tmp_path / "whole")
    for name in ("filled-0000.npz", "mistakes-0000.npz"):
        (folder / name).unlink()
    assert train(recipe, tmp_path / "again").metrics == whole.metrics
    assert {path.name for path in folder.iterdir()} == {planned.name for planned in plan(recipe.pairs)}


def test_half_of_a_time_box_may_go_into_pairs(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on with the pairs that are there by then, and the next session makes more."""
    monkeypatch.setattr(pair_plan, "PART", 4)
    pairs = {"folder": str(tmp_path / "pairs"), "own": 120, "filled": 120, "mistakes": 120, "held": 0.0}
    recipe = home.recipe("corrector", pairs=pairs, run={"steps": 0, "horizon": "time"})
    slow = PairMaker.embed
    monkeypatch.setattr(PairMaker, "embed", lambda *values: time.sleep(0.3) or slow(*values))
    began = time.monotonic()
    result = train(recipe, tmp_path / "run", max_time=4)
    made = len(list((tmp_path / "pairs").iterdir()))
    assert time.monotonic() - began < 12 and result.steps > 3 and 1 <= made < 15
    train(recipe, tmp_path / "run", max_time=2, resume=True)
    assert made < len(list((tmp_path / "pairs").iterdir())) < 90


def test_texts_that_the_base_was_not_trained_on_come_first(home: Home, tmp_path: Path) -> None:
    """Shards that the base has never seen are told by their fingerprint: nothing is taken out of its class means."""
    encoder = load_encoder("hashing:32")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    texts = [(f"the {a} house under a {b}", "c") for a in ("red", "old", "small") for b in ("tree", "river", "stone")]
    write_shards(tmp_path / "others", texts * 8, encoder, tokenizer, max_length=8)
    pairs = {"folder": str(tmp_path / "pairs"), "held": 0.0}
    new = home.recipe("corrector", data={"shards": str(tmp_path / "others")}, pairs=pairs, run={"steps": 1})
    train(new, tmp_path / "run", init_from=None)
    found = [Pairs.load(path)[0] for path in (tmp_path / "pairs").glob("*.npz")]
    assert found and not any(p.fitted.any() for p in found)
    train(home.recipe("corrector", run={"steps": 1}), tmp_path / "old")
    known = [Pairs.load(path)[0] for path in home.pairs.glob("*.npz")]
    assert known and all(p.fitted.all() for p in known)


def test_the_corrector_is_found_beside_its_base(home: Home, tmp_path: Path) -> None:
    """Copying one file is all that it takes."""
    model = tmp_path / "model"
    shutil.copytree(home.base, model)
    recipe = home.recipe("corrector", data={"base": str(model)}, run={"steps": 1})
    made = train(recipe, tmp_path / "run").checkpoint
    shutil.copy(made, model)
    inverter = Inverter.from_pretrained(model, device="cpu")
    assert inverter.corrector is not None
    (found,) = inverter.invert_strings(["red house under the tree"], refine=Refine(4, "correct"))
    assert found.queries <= 4 and found.text
