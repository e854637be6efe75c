"""The golden test: a tiny network overfits 32 sentences and gives them back through the public `invert`."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from unembed import Inverter, Recipe, load_encoder, train
from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer

SENTENCES = """\
the water in the old well was cold and clear
she said that her father would not come home
we took the long road through the town at night
a small bird sat on the open window
it is hard to say who was right
the doctor asked him to wait a little longer
they found a house near the river
my brother plays in a group every week
the price of food went up again this year
nobody knew where the letter came from
you should read the first page before the second
his mother told a story about the war
the train to the city was late again
i would like to see the sea in winter
the old man kept his money in a book
our teacher gave us three hard questions
the company sold more cars than ever before
children were playing behind the school
a new study shows that sleep is important
he closed the door and turned off the light
she has worked in this office for ten years
the government will change the law next month
there was nothing left to eat in the kitchen
two friends were walking by the river
the summer was short and very wet
please send me the report before noon
the movie was better than i had thought
he felt a sharp pain in his left hand
most people in the room did not understand
the green field was full of white flowers
why did you not call me last night
the second part of the book is about trees
""".splitlines()

RECIPE = {
    "model": {"width": 64, "layers": 2, "heads": 4, "prefix_tokens": 4, "init_embeddings": False},
    "objective": {"shortlist_frequent": 0, "causal_share": 0.4, "loss_weight": "flat"},
    "optimizer": {"lr": 4e-3, "warmup": 20, "ema": 0.9, "weight_decay": 0.0},
    "run": {"steps": 420, "precision": "fp32", "compile": "no", "validate_every": 1e9, "save_every": 1e9, "threads": 1},
    "validation": {"texts": 32, "decoded": 0},
}


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """Train from texts to a checkpoint, in seconds."""
    folder = tmp_path_factory.mktemp("golden")
    encoder = load_encoder("hashing:64")
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    write_shards(
        folder / "shards", [(s, "golden") for s in SENTENCES], encoder, tokenizer, max_length=16, dtype="float32"
    )
    shards = str(folder / "shards")
    values = {**RECIPE, "data": {"shards": shards, "encoder": "hashing:64", "max_length": 16, "batch_size": 16}}
    values["validation"] = {**RECIPE["validation"], "shards": shards}
    threads = torch.get_num_threads()
    began = time.process_time()  # of one thread: what it takes where nothing runs beside it
    result = train(Recipe.from_dict(values), folder / "run", device="cpu")
    seconds = time.process_time() - began
    torch.set_num_threads(threads)
    return Path(result.checkpoint), seconds


def test_a_tiny_network_overfits_32_sentences_and_returns_them(overfitted: tuple[Path, float]) -> None:
    checkpoint, seconds = overfitted
    assert len(set(SENTENCES)) == 32
    assert seconds < 60
    inverter = Inverter.from_pretrained(checkpoint, device="cpu")
    vectors = load_encoder("hashing:64").encode(SENTENCES)
    exact = {}
    for strategy in ("adaptive", "sequential", "left-to-right", "draft-correct"):
        found = inverter.invert(vectors, strategy=strategy)
        exact[strategy] = sum(r.text == s for r, s in zip(found, SENTENCES, strict=True))
    assert min(exact.values()) >= 31, exact
    by_strings = inverter.invert_strings(SENTENCES)
    assert sum(r.text == r.original for r in by_strings) >= 31
    assert np.mean([r.likelihood for r in by_strings]) > 0.8
    assert all(r.queries == 0 for r in by_strings)
