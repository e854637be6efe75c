"""Every recipe in recipes/ loads and takes a training step, on a tiny local corpus and shrunk to seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.inverter import Inverter
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe

ALL = sorted((Path(__file__).parents[2] / "recipes").glob("*.toml"))
RECIPES = [path for path in ALL if Recipe.load(path).task == "denoiser"]
WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()
ENCODER = "hashing:32"  # a recipe's own may lie on a hub


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts.txt and their shards."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(2, 8))) for _ in range(240)]
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    encoder = load_encoder(ENCODER)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    write_shards(folder / "shards", [(text, "a") for text in texts], encoder, tokenizer, max_length=8, shard_size=200)
    return folder


def shrunk(path: Path, corpus: Path) -> list[str]:
    """Overrides that leave a recipe's choices alone and make it small: sizes, times, places, the encoder."""
    recipe = Recipe.load(path)
    online = bool(recipe.data.texts) and not recipe.data.shards
    data = f'data.texts=["{corpus / "texts.txt"}"]' if online else f'data.shards="{corpus / "shards"}"'
    small = [f"data.encoder={ENCODER}", "data.tokenizer=encoder", data, "data.batch_size=16", "data.buckets=[]"]
    small += ["data.exclude_sources=[]", 'data.prompt_name=""']
    small += [f"model.width={4 * recipe.model.heads}", "model.layers=1", "model.mlp=0"]
    small += [f"model.embedding_dim={16 if recipe.model.embedding_dim else 0}", "model.adaln_rank=4"]
    small += [f"objective.shortlist_{kind}=20" for kind in ("frequent", "sampled")]
    small += ["run.steps=2", 'run.max_time=""', "run.horizon=steps", "run.compile=no", "run.precision=fp32"]
    small += ["run.threads=1", 'validation.shards=""', "validation.texts=16", "validation.decoded=2"]
    return [*small, "optimizer.accumulate=1", "run.validate_every=1e9"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_takes_a_step_and_leaves_a_model(path: Path, corpus: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(path, shrunk(path, corpus))
    losses: list[float] = []
    result = train(recipe, tmp_path / "run", device="cpu", on_step=lambda step, loss: losses.append(loss))
    assert result.finished and result.steps == 2
    assert np.isfinite(losses).all() and losses[0] > 0
    assert np.isfinite(result.metrics["bound" if recipe.model.fills_masks else "causal_nll"])
    inverter = Inverter.from_pretrained(result.checkpoint, device="cpu")
    (found,) = inverter.invert(np.ones((1, 32), dtype=np.float32), passes=2)
    assert found.length >= 1


def test_there_is_more_than_one_recipe() -> None:
    assert len(RECIPES) >= 2
