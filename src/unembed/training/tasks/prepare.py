"""What a denoiser's run needs before its first step: data, closed-form parts, token counts, a network to start from.

Contents: `Prepared`, `prepare`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unembed.checkpoint.checkpoint import Checkpoint, load_checkpoint
from unembed.data.feed import Dataset, Feed
from unembed.data.online import OnlineFeed
from unembed.data.pack import Pack, check_encoder, is_pack, read_pack
from unembed.data.pack_feed import PackFeed
from unembed.data.tokenization import Tokenizer
from unembed.data.tokenizers import ENCODERS_OWN, load_tokenizer
from unembed.diffusion.schedule import get_schedule
from unembed.encoders.identity import EncoderIdentity
from unembed.encoders.registry import load_encoder
from unembed.errors import CheckpointError, DataError, RecipeError
from unembed.network.base import Network
from unembed.network.config import ModelConfig
from unembed.network.denoiser import build_network
from unembed.priors.fit import ClosedForm, fit_closed_form
from unembed.training.device.resident import Resident
from unembed.training.memory import resolve_precision
from unembed.training.recipes.recipe import Recipe
from unembed.training.recipes.recipe_parts import DataPart
from unembed.training.source import Fitted, Source, check_pack, open_packs, open_shards, open_texts
from unembed.training.validation import Validation

_log = logging.getLogger(__name__)


@dataclass
class Prepared:
    """Everything that does not change during a run.

    Attributes:
        denoiser: new, its closed-form parts filled in.
        tokenizer: of the encoder.
        identity: of the encoder.
        feed: training batches; None where the texts are on the device.
        validation: held-out figures.
        counts: (V,) occurrences of each token in the training texts.
        data: fingerprints of the folders that the training texts come from; empty where they come from elsewhere.
        fitted: which texts the closed-form parts were fitted on; None where that is unknown.
        pack: the texts, where they come from packs.
        resident: the same on the device, where the recipe has `data.buckets`.
    """

    denoiser: Network
    tokenizer: Tokenizer
    identity: EncoderIdentity
    feed: Feed | PackFeed | OnlineFeed | None
    validation: Validation
    counts: Tensor
    data: tuple[str, ...] = ()
    fitted: Fitted | None = None
    pack: Pack | None = None
    resident: Resident | None = None


def _batches(dataset: Dataset, rows: np.ndarray, max_length: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for start in range(0, len(rows), 8192):
        ids, lengths, vectors = dataset.gather(rows[start : start + 8192])
        padded = np.zeros((len(ids), max_length), dtype=np.int64)
        padded[:, : ids.shape[1]] = ids
        yield torch.from_numpy(padded), torch.from_numpy(np.asarray(lengths, dtype=np.int64)), torch.from_numpy(vectors)


def _fill(denoiser: Network, parts: ClosedForm) -> None:
    denoiser.whitening.load_state_dict(parts.whitening.state_dict())
    if denoiser.token_prior is not None:
        denoiser.token_prior.load_state_dict(parts.token_prior.state_dict())


def _build(recipe: Recipe, dimension: int, tokenizer: Tokenizer) -> Network:
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
    config = ModelConfig(
        vector_dim=dimension,
        vocab_size=tokenizer.size,
        max_length=recipe.data.max_length,
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
    return build_network(config, banned)


@torch.no_grad()
def _start_weights(denoiser: Network, table: np.ndarray | None, counts: Tensor) -> None:
    """The output bias from token counts, the token embeddings from the encoder's own where they fit."""
    log_p = torch.log((counts + 0.5) / (counts.sum() + 0.5 * len(counts)))
    denoiser.head.bias.copy_(log_p - log_p.mean())
    if table is not None and table.shape == tuple(denoiser.embedding.weight.shape):
        rows = torch.from_numpy(np.asarray(table, dtype=np.float32))
        denoiser.embedding.weight.copy_(rows * (0.05 / rows.std()))
        _log.info("token embeddings start from the encoder's own")


def _take_weights(denoiser: Network, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    theirs = Tokenizer.from_json(checkpoint.tokenizer_json)
    if theirs.size == tokenizer.size and theirs.sha256 != tokenizer.sha256:
        raise CheckpointError(
            f"{checkpoint.path} has as many tokens as the recipe's tokenizer, but different ones.",
            "Start from a checkpoint with the recipe's tokenizer.",
        )
    source = checkpoint.denoiser.state_dict()
    own = denoiser.state_dict()
    fitting = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    if not any(k.startswith("blocks.") for k in fitting):
        raise CheckpointError(
            f"No block of {checkpoint.path} fits this recipe's model.", "Use the width and layers of that checkpoint."
        )
    denoiser.load_state_dict(fitting, strict=False)
    _log.info("took %d of %d tensors from %s", len(fitting), len(own), checkpoint.path)


def prepare(
    recipe: Recipe,
    device: torch.device | None = None,
    known: Mapping[str, Any] | None = None,
    init_from: str | Path | None = None,
) -> Prepared:
    """Open the data, fit the closed-form parts and build the network of a recipe.

    Args:
        recipe: of a denoiser.
        device: where the encoder of a pack runs; None for the CPU.
        known: facts of the state that the run continues from; its closed-form parts are then not fitted again.
        init_from: checkpoint that weights and closed-form parts are taken from, where they fit.

    Raises:
        RecipeError: no data named, or online data without held-out texts.
        DataError: shards of another limit, encoder or tokenizer than the recipe says, damaged ones, or too few texts.
        CheckpointError: `init_from` cannot be loaded, or none of its blocks fits.
    """
    data = recipe.data
    device = device or torch.device("cpu")
    if not data.shards and not data.texts:
        raise RecipeError(
            "The recipe names no data.shards and no data.texts.",
            "Make shards with `unembed embed TEXTS --shards FOLDER`, or name text files.",
        )
    for path in data.shards:
        if not Path(path).is_dir():
            raise DataError(
                f"There is no folder {path}, which data.shards names.",
                "Make it with `unembed embed TEXTS --shards FOLDER` or `unembed pack TEXTS --out FOLDER`.",
            )
    _warn_of_schedule(recipe)
    table: np.ndarray | None = None
    resident: Resident | None = None
    if data.shards and all(is_pack(path) for path in data.shards):
        pack = read_pack(data.shards, data.exclude_sources)
        if data.encoder not in (pack.identity.name, DataPart.encoder):
            raise DataError(
                f"{data.shards[0]} was packed for {pack.identity.name}, the recipe's encoder is {data.encoder}.",
                "Set data.encoder to the encoder of the pack.",
            )
        if data.tokenizer != ENCODERS_OWN or data.prompt_name:
            raise RecipeError(
                "A pack already has its tokens and prompt, so data.tokenizer and data.prompt_name have no effect.",
                "Leave both out, or train from shards.",
            )
        tokenizer, identity = pack.tokenizer, pack.identity
        check_pack(pack, data.shards[0], tokenizer, data.max_length)
        bf16 = resolve_precision(recipe.run.precision, device) == "bf16"
        embed = pack.encoder(device, torch.bfloat16 if bf16 else torch.float32)
        check_encoder(embed, identity, tokenizer)  # here, and in the precision that is used
        fast = bool(data.buckets) and device.type != "cpu"
        source = open_packs(recipe, pack, tokenizer, lambda ids: embed(ids.to(device), None), fast)
        if data.buckets:
            compiled = recipe.run.compiles(device.type)
            resident = Resident(pack, source.used, embed, device, data.buckets, data.batch_size, compiled)
        table = embed.state()["words"].float().cpu().numpy()
    else:
        prompt = {"prompt_name": data.prompt_name} if data.prompt_name else {}
        encoder = load_encoder(data.encoder, **prompt)
        tokenizer, identity = load_tokenizer(data.tokenizer, encoder), encoder.identity
        source = (open_shards if data.shards else open_texts)(recipe, encoder, tokenizer)
        rows_of_encoder = getattr(encoder, "token_embeddings", None)
        if data.tokenizer == ENCODERS_OWN and rows_of_encoder is not None:
            table = rows_of_encoder()
    denoiser = _build(recipe, identity.dimension, tokenizer)
    _start_weights(denoiser, table if recipe.model.init_embeddings else None, source.counts)
    fitted = _closed_form(denoiser, source, recipe, known, init_from, resident, identity, tokenizer)
    mask = None if fitted is None else fitted.mask(source.data, source.used, source.size)
    resumed = known is not None and "notes" in known  # with other texts the loop refuses it
    shared = fitted is not None and (fitted.begins(source.data) if resumed else set(fitted.data) & set(source.data))
    if shared and mask is None:  # leave-one-out would go wrong
        raise CheckpointError(
            "It is not known which of these texts the token prior was fitted on, so it may know them too well.",
            "Name the shards or packs that it was fitted on first, in their order, with the same exclude_sources, "
            "max_texts and validation.shards.",
        )
    if resident is not None:
        resident.know(None if mask is None else mask[source.used])
    return Prepared(
        denoiser,
        tokenizer,
        identity,
        source.begin(mask) if resident is None else None,
        source.validation,
        source.counts,
        source.data,
        fitted,
        source.pack,
        resident,
    )


def _closed_form(
    denoiser: Network,
    source: Source,
    recipe: Recipe,
    known: Mapping[str, Any] | None,
    init_from: str | Path | None,
    resident: Resident | None,
    identity: EncoderIdentity,
    tokenizer: Tokenizer,
) -> Fitted | None:
    """Fill in the closed-form parts, or take them from a checkpoint or leave them to a state; return what they know."""
    if known is not None and "notes" in known:
        return Fitted.of(known["notes"].get("fitted"))
    if init_from is not None:
        checkpoint = load_checkpoint(init_from)
        _take_weights(denoiser, checkpoint, tokenizer)
        if not EncoderIdentity.from_dict(checkpoint.identity).same_vectors(identity):
            _log.warning("%s is of another encoder: its closed-form parts are fitted again", init_from)
        elif _has_all_parts(denoiser, checkpoint.denoiser):
            return Fitted.of(checkpoint.notes.get("fitted"))
    _log.info("fitting the closed-form parts on %d texts", len(source.rows))
    batches = _batches(source.sample, source.rows, recipe.data.max_length)
    if resident is not None and source.fitted is not None:
        batches = resident.sample(np.searchsorted(source.used, source.fitted.draw(source.used)))
    vocabulary = len(source.counts)
    parts = fit_closed_form(batches, vocabulary, recipe.data.max_length)
    _fill(denoiser, parts)
    return source.fitted


def _has_all_parts(denoiser: Network, other: Network) -> bool:
    """Whether every closed-form part of one network came from the other."""
    theirs = other.state_dict()
    closed = ("whitening.", "token_prior.")
    return all(
        key in theirs and theirs[key].shape == value.shape
        for key, value in denoiser.state_dict().items()
        if key.startswith(closed)
    )


def _warn_of_schedule(recipe: Recipe) -> None:
    schedule = get_schedule(recipe.objective.schedule)
    if recipe.objective.masking == "time" and not schedule.valid:
        _log.warning(
            "the schedule %s leaves a share %.4f visible at t = 1: training never sees all masks on purpose, and its "
            "bound against an all-mask start is not finite (validation counts masks instead)",
            schedule.name,
            float(schedule.alpha(1.0)),
        )
