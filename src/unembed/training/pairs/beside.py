"""What a student or a corrector is trained beside: a base checkpoint, texts of its encoder, and pairs.

Contents: `Beside`, `Opened`.

Texts and encoder are opened only when they are needed: a corrector whose pairs are all there needs neither.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unembed.checkpoint.checkpoint import load_checkpoint
from unembed.checkpoint.shipped import find_checkpoint
from unembed.data.feed import Dataset
from unembed.data.pack import check_encoder, is_pack, read_pack
from unembed.data.pack_feed import PackSample
from unembed.data.tokenization import Tokenizer
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.registry import load_matching
from unembed.errors import DataError, RecipeError
from unembed.network.corrector import Corrector
from unembed.network.denoiser import lower_precision
from unembed.training.memory import resolve_precision
from unembed.training.pairs.draft_pairs import PairMaker
from unembed.training.pairs.pair_feed import PairFeed, PairFolder
from unembed.training.pairs.pair_files import Origin, Texts
from unembed.training.pairs.pair_plan import Planned, make_pairs, plan
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import DataPart
from unembed.training.source import Fitted, Source, check_pack, open_packs, open_shards

_log = logging.getLogger(__name__)
_TRIAL = 64
"""Pairs of each kind that are made for an estimate."""

Encode = Callable[[list[str]], np.ndarray]
"""Texts -> vectors (N, d) float32."""


@dataclass(frozen=True)
class Opened:
    """Texts and the encoder that made their vectors.

    Attributes:
        source: what is trained on and what is held out.
        dataset: all its texts with their vectors.
        encode: the encoder, on texts.
    """

    source: Source
    dataset: Dataset
    encode: Encode


class Beside:
    """A base, and what can be learnt beside it.

    Args:
        recipe: of a student or a corrector.
        device: where the base goes.

    Attributes:
        base: the denoiser, in evaluation mode and frozen; its matrices in the run's precision.
        table: (V, embedding_dim) its token table in float32.
        checkpoint: that it comes from.
        tokenizer, identity: of its encoder.
        precision: "bf16" or "fp32".

    Raises:
        CheckpointError: no such base.
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.precision = resolve_precision(recipe.run.precision, device)
        self.checkpoint = load_checkpoint(find_checkpoint(recipe.data.base), device)
        self.base = self.checkpoint.denoiser.requires_grad_(False)
        self.table = self.base.embedding.weight.detach().float().clone()
        lower_precision(self.base, self.precision)
        self.tokenizer = Tokenizer.from_json(self.checkpoint.tokenizer_json)
        self.identity = EncoderIdentity.from_dict(self.checkpoint.identity)

    @cached_property
    def origin(self) -> Origin:
        """What pairs of this base say of themselves."""
        weights = self.checkpoint.weights
        return Origin(self.identity.name, self.tokenizer.sha256, self.base.config.max_length, weights)

    # ------------------------------------------------------------------ texts and encoder

    @cached_property
    def texts(self) -> Opened:
        """Texts and encoder, opened at first use.

        Raises:
            RecipeError: no shards or packs are named.
            DataError: they are damaged, or of another encoder, tokenizer or limit than the base's.
        """
        data, max_length = self.recipe.data, self.base.config.max_length
        if not data.shards:
            raise RecipeError(
                f"The recipe of a {self.recipe.task} names no data.shards.",
                "Name shards or packs of the base's encoder.",
            )
        recipe = replace(self.recipe, data=replace(data, encoder=self.identity.name, max_length=max_length))
        bf16 = self.precision == "bf16"
        if not all(is_pack(path) for path in data.shards):
            options = {"precision": "bf16"} if bf16 else {}
            named = data.encoder if data.encoder != DataPart.encoder else None
            encoder = load_matching(self.identity, named, **options)
            source = open_shards(recipe, encoder, self.tokenizer)
            return Opened(source, source.sample, encoder.encode)
        pack = read_pack(data.shards, data.exclude_sources)
        if pack.identity.name != self.identity.name:
            raise DataError(
                f"{data.shards[0]} was packed for {pack.identity.name}, the base's encoder is {self.identity.name}.",
                "Name packs of the base's encoder, or another data.base.",
            )
        if not pack.identity.same_vectors(self.identity):
            raise DataError(
                f"{data.shards[0]} was packed with another {self.identity.name} than the base's: vectors differ.",
                "Pack the texts again with the base's encoder, or name another data.base.",
            )
        check_pack(pack, data.shards[0], self.tokenizer, max_length)
        network = pack.encoder(self.device, torch.bfloat16 if bf16 else torch.float32)
        if bf16:
            check_encoder(network, pack.identity, self.tokenizer)

        def embed(ids: Tensor) -> Tensor:
            vectors: Tensor = network(ids.to(self.device), None)
            return vectors

        source = open_packs(recipe, pack, self.tokenizer, embed)
        return Opened(source, PackSample(pack, embed, np.arange(len(pack))), lambda texts: self._on_ids(texts, embed))

    def _on_ids(self, texts: list[str], embed: Callable[[Tensor], Tensor]) -> np.ndarray:
        """Embed texts through their token ids, those of one length together."""
        seen = self.tokenizer.encode(texts)
        lengths = np.array([len(ids) for ids in seen])
        vectors = np.empty((len(texts), self.identity.dimension), dtype=np.float32)
        for n in np.unique(lengths):
            same = np.flatnonzero(lengths == n)
            for part in np.array_split(same, -(-len(same) // 64)):
                vectors[part] = embed(torch.tensor([seen[i] for i in part])).cpu().numpy()
        return vectors

    # ------------------------------------------------------------------ pairs

    def pairs(self, batch_size: int, corrector: Corrector | None, box: float, trial: bool) -> PairFeed:
        """Make the pairs that are absent, and feed all.

        Args:
            batch_size: texts of mean length in a batch.
            corrector: that makes pairs of kind "corrected"; None where the run starts from none.
            box: time box of the session in seconds, half of which may be spent here; 0 for none.
            trial: write nothing into the folder; a few pairs stand for those that are absent.

        Raises:
            RecipeError: no folder, or pairs of kind "corrected" are absent and there is no corrector.
            DataError: see `texts`, `PairFeed`.
        """
        part, seed = self.recipe.pairs, self.recipe.run.seed
        if not part.folder:
            raise RecipeError(
                f"The recipe of a {self.recipe.task} names no pairs.folder.",
                "Name one: what is absent there is made first.",
            )
        folder = PairFolder(part.folder, self.origin)
        missing = [planned for planned in plan(part) if not (folder.folder / planned.name).is_file()]
        if corrector is None and any(planned.kind == "corrected" for planned in missing):
            raise RecipeError(
                f"pairs.corrected is {part.corrected}, but the run starts from no corrector that could make them.",
                "Give one with --init-from, or set pairs.corrected = 0.",
            )
        if not missing or (trial and folder.names()):
            return PairFeed(folder, batch_size, seed, part.held)
        if not trial:
            self._make(folder.folder, missing, corrector, box / 2)
            return PairFeed(folder, batch_size, seed, part.held)
        return self._stand_in(batch_size, missing, corrector)

    def _stand_in(self, batch_size: int, missing: list[Planned], corrector: Corrector | None) -> PairFeed:
        """A few pairs, in a folder that is gone at once, as many times as there would be pairs."""
        first = [replace(planned, size=min(planned.size, _TRIAL)) for planned in missing if not planned.number]
        quick = [planned for planned in first if planned.kind != "mistakes"]  # similar tokens take a while
        with tempfile.TemporaryDirectory() as place:
            self._make(Path(place), quick or first, corrector, 0.0)
            feed = PairFeed(PairFolder(place, self.origin), batch_size, self.recipe.run.seed)
        feed.repeat(sum(planned.size for planned in missing))
        return feed

    def _make(self, folder: Path, missing: list[Planned], corrector: Corrector | None, seconds: float) -> None:
        seed = self.recipe.run.seed
        maker = PairMaker(self.base, self.tokenizer, self.texts.encode, seed)
        fitted, dataset = self._fitted(), self.texts.dataset
        make_pairs(
            folder,
            missing,
            maker,
            lambda rows: Texts.read(dataset, rows, fitted),
            self._rows(),
            self.origin,
            seed,
            corrector,
            seconds,
        )

    @property
    def _folders(self) -> np.ndarray:
        """(texts,) the folder of each text, as an index into the source's fingerprints."""
        source = self.texts.source
        return np.zeros(source.size, dtype=int) if source.pack is None else source.pack.parts_of

    def _fitted(self) -> np.ndarray:
        """(texts,) bool: those that the base's closed-form parts were fitted on, or may have been."""
        source = self.texts.source
        known = Fitted.of(self.checkpoint.notes.get("fitted"))
        if known is None or not all(source.data):
            return np.ones(source.size, dtype=bool)
        mask = known.mask(source.data, source.used, source.size)
        return np.isin(source.data, known.data)[self._folders] if mask is None else mask

    def _rows(self) -> np.ndarray:
        """Texts that drafts are made of, in a seeded order; those of folders that the base was not trained on first."""
        source = self.texts.source
        trained = self.checkpoint.notes.get("data") or source.data
        rows = np.random.default_rng([self.recipe.run.seed, 1]).permutation(source.used)
        new = ~np.isin(source.data, trained)[self._folders[rows]]
        if new.any():
            _log.info("drafts are made of %d texts of folders that the base was not trained on first", int(new.sum()))
        return np.concatenate((rows[new], rows[~new]))
