"""What a run needs before its first step: data, closed-form parts, token counts, a network to start from.

Contents: `Prepared`, `prepare`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from unembed.data.feed import Dataset, Feed
from unembed.data.hub_datasets import is_dataset
from unembed.data.online import Augmentation, OnlineBatches
from unembed.data.shards import ShardDataset
from unembed.data.sources import list_files, read_texts
from unembed.data.tokenization import Tokenizer
from unembed.data.tokenizers import ENCODERS_OWN, load_tokenizer
from unembed.diffusion.schedule import get_schedule
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.protocol import Encoder
from unembed.encoders.registry import load_encoder
from unembed.errors import DataError, EncoderMismatchError, RecipeError
from unembed.model.autoregressive import build_denoiser
from unembed.model.closed_form import ClosedForm, fit_closed_form
from unembed.model.denoiser import Denoiser, DenoiserConfig
from unembed.model.transplant import transplant_bert
from unembed.training.online_feed import OnlineFeed, Sample
from unembed.training.recipe import ModelPart, Recipe
from unembed.training.validation import Validation

_log = logging.getLogger(__name__)
_WHITENING_TEXTS = 200_000
_ONLINE_TEXTS = 20_000


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
        fingerprint: of the shards that the training texts come from; "" where they come from elsewhere.
    """

    denoiser: Denoiser
    tokenizer: Tokenizer
    identity: EncoderIdentity
    feed: Feed | OnlineFeed
    validation: Validation
    counts: Tensor
    fingerprint: str = ""


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


@dataclass
class _Source:
    """Training data: batches, and the texts that the closed-form parts are fitted on."""

    feed: Feed | OnlineFeed
    validation: Validation
    sample: Dataset
    rows: np.ndarray


def _check_shards(dataset: ShardDataset, path: str, encoder: Encoder, tokenizer: Tokenizer, limit: int) -> None:
    if dataset.limit > limit:
        raise DataError(
            f"{path} holds texts of up to {dataset.limit} tokens, the recipe's limit is {limit}.",
            "Set data.limit to that, or make new shards.",
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


def _cached(recipe: Recipe, encoder: Encoder, tokenizer: Tokenizer) -> _Source:
    data, part = recipe.data, recipe.validation
    check = partial(_check_shards, encoder=encoder, tokenizer=tokenizer, limit=data.limit)
    dataset = ShardDataset(data.shards)
    check(dataset, data.shards)
    rng = np.random.default_rng(recipe.run.seed)
    rows = _without(dataset, data.exclude_sources)
    if part.shards:
        held_out = ShardDataset(part.shards)
        check(held_out, part.shards)
        validation = Validation(held_out, part, _without(held_out, data.exclude_sources))
    else:
        rows = rng.permutation(rows)
        held, rows = rows[: part.texts], np.sort(rows[part.texts :])
        validation = Validation(dataset, part, held)
    if data.max_texts:
        rows = np.sort(rng.permutation(rows)[: data.max_texts])
    if not len(rows):
        raise DataError(f"{data.shards} holds no text for training.", "Embed more texts, or hold out fewer.")
    model = recipe.model
    priors = model.token_prior or model.candidates > 0 or model.position_prior
    fitted = rows if priors else np.sort(rng.permutation(rows)[:_WHITENING_TEXTS])
    return _Source(Feed(dataset, data.batch_size, recipe.run.seed, rows, data.buckets), validation, dataset, fitted)


def _online(recipe: Recipe, encoder: Encoder, tokenizer: Tokenizer) -> _Source:
    data, part = recipe.data, recipe.validation
    if not part.shards:
        raise RecipeError(
            "Texts are embedded online, but validation.shards names no held-out shards.",
            "Make some with `unembed embed HELD_OUT --shards FOLDER`.",
        )
    if files := [path for path in data.texts if not is_dataset(path)]:
        list_files(files)
    held_out = ShardDataset(part.shards)
    _check_shards(held_out, part.shards, encoder, tokenizer, data.limit)
    source = OnlineBatches(
        partial(read_texts, list(data.texts), exclude_sources=data.exclude_sources),
        encoder,
        tokenizer,
        data.limit,
        data.batch_size,
        recipe.run.seed,
        Augmentation(data.join, data.crop, data.truncate),
        drop_last=bool(data.buckets),
    )
    sample = Sample.draw(source, _ONLINE_TEXTS, data.limit)
    validation = Validation(held_out, part, _without(held_out, data.exclude_sources))
    return _Source(OnlineFeed(source, data.buckets), validation, sample, np.arange(len(sample.lengths)))


def _build(recipe: Recipe, dimension: int, tokenizer: Tokenizer) -> Denoiser:
    share = recipe.objective.causal_share
    if not recipe.model.fills_masks and share != 1:
        raise RecipeError(
            f"The autoregressive backbone learns left to right only, but objective.causal_share is {share}.",
            "Set objective.causal_share = 1.",
        )
    if not recipe.model.fills_masks and recipe.objective.vector_drop:
        raise RecipeError(
            "The autoregressive backbone has no null vector, but objective.vector_drop is set.",
            "Set objective.vector_drop = 0.",
        )
    config = DenoiserConfig(
        vector_dim=dimension,
        vocab_size=tokenizer.size,
        limit=recipe.data.limit,
        causal=recipe.objective.causal_share > 0,
        schedule=recipe.objective.schedule,
        null_vector=recipe.objective.vector_drop > 0,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        bos_id=tokenizer.bos_id,
        pad_id=tokenizer.pad_id,
        **{k: v for k, v in vars(recipe.model).items() if not k.startswith("init_")},
    )
    torch.manual_seed(recipe.run.seed)
    banned = torch.zeros(tokenizer.size, dtype=torch.bool)
    banned[torch.from_numpy(tokenizer.banned)] = True
    return build_denoiser(config, banned)


@torch.no_grad()
def _start_weights(denoiser: Denoiser, encoder: Encoder, counts: Tensor, part: ModelPart) -> None:
    log_p = torch.log((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    denoiser.head.bias.copy_(log_p - log_p.mean())
    if part.backbone == "bert" and part.init_blocks:
        layers = getattr(encoder, "bert_state", lambda: None)()
        if layers is None:
            raise RecipeError(
                f"The encoder {encoder.name} is no plain BERT, so a denoiser cannot start from its layers.",
                'Set model.init_blocks = false, or model.backbone = "adaln-zero".',
            )
        taken = transplant_bert(denoiser, {k: torch.from_numpy(v) for k, v in layers.items()})
        _log.info("the network starts from the encoder's own layers %s", taken)
        return
    rows_of_encoder = getattr(encoder, "token_embeddings", None)
    if not part.init_embeddings or rows_of_encoder is None:
        return
    table = rows_of_encoder()
    if table is not None and table.shape == tuple(denoiser.embedding.weight.shape):
        rows = torch.from_numpy(np.asarray(table, dtype=np.float32))
        denoiser.embedding.weight.copy_(rows * (0.05 / rows.std()))
        _log.info("token embeddings start from the encoder's own")


def prepare(recipe: Recipe) -> Prepared:
    """Open the data, fit the closed-form parts and build the network of a recipe.

    Raises:
        RecipeError: no data named, or online data without held-out texts.
        DataError: shards of another limit, encoder or tokenizer than the recipe says, damaged ones, or too few texts.
    """
    data = recipe.data
    if not data.shards and not data.texts:
        raise RecipeError(
            "The recipe names no data.shards and no data.texts.",
            "Make shards with `unembed embed TEXTS --shards FOLDER`, or name text files.",
        )
    prompt = {"prompt_name": data.prompt_name} if data.prompt_name else {}
    encoder = load_encoder(data.encoder, **prompt)
    own = data.tokenizer == ENCODERS_OWN
    tokenizer = load_tokenizer(data.tokenizer, encoder)
    if recipe.model.backbone == "bert" and recipe.model.init_blocks and not own:
        raise RecipeError(
            "The network cannot start from the encoder's layers with another tokenizer than the encoder's.",
            'Set data.tokenizer = "encoder", or model.init_blocks = false.',
        )
    schedule = get_schedule(recipe.objective.schedule)
    if recipe.objective.masking == "time" and not schedule.valid:
        _log.warning(
            "the schedule %s leaves a share %.4f visible at t = 1: training never sees all masks on purpose, and its "
            "bound against an all-mask start is not finite (validation counts masks instead)",
            schedule.name,
            float(schedule.alpha(1.0)),
        )
    source = (_cached if data.shards else _online)(recipe, encoder, tokenizer)
    denoiser = _build(recipe, encoder.dimension, tokenizer)
    counts = _count(source.sample, source.rows, tokenizer.size)
    _log.info("fitting the closed-form parts on %d texts", len(source.rows))
    batches = _batches(source.sample, source.rows, data.limit)
    _fill(denoiser, fit_closed_form(batches, tokenizer.size, data.limit, positions=recipe.model.position_prior))
    part = recipe.model if own else replace(recipe.model, init_embeddings=False)
    _start_weights(denoiser, encoder, counts, part)
    fingerprint = source.sample.manifest.fingerprint if isinstance(source.sample, ShardDataset) else ""
    return Prepared(denoiser, tokenizer, encoder.identity, source.feed, source.validation, counts, fingerprint)
