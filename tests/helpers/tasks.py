"""Tiny shards, a tiny base and recipes of all three tasks, for tests of what the one training loop promises."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import safe_open

from unembed.data.shard_writer import write_shards
from unembed.data.tokenization import Tokenizer
from unembed.encoders.registry import load_encoder
from unembed.errors import RecipeError
from unembed.training.loop import train
from unembed.training.recipes.recipe import Recipe

Result = TypeVar("Result")
TASKS = ("denoiser", "student", "corrector")
ENCODER, LIMIT = "hashing:32", 8
WORDS = "red green blue small large house tree river stone bird walks sings under over the a".split()
SMALL: dict[str, Any] = {
    "model": {"width": 24, "layers": 1, "heads": 2, "prefix_tokens": 2, "dropout": 0.1, "token_prior": True},
    "student": {"width": 16, "layers": 1, "heads": 2, "mlp": 32},
    "corrector": {"layers": 1, "heads": 2, "mlp": 24, "read_heads": 2, "read_width": 8, "rank": 4},
    "objective": {"shortlist_frequent": 20, "shortlist_sampled": 10},
    "optimizer": {"lr": 3e-3, "warmup": 5, "ema": 0.9},
    "validation": {"texts": 24, "decoded": 4},
}
RUN = {"steps": 30, "precision": "fp32", "compile": "no", "threads": 1, "validate_every": 1e9, "save_every": 1e9}


@dataclass(frozen=True)
class Home:
    """Where things lie: `shards` of 400 texts, of which a quarter are of source "b", `base`, `pairs`."""

    folder: Path

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def base(self) -> Path:
        return self.folder / "base" / "checkpoint"

    @property
    def pairs(self) -> Path:
        return self.folder / "pairs"

    def recipe(self, task: str, **tables: dict[str, Any]) -> Recipe:
        """A run of 30 steps of a tiny network; `tables` change keys."""
        data = {"shards": str(self.shards), "encoder": ENCODER, "limit": LIMIT, "batch_size": 16}
        if task != "denoiser":
            data["base"] = str(self.base)
        pairs = {"folder": str(self.pairs), "own": 40, "filled": 40, "mistakes": 40, "held": 0.15}
        values: dict[str, Any] = {**SMALL, "data": data, "pairs": pairs, "run": RUN}
        return Recipe.from_dict(
            {"task": task, **{name: {**part, **tables.get(name, {})} for name, part in values.items()}}
        )


def make_home(folder: Path) -> Home:
    """Shards, and a base that a few steps were spent on."""
    home = Home(folder)
    rng = np.random.default_rng(0)
    texts = [(" ".join(rng.choice(WORDS, rng.integers(3, 9))), "a" if i % 4 else "b") for i in range(400)]
    encoder = load_encoder(ENCODER)
    tokenizer = Tokenizer.from_json(encoder.tokenizer_json() or "")
    write_shards(home.shards, texts, encoder, tokenizer, max_length=LIMIT, shard_size=150)
    train(home.recipe("denoiser", validation={"decoded": 0}), home.base.parent)
    return home


def boxed(run: Callable[[float], Result], seconds: float = 1.5) -> Result:
    """Call with a time box in seconds, with longer ones where the machine is too busy to prepare in it."""
    while True:
        try:
            return run(seconds)
        except RecipeError as error:
            if "is over before the first step" not in error.what or seconds > 60:
                raise
            seconds *= 3


def facts(run: Path) -> dict[str, Any]:
    """What the state of a run says of itself."""
    with safe_open(str(run / "state.safetensors"), framework="pt") as stored:
        found: dict[str, Any] = json.loads(stored.metadata()["facts"])
    return found
