"""Texts, vectors, shards and a tiny trained model, made once by the commands themselves."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers.cli import RECIPE, WORDS, Place
from unembed.cli import main


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    texts = [" ".join(generator.choice(WORDS, size=generator.integers(2, 9))) for _ in range(160)]
    path = folder / "texts.tsv"
    path.write_text("".join(f"s{i % 3}\t{text}\n" for i, text in enumerate(texts)))
    recipe = folder / "tiny.toml"
    recipe.write_text(RECIPE)
    found = Place(folder, path, folder / "v.parquet", folder / "shards", recipe, folder / "run" / "checkpoint")
    for args in (
        ["embed", path, "--shards", found.shards, "--encoder", "hashing:32", "--limit", 12],
        ["embed", path, "--out", found.vectors, "--encoder", "hashing:32", "--limit", 12, "--limit-rows", 30],
        ["train", recipe, "--out", folder / "run", "--set", f'data.shards="{found.shards}"'],
    ):
        assert main([str(arg) for arg in [*args, "--quiet"]]) == 0, args
    return found
