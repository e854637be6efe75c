"""Where a run's texts and vectors come from: shards, packs, or texts that are embedded while training.

Contents: `Source`, `open_shards`, `open_packs`, `open_texts`, `Fitted`.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.data.feed import Dataset, Feed
from unembed.data.hub_datasets import is_dataset
from unembed.data.online import Augmentation, OnlineBatches, OnlineFeed, Sample
from unembed.data.pack import Pack, is_pack, read_pack
from unembed.data.pack_feed import Embed, PackFeed, PackSample
from unembed.data.shards import ShardDataset
from unembed.data.sources import list_files, read_texts
from unembed.data.tokenization import Tokenizer
from unembed.encoders.protocol import Encoder
from unembed.errors import DataError, EncoderMismatchError, RecipeError
from unembed.training.recipes.recipe import Recipe
from unembed.training.validation import Validation

_log = logging.getLogger(__name__)
_ONLINE_TEXTS = 20_000
_PACKED_TEXTS = 200_000
"""Texts of packs that closed-form parts are fitted on, where their vectors are made on a CPU."""


@dataclass(frozen=True)
class Fitted:
    """Which texts the closed-form parts were fitted on, so that those can be taken out again (leave-one-out).

    Attributes:
        data: fingerprints of the folders that they come from.
        texts: texts of those folders, before any is left out.
        most: this many of them were drawn; 0 for all.
        seed: of the draw.
        digest: of the rows that were drawn.
    """

    data: tuple[str, ...]
    texts: int
    most: int = 0
    seed: int = 0
    digest: str = ""

    @classmethod
    def of(cls, notes: Any) -> Fitted | None:
        """Read what a checkpoint or a state has kept; None where it kept nothing."""
        if not isinstance(notes, dict):
            return None
        return cls(tuple(notes["data"]), notes["texts"], notes["most"], notes["seed"], notes["digest"])

    @classmethod
    def on(cls, data: tuple[str, ...], rows: np.ndarray, texts: int, most: int = 0, seed: int = 0) -> Fitted:
        """A fit on (some of) the rows (N,) of a dataset of `texts` texts."""
        fitted = cls(data, texts, most, seed)
        return replace(fitted, digest=_digest(fitted.draw(rows)))

    def mask(self, data: tuple[str, ...], rows: np.ndarray, size: int) -> np.ndarray | None:
        """Which texts of a dataset are among them.

        Args:
            data: fingerprints of the dataset's folders.
            rows: (N,) its texts that may be used, as when the parts were fitted.
            size: its number of texts.

        Returns:
            (size,) bool, or None where the dataset does not begin with the folders of the fit, or other texts of them
            are used now, so that those fitted on cannot be identified.
        """
        if not self.begins(data):
            return None
        drawn = self.draw(rows[rows < self.texts])
        if _digest(drawn) != self.digest:
            return None
        known = np.zeros(size, dtype=bool)
        known[drawn] = True
        return known

    def begins(self, data: tuple[str, ...]) -> bool:
        """Whether a dataset of these folders begins with those of the fit."""
        return data[: len(self.data)] == self.data

    def draw(self, rows: np.ndarray) -> np.ndarray:
        """The texts themselves, in order."""
        if not self.most or len(rows) <= self.most:
            return rows
        return np.sort(np.random.default_rng(self.seed).permutation(rows)[: self.most])


def _digest(rows: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows, dtype=np.int64).tobytes()).hexdigest()[:16]


@dataclass
class Source:
    """Training data: batches, and the texts that closed-form parts would be fitted on.

    Attributes:
        begin: makes the batches, given which texts (of all) the parts were fitted on.
        validation: held-out figures.
        sample: texts of the fit, with vectors.
        rows: (N,) rows of the sample that are used.
        counts: (V,) occurrences of each token.
        used: (M,) rows of the data that are trained on.
        size: texts of the data.
        data: fingerprints of the folders of the texts; empty where they come from elsewhere.
        fitted: what a fit on the sample is a fit on; None where its texts do not come again as they are.
        pack: the texts, where they come from packs.
    """

    begin: Callable[[np.ndarray | None], Feed | PackFeed | OnlineFeed]
    validation: Validation
    sample: Dataset
    rows: np.ndarray
    counts: Tensor
    used: np.ndarray
    size: int
    data: tuple[str, ...] = ()
    fitted: Fitted | None = None
    pack: Pack | None = None


def _check_shards(dataset: ShardDataset, path: str, encoder: Encoder, tokenizer: Tokenizer, max_length: int) -> None:
    if dataset.max_length > max_length:
        raise DataError(
            f"{path} holds texts of up to {dataset.max_length} tokens, the recipe's data.max_length is {max_length}.",
            "Set data.max_length to that, or make new shards.",
        )
    identity = dataset.identity
    if identity.name != encoder.name or identity.dimension != encoder.dimension:
        raise DataError(
            f"{path} was embedded by {identity.name} ({identity.dimension} dimensions), the recipe's encoder is "
            f"{encoder.name} ({encoder.dimension}).",
            "Set data.encoder to the encoder of the shards.",
        )
    if dataset.manifest.tokenizer_sha256 != tokenizer.sha256:
        raise DataError(
            f"{path} was made with another tokenizer than the recipe's.",
            "Set data.tokenizer to the one that `unembed embed --tokenizer` was given, or make new shards.",
        )
    try:
        identity.check(encoder)
    except EncoderMismatchError as error:
        raise DataError(f"{path} was embedded by another {encoder.name}: {error.what}", "Make new shards.") from error
    dataset.verify()


def _held_out(recipe: Recipe, encoder: Encoder | None, tokenizer: Tokenizer, embed: Embed | None) -> Validation | None:
    """Validation on a folder of its own; None where the recipe names none."""
    part, data = recipe.validation, recipe.data
    if not part.shards:
        return None
    if is_pack(part.shards):
        if embed is None:
            raise RecipeError(
                f"{part.shards} is a pack, and only a run from packs can be validated on one.",
                "Name shards in validation.shards, or packs in data.shards.",
            )
        pack = read_pack([part.shards], data.exclude_sources)
        check_pack(pack, part.shards, tokenizer, data.max_length)
        rows = np.random.default_rng(part.seed).permutation(len(pack))[: max(part.texts, part.decoded)]
        return Validation(PackSample(pack, embed, np.sort(rows)), part)
    if encoder is None:
        raise RecipeError(
            f"{part.shards} is not a pack, and a run from packs is validated on a pack.",
            "Pack the held-out texts with `unembed pack --no-encoder`, or name the folder that holds them.",
        )
    held_out = ShardDataset(part.shards)
    _check_shards(held_out, part.shards, encoder, tokenizer, data.max_length)
    return Validation(held_out, part, _without(held_out, data.exclude_sources))


def open_shards(recipe: Recipe, encoder: Encoder, tokenizer: Tokenizer) -> Source:
    """Take texts and vectors from a folder of shards.

    Raises:
        RecipeError: several folders are named.
        DataError: shards of another limit, encoder or tokenizer than the recipe says, damaged ones, or no text.
    """
    data, part = recipe.data, recipe.validation
    if len(data.shards) > 1:
        raise RecipeError("data.shards names several folders of shards.", "Name one, or packs (`unembed pack`).")
    (path,) = data.shards
    dataset = ShardDataset(path)
    _check_shards(dataset, path, encoder, tokenizer, data.max_length)
    rng = np.random.default_rng(recipe.run.seed)
    rows = _without(dataset, data.exclude_sources)
    validation = _held_out(recipe, encoder, tokenizer, None)
    if validation is None:
        rows = rng.permutation(rows)
        held, rows = rows[: part.texts], np.sort(rows[part.texts :])
        validation = Validation(dataset, part, held)
    if data.max_texts:
        rows = np.sort(rng.permutation(rows)[: data.max_texts])
    if not len(rows):
        raise DataError(f"{path} holds no text for training.", "Embed more texts, or hold out fewer.")
    fingerprint = (dataset.manifest.fingerprint,)
    fitted = Fitted.on(fingerprint, rows, len(dataset), data.fitted, recipe.run.seed)

    def begin(known: np.ndarray | None) -> Feed:
        feed = Feed(dataset, data.batch_size, recipe.run.seed, rows, known)
        mean = len(rows) / feed.batches_per_epoch
        if mean < data.batch_size / 2:  # most lengths have too few texts for a batch
            _log.info("few texts of each length: batches hold %.0f on average, not %d", mean, data.batch_size)
        return feed

    return Source(
        begin,
        validation,
        dataset,
        fitted.draw(rows),
        _count(dataset, rows, tokenizer.size),
        rows,
        len(dataset),
        fingerprint,
        fitted,
    )


def open_packs(recipe: Recipe, pack: Pack, tokenizer: Tokenizer, embed: Embed, fast: bool = False) -> Source:
    """Take texts from packs, read already; `embed` makes their vectors, `fast` enough to fit on all texts or not.

    Raises:
        RecipeError, DataError: held-out texts of another kind, or no text left.
    """
    data, part = recipe.data, recipe.validation
    rng = np.random.default_rng(recipe.run.seed)
    rows = np.arange(len(pack))
    validation = _held_out(recipe, None, tokenizer, embed)
    if validation is None:
        held = np.sort(rng.permutation(rows)[: part.texts])
        rows = np.setdiff1d(rows, held)
        validation = Validation(PackSample(pack, embed, held), part)
    if data.max_texts:
        rows = np.sort(rng.permutation(rows)[: data.max_texts])
    if not len(rows):
        raise DataError(f"{data.shards[0]} holds no text for training.", "Pack more texts, or hold out fewer.")
    most = data.fitted or (0 if fast else _PACKED_TEXTS)
    fitted = Fitted.on(pack.fingerprints, rows, len(pack), most, recipe.run.seed)
    sample = PackSample(pack, embed, fitted.draw(rows))
    kept = np.zeros(len(pack), dtype=bool)
    kept[rows] = True
    learnt = pack.tokens[np.repeat(kept, pack.lengths)]
    counts = torch.from_numpy(np.bincount(learnt, minlength=tokenizer.size).astype(np.int64))
    return Source(
        lambda known: PackFeed(pack, embed, data.batch_size, recipe.run.seed, rows, known, data.crop),
        validation,
        sample,
        np.arange(len(sample.rows)),
        counts,
        rows,
        len(pack),
        pack.fingerprints,
        fitted,
        pack,
    )


def check_pack(pack: Pack, path: str, tokenizer: Tokenizer, max_length: int) -> None:
    """Refuse a pack of longer texts than the recipe's, or of another tokenizer.

    Raises:
        DataError: what differs.
    """
    if pack.max_length > max_length:
        raise DataError(
            f"{path} holds texts of up to {pack.max_length} tokens, the recipe's data.max_length is {max_length}.",
            "Set data.max_length to that, or make a new pack.",
        )
    if pack.tokenizer.sha256 != tokenizer.sha256:
        raise DataError(
            f"{path} was made with another tokenizer than the training texts.", "Pack both with the same encoder."
        )


def open_texts(recipe: Recipe, encoder: Encoder, tokenizer: Tokenizer) -> Source:
    """Take texts from files or datasets, and embed them while training.

    Raises:
        RecipeError: no held-out shards are named.
        DataError: files that cannot be read, or no text.
    """
    data = recipe.data
    validation = _held_out(recipe, encoder, tokenizer, None)
    if validation is None:
        raise RecipeError(
            "Texts are embedded online, but validation.shards names no held-out shards.",
            "Make some with `unembed embed HELD_OUT --shards FOLDER`.",
        )
    if files := [path for path in data.texts if not is_dataset(path)]:
        list_files(files)
    source = OnlineBatches(
        partial(read_texts, list(data.texts), exclude_sources=data.exclude_sources),
        encoder,
        tokenizer,
        data.max_length,
        data.batch_size,
        recipe.run.seed,
        Augmentation(data.join, data.crop, data.truncate),
    )
    sample = Sample.draw(source, _ONLINE_TEXTS, data.max_length)
    rows = np.arange(len(sample.lengths))
    counts = _count(sample, rows, tokenizer.size)
    # The stream's texts are cut anew each time: none of them is a text of the fit, so none is taken out of it.
    return Source(lambda fitted: OnlineFeed(source), validation, sample, rows, counts, rows, len(rows))


def _without(dataset: ShardDataset, sources: tuple[str, ...]) -> np.ndarray:
    left_out = [i for i, name in enumerate(dataset.source_names) if name in sources]
    return np.flatnonzero(~np.isin(dataset.sources, left_out))


def _count(dataset: Dataset, rows: np.ndarray, size: int) -> Tensor:
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(rows), 65536):
        ids, lengths, _ = dataset.gather(rows[start : start + 65536])
        counts += np.bincount(ids[np.arange(ids.shape[1]) < np.asarray(lengths)[:, None]], minlength=size)
    return torch.from_numpy(counts)
