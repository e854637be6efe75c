"""A checkpoint with what is next to it, ready to decode; no encoder is needed here.

Contents: `LoadedModel`; `StoredParts`, `read_beside`, `fit_student`: what a checkpoint says beside its weights is
checked before it is used, since it may be anybody's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from unembed.checkpoint.checkpoint import Checkpoint
from unembed.checkpoint.student_file import StudentFile, read_student
from unembed.checkpoint.sums import REPAIR
from unembed.checks import SchemaError, mapping, number, text
from unembed.data.tokenization import Tokenizer
from unembed.decoding.canvas import check_guidance
from unembed.decoding.choosing import Judge
from unembed.decoding.confidence import calibration_for, read_calibrations
from unembed.decoding.config import DecodeConfig
from unembed.decoding.constraints.lexicon import Lexicon
from unembed.decoding.prior import PriorReader
from unembed.decoding.recovery import Recovery, recoveries
from unembed.decoding.request import DECODE_OPTIONS, Request, resolve_options, split_options, vector_rows
from unembed.decoding.trace import Draft
from unembed.diffusion.schedule import get_schedule
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import CheckpointError, InputError, UnembedError
from unembed.network.corrector import Corrector
from unembed.priors.fit_score import Judged


class LoadedModel:
    """What decoding needs of a checkpoint; what is not always needed is read at first use.

    Args:
        checkpoint: as `load_checkpoint` returns it.

    Attributes:
        checkpoint, denoiser, tokenizer, identity: of it, checked.
        calibrations: of confidence, as stored, or None.
        defaults: options of a decode where none are given.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        beside = read_beside(checkpoint)
        self.checkpoint, self.denoiser = checkpoint, checkpoint.denoiser
        self.tokenizer, self.identity = beside.tokenizer, beside.identity
        self.calibrations = checkpoint.calibration
        self.defaults: dict[str, Any] = beside.defaults

    @property
    def corrector(self) -> Corrector | None:
        """The corrector, or None."""
        return self.checkpoint.corrector

    @cached_property
    def student(self) -> StudentFile | None:
        """The student encoder, or None."""
        device = self.denoiser.banned.device
        return fit_student(read_student(self.checkpoint.path, self.checkpoint.sha256, device), self.checkpoint)

    @cached_property
    def judge(self) -> Judge | None:
        """The student as a judge of finished drafts, or None."""
        return None if self.student is None else Judge(self.student.student, self.denoiser.embedding.weight)

    @cached_property
    def priors(self) -> PriorReader:
        """What the strategy prior reads.

        Raises:
            InputError: the checkpoint has no token prior.
        """
        return PriorReader.of(self.denoiser)

    @cached_property
    def lexicon(self) -> Lexicon:
        """How words are spelt in tokens, for constraints."""
        return Lexicon(self.tokenizer.surfaces)

    def resolve(self, options: Mapping[str, Any]) -> DecodeConfig:
        """Work out what options mean for this checkpoint; see `Inverter.resolve`."""
        config = resolve_options(options, self.defaults, lambda: self.student is not None)
        check_guidance(self.denoiser, config)
        return config

    def request(self, vectors: Any, options: Mapping[str, Any]) -> Request:
        """Check what is to be decoded.

        Args:
            vectors: array, tensor, nested list or column of arrays, (n, d) or (d,).
            options: of the decode, and constraints.

        Raises:
            InputError: vectors, options or constraints that cannot be used.
        """
        if "queries" in options:
            raise InputError("queries is not an option of its own.", "Pass refine=Refine(queries=16).")
        constraints, rest = split_options(options)
        config, c = self.resolve(rest), self.denoiser.config
        rows = vector_rows(vectors, c.vector_dim, self.identity.name, self.identity.normalised)
        return Request(
            self.denoiser,
            rows,
            config,
            constraints.compile(self.tokenizer, len(rows), c.max_length, self.lexicon) if constraints else None,
            self.priors if config.strategy == "prior" else None,
            self.judge if config.choose == "student" else None,
        )

    def judged(self, rows: np.ndarray) -> Judged | None:
        """How rows (n, d) look beside vectors of held-out texts; None where the checkpoint has no statistics of them.

        Raises:
            CheckpointError: the statistics are damaged.
        """
        score = self.checkpoint.fit_score
        if score is None:
            return None
        with torch.inference_mode():
            z = self.denoiser.whitening(torch.from_numpy(rows).to(self.denoiser.banned.device))
        return score(z.cpu().numpy())

    def recoveries(self, drafts: list[Draft], request: Request) -> list[Recovery]:
        """Texts with their confidence, one for each draft of a request."""
        calibration = calibration_for(self.calibrations, request.config.strategy)
        return recoveries(drafts, self.tokenizer, calibration, self.judged(request.rows))


_GONE = ("score", "keep")
"""Options that older checkpoints may name; what is left decides alone (docs/log.md)."""
_NOW: dict[object, object] = {"mbr": "likelihood", "mbr-order": "likelihood"}
"""Values that older checkpoints may name, and what is taken in their place."""
_MOST_DRAFTS = 1024
_MOST_COST = 16_384  # drafts times passes; the shipped model asks for 384


@dataclass
class StoredParts:
    """Tokenizer, identity of the encoder, and the options of a decode that a checkpoint takes where none are given."""

    tokenizer: Tokenizer
    identity: EncoderIdentity
    defaults: dict[str, Any]


def read_beside(checkpoint: Checkpoint) -> StoredParts:
    """Check what a checkpoint says beside its weights.

    Raises:
        CheckpointError: a part cannot be used, or belongs to another network.
    """
    config = checkpoint.denoiser.config
    with _said_of(checkpoint):
        tokenizer = Tokenizer.from_json(checkpoint.tokenizer_json)
        identity = EncoderIdentity.from_dict(checkpoint.identity)
        read_calibrations(checkpoint.calibration)
        only = {} if config.fills_masks else {"strategy": "left-to-right"}
        defaults = checkpoint.notes.get("decode") or only
        mapping(_option, 50)(defaults, "its default decode")
        guided = config.null_vector and defaults.get("strategy") != "left-to-right"
        gone = _GONE if guided else (*_GONE, "guidance")
        defaults = {name: _NOW.get(value, value) for name, value in defaults.items() if name not in gone}
        unknown = sorted({*defaults} - {*DECODE_OPTIONS})
        if unknown:
            raise SchemaError(f"its default decode has an option that this version does not know ({unknown[0]})")
        _check_cost(resolve_options({}, defaults))
        if tokenizer.size != config.vocab_size:
            raise SchemaError(f"its tokenizer has {tokenizer.size} tokens and its network {config.vocab_size}")
        if identity.dimension != config.vector_dim:
            raise SchemaError(f"its encoder has {identity.dimension} dimensions and its network {config.vector_dim}")
    return StoredParts(tokenizer, identity, dict(defaults))


def fit_student(file: StudentFile | None, checkpoint: Checkpoint) -> StudentFile | None:
    """Check that a student fits the network that it accompanies.

    Raises:
        CheckpointError: it has other dimensions.
    """
    if file is None:
        return None
    base, own = checkpoint.denoiser.config, file.student.config
    wanted = (base.vector_dim, base.embedding_dim or base.width)
    if (own.vector_dim, own.embedding_dim) != wanted or own.limit < base.max_length:
        raise CheckpointError(f"The student in {checkpoint.path} belongs to another network.", REPAIR)
    return file


def _option(value: Any, name: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    return text(100)(value, name) if isinstance(value, str) else number()(value, name)


def _check_cost(config: DecodeConfig) -> None:
    """A checkpoint may not ask for a decode that takes hours for a text; a user may."""
    get_schedule(config.schedule)
    drafts = config.beam * config.samples * config.lengths
    if drafts > _MOST_DRAFTS or drafts * config.passes > _MOST_COST:
        raise SchemaError(
            f"its default decode asks for {drafts} drafts of {config.passes} passes for each text; at most "
            f"{_MOST_DRAFTS} drafts, and {_MOST_COST} passes of all, are taken from a checkpoint"
        )


@contextmanager
def _said_of(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of the checkpoint what is wrong with one of its parts."""
    try:
        yield
    except CheckpointError:
        raise
    except SchemaError as error:
        raise CheckpointError(f"{checkpoint.path} cannot be used: {error}.", REPAIR) from error
    except UnembedError as error:
        raise CheckpointError(f"{checkpoint.path} cannot be used: {error.what}", REPAIR) from error
