"""What a run needs before its first step: data, closed-form parts, token counts, a network to start from.

Contents: `Prepared`, `prepare`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unembed.data.shards import ShardDataset
from unembed.data.tokenization import Tokenizer
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.registry import load_encoder
from unembed.errors import DataError, RecipeError
from unembed.model.closed_form import ClosedForm, fit_closed_form
from unembed.model.denoiser import Denoiser, DenoiserConfig
from unembed.training.feed import Dataset, Feed
from unembed.training.recipe import Recipe
from unembed.training.validation import Validation

_log = logging.getLogger(__name__)
_WHITENING_TEXTS = 200_000


@dataclass
class Prepared:
    """Everything that does not change during a run.

    Attributes:
        denoiser: new, its closed-form parts filled in.
        tokenizer: of the encoder.
        identity: of the encoder.
        feed: training batches.
        validation: held-out figures.
        counts: (V,) occurrences of each token in the training texts.
    """

    denoiser: Denoiser
    tokenizer: Tokenizer
    identity: EncoderIdentity
    feed: Feed
    validation: Validation
    counts: Tensor


def _batches(dataset: Dataset, rows: np.ndarray, limit: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(rows), 8192):
        ids, lengths, vectors = dataset.gather(rows[start : start + 8192])
        padded = np.zeros((len(ids), limit), dtype=np.int64)
        padded[:, : ids.shape[1]] = ids
        yield torch.from_numpy(padded), torch.from_numpy(np.asarray(lengths, dtype=np.int64)), torch.from_numpy(vectors)


def _without(dataset: ShardDataset, sources: tuple[str, ...]) -> np.ndarray:
    left_out = [i for i, name in enumerate(dataset.source_names) if name in sources]
    return np.flatnonzero(~np.isin(dataset.sources, left_out))


def _count(dataset: Dataset, rows: np.ndarray, size: int) -> Tensor:
    counts = np.zeros(size, dtype=np.int64)
    for start in range(0, len(rows), 65536):
        ids, lengths, _ = dataset.gather(rows[start : start + 65536])
        counts += np.bincount(ids[np.arange(ids.shape[1]) < np.asarray(lengths)[:, None]], minlength=size)
    return torch.from_numpy(counts)


def _fill(denoiser: Denoiser, parts: ClosedForm) -> None:
    denoiser.whitening.load_state_dict(parts.whitening.state_dict())
    if denoiser.token_prior is not None:
        denoiser.token_prior.load_state_dict(parts.token_prior.state_dict())
    if denoiser.position_prior is not None and parts.position_prior is not None:
        denoiser.position_prior.load_state_dict(parts.position_prior.state_dict())


def prepare(recipe: Recipe) -> Prepared:
    """Open the data, fit the closed-form parts and build the network of a recipe.

    Raises:
        RecipeError: no data named.
        DataError: shards of another limit or encoder than the recipe says, or too few texts.
    """
    data = recipe.data
    if not data.shards:
        raise RecipeError("The recipe names no data.shards.", "Make them with `unembed embed TEXTS --shards FOLDER`.")
    dataset = ShardDataset(data.shards)
    if dataset.limit > data.limit:
        raise DataError(
            f"{data.shards} holds texts of up to {dataset.limit} tokens, the recipe's limit is {data.limit}.",
            "Set data.limit to that, or make new shards.",
        )
    encoder = load_encoder(data.encoder)
    identity = dataset.identity
    if identity.name != encoder.name or identity.dimension != encoder.dimension:
        raise DataError(
            f"{data.shards} was embedded by {identity.name} ({identity.dimension} dimensions), the recipe's encoder is "
            f"{encoder.name} ({encoder.dimension}).",
            "Set data.encoder to the encoder of the shards.",
        )
    tokenizer_json = encoder.tokenizer_json()
    if tokenizer_json is None:
        raise DataError(f"The encoder {encoder.name} has no tokenizer.", "Use an encoder with one.")
    tokenizer = Tokenizer.from_json(tokenizer_json)
    rng = np.random.default_rng(recipe.run.seed)
    rows = _without(dataset, data.exclude_sources)
    if recipe.validation.shards:
        held_out = ShardDataset(recipe.validation.shards)
        validation = Validation(held_out, recipe.validation, _without(held_out, data.exclude_sources))
    else:
        rows = rng.permutation(rows)
        held, rows = rows[: recipe.validation.texts], np.sort(rows[recipe.validation.texts :])
        validation = Validation(dataset, recipe.validation, held)
    if data.max_texts:
        rows = np.sort(rng.permutation(rows)[: data.max_texts])
    if not len(rows):
        raise DataError(f"{data.shards} holds no text for training.", "Embed more texts, or hold out fewer.")

    model = recipe.model
    config = DenoiserConfig(
        vector_dim=dataset.dimension,
        vocab_size=tokenizer.size,
        limit=data.limit,
        causal=recipe.objective.causal_share > 0,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        pad_id=tokenizer.pad_id,
        **{k: v for k, v in vars(model).items() if k != "init_embeddings"},
    )
    torch.manual_seed(recipe.run.seed)
    banned = torch.zeros(tokenizer.size, dtype=torch.bool)
    banned[torch.from_numpy(tokenizer.banned)] = True
    denoiser = Denoiser(config, banned)
    counts = _count(dataset, rows, tokenizer.size)
    priors = config.token_prior or config.candidates > 0 or config.position_prior
    fitted = rows if priors else np.sort(rng.permutation(rows)[:_WHITENING_TEXTS])
    _log.info("fitting the closed-form parts on %d texts", len(fitted))
    batches = _batches(dataset, fitted, data.limit)
    parts = fit_closed_form(batches, tokenizer.size, data.limit, positions=config.position_prior)
    _fill(denoiser, parts)
    with torch.no_grad():
        log_p = torch.log((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
        denoiser.head.bias.copy_(log_p - log_p.mean())
        rows_of_encoder = getattr(encoder, "token_embeddings", None)
        if model.init_embeddings and rows_of_encoder is not None:
            table = rows_of_encoder()
            if table is not None and table.shape == tuple(denoiser.embedding.weight.shape):
                rows_in = torch.from_numpy(np.asarray(table, dtype=np.float32))
                denoiser.embedding.weight.copy_(rows_in * (0.05 / rows_in.std()))
                _log.info("token embeddings start from the encoder's own")
    return Prepared(
        denoiser, tokenizer, identity, Feed(dataset, data.batch_size, recipe.run.seed, rows), validation, counts
    )
