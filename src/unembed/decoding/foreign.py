"""What a checkpoint says beside its weights, checked before it is used: it may be anybody's.

Contents: `Beside`, `read_beside`, `fit_student`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unembed.checkpoint.checkpoint import Checkpoint
from unembed.checkpoint.student_file import StudentFile
from unembed.checkpoint.sums import REPAIR
from unembed.checks import SchemaError, mapping, number, text
from unembed.data.tokenization import Tokenizer
from unembed.decoding.confidence import read_calibrations
from unembed.decoding.config import DecodeConfig
from unembed.decoding.request import DECODE_OPTIONS, resolve_options
from unembed.diffusion.schedule import get_schedule
from unembed.encoders.identity import EncoderIdentity
from unembed.errors import CheckpointError, UnembedError

_GONE = ("score",)
"""Options that older checkpoints may name; what is left decides alone (docs/log.md)."""
_NOW: dict[object, object] = {"mbr-order": "mbr"}
_MOST_DRAFTS = 1024
_MOST_COST = 16_384  # drafts times passes; the shipped model asks for 384


@dataclass
class Beside:
    """Tokenizer, identity of the encoder, and the options of a decode that a checkpoint takes where none are given."""

    tokenizer: Tokenizer
    identity: EncoderIdentity
    defaults: dict[str, Any]


def read_beside(checkpoint: Checkpoint) -> Beside:
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
        gone = _GONE if config.null_vector else (*_GONE, "guidance")
        defaults = {name: _NOW.get(value, value) for name, value in defaults.items() if name not in gone}
        unknown = sorted({*defaults} - {*DECODE_OPTIONS})
        if unknown:
            raise SchemaError(f"its default decode has an option that this version does not know ({unknown[0]})")
        _check_cost(resolve_options({}, defaults))
        if tokenizer.size != config.vocab_size:
            raise SchemaError(f"its tokenizer has {tokenizer.size} tokens and its network {config.vocab_size}")
        if identity.dimension != config.vector_dim:
            raise SchemaError(f"its encoder has {identity.dimension} dimensions and its network {config.vector_dim}")
    return Beside(tokenizer, identity, dict(defaults))


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
