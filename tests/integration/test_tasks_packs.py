"""Student and corrector from packs: the packs' encoder makes the vectors, drafts come from texts new to the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.bert import small_bert
from tests.helpers.tasks import RUN, SMALL, WORDS, facts
from unembed.data.pack import read_pack, write_pack
from unembed.data.tokenization import Tokenizer
from unembed.encoders.hashing import HashingEncoder
from unembed.encoders.registry import load_encoder
from unembed.errors import DataError
from unembed.training.loop import train
from unembed.training.pairs.pair_files import Pairs
from unembed.training.recipes.recipe import Recipe


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packs a (200 texts), b (90 others), and c of another encoder; a base that was trained on a."""
    folder = tmp_path_factory.mktemp("packs")
    encoder = small_bert(folder / "encoder")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    rng = np.random.default_rng(0)
    for name, count, words in (("a", 200, WORDS[:12]), ("b", 90, WORDS[4:])):
        texts = [(" ".join(rng.choice(words, rng.integers(2, 8))), name) for _ in range(count)]
        write_pack(folder / name, texts, encoder, tokenizer, max_length=8)
    write_pack(folder / "c", texts, HashingEncoder(24), tokenizer, max_length=8, with_encoder=False)
    train(recipe(folder, "denoiser", "a"), folder / "base")
    return folder


def recipe(place: Path, task: str, *packs: str, **tables: dict[str, Any]) -> Recipe:
    data = {"shards": [str(place / name) for name in packs], "max_length": 8, "batch_size": 16, "crop": 0.3}
    pairs = {"folder": str(place / "pairs"), "own": 20, "filled": 20, "mistakes": 20, "held": 0.1}
    values = {**SMALL, "data": {**data, "base": str(place / "base" / "checkpoint")}, "pairs": pairs}
    values |= {"run": {**RUN, "steps": 12}, "validation": {"texts": 24, "decoded": 0}}
    return Recipe.from_dict({"task": task, **{key: {**part, **tables.get(key, {})} for key, part in values.items()}})


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether vectors of length 1 agree, up to the bf16 of a pack's encoder."""
    return bool((np.sum(one * other.astype(np.float32), axis=1) > 0.9995).all())


def test_drafts_come_from_packs_that_the_base_was_not_trained_on(place: Path, tmp_path: Path) -> None:
    """Their vectors are the encoder's own; nothing is taken out of class means that they were never in."""
    one = recipe(place, "corrector", "a", "b", pairs={"folder": str(tmp_path / "pairs")})
    assert train(one, tmp_path / "run").metrics["causal_nll"] > 0
    encoder = load_encoder(str(place / "encoder" / "model"))
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    pack = read_pack(place / "b")
    ids, lengths = pack.gather(np.arange(len(pack)))
    new = {tuple(row[:n]) for row, n in zip(ids.tolist(), lengths, strict=True)}
    found = [Pairs.load(path)[0] for path in (tmp_path / "pairs").glob("*.npz")]
    assert sum(map(len, found)) > 50
    for pairs in found:
        assert not pairs.fitted.any()
        texts = [tokenizer.decode(row[:n].tolist()) for row, n in zip(pairs.ids, pairs.lengths, strict=True)]
        assert {tuple(row[:n]) for row, n in zip(pairs.ids.tolist(), pairs.lengths, strict=True)} <= new
        drafts = [tokenizer.decode(row[:n].tolist()) for row, n in zip(pairs.drafts, pairs.draft_lengths, strict=True)]
        assert near(encoder.encode(texts), pairs.vectors)
        assert near(encoder.encode(drafts), pairs.draft_vectors)


def test_a_student_goes_on_with_a_further_pack(place: Path, tmp_path: Path) -> None:
    one = recipe(place, "student", "a", run={"steps": 0, "horizon": "none", "max_time": "3s"})
    first = train(one, tmp_path / "run")
    assert first.steps > 3 and len(facts(tmp_path / "run")["data"]) == 2  # the base and a pack
    more = replace(one, data=recipe(place, "student", "a", "b").data)
    assert train(more, tmp_path / "run", resume=True).steps > first.steps
    assert len(facts(tmp_path / "run")["data"]) == 3


def test_packs_that_do_not_fit_are_refused(place: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was packed for hashing:24"):
        train(recipe(place, "student", "c"), tmp_path / "run")
    other = small_bert(tmp_path / "other", initializer_range=0.6)
    other.name = read_pack(place / "a").identity.name  # the same name, other weights
    write_pack(
        tmp_path / "d", [("a cat", "x")] * 20, other, Tokenizer.from_json(other.tokenizer_json() or ""), max_length=8
    )
    with pytest.raises(DataError, match=r"was packed with another .* vectors differ"):
        train(recipe(tmp_path, "student", "d", data={"base": str(place / "base" / "checkpoint")}), tmp_path / "run")
